/* generate: the loop from prompt to text. Text leaves only in whole characters and never any part of a stop string: what could
 * still become one is held back. */
#include "run/run.h"

/* Where a stop string begins in text, the earliest; text.n where none does. *partial: where the longest tail that could
 * still grow into one begins. */
static size_t find_stop(struct str text, const struct str *stop, size_t n_stop, size_t *partial)
{
    size_t first = text.n;
    *partial = text.n;
    for (size_t k = 0; k < n_stop; k++) {
        for (size_t i = 0; i < first && stop[k].n > 0; i++) {
            if (((unsigned char)text.p[i] & 0xc0) == 0x80) continue; /* inside a character */
            size_t n = size_min(stop[k].n, text.n - i);
            if (memcmp(text.p + i, stop[k].p, n) != 0) continue;
            if (n == stop[k].n)
                first = i;
            else
                *partial = size_min(*partial, i);
            break;
        }
    }
    return first;
}

static bool is_eog(const struct generate_options *o, int32_t id)
{
    for (size_t i = 0; i < o->n_eog; i++)
        if (o->eog[i] == id) return true;
    return false;
}

struct stream {
    const struct generate_options *o;
    struct detok detok;
    struct buf held; /* text not handed out yet */
};

/* Hands out the first n bytes of what is held; true when the callback wants to stop. */
static bool emit(struct stream *s, size_t n)
{
    if (n == 0) return false;
    bool stop = s->o->on_text && s->o->on_text(s->o->user, s->held.p, n) != 0;
    memmove(s->held.p, s->held.p + n, s->held.n - n);
    s->held.n -= n;
    return stop;
}

/* Hands out what may go; true when the generation ends, and why. */
static bool advance(struct stream *s, enum stop_reason *why)
{
    size_t partial, stop = find_stop(buf_view(&s->held), s->o->stop, s->o->n_stop, &partial);
    bool found = stop < s->held.n;
    if (emit(s, found ? stop : partial) && !found) {
        *why = STOP_CALLBACK;
        return true;
    }
    if (found) {
        s->held.n = 0;
        *why = STOP_STRING;
    }
    return found;
}

static int loop(struct session *s, struct sampler *sampler, struct stream *st, struct generate_result *r, uint64_t start,
                struct err *e)
{
    const struct generate_options *o = st->o;
    const struct model *m = session_model(s);
    uint64_t first = 0;
    for (;;) {
        int32_t id;
        if (session_cancelled(s)) return fail(e, ERR_CANCELLED, "cancelled");
        TRY(sampler_pick(sampler, &o->sampling, session_logits(s), session_tokens(s), session_n_tokens(s), r->n_generated, &id,
                         e));
        uint64_t now = clock_ns();
        if (r->n_generated++ == 0) {
            first = now;
            r->first_token_ns = now - start;
        }
        r->decode_ns = now - first;
        if (!o->ignore_eos && is_eog(o, id)) {
            r->stop = STOP_EOS;
            if (o->on_token) (void)o->on_token(o->user, id);
            return 0;
        }
        if (o->on_token && o->on_token(o->user, id)) {
            r->stop = STOP_CALLBACK;
            return 0;
        }
        TRY(detok_put(&st->detok, id, &st->held, e));
        if (advance(st, &r->stop)) return 0;
        if (o->max_tokens && r->n_generated >= o->max_tokens) {
            r->stop = STOP_LENGTH;
            return 0;
        }
        if (session_n_tokens(s) == session_n_ctx(s)) {
            r->stop = STOP_CONTEXT;
            return 0;
        }
        r->decode_bytes += m->decode_bytes + (uint64_t)(session_n_tokens(s) + 1) * session_kv(s)->token_bytes;
        TRY(session_eval(s, &id, 1, NULL, NULL, e));
    }
}

int generate(struct session *s, const struct tok *t, struct sampler *sampler, const int32_t *prompt, size_t n,
             const struct generate_options *o, struct generate_result *r, struct err *e)
{
    *r = (struct generate_result){.n_prompt = (uint32_t)n};
    TRY(sampling_check(&o->sampling, session_model(s)->hp.n_vocab, e));
    uint64_t start = clock_ns();
    TRY(session_sync(s, prompt, n, &r->n_reused, e));
    r->prefill_ns = clock_ns() - start;

    struct stream st = {.o = o};
    detok_init(&st.detok, t, o->show_special);
    int rc = buf_reserve(&st.held, 4096);
    rc = rc < 0 ? fail(e, rc, "%s", err_text(rc)) : loop(s, sampler, &st, r, start, e);
    /* Whatever ended it, text that was held back and is no stop string belongs to the answer. */
    if (r->stop != STOP_STRING && r->stop != STOP_CALLBACK && detok_end(&st.detok, &st.held, NULL) == 0) {
        enum stop_reason why;
        if (!advance(&st, &why)) (void)emit(&st, st.held.n);
    }
    buf_fini(&st.held);
    return rc;
}
