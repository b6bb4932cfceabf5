/* perplexity: mean negative log-likelihood of a text, window by window. */
#include <math.h>

#include "kernel/kernel.h"
#include "run/run.h"

struct score {
    const struct kernels *k;
    const int32_t *window; /* tokens of the running window */
    size_t n, from;        /* its length; first token that is scored (second half: from logits n / 2 on, as llama.cpp counts) */
    uint32_t n_vocab;
    float *p;   /* [n_vocab] */
    double sum; /* of -log p over all scored tokens */
    uint64_t tokens;
};

/* The logits after token i score token i + 1: log p = l - max - log(sum exp(l - max)). */
static void score_row(void *ctx, size_t i, const float *logits)
{
    struct score *s = ctx;
    if (i + 1 < s->from || i + 1 >= s->n) return;
    float top = logits[0];
    for (uint32_t v = 1; v < s->n_vocab; v++) top = logits[v] > top ? logits[v] : top;
    for (uint32_t v = 0; v < s->n_vocab; v++) s->p[v] = logits[v] - top;
    float right = s->p[s->window[i + 1]];
    s->k->exp(s->p, s->n_vocab, s->p);
    double total = 0;
    for (uint32_t v = 0; v < s->n_vocab; v++) total += (double)s->p[v];
    s->sum += num_log(total) - (double)right;
    s->tokens++;
}

int perplexity(struct session *s, const int32_t *ids, size_t n, const struct perplexity_options *o,
               struct perplexity_result *out, struct err *e)
{
    size_t n_windows = n / o->n_ctx;
    if (o->n_ctx < (o->second_half ? 3 : 2))
        return fail(e, ERR_ARG, "a window of %u tokens scores nothing; expected more", o->n_ctx);
    if (o->n_ctx > session_n_ctx(s))
        return fail(e, ERR_CONTEXT, "windows of %u tokens do not fit the context of %u", o->n_ctx, session_n_ctx(s));
    if (n_windows == 0) return fail(e, ERR_ARG, "the text has %zu tokens; one window needs %u", n, o->n_ctx);
    struct score sc = {.k = session_kernels(s),
                       .n = o->n_ctx,
                       .from = o->second_half ? o->n_ctx / 2 + 1 : 1,
                       .n_vocab = session_model(s)->hp.n_vocab};
    sc.p = mem_array(sc.n_vocab, sizeof *sc.p);
    int32_t *window = mem_array(o->n_ctx, sizeof *window);
    int rc = sc.p && window ? 0 : fail_nomem(e, "the window", sc.n_vocab * sizeof *sc.p);
    sc.window = window;
    for (size_t w = 0; w < n_windows && rc == 0; w++) {
        memcpy(window, ids + w * o->n_ctx, o->n_ctx * sizeof *window);
        if (o->bos >= 0) window[0] = o->bos;
        session_truncate(s, 0);
        rc = session_eval(s, window, o->n_ctx, score_row, &sc, e);
        if (rc == 0 && o->on_window && o->on_window(o->user, w + 1, n_windows, num_exp_f64(sc.sum / (double)sc.tokens)))
            rc = fail(e, ERR_CANCELLED, "cancelled");
    }
    mem_free(sc.p);
    mem_free(window);
    if (rc < 0) return rc;
    double nll = sc.sum / (double)sc.tokens;
    *out = (struct perplexity_result){.nll = nll, .ppl = num_exp_f64(nll), .tokens = sc.tokens};
    return 0;
}
