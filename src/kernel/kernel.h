/* kernel: the arithmetic. docs/arithmetic.md says in words, and scalar.c in C, what every operation computes to the last bit;
 * the kernels of x86/ and arm/ compute exactly that, faster. One table of function pointers per CPU level; nobody outside
 * this room tests a CPU flag or names a type in a switch.
 *
 * All functions are pure: they read their arguments, write dst, and may run on many threads at once on
 * disjoint ranges. They cannot fail. Sizes are in elements unless a name says bytes. Pointers to float need 4-byte alignment,
 * pointers to weights none; no kernel reads or writes outside the ranges that its contract names, not even to discard it.
 */
#ifndef QUERN_KERNEL_H
#define QUERN_KERNEL_H

#include "base/base.h"
#include "quant/quant.h"

/* ---- levels ------------------------------------------------------------------------------------- */

enum {                   /* CPU features that kernels use */
       CPU_AVX2 = 1,     /* AVX2, FMA, F16C */
       CPU_VNNI = 2,     /* AVX2, and VNNI on its registers, be it that of AVX-512 */
       CPU_AVXVNNI = 4,  /* AVX2, and VNNI in its encoding */
       CPU_AVX512 = 8,   /* AVX-512 F, BW, VL, DQ and VNNI */
       CPU_NEON = 16,    /* arm64 baseline */
       CPU_DOTPROD = 32, /* arm64 SDOT */
       CPU_I8MM = 64,    /* arm64 SMMLA, and SDOT */
};
unsigned cpu_features(void); /* of this machine, and enabled by the system */

/* Levels from slowest to fastest: "scalar", then "avx2", "avxvnni", "avx512" or "neon", "dotprod", "i8mm". i counts from 0;
 * NULL past the end. Only levels that this machine can run are listed. */
const char *cpu_level(unsigned i);

/* ---- activations ---------------------------------------------------------------------------------- */

/* Rises with every change of docs/arithmetic.md that changes a result: what was computed and kept before is then not used. */
#define ARITHMETIC_VERSION 1

#define ACT_BLOCK 32 /* activations that share a scale, for ARITH_32 */

/* n_rows rows of K activations, K the row length of the weights, as the weights' arithmetic wants them. */
struct act {
    const float *f; /* ARITH_FLOAT: [n_rows][stride] */
    size_t stride;  /* in floats, >= K */
    /* Quantised: int8 with an f32 scale for each 32 (ARITH_32) or each 256 (ARITH_256). */
    const int8_t *q;  /* [n_rows][K] */
    const float *d;   /* [n_rows][K / 32] or [n_rows][K / 256] */
    const int16_t *s; /* sums of q: ARITH_32: [n_rows][K / 32]; ARITH_256: [n_rows][K / 16] */
    /* The same q in the order of kernels.pack_cols: [n_rows / pack_cols, rounded up][K / u][pack_cols][u] with
     * u = kernels.pack_unit; rows past the last are any bytes. NULL where pack_cols is 0 or n_rows < pack_min. */
    const int8_t *packed;
};

/* The buffers behind the quantised members of an act. */
struct act_mem {
    int8_t *q;
    float *d;
    int16_t *s;
    int8_t *packed; /* where kernels.pack_cols is not 0: a whole number of groups */
};

/* What a feed-forward network does to its hidden values; docs/arithmetic.md has the formulas. */
enum act_fn { ACT_SILU, ACT_GELU_TANH, ACT_GELU, ACT_SWIGLU_CLAMP, ACT_RELU2, ACT_RELU, ACT_COUNT };

/* ---- the table --------------------------------------------------------------------------------------- */

/* One matrix product: dst[m][r] = dot(weight row r, activation row m). */
struct mm {
    enum qtype type;
    const uint8_t *w; /* weight rows, row_bytes apart */
    size_t row_bytes;
    const struct qside *side; /* of the weights; NULL for most types */
    size_t k;                 /* row length; a multiple of the type's block */
    size_t n_rows;            /* activation rows m, 1.. */
    struct act act;
    float *dst; /* [n_rows][dst_stride], indexed by weight row */
    size_t dst_stride;
    void *scratch; /* MM_SCRATCH bytes, 64-aligned, of this thread */
};
#define MM_SCRATCH (256 * 1024)

/* Weight row r of a product. */
static inline struct qrow mm_row(const struct mm *a, size_t r)
{
    return (struct qrow){a->w + r * a->row_bytes, a->side, a->side ? r * (a->k / a->side->group) : 0};
}

#define ATTN_TILE 64   /* positions in a tile of the KV cache */
#define ATTN_CHUNK 256 /* positions whose softmax state is merged as one; a multiple of ATTN_TILE */
#define ATTN_DIM_MAX 576
#define KV_BLOCK 32 /* elements of a key or a value that share a scale, in quantised caches */

/* A tile of the KV cache: ATTN_TILE keys, or as many values, of one head, in one of the cache's types. In keys the position
 * runs fastest, values lie row by row. B = dim / KV_BLOCK, rounded up; what follows dim in the last block is zero.
 *
 *                    keys                                              values
 *   F32, F16, BF16   [dim][64]                                         [64][dim]
 *   Q8_0             int8 [8 B][64][4]                                 int8 [64][32 B]
 *   Q4_0             u8 [4 B][64][4]: elements 8i + c and 8i + 4 + c   u8 [64][16 B]: byte i of a block: elements i and i + 16
 *   both, behind     f16 scales [B][64]                                f16 scales [64][B]
 *
 * Quantised keys go into integer products: four elements of a position lie together. Of two nibbles the low one comes first; an
 * element of Q4_0 is its nibble - 8. An element takes 8.5 or 4.5 bits where 32 divides dim. */
static inline size_t attn_blocks(size_t dim)
{
    return (dim + KV_BLOCK - 1) / KV_BLOCK;
}
unsigned attn_bits(enum qtype t); /* of an element; 0: no type for a cache */
static inline bool attn_quantised(enum qtype t)
{
    return attn_bits(t) < 16;
}
size_t attn_bytes(enum qtype t, size_t dim); /* of a tile of keys, or of values */
/* Where the scales of a quantised tile begin. */
static inline size_t attn_scales(unsigned bits, size_t dim)
{
    return attn_blocks(dim) * KV_BLOCK / 8 * bits * ATTN_TILE;
}

/* One tile of keys and values against n_rows query rows (docs/arithmetic.md, "Attention"). Updates the running state. */
struct attn_tile {
    const void *k, *v;
    enum qtype k_type, v_type;
    size_t head_dim, v_dim; /* 1..ATTN_DIM_MAX */
    size_t n_rows;
    const float *q;        /* [n_rows][head_dim], already multiplied by the score scale */
    struct act quant;      /* where keys are quantised: q as ARITH_32 has it, rows filled up with zeros to whole blocks */
    const uint32_t *valid; /* [n_rows]: the row sees positions from..valid-1 of the tile; 0 leaves its state as it is */
    const uint32_t *from;  /* [n_rows], less than valid where that is not 0; NULL: 0 for all */
    float softcap;         /* scores become softcap * tanh(score / softcap); 0: they stay as they are */
    float *m, *l;          /* [n_rows] running maximum (-inf at first) and sum */
    float *o;              /* [n_rows][v_dim] running weighted sum of values */
    float *scratch;        /* ATTN_SCRATCH floats, 64-aligned, of this thread */
    const void *next;      /* next_bytes that this thread reads after this tile, or NULL: a hint for the memory */
    size_t next_bytes;
};
#define ATTN_SCRATCH (2 * ATTN_DIM_MAX * ATTN_TILE + 64 * ATTN_TILE)

/* The first position that a row sees. */
static inline size_t attn_from(const struct attn_tile *a, size_t row)
{
    return a->from ? a->from[row] : 0;
}

#define CONV_TAPS_MAX 8

/* A causal convolution of each channel by itself: row t of y is the sum over taps i of w[i] * input t - (taps - 1) + i. Inputs
 * before the first row come from `before`; `after` gets those that a next call needs, and may be the same memory. */
struct conv {
    size_t n_rows, n;    /* rows, in the order of time, 1..; channels */
    size_t taps;         /* 2..CONV_TAPS_MAX */
    size_t stride;       /* of w, before and after: channels that they have in all */
    const float *w;      /* [taps][stride], the last meets the newest input */
    const float *bias;   /* [n] or NULL */
    bool silu;           /* of the sum */
    const float *before; /* [taps - 1][stride], the oldest first */
    float *after;        /* the same */
    const float *x;      /* [n_rows][x_stride] */
    float *y;            /* [n_rows][y_stride], apart from x */
    size_t x_stride, y_stride;
};

#define DELTA_COLS 32

/* The gated delta rule (docs/arithmetic.md) over rows in the order of time, for up to DELTA_COLS elements of the value of one
 * head. They share nothing with the others but keys, queries and gates. */
struct delta {
    size_t n_rows, k_dim, v_dim; /* 1..; elements of a key; of the values here, 1..DELTA_COLS */
    const float *q, *k;          /* [n_rows][qk_stride] */
    const float *v;              /* [n_rows][v_stride] */
    const float *decay, *beta;   /* [n_rows][gate_stride], one number each */
    const float *before;         /* [k_dim][DELTA_COLS] state; elements from v_dim on are 0 at first */
    float *after;                /* the same behind the last row; may be the same memory */
    float *o;                    /* [n_rows][o_stride], v_dim elements each */
    size_t qk_stride, v_stride, gate_stride, o_stride;
};

struct kernels {
    const char *level;
    /* How products want quantised activations packed, for n_rows >= pack_min (struct act); 0: not at all. */
    uint32_t pack_cols, pack_min;
    uint32_t pack_unit; /* elements of a row that lie together: 4 or 8 */
    /* dst[m][r] for weight rows r0 <= r < r1 and all m. */
    void (*mm[QTYPE_COUNT])(const struct mm *a, size_t r0, size_t r1);
    /* Weights as floats, for embedding rows; n a multiple of the block. */
    void (*to_float[QTYPE_COUNT])(const struct qrow *row, float *dst, size_t n);
    /* A key or value of n floats in a cache type, before it is laid into its tile; NULL for types that a cache cannot have.
     * q: [n] elements or, quantised, one byte for each of them and of the zeros that fill the last block, with scales in d. */
    void (*from_float[QTYPE_COUNT])(const float *src, size_t n, void *q, uint16_t *d);
    /* Quantises one row of n activations, n a multiple of 32 or 256. */
    void (*quant_act_32)(const float *x, size_t n, int8_t *q, float *d, int16_t *s);
    void (*quant_act_256)(const float *x, size_t n, int8_t *q, float *d, int16_t *s);
    /* Packs n <= pack_cols rows of k quantised activations: dst [k / pack_unit][pack_cols][pack_unit]. NULL where pack_cols is
     * 0. */
    void (*pack_act)(const int8_t *q, size_t n, size_t k, int8_t *dst);
    /* y[i] = (x[i] * 1/sqrt(mean(x*x) + eps)) * w[i]; y may be x. */
    void (*rms_norm)(const float *x, const float *w, float eps, size_t n, float *y);
    /* y[i] = ((x[i] - mean) / sqrt(variance + eps)) * w[i] + b[i]; b may be NULL: nothing is added; y may be x. */
    void (*layer_norm)(const float *x, const float *w, const float *b, float eps, size_t n, float *y);
    /* y[i] = act(x[i]); y may be x. NULL for ACT_SWIGLU_CLAMP, which exists only with two inputs. */
    void (*act[ACT_COUNT])(const float *x, size_t n, float *y);
    /* y[i] = act(g[i]) * u[i]; y may be g or u. limit: of ACT_SWIGLU_CLAMP only, above 0. */
    void (*glu[ACT_COUNT])(const float *g, const float *u, float limit, size_t n, float *y);
    /* y[i] = x[i] * sigmoid(g[i]); y may be x or g. */
    void (*gate)(const float *x, const float *g, size_t n, float *y);
    /* y[i] = x[i] * f; y may be x. */
    void (*scale)(const float *x, float f, size_t n, float *y);
    /* y[i] = cap * tanh(x[i] / cap); y may be x. */
    void (*softcap)(const float *x, float cap, size_t n, float *y);
    /* y[i] = a[i] + b[i]; y may be a or b. */
    void (*add)(const float *a, const float *b, size_t n, float *y);
    /* Rotates n_pairs pairs of x in place: (x[i], x[i + n_pairs]) where neox, else (x[2i], x[2i + 1]). */
    void (*rope)(float *x, const float *cos, const float *sin, size_t n_pairs, bool neox);
    void (*attn_tile)(const struct attn_tile *a);
    /* Merges the state (m2, l2, o2) of a later chunk into (m, l, o), n values. */
    void (*attn_merge)(float *m, float *l, float *o, float m2, float l2, const float *o2, size_t n);
    /* y[i] = a[i] * b[i]; y may be a or b. */
    void (*mul)(const float *a, const float *b, size_t n, float *y);
    void (*conv)(const struct conv *a);
    void (*delta)(const struct delta *a);
    /* y[i] = exp(x[i]); y may be x. */
    void (*exp)(const float *x, size_t n, float *y);
    /* The most that this level's arithmetic units can do, for those who measure: each call does nothing but independent
     * multiply-adds of int8, or of f32, for a tenth of a millisecond or so, and returns how many. */
    uint64_t (*peak_int8)(void);
    uint64_t (*peak_f32)(void);
};

/* Quantises rows [from, to) of x [..][k] for an arithmetic other than ARITH_FLOAT; rows of mem and x correspond. pack: also
 * packs them; from is then a multiple of pack_cols. */
void act_quantise(const struct kernels *kn, enum qarith arith, const float *x, size_t k, size_t from, size_t to, bool pack,
                  const struct act_mem *mem);
/* Numbers of scales and of sums that a row of k has. */
static inline size_t act_scales(enum qarith arith, size_t k)
{
    return arith == ARITH_256 ? k / QSUPER : k / ACT_BLOCK;
}
static inline size_t act_sums(enum qarith arith, size_t k)
{
    return arith == ARITH_256 ? k / QSUB : k / ACT_BLOCK;
}

/* Makes dim floats the key or the value of position pos, below ATTN_TILE, of a tile. */
void attn_store_k(const struct kernels *kn, enum qtype t, const float *x, size_t dim, void *tile, size_t pos);
void attn_store_v(const struct kernels *kn, enum qtype t, const float *x, size_t dim, void *tile, size_t pos);

#define ROUTE_EXPERTS_MAX 1024
#define ROUTE_EPSILON 1e-20f /* added to a sum of weights before it divides */

/* How the experts of a token are chosen, docs/arithmetic.md, "Routing". */
struct route_params {
    uint32_t n_experts, n_used;       /* 1..ROUTE_EXPERTS_MAX; n_used fit into the groups used */
    bool sigmoid;                     /* scores are sigmoids of the logits, else their softmax */
    bool top_softmax;                 /* the softmax is over the chosen ones only */
    uint32_t n_groups, n_groups_used; /* only experts of the best groups are candidates; n_groups 0 or 1: all */
    bool group_top2;                  /* a group is as good as the sum of its best two, else as its best */
    const float *bias;                /* [n_experts] added to the scores for choosing; NULL: none */
    bool normalise;                   /* weights are divided by their sum, */
    float scale;                      /* and multiplied by this */
    const float *expert_scale;        /* [n_experts] and by this of their expert; NULL: 1 */
};

/* The n_used experts of a token, best first, and what their outputs are multiplied by. No NaN among the logits leads to an
 * expert that is none. */
void route(const struct route_params *p, const float *logits, float *weights, int32_t *experts);

/* Fills k for a level by name; NULL: the best of this machine. Unknown or not runnable here: an error that lists the levels. */
int kernels_init(struct kernels *k, const char *level, struct err *e);

/* ---- scalar mathematics: one definition on every machine, no libm ---------------------------------------- */

float num_exp(float x);                /* the exp of arithmetic.md */
float num_tanh(float x);               /* and its tanh */
float num_sigmoid(float x);            /* 1 / (1 + exp(-x)) */
float num_softplus(float x);           /* ln(1 + e^x), to half an ulp or so */
double num_log(double x);              /* natural logarithm, x > 0, normal; error below 1e-15 relative */
double num_exp_f64(double x);          /* error below 1e-15 relative; +inf above 709, +0 below -708 */
double num_pow(double base, double y); /* base > 0 */
/* cos and sin of |x| < 2^24 or so, error below 1e-15. */
void num_sincos(double x, double *s, double *c);
/* cos[i], sin[i] of the angle (float)pos * inv_freq[i], times scale. */
void rope_angles(uint32_t pos, const float *inv_freq, size_t n, float scale, float *cos, float *sin);

/* Private to this room: how a block of a quantised cache is made from floats, and its scale (f16), with *id = 1 / scale or,
 * where all elements become 0, 0. low and high: the smallest and the largest element, and 0; finite: none is infinite or NaN.
 */
struct kv_rule {
    float steps;       /* the element that is farthest from 0 becomes so many, */
    float bottom, top; /* others lie in this range, */
    float off;         /* and all are kept with this added */
};
extern const struct kv_rule kv_q8_0, kv_q4_0;
uint16_t kv_scale(const struct kv_rule *rule, float low, float high, bool finite, float *id);
/* Private to this room: what a convolution leaves in `after`. */
void conv_keep(const struct conv *a);
/* Private to this room: one position of a tile, as the specification reads it, and the tables of the levels, of which each
 * overwrites the entries that it does better. The key: dim elements or, quantised, all integers of its blocks, and their
 * scales. */
void attn_key(enum qtype t, const void *tile, size_t dim, size_t pos, float *x, float *d);
void attn_value(enum qtype t, const void *tile, size_t dim, size_t pos, float *x);
void kernels_init_scalar(struct kernels *k);
void kernels_init_avx2(struct kernels *k);
void kernels_init_avxvnni(struct kernels *k);
void kernels_init_avxvnni_evex(struct kernels *k);
void kernels_init_avx512(struct kernels *k);
void kernels_init_neon(struct kernels *k);
void kernels_init_dotprod(struct kernels *k);
void kernels_init_i8mm(struct kernels *k);
void peak_init_scalar(struct kernels *k);

#endif
