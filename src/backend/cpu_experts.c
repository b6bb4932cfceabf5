/* cpu_experts: products with the matrices of the experts that each token has chosen. The choices of a batch are sorted by
 * expert, so that an expert's weights are read once for all of its tokens; what the experts make lies in that order, too. Every
 * thread sorts for itself: it is cheaper than to wait for one that does.
 *
 *     EXPERTS_UP     x [rows][n_in]               -> [rows * n_used][n_out], by experts
 *     EXPERTS_DOWN   [rows * n_used][n_in]        -> the same, by experts
 *     EXPERTS_SUM    [rows * n_used][n], routes   -> [rows][n] */
#include "backend/cpu_int.h"

#define EXPERT_SLICE 256               /* weight rows of a task */
#define AHEAD_BYTES ((size_t)64 << 20) /* of weights that are asked for before they are used */

/* A row of routes: weights, then as many experts (int32 in the place of floats). */
static int32_t chosen(const float *route, size_t n_used, size_t i)
{
    int32_t id;
    memcpy(&id, route + n_used + i, sizeof id);
    return id;
}

static size_t sort_choices(const struct backend *b, struct worker *w, const struct op *op)
{
    const struct route_params *p = op->route;
    uint32_t n_rows;
    const float *routes = value_rows(b, op->src[1], &n_rows);
    const size_t cols = 2 * (size_t)p->n_used;
    memset(w->expert_first, 0, (p->n_experts + (size_t)1) * sizeof *w->expert_first);
    for (size_t m = 0; m < n_rows; m++)
        for (size_t i = 0; i < p->n_used; i++) w->expert_first[chosen(routes + m * cols, p->n_used, i) + 1]++;
    for (size_t e = 0; e < p->n_experts; e++) w->expert_first[e + 1] += w->expert_first[e];
    for (size_t m = 0; m < n_rows; m++)
        for (size_t i = 0; i < p->n_used; i++) {
            const uint32_t choice = (uint32_t)(m * p->n_used + i);
            const uint32_t at = w->expert_first[chosen(routes + m * cols, p->n_used, i)]++;
            w->expert_slot[at] = choice;
            w->expert_at[choice] = at;
        }
    for (size_t e = p->n_experts; e > 0; e--) w->expert_first[e] = w->expert_first[e - 1];
    w->expert_first[0] = 0;
    return n_rows;
}

/* ---- weights that are not in memory ----------------------------------------------------------------------------------------
 * Where they are larger than memory most of what experts read comes from the disk. Page faults would fetch it piece after
 * piece, each with much around it that nobody wants; so all experts of a batch are asked for when they are chosen, those of
 * EXPERTS_DOWN with those of EXPERTS_UP, as far ahead as AHEAD_BYTES go. */

/* The k-th expert with tokens from e on; n_experts where there is none. */
static size_t find_active(const struct worker *w, size_t n_experts, size_t e, size_t k)
{
    for (; e < n_experts; e++)
        if (w->expert_first[e + 1] > w->expert_first[e] && k-- == 0) break;
    return e;
}

static void ask_for(const struct op *op, size_t e)
{
    for (size_t i = 0; e < op->route->n_experts && i < COUNT_OF(op->experts) && op->experts[i].w; i++)
        preload_ask((struct region){op->experts[i].w[e]->data, op->experts[i].w[e]->bytes});
}

/* How many experts are asked for ahead. */
static size_t ahead(const struct op *op)
{
    size_t bytes = op->experts[0].w[0]->bytes;
    if (op->experts[1].w) bytes += op->experts[1].w[0]->bytes;
    return size_max(AHEAD_BYTES / size_max(bytes, 1), 1);
}

/* This thread's share of the first experts of op. */
static void ask_first(const struct worker *w, const struct op *op, unsigned ith, unsigned nth)
{
    const size_t n = op->route->n_experts;
    size_t active = 0;
    for (size_t e = 0; e < n; e++) active += w->expert_first[e + 1] > w->expert_first[e];
    const struct range r = share(size_min(ahead(op), active), 1, ith, nth);
    size_t e = find_active(w, n, 0, r.from);
    for (size_t i = r.from; i < r.to; i++, e = find_active(w, n, e + 1, 0)) ask_for(op, e);
}

/* ---- products --------------------------------------------------------------------------------------------------------------
 */

/* Some rows of an expert's input, from the prepared activations `from` of all rows (row length k, floats in x), as a product
 * wants them. */
static struct act gather(const struct backend *b, struct worker *w, const struct tensor *mat, const struct act_buf *from,
                         const float *x, const uint32_t *rows, size_t n)
{
    const size_t k = mat->ne[0];
    const enum qarith arith = qtypes[mat->type].arith;
    const struct act_mem *src = &from->q[arith], *dst = &w->expert.q[arith];
    if (arith == ARITH_FLOAT) {
        for (size_t i = 0; i < n; i++) memcpy(w->expert.norm + i * k, x + rows[i] * k, k * sizeof *x);
        return (struct act){.f = w->expert.norm, .stride = k};
    }
    const size_t scales = act_scales(arith, k), sums = act_sums(arith, k);
    for (size_t i = 0; i < n; i++) {
        memcpy(dst->q + i * k, src->q + rows[i] * k, k);
        memcpy(dst->d + i * scales, src->d + rows[i] * scales, scales * sizeof *dst->d);
        memcpy(dst->s + i * sums, src->s + rows[i] * sums, sums * sizeof *dst->s);
    }
    const size_t unit = b->k.pack_cols;
    for (size_t i = 0; packs(b, n) && i < n; i += unit)
        b->k.pack_act(dst->q + i * k, size_min(unit, n - i), k, dst->packed + i * k);
    return (struct act){.q = dst->q, .d = dst->d, .s = dst->s, .packed = packs(b, n) ? dst->packed : NULL};
}

/* Rows [r0, r1) of a matrix of expert e, plus their bias. */
static void expert_product(const struct backend *b, struct worker *w, const struct experts *mats, size_t e, struct act act,
                           size_t n, size_t r0, size_t r1, float *dst, size_t stride)
{
    const struct tensor *mat = mats->w[e];
    struct mm mm = {.type = mat->type,
                    .w = mat->data,
                    .row_bytes = tensor_row_bytes(mat),
                    .side = mat->side,
                    .k = mat->ne[0],
                    .n_rows = n,
                    .act = act,
                    .dst = dst,
                    .dst_stride = stride,
                    .scratch = w->mm_scratch};
    b->k.mm[mat->type](&mm, r0, r1);
    for (size_t m = 0; mats->bias && m < n; m++)
        b->k.add(dst + m * stride + r0, mats->bias + e * mat->ne[1] + r0, r1 - r0, dst + m * stride + r0);
}

/* Rows [r0, r1) of what expert e makes of its tokens. */
static void expert_rows(struct backend *b, struct worker *w, const struct op *op, size_t e, size_t r0, size_t r1)
{
    const bool up = op->code == OP_EXPERTS_UP;
    const uint32_t n_used = op->route->n_used;
    const struct tensor *mat = op->experts[0].w[e];
    const size_t n_out = mat->ne[1];
    const struct act_buf *from = up ? &b->shared : &b->hidden;
    const float *x = value_rows(b, op->src[0], NULL), *routes = value_rows(b, op->src[1], NULL);
    float *dst = value_rows(b, op->dst, NULL);
    if (b->from_disk && r0 == 0) ask_for(op, find_active(w, op->route->n_experts, e, ahead(op)));
    for (size_t at = w->expert_first[e], end = w->expert_first[e + 1]; at < end; at += EXPERT_ROWS) {
        const size_t n = size_min(EXPERT_ROWS, end - at);
        uint32_t rows[EXPERT_ROWS];
        for (size_t i = 0; i < n; i++) rows[i] = up ? w->expert_slot[at + i] / n_used : (uint32_t)(at + i);
        float *y = dst + at * n_out;
        struct act act = gather(b, w, mat, from, x, rows, n);
        expert_product(b, w, &op->experts[0], e, act, n, r0, r1, y, n_out);
        if (!up) continue;
        /* The second matrix may be of another kind of arithmetic. */
        const struct tensor *second = op->experts[1].w[e];
        if (qtypes[second->type].arith != qtypes[mat->type].arith) act = gather(b, w, second, from, x, rows, n);
        expert_product(b, w, &op->experts[1], e, act, n, r0, r1, w->expert_up, n_out);
        for (size_t i = 0; i < n; i++) {
            float *g = y + i * n_out + r0, *u = w->expert_up + i * n_out + r0;
            if (op->weigh_input) {
                const float weight = routes[rows[i] * 2 * (size_t)n_used + w->expert_slot[at + i] % n_used];
                b->k.scale(g, weight, r1 - r0, g);
                b->k.scale(u, weight, r1 - r0, u);
            }
            b->k.glu[op->act](g, u, op->f, r1 - r0, g);
        }
    }
}

/* Rows of all experts that have tokens, one after the other. */
static void stacked_experts(struct backend *b, struct worker *w, const struct op *op, struct range r)
{
    const size_t n_experts = op->route->n_experts, n_out = op->experts[0].w[0]->ne[1];
    for (size_t e = 0, at = 0; e < n_experts; e++) {
        if (w->expert_first[e + 1] == w->expert_first[e]) continue;
        const size_t from = size_max(r.from, at), to = size_min(r.to, at + n_out);
        if (from < to) expert_rows(b, w, op, e, from - at, to - at);
        at += n_out;
    }
}

/* All experts that have tokens, after the activations are prepared: few of these by weight rows, many in tasks. */
static void run_experts(struct backend *b, const struct op *op, size_t n_rows, unsigned ith, unsigned nth)
{
    struct worker *w = &b->workers[ith];
    const size_t n_experts = op->route->n_experts, n_out = op->experts[0].w[0]->ne[1];
    size_t active = 0;
    for (size_t e = 0; e < n_experts; e++) active += w->expert_first[e + 1] > w->expert_first[e];
    if (n_rows <= SMALL_ROWS) {
        struct claim c = claim_rows(b, active * n_out, tensor_row_bytes(op->experts[0].w[0]), ith, nth);
        for (struct range r; claim_next(&c, &r);) stacked_experts(b, w, op, r);
        return;
    }
    const size_t slices = (n_out + EXPERT_SLICE - 1) / EXPERT_SLICE;
    size_t e = 0, before = 0; /* tasks of the experts before e */
    for (size_t task = task_next(b); task < active * slices; task = task_next(b)) {
        for (;; e++) {
            if (w->expert_first[e + 1] == w->expert_first[e]) continue;
            if (task < before + slices) break;
            before += slices;
        }
        const size_t r0 = (task - before) * EXPERT_SLICE;
        expert_rows(b, w, op, e, r0, size_min(r0 + EXPERT_SLICE, n_out));
    }
}

/* Quantises n rows of x for all kinds of matrices, shared out; ends with all threads at a barrier. */
static void prepare(struct backend *b, const struct op *op, const struct act_buf *buf, const float *x, size_t n, unsigned ith,
                    unsigned nth)
{
    unsigned kinds = 0;
    for (size_t i = 0; i < COUNT_OF(op->experts) && op->experts[i].w; i++)
        for (size_t e = 0; e < op->route->n_experts; e++) kinds |= 1u << qtypes[op->experts[i].w[e]->type].arith;
    struct range r = share(n, 1, ith, nth);
    for (enum qarith q = ARITH_32; q <= ARITH_256; q++)
        if (kinds & 1u << q) act_quantise(&b->k, q, x, op->experts[0].w[0]->ne[0], r.from, r.to, false, &buf->q[q]);
    if (ith == 0) tasks_reset(b);
    pool_barrier(b->pool);
}

/* Shows the watcher what each expert reads. */
static void observe(const struct backend *b, struct worker *w, const struct op *op, const float *x)
{
    const bool up = op->code == OP_EXPERTS_UP;
    for (size_t e = 0; e < op->route->n_experts; e++)
        for (size_t at = w->expert_first[e]; at < w->expert_first[e + 1]; at++) {
            const size_t row = up ? w->expert_slot[at] / op->route->n_used : at;
            for (size_t i = 0; i < COUNT_OF(op->experts) && op->experts[i].w; i++)
                b->observe(b->observe_ctx, op->experts[i].w[e], x + row * op->experts[i].w[e]->ne[0], 1);
        }
}

void run_experts_up(struct backend *b, const struct op *op, unsigned ith, unsigned nth)
{
    struct worker *w = &b->workers[ith];
    const float *x = value_rows(b, op->src[0], NULL);
    const size_t n_rows = sort_choices(b, w, op);
    if (b->from_disk) {
        ask_first(w, op, ith, nth);
        if (op[1].code == OP_EXPERTS_DOWN) ask_first(w, op + 1, ith, nth); /* EXPERTS_SUM is the last of the list */
    }
    prepare(b, op, &b->shared, x, n_rows, ith, nth);
    if (b->observe && ith == 0) observe(b, w, op, x);
    run_experts(b, op, n_rows, ith, nth);
}

void run_experts_down(struct backend *b, const struct op *op, unsigned ith, unsigned nth)
{
    struct worker *w = &b->workers[ith];
    const float *x = value_rows(b, op->src[0], NULL);
    const size_t n_rows = sort_choices(b, w, op);
    prepare(b, op, &b->hidden, x, n_rows * op->route->n_used, ith, nth);
    if (b->observe && ith == 0) observe(b, w, op, x);
    run_experts(b, op, n_rows, ith, nth);
}

void run_experts_sum(struct backend *b, const struct op *op, struct worker *w, struct range r)
{
    const size_t n_used = op->route->n_used, n = value_cols(b, op->dst);
    const float *routes = value_rows(b, op->src[1], NULL);
    float *x = value_rows(b, op->src[0], NULL), *dst = value_rows(b, op->dst, NULL);
    sort_choices(b, w, op);
    for (size_t m = r.from; m < r.to; m++)
        for (size_t i = 0; i < n_used; i++) {
            float *y = x + w->expert_at[m * n_used + i] * n;
            if (!op->weigh_input) b->k.scale(y, routes[m * 2 * n_used + i], n, y);
            if (i == 0)
                memcpy(dst + m * n, y, n * sizeof *y);
            else
                b->k.add(dst + m * n, y, n, dst + m * n);
        }
}
