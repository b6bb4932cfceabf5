/* scalar: the specification. Each function is docs/arithmetic.md in C, written to be read beside it, not to be fast; the other
 * kernels are right when they give the same bits. Compile without contraction (-ffp-contract=off). */
#include <math.h>

#include "kernel/kernel.h"

#define LANES 16

static float fold(const float lane[LANES])
{
    float a[8];
    for (int i = 0; i < 8; i++) a[i] = lane[i] + lane[i + 8];
    for (int i = 0; i < 4; i++) a[i] = a[i] + a[i + 4];
    for (int i = 0; i < 2; i++) a[i] = a[i] + a[i + 2];
    return a[0] + a[1];
}

/* ---- matrix product -------------------------------------------------------------------------------- */

enum { PIECE = 256 }; /* weights widened at a time; a multiple of every block and of LANES */

static float dot_float(enum qtype t, const struct qrow *row, const float *x, size_t k)
{
    float lane[LANES] = {0}, w[PIECE];
    for (size_t from = 0; from < k; from += PIECE) {
        size_t n = size_min(PIECE, k - from);
        qtypes[t].row_to_float(row, from, w, n);
        for (size_t i = 0; i < n; i += LANES)
            for (size_t l = 0; l < LANES; l++)
                lane[l] = i + l < n ? fmaf(w[i + l], x[from + i + l], lane[l]) : fmaf(0.0f, 0.0f, lane[l]);
    }
    return fold(lane);
}

/* One chain for the scaled sums, and one for the minima. */
static float dot_32(enum qtype t, const struct qrow *row, const int8_t *q, const float *d, const int16_t *s, size_t k)
{
    const struct qtype_info *info = &qtypes[t];
    struct qblock w;
    float acc = 0.0f, min = 0.0f;
    for (size_t b = 0; b < k / ACT_BLOCK; b++, q += ACT_BLOCK) {
        int32_t sum = 0;
        info->unpack(row, b, &w);
        for (size_t i = 0; i < ACT_BLOCK; i++) sum += (w.u[i] - info->off) * q[i];
        acc = fmaf(w.d * d[b], (float)sum, acc);
        if (info->has_min) min = fmaf(w.m * d[b], (float)s[b], min);
    }
    return info->has_min ? acc + min : acc;
}

static float dot_256(enum qtype t, const struct qrow *row, const int8_t *q, const float *d, const int16_t *s, size_t k)
{
    const struct qtype_info *info = &qtypes[t];
    struct qblock w;
    float acc = 0.0f, min = 0.0f;
    for (size_t b = 0; b < k / QSUPER; b++, q += QSUPER, s += QSUPER / QSUB) {
        int32_t sum = 0, min_sum = 0;
        info->unpack(row, b, &w);
        for (size_t i = 0; i < QSUPER; i++) sum += w.sc[i / QSUB] * (w.u[i] - info->off) * q[i];
        acc = fmaf(w.d * d[b], (float)sum, acc);
        if (!info->has_min) continue;
        for (size_t i = 0; i < QSUPER / QSUB; i++) min_sum += w.mn[i] * s[i];
        min = fmaf(w.m * d[b], (float)min_sum, min);
    }
    return info->has_min ? acc - min : acc;
}

static void mm_scalar(const struct mm *a, size_t r0, size_t r1)
{
    const enum qarith arith = qtypes[a->type].arith;
    for (size_t m = 0; m < a->n_rows; m++)
        for (size_t r = r0; r < r1; r++) {
            const struct qrow row = mm_row(a, r);
            const int8_t *q = a->act.q + m * a->k;
            float *y = &a->dst[m * a->dst_stride + r];
            if (arith == ARITH_FLOAT)
                *y = dot_float(a->type, &row, a->act.f + m * a->act.stride, a->k);
            else if (arith == ARITH_32)
                *y = dot_32(a->type, &row, q, a->act.d + m * (a->k / ACT_BLOCK), a->act.s + m * (a->k / ACT_BLOCK), a->k);
            else
                *y = dot_256(a->type, &row, q, a->act.d + m * (a->k / QSUPER), a->act.s + m * (a->k / QSUB), a->k);
        }
}

/* One block of n activations that share a scale; a sum for each n_sum of them. */
static void quant_block(const float *x, size_t n, size_t n_sum, int8_t *q, float *d, int16_t *s)
{
    uint32_t top = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = load_u32(x + i) & 0x7fffffffu;
        if (bits > top) top = bits;
    }
    float amax;
    memcpy(&amax, &top, sizeof amax);
    bool finite = top < 0x7f800000u;
    float id = finite && amax >= 0x1p-100f ? 127.0f / amax : 0.0f;
    *d = !finite ? NAN : amax >= 0x1p-100f ? amax / 127.0f : 0.0f;
    for (size_t i = 0; i < n; i++) {
        float v = id != 0.0f ? x[i] * id : 0.0f;
        q[i] = (int8_t)((v + 0x1.8p+23f) - 0x1.8p+23f); /* to nearest even */
        s[i / n_sum] = (int16_t)(i % n_sum ? s[i / n_sum] + q[i] : q[i]);
    }
}

static void quant_act_32_scalar(const float *x, size_t n, int8_t *q, float *d, int16_t *s)
{
    for (size_t i = 0; i < n; i += ACT_BLOCK) quant_block(x + i, ACT_BLOCK, ACT_BLOCK, q + i, d++, s++);
}

static void quant_act_256_scalar(const float *x, size_t n, int8_t *q, float *d, int16_t *s)
{
    for (size_t i = 0; i < n; i += QSUPER) quant_block(x + i, QSUPER, QSUB, q + i, d++, s + i / QSUB);
}

/* ---- elementwise --------------------------------------------------------------------------------------- */

/* Sum of the squares of x - mean. */
static float sum_of_squares(const float *x, float mean, size_t n)
{
    float lane[LANES] = {0};
    for (size_t i = 0; i < n; i += LANES)
        for (size_t l = 0; l < LANES; l++) {
            float d = i + l < n ? x[i + l] - mean : 0.0f;
            lane[l] = fmaf(d, d, lane[l]);
        }
    return fold(lane);
}

static void rms_norm_scalar(const float *x, const float *w, float eps, size_t n, float *y)
{
    float r = 1.0f / sqrtf(sum_of_squares(x, 0.0f, n) / (float)n + eps);
    for (size_t i = 0; i < n; i++) y[i] = (x[i] * r) * w[i];
}

static void layer_norm_scalar(const float *x, const float *w, const float *b, float eps, size_t n, float *y)
{
    float lane[LANES] = {0};
    for (size_t i = 0; i < n; i++) lane[i % LANES] = lane[i % LANES] + x[i];
    float mean = fold(lane) / (float)n;
    float r = 1.0f / sqrtf(sum_of_squares(x, mean, n) / (float)n + eps);
    for (size_t i = 0; i < n; i++) {
        float d = (x[i] - mean) * r;
        y[i] = b ? fmaf(d, w[i], b[i]) : d * w[i];
    }
}

/* x * sigmoid(g). */
static float gated(float x, float g)
{
    return x / (1.0f + num_exp(-g));
}

/* The smaller of a and b, the larger: b where one is NaN. */
static float min_f32(float a, float b)
{
    return a < b ? a : b;
}
static float max_f32(float a, float b)
{
    return a > b ? a : b;
}

static float silu(float x)
{
    return gated(x, x);
}

static float relu(float x)
{
    return max_f32(0.0f, x);
}

static float relu2(float x)
{
    float r = max_f32(0.0f, x);
    return r * r;
}

/* The part of a normal distribution that lies above a, 0 <= a <= 16; the two forms of GELU are this and an approximation of it.
 * tail(a) / exp(-a^2 / 2) falls from a half to 0 like 1 / a; p / q interpolates it at the Chebyshev nodes of 1 / (1 + 0.33 a)
 * (relative error 7e-9). */
static float tail_normal(float a)
{
    float p = 0x1.099936p-8f;
    p = fmaf(p, a, 0x1.4988fp-5f);
    p = fmaf(p, a, 0x1.74dce4p-3f);
    p = fmaf(p, a, 0x1.bf3ef8p-2f);
    p = fmaf(p, a, 0.5f);
    float q = 0x1.4cdfc6p-7f;
    q = fmaf(q, a, 0x1.9d09e6p-4f);
    q = fmaf(q, a, 0x1.dd8e72p-2f);
    q = fmaf(q, a, 0x1.329d64p+0f);
    q = fmaf(q, a, 0x1.abe1aap+0f);
    q = fmaf(q, a, 1.0f);
    return num_exp(-0.5f * (a * a)) * (p / q);
}
static float tail_tanh(float a)
{
    return 1.0f / (1.0f + num_exp(a * fmaf(a * a, 0x1.2444f2p-4f, 0x1.988454p+0f)));
}

/* x times the part of the distribution below x: max(x, 0) - |x| tail(|x|). Tails beyond 16 are +0. */
static float gelu(float x)
{
    float a = min_f32(16.0f, fabsf(x));
    return fmaf(-a, tail_normal(a), max_f32(0.0f, x));
}
static float gelu_tanh(float x)
{
    float a = min_f32(16.0f, fabsf(x));
    return fmaf(-a, tail_tanh(a), max_f32(0.0f, x));
}

#define ACT(name)                                                                                    \
    static void act_##name##_scalar(const float *x, size_t n, float *y)                              \
    {                                                                                                \
        for (size_t i = 0; i < n; i++) y[i] = name(x[i]);                                            \
    }                                                                                                \
    static void glu_##name##_scalar(const float *g, const float *u, float limit, size_t n, float *y) \
    {                                                                                                \
        (void)limit;                                                                                 \
        for (size_t i = 0; i < n; i++) y[i] = name(g[i]) * u[i];                                     \
    }
ACT(silu)
ACT(gelu_tanh)
ACT(gelu)
ACT(relu2)
ACT(relu)

static void glu_clamp_scalar(const float *g, const float *u, float limit, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++) {
        float a = min_f32(limit, g[i]), b = max_f32(-limit, min_f32(limit, u[i]));
        y[i] = (b + 1.0f) * gated(a, 1.702f * a);
    }
}

static void gate_scalar(const float *x, const float *g, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++) y[i] = gated(x[i], g[i]);
}

static void scale_scalar(const float *x, float f, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++) y[i] = x[i] * f;
}

static float capped(float x, float cap)
{
    return cap * num_tanh(x / cap);
}

static void softcap_scalar(const float *x, float cap, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++) y[i] = capped(x[i], cap);
}

static void add_scalar(const float *a, const float *b, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++) y[i] = a[i] + b[i];
}

static void mul_scalar(const float *a, const float *b, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++) y[i] = a[i] * b[i];
}

static void exp_scalar(const float *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++) y[i] = num_exp(x[i]);
}

static void rope_scalar(float *x, const float *cos_t, const float *sin_t, size_t n_pairs, bool neox)
{
    for (size_t i = 0; i < n_pairs; i++) {
        float *p0 = neox ? x + i : x + 2 * i;
        float *p1 = neox ? x + i + n_pairs : x + 2 * i + 1;
        float x0 = *p0, x1 = *p1;
        *p0 = fmaf(x0, cos_t[i], -(x1 * sin_t[i]));
        *p1 = fmaf(x0, sin_t[i], x1 * cos_t[i]);
    }
}

/* ---- attention -------------------------------------------------------------------------------------------- */

static float score_floats(const struct attn_tile *a, size_t row, const float *key)
{
    const float *q = a->q + row * a->head_dim;
    float s = 0.0f;
    for (size_t d = 0; d < a->head_dim; d++) s = fmaf(q[d], key[d], s);
    return s;
}

/* The key's integers and their scales. */
static float score_integers(const struct attn_tile *a, size_t row, const float *key, const float *scale)
{
    const size_t blocks = attn_blocks(a->head_dim);
    const int8_t *q = a->quant.q + row * blocks * KV_BLOCK;
    const float *d = a->quant.d + row * blocks;
    float s = 0.0f;
    for (size_t b = 0; b < blocks; b++) {
        int32_t sum = 0;
        for (size_t i = b * KV_BLOCK; i < (b + 1) * KV_BLOCK; i++) sum += q[i] * (int32_t)key[i];
        s = fmaf(d[b] * scale[b], (float)sum, s);
    }
    return s;
}

static void attn_row(const struct attn_tile *a, size_t row)
{
    float *o = a->o + row * a->v_dim;
    const size_t from = attn_from(a, row), n = a->valid[row];
    float s[ATTN_TILE], x[ATTN_DIM_MAX], scale[ATTN_DIM_MAX / KV_BLOCK];
    float top = a->m[row];
    for (size_t j = from; j < n; j++) {
        attn_key(a->k_type, a->k, a->head_dim, j, x, scale);
        s[j] = attn_quantised(a->k_type) ? score_integers(a, row, x, scale) : score_floats(a, row, x);
        if (a->softcap != 0.0f) s[j] = capped(s[j], a->softcap);
        top = max_f32(s[j], top);
    }
    top += 0.0f; /* no -0: which of two equal zeros came first cannot show */
    float c = num_exp(a->m[row] - top);
    float lane[LANES] = {0};
    for (size_t j = from; j < n; j++) {
        s[j] = num_exp(s[j] - top);
        lane[j % LANES] = lane[j % LANES] + s[j];
    }
    a->l[row] = fmaf(a->l[row], c, fold(lane));
    a->m[row] = top;
    for (size_t d = 0; d < a->v_dim; d++) o[d] = o[d] * c;
    for (size_t j = from; j < n; j++) {
        attn_value(a->v_type, a->v, a->v_dim, j, x);
        for (size_t d = 0; d < a->v_dim; d++) o[d] = fmaf(s[j], x[d], o[d]);
    }
}

static void attn_tile_scalar(const struct attn_tile *a)
{
    for (size_t r = 0; r < a->n_rows; r++)
        if (a->valid[r] > 0) attn_row(a, r);
}

static void attn_merge_scalar(float *m, float *l, float *o, float m2, float l2, const float *o2, size_t n)
{
    float t = max_f32(m2, *m);
    float a = num_exp(*m - t), b = num_exp(m2 - t);
    *l = fmaf(*l, a, l2 * b);
    for (size_t d = 0; d < n; d++) o[d] = fmaf(o[d], a, o2[d] * b);
    *m = t;
}

/* ---- recurrent layers -------------------------------------------------------------------------------------- */

/* Inputs count from the first of `before`, so those that are kept begin at n_rows. None is overwritten before it has moved. */
void conv_keep(const struct conv *a)
{
    const size_t past = a->taps - 1;
    for (size_t i = 0; i < past; i++) {
        const size_t at = a->n_rows + i;
        const float *from = at < past ? a->before + at * a->stride : a->x + (at - past) * a->x_stride;
        memcpy(a->after + i * a->stride, from, a->n * sizeof *from);
    }
}

static float conv_sum(const struct conv *a, size_t row, size_t c)
{
    float sum = a->bias ? a->bias[c] : 0.0f;
    for (size_t i = 0; i < a->taps; i++) {
        const size_t at = row + i, past = a->taps - 1; /* the input, counted from the first of `before` */
        const float x = at < past ? a->before[at * a->stride + c] : a->x[(at - past) * a->x_stride + c];
        sum = fmaf(a->w[i * a->stride + c], x, sum);
    }
    return sum;
}

static void conv_scalar(const struct conv *a)
{
    for (size_t t = 0; t < a->n_rows; t++)
        for (size_t c = 0; c < a->n; c++) {
            const float y = conv_sum(a, t, c);
            a->y[t * a->y_stride + c] = a->silu ? y / (1.0f + num_exp(-y)) : y;
        }
    conv_keep(a);
}

/* One row: state [k_dim][DELTA_COLS] from `from` to `to`. */
static void delta_row(const struct delta *a, size_t t, const float *from, float *to)
{
    const float *q = a->q + t * a->qk_stride, *k = a->k + t * a->qk_stride;
    const float decay = a->decay[t * a->gate_stride], beta = a->beta[t * a->gate_stride];
    float lane[LANES] = {0};
    for (size_t i = 0; i < a->k_dim; i += LANES)
        for (size_t l = 0; l < LANES; l++)
            lane[l] = i + l < a->k_dim ? fmaf(k[i + l], q[i + l], lane[l]) : fmaf(0.0f, 0.0f, lane[l]);
    const float kq = fold(lane);
    for (size_t c = 0; c < DELTA_COLS; c++) {
        float known = 0.0f, seen = 0.0f;
        for (size_t d = 0; d < a->k_dim; d++) {
            known = fmaf(from[d * DELTA_COLS + c], k[d], known);
            seen = fmaf(from[d * DELTA_COLS + c], q[d], seen);
        }
        const float v = c < a->v_dim ? a->v[t * a->v_stride + c] : 0.0f;
        const float news = fmaf(-decay, known, v) * beta;
        if (c < a->v_dim) a->o[t * a->o_stride + c] = fmaf(news, kq, decay * seen);
        for (size_t d = 0; d < a->k_dim; d++) to[d * DELTA_COLS + c] = fmaf(k[d], news, from[d * DELTA_COLS + c] * decay);
    }
}

static void delta_scalar(const struct delta *a)
{
    for (size_t t = 0; t < a->n_rows; t++) delta_row(a, t, t == 0 ? a->before : a->after, a->after);
}

/* ---- weights as floats, floats as cache elements ------------------------------------------------------------- */

#define T(NAME, name, id, block_n, bytes, ARITH, off, min, W)                          \
    static void to_float_##NAME##_scalar(const struct qrow *row, float *dst, size_t n) \
    {                                                                                  \
        qtypes[QTYPE_##NAME].row_to_float(row, 0, dst, n);                             \
    }
#include "quant/types.def"
#undef T

#define FROM_FLOAT(NAME)                                                                     \
    static void from_float_##NAME##_scalar(const float *src, size_t n, void *q, uint16_t *d) \
    {                                                                                        \
        (void)d;                                                                             \
        qtypes[QTYPE_##NAME].quantize(src, NULL, q, n);                                      \
    }
FROM_FLOAT(F32)
FROM_FLOAT(F16)
FROM_FLOAT(BF16)

/* The smallest and the largest of n floats and of 0; false where one is infinite or NaN. */
static bool extremes(const float *x, size_t n, float *low, float *high)
{
    *low = *high = 0.0f;
    for (size_t i = 0; i < n; i++) {
        if ((load_u32(x + i) & 0x7f800000u) == 0x7f800000u) return false;
        *low = x[i] < *low ? x[i] : *low;
        *high = x[i] > *high ? x[i] : *high;
    }
    return true;
}

/* One block, of which n elements exist. */
static void kv_block(const struct kv_rule *rule, const float *x, size_t n, uint8_t q[KV_BLOCK], uint16_t *d)
{
    float low, high, id;
    bool finite = extremes(x, n, &low, &high);
    *d = kv_scale(rule, low, high, finite, &id);
    for (size_t i = 0; i < KV_BLOCK; i++) {
        float v = i < n && id != 0.0f ? ((x[i] * id) + 0x1.8p+23f) - 0x1.8p+23f : 0.0f; /* to nearest even */
        v = v < rule->bottom ? rule->bottom : v > rule->top ? rule->top : v;
        q[i] = (uint8_t)(int)(v + rule->off);
    }
}

static void kv_blocks(const struct kv_rule *rule, const float *x, size_t n, uint8_t *q, uint16_t *d)
{
    for (size_t b = 0; b < n; b += KV_BLOCK, d++) kv_block(rule, x + b, size_min(n - b, KV_BLOCK), q + b, d);
}

static void from_float_Q8_0_scalar(const float *src, size_t n, void *q, uint16_t *d)
{
    kv_blocks(&kv_q8_0, src, n, q, d);
}
static void from_float_Q4_0_scalar(const float *src, size_t n, void *q, uint16_t *d)
{
    kv_blocks(&kv_q4_0, src, n, q, d);
}

void kernels_init_scalar(struct kernels *k)
{
    *k = (struct kernels){
        .level = "scalar",
        .pack_unit = 4,
        .quant_act_32 = quant_act_32_scalar,
        .quant_act_256 = quant_act_256_scalar,
        .rms_norm = rms_norm_scalar,
        .layer_norm = layer_norm_scalar,
        .act = {[ACT_SILU] = act_silu_scalar,
                [ACT_GELU_TANH] = act_gelu_tanh_scalar,
                [ACT_GELU] = act_gelu_scalar,
                [ACT_RELU2] = act_relu2_scalar,
                [ACT_RELU] = act_relu_scalar},
        .glu = {[ACT_SILU] = glu_silu_scalar,
                [ACT_GELU_TANH] = glu_gelu_tanh_scalar,
                [ACT_GELU] = glu_gelu_scalar,
                [ACT_SWIGLU_CLAMP] = glu_clamp_scalar,
                [ACT_RELU2] = glu_relu2_scalar,
                [ACT_RELU] = glu_relu_scalar},
        .gate = gate_scalar,
        .scale = scale_scalar,
        .softcap = softcap_scalar,
        .add = add_scalar,
        .rope = rope_scalar,
        .to_float =
            {
#define T(NAME, name, id, block_n, bytes, ARITH, off, min, W) [QTYPE_##NAME] = to_float_##NAME##_scalar,
#include "quant/types.def"
#undef T
            },
        .from_float = {[QTYPE_F32] = from_float_F32_scalar,
                       [QTYPE_F16] = from_float_F16_scalar,
                       [QTYPE_BF16] = from_float_BF16_scalar,
                       [QTYPE_Q8_0] = from_float_Q8_0_scalar,
                       [QTYPE_Q4_0] = from_float_Q4_0_scalar},
        .attn_tile = attn_tile_scalar,
        .attn_merge = attn_merge_scalar,
        .mul = mul_scalar,
        .conv = conv_scalar,
        .delta = delta_scalar,
        .exp = exp_scalar,
    };
    for (size_t t = 0; t < QTYPE_COUNT; t++) {
        k->mm[t] = mm_scalar;
    }
    peak_init_scalar(k);
}
