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

struct bench_result {
    struct bench_row *rows; /* owned */
    size_t n;
    struct bench_prefix *prefixes; /* owned */
    size_t n_prefixes;
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

/* Formats that a result is printed in, by name: text, json, csv, md. */
int bench_print(struct buf *b, const struct bench_result *r, const char *format);

#endif
