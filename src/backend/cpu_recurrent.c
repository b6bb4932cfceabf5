/* cpu_recurrent: layers that carry a state from token to token. Threads share out columns, or heads and parts of their values,
 * of each sequence, and take them through all rows of the batch in the order of time. Where rows may be taken back, what they
 * read is remembered: the state behind fewer rows is then a matter of reading and writing the state once more. */
#include "backend/cpu_int.h"

/* The part of a layer's work that a task has: columns, or a head and a block of its values. */
struct part {
    const struct op *op;
    const struct batch_seq *seq;
    size_t first, n;
    const float *x, *y; /* rows of the sequence in src: all columns */
    float *out;         /* this part's results of its first row, rows out_stride apart */
    size_t out_stride;
};
/* Takes rows [row, row + n_rows) of the sequence; from, to: the layer's state. */
typedef void step_fn(const struct backend *b, const struct part *p, size_t row, size_t n_rows, const float *from, float *to);

static void all_rows(const struct backend *b, const struct part *p, step_fn *step, const float *from)
{
    const struct state_step *s = &p->seq->state;
    const size_t at = p->op->state, first = s->keep ? s->keep_rows : 0;
    if (first) {
        step(b, p, 0, first, from, s->keep + at);
        from = s->keep + at;
    }
    step(b, p, first, p->seq->n_rows - first, from, s->to + at);
}

/* ---- what was read ----------------------------------------------------------------------------------------------------- */

/* Where row `row` of src number i of an operation is remembered. */
static float *remembered(const struct backend *b, const struct op *op, uint32_t i, size_t row)
{
    const size_t before = op->read + (i ? value_cols(b, op->src[0]) : 0);
    return b->reads + before * b->max_redo + row * value_cols(b, op->src[i]);
}

/* A share of the rows of the batch, where they may be taken back. */
static void remember(const struct backend *b, const struct op *op, unsigned ith, unsigned nth)
{
    const struct range r = share(b->batch->n_rows, 1, ith, nth);
    for (uint32_t i = 0; b->batch->may_redo && i < COUNT_OF(op->src) && op->src[i] != NO_VALUE; i++) {
        const size_t cols = value_cols(b, op->src[i]);
        memcpy(remembered(b, op, i, r.from), value_rows(b, op->src[i], NULL) + r.from * cols,
               (r.to - r.from) * cols * sizeof(float));
    }
}

/* Of a sequence's rows in src number i: as they are, or as they were. */
static const float *rows_of(const struct backend *b, const struct part *p, uint32_t i, bool redo)
{
    const size_t row = p->seq->row;
    return redo ? remembered(b, p->op, i, row) : value_rows(b, p->op->src[i], NULL) + row * value_cols(b, p->op->src[i]);
}

/* ---- convolution ------------------------------------------------------------------------------------------------------- */

static void conv_step(const struct backend *b, const struct part *p, size_t row, size_t n_rows, const float *from, float *to)
{
    const struct conv_params *c = p->op->conv;
    const size_t cols = value_cols(b, p->op->dst);
    const struct conv a = {.n_rows = n_rows,
                           .n = p->n,
                           .taps = c->taps,
                           .stride = cols,
                           .w = c->w + p->first,
                           .bias = c->bias ? c->bias + p->first : NULL,
                           .silu = c->silu,
                           .before = from + p->first,
                           .after = to + p->first,
                           .x = p->x + row * cols + p->first,
                           .y = p->out + row * p->out_stride,
                           .x_stride = cols,
                           .y_stride = p->out_stride};
    b->k.conv(&a);
}

/* The columns of thread ith of one sequence. */
static void conv_seq(struct backend *b, const struct op *op, const struct batch_seq *seq, bool redo, unsigned ith, unsigned nth)
{
    const size_t cols = value_cols(b, op->dst), taps = op->conv->taps;
    const struct range r = share(cols, ROW_UNIT, ith, nth);
    if (r.from == r.to) return;
    struct part p = {.op = op, .seq = seq, .first = r.from, .n = r.to - r.from};
    p.x = rows_of(b, &p, 0, redo);
    p.out = redo ? b->workers[ith].redo_out : value_rows(b, op->dst, NULL) + seq->row * cols + p.first;
    p.out_stride = redo ? p.n : cols;
    float *zeros = seq->state.to + op->state;
    for (size_t t = 0; !seq->state.from && t + 1 < taps; t++) memset(zeros + t * cols + p.first, 0, p.n * sizeof *zeros);
    all_rows(b, &p, conv_step, seq->state.from ? seq->state.from + op->state : zeros);
}

void run_conv(struct backend *b, const struct op *op, unsigned ith, unsigned nth)
{
    remember(b, op, ith, nth);
    for (uint32_t i = 0; i < b->batch->n_seqs; i++) conv_seq(b, op, &b->batch->seqs[i], false, ith, nth);
}

void redo_conv(struct backend *b, const struct op *op, unsigned ith, unsigned nth)
{
    for (uint32_t i = 0; i < b->n_redo; i++) conv_seq(b, op, &b->redo_seqs[i], true, ith, nth);
}

/* ---- the gated delta rule ---------------------------------------------------------------------------------------------- */

/* Where the state of head p->first and block p->n lies in that of the layer. */
static size_t delta_at(const struct part *p)
{
    const struct delta_params *d = p->op->delta;
    return (p->first * delta_blocks(d) + p->n) * d->k_dim * DELTA_COLS;
}

static void delta_step(const struct backend *b, const struct part *p, size_t row, size_t n_rows, const float *from, float *to)
{
    const struct delta_params *d = p->op->delta;
    const size_t head = p->first, col = p->n * DELTA_COLS;
    const size_t key = d->tiled ? head % d->n_k_heads : head / (d->n_v_heads / d->n_k_heads);
    const size_t keys = d->n_k_heads * (size_t)d->k_dim, cols = value_cols(b, p->op->src[0]);
    const float *x = p->x + row * cols, *gates = p->y + row * 2 * d->n_v_heads + head;
    const struct delta a = {.n_rows = n_rows,
                            .k_dim = d->k_dim,
                            .v_dim = size_min(d->v_dim - col, DELTA_COLS),
                            .q = x + key * d->k_dim,
                            .k = x + keys + key * d->k_dim,
                            .v = x + 2 * keys + head * d->v_dim + col,
                            .beta = gates,
                            .decay = gates + d->n_v_heads,
                            .before = from + delta_at(p),
                            .after = to + delta_at(p),
                            .o = p->out + row * p->out_stride,
                            .qk_stride = cols,
                            .v_stride = cols,
                            .gate_stride = 2 * (size_t)d->n_v_heads,
                            .o_stride = p->out_stride};
    b->k.delta(&a);
}

/* Head and block number `task` of one sequence. */
static void delta_task(struct backend *b, const struct op *op, const struct batch_seq *seq, size_t task, bool redo,
                       unsigned ith)
{
    const struct delta_params *d = op->delta;
    const size_t blocks = delta_blocks(d), cols = value_cols(b, op->dst);
    struct part p = {.op = op, .seq = seq, .first = task / blocks, .n = task % blocks};
    p.x = rows_of(b, &p, 0, redo);
    p.y = rows_of(b, &p, 1, redo);
    p.out = redo ? b->workers[ith].redo_out
                 : value_rows(b, op->dst, NULL) + seq->row * cols + p.first * d->v_dim + p.n * DELTA_COLS;
    p.out_stride = redo ? size_min(d->v_dim, DELTA_COLS) : cols;
    float *zeros = seq->state.to + op->state;
    if (!seq->state.from) memset(zeros + delta_at(&p), 0, d->k_dim * DELTA_COLS * sizeof *zeros);
    all_rows(b, &p, delta_step, seq->state.from ? seq->state.from + op->state : zeros);
}

static void delta_seqs(struct backend *b, const struct op *op, const struct batch_seq *seqs, size_t n_seqs, bool redo,
                       unsigned ith, unsigned nth)
{
    const size_t tasks = op->delta->n_v_heads * delta_blocks(op->delta);
    const struct range r = share(n_seqs * tasks, 1, ith, nth);
    for (size_t t = r.from; t < r.to; t++) delta_task(b, op, &seqs[t / tasks], t % tasks, redo, ith);
}

void run_delta(struct backend *b, const struct op *op, unsigned ith, unsigned nth)
{
    remember(b, op, ith, nth);
    delta_seqs(b, op, b->batch->seqs, b->batch->n_seqs, false, ith, nth);
}

void redo_delta(struct backend *b, const struct op *op, unsigned ith, unsigned nth)
{
    delta_seqs(b, op, b->redo_seqs, b->n_redo, true, ith, nth);
}

/* ---- row by row -------------------------------------------------------------------------------------------------------- */

void row_delta_split(const struct backend *b, const struct op *op, const struct row *r)
{
    const struct delta_params *d = op->delta;
    const size_t values = d->n_v_heads / d->n_k_heads * (size_t)d->v_dim, lens[] = {d->k_dim, d->k_dim, values};
    const size_t head = value_cols(b, op->src[0]) / d->n_k_heads;
    float *to = r->dst;
    const float *from = r->x;
    for (size_t i = 0; i < COUNT_OF(lens); from += lens[i], i++)
        for (size_t h = 0; h < d->n_k_heads; h++, to += lens[i]) memcpy(to, from + h * head, lens[i] * sizeof *to);
}

void row_delta_norm(const struct backend *b, const struct op *op, const struct row *r)
{
    const struct delta_params *d = op->delta;
    for (size_t h = 0; h < 2 * (size_t)d->n_k_heads; h++) {
        float *x = r->dst + h * d->k_dim;
        b->k.rms_norm(x, h < d->n_k_heads ? d->q_norm : d->k_norm, d->eps, d->k_dim, x);
    }
}

void row_delta_gates(const struct backend *b, const struct op *op, const struct row *r)
{
    const struct delta_params *d = op->delta;
    (void)b;
    for (size_t h = 0; h < d->n_v_heads; h++) {
        r->dst[h] = num_sigmoid(r->x[h]);
        r->dst[d->n_v_heads + h] = num_exp(d->a[h] * num_softplus(r->y[h] + d->dt[h]));
    }
}
