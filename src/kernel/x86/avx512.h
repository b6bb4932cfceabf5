/* avx512: the kernels of the level that live outside its table's file. */
#ifndef QUERN_AVX512_H
#define QUERN_AVX512_H

#include "kernel/kernel.h"

void mm_f32_avx512(const struct mm *a, size_t r0, size_t r1);
void mm_f16_avx512(const struct mm *a, size_t r0, size_t r1);
void mm_bf16_avx512(const struct mm *a, size_t r0, size_t r1);
void mm_any_float_avx512(const struct mm *a, size_t r0, size_t r1);
void mm_int_init_avx512(struct kernels *k); /* all integer types, and packed activations */
void elem_init_avx512(struct kernels *k);   /* what elem_tmpl.h has */
void attn_tile_avx512(const struct attn_tile *a);
void recurrent_init_avx512(struct kernels *k);
void peak_init_avx512(struct kernels *k);

#endif
