/* chat_render.c: a conversation as the variables of a chat template, named and valued as transformers has them. Contents that
 * are lists of parts stay lists: the template knows what to do with them. */
#include "text/text.h"

static struct json json_str(struct str s)
{
    return (struct json){.type = JSON_STRING, .s = s};
}

static const struct json null_value = {.type = JSON_NULL};

/* Later members win, so that a request may set what is not its conversation (bos_token, documents, ...). */
static int render_with(const struct jinja *t, const struct chat_args *args, struct str *keys, struct json *values,
                       struct buf *out, struct err *e)
{
    const struct {
        const char *key;
        struct json value;
    } own[] = {
        {"messages", *args->messages},
        {"tools", args->tools ? *args->tools : null_value},
        {"documents", null_value},
        {"add_generation_prompt", {.type = args->add_generation_prompt ? JSON_TRUE : JSON_FALSE}},
        {"bos_token", json_str(args->bos)},
        {"eos_token", json_str(args->eos)},
    };
    size_t n = 0;
    for (; n < COUNT_OF(own); n++) {
        keys[n] = str_of(own[n].key);
        values[n] = own[n].value;
    }
    for (size_t i = 0; args->kwargs && i < args->kwargs->n; i++, n++) {
        if (str_is(args->kwargs->keys[i], "messages"))
            return fail(e, ERR_ARG, "the extra variables of a chat template may not replace its messages");
        keys[n] = args->kwargs->keys[i];
        values[n] = args->kwargs->v[i];
    }
    const struct json vars = {.type = JSON_OBJECT, .n = n, .keys = keys, .v = values};
    return jinja_render(t, &vars, args->now, NULL, out, e);
}

int chat_render(const struct jinja *t, const struct chat_args *args, struct buf *out, struct err *e)
{
    enum { OWN = 6 };
    if (!args->messages || args->messages->type != JSON_ARRAY)
        return fail(e, ERR_ARG, "the messages of a conversation must be an array");
    if (args->tools && args->tools->type != JSON_ARRAY && args->tools->type != JSON_NULL)
        return fail(e, ERR_ARG, "the tools of a conversation must be an array");
    if (args->kwargs && args->kwargs->type != JSON_OBJECT && args->kwargs->type != JSON_NULL)
        return fail(e, ERR_ARG, "the extra variables of a chat template must be an object");
    size_t n = OWN + (args->kwargs ? args->kwargs->n : 0);
    struct str *keys = mem_array(n, sizeof *keys);
    struct json *values = mem_array(n, sizeof *values);
    int rc = keys && values ? render_with(t, args, keys, values, out, e)
                            : fail_nomem(e, "the variables of a chat template", n * (sizeof *keys + sizeof *values));
    mem_free(keys);
    mem_free(values);
    return rc;
}
