/* kernel_tests: what the two files of the kernel test program share. */
#ifndef KERNEL_TESTS_H
#define KERNEL_TESTS_H

#include "kernel/kernel.h"

uint64_t random_bits(void);
float random_float(void); /* -1..1 */
/* Ordinary weights of a type, n a multiple of its block. */
void fill_weights(enum qtype t, uint8_t *w, size_t n);

extern const char *const act_names[ACT_COUNT];

bool has_side(enum qtype t); /* whether a type needs a struct qside: those of MLX do */

/* Times every kernel of every level against scalar, and matrix products against what the machine can do. */
int bench_kernels(unsigned n_threads, const char *filter);

#endif
