/* perplexity: mean negative log-likelihood of a text, window by window, and how the expectations compare with those of another
 * model, which were saved or come from a session that runs alongside. */
#include "kernel/kernel.h"
#include "run/run.h"

#define ROWS_BYTES ((size_t)64 << 20) /* logits of the other session held at once */

struct score {
    const struct kernels *k;
    const struct perplexity_options *o;
    int32_t *window;    /* tokens of the running window */
    size_t n, from, at; /* its length; first token that is scored (second half: from logits n / 2 on, as llama.cpp counts);
                         * window position of the first row of the running evaluation */
    uint32_t n_vocab;
    float *x, *base_x, *scratch; /* [n_vocab] each */
    double sum;                  /* of -log p over all scored tokens */
    uint64_t tokens;
    size_t piece; /* tokens evaluated at once */
    float *rows;  /* against: [piece][n_vocab] logits of the other session */
    struct out *save;
    struct divergence divergence;
    int rc; /* of writing */
    struct err *e;
};

static void keep_row(void *ctx, size_t i, const float *logits)
{
    struct score *s = ctx;
    memcpy(s->rows + i * s->n_vocab, logits, s->n_vocab * sizeof *logits);
}

/* The logits after token i score token i + 1. */
static void score_row(void *ctx, size_t i, const float *logits)
{
    struct score *s = ctx;
    size_t next = s->at + i + 1;
    if (next < s->from || next >= s->n) return;
    const struct log_probs p = log_probs_of(s->k, logits, s->n_vocab, s->x, s->scratch);
    const int32_t token = s->window[next];
    s->sum += p.log_total - (double)p.x[token];
    if (s->save && s->rc == 0) s->rc = logits_file_put(s->save, &p, s->n_vocab, s->e);
    if (s->o->base || s->o->against) {
        const struct log_probs base = s->o->base
                                          ? logits_file_row(s->o->base, (size_t)s->tokens, s->base_x)
                                          : log_probs_of(s->k, s->rows + i * s->n_vocab, s->n_vocab, s->base_x, s->scratch);
        divergence_add(&s->divergence, s->k, &base, &p, s->n_vocab, token, s->scratch);
    }
    s->tokens++;
}

static int score_window(struct score *s, struct session *session)
{
    session_truncate(session, 0);
    if (s->o->against) session_truncate(s->o->against, 0);
    for (s->at = 0; s->at < s->n; s->at += s->piece) {
        size_t n = size_min(s->piece, s->n - s->at);
        if (s->o->against) TRY(session_eval(s->o->against, s->window + s->at, n, keep_row, s, s->e));
        TRY(session_eval(session, s->window + s->at, n, score_row, s, s->e));
        TRY(s->rc);
    }
    return 0;
}

static int score_windows(struct score *s, struct session *session, const int32_t *ids, size_t n_windows)
{
    const struct perplexity_options *o = s->o;
    for (size_t w = 0; w < n_windows; w++) {
        memcpy(s->window, ids + w * s->n, s->n * sizeof *ids);
        if (o->bos >= 0) s->window[0] = o->bos;
        TRY(score_window(s, session));
        if (o->on_window && o->on_window(o->user, w + 1, n_windows, num_exp_f64(s->sum / (double)s->tokens)))
            return fail(s->e, ERR_CANCELLED, "cancelled");
    }
    return 0;
}

/* All memory that scoring takes. */
static int open_score(struct score *s, size_t n_windows)
{
    const struct perplexity_options *o = s->o;
    struct err *e = s->e;
    s->piece = o->against ? size_max(1, size_min(s->n, ROWS_BYTES / (s->n_vocab * sizeof(float)))) : s->n;
    s->x = mem_array(3 * (size_t)s->n_vocab, sizeof *s->x);
    s->window = mem_array(s->n, sizeof *s->window);
    if (!s->x || !s->window) return fail_nomem(e, "the window", 3 * s->n_vocab * sizeof *s->x);
    s->base_x = s->x + s->n_vocab;
    s->scratch = s->base_x + s->n_vocab;
    if (o->against && !(s->rows = mem_array(s->piece, s->n_vocab * sizeof *s->rows)))
        return fail_nomem(e, "logits", s->piece * s->n_vocab * sizeof *s->rows);
    if (o->base || o->against) TRY(divergence_init(&s->divergence, n_windows * (s->n - s->from), e));
    if (!o->save) return 0;
    TRY(out_open(o->save, &s->save, e));
    out_sweep(s->save);
    return 0;
}

static void close_score(struct score *s)
{
    out_abort(&s->save);
    divergence_fini(&s->divergence);
    mem_free(s->rows);
    mem_free(s->x);
    mem_free(s->window);
}

static int check(const struct session *s, size_t n, const struct perplexity_options *o, size_t *n_windows, struct err *e)
{
    const uint32_t n_vocab = session_model(s)->hp.n_vocab;
    if (o->n_ctx < (o->second_half ? 3 : 2))
        return fail(e, ERR_ARG, "a window of %u tokens scores nothing; expected more", o->n_ctx);
    if (o->n_ctx > session_n_ctx(s) || (o->against && o->n_ctx > session_n_ctx(o->against)))
        return fail(e, ERR_CONTEXT, "windows of %u tokens do not fit the context of %u", o->n_ctx, session_n_ctx(s));
    *n_windows = o->base ? o->base->n_windows : n / o->n_ctx;
    if (o->n_windows && *n_windows > o->n_windows) *n_windows = o->n_windows;
    if (*n_windows == 0) return fail(e, ERR_ARG, "the text has %zu tokens; one window needs %u", n, o->n_ctx);
    uint32_t other = o->base ? o->base->n_vocab : o->against ? session_model(o->against)->hp.n_vocab : n_vocab;
    if (other != n_vocab)
        return fail(e, ERR_ARG, "the models cannot be compared: one vocabulary has %u entries, the other %u", other, n_vocab);
    return 0;
}

/* The tokens that are evaluated: with BOS in its place. */
static int begin_file(struct score *s, const int32_t *ids, size_t n_windows)
{
    size_t n = n_windows * s->n;
    int32_t *copy = mem_array(n, sizeof *copy);
    if (!copy) return fail_nomem(s->e, "tokens", n * sizeof *copy);
    memcpy(copy, ids, n * sizeof *copy);
    for (size_t w = 0; s->o->bos >= 0 && w < n_windows; w++) copy[w * s->n] = s->o->bos;
    int rc = logits_file_begin(s->save, copy, (uint32_t)s->n, s->n_vocab, (uint32_t)n_windows, s->e);
    mem_free(copy);
    return rc;
}

int perplexity(struct session *s, const int32_t *ids, size_t n, const struct perplexity_options *o,
               struct perplexity_result *out, struct err *e)
{
    size_t n_windows = 0;
    TRY(check(s, n, o, &n_windows, e));
    struct score sc = {.k = session_kernels(s),
                       .o = o,
                       .n = o->n_ctx,
                       .from = o->second_half ? o->n_ctx / 2 + 1 : 1,
                       .n_vocab = session_model(s)->hp.n_vocab,
                       .e = e};
    if (o->base) ids = o->base->ids;
    int rc = open_score(&sc, n_windows);
    if (rc == 0 && sc.save) rc = begin_file(&sc, ids, n_windows);
    if (rc == 0) rc = score_windows(&sc, s, ids, n_windows);
    if (rc == 0 && sc.save) rc = out_commit(&sc.save, e);
    if (rc == 0) {
        double nll = sc.sum / (double)sc.tokens;
        *out = (struct perplexity_result){.nll = nll, .ppl = num_exp_f64(nll), .tokens = sc.tokens};
        divergence_sum(&sc.divergence, &out->divergence);
    }
    close_score(&sc);
    return rc;
}
