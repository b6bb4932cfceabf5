/* convert_hf: a Hugging Face folder as one GGUF file of the llama architecture. The model room opens the folder first, so every
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
static float llama3_divisor(const struct hparams *hp, uint32_t i)
{
    double turns = hp->rope_n_ctx * num_pow(hp->rope_theta, -2.0 * i / hp->rope_dim) / (2 * PI);
    if (turns < hp->rope_low) return (float)hp->rope_factor;
    if (turns > hp->rope_high) return 1;
    double smooth = (turns - hp->rope_low) / (hp->rope_high - hp->rope_low);
    return (float)(1 / ((1 - smooth) / hp->rope_factor + smooth));
}

/* A vector of rope_dim / 2 divisors; values NULL: those of llama3. */
static int add_divisors(struct transfer *t, const struct hparams *hp, const char *name, const float *values, struct err *e)
{
    size_t n = hp->rope_dim / 2;
    struct tensor *made = arena_alloc(&t->a, sizeof *made);
    float *v = arena_array(&t->a, n, sizeof *v);
    if (!made || !v) return fail_nomem(e, name, n * sizeof *v);
    for (uint32_t i = 0; i < n; i++) v[i] = values ? values[i] : llama3_divisor(hp, i);
    *made = (struct tensor){str_of(name), QTYPE_F32, 1, {n, 1, 1, 1}, v, n * sizeof *v, NULL};
    t->items[t->n++] = (struct transfer_item){.src = made, .name = made->name};
    return 0;
}

static int add_rope(struct transfer *t, const struct hparams *hp, struct err *e)
{
    if (hp->rope_scaling == ROPE_YARN && !hp->rope_truncate)
        return fail(e, ERR_UNSUPPORTED, "%s: yarn scaling with \"truncate\": false cannot be said in a GGUF file",
                    files_path(t->src));
    if (hp->rope_scaling == ROPE_LLAMA3) return add_divisors(t, hp, "rope_freqs.weight", NULL, e);
    if (hp->rope_scaling != ROPE_LONGROPE) return 0;
    TRY(add_divisors(t, hp, "rope_factors_long.weight", hp->rope_long, e));
    return add_divisors(t, hp, "rope_factors_short.weight", hp->rope_short, e);
}

/* ---- tensors of the folder ----------------------------------------------------------------------------------------------- */

/* Where a tensor stands in the file: in the order in which a pass reads them. */
static size_t place(struct str name, uint32_t n_layers)
{
    uint64_t layer = 0;
    struct str rest = name, digits;
    if (!str_starts(name, STR("blk."))) return str_starts(name, STR("output")) ? (size_t)n_layers + 1 : 0;
    rest.p += 4;
    rest.n -= 4;
    for (digits = (struct str){rest.p, 0}; digits.n < rest.n && rest.p[digits.n] != '.';) digits.n++;
    return str_u64(digits, &layer) && layer < n_layers ? (size_t)layer + 1 : (size_t)n_layers + 1;
}

/* Tensors that GGUF files leave out: tables that everybody computes, and an output matrix that is the embedding. */
static bool left_out(const struct transfer *t, const struct hparams *hp, struct str name)
{
    bool tied = hp->tied;
    (void)json_opt_bool(files_hf(t->src)->config, "tie_word_embeddings", &tied);
    return str_ends(name, STR(".rotary_emb.inv_freq")) || (tied && str_is(name, "lm_head.weight"));
}

static int make_item(struct transfer *t, const struct hparams *hp, const struct tensor *src, struct transfer_item *item,
                     struct err *e)
{
    struct buf gguf = {0};
    if (!tensor_name_to_gguf(src->name, &gguf)) {
        buf_fini(&gguf);
        return fail(e, ERR_UNSUPPORTED, "%s: tensor \"%.*s\" has no name in GGUF files of architecture %s", files_path(t->src),
                    STR_ARG(src->name), hp->arch->gguf);
    }
    char *name = arena_dup(&t->a, gguf.p, gguf.n);
    struct str s = {name, gguf.n};
    buf_fini(&gguf);
    if (!name) return fail_nomem(e, "name of a tensor", s.n);
    *item = (struct transfer_item){.src = src, .name = s};
    if (str_has(s, STR(".attn_q."))) item->heads = hp->n_heads;
    if (str_has(s, STR(".attn_k."))) item->heads = hp->n_kv_heads;
    return 0;
}

/* Lists all tensors in the order of place, by counting. */
static int list_items(struct transfer *t, const struct hparams *hp, struct err *e)
{
    size_t n = files_n_tensors(t->src), n_places = (size_t)hp->n_layers + 2;
    struct transfer_item *found = arena_array(&t->a, n, sizeof *found);
    size_t *next = arena_array(&t->a, n_places + 1, sizeof *next);
    t->items = arena_array(&t->a, n + 2, sizeof *t->items); /* at most two are made here */
    if (!found || !next || !t->items) return fail_nomem(e, "list of tensors", n * sizeof *found);
    TRY(add_rope(t, hp, e));

    size_t n_found = 0;
    for (size_t i = 0; i < n; i++) {
        const struct tensor *src = files_tensor(t->src, i);
        if (left_out(t, hp, src->name)) continue;
        TRY(make_item(t, hp, src, &found[n_found], e));
        next[place(found[n_found++].name, hp->n_layers) + 1]++;
    }
    for (size_t p = 1; p < n_places; p++) next[p] += next[p - 1];
    for (size_t i = 0; i < n_found; i++) t->items[t->n + next[place(found[i].name, hp->n_layers)]++] = found[i];
    t->n += n_found;
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

static int convert(struct transfer *t, const struct model *m, struct convert_result *result, struct err *e)
{
    const char *name = t->opts->name ? t->opts->name : folder_name(&t->a, files_path(t->src));
    if (!name) return fail_nomem(e, "name of the model", 0);
    TRY(list_items(t, &m->hp, e));
    TRY(hf_meta_put(t->w, t->src, m, name, e));
    t->model = (struct recipe_model){
        .n_layers = m->hp.n_layers, .n_heads = m->hp.n_heads, .n_kv_heads = m->hp.n_kv_heads, .tied = m->hp.tied};
    TRY(transfer_plan(t, e));
    return transfer_run(t, result, e);
}

int convert_hf(const struct files *src, const char *out_path, const struct convert_opts *opts, struct convert_result *result,
               struct err *e)
{
    if (files_kind(src) != FILES_HF)
        return fail(e, ERR_ARG, "%s: already a GGUF file; quantize changes its type", files_path(src));
    struct model *m;
    TRY(model_open(src, &m, e));
    struct transfer t;
    int rc = transfer_init(&t, src, out_path, opts, e);
    if (rc == 0) rc = convert(&t, m, result, e);
    transfer_fini(&t);
    model_close(&m);
    return rc;
}
