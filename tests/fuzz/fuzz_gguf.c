/* fuzz_gguf: gguf_parse on any bytes. What it accepts must lie inside the bytes, without overlap, under unique names, and every
 * accessor must stay inside, too; what it refuses must carry a message. */
#include "format/format.h"

static void check(bool ok)
{
    if (!ok) __builtin_trap();
}

static uint64_t read_kv(const struct gguf *g, const struct gguf_kv *kv)
{
    uint64_t sum = 0, u;
    int64_t i64;
    double f;
    struct reader r;
    for (uint64_t i = 0; i < kv->n; i++) {
        if (gguf_arr_u64(kv, i, &u)) sum += u;
        if (gguf_arr_i64(kv, i, &i64)) sum ^= (uint64_t)i64;
        if (gguf_arr_f64(kv, i, &f)) sum += f > 0;
    }
    check(!gguf_arr_u64(kv, kv->n, &u));
    if (gguf_strs(kv, &r)) {
        for (uint64_t i = 0; i < kv->n; i++) sum += str_hash(gguf_next_str(&r));
        check(!r.bad && rd_left(&r) == 0);
    }
    if (kv->type == GGUF_STRING) sum += str_hash(kv->v.s);
    if (kv->key.n < 64 && !memchr(kv->key.p, 0, kv->key.n)) {
        char key[64] = {0};
        memcpy(key, kv->key.p, kv->key.n);
        check(gguf_find(g, key) == kv);
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (int with_data = 0; with_data < 2; with_data++) {
        struct gguf *g;
        struct err e = {0};
        size_t before = mem_stats().current;
        uint64_t sum = 0, bytes = 0;
        int rc = gguf_parse((struct str){(const char *)data, size}, "input", with_data, &g, &e);
        if (rc < 0) {
            check(!g && e.code == rc && e.msg[0]);
            check(mem_stats().current == before);
            continue;
        }
        for (size_t i = 0; i < gguf_n_kv(g); i++) sum += read_kv(g, gguf_kv_at(g, i));
        for (size_t i = 0; with_data && i < gguf_n_tensors(g); i++) {
            const struct tensor *t = gguf_tensor(g, i);
            const uint8_t *p = t->data;
            check(p >= data && t->bytes > 0 && t->bytes <= size && (size_t)(p - data) <= size - t->bytes);
            sum += p[0] + p[t->bytes - 1];
            bytes += t->bytes;
        }
        check(bytes <= size);
        __asm__ volatile("" : : "r"(sum)); /* the reads above must happen */
        gguf_free(&g);
        check(mem_stats().current == before);
    }
    return 0;
}
