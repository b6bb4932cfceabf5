/* model: what the numbers of a file mean. Hyper-parameters are read from either kind of file into one struct and checked
 * against one table; tensors are bound and their shapes checked once; a forward pass is recorded as a graph. An architecture is
 * a row of archs[] (arch.c): which of the shared blocks (blocks.c) it is made of is said by its features, its hyper-parameters
 * and the tensors that its files have. */
#ifndef QUERN_MODEL_H
#define QUERN_MODEL_H

#include "base/base.h"
#include "format/format.h"
#include "graph/graph.h"

/* ---- architectures --------------------------------------------------------------------------------- */

enum feature {
    POST_NORMS = 1 << 0,         /* what attention and feed-forward make is normed before it is added */
    NO_PRE_NORMS = 1 << 1,       /* what they read is not */
    PARALLEL = 1 << 2,           /* both read the same norm, and are added together */
    QK_L2 = 1 << 3,              /* queries and keys of layers with positions are normed without weights, after the rotation */
    NORM_PLUS_1 = 1 << 4,        /* Hugging Face stores the weights of norms less 1 */
    LAYER_NORM = 1 << 5,         /* norms subtract the mean */
    EMBD_SQRT = 1 << 6,          /* embeddings are multiplied by the root of their length */
    HF_ADJACENT = 1 << 7,        /* rotary pairs are neighbours in Hugging Face's rows of Q and K, else half a head apart */
    GGUF_HALVES = 1 << 8,        /* rotary pairs are half a head apart in GGUF's, else neighbours */
    FULL_NOPE = 1 << 9,          /* layers without a window know no positions */
    ROUTED_INPUT = 1 << 10,      /* routes multiply what experts read, not what they make */
    TOP_SOFTMAX = 1 << 11,       /* the softmax of a route is over the chosen experts */
    SIGMOID_ROUTE = 1 << 12,     /* the scores of a route are sigmoids, if the file does not say otherwise */
    NORM_ROUTE = 1 << 13,        /* the weights of a route sum to 1, likewise */
    TEMP_NOPE = 1 << 14,         /* the attention temperature is for layers without positions */
    ALTERNATE_UP = 1 << 15,      /* gate and up rows of experts alternate in Hugging Face's files, */
    EXCHANGED_EXPERTS = 1 << 16, /* whose experts have rows and columns exchanged */
    LATE_FFN_NORM = 1 << 17,     /* GGUF calls the norm before the feed-forward post_attention_norm */
    OUTPUT_GATE = 1 << 18,       /* rows of Q are, for each head, its query and a gate for its output */
    DELTA_LAYERS = 1 << 19,      /* layers are gated delta nets, but for the last of every so many, */
    TILED_VALUES = 1 << 20,      /* whose heads of values GGUF puts in another order */
    CONV_LAYERS = 1 << 21,       /* layers without KV heads are short convolutions */
    ENCODER = 1 << 22,           /* what comes out are vectors, and embeddings are normed */
    SUM_NORMS = 1 << 23,         /* what is normed are the sums, with what attention and feed-forward made */
    ABSOLUTE = 1 << 24,          /* positions are a table */
    PLAIN_FFN = 1 << 25,         /* no gate */
    FULL_FIRST = 1 << 26,        /* of so many layers not the last but the first has no window */
    AFTER_PAD = 1 << 27,         /* Hugging Face's table of positions begins behind the padding token */
    V_NORM = 1 << 28,            /* values are normed without weights; where a layer has no matrix of them, they are its keys */
    UNIT_SCORES = 1 << 29,       /* scores are not scaled */
    DENSE_BESIDE = 1 << 30,      /* experts work beside a dense feed-forward, each with norms of its own */
};

/* One way of building a forward pass, by the names that files use for it. */
struct arch {
    const char *gguf;     /* general.architecture */
    const char *hf_class; /* config.json: architectures[0] */
    unsigned features;
    enum act_fn act;
    uint32_t full_every; /* of so many layers the last has no window, if the file does not say otherwise; 0: all have it */
    double local_theta;  /* base frequency of layers with a window, whose positions are then not scaled, likewise; 0: they
                          * rotate as the others do */
};
#define THETA_OF_ALL (-1.0)
const struct arch *arch_at(size_t i); /* NULL past the end */
static inline bool arch_is(const struct arch *arch, const char *gguf)
{
    return strcmp(arch->gguf, gguf) == 0;
}
/* The number that config.json means by leaving out a key; false where there is none. */
bool arch_unsaid(const struct arch *arch, struct str key, double *value);
/* The same of rope_parameters: JSON text, n 0 where there is none. */
struct str arch_unsaid_rope(const struct arch *arch);

/* ---- hyper-parameters ------------------------------------------------------------------------------ */

#define MAX_LAYERS 1024
#define ROPE_SETS 2 /* of layers that see everything; of layers with a window, where they differ */

enum rope_scaling { ROPE_PLAIN, ROPE_LINEAR, ROPE_DYNAMIC, ROPE_YARN, ROPE_LONGROPE, ROPE_LLAMA3 };

struct rope_hp {
    enum rope_scaling scaling;
    uint32_t dim;          /* rotated elements of each head */
    double theta;          /* base frequency */
    double factor;         /* linear, dynamic, yarn, llama3: how much longer than n_ctx; 1 otherwise */
    double low, high;      /* llama3: low_freq_factor, high_freq_factor; yarn: beta_slow, beta_fast */
    double attn_factor;    /* yarn, longrope: multiplies sine and cosine */
    double mscale_all;     /* yarn: mscale_all_dim of MLA's score scale; 0: none */
    bool truncate;         /* yarn: the correction range is rounded to whole dimensions */
    uint32_t n_ctx;        /* original_max_position_embeddings */
    const float *divisors, /* [dim / 2] of the frequencies; NULL: 1 */
        *long_divisors;    /* the same, longrope beyond n_ctx */
};

/* What a layer mixes its tokens with. */
enum mixer { MIX_ATTENTION, MIX_DELTA, MIX_CONV };

/* Of gated delta nets. */
struct delta_hp {
    uint32_t taps, n_k_heads, n_v_heads, k_dim, v_dim;
    uint32_t inner;      /* n_v_heads * v_dim */
    uint32_t full_every; /* of so many layers the last has attention; 0: the file says it another way */
};

struct layer_hp {
    enum mixer mixer;
    bool local; /* has the window */
    bool nope;  /* knows no positions */
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t n_ff;
    uint32_t kv_layer; /* whose keys and values it reads: an earlier layer's, or its own */
};

/* How the hidden states of a text's tokens become one vector: the mean, that of the first or of the last token. */
enum pooling { POOL_MEAN, POOL_CLS, POOL_LAST };

struct hparams {
    const struct arch *arch;
    uint32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab, n_ctx_train;
    uint32_t n_mtp;          /* layers behind these that predict further tokens (multi-token prediction), as the files say */
    struct layer_hp *layers; /* [n_layers], and where n_mtp is not 0 that of the first of those */
    float norm_eps;
    bool tied;          /* the output matrix is the embedding table */
    bool bidirectional; /* tokens see all others, those of windows half of it on each side */
    bool rope_neox;     /* rotary pairs are half a head apart, else neighbours */
    struct rope_hp rope[ROPE_SETS];
    uint32_t n_ropes;
    enum act_fn act;
    float act_limit;
    uint32_t head_dim_local; /* of layers with a window; 0: head_dim */
    uint32_t n_shared_kv;    /* of so many layers at the end, each reads the cache of an earlier layer */
    uint32_t n_embd_layer;   /* elements of each layer's own embedding of a token; 0: layers have none */
    uint32_t window;         /* of local layers; 0: there is none */
    uint32_t chunk;          /* the same where windows are chunks */
    bool chunked;
    float attn_scale;                  /* of the scores; 0: 1 / sqrt(head_dim) */
    float attn_softcap, final_softcap; /* 0: none */
    float embd_scale, residual_scale, logit_scale;
    bool qk_l2; /* QK_L2, where the file does not say otherwise */
    float temp; /* attention temperature (struct attn_params); 0: none */
    uint32_t temp_length, temp_offset;
    struct route_params route; /* of all layers with experts; n_experts 0: there are none */
    uint32_t n_ff_expert, n_ff_shared, n_shared;
    struct delta_hp delta;
    enum pooling pooling;
    uint32_t conv_taps;                                    /* of short convolutions */
    uint32_t q_lora, kv_lora, rope_part, nope_part, v_dim; /* multi-head latent attention; kv_lora 0: another kind */
};

/* Reads and checks everything of f that is not in tensors; memory for the arrays comes from a. Errors name the key, the value
 * and the range that is accepted. */
int hparams_read(const struct files *f, struct arena *a, struct hparams *out, struct err *e);

/* How files call an activation; NULL where they do not. */
const char *hparams_act_name(enum act_fn act);

/* The i-th of the numbers that files say by a key of their own; false past the end. */
enum number_kind { NUM_U32, NUM_F32, NUM_F64, NUM_BOOL };
struct hparam {
    const char *key; /* GGUF's, behind "<architecture>."; NULL: it has none */
    enum number_kind kind;
    double value;
    bool said; /* differs from what a model without it means */
};
bool hparams_at(const struct hparams *hp, size_t i, struct hparam *out);

/* ---- model ------------------------------------------------------------------------------------------- */

/* A matrix of each expert, [n_experts], and their biases [n_experts][rows]. */
struct expert_set {
    const struct tensor **w;
    const float *bias;
};

struct layer {
    const float *attn_norm, *ffn_norm;              /* [n_embd]; NULL where the architecture has none */
    const float *attn_post_norm, *ffn_post_norm;    /* the same */
    const float *attn_post_bias, *ffn_post_bias;    /* of the norms of encoders */
    const struct tensor *q, *k, *v, *o;             /* [n_embd -> heads * head_dim], o back */
    const float *q_bias, *k_bias, *v_bias, *o_bias; /* NULL where the model has none */
    const float *q_norm, *k_norm;                   /* [qk_norm] NULL: none */
    uint32_t q_norm_len, k_norm_len;                /* of a head, or of all together */
    const float *sinks;                             /* [n_heads] */
    const struct tensor *q_a, *q_b, *kv_a;          /* latent attention: queries down and up; keys and values down */
    const float *q_a_bias, *kv_a_bias, *q_a_norm, *kv_a_norm;
    const struct tensor **k_up, **v_up; /* [n_heads]: a query's head to the latent space; back to a value */
    /* Gated delta net: queries, keys and values (without mix_gate: and gates, all by key heads), output gates, beta (without
     * alpha: both, by key heads), alpha. Short convolution: the inputs that are multiplied, and the output's factor. Then o. */
    const struct tensor *mix_in, *mix_gate, *beta, *alpha, *conv_b, *conv_x, *conv_c;
    const float *mix_norm, *conv_b_bias, *conv_x_bias, *conv_c_bias;
    struct delta_params delta;
    struct conv_params conv;
    const struct tensor *gate, *up, *down; /* [n_embd -> n_ff], down back */
    const float *gate_bias, *up_bias, *down_bias;
    /* Experts beside the dense feed-forward: norms of what the router and the experts read, and of what both make. */
    const float *router_norm, *experts_norm, *dense_post_norm, *experts_post_norm;
    const struct tensor *embd_gate, *embd_out; /* the layer's own embedding: [n_embd -> n_embd_layer], and back */
    const float *embd_post_norm;
    const float *out_scale;      /* [1] of what the layer leaves; NULL: 1 */
    const struct tensor *router; /* [n_embd -> n_experts]; NULL: no experts */
    const float *router_bias;
    struct route_params route;
    struct expert_set gate_exps, up_exps, down_exps;
    const struct tensor *gate_shared, *up_shared, *down_shared, *shared_gate; /* NULL: none */
};

/* Multiply-adds, by what computes them: matrices of integer types, and of floats. */
struct macs {
    uint64_t int8, f32;
};

#define TENSOR_NAME_MAX 160 /* with its NUL */

/* How a matrix lies in a GGUF file, where it is not as it is. */
struct reorder {
    const uint32_t *rows;   /* [ne[1]] which row each is; NULL: all in their places */
    const uint32_t *blocks; /* [n_blocks] which part of a row each part of it is; NULL: likewise */
    uint32_t n_blocks;
};

/* Which column of rows of n each is; o may be NULL. */
static inline uint64_t reorder_column(const struct reorder *o, uint64_t n, uint64_t col)
{
    if (!o || !o->blocks) return col;
    const uint64_t width = n / o->n_blocks;
    return o->blocks[col / width] * width + col % width;
}

/* A tensor of the model as a GGUF file has it. */
struct bound {
    char name[TENSOR_NAME_MAX];
    const struct tensor *const *parts; /* [n_parts], laid one behind the other along the last dimension */
    uint32_t n_parts;
    uint32_t heads;              /* rows of Q and K whose rotary pairs lie otherwise there: their heads; 0: as they are */
    const struct reorder *order; /* NULL: none */
};

/* Immutable after model_open. */
#define DENSE_MAX 2
struct model {
    const struct files *files;
    struct hparams hp;
    const struct tensor *token_embd, *output;       /* output NULL: an encoder */
    const struct tensor *position_embd, *type_embd; /* NULL where the model has none */
    const float *embd_norm, *embd_norm_bias;
    /* The head for multi-token prediction, a model of one layer by itself: what it reads is the embedding of a token joined
     * with what the last norm of the model, or its own, left of the token before (docs/speculation.md). NULL: there is none. */
    struct model *head;
    const struct tensor *join; /* of a head: [2 n_embd -> n_embd]; NULL: this model is none */
    const float *join_embd_norm, *join_input_norm;
    const struct tensor *layer_embd, *layer_proj; /* [n_layers][n_embd_layer]: of tokens; of their embeddings. NULL: none */
    const float *layer_proj_norm;                 /* [n_embd_layer] */
    const struct tensor *cls, *cls_out; /* the head of a model that ranks: [n_embd -> n_embd], [n_embd -> labels]; NULL */
    const float *cls_bias, *cls_out_bias, *cls_norm;
    uint32_t n_labels;
    const struct tensor *dense[DENSE_MAX]; /* what a pooled vector goes through: [n_embd -> ...]; NULL at the end */
    const float *output_norm, *output_norm_bias, *output_bias;
    struct layer *layers; /* [n_layers] */
    const float *ones;    /* [ATTN_DIM_MAX] weights of norms that have none */
    struct bound *bound;  /* [n_bound] what was bound, in the order of a pass */
    size_t n_bound, cap_bound;
    uint64_t parameters;
    uint64_t decode_bytes;               /* weight bytes that one decode step reads: of experts, those of one route */
    struct macs layer_macs, output_macs; /* of one token: in the layers; for its logits */
    struct region *reads;                /* [n_reads] the matrices, in the order in which a pass reads them; then a head's */
    size_t n_reads, cap_reads;
    bool *used;              /* [files_n_tensors] */
    struct str layer_prefix; /* of the names of the layers' tensors, as far as the number */
    bool from_disk;          /* set by who opens it: the matrices are larger than memory */
    struct arena arena;
};

/* Binds f, which must stay open as long as the model. */
int model_open(const struct files *f, struct model **out, struct err *e);
/* Layers of its files: the head for multi-token prediction is the last one. */
static inline uint32_t model_n_blocks(const struct model *m)
{
    return m->hp.n_layers + (m->head != NULL);
}
/* The model as if it had no head for multi-token prediction. */
void model_drop_head(struct model *m);
void model_close(struct model **m);

/* Whether the pass reads t, a tensor of the files. */
bool model_uses(const struct model *m, const struct tensor *t);
/* What t belongs to that is not computed, "vision" or the like; NULL where t is used, or makes no difference. */
#define MODEL_UNKNOWN "unknown tensors"
const char *model_leaves_out(const struct model *m, const struct tensor *t);

/* Which set of rotary frequencies a sequence of n tokens needs; sequences of different classes cannot share a KV cache. */
uint32_t model_rope_class(const struct model *m, uint32_t n);
/* Fills inv_freq [rope[set].dim / 2] and *scale for sequences of n tokens. */
void model_rope(const struct model *m, uint32_t set, uint32_t n, float *inv_freq, float *scale);

/* Elements of a key and of a value that each KV head of a layer keeps in the cache, and such heads; 0: the layer keeps none. */
struct kv_shape {
    uint32_t n_heads, k_dim, v_dim;
};
struct kv_shape model_kv_shape(const struct model *m, uint32_t layer);

/* Records the pass from tokens to logits, or where `hidden` to the vectors behind the last norm, as encoders always do; ropes
 * [n_ropes] are the session's and outlive the graph. Of models with a head these vectors of all rows are kept; a head has them
 * as its INPUT, too. */
value_id model_record(const struct model *m, const struct rope *ropes, bool hidden, struct graph *g);
/* An error for models whose tokens see those behind them, of which nothing can be asked but vectors. */
int model_check_generates(const struct model *m, struct err *e);
/* Numbers in a row of its result. */
uint32_t model_outputs(const struct model *m, bool hidden);

/* ---- adapters ---------------------------------------------------------------------------------------- */

/* A LoRA adapter; immutable after adapter_bind. */
struct adapter;
struct adapter_info {
    const char *path;
    enum files_kind kind;
    struct str architecture; /* of GGUF files: general.architecture of the model; else n 0 */
    struct str base;         /* the model's name, where said */
    double alpha;
    uint32_t rank; /* the largest */
    size_t n_modules;
    uint64_t parameters, bytes;
};
/* Reads and checks all but what needs the model. ERR_UNSUPPORTED names what is beyond plain LoRA. */
int adapter_open(const char *path, struct adapter **out, struct err *e);
/* Finds the matrices of m, once; the adapter may then be used with it as long as both are open. ERR_ARG where it is for
 * another model, ERR_UNSUPPORTED for matrices that take no adapter (embeddings, experts). */
int adapter_bind(struct adapter *x, const struct model *m, struct err *e);
void adapter_close(struct adapter **x);
const struct lora *adapter_lora(const struct adapter *x);
const struct adapter_info *adapter_info(const struct adapter *x);
const struct files *adapter_files(const struct adapter *x);

#endif
