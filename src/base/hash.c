/* hash: a fast hash of bytes that is the same everywhere and always: checksums, names of files, fingerprints. For tables over
 * untrusted keys there is str_hash, which is seeded.
 *
 * Four lanes take eight bytes each in turn; a step is a bijection of the lane for given bytes, so that no change within one
 * lane's word goes unnoticed, and the multiplications of the four overlap. */
#include "base/base.h"

#define K0 0x9e3779b97f4a7c15u /* odd numbers with bits all over: of the golden ratio and of square roots */
#define K1 0xc2b2ae3d27d4eb4fu
#define K2 0x6a09e667f3bcc909u
#define K3 0xbb67ae8584caa73bu
#define LANES 4

static uint64_t rotate(uint64_t x, unsigned n)
{
    return x << n | x >> (64 - n);
}

static uint64_t step(uint64_t lane, uint64_t word)
{
    return rotate((lane ^ word) * K0, 29);
}

static uint64_t finish(uint64_t x)
{
    x = (x ^ x >> 32) * K2;
    x = (x ^ x >> 29) * K3;
    return x ^ x >> 32;
}

uint64_t bytes_hash(uint64_t seed, const void *p, size_t n)
{
    uint64_t lanes[LANES] = {seed ^ K0, seed ^ K1, seed ^ K2, seed ^ K3};
    const uint8_t *b = p;
    size_t left = n;
    for (; left >= 8 * LANES; b += 8 * LANES, left -= 8 * LANES)
        for (size_t i = 0; i < LANES; i++) lanes[i] = step(lanes[i], load_u64(b + 8 * i));
    uint64_t h = (uint64_t)n * K1;
    for (size_t i = 0; i < LANES; i++) h = step(h, finish(lanes[i]));
    for (; left >= 8; b += 8, left -= 8) h = step(h, load_u64(b));
    uint64_t last = 0;
    for (size_t i = 0; i < left; i++) last |= (uint64_t)b[i] << (8 * i);
    return finish(step(h, last));
}
