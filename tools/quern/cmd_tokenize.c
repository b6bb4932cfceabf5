/* quern tokenize and quern detokenize: text to token ids and back. */
#include "cli.h"

#include <stdio.h>

struct tokenize_args {
    struct model_args model;
    const char *prompt, *file;
    bool json, special, no_bos;
};

#define TOKENIZE(member) .offset = offsetof(struct tokenize_args, member)

static const struct opt tokenize_opts[] = {
    {"-p --prompt", "TEXT", "the text; default: standard input", .kind = OPT_TEXT, TOKENIZE(prompt)},
    {"-f --file", "FILE", "the text of FILE; - is standard input", .kind = OPT_TEXT, TOKENIZE(file)},
    {"--special", NULL, "special tokens written in the text become their ids", .kind = OPT_FLAG, TOKENIZE(special)},
    {"--no-bos", NULL, "add no BOS or EOS where the model asks for them", .kind = OPT_FLAG, TOKENIZE(no_bos)},
    {"--json", NULL, "print [1,2,3]; without it one token per line, with its text", .kind = OPT_FLAG, TOKENIZE(json)},
    {0},
};

static const struct opt_group tokenize_groups[] = {
    {"Model", model_opts, offsetof(struct tokenize_args, model)},
    {"Options", tokenize_opts, 0},
    {0},
};

static int print_ids(const quern_tokens *tokens)
{
    struct buf out = {0};
    int rc = buf_c(&out, '[');
    for (size_t i = 0; i < tokens->count && rc >= 0; i++) {
        rc = buf_printf(&out, "%s%d", i ? "," : "", (int)tokens->ids[i]);
    }
    if (rc >= 0) rc = buf_z(&out, "]\n");
    return cli_print(&out, rc);
}

/* The text of one token, quoted. A text loses the space that some tokenizers put before its first token, so the token is
 * detokenised twice in a row, and the second half shows all of it. */
static int piece(const quern_model *model, int32_t id, struct buf *out, quern_error *e)
{
    int32_t twice[2] = {id, id};
    quern_string text = {0};
    int rc = quern_detokenize(model, twice, 2, true, &text, e);
    if (rc == 0) {
        size_t n = (text.length + 1) / 2;
        rc = json_write_string(out, (struct str){text.text + text.length - n, n});
    }
    quern_string_free(&text);
    return rc;
}

static int print_pieces(const quern_model *model, const quern_tokens *tokens)
{
    struct buf out = {0};
    quern_error e = {0};
    int rc = 0;
    for (size_t i = 0; i < tokens->count && rc >= 0; i++) {
        rc = buf_printf(&out, "%7d  ", (int)tokens->ids[i]);
        if (rc >= 0) rc = piece(model, tokens->ids[i], &out, &e);
        if (rc >= 0) rc = buf_c(&out, '\n');
    }
    if (rc >= 0 || !*e.message) return cli_print(&out, rc);
    buf_fini(&out);
    return cli_fail("%s", e.message);
}

static int tokenize_text(const struct tokenize_args *args, const quern_model *model)
{
    struct buf text = {0};
    struct err e = {0};
    int rc = args->prompt ? buf_z(&text, args->prompt) : cli_read_file(args->file ? args->file : "-", &text, &e);
    if (rc < 0) {
        buf_fini(&text);
        return cli_fail("%s", *e.msg ? e.msg : "out of memory");
    }
    quern_tokens tokens = {0};
    quern_error qe = {0};
    unsigned flags = (args->no_bos ? 0 : QUERN_ADD_SPECIAL) | (args->special ? QUERN_PARSE_SPECIAL : 0);
    int exit_code;
    if (quern_tokenize(model, text.p ? text.p : "", text.n, flags, &tokens, &qe) < 0) {
        exit_code = cli_fail("%s", qe.message);
    } else {
        exit_code = args->json ? print_ids(&tokens) : print_pieces(model, &tokens);
    }
    quern_tokens_free(&tokens);
    buf_fini(&text);
    return exit_code;
}

static int run_tokenize(const struct command *c, int argc, char **argv)
{
    struct tokenize_args args = {0};
    struct words words;
    int exit_code;
    if (!args_parse(c, &args, argc, argv, &words, &exit_code)) return exit_code;
    if (args.prompt && args.file) return cli_usage(c, "-p and -f are two texts; give one");
    quern_model *model = NULL;
    exit_code = model_open_args(&args.model, &words, &(quern_model_options){.vocab_only = true}, &model);
    if (exit_code == CLI_OK) exit_code = tokenize_text(&args, model);
    quern_model_close(&model);
    return exit_code;
}

const struct command command_tokenize = {
    .name = "tokenize",
    .usage = "[MODEL]",
    .summary = "text to token ids",
    .text =
        "Prints the token ids of a text, byte for byte as it stands on standard input (or -p, -f). MODEL may also be a bare "
        "tokenizer.json or a GGUF file that holds a vocabulary only.\n",
    .groups = tokenize_groups,
    .max_words = 1,
    .run = run_tokenize,
};

/* ---- detokenize --------------------------------------------------------------------------------------------- */

struct detokenize_args {
    struct model_args model;
    const char *tokens, *file;
    bool special;
};

#define DETOKENIZE(member) .offset = offsetof(struct detokenize_args, member)

static const struct opt detokenize_opts[] = {
    {"--tokens", "IDS", "the token ids, as 1,2,3; default: standard input", .kind = OPT_TEXT, DETOKENIZE(tokens)},
    {"-f --file", "FILE", "the ids in FILE; - is standard input", .kind = OPT_TEXT, DETOKENIZE(file)},
    {"--special", NULL, "print special tokens by their names", .kind = OPT_FLAG, DETOKENIZE(special)},
    {0},
};

static const struct opt_group detokenize_groups[] = {
    {"Model", model_opts, offsetof(struct detokenize_args, model)},
    {"Options", detokenize_opts, 0},
    {0},
};

static int detokenize_ids(const struct detokenize_args *args, const quern_model *model)
{
    struct buf text = {0}, ids = {0};
    struct err e = {0};
    int rc = args->tokens ? 0 : cli_read_file(args->file ? args->file : "-", &text, &e);
    if (rc == 0) rc = cli_ids_parse(args->tokens ? str_of(args->tokens) : buf_view(&text), &ids, &e);
    quern_string out = {0};
    quern_error qe = {0};
    int exit_code = CLI_OK;
    if (rc < 0) {
        exit_code = cli_fail("%s", e.msg);
    } else if (ids.n > 0 && quern_detokenize(model, ids_of(&ids), ids_count(&ids), args->special, &out, &qe) < 0) {
        exit_code = cli_fail("%s", qe.message);
    } else {
        cli_write(out.text ? out.text : "", out.length, false);
    }
    quern_string_free(&out);
    buf_fini(&text);
    buf_fini(&ids);
    return exit_code;
}

static int run_detokenize(const struct command *c, int argc, char **argv)
{
    struct detokenize_args args = {0};
    struct words words;
    int exit_code;
    if (!args_parse(c, &args, argc, argv, &words, &exit_code)) return exit_code;
    if (args.tokens && args.file) return cli_usage(c, "--tokens and -f are two lists; give one");
    quern_model *model = NULL;
    exit_code = model_open_args(&args.model, &words, &(quern_model_options){.vocab_only = true}, &model);
    if (exit_code == CLI_OK) exit_code = detokenize_ids(&args, model);
    quern_model_close(&model);
    return exit_code;
}

const struct command command_detokenize = {
    .name = "detokenize",
    .usage = "[MODEL]",
    .summary = "token ids to text",
    .text =
        "Prints the text of token ids, exactly, with nothing added: the inverse of tokenize. The ids are read from standard "
        "input (or --tokens, -f): a JSON array, or numbers parted by commas, spaces or newlines.\n",
    .groups = detokenize_groups,
    .max_words = 1,
    .run = run_detokenize,
};
