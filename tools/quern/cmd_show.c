/* quern show: what a model file says about itself. Everything comes from the one JSON object of quern_model_describe; what is
 * printed for people is that object, member by member. */
#include "cli.h"

#include <stdio.h>

struct show_args {
    struct model_args model;
    bool json, template, tensors, metadata;
};

#define SHOW(member) .offset = offsetof(struct show_args, member)

static const struct opt show_opts[] = {
    {"--template", NULL, "print only the chat template, as it is", .kind = OPT_FLAG, SHOW(template)},
    {"--tensors", NULL, "print only the tensors: name, type, bytes, shape", .kind = OPT_FLAG, SHOW(tensors)},
    {"--metadata", NULL, "print only the metadata of the file, long arrays shortened", .kind = OPT_FLAG, SHOW(metadata)},
    {"--json", NULL, "print everything as one JSON object", .kind = OPT_FLAG, SHOW(json)},
    {0},
};

static const struct opt_group show_groups[] = {
    {"Model", model_opts, offsetof(struct show_args, model)},
    {"Options", show_opts, 0},
    {0},
};

/* Names and texts of a file must not steer the terminal. */
static int put_plain(struct buf *b, struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char ch = (unsigned char)s.p[i];
        TRY(buf_c(b, ch < 0x20 || ch == 0x7f ? '?' : (char)ch));
    }
    return 0;
}

/* One value on one line: text bare, the rest as JSON. */
static int put_value(struct buf *b, const struct json *v)
{
    if (v->type == JSON_STRING) return put_plain(b, v->s);
    if (v->type == JSON_NULL) return buf_c(b, '-');
    if (v->type != JSON_ARRAY) return json_write(b, v);
    for (size_t i = 0; i < v->n; i++) {
        if (i > 0) TRY(buf_z(b, " "));
        TRY(put_value(b, &v->v[i]));
    }
    return 0;
}

static int put_row(struct buf *b, const char *indent, struct str key, const struct json *v)
{
    size_t start = b->n;
    TRY(buf_z(b, indent));
    TRY(put_plain(b, key));
    do {
        TRY(buf_c(b, ' '));
    } while (b->n - start < 26);
    TRY(put_value(b, v));
    if (v->type == JSON_INT && v->i >= 1000000) {
        char text[AMOUNT_MAX];
        TRY(buf_printf(b, " (%s)", amount_count((uint64_t)v->i, text)));
    }
    return buf_c(b, '\n');
}

static int put_members(struct buf *b, const char *indent, const struct json *object)
{
    for (size_t i = 0; i < object->n; i++) TRY(put_row(b, indent, object->keys[i], &object->v[i]));
    return 0;
}

/* The long parts have options of their own. */
static bool is_long_part(struct str key)
{
    return str_is(key, "tensors") || str_is(key, "metadata") || str_is(key, "chat_template");
}

static bool is_list(struct str key)
{
    return str_is(key, "unsupported");
}

/* A line for each entry. */
static int put_list(struct buf *b, const struct json *root, const char *name)
{
    const struct json *list = json_find(root, name);
    if (!list) return 0;
    TRY(buf_printf(b, "\n%s%s\n", name, list->n ? "" : ": nothing"));
    for (size_t i = 0; i < list->n; i++) {
        TRY(buf_z(b, "  "));
        TRY(put_value(b, &list->v[i]));
        TRY(buf_c(b, '\n'));
    }
    return 0;
}

static int put_overview(struct buf *b, const struct json *root)
{
    for (size_t i = 0; i < root->n; i++) {
        const struct json *v = &root->v[i];
        if (is_long_part(root->keys[i]) || v->type == JSON_OBJECT || is_list(root->keys[i])) continue;
        TRY(put_row(b, "", root->keys[i], v));
    }
    for (size_t i = 0; i < root->n; i++) {
        const struct json *v = &root->v[i];
        if (is_long_part(root->keys[i]) || v->type != JSON_OBJECT || v->n == 0) continue;
        TRY(buf_c(b, '\n'));
        TRY(buf_str(b, root->keys[i]));
        TRY(buf_c(b, '\n'));
        TRY(put_members(b, "  ", v));
    }
    TRY(put_list(b, root, "unsupported"));
    const struct json *tensors = json_find(root, "tensors");
    if (!tensors) return 0;
    return buf_printf(b, "\n%zu tensors; --tensors, --metadata and --template show more\n", tensors->n);
}

static int put_tensors(struct buf *b, const struct json *root)
{
    static const struct {
        const char *name;
        size_t at;
    } columns[] = {{"type", 40}, {"bytes", 54}, {"shape", 65}};
    const struct json *tensors = json_find(root, "tensors");
    for (size_t i = 0; tensors && i < tensors->n; i++) {
        const struct json *t = &tensors->v[i], *name = json_find(t, "name"), *group = json_find(t, "group");
        size_t start = b->n;
        if (name) TRY(put_value(b, name));
        for (size_t k = 0; k < COUNT_OF(columns); k++) {
            do {
                TRY(buf_c(b, ' '));
            } while (b->n - start < columns[k].at);
            const struct json *v = json_find(t, columns[k].name);
            if (v) TRY(put_value(b, v));
            if (group && k == 0) TRY(buf_printf(b, " g%lld", (long long)group->i));
        }
        TRY(buf_c(b, '\n'));
    }
    return 0;
}

/* text: a description as one JSON object. */
static int show(const struct show_args *args, quern_string text)
{
    struct arena a = {0};
    struct buf out = {0};
    struct err e = {0};
    struct json *root;
    int exit_code;
    int rc = json_parse(&a, (struct str){text.text, text.length}, "description", &root, &e);
    const struct json *template = rc == 0 ? json_find(root, "chat_template") : NULL;
    const struct json *metadata = rc == 0 ? json_find(root, "metadata") : NULL;
    if (rc < 0) {
        exit_code = cli_fail("%s", e.msg);
    } else if (args->template && (!template || template->type != JSON_STRING)) {
        exit_code = cli_fail("this model has no chat template");
    } else if (args->template) {
        cli_write(template->s.p, template->s.n, false);
        exit_code = CLI_OK;
    } else {
        if (args->json) {
            rc = buf_put(&out, text.text, text.length);
            if (rc == 0) rc = buf_c(&out, '\n');
        } else if (args->tensors) {
            rc = put_tensors(&out, root);
        } else if (args->metadata) {
            rc = metadata ? put_members(&out, "", metadata) : 0;
        } else {
            rc = put_overview(&out, root);
        }
        exit_code = cli_print(&out, rc);
    }
    buf_fini(&out);
    arena_fini(&a);
    return exit_code;
}

static int describe_model(const struct show_args *args, const struct words *words, quern_string *text)
{
    quern_model *model = NULL;
    quern_error e = {0};
    int exit_code = model_open_args(&args->model, words, &(quern_model_options){.lazy = true}, &model);
    if (exit_code == CLI_OK && quern_model_describe(model, text, &e) < 0) exit_code = cli_fail("%s", e.message);
    quern_model_close(&model);
    return exit_code;
}

static int describe_adapter(const char *path, quern_string *text)
{
    quern_error e = {0};
    return quern_adapter_describe(path, text, &e) < 0 ? cli_fail("%s", e.message) : CLI_OK;
}

static int run(const struct command *c, int argc, char **argv)
{
    struct show_args args = {0};
    struct words words;
    int exit_code;
    if (!args_parse(c, &args, argc, argv, &words, &exit_code)) return exit_code;
    if (args.json + args.template + args.tensors + args.metadata > 1) {
        return cli_usage(c, "--json, --template, --tensors and --metadata do not go together");
    }
    const char *path = args.model.model ? args.model.model : words.n ? words.p[0] : NULL;
    quern_string text = {0};
    exit_code = path && quern_is_adapter(path) ? describe_adapter(path, &text) : describe_model(&args, &words, &text);
    if (exit_code == CLI_OK) exit_code = show(&args, text);
    quern_string_free(&text);
    return exit_code;
}

const struct command command_show = {
    .name = "show",
    .usage = "[MODEL]",
    .summary = "what a model is: shape, weights, tokenizer, template",
    .text =
        "Prints what the file of a model says: architecture, sizes, weight types, tokenizer, sampling defaults; or that of a "
        "LoRA adapter: rank, alpha, its matrices.\n",
    .groups = show_groups,
    .max_words = 1,
    .run = run,
};
