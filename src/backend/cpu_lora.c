/* cpu_lora: what adapters add to matrix products (docs/arithmetic.md, "Adapters"). The rows of a batch are taken in groups that
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
    for (uint32_t o = 0; o < b->g->n_ops; o++)
        if (ranks_of(b, &b->g->ops[o])) b->lora_width = size_max(b->lora_width, b->g->ops[o].w->ne[0]);
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

/* ---- the groups of a batch --------------------------------------------------------------------------------------------- */

#define NO_GROUP UINT32_MAX

static bool any_scale(const struct backend *b, const float *scales)
{
    for (uint32_t i = 0; scales && i < b->n_loras; i++)
        if (scales[i] != 0) return true;
    return false;
}

static uint32_t group_of(const struct backend *b, struct lora_rows *rows, const float *scales)
{
    uint32_t g = 0;
    if (!any_scale(b, scales)) return NO_GROUP;
    while (g < rows->n && memcmp(rows->groups[g].scales, scales, b->n_loras * sizeof *scales) != 0) g++;
    if (g == rows->n) rows->groups[rows->n++] = (struct lora_group){.scales = scales};
    return g;
}

/* Gives the groups, whose sizes are known, their places, and empties them. */
static void place_groups(struct lora_rows *rows)
{
    uint32_t first = 0;
    for (uint32_t g = 0; g < rows->n; g++) {
        rows->groups[g].first = first;
        first += rows->groups[g].n;
        rows->groups[g].n = 0;
    }
}

static void add_rows(struct lora_rows *rows, uint32_t group, uint32_t row, uint32_t n)
{
    struct lora_group *g = &rows->groups[group];
    uint32_t *to = rows->rows + g->first + g->n;
    if (g->n && n && to[-1] + 1 != row) g->apart = true;
    for (uint32_t i = 0; i < n; i++) to[i] = row + i;
    g->n += n;
}

void lora_begin(struct backend *b)
{
    const struct batch *batch = b->batch;
    struct lora_rows *all = &b->lora_all, *outs = &b->lora_outs;
    all->n = outs->n = 0;
    for (uint32_t s = 0; b->n_loras && s < batch->n_seqs; s++) {
        const uint32_t g = b->lora_group_of[s] = group_of(b, all, batch->seqs[s].lora_scales);
        if (g != NO_GROUP) all->groups[g].n += batch->seqs[s].n_rows;
    }
    if (all->n == 0) return;
    place_groups(all);
    outs->n = all->n; /* of these a group has at most as many rows */
    memcpy(outs->groups, all->groups, all->n * sizeof *all->groups);
    for (uint32_t s = 0, out = 0; s < batch->n_seqs; s++) {
        const struct batch_seq *seq = &batch->seqs[s];
        const uint32_t g = b->lora_group_of[s], first = out;
        while (out < batch->n_out && batch->out[out] < seq->row + seq->n_rows) out++;
        if (g == NO_GROUP) continue;
        add_rows(all, g, seq->row, seq->n_rows);
        add_rows(outs, g, first, out - first);
    }
}

const struct lora_rows *lora_of(const struct backend *b, const struct op *op, uint32_t n)
{
    size_t ranks = 0;
    if (b->lora_all.n == 0) return NULL;
    for (uint32_t i = 0; i < n; i++) ranks += ranks_of(b, &op[i]);
    if (ranks == 0) return NULL;
    return b->g->values[op->src[0]].gathered ? &b->lora_outs : &b->lora_all;
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

/* Rows [at, at + n) of a group of x [..][k], one behind the other: where they lie, or gathered. */
static const float *group_rows(struct worker *w, const struct lora_rows *rows, const struct lora_group *g, uint32_t at,
                               uint32_t n, const float *x, size_t k)
{
    const uint32_t *numbers = rows->rows + g->first + at;
    if (!g->apart) return x + numbers[0] * k;
    for (uint32_t i = 0; i < n; i++) memcpy(w->lora_x + i * k, x + numbers[i] * k, k * sizeof *x);
    return w->lora_x;
}

/* Ranks [r0, r1) of one adapter's product with one group. */
static void lower_group(struct backend *b, struct worker *w, const struct site *s, const struct lora_rows *rows,
                        const struct lora_group *g, const float *x, size_t k, size_t r0, size_t r1)
{
    const float f = (float)(s->matrix->scale * (double)g->scales[s->lora]);
    const uint32_t step = g->apart ? LORA_ROWS : g->n;
    for (uint32_t at = 0; at < g->n; at += step) {
        const uint32_t n = (uint32_t)size_min(step, g->n - at);
        float *low = s->low + (g->first + at) * s->rank + r0;
        multiply(b, w, s->matrix->a, r0, r1, group_rows(w, rows, g, at, n, x, k), n, low, s->rank);
        for (size_t m = 0; m < n; m++) b->k.scale(low + m * s->rank, f, r1 - r0, low + m * s->rank);
    }
}

void lora_lower(struct backend *b, const struct lora_rows *rows, const struct op *op, uint32_t n, const float *x, unsigned ith,
                unsigned nth)
{
    size_t total = 0, at = 0, done = 0;
    uint32_t i = 0, lora = 0;
    struct site s;
    for (uint32_t o = 0; o < n; o++) total += ranks_of(b, &op[o]);
    const struct range r = share(total, 1, ith, nth);
    while (next_site(b, op, n, &i, &lora, &at, &s)) {
        const size_t r0 = size_max(r.from, done) - done, r1 = size_min(r.to, done + s.rank) - size_min(done, r.to);
        done += s.rank;
        for (uint32_t g = 0; r0 < r1 && g < rows->n; g++)
            if (rows->groups[g].scales[s.lora] != 0)
                lower_group(b, &b->workers[ith], &s, rows, &rows->groups[g], x, op->w->ne[0], r0, r1);
    }
}

/* Rows [r0, r1) of one adapter's product with one group. */
static void add_group(const struct backend *b, struct worker *w, const struct site *s, const struct lora_rows *rows,
                      const struct lora_group *g, float *dst, size_t stride, size_t r0, size_t r1)
{
    for (size_t c = r0; c < r1; c += LORA_COLS) {
        const size_t cols = size_min(LORA_COLS, r1 - c);
        for (uint32_t at = 0; at < g->n; at += LORA_ROWS) {
            const uint32_t n = (uint32_t)size_min(LORA_ROWS, g->n - at);
            multiply(b, w, s->matrix->b, c, c + cols, s->low + (g->first + at) * s->rank, n, w->lora_part, LORA_COLS);
            for (uint32_t m = 0; m < n; m++) {
                float *y = dst + rows->rows[g->first + at + m] * stride + c;
                b->k.add(y, w->lora_part + m * LORA_COLS, cols, y);
            }
        }
    }
}

void lora_add(struct backend *b, struct worker *w, const struct lora_rows *rows, const struct op *op, uint32_t i, size_t r0,
              size_t r1)
{
    float *dst = value_rows(b, op[i].dst, NULL);
    size_t at = 0;
    uint32_t one = i, lora = 0;
    struct site s;
    for (uint32_t o = 0; o < i; o++) at += ranks_of(b, &op[o]);
    while (next_site(b, op, i + 1, &one, &lora, &at, &s))
        for (uint32_t g = 0; g < rows->n; g++)
            if (rows->groups[g].scales[s.lora] != 0) add_group(b, w, &s, rows, &rows->groups[g], dst, op[i].w->ne[1], r0, r1);
}
