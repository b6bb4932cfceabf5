/* nametab: names of untrusted files. Duplicate names are found with a seeded hash table, overlapping tensors by sorting, so
 * that no file can make either quadratic. */
#include "format/format_int.h"

bool name_ok(struct str s, size_t max)
{
    if (s.n == 0 || s.n > max) return false;
    while (s.n) {
        uint32_t cp;
        size_t n = utf8_decode(s, &cp);
        if (n == 0 || cp < 0x20 || (cp >= 0x7f && cp < 0xa0)) return false;
        s.p += n;
        s.n -= n;
    }
    return true;
}

/* The slot where name is, or the free one where it belongs. The table is at most half full, so there is one. */
static uint32_t *slot_of(const struct names *t, struct str name)
{
    size_t i = (size_t)str_hash(name) & t->mask;
    while (t->slots[i] && !str_eq(t->at(t->ctx, t->slots[i] - 1), name)) i = (i + 1) & t->mask;
    return &t->slots[i];
}

int names_init(struct names *t, struct arena *a, size_t n, struct str (*at)(const void *ctx, size_t i), const void *ctx,
               struct err *e)
{
    *t = (struct names){.at = at, .ctx = ctx};
    if (n == 0) return 0;
    if (n > UINT32_MAX / 4) return fail(e, ERR_LIMIT, "%zu names are more than a model file can have", n);
    size_t n_slots = 4;
    while (n_slots < 2 * n) n_slots *= 2;
    t->slots = arena_array(a, n_slots, sizeof *t->slots);
    if (!t->slots) return fail_nomem(e, "table of names", n_slots * sizeof *t->slots);
    t->mask = n_slots - 1;
    return 0;
}

size_t names_enter(struct names *t, size_t i)
{
    uint32_t *slot = slot_of(t, t->at(t->ctx, i));
    if (*slot == 0) *slot = (uint32_t)(i + 1);
    return *slot - 1;
}

size_t names_enter_all(struct names *t, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (names_enter(t, i) != i) return i;
    return n;
}

bool names_find(const struct names *t, struct str name, size_t *i)
{
    if (!t->slots) return false;
    uint32_t found = *slot_of(t, name);
    if (found) *i = found - 1;
    return found != 0;
}

static bool before(const struct tensor *a, const struct tensor *b)
{
    return (uintptr_t)a->data < (uintptr_t)b->data;
}

/* Restores the heap (largest on top) below i. */
static void sift(const struct tensor **v, size_t i, size_t n)
{
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(v[child], v[child + 1])) child++;
        if (!before(v[i], v[child])) return;
        const struct tensor *t = v[i];
        v[i] = v[child];
        v[child] = t;
    }
}

/* Heap sort: in place, and n log n whatever the file says. Nearly all files are in order already. */
static void sort_by_data(const struct tensor **v, size_t n)
{
    size_t sorted = 1;
    while (sorted < n && !before(v[sorted], v[sorted - 1])) sorted++;
    if (sorted >= n) return;
    for (size_t i = n / 2; i-- > 0;) sift(v, i, n);
    for (size_t last = n - 1; last > 0; last--) {
        const struct tensor *t = v[0];
        v[0] = v[last];
        v[last] = t;
        sift(v, 0, last);
    }
}

int tensors_by_data(struct arena *a, const struct tensor *tensors, size_t n, const struct tensor ***out, struct err *e)
{
    const struct tensor **v = arena_array(a, n, sizeof *v);
    if (!v) return fail_nomem(e, "order of tensors", n * sizeof *v);
    for (size_t i = 0; i < n; i++) v[i] = &tensors[i];
    sort_by_data(v, n);
    *out = v;
    return 0;
}

bool tensor_bytes(struct tensor *t)
{
    uint64_t bytes;
    if (!qtype_row_bytes(t->type, t->ne[0], &bytes)) return false;
    for (size_t d = 1; d < TENSOR_DIMS; d++)
        if (!u64_mul(bytes, t->ne[d], &bytes)) return false;
    t->bytes = bytes;
    return true;
}

int fail_size(const struct tensor *t, const char *file, struct err *e)
{
    return fail(e, ERR_FORMAT, "%s: tensor \"%.*s\" of %llu x %llu x %llu x %llu elements has an impossible size", file,
                STR_ARG(t->name), (unsigned long long)t->ne[0], (unsigned long long)t->ne[1], (unsigned long long)t->ne[2],
                (unsigned long long)t->ne[3]);
}

int fail_shape(const struct tensor *t, const char *file, struct err *e)
{
    const struct qtype_info *q = &qtypes[t->type];
    if (t->ne[0] % q->block_n)
        return fail(e, ERR_FORMAT, "%s: tensor \"%.*s\" is %s with rows of %llu, expected a multiple of %u", file,
                    STR_ARG(t->name), q->name, (unsigned long long)t->ne[0], q->block_n);
    return fail_size(t, file, e);
}

const char *known_types(char out[KNOWN_TYPES])
{
    size_t n = 0;
    for (unsigned t = 0; t < QTYPE_COUNT; t++) {
        if (qtypes[t].ggml_id == NO_GGML) continue;
        struct str parts[] = {str_of(n ? ", " : ""), str_of(qtypes[t].name)};
        for (size_t i = 0; i < COUNT_OF(parts); i++) {
            size_t take = size_min(parts[i].n, KNOWN_TYPES - 1 - n);
            memcpy(out + n, parts[i].p, take);
            n += take;
        }
    }
    out[n] = 0;
    return out;
}

const char *sniff(struct str bytes)
{
    static const struct {
        struct str magic;
        const char *what;
    } kinds[] = {
        {{"PK\003\004", 4}, "a ZIP archive (a PyTorch checkpoint or another package)"},
        {{"\x80\x02", 2}, "a Python pickle (a PyTorch checkpoint)"},
        {{"\x80\x03", 2}, "a Python pickle (a PyTorch checkpoint)"},
        {{"\x80\x04", 2}, "a Python pickle (a PyTorch checkpoint)"},
        {{"version https://git-lfs", 23}, "a Git LFS pointer and not the file itself (git lfs pull fetches it)"},
        {{"<!DOCTYPE", 9}, "a web page (the download went wrong)"},
        {{"<html", 5}, "a web page (the download went wrong)"},
        {{"tjgg", 4}, "a GGML file from before GGUF"},
        {{"fmgg", 4}, "a GGML file from before GGUF"},
        {{"lmgg", 4}, "a GGML file from before GGUF"},
        {{"\x89HDF", 4}, "an HDF5 file"},
        {{"\x1f\x8b", 2}, "a gzip file"},
        {{"{", 1}, "a JSON text"},
    };
    if (bytes.n == 0) return "an empty file";
    for (size_t i = 0; i < COUNT_OF(kinds); i++)
        if (str_starts(bytes, kinds[i].magic)) return kinds[i].what;
    /* safetensors: a u64 header length, then a JSON object. */
    if (bytes.n > 9 && bytes.p[8] == '{' && bytes.p[6] == 0 && bytes.p[7] == 0) return "a single safetensors file";
    return "of an unknown kind";
}
