/* cpu_backend: runs the phases of a graph on the threads of one pool (cpu_int.h says how). Here are the walk, the operations
 * that work row by row, and the memory; products, adapters, attention and experts have files of their own. */
#include "backend/cpu_int.h"

float *value_rows(const struct backend *b, value_id v, uint32_t *n_rows)
{
    const struct value *val = &b->g->values[v];
    if (n_rows) *n_rows = val->gathered ? b->batch->n_out : b->batch->n_rows;
    return val->gathered ? b->outs + val->offset * b->max_out : b->rows + val->offset * b->max_rows;
}

static size_t embed_row(const struct batch *b, enum embed_by by, size_t row)
{
    if (by == BY_TOKEN) return (size_t)b->tokens[row];
    if (by == BY_TYPE) return b->types ? b->types[row] : 0;
    const struct batch_seq *seq = b->seqs;
    while (row >= seq->row + seq->n_rows) seq++;
    return seq->pos + row - seq->row;
}

static void run_embed(struct backend *b, const struct op *op, unsigned ith, unsigned nth)
{
    const struct batch *batch = b->batch;
    float *dst = value_rows(b, op->dst, NULL);
    size_t cols = op->w->ne[0];
    struct range r = share(batch->n_rows, 1, ith, nth);
    for (size_t m = r.from; m < r.to; m++) {
        const struct qrow row = tensor_row(op->w, embed_row(batch, op->by, m));
        b->k.to_float[op->w->type](&row, dst + m * cols, cols);
    }
}

static void run_input(struct backend *b, const struct op *op, unsigned ith, unsigned nth)
{
    const size_t cols = value_cols(b, op->dst);
    const struct range r = share(b->batch->n_rows, 1, ith, nth);
    if (r.from < r.to)
        memcpy(value_rows(b, op->dst, NULL) + r.from * cols, b->batch->inputs + r.from * cols,
               (r.to - r.from) * cols * sizeof(float));
}

static void run_gather(struct backend *b, const struct op *op, unsigned ith, unsigned nth)
{
    size_t cols = b->g->values[op->dst].cols;
    const float *src = value_rows(b, op->src[0], NULL);
    float *dst = value_rows(b, op->dst, NULL);
    struct range r = share(b->batch->n_out, 1, ith, nth);
    for (size_t i = r.from; i < r.to; i++) memcpy(dst + i * cols, src + b->batch->out[i] * cols, cols * sizeof *dst);
}

/* ---- operations row by row --------------------------------------------------------------------------------------------- */

static void row_rms_norm(const struct backend *b, const struct op *op, const struct row *r)
{
    b->k.rms_norm(r->x, op->vec, op->f, r->n, r->dst);
}
static void row_layer_norm(const struct backend *b, const struct op *op, const struct row *r)
{
    b->k.layer_norm(r->x, op->vec, op->bias, op->f, r->n, r->dst);
}
static void row_add(const struct backend *b, const struct op *op, const struct row *r)
{
    (void)op;
    b->k.add(r->x, r->y, r->n, r->dst);
}
static void row_scale(const struct backend *b, const struct op *op, const struct row *r)
{
    b->k.scale(r->x, op->f, r->n, r->dst);
}
static void row_glu(const struct backend *b, const struct op *op, const struct row *r)
{
    b->k.glu[op->act](r->x, r->y, op->f, r->n, r->dst);
}
static void row_act(const struct backend *b, const struct op *op, const struct row *r)
{
    b->k.act[op->act](r->x, r->n, r->dst);
}
static void row_softcap(const struct backend *b, const struct op *op, const struct row *r)
{
    b->k.softcap(r->x, op->f, r->n, r->dst);
}
static void row_gate(const struct backend *b, const struct op *op, const struct row *r)
{
    if (value_cols(b, op->src[1]) == r->n) {
        b->k.gate(r->x, r->y, r->n, r->dst);
        return;
    }
    const float one = 1.0f;
    float f;
    b->k.gate(&one, r->y, 1, &f);
    b->k.scale(r->x, f, r->n, r->dst);
}
static void row_head_cols(const struct backend *b, const struct op *op, const struct row *r)
{
    (void)b;
    for (size_t h = 0; h < op->n_heads; h++)
        memcpy(r->dst + h * op->len, r->x + h * op->head + op->at, op->len * sizeof *r->dst);
}
static void row_mul(const struct backend *b, const struct op *op, const struct row *r)
{
    (void)op;
    b->k.mul(r->x, r->y, r->n, r->dst);
}
static void row_join(const struct backend *b, const struct op *op, const struct row *r)
{
    const size_t n = value_cols(b, op->src[0]);
    memcpy(r->dst, r->x, n * sizeof *r->dst);
    memcpy(r->dst + n, r->y, (r->n - n) * sizeof *r->dst);
}
static void row_head_norm(const struct backend *b, const struct op *op, const struct row *r)
{
    for (size_t h = 0; h < op->n_heads; h++) norm_head(b, op, h, r->dst + h * op->head);
}
static void row_route(const struct backend *b, const struct op *op, const struct row *r)
{
    (void)b;
    route(op->route, r->x, r->dst, (int32_t *)(void *)(r->dst + op->route->n_used));
}

/* NULL: no operation of this kind, or one that looks at more than its row. */
static void (*const row_fns[OP_COUNT])(const struct backend *b, const struct op *op, const struct row *r) = {
    [OP_RMS_NORM] = row_rms_norm,
    [OP_LAYER_NORM] = row_layer_norm,
    [OP_ADD] = row_add,
    [OP_SCALE] = row_scale,
    [OP_GLU] = row_glu,
    [OP_ACT] = row_act,
    [OP_GATE] = row_gate,
    [OP_SOFTCAP] = row_softcap,
    [OP_HEAD_COLS] = row_head_cols,
    [OP_ROUTE] = row_route,
    [OP_MUL] = row_mul,
    [OP_JOIN] = row_join,
    [OP_HEAD_NORM] = row_head_norm,
    [OP_DELTA_SPLIT] = row_delta_split,
    [OP_DELTA_NORM] = row_delta_norm,
    [OP_DELTA_GATES] = row_delta_gates,
};

/* All rows of one operation that this thread has. */
static void op_rows(struct backend *b, const struct op *op, struct worker *w, struct range r)
{
    if (op->code == OP_EXPERTS_SUM) {
        run_experts_sum(b, op, w, r);
        return;
    }
    const size_t n = value_cols(b, op->dst), nx = value_cols(b, op->src[0]);
    const size_t ny = op->src[1] == NO_VALUE ? 0 : value_cols(b, op->src[1]);
    float *dst = value_rows(b, op->dst, NULL);
    const float *x = value_rows(b, op->src[0], NULL), *y = ny ? value_rows(b, op->src[1], NULL) : NULL;
    for (size_t m = r.from; m < r.to; m++) {
        const struct row row = {x + m * nx, y ? y + m * ny : NULL, dst + m * n, n};
        row_fns[op->code](b, op, &row);
    }
}

static void run_rows(struct backend *b, const struct op *op, uint32_t n_ops, unsigned ith, unsigned nth)
{
    uint32_t n;
    (void)value_rows(b, op->dst, &n);
    struct range r = share(n, 1, ith, nth);
    for (uint32_t i = 0; i < n_ops; i++) op_rows(b, &op[i], &b->workers[ith], r);
}

/* ---- running --------------------------------------------------------------------------------------------------------------
 */

/* The angles of all rows, for every rotary embedding. Nobody reads them before the next phase. */
static void turn(struct backend *b, unsigned ith, unsigned nth)
{
    for (uint32_t s = 0; s < b->batch->n_seqs; s++) {
        const struct batch_seq *seq = &b->batch->seqs[s];
        struct range r = share(seq->n_rows, 1, ith, nth);
        for (size_t m = r.from; m < r.to; m++)
            for (size_t i = 0; i < b->n_ropes; i++) {
                const size_t n = b->ropes[i]->n_pairs;
                float *a = b->angles[i] + (seq->row + m) * 2 * n;
                rope_angles(seq->pos + (uint32_t)m, b->ropes[i]->inv_freq, n, b->ropes[i]->scale, a, a + n);
            }
    }
}

static void run_alone(struct backend *b, const struct op *op, unsigned ith, unsigned nth)
{
    static void (*const fns[OP_COUNT])(struct backend * b, const struct op *op, unsigned ith, unsigned nth) = {
        [OP_EMBED] = run_embed,
        [OP_INPUT] = run_input,
        [OP_GATHER] = run_gather,
        [OP_HEAD_MATMUL] = run_head_matmul,
        [OP_EXPERTS_UP] = run_experts_up,
        [OP_EXPERTS_DOWN] = run_experts_down,
        [OP_CONV] = run_conv,
        [OP_DELTA] = run_delta,
    };
    fns[op->code](b, op, ith, nth);
}

static void run_phase(struct backend *b, uint32_t i, unsigned ith, unsigned nth)
{
    const struct phase *p = &b->g->phases[i];
    const struct op *op = &b->g->ops[p->first];
    b->workers[ith].phase = i;
    atomic_store_explicit(&b->left[ith].parts[(i + 1) % 2], NOTHING_TAKEN, memory_order_relaxed);
    switch (p->kind) {
    case PHASE_ATTENTION:
        run_attention(b, op, p->n, ith, nth);
        break;
    case PHASE_PRODUCTS:
        run_products(b, op, p->n, ith, nth);
        break;
    case PHASE_ROWS:
        run_rows(b, op, p->n, ith, nth);
        break;
    case PHASE_ALONE:
        run_alone(b, op, ith, nth);
        break;
    }
}

static void run_thread(void *ctx, unsigned ith, unsigned nth)
{
    struct backend *b = ctx;
    const struct batch *batch = b->batch;
    turn(b, ith, nth);
    for (uint32_t i = 0; i < b->g->n_phases; i++) {
        run_phase(b, i, ith, nth);
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
    lora_begin(b);
    atomic_store(&b->stop, 0);
    for (unsigned i = 0; i < pool_size(b->pool); i++) atomic_store(&b->left[i].parts[0], NOTHING_TAKEN);
    pool_run(b->pool, run_thread, b);
    return atomic_load(&b->stop) ? ERR_CANCELLED : 0;
}

static void redo_thread(void *ctx, unsigned ith, unsigned nth)
{
    struct backend *b = ctx;
    for (uint32_t i = 0; i < b->g->n_ops; i++) {
        const struct op *op = &b->g->ops[i];
        if (op->code == OP_CONV) redo_conv(b, op, ith, nth);
        if (op->code == OP_DELTA) redo_delta(b, op, ith, nth);
    }
}

void backend_redo(struct backend *b, const struct batch_seq *seqs, uint32_t n_seqs)
{
    b->redo_seqs = seqs;
    b->n_redo = n_seqs;
    pool_run(b->pool, redo_thread, b);
}

const float *backend_logits(const struct backend *b)
{
    return b->outs + b->g->values[b->g->output].offset * b->max_out;
}

const float *backend_kept(const struct backend *b)
{
    const value_id v = b->g->kept;
    return v == NO_VALUE ? NULL : b->rows + b->g->values[v].offset * b->max_rows;
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

/* The most of each that an operation needs. */
struct widths {
    size_t k;                                                /* input of a matrix */
    size_t head, v, n_heads;                                 /* of attention: elements of a key and of a value, query heads */
    size_t expert_in, expert_out, hidden, n_experts, n_used; /* of experts; hidden: input of the second matrix */
};

static void survey_matrix(struct backend *b, const struct tensor *w)
{
    b->kinds |= 1u << qtypes[w->type].arith;
}

static void survey_experts(struct backend *b, const struct op *op, struct widths *w)
{
    const size_t n = op->code == OP_HEAD_MATMUL ? op->n_heads : op->route->n_experts;
    for (size_t i = 0; i < COUNT_OF(op->experts) && op->experts[i].w; i++)
        for (size_t e = 0; e < n; e++) survey_matrix(b, op->experts[i].w[e]);
    const uint64_t *ne = op->experts[0].w[0]->ne;
    w->expert_in = size_max(w->expert_in, ne[0]);
    if (op->code == OP_HEAD_MATMUL) return;
    if (op->code == OP_EXPERTS_UP) w->expert_out = size_max(w->expert_out, ne[1]), w->k = size_max(w->k, ne[0]);
    if (op->code == OP_EXPERTS_DOWN) w->hidden = size_max(w->hidden, ne[0]);
    w->n_experts = size_max(w->n_experts, op->route->n_experts);
    w->n_used = size_max(w->n_used, op->route->n_used);
}

static int survey_rope(struct backend *b, const struct rope *rope, struct err *e)
{
    size_t r = 0;
    while (r < b->n_ropes && b->ropes[r] != rope) r++;
    if (r == MAX_ROPES) return fail(e, ERR_UNSUPPORTED, "more than %d different rotary embeddings in one model", MAX_ROPES);
    if (r == b->n_ropes) b->ropes[b->n_ropes++] = rope;
    return 0;
}

static int survey(struct backend *b, struct widths *w, struct err *e)
{
    for (uint32_t i = 0; i < b->g->n_ops; i++) {
        const struct op *op = &b->g->ops[i];
        if (op->code == OP_MATMUL) {
            w->k = size_max(w->k, op->w->ne[0]);
            survey_matrix(b, op->w);
        }
        if (op->experts[0].w) survey_experts(b, op, w);
        if (op->code == OP_CONV || op->code == OP_DELTA) b->state_cols = size_max(b->state_cols, value_cols(b, op->dst));
        if (op->code == OP_ROPE) TRY(survey_rope(b, op->rope, e));
        if (op->code != OP_ATTENTION) continue;
        w->head = size_max(w->head, op->attn.head_dim);
        w->v = size_max(w->v, op->attn.v_dim);
        w->n_heads = size_max(w->n_heads, op->attn.n_heads);
        b->state_floats = size_max(b->state_floats, attn_state_floats((size_t)op->attn.n_heads * SMALL_ROWS, op->attn.v_dim));
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

/* Experts lie one behind the other mostly: told in one piece, they stay one mapping. */
static void sparse_set(const struct tensor *const *w, uint32_t n)
{
    struct region all = {0};
    for (uint32_t i = 0; i < n; i++) {
        const bool follows = all.n && all.p + all.n == (const uint8_t *)w[i]->data;
        if (all.n && !follows) preload_sparse(all);
        all = follows ? (struct region){all.p, all.n + w[i]->bytes} : (struct region){w[i]->data, w[i]->bytes};
    }
    preload_sparse(all);
}

static void sparse_experts(const struct graph *g)
{
    for (uint32_t i = 0; i < g->n_ops; i++) {
        const struct op *op = &g->ops[i];
        for (size_t set = 0; op->route && set < COUNT_OF(op->experts) && op->experts[set].w; set++)
            sparse_set(op->experts[set].w, op->route->n_experts);
    }
}

static void carve_all(struct backend *b, struct carve *c, const struct widths *w, unsigned n_threads)
{
    b->rows = carve(c, b->g->row_floats, b->max_rows * sizeof(float));
    b->outs = carve(c, b->g->out_floats, b->max_out * sizeof(float));
    carve_act(c, b, &b->shared, b->max_rows, w->k);
    const size_t choices = b->max_rows * w->n_used;
    carve_act(c, b, &b->hidden, choices, w->hidden);
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
        wk->attn_all = carve(c, attn_state_floats(ATTN_ROWS, w->v), sizeof(float));
        wk->attn_one = carve(c, attn_state_floats(ATTN_ROWS, w->v), sizeof(float));
        if (w->expert_in) carve_act(c, b, &wk->expert, EXPERT_ROWS, w->expert_in);
        wk->expert_up = carve(c, EXPERT_ROWS, w->expert_out * sizeof(float));
        wk->expert_first = carve(c, w->n_experts + 1, sizeof *wk->expert_first);
        wk->expert_slot = carve(c, choices, sizeof *wk->expert_slot);
        wk->expert_at = carve(c, choices, sizeof *wk->expert_at);
        if (b->n_loras) wk->lora_part = carve(c, LORA_ROWS, LORA_COLS * sizeof(float));
        wk->redo_out = carve(c, b->max_redo, b->state_cols * sizeof(float));
        wk->lora_x = carve(c, LORA_ROWS, b->lora_width * sizeof(float));
    }
    struct lora_rows *const rows[] = {&b->lora_all, &b->lora_outs};
    for (size_t i = 0; b->n_loras && i < COUNT_OF(rows); i++) {
        rows[i]->rows = carve(c, b->max_rows, sizeof *rows[i]->rows);
        rows[i]->groups = carve(c, b->max_rows, sizeof *rows[i]->groups);
    }
    b->lora_low = carve(c, b->lora_ranks, b->max_rows * sizeof(float));
    if (b->n_loras) b->lora_group_of = carve(c, b->max_rows, sizeof *b->lora_group_of);
    b->reads = carve(c, b->max_redo, b->g->read_floats * sizeof(float));
    b->attn_states = carve(c, b->max_chunks, b->state_floats * sizeof(float));
    b->attn_done = carve(c, w->n_heads, sizeof *b->attn_done);
    b->left = carve(c, n_threads, sizeof *b->left);
}

int backend_open_cpu(const struct graph *g, const struct backend_options *opts, struct backend **out, struct err *e)
{
    struct backend *b = mem_zalloc(sizeof *b);
    if (!b) return fail_nomem(e, "the backend", sizeof *b);
    b->g = g;
    b->max_rows = opts->max_rows;
    b->max_out = opts->max_out;
    b->from_disk = opts->from_disk;
    if (b->from_disk) sparse_experts(g);
    b->max_redo = g->state_floats ? opts->max_redo : 0;
    b->max_chunks = (opts->max_positions + (size_t)ATTN_CHUNK - 1) / ATTN_CHUNK;
    unsigned n_threads = opts->beside ? pool_size(opts->beside->pool) : opts->n_threads ? opts->n_threads : cpu_threads();
    struct widths widths = {0};
    struct carve c = {0};
    int rc = kernels_init(&b->k, opts->cpu_level, e);
    if (rc == 0) rc = survey(b, &widths, e);
    if (rc == 0) rc = lora_init(b, opts->loras, opts->n_loras, e);
    if (opts->beside)
        b->pool = opts->beside->pool, b->lent = true;
    else if (rc == 0)
        rc = pool_new(n_threads, &b->pool, e);
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
    if (!b->lent) pool_free(&b->pool);
    if (b->memory) mem_pages_free(b->memory, b->memory_bytes);
    mem_free(b->workers);
    lora_fini(b);
    mem_free(b);
    *bp = NULL;
}
