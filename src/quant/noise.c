/* noise: random weights in every type that files have, also those that Quern only reads: nothing is quantised. Every pattern of
 * bits is a valid block, so a block is random bytes with sane scales put where the type has them. What scale gives the wanted
 * spread is measured on the blocks themselves. */
#include "quant/quant_int.h"

#include <math.h>

/* Where the scales of a block are, as in the layouts of the types' own files; zeroed: one half at the beginning. */
static const struct place {
    uint8_t d, m;  /* offsets of the halves; m 0: the type has no minimum */
    bool exponent; /* the scale is a power of two, in one byte */
    bool quarters; /* d is the upper quarters of four u16, lowest first */
} places[QTYPE_COUNT] = {
    [QTYPE_Q4_1] = {.m = 2},
    [QTYPE_Q5_1] = {.m = 2},
    [QTYPE_MXFP4] = {.exponent = true},
    [QTYPE_Q2_K] = {.d = 80, .m = 82},
    [QTYPE_Q3_K] = {.d = 108},
    [QTYPE_Q4_K] = {.m = 2},
    [QTYPE_Q5_K] = {.m = 2},
    [QTYPE_Q6_K] = {.d = 208},
    [QTYPE_TQ1_0] = {.d = 52},
    [QTYPE_TQ2_0] = {.d = 64},
    [QTYPE_IQ1_M] = {.d = 48, .quarters = true},
};

enum { SAMPLE = 64 }; /* blocks that are measured */

/* xorshift64 (Marsaglia 2003). */
static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void put_half(uint8_t *at, float v)
{
    const uint16_t h = f32_to_f16(v);
    memcpy(at, &h, sizeof h);
}

static void put_quarters(uint8_t *at, float v)
{
    const uint16_t h = f32_to_f16(v);
    for (size_t i = 0; i < 4; i++) at[2 * i + 1] = (uint8_t)((at[2 * i + 1] & 15) | (h >> 4 * i & 15) << 4);
}

static void put_scales(enum qtype t, uint8_t *blocks, size_t n, float d, float m)
{
    const struct place *at = &places[t];
    const size_t bytes = qtypes[t].block_bytes;
    int power;
    (void)frexpf(d, &power); /* d = f * 2^power, 1/2 <= f < 1; the byte stands for 2^(byte - 128) */
    for (size_t i = 0; i < n; i++, blocks += bytes) {
        if (at->exponent)
            blocks[at->d] = (uint8_t)(128 + power - 1);
        else if (at->quarters)
            put_quarters(blocks + at->d, d);
        else
            put_half(blocks + at->d, d);
        if (at->m) put_half(blocks + at->m, m);
    }
}

struct moments {
    double mean, rms;
};

/* Of blocks with the given scales. */
static struct moments measure(enum qtype t, uint8_t *blocks, size_t n, float d, float m)
{
    const size_t block_n = qtypes[t].block_n;
    float w[QSUPER];
    double sum = 0, squares = 0;
    put_scales(t, blocks, n, d, m);
    for (size_t i = 0; i < n; i++) {
        qtype_to_float(t, blocks + i * qtypes[t].block_bytes, w, block_n);
        for (size_t k = 0; k < block_n; k++) {
            sum += (double)w[k];
            squares += (double)w[k] * (double)w[k];
        }
    }
    const double count = (double)(n * block_n);
    return (struct moments){sum / count, sqrt(squares / count)};
}

static void noise_blocks(enum qtype t, uint64_t *state, float spread, uint8_t *dst, size_t n)
{
    const size_t bytes = n * qtypes[t].block_bytes, sample = size_min(n, SAMPLE);
    for (size_t i = 0; i < bytes; i += sizeof *state) {
        const uint64_t r = next_random(state);
        memcpy(dst + i, &r, size_min(sizeof r, bytes - i));
    }
    float m = 0; /* the minimum that makes the mean 0 where d is 1 */
    if (places[t].m) m = (float)(-measure(t, dst, sample, 1, 0).mean / measure(t, dst, sample, 0, 1).mean);
    const float d = spread / (float)measure(t, dst, sample, 1, m).rms;
    put_scales(t, dst, n, d, d * m);
}

/* Uniform in [-1, 1), times what makes the spread. */
static void noise_floats(enum qtype t, uint64_t *state, float spread, uint8_t *dst, size_t n)
{
    const float scale = spread * sqrtf(3) * 0x1p-31f;
    for (size_t i = 0; i < n; i++) {
        const float v = scale * (float)(int32_t)(next_random(state) >> 32);
        qtypes[t].quantize(&v, NULL, dst + i * qtypes[t].block_bytes, 1);
    }
}

void qtype_noise(enum qtype t, uint64_t *state, float spread, void *dst, size_t n)
{
    (qtypes[t].arith == ARITH_FLOAT ? noise_floats : noise_blocks)(t, state, spread, dst, n);
}
