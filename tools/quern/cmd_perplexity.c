/* quern perplexity: how well a model foresees a text. */
#include "cli.h"

struct perplexity_args {
    struct model_args model;
    struct compute_args compute;
    const char *file;
    int64_t n_ctx;
    bool bos, second_half, json;
};

#define PERPLEXITY(member) .offset = offsetof(struct perplexity_args, member)

static const struct opt perplexity_opts[] = {
    {"-f --file", "FILE", "the text; - is standard input", .kind = OPT_TEXT, PERPLEXITY(file)},
    {"-c --ctx --ctx-size", "N", "tokens in a window; default 512", .kind = OPT_INT, .min = 2, .max = 1 << 24,
     PERPLEXITY(n_ctx)},
    {"--bos", NULL, "the first token of each window is replaced by BOS", .kind = OPT_FLAG, PERPLEXITY(bos)},
    {"--second-half", NULL, "score only the second half of each window", .kind = OPT_FLAG, PERPLEXITY(second_half)},
    {"--json", NULL, "print {\"ppl\":..,\"nll\":..,\"tokens\":..}", .kind = OPT_FLAG, PERPLEXITY(json)},
    {0},
};

static const struct opt_group perplexity_groups[] = {
    {"Model", model_opts, offsetof(struct perplexity_args, model)},
    {"Options", perplexity_opts, 0},
    {"Computing", compute_opts, offsetof(struct perplexity_args, compute)},
    {0},
};

static int on_window(void *user, size_t done, size_t all, double ppl)
{
    (void)ppl;
    progress_show(user, done, all);
    return 0;
}

static int print_result(const quern_perplexity_result *r, bool json)
{
    struct buf out = {0};
    int rc = buf_z(&out, json ? "{\"ppl\":" : "perplexity ");
    if (rc >= 0) rc = buf_f64(&out, r->ppl);
    if (rc >= 0) rc = buf_z(&out, json ? ",\"nll\":" : "\nmean negative log-likelihood ");
    if (rc >= 0) rc = buf_f64(&out, r->nll);
    if (rc >= 0) rc = buf_printf(&out, json ? ",\"tokens\":%llu}\n" : "\ntokens scored %llu\n", (unsigned long long)r->tokens);
    return cli_print(&out, rc);
}

static int measure(const struct command *c, const struct perplexity_args *args, quern_model *model)
{
    struct buf text = {0};
    struct err e = {0};
    quern_session *session = NULL;
    if (cli_read_file(args->file, &text, &e) < 0) return cli_fail("%s", e.msg);
    int exit_code = compute_session(c, &args->compute, model, (uint32_t)args->n_ctx, 0, &session);
    if (exit_code == CLI_OK) {
        struct progress progress;
        progress_start(&progress, "windows", false);
        quern_perplexity_options options = {
            .n_ctx = (uint32_t)args->n_ctx,
            .bos = args->bos,
            .second_half = args->second_half,
            .on_window = on_window,
            .user = &progress,
        };
        quern_perplexity_result result;
        quern_error qe = {0};
        int rc = quern_perplexity(session, text.p ? text.p : "", text.n, &options, &result, &qe);
        progress_end(&progress);
        exit_code = rc < 0 ? cli_fail("%s", qe.message) : print_result(&result, args->json);
    }
    quern_session_free(&session);
    buf_fini(&text);
    return exit_code;
}

static int run(const struct command *c, int argc, char **argv)
{
    struct perplexity_args args = {.n_ctx = 512};
    struct words words;
    int exit_code;
    if (!args_parse(c, &args, argc, argv, &words, &exit_code)) return exit_code;
    if (!args.file) return cli_usage(c, "-f FILE is missing");
    const quern_model_options how = compute_loading(&args.compute);
    quern_model *model = NULL;
    exit_code = model_open_args(&args.model, &words, &how, &model);
    if (exit_code == CLI_OK) exit_code = measure(c, &args, model);
    quern_model_close(&model);
    return exit_code;
}

const struct command command_perplexity = {
    .name = "perplexity",
    .usage = "[MODEL] -f FILE",
    .summary = "how well a model foresees a text",
    .text = "Cuts the text into windows of N tokens that do not overlap (the rest is left out), and prints the perplexity over "
            "every "
            "token of a window but its first, or over its second half.\n",
    .groups = perplexity_groups,
    .max_words = 1,
    .run = run,
};
