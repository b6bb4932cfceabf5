/* generate: the loop from prompt to text. */
#include "run/run.h"

/* An answer under way. */
struct answer {
    struct session *s;
    struct sampler *sampler;
    const struct generate_options *o;
    struct generate_result *r;
    struct constraint form;
    struct stream stream;
    struct guesser *guesser; /* NULL: nobody guesses */
    uint64_t start, first;
    int32_t ids[1 + SPECULATE_MAX]; /* of the next evaluation: the last one drawn, and guesses at what follows it */
    uint32_t n, n_right;            /* all; those that stand */
    bool over;
    int rc;
    struct err *e;
};

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

static void count(struct answer *a)
{
    const uint64_t now = clock_ns();
    if (a->r->n_generated++ == 0) {
        a->first = now;
        a->r->first_token_ns = now - a->start;
    }
    a->r->decode_ns = now - a->first;
}

/* Ends the answer; returns true. */
static bool end(struct answer *a, enum stop_reason why)
{
    a->r->stop = why;
    a->r->stop_index = a->stream.stop_index;
    return true;
}

/* Hands id out, which follows n tokens of the session; true where it is the last, or a->rc is an error. */
static bool hand_out(struct answer *a, int32_t id, uint32_t n)
{
    const struct generate_options *o = a->o;
    struct str text;
    if ((!o->ignore_eos || a->form.matcher) && is_eog(o, id)) {
        if (o->on_token) (void)o->on_token(o->user, id);
        return end(a, STOP_EOS);
    }
    if (o->on_token && o->on_token(o->user, id)) return end(a, STOP_CALLBACK);
    if ((a->rc = stream_put(&a->stream, id, &text, a->e)) < 0) return true;
    const bool refused = emit(o, text);
    if (refused || a->stream.stopped) return end(a, a->stream.stopped ? STOP_STRING : STOP_CALLBACK);
    if ((a->rc = constraint_put(&a->form, id, a->e)) < 0) return true;
    if (constraint_done(&a->form)) return end(a, STOP_EOS);
    if (o->max_tokens && a->r->n_generated >= o->max_tokens) return end(a, STOP_LENGTH);
    const uint32_t n_ctx = session_n_ctx(a->s);
    return n == n_ctx && (!o->shift || n_ctx < 2) && end(a, STOP_CONTEXT);
}

/* Draws what follows the first n tokens of the session. */
static int32_t draw(struct answer *a, const float *logits, uint32_t n)
{
    const struct sampling *how = &a->o->sampling;
    int32_t id = 0;
    a->rc = constraint_mask(&a->form, &a->sampler->allowed, a->e);
    if (a->rc == 0) a->rc = sampler_pick(a->sampler, how, logits, session_tokens(a->s), n, a->r->n_generated, &id, a->e);
    a->over = a->rc < 0;
    if (a->over) return id;
    count(a);
    if (a->guesser) guesser_add(a->guesser, id);
    a->over = hand_out(a, id, n);
    return id;
}

/* ---- guesses ----------------------------------------------------------------------------------------------------------- */

static void on_batch(void *ctx, const int32_t *tokens, uint32_t pos, uint32_t n, const float *kept)
{
    struct answer *a = ctx;
    guesser_follow(a->guesser, tokens, pos, n, kept);
}

/* Before the session reads the prompt tokens [n]. */
static void begin_guesses(struct answer *a, const int32_t *tokens, uint32_t n)
{
    const struct generate_options *o = a->o;
    const struct guess_options g = {
        .how = o->speculate, .max = o->draft_max, .min = o->draft_min, .sampling = &o->sampling, .n_drawn = a->r->n_generated};
    if (!o->guesser || o->speculate == SPECULATE_OFF) return;
    a->guesser = o->guesser;
    guesser_begin(a->guesser, &g, tokens, n);
    session_follow(a->s, on_batch, a);
}

static void end_guesses(struct answer *a)
{
    if (!a->guesser) return;
    const struct guess_counts n = guesser_counts(a->guesser);
    a->r->guesses.guessed += n.guessed;
    a->r->guesses.right += n.right;
    guesser_end(a->guesser);
    session_follow(a->s, NULL, NULL);
    a->guesser = NULL;
}

/* Guesses what follows ids[0], but not where guesses would make the sequence turn with other frequencies. */
static void guess(struct answer *a)
{
    const struct model *m = session_model(a->s);
    const uint32_t n = session_n_tokens(a->s) + 1;
    const bool same = model_rope_class(m, n) == model_rope_class(m, n + SPECULATE_MAX);
    uint32_t n_guesses;
    speculator_guess(guesser_speculator(a->guesser), &a->guesser, 1, same ? SPECULATE_MAX : 0);
    const int32_t *guesses = guesser_guesses(a->guesser, &n_guesses);
    memcpy(a->ids + 1, guesses, n_guesses * sizeof *guesses);
    a->n += n_guesses;
}

/* ---- the loop ---------------------------------------------------------------------------------------------------------- */

uint32_t shift_tokens(int32_t *tokens, uint32_t n, uint32_t n_keep)
{
    const uint32_t keep = (uint32_t)size_max(1, size_min(n_keep, n / 2)), drop = (uint32_t)size_max(1, (n - keep) / 2);
    memmove(tokens + keep, tokens + keep + drop, (n - keep - drop) * sizeof *tokens);
    return drop;
}

/* Appends ids[0] to a session that is full. */
static int shift(struct answer *a)
{
    struct session *s = a->s;
    const uint32_t n = session_n_tokens(s);
    uint32_t reused;
    int32_t *tokens = mem_array(n, sizeof *tokens);
    if (!tokens) return fail_nomem(a->e, "the shifted context", n * sizeof *tokens);
    memcpy(tokens, session_tokens(s), n * sizeof *tokens);
    const uint32_t gone = shift_tokens(tokens, n, a->o->n_keep);
    tokens[n - gone] = a->ids[0];
    end_guesses(a);
    begin_guesses(a, tokens, n - gone + 1);
    const int rc = session_sync(s, tokens, n - gone + 1, &reused, a->e);
    mem_free(tokens);
    if (rc == 0) a->r->n_shifted += gone;
    return rc;
}

/* Row i is that of ids[i]: it counts as long as all before it were drawn as guessed. */
static void on_row(void *ctx, size_t i, const float *logits)
{
    struct answer *a = ctx;
    if (a->over || i >= a->n) return;
    const int32_t id = draw(a, logits, session_n_tokens(a->s) + (uint32_t)i + 1);
    a->n_right++;
    if (i + 1 < a->n && a->ids[i + 1] == id) return;
    a->n = (uint32_t)i + 1; /* what follows was guessed wrong */
    a->ids[0] = id;
}

/* One evaluation: of the last token drawn and of guesses at those behind it, from each of which one is drawn. */
static int evaluate(struct answer *a)
{
    struct session *s = a->s;
    const uint32_t before = session_n_tokens(s);
    a->n = 1;
    a->n_right = 0;
    if (a->guesser) guess(a);
    const uint64_t start = clock_ns();
    TRY(session_eval(s, a->ids, a->n, on_row, a, a->e));
    session_truncate(s, before + a->n_right);
    if (a->guesser) speculator_learn(guesser_speculator(a->guesser), &a->guesser, 1, (double)(clock_ns() - start) * 1e-9);
    return a->rc;
}

static int step(struct answer *a)
{
    struct session *s = a->s;
    const uint32_t n = session_n_tokens(s);
    if (session_cancelled(s)) return fail(a->e, ERR_CANCELLED, "cancelled");
    a->r->decode_bytes += session_model(s)->decode_bytes + (uint64_t)(n + 1) * session_kv(s)->token_bytes;
    a->r->decode_bytes += states_step_bytes(session_states(s));
    if (n < session_n_ctx(s)) return evaluate(a);
    TRY(shift(a));
    a->ids[0] = draw(a, session_logits(s), session_n_tokens(s));
    return a->rc;
}

static void loop(struct answer *a)
{
    a->ids[0] = draw(a, session_logits(a->s), session_n_tokens(a->s));
    while (a->rc == 0 && !a->over) a->rc = step(a);
}

static int run(struct answer *a, const struct tok *t, const int32_t *prompt, size_t n)
{
    const struct generate_options *o = a->o;
    TRY(session_sync(a->s, prompt, n, &a->r->n_reused, a->e));
    a->r->prefill_ns = clock_ns() - a->start;
    TRY(stream_init(&a->stream, t, o->show_special, o->stop, o->n_stop, a->e));
    loop(a);
    /* Whatever ended it, text that was held back and is no stop string belongs to the answer. */
    if (a->r->stop != STOP_CALLBACK) (void)emit(o, stream_end(&a->stream));
    stream_fini(&a->stream);
    return a->rc;
}

int generate(struct session *s, const struct tok *t, struct sampler *sampler, const int32_t *prompt, size_t n,
             const struct generate_options *o, struct generate_result *r, struct err *e)
{
    struct answer a = {.s = s, .sampler = sampler, .o = o, .r = r, .start = clock_ns(), .e = e};
    *r = (struct generate_result){.n_prompt = (uint32_t)n};
    TRY(sampling_check(&o->sampling, session_model(s)->hp.n_vocab, e));
    TRY(constraint_init(&a.form, &o->constraint, t, e));
    if (n <= session_n_ctx(s)) begin_guesses(&a, prompt, (uint32_t)n);
    const int rc = run(&a, t, prompt, n);
    end_guesses(&a);
    constraint_fini(&a.form);
    return rc;
}
