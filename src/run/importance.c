/* importance: which columns of a matrix matter, measured: the mean of the squares of the activations that meet them. What
 * rounding does to a product grows with exactly these. */
#include "run/run.h"

/* An entry for each matrix of the graph, save the output matrix where it is not wanted. */
static int make_entries(struct importance *im, const struct session *s, bool output, struct err *e)
{
    const struct graph *g = session_graph(s);
    im->entries = arena_array(&im->a, g->n_ops, sizeof *im->entries);
    if (!im->entries) return fail_nomem(e, "importance of columns", g->n_ops * sizeof *im->entries);
    for (uint32_t i = 0; i < g->n_ops; i++) {
        const struct tensor *w = g->ops[i].w;
        if (g->ops[i].code != OP_MATMUL || (!output && w == session_model(s)->output)) continue;
        double *sums = arena_array(&im->a, w->ne[0], sizeof *sums);
        if (!sums) return fail_nomem(e, "importance of columns", w->ne[0] * sizeof *sums);
        im->entries[im->n++] = (struct importance_entry){.w = w, .sums = sums};
    }
    return 0;
}

static void observe(void *ctx, const struct tensor *w, const float *x, size_t n_rows)
{
    struct importance *im = ctx;
    size_t i = im->next, tried = 0;
    while (tried++ < im->n && im->entries[i].w != w) i = (i + 1) % im->n;
    if (tried > im->n) return;
    struct importance_entry *entry = &im->entries[i];
    im->next = (i + 1) % im->n;
    entry->rows += n_rows;
    for (size_t m = 0; m < n_rows; m++, x += w->ne[0])
        for (size_t k = 0; k < w->ne[0]; k++) entry->sums[k] += (double)x[k] * (double)x[k];
}

/* Logits are computed for the sake of what goes into the output matrix. */
static void ignore_row(void *ctx, size_t i, const float *logits)
{
    (void)ctx;
    (void)i;
    (void)logits;
}

static int run_windows(struct session *s, const int32_t *ids, size_t n_windows, const struct importance_options *o,
                       int32_t *window, struct err *e)
{
    for (size_t w = 0; w < n_windows; w++) {
        memcpy(window, ids + w * o->n_ctx, o->n_ctx * sizeof *window);
        if (o->bos >= 0) window[0] = o->bos;
        session_truncate(s, 0);
        TRY(session_eval(s, window, o->n_ctx, o->output ? ignore_row : NULL, NULL, e));
        if (o->on_window && o->on_window(o->user, w + 1, n_windows)) return fail(e, ERR_CANCELLED, "cancelled");
    }
    return 0;
}

int importance_collect(struct session *s, const int32_t *ids, size_t n, const struct importance_options *o,
                       struct importance *out, size_t *n_windows, struct err *e)
{
    *out = (struct importance){0};
    if (o->n_ctx == 0) return fail(e, ERR_ARG, "windows of no tokens");
    if (o->n_ctx > session_n_ctx(s))
        return fail(e, ERR_CONTEXT, "windows of %u tokens do not fit the context of %u", o->n_ctx, session_n_ctx(s));
    *n_windows = n / o->n_ctx;
    if (o->n_windows && *n_windows > o->n_windows) *n_windows = o->n_windows;
    if (*n_windows == 0) return fail(e, ERR_ARG, "the text has %zu tokens; one window needs %u", n, o->n_ctx);
    TRY(make_entries(out, s, o->output, e));
    int32_t *window = arena_array(&out->a, o->n_ctx, sizeof *window);
    if (!window) return fail_nomem(e, "the window", o->n_ctx * sizeof *window);
    session_observe(s, observe, out);
    int rc = run_windows(s, ids, *n_windows, o, window, e);
    session_observe(s, NULL, NULL);
    return rc;
}

void importance_fini(struct importance *im)
{
    arena_fini(&im->a);
}
