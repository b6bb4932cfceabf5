/* quern run: chat in the terminal, or answer once. What is a MODEL and what a PROMPT is decided here: of two words the first is
 * the model; a single word is one when it can only be meant so (model_looks_like), so that a mistyped path is an error and
 * not a prompt for another model. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define RUN(member) .offset = offsetof(struct run_args, member)

static const struct opt prompt_opts[] = {
    {"-p --prompt", "TEXT", "answer TEXT once", .kind = OPT_TEXT, RUN(prompt)},
    {"-f --file", "FILE", "answer the text of FILE once; - is standard input", .kind = OPT_TEXT, RUN(file)},
    {"--system --system-prompt -sys", "TEXT", "system message of the conversation", .kind = OPT_TEXT, RUN(system)},
    {"-c --ctx-size --ctx", "N",
     "tokens that prompt and answers may take; default, or 0: what the model was trained for, at most 4096", .kind = OPT_INT,
     .min = 0, .max = 1 << 24, RUN(n_ctx)},
    {"--chat-template-kwargs", "JSON", "an object of further variables for the chat template, as {\"enable_thinking\":false}",
     .kind = OPT_TEXT, RUN(kwargs)},
    {"--raw", NULL, "no chat template: the model continues the prompt", .kind = OPT_FLAG, RUN(raw)},
    {"--tokens", "IDS", "continue these token ids, given as 1,2,3", .kind = OPT_TEXT, RUN(tokens)},
    {"--print-tokens", NULL, "print the ids of the answer, parted by commas, not its text", .kind = OPT_FLAG,
     RUN(print_tokens)},
    {"--special", NULL, "show special tokens; with --raw also read them from the prompt", .kind = OPT_FLAG, RUN(special)},
    {"--no-history", NULL, "do not remember what is typed in the chat", .kind = OPT_FLAG, RUN(no_history)},
    {"-v --verbose", NULL, "print speeds, and the share of the memory bandwidth that decoding reached", .kind = OPT_FLAG,
     RUN(verbose)},
    {0},
};

const struct opt_group run_groups[] = {
    {"Model", model_opts, offsetof(struct run_args, model)},
    {"Prompt and answer", prompt_opts, 0},
    {"Form of the answer", form_opts, offsetof(struct run_args, form_args)},
    {"Sampling", sampling_opts, offsetof(struct run_args, sampling)},
    {"Speculation", speculation_opts, offsetof(struct run_args, speculation)},
    {"Computing", compute_opts, offsetof(struct run_args, compute)},
    {0},
};

/* ---- the prompt ------------------------------------------------------------------------------------------------ */

/* Takes MODEL and PROMPT out of the words. */
static int sort_words(const struct command *c, struct run_args *args, struct words *words)
{
    bool has_prompt = args->prompt || args->file || args->tokens;
    size_t most = (args->model.model ? 0u : 1u) + (has_prompt ? 0u : 1u);
    if (words->n > most) {
        return cli_usage(c,
                         has_prompt ? "unexpected argument '%.100s'; there is a prompt already"
                                    : "unexpected argument '%.100s'; a prompt of several words goes in quotes",
                         words->p[most]);
    }
    if (args->model.model && words->n == 1 && model_looks_like(words->p[0])) {
        return cli_usage(c, "MODEL is given twice: %.100s and %.100s", args->model.model, words->p[0]);
    }
    if (!args->model.model && (words->n == 2 || (words->n == 1 && (has_prompt || model_looks_like(words->p[0]))))) {
        args->model.model = words->p[0];
        words->p++;
        words->n--;
    }
    if (words->n == 1) {
        args->prompt = words->p[0];
        if (!args->model.model && !strpbrk(args->prompt, " \t\n?!.,")) {
            cli_note("'%.100s' is no file here and is taken as a prompt for the demo model", args->prompt);
        }
        words->n = 0;
    }
    return CLI_OK;
}

/* What stands on standard input beside a prompt that was given. An open pipe that nobody writes to must not hold the answer
 * back for ever, as it would in a script that never thought of standard input. */
#define STDIN_PATIENCE_MS 10000

static bool stdin_has_more(void)
{
    struct stat st;
    if (fstat(STDIN_FILENO, &st) < 0) return false;
    if (S_ISREG(st.st_mode)) return true;
    struct pollfd pfd = {.fd = STDIN_FILENO, .events = POLLIN};
    if (poll(&pfd, 1, 1000) > 0) return true;
    cli_note("waiting for standard input (at most %d s; < /dev/null if there is none)", STDIN_PATIENCE_MS / 1000);
    if (poll(&pfd, 1, STDIN_PATIENCE_MS - 1000) > 0) return true;
    cli_note("standard input gave nothing; the prompt is answered without it");
    return false;
}

/* Texts of files and of echo end their last line, and prompts do not end with an empty one. */
static void drop_newline(struct buf *text)
{
    if (text->n == 0 || text->p[text->n - 1] != '\n') return;
    text->n--;
    if (text->n > 0 && text->p[text->n - 1] == '\r') text->n--;
}

/* The whole prompt; *interactive instead when there is none and a person sits there. */
static int gather_prompt(const struct command *c, const struct run_args *args, struct buf *out, bool *interactive)
{
    struct err e = {0};
    bool terminal = isatty(STDIN_FILENO);
    if (args->prompt && args->file) return cli_usage(c, "-p and -f are two prompts; give one");
    if (args->prompt && buf_z(out, args->prompt) < 0) return cli_fail("out of memory");
    if (args->file && cli_read_file(args->file, out, &e) < 0) return cli_fail("%s", e.msg);
    if (args->file) drop_newline(out);
    if (!args->prompt && !args->file && terminal) {
        *interactive = true;
        return CLI_OK;
    }
    bool file_was_stdin = args->file && strcmp(args->file, "-") == 0;
    if (!terminal && !file_was_stdin && (out->n == 0 || stdin_has_more())) {
        struct buf text = {0};
        int rc = fcntl(STDIN_FILENO, F_GETFD) < 0 ? 0 : cli_read_stdin(&text, &e);
        drop_newline(&text);
        if (rc == 0 && text.n > 0 && out->n > 0) rc = buf_z(out, "\n\n");
        if (rc == 0) rc = buf_str(out, buf_view(&text));
        buf_fini(&text);
        if (rc < 0) return cli_fail("%s", *e.msg ? e.msg : "out of memory");
    }
    if (out->n == 0) return cli_usage(c, "there is no prompt: give one as an argument, with -p or -f, or on standard input");
    return CLI_OK;
}

/* ---- one answer ---------------------------------------------------------------------------------------------------- */

static int generate_once(const struct run_args *args, quern_model *model, quern_session *session, bool raw, struct str prompt,
                         const quern_generate_options *options, quern_result *result, quern_error *qe)
{
    struct err e = {0};
    struct buf text = {0};
    int rc;
    if (args->tokens) {
        rc = cli_ids_parse(str_of(args->tokens), &text, &e);
        if (rc == 0) rc = quern_generate(session, ids_of(&text), ids_count(&text), options, result, qe);
    } else if (raw) {
        quern_tokens tokens = {0};
        unsigned flags = QUERN_ADD_SPECIAL | (args->special ? QUERN_PARSE_SPECIAL : 0);
        rc = quern_tokenize(model, prompt.p, prompt.n, flags, &tokens, qe);
        if (rc == 0) rc = quern_generate(session, tokens.ids, tokens.count, options, result, qe);
        quern_tokens_free(&tokens);
    } else {
        struct conversation v = {0};
        rc = args->system ? conversation_system(&v, str_of(args->system)) : 0;
        if (rc == 0) rc = conversation_add(&v, STR("user"), prompt);
        if (rc == 0) rc = conversation_json(&v, &text);
        if (rc == 0) rc = buf_c(&text, '\0');
        if (rc == 0) rc = quern_chat(session, text.p, options, result, qe);
        conversation_clear(&v);
    }
    if (rc < 0 && !*qe->message) snprintf(qe->message, sizeof qe->message, "%s", *e.msg ? e.msg : err_text(rc));
    buf_fini(&text);
    return rc;
}

static int answer_once(const struct command *c, const struct run_args *args, quern_model *model, quern_session *session,
                       bool raw, struct str prompt)
{
    struct sampling sampling;
    struct err e = {0};
    if (sampling_make(&args->sampling, &sampling, &e) < 0) return cli_usage(c, "%s", e.msg);
    struct answer answer;
    answer_init(&answer, args->print_tokens);
    quern_generate_options options = answer_options(&answer, &args->sampling, &sampling);
    options.show_special = args->special;
    options.kwargs_json = args->kwargs;
    options.form = args->form.form;
    quern_result result = {0};
    quern_error qe = {0};
    double bandwidth_gb_s = 0;
    int exit_code = CLI_OK;
    if (generate_once(args, model, session, raw, prompt, &options, &result, &qe) < 0) {
        if (answer.text.n > 0) cli_write("\n", 1, true);
        exit_code = cli_fail("%s", qe.message);
    } else {
        answer_end(&answer, session, &result);
        if (args->verbose) answer_stats(model, session, &result, sampling.values.seed, &bandwidth_gb_s);
    }
    answer_fini(&answer);
    return exit_code;
}

/* ---- the command ------------------------------------------------------------------------------------------------------ */

static int check_args(const struct command *c, const struct run_args *args)
{
    struct sampling sampling;
    struct err e = {0};
    if (sampling_make(&args->sampling, &sampling, &e) < 0) return cli_usage(c, "%s", e.msg);
    if (args->tokens && (args->prompt || args->file || args->system || args->kwargs)) {
        return cli_usage(c, "--tokens is the whole prompt; -p, -f, --system and --chat-template-kwargs do not go with it");
    }
    if (args->tokens) {
        struct buf ids = {0};
        int rc = cli_ids_parse(str_of(args->tokens), &ids, &e);
        bool none = ids.n == 0;
        buf_fini(&ids);
        if (rc < 0 || none) return cli_usage(c, "--tokens: %s", rc < 0 ? e.msg : "there are no token ids");
    }
    if (args->raw && (args->system || args->kwargs)) {
        return cli_usage(c, "--raw uses no chat template, so there is no place for %s",
                         args->system ? "--system" : "--chat-template-kwargs");
    }
    return CLI_OK;
}

static int run_with_model(const struct command *c, const struct run_args *args, quern_model *model,
                          const quern_speculation *speculation)
{
    bool raw = args->raw, interactive = false;
    struct buf prompt = {0};
    int exit_code = args->tokens ? CLI_OK : gather_prompt(c, args, &prompt, &interactive);
    if (exit_code == CLI_OK && interactive && args->print_tokens) {
        exit_code = cli_usage(c, "--print-tokens needs a prompt");
    }
    if (exit_code == CLI_OK && !raw && !args->tokens && !model_has_template(model)) {
        cli_note("this model has no chat template; it continues the prompt as with --raw");
        raw = true;
    }
    quern_session *session = NULL;
    if (exit_code == CLI_OK)
        exit_code = compute_session(c, &args->compute, model, (uint32_t)args->n_ctx, 0, speculation, &session);
    if (exit_code == CLI_OK) {
        exit_code = interactive ? terminal_chat(args, model, session, raw)
                                : answer_once(c, args, model, session, raw, buf_view(&prompt));
    }
    quern_session_free(&session);
    buf_fini(&prompt);
    return exit_code;
}

static int run(const struct command *c, int argc, char **argv)
{
    struct run_args args = {.sampling = SAMPLING_UNSET};
    struct words words;
    int exit_code;
    if (!args_parse(c, &args, argc, argv, &words, &exit_code)) return exit_code;
    exit_code = sort_words(c, &args, &words);
    if (exit_code == CLI_OK) exit_code = check_args(c, &args);
    if (exit_code == CLI_OK) exit_code = form_make(c, &args.form_args, &args.form);
    if (exit_code != CLI_OK) {
        buf_fini(&args.form.text);
        return exit_code;
    }
    const quern_model_options how = compute_loading(&args.compute);
    quern_model *model = NULL, *draft = NULL;
    quern_speculation speculation;
    exit_code = model_open_args(&args.model, &words, &how, &model);
    if (exit_code == CLI_OK) exit_code = speculation_open(c, &args.speculation, &how, &draft, &speculation);
    if (exit_code == CLI_OK) exit_code = run_with_model(c, &args, model, &speculation);
    quern_model_close(&draft);
    quern_model_close(&model);
    buf_fini(&args.form.text);
    return exit_code;
}

const struct command command_run = {
    .name = "run",
    .usage = "[MODEL] [PROMPT]",
    .summary = "chat in the terminal, or answer once",
    .text =
        "Chats with MODEL in the terminal; with a PROMPT, or when standard input is not a terminal, answers once and ends. A "
        "prompt and a text on standard input are put together, with a blank line between them.\n"
        "\n"
        "MODEL is a .gguf file or a Hugging Face folder. A single argument is MODEL when it is a file or folder or can only "
        "name one, and otherwise the PROMPT for the demo model.\n"
        "\n"
        "  quern run \"Tell me a short story.\"\n"
        "  quern run model.gguf\n"
        "  quern run model.gguf -jf person.json \"Who are you?\"\n"
        "  quern run model.gguf \"Summarise this:\" < notes.txt\n",
    .groups = run_groups,
    .max_words = 64,
    .run = run,
};
