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

static float f32_at(const uint8_t *row, size_t i)
{
    uint32_t bits = load_u32(row + 4 * i);
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
static float f16_at(const uint8_t *row, size_t i)
{
    return f16_to_f32(load_u16(row + 2 * i));
}
static float bf16_at(const uint8_t *row, size_t i)
{
    return bf16_to_f32(load_u16(row + 2 * i));
}

static float dot_float(const uint8_t *row, float (*at)(const uint8_t *, size_t), const float *x, size_t k)
{
    float lane[LANES] = {0};
    for (size_t i = 0; i < k; i += LANES)
        for (size_t l = 0; l < LANES; l++)
            lane[l] = i + l < k ? fmaf(at(row, i + l), x[i + l], lane[l]) : fmaf(0.0f, 0.0f, lane[l]);
    return fold(lane);
}

static void mm_float(const struct mm *a, size_t r0, size_t r1, float (*at)(const uint8_t *, size_t))
{
    for (size_t m = 0; m < a->n_rows; m++)
        for (size_t r = r0; r < r1; r++)
            a->dst[m * a->dst_stride + r] = dot_float(a->w + r * a->row_bytes, at, a->act.f + m * a->act.stride, a->k);
}
static void mm_f32_scalar(const struct mm *a, size_t r0, size_t r1)
{
    mm_float(a, r0, r1, f32_at);
}
static void mm_f16_scalar(const struct mm *a, size_t r0, size_t r1)
{
    mm_float(a, r0, r1, f16_at);
}
static void mm_bf16_scalar(const struct mm *a, size_t r0, size_t r1)
{
    mm_float(a, r0, r1, bf16_at);
}

/* Q8_0: 34 bytes for 32 weights, f16 scale, then 32 int8. */
static float dot_q8_0(const uint8_t *row, const int8_t *q, const float *d, size_t k)
{
    float acc = 0.0f;
    for (size_t b = 0; b < k / ACT_BLOCK; b++, row += 34, q += ACT_BLOCK) {
        int32_t sum = 0;
        for (size_t i = 0; i < ACT_BLOCK; i++) sum += (int8_t)row[2 + i] * q[i];
        acc = fmaf(f16_to_f32(load_u16(row)) * d[b], (float)sum, acc);
    }
    return acc;
}

static void mm_q8_0_scalar(const struct mm *a, size_t r0, size_t r1)
{
    for (size_t m = 0; m < a->n_rows; m++)
        for (size_t r = r0; r < r1; r++)
            a->dst[m * a->dst_stride + r] =
                dot_q8_0(a->w + r * a->row_bytes, a->act.q + m * a->k, a->act.d + m * (a->k / ACT_BLOCK), a->k);
}

static void quant_act_scalar(const float *x, size_t n, int8_t *q, float *d, int32_t *s)
{
    for (size_t b = 0; b < n / ACT_BLOCK; b++, x += ACT_BLOCK, q += ACT_BLOCK) {
        uint32_t top = 0;
        for (size_t i = 0; i < ACT_BLOCK; i++) {
            uint32_t bits = load_u32(x + i) & 0x7fffffffu;
            if (bits > top) top = bits;
        }
        float amax;
        memcpy(&amax, &top, sizeof amax);
        bool finite = top < 0x7f800000u;
        float id = finite && amax >= 0x1p-100f ? 127.0f / amax : 0.0f;
        d[b] = !finite ? NAN : amax >= 0x1p-100f ? amax / 127.0f : 0.0f;
        int32_t sum = 0;
        for (size_t i = 0; i < ACT_BLOCK; i++) {
            float v = id != 0.0f ? x[i] * id : 0.0f;
            q[i] = (int8_t)((v + 0x1.8p+23f) - 0x1.8p+23f); /* to nearest even */
            sum += q[i];
        }
        s[b] = sum;
    }
}

/* ---- elementwise --------------------------------------------------------------------------------------- */

static void rms_norm_scalar(const float *x, const float *w, float eps, size_t n, float *y)
{
    float lane[LANES] = {0};
    for (size_t i = 0; i < n; i += LANES)
        for (size_t l = 0; l < LANES; l++) lane[l] = i + l < n ? fmaf(x[i + l], x[i + l], lane[l]) : fmaf(0.0f, 0.0f, lane[l]);
    float r = 1.0f / sqrtf(fold(lane) / (float)n + eps);
    for (size_t i = 0; i < n; i++) y[i] = (x[i] * r) * w[i];
}

static void swiglu_scalar(const float *g, const float *u, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++) y[i] = (g[i] / (1.0f + num_exp(-g[i]))) * u[i];
}

static void add_scalar(const float *a, const float *b, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++) y[i] = a[i] + b[i];
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

/* The larger of two; the first where they are equal or one is NaN. */
static float max_f32(float a, float b)
{
    return b > a ? b : a;
}

static void attn_row(const struct attn_tile *a, size_t row, float (*at)(const uint8_t *, size_t))
{
    const uint8_t *k = a->k, *v = a->v;
    const float *q = a->q + row * a->head_dim;
    float *o = a->o + row * a->v_dim;
    size_t n = a->valid[row];
    float s[ATTN_TILE];
    float top = a->m[row];
    for (size_t j = 0; j < n; j++) {
        s[j] = 0.0f;
        for (size_t d = 0; d < a->head_dim; d++) s[j] = fmaf(q[d], at(k, d * ATTN_TILE + j), s[j]);
        top = max_f32(top, s[j]);
    }
    float c = num_exp(a->m[row] - top);
    float lane[LANES] = {0};
    for (size_t j = 0; j < n; j++) {
        s[j] = num_exp(s[j] - top);
        lane[j % LANES] = j < LANES ? s[j] : lane[j % LANES] + s[j];
    }
    a->l[row] = fmaf(a->l[row], c, fold(lane));
    a->m[row] = top;
    for (size_t d = 0; d < a->v_dim; d++) {
        float acc = o[d] * c;
        for (size_t j = 0; j < n; j++) acc = fmaf(s[j], at(v, j * a->v_dim + d), acc);
        o[d] = acc;
    }
}

static void attn_tile_f32_scalar(const struct attn_tile *a)
{
    for (size_t r = 0; r < a->n_rows; r++)
        if (a->valid[r] > 0) attn_row(a, r, f32_at);
}

static void attn_tile_f16_scalar(const struct attn_tile *a)
{
    for (size_t r = 0; r < a->n_rows; r++)
        if (a->valid[r] > 0) attn_row(a, r, f16_at);
}

static void attn_merge_scalar(float *m, float *l, float *o, float m2, float l2, const float *o2, size_t n)
{
    float t = max_f32(*m, m2);
    float a = num_exp(*m - t), b = num_exp(m2 - t);
    *l = fmaf(*l, a, l2 * b);
    for (size_t d = 0; d < n; d++) o[d] = fmaf(o[d], a, o2[d] * b);
    *m = t;
}

void kernels_init_scalar(struct kernels *k)
{
    *k = (struct kernels){
        .level = "scalar",
        .act = {[QTYPE_F32] = ACT_F32, [QTYPE_F16] = ACT_F32, [QTYPE_BF16] = ACT_F32, [QTYPE_Q8_0] = ACT_Q8},
        .mm = {[QTYPE_F32] = mm_f32_scalar,
               [QTYPE_F16] = mm_f16_scalar,
               [QTYPE_BF16] = mm_bf16_scalar,
               [QTYPE_Q8_0] = mm_q8_0_scalar},
        .quant_act = quant_act_scalar,
        .rms_norm = rms_norm_scalar,
        .swiglu = swiglu_scalar,
        .add = add_scalar,
        .rope = rope_scalar,
        .attn_tile = {[QTYPE_F32] = attn_tile_f32_scalar, [QTYPE_F16] = attn_tile_f16_scalar},
        .attn_merge = attn_merge_scalar,
        .exp = exp_scalar,
    };
    for (size_t t = 0; t < QTYPE_COUNT; t++) {
        k->to_float[t] = qtypes[t].to_float;
        k->from_float[t] = qtypes[t].from_float;
    }
}
