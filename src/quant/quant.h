/* quant: how numbers lie in files. One row of types.def for each type and one file per family; nobody else knows a block
 * layout except the kernels of that type. */
#ifndef QUERN_QUANT_H
#define QUERN_QUANT_H

#include "base/base.h"

enum qtype {
#define T(NAME, name, id, block_n, bytes, ARITH, off, min, W) QTYPE_##NAME,
#include "quant/types.def"
#undef T
    QTYPE_COUNT
};
#define NO_GGML UINT32_MAX

/* How products with a type are computed. */
enum qarith {
    ARITH_FLOAT, /* the weight is widened to f32 */
    ARITH_32,    /* integers with a float scale (and a float minimum) for each 32 weights */
    ARITH_256,   /* integers with an integer scale (and minimum) for each 16 of 256 weights, and float scales for all of them */
};

#define QSUPER 256 /* weights of the largest block */
#define QSUB 16    /* weights that share sc and mn */

/* One block taken apart: block_n weights, in order.
 *
 *   ARITH_32    w[i] = d * (u[i] - off) [+ m]
 *   ARITH_256   w[i] = (d * sc[i / 16]) * (u[i] - off) [- m * mn[i / 16]]
 *
 * each operation rounded once to f32, brackets where the type has a minimum. off is a constant of the type: u is unsigned, so
 * that every instruction set can multiply it. Members that a type has no use for are left alone.
 * Bounds: sc fits int8, 0 <= mn <= 63, |u - off| <= 128 (255 where off is 0, in blocks of 32 only). */
struct qblock {
    uint8_t u[QSUPER];
    int16_t sc[QSUPER / QSUB], mn[QSUPER / QSUB];
    float d, m;
};

/* Scales that lie in tensors of their own (MLX's types): of each group of weights of a row, one scale, and one bias where the
 * type has a minimum. Borrowed; aligned to 1 byte only. */
struct qside {
    const uint8_t *scales, *biases; /* [rows][row length / group]; biases NULL where min is false */
    enum qtype type;                /* of scales and biases: F32, F16, BF16. Of no meaning to the microscaling types, whose
                                     * scales are bytes that their family's file explains */
    uint32_t group;                 /* weights: 32, 64 or 128; 16 of MLX_NVFP4. It divides the row length */
};

/* One row of weights as it lies. */
struct qrow {
    const uint8_t *data;
    const struct qside *side; /* NULL: the blocks hold everything */
    size_t first_group;       /* index of the row's first group in the arrays of side */
};

/* What is known of the activations that meet the columns of a row: the means of their squares, >= 0, and of themselves.
 * Borrowed. What rounding does to a product grows with the former; the latter tell which errors cancel. */
struct qcolumns {
    const float *squares, *means; /* means NULL: not known */
};
/* From a column on; of those of which nothing is known (c or its squares are NULL), nothing. */
static inline struct qcolumns qcolumns_from(const struct qcolumns *c, size_t column)
{
    if (!c || !c->squares) return (struct qcolumns){0};
    return (struct qcolumns){c->squares + column, c->means ? c->means + column : NULL};
}

struct qtype_info {
    const char *name;
    uint32_t ggml_id;
    uint32_t block_n;     /* weights per block */
    uint32_t block_bytes; /* bytes per block */
    enum qarith arith;
    uint8_t off;
    bool has_min;
    /* Takes block number `block` of the row apart. NULL for ARITH_FLOAT. */
    void (*unpack)(const struct qrow *row, size_t block, struct qblock *out);
    /* Weights from .. from + n - 1 of a row, both multiples of block_n. */
    void (*row_to_float)(const struct qrow *row, size_t from, float *dst, size_t n);
    /* n a multiple of block_n; NULL where Quern does not write the type. columns: of n; NULL, or their squares are: all alike.
     * Deterministic: the same floats give the same bytes on every machine. */
    void (*quantize)(const float *src, const struct qcolumns *columns, void *dst, size_t n);
};
extern const struct qtype_info qtypes[QTYPE_COUNT];

/* n weights from src on, of a type whose blocks hold everything (no struct qside); n a multiple of block_n. */
void qtype_to_float(enum qtype t, const void *src, float *dst, size_t n);

/* Fills n blocks of a type that files have with random weights of mean 0 and about the given standard deviation (down to
 * half of it where scales are powers of two). state is the generator's, not 0. The same state gives the same bytes. */
void qtype_noise(enum qtype t, uint64_t *state, float spread, void *dst, size_t n);

bool qtype_by_name(struct str name, enum qtype *out); /* any case */
bool qtype_by_ggml(uint32_t id, enum qtype *out);
const char *ggml_type_name(uint32_t id); /* also types that Quern does not run; "?" when unknown */
/* Bytes of a row of n weights; false where n is no multiple of the block or the size overflows. */
bool qtype_row_bytes(enum qtype t, uint64_t n, uint64_t *out);

/* IEEE half and bfloat16, round to nearest even, NaN kept quiet; exact widening. */
float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);
static inline float bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
uint16_t f32_to_bf16(float f);

#endif
