/* prompts: texts and tokens that requests go on from, one or several; and of those that an answer repeats, the text and what
 * the model thought of its tokens. The engine has no use for the latter: a session of its own computes them. */
#include "serve.h"

#define SCORES_MAX (1u << 20) /* logprobs of prompts in an answer, which the engine's thread writes down */
#define SCORE_BATCH 128       /* tokens between two looks at whether the answer is still wanted */

static bool no_memory(struct call *c, int *answer)
{
    *answer = serve_error(c, 500, "out of memory");
    return false;
}

/* ---- reading ----------------------------------------------------------------------------------------------------------- */

static bool tokenize(struct call *c, struct str text, unsigned flags, quern_tokens *out, int *answer)
{
    quern_error err;
    if (quern_tokenize(c->server->model, text.p, text.n, flags, out, &err) == 0) return true;
    *answer = serve_failure(c, &err);
    return false;
}

static bool is_id(const struct call *c, const struct json *j)
{
    return j->type == JSON_INT && j->i >= 0 && j->i < c->server->info.n_vocab;
}

bool ask_ids(struct call *c, const struct json *array, const char *what, quern_tokens *out, int *answer)
{
    bool ok = array && array->type == JSON_ARRAY && array->n > 0;
    for (size_t i = 0; ok && i < array->n; i++) ok = is_id(c, &array->v[i]);
    if (!ok) {
        *answer = serve_error(c, 400, "%s of token ids below %u", what, c->server->info.n_vocab);
        return false;
    }
    *out = (quern_tokens){mem_array(array->n, sizeof *out->ids), array->n};
    for (size_t i = 0; out->ids && i < array->n; i++) out->ids[i] = (int32_t)array->v[i].i;
    return out->ids || no_memory(c, answer);
}

/* Token ids with texts between them. */
static bool ask_mixed(struct call *c, const char *key, const struct json *array, unsigned flags, quern_tokens *out, int *answer)
{
    struct buf ids = {0};
    bool ok = array->n > 0;
    for (size_t i = 0; ok && i < array->n; i++) {
        const struct json *j = &array->v[i];
        quern_tokens some = {0};
        int32_t id = (int32_t)j->i;
        if (j->type == JSON_STRING && !tokenize(c, j->s, i ? flags & ~(unsigned)QUERN_ADD_SPECIAL : flags, &some, answer)) {
            buf_fini(&ids);
            return false;
        }
        ok = j->type == JSON_STRING || is_id(c, j);
        int rc = 0;
        if (j->type == JSON_STRING)
            rc = some.count ? buf_put(&ids, some.ids, some.count * sizeof id) : 0;
        else if (ok)
            rc = buf_put(&ids, &id, sizeof id);
        quern_tokens_free(&some);
        if (rc == 0) continue;
        buf_fini(&ids);
        return no_memory(c, answer);
    }
    *out = (quern_tokens){(int32_t *)(void *)ids.p, ids.n / sizeof(int32_t)};
    if (ok) return true;
    quern_tokens_free(out);
    *answer =
        serve_error(c, 400, "\"%s\" must be a text, or an array of token ids below %u and texts", key, c->server->info.n_vocab);
    return false;
}

bool ask_prompt(struct call *c, const char *key, const struct json *prompt, bool parse_special, quern_tokens *out, int *answer)
{
    const unsigned flags = QUERN_ADD_SPECIAL | (parse_special ? QUERN_PARSE_SPECIAL : 0);
    if (prompt && prompt->type == JSON_STRING) return tokenize(c, prompt->s, flags, out, answer);
    if (prompt && prompt->type == JSON_ARRAY) return ask_mixed(c, key, prompt, flags, out, answer);
    *answer = serve_error(c, 400, "\"%s\" must be a string or an array", key);
    return false;
}

bool ask_prediction(struct call *c, const struct json *obj, struct asked *out, int *answer)
{
    const struct json *j = json_find(obj, "prediction"), *content = json_find(j, "content");
    struct str type = {0};
    struct buf text = {0};
    quern_tokens tokens = {0};
    if (!j || j->type == JSON_NULL) return true;
    if (!json_opt_str(j, "type", &type) || !str_is(type, "content") || !content || !ask_content(&text, content)) {
        buf_fini(&text);
        *answer =
            serve_error(c, 400, "\"prediction\" must be {\"type\":\"content\",\"content\":..} with a text or parts of one");
        return false;
    }
    bool ok = tokenize(c, buf_view(&text), 0, &tokens, answer);
    int32_t *copy = ok ? arena_array(&c->arena, size_max(tokens.count, 1), sizeof *copy) : NULL;
    if (ok && !copy) ok = no_memory(c, answer);
    if (ok && tokens.count) memcpy(copy, tokens.ids, tokens.count * sizeof *copy);
    out->expected = copy;
    out->n_expected = tokens.count;
    quern_tokens_free(&tokens);
    buf_fini(&text);
    return ok;
}

/* Whether prompt is a list of prompts: an array in which no token stands. */
static bool is_list(const struct json *prompt)
{
    bool list = prompt && prompt->type == JSON_ARRAY && prompt->n > 0;
    for (size_t i = 0; list && i < prompt->n; i++) list = prompt->v[i].type == JSON_STRING || prompt->v[i].type == JSON_ARRAY;
    return list;
}

uint32_t ask_prompt_count(const struct json *prompt)
{
    return is_list(prompt) && prompt->n <= UINT32_MAX ? (uint32_t)prompt->n : 1;
}

#define MAX_CHOICES 64

bool ask_choices(struct call *c, const struct json *obj, const char *key, uint32_t n_prompts, double *io, int *answer)
{
    const size_t all = size_min(MAX_CHOICES, size_max(c->server->o.n_queue, 1)); /* they wait, at first */
    if (all / n_prompts > 0) return ask_integer(c, obj, key, 1, (double)(all / n_prompts), io, answer);
    *answer = serve_error(c, 400, "\"prompt\" has %u prompts; at most %zu", n_prompts, all);
    return false;
}

static bool make_prompts(struct call *c, uint32_t n, struct asked *out, int *answer)
{
    out->prompts = arena_array(&c->arena, n, sizeof *out->prompts);
    if (!out->prompts) return no_memory(c, answer);
    memset(out->prompts, 0, n * sizeof *out->prompts);
    out->n_prompts = n;
    return true;
}

void serve_free_prompts(struct asked *a)
{
    for (uint32_t i = 0; i < a->n_prompts; i++) quern_tokens_free(&a->prompts[i]);
    a->n_prompts = 0;
}

bool ask_text(struct call *c, struct str text, unsigned flags, struct asked *out, int *answer)
{
    return make_prompts(c, 1, out, answer) && tokenize(c, text, flags, &out->prompts[0], answer);
}

bool ask_prompts(struct call *c, const char *key, const struct json *prompt, struct asked *out, int *answer)
{
    bool ok = make_prompts(c, ask_prompt_count(prompt), out, answer);
    for (uint32_t i = 0; ok && i < out->n_prompts; i++)
        ok = ask_prompt(c, key, is_list(prompt) ? &prompt->v[i] : prompt, true, &out->prompts[i], answer);
    if (!ok) serve_free_prompts(out);
    return ok;
}

/* ---- what is said of them ---------------------------------------------------------------------------------------------- */

bool serve_loses_space(const struct call *c, int32_t id)
{
    quern_string alone = {0}, inside = {0};
    const bool read = quern_detokenize(c->server->model, &id, 1, false, &alone, NULL) == 0 &&
                      quern_token_bytes(c->server->model, id, &inside, NULL) == 0;
    const bool loses = read && alone.length < inside.length && inside.text[0] == ' ';
    quern_string_free(&alone);
    quern_string_free(&inside);
    return loses;
}

/* The text of prompt k, as it came where it is repeated and no tokens. */
static int put_text(struct call *c, const struct job *j, uint32_t k, struct str *out)
{
    const struct json *sent = json_find(c->json, "prompt");
    const quern_tokens *prompt = &j->asked.prompts[k];
    if (is_list(sent)) sent = &sent->v[k];
    if (j->echo && sent->type == JSON_STRING) {
        *out = sent->s;
        return 0;
    }
    quern_string s;
    if (quern_detokenize(c->server->model, prompt->ids, prompt->count, !j->echo, &s, NULL) < 0) return ERR_NOMEM;
    *out = (struct str){serve_copy(c, (struct str){s.text, s.length}), s.length};
    quern_string_free(&s);
    return out->p ? 0 : ERR_NOMEM;
}

/* Sessions take memory for their prompts, so there is one at a time. False: nobody waits for the answer any more. */
static bool begin_score(struct call *c)
{
    struct server *s = c->server;
    monitor_enter(s->lock);
    while (s->scoring && serve_is_wanted(c)) monitor_wait_for(s->lock, SERVE_WATCH_MS);
    const bool begun = serve_is_wanted(c);
    if (begun) s->scoring = true;
    monitor_leave(s->lock);
    return begun;
}

static void end_score(struct server *s)
{
    monitor_enter(s->lock);
    s->scoring = false;
    monitor_wake(s->lock);
    monitor_leave(s->lock);
}

struct scored {
    struct call *c;
    quern_session *session;
    struct buf *b;
    uint32_t n;
    int rc;
};

/* Tokens come in batches, after each of which the session can be told to stop. */
static void put_score(void *user, const quern_token *t)
{
    struct scored *s = user;
    if (s->rc == 0) s->rc = buf_c(s->b, ',') | serve_put_prob(s->c, s->b, t);
    if (++s->n % SCORE_BATCH) return;
    monitor_enter(s->c->server->lock);
    if (s->rc < 0 || !serve_is_wanted(s->c)) quern_session_cancel(s->session);
    monitor_leave(s->c->server->lock);
}

/* Tokens that a sequence of n tokens of n_ctx will reach, as the engine sees it. */
static uint32_t reach(const struct asked *a, uint32_t n, uint32_t n_ctx)
{
    if (a->prompt_only) return n;
    return a->max_tokens && a->max_tokens < n_ctx - n ? n + a->max_tokens : n_ctx;
}

/* Appends objects as of serve_put_prob for all tokens of the prompt; of the first nothing is known. */
static int score(struct call *c, const quern_tokens *prompt, const struct job *j, struct buf *b, quern_error *err)
{
    const struct server *s = c->server;
    quern_session *session = NULL;
    quern_engine_info i;
    quern_engine_get_info(s->engine, &i);
    const quern_session_options o = {.n_ctx = (uint32_t)prompt->count,
                                     .n_batch = SCORE_BATCH,
                                     .n_expected = reach(&j->asked, (uint32_t)prompt->count, i.n_ctx),
                                     .n_threads = i.n_threads,
                                     .k_type = i.k_type,
                                     .v_type = i.v_type,
                                     .cpu_level = i.cpu_level,
                                     .loras = s->loras,
                                     .n_loras = s->n_loras,
                                     .speculation = {.how = QUERN_SPECULATE_OFF}};
    struct scored scored = {.c = c, .b = b};
    scored.rc = serve_put_prob(c, b, &(quern_token){.id = prompt->ids[0], .logprob = NAN});
    int rc = quern_session_new(s->model, &o, &session, err);
    scored.session = session;
    if (rc == 0 && s->n_loras) rc = quern_session_set_loras(session, j->asked.lora_scales, err);
    if (rc == 0) rc = quern_session_score(session, prompt->ids, prompt->count, j->n_top, put_score, &scored, err);
    if (session) quern_session_free(&session);
    if (scored.rc < 0) *err = (quern_error){.code = rc = scored.rc, .message = "out of memory"};
    if (rc == QUERN_ERR_CANCELLED) *err = (quern_error){.code = rc = QUERN_ERR_LIMIT, .message = SERVE_ENDS};
    return rc;
}

static int score_alone(struct call *c, const quern_tokens *prompt, const struct job *j, struct buf *b, quern_error *err)
{
    if (!begin_score(c)) {
        *err = (quern_error){.code = QUERN_ERR_LIMIT, .message = SERVE_ENDS};
        return err->code;
    }
    const int rc = score(c, prompt, j, b, err);
    end_score(c->server);
    return rc;
}

/* Whether the prompts of all answers have no more logprobs than can be told. */
static bool can_score(const struct job *j)
{
    uint64_t n = 0;
    for (uint32_t k = 0; k < j->asked.n_prompts; k++) n += j->asked.prompts[k].count;
    return n * j->n_each * (1 + j->n_top) <= SCORES_MAX;
}

int serve_tell_prompts(struct call *c, struct job *j, quern_error *err)
{
    const uint32_t n = j->asked.n_prompts;
    quern_engine_info i;
    quern_engine_get_info(c->server->engine, &i);
    if (j->echo && j->logprobs && !can_score(j)) {
        *err = (quern_error){.code = QUERN_ERR_ARG,
                             .message = "\"logprobs\" of so many prompt tokens are too many; ask for fewer at once"};
        return err->code;
    }
    j->prompts = arena_array(&c->arena, n, sizeof *j->prompts);
    int rc = j->prompts ? 0 : ERR_NOMEM;
    for (uint32_t k = 0; rc == 0 && k < n; k++) {
        j->prompts[k] = (struct prompt){.n_tokens = (uint32_t)j->asked.prompts[k].count};
        rc = put_text(c, j, k, &j->prompts[k].text);
    }
    if (rc < 0) *err = (quern_error){.code = rc, .message = "out of memory"};
    for (uint32_t k = 0; rc == 0 && k < n; k++) {
        const quern_tokens *prompt = &j->asked.prompts[k];
        struct buf b = {0};
        if (!j->echo || !j->logprobs || prompt->count == 0 || prompt->count > i.n_ctx) continue; /* the engine refuses those */
        rc = score_alone(c, prompt, j, &b, err);
        j->prompts[k].probs = (struct str){rc == 0 ? serve_copy(c, buf_view(&b)) : NULL, b.n};
        buf_fini(&b);
        if (rc == 0 && !j->prompts[k].probs.p) {
            rc = ERR_NOMEM;
            *err = (quern_error){.code = rc, .message = "out of memory"};
        }
    }
    return rc;
}
