/* reader: little-endian reads with one sticky "bad" flag. Each read first asks whether the bytes are there; the comparison is
 * made on the number of bytes left, so no pointer beyond the end is ever formed. */
#include "base/base.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "file formats and kernels read little-endian words in place");

const void *rd_bytes(struct reader *r, uint64_t n)
{
    if (r->bad || n > rd_left(r)) {
        r->bad = true;
        return NULL;
    }
    const uint8_t *p = r->p;
    if (n) r->p += (size_t)n;
    return p;
}

#define READ(type, name)                       \
    type name(struct reader *r)                \
    {                                          \
        type v = 0;                            \
        const void *p = rd_bytes(r, sizeof v); \
        if (p) memcpy(&v, p, sizeof v);        \
        return v;                              \
    }
READ(uint8_t, rd_u8)
READ(uint16_t, rd_u16)
READ(uint32_t, rd_u32)
READ(uint64_t, rd_u64)
READ(float, rd_f32)
READ(double, rd_f64)
#undef READ

bool rd_count_ok(struct reader *r, uint64_t n, size_t elem_min)
{
    if (!r->bad && n <= rd_left(r) / (elem_min ? elem_min : 1)) return true;
    r->bad = true;
    return false;
}
