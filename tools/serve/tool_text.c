/* tool_text: conversations with tools for models whose chat template has no place for them. What templates of other models do
 * is said in words: the first message begins with what can be called and how, calls are the text that makes them, and what they
 * returned is told by the user. Roles stay in turn, as many templates want them. */
#include "serve.h"

static bool put_tools(struct buf *b, const struct json *tools)
{
    bool ok = buf_z(b, "These functions can be called:\n\n") == 0;
    for (size_t i = 0; ok && i < tools->n; i++) {
        const struct json *function = json_find(&tools->v[i], "function");
        ok = json_write(b, function ? function : &tools->v[i]) == 0 && buf_c(b, '\n') == 0;
    }
    return ok && buf_z(b, "\nTo call one, answer only {\"name\": its name, \"arguments\": an object that satisfies its "
                          "parameters}.\n\n") == 0;
}

/* As tool_calls.c reads them. OpenAI's clients send arguments as the text of an object, Ollama's the object. */
static bool put_calls(struct buf *b, const struct json *calls)
{
    bool ok = true;
    for (size_t i = 0; ok && calls && calls->type == JSON_ARRAY && i < calls->n; i++) {
        const struct json *function = json_find(&calls->v[i], "function"), *arguments = json_find(function, "arguments");
        struct str name = {0};
        (void)json_opt_str(function, "name", &name);
        ok = buf_z(b, b->n ? "\n{\"name\": " : "{\"name\": ") == 0 && json_write_string(b, name) == 0 &&
             buf_z(b, ", \"arguments\": ") == 0;
        ok = ok && (!arguments                       ? buf_z(b, "{}")
                    : arguments->type == JSON_STRING ? buf_str(b, arguments->s)
                                                     : json_write(b, arguments)) == 0;
        ok = ok && buf_c(b, '}') == 0;
    }
    return ok;
}

static bool is_result(const struct json *m)
{
    struct str role = {0};
    return json_opt_str(m, "role", &role) && str_is(role, "tool");
}

bool tool_text_needed(const struct call *c, const struct json *messages, const struct json *tools)
{
    bool any = tools && tools->n > 0;
    for (size_t i = 0; !any && i < messages->n; i++) {
        const struct json *calls = json_find(&messages->v[i], "tool_calls");
        any = is_result(&messages->v[i]) || (calls && calls->type == JSON_ARRAY && calls->n > 0);
    }
    return any && !c->server->template_has_tools;
}

/* The text of messages [i, end): one, or the results of several calls. */
static bool put_text(struct buf *text, const struct json *messages, size_t i, size_t end)
{
    bool ok = true;
    for (; ok && i < end; i++) {
        const struct json *m = &messages->v[i];
        if (is_result(m)) ok = buf_z(text, "The call returned: ") == 0;
        ok = ok && ask_content(text, json_find(m, "content")) && put_calls(text, json_find(m, "tool_calls"));
        if (i + 1 < end) ok = ok && buf_c(text, '\n') == 0;
    }
    return ok;
}

bool tool_text_put(struct buf *b, const struct json *messages, const struct json *tools)
{
    bool ok = buf_c(b, '[') == 0;
    for (size_t i = 0, end; ok && i < messages->n; i = end) {
        struct buf text = {0};
        struct str role = {0};
        const bool result = is_result(&messages->v[i]);
        (void)json_opt_str(&messages->v[i], "role", &role);
        if (result) role = STR("user");
        if (str_is(role, "developer")) role = STR("system");
        end = i + 1;
        while (result && end < messages->n && is_result(&messages->v[end])) end++;
        if (i == 0 && tools && tools->n) ok = put_tools(&text, tools);
        ok = ok && put_text(&text, messages, i, end);
        ok = ok && buf_z(b, i ? ",{\"role\":" : "{\"role\":") == 0 && json_write_string(b, role) == 0;
        ok = ok && buf_z(b, ",\"content\":") == 0 && json_write_string(b, buf_view(&text)) == 0 && buf_c(b, '}') == 0;
        buf_fini(&text);
    }
    return ok && buf_c(b, ']') == 0;
}
