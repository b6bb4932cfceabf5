/* recurrent: kernels of recurrent layers in AVX2. */
#include "kernel/x86/avx2.h"
#include "kernel/x86/vec_avx2.h"

#include "kernel/recurrent_tmpl.h"
