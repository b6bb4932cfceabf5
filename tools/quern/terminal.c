/* terminal: the chat between a person and a model. One loop: read what was typed, a command or a message; let the model answer;
 * keep both. The session holds the KV cache of the conversation, and since each prompt begins with the one before,
 * only what is new is computed. Ctrl-C stops an answer, and what was said of it stays in the conversation. Nothing is
 * ever dropped from a conversation to make it fit: a full context is reported with its counts. */
#include "cli.h"

#include <stdio.h>
#include <unistd.h>

struct chat {
    quern_model *model;
    quern_session *session;
    struct line_input *in;
    struct sampling_args sampling; /* as /set left it */
    quern_form form;
    const char *kwargs; /* of the chat template */
    struct conversation v;
    struct buf plain;    /* raw: the whole text so far */
    struct arena values; /* texts that /set keeps */
    double bandwidth_gb_s;
    bool raw, verbose, special, leave;
};

/* ---- one answer ------------------------------------------------------------------------------------------------ */

/* Lets the model answer the conversation with message at its end. */
static int generate(struct chat *c, struct str message, const quern_generate_options *options, quern_result *result,
                    quern_error *e)
{
    int rc = QUERN_ERR_NOMEM;
    if (c->raw) {
        quern_tokens tokens = {0};
        unsigned flags = QUERN_ADD_SPECIAL | (c->special ? QUERN_PARSE_SPECIAL : 0);
        if ((c->plain.n == 0 || buf_c(&c->plain, '\n') == 0) && buf_str(&c->plain, message) == 0) {
            rc = quern_tokenize(c->model, c->plain.p, c->plain.n, flags, &tokens, e);
        }
        if (rc == 0) rc = quern_generate(c->session, tokens.ids, tokens.count, options, result, e);
        quern_tokens_free(&tokens);
        return rc;
    }
    struct buf json = {0};
    if (conversation_add(&c->v, STR("user"), message) == 0 && conversation_json(&c->v, &json) == 0 && buf_c(&json, '\0') == 0) {
        rc = quern_chat(c->session, json.p, options, result, e);
    }
    buf_fini(&json);
    return rc;
}

static int keep_answer(struct chat *c, struct str text)
{
    return c->raw ? buf_str(&c->plain, text) : conversation_add(&c->v, STR("assistant"), text);
}

static void report_failure(int rc, const char *message)
{
    if (rc == QUERN_ERR_CONTEXT) {
        cli_note("%s; the message was not sent. /clear starts afresh, -c N makes room for more", message);
    } else {
        cli_note("%s", *message ? message : "out of memory");
    }
}

static void answer_message(struct chat *c, struct str message)
{
    struct sampling sampling;
    struct err e = {0};
    if (sampling_make(&c->sampling, &sampling, &e) < 0) {
        cli_note("%s", e.msg);
        return;
    }
    struct answer answer;
    quern_result result = {0};
    quern_error qe = {0};
    answer_init(&answer, false);
    quern_generate_options options = answer_options(&answer, &c->sampling, &sampling);
    options.show_special = c->special;
    options.form = c->form;
    options.kwargs_json = c->kwargs;
    size_t n_before = c->v.n, plain_before = c->plain.n;
    cli_interrupt_clear();
    cli_interrupt_catch(c->session, true);
    int rc = generate(c, message, &options, &result, &qe);
    cli_interrupt_catch(NULL, false);
    bool answered = rc == 0 || (rc == QUERN_ERR_CANCELLED && answer.text.n > 0);
    if (answered && keep_answer(c, buf_view(&answer.text)) == 0) {
        answer_end(&answer, c->session, &result);
        if (rc == 0 && c->verbose) answer_stats(c->model, c->session, &result, sampling.values.seed, &c->bandwidth_gb_s);
    } else {
        /* A message without an answer is not kept: the chat goes on as if it had not been sent. */
        c->v.n = n_before;
        c->plain.n = plain_before;
        if (rc != QUERN_ERR_CANCELLED) report_failure(rc, qe.message);
    }
    cli_write("\n", 1, true);
    if (answer.failed) c->leave = true;
    answer_fini(&answer);
}

/* ---- commands ------------------------------------------------------------------------------------------------------ */

static struct str trim(struct str s)
{
    while (s.n > 0 && (*s.p == ' ' || *s.p == '\t')) s.p++, s.n--;
    while (s.n > 0 && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t')) s.n--;
    return s;
}

/* A copy that lives as long as the chat; NULL, and told, when the memory ran out. */
static const char *keep_value(struct chat *c, struct str s)
{
    const char *z = arena_dup(&c->values, s.p ? s.p : "", s.n);
    if (!z) cli_note("out of memory");
    return z;
}

/* What is set takes the place of what was set before, of a list, too; a list without a value is empty. */
static int change_parameter(struct chat *c, const struct opt *o, struct str name, const char *value, struct err *e)
{
    struct sampling_args changed = c->sampling;
    struct sampling checked;
    if (o->kind == OPT_LIST) ((struct opt_list *)(void *)((char *)&changed + o->offset))->n = 0;
    if (*value) TRY(args_assign(o, &changed, name, value, e));
    TRY(sampling_make(&changed, &checked, e));
    c->sampling = changed;
    return 0;
}

static void set_parameter(struct chat *c, struct str name, struct str value)
{
    struct buf option = {0}; /* "top_p" is the option --top-p */
    const char *z = keep_value(c, value);
    struct err e = {0};
    if (!z || buf_z(&option, "--") < 0 || buf_str(&option, name) < 0) {
        buf_fini(&option);
        return;
    }
    for (size_t i = 2; i < option.n; i++) {
        if (option.p[i] == '_') option.p[i] = '-';
    }
    const struct opt *o = args_find(sampling_opts, buf_view(&option));
    if (o && o->kind == OPT_FLAG) o = NULL; /* a chat could turn one on, but not off again */
    if (name.n == 0 || (value.n == 0 && !(o && o->kind == OPT_LIST))) {
        cli_note("say /set parameter NAME VALUE; /show parameters lists the names");
    } else if (!o) {
        cli_note("there is no parameter %.*s; /show parameters lists them", STR_ARG(name));
    } else if (change_parameter(c, o, name, z, &e) < 0) {
        cli_note("%s", e.msg);
    } else {
        printf("%.*s is %.*s from now on\n", STR_ARG(name), value.n ? (int)value.n : 3, value.n ? value.p : "off");
    }
    buf_fini(&option);
}

static void set_system(struct chat *c, struct str text)
{
    if (text.n >= 2 && text.p[0] == '"' && text.p[text.n - 1] == '"') text.p++, text.n -= 2;
    if (c->raw) {
        cli_note("this chat has no template, so it has no system message");
    } else if (conversation_system(&c->v, text) < 0) {
        cli_note("out of memory");
    }
}

static void do_set(struct chat *c, struct str arg)
{
    struct str what = {0}, rest = arg, name = {0};
    word_next(&rest, &what);
    if (str_is(what, "parameter")) {
        word_next(&rest, &name);
        set_parameter(c, name, trim(rest));
    } else if (str_is(what, "system")) {
        set_system(c, trim(rest));
    } else if (str_is(what, "verbose") || str_is(what, "quiet")) {
        c->verbose = str_is(what, "verbose");
    } else if (str_is(what, "history") || str_is(what, "nohistory")) {
        line_input_remember(c->in, str_is(what, "history"));
    } else if (what.n > 0 && trim(rest).n > 0) {
        set_parameter(c, what, trim(rest));
    } else {
        cli_note("/set takes: parameter NAME VALUE, system TEXT, verbose, quiet, history, nohistory");
    }
}

/* "--top-p" as /set has it. */
static void parameter_name(const struct opt *o, char out[32])
{
    struct str rest = str_of(o->names), word;
    size_t n = 0;
    while (word_next(&rest, &word)) {
        if (!str_starts(word, STR("--"))) continue;
        n = size_min(word.n - 2, 31);
        for (size_t i = 0; i < n; i++) out[i] = word.p[i + 2] == '-' ? '_' : word.p[i + 2];
    }
    out[n] = '\0';
}

/* One value of o in args, or "-" where it is as in unset; the values of a list in quotes. */
static void show_value(const struct opt *o, const struct sampling_args *args, const struct sampling_args *unset)
{
    const void *at = (const char *)args + o->offset;
    const void *before = (const char *)unset + o->offset;
    const struct opt_list *list = at;
    if (o->kind == OPT_REAL && *(const double *)at != *(const double *)before) {
        printf("%g\n", *(const double *)at);
    } else if (o->kind == OPT_INT && *(const int64_t *)at != *(const int64_t *)before) {
        printf("%lld\n", (long long)*(const int64_t *)at);
    } else if (o->kind == OPT_LIST && list->n > 0) {
        for (size_t i = 0; i < list->n; i++) printf("%s\"%s\"", i ? ", " : "", list->p[i]);
        printf("\n");
    } else if ((o->kind == OPT_TEXT || o->kind == OPT_CHOICE) && *(const char *const *)at) {
        printf("%s\n", *(const char *const *)at);
    } else {
        printf("-\n");
    }
}

/* The parameters are the rows of the option table that take a value. */
static void show_parameters(const struct chat *c)
{
    static const struct sampling_args unset = SAMPLING_UNSET;
    quern_sampling model = quern_sampling_of(c->model);
    printf("the model asks for temperature %g, top_k %d, top_p %g, min_p %g, repeat_penalty %g; set here:\n",
           (double)model.temperature, (int)model.top_k, (double)model.top_p, (double)model.min_p, (double)model.repeat_penalty);
    for (const struct opt *o = sampling_opts; o->names; o++) {
        char name[32];
        if (o->kind == OPT_FLAG) continue;
        parameter_name(o, name);
        printf("  %-20s", name);
        show_value(o, &c->sampling, &unset);
    }
}

static void show_info(const struct chat *c)
{
    quern_model_info info;
    quern_session_info session;
    char a[AMOUNT_MAX], b[AMOUNT_MAX];
    quern_model_get_info(c->model, &info);
    quern_session_get_info(c->session, &session);
    printf("model    %s, %s, %s parameters, %s of %s weights\n", info.name, info.architecture, amount_count(info.parameters, a),
           amount_bytes(info.weight_bytes, b), info.weight_type);
    printf("context  %u of %u tokens used, %s KV cache (%s, %s)\n", session.n_tokens, session.n_ctx,
           amount_bytes(session.kv_bytes, a), session.k_type, session.v_type);
    if (session.state_bytes) printf("states   %s of recurrent layers\n", amount_bytes(session.state_bytes, a));
    printf("compute  %u threads, %s\n", session.n_threads, session.cpu_level);
}

static void do_show(struct chat *c, struct str arg)
{
    if (str_is(arg, "parameters")) {
        show_parameters(c);
    } else if (str_is(arg, "system")) {
        bool has = c->v.n > 0 && str_is(c->v.p[0].role, "system");
        printf("%.*s\n", has ? (int)c->v.p[0].content.n : 0, has ? c->v.p[0].content.p : "");
    } else if (arg.n == 0 || str_is(arg, "info")) {
        show_info(c);
    } else {
        cli_note("/show takes: info, system, parameters");
    }
}

static void do_clear(struct chat *c, struct str arg)
{
    (void)arg;
    /* The system message stays: it belongs to the set-up, not to what was said. */
    while (c->v.n > 0 && !(c->v.n == 1 && str_is(c->v.p[0].role, "system"))) c->v.n--;
    c->plain.n = 0;
    quern_session_truncate(c->session, 0);
    printf("the conversation begins afresh\n");
}

static void do_save(struct chat *c, struct str arg)
{
    struct err e = {0};
    const char *path = keep_value(c, arg);
    if (arg.n == 0 || c->raw) {
        cli_note(c->raw ? "this chat has no template, so it has no messages to save" : "say /save FILE");
    } else if (path && conversation_save(&c->v, path, &e) < 0) {
        cli_note("%s", e.msg);
    } else if (path) {
        printf("saved %zu messages to %s\n", c->v.n, path);
    }
}

static void do_load(struct chat *c, struct str arg)
{
    struct err e = {0};
    const char *path = keep_value(c, arg);
    if (arg.n == 0 || c->raw) {
        cli_note(c->raw ? "this chat has no template, so it takes no messages" : "say /load FILE");
    } else if (path && conversation_load(&c->v, path, &e) < 0) {
        cli_note("%s", e.msg);
    } else if (path) {
        printf("loaded %zu messages from %s\n", c->v.n, path);
    }
}

static void do_bye(struct chat *c, struct str arg)
{
    (void)arg;
    c->leave = true;
}

static void do_help(struct chat *c, struct str arg);

static const struct slash {
    const char *names, *arg, *help;
    void (*run)(struct chat *c, struct str arg);
} slashes[] = {
    {"/help /?", "", "this list", do_help},
    {"/set", "parameter NAME VALUE", "temperature, top_p, stop, ... from now on", do_set},
    {"/set", "system TEXT", "the system message; empty: none", do_set},
    {"/set", "verbose | quiet", "print speeds after each answer, or not", do_set},
    {"/set", "history | nohistory", "remember what is typed, or not", do_set},
    {"/show", "[info | system | parameters]", "what is set", do_show},
    {"/clear", "", "forget the conversation", do_clear},
    {"/save", "FILE", "write the conversation as JSON", do_save},
    {"/load", "FILE", "go on with a conversation that was saved", do_load},
    {"/bye /exit /quit", "", "leave (also Ctrl-D)", do_bye},
};

static void do_help(struct chat *c, struct str arg)
{
    (void)c;
    (void)arg;
    for (size_t i = 0; i < COUNT_OF(slashes); i++) {
        struct str rest = str_of(slashes[i].names), name = {0};
        word_next(&rest, &name);
        int n = printf("  %.*s %s", (int)name.n, name.p, slashes[i].arg);
        printf("%*s%s\n", n < 38 ? 38 - n : 1, "", slashes[i].help);
    }
    printf("  \"\"\"%*sbegins and ends a message of several lines; pasted ones need none\n", 33, "");
    printf("  Ctrl-C%*sstops an answer, or clears the line\n", 30, "");
}

/* NULL where no command has this name; near gets the one that may be meant. */
static const struct slash *find_command(struct str name, struct suggestion *near)
{
    *near = (struct suggestion){.word = name};
    for (size_t i = 0; i < COUNT_OF(slashes); i++) {
        struct str names = str_of(slashes[i].names), word;
        while (word_next(&names, &word)) {
            if (str_eq(word, name)) return &slashes[i];
            suggest(near, word);
        }
    }
    return NULL;
}

/* What begins as a command does. Several lines that were pasted do so by chance, unless there is that command. */
static bool is_command(struct str text)
{
    struct str rest = text, name = {0};
    struct suggestion near;
    if (text.p[0] != '/') return false;
    word_next(&rest, &name);
    return !memchr(text.p, '\n', text.n) || find_command(name, &near);
}

static void do_command(struct chat *c, struct str line)
{
    struct str rest = line, name = {0};
    struct suggestion s;
    word_next(&rest, &name);
    const struct slash *command = find_command(name, &s);
    if (command) {
        command->run(c, trim(rest));
        return;
    }
    if (s.best.n > 0) {
        cli_note("there is no command %.*s; did you mean %.*s?", STR_ARG(name), STR_ARG(s.best));
    } else {
        cli_note("there is no command %.*s; /help lists them", STR_ARG(name));
    }
}

/* ---- the loop ---------------------------------------------------------------------------------------------------------- */

/* Reads on until the closing """, which opened says has not come yet. */
static enum line_result read_block(struct chat *c, struct str first, struct buf *message)
{
    const struct str quotes = STR("\"\"\"");
    struct str line = {first.p + quotes.n, first.n - quotes.n};
    for (;;) {
        bool last = str_ends(line, quotes);
        if (last) line.n -= quotes.n;
        if (buf_str(message, line) < 0) return LINE_END;
        if (last) return LINE_OK;
        if (message->n + line.n > 0 && buf_c(message, '\n') < 0) return LINE_END;
        enum line_result result = line_input_read(c->in, "... ", &line);
        if (result != LINE_OK) return result;
    }
}

/* block: it stands between """, and is no command, whatever it begins with. */
static enum line_result read_message(struct chat *c, struct buf *message, bool *block)
{
    struct str line;
    enum line_result result = line_input_read(c->in, ">>> ", &line);
    if (result != LINE_OK) return result;
    struct str trimmed = trim(line);
    *block = str_starts(trimmed, STR("\"\"\""));
    if (*block) return read_block(c, trimmed, message);
    return buf_str(message, line) < 0 ? LINE_END : LINE_OK;
}

static void loop(struct chat *c)
{
    bool interrupted = false;
    struct buf message = {0};
    while (!c->leave) {
        bool block = false;
        message.n = 0;
        cli_interrupt_clear();
        enum line_result result = read_message(c, &message, &block);
        if (result != LINE_OK) {
            printf("\n");
            if (result == LINE_END) break;
            if (interrupted) printf("(Ctrl-D or /bye leaves)\n");
            interrupted = true;
            continue;
        }
        interrupted = false;
        struct str text = trim(buf_view(&message));
        if (text.n == 0) continue;
        if (!block && is_command(text)) {
            do_command(c, text);
        } else {
            answer_message(c, buf_view(&message));
        }
    }
    buf_fini(&message);
}

int terminal_chat(const struct run_args *args, quern_model *model, quern_session *session, bool raw)
{
    struct chat c = {
        .model = model,
        .session = session,
        .sampling = args->sampling,
        .form = args->form.form,
        .kwargs = args->kwargs,
        .raw = raw,
        .verbose = args->verbose,
        .special = args->special,
    };
    struct err e = {0};
    quern_model_info info;
    if (args->system && conversation_system(&c.v, str_of(args->system)) < 0) return cli_fail("out of memory");
    if (line_input_new(!args->no_history, &c.in, &e) < 0) {
        conversation_clear(&c.v);
        return cli_fail("%s", e.msg);
    }
    quern_model_get_info(model, &info);
    printf("%s (%s). /help lists the commands, /bye leaves.\n\n", info.name, info.weight_type);
    cli_interrupt_catch(NULL, false);
    loop(&c);
    line_input_free(&c.in);
    conversation_clear(&c.v);
    buf_fini(&c.plain);
    arena_fini(&c.values);
    return CLI_OK;
}
