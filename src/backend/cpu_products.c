/* cpu_products: matrix products. Activations are prepared (normalised, quantised) once per phase: for few rows by every thread
 * for itself, which is cheaper than a barrier, otherwise shared out by rows. */
#include "backend/cpu_int.h"

static void norm_row(const struct backend *b, const struct op *op, const float *x, size_t n, float *y)
{
    if (op->code == OP_RMS_NORM)
        b->k.rms_norm(x, op->vec, op->f, n, y);
    else
        b->k.layer_norm(x, op->vec, op->bias, op->f, n, y);
}

/* Rows [from, to) of x, normalised and quantised for all kinds of weights of a phase, into buf. */
static void prepare(const struct backend *b, const struct act_buf *buf, const struct op *norm, unsigned kinds, bool pack,
                    const float *x, size_t k, struct range rows)
{
    for (size_t m = rows.from; norm && m < rows.to; m++) norm_row(b, norm, x + m * k, k, buf->norm + m * k);
    for (enum qarith q = ARITH_32; q <= ARITH_256; q++)
        if (kinds & 1u << q) act_quantise(&b->k, q, norm ? buf->norm : x, k, rows.from, rows.to, pack, &buf->q[q]);
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

void run_products(struct backend *b, const struct op *op, uint32_t n_ops, unsigned ith, unsigned nth)
{
    struct worker *w = &b->workers[ith];
    const struct op *end = op + n_ops, *norm = NULL;
    if (op->code != OP_MATMUL) norm = op++;
    const struct op *mat = op;
    while (op < end && op->code == OP_MATMUL) op++;
    const struct op *last = op < end ? op : NULL; /* GLU or ADD */

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
    const struct lora_rows *adapted = lora_of(b, mat, (uint32_t)(op - mat));
    if (adapted) {
        lora_lower(b, adapted, mat, (uint32_t)(op - mat), x, ith, nth);
        pool_barrier(b->pool);
    }

    if (last && last->code == OP_GLU) {
        size_t cols = mat->w->ne[1];
        struct range r = share(cols, ROW_UNIT, ith, nth);
        for (uint32_t i = 0; i < 2; i++) {
            product(b, w, mat + i, buf, x, n, r.from, r.to);
            if (adapted) lora_add(b, w, adapted, mat, i, r.from, r.to);
        }
        const float *gate = value_rows(b, last->src[0], NULL), *up = value_rows(b, last->src[1], NULL);
        float *dst = value_rows(b, last->dst, NULL);
        for (size_t m = 0; m < n && r.from < r.to; m++)
            b->k.glu[last->act](gate + m * cols + r.from, up + m * cols + r.from, last->f, r.to - r.from,
                                dst + m * cols + r.from);
        return;
    }
    size_t total = 0;
    for (const struct op *m = mat; m < op; m++) total += m->w->ne[1];
    struct range r = share(total, ROW_UNIT, ith, nth);
    size_t at = 0;
    for (const struct op *m = mat; m < op; at += m->w->ne[1], m++) {
        const size_t r0 = size_max(r.from, at) - at, r1 = size_min(r.to, at + m->w->ne[1]) - size_min(at, r.to);
        product(b, w, m, buf, x, n, r0, r1);
        if (adapted) lora_add(b, w, adapted, mat, (uint32_t)(m - mat), r0, r1);
    }
    if (last && r.from < r.to) {
        const float *p = value_rows(b, last->src[0], NULL), *q = value_rows(b, last->src[1], NULL);
        float *dst = value_rows(b, last->dst, NULL);
        for (size_t m = 0; m < n; m++)
            b->k.add(p + m * total + r.from, q + m * total + r.from, r.to - r.from, dst + m * total + r.from);
    }
}

/* ---- a matrix for each head -------------------------------------------------------------------------------------------- */

/* Head h of all rows. Rows go through the worker's gathered activations, EXPERT_ROWS at a time, as their heads do not lie as
 * the kernels want them. */
static void head_product(struct backend *b, struct worker *w, const struct op *op, size_t h)
{
    const struct tensor *mat = op->experts[0].w[h];
    const size_t n_in = mat->ne[0], n_out = mat->ne[1], tail = op->head - n_in;
    const size_t cols = value_cols(b, op->src[0]), dst_cols = value_cols(b, op->dst);
    const enum qarith arith = qtypes[mat->type].arith;
    uint32_t n_rows;
    float *dst = value_rows(b, op->dst, &n_rows) + h * (n_out + tail);
    const float *src = value_rows(b, op->src[0], NULL) + h * op->head;
    for (size_t m = 0; m < n_rows; m += EXPERT_ROWS) {
        const size_t n = size_min(EXPERT_ROWS, n_rows - m);
        const bool pack = packs(b, n);
        for (size_t i = 0; i < n; i++) {
            const float *x = src + (m + i) * cols;
            memcpy(w->expert.norm + i * n_in, x, n_in * sizeof *x);
            memcpy(dst + (m + i) * dst_cols + n_out, x + n_in, tail * sizeof *x);
        }
        const struct act_mem *q = &w->expert.q[arith];
        if (arith != ARITH_FLOAT) act_quantise(&b->k, arith, w->expert.norm, n_in, 0, n, pack, q);
        struct mm mm = {.type = mat->type,
                        .w = mat->data,
                        .row_bytes = tensor_row_bytes(mat),
                        .side = mat->side,
                        .k = n_in,
                        .n_rows = n,
                        .act = {w->expert.norm, n_in, q->q, q->d, q->s, pack ? q->packed : NULL},
                        .dst = dst + m * dst_cols,
                        .dst_stride = dst_cols,
                        .scratch = w->mm_scratch};
        b->k.mm[mat->type](&mm, 0, n_out);
    }
}

void run_head_matmul(struct backend *b, const struct op *op, unsigned ith, unsigned nth)
{
    struct range r = share(op->n_heads, 1, ith, nth);
    for (size_t h = r.from; h < r.to; h++) head_product(b, &b->workers[ith], op, h);
}
