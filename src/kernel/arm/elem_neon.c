/* elem_neon: the elementwise kernels of arm64, four values at a time. */
#include "kernel/arm/vec_neon.h"

#include "kernel/elem_tmpl.h"
