/* quern logits: what the model expects after each token, as raw numbers. */
#include "cli.h"

struct logits_args {
    struct model_args model;
    struct compute_args compute;
    const char *tokens, *tokens_file, *out;
};

#define LOGITS(member) .offset = offsetof(struct logits_args, member)

static const struct opt logits_opts[] = {
    {"--tokens", "IDS", "the token ids, as 1,2,3", .kind = OPT_TEXT, LOGITS(tokens)},
    {"--tokens-file", "FILE", "the token ids in FILE; - is standard input", .kind = OPT_TEXT, LOGITS(tokens_file)},
    {"-o --out", "FILE", "where the numbers go", .kind = OPT_TEXT, LOGITS(out)},
    {0},
};

static const struct opt_group logits_groups[] = {
    {"Model", model_opts, offsetof(struct logits_args, model)},
    {"Options", logits_opts, 0},
    {"Computing", compute_opts, offsetof(struct logits_args, compute)},
    {0},
};

/* Rows are computed and written a batch at a time, so that memory does not grow with the number of tokens. */
static int write_rows(quern_session *session, const int32_t *ids, size_t count, uint32_t n_vocab, struct out *out,
                      struct err *e)
{
    quern_session_info info;
    quern_session_get_info(session, &info);
    size_t n_rows = size_min(count, info.n_batch);
    float *rows = mem_array(n_rows, n_vocab * sizeof *rows);
    if (!rows) return fail_nomem(e, "logits", n_rows * n_vocab * sizeof *rows);
    struct progress progress;
    progress_start(&progress, "tokens", false);
    int rc = 0;
    for (size_t i = 0; i < count && rc == 0; i += n_rows) {
        size_t n = size_min(n_rows, count - i);
        quern_error qe = {0};
        rc = quern_session_eval(session, ids + i, n, rows, &qe);
        if (rc < 0) {
            fail(e, rc, "%s", qe.message);
        } else {
            rc = out_write(out, rows, n * n_vocab * sizeof *rows, e);
        }
        progress_show(&progress, i + n, count);
    }
    progress_end(&progress);
    mem_free(rows);
    return rc;
}

static int logits(const struct command *c, const struct logits_args *args, quern_model *model, const struct buf *ids)
{
    quern_model_info info;
    quern_session *session = NULL;
    quern_model_get_info(model, &info);
    uint32_t n = (uint32_t)ids_count(ids);
    int exit_code = compute_session(c, &args->compute, model, n, n, NULL, &session);
    if (exit_code != CLI_OK) return exit_code;
    struct err e = {0};
    struct out *out = NULL;
    cli_terminate_catch();
    cli_interrupt_catch(session, true); /* so that no half-written file is left behind */
    int rc = out_open(args->out, &out, &e);
    if (rc == 0) out_sweep(out);
    if (rc == 0) rc = write_rows(session, ids_of(ids), ids_count(ids), info.n_vocab, out, &e);
    if (rc == 0) rc = out_commit(&out, &e);
    out_abort(&out);
    quern_session_free(&session);
    return rc < 0 ? cli_fail("%s", e.msg) : CLI_OK;
}

static int read_ids(const struct command *c, const struct logits_args *args, struct buf *ids)
{
    struct err e = {0};
    if (args->tokens) {
        if (cli_ids_parse(str_of(args->tokens), ids, &e) < 0) return cli_usage(c, "--tokens: %s", e.msg);
    } else {
        struct buf text = {0};
        int rc = cli_read_file(args->tokens_file, &text, &e);
        if (rc == 0 && (rc = cli_ids_parse(buf_view(&text), ids, &e)) < 0) fail_prefix(&e, "%s", args->tokens_file);
        buf_fini(&text);
        if (rc < 0) return cli_fail("%s", e.msg);
    }
    if (ids->n == 0) return cli_usage(c, "there are no token ids");
    return CLI_OK;
}

static int run(const struct command *c, int argc, char **argv)
{
    struct logits_args args = {0};
    struct words words;
    int exit_code;
    if (!args_parse(c, &args, argc, argv, &words, &exit_code)) return exit_code;
    if (!args.tokens == !args.tokens_file) return cli_usage(c, "give the token ids with --tokens or with --tokens-file");
    if (!args.out) return cli_usage(c, "--out FILE is missing");
    if (strcmp(args.out, "-") == 0)
        return cli_usage(c, "--out is a file that is replaced as a whole; it cannot be standard output");
    if (cli_is_model(args.out)) return cli_usage(c, "%s is a model; give the numbers another file", args.out);
    struct buf ids = {0};
    const quern_model_options how = compute_loading(&args.compute);
    quern_model *model = NULL;
    exit_code = read_ids(c, &args, &ids);
    if (exit_code == CLI_OK) exit_code = model_open_args(&args.model, &words, &how, &model);
    if (exit_code == CLI_OK) exit_code = logits(c, &args, model, &ids);
    quern_model_close(&model);
    buf_fini(&ids);
    return exit_code;
}

const struct command command_logits = {
    .name = "logits",
    .usage = "[MODEL] --tokens IDS --out FILE",
    .summary = "the logits after each token, as raw numbers",
    .text =
        "Writes a row for each token: the logits of all entries of the vocabulary for what follows it, as little-endian 32-bit "
        "floats. The bytes do not depend on threads, batch or CPU level.\n",
    .groups = logits_groups,
    .max_words = 1,
    .run = run,
};
