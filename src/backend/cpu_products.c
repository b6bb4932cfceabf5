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

/* Takes the first parts of an own share, but the last ones of another's. */
static bool take(atomic_uint *left, bool own, unsigned least, unsigned *first, unsigned *end)
{
    unsigned seen = atomic_load_explicit(left, memory_order_relaxed), rest;
    do {
        const unsigned from = seen & 0xFFFF, to = seen >> 16, n = to - from, half = (n + 1) / 2;
        const unsigned some = !own || half > least ? half : n < least ? n : least;
        if (n == 0) return false;
        *first = own ? from : to - some;
        *end = *first + some;
        rest = own ? *end | to << 16 : from | *first << 16;
    } while (!atomic_compare_exchange_weak_explicit(left, &seen, rest, memory_order_relaxed, memory_order_relaxed));
    return true;
}

bool claim_next(struct claim *c, struct range *out)
{
    for (;;) {
        struct worker *w = &c->b->workers[c->ith];
        const struct range all = share(c->n, ROW_UNIT, c->whose, c->nth);
        const size_t units = (all.to - all.from + ROW_UNIT - 1) / ROW_UNIT,
                     bytes = size_max(units * ROW_UNIT * c->row_bytes, 1);
        const size_t whole = c->nth == 1 ? SHARE_PARTS : ((size_t)SHARE_PARTS * PIECE_BYTES + bytes - 1) / bytes;
        const size_t least = size_min(size_max(PIECE_PARTS, whole), SHARE_PARTS);
        unsigned first, end;
        while (take(&c->b->left[c->whose].parts[w->phase % 2], c->whose == c->ith, (unsigned)least, &first, &end)) {
            *out = (struct range){all.from + units * first / SHARE_PARTS * ROW_UNIT,
                                  size_min(all.to, all.from + units * end / SHARE_PARTS * ROW_UNIT)};
            if (out->from < out->to) return true;
        }
        c->whose = (c->whose + 1) % c->nth;
        if (c->whose == c->ith) return false;
    }
}

/* Products that read the same rows, and what is done with the results. */
struct products {
    const struct op *mat; /* [n_mats] */
    uint32_t n_mats;
    const struct op *last; /* GLU of two matrices, ADD to one; NULL: nothing */
    const struct act_buf *buf;
    const float *x; /* [n] rows */
    uint32_t n;
    const struct lora_rows *adapted; /* NULL: none */
};

static void matrix_rows(struct backend *b, struct worker *w, const struct products *p, uint32_t i, size_t r0, size_t r1)
{
    product(b, w, p->mat + i, p->buf, p->x, p->n, r0, r1);
    if (p->adapted) lora_add(b, w, p->adapted, p->mat, i, r0, r1);
}

static void glu_rows(struct backend *b, struct worker *w, const struct products *p, struct range r)
{
    const size_t cols = p->mat->w->ne[1];
    for (uint32_t i = 0; i < 2; i++) matrix_rows(b, w, p, i, r.from, r.to);
    const float *gate = value_rows(b, p->last->src[0], NULL), *up = value_rows(b, p->last->src[1], NULL);
    float *dst = value_rows(b, p->last->dst, NULL);
    for (size_t m = 0; m < p->n && r.from < r.to; m++)
        b->k.glu[p->last->act](gate + m * cols + r.from, up + m * cols + r.from, p->last->f, r.to - r.from,
                               dst + m * cols + r.from);
}

/* Rows of all matrices, one after the other. */
static void stacked_rows(struct backend *b, struct worker *w, const struct products *p, struct range r)
{
    size_t at = 0;
    for (uint32_t i = 0; i < p->n_mats; at += p->mat[i].w->ne[1], i++) {
        const size_t end = at + p->mat[i].w->ne[1];
        matrix_rows(b, w, p, i, size_max(r.from, at) - at, size_min(r.to, end) - size_min(at, r.to));
    }
    if (!p->last || r.from >= r.to) return;
    const float *x = value_rows(b, p->last->src[0], NULL), *y = value_rows(b, p->last->src[1], NULL);
    float *dst = value_rows(b, p->last->dst, NULL);
    for (size_t m = 0; m < p->n; m++) b->k.add(x + m * at + r.from, y + m * at + r.from, r.to - r.from, dst + m * at + r.from);
}

void run_products(struct backend *b, const struct op *op, uint32_t n_ops, unsigned ith, unsigned nth)
{
    struct worker *w = &b->workers[ith];
    const struct op *end = op + n_ops, *norm = NULL;
    if (op->code != OP_MATMUL) norm = op++;
    struct products p = {.mat = op};
    unsigned kinds = 0;
    size_t total = 0;
    for (; op < end && op->code == OP_MATMUL; op++, p.n_mats++) {
        kinds |= 1u << qtypes[op->w->type].arith;
        total += op->w->ne[1];
    }
    p.last = op < end ? op : NULL;
    p.x = value_rows(b, norm ? norm->src[0] : p.mat->src[0], &p.n);
    if (p.n == 0) return;
    const bool small = p.n <= SMALL_ROWS, pack = packs(b, p.n);
    p.buf = small ? &w->small : &b->shared;
    if (norm || kinds != 1u << ARITH_FLOAT) {
        struct range rows = small ? (struct range){0, p.n} : share(p.n, pack ? b->k.pack_cols : 1, ith, nth);
        prepare(b, p.buf, norm, kinds, pack, p.x, p.mat->w->ne[0], rows);
        if (!small) pool_barrier(b->pool);
        if (norm) p.x = p.buf->norm;
    }
    for (uint32_t i = 0; b->observe && ith == 0 && i < p.n_mats; i++) b->observe(b->observe_ctx, p.mat[i].w, p.x, p.n);
    p.adapted = lora_of(b, p.mat, p.n_mats);
    if (p.adapted) {
        lora_lower(b, p.adapted, p.mat, p.n_mats, p.x, ith, nth);
        pool_barrier(b->pool);
    }
    const bool glu = p.last && p.last->code == OP_GLU;
    const size_t n_rows = glu ? p.mat->w->ne[1] : total, row_bytes = tensor_row_bytes(p.mat->w) * (glu ? 2 : 1);
    struct claim c = claim_rows(b, n_rows, row_bytes, ith, nth);
    for (struct range r; claim_next(&c, &r);) (glu ? glu_rows : stacked_rows)(b, w, &p, r);
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
