/* recurrent_neon: kernels of recurrent layers in NEON. */
#include "kernel/arm/vec_neon.h"

#include "kernel/recurrent_tmpl.h"
