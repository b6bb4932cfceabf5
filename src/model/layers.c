/* layers: in what the layers of a model differ. Files say it by a list with an entry for each layer, by a period, or not at
 * all. */
#include <stdio.h>

#include "model/model_int.h"

/* Entry `layer` of a list of GGUF's; false where there is no such list. */
static bool gguf_entry(const struct files *f, const struct arch *arch, const char *name, uint32_t layer, uint64_t *out)
{
    char key[128];
    (void)snprintf(key, sizeof key, "%s.%s", arch->gguf, name);
    const struct gguf_kv *kv = gguf_find(files_gguf(f), key);
    return kv && kv->type == GGUF_ARRAY && gguf_arr_u64(kv, layer, out);
}

static int wrong_entry(const struct files *f, const char *key, uint32_t layer, struct err *e)
{
    return fail(e, ERR_FORMAT, "%s: entry %u of %s is missing or has the wrong kind", files_path(f), layer, key);
}

/* Heads and widths that differ by layer. */
static int gguf_widths(const struct files *f, struct hparams *hp, struct err *e)
{
    static const struct {
        const char *name;
        size_t at;
        uint64_t max;
    } lists[] = {
        {"attention.head_count", offsetof(struct layer_hp, n_heads), 65536},
        {"attention.head_count_kv", offsetof(struct layer_hp, n_kv_heads), 65536},
        {"feed_forward_length", offsetof(struct layer_hp, n_ff), 1 << 24},
    };
    for (size_t i = 0; i < COUNT_OF(lists); i++)
        for (uint32_t l = 0; l < hp->n_layers; l++) {
            uint64_t v;
            if (!gguf_entry(f, hp->arch, lists[i].name, l, &v)) continue;
            if (v > lists[i].max) return wrong_entry(f, lists[i].name, l, e);
            *(uint32_t *)(void *)((uint8_t *)&hp->layers[l] + lists[i].at) = (uint32_t)v;
        }
    return 0;
}

/* transformers 5.17 writes what layers have otherwise by their numbers. */
static int exceptions(const struct files *f, struct hparams *hp, uint32_t layer, struct err *e)
{
    const struct json *all = files_kind(f) == FILES_HF ? config_find(f, "per_layer_config") : NULL;
    struct layer_hp *h = &hp->layers[layer];
    char number[16];
    (void)snprintf(number, sizeof number, "%u", layer);
    const struct json *own = all && all->type == JSON_OBJECT ? json_find(all, number) : NULL;
    if (!own || own->type != JSON_OBJECT) return 0;
    int64_t dim = h->head_dim, kv_heads = h->n_kv_heads;
    if (!json_opt_i64(own, "head_dim", 1, ATTN_DIM_MAX, &dim) || !json_opt_i64(own, "num_key_value_heads", 1, 65536, &kv_heads))
        return wrong_entry(f, "per_layer_config", layer, e);
    h->head_dim = (uint32_t)dim;
    h->n_kv_heads = (uint32_t)kv_heads;
    if (!h->local && hp->head_dim != h->head_dim) {
        if (!hp->head_dim_local) hp->head_dim_local = hp->head_dim;
        hp->head_dim = h->head_dim;
    }
    return 0;
}

/* Layers with a window may have heads of another size, and those without one another number of KV heads; the last ones may read
 * the cache of the last layer of their kind that has one, and then have wider feed-forwards. */
static int kinds(const struct files *f, struct hparams *hp, struct err *e)
{
    struct {
        uint32_t full_dim, full_kv_heads;
        bool keys_are_values, wide;
    } x = {0};
#define X(m) (size_t)((uint8_t *)&x.m - (uint8_t *)&x)
    const struct number_row rows[] = {
        {NULL, "global_head_dim", X(full_dim), NUM_U32, 1, ATTN_DIM_MAX},
        {NULL, "num_global_key_value_heads", X(full_kv_heads), NUM_U32, 1, 65536},
        {NULL, "attention_k_eq_v", X(keys_are_values), NUM_BOOL, 0, 1},
        {NULL, "use_double_wide_mlp", X(wide), NUM_BOOL, 0, 1},
    };
#undef X
    TRY(numbers_read(f, hp->arch, rows, COUNT_OF(rows), &x, e));
    if (x.full_dim) hp->head_dim_local = hp->head_dim, hp->head_dim = x.full_dim;
    if (hp->n_shared_kv >= hp->n_layers)
        return fail(e, ERR_FORMAT, "%s: %u of %u layers share the KV cache of others; expected fewer", files_path(f),
                    hp->n_shared_kv, hp->n_layers);
    const uint32_t n_own = hp->n_layers - hp->n_shared_kv;
    uint32_t last[2] = {MAX_LAYERS, MAX_LAYERS}; /* without, with a window */
    for (uint32_t l = 0; l < hp->n_layers; l++) {
        struct layer_hp *h = &hp->layers[l];
        h->head_dim = h->local && hp->head_dim_local ? hp->head_dim_local : hp->head_dim;
        if (!h->local && x.keys_are_values && x.full_kv_heads) h->n_kv_heads = x.full_kv_heads;
        TRY(exceptions(f, hp, l, e));
        if (l < n_own) last[h->local] = l;
        if (l >= n_own && x.wide) h->n_ff *= 2;
        h->kv_layer = l < n_own ? l : last[h->local];
        if (h->kv_layer == MAX_LAYERS || hp->layers[h->kv_layer].n_kv_heads != h->n_kv_heads)
            return fail(e, ERR_FORMAT,
                        "%s: layer %u has no KV cache, nor is there an earlier layer of its kind to share one with",
                        files_path(f), l);
    }
    return 0;
}

/* ---- windows ----------------------------------------------------------------------------------------------------------- */

static int gguf_windows(const struct files *f, struct hparams *hp, struct err *e)
{
    uint32_t period = hp->arch->full_every;
    char key[128];
    uint64_t v;
    (void)snprintf(key, sizeof key, "%s.attention.sliding_window_pattern", hp->arch->gguf);
    if (gguf_get_u64(files_gguf(f), key, &v) && v <= MAX_LAYERS) period = (uint32_t)v;
    const struct gguf_kv *list = gguf_find(files_gguf(f), key);
    if (list && list->type != GGUF_ARRAY) list = NULL;
    for (uint32_t l = 0; l < hp->n_layers; l++) {
        hp->layers[l].local = period == 0 || (l + (hp->arch->features & FULL_FIRST ? 0 : 1)) % period != 0;
        if (list && !gguf_arr_bool(list, l, &hp->layers[l].local)) return wrong_entry(f, key, l, e);
    }
    return 0;
}

static int config_windows(const struct files *f, struct hparams *hp, struct err *e)
{
    const struct json *types = config_find(f, "layer_types");
    /* What max_window_layers means: these have windows from this layer on, or before it in every other. Others do not look at
     * it. */
    const bool late = arch_is(hp->arch, "qwen2") || arch_is(hp->arch, "qwen3"), early = arch_is(hp->arch, "qwen2moe");
    struct {
        uint32_t period, first;
    } x = {hp->arch->full_every, 0};
    static const struct number_row rows[] = {
        {NULL, "sliding_window_pattern|_sliding_window_pattern|no_rope_layer_interval|global_attn_every_n_layers", 0, NUM_U32,
         0, MAX_LAYERS},
        {NULL, "max_window_layers", sizeof(uint32_t), NUM_U32, 0, MAX_LAYERS},
    };
    TRY(numbers_read(f, hp->arch, rows, COUNT_OF(rows), &x, e));
    for (uint32_t l = 0; l < hp->n_layers; l++) {
        bool *local = &hp->layers[l].local;
        *local = x.period == 0 || (l + (hp->arch->features & FULL_FIRST ? 0 : 1)) % x.period != 0;
        if (late) *local = l >= x.first;
        if (early) *local = l % 2 == 0 && l < x.first;
        if (!types) continue;
        if (types->type != JSON_ARRAY || l >= types->n || types->v[l].type != JSON_STRING)
            return wrong_entry(f, "layer_types", l, e);
        *local = str_is(types->v[l].s, "sliding_attention") || str_is(types->v[l].s, "chunked_attention");
    }
    /* transformers lets Gemma 4 end with such a layer, whatever the file says. */
    if (arch_is(hp->arch, "gemma4")) hp->layers[hp->n_layers - 1].local = false;
    return 0;
}

/* ---- positions --------------------------------------------------------------------------------------------------------- */

/* Layers without positions: those without a window, or every so many. */
static int positions(const struct files *f, struct hparams *hp, struct err *e)
{
    const bool hf = files_kind(f) == FILES_HF;
    const struct json *rotated = hf ? config_find(f, "no_rope_layers") : NULL; /* 1: the layer has positions */
    uint32_t period = 0;
    static const struct number_row row = {NULL, "no_rope_layer_interval", 0, NUM_U32, 1, MAX_LAYERS};
    TRY(numbers_read(f, hp->arch, &row, 1, &period, e));
    const bool smollm3 = arch_is(hp->arch, "smollm3"), listed = rotated && rotated->type == JSON_ARRAY && rotated->n > 0;
    if (!hf && smollm3) period = 4; /* its files need not say it */
    const bool types = hf && config_find(f, "layer_types");
    char key[128];
    (void)snprintf(key, sizeof key, "%s.rope.layer_pattern", hp->arch->gguf);
    const struct gguf_kv *list = hf ? NULL : gguf_find(files_gguf(f), key);
    /* EXAONE 4 comes without windows, too, and then all of its layers know positions. */
    const bool full_nope = hp->arch->features & FULL_NOPE && hp->window;
    for (uint32_t l = 0; l < hp->n_layers; l++) {
        struct layer_hp *x = &hp->layers[l];
        x->nope = hp->arch->features & ABSOLUTE ? true : full_nope ? !x->local : period > 0 && (l + 1) % period == 0;
        bool turns;
        if (list && !gguf_arr_bool(list, l, &turns)) return wrong_entry(f, key, l, e);
        if (list) x->nope = !turns;
        if (listed) {
            if (l >= rotated->n || rotated->v[l].type != JSON_INT) return wrong_entry(f, "no_rope_layers", l, e);
            x->nope = rotated->v[l].i == 0;
            /* Of these, layers with positions are the ones with a window. */
            if (hp->arch->features & FULL_NOPE) x->local = !x->nope;
        }
        if (smollm3 && hf && !types) x->local = x->nope; /* of these, it is those without */
    }
    return 0;
}

/* That of the first layer for multi-token prediction: it has attention, as the last layer that has. */
static void head_layer(struct hparams *hp)
{
    uint32_t l = hp->n_layers;
    while (l > 1 && hp->layers[l - 1].mixer != MIX_ATTENTION) l--;
    hp->layers[hp->n_layers] = hp->layers[l - 1];
    hp->layers[hp->n_layers].mixer = MIX_ATTENTION;
    hp->layers[hp->n_layers].kv_layer = hp->n_layers;
}

int layers_read(const struct files *f, struct arena *a, struct hparams *hp, struct err *e)
{
    const bool hf = files_kind(f) == FILES_HF;
    hp->layers = arena_array(a, hp->n_layers + (size_t)1, sizeof *hp->layers);
    if (!hp->layers) return fail_nomem(e, "layers", hp->n_layers * sizeof *hp->layers);
    for (uint32_t l = 0; l < hp->n_layers; l++)
        hp->layers[l] =
            (struct layer_hp){.n_heads = hp->n_heads, .n_kv_heads = hp->n_kv_heads, .head_dim = hp->head_dim, .n_ff = hp->n_ff};
    if (!hf) TRY(gguf_widths(f, hp, e));
    TRY(hf ? config_windows(f, hp, e) : gguf_windows(f, hp, e));
    TRY(positions(f, hp, e));
    TRY(mixers_read(f, hp, e));
    TRY(kinds(f, hp, e));
    for (uint32_t l = 0; l < hp->n_layers; l++) {
        struct layer_hp *x = &hp->layers[l];
        if (hp->window == 0) x->local = false;
        if (x->n_kv_heads && (x->n_heads == 0 || x->n_heads % x->n_kv_heads))
            return fail(e, ERR_FORMAT, "%s: layer %u: %u attention heads cannot share %u KV heads evenly", files_path(f), l,
                        x->n_heads, x->n_kv_heads);
    }
    if (hp->n_mtp) head_layer(hp);
    return 0;
}
