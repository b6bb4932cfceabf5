/* quant: conversions against an independent computation in double, golden Q8_0 blocks, the table of types. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <float.h>
#include <math.h>

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
        cmocka_unit_test(f16_widens_exactly),       cmocka_unit_test(narrowing_rounds_to_nearest_even),
        cmocka_unit_test(nan_and_infinity_survive), cmocka_unit_test(q8_0_golden),
        cmocka_unit_test(q8_0_rounds_half_away),    cmocka_unit_test(q8_0_not_finite),
        cmocka_unit_test(rows_need_no_alignment),   cmocka_unit_test(mlx_affine),
        cmocka_unit_test(mlx_microscaling),         cmocka_unit_test(table_and_names),
    };
    return cmocka_run_group_tests_name("quant", tests, NULL, NULL);
}
