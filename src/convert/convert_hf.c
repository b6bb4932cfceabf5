/* convert_hf: a Hugging Face folder as one GGUF file. The model room opens the folder first, so every
 * hyper-parameter and every shape is known to be good before the first byte is written. What the folder has and GGUF has no
 * place for is an error, for a file that silently computes something else is worse than none. */
#include "convert/convert_int.h"
#include "kernel/kernel.h"
#include "model/model.h"

#define PI 3.14159265358979323846

/* ---- tensors that are made here -------------------------------------------------------------------------------------- */

/* llama3 scaling as GGUF has it: divisors of the frequencies. Long waves (fewer than low_freq_factor turns in the original
 * context) are divided by factor, short ones (more than high_freq_factor turns) stay, between them 1 / divisor is
 * interpolated. */
static float llama3_divisor(const struct rope_hp *r, uint32_t i)
{
    double turns = r->n_ctx * num_pow(r->theta, -2.0 * i / r->dim) / (2 * PI);
    if (turns < r->low) return (float)r->factor;
    if (turns > r->high) return 1;
    double smooth = (turns - r->low) / (r->high - r->low);
    return (float)(1 / ((1 - smooth) / r->factor + smooth));
}

/* A vector of rope_dim / 2 divisors; values NULL: those of llama3. */
static int add_divisors(struct transfer *t, const struct rope_hp *r, const char *name, const float *values, struct err *e)
{
    size_t n = r->dim / 2;
    struct tensor *made = arena_alloc(&t->a, sizeof *made);
    float *v = arena_array(&t->a, n, sizeof *v);
    if (!made || !v) return fail_nomem(e, name, n * sizeof *v);
    for (uint32_t i = 0; i < n; i++) v[i] = values ? values[i] : llama3_divisor(r, i);
    *made = (struct tensor){str_of(name), QTYPE_F32, 1, {n, 1, 1, 1}, v, n * sizeof *v, NULL};
    t->items[t->n++] = (struct transfer_item){.src = made, .name = made->name};
    return 0;
}

static int add_rope(struct transfer *t, const struct rope_hp *r, struct err *e)
{
    if (r->scaling == ROPE_LLAMA3) return add_divisors(t, r, "rope_freqs.weight", NULL, e);
    if (r->scaling == ROPE_LONGROPE) {
        TRY(add_divisors(t, r, "rope_factors_long.weight", r->long_divisors, e));
        return add_divisors(t, r, "rope_factors_short.weight", r->divisors, e);
    }
    return r->divisors ? add_divisors(t, r, "rope_freqs.weight", r->divisors, e) : 0;
}

/* ---- tensors of the folder ----------------------------------------------------------------------------------------------- */

/* What was bound, as the file shall have it. */
static int add_bound(struct transfer *t, const struct bound *b, struct err *e)
{
    struct transfer_item *item = &t->items[t->n++];
    const struct tensor *first = b->parts[0];
    struct tensor *whole = arena_alloc(&t->a, sizeof *whole);
    if (!whole) return fail_nomem(e, "list of tensors", sizeof *whole);
    *whole = *first;
    if (!whole->name.n) whole->name = str_of(b->name); /* made from others */
    *item = (struct transfer_item){.src = whole, .name = str_of(b->name), .heads = b->heads, .order = b->order};
    if (b->order && b->order->blocks && first->ne[0] / b->order->n_blocks % qtypes[first->type].block_n)
        return fail(e, ERR_UNSUPPORTED, "%s: %s: heads of %llu weights cannot change places in blocks of %s",
                    files_path(t->src), b->name, (unsigned long long)(first->ne[0] / b->order->n_blocks),
                    qtypes[first->type].name);
    if (b->n_parts == 1) return 0;
    whole->n_dims = 3;
    whole->ne[2] = b->n_parts;
    whole->data = NULL;
    whole->bytes = 0;
    for (uint32_t i = 0; i < b->n_parts; i++) {
        if (b->parts[i]->type != first->type)
            return fail(e, ERR_UNSUPPORTED, "%s: %s: experts of different types (%s, %s) cannot be one tensor",
                        files_path(t->src), b->name, qtypes[first->type].name, qtypes[b->parts[i]->type].name);
        whole->bytes += b->parts[i]->bytes;
    }
    item->parts = b->parts;
    item->n_parts = b->n_parts;
    return 0;
}

static int list_items(struct transfer *t, const struct model *m, struct err *e)
{
    t->items = arena_array(&t->a, m->n_bound + 2, sizeof *t->items); /* at most two are made here */
    if (!t->items) return fail_nomem(e, "list of tensors", m->n_bound * sizeof *t->items);
    TRY(add_rope(t, &m->hp.rope[0], e));
    for (size_t i = 0; i < m->n_bound; i++) TRY(add_bound(t, &m->bound[i], e));
    for (size_t i = 0; i < files_n_tensors(t->src); i++) {
        const struct tensor *src = files_tensor(t->src, i);
        const char *what = model_leaves_out(m, src);
        if (what && strcmp(what, MODEL_UNKNOWN) == 0)
            return fail(e, ERR_UNSUPPORTED, "%s: tensor \"%.*s\" has no name in GGUF files of architecture %s",
                        files_path(t->src), STR_ARG(src->name), m->hp.arch->gguf);
    }
    return 0;
}

/* ---- the whole ----------------------------------------------------------------------------------------------------------- */

/* The name of the folder. */
static char *folder_name(struct arena *a, const char *path)
{
    size_t end = strlen(path), begin;
    while (end > 1 && path[end - 1] == '/') end--;
    for (begin = end; begin > 0 && path[begin - 1] != '/';) begin--;
    return arena_dup(a, path + begin, end - begin);
}

static int convert(struct transfer *t, const struct model *m, const struct merge *merge, struct convert_result *result,
                   struct err *e)
{
    const char *name = t->opts->name ? t->opts->name : folder_name(&t->a, files_path(t->src));
    if (!name) return fail_nomem(e, "name of the model", 0);
    if (m->hp.kv_lora && m->hp.rope_neox)
        return fail(e, ERR_UNSUPPORTED, "%s: \"rope_interleave\": false cannot be said in a GGUF file", files_path(t->src));
    if (m->hp.kv_lora && m->hp.rope[0].attn_factor != 1)
        return fail(e, ERR_UNSUPPORTED,
                    "%s: latent attention whose mscale is not its mscale_all_dim cannot be said in a GGUF file",
                    files_path(t->src));
    if (m->hp.n_ropes > 1 && (m->hp.rope[1].scaling != ROPE_PLAIN || m->hp.rope[1].divisors))
        return fail(e, ERR_UNSUPPORTED, "%s: scaled positions of layers with a window cannot be said in a GGUF file",
                    files_path(t->src));
    TRY(list_items(t, m, e));
    TRY(merge_items(merge, m, t, e));
    TRY(hf_meta_put(t->w, t->src, m, name, e));
    t->model = (struct recipe_model){.n_layers = model_n_blocks(m),
                                     .n_heads = m->hp.n_heads,
                                     .n_kv_heads = m->hp.n_kv_heads,
                                     .n_experts = m->hp.route.n_experts,
                                     .tied = m->hp.tied};
    TRY(transfer_plan(t, e));
    return transfer_run(t, result, e);
}

/* llama.cpp reads the heads of GLM and Qwen; of DeepSeek it refuses a file with tensors that it does not expect. */
static bool drops_head(const struct model *m, enum convert_head head)
{
    return m->head && (head == CONVERT_HEAD_DROP || (head == CONVERT_HEAD_AUTO && arch_is(m->hp.arch, "deepseek2")));
}

int convert_hf(const struct files *src, const char *out_path, const struct convert_opts *opts, struct convert_result *result,
               struct err *e)
{
    if (files_kind(src) != FILES_HF)
        return fail(e, ERR_ARG, "%s: already a GGUF file; quantize changes its type", files_path(src));
    struct model *m;
    TRY(model_open(src, &m, e));
    const bool drops = drops_head(m, opts->head);
    if (drops) model_drop_head(m);
    struct transfer t;
    struct merge merge = {0};
    int rc = transfer_init(&t, src, out_path, opts, e);
    if (rc == 0) rc = merge_open(&merge, opts, m, e);
    if (rc == 0) rc = convert(&t, m, &merge, result, e);
    if (rc == 0 && result) result->head_dropped = drops && opts->head == CONVERT_HEAD_AUTO;
    transfer_fini(&t);
    merge_close(&merge);
    model_close(&m);
    return rc;
}
