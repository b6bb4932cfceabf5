/* ollama: the paths below /api, as Ollama's clients expect them. Streams are lines of JSON and the default. */
#include "serve.h"

#include <stdio.h>
#include <time.h>

#define VERSION "0.13.0" /* of Ollama, whose interface this is: clients ask */

int ollama_error(struct buf *b, unsigned status, const char *message)
{
    (void)status;
    int rc = buf_z(b, "{\"error\":");
    rc |= json_write_string(b, str_of(message));
    return rc | buf_c(b, '}');
}

static int put_time(struct buf *b, int64_t seconds)
{
    const time_t t = (time_t)seconds;
    struct tm tm;
    char text[32] = "1970-01-01T00:00:00Z";
    if (gmtime_r(&t, &tm)) (void)strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
    return buf_printf(b, "\"%s\"", text);
}

static int put_calls(const struct choice *x, struct buf *b)
{
    int rc = buf_z(b, ",\"tool_calls\":[");
    for (size_t i = 0; i < x->n_calls; i++) {
        rc |= buf_printf(b, "%s{\"function\":{\"index\":%zu,\"name\":", i ? "," : "", i);
        rc |= json_write_string(b, x->calls[i].name);
        rc |= buf_z(b, ",\"arguments\":");
        rc |= json_write(b, x->calls[i].arguments);
        rc |= buf_z(b, "}}");
    }
    return rc | buf_c(b, ']');
}

/* {"model":..,"created_at":.., and the text where this kind of answer has it. */
static int put_line(struct choice *x, struct buf *b, struct str thinking, struct str text, bool calls)
{
    const struct job *j = x->job;
    int rc = buf_z(b, "{\"model\":");
    rc |= json_write_string(b, str_of(j->call->server->name));
    rc |= buf_z(b, ",\"created_at\":");
    rc |= put_time(b, clock_utc());
    rc |= buf_z(b, j->chat ? ",\"message\":{\"role\":\"assistant\",\"content\":" : ",\"response\":");
    rc |= json_write_string(b, text);
    if (thinking.n) {
        rc |= buf_z(b, ",\"thinking\":");
        rc |= json_write_string(b, thinking);
    }
    if (calls) rc |= put_calls(x, b);
    if (j->chat) rc |= buf_c(b, '}');
    if (!j->logprobs) return rc;
    rc |= buf_z(b, ",\"logprobs\":");
    return rc | serve_new_probs(x, b);
}

static int token(struct choice *x, struct buf *b, enum part part, struct str text)
{
    const bool thinking = part == PART_THINKING;
    const int rc = put_line(x, b, thinking ? text : STR(""), thinking ? STR("") : text, false);
    return rc | buf_z(b, ",\"done\":false}\n");
}

static unsigned long long ns(double seconds)
{
    return (unsigned long long)(seconds * 1e9);
}

static int put_end(struct choice *x, struct buf *b, struct str thinking, struct str text)
{
    const struct job *j = x->job;
    const quern_result *r = &x->r.result;
    const bool length = r->stop == QUERN_STOP_LENGTH || r->stop == QUERN_STOP_CONTEXT;
    int rc = put_line(x, b, thinking, text, x->n_calls && !j->stream);
    rc |=
        buf_printf(b,
                   ",\"done\":true,\"done_reason\":\"%s\",\"total_duration\":%llu,\"load_duration\":0,\"prompt_eval_count\":%u,"
                   "\"prompt_eval_duration\":%llu,\"eval_count\":%u,\"eval_duration\":%llu",
                   length ? "length" : "stop", (unsigned long long)(clock_ns() - j->call->start), r->n_prompt,
                   ns(r->prefill_seconds), r->n_generated, ns(r->decode_seconds));
    rc |= buf_printf(b, ",\"prompt_eval_cached\":%u", r->n_reused);
    if (j->asked.context_policy != QUERN_CONTEXT_ERROR)
        rc |= buf_printf(b, ",\"dropped_messages\":%u,\"dropped_tokens\":%u", j->asked.dropped_messages,
                         j->asked.dropped_tokens + r->dropped_tokens);
    return rc | buf_c(b, '}');
}

static int end(struct choice *x, struct buf *b)
{
    int rc = 0;
    if (x->n_calls) {
        rc |= put_line(x, b, STR(""), STR(""), true);
        rc |= buf_z(b, ",\"done\":false}\n");
    }
    rc |= put_end(x, b, STR(""), STR(""));
    return rc | buf_c(b, '\n');
}

static int whole(struct job *j, struct buf *b)
{
    struct choice *x = &j->choices[0];
    return put_end(x, b, buf_view(&x->thinking), buf_view(&x->text));
}

static int fail_stream(struct buf *b, unsigned status, const char *message)
{
    const int rc = ollama_error(b, status, message);
    return rc | buf_c(b, '\n');
}

static const struct dialect dialect = {"application/x-ndjson", token, end, NULL, whole, ollama_error, fail_stream};

/* ---- requests ---------------------------------------------------------------------------------------------------------- */

/* "truncate" and "shift" mean the policies where they are true; what is not said, or "context_policy", is as everywhere. */
static bool ask_policy(struct call *c, struct asked *asked, int *answer)
{
    bool truncate = false, shift = false;
    if (!ask_context(c, c->json, asked, answer) || !ask_bool(c, c->json, "truncate", &truncate, answer) ||
        !ask_bool(c, c->json, "shift", &shift, answer))
        return false;
    if (shift) asked->context_policy = QUERN_CONTEXT_SHIFT;
    if (truncate) asked->context_policy = QUERN_CONTEXT_DROP_OLDEST_TURN;
    return true;
}

static struct job *read_request(struct call *c, bool chat, struct asked *asked, int *answer)
{
    bool stream = true, logprobs = false;
    double num_predict = -1, keep = 0;
    uint32_t top = 0;
    const struct json *j = c->json, *options;
    if (!ask_object(c, j, "options", &options, answer) || !ask_bool(c, j, "stream", &stream, answer) ||
        !ask_bool(c, j, "logprobs", &logprobs, answer) || !ask_top(c, j, logprobs, &top, answer) ||
        !ask_integer(c, options, "num_predict", -2, INT32_MAX, &num_predict, answer) ||
        !ask_stop(c, options, "stop", asked, answer) || !ask_sampling(c, options, asked, answer) ||
        !ask_policy(c, asked, answer) || !ask_integer(c, options, "num_keep", -1, INT32_MAX, &keep, answer) ||
        !ask_form(c, j, asked, answer) || !ask_images(c, j, answer))
        return NULL;
    if (num_predict > 0) asked->max_tokens = (uint32_t)num_predict;
    if (keep != 0) asked->n_keep = keep < 0 ? UINT32_MAX : (uint32_t)keep;
    struct job *job = serve_new_job(c, &dialect, stream, 1, 1);
    if (!job) {
        *answer = serve_error(c, 500, "out of memory");
        return NULL;
    }
    job->chat = chat;
    job->logprobs = logprobs;
    job->n_top = top;
    return job;
}

/* Without a prompt a request only loads or unloads the model, which is always there. */
static int loaded(struct call *c, bool chat)
{
    struct buf b = {0};
    int rc = buf_z(&b, "{\"model\":");
    rc |= json_write_string(&b, str_of(c->server->name));
    rc |= buf_z(&b, ",\"created_at\":");
    rc |= put_time(&b, clock_utc());
    rc |= buf_z(&b, chat ? ",\"message\":{\"role\":\"assistant\",\"content\":\"\"}" : ",\"response\":\"\"");
    return serve_json(c, 200, &b, rc | buf_z(&b, ",\"done\":true,\"done_reason\":\"load\"}\n"));
}

int ollama_chat(struct call *c)
{
    struct asked asked = {0};
    int answer = 0;
    const struct json *messages = json_find(c->json, "messages");
    if (!messages || (messages->type == JSON_ARRAY && messages->n == 0)) return loaded(c, true);
    struct job *job = read_request(c, true, &asked, &answer);
    const struct json *tools;
    const char *kwargs;
    if (!job || !ask_tools(c, c->json, &tools, &asked, &answer) || !ask_thinking(c, c->json, "think", NULL, &kwargs, &answer) ||
        !ask_chat(c, messages, tools, kwargs, &asked, &answer))
        return answer;
    return serve_job(c, job, &asked);
}

/* The prompt as the user's message of a conversation. */
static const struct json *conversation(struct call *c, struct str prompt, struct str system)
{
    struct buf b = {0};
    struct json *messages = NULL;
    struct err e;
    int rc = buf_c(&b, '[');
    if (system.n) {
        rc |= buf_z(&b, "{\"role\":\"system\",\"content\":");
        rc |= json_write_string(&b, system);
        rc |= buf_z(&b, "},");
    }
    rc |= buf_z(&b, "{\"role\":\"user\",\"content\":");
    rc |= json_write_string(&b, prompt);
    rc |= buf_z(&b, "}]");
    char *text = rc == 0 ? serve_copy(c, buf_view(&b)) : NULL;
    const size_t n = b.n;
    buf_fini(&b);
    return text && json_parse(&c->arena, (struct str){text, n}, "messages", &messages, &e) == 0 ? messages : NULL;
}

int ollama_generate(struct call *c)
{
    static const struct refused names[] = {
        {"template", "is not supported: prompts are made by the model's own template, or whole with \"raw\""},
        {"context", "is not supported: send the conversation to /api/chat"},
        {"suffix", "needs filling in the middle, which is not supported"},
    };
    struct asked asked = {0};
    struct str prompt = {0}, system = {0};
    int answer = 0;
    bool raw = false;
    if (!json_opt_str(c->json, "prompt", &prompt) || !json_opt_str(c->json, "system", &system) ||
        !json_opt_bool(c->json, "raw", &raw))
        return serve_error(c, 400, "\"prompt\" and \"system\" must be strings, \"raw\" true or false");
    if (!ask_refused(c, c->json, names, COUNT_OF(names), &answer)) return answer;
    if (prompt.n == 0) return loaded(c, false);
    struct job *job = read_request(c, false, &asked, &answer);
    if (!job) return answer;
    const char *kwargs;
    if (!ask_thinking(c, c->json, "think", NULL, &kwargs, &answer)) return answer;
    raw = raw || !c->server->info.has_chat_template;
    const bool ok = raw ? ask_text(c, prompt, QUERN_ADD_SPECIAL | QUERN_PARSE_SPECIAL, &asked, &answer)
                        : ask_chat(c, conversation(c, prompt, system), NULL, kwargs, &asked, &answer);
    return ok ? serve_job(c, job, &asked) : answer;
}

/* ---- the model --------------------------------------------------------------------------------------------------------- */

int ollama_root(struct call *c)
{
    struct buf b = {0};
    return serve_text(c, 200, "text/plain; charset=utf-8", &b, buf_z(&b, "Ollama is running"));
}

int ollama_version(struct call *c)
{
    struct buf b = {0};
    return serve_json(c, 200, &b, buf_printf(&b, "{\"version\":\"" VERSION "\",\"quern\":\"%s\"}", quern_version()));
}

static int put_details(struct call *c, struct buf *b)
{
    const quern_model_info *i = &c->server->info;
    const char *format = strncmp(i->file_kind, "GGUF", 4) == 0 ? "gguf" : "safetensors";
    const double p = (double)i->parameters;
    int rc = buf_printf(b, "{\"parent_model\":\"\",\"format\":\"%s\",\"family\":\"%s\",\"families\":[\"%s\"],", format,
                        i->architecture, i->architecture);
    rc |= p >= 1e9 ? buf_printf(b, "\"parameter_size\":\"%.1fB\",", p * 1e-9)
                   : buf_printf(b, "\"parameter_size\":\"%.0fM\",", p * 1e-6);
    rc |= buf_z(b, "\"quantization_level\":\"");
    for (const char *t = i->weight_type; *t; t++) rc |= buf_c(b, *t >= 'a' && *t <= 'z' ? (char)(*t - 32) : *t);
    return rc | buf_z(b, "\"}");
}

static int put_name(struct call *c, struct buf *b)
{
    int rc = buf_z(b, "\"name\":");
    rc |= json_write_string(b, str_of(c->server->name));
    rc |= buf_z(b, ",\"model\":");
    rc |= json_write_string(b, str_of(c->server->name));
    return rc | buf_printf(b, ",\"size\":%llu,\"digest\":\"%s\",\"details\":", (unsigned long long)c->server->info.weight_bytes,
                           c->server->digest);
}

int ollama_tags(struct call *c)
{
    struct buf b = {0};
    int rc = buf_z(&b, "{\"models\":[{");
    rc |= put_name(c, &b);
    rc |= put_details(c, &b);
    rc |= buf_z(&b, ",\"modified_at\":");
    rc |= put_time(&b, c->server->started);
    return serve_json(c, 200, &b, rc | buf_z(&b, "}]}"));
}

int ollama_ps(struct call *c)
{
    struct buf b = {0};
    quern_engine_info i;
    quern_engine_get_info(c->server->engine, &i);
    int rc = buf_z(&b, "{\"models\":[{");
    rc |= put_name(c, &b);
    rc |= put_details(c, &b);
    rc |= buf_printf(&b, ",\"size_vram\":0,\"context_length\":%u,\"expires_at\":\"2318-01-01T00:00:00Z\"", i.n_ctx);
    return serve_json(c, 200, &b, rc | buf_z(&b, "}]}"));
}

int ollama_show(struct call *c)
{
    struct buf b = {0};
    struct json *all = NULL;
    struct err e;
    if (json_parse(&c->arena, str_of(c->server->description), "the description", &all, &e) < 0)
        return serve_error(c, 500, "%s", e.msg);
    const struct json *metadata = json_find(all, "metadata"), *template = json_find(all, "chat_template");
    int rc = buf_z(&b, "{\"modelfile\":\"\",\"parameters\":\"\",\"template\":");
    rc |= template && template->type == JSON_STRING ? json_write(&b, template) : buf_z(&b, "\"\"");
    rc |= buf_z(&b, ",\"details\":");
    rc |= put_details(c, &b);
    rc |= buf_z(&b, ",\"model_info\":");
    rc |= metadata ? json_write(&b, metadata) : buf_z(&b, "{}");
    rc |= buf_printf(&b, ",\"capabilities\":[\"%s\"],\"modified_at\":",
                     c->server->info.embeds_only     ? "embedding"
                     : c->server->template_has_tools ? "completion\",\"tools"
                                                     : "completion");
    rc |= put_time(&b, c->server->started);
    return serve_json(c, 200, &b, rc | buf_c(&b, '}'));
}
