/* gguf_write: writing GGUF version 3. The layout is drawn in gguf.c.
 *
 * The header is built in memory, because tensor offsets depend on general.alignment, which may come last; the weights stream
 * through and are never held. Before the first byte goes out, the finished header is read back by gguf_parse, so whatever
 * the callers put in, no file is written that Quern itself would refuse.
 *
 * The gguf_put functions and gguf_add_tensor remember the first failure and gguf_write_begin reports it, so a long list of them
 * needs no checks. */
#include "format/format_int.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are written as they lie in memory");

enum { VERSION = 3, ALIGNMENT_DEFAULT = 32, ALIGNMENT_MAX = 65536, HEADER_BYTES = 24 };

struct gguf_writer {
    struct out *out;
    struct arena a; /* path and tensor names */
    const char *path;
    struct buf head; /* header, metadata and, from gguf_write_begin on, tensor descriptions */
    uint64_t n_kv;
    uint64_t alignment;
    struct tensor *tensors; /* [n_tensors of cap_tensors]; data is unused */
    size_t n_tensors, cap_tensors;
    uint64_t data_bytes; /* of all tensors, without padding */
    uint64_t file_bytes;
    size_t current; /* the tensor being written */
    uint64_t left;  /* bytes of it that are missing */
    bool begun;
    int rc; /* of the first call that failed before gguf_write_begin */
};

int gguf_writer_new(const char *path, struct gguf_writer **out, struct err *e)
{
    *out = NULL;
    struct gguf_writer *w = mem_zalloc(sizeof *w);
    if (!w) return fail_nomem(e, "a GGUF writer", sizeof *w);
    static const char blank[HEADER_BYTES];
    const char *name = path ? path : "GGUF file";
    w->alignment = ALIGNMENT_DEFAULT;
    w->path = arena_dup(&w->a, name, strlen(name));
    int rc = w->path && buf_put(&w->head, blank, sizeof blank) == 0 ? 0 : fail_nomem(e, name, HEADER_BYTES);
    if (rc == 0 && path) rc = out_open(path, &w->out, e);
    if (w->out) out_sweep(w->out); /* others of these take as much of the disk */
    if (rc < 0) gguf_writer_free(&w);
    *out = w;
    return rc;
}

void gguf_writer_free(struct gguf_writer **w)
{
    if (!*w) return;
    out_abort(&(*w)->out);
    buf_fini(&(*w)->head);
    mem_free((*w)->tensors);
    arena_fini(&(*w)->a);
    mem_free(*w);
    *w = NULL;
}

/* ---- metadata --------------------------------------------------------------------------------------------- */

static void put(struct gguf_writer *w, const void *p, size_t n)
{
    if (w->rc == 0) w->rc = buf_put(&w->head, p, n);
}

static void put_u32(struct gguf_writer *w, uint32_t v)
{
    put(w, &v, sizeof v);
}

static void put_u64(struct gguf_writer *w, uint64_t v)
{
    put(w, &v, sizeof v);
}

static void put_str(struct gguf_writer *w, struct str s)
{
    put_u64(w, s.n);
    put(w, s.p, s.n);
}

static void put_entry(struct gguf_writer *w, struct str key, enum gguf_type type)
{
    if (w->rc == 0 && w->begun) w->rc = ERR_ARG;
    put_str(w, key);
    put_u32(w, (uint32_t)type);
    w->n_kv++;
}

int gguf_put_kv(struct gguf_writer *w, const struct gguf_kv *kv)
{
    put_entry(w, kv->key, kv->type);
    float f = (float)kv->v.f;
    switch (kv->type) {
    case GGUF_STRING:
        put_str(w, kv->v.s);
        break;
    case GGUF_F32:
        put(w, &f, sizeof f);
        break;
    case GGUF_ARRAY:
        put_u32(w, (uint32_t)kv->elem);
        put_u64(w, kv->n);
        put(w, kv->array, (size_t)kv->array_bytes);
        break;
    default:
        put(w, &kv->v, gguf_type_bytes(kv->type));
        break; /* the low bytes of the number */
    }
    if (str_is(kv->key, "general.alignment")) w->alignment = kv->v.u;
    return w->rc;
}

int gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t v)
{
    return gguf_put_kv(w, &(struct gguf_kv){.key = str_of(key), .type = GGUF_U32, .v.u = v});
}

int gguf_put_u64(struct gguf_writer *w, const char *key, uint64_t v)
{
    return gguf_put_kv(w, &(struct gguf_kv){.key = str_of(key), .type = GGUF_U64, .v.u = v});
}

int gguf_put_i32(struct gguf_writer *w, const char *key, int32_t v)
{
    return gguf_put_kv(w, &(struct gguf_kv){.key = str_of(key), .type = GGUF_I32, .v.i = v});
}

int gguf_put_f32(struct gguf_writer *w, const char *key, float v)
{
    return gguf_put_kv(w, &(struct gguf_kv){.key = str_of(key), .type = GGUF_F32, .v.f = (double)v});
}

int gguf_put_bool(struct gguf_writer *w, const char *key, bool v)
{
    return gguf_put_kv(w, &(struct gguf_kv){.key = str_of(key), .type = GGUF_BOOL, .v.u = v});
}

int gguf_put_str(struct gguf_writer *w, const char *key, struct str v)
{
    return gguf_put_kv(w, &(struct gguf_kv){.key = str_of(key), .type = GGUF_STRING, .v.s = v});
}

int gguf_put_strs(struct gguf_writer *w, const char *key, const struct str *v, size_t n)
{
    put_entry(w, str_of(key), GGUF_ARRAY);
    put_u32(w, GGUF_STRING);
    put_u64(w, n);
    for (size_t i = 0; i < n; i++) put_str(w, v[i]);
    return w->rc;
}

static int put_array(struct gguf_writer *w, const char *key, enum gguf_type elem, const void *v, size_t n)
{
    return gguf_put_kv(w, &(struct gguf_kv){.key = str_of(key),
                                            .type = GGUF_ARRAY,
                                            .elem = elem,
                                            .n = n,
                                            .array = v,
                                            .array_bytes = n * gguf_type_bytes(elem)});
}

int gguf_put_bytes(struct gguf_writer *w, const char *key, struct str v)
{
    return put_array(w, key, GGUF_U8, v.p, v.n);
}

int gguf_put_i32s(struct gguf_writer *w, const char *key, const int32_t *v, size_t n)
{
    return put_array(w, key, GGUF_I32, v, n);
}

int gguf_put_bools(struct gguf_writer *w, const char *key, const bool *v, size_t n)
{
    return put_array(w, key, GGUF_BOOL, v, n);
}

int gguf_put_f32s(struct gguf_writer *w, const char *key, const float *v, size_t n)
{
    return put_array(w, key, GGUF_F32, v, n);
}

/* ---- tensors ------------------------------------------------------------------------------------------------ */

static int add_tensor(struct gguf_writer *w, struct tensor t, struct err *e)
{
    if (w->begun) return fail(e, ERR_ARG, "%s: tensor \"%.*s\" comes after the data", w->path, STR_ARG(t.name));
    if (!tensor_bytes(&t)) return fail_shape(&t, w->path, e);
    if (w->n_tensors == w->cap_tensors) {
        size_t cap = w->cap_tensors ? 2 * w->cap_tensors : 64;
        struct tensor *grown = mem_realloc(w->tensors, cap * sizeof *grown);
        if (!grown) return fail_nomem(e, "tensor descriptions", cap * sizeof *grown);
        w->tensors = grown;
        w->cap_tensors = cap;
    }
    t.name.p = arena_dup(&w->a, t.name.p, t.name.n);
    if (!t.name.p) return fail_nomem(e, "name of a tensor", t.name.n);
    if (!u64_add(w->data_bytes, t.bytes, &w->data_bytes)) return fail(e, ERR_LIMIT, "%s: too large", w->path);
    w->tensors[w->n_tensors++] = t;
    return 0;
}

int gguf_add_tensor(struct gguf_writer *w, struct str name, enum qtype type, uint32_t n_dims, const uint64_t *ne, struct err *e)
{
    struct tensor t = {.name = name, .type = type, .n_dims = n_dims, .ne = {1, 1, 1, 1}};
    for (uint32_t d = 0; d < n_dims && d < TENSOR_DIMS; d++) t.ne[d] = ne[d];
    int rc = add_tensor(w, t, e);
    if (rc < 0 && w->rc == 0) w->rc = rc;
    return rc;
}

uint64_t gguf_writer_head_bytes(const struct gguf_writer *w)
{
    return w->head.n;
}

uint64_t gguf_writer_data_bytes(const struct gguf_writer *w)
{
    return w->data_bytes;
}

uint64_t gguf_writer_file_bytes(const struct gguf_writer *w)
{
    return w->file_bytes;
}

static int put_tensors(struct gguf_writer *w, struct err *e)
{
    uint64_t offset = 0;
    for (size_t i = 0; i < w->n_tensors; i++) {
        const struct tensor *t = &w->tensors[i];
        put_str(w, t->name);
        put_u32(w, t->n_dims);
        for (uint32_t d = 0; d < t->n_dims && d < TENSOR_DIMS; d++) put_u64(w, t->ne[d]);
        put_u32(w, qtypes[t->type].ggml_id);
        put_u64(w, offset);
        if (!u64_add(offset, t->bytes, &offset) || !u64_align(offset, w->alignment, &offset))
            return fail(e, ERR_LIMIT, "%s: too large", w->path);
    }
    if (!u64_align(w->head.n, w->alignment, &w->file_bytes) || !u64_add(w->file_bytes, offset, &w->file_bytes))
        return fail(e, ERR_LIMIT, "%s: too large", w->path);
    return w->rc < 0 ? fail(e, w->rc, "%s: the header could not be built: %s", w->path, err_text(w->rc)) : 0;
}

/* Writes the zeros that follow n bytes which began at a multiple of the alignment. */
static int pad(struct gguf_writer *w, uint64_t n, struct err *e)
{
    static const char zeros[4096];
    uint64_t end;
    if (!u64_align(n, w->alignment, &end)) return fail(e, ERR_LIMIT, "%s: too large", w->path);
    for (size_t piece; n < end; n += piece) {
        piece = size_min((size_t)(end - n), sizeof zeros);
        TRY(out_write(w->out, zeros, piece, e));
    }
    return 0;
}

static void next_tensor(struct gguf_writer *w, size_t i)
{
    w->current = i;
    w->left = i < w->n_tensors ? w->tensors[i].bytes : 0;
}

int gguf_write_begin(struct gguf_writer *w, struct err *e)
{
    if (w->begun) return fail(e, ERR_ARG, "%s: begun twice", w->path);
    if (w->alignment == 0 || w->alignment > ALIGNMENT_MAX || (w->alignment & (w->alignment - 1)) != 0)
        return fail(e, ERR_ARG, "%s: general.alignment is not a power of two from 1 to %d", w->path, ALIGNMENT_MAX);
    TRY(put_tensors(w, e));
    uint32_t version = VERSION;
    uint64_t n_tensors = w->n_tensors;
    memcpy(w->head.p, "GGUF", 4);
    memcpy(w->head.p + 4, &version, 4);
    memcpy(w->head.p + 8, &n_tensors, 8);
    memcpy(w->head.p + 16, &w->n_kv, 8);

    struct gguf *check;
    TRY(gguf_parse(buf_view(&w->head), w->path, false, &check, e));
    gguf_free(&check);
    if (!w->out) return 0;
    TRY(out_write(w->out, w->head.p, w->head.n, e));
    TRY(pad(w, w->head.n, e));
    buf_fini(&w->head);
    w->begun = true;
    next_tensor(w, 0);
    return 0;
}

int gguf_write_data(struct gguf_writer *w, const void *p, size_t n, struct err *e)
{
    if (!w->begun || n > w->left)
        return fail(e, ERR_ARG, "%s: %zu bytes of data where the tensor lacks %llu", w->path, n, (unsigned long long)w->left);
    if (n == 0) return 0;
    TRY(out_write(w->out, p, n, e));
    w->left -= n;
    if (w->left) return 0;
    TRY(pad(w, w->tensors[w->current].bytes, e));
    next_tensor(w, w->current + 1);
    return 0;
}

int gguf_write_end(struct gguf_writer *w, struct err *e)
{
    if (!w->begun || w->current < w->n_tensors)
        return fail(e, ERR_ARG, "%s: %zu of %zu tensors were written", w->path, w->current, w->n_tensors);
    return out_commit(&w->out, e);
}

/* The header is the beginning of the file. */
uint64_t gguf_last_value(const struct gguf_writer *w, enum gguf_type type)
{
    return w->head.n - gguf_type_bytes(type);
}

int gguf_peek(struct gguf_writer *w, const char **tmp_path, struct err *e)
{
    if (!w->begun || w->current < w->n_tensors) return fail(e, ERR_ARG, "%s: not all tensors are written", w->path);
    return out_peek(w->out, tmp_path, e);
}

int gguf_replace(struct gguf_writer *w, uint64_t place, const void *value, size_t n, struct err *e)
{
    return out_patch(w->out, place, value, n, e);
}
