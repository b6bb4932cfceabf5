/* importance: which columns of a matrix matter, measured: sums of the activations that meet them, and of their squares. What
 * rounding does to a product follows from these (src/quant/balance.c). */
#include "run/run.h"

/* An entry for each matrix that passes multiply with, save the output matrix where it is not wanted. */
static int make_entries(struct importance *im, const struct model *m, bool output, struct err *e)
{
    size_t n_parts = 0;
    for (size_t i = 0; i < m->n_bound; i++) n_parts += m->bound[i].n_parts;
    im->entries = arena_array(&im->a, m->n_bound, sizeof *im->entries);
    im->parts = arena_array(&im->a, n_parts, sizeof *im->parts);
    if (!im->entries || !im->parts) return fail_nomem(e, "importance of columns", n_parts * sizeof *im->parts);
    for (size_t i = 0; i < m->n_bound; i++) {
        const struct bound *b = &m->bound[i];
        const struct tensor *w = b->parts[0];
        const bool is_output = w == m->output;
        if (w->n_dims < 2 || (w == m->token_embd && !is_output) || (is_output && !output)) continue;
        struct importance_entry *entry = &im->entries[im->n++];
        *entry = (struct importance_entry){.tensor = b};
        entry->sum = arena_array(&im->a, b->n_parts * w->ne[0], sizeof *entry->sum);
        entry->sum2 = arena_array(&im->a, b->n_parts * w->ne[0], sizeof *entry->sum2);
        entry->rows = arena_array(&im->a, b->n_parts, sizeof *entry->rows);
        if (!entry->sum || !entry->sum2 || !entry->rows)
            return fail_nomem(e, "importance of columns", b->n_parts * w->ne[0] * 2 * sizeof(double));
        for (uint32_t p = 0; p < b->n_parts; p++)
            im->parts[im->n_parts++] = (struct importance_part){b->parts[p]->data, w->ne[0], entry->sum + p * w->ne[0],
                                                                entry->sum2 + p * w->ne[0], &entry->rows[p]};
    }
    return 0;
}

static void add_rows(struct importance_part *part, const float *x, size_t n_rows)
{
    *part->rows += n_rows;
    for (size_t m = 0; m < n_rows; m++, x += part->row)
        for (size_t k = 0; k < part->row; k++) {
            part->sum[k] += (double)x[k];
            part->sum2[k] += (double)x[k] * (double)x[k];
        }
}

/* A view of the first rows of a matrix counts for all of it, and that for several which a file makes of it: they read the same.
 */
static void observe(void *ctx, const struct tensor *w, const float *x, size_t n_rows)
{
    struct importance *im = ctx;
    size_t i = im->next, tried = 0;
    while (tried++ < im->n_parts && im->parts[i].data != w->data) i = (i + 1) % im->n_parts;
    if (tried > im->n_parts) return;
    for (; i < im->n_parts && im->parts[i].data == w->data; i++) add_rows(&im->parts[i], x, n_rows);
    im->next = i % im->n_parts;
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
    TRY(make_entries(out, session_model(s), o->output, e));
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
