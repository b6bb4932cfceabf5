/* model: what the numbers of a file mean. Hyper-parameters are read from either kind of file into one struct and checked
 * against one table; tensors are bound and their shapes checked once; a forward pass is recorded as a graph. An architecture is
 * a row of archs[] (arch.c) and a record function made of shared blocks (blocks.c). */
#ifndef QUERN_MODEL_H
#define QUERN_MODEL_H

#include "base/base.h"
#include "format/format.h"
#include "graph/graph.h"

/* ---- hyper-parameters ------------------------------------------------------------------------------ */

#define MAX_LAYERS 1024

enum rope_scaling { ROPE_PLAIN, ROPE_LINEAR, ROPE_DYNAMIC, ROPE_YARN, ROPE_LONGROPE, ROPE_LLAMA3 };

struct hparams {
    const struct arch *arch;
    uint32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab, n_ctx_train;
    float norm_eps;
    bool tied;      /* the output matrix is the embedding table */
    bool rope_neox; /* rotary pairs are half a head apart (Hugging Face's layout of q and k), else neighbours (GGUF's) */
    enum rope_scaling rope_scaling;
    uint32_t rope_dim;          /* rotated elements of each head */
    double rope_theta;          /* base frequency */
    double rope_factor;         /* linear, dynamic, yarn, llama3: how much longer than rope_n_ctx; 1 otherwise */
    double rope_low, rope_high; /* llama3: low_freq_factor, high_freq_factor; yarn: beta_slow, beta_fast */
    double rope_attn_factor;    /* yarn, longrope: multiplies sine and cosine */
    bool rope_truncate;         /* yarn: the correction range is rounded to whole dimensions */
    uint32_t rope_n_ctx;        /* original_max_position_embeddings */
    const float *rope_short,
        *rope_long; /* [rope_dim / 2] divisors of the frequencies (longrope; GGUF's llama3 as rope_short); NULL: 1 */
};

/* Reads and checks everything of f that is not in tensors; memory for the arrays comes from a. Errors name the key, the value
 * and the range that is accepted. */
int hparams_read(const struct files *f, struct arena *a, struct hparams *out, struct err *e);

/* ---- model ------------------------------------------------------------------------------------------- */

struct layer {
    const float *attn_norm, *ffn_norm;              /* [n_embd] */
    const struct tensor *q, *k, *v, *o;             /* [n_embd -> heads * head_dim], o back */
    const float *q_bias, *k_bias, *v_bias, *o_bias; /* NULL where the model has none */
    const struct tensor *gate, *up, *down;          /* [n_embd -> n_ff], down back */
    const float *gate_bias, *up_bias, *down_bias;
};

/* Multiply-adds, by what computes them: matrices of integer types, and of floats. */
struct macs {
    uint64_t int8, f32;
};

/* Immutable after model_open. */
struct model {
    const struct files *files;
    struct hparams hp;
    const struct tensor *token_embd, *output;
    const float *output_norm, *output_bias;
    struct layer *layers; /* [n_layers] */
    uint64_t parameters;
    uint64_t decode_bytes;               /* weight bytes that one decode step reads */
    struct macs layer_macs, output_macs; /* of one token: in the layers; for its logits */
    struct region *reads;                /* [n_reads] the matrices, in the order in which a pass reads them */
    size_t n_reads;
    struct arena arena;
};

/* One way of building a forward pass, by the names that files use for it. */
struct arch {
    const char *gguf;     /* general.architecture */
    const char *hf_class; /* config.json: architectures[0] */
    /* Records the pass from tokens to logits; rope is the session's and outlives the graph. */
    value_id (*record)(const struct model *m, const struct rope *rope, struct graph *g);
};
const struct arch *arch_at(size_t i); /* NULL past the end */

/* Binds f, which must stay open as long as the model. */
int model_open(const struct files *f, struct model **out, struct err *e);
void model_close(struct model **m);

/* Which set of rotary frequencies a sequence of n tokens needs; sequences of different classes cannot share a KV cache. */
uint32_t model_rope_class(const struct model *m, uint32_t n);
/* Fills inv_freq [rope_dim / 2] and *scale for sequences of n tokens. */
void model_rope(const struct model *m, uint32_t n, float *inv_freq, float *scale);

/* Blocks that architectures are made of. x is the residual stream; each returns the new one. */
value_id block_attention(const struct model *m, const struct layer *l, uint32_t layer, const struct rope *rope, value_id x,
                         struct graph *g);
value_id block_ffn(const struct model *m, const struct layer *l, value_id x, struct graph *g);

#endif
