/* ask: what all dialects have in common in a request: numbers with ranges, stop strings, sampling, prompts. */
#include "serve.h"

#include <math.h>
#include <stdio.h>

bool ask_number(struct call *c, const struct json *obj, const char *key, double min, double max, double *io, int *answer)
{
    const struct json *j = json_find(obj, key);
    if (!j || j->type == JSON_NULL) return true;
    if ((j->type == JSON_INT || j->type == JSON_REAL) && j->f >= min && j->f <= max) {
        *io = j->f;
        return true;
    }
    *answer = serve_error(c, 400, "\"%s\" must be a number from %.16g to %.16g", key, min, max);
    return false;
}

bool ask_integer(struct call *c, const struct json *obj, const char *key, double min, double max, double *io, int *answer)
{
    double v = *io;
    if (!ask_number(c, obj, key, min, max, &v, answer)) return false;
    if (v != floor(v)) {
        *answer = serve_error(c, 400, "\"%s\" must be a whole number", key);
        return false;
    }
    *io = v;
    return true;
}

bool ask_object(struct call *c, const struct json *obj, const char *key, const struct json **out, int *answer)
{
    const struct json *j = json_find(obj, key);
    *out = j && j->type != JSON_NULL ? j : NULL;
    if (!*out || j->type == JSON_OBJECT) return true;
    *answer = serve_error(c, 400, "\"%s\" must be an object", key);
    return false;
}

bool ask_bool(struct call *c, const struct json *obj, const char *key, bool *io, int *answer)
{
    if (json_opt_bool(obj, key, io)) return true;
    *answer = serve_error(c, 400, "\"%s\" must be true or false", key);
    return false;
}

bool ask_refused(struct call *c, const struct json *obj, const struct refused *names, size_t n, int *answer)
{
    for (size_t i = 0; i < n; i++) {
        const struct json *j = json_find(obj, names[i].key);
        if (!j || j->type == JSON_NULL || (j->type == JSON_STRING && !j->s.n) || (j->type == JSON_ARRAY && !j->n)) continue;
        *answer = serve_error(c, 400, "\"%s\" %s", names[i].key, names[i].why);
        return false;
    }
    return true;
}

bool ask_top(struct call *c, const struct json *obj, bool logprobs, uint32_t *out, int *answer)
{
    double top = 0;
    if (!ask_integer(c, obj, "top_logprobs", 0, 20, &top, answer)) return false;
    *out = (uint32_t)top;
    if (logprobs || top == 0) return true;
    *answer = serve_error(c, 400, "\"top_logprobs\" needs \"logprobs\"");
    return false;
}

bool ask_is_text(const struct json *j)
{
    return j->type == JSON_STRING && !str_has(j->s, (struct str){"", 1});
}

static bool add_stop(struct call *c, const struct json *j, struct asked *out)
{
    if (!ask_is_text(j) || out->n_stop == COUNT_OF(out->stop)) return false;
    if (j->s.n == 0) return true;
    return (out->stop[out->n_stop++] = serve_copy(c, j->s)) != NULL;
}

bool ask_stop(struct call *c, const struct json *obj, const char *key, struct asked *out, int *answer)
{
    const struct json *j = json_find(obj, key);
    bool ok = true;
    if (!j || j->type == JSON_NULL) return true;
    if (j->type == JSON_ARRAY)
        for (size_t i = 0; ok && i < j->n; i++) ok = add_stop(c, &j->v[i], out);
    else
        ok = add_stop(c, j, out);
    if (!ok)
        *answer = serve_error(c, 400, "\"%s\" must be a string or an array of at most %zu strings, without NUL", key,
                              COUNT_OF(out->stop));
    return ok;
}

bool ask_context(struct call *c, const struct json *obj, struct asked *out, int *answer)
{
    struct str name = {0};
    double n_keep = 0;
    char text[32];
    out->context_policy = c->server->o.context_policy;
    if (!ask_integer(c, obj, "n_keep", -1, INT32_MAX, &n_keep, answer)) return false;
    out->n_keep = n_keep < 0 ? UINT32_MAX : (uint32_t)n_keep;
    bool ok = json_opt_str(obj, "context_policy", &name) && name.n < sizeof text;
    if (ok && name.n == 0) return true;
    (void)snprintf(text, sizeof text, "%.*s", STR_ARG(name));
    ok = ok && quern_context_policy_named(text, &out->context_policy);
    if (!ok) *answer = serve_error(c, 400, "\"context_policy\" must be \"error\", \"drop-oldest-turn\" or \"shift\"");
    return ok;
}

/* ---- thinking ---------------------------------------------------------------------------------------------------------- */

/* Members of own, then of extra, which comes last and so holds where both say something. */
static int put_kwargs(struct buf *b, struct str own, const struct json *extra)
{
    const size_t n = extra ? extra->n : 0;
    int rc = buf_c(b, '{') | buf_str(b, own);
    for (size_t i = 0; i < n; i++) {
        rc |= buf_z(b, i || own.n ? "," : "");
        rc |= json_write_string(b, extra->keys[i]);
        rc |= buf_c(b, ':');
        rc |= json_write(b, &extra->v[i]);
    }
    return rc | buf_z(b, "}");
}

bool ask_thinking(struct call *c, const struct json *obj, const char *key, const struct json *extra, const char **kwargs,
                  int *answer)
{
    static const struct {
        const char *effort, *members; /* of gpt-oss's templates and of those that know on and off */
    } efforts[] = {
        {"none", "\"enable_thinking\":false"},
        {"minimal", "\"enable_thinking\":true,\"reasoning_effort\":\"minimal\""},
        {"low", "\"enable_thinking\":true,\"reasoning_effort\":\"low\""},
        {"medium", "\"enable_thinking\":true,\"reasoning_effort\":\"medium\""},
        {"high", "\"enable_thinking\":true,\"reasoning_effort\":\"high\""},
    };
    const struct json *j = json_find(obj, key);
    const char *own = NULL;
    struct buf b = {0};
    *kwargs = NULL;
    if (!j || j->type == JSON_NULL) own = "";
    if (j && j->type == JSON_TRUE) own = "\"enable_thinking\":true";
    if (j && j->type == JSON_FALSE) own = efforts[0].members;
    for (size_t i = 0; j && j->type == JSON_STRING && i < COUNT_OF(efforts); i++)
        if (str_is(j->s, efforts[i].effort)) own = efforts[i].members;
    if (!own) {
        *answer = serve_error(c, 400, "\"%s\" must be true, false, none, minimal, low, medium or high", key);
        return false;
    }
    if (!*own && !extra) return true;
    if (put_kwargs(&b, str_of(own), extra) == 0) *kwargs = serve_copy(c, buf_view(&b));
    buf_fini(&b);
    if (!*kwargs) *answer = serve_error(c, 500, "out of memory");
    return *kwargs != NULL;
}

/* ---- conversations ---------------------------------------------------------------------------------------------------------
 */

static bool wrong_message(struct call *c, size_t i, const char *fault, struct str what, int *answer)
{
    *answer = serve_error(c, 400, "\"messages\": message %zu %s%.*s%s", i, fault, STR_ARG(what), what.n ? "\"" : "");
    return false;
}

/* The text of a part of a message's content; a refusal is one, too. */
static bool part_text(const struct json *part, struct str *type, struct str *text)
{
    if (!json_opt_str(part, "type", type) || type->n == 0) return false;
    const bool refusal = str_is(*type, "refusal");
    return (refusal || str_is(*type, "text")) && json_opt_str(part, refusal ? "refusal" : "text", text);
}

static bool check_content(struct call *c, size_t i, const struct json *content, int *answer)
{
    if (!content || content->type == JSON_STRING || content->type == JSON_NULL) return true;
    if (content->type != JSON_ARRAY)
        return wrong_message(c, i, "has content that is neither a text nor an array", STR(""), answer);
    for (size_t k = 0; k < content->n; k++) {
        const struct json *part = &content->v[k];
        struct str type = {0}, text = {0};
        if (part_text(part, &type, &text)) continue;
        if (type.n && !str_is(type, "text") && !str_is(type, "refusal"))
            return wrong_message(c, i, "has content that this server does not take, which reads text only: \"", type, answer);
        return wrong_message(c, i, "has content with a part that is not {\"type\":\"text\",\"text\":...}", STR(""), answer);
    }
    return true;
}

bool ask_images(struct call *c, const struct json *obj, int *answer)
{
    const struct json *images = json_find(obj, "images");
    if (!images || images->type == JSON_NULL || (images->type == JSON_ARRAY && images->n == 0)) return true;
    *answer = serve_error(c, 400, "\"images\": this server reads text only");
    return false;
}

static bool check_messages(struct call *c, const struct json *messages, int *answer)
{
    const bool ok = messages && messages->type == JSON_ARRAY && messages->n > 0;
    if (!ok)
        *answer = serve_error(c, 400, "\"messages\" must be an array of at least one object with a role and a text as content");
    for (size_t i = 0; ok && i < messages->n; i++) {
        const struct json *m = &messages->v[i];
        struct str role = {0};
        if (m->type != JSON_OBJECT || !json_opt_str(m, "role", &role) || role.n == 0)
            return wrong_message(c, i, "is no object with a role", STR(""), answer);
        if (!check_content(c, i, json_find(m, "content"), answer) || !ask_images(c, m, answer)) return false;
    }
    return ok;
}

bool ask_content(struct buf *text, const struct json *content)
{
    bool ok = true;
    if (content && content->type == JSON_STRING) return buf_str(text, content->s) == 0;
    for (size_t i = 0; ok && content && i < content->n; i++) {
        struct str type = {0}, part = {0};
        ok = part_text(&content->v[i], &type, &part) && buf_str(text, part) == 0;
    }
    return ok;
}

/* Content as one string; null where a message has only tool calls. */
static bool put_content(struct buf *b, const struct json *content)
{
    struct buf text = {0};
    if (content->type != JSON_ARRAY) return json_write(b, content) == 0;
    const bool ok = ask_content(&text, content) && json_write_string(b, buf_view(&text)) == 0;
    buf_fini(&text);
    return ok;
}

/* A tool call, whose arguments OpenAI's clients send as the text of a JSON object, and templates want as the object. */
static bool put_tool_call(struct call *c, struct buf *b, const struct json *call)
{
    bool ok = buf_c(b, '{') == 0;
    for (size_t i = 0; ok && i < call->n; i++) {
        const struct json *v = &call->v[i];
        if (i) ok = buf_c(b, ',') == 0;
        ok = ok && json_write_string(b, call->keys[i]) == 0 && buf_c(b, ':') == 0;
        struct json *object = NULL;
        struct err e;
        if (v->type == JSON_OBJECT && str_is(call->keys[i], "function"))
            ok = ok && put_tool_call(c, b, v);
        else if (v->type == JSON_STRING && str_is(call->keys[i], "arguments") &&
                 json_parse(&c->arena, v->s, "arguments", &object, &e) == 0)
            ok = ok && json_write(b, object) == 0;
        else
            ok = ok && json_write(b, v) == 0;
    }
    return ok && buf_c(b, '}') == 0;
}

static bool put_tool_calls(struct call *c, struct buf *b, const struct json *calls)
{
    bool ok = buf_c(b, '[') == 0;
    for (size_t i = 0; ok && i < calls->n; i++) {
        if (i) ok = buf_c(b, ',') == 0;
        ok = ok && (calls->v[i].type == JSON_OBJECT ? put_tool_call(c, b, &calls->v[i]) : json_write(b, &calls->v[i]) == 0);
    }
    return ok && buf_c(b, ']') == 0;
}

static bool put_message(struct call *c, struct buf *b, const struct json *m)
{
    struct str role = {0}, refusal = {0};
    const struct json *content = json_find(m, "content");
    bool ok = json_opt_str(m, "role", &role) && buf_c(b, '{') == 0;
    if ((content && content->type != JSON_NULL) || !json_opt_str(m, "refusal", &refusal)) refusal.n = 0;
    for (size_t i = 0; ok && i < m->n; i++) {
        const struct json *v = &m->v[i];
        if (i) ok = buf_c(b, ',') == 0;
        ok = ok && json_write_string(b, m->keys[i]) == 0 && buf_c(b, ':') == 0;
        if (str_is(m->keys[i], "content"))
            ok = ok && (refusal.n ? json_write_string(b, refusal) == 0 : put_content(b, v));
        else if (str_is(m->keys[i], "role") && str_is(role, "developer")) /* OpenAI's newer name */
            ok = ok && buf_z(b, "\"system\"") == 0;
        else if (str_is(m->keys[i], "tool_calls") && v->type == JSON_ARRAY)
            ok = ok && put_tool_calls(c, b, v);
        else
            ok = ok && json_write(b, v) == 0;
    }
    return ok && buf_c(b, '}') == 0;
}

static bool put_messages(struct call *c, struct buf *b, const struct json *messages)
{
    bool ok = buf_c(b, '[') == 0;
    for (size_t i = 0; ok && i < messages->n; i++) ok = (i == 0 || buf_c(b, ',') == 0) && put_message(c, b, &messages->v[i]);
    return ok && buf_c(b, ']') == 0;
}

static bool opens_thinking(struct str prompt)
{
    while (prompt.n && (prompt.p[prompt.n - 1] == '\n' || prompt.p[prompt.n - 1] == ' ')) prompt.n--;
    return str_ends(prompt, STR("<think>"));
}

/* Tokens that a conversation may have beside its answer, for which a quarter of the context is kept where it has no limit. */
static size_t prompt_room(const struct call *c, const struct asked *a)
{
    quern_engine_info i;
    quern_engine_get_info(c->server->engine, &i);
    const uint32_t answer = a->max_tokens ? a->max_tokens : i.n_ctx / 4;
    return answer < i.n_ctx ? i.n_ctx - answer : 0;
}

/* Leaves turns out where that is asked for; text is the conversation with a NUL. */
static int fit_messages(struct call *c, struct buf *text, const quern_render_options *ro, struct asked *a, quern_error *err)
{
    quern_string fitted;
    if (a->context_policy != QUERN_CONTEXT_DROP_OLDEST_TURN) return 0;
    const int rc = quern_fit_messages(c->server->model, text->p, ro, prompt_room(c, a), &fitted, &a->dropped_messages,
                                      &a->dropped_tokens, err);
    if (rc < 0) return rc;
    text->n = 0;
    const int put = buf_put(text, fitted.text, fitted.length + 1);
    quern_string_free(&fitted);
    *err = (quern_error){.code = put, .message = "out of memory"};
    return put;
}

bool ask_render(struct call *c, const struct json *messages, const struct json *tools, const char *kwargs, struct asked *out,
                quern_string *prompt, int *answer)
{
    struct buf text = {0}, tools_text = {0};
    quern_error err;
    if (tools && tools->type == JSON_NULL) tools = NULL;
    if (!check_messages(c, messages, answer)) return false;
    const bool in_words = tool_text_needed(c, messages, tools);
    bool ok = in_words ? tool_text_put(&text, messages, tools) : put_messages(c, &text, messages);
    ok = ok && buf_c(&text, 0) == 0;
    out->tools = tools && tools->n > 0;
    if (out->tools) ok = ok && json_write(&tools_text, tools) == 0 && buf_c(&tools_text, 0) == 0;
    const quern_render_options ro = {
        .add_generation_prompt = true, .tools_json = out->tools ? tools_text.p : NULL, .kwargs_json = kwargs};
    if (!ok)
        *answer = serve_error(c, 500, "out of memory");
    else if (fit_messages(c, &text, &ro, out, &err) < 0 || quern_render(c->server->model, text.p, &ro, prompt, &err) < 0)
        ok = false, *answer = serve_failure(c, &err);
    buf_fini(&text);
    buf_fini(&tools_text);
    return ok;
}

bool ask_chat(struct call *c, const struct json *messages, const struct json *tools, const char *kwargs, struct asked *out,
              int *answer)
{
    quern_string text = {0};
    if (!ask_render(c, messages, tools, kwargs, out, &text, answer)) return false;
    const struct str prompt = {text.text, text.length};
    out->split = true;
    out->opened = opens_thinking(prompt);
    bool ok = ask_hold_calls(c, out, answer);
    if (out->opened) out->form.after = "</think>";
    ok = ok && ask_text(c, prompt, QUERN_PARSE_SPECIAL, out, answer);
    quern_string_free(&text);
    return ok;
}
