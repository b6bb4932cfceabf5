/* balance: errors that cancel. The error of a product is the sum of each weight's error times its input. Inputs vary about a
 * mean; taken to vary independently, they make the expected square of it
 *
 *     sum of variance * error^2  +  (sum of mean * error)^2
 *
 * The search makes errors small one by one, which leaves the second sum to chance. Here weights that lie nearly between two
 * levels go to the other one where that makes the whole smaller: a few in a block do. The error that remains is carried to the
 * next block of the row.
 *
 * The same bytes on every machine, as search.c. Means that no inputs have beside such squares count as 0. */
#include "quant/quant_int.h"

/* One weight to the level beside its own. */
struct move {
    int by;            /* 1 or -1; 0: there is none */
    float cost, shift; /* what it adds to the first sum, and to the error for the mean input */
};

static float level_of(const struct qfit *f, int u)
{
    return (float)(f->levels ? f->levels[u] : u + f->lo);
}

/* The scale of each weight of the block, and its error. */
static void take_apart(const struct qfit *f, const float *x, const struct qblock *b, size_t n, float *scale, float *error)
{
    const struct qtype_info *t = &qtypes[f->type];
    const bool whole = t->arith == ARITH_32;
    for (size_t i = 0; i < n; i++) {
        const float min = !t->has_min ? 0.0f : whole ? b->m : -(b->m * (float)b->mn[i / QSUB]);
        scale[i] = whole ? b->d : b->d * (float)b->sc[i / QSUB];
        error[i] = scale[i] * level_of(f, b->u[i]) + min - x[i];
    }
}

/* Of a weight with level u; by: the direction. */
static struct move move_of(const struct qfit *f, int u, int by, float scale, float error, float weight, float mean)
{
    const int top = f->levels ? 15 : f->hi - f->lo;
    if (u + by < 0 || u + by > top) return (struct move){0};
    const float step = scale * (level_of(f, u + by) - level_of(f, u));
    return (struct move){by, weight * step * (2.0f * error + step), mean * step};
}

/* The move that makes the whole smallest, row being the error of the row so far and unit what its square costs; n: none does.
 */
static size_t best_move(const struct move *m, size_t n, float row, float unit)
{
    size_t best = n;
    float least = 0.0f;
    for (size_t i = 0; i < n; i++) {
        const float cost = m[i].cost + unit * m[i].shift * (2.0f * row + m[i].shift);
        if (m[i].by && cost < least) least = cost, best = i;
    }
    return best;
}

void quant_balance(const struct qfit *f, const float *x, const struct qcolumns *c, struct qblock *b, float *carried)
{
    const size_t n = qtypes[f->type].block_n;
    float scale[QSUPER], error[QSUPER], w[QSUPER], mean[QSUPER], all_w = 0.0f, squares = 0.0f, row = *carried;
    struct move moves[QSUPER];
    take_apart(f, x, b, n, scale, error);
    quant_weights(x, NULL, n, w);
    for (size_t i = 0; i < n; i++) {
        all_w += w[i];
        squares += c->squares[i];
        mean[i] = c->means[i] * c->means[i] <= 1.01f * c->squares[i] ? c->means[i] : 0.0f;
        row += mean[i] * error[i];
    }
    if (!(squares > 0x1p-100f && squares < 0x1p100f)) return;
    for (size_t i = 0; i < n; i++) {
        const float variance = c->squares[i] - mean[i] * mean[i];
        w[i] *= (variance > 0.0f ? variance : 0.0f) / squares * (float)n + 0x1p-8f;
        moves[i] = move_of(f, b->u[i], row * mean[i] * scale[i] > 0.0f ? -1 : 1, scale[i], error[i], w[i], mean[i]);
    }
    const float unit = all_w / squares; /* what the square of an error of the row costs beside those of weights */
    for (size_t best; (best = best_move(moves, n, row, unit)) < n; moves[best].by = 0) {
        b->u[best] = (uint8_t)(b->u[best] + moves[best].by);
        row += moves[best].shift;
    }
    *carried = row;
}
