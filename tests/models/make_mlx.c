/* make_mlx: an MLX folder out of a Hugging Face one, for tests; and the folder of the same weights in F32, which says what the
 * MLX folder must compute. Both are written by formulas of their own, and share no code with what reads them.
 *
 * usage: make_mlx [--bits N] [--group N] [--mode M] [--scales f32|f16|bf16] [--own TENSOR=BITS,GROUP,MODE | TENSOR=false]...
 *                 IN OUT [F32_OUT]
 *
 * --own: what a matrix has in place of the defaults (64, 4 and affine), by its name without ".weight". */
#include <float.h>
#include <math.h>

#include "folder_files.h"

enum mode { AFFINE, MXFP4, MXFP8, NVFP4, MODES };
static const char *const mode_names[MODES] = {"affine", "mxfp4", "mxfp8", "nvfp4"};

struct scheme {
    enum mode mode;
    unsigned bits, group;
};

struct own {
    struct str name;
    bool plain; /* not quantised */
    struct scheme s;
};

struct job {
    struct scheme all;
    enum qtype scale_type;
    struct own own[16];
    size_t n_own;
};

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

/* The values of e2m1 and e4m3 without a sign, in rising order of their bits. */
static double value_of(unsigned bits, unsigned b)
{
    if (bits == 4) return b < 2 ? b * 0.5 : ldexp(2 + (b & 1), (int)(b >> 1) - 2);
    return b < 8 ? ldexp(b, -9) : ldexp(8 + (b & 7), (int)(b >> 3) - 10);
}

/* The code of the value nearest to x; bits 4: e2m1, 8: e4m3. */
static unsigned code_of(unsigned bits, double x)
{
    const unsigned n = bits == 4 ? 8 : 127; /* the last of e4m3 is a NaN */
    unsigned best = 0;
    for (unsigned b = 1; b < n; b++)
        if (fabs(value_of(bits, b) - fabs(x)) < fabs(value_of(bits, best) - fabs(x))) best = b;
    return best | (x < 0 ? n + (bits == 8) : 0);
}

static double decode(unsigned bits, unsigned code)
{
    const unsigned sign = 1u << (bits - 1);
    return code & sign ? -value_of(bits, code & (sign - 1)) : value_of(bits, code);
}

static float as_stored(enum qtype t, float x)
{
    return t == QTYPE_F16 ? f16_to_f32(f32_to_f16(x)) : t == QTYPE_BF16 ? bf16_to_f32(f32_to_bf16(x)) : x;
}

/* ---- one group of a row ------------------------------------------------------------------------------------------- */

struct packed {
    uint8_t *words, *scales, *biases;
    float *exact; /* what the weights have become */
};

static void put_bits(uint8_t *p, size_t at, unsigned n, unsigned v)
{
    for (unsigned i = 0; i < n; i++) p[(at + i) / 8] |= (uint8_t)((v >> i & 1u) << (at + i) % 8);
}

static void put_side(enum qtype t, uint8_t *p, size_t i, float x)
{
    qtypes[t].quantize(&x, NULL, p + i * qtypes[t].block_bytes, 1);
}

/* Weights at .. at + group - 1 of the matrix are x. */
static void pack_affine(const struct job *j, const struct scheme *s, const float *x, size_t at, struct packed *out)
{
    float low = FLT_MAX, high = -FLT_MAX;
    const unsigned top = (1u << s->bits) - 1;
    for (size_t i = 0; i < s->group; i++) {
        low = fminf(low, x[i]);
        high = fmaxf(high, x[i]);
    }
    float bias = as_stored(j->scale_type, low), scale = as_stored(j->scale_type, (high - low) / (float)top);
    for (size_t i = 0; i < s->group; i++) {
        float q = scale > 0 ? rintf((x[i] - bias) / scale) : 0;
        q = fminf(fmaxf(q, 0), (float)top);
        put_bits(out->words, (at + i) * s->bits, s->bits, (unsigned)q);
        out->exact[at + i] = scale * q + bias;
    }
    put_side(j->scale_type, out->scales, at / s->group, scale);
    put_side(j->scale_type, out->biases, at / s->group, bias);
}

static void pack_micro(const struct scheme *s, const float *x, size_t at, struct packed *out)
{
    float top = 0;
    int exp;
    uint8_t byte;
    double scale;
    for (size_t i = 0; i < s->group; i++) top = fmaxf(top, fabsf(x[i]));
    if (s->mode == NVFP4) {
        byte = (uint8_t)code_of(8, (double)top / 6);
        scale = decode(8, byte);
    } else {
        frexp((double)top / (s->bits == 4 ? 6 : 448), &exp);
        byte = (uint8_t)(top > 0 ? exp + 127 : 0);
        scale = ldexp(1, byte - 127);
    }
    out->scales[at / s->group] = byte;
    for (size_t i = 0; i < s->group; i++) {
        unsigned code = scale > 0 ? code_of(s->bits, (double)x[i] / scale) : 0;
        put_bits(out->words, (at + i) * s->bits, s->bits, code);
        /* e2m1's -0 reads as +0, for Quern takes it as an integer; adding +0 does the same. */
        out->exact[at + i] = (float)(scale * decode(s->bits, code) + (s->bits == 4 ? 0.0 : -0.0));
    }
}

/* ---- tensors ------------------------------------------------------------------------------------------------------------ */

static struct str stem_of(const struct tensor *t)
{
    const struct str weight = STR(".weight");
    return str_ends(t->name, weight) ? (struct str){t->name.p, t->name.n - weight.n} : t->name;
}

/* How t is to be packed; false where it stays as it is. */
static bool scheme_of(const struct job *j, const struct tensor *t, struct scheme *s)
{
    *s = j->all;
    if (!str_ends(t->name, STR(".weight")) || t->n_dims < 2) return false;
    for (size_t i = 0; i < j->n_own; i++) {
        if (!str_eq(stem_of(t), j->own[i].name)) continue;
        *s = j->own[i].s;
        if (j->own[i].plain) return false;
    }
    return t->ne[0] % s->group == 0;
}

static void add_packed(const struct job *j, const struct scheme *s, const struct tensor *t, float *x, size_t n,
                       struct sink *mlx)
{
    struct arena a = {0};
    const size_t n_groups = n / s->group, n_words = n / 32 * s->bits;
    const size_t side = s->mode == AFFINE ? n_groups * qtypes[j->scale_type].block_bytes : n_groups;
    struct packed p = {arena_array(&a, n_words, 4), arena_alloc(&a, side), arena_alloc(&a, side), x};
    const char *dtype = s->mode == AFFINE ? dtype_of(j->scale_type) : "U8";
    if (!p.words || !p.scales || !p.biases) die("memory", "none");
    for (size_t at = 0; at < n; at += s->group) {
        if (s->mode == AFFINE)
            pack_affine(j, s, x + at, at, &p);
        else
            pack_micro(s, x + at, at, &p);
    }
    add(mlx, stem_of(t), ".weight", "U32", t, t->ne[0] / 32 * s->bits, p.words, n_words * 4);
    add(mlx, stem_of(t), ".scales", dtype, t, t->ne[0] / s->group, p.scales, side);
    if (s->mode == AFFINE) add(mlx, stem_of(t), ".biases", dtype, t, t->ne[0] / s->group, p.biases, side);
    arena_fini(&a);
}

static void add_tensor(const struct job *j, const struct tensor *t, struct sink *mlx, struct sink *exact)
{
    struct arena a = {0};
    struct scheme s;
    const size_t n = (size_t)(t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3]);
    float *x = arena_array(&a, n, sizeof *x);
    if (!x) die("memory", "none");
    qtype_to_float(t->type, t->data, x, n);
    if (scheme_of(j, t, &s))
        add_packed(j, &s, t, x, n, mlx);
    else
        add(mlx, t->name, "", dtype_of(t->type), t, t->ne[0], t->data, (size_t)t->bytes);
    add(exact, t->name, "", "F32", t, t->ne[0], x, n * sizeof *x);
    arena_fini(&a);
}

/* ---- the other files ---------------------------------------------------------------------------------------------------- */

static void put_scheme(struct buf *b, const struct scheme *s)
{
    need(buf_printf(b, "\"group_size\":%u,\"bits\":%u", s->group, s->bits), "memory", NULL);
    if (s->mode != AFFINE) need(buf_printf(b, ",\"mode\":\"%s\"", mode_names[s->mode]), "memory", NULL);
}

/* config.json with "quantization", and once more under the name that other tools look for, as mlx-lm writes it. */
static void save_config(const struct job *j, struct str config, const char *dir)
{
    static const char *const names[] = {"quantization", "quantization_config"};
    struct buf b = {0};
    for (size_t k = 0; k < COUNT_OF(names); k++) {
        int rc = buf_printf(&b, "%s\"%s\":{", k ? "," : "{", names[k]);
        put_scheme(&b, &j->all);
        for (size_t i = 0; rc == 0 && i < j->n_own; i++) {
            rc = buf_printf(&b, ",\"%.*s\":%s", STR_ARG(j->own[i].name), j->own[i].plain ? "false" : "{");
            if (j->own[i].plain) continue;
            put_scheme(&b, &j->own[i].s);
            rc = buf_c(&b, '}');
        }
        need(rc < 0 ? rc : buf_c(&b, '}'), "memory", NULL);
    }
    const char *brace = memchr(config.p, '{', config.n);
    if (!brace) die("config.json", "no object");
    const struct str parts[] = {buf_view(&b), STR(","), {brace + 1, config.n - (size_t)(brace + 1 - config.p)}};
    save(parts, COUNT_OF(parts), dir, "config.json");
    buf_fini(&b);
}

static void save_folder(const struct job *j, const char *from, const char *dir, struct sink *weights)
{
    struct arena a = {0};
    save_copies(from, dir, weights);
    if (j) save_config(j, slurp(&a, from, "config.json"), dir);
    arena_fini(&a);
}

/* ---- arguments ---------------------------------------------------------------------------------------------------------- */

static enum mode mode_of(struct str name)
{
    for (unsigned m = 0; m < MODES; m++)
        if (str_is(name, mode_names[m])) return (enum mode)m;
    die("no such mode", name.p);
}

static unsigned number_of(struct str text)
{
    uint64_t v;
    if (!str_u64(text, &v) || v == 0 || v > 1024) die("no such number", text.p);
    return (unsigned)v;
}

static struct str until(struct str *text, char c)
{
    const char *at = memchr(text->p, c, text->n);
    struct str head = {text->p, at ? (size_t)(at - text->p) : text->n};
    size_t skip = at ? head.n + 1 : head.n;
    *text = (struct str){text->p + skip, text->n - skip};
    return head;
}

static struct own own_of(const char *arg)
{
    struct str text = str_of(arg);
    struct own own = {.name = until(&text, '='), .plain = str_is(text, "false")};
    if (own.plain) return own;
    own.s.bits = number_of(until(&text, ','));
    own.s.group = number_of(until(&text, ','));
    own.s.mode = mode_of(text);
    return own;
}

static void parse_option(struct job *j, const char *name, const char *value)
{
    if (strcmp(name, "--bits") == 0)
        j->all.bits = number_of(str_of(value));
    else if (strcmp(name, "--group") == 0)
        j->all.group = number_of(str_of(value));
    else if (strcmp(name, "--mode") == 0)
        j->all.mode = mode_of(str_of(value));
    else if (strcmp(name, "--scales") == 0 && qtype_by_name(str_of(value), &j->scale_type))
        return;
    else if (strcmp(name, "--own") == 0 && j->n_own < COUNT_OF(j->own))
        j->own[j->n_own++] = own_of(value);
    else
        die("unknown option", name);
}

int main(int argc, char **argv)
{
    struct job j = {.all = {AFFINE, 4, 64}, .scale_type = QTYPE_F16};
    struct sink mlx = {0}, exact = {0};
    struct files *f;
    struct err e = {0};
    int i = 1;
    for (; i + 1 < argc && argv[i][0] == '-'; i += 2) parse_option(&j, argv[i], argv[i + 1]);
    if (argc - i != 2 && argc - i != 3) die("usage", "make_mlx [OPTIONS] IN OUT [F32_OUT]");
    need(files_open(argv[i], &f, &e), argv[i], &e);
    for (size_t k = 0; k < files_n_tensors(f); k++) add_tensor(&j, files_tensor(f, k), &mlx, &exact);
    files_close(&f);
    save_folder(&j, argv[i], argv[i + 1], &mlx);
    if (argc - i == 3) save_folder(NULL, argv[i], argv[i + 2], &exact);
    buf_fini(&exact.header);
    buf_fini(&exact.data);
    return 0;
}
