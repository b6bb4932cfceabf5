/* gguf: reading GGUF, version 2 and 3, little-endian.
 *
 *   "GGUF"  u32 version  u64 n_tensors  u64 n_kv
 *   n_kv      x  { string key; u32 type; value }
 *   n_tensors x  { string name; u32 n_dims; u64 ne[n_dims]; u32 type; u64 offset }
 *   padding to general.alignment (32 where absent)
 *   data; a tensor's offset counts from here
 *
 *   string = u64 n, n bytes     array = u32 element type, u64 n, elements
 *
 * Invariant: every entry is walked and checked once before anything is allocated for it, and the result points into the
 * file's bytes. So memory follows what the file really holds and not what it claims, and after gguf_parse each key is
 * unique, each array lies inside the file, and (with_data) each tensor's bytes lie inside the data and overlap no other's. */
#include "format/format_int.h"

enum { VERSION_MIN = 2, VERSION_MAX = 3, ALIGNMENT_DEFAULT = 32, ALIGNMENT_MAX = 65536 };

struct gguf {
    struct arena a; /* kv, tensors and keys */
    uint32_t version;
    uint64_t alignment;
    struct gguf_kv *kv; /* [n_kv], in the order of the file */
    size_t n_kv;
    struct names keys;
    struct tensor *tensors; /* [n_tensors], in the order of the file */
    size_t n_tensors;
};

/* A parse under way. */
struct parse {
    struct gguf *g;
    struct reader r;
    const char *name; /* of the file, for messages */
    bool with_data;
    struct err *e;
};

/* ---- values ------------------------------------------------------------------------------------------- */

enum kind { KIND_UNSIGNED, KIND_SIGNED, KIND_FLOAT, KIND_BOOL, KIND_STRING, KIND_ARRAY };

static const struct {
    enum kind kind;
    uint8_t bytes; /* of one element; of a string or array the least it can take */
} types[GGUF_TYPE_COUNT] = {
    [GGUF_U8] = {KIND_UNSIGNED, 1},  [GGUF_I8] = {KIND_SIGNED, 1},    [GGUF_U16] = {KIND_UNSIGNED, 2},
    [GGUF_I16] = {KIND_SIGNED, 2},   [GGUF_U32] = {KIND_UNSIGNED, 4}, [GGUF_I32] = {KIND_SIGNED, 4},
    [GGUF_F32] = {KIND_FLOAT, 4},    [GGUF_BOOL] = {KIND_BOOL, 1},    [GGUF_STRING] = {KIND_STRING, 8},
    [GGUF_ARRAY] = {KIND_ARRAY, 12}, [GGUF_U64] = {KIND_UNSIGNED, 8}, [GGUF_I64] = {KIND_SIGNED, 8},
    [GGUF_F64] = {KIND_FLOAT, 8},
};

size_t gguf_type_bytes(enum gguf_type type)
{
    return types[type].kind < KIND_STRING ? types[type].bytes : 0;
}

static struct str read_str(struct reader *r)
{
    uint64_t n = rd_u64(r);
    const char *p = rd_bytes(r, n);
    return r->bad ? (struct str){0} : (struct str){p, (size_t)n};
}

/* Any value but an array, into kv->v. */
static void read_value(struct reader *r, enum gguf_type type, struct gguf_kv *kv)
{
    switch (type) {
    case GGUF_U8:
    case GGUF_BOOL:
        kv->v.u = rd_u8(r);
        break;
    case GGUF_U16:
        kv->v.u = rd_u16(r);
        break;
    case GGUF_U32:
        kv->v.u = rd_u32(r);
        break;
    case GGUF_U64:
        kv->v.u = rd_u64(r);
        break;
    case GGUF_I8:
        kv->v.i = (int8_t)rd_u8(r);
        break;
    case GGUF_I16:
        kv->v.i = (int16_t)rd_u16(r);
        break;
    case GGUF_I32:
        kv->v.i = (int32_t)rd_u32(r);
        break;
    case GGUF_I64:
        kv->v.i = (int64_t)rd_u64(r);
        break;
    case GGUF_F32:
        kv->v.f = (double)rd_f32(r);
        break;
    case GGUF_F64:
        kv->v.f = rd_f64(r);
        break;
    case GGUF_STRING:
        kv->v.s = read_str(r);
        break;
    case GGUF_ARRAY:
    case GGUF_TYPE_COUNT:
        break;
    }
}

static int read_array(struct parse *p, struct gguf_kv *kv)
{
    struct reader *r = &p->r;
    uint32_t elem = rd_u32(r);
    kv->n = rd_u64(r);
    if (r->bad) return 0; /* the caller says so */
    if (elem == GGUF_ARRAY)
        return fail(p->e, ERR_UNSUPPORTED, "%s: metadata \"%.*s\" is an array of arrays, which Quern does not read", p->name,
                    STR_ARG(kv->key));
    if (elem >= GGUF_TYPE_COUNT)
        return fail(p->e, ERR_FORMAT, "%s: metadata \"%.*s\" is an array of unknown type %u", p->name, STR_ARG(kv->key), elem);
    kv->elem = (enum gguf_type)elem;
    if (!rd_count_ok(r, kv->n, types[elem].bytes))
        return fail(p->e, ERR_FORMAT, "%s: metadata \"%.*s\" claims %llu elements, more than the %zu bytes left can hold",
                    p->name, STR_ARG(kv->key), (unsigned long long)kv->n, rd_left(r));
    kv->array = r->p;
    if (elem == GGUF_STRING)
        for (uint64_t i = 0; i < kv->n && !r->bad; i++) read_str(r);
    else
        rd_bytes(r, kv->n * types[elem].bytes);
    if (r->bad) return 0;
    kv->array_bytes = (uint64_t)(r->p - kv->array);
    if (elem == GGUF_BOOL)
        for (uint64_t i = 0; i < kv->n; i++)
            if (kv->array[i] > 1)
                return fail(p->e, ERR_FORMAT, "%s: metadata \"%.*s\": element %llu is %u, expected a bool (0 or 1)", p->name,
                            STR_ARG(kv->key), (unsigned long long)i, kv->array[i]);
    return 0;
}

static int read_kv(struct parse *p, uint64_t i, struct gguf_kv *kv)
{
    struct reader *r = &p->r;
    *kv = (struct gguf_kv){.key = read_str(r), .n = 1};
    uint32_t type = rd_u32(r);
    if (r->bad) return fail(p->e, ERR_FORMAT, "%s: the file ends in metadata entry %llu", p->name, (unsigned long long)i);
    if (!name_ok(kv->key, KEY_MAX))
        return fail(p->e, ERR_FORMAT, "%s: the key of metadata entry %llu is not text of 1 to %d bytes", p->name,
                    (unsigned long long)i, KEY_MAX);
    if (type >= GGUF_TYPE_COUNT)
        return fail(p->e, ERR_FORMAT, "%s: metadata \"%.*s\" has unknown type %u", p->name, STR_ARG(kv->key), type);
    kv->type = kv->elem = (enum gguf_type)type;
    if (type == GGUF_ARRAY)
        TRY(read_array(p, kv));
    else
        read_value(r, kv->type, kv);
    if (r->bad) return fail(p->e, ERR_FORMAT, "%s: the file ends in metadata \"%.*s\"", p->name, STR_ARG(kv->key));
    if (type == GGUF_BOOL && kv->v.u > 1)
        return fail(p->e, ERR_FORMAT, "%s: metadata \"%.*s\" is %u, expected a bool (0 or 1)", p->name, STR_ARG(kv->key),
                    (unsigned)kv->v.u);
    return 0;
}

/* ---- the parts of a file --------------------------------------------------------------------------------- */

static int read_header(struct parse *p, uint64_t *n_tensors, uint64_t *n_kv)
{
    struct reader *r = &p->r;
    const char *magic = rd_bytes(r, 4);
    if (!magic || memcmp(magic, "GGUF", 4) != 0) {
        struct str all = {(const char *)r->start, (size_t)(r->end - r->start)};
        return fail(p->e, ERR_FORMAT, "%s: not a GGUF file: it is %s", p->name, sniff(all));
    }
    uint32_t version = rd_u32(r);
    *n_tensors = rd_u64(r);
    *n_kv = rd_u64(r);
    if (r->bad) return fail(p->e, ERR_FORMAT, "%s: the file ends in its header", p->name);
    if (version != 0 && (version & 0xffff) == 0)
        return fail(p->e, ERR_UNSUPPORTED, "%s: a big-endian GGUF file; Quern reads little-endian ones", p->name);
    if (version < VERSION_MIN || version > VERSION_MAX)
        return fail(p->e, ERR_UNSUPPORTED, "%s: GGUF version %u; Quern reads versions %d and %d%s", p->name, version,
                    VERSION_MIN, VERSION_MAX, version == 1 ? " (convert the model anew)" : "");
    /* The shortest entries: an empty key and a byte; a one-letter tensor of one dimension. */
    if (!rd_count_ok(r, *n_kv, 8 + 4 + 1) || !rd_count_ok(r, *n_tensors, 8 + 1 + 4 + 8 + 4 + 8))
        return fail(p->e, ERR_FORMAT, "%s: claims %llu metadata entries and %llu tensors, more than its %zu bytes can hold",
                    p->name, (unsigned long long)*n_kv, (unsigned long long)*n_tensors, (size_t)(r->end - r->start));
    p->g->version = version;
    return 0;
}

static struct str key_at(const void *ctx, size_t i)
{
    return ((const struct gguf *)ctx)->kv[i].key;
}

static int read_metadata(struct parse *p, uint64_t n)
{
    struct gguf *g = p->g;
    struct reader start = p->r;
    struct gguf_kv kv;
    for (uint64_t i = 0; i < n; i++) TRY(read_kv(p, i, &kv));
    p->r = start;

    g->n_kv = (size_t)n;
    g->kv = arena_array(&g->a, g->n_kv, sizeof *g->kv);
    if (!g->kv) return fail_nomem(p->e, "metadata", g->n_kv * sizeof *g->kv);
    for (size_t i = 0; i < g->n_kv; i++) TRY(read_kv(p, i, &g->kv[i]));

    TRY(names_init(&g->keys, &g->a, g->n_kv, key_at, g, p->e));
    size_t dup = names_enter_all(&g->keys, g->n_kv);
    if (dup < g->n_kv) return fail(p->e, ERR_FORMAT, "%s: metadata \"%.*s\" is there twice", p->name, STR_ARG(g->kv[dup].key));

    g->alignment = ALIGNMENT_DEFAULT;
    const struct gguf_kv *align = gguf_find(g, "general.alignment");
    if (!align) return 0;
    if (!gguf_get_u64(g, "general.alignment", &g->alignment) || g->alignment == 0 || g->alignment > ALIGNMENT_MAX ||
        (g->alignment & (g->alignment - 1)) != 0)
        return fail(p->e, ERR_FORMAT, "%s: general.alignment is not a power of two from 1 to %d", p->name, ALIGNMENT_MAX);
    return 0;
}

/* One tensor description. Its data pointer is not set; *offset is where the file says it is. */
static int read_tensor(struct parse *p, uint64_t i, struct tensor *t, uint64_t *offset)
{
    struct reader *r = &p->r;
    *t = (struct tensor){.name = read_str(r), .ne = {1, 1, 1, 1}};
    t->n_dims = rd_u32(r);
    if (r->bad) return fail(p->e, ERR_FORMAT, "%s: the file ends in tensor %llu", p->name, (unsigned long long)i);
    if (!name_ok(t->name, TENSOR_NAME_MAX))
        return fail(p->e, ERR_FORMAT, "%s: the name of tensor %llu is not text of 1 to %d bytes", p->name,
                    (unsigned long long)i, TENSOR_NAME_MAX);
    if (t->n_dims < 1 || t->n_dims > TENSOR_DIMS)
        return fail(p->e, ERR_FORMAT, "%s: tensor \"%.*s\" has %u dimensions, expected 1 to %d", p->name, STR_ARG(t->name),
                    t->n_dims, TENSOR_DIMS);
    uint64_t elements = 1;
    bool sane = true;
    for (uint32_t d = 0; d < t->n_dims; d++) {
        t->ne[d] = rd_u64(r);
        sane = sane && t->ne[d] != 0 && u64_mul(elements, t->ne[d], &elements);
    }
    uint32_t type = rd_u32(r);
    *offset = rd_u64(r);
    if (r->bad) return fail(p->e, ERR_FORMAT, "%s: the file ends in tensor \"%.*s\"", p->name, STR_ARG(t->name));
    if (!sane)
        return fail(p->e, ERR_FORMAT, "%s: tensor \"%.*s\" of %llu x %llu x %llu x %llu elements has an impossible size",
                    p->name, STR_ARG(t->name), (unsigned long long)t->ne[0], (unsigned long long)t->ne[1],
                    (unsigned long long)t->ne[2], (unsigned long long)t->ne[3]);
    if (!qtype_by_ggml(type, &t->type)) {
        if (!p->with_data) {
            t->type = QTYPE_COUNT;
            return 0;
        }
        char known[KNOWN_TYPES];
        return fail(p->e, ERR_UNSUPPORTED, "%s: tensor \"%.*s\" is of type %s (number %u); Quern runs %s", p->name,
                    STR_ARG(t->name), ggml_type_name(type), type, known_types(known));
    }
    return tensor_bytes(t) ? 0 : fail_shape(t, p->name, p->e);
}

static struct str tensor_name_at(const void *ctx, size_t i)
{
    return ((const struct gguf *)ctx)->tensors[i].name;
}

static int check_tensors(struct parse *p, struct arena *scratch)
{
    struct gguf *g = p->g;
    struct names names;
    TRY(names_init(&names, scratch, g->n_tensors, tensor_name_at, g, p->e));
    size_t dup = names_enter_all(&names, g->n_tensors);
    if (dup < g->n_tensors)
        return fail(p->e, ERR_FORMAT, "%s: tensor \"%.*s\" is there twice", p->name, STR_ARG(g->tensors[dup].name));
    if (!p->with_data) return 0;

    const struct tensor **v;
    TRY(tensors_by_data(scratch, g->tensors, g->n_tensors, &v, p->e));
    for (size_t i = 1; i < g->n_tensors; i++)
        if ((const uint8_t *)v[i]->data < (const uint8_t *)v[i - 1]->data + v[i - 1]->bytes)
            return fail(p->e, ERR_FORMAT, "%s: the data of tensors \"%.*s\" and \"%.*s\" overlap", p->name,
                        STR_ARG(v[i - 1]->name), STR_ARG(v[i]->name));
    return 0;
}

/* Points t at its bytes, offset bytes into the data section at pos data. */
static int place_tensor(struct parse *p, struct tensor *t, uint64_t data, uint64_t offset)
{
    const struct gguf *g = p->g;
    size_t size = (size_t)(p->r.end - p->r.start);
    uint64_t begin, end;
    if (offset % g->alignment)
        return fail(p->e, ERR_FORMAT, "%s: tensor \"%.*s\" is at offset %llu, expected a multiple of %llu", p->name,
                    STR_ARG(t->name), (unsigned long long)offset, (unsigned long long)g->alignment);
    if (!u64_add(data, offset, &begin) || !u64_add(begin, t->bytes, &end) || end > size)
        return fail(p->e, ERR_FORMAT,
                    "%s: tensor \"%.*s\" (%llu bytes at offset %llu) lies outside of the file of %zu bytes: it is damaged or "
                    "not fully downloaded",
                    p->name, STR_ARG(t->name), (unsigned long long)t->bytes, (unsigned long long)offset, size);
    t->data = p->r.start + begin;
    return 0;
}

static int read_tensors(struct parse *p, uint64_t n)
{
    struct gguf *g = p->g;
    struct reader start = p->r;
    struct tensor t;
    uint64_t offset, data;
    for (uint64_t i = 0; i < n; i++) TRY(read_tensor(p, i, &t, &offset));
    if (!u64_align(rd_pos(&p->r), g->alignment, &data)) return fail(p->e, ERR_FORMAT, "%s: too large", p->name);
    p->r = start;

    g->n_tensors = (size_t)n;
    g->tensors = arena_array(&g->a, g->n_tensors, sizeof *g->tensors);
    if (!g->tensors) return fail_nomem(p->e, "tensor descriptions", g->n_tensors * sizeof *g->tensors);
    for (size_t i = 0; i < g->n_tensors; i++) {
        TRY(read_tensor(p, i, &g->tensors[i], &offset));
        if (p->with_data) TRY(place_tensor(p, &g->tensors[i], data, offset));
    }
    struct arena scratch = {.limit = g->a.limit};
    int rc = check_tensors(p, &scratch);
    arena_fini(&scratch);
    return rc;
}

int gguf_parse(struct str bytes, const char *name, bool with_data, struct gguf **out, struct err *e)
{
    *out = NULL;
    struct gguf *g = mem_zalloc(sizeof *g);
    if (!g) return fail_nomem(e, name, sizeof *g);
    /* No honest file needs more; a small file may still fill one arena block. */
    if (!size_mul(bytes.n, 2, &g->a.limit) || !size_add(g->a.limit, (size_t)16 << 20, &g->a.limit)) g->a.limit = SIZE_MAX;

    struct parse p = {.g = g, .r = rd_of(bytes.p, bytes.n), .name = name, .with_data = with_data, .e = e};
    uint64_t n_tensors = 0, n_kv = 0;
    int rc = read_header(&p, &n_tensors, &n_kv);
    if (rc == 0) rc = read_metadata(&p, n_kv);
    if (rc == 0) rc = read_tensors(&p, n_tensors);
    if (rc < 0) gguf_free(&g);
    *out = g;
    return rc;
}

void gguf_free(struct gguf **g)
{
    if (!*g) return;
    arena_fini(&(*g)->a);
    mem_free(*g);
    *g = NULL;
}

size_t gguf_n_tensors(const struct gguf *g)
{
    return g->n_tensors;
}

const struct tensor *gguf_tensor(const struct gguf *g, size_t i)
{
    return i < g->n_tensors ? &g->tensors[i] : NULL;
}

/* ---- metadata ------------------------------------------------------------------------------------------------ */

uint32_t gguf_version(const struct gguf *g)
{
    return g->version;
}

size_t gguf_n_kv(const struct gguf *g)
{
    return g->n_kv;
}

const struct gguf_kv *gguf_kv_at(const struct gguf *g, size_t i)
{
    return i < g->n_kv ? &g->kv[i] : NULL;
}

const struct gguf_kv *gguf_find(const struct gguf *g, const char *key)
{
    size_t i;
    return names_find(&g->keys, str_of(key), &i) ? &g->kv[i] : NULL;
}

static bool as_u64(enum gguf_type type, const struct gguf_kv *kv, uint64_t *out)
{
    if (types[type].kind == KIND_SIGNED && kv->v.i >= 0)
        *out = (uint64_t)kv->v.i;
    else if (types[type].kind == KIND_UNSIGNED)
        *out = kv->v.u;
    else
        return false;
    return true;
}

static bool as_i64(enum gguf_type type, const struct gguf_kv *kv, int64_t *out)
{
    if (types[type].kind == KIND_SIGNED)
        *out = kv->v.i;
    else if (types[type].kind == KIND_UNSIGNED && kv->v.u <= INT64_MAX)
        *out = (int64_t)kv->v.u;
    else
        return false;
    return true;
}

static bool as_f64(enum gguf_type type, const struct gguf_kv *kv, double *out)
{
    switch (types[type].kind) {
    case KIND_FLOAT:
        *out = kv->v.f;
        return true;
    case KIND_SIGNED:
        *out = (double)kv->v.i;
        return true;
    case KIND_UNSIGNED:
        *out = (double)kv->v.u;
        return true;
    default:
        return false;
    }
}

bool gguf_get_u64(const struct gguf *g, const char *key, uint64_t *out)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    return kv && as_u64(kv->type, kv, out);
}

bool gguf_get_i64(const struct gguf *g, const char *key, int64_t *out)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    return kv && as_i64(kv->type, kv, out);
}

bool gguf_get_f64(const struct gguf *g, const char *key, double *out)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    return kv && as_f64(kv->type, kv, out);
}

bool gguf_get_bool(const struct gguf *g, const char *key, bool *out)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv || kv->type != GGUF_BOOL) return false;
    *out = kv->v.u != 0;
    return true;
}

bool gguf_get_str(const struct gguf *g, const char *key, struct str *out)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv || kv->type != GGUF_STRING) return false;
    *out = kv->v.s;
    return true;
}

/* Element i of an array of numbers, as if it were an entry of its own. */
static bool element(const struct gguf_kv *kv, uint64_t i, struct gguf_kv *out)
{
    if (kv->type != GGUF_ARRAY || kv->elem == GGUF_STRING || i >= kv->n) return false;
    size_t bytes = types[kv->elem].bytes;
    struct reader r = rd_of(kv->array + i * bytes, bytes); /* in bounds: the array's extent was checked */
    read_value(&r, kv->elem, out);
    return !r.bad;
}

bool gguf_arr_u64(const struct gguf_kv *kv, uint64_t i, uint64_t *out)
{
    struct gguf_kv v = {0};
    return element(kv, i, &v) && as_u64(kv->elem, &v, out);
}

bool gguf_arr_i64(const struct gguf_kv *kv, uint64_t i, int64_t *out)
{
    struct gguf_kv v = {0};
    return element(kv, i, &v) && as_i64(kv->elem, &v, out);
}

bool gguf_arr_f64(const struct gguf_kv *kv, uint64_t i, double *out)
{
    struct gguf_kv v = {0};
    return element(kv, i, &v) && as_f64(kv->elem, &v, out);
}

bool gguf_arr_bool(const struct gguf_kv *kv, uint64_t i, bool *out)
{
    struct gguf_kv v = {0};
    if (kv->elem != GGUF_BOOL || !element(kv, i, &v)) return false;
    *out = v.v.u != 0;
    return true;
}

bool gguf_strs(const struct gguf_kv *kv, struct reader *out)
{
    if (kv->type != GGUF_ARRAY || kv->elem != GGUF_STRING) return false;
    *out = rd_of(kv->array, (size_t)kv->array_bytes);
    return true;
}

bool gguf_bytes(const struct gguf_kv *kv, struct str *out)
{
    if (kv->type != GGUF_ARRAY || (kv->elem != GGUF_U8 && kv->elem != GGUF_I8)) return false;
    *out = (struct str){(const char *)kv->array, (size_t)kv->array_bytes};
    return true;
}

struct str gguf_next_str(struct reader *r)
{
    return read_str(r);
}
