/* cpu_attention: everything between the projections of a layer. First heads are normed and rotated in place and keys and values
 * go to the cache; then units of query rows attend to it, chunk of positions by chunk. */
#include "backend/cpu_int.h"

static uint8_t *tile_at(const struct kv_view *kv, uint32_t layer, size_t head, size_t page)
{
    const struct kv_layer *l = &kv->layers[layer];
    return kv->pages[page] + l->at + head * l->head_bytes;
}

/* ---- heads in place ---------------------------------------------------------------------------------------------------- */

/* Keys and values of one head, all rows of the batch, into the tiles. */
static void store_head(const struct backend *b, const struct op *op, size_t head)
{
    const struct attn_params *p = &op->attn;
    const size_t k_cols = value_cols(b, op->src[0]), v_cols = value_cols(b, op->src[1]);
    const float *keys = value_rows(b, op->src[0], NULL) + head * p->head_dim;
    const float *values = value_rows(b, op->src[1], NULL) + head * (v_cols / p->n_kv_heads);
    for (uint32_t i = 0; i < b->batch->n_seqs; i++) {
        const struct batch_seq *seq = &b->batch->seqs[i];
        for (size_t m = 0; m < seq->n_rows; m++) {
            const size_t pos = seq->pos + m, in = pos % KV_PAGE, row = seq->row + m;
            uint8_t *tile = tile_at(seq->kv, p->layer, head, pos / KV_PAGE);
            attn_store_k(&b->k, seq->kv->k_type, keys + row * k_cols, p->head_dim, tile, in);
            attn_store_v(&b->k, seq->kv->v_type, values + row * v_cols, p->v_dim, tile + seq->kv->layers[p->layer].k_bytes, in);
        }
    }
}

static void rope_head(const struct backend *b, const struct op *op, float *x, size_t cols)
{
    size_t which = 0;
    while (b->ropes[which] != op->rope) which++;
    const size_t n = op->rope->n_pairs;
    for (size_t m = 0; m < b->batch->n_rows; m++) {
        const float *a = b->angles[which] + m * 2 * n;
        b->k.rope(x + m * cols + op->at, a, a + n, n, op->rope->neox);
    }
}

/* All that ops [op, end) do to one head of a value. */
static void change_head(const struct backend *b, const struct op *op, const struct op *end, value_id v, size_t head)
{
    for (; op < end; op++) {
        if (op->dst != v || (op->code != OP_ROPE && op->code != OP_HEAD_NORM)) continue;
        const size_t cols = value_cols(b, v);
        float *x = value_rows(b, v, NULL) + head * op->head;
        if (op->code == OP_ROPE) {
            rope_head(b, op, x, cols);
            continue;
        }
        for (size_t m = 0; m < b->batch->n_rows; m++) norm_head(b, op, head, x + m * cols);
    }
}

static uint32_t heads_changed(const struct op *op, const struct op *end, value_id v)
{
    for (; op < end; op++)
        if (op->dst == v && (op->code == OP_ROPE || op->code == OP_HEAD_NORM)) return op->n_heads;
    return 0;
}

/* Query heads and KV heads, numbered through. A thread that stores a head has changed it itself. */
static void change_and_store(struct backend *b, const struct op *op, const struct op *attn, unsigned ith, unsigned nth)
{
    const struct op *store = attn > op && attn[-1].code == OP_KV_STORE ? attn - 1 : NULL;
    const size_t n_q = heads_changed(op, attn, attn->src[0]), n_kv = store ? store->attn.n_kv_heads : 0;
    struct range r = share(n_q + n_kv, 1, ith, nth);
    for (size_t h = r.from; h < r.to; h++) {
        if (h < n_q) {
            change_head(b, op, attn, attn->src[0], h);
            continue;
        }
        change_head(b, op, attn, store->src[0], h - n_q);
        if (store->src[1] != store->src[0]) change_head(b, op, attn, store->src[1], h - n_q);
        store_head(b, store, h - n_q);
    }
}

/* ---- units ------------------------------------------------------------------------------------------------------------- */

/* The softmax state of n query rows over some positions, in a buffer of attn_state_floats. */
struct attn_state {
    float *m, *l; /* [n] */
    float *o;     /* [n][v_dim] */
};
static struct attn_state attn_state(float *buffer, size_t n)
{
    return (struct attn_state){buffer, buffer + n, buffer + 2 * n};
}

/* Some query rows against one KV head: of the tokens [row0, row1) of a sequence, the query heads [head0, head0 + group), token
 * by token. */
struct attn_unit {
    const struct op *op;
    const struct batch_seq *seq;
    size_t head, head0, group, row0, row1; /* rows count from the first of the sequence */
};
static size_t unit_rows(const struct attn_unit *u)
{
    return (u->row1 - u->row0) * u->group;
}

/* The positions [from, to) that the token at row `row` of a sequence sees. */
struct sight {
    uint32_t from, to;
};
static struct sight sight(const struct attn_params *p, const struct batch_seq *seq, size_t row)
{
    const uint32_t pos = seq->pos + (uint32_t)row, all = seq->pos + seq->n_rows;
    struct sight s = {0, p->bidirectional ? all : pos + 1};
    if (p->window == 0) return s;
    if (p->bidirectional) {
        const uint32_t half = p->window / 2;
        s.from = pos > half ? pos - half : 0;
        s.to = (uint32_t)size_min(all, (size_t)pos + half + 1);
    } else if (p->chunked) {
        s.from = pos / p->window * p->window;
    } else {
        s.from = pos + 1 > p->window ? pos + 1 - p->window : 0;
    }
    return s;
}
/* What the rows of a unit see together. */
static struct sight unit_sight(const struct attn_unit *u)
{
    return (struct sight){sight(&u->op->attn, u->seq, u->row0).from, sight(&u->op->attn, u->seq, u->row1 - 1).to};
}

static const uint8_t *unit_tile(const struct attn_unit *u, uint32_t pos)
{
    return tile_at(u->seq->kv, u->op->attn.layer, u->head, pos / KV_PAGE);
}

/* What the query at position pos is multiplied by, before it meets the keys. */
static float query_scale(const struct attn_params *p, uint32_t pos)
{
    if (p->temp == 0.0f) return p->scale;
    const uint32_t periods = (pos + p->temp_offset) / p->temp_length;
    return p->scale * (float)(1.0 + (double)p->temp * num_log(1.0 + periods));
}

/* The queries of a unit, scaled, and what each sees, into the worker. */
static void attn_queries(const struct backend *b, struct worker *w, const struct attn_unit *u)
{
    const struct attn_params *p = &u->op->attn;
    const size_t dim = p->head_dim, cols = (size_t)p->n_heads * dim;
    const float *q = value_rows(b, u->op->src[0], NULL) + u->seq->row * cols;
    for (size_t i = 0; i < unit_rows(u); i++) {
        const size_t row = u->row0 + i / u->group;
        const struct sight s = sight(p, u->seq, row);
        const float *from = q + row * cols + (u->head0 + i % u->group) * dim;
        b->k.scale(from, query_scale(p, u->seq->pos + (uint32_t)row), dim, w->attn_q + i * dim);
        w->attn_start[i] = s.from;
        w->attn_end[i] = s.to;
        if (!attn_quantised(u->seq->kv->k_type)) continue;
        const size_t blocks = attn_blocks(dim), k = blocks * KV_BLOCK;
        float x[ATTN_DIM_MAX] = {0};
        memcpy(x, w->attn_q + i * dim, dim * sizeof *x);
        b->k.quant_act_32(x, k, w->attn_quant.q + i * k, w->attn_quant.d + i * blocks, w->attn_quant.s + i * blocks);
    }
}

/* Whether query i of the worker sees positions of [pos, pos + n). */
static bool sees(const struct worker *w, size_t i, uint32_t pos, uint32_t n)
{
    return w->attn_end[i] > pos && w->attn_start[i] < pos + n;
}

/* Sets what the worker's queries see of the tile at pos; false: none sees anything. */
static bool aim(struct worker *w, size_t n, uint32_t pos)
{
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        const bool seen = sees(w, i, pos, ATTN_TILE);
        w->attn_valid[i] = seen ? (uint32_t)size_min(w->attn_end[i] - pos, ATTN_TILE) : 0;
        w->attn_from[i] = seen && w->attn_start[i] > pos ? w->attn_start[i] - pos : 0;
        any |= seen;
    }
    return any;
}

/* The state of the chunk that begins at position `chunk`, for the queries in the worker. next: the tile that the thread reads
 * after it, or NULL. */
static void attn_chunk(const struct backend *b, struct worker *w, const struct attn_unit *u, uint32_t chunk,
                       struct attn_state s, const uint8_t *next)
{
    const struct kv_view *kv = u->seq->kv;
    const struct attn_params *p = &u->op->attn;
    const struct kv_layer *layer = &kv->layers[p->layer];
    const size_t n = unit_rows(u);
    const uint32_t end = (uint32_t)size_min(unit_sight(u).to, (size_t)chunk + ATTN_CHUNK);
    for (size_t i = 0; i < n; i++) s.m[i] = -__builtin_inff(), s.l[i] = 0.0f;
    memset(s.o, 0, n * p->v_dim * sizeof *s.o);
    for (uint32_t pos = chunk; pos < end; pos += ATTN_TILE) {
        if (!aim(w, n, pos)) continue;
        const uint8_t *tile = unit_tile(u, pos);
        struct attn_tile t = {.k = tile,
                              .v = tile + layer->k_bytes,
                              .k_type = kv->k_type,
                              .v_type = kv->v_type,
                              .head_dim = p->head_dim,
                              .v_dim = p->v_dim,
                              .n_rows = n,
                              .q = w->attn_q,
                              .quant = {.q = w->attn_quant.q, .d = w->attn_quant.d, .s = w->attn_quant.s},
                              .valid = w->attn_valid,
                              .from = p->window ? w->attn_from : NULL,
                              .softcap = p->softcap,
                              .m = s.m,
                              .l = s.l,
                              .o = s.o,
                              .scratch = w->attn_scratch,
                              .next = end - pos > ATTN_TILE ? unit_tile(u, pos + ATTN_TILE) : next,
                              .next_bytes = layer->head_bytes};
        b->k.attn_tile(&t);
    }
}

/* Takes the state of a chunk into that of the chunks before it. Rows that see nothing of it stay as they are. */
static void attn_take(const struct backend *b, const struct worker *w, const struct attn_unit *u, uint32_t chunk,
                      struct attn_state all, struct attn_state one)
{
    const size_t dim = u->op->attn.v_dim;
    for (size_t i = 0; i < unit_rows(u); i++) {
        if (!sees(w, i, chunk, ATTN_CHUNK)) continue;
        if (w->attn_start[i] >= chunk) { /* its first */
            all.m[i] = one.m[i];
            all.l[i] = one.l[i];
            memcpy(all.o + i * dim, one.o + i * dim, dim * sizeof *all.o);
        } else {
            b->k.attn_merge(&all.m[i], &all.l[i], all.o + i * dim, one.m[i], one.l[i], one.o + i * dim, dim);
        }
    }
}

static void attn_output(const struct backend *b, const struct attn_unit *u, struct attn_state s)
{
    static const float nothing[ATTN_DIM_MAX];
    const struct attn_params *p = &u->op->attn;
    const size_t dim = p->v_dim, cols = (size_t)p->n_heads * dim;
    float *dst = value_rows(b, u->op->dst, NULL) + u->seq->row * cols;
    for (size_t i = 0; i < unit_rows(u); i++) {
        const size_t head = u->head0 + i % u->group;
        float *o = s.o + i * dim;
        if (p->sinks) b->k.attn_merge(&s.m[i], &s.l[i], o, p->sinks[head], 1.0f, nothing, dim);
        b->k.scale(o, 1.0f / s.l[i], dim, dst + (u->row0 + i / u->group) * cols + head * dim);
    }
}

/* ---- tasks ------------------------------------------------------------------------------------------------------------- */

/* How a phase of attention is cut into tasks: units, each whole or, where `chunks` is not 0, one task for each of its chunks.
 */
struct attn_plan {
    const struct op *op;
    size_t group, part, n_parts; /* query heads of a KV head; of a unit; units for each KV head */
    size_t block;                /* tokens of a unit */
    size_t n_units, chunk0, chunks;
};

static size_t n_blocks(const struct attn_plan *p, const struct batch_seq *seq)
{
    return (seq->n_rows + p->block - 1) / p->block;
}

static struct attn_plan attn_plan(const struct backend *b, const struct op *op, unsigned nth)
{
    const struct batch *batch = b->batch;
    struct attn_plan p = {.op = op, .group = op->attn.n_heads / op->attn.n_kv_heads};
    p.part = size_min(p.group, ATTN_ROWS / SMALL_ROWS);
    p.n_parts = (p.group + p.part - 1) / p.part;
    p.block = ATTN_ROWS / p.part;
    for (uint32_t i = 0; i < batch->n_seqs; i++) p.n_units += op->attn.n_kv_heads * p.n_parts * n_blocks(&p, &batch->seqs[i]);
    if (batch->n_seqs > 1 || batch->n_rows > SMALL_ROWS || nth == 1) return p;
    p.chunk0 = sight(&op->attn, batch->seqs, 0).from / ATTN_CHUNK;
    const size_t end = (sight(&op->attn, batch->seqs, batch->n_rows - 1).to + (size_t)ATTN_CHUNK - 1) / ATTN_CHUNK;
    if (end - p.chunk0 > 1 && end <= b->max_chunks) p.chunks = end - p.chunk0;
    return p;
}

/* The units of a sequence follow those of the ones before it. */
static struct attn_unit attn_unit(const struct backend *b, const struct attn_plan *p, size_t unit)
{
    const struct batch_seq *seq = b->batch->seqs;
    for (size_t n; unit >= (n = p->op->attn.n_kv_heads * p->n_parts * n_blocks(p, seq)); seq++) unit -= n;
    const size_t blocks = n_blocks(p, seq), row = unit % blocks * p->block, first = unit / blocks % p->n_parts * p->part;
    const size_t head = unit / blocks / p->n_parts;
    return (struct attn_unit){.op = p->op,
                              .seq = seq,
                              .head = head,
                              .head0 = head * p->group + first,
                              .group = size_min(p->part, p->group - first),
                              .row0 = row,
                              .row1 = size_min(row + p->block, seq->n_rows)};
}

/* A whole unit, chunk after chunk. */
static void attend(const struct backend *b, struct worker *w, const struct attn_unit *u)
{
    const struct attn_state all = attn_state(w->attn_all, unit_rows(u)), one = attn_state(w->attn_one, unit_rows(u));
    const struct sight s = unit_sight(u);
    attn_queries(b, w, u);
    for (uint32_t chunk = s.from / ATTN_CHUNK * ATTN_CHUNK; chunk < s.to; chunk += ATTN_CHUNK) {
        const uint8_t *next = s.to - chunk > ATTN_CHUNK ? unit_tile(u, chunk + ATTN_CHUNK) : NULL;
        attn_chunk(b, w, u, chunk, one, next);
        attn_take(b, w, u, chunk, all, one);
    }
    attn_output(b, u, all);
}

static struct attn_state chunk_state(const struct backend *b, const struct attn_unit *u, size_t chunk)
{
    const size_t before = attn_state_floats(u->head0 * SMALL_ROWS, u->op->attn.v_dim);
    return attn_state(b->attn_states + chunk * b->state_floats + before, unit_rows(u));
}

/* One chunk of a unit. Whoever computes the last one merges all, in their order. after: the task that this thread has next. */
static void attend_chunk(struct backend *b, struct worker *w, const struct attn_plan *p, size_t task, size_t after)
{
    const size_t unit = task / p->chunks, chunk = p->chunk0 + task % p->chunks;
    const struct attn_unit u = attn_unit(b, p, unit);
    const uint8_t *next = NULL;
    if (after < p->n_units * p->chunks) {
        const struct attn_unit v = attn_unit(b, p, after / p->chunks);
        next = unit_tile(&v, (uint32_t)(p->chunk0 + after % p->chunks) * ATTN_CHUNK);
    }
    attn_queries(b, w, &u);
    attn_chunk(b, w, &u, (uint32_t)chunk * ATTN_CHUNK, chunk_state(b, &u, chunk), next);
    if (atomic_fetch_add_explicit(&b->attn_done[unit], 1, memory_order_acq_rel) + 1 < p->chunks) return;
    atomic_store_explicit(&b->attn_done[unit], 0, memory_order_relaxed);
    const struct attn_state all = attn_state(w->attn_all, unit_rows(&u));
    for (size_t c = p->chunk0; c < p->chunk0 + p->chunks; c++)
        attn_take(b, w, &u, (uint32_t)c * ATTN_CHUNK, all, chunk_state(b, &u, c));
    attn_output(b, &u, all);
}

void run_attention(struct backend *b, const struct op *op, uint32_t n_ops, unsigned ith, unsigned nth)
{
    const struct op *attn = op + n_ops - 1;
    change_and_store(b, op, attn, ith, nth);
    if (ith == 0) tasks_reset(b);
    pool_barrier(b->pool);
    const struct attn_plan p = attn_plan(b, attn, nth);
    const size_t n_tasks = p.n_units * size_max(p.chunks, 1);
    for (size_t task = task_next(b), after; task < n_tasks; task = after) {
        after = task_next(b);
        if (p.chunks) {
            attend_chunk(b, &b->workers[ith], &p, task, after);
        } else {
            const struct attn_unit u = attn_unit(b, &p, task);
            attend(b, &b->workers[ith], &u);
        }
    }
}
