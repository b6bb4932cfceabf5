/* quant: how numbers lie in files. One row of types.def and one file per family; nobody else knows a block layout
 * except the kernels of that type. */
#ifndef QUERN_QUANT_H
#define QUERN_QUANT_H

#include "base/base.h"

enum qtype {
#define T(NAME, name, id, block_n, bytes) QTYPE_##NAME,
#include "quant/types.def"
#undef T
    QTYPE_COUNT
};

struct qtype_info {
    const char *name;
    uint32_t ggml_id;
    uint32_t block_n;     /* weights per block */
    uint32_t block_bytes; /* bytes per block */
    /* n weights, a multiple of block_n; src and dst need no alignment beyond that of a byte on the quantised side. */
    void (*to_float)(const void *src, float *dst, size_t n);
    void (*from_float)(const float *src, void *dst, size_t n);
};
extern const struct qtype_info qtypes[QTYPE_COUNT];

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
