/* fuzz_config: any config.json beside the weights of a tiny Llama. A model opens or fails with one error, and nothing stays
 * behind either way. */
#include <stdio.h>
#include <stdlib.h>

#include "format/format.h"
#include "model/model.h"

enum { N_EMBD = 16, N_KV = 8, N_FF = 24, N_VOCAB = 32 };

static char folder[] = "/tmp/quern-fuzz-XXXXXX", config[64], weights[64];

static void check(bool ok)
{
    if (!ok) __builtin_trap();
}

static void remove_folder(void)
{
    (void)remove(config);
    (void)remove(weights);
    (void)remove(folder);
}

static void write_file(const char *path, const void *p, size_t n)
{
    FILE *f = fopen(path, "wb");
    check(f && fwrite(p, 1, n, f) == n && fclose(f) == 0);
}

static void make_weights(void)
{
    static const struct {
        const char *name;
        unsigned rows, columns; /* rows 0: one dimension */
    } tensors[] = {
        {"model.embed_tokens.weight", N_VOCAB, N_EMBD},
        {"model.norm.weight", 0, N_EMBD},
        {"model.layers.0.input_layernorm.weight", 0, N_EMBD},
        {"model.layers.0.self_attn.q_proj.weight", N_EMBD, N_EMBD},
        {"model.layers.0.self_attn.k_proj.weight", N_KV, N_EMBD},
        {"model.layers.0.self_attn.v_proj.weight", N_KV, N_EMBD},
        {"model.layers.0.self_attn.o_proj.weight", N_EMBD, N_EMBD},
        {"model.layers.0.post_attention_layernorm.weight", 0, N_EMBD},
        {"model.layers.0.mlp.gate_proj.weight", N_FF, N_EMBD},
        {"model.layers.0.mlp.up_proj.weight", N_FF, N_EMBD},
        {"model.layers.0.mlp.down_proj.weight", N_EMBD, N_FF},
    };
    struct buf b = {0};
    size_t at = 0;
    int rc = buf_put(&b, "\0\0\0\0\0\0\0\0{", 9);
    for (size_t i = 0; i < COUNT_OF(tensors); i++) {
        const unsigned rows = tensors[i].rows, columns = tensors[i].columns;
        const size_t n = 4 * (size_t)(rows ? rows : 1) * columns;
        rc |= buf_printf(&b, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[", i ? "," : "", tensors[i].name);
        if (rows) rc |= buf_printf(&b, "%u,", rows);
        rc |= buf_printf(&b, "%u],\"data_offsets\":[%zu,%zu]}", columns, at, at + n);
        at += n;
    }
    rc |= buf_c(&b, '}');
    for (size_t i = 0, n = b.n - 8; i < 8; i++) b.p[i] = (char)(n >> 8 * i);
    while (rc == 0 && at-- > 0) rc = buf_c(&b, 0);
    check(rc == 0);
    write_file(weights, b.p, b.n);
    buf_fini(&b);
}

static void make_folder(void)
{
    check(mkdtemp(folder) != NULL);
    (void)snprintf(config, sizeof config, "%s/config.json", folder);
    (void)snprintf(weights, sizeof weights, "%s/model.safetensors", folder);
    check(atexit(remove_folder) == 0);
    make_weights();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct files *files = NULL;
    struct model *model = NULL;
    struct err e = {0};
    if (!config[0]) make_folder();
    const size_t before = mem_stats().current;
    write_file(config, data, size);
    int rc = files_open(folder, &files, &e);
    if (rc == 0) rc = model_open(files, &model, &e);
    check(rc == 0 ? model != NULL : e.code == rc && e.msg[0] && !model);
    model_close(&model);
    files_close(&files);
    check(mem_stats().current == before);
    return 0;
}
