/* hf_mlx: the quantised matrices of an MLX folder. One matrix X is up to three tensors, which become one:
 *
 *   X.weight   U32 [.., rows, in * bits / 32]
 *   X.scales       [.., rows, in / group]       F32, F16 or BF16 of the affine mode, else U8
 *   X.biases   as X.scales; of the affine mode only
 *
 * config.json says how to read them:
 *
 *   "quantization": { "group_size": 64, "bits": 4, "mode": "affine",
 *                     "X": { "group_size": 64, "bits": 8 }, "Y": false, ... }
 *
 * with an entry of its own for each matrix that differs. As in mlx-lm, such an entry inherits nothing: what it leaves out is
 * the default of its mode. A matrix without scales is not quantised.
 *
 * Invariant: what comes out has shapes that agree with one another, and a row is a whole number of groups. */
#include "format/format_int.h"

/* What an entry may say. The first of a mode has the mode's defaults. group 0: 32, 64 (the default) or 128. */
static const struct scheme {
    const char *mode;
    uint32_t bits, group;
    enum qtype type;
} schemes[] = {
    {"affine", 4, 0, QTYPE_MLX4},      {"affine", 2, 0, QTYPE_MLX2},      {"affine", 3, 0, QTYPE_MLX3},
    {"affine", 5, 0, QTYPE_MLX5},      {"affine", 6, 0, QTYPE_MLX6},      {"affine", 8, 0, QTYPE_MLX8},
    {"mxfp4", 4, 32, QTYPE_MLX_MXFP4}, {"mxfp8", 8, 32, QTYPE_MLX_MXFP8}, {"nvfp4", 4, 16, QTYPE_MLX_NVFP4},
};

/* A join under way. */
struct join {
    const char *path; /* of the folder */
    struct arena *a;
    const struct names *names; /* of the tensors as the files have them */
    const struct tensor *const *raw;
    const struct json *config; /* the quantization object; NULL where there is none */
    struct names overrides;    /* over its keys */
    struct err *e;
};

/* Of one matrix. */
struct parts {
    const struct tensor *weight, *scales, *biases; /* NULL where missing */
    struct str stem;                               /* X */
};

const struct json *hf_quantization(const struct hf *hf)
{
    const struct json *q = json_find(hf->config, "quantization");
    if (q) return q;
    q = json_find(hf->config, "quantization_config");
    return json_find(q, "quant_method") ? NULL : q; /* that key is other tools' */
}

/* Bytes of each integer of a tensor of packed ones; 0 of any other tensor. */
static uint64_t integer_bytes(const struct tensor *t)
{
    return t->type == QTYPE_COUNT ? t->bytes / (t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3]) : 0;
}

static const char *kind_of(const struct tensor *t)
{
    return t->type != QTYPE_COUNT ? qtypes[t->type].name : integer_bytes(t) == 4 ? "u32" : "u8";
}

/* ---- what config.json says ------------------------------------------------------------------------------------ */

static struct str key_at(const void *ctx, size_t i)
{
    return ((const struct json *)ctx)->keys[i];
}

/* Entered from the end, so that the last of equal keys is found, as elsewhere. */
static int index_overrides(struct join *j, struct arena *scratch)
{
    if (!j->config) return 0;
    if (j->config->type != JSON_OBJECT)
        return fail(j->e, ERR_FORMAT, "%s: config.json: \"quantization\" is not an object", j->path);
    TRY(names_init(&j->overrides, scratch, j->config->n, key_at, j->config, j->e));
    for (size_t i = j->config->n; i-- > 0;) (void)names_enter(&j->overrides, i);
    return 0;
}

/* The object that holds for a matrix: its own or the folder's; NULL where it is said not to be quantised. */
static int entry_of(const struct join *j, struct str stem, const struct json **out)
{
    size_t i;
    *out = j->config;
    if (!names_find(&j->overrides, stem, &i)) return 0;
    const struct json *own = &j->config->v[i];
    if (own->type == JSON_OBJECT)
        *out = own;
    else if (own->type == JSON_FALSE)
        *out = NULL;
    else if (own->type != JSON_TRUE)
        return fail(j->e, ERR_FORMAT, "%s: config.json: quantization of \"%.*s\" is neither an object nor true or false",
                    j->path, STR_ARG(stem));
    return 0;
}

static int bad_scheme(const struct join *j, struct str stem, struct str mode, int64_t bits, int64_t group)
{
    return fail(
        j->e, ERR_UNSUPPORTED,
        "%s: config.json: quantization of \"%.*s\" is mode \"%.*s\", %lld bits, group_size %lld; Quern runs affine (2, 3, "
        "4, 5, 6 or 8 bits, groups of 32, 64 or 128), mxfp4 (4, 32), mxfp8 (8, 32) and nvfp4 (4, 16)",
        j->path, STR_ARG(stem), STR_ARG(mode), (long long)bits, (long long)group);
}

static int scheme_of(const struct join *j, struct str stem, const struct json *entry, struct scheme *out)
{
    struct str mode = STR("affine");
    if (!json_opt_str(entry, "mode", &mode))
        return fail(j->e, ERR_FORMAT, "%s: config.json: quantization of \"%.*s\": mode is not a string", j->path,
                    STR_ARG(stem));
    size_t first = 0, i;
    while (first < COUNT_OF(schemes) && !str_is(mode, schemes[first].mode)) first++;
    if (first == COUNT_OF(schemes)) return bad_scheme(j, stem, mode, 0, 0);
    int64_t bits = schemes[first].bits, group = schemes[first].group ? schemes[first].group : 64;
    if (!json_opt_i64(entry, "bits", INT64_MIN, INT64_MAX, &bits) ||
        !json_opt_i64(entry, "group_size", INT64_MIN, INT64_MAX, &group))
        return fail(j->e, ERR_FORMAT, "%s: config.json: quantization of \"%.*s\": bits or group_size is not a whole number",
                    j->path, STR_ARG(stem));
    for (i = first; i < COUNT_OF(schemes); i++)
        if (str_is(mode, schemes[i].mode) && schemes[i].bits == bits) break;
    if (i == COUNT_OF(schemes)) return bad_scheme(j, stem, mode, bits, group);
    bool fits = schemes[i].group ? group == schemes[i].group : group == 32 || group == 64 || group == 128;
    if (!fits) return bad_scheme(j, stem, mode, bits, group);
    *out = schemes[i];
    out->group = (uint32_t)group;
    return 0;
}

/* ---- one matrix ------------------------------------------------------------------------------------------------- */

static const struct tensor *find_part(const struct join *j, struct str stem, struct str suffix)
{
    char name[TENSOR_NAME_MAX + 16];
    size_t i;
    memcpy(name, stem.p, stem.n);
    memcpy(name + stem.n, suffix.p, suffix.n);
    return names_find(j->names, (struct str){name, stem.n + suffix.n}, &i) ? j->raw[i] : NULL;
}

/* Checks that scales or biases are of a type that the scheme has, and of the weight's shape but for the row length n. */
static int check_side(const struct join *j, const struct tensor *t, const struct tensor *weight, bool floats, uint64_t n)
{
    if (floats ? t->type == QTYPE_COUNT : integer_bytes(t) != 1)
        return fail(j->e, ERR_FORMAT, "%s: tensor \"%.*s\" is %s, expected %s", j->path, STR_ARG(t->name), kind_of(t),
                    floats ? "f32, f16 or bf16" : "u8");
    bool same = t->n_dims == weight->n_dims && t->ne[0] == n;
    for (size_t d = 1; d < TENSOR_DIMS; d++) same = same && t->ne[d] == weight->ne[d];
    if (!same)
        return fail(j->e, ERR_FORMAT,
                    "%s: tensor \"%.*s\" has %llu rows of %llu, expected %llu rows of %llu from its weight and group_size",
                    j->path, STR_ARG(t->name), (unsigned long long)(t->ne[1] * t->ne[2] * t->ne[3]),
                    (unsigned long long)t->ne[0], (unsigned long long)(weight->ne[1] * weight->ne[2] * weight->ne[3]),
                    (unsigned long long)n);
    return 0;
}

static int check_parts(const struct join *j, const struct parts *p, const struct scheme *s, uint64_t *in)
{
    const struct tensor *w = p->weight;
    const bool affine = qtypes[s->type].has_min;
    if (integer_bytes(w) != 4 || w->n_dims < 2)
        return fail(j->e, ERR_FORMAT, "%s: tensor \"%.*s\" is %s of %u dimensions, expected a matrix of u32, for it has scales",
                    j->path, STR_ARG(w->name), kind_of(w), w->n_dims);
    *in = w->ne[0] * 32 / s->bits; /* the words lie in a file: no overflow */
    if (w->ne[0] * 32 % s->bits || *in % s->group)
        return fail(j->e, ERR_FORMAT,
                    "%s: tensor \"%.*s\" has rows of %llu words, which are no whole number of groups of %u at %u "
                    "bits",
                    j->path, STR_ARG(w->name), (unsigned long long)w->ne[0], s->group, s->bits);
    TRY(check_side(j, p->scales, w, affine, *in / s->group));
    if (!p->biases != !affine)
        return fail(j->e, ERR_FORMAT, "%s: tensor \"%.*s.biases\" is %s, expected of mode %s", j->path, STR_ARG(p->stem),
                    affine ? "missing" : "there, which is not", s->mode);
    if (!affine) return 0;
    if (p->biases->type != p->scales->type)
        return fail(j->e, ERR_FORMAT, "%s: tensor \"%.*s\" is %s, expected %s as its scales are", j->path,
                    STR_ARG(p->biases->name), kind_of(p->biases), kind_of(p->scales));
    return check_side(j, p->biases, w, true, *in / s->group);
}

static int join_parts(const struct join *j, const struct parts *p, const struct tensor **out)
{
    struct joined {
        struct tensor t;
        struct qside side;
    } *made = arena_alloc(j->a, sizeof *made);
    const struct json *entry;
    struct scheme s = {0};
    uint64_t in = 0;
    if (!made) return fail_nomem(j->e, "tensor descriptions", sizeof *made);
    TRY(entry_of(j, p->stem, &entry));
    if (!entry)
        return fail(j->e, ERR_FORMAT,
                    "%s: tensor \"%.*s.scales\" is there, but config.json does not say how \"%.*s\" is quantised", j->path,
                    STR_ARG(p->stem), STR_ARG(p->stem));
    TRY(scheme_of(j, p->stem, entry, &s));
    TRY(check_parts(j, p, &s, &in));
    made->side = (struct qside){p->scales->data, p->biases ? p->biases->data : NULL, p->scales->type, s.group};
    made->t = *p->weight;
    made->t.type = s.type;
    made->t.ne[0] = in;
    made->t.bytes += p->scales->bytes + (p->biases ? p->biases->bytes : 0); /* parts of files don't overlap */
    made->t.side = &made->side;
    *out = &made->t;
    return 0;
}

/* ---- all of them ------------------------------------------------------------------------------------------------- */

static bool split_name(struct str name, struct str suffix, struct str *stem)
{
    if (!str_ends(name, suffix)) return false;
    *stem = (struct str){name.p, name.n - suffix.n};
    return true;
}

/* What stands for t in the new list: t itself, the tensor that it becomes part of, or NULL where another one does it. */
static int replace(const struct join *j, const struct tensor *t, const struct tensor **out)
{
    struct parts p = {.weight = t};
    *out = t;
    if (!j->config && t->type != QTYPE_COUNT) return 0;
    if (split_name(t->name, STR(".weight"), &p.stem)) {
        p.scales = find_part(j, p.stem, STR(".scales"));
        p.biases = find_part(j, p.stem, STR(".biases"));
        if (p.scales) return join_parts(j, &p, out);
    } else if (split_name(t->name, STR(".scales"), &p.stem) || split_name(t->name, STR(".biases"), &p.stem)) {
        *out = NULL;
        if (!find_part(j, p.stem, STR(".weight")))
            return fail(j->e, ERR_FORMAT, "%s: tensor \"%.*s\" belongs to \"%.*s.weight\", which is missing", j->path,
                        STR_ARG(t->name), STR_ARG(p.stem));
        if (!find_part(j, p.stem, STR(".scales")))
            return fail(j->e, ERR_FORMAT, "%s: tensor \"%.*s\" has no \"%.*s.scales\" beside it", j->path, STR_ARG(t->name),
                        STR_ARG(p.stem));
        return 0;
    }
    if (t->type == QTYPE_COUNT)
        return fail(j->e, ERR_FORMAT, "%s: tensor \"%.*s\" is %s, but there is no \"%.*s.scales\" to make weights of it",
                    j->path, STR_ARG(t->name), kind_of(t), STR_ARG(p.stem.n ? p.stem : t->name));
    return 0;
}

int hf_join(const struct hf *hf, const char *path, const struct names *names, struct arena *a,
            const struct tensor *const *tensors, size_t n, const struct tensor ***out, size_t *n_out, struct err *e)
{
    struct arena scratch = {.limit = a->limit};
    struct join j = {.path = path, .a = a, .names = names, .raw = tensors, .config = hf_quantization(hf), .e = e};
    const struct tensor **list = arena_array(a, size_max(n, 1), sizeof *list);
    int rc = list ? index_overrides(&j, &scratch) : fail_nomem(e, "list of tensors", n * sizeof *list);
    *n_out = 0;
    for (size_t i = 0; rc == 0 && i < n; i++) {
        rc = replace(&j, tensors[i], &list[*n_out]);
        *n_out += rc == 0 && list[*n_out];
    }
    arena_fini(&scratch);
    *out = list;
    return rc;
}
