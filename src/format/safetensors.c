/* safetensors: reading one file.
 *
 *   u64 n, then n bytes of JSON:
 *     { "__metadata__": {...}, "name": { "dtype": "BF16", "shape": [rows, cols], "data_offsets": [begin, end] }, ... }
 *   then the data; offsets count from its first byte
 *
 * The header is read twice with the pull reader, which allocates nothing: once to check it and to count, once to fill the
 * array. Invariant: what comes out has a known dtype, a size that equals end - begin, and the tensors tile the data exactly: no
 * overlap, no gap, nothing after the last. */
#include "format/format_int.h"

#define HEADER_MAX ((uint64_t)100 << 20)

/* Integers are parts of matrices: hf_mlx.c makes weights of them. */
static const struct {
    const char *name;
    enum qtype type;
    uint32_t bytes;
} dtypes[] = {
    {"F32", QTYPE_F32, 4}, {"F16", QTYPE_F16, 2}, {"BF16", QTYPE_BF16, 2}, {"U32", QTYPE_COUNT, 4}, {"U8", QTYPE_COUNT, 1},
};

/* A parse under way. */
struct parse {
    struct json_cursor c;
    const char *name; /* of the file, for messages */
    struct str data;  /* what follows the header */
    struct arena *a;  /* for names with escapes; NULL in the first pass, which keeps nothing */
    struct err *e;
};

/* One entry as written. */
struct raw {
    struct str dtype; /* raw JSON text */
    uint64_t shape[TENSOR_DIMS];
    size_t n_shape;
    uint64_t offsets[2];
    size_t n_offsets;
    bool has_dtype, has_shape, has_offsets;
};

/* The reader reports its own errors; this one is for values of the wrong kind. */
static int unexpected(struct parse *p, enum json_event ev, struct str tensor, const char *what)
{
    if (ev == JSON_EV_ERROR) return p->e && p->e->code < 0 ? p->e->code : ERR_FORMAT;
    return fail(p->e, ERR_FORMAT, "%s: tensor \"%.*s\": %s", p->name, STR_ARG(tensor), what);
}

/* An array of at most max unsigned integers. */
static int read_u64s(struct parse *p, struct str tensor, const char *what, uint64_t *v, size_t max, size_t *n)
{
    enum json_event ev = json_next(&p->c);
    if (ev != JSON_EV_ARRAY) return unexpected(p, ev, tensor, what);
    for (*n = 0; (ev = json_next(&p->c)) == JSON_EV_NUMBER; (*n)++)
        if (*n == max || !str_u64(p->c.raw, &v[*n])) return unexpected(p, ev, tensor, what);
    return ev == JSON_EV_ARRAY_END ? 0 : unexpected(p, ev, tensor, what);
}

static int read_raw(struct parse *p, struct str tensor, struct raw *raw)
{
    enum json_event ev = json_next(&p->c);
    if (ev != JSON_EV_OBJECT) return unexpected(p, ev, tensor, "expected an object");
    *raw = (struct raw){0};
    while ((ev = json_next(&p->c)) == JSON_EV_KEY) {
        struct str key = p->c.raw;
        bool *seen = str_is(key, "dtype")          ? &raw->has_dtype
                     : str_is(key, "shape")        ? &raw->has_shape
                     : str_is(key, "data_offsets") ? &raw->has_offsets
                                                   : NULL;
        if (!seen) {
            if (!json_skip(&p->c, json_next(&p->c))) return unexpected(p, JSON_EV_ERROR, tensor, "");
            continue;
        }
        if (*seen) return unexpected(p, ev, tensor, "dtype, shape or data_offsets is there twice");
        *seen = true;
        if (seen == &raw->has_shape) {
            TRY(read_u64s(p, tensor, "shape is not an array of at most 4 whole numbers", raw->shape, TENSOR_DIMS,
                          &raw->n_shape));
        } else if (seen == &raw->has_offsets) {
            TRY(read_u64s(p, tensor, "data_offsets is not an array of 2 whole numbers", raw->offsets, 2, &raw->n_offsets));
        } else {
            ev = json_next(&p->c);
            if (ev != JSON_EV_STRING) return unexpected(p, ev, tensor, "dtype is not a string");
            raw->dtype = p->c.raw;
        }
    }
    if (ev != JSON_EV_OBJECT_END) return unexpected(p, ev, tensor, "expected an object");
    if (!raw->has_dtype || !raw->has_shape || raw->n_offsets != 2)
        return unexpected(p, ev, tensor, "expected dtype, shape and two data_offsets");
    return 0;
}

static bool plain_bytes(struct tensor *t, uint64_t bytes)
{
    for (size_t d = 0; d < TENSOR_DIMS; d++)
        if (!u64_mul(bytes, t->ne[d], &bytes)) return false;
    t->bytes = bytes;
    return true;
}

static int check_tensor(struct parse *p, const struct raw *raw, struct tensor *t)
{
    size_t i = 0;
    while (i < COUNT_OF(dtypes) && !str_is(raw->dtype, dtypes[i].name)) i++;
    if (i == COUNT_OF(dtypes))
        return fail(p->e, ERR_UNSUPPORTED,
                    "%s: tensor \"%.*s\" is of dtype \"%.*s\"; Quern runs F32, F16 and BF16, and U32 and U8 of MLX", p->name,
                    STR_ARG(t->name), STR_ARG(raw->dtype));
    t->type = dtypes[i].type;
    t->n_dims = raw->n_shape ? (uint32_t)raw->n_shape : 1; /* [] is one number */
    for (size_t d = 0; d < raw->n_shape; d++) {
        if (raw->shape[d] == 0)
            return fail(p->e, ERR_FORMAT, "%s: tensor \"%.*s\" is empty: dimension %zu of its shape is 0", p->name,
                        STR_ARG(t->name), d);
        t->ne[raw->n_shape - 1 - d] = raw->shape[d];
    }
    if (!plain_bytes(t, dtypes[i].bytes)) return fail_size(t, p->name, p->e);
    uint64_t begin = raw->offsets[0], end = raw->offsets[1];
    if (begin > end || end > p->data.n)
        return fail(
            p->e, ERR_FORMAT,
            "%s: tensor \"%.*s\" lies at %llu to %llu, outside of the %zu bytes of data: the file is damaged or not fully "
            "downloaded",
            p->name, STR_ARG(t->name), (unsigned long long)begin, (unsigned long long)end, p->data.n);
    if (end - begin != t->bytes)
        return fail(p->e, ERR_FORMAT, "%s: tensor \"%.*s\" has %llu bytes of data, expected %llu from its shape and dtype",
                    p->name, STR_ARG(t->name), (unsigned long long)(end - begin), (unsigned long long)t->bytes);
    t->data = p->data.p + begin;
    return 0;
}

/* The name that the reader has just read. */
static int tensor_name(struct parse *p, struct str *out)
{
    *out = p->c.raw;
    if (!p->c.escaped || !p->a) return 0;
    char *name = arena_alloc(p->a, p->c.raw.n);
    if (!name) return fail_nomem(p->e, "name of a tensor", p->c.raw.n);
    *out = (struct str){name, json_unescape(p->c.raw, name)};
    return 0;
}

/* Walks all entries; fills tensors where it is not NULL. */
static int read_entries(struct parse *p, struct str header, struct tensor *tensors, size_t *n)
{
    json_cursor_init(&p->c, header, p->name, p->e);
    enum json_event ev = json_next(&p->c);
    if (ev != JSON_EV_OBJECT) return unexpected(p, ev, (struct str){0}, "the header is not a JSON object");
    *n = 0;
    while ((ev = json_next(&p->c)) == JSON_EV_KEY) {
        struct tensor t = {.ne = {1, 1, 1, 1}};
        struct raw raw;
        TRY(tensor_name(p, &t.name));
        if (str_is(t.name, "__metadata__")) {
            ev = json_next(&p->c);
            if (ev != JSON_EV_OBJECT) return unexpected(p, ev, t.name, "expected an object");
            if (!json_skip(&p->c, ev)) return unexpected(p, JSON_EV_ERROR, t.name, "");
            continue;
        }
        if (!name_ok(t.name, TENSOR_NAME_MAX))
            return fail(p->e, ERR_FORMAT, "%s: the name of tensor %zu is not text of 1 to %d bytes", p->name, *n,
                        TENSOR_NAME_MAX);
        TRY(read_raw(p, t.name, &raw));
        TRY(check_tensor(p, &raw, &t));
        if (tensors) tensors[*n] = t;
        (*n)++;
    }
    if (ev != JSON_EV_OBJECT_END) return unexpected(p, ev, (struct str){0}, "the header is not a JSON object");
    ev = json_next(&p->c);
    return ev == JSON_EV_END ? 0 : unexpected(p, ev, (struct str){0}, "the header goes on after its object");
}

static struct str name_at(const void *ctx, size_t i)
{
    return ((const struct tensor *)ctx)[i].name;
}

static int check_tiling(struct parse *p, const struct tensor *tensors, size_t n)
{
    struct names names;
    TRY(names_init(&names, p->a, n, name_at, tensors, p->e));
    size_t dup = names_enter_all(&names, n);
    if (dup < n) return fail(p->e, ERR_FORMAT, "%s: tensor \"%.*s\" is there twice", p->name, STR_ARG(tensors[dup].name));

    const struct tensor **v;
    TRY(tensors_by_data(p->a, tensors, n, &v, p->e));
    const char *pos = p->data.p;
    for (size_t i = 0; i < n; i++) {
        const char *begin = v[i]->data;
        if (begin != pos)
            return fail(p->e, ERR_FORMAT, "%s: tensor \"%.*s\" %s", p->name, STR_ARG(v[i]->name),
                        begin < pos ? "overlaps the one before it" : "comes after a gap in the data");
        pos = begin + v[i]->bytes;
    }
    size_t left = (size_t)(p->data.p + p->data.n - pos);
    if (left) return fail(p->e, ERR_FORMAT, "%s: %zu bytes after the last tensor belong to none", p->name, left);
    return 0;
}

int safetensors_parse(struct str bytes, const char *name, struct arena *a, struct tensor **tensors, size_t *n, struct err *e)
{
    struct reader r = rd_of(bytes.p, bytes.n);
    uint64_t header_bytes = rd_u64(&r);
    if (r.bad || header_bytes > HEADER_MAX || header_bytes > rd_left(&r) || header_bytes < 2 || *r.p != '{')
        return fail(e, ERR_FORMAT,
                    "%s: not a safetensors file, or not fully downloaded: a header of %llu bytes in a file of %zu bytes (%s)",
                    name, (unsigned long long)header_bytes, bytes.n, sniff(bytes));
    struct str header = {rd_bytes(&r, header_bytes), (size_t)header_bytes};
    struct parse p = {.name = name, .data = {(const char *)r.p, rd_left(&r)}, .e = e};
    TRY(read_entries(&p, header, NULL, n));
    *tensors = arena_array(a, *n, sizeof **tensors);
    if (!*tensors) return fail_nomem(e, "tensor descriptions", *n * sizeof **tensors);
    p.a = a;
    TRY(read_entries(&p, header, *tensors, n));

    /* The table and the order are only for the checks. */
    struct arena scratch = {.limit = a->limit};
    p.a = &scratch;
    int rc = check_tiling(&p, *tensors, *n);
    arena_fini(&scratch);
    return rc;
}
