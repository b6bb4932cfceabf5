/* api_session: quern.h's session functions. */
#include <math.h>

#include "api/api_int.h"
#include "machine/machine.h"

#define DEFAULT_CTX 4096
#define DEFAULT_BATCH 512
#define MAX_THREADS 1024
#define MAX_CTX (1u << 28)

static int cache_type(const char *name, enum qtype *out, struct err *e)
{
    if (!name || (qtype_by_name(str_of(name), out) && attn_bits(*out))) return 0;
    return fail(e, ERR_ARG, "a KV cache cannot be of type \"%s\"; expected f32, f16, bf16, q8_0 or q4_0", name);
}

int api_session_options(const quern_session_options *o, struct session_options *so, struct err *e)
{
    if (o->n_threads > MAX_THREADS) return fail(e, ERR_ARG, "%u threads; expected at most %d", o->n_threads, MAX_THREADS);
    if (o->n_ctx > MAX_CTX) return fail(e, ERR_ARG, "a context of %u tokens; expected at most %u", o->n_ctx, MAX_CTX);
    TRY(cache_type(o->k_type, &so->k_type, e));
    TRY(cache_type(o->v_type, &so->v_type, e));
    so->n_threads = o->n_threads;
    so->n_expected = o->n_expected;
    so->cpu_level = o->cpu_level;
    if (o->n_ctx) so->n_ctx = o->n_ctx;
    if (o->n_batch) so->n_batch = o->n_batch;
    return 0;
}

int api_speculation(const quern_model *m, const quern_speculation *q, struct speculate_options *out, struct err *e)
{
    if (q->how < QUERN_SPECULATE_AUTO || q->how > QUERN_SPECULATE_MTP)
        return fail(e, ERR_ARG, "speculation %d; expected 0 to %d", (int)q->how, QUERN_SPECULATE_MTP);
    *out = (struct speculate_options){.how = (enum speculate)q->how, .max = q->draft_max, .min = q->draft_min};
    if (!q->draft || q->how == QUERN_SPECULATE_OFF) return 0;
    if (!q->draft->model) return fail(e, ERR_ARG, "%s was opened for its vocabulary only", q->draft->name);
    TRY(model_check_generates(q->draft->model, e));
    out->draft = q->draft->model;
    out->draft_tok = q->draft->tok;
    out->tok = m->tok;
    return 0;
}

static int open_speculation(quern_session *q, const struct speculate_options *how, struct err *e)
{
    TRY(session_speculator(q->s, how, &q->speculator, e));
    return q->speculator ? guesser_new(q->speculator, &q->arena, session_n_ctx(q->s), NULL, 0, &q->guesser, e) : 0;
}

int quern_session_new(const quern_model *model, const quern_session_options *options, quern_session **out, quern_error *err)
{
    struct err e = {0};
    if (!model->model) {
        (void)fail(&e, ERR_ARG, "%s was opened for its vocabulary only", model->name);
        return api_fail(err, &e);
    }
    struct session_options so = {.n_ctx = (uint32_t)size_min(model->model->hp.n_ctx_train, DEFAULT_CTX),
                                 .n_batch = DEFAULT_BATCH,
                                 .k_type = QTYPE_F16,
                                 .v_type = QTYPE_F16};
    const quern_speculation auto_speculation = {0};
    quern_session *q = mem_zalloc(sizeof *q);
    int rc = q ? 0 : fail_nomem(&e, "the session", sizeof *q);
    if (rc == 0 && options) rc = api_session_options(options, &so, &e);
    if (rc == 0 && options) rc = api_loras_open(model, options->loras, options->n_loras, &q->loras, &e);
    if (rc == 0) so.loras = q->loras.loras, so.n_loras = q->loras.n;
    struct speculate_options how;
    if (rc == 0) rc = api_speculation(model, options ? &options->speculation : &auto_speculation, &how, &e);
    if (rc == 0) so.n_redo = speculate_max(&how) ? 1 + speculate_max(&how) : 0;
    if (rc == 0) rc = session_new(model->model, &so, &q->s, &e);
    if (rc == 0) session_use(q->s, q->loras.scales);
    if (rc == 0) rc = sampler_init(&q->sampler, session_kernels(q->s), model->model->hp.n_vocab, &e);
    if (rc == 0) rc = open_speculation(q, &how, &e);
    if (rc < 0) {
        quern_session_free(&q);
        return api_fail(err, &e);
    }
    q->model = model;
    *out = q;
    return 0;
}

void quern_session_free(quern_session **session)
{
    if (!*session) return;
    sampler_fini(&(*session)->sampler);
    speculator_free(&(*session)->speculator);
    arena_fini(&(*session)->arena);
    session_free(&(*session)->s);
    api_loras_close(&(*session)->loras);
    mem_free(*session);
    *session = NULL;
}

void quern_session_get_info(const quern_session *q, quern_session_info *out)
{
    struct backend_info b = session_backend(q->s);
    const struct kv *kv = session_kv(q->s);
    *out = (quern_session_info){.n_ctx = session_n_ctx(q->s),
                                .n_batch = session_n_batch(q->s),
                                .n_threads = b.n_threads,
                                .n_tokens = session_n_tokens(q->s),
                                .k_type = qtypes[kv->view.k_type].name,
                                .v_type = qtypes[kv->view.v_type].name,
                                .cpu_level = b.level,
                                .kv_bytes = kv->bytes,
                                .kv_token_bytes = kv->token_bytes,
                                .state_bytes = session_states(q->s)->bytes,
                                .state_step_bytes = states_step_bytes(session_states(q->s)),
                                .compute_bytes = b.bytes,
                                .draft_bytes = speculator_bytes(q->speculator),
                                .speculates = q->speculator != NULL};
}

int quern_session_measure(const quern_session *q, quern_limits *out, quern_error *err)
{
    struct err e = {0};
    struct machine_limits l = {0};
    const struct model *m = q->model->model;
    if (machine_measure(m->reads, m->n_reads, session_kernels(q->s), session_backend(q->s).n_threads, &l, &e) < 0)
        return api_fail(err, &e);
    *out = (quern_limits){l.bandwidth_gb_s, l.bandwidth_huge_gb_s, l.int8_tops, l.f32_tops};
    return 0;
}

struct copy_rows {
    float *out;
    size_t n_vocab;
};
static void copy_row(void *ctx, size_t i, const float *logits)
{
    const struct copy_rows *c = ctx;
    memcpy(c->out + i * c->n_vocab, logits, c->n_vocab * sizeof *logits);
}

int quern_session_eval(quern_session *q, const int32_t *ids, size_t count, float *logits, quern_error *err)
{
    struct err e = {0};
    struct copy_rows c = {logits, q->model->model->hp.n_vocab};
    session_cancel_clear(q->s);
    return session_eval(q->s, ids, count, logits ? copy_row : NULL, &c, &e) < 0 ? api_fail(err, &e) : 0;
}

struct score_rows {
    quern_session *session;
    const int32_t *ids; /* [count], one behind each row but the last */
    size_t count;
    uint32_t n_top;
    void (*fn)(void *user, const quern_token *token);
    void *user;
};
static void score_row(void *ctx, size_t i, const float *logits)
{
    const struct score_rows *r = ctx;
    int32_t ids[TOP_MAX];
    float probs[TOP_MAX];
    if (i + 1 == r->count) return;
    struct token_event t = {.id = r->ids[i + 1]};
    token_probs(&r->session->sampler, session_kernels(r->session->s), logits, r->n_top, &t, ids, probs);
    const quern_token q = {
        .id = t.id, .text = "", .logprob = t.logprob, .top_ids = t.top_ids, .top_logprobs = t.top_logprobs, .n_top = t.n_top};
    r->fn(r->user, &q);
}

int quern_session_score(quern_session *q, const int32_t *ids, size_t count, uint32_t n_top,
                        void (*fn)(void *user, const quern_token *token), void *user, quern_error *err)
{
    struct err e = {0};
    struct score_rows r = {q, ids, count, n_top, fn, user};
    session_cancel_clear(q->s);
    int rc = n_top > TOP_MAX ? fail(&e, ERR_ARG, "%u likeliest tokens; at most %d", n_top, TOP_MAX) : 0;
    if (rc == 0) rc = session_eval(q->s, ids, count, score_row, &r, &e);
    return rc < 0 ? api_fail(err, &e) : 0;
}

void quern_session_truncate(quern_session *q, uint32_t n_keep)
{
    session_truncate(q->s, n_keep);
}
int quern_session_set_loras(quern_session *q, const float *scales, quern_error *err)
{
    struct err e = {0};
    for (uint32_t i = 0; i < q->loras.n; i++) {
        if (isfinite(scales[i])) continue;
        (void)fail(&e, ERR_ARG, "the scale of adapter %u is not finite", i);
        return api_fail(err, &e);
    }
    session_use(q->s, scales);
    return 0;
}
void quern_session_cancel(quern_session *q)
{
    session_cancel(q->s);
}

/* ---- generation ------------------------------------------------------------------------------------------------ */

quern_sampling quern_sampling_default(void)
{
    return (quern_sampling){.temperature = -1,
                            .top_k = -1,
                            .top_p = -1,
                            .min_p = -1,
                            .repeat_penalty = -1,
                            .presence_penalty = -1e30f,
                            .frequency_penalty = -1e30f,
                            .penalty_last_n = -1};
}

static bool given(float v)
{
    return v > -1e29f;
}

/* What the caller left open is the model's. */
struct sampling api_sampling(const quern_model *m, const quern_sampling *q)
{
    struct sampling s = m->sampling;
    if (!q) return s;
    if (!(q->temperature < 0)) s.temperature = q->temperature;
    if (q->top_k >= 0) s.top_k = (uint32_t)q->top_k;
    if (!(q->top_p < 0)) s.top_p = q->top_p;
    if (!(q->min_p < 0)) s.min_p = q->min_p;
    s.min_keep = q->min_keep;
    if (!(q->repeat_penalty < 0)) s.repeat_penalty = q->repeat_penalty;
    if (given(q->presence_penalty)) s.presence_penalty = q->presence_penalty;
    if (given(q->frequency_penalty)) s.frequency_penalty = q->frequency_penalty;
    if (q->penalty_last_n >= 0) s.penalty_last_n = (uint32_t)q->penalty_last_n;
    s.seed = q->seed;
    _Static_assert(sizeof(struct bias) == sizeof(quern_logit_bias) &&
                       offsetof(struct bias, bias) == offsetof(quern_logit_bias, bias),
                   "bias");
    s.bias = (const struct bias *)(const void *)q->logit_bias;
    s.n_bias = q->n_logit_bias;
    return s;
}

quern_sampling quern_sampling_of(const quern_model *model)
{
    const struct sampling *s = &model->sampling;
    return (quern_sampling){.temperature = s->temperature,
                            .top_k = (int32_t)s->top_k,
                            .top_p = s->top_p,
                            .min_p = s->min_p,
                            .repeat_penalty = s->repeat_penalty,
                            .presence_penalty = s->presence_penalty,
                            .frequency_penalty = s->frequency_penalty,
                            .penalty_last_n = (int32_t)s->penalty_last_n};
}

quern_result api_result(const struct generate_result *r)
{
    return (quern_result){.stop = (quern_stop)r->stop,
                          .stop_index = r->stop_index,
                          .n_prompt = r->n_prompt,
                          .n_reused = r->n_reused,
                          .n_generated = r->n_generated,
                          .n_drafted = r->guesses.guessed,
                          .n_accepted = r->guesses.right,
                          .n_expected = r->guesses.expected,
                          .n_expected_accepted = r->guesses.expected_right,
                          .prefill_seconds = (double)r->prefill_ns * 1e-9,
                          .first_token_seconds = (double)r->first_token_ns * 1e-9,
                          .decode_seconds = (double)r->decode_ns * 1e-9,
                          .decode_bytes = r->decode_bytes,
                          .dropped_tokens = r->n_shifted};
}

static int run_generate(quern_session *q, const int32_t *prompt, size_t count, const quern_generate_options *o,
                        quern_result *result, struct err *e)
{
    const quern_generate_options none = {0};
    struct arena a = {0};
    if (!o) o = &none;
    struct generate_options go = {.sampling = api_sampling(q->model, o->sampling),
                                  .max_tokens = o->max_tokens,
                                  .shift = o->context_policy == QUERN_CONTEXT_SHIFT,
                                  .n_keep = o->n_keep,
                                  .n_stop = o->n_stop,
                                  .eog = q->model->eog,
                                  .n_eog = q->model->n_eog,
                                  .ignore_eos = o->ignore_eos,
                                  .show_special = o->show_special,
                                  .guesser = q->guesser,
                                  .speculate = (enum speculate)o->speculate,
                                  .draft_max = o->draft_max,
                                  .draft_min = o->draft_min,
                                  .on_text = o->on_text,
                                  .on_token = o->on_token,
                                  .user = o->user};
    struct str *stop = arena_array(&a, o->n_stop ? o->n_stop : 1, sizeof *stop);
    if (!stop) return fail_nomem(e, "stop strings", o->n_stop * sizeof *stop);
    for (size_t i = 0; i < o->n_stop; i++) stop[i] = str_of(o->stop[i]);
    go.stop = stop;
    struct generate_result r = {0};
    int rc = api_form(q->model, &o->form, &go.constraint, e);
    if (rc == 0) rc = generate(q->s, q->model->tok, &q->sampler, prompt, count, &go, &r, e);
    arena_fini(&a);
    if (result) *result = api_result(&r);
    return rc;
}

int quern_generate(quern_session *q, const int32_t *prompt, size_t count, const quern_generate_options *options,
                   quern_result *result, quern_error *err)
{
    struct err e = {0};
    session_cancel_clear(q->s);
    return run_generate(q, prompt, count, options, result, &e) < 0 ? api_fail(err, &e) : 0;
}

/* Tokens that a prompt may have beside the answer. */
static size_t prompt_room(const quern_session *q, const quern_generate_options *o)
{
    const uint32_t n_ctx = session_n_ctx(q->s), answer = o->max_tokens ? o->max_tokens : n_ctx / 4;
    return answer < n_ctx ? n_ctx - answer : 0;
}

int quern_chat(quern_session *q, const char *messages_json, const quern_generate_options *options, quern_result *result,
               quern_error *err)
{
    struct err e = {0};
    struct buf fitted = {0}, text = {0};
    struct ids ids = {0};
    struct api_fit fit = {0};
    const quern_render_options ro = {.add_generation_prompt = true, .kwargs_json = options ? options->kwargs_json : NULL};
    session_cancel_clear(q->s);
    int rc = 0;
    if (options && options->context_policy == QUERN_CONTEXT_DROP_OLDEST_TURN) {
        rc = api_fit_messages(q->model, messages_json, &ro, prompt_room(q, options), &fitted, &fit, &e);
        messages_json = fitted.p;
    }
    if (rc == 0) rc = api_render(q->model, messages_json, &ro, &text, &e);
    if (rc == 0) rc = tok_encode(q->model->tok, buf_view(&text), TOK_PARSE_SPECIAL, &ids, &e);
    if (rc == 0) rc = run_generate(q, ids.p, ids.n, options, result, &e);
    if (rc == 0 && result) {
        result->dropped_messages = fit.messages;
        result->dropped_tokens += fit.tokens;
    }
    buf_fini(&fitted);
    buf_fini(&text);
    ids_fini(&ids);
    return rc < 0 ? api_fail(err, &e) : 0;
}
