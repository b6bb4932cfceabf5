/* recurrent: kernels of recurrent layers in AVX-512. */
#include "kernel/x86/avx512.h"
#include "kernel/x86/vec_avx512.h"

#include "kernel/recurrent_tmpl.h"
