/* model_int: between the files of the model room. */
#ifndef QUERN_MODEL_INT_H
#define QUERN_MODEL_INT_H

#include "model/model.h"

/* A number by either name: GGUF's behind "<architecture>.", Hugging Face's in config.json, where several are parted by '|'. */
struct number_row {
    const char *gguf, *hf; /* NULL: that kind of file has no such number */
    size_t offset;         /* in the struct that is filled */
    enum number_kind kind;
    double min, max;
};
/* Fills what the file has of rows [n] into base; NULL among JSON values counts as missing. */
int numbers_read(const struct files *f, const struct arch *arch, const struct number_row *rows, size_t n, void *base,
                 struct err *e);

/* The member of config.json that says how the text model is built: that of its "text_config", else its own; NULL: none. */
const struct json *config_find(const struct files *f, const char *key);
/* The first that is there of names parted by '|'; *used names it. */
const struct json *config_any(const struct files *f, const char *names, const char **used);

/* Rotary embeddings of hp (rope.c); hp->layers are known. */
int ropes_read(const struct files *f, struct arena *a, struct hparams *hp, struct err *e);
/* Layers that differ from one another (layers.c): the window, positions, heads. */
int layers_read(const struct files *f, struct arena *a, struct hparams *hp, struct err *e);
/* Which layers are recurrent, and their sizes (recurrent.c); called by layers_read. */
int mixers_read(const struct files *f, struct hparams *hp, struct err *e);
/* What folders with short convolutions say otherwise than all others. */
int conv_config(const struct files *f, struct hparams *hp, struct err *e);
/* 0.1 m ln(factor) + 1, YaRN's correction of the attention's temperature (arXiv 2309.00071, section 3.4); 1 for no factor. */
double yarn_mscale(double factor, double m);

/* ---- binding --------------------------------------------------------------------------------------------------------- */

/* The first tensor there is of names parted by '|', behind which comes suffix; "%u" in a name is the layer. NULL: none. A
 * folder may keep its text model under one of a few prefixes. */
const struct tensor *bind_find(struct model *m, const char *names, const char *suffix, uint32_t layer);
/* Rows [first, first + n) of a matrix of t, which is a matrix or a stack of them; no copy. NULL: no memory. */
const struct tensor *bind_view(struct model *m, const struct tensor *t, uint64_t first, uint64_t n);
/* Remembers what the GGUF file has under a name ("%u" in it is the layer). parts live in the arena. */
int bind_note(struct model *m, const char *name, uint32_t layer, const struct tensor *const *parts, uint32_t n, uint32_t heads,
              struct err *e);
int bind_note_vector(struct model *m, const char *name, uint32_t layer, const float *v, const uint64_t *ne, uint32_t n_dims,
                     struct err *e);
/* n numbers of t as f32 in the arena, plus `plus`. */
int bind_floats(struct model *m, const struct tensor *t, uint64_t n, float plus, const float **out, struct err *e);
/* Counts a matrix of which a token's pass reads `share`. */
void bind_count(struct model *m, const struct tensor *t, double share, struct macs *macs);
/* A part of the file's bytes that passes read. */
int bind_reads(struct model *m, const struct tensor *t, struct err *e);
int bind_wrong_shape(const struct model *m, const struct tensor *t, uint64_t in, uint64_t out, struct err *e);
int bind_missing(const struct model *m, const char *name, uint32_t layer, struct err *e);

/* A matrix of the model's files by its name in folders ("model.layers.3.self_attn.q_proj"), or by that in GGUF files
 * ("blk.3.attn_q.weight"); NULL: none, or one whose parts lie otherwise there. *heads: of a matrix whose rows the other kind of
 * file has in another order (struct bound), else 0. */
const struct tensor *bind_by_hf(const struct model *m, struct str name, uint32_t *heads);
const struct tensor *bind_by_gguf(const struct model *m, struct str name, uint32_t *heads);

/* The experts of a layer whose router is bound (experts.c). */
int bind_experts(struct model *m, uint32_t layer, struct err *e);
/* What a recurrent layer has in the place of attention (recurrent.c): its tensors; its operations from the normed rows h on. */
int bind_mixer(struct model *m, uint32_t layer, struct err *e);
value_id record_mixer(const struct model *m, uint32_t layer, value_id h, struct graph *g);
/* Whether the weights of norms are stored less 1. */
bool bind_norms_less_1(struct model *m);
/* After all is bound: an error where a layer has a tensor that nobody asked for (unused.c). */
int unused_check(struct model *m, struct err *e);
/* The matrices of latent attention (latent.c). */
int bind_latent(struct model *m, uint32_t layer, struct err *e);
/* Of matrix number `plane` of t, of a float type, the columns from, from + step, ..., n of them, as rows: a copy in the arena,
 * as long as the old matrix had rows. NULL: no memory. */
const struct tensor *bind_transposed(struct model *m, const struct tensor *t, uint64_t plane, uint64_t from, uint64_t step,
                                     uint64_t n);
/* A whole matrix of any type with rows and columns exchanged; f32 where it was no float. */
const struct tensor *bind_exchanged(struct model *m, const struct tensor *t);

#endif
