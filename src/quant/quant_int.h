/* quant_int: what the files of this room share. Every row of types.def asks for functions by name, so a new type is a row and
 * a file that defines them; the linker names what is missing. Contracts: struct qtype_info in quant.h.
 *
 *   FLOAT      row_to_float_NAME
 *   32, 256    unpack_NAME
 *   W          quantize_NAME */
#ifndef QUERN_QUANT_INT_H
#define QUERN_QUANT_INT_H

#include "quant/quant.h"

#define T(NAME, name, id, block_n, bytes, ARITH, off, min, W)                            \
    void unpack_##NAME(const struct qrow *row, size_t block, struct qblock *out);        \
    void row_to_float_##NAME(const struct qrow *row, size_t from, float *dst, size_t n); \
    void quantize_##NAME(const float *src, const struct qcolumns *c, void *dst, size_t n);
#include "quant/types.def"
#undef T

static inline void put_half(uint8_t *p, float v)
{
    uint16_t h = f32_to_f16(v);
    memcpy(p, &h, sizeof h);
}

/* What the microscaling types share. */
extern const uint8_t quant_fp4[16]; /* twice the values of e2m1, + 12 */
float quant_e8m0_half(uint8_t e);   /* 2^(e - 128): half the scale that e stands for */

/* ---- search.c: quantisation by search ------------------------------------------------------------- */

/* How a type that is written by search stores weights. Levels are what q = u - off may be: the integers lo..hi, or a rising
 * table of 16. */
struct qfit {
    enum qtype type;
    int lo, hi;
    const int8_t *levels; /* NULL: the integers */
    size_t sub;           /* weights that share a scale */
    int sc_lo, sc_hi;     /* ARITH_256: the range of sc, and from 0 up of mn */
    bool min_any;         /* the minimum may be above 0 */
    /* Writes a block. u holds indices of levels, d and m are halves. */
    void (*pack)(const struct qblock *b, uint8_t *p);
};
/* qtype_info.quantize of a type of scales that are halves. */
void quant_search(const struct qfit *f, const float *src, const struct qcolumns *c, void *dst, size_t n);
/* balance.c: of a block that the search has filled, moves levels to their neighbours so that the errors of the row cancel for
 * the mean activation. *carried is the row's error for that so far, 0 at first. c->means is known. */
void quant_balance(const struct qfit *f, const float *x, const struct qcolumns *c, struct qblock *b, float *carried);
/* Weights w [n] of squared errors for x [n], all of one block. */
void quant_weights(const float *x, const float *importance, size_t n, float *w);
/* Indices u [n] of the levels nearest to x / d, and the weighted sum of squared errors. */
float quant_nearest(const struct qfit *f, const float *x, const float *w, size_t n, float d, uint8_t *u);

#endif
