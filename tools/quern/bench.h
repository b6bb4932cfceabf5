/* bench: what `quern bench` measures and how it is printed. */
#ifndef QUERN_BENCH_H
#define QUERN_BENCH_H

#include "cli.h"

/* One measurement: n tokens after depth others. */
struct bench_test {
    bool decode; /* one token at a time; else all at once, in batches */
    uint32_t n, depth;
    uint32_t parallel; /* sequences that are decoded together; 0 or 1: one */
};

/* "pp512", "tg64@d4096": the names that users of llama-bench know. */
#define BENCH_NAME_MAX 40
const char *bench_name(const struct bench_test *t, char out[BENCH_NAME_MAX]);

#define BENCH_TESTS_MAX 128
#define BENCH_REPEATS_MAX 100

struct bench_row {
    char model[64], type[32]; /* cut where longer */
    struct bench_test test;
    double median, min, max; /* tokens per second */
    double bytes;            /* that one token reads: weights and KV cache */
    double int8, f32;        /* multiply-adds of one token in matrices */
};

/* Seconds from a prompt of n tokens to the first token of its answer. */
struct bench_prefix {
    char model[64], type[32];
    uint32_t n;
    double computed, from_memory, from_disk;
};

/* Tokens per second of answers of up to n tokens, one by one and with speculation. */
struct bench_speculation {
    char model[64], type[32];
    const char *work; /* the name of a kind of prompts: bench_works */
    uint32_t n;
    double plain, speculative;
    double worst; /* speculative / plain of the prompt where that is least */
    uint64_t n_drafted, n_accepted;
};
#define BENCH_WORKS 3
extern const char *const bench_works[BENCH_WORKS];

struct bench_result {
    struct bench_row *rows; /* owned */
    size_t n;
    struct bench_prefix *prefixes; /* owned */
    size_t n_prefixes;
    struct bench_speculation *speculations; /* owned */
    size_t n_speculations;
    quern_limits limits;   /* the best that was measured during the whole run */
    const char *cpu_level; /* of the last session */
    uint32_t n_threads;
};

/* The speed of a row as a part of what the limits allow: of reading its bytes for decoding, of computing its products for
 * prompts; of what takes longer for several sequences. */
double bench_fraction(const struct bench_row *row, const quern_limits *limits);

/* Measures a test with several sequences (bench_parallel.c): tokens per second of all together. setup is that of the session
 * that the other tests use; ids [depth + 1 ..] are what the sequences read. */
int bench_parallel(const quern_model *model, const quern_session_info *setup, const struct bench_test *t, const int32_t *ids,
                   double *speed, struct err *e);

/* Measures row->n tokens of ids (bench_prefix.c); medians. cache: where pages lie meanwhile. */
int bench_prefix(const quern_model *model, const quern_session_info *setup, const int32_t *ids, size_t n_repeats,
                 const char *cache, struct bench_prefix *row, struct err *e);

/* Measures answers of up to row->n tokens to the prompts of row->work (bench_speculate.c); medians. */
int bench_speculate(const quern_model *model, const quern_session_info *setup, const quern_speculation *how, size_t n_repeats,
                    struct bench_speculation *row, struct err *e);

/* Formats that a result is printed in, by name: text, json, csv, md. */
int bench_print(struct buf *b, const struct bench_result *r, const char *format);

#endif
