/* vnni: the products of AVX2 with VNNI, in the encoding that a file is compiled for. AVX-512 brought them (EVEX); processors
 * without it have them in that of AVX2 (VEX). The kernels of the level "avxvnni" are compiled once for each. */
#ifndef QUERN_VNNI_H
#define QUERN_VNNI_H

#include <immintrin.h>

#include "kernel/kernel.h"

#if defined(__AVXVNNI__)
#define VNNI(name) name##_avxvnni
#define DPBUSD _mm256_dpbusd_avx_epi32
#define DPWSSD _mm256_dpwssd_avx_epi32
#else
#define VNNI(name) name##_avxvnni_evex
#define DPBUSD _mm256_dpbusd_epi32
#define DPWSSD _mm256_dpwssd_epi32
#endif

void VNNI(peak_init)(struct kernels *k);

#endif
