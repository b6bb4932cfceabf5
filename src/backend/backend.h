/* backend: runs a planned graph on a device. So far one device, the CPU; the struct of functions is what another one fills. */
#ifndef QUERN_BACKEND_H
#define QUERN_BACKEND_H

#include <stdatomic.h>

#include "base/base.h"
#include "graph/graph.h"
#include "kernel/kernel.h"

/* The KV cache of one sequence, in pages of KV_PAGE positions. Page p holds positions p * KV_PAGE ...; inside it, for
 * each layer and each KV head, one tile of keys and one of values (kernel.h). */
#define KV_PAGE ATTN_TILE

/* Where the tiles of a layer lie in a page. */
struct kv_layer {
    size_t at;         /* of the first head */
    size_t head_bytes; /* from a KV head to the next */
    size_t k_bytes;    /* size of the key tile; the value tile follows it */
};
struct kv_view {
    enum qtype k_type, v_type;
    const struct kv_layer *layers; /* [layers of the model] */
    uint8_t *const *pages;         /* [pages that the batch reads or writes]; owned by the caller */
};

/* The recurrent state of a sequence (graph.state_floats) before and behind its rows of a batch. */
struct state_step {
    const float *from; /* NULL: that of no tokens, which is all zeros */
    float *keep; /* gets the state behind the first keep_rows rows, 1.. n_rows - 1; NULL: not wanted. Apart from the others */
    uint32_t keep_rows;
    float *to; /* may be the memory of from */
};

/* Rows of a batch that are tokens of one sequence at consecutive positions. */
struct batch_seq {
    const struct kv_view *kv;
    uint32_t row, n_rows;     /* first row in the batch; how many */
    uint32_t pos;             /* position of the first */
    struct state_step state;  /* where the graph has one */
    const float *lora_scales; /* [n_loras] what each adapter is multiplied by, 0: not at all; NULL: no adapter */
};

/* One run of the graph. */
struct batch {
    const int32_t *tokens;        /* [n_rows], each below the vocabulary size */
    const uint8_t *types;         /* [n_rows] kinds of tokens (the second text of a pair is 1); NULL: all 0 */
    const float *inputs;          /* [n_rows][cols] where the graph has an INPUT */
    uint32_t n_rows;              /* 1.. max_rows of the backend: the sum of those of the sequences */
    const struct batch_seq *seqs; /* [n_seqs], of different sequences, in the order of their rows */
    uint32_t n_seqs;
    const uint32_t *out;      /* [n_out] rows whose logits are wanted, ascending; */
    uint32_t n_out;           /* 0: only the cache is filled */
    bool may_redo;            /* backend_redo may follow: n_rows is at most max_redo */
    const atomic_int *cancel; /* non-zero: return ERR_CANCELLED at the next phase; may be NULL */
};

struct backend;

struct backend_options {
    uint32_t n_threads;       /* 0: cpu_threads() */
    struct backend *beside;   /* NULL, or one that outlives this: both use its threads, and run one at a time */
    uint32_t max_rows;        /* largest batch */
    uint32_t max_out;         /* most rows with logits in one batch, 1.. max_rows */
    uint32_t max_redo;        /* most rows of a batch that backend_redo may follow */
    uint32_t max_positions;   /* of the sequences: decode steps split their attention up to here */
    const char *cpu_level;    /* NULL: the best */
    const struct lora *loras; /* [n_loras] adapters that sequences may use; their matrices outlive the backend */
    uint32_t n_loras;
    bool from_disk; /* the weights are larger than memory: those of experts are asked for as soon as they are chosen */
};

/* Opens the CPU for the graph (which must outlive it) and reserves all memory that runs will need. */
int backend_open_cpu(const struct graph *g, const struct backend_options *opts, struct backend **out, struct err *e);
void backend_close(struct backend **b);
/* 0 or ERR_CANCELLED (the cache rows of the batch, and the states that it was to make, are then undefined). Allocates nothing.
 */
int backend_run(struct backend *b, const struct batch *batch);
/* Takes rows of the last run back, as far as recurrent states are concerned: of each of these sequences of it only the first
 * n_rows rows stand, and state.to gets the state behind them, from state.from as it was before the run; keep is NULL. Reads
 * what the run has remembered, and no weights. Allocates nothing. */
void backend_redo(struct backend *b, const struct batch_seq *seqs, uint32_t n_seqs);
/* Logits of the last run, [n_out][cols of the output value]; valid until the next. */
const float *backend_logits(const struct backend *b);
/* What the graph keeps of the rows of the last run, [n_rows][cols of the kept value], likewise; NULL: it keeps nothing. */
const float *backend_kept(const struct backend *b);

/* Sees the input of each matrix product, as floats and after the norm: x [n_rows][row length of w], valid during the call. One
 * thread calls it, in the order of the graph, while others go on to multiply. fn NULL: nobody does (at first). */
typedef void observe_fn(void *ctx, const struct tensor *w, const float *x, size_t n_rows);
void backend_observe(struct backend *b, observe_fn *fn, void *ctx);

struct backend_info {
    const char *level;
    uint32_t n_threads;
    size_t bytes; /* activations, logits and scratch reserved */
};
struct backend_info backend_info(const struct backend *b);

#endif
