/* quern perplexity: how well a model foresees a text. */
#include "cli.h"

struct perplexity_args {
    struct model_args model;
    struct compute_args compute;
    const char *file, *logits;
    int64_t n_ctx, n_windows;
    bool bos, second_half, compare, json;
};

#define PERPLEXITY(member) .offset = offsetof(struct perplexity_args, member)

static const struct opt perplexity_opts[] = {
    {"-f --file", "FILE", "the text; - is standard input", .kind = OPT_TEXT, PERPLEXITY(file)},
    {"-c --ctx --ctx-size", "N", "tokens in a window; default 512", .kind = OPT_INT, .min = 2, .max = 1 << 24,
     PERPLEXITY(n_ctx)},
    {"--bos", NULL, "the first token of each window is replaced by BOS", .kind = OPT_FLAG, PERPLEXITY(bos)},
    {"--second-half", NULL, "score only the second half of each window", .kind = OPT_FLAG, PERPLEXITY(second_half)},
    {"--chunks", "N", "most windows; default: all of the text", .kind = OPT_INT, .min = 1, .max = INT32_MAX,
     PERPLEXITY(n_windows)},
    {"--save-all-logits --kl-divergence-base", "FILE",
     "save what the model expects after each scored token, in llama.cpp's format; with --kl-divergence, the file to read. "
     "Either "
     "means --second-half",
     .kind = OPT_TEXT, PERPLEXITY(logits)},
    {"--kl-divergence", NULL, "score the windows of such a file, and compare with what it holds; -f and -c are not needed",
     .kind = OPT_FLAG, PERPLEXITY(compare)},
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
    return cli_interrupted();
}

/* A figure: its name for programs and for people. */
struct figure {
    const char *json, *text;
    double value;
};

static int put_figures(struct buf *out, const struct figure *f, size_t n, bool json)
{
    for (size_t i = 0; i < n; i++) {
        TRY(json ? buf_printf(out, ",\"%s\":", f[i].json) : buf_printf(out, "%s ", f[i].text));
        TRY(buf_f64(out, f[i].value));
        if (!json) TRY(buf_c(out, '\n'));
    }
    return 0;
}

static int put_result(struct buf *out, const quern_perplexity_result *r, bool compared, bool json)
{
    const quern_divergence *d = &r->divergence;
    const struct figure figures[] = {
        {"base_ppl", "perplexity of the base", d->base_ppl},
        {"ppl_ratio", "ratio of the perplexities", d->base_ppl > 0 ? r->ppl / d->base_ppl : 0},
        {"mean_kld", "mean divergence", d->mean},
        {"median_kld", "median divergence", d->median},
        {"kld_99", "99 % of divergences below", d->p99},
        {"max_kld", "largest divergence", d->max},
        {"same_top", "share of tokens with the same likeliest next token", d->same_top},
    };
    TRY(buf_z(out, json ? "{\"ppl\":" : "perplexity "));
    TRY(buf_f64(out, r->ppl));
    TRY(buf_z(out, json ? ",\"nll\":" : "\nmean negative log-likelihood "));
    TRY(buf_f64(out, r->nll));
    TRY(buf_printf(out, json ? ",\"tokens\":%llu" : "\ntokens scored %llu\n", (unsigned long long)r->tokens));
    if (compared) TRY(put_figures(out, figures, COUNT_OF(figures), json));
    return json ? buf_z(out, "}\n") : 0;
}

/* n_ctx: of a window. */
static int score(const struct command *c, const struct perplexity_args *args, quern_model *model, struct str text,
                 uint32_t n_ctx)
{
    quern_session *session = NULL;
    int exit_code = compute_session(c, &args->compute, model, n_ctx, 0, NULL, &session);
    if (exit_code == CLI_OK) {
        struct progress progress;
        struct buf out = {0};
        quern_perplexity_options options = {
            .n_ctx = n_ctx,
            .n_windows = (size_t)args->n_windows,
            .bos = args->bos,
            .second_half = args->second_half,
            .save_logits = args->compare ? NULL : args->logits,
            .base_logits = args->compare ? args->logits : NULL,
            .on_window = on_window,
            .user = &progress,
        };
        quern_perplexity_result result;
        quern_error qe = {0};
        cli_interrupt_catch(session, true);
        cli_terminate_catch();
        progress_start(&progress, "windows", false);
        int rc = quern_perplexity(session, text.p ? text.p : "", text.n, &options, &result, &qe);
        progress_end(&progress);
        exit_code = rc < 0 ? cli_fail("%s", qe.message) : cli_print(&out, put_result(&out, &result, args->compare, args->json));
    }
    quern_session_free(&session);
    return exit_code;
}

static int measure(const struct command *c, const struct perplexity_args *args, quern_model *model)
{
    struct buf text = {0};
    struct err e = {0};
    quern_error qe = {0};
    uint32_t n_ctx = (uint32_t)args->n_ctx;
    size_t n_windows;
    if (args->compare) {
        if (quern_perplexity_windows(args->logits, &n_ctx, &n_windows, &qe) < 0) return cli_fail("%s", qe.message);
    } else if (cli_read_file(args->file, &text, &e) < 0) {
        return cli_fail("%s", e.msg);
    }
    int exit_code = score(c, args, model, buf_view(&text), n_ctx);
    buf_fini(&text);
    return exit_code;
}

static int run(const struct command *c, int argc, char **argv)
{
    struct perplexity_args args = {.n_ctx = 512};
    struct words words;
    int exit_code;
    if (!args_parse(c, &args, argc, argv, &words, &exit_code)) return exit_code;
    if (args.compare && !args.logits) return cli_usage(c, "--kl-divergence needs --kl-divergence-base FILE");
    if (!args.compare && !args.file) return cli_usage(c, "-f FILE is missing");
    if (!args.compare && args.logits && cli_is_model(args.logits))
        return cli_usage(c, "%s is a model; give the numbers another file", args.logits);
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
            "every token of a window but its first, or over its second half. With --kl-divergence also how far the model's "
            "expectations are from those of another, which were saved.\n",
    .groups = perplexity_groups,
    .max_words = 1,
    .run = run,
};
