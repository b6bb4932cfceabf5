/* cpu_backend: runs the phases of a graph on the threads of one pool. All threads walk the list of phases together, each
 * computes its own share of the phase's outputs, and a barrier ends the phase. Which thread computes an element never
 * changes how it is computed (docs/arithmetic.md), so the split below is free to follow the machine.
 *
 * Activations are prepared (normalised, quantised) once per phase: for few rows by every thread for itself, which is cheaper
 * than a barrier, otherwise shared out by rows. */
#include "backend/backend.h"

#define SMALL_ROWS 4 /* up to so many rows each thread prepares the activations itself */
#define ROW_UNIT 32  /* weight rows: ranges of threads start at multiples of it */
#define ATTN_ROWS 64 /* query rows (tokens x heads that share a KV head) per attention task at most */
#define MAX_ROPES 4

/* Prepared activations of some rows: the buffers behind struct act. */
struct act_buf {
    float *norm;                     /* [rows][k] */
    struct act_mem q[ARITH_256 + 1]; /* of the kinds that the graph uses */
};

struct worker {
    struct act_buf small; /* SMALL_ROWS rows */
    uint8_t *mm_scratch;
    float *attn_scratch;
    float *attn_q;              /* [ATTN_ROWS][head_dim] queries */
    struct act_mem attn_quant;  /* the same, quantised, in whole blocks */
    float *attn_all, *attn_one; /* states (struct attn_state) of ATTN_ROWS rows: of the chunks so far, of the running one */
    uint32_t attn_end[ATTN_ROWS], attn_valid[ATTN_ROWS];
};

struct backend {
    const struct graph *g;
    struct kernels k;
    struct pool *pool;
    uint32_t max_rows, max_out;
    unsigned kinds;     /* bits 1 << qarith: of the matrices of the graph */
    float *rows, *outs; /* the values */
    struct act_buf shared;
    struct worker *workers; /* [threads] */
    /* Attention: the next task of the phase. With few rows a task is one chunk of positions of a unit (struct attn_unit): here
     * are the states of all chunks, and how many of each unit are done. */
    atomic_size_t attn_next;
    size_t max_chunks, state_floats; /* floats of the states of one chunk: all query heads of SMALL_ROWS tokens */
    float *attn_states;              /* [max_chunks][state_floats] */
    atomic_uint *attn_done;          /* [units], zero between phases */
    const struct rope *ropes[MAX_ROPES];
    float *angles[MAX_ROPES]; /* [max_rows][2][n_pairs]: cosines, sines */
    size_t n_ropes;
    uint8_t *memory; /* one block that holds all of the above buffers */
    size_t memory_bytes;
    const struct batch *batch; /* the running one */
    observe_fn *observe;       /* NULL: nobody watches */
    void *observe_ctx;
    atomic_uint stop; /* 0, or the number of phases after which a cancelled run ends */
};

/* ---- values ---------------------------------------------------------------------------------------------- */

static float *value_rows(const struct backend *b, value_id v, uint32_t *n_rows)
{
    const struct value *val = &b->g->values[v];
    if (n_rows) *n_rows = val->gathered ? b->batch->n_out : b->batch->n_rows;
    return val->gathered ? b->outs + val->offset * b->max_out : b->rows + val->offset * b->max_rows;
}

/* Share ith of nth of n items, in whole units. */
struct range {
    size_t from, to;
};
static struct range share(size_t n, size_t unit, unsigned ith, unsigned nth)
{
    size_t units = (n + unit - 1) / unit;
    struct range r = {units * ith / nth * unit, units * (ith + 1) / nth * unit};
    return (struct range){size_min(r.from, n), size_min(r.to, n)};
}

/* ---- single operations --------------------------------------------------------------------------------------- */

static void run_embed(struct backend *b, const struct op *op, unsigned ith, unsigned nth)
{
    const struct batch *batch = b->batch;
    float *dst = value_rows(b, op->dst, NULL);
    size_t cols = op->w->ne[0];
    struct range r = share(batch->n_rows, 1, ith, nth);
    for (size_t m = r.from; m < r.to; m++) {
        const struct qrow row = tensor_row(op->w, (size_t)batch->tokens[m]);
        b->k.to_float[op->w->type](&row, dst + m * cols, cols);
        for (size_t i = 0; i < b->n_ropes; i++) {
            size_t n = b->ropes[i]->n_pairs;
            float *a = b->angles[i] + m * 2 * n;
            rope_angles(batch->pos + (uint32_t)m, b->ropes[i]->inv_freq, n, b->ropes[i]->scale, a, a + n);
        }
    }
}

static void run_gather(struct backend *b, const struct op *op, unsigned ith, unsigned nth)
{
    size_t cols = b->g->values[op->dst].cols;
    const float *src = value_rows(b, op->src[0], NULL);
    float *dst = value_rows(b, op->dst, NULL);
    struct range r = share(b->batch->n_out, 1, ith, nth);
    for (size_t i = r.from; i < r.to; i++) memcpy(dst + i * cols, src + b->batch->out[i] * cols, cols * sizeof *dst);
}

static void run_rows(struct backend *b, const struct op *op, unsigned ith, unsigned nth)
{
    uint32_t n;
    size_t cols = b->g->values[op->dst].cols;
    float *dst = value_rows(b, op->dst, &n);
    const float *x = value_rows(b, op->src[0], NULL);
    const float *y = op->src[1] == NO_VALUE ? NULL : value_rows(b, op->src[1], NULL);
    struct range r = share(n, 1, ith, nth);
    for (size_t m = r.from; m < r.to; m++) {
        const float *xm = x + m * cols;
        if (op->code == OP_RMS_NORM)
            b->k.rms_norm(xm, op->vec, op->f, cols, dst + m * cols);
        else if (op->code == OP_SWIGLU)
            b->k.swiglu(xm, y + m * cols, cols, dst + m * cols);
        else
            b->k.add(xm, y + m * cols, cols, dst + m * cols);
    }
}

/* ---- matrix products --------------------------------------------------------------------------------------------- */

/* Rows [from, to) of x, normalised and quantised for all kinds of weights of a phase, into buf. */
static void prepare(const struct backend *b, const struct act_buf *buf, const struct op *norm, unsigned kinds, bool pack,
                    const float *x, size_t k, struct range rows)
{
    for (size_t m = rows.from; norm && m < rows.to; m++) b->k.rms_norm(x + m * k, norm->vec, norm->f, k, buf->norm + m * k);
    for (enum qarith q = ARITH_32; q <= ARITH_256; q++)
        if (kinds & 1u << q) act_quantise(&b->k, q, norm ? buf->norm : x, k, rows.from, rows.to, pack, &buf->q[q]);
}

static bool packs(const struct backend *b, uint32_t n)
{
    return b->k.pack_cols && n >= b->k.pack_min;
}

/* Rows [r0, r1) of one product, with its bias. */
static void product(struct backend *b, struct worker *w, const struct op *op, const struct act_buf *buf, const float *x,
                    uint32_t n, size_t r0, size_t r1)
{
    if (r0 >= r1) return;
    size_t cols = op->w->ne[1];
    bool pack = packs(b, n);
    const struct act_mem *q = &buf->q[qtypes[op->w->type].arith];
    struct mm mm = {.type = op->w->type,
                    .w = op->w->data,
                    .row_bytes = tensor_row_bytes(op->w),
                    .side = op->w->side,
                    .k = op->w->ne[0],
                    .n_rows = n,
                    .act = {.f = x, .stride = op->w->ne[0], .q = q->q, .d = q->d, .s = q->s, .packed = pack ? q->packed : NULL},
                    .dst = value_rows(b, op->dst, NULL),
                    .dst_stride = cols,
                    .scratch = w->mm_scratch};
    b->k.mm[op->w->type](&mm, r0, r1);
    if (!op->vec) return;
    for (size_t m = 0; m < n; m++) {
        float *y = mm.dst + m * cols + r0;
        b->k.add(y, op->vec + r0, r1 - r0, y);
    }
}

static void run_matmul(struct backend *b, const struct op *op, uint32_t n_ops, unsigned ith, unsigned nth)
{
    struct worker *w = &b->workers[ith];
    const struct op *end = op + n_ops, *norm = NULL;
    if (op->code == OP_RMS_NORM) norm = op++;
    const struct op *mat = op;
    while (op < end && op->code == OP_MATMUL) op++;
    const struct op *last = op < end ? op : NULL; /* SWIGLU or ADD */

    uint32_t n;
    const float *x = value_rows(b, norm ? norm->src[0] : mat->src[0], &n);
    if (n == 0) return;
    size_t k = mat->w->ne[0];
    unsigned kinds = 0;
    for (const struct op *m = mat; m < op; m++) kinds |= 1u << qtypes[m->w->type].arith;
    const bool small = n <= SMALL_ROWS, pack = packs(b, n);
    const struct act_buf *buf = small ? &w->small : &b->shared;
    if (norm || kinds != 1u << ARITH_FLOAT) {
        struct range rows = small ? (struct range){0, n} : share(n, pack ? b->k.pack_cols : 1, ith, nth);
        prepare(b, buf, norm, kinds, pack, x, k, rows);
        if (!small) pool_barrier(b->pool);
        if (norm) x = buf->norm;
    }
    for (const struct op *m = mat; b->observe && ith == 0 && m < op; m++) b->observe(b->observe_ctx, m->w, x, n);

    if (last && last->code == OP_SWIGLU) {
        size_t cols = mat->w->ne[1];
        struct range r = share(cols, ROW_UNIT, ith, nth);
        product(b, w, mat, buf, x, n, r.from, r.to);
        product(b, w, mat + 1, buf, x, n, r.from, r.to);
        const float *gate = value_rows(b, last->src[0], NULL), *up = value_rows(b, last->src[1], NULL);
        float *dst = value_rows(b, last->dst, NULL);
        for (size_t m = 0; m < n && r.from < r.to; m++)
            b->k.swiglu(gate + m * cols + r.from, up + m * cols + r.from, r.to - r.from, dst + m * cols + r.from);
        return;
    }
    size_t total = 0;
    for (const struct op *m = mat; m < op; m++) total += m->w->ne[1];
    struct range r = share(total, ROW_UNIT, ith, nth);
    size_t at = 0;
    for (const struct op *m = mat; m < op; at += m->w->ne[1], m++)
        product(b, w, m, buf, x, n, size_max(r.from, at) - at, size_min(r.to, at + m->w->ne[1]) - size_min(at, r.to));
    if (last && r.from < r.to) {
        const float *p = value_rows(b, last->src[0], NULL), *q = value_rows(b, last->src[1], NULL);
        float *dst = value_rows(b, last->dst, NULL);
        for (size_t m = 0; m < n; m++)
            b->k.add(p + m * total + r.from, q + m * total + r.from, r.to - r.from, dst + m * total + r.from);
    }
}

/* ---- attention ------------------------------------------------------------------------------------------------------- */

static uint8_t *tile_at(const struct kv_view *kv, uint32_t layer, size_t head, size_t page)
{
    return kv->pages[page] + layer * kv->layer_bytes + head * kv->head_bytes;
}

/* Keys and values of one head, all rows of the batch, into the tiles. */
static void store_head(const struct backend *b, const struct op *op, size_t head)
{
    const struct batch *batch = b->batch;
    const struct kv_view *kv = batch->kv;
    size_t dim = op->head_dim, cols = (size_t)op->n_kv_heads * dim;
    const float *k = value_rows(b, op->src[0], NULL) + head * dim, *v = value_rows(b, op->src[1], NULL) + head * dim;
    for (size_t m = 0; m < batch->n_rows; m++, k += cols, v += cols) {
        size_t pos = batch->pos + m, in = pos % KV_PAGE;
        uint8_t *tile = tile_at(kv, op->layer, head, pos / KV_PAGE);
        attn_store_k(&b->k, kv->k_type, k, dim, tile, in);
        attn_store_v(&b->k, kv->v_type, v, dim, tile + kv->k_bytes, in);
    }
}

static void rope_head(const struct backend *b, const struct op *op, size_t head)
{
    size_t which = 0;
    while (b->ropes[which] != op->rope) which++;
    size_t n = op->rope->n_pairs, cols = (size_t)op->n_heads * op->head_dim;
    float *x = value_rows(b, op->src[0], NULL) + head * op->head_dim;
    for (size_t m = 0; m < b->batch->n_rows; m++) {
        const float *a = b->angles[which] + m * 2 * n;
        b->k.rope(x + m * cols, a, a + n, n, op->rope->neox);
    }
}

/* The softmax state of n query rows over some positions, in a buffer of attn_state_floats. */
struct attn_state {
    float *m, *l; /* [n] */
    float *o;     /* [n][dim] */
};
static struct attn_state attn_state(float *buffer, size_t n)
{
    return (struct attn_state){buffer, buffer + n, buffer + 2 * n};
}
static size_t attn_state_floats(size_t n, size_t dim)
{
    return n * (dim + 2);
}

/* Some query rows against one KV head: of the tokens [row0, row1), the query heads [head0, head0 + group), token by token. */
struct attn_unit {
    const struct op *op;
    size_t head, head0, group, row0, row1;
};
static size_t unit_rows(const struct attn_unit *u)
{
    return (u->row1 - u->row0) * u->group;
}
static uint32_t unit_end(const struct backend *b, const struct attn_unit *u) /* positions that its last row sees */
{
    return b->batch->pos + (uint32_t)u->row1;
}
static const uint8_t *unit_tile(const struct backend *b, const struct attn_unit *u, uint32_t pos)
{
    return tile_at(b->batch->kv, u->op->layer, u->head, pos / KV_PAGE);
}

/* The queries of a unit, scaled, and how far each sees, into the worker. */
static void attn_queries(const struct backend *b, struct worker *w, const struct attn_unit *u)
{
    const size_t dim = u->op->head_dim, cols = (size_t)u->op->n_heads * dim;
    const float *q = value_rows(b, u->op->src[0], NULL);
    for (size_t i = 0; i < unit_rows(u); i++) {
        const float *from = q + (u->row0 + i / u->group) * cols + (u->head0 + i % u->group) * dim;
        for (size_t d = 0; d < dim; d++) w->attn_q[i * dim + d] = from[d] * u->op->f;
        w->attn_end[i] = b->batch->pos + (uint32_t)(u->row0 + i / u->group) + 1;
        if (!attn_quantised(b->batch->kv->k_type)) continue;
        const size_t blocks = attn_blocks(dim), k = blocks * KV_BLOCK;
        float row[ATTN_DIM_MAX] = {0};
        memcpy(row, w->attn_q + i * dim, dim * sizeof *row);
        b->k.quant_act_32(row, k, w->attn_quant.q + i * k, w->attn_quant.d + i * blocks, w->attn_quant.s + i * blocks);
    }
}

/* The state of the chunk that begins at position `chunk`, for the queries in the worker. next: the tile that the thread reads
 * after it, or NULL. */
static void attn_chunk(const struct backend *b, struct worker *w, const struct attn_unit *u, uint32_t chunk,
                       struct attn_state s, const uint8_t *next)
{
    const struct kv_view *kv = b->batch->kv;
    const size_t dim = u->op->head_dim, n = unit_rows(u);
    const uint32_t end = (uint32_t)size_min(unit_end(b, u), (size_t)chunk + ATTN_CHUNK);
    for (size_t i = 0; i < n; i++) s.m[i] = -__builtin_inff(), s.l[i] = 0.0f;
    memset(s.o, 0, n * dim * sizeof *s.o);
    for (uint32_t pos = chunk; pos < end; pos += ATTN_TILE) {
        for (size_t i = 0; i < n; i++)
            w->attn_valid[i] = w->attn_end[i] <= pos ? 0 : (uint32_t)size_min(w->attn_end[i] - pos, ATTN_TILE);
        const uint8_t *tile = unit_tile(b, u, pos);
        struct attn_tile t = {.k = tile,
                              .v = tile + kv->k_bytes,
                              .k_type = kv->k_type,
                              .v_type = kv->v_type,
                              .head_dim = dim,
                              .v_dim = dim,
                              .n_rows = n,
                              .q = w->attn_q,
                              .quant = {.q = w->attn_quant.q, .d = w->attn_quant.d, .s = w->attn_quant.s},
                              .valid = w->attn_valid,
                              .m = s.m,
                              .l = s.l,
                              .o = s.o,
                              .scratch = w->attn_scratch,
                              .next = end - pos > ATTN_TILE ? unit_tile(b, u, pos + ATTN_TILE) : next,
                              .next_bytes = kv->head_bytes};
        b->k.attn_tile(&t);
    }
}

/* Merges the state of a chunk into that of the chunks before it. Rows that see nothing of it stay as they are. */
static void attn_merge(const struct backend *b, const struct attn_unit *u, uint32_t chunk, struct attn_state all,
                       struct attn_state one)
{
    const size_t dim = u->op->head_dim;
    for (size_t i = 0; i < unit_rows(u); i++)
        if (b->batch->pos + u->row0 + i / u->group >= chunk)
            b->k.attn_merge(&all.m[i], &all.l[i], all.o + i * dim, one.m[i], one.l[i], one.o + i * dim, dim);
}

static void attn_output(const struct backend *b, const struct attn_unit *u, struct attn_state s)
{
    const size_t dim = u->op->head_dim, cols = (size_t)u->op->n_heads * dim;
    float *dst = value_rows(b, u->op->dst, NULL);
    for (size_t i = 0; i < unit_rows(u); i++) {
        float inv = 1.0f / s.l[i];
        float *to = dst + (u->row0 + i / u->group) * cols + (u->head0 + i % u->group) * dim;
        for (size_t d = 0; d < dim; d++) to[d] = s.o[i * dim + d] * inv;
    }
}

/* How a phase of attention is cut into tasks: units, each whole or, where `chunks` is not 0, one task for each of its chunks.
 */
struct attn_plan {
    const struct op *op;
    size_t group, part, n_parts; /* query heads of a KV head; of a unit; units for each KV head */
    size_t block, n_blocks;      /* tokens of a unit */
    size_t n_units, chunks;
};

static struct attn_plan attn_plan(const struct backend *b, const struct op *op, unsigned nth)
{
    const size_t n_rows = b->batch->n_rows, chunks = (b->batch->pos + n_rows + ATTN_CHUNK - 1) / ATTN_CHUNK;
    struct attn_plan p = {.op = op, .group = op->n_heads / op->n_kv_heads};
    p.part = size_min(p.group, ATTN_ROWS / SMALL_ROWS);
    p.n_parts = (p.group + p.part - 1) / p.part;
    p.block = ATTN_ROWS / p.part;
    p.n_blocks = (n_rows + p.block - 1) / p.block;
    p.n_units = op->n_kv_heads * p.n_parts * p.n_blocks;
    if (n_rows <= SMALL_ROWS && nth > 1 && chunks > 1 && chunks <= b->max_chunks) p.chunks = chunks;
    return p;
}

static struct attn_unit attn_unit(const struct backend *b, const struct attn_plan *p, size_t unit)
{
    const size_t row = unit % p->n_blocks * p->block, first = unit / p->n_blocks % p->n_parts * p->part;
    const size_t head = unit / p->n_blocks / p->n_parts;
    return (struct attn_unit){.op = p->op,
                              .head = head,
                              .head0 = head * p->group + first,
                              .group = size_min(p->part, p->group - first),
                              .row0 = row,
                              .row1 = size_min(row + p->block, b->batch->n_rows)};
}

/* A whole unit, chunk after chunk. */
static void attend(const struct backend *b, struct worker *w, const struct attn_unit *u)
{
    const struct attn_state all = attn_state(w->attn_all, unit_rows(u)), one = attn_state(w->attn_one, unit_rows(u));
    const uint32_t end = unit_end(b, u);
    attn_queries(b, w, u);
    for (uint32_t chunk = 0; chunk < end; chunk += ATTN_CHUNK) {
        const uint8_t *next = end - chunk > ATTN_CHUNK ? unit_tile(b, u, chunk + ATTN_CHUNK) : NULL;
        attn_chunk(b, w, u, chunk, chunk ? one : all, next);
        if (chunk) attn_merge(b, u, chunk, all, one);
    }
    attn_output(b, u, all);
}

static struct attn_state chunk_state(const struct backend *b, const struct attn_unit *u, size_t chunk)
{
    const size_t before = attn_state_floats(u->head0 * SMALL_ROWS, u->op->head_dim);
    return attn_state(b->attn_states + chunk * b->state_floats + before, unit_rows(u));
}

/* One chunk of a unit. Whoever computes the last one merges all, in their order. after: the task that this thread has next. */
static void attend_chunk(struct backend *b, struct worker *w, const struct attn_plan *p, size_t task, size_t after)
{
    const size_t unit = task / p->chunks, chunk = task % p->chunks;
    const struct attn_unit u = attn_unit(b, p, unit);
    const uint8_t *next = NULL;
    if (after < p->n_units * p->chunks) {
        const struct attn_unit v = attn_unit(b, p, after / p->chunks);
        next = unit_tile(b, &v, (uint32_t)(after % p->chunks) * ATTN_CHUNK);
    }
    attn_queries(b, w, &u);
    attn_chunk(b, w, &u, (uint32_t)chunk * ATTN_CHUNK, chunk_state(b, &u, chunk), next);
    if (atomic_fetch_add_explicit(&b->attn_done[unit], 1, memory_order_acq_rel) + 1 < p->chunks) return;
    atomic_store_explicit(&b->attn_done[unit], 0, memory_order_relaxed);
    const struct attn_state all = chunk_state(b, &u, 0);
    for (size_t c = 1; c < p->chunks; c++) attn_merge(b, &u, (uint32_t)c * ATTN_CHUNK, all, chunk_state(b, &u, c));
    attn_output(b, &u, all);
}

static size_t next_task(struct backend *b)
{
    return atomic_fetch_add_explicit(&b->attn_next, 1, memory_order_relaxed);
}

static void run_attention(struct backend *b, const struct op *op, uint32_t n_ops, unsigned ith, unsigned nth)
{
    const struct op *attn = op + n_ops - 1;
    /* Heads to rotate and heads to store, numbered through. Keys must be rotated before they are stored: a thread that
     * stores a head has rotated it itself. */
    const struct op *store = attn - 1, *rope_q = NULL, *rope_k = NULL;
    for (const struct op *p = op; p < store; p++) *(p->src[0] == store->src[0] ? &rope_k : &rope_q) = p;
    size_t n_q = rope_q ? rope_q->n_heads : 0, n_kv = store->n_kv_heads;
    struct range r = share(n_q + n_kv, 1, ith, nth);
    for (size_t h = r.from; h < r.to; h++) {
        if (h < n_q) {
            rope_head(b, rope_q, h);
        } else {
            if (rope_k) rope_head(b, rope_k, h - n_q);
            store_head(b, store, h - n_q);
        }
    }
    if (ith == 0) atomic_store_explicit(&b->attn_next, 0, memory_order_relaxed);
    pool_barrier(b->pool);
    const struct attn_plan p = attn_plan(b, attn, nth);
    const size_t n_tasks = p.n_units * size_max(p.chunks, 1);
    for (size_t task = next_task(b), after; task < n_tasks; task = after) {
        after = next_task(b);
        const struct attn_unit u = attn_unit(b, &p, task);
        if (p.chunks)
            attend_chunk(b, &b->workers[ith], &p, task, after);
        else
            attend(b, &b->workers[ith], &u);
    }
}

/* ---- running --------------------------------------------------------------------------------------------------------------
 */

static void run_phase(struct backend *b, const struct phase *p, unsigned ith, unsigned nth)
{
    const struct op *op = &b->g->ops[p->first], *last = op + p->n - 1;
    if (last->code == OP_ATTENTION)
        run_attention(b, op, p->n, ith, nth);
    else if (op->code == OP_MATMUL || p->n > 1)
        run_matmul(b, op, p->n, ith, nth);
    else if (op->code == OP_EMBED)
        run_embed(b, op, ith, nth);
    else if (op->code == OP_GATHER)
        run_gather(b, op, ith, nth);
    else
        run_rows(b, op, ith, nth);
}

static void run_thread(void *ctx, unsigned ith, unsigned nth)
{
    struct backend *b = ctx;
    const struct batch *batch = b->batch;
    for (uint32_t i = 0; i < b->g->n_phases; i++) {
        run_phase(b, &b->g->phases[i], ith, nth);
        /* Thread 0 decides and names the phase after which all leave: a slow thread that reads the number of a later phase goes
         * on to it, so all leave together. */
        unsigned stop = atomic_load_explicit(&b->stop, memory_order_relaxed);
        if (ith == 0 && !stop && batch->cancel && atomic_load_explicit(batch->cancel, memory_order_relaxed))
            atomic_store_explicit(&b->stop, i + 1, memory_order_relaxed);
        pool_barrier(b->pool);
        stop = atomic_load_explicit(&b->stop, memory_order_relaxed);
        if (stop && stop <= i + 1) return;
    }
}

int backend_run(struct backend *b, const struct batch *batch)
{
    b->batch = batch;
    atomic_store(&b->stop, 0);
    pool_run(b->pool, run_thread, b);
    return atomic_load(&b->stop) ? ERR_CANCELLED : 0;
}

const float *backend_logits(const struct backend *b)
{
    return b->outs + b->g->values[b->g->output].offset * b->max_out;
}

void backend_observe(struct backend *b, observe_fn *fn, void *ctx)
{
    b->observe = fn;
    b->observe_ctx = ctx;
}

struct backend_info backend_info(const struct backend *b)
{
    return (struct backend_info){b->k.level, pool_size(b->pool), b->memory_bytes};
}

/* ---- opening ----------------------------------------------------------------------------------------------------------------
 */

/* Widest input of a matrix, widest head, most query heads. */
struct widths {
    size_t k, head, n_heads;
};

static int survey(struct backend *b, struct widths *w, struct err *e)
{
    for (uint32_t i = 0; i < b->g->n_ops; i++) {
        const struct op *op = &b->g->ops[i];
        if (op->code == OP_MATMUL) w->k = size_max(w->k, op->w->ne[0]);
        if (op->code == OP_MATMUL) b->kinds |= 1u << qtypes[op->w->type].arith;
        if (op->code == OP_ATTENTION) {
            w->head = size_max(w->head, op->head_dim);
            w->n_heads = size_max(w->n_heads, op->n_heads);
            b->state_floats = size_max(b->state_floats, attn_state_floats((size_t)op->n_heads * SMALL_ROWS, op->head_dim));
        }
        if (op->code != OP_ROPE) continue;
        size_t r = 0;
        while (r < b->n_ropes && b->ropes[r] != op->rope) r++;
        if (r == MAX_ROPES) return fail(e, ERR_UNSUPPORTED, "more than %d different rotary embeddings in one model", MAX_ROPES);
        if (r == b->n_ropes) b->ropes[b->n_ropes++] = op->rope;
    }
    return 0;
}

/* Hands out pieces of one block; with base NULL it only counts. */
struct carve {
    uint8_t *base;
    size_t used;
    bool overflow;
};
static void *carve(struct carve *c, size_t n, size_t size)
{
    size_t bytes = 0, end = 0, start = c->used;
    if (!size_mul(n, size, &bytes) || !size_add(start, bytes, &end) || !size_add(end, 63, &end)) {
        c->overflow = true;
        return NULL;
    }
    c->used = end & ~(size_t)63;
    return c->base ? c->base + start : NULL;
}

static void carve_act(struct carve *c, const struct backend *b, struct act_buf *a, size_t rows, size_t k)
{
    size_t n = 0;
    if (!size_mul(rows, k, &n)) c->overflow = true;
    a->norm = carve(c, n, sizeof *a->norm);
    for (enum qarith q = ARITH_32; q <= ARITH_256; q++) {
        if (!(b->kinds & 1u << q)) continue;
        struct act_mem *m = &a->q[q];
        m->q = carve(c, n, sizeof *m->q);
        m->d = carve(c, rows, act_scales(q, k) * sizeof *m->d);
        m->s = carve(c, rows, act_sums(q, k) * sizeof *m->s);
        if (b->k.pack_cols) m->packed = carve(c, rows + b->k.pack_cols, k * sizeof *m->packed);
    }
}

static void carve_all(struct backend *b, struct carve *c, const struct widths *w, unsigned n_threads)
{
    b->rows = carve(c, b->g->row_floats, b->max_rows * sizeof(float));
    b->outs = carve(c, b->g->out_floats, b->max_out * sizeof(float));
    carve_act(c, b, &b->shared, b->max_rows, w->k);
    for (size_t i = 0; i < b->n_ropes; i++) b->angles[i] = carve(c, b->max_rows, 2 * b->ropes[i]->n_pairs * sizeof(float));
    for (unsigned t = 0; t < n_threads; t++) {
        struct worker *wk = &b->workers[t];
        carve_act(c, b, &wk->small, SMALL_ROWS, w->k);
        wk->mm_scratch = carve(c, 1, MM_SCRATCH);
        wk->attn_scratch = carve(c, ATTN_SCRATCH, sizeof(float));
        wk->attn_q = carve(c, ATTN_ROWS, w->head * sizeof(float));
        const size_t blocks = attn_blocks(w->head);
        wk->attn_quant.q = carve(c, ATTN_ROWS, blocks * KV_BLOCK);
        wk->attn_quant.d = carve(c, ATTN_ROWS, blocks * sizeof(float));
        wk->attn_quant.s = carve(c, ATTN_ROWS, blocks * sizeof(int16_t));
        wk->attn_all = carve(c, attn_state_floats(ATTN_ROWS, w->head), sizeof(float));
        wk->attn_one = carve(c, attn_state_floats(ATTN_ROWS, w->head), sizeof(float));
    }
    b->attn_states = carve(c, b->max_chunks, b->state_floats * sizeof(float));
    b->attn_done = carve(c, w->n_heads, sizeof *b->attn_done);
}

int backend_open_cpu(const struct graph *g, const struct backend_options *opts, struct backend **out, struct err *e)
{
    struct backend *b = mem_zalloc(sizeof *b);
    if (!b) return fail_nomem(e, "the backend", sizeof *b);
    b->g = g;
    b->max_rows = opts->max_rows;
    b->max_out = opts->max_out;
    b->max_chunks = (opts->max_positions + (size_t)ATTN_CHUNK - 1) / ATTN_CHUNK;
    unsigned n_threads = opts->n_threads ? opts->n_threads : cpu_threads();
    struct widths widths = {0};
    struct carve c = {0};
    int rc = kernels_init(&b->k, opts->cpu_level, e);
    if (rc == 0) rc = survey(b, &widths, e);
    if (rc == 0) rc = pool_new(n_threads, &b->pool, e);
    if (rc == 0) {
        b->workers = mem_array(n_threads, sizeof *b->workers);
        if (!b->workers) rc = fail_nomem(e, "worker threads", n_threads * sizeof *b->workers);
    }
    if (rc == 0) {
        carve_all(b, &c, &widths, n_threads);
        b->memory_bytes = c.used;
        if (c.overflow || !(b->memory = mem_pages(c.used)))
            rc = fail_nomem(e, "activations (a smaller batch needs less)", c.used);
    }
    if (rc < 0) {
        backend_close(&b);
        return rc;
    }
    c = (struct carve){.base = b->memory};
    carve_all(b, &c, &widths, n_threads);
    *out = b;
    return 0;
}

void backend_close(struct backend **bp)
{
    struct backend *b = *bp;
    if (!b) return;
    pool_free(&b->pool);
    if (b->memory) mem_pages_free(b->memory, b->memory_bytes);
    mem_free(b->workers);
    mem_free(b);
    *bp = NULL;
}
