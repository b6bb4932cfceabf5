/* test_kernels: proves the kernels of every CPU level that this machine can run.
 *
 *  1. The scalar kernels, which are the specification, against double precision within stated bounds.
 *  2. Every function pointer of a level that no lower level had, against scalar, bit for bit: ordinary and adversarial numbers,
 * all sizes around tile borders, inputs and outputs that end at an unreadable page, canaries around every output. The sign and
 * payload of a NaN are the only bits that may differ.
 *
 * Under an emulator (QUERN_TEST_SLOW) a part of the cases runs, and where a sanitizer watches: it looks into the scalar kernels
 * and this program only, and the others are the very files that run all cases in the release build.
 *
 * Prints TAP. --seed N repeats a run, --filter TEXT runs what has TEXT in its name ("avx2 attn"), --bench measures instead. */
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernel_tests.h"
#include "sanitized.h"

/* Where the f16 numbers of a block are. That of IQ1_M is the top 4 bits of each u16 from byte 48 on. */
static const struct {
    size_t n, at[2];
} halves[QTYPE_COUNT] = {
    [QTYPE_Q8_0] = {1, {0}},    [QTYPE_Q4_0] = {1, {0}},    [QTYPE_Q4_1] = {2, {0, 2}},   [QTYPE_Q5_0] = {1, {0}},
    [QTYPE_Q5_1] = {2, {0, 2}}, [QTYPE_IQ4_NL] = {1, {0}},  [QTYPE_Q2_K] = {2, {80, 82}}, [QTYPE_Q3_K] = {1, {108}},
    [QTYPE_Q4_K] = {2, {0, 2}}, [QTYPE_Q5_K] = {2, {0, 2}}, [QTYPE_Q6_K] = {1, {208}},    [QTYPE_IQ4_XS] = {1, {0}},
    [QTYPE_TQ1_0] = {1, {52}},  [QTYPE_TQ2_0] = {1, {64}},  [QTYPE_IQ2_XXS] = {1, {0}},   [QTYPE_IQ2_XS] = {1, {0}},
    [QTYPE_IQ2_S] = {1, {0}},   [QTYPE_IQ3_XXS] = {1, {0}}, [QTYPE_IQ3_S] = {1, {0}},     [QTYPE_IQ1_S] = {1, {0}},
};

/* ---- results ----------------------------------------------------------------------------------------- */

static const char *filter;
static bool slow; /* fewer cases */
static unsigned n_tests, n_failed;
static char why[400]; /* the first difference of the running test; empty while there is none */

/* Notes a difference; false, for the callers that say whether all is well. */
static bool differs(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static bool differs(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (!why[0]) vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    return false;
}

/* Adds the case in which it was found. */
static void where(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void where(const char *fmt, ...)
{
    size_t n = strlen(why);
    va_list ap;
    va_start(ap, fmt);
    n += (size_t)snprintf(why + n, sizeof why - n, "; ");
    vsnprintf(why + n, sizeof why - n, fmt, ap);
    va_end(ap);
}

static void report(const char *level, const char *name)
{
    n_tests++;
    n_failed += why[0] != 0;
    printf("%sok %u - %s %s\n", why[0] ? "not " : "", n_tests, level, name);
    if (why[0]) printf("# %s\n", why);
    why[0] = 0;
    fflush(stdout);
}

static char running[100]; /* the test that runs now, or was asked for last */

static bool wanted(const char *level, const char *name)
{
    snprintf(running, sizeof running, "%s %s", level, name);
    return !filter || strstr(running, filter);
}

/* A kernel touched a page beside its operands, or used an instruction that this machine lacks. */
static void on_fault(int sig)
{
    static const char outside[] = "Bail out! access outside of the operands: ", illegal[] = "Bail out! illegal instruction: ";
    ssize_t n = sig == SIGILL ? write(1, illegal, sizeof illegal - 1) : write(1, outside, sizeof outside - 1);
    n += write(1, running, strlen(running));
    n += write(1, "\n", 1);
    _exit(n > 0 ? 1 : 2);
}

/* ---- random and adversarial numbers -------------------------------------------------------------------- */

static uint64_t rng_state;

uint64_t random_bits(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state * UINT64_C(0x2545f4914f6cdd1d) >> 16;
}
static size_t below(size_t n)
{
    return (size_t)(random_bits() % n);
}
float random_float(void)
{
    return (float)(int64_t)(random_bits() & 0xffffff) * 0x1p-23f - 1.0f;
}
static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

enum kind { ORDINARY, ZEROS, TINY, LARGE, EQUAL, ALTERNATE, CANCEL, WIDE, SPECIAL, KINDS };
static const char *const kind_names[KINDS] = {"ordinary",  "zeros",  "tiny", "large",  "equal",
                                              "alternate", "cancel", "wide", "special"};

static float draw(enum kind kind, size_t i)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, 0x1p-149f, -0.0f, 0x1p-100f};
    uint32_t sign = (uint32_t)random_bits() & 0x80000000u;
    switch (kind) {
    case ZEROS:
        return from_bits(sign);
    case TINY: /* subnormal */
        return from_bits(sign | ((uint32_t)random_bits() & 0x7fffffu));
    case LARGE:
        return from_bits(sign | 0x58000000u | ((uint32_t)random_bits() & 0xffffffu)); /* 2^49..2^51 */
    case EQUAL:
        return 0.7f;
    case ALTERNATE:
        return i % 2 ? -1.25f : 1.25f;
    case CANCEL:
        return (i % 2 ? -1e6f : 1e6f) + random_float();
    case WIDE: /* 2^-63..2^64 */
        return from_bits(sign | (64u + (uint32_t)below(128)) << 23 | ((uint32_t)random_bits() & 0x7fffffu));
    case SPECIAL:
        return below(24) ? random_float() : odd[below(COUNT_OF(odd))];
    default:
        return random_float();
    }
}

static uint16_t draw_half(enum kind kind, size_t i)
{
    uint16_t bits = (uint16_t)random_bits(), sign = bits & 0x8000u;
    switch (kind) {
    case TINY: /* subnormal */
        return bits & 0x83ffu;
    case LARGE:
        return sign | 0x7bffu; /* 65504 */
    case WIDE:
        return (bits & 0x7c00u) == 0x7c00u ? sign | 0x3c00u : bits;
    case SPECIAL:
        return below(24) ? f32_to_f16(random_float()) : bits;
    default:
        return f32_to_f16(fminf(fmaxf(draw(kind, i), -65504.0f), 65504.0f));
    }
}

static void fill_floats(enum kind kind, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = draw(kind, i);
}

static uint16_t draw_scale(enum kind kind, size_t i)
{
    return kind == ORDINARY || kind == CANCEL ? f32_to_f16(0.02f * fabsf(random_float())) : draw_half(kind, i);
}

/* One block of integers: any bytes or all the same, and scales of the kind. */
static void fill_block(enum kind kind, enum qtype t, uint8_t *block, size_t i)
{
    for (size_t j = 0; j < qtypes[t].block_bytes; j++)
        block[j] = kind == EQUAL       ? 0x80
                   : kind == ALTERNATE ? (j % 2 ? 0x80 : 0x7f)
                   : kind == ZEROS     ? 0
                                       : (uint8_t)random_bits();
    if (t == QTYPE_MXFP4 && (kind == ORDINARY || kind == CANCEL)) block[0] = (uint8_t)(116 + below(8));
    for (size_t j = 0; t == QTYPE_MLX_MXFP8 && kind != SPECIAL && j < qtypes[t].block_bytes; j++)
        if ((block[j] & 0x7f) == 0x7f) block[j] ^= 1; /* else a NaN */
    for (size_t j = 0; j < halves[t].n; j++) {
        uint16_t h = draw_scale(kind, i);
        memcpy(block + halves[t].at[j], &h, 2);
    }
    if (t != QTYPE_IQ1_M) return;
    uint16_t h = draw_scale(kind, i);
    for (size_t j = 0; j < 4; j++) block[49 + 2 * j] = (uint8_t)((block[49 + 2 * j] & 15) | (h >> 4 * j & 15) << 4);
}

static void fill_kind(enum kind kind, enum qtype t, uint8_t *w, size_t n)
{
    const struct qtype_info *info = &qtypes[t];
    const bool blocks = info->block_n > 1;
    for (size_t b = 0; blocks && b < n / info->block_n; b++) fill_block(kind, t, w + b * info->block_bytes, b);
    for (size_t i = 0; !blocks && i < n; i++) {
        float f = t == QTYPE_F32 ? draw(kind, i) : 0.0f;
        uint16_t h = t == QTYPE_BF16 ? f32_to_bf16(draw(kind, i)) : t == QTYPE_F16 ? draw_half(kind, i) : 0;
        memcpy(w + info->block_bytes * i, t == QTYPE_F32 ? (const void *)&f : &h, info->block_bytes);
    }
}

bool has_side(enum qtype t)
{
    return t >= QTYPE_MLX2 && t <= QTYPE_MLX_NVFP4;
}

/* A group size that a type may have and that divides k. */
static uint32_t side_group(enum qtype t, size_t k)
{
    static const uint32_t sizes[] = {32, 64, 128};
    uint32_t group = t == QTYPE_MLX_NVFP4 ? 16 : qtypes[t].has_min ? sizes[below(COUNT_OF(sizes))] : 32;
    while (k % group) group /= 2;
    return group;
}

/* n scales or biases in p. */
static void fill_side(enum kind kind, enum qtype t, enum qtype side, uint8_t *p, size_t n)
{
    const bool plain = kind == ORDINARY || kind == CANCEL;
    for (size_t i = 0; i < n; i++) {
        float f = plain ? 0.02f * random_float() : draw(kind, i);
        uint16_t h = side == QTYPE_BF16 ? f32_to_bf16(f) : plain ? f32_to_f16(f) : draw_half(kind, i);
        uint8_t b = !plain ? (uint8_t)random_bits() : (uint8_t)(t == QTYPE_MLX_NVFP4 ? below(0x7f) : 116 + below(8));
        const void *from = !qtypes[t].has_min ? (const void *)&b : side == QTYPE_F32 ? (const void *)&f : &h;
        const size_t size = !qtypes[t].has_min ? 1 : qtypes[side].block_bytes;
        memcpy(p + i * size, from, size);
    }
}

void fill_weights(enum qtype t, uint8_t *w, size_t n)
{
    fill_kind(ORDINARY, t, w, n);
}

/* ---- memory that ends at an unreadable page ---------------------------------------------------------------- */

enum { AREAS = 14, AREA_BYTES = 4 << 20 };
static uint8_t *areas[AREAS]; /* each AREA_BYTES between two pages that fault */

static void areas_init(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < AREAS; i++) {
        uint8_t *p = mmap(NULL, AREA_BYTES + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED || mprotect(p + page, AREA_BYTES, PROT_READ | PROT_WRITE) != 0) {
            printf("Bail out! no memory\n");
            exit(1);
        }
        areas[i] = p + page;
    }
}

/* n bytes of area i that end at its last one, or skip bytes before. */
static void *area(size_t i, size_t n, size_t skip)
{
    if (n + skip > AREA_BYTES) {
        printf("Bail out! a test wants %zu bytes\n", n);
        exit(1);
    }
    return areas[i] + AREA_BYTES - n - skip;
}

/* Areas by use: REF and OUT hold an output of scalar and of the kernel under test, with REF2, OUT2 a second one. */
enum { REF, OUT, REF2, OUT2, IN0, IN1, IN2, IN3, IN4, SCRATCH, PACKED, SCALES, BIASES, SUMS };

/* Canaries before an output: a kernel that writes below it changes them. Above it is the page. */
enum { CANARY = 64 };

static float *out_floats(size_t i, size_t n)
{
    memset((uint8_t *)area(i, n * 4, 0) - CANARY, 0xa5, n * 4 + CANARY);
    return area(i, n * 4, 0);
}

/* Two areas of n floats and their canaries: equal bits, or NaN in both. */
static bool same_floats(size_t ref, size_t out, size_t n, const char *what)
{
    const float *a = area(ref, n * 4, 0), *b = area(out, n * 4, 0);
    if (memcmp((const uint8_t *)a - CANARY, (const uint8_t *)b - CANARY, n * 4 + CANARY) == 0) return true;
    for (size_t i = 0; i < n; i++)
        if (load_u32(a + i) != load_u32(b + i) && !(isnan(a[i]) && isnan(b[i])))
            return differs("%s: [%zu] of %zu is %a, scalar %a", what, i, n, (double)b[i], (double)a[i]);
    return memcmp((const uint8_t *)a - CANARY, (const uint8_t *)b - CANARY, CANARY) == 0 || differs("%s: canary", what);
}

/* Scales and biases for rows of k weights, n_rows of them, at any alignment; NULL where the type has none. */
static const struct qside *make_side(enum kind kind, enum qtype t, size_t n_rows, size_t k, struct qside *side)
{
    static const enum qtype types[] = {QTYPE_F32, QTYPE_F16, QTYPE_BF16};
    if (!has_side(t)) return NULL;
    *side = (struct qside){.type = types[below(COUNT_OF(types))], .group = side_group(t, k)};
    const size_t n = n_rows * (k / side->group), bytes = n * (qtypes[t].has_min ? qtypes[side->type].block_bytes : 1);
    uint8_t *scales = area(SCALES, bytes, below(4));
    fill_side(kind, t, side->type, scales, n);
    side->scales = scales;
    if (!qtypes[t].has_min) return side;
    uint8_t *biases = area(BIASES, bytes, below(4));
    fill_side(kind, t, side->type, biases, n);
    side->biases = biases;
    return side;
}

/* ---- matrix products ------------------------------------------------------------------------------------------ */

/* Quantised activations: rows that the quantiser could have made, and the extremes of its range. */
static void fill_act_q(enum kind kind, enum qarith arith, size_t n_rows, size_t k, const struct act_mem *mem)
{
    struct kernels ref;
    kernels_init_scalar(&ref);
    const size_t n_d = act_scales(arith, k), n_s = act_sums(arith, k), per_s = k / n_s;
    float *x = area(IN4, k * 4, 0);
    for (size_t m = 0; m < n_rows; m++) {
        const struct act_mem row = {mem->q + m * k, mem->d + m * n_d, mem->s + m * n_s, NULL};
        fill_floats(kind, x, k);
        act_quantise(&ref, arith, x, k, 0, 1, false, &row);
        if (kind != LARGE && kind != TINY) continue;
        for (size_t b = 0; b < n_d; b++) row.d[b] = kind == LARGE ? 1e30f : draw(TINY, b);
        for (size_t i = 0; i < k; i++) row.q[i] = i / 32 % 2 || i % 2 ? -127 : 127;
        for (size_t b = 0; b < n_s; b++) {
            row.s[b] = 0;
            for (size_t i = 0; i < per_s; i++) row.s[b] = (int16_t)(row.s[b] + row.q[b * per_s + i]);
        }
    }
}

/* The same activations, packed as a table wants them; NULL where it does not. */
static const int8_t *packed_for(const struct kernels *now, const struct act *a, size_t n_rows, size_t k)
{
    if (!now->pack_cols || n_rows < now->pack_min) return NULL;
    const size_t cols = now->pack_cols, groups = (n_rows + cols - 1) / cols;
    int8_t *packed = area(PACKED, groups * cols * k, 0);
    memset(packed, 0x55, groups * cols * k);
    for (size_t m = 0; m < n_rows; m += cols) now->pack_act(a->q + m * k, size_min(n_rows - m, cols), k, packed + m * k);
    return packed;
}

/* One product of n weight rows of length k with n_cols activation rows, by both tables; random row range and paddings. */
static bool mm_case(const struct kernels *ref, const struct kernels *now, enum qtype t, size_t k, size_t n, size_t n_cols,
                    enum kind kind)
{
    const size_t row = k / qtypes[t].block_n * qtypes[t].block_bytes, row_bytes = row + (below(4) ? 0 : below(9));
    const size_t w_bytes = (n - 1) * row_bytes + row, stride = k + below(3);
    const enum qarith arith = qtypes[t].arith;
    uint8_t *w = area(IN0, w_bytes, below(2) ? 0 : below(4));
    for (size_t r = 0; r < n; r++) fill_kind(kind, t, w + r * row_bytes, k);
    struct qside side;
    struct mm a = {.type = t, .w = w, .row_bytes = row_bytes, .k = k, .n_rows = n_cols, .dst_stride = n + below(3)};
    a.side = make_side(kind, t, n, k, &side);
    if (arith == ARITH_FLOAT) {
        size_t n_floats = (n_cols - 1) * stride + k;
        float *x = area(IN1, n_floats * 4, 0);
        fill_floats(kind, x, n_floats);
        a.act.f = x;
        a.act.stride = stride;
    } else {
        const struct act_mem mem = {area(IN1, n_cols * k, 0), area(IN2, n_cols * act_scales(arith, k) * 4, 0),
                                    area(IN3, n_cols * act_sums(arith, k) * 2, 0), NULL};
        fill_act_q(kind, arith, n_cols, k, &mem);
        a.act = (struct act){.q = mem.q, .d = mem.d, .s = mem.s};
    }
    const size_t r0 = below(3) ? 0 : below(n), r1 = r0 + 1 + (below(3) ? n - r0 - 1 : below(n - r0));
    const size_t n_out = (n_cols - 1) * a.dst_stride + n;
    a.scratch = area(SCRATCH, MM_SCRATCH, 0);
    a.dst = out_floats(REF, n_out);
    ref->mm[t](&a, r0, r1);
    a.dst = out_floats(OUT, n_out);
    if (arith != ARITH_FLOAT) a.act.packed = packed_for(now, &a.act, n_cols, k);
    now->mm[t](&a, r0, r1);
    if (same_floats(REF, OUT, n_out, "dst")) return true;
    where("k %zu, rows %zu..%zu of %zu, %zu columns, %s", k, r0, r1, n, n_cols, kind_names[kind]);
    return false;
}

static void test_mm(const struct kernels *ref, const struct kernels *now, enum qtype t)
{
    static const size_t col_list[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 33, 64};
    static const size_t k_list[] = {96, 256, 480, 512, 544, 1000, 1024, 1056, 2080, 4096};
    const size_t unit = qtypes[t].block_n, step = unit == 1 ? 1 : unit;
    const size_t some = slow ? 4 : 1; /* every how manieth case runs */
    bool ok = true;
    for (int round = 0; ok && round < (slow ? 1 : 3); round++) {
        /* Every number of rows and columns, short rows. */
        for (size_t n = 1; ok && n <= 40; n += some)
            for (size_t c = n % some; ok && c < COUNT_OF(col_list); c += some)
                ok = mm_case(ref, now, t, unit == 1 ? 1 + below(40) : unit * (1 + below(3)), n, col_list[c],
                             (enum kind)below(KINDS));
        /* Every short row length, every kind of numbers. */
        for (size_t k = step; ok && k <= (unit == QSUPER ? 12 : 70) * step; k += some * step)
            for (size_t kind = k / step % some; ok && kind < KINDS; kind += some)
                ok = mm_case(ref, now, t, k, 1 + below(unit == 1 ? 40 : 9), 1 + below(unit == 1 ? 20 : 6), (enum kind)kind);
        for (size_t i = 0; ok && i < COUNT_OF(k_list); i++)
            for (size_t kind = i % some; ok && kind < KINDS; kind += some)
                if (k_list[i] % unit == 0)
                    ok = mm_case(ref, now, t, k_list[i], 1 + below(12), col_list[below(16)], (enum kind)kind);
    }
    /* More activations than a second-level cache wants to hold: kernels may block K and columns. */
    for (size_t i = 0; ok && i < 20 && !slow; i++) {
        size_t k = unit * ((500 + below(3000)) / unit);
        ok = mm_case(ref, now, t, k, 1 + below(40), 131072 / k + 1 + below(20), (enum kind)(i % KINDS));
    }
    /* Blocks of columns, and both with several blocks of rows and of K. */
    const size_t align = size_max(unit, 32);
    ok = ok && mm_case(ref, now, t, align, 3, 1600, ORDINARY) && mm_case(ref, now, t, 544 / align * align, 37, 200, ORDINARY) &&
         mm_case(ref, now, t, 2080 / align * align, 70, 7, WIDE) && mm_case(ref, now, t, 1056 / align * align, 33, 40, CANCEL);
    /* The same where rows are whole superblocks, which types of 32 may have kernels for. */
    ok = ok && mm_case(ref, now, t, 768, 41, 11, ORDINARY) && mm_case(ref, now, t, 512, 70, 2, WIDE) &&
         mm_case(ref, now, t, 1024, 50, 48, CANCEL) && mm_case(ref, now, t, 2048, 37, 8, ORDINARY);
}

/* ---- rows ---------------------------------------------------------------------------------------------------------- */

static void test_to_float(const struct kernels *ref, const struct kernels *now, enum qtype t)
{
    const size_t unit = qtypes[t].block_n;
    bool ok = true;
    for (size_t i = 0; ok && i < 400; i++) {
        size_t n = unit * (1 + (i < 100 ? i : below(2000 / unit))), bytes = n / unit * qtypes[t].block_bytes;
        uint8_t *w = area(IN0, bytes, below(4));
        fill_kind((enum kind)(i % KINDS), t, w, n);
        struct qside side;
        struct qrow row = {.data = w, .side = make_side((enum kind)(i % KINDS), t, 3, n, &side)};
        if (row.side) row.first_group = below(3) * (n / side.group);
        ref->to_float[t](&row, out_floats(REF, n), n);
        now->to_float[t](&row, out_floats(OUT, n), n);
        ok = same_floats(REF, OUT, n, kind_names[i % KINDS]);
    }
    if (!ok || (t != QTYPE_F16 && t != QTYPE_BF16)) return;
    uint8_t *all = area(IN0, 65536 * 2, 0); /* every number there is */
    for (size_t i = 0; i < 65536; i++) memcpy(all + 2 * i, &(uint16_t){(uint16_t)i}, 2);
    const struct qrow row = {.data = all};
    ref->to_float[t](&row, out_floats(REF, 65536), 65536);
    now->to_float[t](&row, out_floats(OUT, 65536), 65536);
    same_floats(REF, OUT, 65536, "all numbers");
}

static void test_from_float(const struct kernels *ref, const struct kernels *now, enum qtype t)
{
    const bool blocks = attn_bits(t) < 16;
    bool ok = true;
    for (size_t i = 0; ok && i < 2000; i++) {
        size_t n = 1 + (i < 100 ? i : below(ATTN_DIM_MAX)), bytes = blocks ? attn_blocks(n) * KV_BLOCK : n * attn_bits(t) / 8;
        size_t n_d = blocks ? attn_blocks(n) : 1;
        float *x = area(IN0, n * 4, 0);
        fill_floats((enum kind)(i % KINDS), x, n);
        if (i % 5 == 0)
            for (size_t j = 0; j < n; j++) x[j] *= 0x1p-22f; /* scales around the smallest */
        uint8_t *want = area(REF, bytes, 0), *got = area(OUT, bytes, 0);
        uint16_t *want_d = area(REF2, n_d * 2, 0), *got_d = area(OUT2, n_d * 2, 0);
        ref->from_float[t](x, n, want, want_d);
        now->from_float[t](x, n, got, got_d);
        const size_t size = bytes / (blocks ? bytes : n);
        for (size_t j = 0; ok && j < bytes / size; j++)
            if (memcmp(want + j * size, got + j * size, size) != 0 && (blocks || !isnan(x[j])))
                ok = differs("%s: element %zu of %zu", kind_names[i % KINDS], j, n);
        for (size_t b = 0; ok && blocks && b < n_d; b++)
            if (want_d[b] != got_d[b]) ok = differs("%s: scale %zu of %zu elements", kind_names[i % KINDS], b, n);
    }
}

static void test_quant_act(const struct kernels *ref, const struct kernels *now, enum qarith arith)
{
    static const float tops[] = {0x1p-100f, 0x1.fffffep-101f, FLT_MAX, 0x1p-149f, 127.0f, 1.0f};
    bool ok = true;
    for (size_t i = 0; ok && i < 2000; i++) {
        const size_t n = (arith == ARITH_256 ? QSUPER : 32) * (1 + below(9)), n_d = act_scales(arith, n);
        const size_t sum_bytes = act_sums(arith, n) * 2;
        float *x = area(IN0, n * 4, 0);
        fill_floats((enum kind)(i % KINDS), x, n);
        if (i % 5 == 0) /* a block whose largest magnitude sits at a border; halves of steps between */
            for (size_t j = 0; j < n / n_d; j++)
                x[j] = tops[i / 5 % COUNT_OF(tops)] * (j == 7 ? 1.0f : (float)(j % 254) / 254.0f);
        int8_t *q0 = area(REF2, n, 0), *q1 = area(OUT2, n, 0);
        int16_t *s0 = area(IN1, sum_bytes, 0), *s1 = area(IN2, sum_bytes, 0);
        memset(q0 - CANARY, 0x5a, n + CANARY);
        memset(q1 - CANARY, 0x5a, n + CANARY);
        memset((uint8_t *)s0 - CANARY, 0x5a, CANARY + sum_bytes);
        memset((uint8_t *)s1 - CANARY, 0x5a, CANARY + sum_bytes);
        const struct act_mem m0 = {q0, out_floats(REF, n_d), s0, NULL}, m1 = {q1, out_floats(OUT, n_d), s1, NULL};
        act_quantise(ref, arith, x, n, 0, 1, false, &m0);
        act_quantise(now, arith, x, n, 0, 1, false, &m1);
        ok = same_floats(REF, OUT, n_d, "d") && (memcmp(q0 - CANARY, q1 - CANARY, n + CANARY) == 0 || differs("q")) &&
             (memcmp((uint8_t *)s0 - CANARY, (uint8_t *)s1 - CANARY, CANARY + sum_bytes) == 0 || differs("s"));
    }
}

/* Packed rows against the definition of struct act. */
static void test_pack_act(const struct kernels *now)
{
    const size_t cols = now->pack_cols, unit = now->pack_unit;
    for (size_t i = 0; i < 400; i++) {
        const size_t k = 32 * (1 + below(40)), n = 1 + below(cols);
        int8_t *q = area(IN0, n * k, 0), *dst = area(OUT, cols * k, 0);
        for (size_t j = 0; j < n * k; j++) q[j] = (int8_t)random_bits();
        memset(dst - CANARY, 0x5a, cols * k + CANARY);
        now->pack_act(q, n, k, dst);
        for (size_t c = 0; c < n; c++)
            for (size_t j = 0; j < k; j++)
                if (dst[(j / unit * cols + c) * unit + j % unit] != q[c * k + j]) {
                    differs("row %zu of %zu, element %zu of %zu", c, n, j, k);
                    return;
                }
        for (size_t j = 1; j <= CANARY; j++)
            if (dst[-(ptrdiff_t)j] != 0x5a) differs("canary");
    }
}

/* ---- elementwise ------------------------------------------------------------------------------------------------------ */

/* Lengths: all short ones, then some. */
static size_t length(size_t i)
{
    return i < 80 ? i + 1 : 80 + below(2000);
}

static void test_rms_norm(const struct kernels *ref, const struct kernels *now)
{
    bool ok = true;
    for (size_t i = 0; ok && i < 300; i++) {
        size_t n = length(i);
        float *x = area(IN0, n * 4, 0), *w = area(IN1, n * 4, 0), *y = out_floats(OUT, n);
        fill_floats((enum kind)(i % KINDS), x, n);
        fill_floats(ORDINARY, w, n);
        ref->rms_norm(x, w, 1e-5f, n, out_floats(REF, n));
        if (i % 2) memcpy(y, x, n * 4);
        now->rms_norm(i % 2 ? y : x, w, 1e-5f, n, y);
        ok = same_floats(REF, OUT, n, kind_names[i % KINDS]);
    }
}

static void test_layer_norm(const struct kernels *ref, const struct kernels *now)
{
    bool ok = true;
    for (size_t i = 0; ok && i < 300; i++) {
        size_t n = length(i);
        float *x = area(IN0, n * 4, 0), *w = area(IN1, n * 4, 0), *b = area(IN2, n * 4, 0), *y = out_floats(OUT, n);
        fill_floats((enum kind)(i % KINDS), x, n);
        fill_floats(ORDINARY, w, n);
        fill_floats((enum kind)(i / 2 % KINDS), b, n);
        ref->layer_norm(x, w, i % 3 ? b : NULL, 1e-5f, n, out_floats(REF, n));
        if (i % 2) memcpy(y, x, n * 4);
        now->layer_norm(i % 2 ? y : x, w, i % 3 ? b : NULL, 1e-5f, n, y);
        ok = same_floats(REF, OUT, n, kind_names[i % KINDS]);
    }
}

/* Entries that take one or two rows, a function of them, and a number above 0. */
typedef void row_fn(const struct kernels *k, enum act_fn f, const float *a, const float *b, float x, size_t n, float *y);
static void row_add(const struct kernels *k, enum act_fn f, const float *a, const float *b, float x, size_t n, float *y)
{
    (void)f, (void)x;
    k->add(a, b, n, y);
}
static void row_mul(const struct kernels *k, enum act_fn f, const float *a, const float *b, float x, size_t n, float *y)
{
    (void)f, (void)x;
    k->mul(a, b, n, y);
}
static void row_gate(const struct kernels *k, enum act_fn f, const float *a, const float *b, float x, size_t n, float *y)
{
    (void)f, (void)x;
    k->gate(a, b, n, y);
}
static void row_glu(const struct kernels *k, enum act_fn f, const float *a, const float *b, float x, size_t n, float *y)
{
    k->glu[f](a, b, x, n, y);
}
static void row_act(const struct kernels *k, enum act_fn f, const float *a, const float *b, float x, size_t n, float *y)
{
    (void)b, (void)x;
    k->act[f](a, n, y);
}
static void row_scale(const struct kernels *k, enum act_fn f, const float *a, const float *b, float x, size_t n, float *y)
{
    (void)f, (void)b;
    k->scale(a, x, n, y);
}
static void row_softcap(const struct kernels *k, enum act_fn f, const float *a, const float *b, float x, size_t n, float *y)
{
    (void)f, (void)b;
    k->softcap(a, x, n, y);
}

/* y apart from the inputs, or the first or the second. */
static void test_rows(const struct kernels *ref, const struct kernels *now, row_fn *run, enum act_fn f)
{
    static const float scales[] = {30.0f, 1.0f, 3.0f, 0.01f, 95.0f}, numbers[] = {7.0f, 50.0f, 0.3f, 1e30f};
    /* Where the definitions change from one formula to another, and beside it. */
    static const float ends[] = {0.625f, 0x1.3fffffep-1f, 16.0f, 0x1.000002p+4f, 88.0f, 0x1.600002p+6f, 7.0f, 87.0f};
    bool ok = true;
    for (size_t i = 0; ok && i < 900; i++) {
        const size_t n = length(i % 300);
        const float scale = scales[i % COUNT_OF(scales)], x = numbers[i / 3 % COUNT_OF(numbers)];
        float *a = area(IN0, n * 4, 0), *b = area(IN1, n * 4, 0), *y = out_floats(OUT, n);
        fill_floats((enum kind)(i % KINDS), a, n);
        fill_floats((enum kind)(i / 3 % KINDS), b, n);
        for (size_t j = 0; j < n; j++) a[j] *= scale;
        a[below(n)] = (i % 2 ? 1.0f : -1.0f) * ends[below(COUNT_OF(ends))];
        run(ref, f, a, b, x, n, out_floats(REF, n));
        if (i % 3) memcpy(y, i % 3 == 1 ? a : b, n * 4);
        run(now, f, i % 3 == 1 ? y : a, i % 3 == 2 ? y : b, x, n, y);
        ok = same_floats(REF, OUT, n, kind_names[i % KINDS]);
    }
}

static void test_exp(const struct kernels *ref, const struct kernels *now)
{
    bool ok = true;
    for (size_t i = 0; ok && i < 300; i++) {
        size_t n = length(i);
        float *x = area(IN0, n * 4, 0), *y = out_floats(OUT, n);
        for (size_t j = 0; j < n; j++) x[j] = i % 4 ? 95.0f * random_float() : draw((enum kind)(i / 4 % KINDS), j);
        static const float ends[] = {88.0f, 0x1.600002p+6f, -87.0f, -0x1.5c0002p+6f, -88.0f, 89.0f, 0.0f, -0.0f};
        x[below(n)] = ends[i % COUNT_OF(ends)];
        ref->exp(x, n, out_floats(REF, n));
        if (i % 2) memcpy(y, x, n * 4);
        now->exp(i % 2 ? y : x, n, y);
        ok = same_floats(REF, OUT, n, "y");
    }
}

static void test_rope(const struct kernels *ref, const struct kernels *now)
{
    bool ok = true;
    for (size_t i = 0; ok && i < 600; i++) {
        size_t n = i % 150 + 1;
        float *c = area(IN0, n * 4, 0), *s = area(IN1, n * 4, 0), *x0 = out_floats(REF, 2 * n), *x1 = out_floats(OUT, 2 * n);
        fill_floats((enum kind)(i % KINDS), x0, 2 * n);
        memcpy(x1, x0, 8 * n);
        for (size_t j = 0; j < n; j++) c[j] = random_float(), s[j] = random_float();
        ref->rope(x0, c, s, n, i % 2);
        now->rope(x1, c, s, n, i % 2);
        ok = same_floats(REF, OUT, 2 * n, i % 2 ? "halves" : "adjacent");
    }
}

/* ---- attention ----------------------------------------------------------------------------------------------------------- */

/* Where the positions end that each row sees: all, one number for all, a diagonal that starts before the tile, or any. */
static void fill_valid(uint32_t *valid, size_t n)
{
    size_t shape = below(4), one = 1 + below(ATTN_TILE), start = below(ATTN_TILE);
    for (size_t r = 0; r < n; r++) {
        size_t v = shape == 0 ? ATTN_TILE : shape == 1 ? one : shape == 2 ? (r > start ? r - start : 0) : below(ATTN_TILE + 1);
        valid[r] = (uint32_t)size_min(v, ATTN_TILE);
    }
}

/* And where they begin: before the tile, at the lower edge of a window, or anywhere. */
static void fill_from(uint32_t *from, const uint32_t *valid, size_t n)
{
    const size_t shape = below(3), start = below(ATTN_TILE);
    for (size_t r = 0; r < n; r++) {
        size_t f = shape == 0 || valid[r] == 0 ? 0 : shape == 1 ? start + r : below(valid[r]);
        from[r] = (uint32_t)(valid[r] == 0 ? 0 : size_min(f, valid[r] - 1));
    }
}

/* Types of a cache. */
static const enum qtype kv_types[] = {QTYPE_F32, QTYPE_F16, QTYPE_BF16, QTYPE_Q8_0, QTYPE_Q4_0};

struct attn_shape {
    enum qtype k, v;
    size_t head_dim, v_dim;
};

/* Fills a tile as its layout allows, with numbers of the kind or, for quantised types, any integers. */
static void fill_tile(enum kind kind, enum qtype t, uint8_t *tile, size_t n, size_t scales)
{
    if (attn_bits(t) >= 16) {
        fill_kind(kind, t, tile, n);
        return;
    }
    for (size_t i = 0; i < scales; i++) tile[i] = (uint8_t)random_bits();
    for (size_t i = 0; i < n; i++) memcpy(tile + scales + 2 * i, &(uint16_t){draw_half(kind, i)}, 2);
}

/* Fills both tiles. Positions that no row sees hold NaN and infinity. */
static void fill_tiles(const struct kernels *ref, const struct attn_shape *s, enum kind kind, const struct attn_tile *a,
                       uint8_t *k, uint8_t *v)
{
    size_t first = ATTN_TILE, end = 0;
    for (size_t r = 0; r < a->n_rows; r++) {
        if (a->valid[r] > 0) first = size_min(first, attn_from(a, r));
        end = size_max(end, a->valid[r]);
    }
    const size_t blocks_k = attn_blocks(s->head_dim), blocks_v = attn_blocks(s->v_dim);
    fill_tile(kind, s->k, k, ATTN_TILE * (attn_bits(s->k) < 16 ? blocks_k : s->head_dim),
              attn_scales(attn_bits(s->k), s->head_dim));
    fill_tile(kind, s->v, v, ATTN_TILE * (attn_bits(s->v) < 16 ? blocks_v : s->v_dim), attn_scales(attn_bits(s->v), s->v_dim));
    float stale[ATTN_DIM_MAX];
    for (size_t d = 0; d < ATTN_DIM_MAX; d++) stale[d] = d % 2 ? INFINITY : NAN;
    for (size_t j = 0; j < ATTN_TILE; j++) {
        if (j >= first && j < end) continue;
        attn_store_k(ref, s->k, stale, s->head_dim, k, j);
        attn_store_v(ref, s->v, stale, s->v_dim, v, j);
    }
}

/* The queries, quantised. */
static struct act fill_queries(const struct kernels *ref, const float *q, size_t n, size_t dim)
{
    const size_t blocks = attn_blocks(dim), k = blocks * KV_BLOCK;
    const struct act_mem mem = {area(IN4, n * k, 0), area(SCALES, n * blocks * 4, 0), area(SUMS, n * blocks * 2, 0), NULL};
    for (size_t i = 0; i < n; i++) {
        float row[ATTN_DIM_MAX] = {0};
        memcpy(row, q + i * dim, dim * sizeof *q);
        ref->quant_act_32(row, k, mem.q + i * k, mem.d + i * blocks, mem.s + i * blocks);
    }
    return (struct act){.q = mem.q, .d = mem.d, .s = mem.s};
}

/* A few tiles in a row over the same state. */
static bool attn_case(const struct kernels *ref, const struct kernels *now, const struct attn_shape *s, size_t n,
                      enum kind kind)
{
    const size_t n_out = n * s->v_dim;
    uint8_t *k = area(IN0, attn_bytes(s->k, s->head_dim), 0), *v = area(IN1, attn_bytes(s->v, s->v_dim), 0);
    float *q = area(IN2, n * s->head_dim * 4, 0);
    uint32_t *valid = area(IN3, n * 4, 0), *from = area(PACKED, n * 4, 0);
    float *o0 = out_floats(REF, n_out), *o1 = out_floats(OUT, n_out);
    float *m0 = out_floats(REF2, 2 * n), *m1 = out_floats(OUT2, 2 * n);
    memset(o0, 0, n_out * 4);
    memset(o1, 0, n_out * 4);
    for (size_t r = 0; r < n; r++) m0[r] = m1[r] = -INFINITY, m0[n + r] = m1[n + r] = 0.0f;
    struct attn_tile a = {.k = k, .v = v, .k_type = s->k, .v_type = s->v, .head_dim = s->head_dim, .v_dim = s->v_dim};
    a.n_rows = n, a.q = q, a.valid = valid;
    a.scratch = area(SCRATCH, ATTN_SCRATCH * 4, 0);
    fill_floats(kind, q, n * s->head_dim);
    if (attn_quantised(s->k)) a.quant = fill_queries(ref, q, n, s->head_dim);
    for (size_t tile = 0; tile < 3; tile++) {
        static const float caps[] = {50.0f, 0.7f, 5.0f};
        fill_valid(valid, n);
        fill_from(from, valid, n);
        a.from = below(2) ? from : NULL;
        a.softcap = below(2) ? caps[tile] : 0.0f;
        fill_tiles(ref, s, kind, &a, k, v);
        a.m = m0, a.l = m0 + n, a.o = o0;
        ref->attn_tile(&a);
        a.m = m1, a.l = m1 + n, a.o = o1;
        now->attn_tile(&a);
        if (same_floats(REF2, OUT2, 2 * n, "m, l") && same_floats(REF, OUT, n_out, "o")) continue;
        where("%s, cap %g", a.from ? "window" : "no window", (double)a.softcap);
        where("tile %zu, head_dim %zu, v_dim %zu, %zu rows, %s", tile, s->head_dim, s->v_dim, n, kind_names[kind]);
        return false;
    }
    return true;
}

static void test_attn(const struct kernels *ref, const struct kernels *now, enum qtype k, enum qtype v)
{
    static const size_t dims[][2] = {{64, 64}, {128, 128}, {80, 80}, {96, 96},   {72, 72},  {20, 20},   {1, 1},
                                     {33, 17}, {5, 100},   {7, 31},  {192, 128}, {16, 150}, {512, 512}, {576, 512}};
    const bool same = k == v; /* other pairs are made of the same parts */
    bool ok = true;
    for (size_t i = 0; ok && i < COUNT_OF(dims); i++)
        for (size_t n = 1; ok && n <= (dims[i][0] > 128 ? 2 : 14); n += same && !slow ? 1 : 1 + below(12))
            ok = attn_case(ref, now, &(struct attn_shape){k, v, dims[i][0], dims[i][1]}, n, (enum kind)(n % KINDS));
    for (int kind = 0; ok && kind < KINDS; kind++)
        for (size_t i = 0; ok && i < (same && !slow ? 30 : 5); i++)
            ok = attn_case(ref, now, &(struct attn_shape){k, v, 1 + below(70), 1 + below(70)}, 1 + below(20), (enum kind)kind);
    ok = ok && attn_case(ref, now, &(struct attn_shape){k, v, 40, 40}, 64, ORDINARY);
}

static void test_attn_merge(const struct kernels *ref, const struct kernels *now)
{
    bool ok = true;
    for (size_t i = 0; ok && i < 300; i++) {
        size_t n = length(i % 120);
        float *o0 = out_floats(REF, n), *o1 = out_floats(OUT, n), *o2 = area(IN0, n * 4, 0);
        float *s0 = out_floats(REF2, 2), *s1 = out_floats(OUT2, 2);
        fill_floats((enum kind)(i % KINDS), o0, n);
        fill_floats((enum kind)(i % KINDS), o2, n);
        memcpy(o1, o0, n * 4);
        s0[0] = s1[0] = i % 7 ? 20.0f * random_float() : -INFINITY;
        s0[1] = s1[1] = 1.0f + random_float();
        float m2 = i % 5 ? 20.0f * random_float() : s0[0], l2 = 1.0f + random_float();
        if (i % 11 == 0) s0[0] = s1[0] = draw(ZEROS, 0), m2 = draw(ZEROS, 0);
        ref->attn_merge(s0, s0 + 1, o0, m2, l2, o2, n);
        now->attn_merge(s1, s1 + 1, o1, m2, l2, o2, n);
        ok = same_floats(REF2, OUT2, 2, "m, l") && same_floats(REF, OUT, n, "o");
    }
}

/* ---- recurrent layers ------------------------------------------------------------------------------------------------------
 */

/* The kernel under test takes the rows in two calls: what it leaves between them is all that the second needs. */
static void conv_halves(const struct kernels *k, struct conv a, size_t first)
{
    const size_t n_rows = a.n_rows;
    if (first) {
        a.n_rows = first;
        k->conv(&a);
        a.before = a.after, a.x += first * a.x_stride, a.y += first * a.y_stride;
    }
    a.n_rows = n_rows - first;
    k->conv(&a);
}

static void test_conv(const struct kernels *ref, const struct kernels *now)
{
    bool ok = true;
    for (size_t i = 0; ok && i < 300; i++) {
        const size_t n_rows = 1 + below(9), n = i < 100 ? i + 1 : 100 + below(1000), taps = 2 + below(CONV_TAPS_MAX - 1);
        const size_t n_state = (taps - 1) * n;
        float *x = area(IN0, n_rows * n * 4, 0), *w = area(IN1, taps * n * 4, 0), *bias = area(IN2, n * 4, 0);
        float *before = area(IN3, n_state * 4, 0), *after = out_floats(OUT2, n_state);
        fill_floats((enum kind)(i % KINDS), x, n_rows * n);
        fill_floats(ORDINARY, w, taps * n);
        fill_floats(ORDINARY, bias, n);
        fill_floats((enum kind)(i % KINDS), before, n_state);
        struct conv a = {
            .n_rows = n_rows, .n = n, .taps = taps, .stride = n, .w = w, .bias = i % 3 ? NULL : bias, .silu = i % 2};
        a.before = before, a.after = out_floats(REF2, n_state);
        a.x = x, a.y = out_floats(REF, n_rows * n), a.x_stride = a.y_stride = n;
        ref->conv(&a);
        if (i % 4 == 0) a.before = memcpy(after, before, n_state * 4);
        a.after = after, a.y = out_floats(OUT, n_rows * n);
        conv_halves(now, a, below(n_rows));
        ok = same_floats(REF, OUT, n_rows * n, kind_names[i % KINDS]) && same_floats(REF2, OUT2, n_state, "state");
        if (!ok) where("%zu rows of %zu, %zu taps", n_rows, n, taps);
    }
}

static void delta_halves(const struct kernels *k, struct delta a, size_t first)
{
    const size_t n_rows = a.n_rows;
    if (first) {
        a.n_rows = first;
        k->delta(&a);
        a.before = a.after;
        a.q += first * a.qk_stride, a.k += first * a.qk_stride, a.v += first * a.v_stride, a.o += first * a.o_stride;
        a.decay += first * a.gate_stride, a.beta += first * a.gate_stride;
    }
    a.n_rows = n_rows - first;
    k->delta(&a);
}

/* Queries, keys, values and gates of n_rows rows and a state, in the input areas. */
static struct delta fill_delta(enum kind kind, size_t n_rows, size_t k_dim, size_t v_dim)
{
    float *qk = area(IN0, n_rows * 2 * k_dim * 4, 0), *v = area(IN1, n_rows * v_dim * 4, 0), *gates = area(IN2, n_rows * 8, 0);
    float *before = area(IN3, k_dim * DELTA_COLS * 4, 0);
    fill_floats(kind, qk, n_rows * 2 * k_dim);
    fill_floats(kind, v, n_rows * v_dim);
    fill_floats(kind, before, k_dim * DELTA_COLS);
    for (size_t i = 0; i < n_rows * 2; i++) gates[i] = 0.5f + 0.5f * random_float();
    for (size_t d = 0; d < k_dim; d++)
        for (size_t c = v_dim; c < DELTA_COLS; c++) before[d * DELTA_COLS + c] = 0.0f;
    return (struct delta){.n_rows = n_rows,
                          .k_dim = k_dim,
                          .v_dim = v_dim,
                          .q = qk,
                          .k = qk + k_dim,
                          .v = v,
                          .decay = gates,
                          .beta = gates + 1,
                          .before = before,
                          .qk_stride = 2 * k_dim,
                          .v_stride = v_dim,
                          .gate_stride = 2,
                          .o_stride = v_dim};
}

static void test_delta(const struct kernels *ref, const struct kernels *now)
{
    static const size_t dims[] = {1, 2, 15, 16, 17, 32, 33, 64, 100, 128, 256};
    bool ok = true;
    for (size_t i = 0; ok && i < 300; i++) {
        const size_t n_rows = 1 + below(6), k_dim = dims[i % COUNT_OF(dims)], v_dim = 1 + i % DELTA_COLS;
        const size_t n_state = k_dim * DELTA_COLS;
        struct delta a = fill_delta((enum kind)(i % KINDS), n_rows, k_dim, v_dim);
        a.after = out_floats(REF2, n_state), a.o = out_floats(REF, n_rows * v_dim);
        ref->delta(&a);
        float *after = out_floats(OUT2, n_state);
        if (i % 4 == 0) a.before = memcpy(after, a.before, n_state * 4);
        a.after = after, a.o = out_floats(OUT, n_rows * v_dim);
        delta_halves(now, a, below(n_rows));
        ok = same_floats(REF, OUT, n_rows * v_dim, kind_names[i % KINDS]) && same_floats(REF2, OUT2, n_state, "state");
        if (!ok) where("%zu rows, key %zu, value %zu", n_rows, k_dim, v_dim);
    }
}

/* By enum act_fn. */
const char *const act_names[ACT_COUNT] = {"silu", "gelu_tanh", "gelu", "swiglu_clamp", "relu2", "relu"};

/* ---- one level --------------------------------------------------------------------------------------------------------------
 */

/* True the first time that a function is seen for a type, at whichever level. */
static bool fresh(void (*fn)(void), size_t type)
{
    static struct {
        void (*fn)(void);
        size_t type;
    } seen[1000];
    static size_t n_seen;
    for (size_t i = 0; i < n_seen; i++)
        if (seen[i].fn == fn && seen[i].type == type) return false;
    if (n_seen < COUNT_OF(seen)) seen[n_seen].fn = fn, seen[n_seen++].type = type;
    return true;
}
#define FRESH(fn, type) ((fn) && fresh((void (*)(void))(fn), type))

/* Runs test where the entry is new at this level; at the level of scalar itself only notes it. */
#define EACH(entry, name, test) EACH_OF(entry, QTYPE_COUNT, name, test)
#define EACH_OF(entry, type, name, test)                                    \
    do {                                                                    \
        if (FRESH(now.entry, type) && !is_ref && wanted(now.level, name)) { \
            test;                                                           \
            report(now.level, name);                                        \
        }                                                                   \
    } while (0)

static void test_level(const char *level, bool is_ref)
{
    struct kernels ref, now;
    struct err e;
    kernels_init_scalar(&ref);
    if (kernels_init(&now, level, &e) < 0) {
        differs("%s", e.msg);
        report(level, "init");
        return;
    }
    char name[40];
    for (enum qtype t = 0; t < QTYPE_COUNT; t++) {
        snprintf(name, sizeof name, "mm_%s", qtypes[t].name);
        EACH_OF(mm[t], t, name, test_mm(&ref, &now, t));
        snprintf(name, sizeof name, "to_float_%s", qtypes[t].name);
        EACH_OF(to_float[t], t, name, test_to_float(&ref, &now, t));
        snprintf(name, sizeof name, "from_float_%s", qtypes[t].name);
        EACH_OF(from_float[t], t, name, test_from_float(&ref, &now, t));
    }
    for (size_t p = 0; p < COUNT_OF(kv_types) * COUNT_OF(kv_types); p++) {
        enum qtype k = kv_types[p / COUNT_OF(kv_types)], v = kv_types[p % COUNT_OF(kv_types)];
        snprintf(name, sizeof name, "attn_tile_%s_%s", qtypes[k].name, qtypes[v].name);
        EACH_OF(attn_tile, QTYPE_COUNT + p, name, test_attn(&ref, &now, k, v));
    }
    EACH(quant_act_32, "quant_act_32", test_quant_act(&ref, &now, ARITH_32));
    EACH(quant_act_256, "quant_act_256", test_quant_act(&ref, &now, ARITH_256));
    EACH(pack_act, "pack_act", test_pack_act(&now));
    EACH(rms_norm, "rms_norm", test_rms_norm(&ref, &now));
    EACH(layer_norm, "layer_norm", test_layer_norm(&ref, &now));
    for (enum act_fn f = 0; f < ACT_COUNT; f++) {
        snprintf(name, sizeof name, "act_%s", act_names[f]);
        EACH(act[f], name, test_rows(&ref, &now, row_act, f));
        snprintf(name, sizeof name, "glu_%s", act_names[f]);
        EACH(glu[f], name, test_rows(&ref, &now, row_glu, f));
    }
    EACH(add, "add", test_rows(&ref, &now, row_add, 0));
    EACH(gate, "gate", test_rows(&ref, &now, row_gate, 0));
    EACH(scale, "scale", test_rows(&ref, &now, row_scale, 0));
    EACH(softcap, "softcap", test_rows(&ref, &now, row_softcap, 0));
    EACH(rope, "rope", test_rope(&ref, &now));
    EACH(attn_merge, "attn_merge", test_attn_merge(&ref, &now));
    EACH(mul, "mul", test_rows(&ref, &now, row_mul, 0));
    EACH(conv, "conv", test_conv(&ref, &now));
    EACH(delta, "delta", test_delta(&ref, &now));
    EACH(exp, "exp", test_exp(&ref, &now));
}

/* ---- scalar against double precision
 * --------------------------------------------------------------------------------------------- */

/* Floats: 16 lanes of k / 16 fmas and four adds, each off by half an ulp of a partial sum, which sum|w x| bounds. Integers:
 * the product of scales, the widened sum and the fma, per block, twice where there is a minimum. */
static void test_mm_truth(const struct kernels *ref, enum qtype t)
{
    const struct qtype_info *info = &qtypes[t];
    bool ok = true;
    for (size_t i = 0; ok && i < 200; i++) {
        const size_t k = info->arith == ARITH_FLOAT ? info->block_n * (1 + below(1500 / info->block_n))
                                                    : info->block_n * (1 + below(10240 / QSUPER));
        const size_t act_n = info->arith == ARITH_256 ? QSUPER : 32;
        uint8_t *w = area(IN0, k / info->block_n * info->block_bytes, 0);
        float *x = area(IN1, k * 4, 0), *wide = area(IN2, k * 4, 0), y;
        const struct act_mem mem = {area(IN4, k, 0), area(IN3, k / 32 * 4 + 4, 0), area(REF, k / 16 * 2 + 2, 0), NULL};
        struct qside side;
        const struct qrow row = {.data = w, .side = make_side(ORDINARY, t, 1, k, &side)};
        fill_kind(i % 2 && !info->unpack ? CANCEL : ORDINARY, t, w, k);
        fill_floats(ORDINARY, x, k);
        if (info->unpack) {
            act_quantise(ref, info->arith, x, k, 0, 1, false, &mem);
            for (size_t j = 0; j < k; j++) {
                double err = fabs((double)mem.d[j / act_n] * mem.q[j] - (double)x[j]);
                /* The scale, its inverse and x times that are rounded: up to 127 * 3 * 2^-24 of a step. */
                if (err > 0.50003 * (double)mem.d[j / act_n])
                    ok = differs("activation %zu off by %g, step %g", j, err, (double)mem.d[j / act_n]);
            }
        } else {
            ref->to_float[t](&row, wide, k);
        }
        struct mm a = {
            .type = t, .w = w, .k = k, .n_rows = 1, .dst = &y, .dst_stride = 1, .scratch = area(SCRATCH, MM_SCRATCH, 0)};
        a.side = row.side;
        a.act = (struct act){.f = x, .stride = k, .q = mem.q, .d = mem.d, .s = mem.s};
        ref->mm[t](&a, 0, 1);
        double sum = 0.0, mass = 0.0;
        struct qblock b;
        for (size_t j = 0; j < k; j++) {
            const size_t in = j % info->block_n;
            double weight, min = 0.0, scale = 1.0;
            if (info->unpack) {
                if (in == 0) info->unpack(&row, j / info->block_n, &b);
                scale = (double)mem.d[j / act_n] * mem.q[j];
                weight = (double)b.d * (b.u[in] - info->off);
                if (info->arith == ARITH_256) weight *= b.sc[in / QSUB];
                if (info->has_min) min = info->arith == ARITH_256 ? -(double)b.m * b.mn[in / QSUB] : (double)b.m;
            } else {
                weight = (double)wide[j] * (double)x[j];
            }
            sum += (weight + min) * scale;
            mass += (fabs(weight) + fabs(min)) * fabs(scale);
        }
        double bound = ((double)(info->unpack ? 3 * k / act_n : k / 16) + 20.0) * 0x1p-24 * mass;
        if (fabs((double)y - sum) > bound) ok = differs("k %zu: %.9g, exactly %.17g, bound %g", k, (double)y, sum, bound);
    }
}

/* Every 997th float of the range, and its ends. */
static void test_exp_truth(void)
{
    double worst = 0.0;
    for (uint32_t u = 0; u <= 0x42b00000u; u += 997) {
        for (uint32_t sign = 0; sign < 2; sign++) {
            float x = from_bits(u | sign << 31);
            if (x < -87.0f) continue;
            double exact = exp((double)x), y = (double)num_exp(x);
            int exponent;
            frexp(exact, &exponent);
            double ulp = ldexp(1.0, exponent - 24);
            worst = fmax(worst, fabs(y - exact) / ulp);
            if (worst < 1.0) continue;
            differs("exp(%a) = %a, off by %.3f ulp", (double)x, y, worst);
            return;
        }
    }
    if (num_exp(89.0f) != INFINITY || num_exp(INFINITY) != INFINITY || num_exp(-87.1f) != 0.0f || num_exp(-INFINITY) != 0.0f ||
        !isnan(num_exp(NAN)))
        differs("the ends of exp");
    printf("# num_exp: at most %.3f ulp\n", worst);
}

/* The functions of one number, from those of libm, at every 997th float of both signs up to 100. */
struct truth {
    void (*run)(const float *x, size_t n, float *y);
    double (*exact)(double x);
    double absolute; /* the error may be this much, */
    double ulps;     /* and so many last places of the result, where x > 0 */
};
static double exact_gelu(double x)
{
    return 0.5 * x * erfc(-x * sqrt(0.5));
}
static double exact_gelu_tanh(double x)
{
    return x / (1.0 + exp(-2.0 * sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}
static double exact_silu(double x)
{
    return x / (1.0 + exp(-x));
}
static double exact_relu2(double x)
{
    return x > 0.0 ? x * x : 0.0;
}
static void each_tanh(const float *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++) y[i] = num_tanh(x[i]);
}

static void check_truth(const char *name, const struct truth *t)
{
    double most = 0.0, most_ulps = 0.0;
    for (uint32_t u = 0x00800000u; u <= 0x42c80000u; u += slow ? 4999 : 997) {
        const float x[2] = {from_bits(u), -from_bits(u)};
        float y[2];
        t->run(x, 2, y);
        for (size_t i = 0; i < 2; i++) {
            const double exact = t->exact((double)x[i]), off = fabs((double)y[i] - exact);
            int exponent;
            frexp(fmax(fabs(exact), 0x1p-126), &exponent);
            most = fmax(most, off / fmax(1.0, fabs(exact)));
            if (i == 0) most_ulps = fmax(most_ulps, off / ldexp(1.0, exponent - 24));
            if (most <= t->absolute && most_ulps <= t->ulps) continue;
            differs("%s(%a) = %a, exactly %.9g", name, (double)x[i], (double)y[i], exact);
            return;
        }
    }
    printf("# %s: off by %.1e, for x > 0 by %.3f ulp\n", name, most, most_ulps);
}

/* The ends of the range, where the formulas meet infinity. */
static void check_ends(const char *name, void (*run)(const float *x, size_t n, float *y), float low, float high)
{
    const float x[5] = {-INFINITY, INFINITY, NAN, -FLT_MAX, FLT_MAX};
    float y[5];
    run(x, 5, y);
    const bool low_ok = isnan(low) ? isnan(y[0]) : y[0] == low;
    if (!low_ok || y[1] != high || !isnan(y[2]) || isnan(y[3]) || isnan(y[4])) differs("the ends of %s", name);
}

static void test_act_truth(void)
{
    struct kernels ref;
    kernels_init_scalar(&ref);
    const struct {
        const char *name;
        struct truth truth;
        float low, high;
    } all[] = {
        {"tanh", {each_tanh, tanh, 1.2e-7, 2.0}, -1.0f, 1.0f},
        {"silu", {ref.act[ACT_SILU], exact_silu, 2e-7, 3.0}, NAN, INFINITY},
        {"gelu", {ref.act[ACT_GELU], exact_gelu, 1e-7, 3.0}, 0.0f, INFINITY},
        {"gelu_tanh", {ref.act[ACT_GELU_TANH], exact_gelu_tanh, 1e-7, 3.0}, 0.0f, INFINITY},
        {"relu2", {ref.act[ACT_RELU2], exact_relu2, 1e-7, 1.0}, 0.0f, INFINITY},
    };
    for (size_t i = 0; i < COUNT_OF(all); i++) {
        check_truth(all[i].name, &all[i].truth);
        check_ends(all[i].name, all[i].truth.run, all[i].low, all[i].high);
    }
}

static void test_f64_truth(void)
{
    double worst[5] = {0};
    for (size_t i = 0; i < 50000; i++) {
        double x = (double)random_float() + 1e-9 * (double)random_float();
        double pos = exp(80.0 * x), angle = i % 2 ? 16777216.0 * x : 10.0 * x, s, c;
        worst[0] = fmax(worst[0], fabs(num_log(pos) - log(pos)) / fmax(fabs(log(pos)), 1e-3));
        worst[1] = fmax(worst[1], fabs(num_exp_f64(600.0 * x) / exp(600.0 * x) - 1.0));
        double base = 1.0 + 1e6 * fabs((double)random_float());
        worst[2] = fmax(worst[2], fabs(num_pow(base, x) / pow(base, x) - 1.0));
        num_sincos(angle, &s, &c);
        worst[3] = fmax(worst[3], fabs(s - sin(angle)));
        worst[4] = fmax(worst[4], fabs(c - cos(angle)));
    }
    printf("# log %.1e, exp %.1e, pow %.1e, sin %.1e, cos %.1e\n", worst[0], worst[1], worst[2], worst[3], worst[4]);
    for (size_t i = 0; i < COUNT_OF(worst); i++)
        if (!(worst[i] < 1e-14)) differs("function %zu is off by %g", i, worst[i]);
}

/* The rule as it is written: the state decays, what it holds of the key is taken from the value, the rest is added, the query
 * reads. Keys and queries have length 1. */
static void test_delta_truth(void)
{
    enum { ROWS = 200, K = 64, V = 32 };
    static double state[K][V];
    struct kernels ref;
    kernels_init_scalar(&ref);
    struct delta a = fill_delta(ORDINARY, ROWS, K, V);
    for (size_t i = 0; i < 2 * ROWS; i++) {
        float *x = (float *)area(IN0, ROWS * 2 * K * 4, 0) + i * K, sum = 0.0f;
        for (size_t d = 0; d < K; d++) sum += x[d] * x[d];
        for (size_t d = 0; d < K; d++) x[d] /= sqrtf(sum);
    }
    for (size_t d = 0; d < K; d++)
        for (size_t c = 0; c < V; c++) state[d][c] = (double)a.before[d * DELTA_COLS + c];
    a.after = area(REF2, K * DELTA_COLS * 4, 0), a.o = area(REF, ROWS * V * 4, 0);
    ref.delta(&a);
    double worst = 0.0;
    for (size_t t = 0; t < ROWS; t++)
        for (size_t c = 0; c < V; c++) {
            const float *q = a.q + t * a.qk_stride, *k = a.k + t * a.qk_stride;
            double held = 0.0, out = 0.0;
            for (size_t d = 0; d < K; d++) held += (state[d][c] *= (double)a.decay[2 * t]) * (double)k[d];
            const double news = ((double)a.v[t * V + c] - held) * (double)a.beta[2 * t];
            for (size_t d = 0; d < K; d++) out += (state[d][c] += (double)k[d] * news) * (double)q[d];
            worst = fmax(worst, fabs(out - (double)a.o[t * V + c]));
        }
    printf("# delta: off by at most %.1e\n", worst);
    if (!(worst < 2e-6)) differs("outputs are off by %g", worst);
}

static void test_softplus_truth(void)
{
    for (float x = -87.0f; x < 87.0f; x += 0.01f) {
        const double exact = log1p(exp((double)x)), y = (double)num_softplus(x);
        if (!(fabs(y - exact) <= 0x1.2p-24 * exact)) differs("softplus(%g) = %.9g, exactly %.9g", (double)x, y, exact);
    }
    if (num_softplus(INFINITY) != INFINITY || num_softplus(-INFINITY) != 0.0f || !isnan(num_softplus(NAN))) differs("the ends");
}

/* All halves widen to their value, and come back; what lies between two goes to the nearer, or the even one. */
static void test_f16_truth(void)
{
    for (uint32_t h = 0; h < 0x7c00; h++) {
        double v = h < 0x400 ? ldexp(h, -24) : ldexp((h & 0x3ff) | 0x400, (int)(h >> 10) - 25);
        float f = f16_to_f32((uint16_t)h);
        bool ok =
            (double)f == v && f16_to_f32((uint16_t)(h | 0x8000)) == -f && f32_to_f16(f) == h && f32_to_f16(-f) == (h | 0x8000);
        double next = h + 1 < 0x400 ? ldexp(h + 1, -24) : ldexp(((h + 1) & 0x3ff) | 0x400, (int)((h + 1) >> 10) - 25);
        float middle = (float)((v + next) / 2.0); /* exact */
        ok = ok && f32_to_f16(middle) == h + (h & 1) && f32_to_f16(nextafterf(middle, 0.0f)) == h &&
             f32_to_f16(nextafterf(middle, INFINITY)) == h + 1;
        if (!ok) {
            differs("half %04x", h);
            return;
        }
    }
    if (f16_to_f32(0x7c00) != INFINITY || !isnan(f16_to_f32(0x7e00)) || f32_to_f16(INFINITY) != 0x7c00)
        differs("infinity and NaN");
}

static void test_truth(void)
{
    struct kernels ref;
    kernels_init_scalar(&ref);
    char name[40];
    for (enum qtype t = 0; t < QTYPE_COUNT; t++) {
        snprintf(name, sizeof name, "mm_%s near exact", qtypes[t].name);
        if (!wanted("scalar", name)) continue;
        test_mm_truth(&ref, t);
        report("scalar", name);
    }
    static const struct {
        const char *name;
        void (*run)(void);
    } others[] = {{"exp near exact", test_exp_truth},
                  {"act near exact", test_act_truth},
                  {"f64 near libm", test_f64_truth},
                  {"f16 exact", test_f16_truth},
                  {"softplus near exact", test_softplus_truth},
                  {"delta near exact", test_delta_truth}};
    for (size_t i = 0; i < COUNT_OF(others); i++) {
        if (!wanted("scalar", others[i].name)) continue;
        others[i].run();
        report("scalar", others[i].name);
    }
}

int main(int argc, char **argv)
{
    uint64_t seed = 1, threads = 1;
    bool bench = false;
    slow = SANITIZED || getenv("QUERN_TEST_SLOW");
    for (int i = 1; i < argc; i++) {
        struct str value = str_of(i + 1 < argc ? argv[i + 1] : "");
        if (strcmp(argv[i], "--bench") == 0)
            bench = true;
        else if (strcmp(argv[i], "--seed") == 0 && str_u64(value, &seed))
            i++;
        else if (strcmp(argv[i], "--threads") == 0 && str_u64(value, &threads))
            i++;
        else if (strcmp(argv[i], "--filter") == 0 && value.n)
            filter = argv[++i];
        else {
            fprintf(stderr, "usage: test_kernels [--seed N] [--filter TEXT] [--bench [--threads N]]\n");
            return 2;
        }
    }
    rng_state = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15);
    if (bench) return bench_kernels((unsigned)threads, filter);
    printf("# seed %" PRIu64 "\n", seed);
    areas_init();
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    signal(SIGILL, on_fault);
    test_truth();
    for (unsigned i = 0; cpu_level(i); i++) test_level(cpu_level(i), i == 0);
    printf("1..%u\n", n_tests);
    return n_failed ? 1 : 0;
}
