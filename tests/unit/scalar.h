/* scalar: the kernels that define every result, for tests of what needs some. */
#ifndef QUERN_TEST_SCALAR_H
#define QUERN_TEST_SCALAR_H

#include "kernel/kernel.h"

static inline const struct kernels *scalar_kernels(void)
{
    static struct kernels k;
    kernels_init_scalar(&k);
    return &k;
}

#endif
