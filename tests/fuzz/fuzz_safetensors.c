/* fuzz_safetensors: safetensors_parse on any bytes. What it accepts must tile the data. */
#include "format/format.h"

static void check(bool ok)
{
    if (!ok) __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena a = {.limit = 2 * size + ((size_t)16 << 20)};
    struct tensor *v = NULL;
    size_t n = 0, before = mem_stats().current;
    struct err e = {0};
    uint64_t bytes = 0, sum = 0;
    int rc = safetensors_parse((struct str){(const char *)data, size}, "input", &a, &v, &n, &e);
    if (rc < 0) check(e.code == rc && e.msg[0]);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        const uint8_t *p = v[i].data;
        check(p >= data && v[i].bytes > 0 && v[i].bytes <= size && (size_t)(p - data) <= size - v[i].bytes);
        check(v[i].n_dims >= 1 && v[i].n_dims <= TENSOR_DIMS && utf8_valid(v[i].name));
        sum += p[0] + p[v[i].bytes - 1] + str_hash(v[i].name);
        bytes += v[i].bytes;
    }
    check(bytes <= size);
    __asm__ volatile("" : : "r"(sum)); /* the reads above must happen */
    arena_fini(&a);
    check(mem_stats().current == before);
    return 0;
}
