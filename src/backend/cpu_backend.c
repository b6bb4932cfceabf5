/* cpu_backend: runs the phases of a graph on the threads of one pool. All threads walk the list of phases together, each
 * computes its own share of the phase's outputs, and a barrier ends the phase. Which thread computes an element never
 * changes how it is computed (docs/arithmetic.md), so the split below is free to follow the machine.
 *
 * Activations are prepared (normalised, quantised) once per phase: for few rows by every thread for itself, which is cheaper
 * than a barrier, otherwise shared out by rows. */
#include "backend/backend.h"

#define SMALL_ROWS 4 /* up to so many rows each thread prepares the activations itself */
#define ROW_UNIT 32  /* weight rows: ranges of threads start at multiples of it */
#define ATTN_ROWS 64 /* query rows per attention task at most */
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
    float *attn_q, *attn_o, *attn_o2; /* [ATTN_ROWS][head_dim] queries; state of all chunks; of the running chunk */
    float attn_m[ATTN_ROWS], attn_l[ATTN_ROWS], attn_m2[ATTN_ROWS], attn_l2[ATTN_ROWS];
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
    size_t cols = op->w->ne[0], row_bytes = op->w->bytes / op->w->ne[1];
    struct range r = share(batch->n_rows, 1, ith, nth);
    for (size_t m = r.from; m < r.to; m++) {
        const size_t id = (size_t)batch->tokens[m];
        const struct qside *side = op->w->side;
        const struct qrow row = {(const uint8_t *)op->w->data + id * row_bytes, side, side ? id * (cols / side->group) : 0};
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
                    .row_bytes = op->w->bytes / cols,
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

/* Keys and values of one head, all rows of the batch, into the tiles. A key is a column of its tile, so it is packed aside and
 * its elements are scattered. */
static void store_head(const struct backend *b, const struct op *op, size_t head)
{
    const struct batch *batch = b->batch;
    enum qtype type = batch->kv->type;
    size_t dim = op->head_dim, cols = (size_t)op->n_kv_heads * dim, size = qtypes[type].block_bytes;
    const float *k = value_rows(b, op->src[0], NULL) + head * dim, *v = value_rows(b, op->src[1], NULL) + head * dim;
    uint8_t packed[ATTN_DIM_MAX * sizeof(float)];
    for (size_t m = 0; m < batch->n_rows; m++, k += cols, v += cols) {
        size_t pos = batch->pos + m, in = pos % KV_PAGE;
        uint8_t *kt = tile_at(batch->kv, op->layer, head, pos / KV_PAGE), *vt = kt + batch->kv->k_bytes;
        b->k.from_float[type](v, vt + in * dim * size, dim);
        b->k.from_float[type](k, packed, dim);
        uint8_t *column = kt + in * size;
        if (size == 2) {
            for (size_t d = 0; d < dim; d++) memcpy(column + d * KV_PAGE * 2, packed + d * 2, 2);
        } else {
            for (size_t d = 0; d < dim; d++) memcpy(column + d * KV_PAGE * 4, packed + d * 4, 4);
        }
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

/* One task: for the query rows [row0, row1), the query heads [head0, head0 + group), which share KV head `head`. */
static void attend(struct backend *b, struct worker *w, const struct op *op, size_t head, size_t head0, size_t group,
                   size_t row0, size_t row1)
{
    const struct batch *batch = b->batch;
    size_t dim = op->head_dim, cols = (size_t)op->n_heads * dim;
    size_t n = (row1 - row0) * group;
    const float *q = value_rows(b, op->src[0], NULL);
    float *dst = value_rows(b, op->dst, NULL);
    uint32_t end = batch->pos + (uint32_t)row1; /* positions that the last row sees */

    for (size_t i = 0; i < n; i++) {
        const float *from = q + (row0 + i / group) * cols + (head0 + i % group) * dim;
        for (size_t d = 0; d < dim; d++) w->attn_q[i * dim + d] = from[d] * op->f;
        w->attn_end[i] = batch->pos + (uint32_t)(row0 + i / group) + 1;
    }
    for (uint32_t chunk = 0; chunk < end; chunk += ATTN_CHUNK) {
        bool first = chunk == 0; /* the first chunk's state is the state that later ones are merged into */
        float *m = first ? w->attn_m : w->attn_m2, *l = first ? w->attn_l : w->attn_l2, *o = first ? w->attn_o : w->attn_o2;
        for (size_t i = 0; i < n; i++) m[i] = -__builtin_inff(), l[i] = 0.0f;
        memset(o, 0, n * dim * sizeof *o);
        for (uint32_t pos = chunk; pos < end && pos < chunk + ATTN_CHUNK; pos += ATTN_TILE) {
            for (size_t i = 0; i < n; i++)
                w->attn_valid[i] = w->attn_end[i] <= pos ? 0 : (uint32_t)size_min(w->attn_end[i] - pos, ATTN_TILE);
            const uint8_t *tile = tile_at(batch->kv, op->layer, head, pos / KV_PAGE);
            struct attn_tile t = {.k = tile,
                                  .v = tile + batch->kv->k_bytes,
                                  .head_dim = dim,
                                  .v_dim = dim,
                                  .n_rows = n,
                                  .q = w->attn_q,
                                  .valid = w->attn_valid,
                                  .m = m,
                                  .l = l,
                                  .o = o,
                                  .scratch = w->attn_scratch};
            b->k.attn_tile[batch->kv->type](&t);
        }
        for (size_t i = 0; !first && i < n; i++)
            if (w->attn_end[i] > chunk)
                b->k.attn_merge(&w->attn_m[i], &w->attn_l[i], w->attn_o + i * dim, m[i], l[i], o + i * dim, dim);
    }
    for (size_t i = 0; i < n; i++) {
        float inv = 1.0f / w->attn_l[i];
        float *to = dst + (row0 + i / group) * cols + (head0 + i % group) * dim;
        for (size_t d = 0; d < dim; d++) to[d] = w->attn_o[i * dim + d] * inv;
    }
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
    pool_barrier(b->pool);
    /* Tasks: KV heads x parts of the heads that share one (several only where more than ATTN_ROWS do) x blocks of rows. */
    size_t group = attn->n_heads / attn->n_kv_heads, part = size_min(group, ATTN_ROWS), n_parts = (group + part - 1) / part;
    size_t block = ATTN_ROWS / part, n_blocks = (b->batch->n_rows + block - 1) / block;
    struct range tasks = share(n_kv * n_parts * n_blocks, 1, ith, nth);
    for (size_t t = tasks.from; t < tasks.to; t++) {
        size_t row = t % n_blocks * block, first = t / n_blocks % n_parts * part, head = t / n_blocks / n_parts;
        attend(b, &b->workers[ith], attn, head, head * group + first, size_min(part, group - first), row,
               size_min(row + block, b->batch->n_rows));
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

/* Widest input of a matrix and widest head. */
struct widths {
    size_t k, head;
};

static int survey(struct backend *b, struct widths *w, struct err *e)
{
    for (uint32_t i = 0; i < b->g->n_ops; i++) {
        const struct op *op = &b->g->ops[i];
        if (op->code == OP_MATMUL) w->k = size_max(w->k, op->w->ne[0]);
        if (op->code == OP_MATMUL) b->kinds |= 1u << qtypes[op->w->type].arith;
        if (op->code == OP_ATTENTION) w->head = size_max(w->head, op->head_dim);
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
        wk->attn_o = carve(c, ATTN_ROWS, w->head * sizeof(float));
        wk->attn_o2 = carve(c, ATTN_ROWS, w->head * sizeof(float));
    }
}

int backend_open_cpu(const struct graph *g, const struct backend_options *opts, struct backend **out, struct err *e)
{
    struct backend *b = mem_zalloc(sizeof *b);
    if (!b) return fail_nomem(e, "the backend", sizeof *b);
    b->g = g;
    b->max_rows = opts->max_rows;
    b->max_out = opts->max_out;
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
