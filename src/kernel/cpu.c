/* cpu: which kernels this machine may run, and the table filled for a level. The ladder below is the only place that knows
 * about instruction sets. */
#include "kernel/kernel.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#if defined(__x86_64__)
/* Which register files the system saves and restores (XCR0); AVX without it would be lost on a context switch. */
static uint64_t xcr0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

unsigned cpu_features(void)
{
    unsigned a, b, c, d, out;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    bool osxsave = c & bit_OSXSAVE, fma = c & bit_FMA, f16c = c & bit_F16C;
    if (!osxsave || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    uint64_t saved = xcr0();
    if ((saved & 0x6) != 0x6 || !fma || !f16c || !(b & bit_AVX2)) return 0;
    out = CPU_AVX2;
    const unsigned need = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
    if ((saved & 0xe6) == 0xe6 && (b & need) == need && (c & bit_AVX512VNNI)) out |= CPU_VNNI | CPU_AVX512;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & bit_AVXVNNI)) out |= CPU_VNNI | CPU_AVXVNNI;
    return out;
}
#elif defined(__aarch64__) && defined(__APPLE__)
static bool has(const char *name)
{
    int value = 0;
    size_t n = sizeof value;
    return sysctlbyname(name, &value, &n, NULL, 0) == 0 && value;
}

unsigned cpu_features(void)
{
    const bool dotprod = has("hw.optional.arm.FEAT_DotProd"), i8mm = dotprod && has("hw.optional.arm.FEAT_I8MM");
    return CPU_NEON | (dotprod ? CPU_DOTPROD : 0u) | (i8mm ? CPU_I8MM : 0u);
}
#elif defined(__aarch64__)
unsigned cpu_features(void)
{
    const unsigned long hwcap_asimddp = 1ul << 20, hwcap2_i8mm = 1ul << 13;
    const bool dotprod = getauxval(AT_HWCAP) & hwcap_asimddp, i8mm = dotprod && getauxval(AT_HWCAP2) & hwcap2_i8mm;
    return CPU_NEON | (dotprod ? CPU_DOTPROD : 0u) | (i8mm ? CPU_I8MM : 0u);
}
#else
unsigned cpu_features(void)
{
    return 0;
}
#endif

void act_quantise(const struct kernels *kn, enum qarith arith, const float *x, size_t k, size_t from, size_t to, bool pack,
                  const struct act_mem *mem)
{
    const size_t n_d = act_scales(arith, k), n_s = act_sums(arith, k);
    for (size_t m = from; m < to; m++)
        (arith == ARITH_256 ? kn->quant_act_256 : kn->quant_act_32)(x + m * k, k, mem->q + m * k, mem->d + m * n_d,
                                                                    mem->s + m * n_s);
    for (size_t m = from; pack && m < to; m += kn->pack_cols)
        kn->pack_act(mem->q + m * k, size_min(to - m, kn->pack_cols), k, mem->packed + m * k);
}

#if defined(__x86_64__)
/* Two encodings of one source; where a machine has both, the one that is free of AVX-512. */
static void init_avxvnni(struct kernels *k)
{
    if (cpu_features() & CPU_AVXVNNI)
        kernels_init_avxvnni(k);
    else
        kernels_init_avxvnni_evex(k);
}
#endif

static const struct level {
    const char *name;
    unsigned needs;
    void (*init)(struct kernels *k);
} levels[] = {
    {"scalar", 0, kernels_init_scalar},
#if defined(__x86_64__)
    {"avx2", CPU_AVX2, kernels_init_avx2},
    {"avxvnni", CPU_VNNI, init_avxvnni},
    {"avx512", CPU_AVX512, kernels_init_avx512},
#elif defined(__aarch64__)
    {"neon", CPU_NEON, kernels_init_neon},
    {"dotprod", CPU_DOTPROD, kernels_init_dotprod},
    {"i8mm", CPU_I8MM, kernels_init_i8mm},
#endif
};

const char *cpu_level(unsigned i)
{
    unsigned have = cpu_features();
    for (size_t l = 0; l < COUNT_OF(levels); l++)
        if ((levels[l].needs & ~have) == 0 && i-- == 0) return levels[l].name;
    return NULL;
}

int kernels_init(struct kernels *k, const char *level, struct err *e)
{
    unsigned have = cpu_features();
    bool found = level == NULL;
    kernels_init_scalar(k);
    for (size_t l = 0; l < COUNT_OF(levels); l++) {
        if (levels[l].needs & ~have) continue;
        levels[l].init(k);
        k->level = levels[l].name;
        if (level && strcmp(level, levels[l].name) == 0) {
            found = true;
            break;
        }
    }
    if (found) return 0;
    struct buf names = {0};
    for (unsigned i = 0; cpu_level(i); i++) (void)buf_printf(&names, "%s%s", i ? ", " : "", cpu_level(i));
    int rc = fail(e, ERR_ARG, "CPU level '%s' is unknown or not available on this machine; it can run: %.*s", level,
                  STR_ARG(buf_view(&names)));
    buf_fini(&names);
    return rc;
}
