/* tool_calls: the forms in which models write that they call a tool. Answers are read whatever model they are of; where calls
 * are held to a form, that is the one of the model's own style. */
#include "parts.h"

static const struct tool_style styles[] = {
    {.template = "<tool_call>",
     .key = "arguments",
     .open = "<tool_call>",
     .close = "</tool_call>",
     .mark = ""},                                                                                             /* Hermes, Qwen */
    {.template = "[TOOL_CALLS]", .key = "arguments", .mark = "[TOOL_CALLS]"},                                 /* Mistral */
    {.template = "<|python_tag|>", .key = "parameters", .mark = "<|python_tag|>", .plain = true},             /* Llama 3 */
    {.template = "\"name\": function name, \"parameters\":", .key = "parameters", .mark = "", .plain = true}, /* Llama 3.2 */
    {.template = NULL, .key = "arguments", .mark = "", .plain = true}, /* as tool_text.c says it */
};

const struct tool_style *tool_style_of(struct str template, bool *own)
{
    static const char *const others[] = {"<arg_key>", "<function=", "[ARGS]"}; /* GLM, Qwen3-Coder, Mistral of late */
    size_t i = 0;
    while (styles[i].template && !str_has(template, str_of(styles[i].template))) i++;
    *own = !styles[i].template && str_has(template, STR("tools"));
    for (size_t k = 0; k < COUNT_OF(others); k++) *own = *own || str_has(template, str_of(others[k]));
    return &styles[*own ? COUNT_OF(styles) - 1 : i];
}

static const struct form {
    const char *open, *close; /* close: empty where the calls go on to the end */
    bool first;               /* only as the whole answer */
    const char *keep;         /* open is part of the JSON, which begins with this where it is in the style; NULL: it is not */
} forms[] = {
    {"<tool_call>", "</tool_call>", false, NULL}, /* Hermes, Qwen */
    {"[TOOL_CALLS]", "", false, NULL},            /* Mistral */
    {"<|python_tag|>", "", true, NULL},           /* Llama 3 */
    {"[{", "", true, "[{\"name\""},               /* Mistral, where the mark is a token without text */
    {"{", "", true, "{\"name\""},                 /* Llama 3, as most prompts want it */
};

static bool is_of(const struct form *f, const struct tool_style *style)
{
    if (!style) return true;
    if (style->open) return strcmp(f->open, style->open) == 0;
    return f->keep ? style->plain || f->open[0] == '[' : strcmp(f->open, style->mark) == 0;
}

static size_t skip_space(struct str s, size_t i)
{
    while (i < s.n && (s.p[i] == ' ' || s.p[i] == '\n' || s.p[i] == '\r' || s.p[i] == '\t')) i++;
    return i;
}

static struct str rest_of(struct str s, size_t from)
{
    return (struct str){s.p + from, s.n - from};
}

size_t tool_calls_find(struct str text, const struct tool_style *style, bool blank, bool *sure)
{
    const size_t begin = skip_space(text, 0);
    *sure = false;
    for (size_t i = 0; i < text.n; i++)
        for (size_t f = 0; f < COUNT_OF(forms); f++) {
            const struct str open = str_of(style && forms[f].keep ? forms[f].keep : forms[f].open);
            const size_t n = size_min(open.n, text.n - i);
            if (!is_of(&forms[f], style)) continue;
            if (forms[f].first && !(blank && i == begin)) continue;
            if (memcmp(text.p + i, open.p, n) != 0) continue;
            *sure = n == open.n;
            return i;
        }
    return text.n;
}

/* {"name":.., "arguments" or "parameters": {..}} */
static bool read_call(const struct json *j, struct tool_call *out)
{
    const struct json *arguments = json_find(j, "arguments");
    if (!arguments) arguments = json_find(j, "parameters");
    *out = (struct tool_call){.arguments = arguments};
    return j->type == JSON_OBJECT && arguments && arguments->type == JSON_OBJECT && json_opt_str(j, "name", &out->name) &&
           out->name.n > 0;
}

/* One call or an array of them, added to out. */
static bool read_json(struct arena *a, struct str text, struct tool_call **out, size_t *n)
{
    struct json *j;
    struct err e;
    if (json_parse(a, text, "calls", &j, &e) < 0) return false;
    const struct json *calls = j->type == JSON_ARRAY ? j->v : j;
    const size_t more = j->type == JSON_ARRAY ? j->n : 1;
    struct tool_call *all = arena_array(a, *n + more, sizeof *all);
    if (!all || more == 0) return false;
    if (*n) memcpy(all, *out, *n * sizeof *all);
    for (size_t i = 0; i < more; i++)
        if (!read_call(&calls[i], &all[(*n)++])) return false;
    *out = all;
    return true;
}

static size_t find(struct str s, size_t from, struct str mark)
{
    for (size_t i = from; i + mark.n <= s.n; i++)
        if (memcmp(s.p + i, mark.p, mark.n) == 0) return i;
    return s.n;
}

static bool read_form(struct arena *a, const struct form *f, struct str text, struct tool_call **out, size_t *n)
{
    const struct str open = str_of(f->open), close = str_of(f->close);
    for (size_t at = skip_space(text, 0); at < text.n;) {
        if (!str_starts(rest_of(text, at), open)) return false;
        if (!f->keep) at += open.n;
        const size_t end = close.n ? find(text, at, close) : text.n;
        if (!read_json(a, (struct str){text.p + at, end - at}, out, n)) return false;
        at = skip_space(text, size_min(end + close.n, text.n));
    }
    return *n > 0;
}

bool tool_calls_parse(struct arena *a, struct str text, const struct tool_style *style, struct tool_call **out, size_t *n)
{
    for (size_t f = 0; f < COUNT_OF(forms); f++) {
        *n = 0;
        *out = NULL;
        if (is_of(&forms[f], style) && read_form(a, &forms[f], text, out, n)) return true;
    }
    *n = 0;
    return false;
}
