/* budget: types for a file of a given size. Every matrix starts on the lowest rung of a ladder of types; then the step up that
 * saves most error for each byte is taken, again and again, as long as the file stays within its size.
 *
 * The error of a matrix in a type is measured on some of its rows: the squared errors of the weights, each times the importance
 * of its column, relative to the squared weights likewise. With an importance matrix that is the relative error of the
 * products, which adds up to how much worse a model foresees a text (arXiv 2411.17525); without one it is that of the weights.
 */
#include "convert/convert_int.h"

#include <math.h>
#include <stdlib.h>

enum {
    RUNGS = 6,
    SAMPLE_ROWS = 48,    /* of each matrix */
    SAMPLE_COLS = 65536, /* of each row; a multiple of every block */
    TENSOR_PADDING = 32, /* of the data of a tensor, at most */
    SLACK = 1024,        /* keys that are put after the types are chosen */
};

static const enum qtype ladder[RUNGS] = {QTYPE_Q2_K, QTYPE_Q3_K, QTYPE_Q4_K, QTYPE_Q5_K, QTYPE_Q6_K, QTYPE_Q8_0};

/* Errors of the output matrix count so many times: they meet the logits and no later layer evens them out. Chosen by measuring:
 * the divergence of the demo model at 4.5 bits is 0.124 with 1, 0.042 with 4, 0.030 with 16. */
#define OUTPUT_WEIGHT 16.0

/* The types that one matrix may take, from the smallest on; each next one is larger and better. */
struct choice {
    struct transfer_item *item;
    enum qtype types[RUNGS];
    uint64_t bytes[RUNGS];
    double errors[RUNGS];
    size_t n;
};

/* A step of a choice up to a rung. */
struct step {
    uint32_t choice, to;
    double gain; /* error saved for each byte */
};

struct worker {
    float *x, *y;    /* [SAMPLE_COLS] weights, and what is left of them */
    uint8_t *packed; /* of them */
    struct err e;    /* code 0: all went well */
};

struct budget {
    const struct transfer *t;
    struct choice *choices; /* [n] */
    size_t n;
    struct worker *workers; /* [threads] */
};

/* ---- measuring ---------------------------------------------------------------------------------------------------------- */

/* The expected square of the product of x with an input (src/quant/balance.c), as far as the columns are known. */
static double expected_square(const float *x, const struct qcolumns *c, size_t n)
{
    double sum = 0, mean = 0;
    for (size_t i = 0; i < n; i++) {
        const double m = c->means ? (double)c->means[i] : 0, square = c->squares ? (double)c->squares[i] : 1;
        sum += fmax(square - m * m, 0) * (double)x[i] * (double)x[i];
        mean += m * (double)x[i];
    }
    return sum + mean * mean;
}

/* Adds the errors of a row in all types of c, and gives its own square. */
static double measure_row(const struct choice *c, struct worker *w, uint64_t row, const struct qcolumns *columns,
                          double errors[RUNGS])
{
    const struct tensor *src = c->item->src;
    size_t n = size_min((size_t)src->ne[0], SAMPLE_COLS);
    transfer_floats(c->item, row, 0, w->x, n);
    for (size_t r = 0; r < c->n; r++) {
        qtypes[c->types[r]].quantize(w->x, columns, w->packed, n);
        qtype_to_float(c->types[r], w->packed, w->y, n);
        for (size_t i = 0; i < n; i++) w->y[i] -= w->x[i];
        errors[r] += expected_square(w->y, columns, n);
    }
    return expected_square(w->x, columns, n);
}

static int measure(const struct transfer *t, struct choice *c, struct worker *w, struct arena *a)
{
    const struct tensor *src = c->item->src;
    const uint64_t rows = src->ne[1] * src->ne[2] * src->ne[3], n = rows < SAMPLE_ROWS ? rows : SAMPLE_ROWS;
    struct qcolumns columns;
    double all = 0;
    TRY(transfer_columns(t, c->item, a, &columns, &w->e));
    for (uint64_t i = 0; i < n; i++) {
        uint64_t row = i * (rows / n);
        const struct qcolumns at = qcolumns_from(&columns, row / src->ne[1] * src->ne[0]);
        all += measure_row(c, w, row, &at, c->errors);
    }
    bool output = str_is(c->item->name, t->model.tied ? "token_embd.weight" : "output.weight");
    for (size_t r = 0; r < c->n; r++) c->errors[r] = all > 0 ? c->errors[r] / all * (output ? OUTPUT_WEIGHT : 1) : 0;
    return 0;
}

static void measure_share(void *ctx, unsigned ith, unsigned nth)
{
    struct budget *b = ctx;
    for (size_t i = ith; i < b->n && b->workers[ith].e.code == 0; i += nth) {
        struct arena a = {0};
        (void)measure(b->t, &b->choices[i], &b->workers[ith], &a);
        arena_fini(&a);
    }
}

static int measure_all(struct budget *b, struct arena *a, struct err *e)
{
    unsigned n_threads = pool_size(b->t->pool);
    b->workers = arena_array(a, n_threads, sizeof *b->workers);
    if (!b->workers) return fail_nomem(e, "measuring errors", n_threads * sizeof *b->workers);
    for (unsigned i = 0; i < n_threads; i++) {
        struct worker *w = &b->workers[i];
        w->x = arena_array(a, SAMPLE_COLS, sizeof *w->x);
        w->y = arena_array(a, SAMPLE_COLS, sizeof *w->y);
        w->packed = arena_array(a, SAMPLE_COLS, sizeof(float)); /* no type takes more */
        if (!w->x || !w->y || !w->packed) return fail_nomem(e, "measuring errors", SAMPLE_COLS * sizeof *w->x);
    }
    pool_run(b->t->pool, measure_share, b);
    for (unsigned i = 0; i < n_threads; i++)
        if (b->workers[i].e.code) return fail(e, b->workers[i].e.code, "%s", b->workers[i].e.msg);
    return 0;
}

/* ---- choosing -------------------------------------------------------------------------------------------------------------
 */

static uint64_t bytes_of(const struct tensor *t, enum qtype type)
{
    return t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3] / qtypes[type].block_n * qtypes[type].block_bytes;
}

/* The rungs that the row length allows. */
static void make_choice(struct choice *c, struct transfer_item *item)
{
    c->item = item;
    for (size_t r = 0; r < RUNGS; r++) {
        enum qtype type = recipe_fit(ladder[r], item->src->ne[0]);
        uint64_t bytes = bytes_of(item->src, type);
        if (!qtypes[type].quantize || (c->n > 0 && bytes <= c->bytes[c->n - 1])) continue;
        c->types[c->n] = type;
        c->bytes[c->n++] = bytes;
    }
}

/* Leaves out rungs that are not worth their bytes: each step then gains less for a byte than the one before it. */
static void make_convex(struct choice *c)
{
    size_t n = 0;
    for (size_t r = 0; r < c->n; r++) {
        while (n > 0) {
            double saved = c->errors[n - 1] - c->errors[r], bytes = (double)(c->bytes[r] - c->bytes[n - 1]);
            bool worse =
                n > 1 && (c->errors[n - 2] - c->errors[n - 1]) * bytes <= saved * (double)(c->bytes[n - 1] - c->bytes[n - 2]);
            if (!worse) break;
            n--;
        }
        if (n > 0 && c->errors[r] >= c->errors[n - 1]) continue;
        c->types[n] = c->types[r], c->bytes[n] = c->bytes[r], c->errors[n] = c->errors[r];
        n++;
    }
    c->n = n;
}

static int compare(const void *a, const void *b)
{
    const struct step *x = a, *y = b;
    if (x->gain != y->gain) return x->gain < y->gain ? 1 : -1;
    return x->choice != y->choice ? (x->choice < y->choice ? -1 : 1) : (int)x->to - (int)y->to;
}

/* Takes steps in the order of their gain. A matrix whose step does not fit climbs no further. */
static int climb(struct budget *b, uint64_t room, struct arena *a, struct err *e)
{
    size_t n = 0;
    struct step *steps = arena_array(a, b->n * RUNGS + 1, sizeof *steps);
    uint32_t *at = arena_array(a, b->n + 1, sizeof *at);
    if (!steps || !at) return fail_nomem(e, "choosing types", b->n * RUNGS * sizeof *steps);
    for (size_t i = 0; i < b->n; i++) {
        const struct choice *c = &b->choices[i];
        for (uint32_t r = 1; r < c->n; r++)
            steps[n++] =
                (struct step){(uint32_t)i, r, (c->errors[r - 1] - c->errors[r]) / (double)(c->bytes[r] - c->bytes[r - 1])};
    }
    qsort(steps, n, sizeof *steps, compare);
    for (size_t i = 0; i < n; i++) {
        const struct choice *c = &b->choices[steps[i].choice];
        uint32_t from = at[steps[i].choice], to = steps[i].to;
        if (from + 1 != to || c->bytes[to] - c->bytes[from] > room) continue;
        room -= c->bytes[to] - c->bytes[from];
        at[steps[i].choice] = to;
    }
    for (size_t i = 0; i < b->n; i++) b->choices[i].item->type = b->choices[i].types[at[i]];
    return 0;
}

/* Bytes of the file but for the matrices whose types are chosen. */
static uint64_t rest_of_file(const struct transfer *t)
{
    uint64_t bytes = gguf_writer_head_bytes(t->w) + SLACK;
    for (size_t i = 0; i < t->n; i++) {
        const struct transfer_item *item = &t->items[i];
        bytes += item->name.n + 8 * (item->src->n_dims + 3) + TENSOR_PADDING; /* its description */
        if (item->fixed) bytes += bytes_of(item->src, item->type);
    }
    return bytes;
}

static uint64_t target_of(const struct transfer *t)
{
    double weights = 0;
    if (t->opts->target_bytes) return t->opts->target_bytes;
    for (size_t i = 0; i < t->n; i++) weights += (double)transfer_weights(&t->items[i]);
    double bytes = weights * t->opts->target_bits / 8;
    return bytes < 0x1p62 ? (uint64_t)bytes : (uint64_t)1 << 62;
}

static int assign(struct budget *b, struct transfer *t, struct arena *a, struct err *e)
{
    uint64_t least = rest_of_file(t), target = target_of(t);
    b->choices = arena_array(a, size_max(t->n, 1), sizeof *b->choices);
    if (!b->choices) return fail_nomem(e, "choosing types", t->n * sizeof *b->choices);
    for (size_t i = 0; i < t->n; i++) {
        if (t->items[i].fixed) continue;
        make_choice(&b->choices[b->n], &t->items[i]);
        least += b->choices[b->n++].bytes[0];
    }
    if (least > target)
        return fail(e, ERR_ARG, "%s: the smallest file takes %llu bytes, which is more than %llu", files_path(t->src),
                    (unsigned long long)least, (unsigned long long)target);
    TRY(measure_all(b, a, e));
    for (size_t i = 0; i < b->n; i++) make_convex(&b->choices[i]);
    return climb(b, target - least, a, e);
}

int budget_assign(struct transfer *t, struct err *e)
{
    struct arena a = {0};
    struct budget b = {.t = t};
    int rc = assign(&b, t, &a, e);
    arena_fini(&a);
    return rc;
}
