/* quant_int: what the files of this room share. Every row of types.def asks for two functions by name, so a new type is a row
 * and a file that defines them; the linker names what is missing. Contracts: struct qtype_info in quant.h. */
#ifndef QUERN_QUANT_INT_H
#define QUERN_QUANT_INT_H

#include "quant/quant.h"

#define T(NAME, name, id, block_n, bytes)                        \
    void to_float_##NAME(const void *src, float *dst, size_t n); \
    void from_float_##NAME(const float *src, void *dst, size_t n);
#include "quant/types.def"
#undef T

#endif
