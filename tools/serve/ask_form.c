/* ask_form: the form of the answer, and calls of tools as a part of it. Where the calls are held to something, the answer is
 * "free text or calls", "the form or calls" or only calls, written as the parts of src/grammar/gram_parts.c in the notation
 * that the model has for calls (tool_calls.c). */
#include "serve.h"

/* ---- forms --------------------------------------------------------------------------------------------------------------- */

static bool set_form(struct call *c, struct asked *out, quern_form_kind kind, const char *key, const char *text, int *answer)
{
    quern_error err = {0};
    if (out->form.kind != QUERN_FORM_FREE) {
        *answer = serve_error(c, 400, "\"%s\": an answer has one form, and another one was given already", key);
        return false;
    }
    out->form = (quern_form){.kind = kind, .text = text};
    if (kind != QUERN_FORM_JSON && !text) {
        *answer = serve_error(c, 500, "out of memory");
        return false;
    }
    if (quern_form_check(&out->form, &err) == 0) return true;
    *answer = serve_error(c, err.code == QUERN_ERR_NOMEM ? 500 : 400, "\"%s\": %s", key, err.message);
    return false;
}

/* A JSON Schema that is a member of the request. */
static bool set_schema(struct call *c, struct asked *out, const char *key, const struct json *schema, int *answer)
{
    struct buf b = {0};
    const char *text = json_write(&b, schema) == 0 ? serve_copy(c, buf_view(&b)) : NULL;
    buf_fini(&b);
    return set_form(c, out, QUERN_FORM_SCHEMA, key, text, answer);
}

static bool wrong_form(struct call *c, const char *key, const char *expected, int *answer)
{
    *answer = serve_error(c, 400, "\"%s\" must be %s", key, expected);
    return false;
}

static bool ask_grammar_text(struct call *c, const struct json *j, struct asked *out, int *answer)
{
    if (!ask_is_text(j)) return wrong_form(c, "grammar", "a string without NUL", answer);
    return j->s.n == 0 || set_form(c, out, QUERN_FORM_GBNF, "grammar", serve_copy(c, j->s), answer);
}

static bool ask_json_schema(struct call *c, const struct json *j, struct asked *out, int *answer)
{
    return set_schema(c, out, "json_schema", j, answer);
}

/* Ollama's: "json", or a schema. */
static bool ask_format(struct call *c, const struct json *j, struct asked *out, int *answer)
{
    if (j->type == JSON_STRING && j->s.n == 0) return true;
    if (j->type == JSON_STRING && str_is(j->s, "json")) return set_form(c, out, QUERN_FORM_JSON, "format", NULL, answer);
    if (j->type != JSON_OBJECT) return wrong_form(c, "format", "\"json\" or a JSON Schema", answer);
    return set_schema(c, out, "format", j, answer);
}

/* OpenAI's; llama-server also takes the schema of a json_object. */
static bool ask_response_format(struct call *c, const struct json *j, struct asked *out, int *answer)
{
    static const char key[] = "response_format";
    const struct json *outer = json_find(j, "json_schema"), *schema = json_find(outer, "schema");
    struct str type = {0};
    (void)json_opt_str(j, "type", &type);
    if (str_is(type, "text")) return true;
    if (str_is(type, "json_object")) {
        schema = json_find(j, "schema");
        return schema ? set_schema(c, out, key, schema, answer) : set_form(c, out, QUERN_FORM_JSON, key, NULL, answer);
    }
    if (!str_is(type, "json_schema"))
        return wrong_form(c, key, "an object whose \"type\" is text, json_object or json_schema", answer);
    if (!schema) return wrong_form(c, key, "{\"type\":\"json_schema\",\"json_schema\":{\"schema\":...}}", answer);
    return set_schema(c, out, key, schema, answer);
}

bool ask_form(struct call *c, const struct json *obj, struct asked *out, int *answer)
{
    static const struct {
        const char *key;
        bool (*ask)(struct call *c, const struct json *j, struct asked *out, int *answer);
    } keys[] = {{"grammar", ask_grammar_text},
                {"json_schema", ask_json_schema},
                {"format", ask_format},
                {"response_format", ask_response_format}};
    for (size_t i = 0; i < COUNT_OF(keys); i++) {
        const struct json *j = json_find(obj, keys[i].key);
        if (j && j->type != JSON_NULL && !keys[i].ask(c, j, out, answer)) return false;
    }
    return true;
}

/* ---- calls of tools ------------------------------------------------------------------------------------------------------ */

static struct str function_name(const struct json *tool)
{
    struct str name = {0};
    (void)json_opt_str(json_find(tool, "function"), "name", &name);
    return name;
}

static bool is_strict(const struct json *tool)
{
    const struct json *strict = json_find(json_find(tool, "function"), "strict");
    return strict && strict->type == JSON_TRUE;
}

static bool has_function(const struct json *tools, struct str name)
{
    for (size_t i = 0; tools && i < tools->n; i++)
        if (str_eq(function_name(&tools->v[i]), name)) return true;
    return false;
}

bool ask_is_tool(const struct call *c, struct str name)
{
    return has_function(json_find(c->json, "tools"), name);
}

static bool may_call(const struct calls *calls, struct str name)
{
    return name.n && (!calls->name.n || str_eq(name, calls->name)) && (!calls->allowed || has_function(calls->allowed, name));
}

/* Whether arguments can be held to a function's schema. What cannot be honoured is an error where the call was asked for or the
 * function is strict, else its arguments are any object. */
static bool check_parameters(struct call *c, const struct json *tool, bool needed, bool *held, int *answer)
{
    const struct json *schema = json_find(json_find(tool, "function"), "parameters");
    struct buf b = {0};
    struct str type = {0};
    quern_error err = {0};
    *held = false;
    if (!schema || schema->n == 0) return true;
    int rc = json_write(&b, schema) | buf_c(&b, 0);
    if (rc == 0) rc = quern_form_check(&(quern_form){.kind = QUERN_FORM_SCHEMA, .text = b.p}, &err);
    buf_fini(&b);
    if (rc == 0 && json_opt_str(schema, "type", &type) && type.n && !str_is(type, "object"))
        err = (quern_error){.code = rc = QUERN_ERR_UNSUPPORTED, .message = "their type must be \"object\""};
    *held = rc == 0;
    const bool too_much = err.code == QUERN_ERR_UNSUPPORTED || err.code == QUERN_ERR_LIMIT;
    if (rc == 0 || (too_much && !needed)) return true;
    *answer = serve_error(c, err.code && err.code != QUERN_ERR_NOMEM ? 400 : 500, "\"tools\": the parameters of \"%.*s\": %s",
                          STR_ARG(function_name(tool)), err.code ? err.message : "out of memory");
    return false;
}

/* {"name": NAME, "arguments": VALUE} as a part. A function of which no parameters are told has none. */
static int put_call(struct buf *b, const struct tool_style *style, const struct json *tool, bool held)
{
    static const char space[] = "{\"any\":[\" \",\"\"]}";
    const struct json *parameters = json_find(json_find(tool, "function"), "parameters");
    struct buf name = {0};
    int rc = json_write_string(&name, function_name(tool));
    rc |= buf_printf(b, "[\"{\\\"name\\\":\",%s,", space);
    rc |= json_write_string(b, buf_view(&name));
    rc |= buf_printf(b, ",\",\",%s,\"\\\"%s\\\":\",%s,", space, style->key, space);
    buf_fini(&name);
    if (!parameters) return rc | buf_z(b, "\"{}}\"]");
    rc |= buf_z(b, held ? "{\"schema\":" : "{\"json\":true");
    if (held) rc |= json_write(b, parameters);
    return rc | buf_z(b, "},\"}\"]");
}

/* The part "call": one of the functions that may be called. */
static bool put_functions(struct call *c, struct buf *b, const struct calls *calls, int *answer)
{
    int rc = buf_z(b, "{\"call\":{\"any\":[");
    size_t n = 0;
    for (size_t i = 0; i < calls->tools->n; i++) {
        const struct json *tool = &calls->tools->v[i];
        const struct str name = function_name(tool);
        bool held;
        if (!may_call(calls, name)) continue;
        if (!check_parameters(c, tool, calls->must || is_strict(tool), &held, answer)) return false;
        if (n++) rc |= buf_c(b, ',');
        rc |= put_call(b, c->server->tool_style, tool, held);
    }
    rc |= buf_z(b, "]}");
    if (rc < 0)
        *answer = serve_error(c, 500, "out of memory");
    else if (n == 0)
        *answer = serve_error(c, 400, "\"tool_choice\": there is no such function in \"tools\"");
    return rc == 0 && n > 0;
}

#define CALL "{\"rule\":\"call\"}"
#define CALLS "{\"rule\":\"calls\"}"
#define ANSWER "{\"rule\":\"answer\"}"
#define SPACE "{\"regex\":\"[ \\n]{0,4}\"}" /* between thinking and answer */

/* The part "calls": one, or several where that is allowed. */
static int put_calls(struct buf *b, const struct tool_style *style, bool parallel)
{
    int rc = buf_z(b, ",\"calls\":");
    if (style->open) {
        rc |= buf_z(b, parallel ? "{\"many\":" : "");
        rc |= buf_printf(b, "[\"%s\\n\"," CALL ",\"\\n%s\"%s]", style->open, style->close,
                         parallel ? ",{\"any\":[\"\\n\",\"\"]}" : "");
        return rc | buf_z(b, parallel ? "}" : "");
    }
    rc |= buf_printf(b, "[{\"any\":[\"\",\"%s\"]},{\"any\":[%s[\"[\"," CALL, style->mark, style->plain ? CALL "," : "");
    if (parallel) rc |= buf_z(b, ",{\"any\":[\"\",{\"many\":[\", \"," CALL "]}]}");
    return rc | buf_z(b, ",\"]\"]]}]");
}

/* The part that is text without a call in it. */
static int put_free(struct buf *b, const struct tool_style *style, bool thinks)
{
    const char *mark = style->open ? style->open : style->mark;
    int rc = buf_printf(b, "{\"free\":{\"without\":[%s%s%s]", *mark ? "\"" : "", mark, *mark ? "\"" : "");
    rc |= buf_printf(b, ",\"first\":[%s", thinks ? "\"<think>\"" : "");
    if (!style->open) rc |= buf_printf(b, "%s\"[{\\\"name\\\"\"", thinks ? "," : "");
    if (style->plain) rc |= buf_z(b, ",\"{\\\"name\\\"\"");
    return rc | buf_z(b, "]}}");
}

/* The form that was asked for beside the calls, as a part. */
static int put_form(struct buf *b, const quern_form *form)
{
    int rc;
    if (form->kind == QUERN_FORM_JSON) return buf_z(b, "{\"json\":true}");
    if (form->kind == QUERN_FORM_SCHEMA) {
        rc = buf_printf(b, "{\"schema\":%s", form->text);
    } else {
        rc = buf_z(b, "{\"grammar\":");
        rc |= json_write_string(b, str_of(form->text));
    }
    return rc | buf_c(b, '}');
}

/* The parts "answer" and "root", in which thinking comes first where the model opens it by itself. */
static int put_answer(struct buf *b, const struct tool_style *style, const struct asked *a, bool thinks)
{
    const bool leading = a->form.kind == QUERN_FORM_FREE && style->open; /* text may stand in front of calls */
    int rc = buf_z(b, ",\"answer\":");
    rc |= buf_z(b, a->calls.must ? CALLS : leading ? "[" : "{\"any\":[");
    if (!a->calls.must) {
        rc |= a->form.kind == QUERN_FORM_FREE ? put_free(b, style, thinks) : put_form(b, &a->form);
        rc |= buf_z(b, leading ? ",{\"any\":[\"\"," CALLS "]}]" : "," CALLS "]}");
    }
    rc |= buf_z(b, ",\"root\":");
    if (a->opened) return rc | buf_z(b, "[" SPACE "," ANSWER "]}");
    if (!thinks) return rc | buf_z(b, ANSWER "}");
    return rc | buf_z(b, "{\"any\":[" ANSWER ",[\"<think>\",{\"free\":{\"without\":[\"</think>\"]}},\"</think>\"," SPACE
                         "," ANSWER "]]}}");
}

bool ask_hold_calls(struct call *c, struct asked *a, int *answer)
{
    const struct tool_style *style = c->server->tool_style;
    const bool thinks = c->server->template_thinks && !a->opened;
    struct buf b = {0};
    if (!a->calls.held) return true;
    if (!put_functions(c, &b, &a->calls, answer)) {
        buf_fini(&b);
        return false;
    }
    int rc = put_calls(&b, style, a->calls.parallel);
    rc |= put_answer(&b, style, a, thinks);
    const char *text = rc == 0 ? serve_copy(c, buf_view(&b)) : NULL;
    buf_fini(&b);
    a->form = (quern_form){.kind = QUERN_FORM_FREE};
    if (!set_form(c, a, QUERN_FORM_PARTS, "tools", text, answer)) return false;
    a->form.mark = style->mark;
    return true;
}

/* ---- what is asked about calls ------------------------------------------------------------------------------------------- */

#define MAX_TOOLS 1024 /* each is looked for among the others */

static bool check_tools(struct call *c, const struct json *tools, bool *strict, int *answer)
{
    bool ok = !tools || tools->type == JSON_NULL || (tools->type == JSON_ARRAY && tools->n <= MAX_TOOLS);
    for (size_t i = 0; ok && tools && i < tools->n; i++) {
        const struct json *tool = &tools->v[i];
        struct str type = {0};
        ok = tool->type == JSON_OBJECT && json_opt_str(tool, "type", &type) && (type.n == 0 || str_is(type, "function"));
        *strict = *strict || is_strict(tool);
    }
    if (!ok) *answer = serve_error(c, 400, "\"tools\" must be an array of at most %d objects of type \"function\"", MAX_TOOLS);
    return ok;
}

/* "tool_choice": *tools is NULL where none may be called. */
static bool ask_choice(struct call *c, const struct json *obj, const struct json **tools, struct calls *out, int *answer)
{
    const struct json *j = json_find(obj, "tool_choice");
    struct str how = {0};
    if (!j || j->type == JSON_NULL) return true;
    if (j->type == JSON_STRING) how = j->s;
    const struct json *allowed = json_find(j, "allowed_tools");
    if (allowed) {
        (void)json_opt_str(allowed, "mode", &how);
        out->allowed = json_find(allowed, "tools");
        if (!out->allowed || out->allowed->type != JSON_ARRAY || out->allowed->n > MAX_TOOLS) how = STR("");
    }
    if (str_is(how, "none")) *tools = NULL;
    if (str_is(how, "none") || str_is(how, "auto")) return true;
    out->must = str_is(how, "required") || (json_opt_str(json_find(j, "function"), "name", &out->name) && out->name.n);
    if (out->name.n) out->parallel = false;
    return out->must || wrong_form(c, "tool_choice",
                                   "none, auto, required, {\"type\":\"function\",\"function\":{\"name\":...}} or "
                                   "{\"type\":\"allowed_tools\",\"allowed_tools\":{\"mode\":...,\"tools\":[...]}}",
                                   answer);
}

bool ask_tools(struct call *c, const struct json *obj, const struct json **tools, struct asked *out, int *answer)
{
    struct calls *calls = &out->calls;
    bool strict = false;
    *tools = json_find(obj, "tools");
    *calls = (struct calls){.parallel = true};
    if (!check_tools(c, *tools, &strict, answer) || !ask_bool(c, obj, "parallel_tool_calls", &calls->parallel, answer) ||
        !ask_choice(c, obj, tools, calls, answer))
        return false;
    const bool any = *tools && (*tools)->n;
    calls->tools = *tools;
    /* Free text has what a model writes beside calls in its own notation, control tokens too: it is held only where that is
     * known. */
    const bool wanted = (strict || !calls->parallel) && !c->server->own_tool_style;
    calls->held = calls->must || (any && (wanted || calls->allowed || out->form.kind != QUERN_FORM_FREE));
    if (any || !calls->must) return true;
    *answer = serve_error(c, 400, "\"tool_choice\": there is no such function in \"tools\"");
    return false;
}
