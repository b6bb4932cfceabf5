/* quantize: a GGUF file into another type. All metadata is carried over, save what says how the file is stored. */
#include "convert/convert_int.h"

#include <stdio.h>

/* Whether a key describes the old file and not the model. */
static bool of_the_file(const struct transfer *t, struct str key)
{
    static const struct str prefixes[] = {{"general.file_type", 17},
                                          {"general.quantization_version", 28},
                                          {"split.", 6},
                                          {"quantize.imatrix.", 17},
                                          {"quern.quality.", 14}};
    for (size_t i = 0; i < COUNT_OF(prefixes); i++)
        if (str_starts(key, prefixes[i])) return true;
    return t->opts->name && str_is(key, "general.name");
}

static int list_items(struct transfer *t, struct err *e)
{
    t->n = files_n_tensors(t->src);
    t->items = arena_array(&t->a, t->n, sizeof *t->items);
    if (!t->items) return fail_nomem(e, "list of tensors", t->n * sizeof *t->items);
    for (size_t i = 0; i < t->n; i++) {
        const struct tensor *src = files_tensor(t->src, i);
        t->items[i] = (struct transfer_item){.src = src, .name = src->name};
    }
    return 0;
}

/* "<architecture>.<name>", as a number or, where layers differ, an array: its largest element. */
static uint32_t number(const struct gguf *g, const char *name)
{
    struct str arch = {0};
    char key[128];
    uint64_t v = 0, x;
    (void)gguf_get_str(g, "general.architecture", &arch);
    (void)snprintf(key, sizeof key, "%.*s.%s", STR_ARG(arch), name);
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!gguf_get_u64(g, key, &v) && kv)
        for (uint64_t i = 0; gguf_arr_u64(kv, i, &x); i++) v = x > v ? x : v;
    return v < UINT32_MAX ? (uint32_t)v : UINT32_MAX;
}

/* The file need not be of an architecture that Quern runs. */
static void describe(struct transfer *t, const struct gguf *g)
{
    t->model = (struct recipe_model){
        .n_layers = (uint32_t)size_min(number(g, "block_count"), RECIPE_LAYERS),
        .n_heads = number(g, "attention.head_count"),
        .n_kv_heads = number(g, "attention.head_count_kv"),
        .n_experts = number(g, "expert_count"),
        .tied = !files_find(t->src, STR("output.weight")),
    };
    if (!t->model.n_kv_heads) t->model.n_kv_heads = t->model.n_heads;
}

/* m: where adapters are merged; else NULL. */
static int quantize(struct transfer *t, const struct model *m, const struct merge *merge, struct convert_result *result,
                    struct err *e)
{
    const struct gguf *g = files_gguf(t->src);
    TRY(list_items(t, e));
    if (m) TRY(merge_items(merge, m, t, e));
    for (size_t i = 0; i < gguf_n_kv(g); i++)
        if (!of_the_file(t, gguf_kv_at(g, i)->key)) gguf_put_kv(t->w, gguf_kv_at(g, i));
    if (t->opts->name) gguf_put_str(t->w, "general.name", str_of(t->opts->name));
    describe(t, g);
    TRY(transfer_plan(t, e));
    return transfer_run(t, result, e);
}

int convert_quantize(const struct files *src, const char *out_path, const struct convert_opts *opts,
                     struct convert_result *result, struct err *e)
{
    if (!opts->type && !opts->target_bytes && !(opts->target_bits > 0))
        return fail(e, ERR_ARG, "%s: no type to quantize to", files_path(src));
    if (files_kind(src) == FILES_HF) return convert_hf(src, out_path, opts, result, e);
    if (opts->head != CONVERT_HEAD_AUTO)
        return fail(e, ERR_ARG,
                    "%s: whether a head for multi-token prediction goes along is asked of Hugging Face folders only",
                    files_path(src));
    struct transfer t;
    struct model *m = NULL;
    struct merge merge = {0};
    int rc = transfer_init(&t, src, out_path, opts, e);
    if (rc == 0 && opts->n_loras) rc = model_open(src, &m, e);
    if (rc == 0) rc = merge_open(&merge, opts, m, e);
    if (rc == 0) rc = quantize(&t, m, &merge, result, e);
    transfer_fini(&t);
    merge_close(&merge);
    model_close(&m);
    return rc;
}
