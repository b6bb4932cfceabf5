/* graph: a forward pass as a flat list of operations. A model records it once (graph_ calls below); graph_plan groups the list
 * into phases, between which threads or kernels must wait for one another, and gives every value a place in one buffer; a
 * backend then runs the same plan for each batch of any size up to the one that it was opened for. There are no
 * pointers between operations: they name values by number.
 *
 *     values    [rows][cols] of f32; rows is the batch, or after GATHER the rows whose logits are wanted
 *     weights   borrowed tensors of the open model
 *
 * What makes a phase (docs: ARCHITECTURE.md, "the path of one token"):
 *     [RMS_NORM | LAYER_NORM] MATMUL{1,6} [GLU | ADD]    one activation, a few matrices, epilogue on the rows just made
 *     (HEAD_NORM | ROPE)* [KV_STORE] ATTENTION           everything between the projections
 *     a run of operations that work row by row           each thread takes its rows through all of them
 *     any other operation alone
 */
#ifndef QUERN_GRAPH_H
#define QUERN_GRAPH_H

#include "base/base.h"
#include "format/format.h"
#include "kernel/kernel.h"

enum op_code {
#define OP(NAME, name) OP_##NAME,
#include "graph/ops.def"
#undef OP
    OP_COUNT
};
const char *op_name(enum op_code code);

typedef uint16_t value_id;
#define NO_VALUE ((value_id)0xffff)

struct value {
    uint32_t cols;
    bool gathered; /* has only the rows whose logits are wanted */
    size_t offset; /* set by graph_plan: row r starts at base + offset * (most rows) + r * cols floats. There are two bases: one
                    * for values of the whole batch, one for gathered ones, which may have far fewer rows */
};

/* Rotary embedding of a model: angle = (float) pos * inv_freq[i]. */
struct rope {
    const float *inv_freq; /* [n_pairs] */
    uint32_t n_pairs;      /* rotated pairs at the start of each head */
    float scale;           /* attention factor on sine and cosine */
    bool neox;             /* pairs (i, i + n_pairs), else (2i, 2i + 1) */
};

/* How attention sees the cache of a layer. */
struct attn_params {
    uint32_t layer; /* whose keys and values */
    uint32_t n_heads, n_kv_heads, head_dim, v_dim;
    float scale;        /* of the scores */
    float softcap;      /* 0: none */
    uint32_t window;    /* a token sees itself and the window - 1 before it; 0: all */
    bool chunked;       /* the window is a chunk: a token sees those of its own chunk, up to itself */
    bool bidirectional; /* a token sees all of the batch, those behind it, too */
    const float *sinks; /* [n_heads] logits that take part in the softmax and have no value; NULL: none */
    /* Queries at position p are multiplied by 1 + temp * log(1 + floor((p + temp_offset) / temp_length)); temp 0: by 1. */
    float temp;
    uint32_t temp_length, temp_offset;
};

/* One matrix of every expert: w[e] [n_in -> n_out], bias [n_experts][n_out] or NULL. */
struct experts {
    const struct tensor *const *w;
    const float *bias;
};

/* A convolution of each column by itself over the rows of a sequence, in time (struct conv). */
struct conv_params {
    const float *w;    /* [taps][columns] */
    const float *bias; /* [columns] or NULL */
    uint32_t taps;
    bool silu;
};

/* A layer of the gated delta rule. Its rows are: queries [n_k_heads][k_dim], keys the same, values [n_v_heads][v_dim]. */
struct delta_params {
    uint32_t n_k_heads, n_v_heads, k_dim, v_dim; /* n_v_heads is a multiple of n_k_heads */
    bool tiled;                   /* head h of the values goes with key h % n_k_heads, else with h / (n_v_heads / n_k_heads) */
    const float *a, *dt;          /* [n_v_heads] decay = exp(a * softplus(src1 + dt)) */
    const float *q_norm, *k_norm; /* [k_dim] */
    float eps;
};
/* Its state: for each head of values and each block of DELTA_COLS of its elements [k_dim][DELTA_COLS]. */
static inline size_t delta_blocks(const struct delta_params *p)
{
    return (p->v_dim + (size_t)DELTA_COLS - 1) / DELTA_COLS;
}
static inline size_t delta_floats(const struct delta_params *p)
{
    return p->n_v_heads * delta_blocks(p) * p->k_dim * DELTA_COLS;
}

/* What an adapter adds to the product of a matrix with x: scale * b (a x), docs/arithmetic.md, "Adapters". */
struct lora_matrix {
    const struct tensor *of; /* the model's matrix */
    const struct tensor *a;  /* [row length of `of` -> rank], */
    const struct tensor *b;  /* [rank -> rows of `of`]: of types whose arithmetic is ARITH_FLOAT */
    double scale;            /* of the adapter itself */
};
struct lora {
    const struct lora_matrix *matrices; /* [n], of different matrices of the model */
    size_t n;
    uint64_t digest; /* of all that its products depend on: for names of what is kept of results */
};

/* What picks the row of a table. */
enum embed_by { BY_TOKEN, BY_POSITION, BY_TYPE };

struct op {
    enum op_code code;
    value_id dst, src[2];    /* NO_VALUE where unused */
    const struct tensor *w;  /* EMBED, MATMUL */
    const float *vec;        /* norms: weight [cols]; MATMUL: bias [cols] or NULL */
    const float *bias;       /* LAYER_NORM: [cols] or NULL */
    const struct rope *rope; /* ROPE */
    float f;                 /* norms: epsilon; SCALE, SOFTCAP; GLU, EXPERTS_UP: limit */
    enum embed_by by;        /* EMBED */
    enum act_fn act;         /* GLU, ACT, EXPERTS_UP */
    uint32_t n_heads, head;  /* ROPE, HEAD_NORM, HEAD_MATMUL, HEAD_COLS: heads of a row, and elements of each, of src0 */
    uint32_t at, len;        /* ROPE, HEAD_COLS: first element; HEAD_NORM, HEAD_COLS: elements */
    struct attn_params attn; /* KV_STORE, ATTENTION */
    const struct route_params *route; /* ROUTE, EXPERTS_ */
    struct experts experts[2];        /* EXPERTS_UP: gate, up; EXPERTS_DOWN: down; HEAD_MATMUL: by head */
    bool by_head, centred;            /* HEAD_NORM: each head has weights of its own [n_heads][len]; means are subtracted */
    bool weigh_input;                 /* EXPERTS_UP: the routes' weights are for its products, and the sum takes none */
    const struct conv_params *conv;   /* CONV */
    const struct delta_params *delta; /* DELTA_ */
    size_t state;                     /* CONV, DELTA: where theirs begins in the state of a sequence, */
    size_t read;                      /* and in what such operations read of a row */
};

enum phase_kind { PHASE_ATTENTION, PHASE_PRODUCTS, PHASE_ROWS, PHASE_ALONE };
struct phase {
    enum phase_kind kind;
    uint32_t first, n; /* ops[first .. first + n) */
};

struct graph {
    struct arena *arena;
    struct op *ops;
    struct value *values;
    struct phase *phases;
    uint32_t n_ops, n_values, n_phases, cap_ops, cap_values;
    size_t row_floats;   /* buffer floats per batch row, all values placed */
    size_t out_floats;   /* the same per gathered row */
    size_t state_floats; /* what a sequence carries from token to token, beside keys and values */
    size_t read_floats;  /* what the operations that have such a state read of a row, all together */
    value_id output;     /* logits */
    value_id kept;       /* rows of the whole batch that can be read after a run, too; NO_VALUE: none */
    int failed;          /* sticky error of the recording */
};

/* All memory comes from arena and lives as long. Recording functions never fail by themselves: graph_plan reports. What they
 * are given by address must outlive the graph. */
void graph_init(struct graph *g, struct arena *arena);
value_id graph_embed(struct graph *g, const struct tensor *table, enum embed_by by);
value_id graph_input(struct graph *g, uint32_t cols);
value_id graph_rms_norm(struct graph *g, value_id x, const float *w, float eps);
value_id graph_layer_norm(struct graph *g, value_id x, const float *w, const float *bias, float eps);
value_id graph_matmul(struct graph *g, value_id x, const struct tensor *w, const float *bias);
value_id graph_add(struct graph *g, value_id a, value_id b);
value_id graph_scale(struct graph *g, value_id x, float f);
value_id graph_glu(struct graph *g, enum act_fn act, float limit, value_id gate, value_id up);
value_id graph_act(struct graph *g, enum act_fn act, value_id x);
value_id graph_gate(struct graph *g, value_id x, value_id gate);
value_id graph_softcap(struct graph *g, value_id x, float cap);
/* w: [len]. */
value_id graph_head_norm(struct graph *g, value_id x, const float *w, float eps, uint32_t n_heads, uint32_t len);
/* layer_norm'ed instead; w: [len], or by_head [n_heads][len]. */
value_id graph_head_layer_norm(struct graph *g, value_id x, const float *w, bool by_head, float eps, uint32_t n_heads,
                               uint32_t len);
value_id graph_rope(struct graph *g, value_id x, const struct rope *rope, uint32_t n_heads, uint32_t at);
void graph_kv_store(struct graph *g, value_id k, value_id v, const struct attn_params *p);
value_id graph_attention(struct graph *g, value_id q, const struct attn_params *p);
/* w: [n_heads] matrices of one shape; the elements of a head that they do not read are copied behind their output. */
value_id graph_head_matmul(struct graph *g, value_id x, const struct tensor *const *w, uint32_t n_heads);
value_id graph_head_cols(struct graph *g, value_id x, uint32_t n_heads, uint32_t at, uint32_t len);
value_id graph_route(struct graph *g, value_id logits, const struct route_params *p);
value_id graph_experts_up(struct graph *g, value_id x, value_id routes, const struct route_params *p, enum act_fn act,
                          float limit, bool weigh_input, struct experts gate, struct experts up);
value_id graph_experts_down(struct graph *g, value_id x, value_id routes, const struct route_params *p, struct experts down);
value_id graph_experts_sum(struct graph *g, value_id x, value_id routes, const struct route_params *p, bool weighted);
value_id graph_mul(struct graph *g, value_id a, value_id b);
value_id graph_join(struct graph *g, value_id a, value_id b);
value_id graph_conv(struct graph *g, value_id x, const struct conv_params *p);
value_id graph_delta_split(struct graph *g, value_id x, const struct delta_params *p);
value_id graph_delta_norm(struct graph *g, value_id x, const struct delta_params *p);
value_id graph_delta_gates(struct graph *g, value_id b, value_id a, const struct delta_params *p);
value_id graph_delta(struct graph *g, value_id qkv, value_id gates, const struct delta_params *p);
value_id graph_gather(struct graph *g, value_id x);
void graph_keep(struct graph *g, value_id x); /* x stays readable after a run */
/* Names the logits, groups the phases, places the values. */
int graph_plan(struct graph *g, value_id output, struct err *e);

#endif
