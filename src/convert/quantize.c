/* quantize: a GGUF file into another type. All metadata is carried over, save what says how the file is stored. */
#include "convert/convert_int.h"

/* Whether a key describes the old file and not the model. */
static bool of_the_file(const struct transfer *t, struct str key)
{
    if (str_is(key, "general.name")) return t->opts->name != NULL;
    return str_is(key, "general.file_type") || str_is(key, "general.quantization_version") || str_starts(key, STR("split."));
}

static int list_items(struct transfer *t, struct err *e)
{
    t->n = files_n_tensors(t->src);
    t->items = arena_array(&t->a, t->n, sizeof *t->items);
    if (!t->items) return fail_nomem(e, "list of tensors", t->n * sizeof *t->items);
    for (size_t i = 0; i < t->n; i++) {
        const struct tensor *src = files_tensor(t->src, i);
        t->items[i] = (struct transfer_item){.src = src, .name = src->name, .type = transfer_type(t, src, src->name)};
    }
    return 0;
}

static int quantize(struct transfer *t, struct convert_result *result, struct err *e)
{
    const struct gguf *g = files_gguf(t->src);
    TRY(list_items(t, e));
    for (size_t i = 0; i < gguf_n_kv(g); i++)
        if (!of_the_file(t, gguf_kv_at(g, i)->key)) gguf_put_kv(t->w, gguf_kv_at(g, i));
    if (t->opts->name) gguf_put_str(t->w, "general.name", str_of(t->opts->name));
    transfer_put_types(t);
    return transfer_run(t, result, e);
}

int convert_quantize(const struct files *src, const char *out_path, const struct convert_opts *opts,
                     struct convert_result *result, struct err *e)
{
    if (!opts->type) return fail(e, ERR_ARG, "%s: no type to quantize to", files_path(src));
    if (files_kind(src) == FILES_HF) return convert_hf(src, out_path, opts, result, e);
    struct transfer t;
    int rc = transfer_init(&t, src, out_path, opts, e);
    if (rc == 0) rc = quantize(&t, result, e);
    transfer_fini(&t);
    return rc;
}
