/* bench_kernels: how fast the kernels are, on data that fits the second-level cache and against scalar; then, with several
 * threads and more weights than any cache holds, matrix products against the machine's own limits as measured in the same run:
 * plain reading of the same memory for decode, the peak of the arithmetic units for prefill.
 *
 * Each figure is the best of several short stretches, and time is the CPU time of each thread, summed as rates: what other
 * programs on the machine take away counts as little as it can. */
#include <math.h>
#include <stdio.h>
#include <time.h>

#include "kernel_tests.h"

enum { RUNS = 8 };

static const char *filter;

static double cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static bool wanted(const char *level, const char *name)
{
    char full[100];
    snprintf(full, sizeof full, "%s %s", level, name);
    return !filter || strstr(full, filter);
}

/* ---- single kernels ------------------------------------------------------------------------------------- */

/* One call of everything on fixed operands. Sizes: K = 2048, 256 weight rows, rows of 4096, tiles of 128. */
enum { K = 2048, ROWS = 256, COLS = 64, N = 4096, DIM = 128 };

struct bench {
    struct mm mm;
    enum qtype type;
    struct attn_tile attn;
    float *x, *y, *z, *cos, *sin;
    struct act_mem mem;
    enum qarith arith;
    enum act_fn act;
    bool neox;
};

static void run_mm(const struct kernels *k, struct bench *b)
{
    k->mm[b->type](&b->mm, 0, ROWS);
}
static void run_to_float(const struct kernels *k, struct bench *b)
{
    k->to_float[b->type](&(struct qrow){.data = b->mm.w, .side = b->mm.side}, b->y, N);
}
static void run_attn(const struct kernels *k, struct bench *b)
{
    k->attn_tile(&b->attn);
}
static void run_quant_act(const struct kernels *k, struct bench *b)
{
    act_quantise(k, b->arith, b->x, N, 0, 1, false, &b->mem);
}
static void run_rms_norm(const struct kernels *k, struct bench *b)
{
    k->rms_norm(b->x, b->z, 1e-5f, N, b->y);
}
static void run_glu(const struct kernels *k, struct bench *b)
{
    k->glu[b->act](b->x, b->z, 7.0f, N, b->y);
}
static void run_add(const struct kernels *k, struct bench *b)
{
    k->add(b->x, b->z, N, b->y);
}
static void run_conv(const struct kernels *k, struct bench *b)
{
    struct conv a = {
        .n_rows = COLS / 2, .n = K, .taps = 4, .stride = K, .w = b->x, .silu = true, .before = b->y, .after = b->y};
    a.x = b->x, a.y = b->y + 4 * K, a.x_stride = a.y_stride = K;
    k->conv(&a);
}
static void run_delta(const struct kernels *k, struct bench *b)
{
    static const float decay = 0.5f, beta = 1e-3f;
    struct delta a = {.n_rows = COLS, .k_dim = DIM, .v_dim = DELTA_COLS, .decay = &decay, .beta = &beta};
    a.q = a.k = a.v = b->x, a.qk_stride = a.v_stride = DIM;
    a.before = a.after = b->y;
    a.o = b->y + DIM * DELTA_COLS, a.o_stride = DELTA_COLS;
    k->delta(&a);
}
static void run_rope(const struct kernels *k, struct bench *b)
{
    k->rope(b->y, b->cos, b->sin, N / 2, b->neox);
}
static void run_exp(const struct kernels *k, struct bench *b)
{
    k->exp(b->x, N, b->y);
}
static void run_merge(const struct kernels *k, struct bench *b)
{
    float m = 0.0f, l = 1.0f;
    k->attn_merge(&m, &l, b->y, 0.5f, 1.0f, b->x, N);
}

typedef void run_fn(const struct kernels *k, struct bench *b);

static double time_of_calls(size_t n, run_fn *run, const struct kernels *k, struct bench *b)
{
    double start = cpu_ns();
    for (size_t i = 0; i < n; i++) run(k, b);
    return cpu_ns() - start;
}

/* Nanoseconds of one call: the best of the stretches that fit 20 ms. A stretch has calls for 0.1 ms: too many for the clock,
 * which takes as long as a small kernel, to show, and so short that one of them meets no other program. */
static double time_of(run_fn *run, const struct kernels *k, struct bench *b)
{
    size_t n = 1;
    while (time_of_calls(n, run, k, b) < 1e5) n *= 2;
    double best = INFINITY;
    for (double begin = cpu_ns(); cpu_ns() - begin < 2e7;) best = fmin(best, time_of_calls(n, run, k, b) / (double)n);
    return best;
}

/* work: operations (times 2 for a multiply and add) or bytes, of one call. */
static void bench_one(const struct kernels *now, struct bench *b, const char *name, run_fn *run, double work, const char *unit)
{
    struct kernels ref;
    kernels_init_scalar(&ref);
    if (!wanted(now->level, name)) return;
    double t = time_of(run, now, b), t0 = time_of(run, &ref, b);
    printf("%-8s %-28s %9.0f ns %8.2f %s %7.1f x scalar\n", now->level, name, t, work / t, unit, t0 / t);
}

/* Ordinary activations: floats at x, and the same quantised and packed for a level. */
static void fill_act(const struct kernels *now, enum qarith arith, struct act *a, size_t n_rows, size_t k, float *x,
                     const struct act_mem *mem)
{
    *a = (struct act){.f = x, .stride = k, .q = mem->q, .d = mem->d, .s = mem->s};
    for (size_t i = 0; i < n_rows * k; i++) x[i] = random_float();
    if (arith == ARITH_FLOAT) return;
    const bool pack = now->pack_cols && n_rows >= now->pack_min;
    act_quantise(now, arith, x, k, 0, n_rows, pack, mem);
    a->packed = pack ? mem->packed : NULL;
}

/* Scales and biases for any matrix that is measured, all of one ordinary value; NULL where the type has none. They are few
 * enough to stay in a cache, and are not counted as bytes read. */
static const struct qside *side_for(enum qtype t)
{
    static uint8_t same[8192 * 2048 / 16];
    static struct qside side = {.scales = same, .biases = same, .type = QTYPE_F16};
    if (!has_side(t)) return NULL;
    memset(same, 0x38, sizeof same);
    side.group = t == QTYPE_MLX_NVFP4 ? 16 : qtypes[t].has_min ? 64 : 32;
    return &side;
}

/* Heads of 64 and of 128. Few rows are measured by the bytes of the tile, many by their arithmetic. */
static void bench_attn(const struct kernels *now, struct bench *b)
{
    static const enum qtype types[] = {QTYPE_F32, QTYPE_F16, QTYPE_BF16, QTYPE_Q8_0, QTYPE_Q4_0};
    static const size_t rows[] = {1, 4, 6, 8, COLS};
    char name[40];
    for (size_t i = 0; i < COUNT_OF(types) * 2; i++) {
        enum qtype t = types[i / 2];
        size_t dim = i % 2 ? 128 : 64, bytes = 2 * attn_bytes(t, dim);
        b->attn.k_type = b->attn.v_type = t;
        b->attn.head_dim = b->attn.v_dim = dim;
        for (size_t j = 0; j < ATTN_TILE; j++) {
            attn_store_k(now, t, b->x + j * dim, dim, (void *)(uintptr_t)b->attn.k, j);
            attn_store_v(now, t, b->x + j * dim, dim, (void *)(uintptr_t)b->attn.v, j);
        }
        if (attn_quantised(t)) fill_act(now, ARITH_32, &b->attn.quant, COLS, dim, b->x, &b->mem);
        for (size_t r = 0; r < COUNT_OF(rows); r++) {
            const bool few = rows[r] < COLS;
            b->attn.n_rows = rows[r];
            snprintf(name, sizeof name, "attn_tile_%s %zu by %zu", qtypes[t].name, dim, rows[r]);
            bench_one(now, b, name, run_attn, few ? (double)bytes : 4.0 * (double)(dim * ATTN_TILE * rows[r]),
                      few ? "GB/s" : "Gop/s");
        }
    }
}

static void bench_level(const struct kernels *now, struct bench *b)
{
    char name[40];
    for (enum qtype t = 0; t < QTYPE_COUNT; t++) {
        const struct qtype_info *info = &qtypes[t];
        b->type = b->mm.type = t;
        b->mm.side = side_for(t);
        b->mm.row_bytes = K / info->block_n * info->block_bytes;
        fill_weights(t, (uint8_t *)(uintptr_t)b->mm.w, K * ROWS);
        static const size_t cols[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 32, COLS};
        for (size_t c = 0; c < COUNT_OF(cols); c++) {
            b->mm.n_rows = cols[c];
            fill_act(now, info->arith, &b->mm.act, cols[c], K, b->x, &b->mem);
            snprintf(name, sizeof name, "mm_%s 256x2048 by %zu", info->name, cols[c]);
            bench_one(now, b, name, run_mm, 2.0 * K * ROWS * (double)cols[c], "Gop/s");
        }
        snprintf(name, sizeof name, "to_float_%s", info->name);
        bench_one(now, b, name, run_to_float, N * (4.0 + info->block_bytes / (double)info->block_n), "GB/s");
    }
    bench_attn(now, b);
    b->arith = ARITH_32;
    bench_one(now, b, "quant_act_32", run_quant_act, N * 5.0, "GB/s");
    b->arith = ARITH_256;
    bench_one(now, b, "quant_act_256", run_quant_act, N * 5.0, "GB/s");
    bench_one(now, b, "rms_norm", run_rms_norm, N * 12.0, "GB/s");
    for (b->act = 0; b->act < ACT_COUNT; b->act++) {
        snprintf(name, sizeof name, "glu %s", act_names[b->act]);
        bench_one(now, b, name, run_glu, N * 12.0, "GB/s");
    }
    bench_one(now, b, "add", run_add, N * 12.0, "GB/s");
    for (int neox = 0; neox < 2; neox++) {
        b->neox = neox;
        bench_one(now, b, neox ? "rope halves" : "rope adjacent", run_rope, N * 12.0, "GB/s");
    }
    bench_one(now, b, "conv", run_conv, COLS / 2 * K * 8.0, "GB/s");
    bench_one(now, b, "delta", run_delta, 2.0 * 3 * COLS * DIM * DELTA_COLS, "Gop/s");
    bench_one(now, b, "exp", run_exp, N * 8.0, "GB/s");
    bench_one(now, b, "attn_merge", run_merge, N * 12.0, "GB/s");
}

static void bench_all_levels(struct arena *mem)
{
    static uint32_t valid[COLS];
    static float m[COLS], l[COLS];
    static _Alignas(64) uint8_t scratch[MM_SCRATCH];
    static _Alignas(64) float attn_scratch[ATTN_SCRATCH];
    struct bench b = {.x = arena_array(mem, COLS * K, 4),
                      .y = arena_array(mem, COLS * K, 4),
                      .z = arena_array(mem, N, 4),
                      .cos = arena_array(mem, N, 4),
                      .sin = arena_array(mem, N, 4),
                      .mem = {arena_array(mem, COLS * K, 1), arena_array(mem, COLS * K / 32, 4),
                              arena_array(mem, COLS * K / 16, 2), arena_array(mem, COLS * K * 2, 1)}};
    b.mm.w = arena_array(mem, K * ROWS, 4);
    b.mm.k = K;
    b.mm.dst = b.y;
    b.mm.dst_stride = ROWS;
    b.mm.scratch = scratch;
    for (size_t r = 0; r < COLS; r++) valid[r] = ATTN_TILE;
    b.attn = (struct attn_tile){.k = arena_array(mem, DIM * ATTN_TILE, 4),
                                .v = arena_array(mem, DIM * ATTN_TILE, 4),
                                .head_dim = DIM,
                                .v_dim = DIM,
                                .q = b.x,
                                .valid = valid,
                                .m = m,
                                .l = l,
                                .o = b.y,
                                .scratch = attn_scratch};
    for (size_t i = 0; i < N; i++) b.z[i] = random_float(), b.cos[i] = 0.6f, b.sin[i] = 0.8f;
    for (unsigned i = 1; cpu_level(i); i++) {
        struct kernels now;
        if (kernels_init(&now, cpu_level(i), NULL) == 0) bench_level(&now, &b);
    }
}

/* ---- the machine ------------------------------------------------------------------------------------------ */

#define BIG ((size_t)3 << 29)     /* bytes of weights: more than any cache */
#define STRETCH ((size_t)3 << 25) /* bytes of one measurement: short, so that some of them meet no other program */
enum { PREFILL_COLS = 512, PREFILL_ROWS = 256, MAX_THREADS = 64, K_MAX = 8192 };
typedef uint64_t wide __attribute__((vector_size(16)));

struct job {
    const struct kernels *k;
    enum qtype type;
    bool int8;
    struct mm mm;
    size_t n_rows;      /* weight rows of one matrix */
    const uint8_t *big; /* BIG bytes, matrix after matrix */
    size_t at;          /* where the stretch being measured begins */
    uint8_t *scratch;
    wide sink[MAX_THREADS];
    float *x; /* PREFILL_COLS * K_MAX activations */
    struct act_mem mem;
    double work[MAX_THREADS], ns[MAX_THREADS]; /* of each thread in this stretch */
};

/* Each thread reads its part of the stretch, in order. */
static void read_part(void *ctx, unsigned ith, unsigned nth)
{
    struct job *j = ctx;
    size_t part = STRETCH / nth / 64 * 64;
    const wide *p = (const wide *)(j->big + j->at + ith * part);
    wide a = {0}, b = {0};
    double start = cpu_ns();
    for (size_t i = 0; i < part / sizeof *p; i += 4) {
        __builtin_prefetch(p + i + 64); /* 1 KB ahead, as the kernels do */
        a ^= p[i] ^ p[i + 1];
        b ^= p[i + 2] ^ p[i + 3];
    }
    j->ns[ith] += cpu_ns() - start;
    j->work[ith] += (double)part;
    j->sink[ith] = a ^ b;
}

/* Each thread takes a range of rows; work is rows. */
static void mm_part(void *ctx, unsigned ith, unsigned nth)
{
    struct job *j = ctx;
    struct mm a = j->mm;
    size_t units = (j->n_rows + 31) / 32;
    a.scratch = j->scratch + (size_t)ith * MM_SCRATCH;
    size_t r0 = size_min(units * ith / nth * 32, j->n_rows), r1 = size_min(units * (ith + 1) / nth * 32, j->n_rows);
    double start = cpu_ns();
    if (r0 < r1) j->k->mm[j->type](&a, r0, r1);
    j->ns[ith] += cpu_ns() - start;
    j->work[ith] += (double)(r1 - r0);
}

/* Multiply-adds a nanosecond of this thread's units. */
static void peak_part(void *ctx, unsigned ith, unsigned nth)
{
    struct job *j = ctx;
    (void)nth;
    double start = cpu_ns();
    for (int i = 0; i < 8; i++) j->work[ith] += (double)(j->int8 ? j->k->peak_int8() : j->k->peak_f32());
    j->ns[ith] += cpu_ns() - start;
}

/* The sum of the threads' work per nanosecond in `times` runs of fn over matrices that follow each other. */
static double rate_of(struct pool *pool, struct job *j, pool_fn *fn, size_t times)
{
    double sum = 0.0;
    memset(j->work, 0, sizeof j->work);
    memset(j->ns, 0, sizeof j->ns);
    for (size_t i = 0; i < times; i++) {
        j->mm.w = j->big + j->at + i * j->n_rows * j->mm.row_bytes;
        pool_run(pool, fn, j);
    }
    for (unsigned t = 0; t < pool_size(pool); t++) sum += j->work[t] / j->ns[t];
    return sum;
}

/* The bytes of the weights that pass in a second, beside those of plain reading. */
static void bench_decode(struct pool *pool, struct job *j, size_t k, size_t n_cols, const char *name)
{
    double read = 0.0, rate = 0.0;
    j->mm.n_rows = n_cols;
    fill_act(j->k, qtypes[j->type].arith, &j->mm.act, n_cols, k, j->x, &j->mem);
    for (int i = 0; i < 3 * RUNS; i++) {
        j->at = (size_t)(2 * i) * STRETCH % BIG;
        read = fmax(read, rate_of(pool, j, read_part, 1));
        j->at = (size_t)(2 * i + 1) * STRETCH % BIG;
        rate = fmax(rate, rate_of(pool, j, mm_part, STRETCH / (j->n_rows * j->mm.row_bytes)) * (double)j->mm.row_bytes);
    }
    printf("%-8s %-32s %8.2f GB/s of %.2f: %5.1f %%\n", j->k->level, name, rate, read, 100.0 * rate / read);
}

static void bench_shape(struct pool *pool, struct job *j, size_t k, size_t n_rows)
{
    const struct qtype_info *info = &qtypes[j->type];
    char name[60];
    j->n_rows = n_rows;
    j->mm.k = k;
    j->mm.dst_stride = n_rows;
    j->mm.row_bytes = k / info->block_n * info->block_bytes;
    static const size_t cols[] = {1, 4, 8, 16};
    for (size_t c = 0; c < COUNT_OF(cols); c++) {
        snprintf(name, sizeof name, "decode mm_%s %zux%zu by %zu", info->name, n_rows, k, cols[c]);
        if (wanted(j->k->level, name)) bench_decode(pool, j, k, cols[c], name);
    }
    snprintf(name, sizeof name, "prefill mm_%s k %zu by %d", info->name, k, PREFILL_COLS);
    if (wanted(j->k->level, name)) {
        double top = 0.0, rate = 0.0;
        j->mm.n_rows = PREFILL_COLS;
        fill_act(j->k, qtypes[j->type].arith, &j->mm.act, PREFILL_COLS, k, j->x, &j->mem);
        j->n_rows = PREFILL_ROWS;
        j->int8 = qtypes[j->type].arith != ARITH_FLOAT;
        for (int i = 0; i < 2 * RUNS; i++) {
            j->at = (size_t)i * STRETCH % BIG;
            top = fmax(top, rate_of(pool, j, peak_part, 1));
            rate = fmax(rate, rate_of(pool, j, mm_part, 1) * (double)(k * PREFILL_COLS));
        }
        printf("%-8s %-32s %8.1f GMAC/s of %.1f: %5.1f %%\n", j->k->level, name, rate, top, 100.0 * rate / top);
    }
}

static int bench_machine(unsigned n_threads, struct arena *mem)
{
    static struct job j;
    struct pool *pool = NULL;
    struct err e;
    const size_t most = PREFILL_COLS * K_MAX;
    uint8_t *big = mem_pages(BIG);
    j.x = arena_array(mem, most, 4);
    j.mem = (struct act_mem){arena_array(mem, most, 1), arena_array(mem, most / 32, 4), arena_array(mem, most / 16, 2),
                             arena_array(mem, most + 64 * K_MAX, 1)};
    j.mm.dst = arena_array(mem, most, 4);
    j.scratch = mem_pages((size_t)n_threads * MM_SCRATCH);
    j.big = big;
    if (!big || !j.x || !j.mem.q || !j.mem.d || !j.mem.s || !j.mem.packed || !j.mm.dst || !j.scratch ||
        pool_new(n_threads, &pool, &e) < 0) {
        printf("no memory or threads\n");
        return 1;
    }
    for (enum qtype t = 0; t < QTYPE_COUNT; t++) {
        j.type = j.mm.type = t;
        j.mm.side = side_for(t);
        const size_t unit = (size_t)qtypes[t].block_bytes * 1024;
        fill_weights(t, big, 1024 * qtypes[t].block_n);
        for (size_t at = unit; at + unit <= BIG; at += unit) memcpy(big + at, big, unit);
        for (unsigned l = 1; cpu_level(l); l++) {
            struct kernels now;
            if (kernels_init(&now, cpu_level(l), NULL) < 0) continue;
            j.k = &now;
            bench_shape(pool, &j, 2048, 8192);
            bench_shape(pool, &j, 8192, 2048);
        }
    }
    pool_free(&pool);
    mem_pages_free(big, BIG);
    return 0;
}

int bench_kernels(unsigned n_threads, const char *only)
{
    struct arena mem = {0};
    filter = only;
    bench_all_levels(&mem);
    int rc = bench_machine(n_threads ? n_threads : 1, &mem);
    arena_fini(&mem);
    return rc;
}
