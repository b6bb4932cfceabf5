/* machine: what this machine is and can do. Facts for `quern doctor`, and the measured limits beside which speeds are printed:
 * a token cannot come faster than its weights can be read, nor a prompt faster than its products can be computed. */
#ifndef QUERN_MACHINE_H
#define QUERN_MACHINE_H

#include "base/base.h"
#include "kernel/kernel.h"

struct machine_info {
    char cpu[96];            /* model name; "unknown" where the system does not tell */
    char cpu_levels[64];     /* levels that run here, slowest first, parted by spaces */
    uint32_t cores, threads; /* that the system shows; that compute will use */
    uint64_t memory_bytes;   /* of the machine, or of the control group that holds this process */
    uint64_t available_bytes;
    double bandwidth_gb_s;      /* best of several passes over 4 KiB pages of a file mapping; 0 where not measured */
    double bandwidth_huge_gb_s; /* the same over anonymous memory with huge pages */
};

/* n_threads 0: cpu_threads(). measure: also the bandwidths, with n_threads threads; takes about a second and up to 1 GiB of
 * memory, less where less is available. */
int machine_probe(bool measure, unsigned n_threads, struct machine_info *out, struct err *e);

/* What no computation with given weights can exceed here. */
struct machine_limits {
    double bandwidth_gb_s;      /* reading them where they lie */
    double bandwidth_huge_gb_s; /* reading anonymous memory with huge pages */
    double int8_tops, f32_tops; /* 10^12 operations a second, a multiply-add being two, at the CPU level of k */
};
/* The best of several short measurements with n_threads threads; takes about a second, and memory as machine_probe. */
int machine_measure(const struct region *weights, size_t n, const struct kernels *k, unsigned n_threads,
                    struct machine_limits *out, struct err *e);

/* memory_bytes and available_bytes with the system files found below root ("" for the real ones). */
void machine_memory_under(const char *root, uint64_t *total, uint64_t *available);

#endif
