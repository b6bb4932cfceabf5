/* graph: a forward pass as a flat list of operations. A model records it once (graph_ calls below); graph_plan groups the list
 * into phases, between which threads or kernels must wait for one another, and gives every value a place in one buffer; a
 * backend then runs the same plan for each batch of any size up to the one that it was opened for. There are no
 * pointers between operations: they name values by number.
 *
 *     values    [rows][cols] of f32; rows is the batch, or after GATHER the rows whose logits are wanted
 *     weights   borrowed tensors of the open model
 *
 * What makes a phase (docs: ARCHITECTURE.md, "the path of one token"):
 *     [RMS_NORM] MATMUL{1,3} [SWIGLU] [ADD]      one activation, up to three matrices, epilogue on the rows just made
 *     ROPE ROPE KV_STORE ATTENTION               everything between the projections
 *     any other operation alone
 */
#ifndef QUERN_GRAPH_H
#define QUERN_GRAPH_H

#include "base/base.h"
#include "format/format.h"

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

struct op {
    enum op_code code;
    value_id dst, src[2];                   /* NO_VALUE where unused */
    const struct tensor *w;                 /* EMBED, MATMUL */
    const float *vec;                       /* RMS_NORM: weight [cols]; MATMUL: bias [cols] or NULL */
    const struct rope *rope;                /* ROPE */
    float f;                                /* RMS_NORM: epsilon; ATTENTION: score scale */
    uint32_t layer;                         /* KV_STORE, ATTENTION */
    uint32_t n_heads, n_kv_heads, head_dim; /* ROPE, KV_STORE, ATTENTION */
};

struct phase {
    uint32_t first, n; /* ops[first .. first + n) */
};

struct graph {
    struct arena *arena;
    struct op *ops;
    struct value *values;
    struct phase *phases;
    uint32_t n_ops, n_values, n_phases, cap_ops, cap_values;
    size_t row_floats; /* buffer floats per batch row, all values placed */
    size_t out_floats; /* the same per gathered row */
    value_id output;   /* logits */
    int failed;        /* sticky error of the recording */
};

/* All memory comes from arena and lives as long. Recording functions never fail by themselves: graph_plan reports. */
void graph_init(struct graph *g, struct arena *arena);
value_id graph_embed(struct graph *g, const struct tensor *table);
value_id graph_rms_norm(struct graph *g, value_id x, const float *w, float eps);
value_id graph_matmul(struct graph *g, value_id x, const struct tensor *w, const float *bias);
value_id graph_add(struct graph *g, value_id a, value_id b);
value_id graph_swiglu(struct graph *g, value_id gate, value_id up);
value_id graph_rope(struct graph *g, value_id x, const struct rope *rope, uint32_t n_heads, uint32_t head_dim);
void graph_kv_store(struct graph *g, value_id k, value_id v, uint32_t layer, uint32_t n_kv_heads, uint32_t head_dim);
value_id graph_attention(struct graph *g, value_id q, uint32_t layer, uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim,
                         float scale);
value_id graph_gather(struct graph *g, value_id x);
/* Names the logits, groups the phases, places the values. */
int graph_plan(struct graph *g, value_id output, struct err *e);

#endif
