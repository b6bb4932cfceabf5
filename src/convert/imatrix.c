/* imatrix: importance matrices, the means of the activations that meet each column of a matrix, and of their squares. Two
 * formats, both llama.cpp's:
 *
 *   GGUF     general.type "imatrix"; imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size; for each matrix the f32 tensors
 *            NAME.in_sum2 [n_mats][n], sums of squares, and NAME.counts [n_mats][1], the rows that went into them. n_mats is
 *            the number of experts, else 1. NAME.in_sum [n_mats][n], the sums themselves, need not be there; readers that do
 *            not know them pass them over
 *   legacy   i32 n_entries; n_entries x { i32 length, name, i32 count, i32 n_values, f32[n_values] }; then, since 2024,
 *            i32 n_chunks, i32 length, data set. Values are mean squares times count
 *
 * What is read is copied and checked: finite, squares not negative, at least one value for each matrix. */
#include "convert/convert.h"

#include <float.h>
#include <stdlib.h>

#define SUMS2 ".in_sum2"
#define SUMS ".in_sum"
#define COUNTS ".counts"

enum { NAME_MAX_BYTES = 1024 };

/* ---- both formats ---------------------------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    return str_cmp(((const struct imatrix_entry *)a)->name, ((const struct imatrix_entry *)b)->name);
}

/* Of entries that are sorted; NULL: there is none. */
static struct imatrix_entry *find(const struct imatrix *m, struct str name)
{
    if (m->n == 0) return NULL;
    return bsearch(&(struct imatrix_entry){.name = name}, m->entries, m->n, sizeof *m->entries, compare);
}

static int sort(struct imatrix *m, const char *path, struct err *e)
{
    qsort(m->entries, m->n, sizeof *m->entries, compare);
    for (size_t i = 1; i < m->n; i++)
        if (str_eq(m->entries[i].name, m->entries[i - 1].name))
            return fail(e, ERR_FORMAT, "%s: \"%.*s\" is there twice", path, STR_ARG(m->entries[i].name));
    return 0;
}

/* n numbers of entry x from p, which has no alignment; none is below least. */
static int copy_floats(struct imatrix *m, const struct imatrix_entry *x, const void *p, size_t n, float least, float **out,
                       const char *path, struct err *e)
{
    float *v = arena_array(&m->a, n, sizeof *v);
    if (!v) return fail_nomem(e, "an importance matrix", n * sizeof *v);
    memcpy(v, p, n * sizeof *v);
    for (size_t i = 0; i < n; i++)
        if (!(v[i] >= least && v[i] <= FLT_MAX))
            return fail(e, ERR_FORMAT, "%s: \"%.*s\" holds %g where only finite numbers%s make sense", path, STR_ARG(x->name),
                        (double)v[i], least == 0 ? " from 0 up" : "");
    *out = v;
    return 0;
}

static int copy_str(struct imatrix *m, struct str s, struct str *out, struct err *e)
{
    out->p = arena_dup(&m->a, s.p, s.n);
    out->n = s.n;
    return out->p ? 0 : fail_nomem(e, "an importance matrix", s.n);
}

/* ---- GGUF ---------------------------------------------------------------------------------------------------------------- */

static int read_sums(struct imatrix *m, const struct tensor *t, const char *path, struct err *e)
{
    struct imatrix_entry *x = &m->entries[m->n];
    if (t->type != QTYPE_F32 || t->ne[2] != 1 || t->ne[3] != 1)
        return fail(e, ERR_FORMAT, "%s: \"%.*s\" is no matrix of f32", path, STR_ARG(t->name));
    TRY(copy_str(m, (struct str){t->name.p, t->name.n - strlen(SUMS2)}, &x->name, e));
    x->n_values = (size_t)(t->ne[0] * t->ne[1]);
    x->n_counts = (size_t)t->ne[1];
    TRY(copy_floats(m, x, t->data, x->n_values, 0, &x->sum2, path, e));
    m->n++;
    return 0;
}

/* What lies beside the sums of squares: the number of rows, or the sums. */
static int read_beside(struct imatrix *m, const struct tensor *t, bool counts, const char *path, struct err *e)
{
    struct imatrix_entry *x = find(m, (struct str){t->name.p, t->name.n - strlen(counts ? COUNTS : SUMS)});
    if (!x) return fail(e, ERR_FORMAT, "%s: \"%.*s\" has no sums of squares beside it", path, STR_ARG(t->name));
    const size_t n = counts ? x->n_counts : x->n_values;
    if (t->type != QTYPE_F32 || t->bytes / sizeof(float) != n)
        return fail(e, ERR_FORMAT, "%s: \"%.*s\" must be %zu f32", path, STR_ARG(t->name), n);
    return copy_floats(m, x, t->data, n, counts ? 0 : -FLT_MAX, counts ? &x->counts : &x->sum, path, e);
}

static int read_meta(struct imatrix *m, const struct gguf *g, const char *path, struct err *e)
{
    struct str type = {0};
    struct reader r;
    uint64_t v = 0;
    if (!gguf_get_str(g, "general.type", &type) || !str_is(type, "imatrix"))
        return fail(e, ERR_FORMAT, "%s: a GGUF file, but no importance matrix (general.type is \"%.*s\")", path, STR_ARG(type));
    if (gguf_get_u64(g, "imatrix.chunk_count", &v) && v <= UINT32_MAX) m->n_chunks = (uint32_t)v;
    if (gguf_get_u64(g, "imatrix.chunk_size", &v) && v <= UINT32_MAX) m->chunk_tokens = (uint32_t)v;
    const struct gguf_kv *sets = gguf_find(g, "imatrix.datasets");
    return sets && sets->n && gguf_strs(sets, &r) ? copy_str(m, gguf_next_str(&r), &m->dataset, e) : 0;
}

static int read_tensors(struct imatrix *m, const struct gguf *g, const char *path, struct err *e)
{
    size_t n = gguf_n_tensors(g);
    m->entries = arena_array(&m->a, size_max(n, 1), sizeof *m->entries);
    if (!m->entries) return fail_nomem(e, "an importance matrix", n * sizeof *m->entries);
    for (size_t i = 0; i < n; i++)
        if (str_ends(gguf_tensor(g, i)->name, STR(SUMS2))) TRY(read_sums(m, gguf_tensor(g, i), path, e));
    TRY(sort(m, path, e)); /* names in order, so that the others find them */
    for (size_t i = 0; i < n; i++) {
        const struct tensor *t = gguf_tensor(g, i);
        if (str_ends(t->name, STR(COUNTS))) TRY(read_beside(m, t, true, path, e));
        if (str_ends(t->name, STR(SUMS))) TRY(read_beside(m, t, false, path, e));
    }
    for (size_t i = 0; i < m->n; i++)
        if (!m->entries[i].counts)
            return fail(e, ERR_FORMAT, "%s: \"%.*s" COUNTS "\" is missing", path, STR_ARG(m->entries[i].name));
    return 0;
}

static int read_gguf(struct imatrix *m, struct str bytes, const char *path, struct err *e)
{
    struct gguf *g;
    TRY(gguf_parse(bytes, path, true, &g, e));
    int rc = read_meta(m, g, path, e);
    if (rc == 0) rc = read_tensors(m, g, path, e);
    gguf_free(&g);
    return rc;
}

/* ---- legacy ---------------------------------------------------------------------------------------------------------------
 */

/* "length, bytes"; length may be at most max. */
static bool read_text(struct reader *r, size_t max, struct str *out)
{
    uint32_t n = rd_u32(r);
    if (r->bad || n > max) return false;
    *out = (struct str){rd_bytes(r, n), n};
    return !r->bad;
}

static int read_entry(struct imatrix *m, struct reader *r, const char *path, struct err *e)
{
    struct imatrix_entry *x = &m->entries[m->n];
    struct str name;
    bool ok = read_text(r, NAME_MAX_BYTES, &name) && name.n > 0 && utf8_valid(name);
    float count = (float)(int32_t)rd_u32(r);
    uint32_t n = rd_u32(r);
    if (!ok || n == 0 || !rd_count_ok(r, n, sizeof(float)))
        return fail(e, ERR_FORMAT, "%s: entry %zu of an importance matrix does not fit the file's %zu bytes", path, m->n,
                    (size_t)(r->end - r->start));
    TRY(copy_str(m, name, &x->name, e));
    TRY(copy_floats(m, x, rd_bytes(r, (uint64_t)n * sizeof(float)), n, 0, &x->sum2, path, e));
    count = count >= 1 ? count : 1;
    TRY(copy_floats(m, x, &count, 1, 0, &x->counts, path, e));
    x->n_values = n;
    x->n_counts = 1;
    m->n++;
    return 0;
}

static int read_legacy(struct imatrix *m, struct str bytes, const char *path, struct err *e)
{
    struct reader r = rd_of(bytes.p, bytes.n);
    uint32_t n = rd_u32(&r);
    if (n == 0 || n > INT32_MAX || !rd_count_ok(&r, n, 4 * sizeof(uint32_t)))
        return fail(e, ERR_FORMAT, "%s: no importance matrix, neither in GGUF nor in the older format", path);
    m->entries = arena_array(&m->a, n, sizeof *m->entries);
    if (!m->entries) return fail_nomem(e, "an importance matrix", n * sizeof *m->entries);
    for (uint32_t i = 0; i < n; i++) TRY(read_entry(m, &r, path, e));
    if (rd_left(&r) > 0) {
        m->n_chunks = rd_u32(&r);
        if (rd_left(&r) > 0) {
            struct str dataset;
            if (!read_text(&r, bytes.n, &dataset) || rd_left(&r) > 0 || !utf8_valid(dataset))
                return fail(e, ERR_FORMAT, "%s: the end of an importance matrix is malformed", path);
            TRY(copy_str(m, dataset, &m->dataset, e));
        }
        if (r.bad) return fail(e, ERR_FORMAT, "%s: the end of an importance matrix is malformed", path);
    }
    return sort(m, path, e);
}

/* ---- use --------------------------------------------------------------------------------------------------------------------
 */

int imatrix_parse(struct str bytes, const char *path, struct imatrix **out, struct err *e)
{
    *out = NULL;
    struct imatrix *m = mem_zalloc(sizeof *m);
    if (!m) return fail_nomem(e, "an importance matrix", sizeof *m);
    int rc = str_starts(bytes, STR("GGUF")) ? read_gguf(m, bytes, path, e) : read_legacy(m, bytes, path, e);
    if (rc < 0) imatrix_free(&m);
    *out = m;
    return rc;
}

int imatrix_open(const char *path, struct imatrix **out, struct err *e)
{
    struct map map;
    *out = NULL;
    TRY(vfs_map(path, &map, e));
    int rc = imatrix_parse((struct str){(const char *)map.p, map.n}, path, out, e);
    vfs_unmap(&map);
    return rc;
}

void imatrix_free(struct imatrix **m)
{
    if (!*m) return;
    arena_fini(&(*m)->a);
    mem_free(*m);
    *m = NULL;
}

const struct imatrix_entry *imatrix_find(const struct imatrix *m, struct str name)
{
    return m ? find(m, name) : NULL;
}

bool imatrix_columns(const struct imatrix_entry *x, size_t n, size_t n_mats, float *squares, float *means)
{
    if (n == 0 || x->n_values / n != n_mats || x->n_values % n || (x->n_counts != 1 && x->n_counts != n_mats)) return false;
    for (size_t i = 0; i < x->n_values; i++) {
        const float count = x->counts[x->n_counts == 1 ? 0 : i / n];
        squares[i] = count > 0 ? x->sum2[i] / count : 1; /* an expert that no token went to */
        if (x->sum) means[i] = count > 0 ? x->sum[i] / count : 0;
    }
    return true;
}

static int add_tensor(struct gguf_writer *w, const struct imatrix_entry *x, const char *suffix, uint64_t n, struct err *e)
{
    struct buf name = {0};
    int rc = buf_str(&name, x->name) < 0 || buf_z(&name, suffix) < 0 ? fail_nomem(e, "a name", x->name.n) : 0;
    if (rc == 0) rc = gguf_add_tensor(w, buf_view(&name), QTYPE_F32, 2, (const uint64_t[]){n, x->n_counts}, e);
    buf_fini(&name);
    return rc;
}

static int write_all(const struct imatrix *m, struct gguf_writer *w, struct err *e)
{
    gguf_put_str(w, "general.type", STR("imatrix"));
    gguf_put_strs(w, "imatrix.datasets", &m->dataset, 1);
    gguf_put_u32(w, "imatrix.chunk_count", m->n_chunks);
    gguf_put_u32(w, "imatrix.chunk_size", m->chunk_tokens);
    for (size_t i = 0; i < m->n; i++) {
        const struct imatrix_entry *x = &m->entries[i];
        TRY(add_tensor(w, x, SUMS2, x->n_values / x->n_counts, e));
        if (x->sum) TRY(add_tensor(w, x, SUMS, x->n_values / x->n_counts, e));
        TRY(add_tensor(w, x, COUNTS, 1, e));
    }
    TRY(gguf_write_begin(w, e));
    for (size_t i = 0; i < m->n; i++) {
        const struct imatrix_entry *x = &m->entries[i];
        TRY(gguf_write_data(w, x->sum2, x->n_values * sizeof(float), e));
        if (x->sum) TRY(gguf_write_data(w, x->sum, x->n_values * sizeof(float), e));
        TRY(gguf_write_data(w, x->counts, x->n_counts * sizeof(float), e));
    }
    return gguf_write_end(w, e);
}

int imatrix_write(const struct imatrix *m, const char *path, struct err *e)
{
    struct gguf_writer *w;
    TRY(gguf_writer_new(path, &w, e));
    int rc = write_all(m, w, e);
    gguf_writer_free(&w);
    return rc;
}
