/* cpu_int: what the files of the CPU backend share. All threads walk the list of phases together, each computes its own share
 * of a phase's outputs, and a barrier ends the phase. Which thread computes an element never changes how it is computed
 * (docs/arithmetic.md), so every split is free to follow the machine. */
#ifndef QUERN_CPU_INT_H
#define QUERN_CPU_INT_H

#include "backend/backend.h"

#define SMALL_ROWS 4   /* up to so many rows each thread prepares the activations itself */
#define ROW_UNIT 32    /* weight rows: ranges of threads start at multiples of it */
#define ATTN_ROWS 64   /* query rows (tokens x heads that share a KV head) per attention task at most */
#define EXPERT_ROWS 48 /* tokens of an expert that are multiplied at once at most; a multiple of every pack_cols */
#define MAX_ROPES 4
#define LORA_ROWS 16  /* the part of an adapter's product that is made at once: tokens, */
#define LORA_COLS 256 /* and rows of the model's matrix */

/* Prepared activations of some rows: the buffers behind struct act. */
struct act_buf {
    float *norm;                     /* [rows][k] */
    struct act_mem q[ARITH_256 + 1]; /* of the kinds that the graph uses */
};

struct worker {
    uint32_t phase;       /* of the graph, that it is in */
    struct act_buf small; /* SMALL_ROWS rows */
    uint8_t *mm_scratch;
    float *attn_scratch;
    float *attn_q;              /* [ATTN_ROWS][head_dim] queries */
    struct act_mem attn_quant;  /* the same, quantised, in whole blocks */
    float *attn_all, *attn_one; /* states (struct attn_state) of ATTN_ROWS rows: of the chunks so far, of the running one */
    uint32_t attn_start[ATTN_ROWS], attn_end[ATTN_ROWS];  /* positions that the queries see */
    uint32_t attn_from[ATTN_ROWS], attn_valid[ATTN_ROWS]; /* the same inside a tile */
    struct act_buf expert;                                /* EXPERT_ROWS rows: gathered */
    float *expert_up;                                     /* [EXPERT_ROWS][widest output of an expert] */
    uint32_t *expert_first;                               /* [n_experts + 1] in the order by experts: where each begins */
    uint32_t *expert_slot;                                /* [max_rows * n_used] row * n_used + choice, in that order, */
    uint32_t *expert_at;                                  /* and where each choice stands in it */
    float *lora_part;                                     /* [LORA_ROWS][LORA_COLS] */
    float *lora_x;                                        /* [LORA_ROWS][lora_width] gathered rows */
    float *redo_out;                                      /* [max_redo][state_cols] results that nobody wants again */
};

/* Rows of a value that use the same adapters. */
struct lora_group {
    uint32_t first, n;   /* of `rows` below */
    bool apart;          /* they do not follow one another */
    const float *scales; /* [n_loras] */
};
/* Those of a batch; rows without an adapter are in none. */
struct lora_rows {
    uint32_t *rows;            /* numbers of rows, group by group */
    struct lora_group *groups; /* [n] */
    uint32_t n;
};

struct backend {
    const struct graph *g;
    struct kernels k;
    struct pool *pool;
    bool lent; /* the pool is that of another backend */
    bool from_disk;
    uint32_t max_rows, max_out;
    unsigned kinds;                /* bits 1 << qarith: of the matrices of the graph */
    float *rows, *outs;            /* the values */
    struct act_buf shared, hidden; /* of the rows; of what the experts' second matrix reads */
    struct worker *workers;        /* [threads] */
    atomic_size_t next_task;       /* of the phase */
    struct share_left *left;       /* [threads] */
    /* Attention: with few rows a task is one chunk of positions of a unit (struct attn_unit): here are the states of all
     * chunks, and how many of each unit are done. */
    size_t max_chunks, state_floats; /* floats of the states of one chunk: all query heads of SMALL_ROWS tokens */
    float *attn_states;              /* [max_chunks][state_floats] */
    atomic_uint *attn_done;          /* [units], zero between phases */
    const struct rope *ropes[MAX_ROPES];
    float *angles[MAX_ROPES]; /* [max_rows][2][n_pairs]: cosines, sines */
    size_t n_ropes;
    /* Adapters (cpu_lora.c). */
    uint32_t n_loras;
    const struct lora_matrix **loras; /* [n_ops][n_loras] what each adds to a MATMUL; NULL: nothing */
    size_t lora_ranks;                /* most ranks that the matrices of a phase have together */
    size_t lora_width;                /* the longest row of a matrix with an adapter */
    float *lora_low; /* [lora_ranks][max_rows] products with `a`: [rows][rank] for each matrix and adapter, group by group */
    uint32_t *lora_group_of;              /* [max_rows] the group of each sequence of the batch */
    struct lora_rows lora_all, lora_outs; /* of the batch: of all rows, and of gathered ones */
    uint32_t max_redo;                    /* rows of a batch that may be taken back; 0: none */
    size_t state_cols;                    /* widest result of an operation with a state */
    float *reads;                         /* [max_redo rows] of each of them what it read, op->read * max_redo on */
    const struct batch_seq *redo_seqs;    /* [n_redo] of the running backend_redo */
    uint32_t n_redo;
    uint8_t *memory; /* one block that holds all of the above buffers */
    size_t memory_bytes;
    const struct batch *batch; /* the running one */
    observe_fn *observe;       /* NULL: nobody watches */
    void *observe_ctx;
    atomic_uint stop; /* 0, or the number of phases after which a cancelled run ends */
};

/* The rows of a value, value->cols apart. */
float *value_rows(const struct backend *b, value_id v, uint32_t *n_rows);
static inline size_t value_cols(const struct backend *b, value_id v)
{
    return b->g->values[v].cols;
}

/* Share ith of nth of n items, in whole units. */
struct range {
    size_t from, to;
};
static inline struct range share(size_t n, size_t unit, unsigned ith, unsigned nth)
{
    size_t units = (n + unit - 1) / unit;
    struct range r = {units * ith / nth * unit, units * (ith + 1) / nth * unit};
    return (struct range){size_min(r.from, n), size_min(r.to, n)};
}

/* Rows of weights are shared out. Each thread takes its share in pieces, from the front on, so that they are one stream from
 * memory; when it is done it takes from the back of what others have left, so that one that is slowed down, or whose core is a
 * slower one, does not keep the rest waiting. */
enum {
    SHARE_PARTS = 64, /* of a share are taken: the first of them | the end << 16 are left */
    NOTHING_TAKEN = SHARE_PARTS << 16,
    PIECE_PARTS = 8,         /* a piece has so many parts at least */
    PIECE_BYTES = 512 << 10, /* and so much of the weights, about: 20 us of one core */
};
/* What nobody has taken of a thread's share in phases with even and odd numbers. While it is in one, it prepares the next. */
struct share_left {
    _Alignas(64) atomic_uint parts[2];
};
struct claim {
    struct backend *b;
    size_t n, row_bytes; /* rows, and bytes of one */
    unsigned ith, nth;
    unsigned whose; /* share is taken from */
};
/* A phase claims once. */
static inline struct claim claim_rows(struct backend *b, size_t n, size_t row_bytes, unsigned ith, unsigned nth)
{
    return (struct claim){b, n, row_bytes, ith, nth, ith};
}
/* The next rows for thread ith; false: there are none. */
bool claim_next(struct claim *c, struct range *out);

/* Tasks that threads take one by one: one thread calls tasks_reset, all meet at a barrier, then each asks for the next. */
static inline void tasks_reset(struct backend *b)
{
    atomic_store_explicit(&b->next_task, 0, memory_order_relaxed);
}
static inline size_t task_next(struct backend *b)
{
    return atomic_fetch_add_explicit(&b->next_task, 1, memory_order_relaxed);
}

/* The softmax states of n query rows with values of dim elements take so many floats. */
static inline size_t attn_state_floats(size_t n, size_t dim)
{
    return n * (dim + 2);
}

/* Whether products of n rows read packed activations. */
static inline bool packs(const struct backend *b, size_t n)
{
    return b->k.pack_cols && n >= b->k.pack_min;
}

/* One row of one operation: x and y of src, n columns of dst. */
struct row {
    const float *x, *y;
    float *dst;
    size_t n;
};

/* The operation HEAD_NORM of one head. */
static inline void norm_head(const struct backend *b, const struct op *op, size_t head, float *x)
{
    const float *w = op->by_head ? op->vec + head * op->len : op->vec;
    if (op->centred)
        b->k.layer_norm(x, w, NULL, op->f, op->len, x);
    else
        b->k.rms_norm(x, w, op->f, op->len, x);
}

/* Adapters. Opening: the table, which lora_fini frees. */
int lora_init(struct backend *b, const struct lora *loras, uint32_t n, struct err *e);
void lora_fini(struct backend *b);
void lora_begin(struct backend *b); /* of a batch: makes the groups */
/* The groups of rows to which adapters add something in the n products op, which read the same rows; else NULL. */
const struct lora_rows *lora_of(const struct backend *b, const struct op *op, uint32_t n);
/* The products of x [rows][k] with `a`; every thread makes a share, and all must be done before lora_add. */
void lora_lower(struct backend *b, const struct lora_rows *rows, const struct op *op, uint32_t n, const float *x, unsigned ith,
                unsigned nth);
/* Adds what adapters add to rows [r0, r1) of product number i of op. */
void lora_add(struct backend *b, struct worker *w, const struct lora_rows *rows, const struct op *op, uint32_t i, size_t r0,
              size_t r1);

/* Phases, for thread ith of nth (cpu_products.c, cpu_attention.c, cpu_experts.c, cpu_recurrent.c). */
void run_products(struct backend *b, const struct op *op, uint32_t n_ops, unsigned ith, unsigned nth);
void run_head_matmul(struct backend *b, const struct op *op, unsigned ith, unsigned nth);
void run_attention(struct backend *b, const struct op *op, uint32_t n_ops, unsigned ith, unsigned nth);
void run_experts_up(struct backend *b, const struct op *op, unsigned ith, unsigned nth);
void run_experts_down(struct backend *b, const struct op *op, unsigned ith, unsigned nth);
void run_conv(struct backend *b, const struct op *op, unsigned ith, unsigned nth);
void run_delta(struct backend *b, const struct op *op, unsigned ith, unsigned nth);
/* The same once more, for the sequences that are to be redone. */
void redo_conv(struct backend *b, const struct op *op, unsigned ith, unsigned nth);
void redo_delta(struct backend *b, const struct op *op, unsigned ith, unsigned nth);
void row_delta_split(const struct backend *b, const struct op *op, const struct row *r);
void row_delta_norm(const struct backend *b, const struct op *op, const struct row *r);
void row_delta_gates(const struct backend *b, const struct op *op, const struct row *r);
/* Rows [r.from, r.to). */
void run_experts_sum(struct backend *b, const struct op *op, struct worker *w, struct range r);

#endif
