/* cli_speculation: the options of speculation, which run, serve and bench share, and the draft model that they name. */
#include "cli.h"

#define SPECULATION(member) .offset = offsetof(struct speculation_args, member)

const struct opt speculation_opts[] = {
    {"--speculate", "auto|off|lookup|draft|mtp",
     "speculative decoding: draft tokens that the model then checks together; lookup takes them from what followed the same "
     "words before, draft from the draft model, mtp from the model's own head for it; auto (default): whichever pays. The "
     "answers "
     "are the same",
     .kind = OPT_CHOICE, .otherwise = "auto", .choices = "auto off lookup draft mtp", SPECULATION(how)},
    {"-md --model-draft --draft-model", "MODEL",
     "small model that makes draft tokens, best with the same vocabulary; demo: that of the demo model, " DEMO_DRAFT,
     .kind = OPT_TEXT, SPECULATION(draft_model)},
    {"--draft-max --draft --draft-n", "N", "most draft tokens of a step, of all requests together; default 16", .kind = OPT_INT,
     .min = 1, .max = 64, SPECULATION(max)},
    {"--draft-min --draft-n-min", "N", "fewer draft tokens of one request are not tried; default 1", .kind = OPT_INT, .min = 1,
     .max = 64, SPECULATION(min)},
    {0},
};

static int open_draft(const char *name, const quern_model_options *loading, quern_model **draft)
{
    struct arena a = {0};
    struct err e = {0};
    int exit_code = CLI_OK;
    if (strcmp(name, "demo") == 0 && shared_file_find(&a, DEMO_DRAFT, &name, &e) < 0) exit_code = cli_fail("%s", e.msg);
    if (exit_code == CLI_OK) exit_code = cli_model_open(name, loading, draft);
    arena_fini(&a);
    return exit_code;
}

int speculation_open(const struct command *c, const struct speculation_args *args, const quern_model_options *loading,
                     quern_model **draft, quern_speculation *out)
{
    static const char *const names[] = {"auto", "off", "lookup", "draft", "mtp"};
    *out = (quern_speculation){.draft_max = (uint32_t)args->max, .draft_min = (uint32_t)args->min};
    for (size_t i = 0; args->how && i < COUNT_OF(names); i++)
        if (strcmp(args->how, names[i]) == 0) out->how = (quern_speculate)i;
    if (out->how == QUERN_SPECULATE_DRAFT && !args->draft_model)
        return cli_usage(c, "--speculate draft needs a draft model: -md MODEL");
    if (args->max && args->min > args->max) return cli_usage(c, "--draft-min is more than --draft-max");
    const bool used = out->how == QUERN_SPECULATE_AUTO || out->how == QUERN_SPECULATE_DRAFT;
    if (!args->draft_model || !used) return CLI_OK;
    const int exit_code = open_draft(args->draft_model, loading, draft);
    out->draft = *draft;
    return exit_code;
}
