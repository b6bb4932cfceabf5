/* quern imatrix: which columns of the matrices matter, measured on a text. */
#include "cli.h"

#include <stdio.h>

struct imatrix_args {
    struct model_args model;
    struct compute_args compute;
    const char *file, *out;
    int64_t n_ctx, n_windows;
    bool output;
};

#define IMATRIX(member) .offset = offsetof(struct imatrix_args, member)

static const struct opt imatrix_opts[] = {
    {"-f --file", "FILE", "the text; - is standard input", .kind = OPT_TEXT, IMATRIX(file)},
    {"-o --output --output-file", "FILE", "where the matrix goes; default imatrix.gguf", .kind = OPT_TEXT, IMATRIX(out)},
    {"-c --ctx --ctx-size", "N", "tokens in a window; default 512", .kind = OPT_INT, .min = 1, .max = 1 << 24, IMATRIX(n_ctx)},
    {"--chunks", "N", "most windows; default: all of the text", .kind = OPT_INT, .min = 1, .max = INT32_MAX,
     IMATRIX(n_windows)},
    {"--process-output", NULL, "the output matrix, too", .kind = OPT_FLAG, IMATRIX(output)},
    {0},
};

static const struct opt_group imatrix_groups[] = {
    {"Model", model_opts, offsetof(struct imatrix_args, model)},
    {"Options", imatrix_opts, 0},
    {"Computing", compute_opts, offsetof(struct imatrix_args, compute)},
    {0},
};

struct measured {
    struct progress progress;
    size_t n_windows;
};

static int on_window(void *user, size_t done, size_t all)
{
    struct measured *m = user;
    m->n_windows = done;
    progress_show(&m->progress, done, all);
    return cli_interrupted();
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int measure(const struct command *c, const struct imatrix_args *args, quern_model *model)
{
    struct buf text = {0};
    struct err e = {0};
    quern_session *session = NULL;
    if (cli_read_file(args->file, &text, &e) < 0) return cli_fail("%s", e.msg);
    int exit_code = compute_session(c, &args->compute, model, (uint32_t)args->n_ctx, 0, NULL, &session);
    if (exit_code == CLI_OK) {
        struct measured measured = {0};
        quern_imatrix_options options = {
            .n_ctx = (uint32_t)args->n_ctx,
            .n_windows = (size_t)args->n_windows,
            .output = args->output,
            .dataset = base_name(args->file),
            .on_window = on_window,
            .user = &measured,
        };
        quern_error qe = {0};
        cli_interrupt_catch(session, true);
        cli_terminate_catch();
        progress_start(&measured.progress, "windows", false);
        int rc = quern_imatrix(session, text.p ? text.p : "", text.n, &options, args->out, &qe);
        progress_end(&measured.progress);
        if (rc < 0)
            exit_code = cli_fail("%s", qe.message);
        else
            printf("%s: measured on %zu windows of %lld tokens\n", args->out, measured.n_windows, (long long)args->n_ctx);
    }
    quern_session_free(&session);
    buf_fini(&text);
    return exit_code;
}

static int run(const struct command *c, int argc, char **argv)
{
    struct imatrix_args args = {.n_ctx = 512, .out = "imatrix.gguf"};
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

const struct command command_imatrix = {
    .name = "imatrix",
    .usage = "[MODEL] -f FILE",
    .summary = "which columns of the weights matter, measured on a text",
    .text =
        "Runs the text through the model, in windows of N tokens that do not overlap (the rest is left out), and writes the "
        "sums of the activations that meet each column of the matrices, and of their squares. 'quern quantize --imatrix' "
        "reads the file; so does llama.cpp, which uses the squares only.\n",
    .groups = imatrix_groups,
    .max_words = 1,
    .run = run,
};
