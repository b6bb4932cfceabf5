/* openai: /v1/chat/completions, /v1/completions, /v1/models, as OpenAI's clients expect them. Streams are server-sent events.
 */
#include "serve.h"

#include <stdio.h>

int openai_error(struct buf *b, unsigned status, const char *message)
{
    const char *type = status == 401   ? "authentication_error"
                       : status == 404 ? "not_found_error"
                       : status == 503 ? "unavailable_error"
                       : status == 501 ? "not_supported_error"
                       : status >= 500 ? "server_error"
                                       : "invalid_request_error";
    int rc = buf_z(b, "{\"error\":{\"message\":");
    rc |= json_write_string(b, str_of(message));
    return rc | buf_printf(b, ",\"type\":\"%s\",\"param\":null,\"code\":%u}}", type, status);
}

static const char *finish_reason(const struct choice *x)
{
    const quern_stop stop = x->r.result.stop;
    if (x->n_calls) return "tool_calls";
    return stop == QUERN_STOP_LENGTH || stop == QUERN_STOP_CONTEXT ? "length" : "stop";
}

/* "key":ID,"key_text":"..": a token by number and as text; null where id is none. */
static int put_token(const struct job *j, struct buf *b, const char *key, int32_t id)
{
    quern_string text = {0};
    if (id < 0) return buf_printf(b, ",\"%s_token\":null,\"%s_text\":null", key, key);
    int rc = buf_printf(b, ",\"%s_token\":%d,\"%s_text\":", key, id, key);
    if (quern_token_bytes(j->call->server->model, id, &text, NULL) < 0) return ERR_NOMEM;
    rc |= json_write_string(b, (struct str){text.text, text.length});
    quern_string_free(&text);
    return rc;
}

/* ,"usage":{..}: each prompt once, and the tokens of all choices. Of the first, what was found in the cache, and why no more;
 * and what did not fit the context. */
static int put_usage(const struct job *j, struct buf *b)
{
    const quern_request_result *first = &j->choices[0].r;
    const quern_result *r = &first->result;
    unsigned long long n_generated = 0;
    uint32_t dropped = j->asked.dropped_tokens;
    unsigned long long n_prompt = 0, n_reused = 0;
    unsigned long long n_thinking = 0, n_expected = 0, n_accepted = 0;
    for (uint32_t i = 0; i < j->n_choices; i++) {
        n_thinking += j->choices[i].n_thinking;
        n_expected += j->choices[i].r.result.n_expected;
        n_accepted += j->choices[i].r.result.n_expected_accepted;
        n_generated += j->choices[i].r.result.n_generated;
        dropped += j->choices[i].r.result.dropped_tokens;
        if (i % j->n_each) continue;
        n_prompt += j->choices[i].r.result.n_prompt;
        n_reused += j->choices[i].r.result.n_reused;
    }
    int rc = buf_printf(b,
                        ",\"usage\":{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,"
                        "\"prompt_tokens_details\":{\"cached_tokens\":%llu}",
                        n_prompt, n_generated, n_prompt + n_generated, n_reused);
    rc |= buf_printf(b,
                     ",\"completion_tokens_details\":{\"reasoning_tokens\":%llu,\"accepted_prediction_tokens\":%llu,"
                     "\"rejected_prediction_tokens\":%llu}}",
                     n_thinking, n_accepted, n_expected - n_accepted);
    rc |= native_timings(b, r);
    rc |= buf_printf(b, ",\"prefix\":{\"reused_tokens\":%u,\"restored_tokens\":%u,\"first_difference\":%u", r->n_reused,
                     first->n_restored, first->miss_position);
    rc |= put_token(j, b, "cached", first->miss_expected);
    rc |= put_token(j, b, "prompt", first->miss_found);
    rc |= buf_c(b, '}');
    if (j->asked.context_policy == QUERN_CONTEXT_ERROR) return rc;
    return rc |
           buf_printf(b, ",\"context\":{\"dropped_messages\":%u,\"dropped_tokens\":%u}", j->asked.dropped_messages, dropped);
}

static int put_head(struct buf *b, const struct job *j, const char *object)
{
    int rc =
        buf_printf(b, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", j->id, object, (long long)j->created);
    rc |= json_write_string(b, str_of(j->call->server->name));
    return rc | buf_printf(b, ",\"system_fingerprint\":\"quern-%s\"", quern_version());
}

/* Goes on by the text of a token, whose characters begin where their first bytes are. A control token has none, but for the one
 * whose name a repeated prompt has there; the first token that has some may have lost a space. */
static int pass_token(struct choice *x, int32_t id)
{
    const quern_model *m = x->job->call->server->model;
    quern_string alone = {0}, inside = {0};
    int rc = quern_detokenize(m, &id, 1, false, &alone, NULL) | quern_token_bytes(m, id, &inside, NULL);
    const struct str name = {inside.text, inside.length}, text = buf_view(&x->text);
    const bool whole = x->probs_bytes || (text.n && text.p[0] == ' ');
    struct str s = whole ? name : (struct str){alone.text, alone.length};
    if (rc == 0 && alone.length == 0 && x->probs_bytes <= text.n) {
        const struct str rest = {text.p + x->probs_bytes, text.n - x->probs_bytes};
        s = text.n && str_starts(rest, name) ? name : STR("");
    }
    x->probs_bytes += s.n;
    for (size_t i = 0; i < s.n; i++) x->probs_offset += ((unsigned char)s.p[i] & 0xc0) != 0x80;
    quern_string_free(&alone);
    quern_string_free(&inside);
    return rc < 0 ? ERR_NOMEM : 0;
}

/* {"token":"logprob",..} */
static int put_top(struct buf *b, const struct json *top)
{
    int rc = buf_c(b, '{');
    for (size_t i = 0; top && i < top->n; i++) {
        if (i) rc |= buf_c(b, ',');
        rc |= json_write(b, json_find(&top->v[i], "token"));
        rc |= buf_c(b, ':');
        rc |= json_write(b, json_find(&top->v[i], "logprob"));
    }
    return rc | buf_c(b, '}');
}

/* What chats have in one array of objects, completions have in arrays beside each other. text_offset counts characters. */
static int put_arrays(struct choice *x, struct buf *b, const struct json *all)
{
    static const char *const names[][2] = {{"tokens", "token"}, {"token_logprobs", "logprob"}};
    int rc = buf_z(b, ",\"logprobs\":{");
    for (size_t k = 0; k < COUNT_OF(names); k++) {
        rc |= buf_printf(b, "\"%s\":[", names[k][0]);
        for (size_t i = 0; i < all->n; i++) {
            if (i) rc |= buf_c(b, ',');
            rc |= json_write(b, json_find(&all->v[i], names[k][1]));
        }
        rc |= buf_z(b, "],");
    }
    rc |= buf_z(b, x->job->n_top ? "\"top_logprobs\":[" : "\"top_logprobs\":null");
    for (size_t i = 0; x->job->n_top && i < all->n; i++) {
        const struct json *top = json_find(&all->v[i], "top_logprobs");
        if (i) rc |= buf_c(b, ',');
        rc |= top->type == JSON_NULL ? buf_z(b, "null") : put_top(b, top);
    }
    rc |= buf_z(b, x->job->n_top ? "],\"text_offset\":[" : ",\"text_offset\":[");
    for (size_t i = 0; i < all->n; i++) {
        rc |= buf_printf(b, i ? ",%zu" : "%zu", x->probs_offset);
        rc |= pass_token(x, (int32_t)json_find(&all->v[i], "id")->i);
    }
    return rc | buf_z(b, "]}");
}

/* ,"logprobs":{..} with what is new; null where not asked for, and in a stream where nothing is. */
static int put_logprobs(struct choice *x, struct buf *b)
{
    if (!x->job->logprobs || (x->job->stream && x->probs.n == 0)) return buf_z(b, ",\"logprobs\":null");
    if (x->job->chat) {
        int rc = buf_z(b, ",\"logprobs\":{\"content\":");
        rc |= serve_new_probs(x, b);
        return rc | buf_c(b, '}');
    }
    struct arena a = {0};
    struct buf objects = {0};
    struct json *all;
    struct err e;
    int rc = serve_new_probs(x, &objects);
    if (rc == 0) rc = json_parse(&a, buf_view(&objects), "logprobs", &all, &e) < 0 ? ERR_NOMEM : put_arrays(x, b, all);
    arena_fini(&a);
    buf_fini(&objects);
    return rc;
}

/* "tool_calls":[..]; those of a stream have an index. */
static int put_calls(struct choice *x, struct buf *b)
{
    int rc = buf_z(b, "\"tool_calls\":[");
    for (size_t i = 0; i < x->n_calls; i++) {
        struct buf arguments = {0};
        if (i) rc |= buf_c(b, ',');
        rc |= x->job->stream ? buf_printf(b, "{\"index\":%zu,", i) : buf_c(b, '{');
        rc |= buf_printf(b, "\"id\":\"call_%llx_%u_%zu\",\"type\":\"function\",\"function\":{\"name\":",
                         (unsigned long long)x->job->call->number, x->index, i);
        rc |= json_write_string(b, x->calls[i].name);
        rc |= json_write(&arguments, x->calls[i].arguments);
        rc |= buf_z(b, ",\"arguments\":");
        rc |= json_write_string(b, buf_view(&arguments));
        rc |= buf_z(b, "}}");
        buf_fini(&arguments);
    }
    return rc | buf_c(b, ']');
}

/* Thinking, under both names that clients read. */
static int put_thinking(struct buf *b, struct str text)
{
    int rc = buf_z(b, "\"reasoning_content\":");
    rc |= json_write_string(b, text);
    rc |= buf_z(b, ",\"reasoning\":");
    return rc | json_write_string(b, text);
}

static int put_content(struct buf *b, struct str text)
{
    const int rc = buf_z(b, "\"content\":");
    return rc | json_write_string(b, text);
}

/* ---- streams ----------------------------------------------------------------------------------------------------------- */

static int put_chunk_head(const struct job *j, struct buf *b)
{
    const int rc = buf_z(b, "data: ");
    return rc | put_head(b, j, j->chat ? "chat.completion.chunk" : "text_completion");
}

/* Of one choice: what comes goes into its "delta", or is its "text". */
static int put_choice_head(struct choice *x, struct buf *b)
{
    x->n_chunks++;
    const int rc = put_chunk_head(x->job, b);
    return rc | buf_printf(b, ",\"choices\":[{\"index\":%u,", x->index);
}

static int token(struct choice *x, struct buf *b, enum part part, struct str text)
{
    const bool first = x->n_chunks == 0;
    int rc = put_choice_head(x, b);
    if (x->job->chat) {
        rc |= buf_printf(b, "\"delta\":{%s", first ? "\"role\":\"assistant\"," : "");
        rc |= part == PART_THINKING ? put_thinking(b, text) : put_content(b, text);
        rc |= buf_c(b, '}');
    } else {
        rc |= buf_z(b, "\"text\":");
        rc |= json_write_string(b, text);
    }
    rc |= put_logprobs(x, b);
    return rc | buf_z(b, ",\"finish_reason\":null}]}\n\n");
}

static int end(struct choice *x, struct buf *b)
{
    int rc = x->n_chunks == 0 ? token(x, b, PART_ANSWER, STR("")) : 0;
    if (x->n_calls) {
        rc |= put_choice_head(x, b);
        rc |= buf_z(b, "\"delta\":{");
        rc |= put_calls(x, b);
        rc |= buf_z(b, "},\"logprobs\":null,\"finish_reason\":null}]}\n\n");
    }
    rc |= put_choice_head(x, b);
    rc |= buf_z(b, x->job->chat ? "\"delta\":{}" : "\"text\":\"\"");
    rc |= put_logprobs(x, b); /* of what ended it, and of calls */
    return rc | buf_printf(b, ",\"finish_reason\":\"%s\"}]}\n\n", finish_reason(x));
}

static int close_stream(struct job *j, struct buf *b)
{
    int rc = 0;
    if (j->include_usage) {
        rc |= put_chunk_head(j, b);
        rc |= buf_z(b, ",\"choices\":[]");
        rc |= put_usage(j, b);
        rc |= buf_z(b, "}\n\n");
    }
    return rc | buf_z(b, "data: [DONE]\n\n");
}

static int fail_stream(struct buf *b, unsigned status, const char *message)
{
    int rc = buf_z(b, "data: ");
    rc |= openai_error(b, status, message);
    return rc | buf_z(b, "\n\ndata: [DONE]\n\n");
}

/* ---- whole answers ------------------------------------------------------------------------------------------------------ */

static int put_message(struct choice *x, struct buf *b)
{
    int rc = buf_z(b, "\"message\":{\"role\":\"assistant\",\"content\":");
    rc |= x->n_calls && x->text.n == 0 ? buf_z(b, "null") : json_write_string(b, buf_view(&x->text));
    if (x->thinking.n) {
        rc |= buf_c(b, ',');
        rc |= put_thinking(b, buf_view(&x->thinking));
    }
    if (x->n_calls) {
        rc |= buf_c(b, ',');
        rc |= put_calls(x, b);
    }
    return rc | buf_z(b, ",\"refusal\":null}");
}

static int put_choice(struct choice *x, struct buf *b)
{
    int rc = buf_printf(b, "{\"index\":%u,", x->index);
    if (x->job->chat) {
        rc |= put_message(x, b);
    } else {
        rc |= buf_z(b, "\"text\":");
        rc |= json_write_string(b, buf_view(&x->text));
    }
    rc |= put_logprobs(x, b);
    return rc | buf_printf(b, ",\"finish_reason\":\"%s\"}", finish_reason(x));
}

static int whole(struct job *j, struct buf *b)
{
    int rc = put_head(b, j, j->chat ? "chat.completion" : "text_completion");
    rc |= buf_z(b, ",\"choices\":[");
    for (uint32_t i = 0; i < j->n_choices; i++) {
        if (i) rc |= buf_c(b, ',');
        rc |= put_choice(&j->choices[i], b);
    }
    rc |= buf_c(b, ']');
    rc |= put_usage(j, b);
    return rc | buf_c(b, '}');
}

static const struct dialect dialect = {"text/event-stream", token, end, close_stream, whole, openai_error, fail_stream};

/* ---- requests ---------------------------------------------------------------------------------------------------------- */

/* "n", and that "best_of" asks for no more than these. */
static bool ask_n(struct call *c, const struct json *j, uint32_t n_prompts, uint32_t *out, int *answer)
{
    double n = 1, best_of = 1;
    if (!ask_choices(c, j, "n", n_prompts, &n, answer) || !ask_integer(c, j, "best_of", 1, INT32_MAX, &best_of, answer))
        return false;
    *out = (uint32_t)n;
    if (best_of <= n) return true;
    *answer = serve_error(c, 400, "\"best_of\": answers are not chosen from more than are given (\"n\")");
    return false;
}

static bool are_text(const struct json *modalities)
{
    bool text = !modalities || modalities->type == JSON_NULL || modalities->type == JSON_ARRAY;
    for (size_t i = 0; text && modalities && i < modalities->n; i++)
        text = modalities->v[i].type == JSON_STRING && str_is(modalities->v[i].s, "text");
    return text;
}

/* What would change the answer, and is not there: better no answer than another one. */
static bool refuse_unsupported(struct call *c, const struct json *j, int *answer)
{
    static const struct refused names[] = {
        {"functions", "is an older form of \"tools\", which is there"},
        {"function_call", "is an older form of \"tool_choice\", which is there"},
        {"audio", "is not supported: this server writes text"},
        {"web_search_options", "is not supported: nothing is searched"},
        {"moderation", "is not supported"},
    };
    struct str verbosity = {0};
    if (!ask_refused(c, j, names, COUNT_OF(names), answer)) return false;
    if (!are_text(json_find(j, "modalities"))) {
        *answer = serve_error(c, 400, "\"modalities\": this server writes text");
        return false;
    }
    if (!json_opt_str(j, "verbosity", &verbosity) || (verbosity.n && !str_is(verbosity, "medium"))) {
        *answer = serve_error(c, 400, "\"verbosity\" is not supported; say in the conversation how long answers are to be");
        return false;
    }
    struct str suffix = {0};
    if (json_opt_str(j, "suffix", &suffix) && suffix.n == 0) return true;
    *answer = serve_error(c, 400, "\"suffix\": filling in the middle is not supported");
    return false;
}

/* What chats and completions share; NULL with an answer where something is wrong. */
static struct job *read_request(struct call *c, bool chat, struct asked *asked, int *answer)
{
    bool stream = false, usage = false, logprobs = false;
    uint32_t n = 1, top = 0;
    const uint32_t n_prompts = chat ? 1 : ask_prompt_count(json_find(c->json, "prompt"));
    double max_tokens = chat ? -1 : 16, probs = -1; /* -1, of LM Studio and llama-server, too: no limit */
    const struct json *j = c->json, *options, *flag = json_find(j, "logprobs");
    if (!ask_object(c, j, "stream_options", &options, answer) || !ask_bool(c, j, "stream", &stream, answer) ||
        !ask_bool(c, options, "include_usage", &usage, answer) ||
        !ask_integer(c, j, "max_tokens", -1, INT32_MAX, &max_tokens, answer) ||
        !ask_integer(c, j, "max_completion_tokens", -1, INT32_MAX, &max_tokens, answer) ||
        !ask_bool(c, j, "ignore_eos", &asked->ignore_eos, answer) || !ask_n(c, j, n_prompts, &n, answer) ||
        !refuse_unsupported(c, j, answer) || !ask_stop(c, j, "stop", asked, answer) || !ask_sampling(c, j, asked, answer) ||
        !ask_context(c, j, asked, answer) || !ask_form(c, j, asked, answer) || !ask_loras(c, j, asked, answer))
        return NULL;
    /* Chats say true and how many; completions say how many. */
    if (flag && flag->type == JSON_INT) {
        if (!ask_number(c, j, "logprobs", 0, 20, &probs, answer)) return NULL;
        logprobs = true, top = (uint32_t)probs;
    } else if (!ask_bool(c, j, "logprobs", &logprobs, answer) || !ask_top(c, j, logprobs, &top, answer)) {
        return NULL;
    }
    if (max_tokens > 0) asked->max_tokens = (uint32_t)max_tokens;
    asked->prompt_only = max_tokens == 0;
    struct job *job = serve_new_job(c, &dialect, stream, n_prompts, n);
    char id[64];
    (void)snprintf(id, sizeof id, "%s-%llx%08llx", chat ? "chatcmpl" : "cmpl", (unsigned long long)c->server->started,
                   (unsigned long long)c->number);
    char *copy = serve_copy(c, str_of(id));
    if (!job || !copy) {
        *answer = serve_error(c, 500, "out of memory");
        return NULL;
    }
    job->id = copy;
    job->chat = chat;
    job->include_usage = usage;
    job->logprobs = logprobs;
    job->n_top = top;
    return job;
}

int openai_chat(struct call *c)
{
    struct asked asked = {0};
    int answer = 0;
    const struct json *extra;
    const char *kwargs;
    struct job *job = read_request(c, true, &asked, &answer);
    if (!job || !ask_object(c, c->json, "chat_template_kwargs", &extra, &answer)) return answer;
    const struct json *tools;
    const bool ok = ask_prediction(c, c->json, &asked, &answer) && ask_tools(c, c->json, &tools, &asked, &answer) &&
                    ask_thinking(c, c->json, "reasoning_effort", extra, &kwargs, &answer) &&
                    ask_chat(c, json_find(c->json, "messages"), tools, kwargs, &asked, &answer);
    return ok ? serve_job(c, job, &asked) : answer;
}

int openai_completions(struct call *c)
{
    struct asked asked = {0};
    int answer = 0;
    struct job *job = read_request(c, false, &asked, &answer);
    if (!job || !ask_bool(c, c->json, "echo", &job->echo, &answer) ||
        !ask_prompts(c, "prompt", json_find(c->json, "prompt"), &asked, &answer))
        return answer;
    return serve_job(c, job, &asked);
}

static int put_model(struct call *c, struct buf *b)
{
    const struct server *s = c->server;
    int rc = buf_z(b, "{\"id\":");
    rc |= json_write_string(b, str_of(s->name));
    rc |= buf_printf(b, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"quern\",\"meta\":{", (long long)s->started);
    return rc | buf_printf(b, "\"n_vocab\":%u,\"n_ctx_train\":%u,\"n_embd\":%u,\"n_params\":%llu,\"size\":%llu}}",
                           s->info.n_vocab, s->info.n_ctx_train, s->info.n_embd, (unsigned long long)s->info.parameters,
                           (unsigned long long)s->info.weight_bytes);
}

int openai_models(struct call *c)
{
    struct buf b = {0};
    const char *name = strncmp(c->path, "/v1/models/", 11) == 0 ? c->path + 11 : NULL;
    if (name && strcmp(name, c->server->name) != 0) return serve_error(c, 404, "the model \"%.200s\" is not there", name);
    if (name) return serve_json(c, 200, &b, put_model(c, &b));
    int rc = buf_z(&b, "{\"object\":\"list\",\"data\":[");
    rc |= put_model(c, &b);
    return serve_json(c, 200, &b, rc | buf_z(&b, "]}"));
}
