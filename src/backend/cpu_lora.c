/* cpu_lora: what adapters add to matrix products (docs/arithmetic.md, "Adapters"). The rows of a batch are taken in runs that
 * use the same adapters: a row without one is touched by nothing here, and each row's sum is its own.
 *
 * The threads first make low = scale * (a x) together, a few numbers for each row, then each adds b low to those columns of
 * the product that it has made itself. Nothing is allocated after lora_init. */
#include "backend/cpu_int.h"

static size_t op_number(const struct backend *b, const struct op *op)
{
    return (size_t)(op - b->g->ops);
}

static const struct lora_matrix *matrix_of(const struct backend *b, const struct op *op, uint32_t lora)
{
    return b->loras[op_number(b, op) * b->n_loras + lora];
}

/* ---- opening ----------------------------------------------------------------------------------------------------------- */

/* Ranks of all adapters of a product together. */
static size_t ranks_of(const struct backend *b, const struct op *op)
{
    size_t n = 0;
    for (uint32_t i = 0; i < b->n_loras; i++) {
        const struct lora_matrix *x = matrix_of(b, op, i);
        if (x) n += x->a->ne[1];
    }
    return n;
}

static void enter(struct backend *b, const struct lora *lora, uint32_t number)
{
    for (uint32_t o = 0; o < b->g->n_ops; o++) {
        const struct op *op = &b->g->ops[o];
        for (size_t i = 0; op->code == OP_MATMUL && i < lora->n; i++)
            if (lora->matrices[i].of == op->w) b->loras[(size_t)o * b->n_loras + number] = &lora->matrices[i];
    }
}

int lora_init(struct backend *b, const struct lora *loras, uint32_t n, struct err *e)
{
    size_t entries;
    if (n == 0) return 0;
    if (!size_mul(b->g->n_ops, n, &entries) || !(b->loras = mem_array(entries, sizeof(*b->loras))))
        return fail_nomem(e, "adapters", b->g->n_ops * sizeof(*b->loras));
    b->n_loras = n;
    for (uint32_t i = 0; i < n; i++) enter(b, &loras[i], i);
    for (uint32_t p = 0; p < b->g->n_phases; p++) {
        const struct phase *ph = &b->g->phases[p];
        size_t ranks = 0;
        for (uint32_t i = 0; i < ph->n; i++) ranks += ranks_of(b, &b->g->ops[ph->first + i]);
        b->lora_ranks = size_max(b->lora_ranks, ranks);
    }
    return 0;
}

void lora_fini(struct backend *b)
{
    mem_free(b->loras);
}

/* ---- the runs of a batch ----------------------------------------------------------------------------------------------- */

static bool any_scale(const struct backend *b, const float *scales)
{
    for (uint32_t i = 0; scales && i < b->n_loras; i++)
        if (scales[i] != 0) return true;
    return false;
}

/* Adds rows to the last run, or as a new one. */
static void add_rows(const struct backend *b, struct lora_runs *runs, uint32_t row, uint32_t n, const float *scales)
{
    struct lora_run *last = runs->n ? &runs->p[runs->n - 1] : NULL;
    if (last && last->row + last->n_rows == row && memcmp(last->scales, scales, b->n_loras * sizeof *scales) == 0)
        last->n_rows += n;
    else
        runs->p[runs->n++] = (struct lora_run){row, n, scales};
}

void lora_begin(struct backend *b)
{
    const struct batch *batch = b->batch;
    b->lora_rows.n = b->lora_outs.n = 0;
    for (uint32_t s = 0, out = 0; b->n_loras && s < batch->n_seqs; s++) {
        const struct batch_seq *seq = &batch->seqs[s];
        const uint32_t first = out, end = seq->row + seq->n_rows;
        while (out < batch->n_out && batch->out[out] < end) out++;
        if (!any_scale(b, seq->lora_scales)) continue;
        add_rows(b, &b->lora_rows, seq->row, seq->n_rows, seq->lora_scales);
        if (out > first) add_rows(b, &b->lora_outs, first, out - first, seq->lora_scales);
    }
}

const struct lora_runs *lora_of(const struct backend *b, const struct op *op, uint32_t n)
{
    if (b->lora_rows.n == 0) return NULL;
    const struct lora_runs *runs = b->g->values[op->src[0]].gathered ? &b->lora_outs : &b->lora_rows;
    size_t ranks = 0;
    for (uint32_t i = 0; i < n; i++) ranks += ranks_of(b, &op[i]);
    return runs->n && ranks ? runs : NULL;
}

/* ---- products ---------------------------------------------------------------------------------------------------------- */

/* Rows [r0, r1) of w times n rows of x, as dst [n][stride]. */
static void multiply(const struct backend *b, struct worker *w, const struct tensor *mat, size_t r0, size_t r1, const float *x,
                     size_t n, float *dst, size_t stride)
{
    const size_t k = mat->ne[0], row_bytes = tensor_row_bytes(mat);
    const struct mm mm = {.type = mat->type,
                          .w = (const uint8_t *)mat->data + r0 * row_bytes,
                          .row_bytes = row_bytes,
                          .k = k,
                          .n_rows = n,
                          .act = {.f = x, .stride = k},
                          .dst = dst,
                          .dst_stride = stride,
                          .scratch = w->mm_scratch};
    b->k.mm[mat->type](&mm, 0, r1 - r0);
}

/* One product of one adapter, and where its low rows lie. */
struct site {
    const struct lora_matrix *matrix;
    float *low; /* [rows][rank] */
    size_t rank;
    uint32_t lora;
};

/* The next site of product number *i of the n of op, from adapter *lora on; both move behind it. False: there is none. */
static bool next_site(const struct backend *b, const struct op *op, uint32_t n, uint32_t *i, uint32_t *lora, size_t *at,
                      struct site *out)
{
    for (; *i < n; (*i)++, *lora = 0) {
        while (*lora < b->n_loras) {
            const struct lora_matrix *x = matrix_of(b, &op[*i], (*lora)++);
            if (!x) continue;
            *out = (struct site){x, b->lora_low + *at * b->max_rows, x->a->ne[1], *lora - 1};
            *at += out->rank;
            return true;
        }
    }
    return false;
}

static float scale_of(const struct site *s, const struct lora_run *run)
{
    return (float)(s->matrix->scale * (double)run->scales[s->lora]);
}

void lora_lower(struct backend *b, const struct lora_runs *runs, const struct op *op, uint32_t n, const float *x, unsigned ith,
                unsigned nth)
{
    const size_t k = op->w->ne[0];
    size_t total = 0, at = 0, done = 0;
    uint32_t i = 0, lora = 0;
    struct site s;
    for (uint32_t o = 0; o < n; o++) total += ranks_of(b, &op[o]);
    const struct range r = share(total, 1, ith, nth);
    while (next_site(b, op, n, &i, &lora, &at, &s)) {
        const size_t r0 = size_max(r.from, done) - done, r1 = size_min(r.to, done + s.rank) - size_min(done, r.to);
        done += s.rank;
        for (uint32_t j = 0; r0 < r1 && j < runs->n; j++) {
            const struct lora_run *run = &runs->p[j];
            if (run->scales[s.lora] == 0) continue;
            float *low = s.low + run->row * s.rank + r0;
            multiply(b, &b->workers[ith], s.matrix->a, r0, r1, x + run->row * k, run->n_rows, low, s.rank);
            for (size_t m = 0; m < run->n_rows; m++) b->k.scale(low + m * s.rank, scale_of(&s, run), r1 - r0, low + m * s.rank);
        }
    }
}

/* Rows [r0, r1) of one adapter's product with one run. */
static void add_run(const struct backend *b, struct worker *w, const struct site *s, const struct lora_run *run, float *dst,
                    size_t stride, size_t r0, size_t r1)
{
    for (size_t c = r0; c < r1; c += LORA_COLS) {
        const size_t cols = size_min(LORA_COLS, r1 - c);
        for (size_t m = 0; m < run->n_rows; m += LORA_ROWS) {
            const size_t rows = size_min(LORA_ROWS, run->n_rows - m), row = run->row + m;
            multiply(b, w, s->matrix->b, c, c + cols, s->low + row * s->rank, rows, w->lora_part, LORA_COLS);
            for (size_t j = 0; j < rows; j++) {
                float *y = dst + (row + j) * stride + c;
                b->k.add(y, w->lora_part + j * LORA_COLS, cols, y);
            }
        }
    }
}

void lora_add(struct backend *b, struct worker *w, const struct lora_runs *runs, const struct op *op, uint32_t i, size_t r0,
              size_t r1)
{
    float *dst = value_rows(b, op[i].dst, NULL);
    size_t at = 0;
    uint32_t one = i, lora = 0;
    struct site s;
    for (uint32_t o = 0; o < i; o++) at += ranks_of(b, &op[o]);
    while (next_site(b, op, i + 1, &one, &lora, &at, &s))
        for (uint32_t j = 0; j < runs->n; j++)
            if (runs->p[j].scales[s.lora] != 0) add_run(b, w, &s, &runs->p[j], dst, op[i].w->ne[1], r0, r1);
}
