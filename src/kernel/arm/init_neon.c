/* init_neon: the kernels of every arm64 CPU. */
#include "kernel/arm/neon_int.h"

void kernels_init_neon(struct kernels *k)
{
    mm_float_init_neon(k);
    mm_int_init_neon(k);
    convert_init_neon(k);
    elem_init_neon(k);
    attn_init_neon(k);
    recurrent_init_neon(k);
    peak_init_neon(k);
}
