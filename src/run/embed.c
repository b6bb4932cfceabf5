/* embed: one vector for a text, from the hidden states of its tokens; and the score of a pair, from a head on top of it. */
#include "run/run.h"

#include <math.h>

#include "kernel/kernel.h"

/* What the rows of an evaluation add up to. */
struct pool {
    enum pooling kind;
    size_t n, last; /* numbers of a row; the number of the last row */
    double *sum;    /* [n] */
};

static void take_row(void *ctx, size_t i, const float *row)
{
    struct pool *p = ctx;
    const bool wanted = p->kind == POOL_MEAN || (p->kind == POOL_LAST ? i == p->last : i == 0);
    for (size_t k = 0; wanted && k < p->n; k++) p->sum[k] += (double)row[k];
}

int embed_tokens(struct session *s, const int32_t *ids, const uint8_t *types, size_t n, enum pooling kind, float *out,
                 struct err *e)
{
    struct arena a = {0};
    struct pool p = {.kind = kind, .n = session_model(s)->hp.n_embd, .last = n - 1};
    if (n == 0) return fail(e, ERR_ARG, "the text has no tokens");
    if (n > session_n_ctx(s))
        return fail(e, ERR_CONTEXT, "the text has %zu tokens, but the model takes %u", n, session_n_ctx(s));
    p.sum = arena_array(&a, p.n, sizeof *p.sum);
    int rc = p.sum ? 0 : fail_nomem(e, "a vector", p.n * sizeof *p.sum);
    session_truncate(s, 0);
    session_types(s, types);
    if (rc == 0) rc = session_eval(s, ids, n, take_row, &p, e);
    session_types(s, NULL);
    const double share = kind == POOL_MEAN ? 1.0 / (double)n : 1.0;
    for (size_t k = 0; rc == 0 && k < p.n; k++) out[k] = (float)(p.sum[k] * share);
    arena_fini(&a);
    return rc;
}

void embed_normalise(float *v, size_t n)
{
    double squares = 0;
    for (size_t i = 0; i < n; i++) squares += (double)v[i] * (double)v[i];
    const double length = sqrt(squares);
    for (size_t i = 0; i < n && length > 0; i++) v[i] = (float)((double)v[i] / length);
}

/* y = w x + b. row: [n_in] scratch. */
static void multiply(const struct tensor *w, const float *bias, const float *x, float *y, float *row)
{
    const size_t n = w->ne[0];
    for (size_t r = 0; r < w->ne[1]; r++) {
        const struct qrow from = tensor_row(w, r);
        double sum = bias ? (double)bias[r] : 0;
        qtypes[w->type].row_to_float(&from, 0, row, n);
        for (size_t i = 0; i < n; i++) sum += (double)row[i] * (double)x[i];
        y[r] = (float)sum;
    }
}

size_t embed_dimensions(const struct model *m)
{
    size_t n = m->hp.n_embd;
    for (size_t i = 0; i < DENSE_MAX && m->dense[i]; i++) n = m->dense[i]->ne[1];
    return n;
}

int embed_dense(const struct model *m, const float *v, float *out, struct err *e)
{
    struct arena a = {0};
    size_t n = m->hp.n_embd;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < DENSE_MAX && m->dense[i]; i++) {
        const struct tensor *w = m->dense[i];
        float *row = arena_array(&a, n, sizeof *row), *y = arena_array(&a, w->ne[1], sizeof *y);
        if (!row || !y) rc = fail_nomem(e, "a vector", n * sizeof *row);
        if (rc == 0) multiply(w, NULL, v, y, row);
        v = y;
        n = w->ne[1];
    }
    if (rc == 0) memcpy(out, v, n * sizeof *out);
    arena_fini(&a);
    return rc;
}

int embed_score(const struct session *s, const float *v, float *score, struct err *e)
{
    const struct model *m = session_model(s);
    const struct kernels *k = session_kernels(s);
    const size_t n = m->hp.n_embd;
    if (!m->cls_out) return fail(e, ERR_UNSUPPORTED, "%s: the model has no head that ranks", files_path(m->files));
    struct arena a = {0};
    float *h = arena_array(&a, n, sizeof *h), *row = arena_array(&a, n, sizeof *row);
    float *labels = arena_array(&a, m->n_labels, sizeof *labels);
    int rc = h && row && labels ? 0 : fail_nomem(e, "a score", n * sizeof *h);
    if (rc == 0) {
        memcpy(h, v, n * sizeof *h);
        if (m->cls) {
            float *t = arena_array(&a, n, sizeof *t);
            if (!t) rc = fail_nomem(e, "a score", n * sizeof *t);
            if (rc == 0) multiply(m->cls, m->cls_bias, h, t, row);
            if (rc == 0 && m->cls_norm) { /* ModernBERT: an activation and a norm */
                k->act[m->hp.act](t, n, h);
                k->layer_norm(h, m->cls_norm, NULL, m->hp.norm_eps, n, h);
            } else if (rc == 0) {
                for (size_t i = 0; i < n; i++) h[i] = num_tanh(t[i]);
            }
        }
    }
    if (rc == 0) {
        multiply(m->cls_out, m->cls_out_bias, h, labels, row);
        const bool answers = m->n_labels == 2 && !m->hp.bidirectional; /* yes and no */
        *score = answers ? (float)(1.0 / (1.0 + num_exp_f64((double)labels[1] - (double)labels[0]))) : labels[0];
    }
    arena_fini(&a);
    return rc;
}
