/* quern render: a conversation through a chat template, byte for byte. */
#include "cli.h"

struct render_args {
    const char *messages, *tools, *kwargs, *bos, *eos, *now;
    bool add_generation_prompt;
};

#define RENDER(member) .offset = offsetof(struct render_args, member)

static const struct opt render_opts[] = {
    {"--messages", "F.json", "an array of messages, or an object with messages and perhaps tools; - is standard input",
     .kind = OPT_TEXT, RENDER(messages)},
    {"--tools", "F.json", "an array of tools", .kind = OPT_TEXT, RENDER(tools)},
    {"--add-generation-prompt", NULL, "end with what makes the model answer", .kind = OPT_FLAG, RENDER(add_generation_prompt)},
    {"--bos", "TEXT", "value of bos_token; default: the model's", .kind = OPT_TEXT, RENDER(bos)},
    {"--eos", "TEXT", "value of eos_token; default: the model's", .kind = OPT_TEXT, RENDER(eos)},
    {"--now", "TIME", "the clock that the template sees, as \"2026-01-15 12:00:00\"; default: this machine's", .kind = OPT_TEXT,
     RENDER(now)},
    {"--kwargs", "JSON", "an object of further variables for the template", .kind = OPT_TEXT, RENDER(kwargs)},
    {0},
};

static const struct opt_group render_groups[] = {{"Options", render_opts, 0}, {0}};

/* Number of days from 1970-01-01 to a date of the Gregorian calendar. Years are counted from March, so that the leap day is the
 * last of its year; 146097 days make 400 years. */
static int64_t days_from_date(int64_t year, int64_t month, int64_t day)
{
    int64_t y = month > 2 ? year : year - 1;
    int64_t in_era = y % 400;
    int64_t day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    return y / 400 * 146097 + in_era * 365 + in_era / 4 - in_era / 100 + day_of_year - 719468;
}

/* "YYYY-MM-DD HH:MM:SS" (or with a T between) as seconds since 1970. */
static int parse_time(const char *text, int64_t *out)
{
    static const struct {
        unsigned at, digits;
        int64_t min, max;
        char after;
    } fields[6] = {{0, 4, 1970, 9999, '-'}, {5, 2, 1, 12, '-'},  {8, 2, 1, 31, ' '},
                   {11, 2, 0, 23, ':'},     {14, 2, 0, 59, ':'}, {17, 2, 0, 59, '\0'}};
    struct str s = str_of(text);
    int64_t v[6];
    if (s.n != 19) return -1;
    for (size_t i = 0; i < COUNT_OF(fields); i++) {
        char after = text[fields[i].at + fields[i].digits];
        uint64_t n;
        if (!str_u64((struct str){text + fields[i].at, fields[i].digits}, &n)) return -1;
        v[i] = (int64_t)n;
        bool parted = after == fields[i].after || (i == 2 && after == 'T');
        if (v[i] < fields[i].min || v[i] > fields[i].max || !parted) return -1;
    }
    *out = days_from_date(v[0], v[1], v[2]) * 86400 + v[3] * 3600 + v[4] * 60 + v[5];
    return *out > 0 ? 0 : -1;
}

/* A template is what is no model: no folder, no .gguf, no tokenizer.json. */
static bool is_model(const char *path)
{
    struct str s = str_of(path);
    if (vfs_is_dir(path) || str_ends(s, STR(".gguf")) || str_ends(s, STR("tokenizer.json"))) return true;
    struct map map;
    if (vfs_map(path, &map, NULL) < 0) return false;
    bool gguf = map.n >= 4 && memcmp(map.p, "GGUF", 4) == 0;
    vfs_unmap(&map);
    return gguf;
}

/* The texts that quern_render takes, NUL-terminated. */
struct render_input {
    struct arena arena;
    struct buf file, messages, tools, template;
};

static int member_text(const struct json *root, const char *key, struct buf *out)
{
    const struct json *v = json_find(root, key);
    if (!v || v->type == JSON_NULL) return 0;
    TRY(json_write(out, v));
    return buf_c(out, '\0');
}

static int read_input(const struct render_args *args, const char *template_path, struct render_input *in, struct err *e)
{
    TRY(cli_read_file(args->messages, &in->file, e));
    struct json *root;
    TRY(json_parse(&in->arena, buf_view(&in->file), args->messages, &root, e));
    if (root->type == JSON_OBJECT) {
        TRY(member_text(root, "messages", &in->messages));
        TRY(member_text(root, "tools", &in->tools));
        if (in->messages.n == 0) return fail(e, ERR_FORMAT, "%s: the object has no member \"messages\"", args->messages);
    } else {
        TRY(buf_str(&in->messages, buf_view(&in->file)));
        TRY(buf_c(&in->messages, '\0'));
    }
    if (args->tools) {
        in->tools.n = 0;
        TRY(cli_read_file(args->tools, &in->tools, e));
        TRY(buf_c(&in->tools, '\0'));
    }
    if (template_path) {
        TRY(cli_read_file(template_path, &in->template, e));
        TRY(buf_c(&in->template, '\0'));
    }
    return 0;
}

static int render(const struct render_args *args, const char *path, int64_t now)
{
    struct render_input in = {0};
    struct err e = {0};
    quern_error qe = {0};
    quern_model *model = NULL;
    quern_string out = {0};
    bool model_given = is_model(path);
    int exit_code = model_given ? cli_model_open(path, &(quern_model_options){.vocab_only = true}, &model) : CLI_OK;
    int rc = exit_code == CLI_OK ? read_input(args, model_given ? NULL : path, &in, &e) : 0;
    if (rc < 0) exit_code = cli_fail("%s", *e.msg ? e.msg : "out of memory");
    if (exit_code == CLI_OK) {
        const char *otherwise = model_given ? NULL : "";
        quern_render_options options = {
            .template_text = in.template.p,
            .tools_json = in.tools.p,
            .kwargs_json = args->kwargs,
            .bos = args->bos ? args->bos : otherwise,
            .eos = args->eos ? args->eos : otherwise,
            .now = now,
            .add_generation_prompt = args->add_generation_prompt,
        };
        rc = quern_render(model, in.messages.p, &options, &out, &qe);
        if (rc < 0) {
            exit_code = cli_fail("%s", qe.message);
        } else {
            cli_write(out.text ? out.text : "", out.length, false);
        }
    }
    quern_string_free(&out);
    quern_model_close(&model);
    buf_fini(&in.file);
    buf_fini(&in.messages);
    buf_fini(&in.tools);
    buf_fini(&in.template);
    arena_fini(&in.arena);
    return exit_code;
}

static int run(const struct command *c, int argc, char **argv)
{
    struct render_args args = {0};
    struct words words;
    int exit_code;
    int64_t now = 0;
    if (!args_parse(c, &args, argc, argv, &words, &exit_code)) return exit_code;
    if (!args.messages) return cli_usage(c, "--messages F.json is missing");
    if (args.now && parse_time(args.now, &now) < 0) {
        return cli_usage(c, "--now must be a time like \"2026-01-15 12:00:00\", not '%.100s'", args.now);
    }
    return render(&args, words.p[0], now);
}

const struct command command_render = {
    .name = "render",
    .usage = "MODEL_OR_TEMPLATE --messages F.json",
    .summary = "a conversation through a chat template",
    .text = "Prints what the chat template makes of a conversation, and nothing else. MODEL_OR_TEMPLATE is a model (or its "
            "tokenizer.json), or the file of a Jinja template, where bos_token and eos_token are empty unless they are "
            "given.\n",
    .groups = render_groups,
    .min_words = 1,
    .max_words = 1,
    .run = run,
};
