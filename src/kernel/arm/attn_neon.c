/* attn_neon: one tile of 64 keys and values against some query rows.
 *
 * R = 1, 2 or 4 query rows share each load. Scores have positions in the lanes (a tile's keys have the position running
 * fastest), the weighted sum of values has the elements of a value there: both are chains of multiply-adds by a scalar, without
 * any horizontal sum but the one of l. Either way 16 accumulators grow at a time, 64 / R positions or elements of each row.
 *
 * An f16 tile is widened as it is loaded; where many query rows would widen it again and again, once into scratch, as tiles of
 * the other types always are. */
#include "kernel/arm/vec_neon.h"

/* Elements of a tile at p; f16 ones have no alignment that matters. */
typedef float32x4_t load4_fn(const uint8_t *p);
typedef float load1_fn(const uint8_t *p);

static inline float32x4_t load4_f32(const uint8_t *p)
{
    return vreinterpretq_f32_u8(vld1q_u8(p));
}
static inline float32x4_t load4_f16(const uint8_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}
static inline float load1_f32(const uint8_t *p)
{
    float f;
    memcpy(&f, p, sizeof f);
    return f;
}
static inline float load1_f16(const uint8_t *p)
{
    return f16_to_f32(load_u16(p));
}

/* s[i][j] = the chain over d of q[i][d] * k[d][j], for all positions below n and, as they are in the tile, some more. */
TILE_INLINE void scores(const uint8_t *k, const float *q, size_t head_dim, size_t n, float s[][ATTN_TILE], load4_fn *load4,
                        const size_t size, const size_t R)
{
    const size_t V = 16 / R;
    for (size_t p = 0; p < n; p += 4 * V) {
        float32x4_t acc[16];
        UNROLL for (size_t o = 0; o < 16; o++) acc[o] = vdupq_n_f32(0.0f);
        const uint8_t *column = k + p * size;
        for (size_t d = 0; d < head_dim; d++, column += ATTN_TILE * size) {
            UNROLL for (size_t v = 0; v < V; v++)
            {
                float32x4_t k4 = load4(column + 4 * v * size);
                UNROLL for (size_t i = 0; i < R; i++) acc[i * V + v] = vfmaq_n_f32(acc[i * V + v], k4, q[i * head_dim + d]);
            }
        }
        UNROLL for (size_t i = 0; i < R; i++)
        {
            UNROLL for (size_t v = 0; v < V; v++) vst1q_f32(s[i] + p + 4 * v, acc[i * V + v]);
        }
    }
}

/* The largest of m and s[0..63], never -0. vmaxnm passes over NaN. */
static float row_max(const float *s, float m)
{
    float32x4_t max = vld1q_f32(s);
    for (size_t j = 4; j < ATTN_TILE; j += 4) max = vmaxnmq_f32(max, vld1q_f32(s + j));
    float top = vmaxnmvq_f32(max);
    return (top > m ? top : m) + 0.0f;
}

static void cap_scores(float *s, size_t n, float cap)
{
    for (size_t j = 0; j < n; j += VL) v_store(s + j, v_capped(v_load(s + j), v_set1(cap)));
}

/* Turns the scores of positions first..end-1 into their weights p, updates m and l, and returns the factor c of what was summed
 * before. Positions that are not visible count as -inf: their weight is +0, or NaN where that of every other is NaN too. */
static float softmax(float s[ATTN_TILE], size_t first, size_t end, float *m, float *l)
{
    for (size_t j = 0; j < first; j++) s[j] = -INFINITY;
    for (size_t j = end; j < ATTN_TILE; j++) s[j] = -INFINITY;
    float top = row_max(s, *m);
    float c = num_exp(*m - top);
    struct lanes sum;
    for (size_t j = 0; j < ATTN_TILE; j += LANES) {
        for (size_t v = 0; v < 4; v++) {
            float32x4_t p = v_exp_falling(vsubq_f32(vld1q_f32(s + j + 4 * v), vdupq_n_f32(top)));
            vst1q_f32(s + j + 4 * v, p);
            sum.v[v] = j == 0 ? p : vaddq_f32(sum.v[v], p);
        }
    }
    *l = fmaf(*l, c, lanes_fold(sum));
    *m = top;
    return c;
}

/* o[i][e] = o[i][e] * c[i], then += p[i][j] * v[j][e] for begin <= j < end in order. */
struct values {
    const uint8_t *v; /* [ATTN_TILE][dim] */
    size_t dim, begin, end;
    const float (*p)[ATTN_TILE], *c; /* per query row */
    float *o;                        /* [R][dim] */
};

/* Elements e..e+4V-1. */
TILE_INLINE void values_strip(const struct values *w, size_t e, load4_fn *load4, const size_t size, const size_t R,
                              const size_t V)
{
    float32x4_t acc[16];
    UNROLL for (size_t i = 0; i < R; i++)
    {
        UNROLL for (size_t x = 0; x < V; x++) acc[i * V + x] = vmulq_n_f32(vld1q_f32(w->o + i * w->dim + e + 4 * x), w->c[i]);
    }
    const uint8_t *v = w->v + (w->begin * w->dim + e) * size;
    for (size_t j = w->begin; j < w->end; j++, v += w->dim * size) {
        UNROLL for (size_t x = 0; x < V; x++)
        {
            float32x4_t v4 = load4(v + 4 * x * size);
            UNROLL for (size_t i = 0; i < R; i++) acc[i * V + x] = vfmaq_n_f32(acc[i * V + x], v4, w->p[i][j]);
        }
    }
    UNROLL for (size_t i = 0; i < R; i++)
    {
        UNROLL for (size_t x = 0; x < V; x++) vst1q_f32(w->o + i * w->dim + e + 4 * x, acc[i * V + x]);
    }
}

TILE_INLINE void values_rows(const struct values *w, load4_fn *load4, load1_fn *load1, const size_t size, const size_t R)
{
    size_t e = 0;
    for (; e + 64 / R <= w->dim; e += 64 / R) values_strip(w, e, load4, size, R, 16 / R);
    if (R < 4)
        for (; e + 16 <= w->dim; e += 16) values_strip(w, e, load4, size, R, 4);
    for (; e + 4 <= w->dim; e += 4) values_strip(w, e, load4, size, R, 1);
    for (; e < w->dim; e++) {
        for (size_t i = 0; i < R; i++) {
            float *o = w->o + i * w->dim + e;
            *o *= w->c[i];
            for (size_t j = w->begin; j < w->end; j++) *o = fmaf(w->p[i][j], load1(w->v + (j * w->dim + e) * size), *o);
        }
    }
}

/* Of one cache type that is read as it is, for 1, 2 and 4 query rows. */
struct attn_type {
    void (*scores[3])(const uint8_t *k, const float *q, size_t head_dim, size_t n, float s[][ATTN_TILE]);
    void (*values[3])(const struct values *w);
};
#define SCORES(type, size, R)                                                                                          \
    static void scores_##type##_##R(const uint8_t *k, const float *q, size_t head_dim, size_t n, float s[][ATTN_TILE]) \
    {                                                                                                                  \
        scores(k, q, head_dim, n, s, load4_##type, size, R);                                                           \
    }
#define VALUES(type, size, R)                                \
    static void values_##type##_##R(const struct values *w)  \
    {                                                        \
        values_rows(w, load4_##type, load1_##type, size, R); \
    }
#define ATTN_TYPE(type, size)                                                                               \
    SCORES(type, size, 1)                                                                                   \
    SCORES(type, size, 2)                                                                                   \
    SCORES(type, size, 4)                                                                                   \
    VALUES(type, size, 1)                                                                                   \
    VALUES(type, size, 2)                                                                                   \
    VALUES(type, size, 4)                                                                                   \
    static const struct attn_type attn_##type = {{scores_##type##_1, scores_##type##_2, scores_##type##_4}, \
                                                 {values_##type##_1, values_##type##_2, values_##type##_4}};
ATTN_TYPE(f32, 4)
ATTN_TYPE(f16, 2)

/* ---- tiles as floats ------------------------------------------------------------------------------------------- */

static inline struct f32x8 floats_of(int8x8_t q)
{
    int16x8_t wide = vmovl_s8(q);
    return (struct f32x8){{vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))), vcvtq_f32_s32(vmovl_high_s16(wide))}};
}
static inline struct f32x8 load8_i8(const uint8_t *p)
{
    return floats_of(vreinterpret_s8_u8(vld1_u8(p)));
}
/* Low (0) or high (1) halves of eight bytes, less 8. */
static inline struct f32x8 load8_i4(const uint8_t *p, size_t half)
{
    uint8x8_t bytes = vld1_u8(p), u = half ? vshr_n_u8(bytes, 4) : vand_u8(bytes, vdup_n_u8(15));
    return floats_of(vsub_s8(vreinterpret_s8_u8(u), vdup_n_s8(8)));
}

TILE_INLINE void widen_v(const struct attn_tile *a, size_t n, float *dst, const unsigned bits)
{
    const uint8_t *v = a->v, *scales = v + attn_scales(bits, a->v_dim);
    for (size_t j = 0; j < n; j++)
        for (size_t d = 0; d < a->v_dim; d += 8) {
            const size_t block = j * attn_blocks(a->v_dim) + d / KV_BLOCK, in = d % KV_BLOCK;
            const float scale = f16_to_f32(load_u16(scales + 2 * block));
            struct f32x8 x = bits == 8 ? load8_i8(v + block * KV_BLOCK + in) : load8_i4(v + block * 16 + in % 16, in / 16);
            float out[8];
            for (size_t h = 0; h < 2; h++) vst1q_f32(out + 4 * h, vmulq_n_f32(x.v[h], scale));
            memcpy(dst + j * a->v_dim + d, out, size_min(a->v_dim - d, 8) * sizeof *out);
        }
}

static void k_f16(const struct attn_tile *a, float *dst)
{
    widen_f16_neon(a->k, dst, a->head_dim * ATTN_TILE);
}
static void v_f16(const struct attn_tile *a, size_t n, float *dst)
{
    widen_f16_neon(a->v, dst, n * a->v_dim);
}
static void k_bf16(const struct attn_tile *a, float *dst)
{
    widen_bf16_neon(a->k, dst, a->head_dim * ATTN_TILE);
}
static void v_bf16(const struct attn_tile *a, size_t n, float *dst)
{
    widen_bf16_neon(a->v, dst, n * a->v_dim);
}
static void v_q8_0(const struct attn_tile *a, size_t n, float *dst)
{
    widen_v(a, n, dst, 8);
}
static void v_q4_0(const struct attn_tile *a, size_t n, float *dst)
{
    widen_v(a, n, dst, 4);
}

/* A tile of keys, where its products are of floats, and the first n values as floats. */
static const struct {
    void (*k)(const struct attn_tile *a, float *dst);
    void (*v)(const struct attn_tile *a, size_t n, float *dst);
} widen_of[QTYPE_COUNT] = {
    [QTYPE_F16] = {k_f16, v_f16},
    [QTYPE_BF16] = {k_bf16, v_bf16},
    [QTYPE_Q8_0] = {NULL, v_q8_0},
    [QTYPE_Q4_0] = {NULL, v_q4_0},
};

/* ---- quantised keys ----------------------------------------------------------------------------------------------- */

/* Four elements of four keys times four of a query. Two products fit 16 bits. */
static inline int32x4_t dot4(int32x4_t acc, int8x16_t k, int8x16_t q)
{
    int16x8_t low = vmull_s8(vget_low_s8(k), vget_low_s8(q)), high = vmull_high_s8(k, q);
    return vpadalq_s16(acc, vpaddq_s16(low, high));
}

/* Four elements of four keys, group d of a block. */
static inline int8x16_t load_fours(const uint8_t *k, size_t d, const unsigned bits)
{
    if (bits == 8) return vreinterpretq_s8_u8(vld1q_u8(k + d * ATTN_TILE * 4));
    uint8x16_t both = vld1q_u8(k + d / 2 * ATTN_TILE * 4), u = d % 2 ? vshrq_n_u8(both, 4) : vandq_u8(both, vdupq_n_u8(15));
    return vsubq_s8(vreinterpretq_s8_u8(u), vdupq_n_s8(8));
}

/* As scores, from the row of a on. */
TILE_INLINE void integer_scores(const struct attn_tile *a, size_t row, size_t n, float s[][ATTN_TILE], const unsigned bits,
                                const size_t R)
{
    const size_t blocks = attn_blocks(a->head_dim);
    const uint8_t *scales = (const uint8_t *)a->k + attn_scales(bits, a->head_dim);
    for (size_t b = 0; b < blocks; b++)
        for (size_t p = 0; p < n; p += 16) {
            const uint8_t *k = (const uint8_t *)a->k + (b * bits * ATTN_TILE + p) * 4;
            int32x4_t acc[16];
            UNROLL for (size_t o = 0; o < 4 * R; o++) acc[o] = vdupq_n_s32(0);
            for (size_t d = 0; d < KV_BLOCK / 4; d++) {
                UNROLL for (size_t v = 0; v < 4; v++)
                {
                    int8x16_t key = load_fours(k + 16 * v, d, bits);
                    UNROLL for (size_t i = 0; i < R; i++)
                    {
                        uint32_t q = load_u32(a->quant.q + ((row + i) * blocks + b) * KV_BLOCK + 4 * d);
                        acc[4 * i + v] = dot4(acc[4 * i + v], key, vreinterpretq_s8_u32(vdupq_n_u32(q)));
                    }
                }
            }
            UNROLL for (size_t v = 0; v < 4; v++)
            {
                float32x4_t dk = load4_f16(scales + (b * ATTN_TILE + p + 4 * v) * 2);
                UNROLL for (size_t i = 0; i < R; i++)
                {
                    float *to = s[i] + p + 4 * v;
                    float32x4_t d = vmulq_n_f32(dk, a->quant.d[(row + i) * blocks + b]);
                    vst1q_f32(to, vfmaq_f32(b ? vld1q_f32(to) : vdupq_n_f32(0.0f), d, vcvtq_f32_s32(acc[4 * i + v])));
                }
            }
        }
}

#define INTEGER_SCORES(type, bits, R)                                                                              \
    static void integer_scores_##type##_##R(const struct attn_tile *a, size_t row, size_t n, float s[][ATTN_TILE]) \
    {                                                                                                              \
        integer_scores(a, row, n, s, bits, R);                                                                     \
    }
INTEGER_SCORES(q8_0, 8, 1)
INTEGER_SCORES(q8_0, 8, 2)
INTEGER_SCORES(q8_0, 8, 4)
INTEGER_SCORES(q4_0, 4, 1)
INTEGER_SCORES(q4_0, 4, 2)
INTEGER_SCORES(q4_0, 4, 4)

/* For 1, 2 and 4 query rows. */
static void (*const integer_scores_of[QTYPE_COUNT][3])(const struct attn_tile *a, size_t row, size_t n,
                                                       float s[][ATTN_TILE]) = {
    [QTYPE_Q8_0] = {integer_scores_q8_0_1, integer_scores_q8_0_2, integer_scores_q8_0_4},
    [QTYPE_Q4_0] = {integer_scores_q4_0_1, integer_scores_q4_0_2, integer_scores_q4_0_4},
};

/* ---- rows --------------------------------------------------------------------------------------------------------- */

/* Keys and values, of the types that their functions read; of keys, where they are not quantised. */
struct source {
    const uint8_t *k, *v;
    const struct attn_type *k_type, *v_type;
};

/* Positions begin..end-1 of one row, whose sums are multiplied by c before. */
static void values_alone(const struct attn_tile *a, const struct source *from, size_t row, const float (*p)[ATTN_TILE], float c,
                         size_t begin, size_t end)
{
    const struct values one = {from->v, a->v_dim, begin, end, p, &c, a->o + row * a->v_dim};
    from->v_type->values[0](&one);
}

/* 1 << log query rows from row on, which all see something. What only some of them see is taken one row at a time, before and
 * after what all see, so that each takes its positions in order. */
static void attn_rows(const struct attn_tile *a, const struct source *from, size_t row, size_t log)
{
    const uint32_t *valid = a->valid + row;
    size_t rows = (size_t)1 << log, begin = 0, end = ATTN_TILE, most = 0;
    for (size_t i = 0; i < rows; i++) {
        begin = size_max(begin, attn_from(a, row + i));
        end = size_min(end, valid[i]);
        most = size_max(most, valid[i]);
    }
    if (begin >= end) begin = end = ATTN_TILE; /* each goes alone */
    float s[4][ATTN_TILE], c[4];
    const float(*p)[ATTN_TILE] = (const float(*)[ATTN_TILE])s;
    if (attn_quantised(a->k_type))
        integer_scores_of[a->k_type][log](a, row, most, s);
    else
        from->k_type->scores[log](from->k, a->q + row * a->head_dim, a->head_dim, most, s);
    for (size_t i = 0; i < rows; i++) {
        const size_t first = attn_from(a, row + i);
        if (a->softcap != 0.0f) cap_scores(s[i], most, a->softcap);
        c[i] = softmax(s[i], first, valid[i], a->m + row + i, a->l + row + i);
        if (first >= begin) continue;
        values_alone(a, from, row + i, p + i, c[i], first, size_min(begin, valid[i]));
        c[i] = 1.0f;
    }
    const struct values all = {from->v, a->v_dim, begin, end, p, c, a->o + row * a->v_dim};
    if (begin < end) from->v_type->values[log](&all);
    for (size_t i = 0; i < rows; i++)
        if (valid[i] > end) values_alone(a, from, row + i, p + i, 1.0f, end, valid[i]);
}

/* From this many query rows on (two groups of four) an f16 tile is widened beforehand, others always; but keys of integers
 * never. */
enum { WIDEN_MIN = 12 };

static void attn_tile_neon(const struct attn_tile *a)
{
    size_t seen = 0;
    for (size_t i = 0; i < a->n_rows; i++) seen = size_max(seen, a->valid[i]);
    const bool f16 = a->n_rows < WIDEN_MIN;
    struct source from = {a->k, a->v, f16 && a->k_type == QTYPE_F16 ? &attn_f16 : &attn_f32,
                          f16 && a->v_type == QTYPE_F16 ? &attn_f16 : &attn_f32};
    float *k = a->scratch, *v = k + ATTN_DIM_MAX * ATTN_TILE;
    if (widen_of[a->k_type].k && from.k_type == &attn_f32) {
        widen_of[a->k_type].k(a, k);
        from.k = (const uint8_t *)k;
    }
    if (widen_of[a->v_type].v && from.v_type == &attn_f32) {
        widen_of[a->v_type].v(a, seen, v);
        from.v = (const uint8_t *)v;
    }
    for (size_t row = 0; row < a->n_rows;) {
        size_t seeing = 0;
        while (seeing < 4 && row + seeing < a->n_rows && a->valid[row + seeing] > 0) seeing++;
        size_t log = seeing == 4 ? 2 : seeing >= 2 ? 1 : 0;
        if (seeing > 0) attn_rows(a, &from, row, log);
        row += (size_t)1 << log;
    }
}

void attn_init_neon(struct kernels *k)
{
    k->attn_tile = attn_tile_neon;
}
