/* generate: the loop from prompt to text. */
#include "run/run.h"

static bool is_eog(const struct generate_options *o, int32_t id)
{
    for (size_t i = 0; i < o->n_eog; i++)
        if (o->eog[i] == id) return true;
    return false;
}

/* Hands text out; true when the callback wants to stop. */
static bool emit(const struct generate_options *o, struct str text)
{
    return text.n > 0 && o->on_text && o->on_text(o->user, text.p, text.n) != 0;
}

uint32_t shift_tokens(int32_t *tokens, uint32_t n, uint32_t n_keep)
{
    const uint32_t keep = (uint32_t)size_max(1, size_min(n_keep, n / 2)), drop = (uint32_t)size_max(1, (n - keep) / 2);
    memmove(tokens + keep, tokens + keep + drop, (n - keep - drop) * sizeof *tokens);
    return drop;
}

/* Appends id to a session that is full. */
static int shift(struct session *s, const struct generate_options *o, int32_t id, struct generate_result *r, struct err *e)
{
    const uint32_t n = session_n_tokens(s);
    uint32_t reused;
    int32_t *tokens = mem_array(n, sizeof *tokens);
    if (!tokens) return fail_nomem(e, "the shifted context", n * sizeof *tokens);
    memcpy(tokens, session_tokens(s), n * sizeof *tokens);
    const uint32_t gone = shift_tokens(tokens, n, o->n_keep);
    tokens[n - gone] = id;
    const int rc = session_sync(s, tokens, n - gone + 1, &reused, e);
    mem_free(tokens);
    if (rc == 0) r->n_shifted += gone;
    return rc;
}

static int loop(struct session *s, struct sampler *sampler, const struct generate_options *o, struct constraint *form,
                struct stream *st, struct generate_result *r, uint64_t start, struct err *e)
{
    const struct model *m = session_model(s);
    uint64_t first = 0;
    for (;;) {
        int32_t id;
        if (session_cancelled(s)) return fail(e, ERR_CANCELLED, "cancelled");
        TRY(constraint_mask(form, &sampler->allowed, e));
        TRY(sampler_pick(sampler, &o->sampling, session_logits(s), session_tokens(s), session_n_tokens(s), r->n_generated, &id,
                         e));
        uint64_t now = clock_ns();
        if (r->n_generated++ == 0) {
            first = now;
            r->first_token_ns = now - start;
        }
        r->decode_ns = now - first;
        if ((!o->ignore_eos || form->matcher) && is_eog(o, id)) {
            r->stop = STOP_EOS;
            if (o->on_token) (void)o->on_token(o->user, id);
            return 0;
        }
        if (o->on_token && o->on_token(o->user, id)) {
            r->stop = STOP_CALLBACK;
            return 0;
        }
        struct str text;
        TRY(stream_put(st, id, &text, e));
        const bool refused = emit(o, text);
        if (refused || st->stopped) {
            r->stop = st->stopped ? STOP_STRING : STOP_CALLBACK;
            return 0;
        }
        TRY(constraint_put(form, id, e));
        if (constraint_done(form)) {
            r->stop = STOP_EOS;
            return 0;
        }
        if (o->max_tokens && r->n_generated >= o->max_tokens) {
            r->stop = STOP_LENGTH;
            return 0;
        }
        const bool full = session_n_tokens(s) == session_n_ctx(s);
        if (full && (!o->shift || session_n_ctx(s) < 2)) {
            r->stop = STOP_CONTEXT;
            return 0;
        }
        r->decode_bytes += m->decode_bytes + (uint64_t)(session_n_tokens(s) + 1) * session_kv(s)->token_bytes;
        r->decode_bytes += states_step_bytes(session_states(s));
        TRY(full ? shift(s, o, id, r, e) : session_eval(s, &id, 1, NULL, NULL, e));
    }
}

static int run(struct session *s, const struct tok *t, struct sampler *sampler, const int32_t *prompt, size_t n,
               const struct generate_options *o, struct constraint *form, struct generate_result *r, struct err *e)
{
    uint64_t start = clock_ns();
    TRY(session_sync(s, prompt, n, &r->n_reused, e));
    r->prefill_ns = clock_ns() - start;

    struct stream st;
    TRY(stream_init(&st, t, o->show_special, o->stop, o->n_stop, e));
    int rc = loop(s, sampler, o, form, &st, r, start, e);
    /* Whatever ended it, text that was held back and is no stop string belongs to the answer. */
    if (r->stop != STOP_CALLBACK) (void)emit(o, stream_end(&st));
    stream_fini(&st);
    return rc;
}

int generate(struct session *s, const struct tok *t, struct sampler *sampler, const int32_t *prompt, size_t n,
             const struct generate_options *o, struct generate_result *r, struct err *e)
{
    struct constraint form;
    *r = (struct generate_result){.n_prompt = (uint32_t)n};
    TRY(sampling_check(&o->sampling, session_model(s)->hp.n_vocab, e));
    TRY(constraint_init(&form, &o->constraint, t, e));
    const int rc = run(s, t, sampler, prompt, n, o, &form, r, e);
    constraint_fini(&form);
    return rc;
}
