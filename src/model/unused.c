/* unused: tensors of the files that no pass reads. What is beside the text model is told of by `quern show`; what makes no
 * difference is not. A tensor of a layer that nobody has bound is neither: leaving it out would silently compute something
 * else, so it is an error when the model is opened. Callers: model_open, convert, api. */
#include "model/model_int.h"

/* By a part of the name. what NULL: everybody computes it, or it serves what no model here does. */
static const struct {
    const char *part, *what;
} asides[] = {
    {"vision_tower.", "vision"},
    {"vision_model.", "vision"},
    {"multi_modal_projector.", "vision"},
    {"visual.", "vision"},
    {"embed_vision.", "vision"},
    {"audio_tower.", "audio"},
    {"embed_audio.", "audio"},
    {"mtp.", "multi-token prediction"},
    {"nextn.", "multi-token prediction"},
    {"cls.predictions.", "head of masked training"},
    {"pooler.dense.", NULL}, /* BERT's, where no head reads it */
    {"position_ids", NULL},
    {"rotary_emb.inv_freq", NULL},
    {"attn_rot_embd", NULL},
    {"rope_freqs.", NULL}, /* rope.c reads these by itself */
    {"rope_factors_", NULL},
};

static bool aside_of(struct str name, const char **what)
{
    size_t i = 0;
    while (i < COUNT_OF(asides) && !str_has(name, str_of(asides[i].part))) i++;
    if (i == COUNT_OF(asides)) return false;
    *what = asides[i].what;
    return true;
}

/* The number behind the first "blk.", "layers." or "layer." that has one, and what is before it; false where there is none. */
static bool layer_of(struct str name, struct str *prefix, uint64_t *layer)
{
    static const char *const before[] = {"blk.", "layers.", "layer."};
    for (size_t i = 0; i < name.n; i++) {
        const struct str rest = {name.p + i, name.n - i};
        for (size_t k = 0; k < COUNT_OF(before); k++) {
            const size_t n = strlen(before[k]);
            struct str digits = {rest.p + n, 0};
            if (!str_starts(rest, str_of(before[k]))) continue;
            while (n + digits.n < rest.n && digits.p[digits.n] >= '0' && digits.p[digits.n] <= '9') digits.n++;
            *prefix = (struct str){name.p, i + n};
            if (str_u64(digits, layer)) return true;
        }
    }
    return false;
}

/* What t belongs to, if to nothing that is computed: false for what is used, or makes no difference. *in_layer: to a layer. */
static bool left(const struct model *m, const struct tensor *t, const char **what, bool *in_layer)
{
    struct str prefix;
    uint64_t layer;
    *in_layer = false;
    if (model_uses(m, t)) return false;
    if (aside_of(t->name, what)) return *what != NULL;
    if (m->hp.tied && (str_ends(t->name, STR("lm_head.weight")) || str_is(t->name, "output.weight"))) return false;
    *what = MODEL_UNKNOWN;
    if (!layer_of(t->name, &prefix, &layer) || !str_eq(prefix, m->layer_prefix)) return true;
    *in_layer = layer < m->hp.n_layers;
    if (!*in_layer) *what = "multi-token prediction"; /* the layers behind the last */
    return true;
}

const char *model_leaves_out(const struct model *m, const struct tensor *t)
{
    const char *what;
    bool in_layer;
    return left(m, t, &what, &in_layer) ? what : NULL;
}

/* Other parts of the files may have layers, too: those of the text model are named like the ones that are used. */
static struct str prefix_of_layers(const struct model *m)
{
    struct str prefix;
    uint64_t layer;
    const char *what;
    for (size_t i = 0; i < files_n_tensors(m->files); i++) {
        const struct tensor *t = files_tensor(m->files, i);
        if (model_uses(m, t) && !aside_of(t->name, &what) && layer_of(t->name, &prefix, &layer)) return prefix;
    }
    return (struct str){0};
}

int unused_check(struct model *m, struct err *e)
{
    m->layer_prefix = prefix_of_layers(m);
    for (size_t i = 0; i < files_n_tensors(m->files); i++) {
        const struct tensor *t = files_tensor(m->files, i);
        const char *what;
        bool in_layer;
        if (left(m, t, &what, &in_layer) && in_layer)
            return fail(
                e, ERR_UNSUPPORTED,
                "%s: tensor %.*s is not known in a layer of architecture %s; leaving it out would change what the model "
                "computes",
                files_path(m->files), STR_ARG(t->name), m->hp.arch->gguf);
    }
    return 0;
}
