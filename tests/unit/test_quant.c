/* quant: conversions against an independent computation in double, golden blocks of every type, hostile ones, the types that
 * are written by search, the table of types. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "quant/quant.h"

#include <cmocka.h>

static uint32_t bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* The value of a finite half by its definition. */
static double half_value(uint16_t h)
{
    int exp = h >> 10 & 31, mant = h & 1023;
    double v = exp ? ldexp(1024 + mant, exp - 25) : ldexp(mant, -24);
    return h & 0x8000 ? -v : v;
}

/* x rounded to a grid of mant_bits significant bits and no finer step than 2^min_exp, by the arithmetic of double. */
static double round_to(double x, int mant_bits, int min_exp, double max)
{
    int exp;
    frexp(x, &exp);
    int step = exp - mant_bits > min_exp ? exp - mant_bits : min_exp;
    double r = ldexp(rint(ldexp(x, -step)), step);
    return fabs(r) > max ? copysign(INFINITY, r) : r;
}

static void f16_widens_exactly(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = f16_to_f32((uint16_t)h);
        uint32_t exp = h >> 10 & 31, mant = h & 1023;
        if (exp == 31 && mant) {
            assert_int_equal(bits(f), (h & 0x8000u) << 16 | 0x7fc00000u | mant << 13);
        } else if (exp == 31) {
            assert_true(isinf(f) && !signbit(f) == !(h & 0x8000));
        } else {
            assert_true((double)f == half_value((uint16_t)h));
            assert_true(!signbit(f) == !(h & 0x8000));
        }
        uint16_t back = f32_to_f16(f);
        assert_int_equal(back, exp == 31 && mant ? h | 0x200 : h);
    }
}

static void check_narrow(float f)
{
    uint16_t h = f32_to_f16(f);
    double want = round_to((double)f, 11, -24, 65504.0);
    if (isinf(want)) {
        assert_int_equal(h & 0x7fff, 0x7c00);
    } else {
        assert_int_not_equal(h >> 10 & 31, 31);
        assert_true(half_value(h) == want);
    }
    assert_true(!(h & 0x8000) == !signbit(f));

    uint16_t b = f32_to_bf16(f);
    want = round_to((double)f, 8, -133, (double)from_bits(0x7f7f0000u));
    assert_true((double)bf16_to_f32(b) == want);
    assert_true(!(b & 0x8000) == !signbit(f));
}

/* Around every half, every midpoint of two halves and every midpoint of two bfloat16: the value and its neighbours. */
static void narrowing_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        double mid = (half_value((uint16_t)h) + (h == 0x7bff ? 65536.0 : half_value((uint16_t)(h + 1)))) / 2;
        float around[] = {(float)half_value((uint16_t)h), (float)mid};
        for (size_t i = 0; i < COUNT_OF(around); i++)
            for (uint32_t k = 0; k < 3; k++) {
                uint32_t u = bits(around[i]);
                if (u == 0 && k == 0) continue;
                float f = from_bits(u + k - 1);
                check_narrow(f);
                check_narrow(-f);
            }
    }
    for (uint32_t b = 0; b < 0x7f80; b++)
        for (uint32_t low = 0x7fff; low <= 0x8001; low++) {
            check_narrow(from_bits(b << 16 | low));
            check_narrow(from_bits(0x80000000u | b << 16 | low));
        }
    check_narrow(FLT_MAX);
    check_narrow(0.0f);
    check_narrow(-0.0f);
    uint32_t lcg = 12345;
    for (int i = 0; i < 200000; i++) {
        lcg = lcg * 1664525u + 1013904223u;
        uint32_t u = lcg ^ lcg >> 15;
        if ((u >> 23 & 255) != 255) check_narrow(from_bits(u));
    }
}

static void nan_and_infinity_survive(void **state)
{
    (void)state;
    assert_int_equal(f32_to_f16(INFINITY), 0x7c00);
    assert_int_equal(f32_to_f16(-INFINITY), 0xfc00);
    assert_int_equal(f32_to_bf16(INFINITY), 0x7f80);
    assert_int_equal(f32_to_bf16(-INFINITY), 0xff80);
    /* A signalling NaN whose payload lies only in the low bits must not become an infinity. */
    assert_int_equal(f32_to_f16(from_bits(0x7f800001u)), 0x7e00);
    assert_int_equal(f32_to_bf16(from_bits(0xff800001u)), 0xffc0);
    assert_int_equal(f32_to_f16(from_bits(0xffaaa000u)), 0xff55);
    assert_int_equal(f32_to_bf16(from_bits(0x7faa0000u)), 0x7fea);
    assert_int_equal(f32_to_bf16(from_bits(0x7fffffffu)), 0x7fff);
}

/* Computed by hand from the definition (float steps in double, rounded after each). */
static void q8_0_golden(void **state)
{
    (void)state;
    static const int8_t q[32] = {0,  -50, -50, -11, -48, -46, -21, -42, -39, -32, -32, -28, -43, -19, -14,  -53,
                                 -3, 3,   -64, 16,  23,  -75, 39,  47,  -85, 65,  74,  -96, 94,  105, -107, 127};
    float x[64] = {0};
    for (int i = 0; i < 32; i++) x[i] = i % 3 ? (float)(i * i * 0.37 - 101.25) : (float)(-i * 7.125);
    uint8_t block[68];
    qtypes[QTYPE_Q8_0].quantize(x, NULL, block, 64);
    assert_int_equal(load_u16(block), 0x4001);
    assert_memory_equal(block + 2, q, 32);
    for (int i = 34; i < 68; i++) assert_int_equal(block[i], 0);

    float back[64];
    qtype_to_float(QTYPE_Q8_0, block, back, 64);
    for (int i = 0; i < 32; i++) assert_true(back[i] == 2.001953125f * q[i]);
    for (int i = 32; i < 64; i++) assert_true(back[i] == 0.0f);
}

static void q8_0_rounds_half_away(void **state)
{
    (void)state;
    static const float x[32] = {127.0f, 0.5f, -0.5f, 1.5f, -1.5f, 2.5f, -2.5f, 126.5f, -126.5f, 0.49999997f};
    static const int8_t q[32] = {127, 1, -1, 2, -2, 3, -3, 127, -127, 0};
    uint8_t block[34];
    qtypes[QTYPE_Q8_0].quantize(x, NULL, block, 32);
    assert_int_equal(load_u16(block), 0x3c00);
    assert_memory_equal(block + 2, q, 32);
}

/* Values that no sane model has must neither trap nor look sane. */
static void q8_0_not_finite(void **state)
{
    (void)state;
    const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        float x[32] = {1.0f, 2.0f, bad[i], 3.0f}, back[32];
        uint8_t block[34];
        qtypes[QTYPE_Q8_0].quantize(x, NULL, block, 32);
        qtype_to_float(QTYPE_Q8_0, block, back, 32);
        assert_true(isnan(back[2]));
    }
    float tiny[32] = {1e-44f, -1e-44f, 1e-45f}, huge[32] = {FLT_MAX, -FLT_MAX}, back[32];
    uint8_t block[34];
    qtypes[QTYPE_Q8_0].quantize(tiny, NULL, block, 32);
    qtype_to_float(QTYPE_Q8_0, block, back, 32);
    assert_true(back[0] == 0.0f && back[1] == 0.0f);
    qtypes[QTYPE_Q8_0].quantize(huge, NULL, block, 32);
    assert_int_equal(load_u16(block), 0x7c00);
    assert_int_equal((int8_t)block[2], 127);
    assert_int_equal((int8_t)block[3], -127);
}

/* FNV-1a of the bits of n floats; all NaN are one. */
static uint64_t hash_floats(uint64_t hash, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (unsigned shift = 0; shift < 32; shift += 8) {
            uint32_t u = isnan(x[i]) ? 0x7fc00000u : bits(x[i]);
            hash = (hash ^ (u >> shift & 255)) * UINT64_C(0x100000001b3);
        }
    return hash;
}

static void fill_noise(uint64_t *state, uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        p[i] = (uint8_t)(*state >> 56);
    }
}

/* What the reference implementation of the format makes of 256 blocks of noise, of which any bytes are valid: a hash of all
 * floats, and the first four. The noise of a type starts from 100 + its number in files. */
static const struct {
    uint64_t hash;
    float first[4];
} golden[QTYPE_COUNT] = {
    [QTYPE_Q8_0] = {UINT64_C(0x54602cdf3ea842bd), {0.791992188f, 1.32411194f, -0.445495605f, 0.136123657f}},
    [QTYPE_Q4_0] = {UINT64_C(0x7610e556a6b80841), {-0.799804688f, 0.133300781f, 0.666503906f, 0.133300781f}},
    [QTYPE_Q4_1] = {UINT64_C(0xbe4fbc4090a5495e), {0.029227674f, 0.0179743171f, 0.0269770026f, 0.029227674f}},
    [QTYPE_Q5_0] = {UINT64_C(0xb092752308f11738), {-316.09375f, 632.1875f, -677.34375f, 180.625f}},
    [QTYPE_Q5_1] = {UINT64_C(0x7f07af34dfff2a29), {7371.01172f, 7364.27051f, 7372.50977f, 7370.2627f}},
    [QTYPE_IQ4_NL] = {UINT64_C(0xb8bd7244afb3d27f), {-0.00345885754f, -0.00820243359f, 0.00681889057f, -0.0102777481f}},
    [QTYPE_MXFP4] = {UINT64_C(0x60d6f2a3bcd0b104), {4.51389831e-36f, 6.01853108e-36f, -7.52316385e-37f, 0.0f}},
    [QTYPE_Q2_K] = {UINT64_C(0x1657be2d892731ff), {-0.0106544495f, -0.0106544495f, 0.0f, -0.0106544495f}},
    [QTYPE_Q3_K] = {UINT64_C(0xfef286f7ca2d23ac), {3526.0f, 3526.0f, 10578.0f, 7052.0f}},
    [QTYPE_Q4_K] = {UINT64_C(0xbe6c2ab55d7f3e3a), {-7514.92969f, -7511.07227f, -7538.07422f, -7511.07227f}},
    [QTYPE_Q5_K] = {UINT64_C(0x3b5d108eb7bd7f58), {-881.803711f, -941.852539f, -903.639648f, -944.582031f}},
    [QTYPE_Q6_K] = {UINT64_C(0x9640ca0b1d3ed970), {0.293569565f, 0.244641304f, -0.366961956f, -0.207945108f}},
    [QTYPE_IQ4_XS] = {UINT64_C(0xbe98e6b70f9cae43), {-1402.81348f, 895.772461f, -169.013672f, 16.9013672f}},
    [QTYPE_TQ1_0] = {UINT64_C(0x5c809beb086d8509), {1012.0f, -1012.0f, -0.0f, -1012.0f}},
    [QTYPE_TQ2_0] = {UINT64_C(0x2c62a013ae429eff), {0.000712871552f, -0.000356435776f, 0.000356435776f, -0.000356435776f}},
    [QTYPE_IQ2_XXS] = {UINT64_C(0xec70c4a49fb706f0), {27405.0f, 147301.875f, 27405.0f, -85640.625f}},
    [QTYPE_IQ2_XS] = {UINT64_C(0xadc1cbf34e16d810), {-65.296875f, -65.296875f, -65.296875f, -204.052734f}},
    [QTYPE_IQ2_S] = {UINT64_C(0x1b71f7d68cff58f5), {358.398438f, -114.6875f, 114.6875f, -358.398438f}},
    [QTYPE_IQ3_XXS] = {UINT64_C(0x7680b22510db3840), {118.316162f, -13.1462402f, -13.1462402f, 118.316162f}},
    [QTYPE_IQ3_S] = {UINT64_C(0x709042aeafb22db1), {40040.0f, 280280.0f, 40040.0f, -200200.0f}},
    [QTYPE_IQ1_S] = {UINT64_C(0x7382f379a043c66f), {0.0606393814f, 0.00673770905f, 0.00673770905f, 0.0606393814f}},
    [QTYPE_IQ1_M] = {UINT64_C(0x020f92f3f5162bba), {-12.7011719f, -12.7011719f, 1.81445312f, 1.81445312f}},
};

static void blocks_golden(void **state)
{
    (void)state;
    for (enum qtype t = 0; t < QTYPE_COUNT; t++) {
        const struct qtype_info *info = &qtypes[t];
        if (!info->unpack || info->ggml_id == NO_GGML) continue;
        uint64_t noise = 100 + info->ggml_id, hash = UINT64_C(0xcbf29ce484222325);
        for (int b = 0; b < 256; b++) {
            uint8_t block[256];
            float x[QSUPER];
            fill_noise(&noise, block, info->block_bytes);
            qtype_to_float(t, block, x, info->block_n);
            for (int i = 0; b == 0 && i < 4; i++)
                if (bits(x[i]) != bits(golden[t].first[i]))
                    fail_msg("%s: weight %d is %.9g, not %.9g", info->name, i, (double)x[i], (double)golden[t].first[i]);
            hash = hash_floats(hash, x, info->block_n);
        }
        if (hash != golden[t].hash) fail_msg("%s: the hash is %016" PRIx64, info->name, hash);
    }
}

static void check_bounds(enum qtype t, const struct qblock *q)
{
    const struct qtype_info *info = &qtypes[t];
    for (size_t i = 0; i < info->block_n; i++) assert_in_range(abs(q->u[i] - info->off), 0, info->off ? 128 : 255);
    for (size_t s = 0; info->arith == ARITH_256 && s < QSUPER / QSUB; s++) {
        assert_in_range(abs(q->sc[s]), 0, 128);
        if (info->has_min) assert_in_range(q->mn[s], 0, 63);
    }
}

/* No bytes lead unpack outside of its block, which ends here with the allocation, or of struct qblock's bounds. */
static void blocks_hostile(void **state)
{
    (void)state;
    for (enum qtype t = 0; t < QTYPE_COUNT; t++) {
        const struct qtype_info *info = &qtypes[t];
        if (!info->unpack || info->ggml_id == NO_GGML) continue;
        uint8_t *row = malloc(2 * info->block_bytes);
        uint64_t noise = t;
        struct qblock q;
        assert_non_null(row);
        for (int i = 0; i < 1000; i++) {
            if (i < 2)
                memset(row, i ? 0xff : 0, 2 * info->block_bytes);
            else
                fill_noise(&noise, row, 2 * info->block_bytes);
            for (size_t b = 0; b < 2; b++) {
                info->unpack(&(struct qrow){.data = row}, b, &q);
                check_bounds(t, &q);
            }
        }
        free(row);
    }
}

static void rows_need_no_alignment(void **state)
{
    (void)state;
    for (unsigned t = QTYPE_F32; t <= QTYPE_Q8_0; t++) {
        uint8_t odd[1 + 64 * 4];
        float x[64], back[64];
        for (int i = 0; i < 64; i++) x[i] = (float)(i % 2 ? i : -i) * (127.0f / 63.0f);
        qtypes[t].quantize(x, NULL, odd + 1, 64);
        qtype_to_float(t, odd + 1, back, 64);
        for (int i = 0; i < 64; i++) assert_true(fabsf(back[i] - x[i]) <= 0.51f);
    }
}

/* ---- types written by search ----------------------------------------------------------------------------------- */

enum { SEARCH_N = 1024 };

/* Largest relative root mean square error of samples(), and FNV-1a of the bytes they become: the same on every machine. */
static const struct {
    enum qtype type;
    double rms;
    uint64_t hash;
} searched[] = {
    {QTYPE_Q4_0, 0.0851, 0xc201e20701c376e1},   {QTYPE_Q4_1, 0.0730, 0xdaf9019c7dfd1ec5},
    {QTYPE_Q5_0, 0.0420, 0x82835781fbe34ab4},   {QTYPE_Q5_1, 0.0351, 0x20ee115a7627b38a},
    {QTYPE_IQ4_NL, 0.0759, 0x1fceca7c3092183e}, {QTYPE_MXFP4, 0.1154, 0xb208b0e1f9af4f0a},
    {QTYPE_Q2_K, 0.2722, 0x3e47dca0ec618c4e},   {QTYPE_Q3_K, 0.1505, 0x3eae3c0fe87cc85e},
    {QTYPE_Q4_K, 0.0740, 0xdbffa7e95b875bbf},   {QTYPE_Q5_K, 0.0355, 0xc0e1de0c08719996},
    {QTYPE_Q6_K, 0.0169, 0x8b0aabd5dfd9ef54},   {QTYPE_IQ4_XS, 0.0763, 0x43cdfe3f7cee2913},
};

/* About normal with mean 0 and deviation 0.03: sums of 8 uniform numbers, exact in float. */
static void samples(uint32_t seed, float x[SEARCH_N])
{
    for (size_t i = 0; i < SEARCH_N; i++) {
        int32_t sum = 0;
        for (int k = 0; k < 8; k++) {
            seed = seed * 1664525u + 1013904223u;
            sum += (int32_t)(seed >> 16) - 32768;
        }
        x[i] = (float)sum * 0x1p-20f;
    }
}

static double relative_error(const float *x, const float *y, const float *weight)
{
    double err = 0, all = 0;
    for (size_t i = 0; i < SEARCH_N; i++) {
        double w = weight ? (double)weight[i] : 1.0, d = (double)x[i] - (double)y[i];
        err += w * d * d;
        all += w * (double)x[i] * (double)x[i];
    }
    return sqrt(err / all);
}

static void there_and_back(enum qtype t, const float *x, const struct qcolumns *c, float *y)
{
    uint8_t bytes[SEARCH_N * 2];
    qtypes[t].quantize(x, c, bytes, SEARCH_N);
    qtype_to_float(t, bytes, y, SEARCH_N);
}

static void search_errors_are_small(void **state)
{
    (void)state;
    float x[SEARCH_N], y[SEARCH_N], z[SEARCH_N];
    samples(1, x);
    for (size_t i = 0; i < COUNT_OF(searched); i++) {
        there_and_back(searched[i].type, x, NULL, y);
        double err = relative_error(x, y, NULL);
        if (err > searched[i].rms) fail_msg("%s: relative error %.5f", qtypes[searched[i].type].name, err);
        /* What is on levels already stays nearly there. */
        there_and_back(searched[i].type, y, NULL, z);
        err = relative_error(y, z, NULL);
        if (err > searched[i].rms / 4) fail_msg("%s: error %.5f the second time", qtypes[searched[i].type].name, err);
    }
}

static void search_gives_the_same_bytes_everywhere(void **state)
{
    (void)state;
    float x[SEARCH_N];
    samples(2, x);
    for (size_t i = 0; i < COUNT_OF(searched); i++) {
        const struct qtype_info *t = &qtypes[searched[i].type];
        uint8_t bytes[SEARCH_N * 2];
        t->quantize(x, NULL, bytes, SEARCH_N);
        uint64_t hash = 0xcbf29ce484222325u;
        for (size_t k = 0; k < SEARCH_N / t->block_n * t->block_bytes; k++) hash = (hash ^ bytes[k]) * 0x100000001b3u;
        if (hash != searched[i].hash) fail_msg("%s: hash 0x%016llx", t->name, (unsigned long long)hash);
    }
}

/* Columns that matter get the smaller errors; importance that says nothing changes nothing. */
static void importance_counts(void **state)
{
    (void)state;
    float x[SEARCH_N], importance[SEARCH_N], y[SEARCH_N], z[SEARCH_N];
    const struct qcolumns c = {importance, NULL};
    samples(3, x);
    for (size_t i = 0; i < COUNT_OF(searched); i++) {
        enum qtype t = searched[i].type;
        for (size_t k = 0; k < SEARCH_N; k++) importance[k] = k % 5 ? 0.125f : 4.0f;
        there_and_back(t, x, NULL, y);
        there_and_back(t, x, &c, z);
        if (relative_error(x, z, importance) >= relative_error(x, y, importance)) fail_msg("%s", qtypes[t].name);
        const float nothing[] = {0.0f, NAN, INFINITY};
        for (size_t v = 0; v < COUNT_OF(nothing); v++) {
            for (size_t k = 0; k < SEARCH_N; k++) importance[k] = nothing[v];
            there_and_back(t, x, &c, z);
            assert_memory_equal(y, z, sizeof y);
        }
    }
}

/* The expected square of a row's error, where inputs vary independently about their means; *of_mean gets its part of them. */
static double expected_error(const float *x, const float *y, const struct qcolumns *c, double *of_mean)
{
    double sum = 0, mean = 0;
    for (size_t i = 0; i < SEARCH_N; i++) {
        const double d = (double)y[i] - (double)x[i], m = (double)c->means[i];
        sum += ((double)c->squares[i] - m * m) * d * d;
        mean += m * d;
    }
    *of_mean = mean * mean;
    return sum + *of_mean;
}

/* Where the mean input is known errors cancel for it, and the whole becomes smaller; means that say nothing change nothing. */
static void errors_cancel_for_the_mean(void **state)
{
    (void)state;
    float x[SEARCH_N], squares[SEARCH_N], means[SEARCH_N], y[SEARCH_N], z[SEARCH_N];
    const struct qcolumns c = {squares, means}, without = {squares, NULL};
    double part;
    for (size_t i = 0; i < COUNT_OF(searched); i++) {
        const enum qtype t = searched[i].type;
        double all[2] = {0}, of_mean[2] = {0};
        for (uint32_t row = 0; row < 8; row++) {
            samples(40 + row, x);
            samples(60 + row, means);
            for (size_t k = 0; k < SEARCH_N; k++) squares[k] = means[k] * means[k] * (k % 3 ? 3.0f : 1.5f);
            there_and_back(t, x, &without, y);
            there_and_back(t, x, &c, z);
            all[0] += expected_error(x, y, &c, &part), of_mean[0] += part;
            all[1] += expected_error(x, z, &c, &part), of_mean[1] += part;
        }
        if (all[1] >= all[0] || of_mean[1] > 0.05 * of_mean[0])
            fail_msg("%s: error %g of %g, that of the mean %g of %g", qtypes[t].name, all[1], all[0], of_mean[1], of_mean[0]);
        const float nothing[] = {0.0f, NAN, INFINITY, -0x1p120f};
        for (size_t v = 0; v < COUNT_OF(nothing); v++) {
            for (size_t k = 0; k < SEARCH_N; k++) means[k] = nothing[v];
            there_and_back(t, x, &c, z);
            assert_memory_equal(y, z, sizeof y);
        }
    }
}

static void search_of_odd_rows(void **state)
{
    (void)state;
    float x[SEARCH_N], y[SEARCH_N], importance[SEARCH_N];
    for (size_t i = 0; i < COUNT_OF(searched); i++) {
        enum qtype t = searched[i].type;
        memset(x, 0, sizeof x);
        there_and_back(t, x, NULL, y);
        assert_memory_equal(x, y, sizeof y);
        const float same[] = {1.0f, -0.3f, 65504.0f, 0x1p-12f};
        for (size_t v = 0; v < COUNT_OF(same); v++) {
            for (size_t k = 0; k < SEARCH_N; k++) x[k] = same[v];
            there_and_back(t, x, NULL, y);
            double err = relative_error(x, y, NULL);
            if (!(err <= 0.17)) fail_msg("%s: all %g, error %.4f", qtypes[t].name, (double)same[v], err);
        }
        for (size_t k = 0; k < SEARCH_N; k++) x[k] = k % 2 ? 1e-44f : -1e-30f;
        there_and_back(t, x, NULL, y);
        for (size_t k = 0; k < SEARCH_N; k++) assert_true(fabsf(y[k]) <= 2e-30f);
        /* Whatever these become, nothing traps. */
        const float bad[] = {NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, 1e20f};
        for (size_t v = 0; v < COUNT_OF(bad); v++) {
            samples(4, x);
            for (size_t k = v; k < SEARCH_N; k += 37) x[k] = bad[v];
            there_and_back(t, x, NULL, y);
            for (size_t k = 0; k < SEARCH_N; k++) importance[k] = k % 64 < 32 ? 0.0f : 1e30f;
            there_and_back(t, x, &(struct qcolumns){importance, x}, y);
        }
    }
}

/* ---- MLX's types, whose scales lie apart ------------------------------------------------------------------------- */

enum { K = 256, ROWS = 3 };

/* Random bytes. */
static void noise(uint8_t *p, size_t n)
{
    static uint32_t lcg = 99;
    for (size_t i = 0; i < n; i++) {
        lcg = lcg * 1664525u + 1013904223u;
        p[i] = (uint8_t)(lcg >> 24);
    }
}

/* Bits at .. at + n - 1 of a stream, lowest first. */
static unsigned bits_at(const uint8_t *p, size_t at, unsigned n)
{
    unsigned v = 0;
    for (unsigned i = 0; i < n; i++) v |= (p[(at + i) / 8] >> (at + i) % 8 & 1u) << i;
    return v;
}

/* All weights of the last of ROWS rows, in two pieces, against want(ctx, i). */
static void check_row(enum qtype t, const uint8_t *data, const struct qside *side, double (*want)(const void *, size_t),
                      const void *ctx)
{
    uint64_t row_bytes;
    float w[K];
    assert_true(qtype_row_bytes(t, K, &row_bytes));
    const struct qrow row = {data + (ROWS - 1) * row_bytes, side, (ROWS - 1) * (K / side->group)};
    qtypes[t].row_to_float(&row, 0, w, 96);
    qtypes[t].row_to_float(&row, 96, w + 96, K - 96);
    for (size_t i = 0; i < K; i++) {
        double exact = want(ctx, (ROWS - 1) * K + i), bound = 1.5e-7 * (fabs(exact) + 4);
        if (isnan(exact) ? !isnan(w[i]) : fabs((double)w[i] - exact) > bound)
            fail_msg("%s: weight %zu is %.9g, expected %.9g", qtypes[t].name, i, (double)w[i], exact);
    }
}

struct affine {
    const uint8_t *data;
    const float *scales, *biases;
    unsigned bits, group;
};

static double affine_weight(const void *ctx, size_t i)
{
    const struct affine *a = ctx;
    return (double)a->scales[i / a->group] * bits_at(a->data, i * a->bits, a->bits) + (double)a->biases[i / a->group];
}

static void mlx_affine(void **state)
{
    (void)state;
    static const struct {
        enum qtype type;
        unsigned bits;
    } types[] = {{QTYPE_MLX2, 2}, {QTYPE_MLX3, 3}, {QTYPE_MLX4, 4}, {QTYPE_MLX5, 5}, {QTYPE_MLX6, 6}, {QTYPE_MLX8, 8}};
    static const enum qtype sides[] = {QTYPE_F32, QTYPE_F16, QTYPE_BF16};
    for (size_t i = 0; i < 9 * COUNT_OF(types); i++) {
        const enum qtype side_type = sides[i % 3];
        const unsigned group = 32u << i / 3 % 3, n = ROWS * K / group;
        float scales[ROWS * K / 32], biases[ROWS * K / 32];
        uint8_t data[ROWS * K], packed[2][sizeof scales + 1];
        noise(data, sizeof data);
        for (unsigned g = 0; g < n; g++) { /* numbers that every type has */
            scales[g] = (float)(1 + g % 50) / 64;
            biases[g] = -(float)(g % 77) / 8;
        }
        qtypes[side_type].quantize(scales, NULL, packed[0] + 1, n); /* aligned to nothing */
        qtypes[side_type].quantize(biases, NULL, packed[1] + 1, n);
        const struct qside side = {packed[0] + 1, packed[1] + 1, side_type, group};
        const struct affine a = {data, scales, biases, types[i / 9].bits, group};
        check_row(types[i / 9].type, data, &side, affine_weight, &a);
    }
}

static double e2m1_value(unsigned b)
{
    static const double v[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    return b & 8 ? -v[b & 7] : v[b];
}

static double e4m3_value(unsigned b)
{
    int exp = b >> 3 & 15, mant = b & 7;
    double v = (b & 0x7f) == 0x7f ? NAN : exp ? ldexp(8 + mant, exp - 10) : ldexp(mant, -9);
    return b & 0x80 ? -v : v;
}

static double mxfp4_weight(const void *ctx, size_t i)
{
    const struct qside *s = ctx;
    return ldexp(e2m1_value(bits_at(s->biases, 4 * i, 4)), s->scales[i / 32] - 127);
}
static double mxfp8_weight(const void *ctx, size_t i)
{
    const struct qside *s = ctx;
    return ldexp(e4m3_value(s->biases[i]), s->scales[i / 32] - 127);
}
static double nvfp4_weight(const void *ctx, size_t i)
{
    const struct qside *s = ctx;
    return e4m3_value(s->scales[i / 16]) * e2m1_value(bits_at(s->biases, 4 * i, 4));
}

static void mlx_microscaling(void **state)
{
    (void)state;
    uint8_t data[ROWS * K], scales[ROWS * K / 16];
    noise(scales, sizeof scales);
    noise(data, sizeof data);
    for (unsigned i = 0; i < K; i++) data[(ROWS - 1) * K + i] = (uint8_t)i; /* every e4m3 there is */
    struct qside side = {scales, NULL, QTYPE_F32, 16}, expect = {scales, data, QTYPE_F32, 0};
    check_row(QTYPE_MLX_NVFP4, data, &side, nvfp4_weight, &expect);
    for (size_t i = 0; i < sizeof scales; i++) scales[i] = (uint8_t)(100 + scales[i] % 30);
    side.group = 32;
    check_row(QTYPE_MLX_MXFP4, data, &side, mxfp4_weight, &expect);
    check_row(QTYPE_MLX_MXFP8, data, &side, mxfp8_weight, &expect);
}

static void table_and_names(void **state)
{
    (void)state;
    enum qtype t;
    uint64_t n;
    assert_true(qtype_by_name(STR("Q8_0"), &t) && t == QTYPE_Q8_0);
    assert_true(qtype_by_name(STR("bf16"), &t) && t == QTYPE_BF16);
    assert_false(qtype_by_name(STR("q8_"), &t));
    assert_false(qtype_by_name(STR(""), &t));
    for (unsigned i = 0; i < QTYPE_COUNT; i++) {
        if (qtypes[i].ggml_id == NO_GGML) continue;
        assert_true(qtype_by_ggml(qtypes[i].ggml_id, &t) && t == i);
        assert_string_equal(ggml_type_name(qtypes[i].ggml_id), qtypes[i].name);
    }
    assert_false(qtype_by_ggml(43, &t));
    assert_false(qtype_by_ggml(NO_GGML, &t));
    assert_string_equal(ggml_type_name(12), "q4_k");
    assert_string_equal(ggml_type_name(30), "bf16");
    assert_string_equal(ggml_type_name(39), "mxfp4");
    assert_string_equal(ggml_type_name(40), "nvfp4");
    assert_string_equal(ggml_type_name(43), "?");
    assert_string_equal(ggml_type_name(UINT32_MAX), "?");
    assert_true(qtype_row_bytes(QTYPE_Q8_0, 64, &n) && n == 68);
    assert_false(qtype_row_bytes(QTYPE_Q8_0, 63, &n));
    assert_true(qtype_row_bytes(QTYPE_F32, UINT64_MAX / 4, &n) && n == UINT64_MAX - 3);
    assert_false(qtype_row_bytes(QTYPE_F32, UINT64_MAX / 4 + 1, &n));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f16_widens_exactly),
        cmocka_unit_test(narrowing_rounds_to_nearest_even),
        cmocka_unit_test(nan_and_infinity_survive),
        cmocka_unit_test(q8_0_golden),
        cmocka_unit_test(q8_0_rounds_half_away),
        cmocka_unit_test(q8_0_not_finite),
        cmocka_unit_test(rows_need_no_alignment),
        cmocka_unit_test(search_errors_are_small),
        cmocka_unit_test(search_gives_the_same_bytes_everywhere),
        cmocka_unit_test(importance_counts),
        cmocka_unit_test(errors_cancel_for_the_mean),
        cmocka_unit_test(search_of_odd_rows),
        cmocka_unit_test(blocks_golden),
        cmocka_unit_test(blocks_hostile),
        cmocka_unit_test(mlx_affine),
        cmocka_unit_test(mlx_microscaling),
        cmocka_unit_test(table_and_names),
    };
    return cmocka_run_group_tests_name("quant", tests, NULL, NULL);
}
