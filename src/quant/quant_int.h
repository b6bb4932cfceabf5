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
    void quantize_##NAME(const float *src, const float *importance, void *dst, size_t n);
#include "quant/types.def"
#undef T

/* What the microscaling types share. */
extern const uint8_t quant_fp4[16]; /* twice the values of e2m1, + 12 */
float quant_e8m0_half(uint8_t e);   /* 2^(e - 128): half the scale that e stands for */

#endif
