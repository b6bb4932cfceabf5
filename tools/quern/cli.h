/* cli: what the commands of the program share. A command is one file that exports one struct command; main.c lists it. Its
 * options are rows of tables, and the parser, --help, the shell completions and the chat's /set all read these same
 * tables, so none of them can drift from the others.
 *
 * The program sees the engine only through quern.h. From base it takes JSON, buffers, files and the clock.
 *
 * Exit codes: 0; 1 failed, with one plain line on stderr; 2 bad usage. Only the answer goes to stdout. */
#ifndef QUERN_CLI_H
#define QUERN_CLI_H

#include "quern.h"
#include "base/base.h"

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

/* ---- options (cli_args.c) ----------------------------------------------------------------------- */

enum opt_kind {
    OPT_FLAG,    /* bool: given or not */
    OPT_INT,     /* int64_t in min..max */
    OPT_THREADS, /* int64_t: at least 1, or -1 for as many as there may be, which is kept as 0 */
    OPT_REAL,    /* double in min..max */
    OPT_SIZE,    /* int64_t bytes, typed as 4GiB, 600M or a number; at least 1 */
    OPT_TEXT,    /* const char * */
    OPT_CHOICE,  /* const char *, one of choices */
    OPT_LIST,    /* struct opt_list: may be given several times */
};

/* One row. Rows end with one whose names is NULL. */
struct opt {
    const char *names; /* as typed, parted by spaces: "-c --ctx-size"; with one dash or two, of any length */
    const char *arg;   /* what --help calls the value; NULL for flags */
    const char *help;
    enum opt_kind kind;
    const char *otherwise; /* OPT_CHOICE: not NULL: the value may be left out, and is then this */
    size_t offset;         /* of the member in the struct of its group */
    double min, max;       /* OPT_INT, OPT_REAL */
    const char *choices;   /* OPT_CHOICE: parted by spaces */
    bool numbers;          /* OPT_CHOICE: whole numbers are taken, too; the command judges them */
};

#define OPT_LIST_MAX 64
struct opt_list {
    const char *p[OPT_LIST_MAX];
    size_t n;
};

/* Rows that fill one struct, which lies at offset in the struct of the command. Groups end with one whose opts is NULL. */
struct opt_group {
    const char *title;
    const struct opt *opts;
    size_t offset;
};

struct command {
    const char *name;
    const char *usage;   /* what follows the name: "[MODEL] [PROMPT]" */
    const char *summary; /* one line for the list of commands */
    const char *text;    /* paragraphs for --help; lines that begin with a space are printed as they are */
    const struct opt_group *groups;
    size_t min_words, max_words; /* arguments that are no options */
    bool hidden;                 /* not in the list of commands */
    int (*run)(const struct command *c, int argc, char **argv);
};

/* Arguments that are no options; points into argv. */
struct words {
    char **p;
    size_t n;
};

/* Fills args (the struct that the command's groups describe) and words. False: there is nothing more to do, and *exit_code
 * says how it ended (--help was printed, or bad usage). */
bool args_parse(const struct command *c, void *args, int argc, char **argv, struct words *words, int *exit_code);
/* The row of the option called name (with its dashes); NULL: there is none. */
const struct opt *args_find(const struct opt *opts, struct str name);
/* Gives an option a value, as the command line would: a list grows by it. base: the struct of the rows; name: its name in
 * messages. */
int args_assign(const struct opt *o, void *base, struct str name, const char *value, struct err *e);
void args_help(const struct command *c);
/* Takes the first word off rest, up to a space; false when there is none. */
bool word_next(struct str *rest, struct str *word);

/* Keeps the candidate that is nearest to a mistyped word. Start with {.word = word}; best stays empty when none is near. */
struct suggestion {
    struct str word, best;
    unsigned distance; /* of best */
};
void suggest(struct suggestion *s, struct str candidate);

extern const struct command *const commands[]; /* main.c; ends with NULL */

/* ---- messages, files, progress (cli_io.c) ------------------------------------------------------------ */

/* "quern: ..." on stderr, control characters made harmless. The first two return the exit code. */
int cli_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
int cli_usage(const struct command *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void cli_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Writes to stdout; false once it failed. */
bool cli_write(const void *p, size_t n, bool flush);
/* Flushes stdout; what could not be written becomes the failure of the command, except when the reader has gone (a closed
 * pipe), which ends the program quietly. */
int cli_finish(int exit_code);

int cli_read_stdin(struct buf *out, struct err *e);
int cli_read_file(const char *path, struct buf *out, struct err *e); /* "-" is stdin; pipes, too */
/* Makes the folders that path, the name of a file, lies in; for the owner only. path is as before afterwards. */
bool cli_make_folders(char *path);
/* The folder `name` of quern's in the user's cache, which need not be there yet; out [PATH_MAX]. False: HOME is not set, or too
 * long. */
bool cli_cache_folder(const char *name, char *out);
bool cli_same_file(const char *a, const char *b);
bool cli_is_model(const char *path); /* an existing file of weights, which nothing but a model should replace */

/* Token ids, parted by commas or white space, with or without the brackets of a JSON array; appends int32_t to out. */
int cli_ids_parse(struct str text, struct buf *out, struct err *e);
static inline const int32_t *ids_of(const struct buf *b)
{
    return (const int32_t *)(const void *)b->p;
}
static inline size_t ids_count(const struct buf *b)
{
    return b->n / sizeof(int32_t);
}

/* SIGINT sets a flag (read by cli_interrupted) and cancels the session, which may be NULL. restart: system calls go on after
 * it; without it a read returns early. cli_interrupt_clear forgets an earlier one. */
void cli_interrupt_catch(quern_session *session, bool restart);
/* SIGTERM and a closed terminal count as interrupts too: for commands that would leave a half-written file behind. */
void cli_terminate_catch(void);
void cli_interrupt_clear(void);
bool cli_interrupted(void);

/* One line on stderr that is drawn again and again; silent where stderr is no terminal. */
struct progress {
    const char *what;
    bool on, bytes, due; /* bytes: done and all count bytes; due: however soon after the last time */
    uint64_t started_ns, shown_ns;
};
void progress_start(struct progress *p, const char *what, bool bytes);
void progress_next(struct progress *p, const char *what); /* of the same whole; comes with the next progress_show */
void progress_show(struct progress *p, uint64_t done, uint64_t all);
void progress_end(struct progress *p); /* wipes the line */

/* "67.1 MB", "33.6 M"; the array is the caller's. */
#define AMOUNT_MAX 24
const char *amount_bytes(uint64_t n, char out[AMOUNT_MAX]);
const char *amount_count(uint64_t n, char out[AMOUNT_MAX]);
bool read_size(struct str text, uint64_t *bytes); /* "600M", "0.8G", "512MiB", "123456"; at least 1 */

/* Prints a buffer and frees it. rc: what the appends returned, several of them or'ed; below 0 the memory ran out. */
int cli_print(struct buf *b, int rc);
int buf_f64(struct buf *b, double v);

/* ---- models and sessions (cli_model.c) --------------------------------------------------------------- */

/* -m, and the first word where -m is not given. */
struct model_args {
    const char *model;
};
extern const struct opt model_opts[];

/* How to compute: threads, batch, CPU level, cache type; and what llama.cpp users type about the GPU. */
struct compute_args {
    int64_t n_batch, n_ubatch, n_threads;
    const char *cpu, *kv, *cache_k, *cache_v, *flash, *gpu_layers;
    struct opt_list lora, lora_scaled;
    bool mmap, no_mmap, mlock, prefault, accepted;
};
extern const struct opt compute_opts[];

/* What becomes of more than the context holds, in the words of quern_context_policy_named. */
#define CONTEXT_POLICIES "error drop-oldest-turn shift"
#define CONTEXT_POLICY_HELP                                                                                       \
    "error (default) refuses what is longer than the context, drop-oldest-turn leaves out the oldest turns of a " \
    "conversation, shift half of what stands behind the first tokens when an answer fills the context"

/* Whether and how to guess tokens (cli_speculation.c). */
struct speculation_args {
    const char *how, *draft_model;
    int64_t max, min;
};
extern const struct opt speculation_opts[];
/* An exit code. *draft: NULL, or the model that out names, which the caller closes after what uses it. */
int speculation_open(const struct command *c, const struct speculation_args *args, const quern_model_options *loading,
                     quern_model **draft, quern_speculation *out);

/* How to draw tokens and when to stop. Start with SAMPLING_UNSET. */
struct sampling_args {
    double temp, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty;
    int64_t top_k, repeat_last_n, n_predict, n_keep;
    const char *seed, *context_policy;
    struct opt_list logit_bias, stop;
    bool ignore_eos;
};
#define PENALTY_UNSET (-1e30) /* penalties may be negative */
#define SAMPLING_UNSET                                                                                 \
    {                                                                                                  \
        .temp = -1, .top_p = -1, .min_p = -1, .repeat_penalty = -1, .presence_penalty = PENALTY_UNSET, \
        .frequency_penalty = PENALTY_UNSET, .top_k = -1, .repeat_last_n = -1, .n_predict = -1          \
    }
extern const struct opt sampling_opts[];

/* Which form answers must have. */
struct form_args {
    const char *schema, *schema_file, *grammar, *grammar_file, *regex;
};
extern const struct opt form_opts[];
struct form {
    quern_form form;
    struct buf text; /* of a file */
};
/* Reads and checks it, and returns the exit code; the texts of args are borrowed. buf_fini(&out->text) also after a failure. */
int form_make(const struct command *c, const struct form_args *args, struct form *out);

#define DEMO_MODEL "Llama-Quern-34M-Q8_0.gguf"
#define DEMO_DRAFT "Llama-Quern-7M-Draft-Q8_0.gguf"
/* Where a file lies that is installed with the program; ERR_NOTFOUND with the places that were looked at. */
int shared_file_find(struct arena *a, const char *name, const char **out, struct err *e);
int demo_model_find(struct arena *a, const char **out, struct err *e);

/* True where a word can only be meant as a model: an existing file or folder, a path, NAME.gguf, NAME:TAG. */
bool model_looks_like(const char *word);
/* Opens it, or says why not; a name that is no file gets what to do about it. Returns an exit code. */
int cli_model_open(const char *path, const quern_model_options *how, quern_model **out);
/* The same for MODEL of a command: -m, else the first word, else the demo model. */
int model_open_args(const struct model_args *args, const struct words *words, const quern_model_options *how,
                    quern_model **out);
bool model_has_template(const quern_model *model);

/* The adapters of --lora, then those of --lora-scaled, in a; an exit code. */
int cli_loras(const struct command *c, const struct opt_list *plain, const struct opt_list *scaled, struct arena *a,
              const quern_lora **out, size_t *n);
/* How --mlock and its like want a model opened. */
quern_model_options compute_loading(const struct compute_args *args);
/* An exit code; c is for messages about usage. n_ctx 0: the default; n_expected: tokens the session will hold, 0 where unknown;
 * speculation NULL: off. */
int compute_session(const struct command *c, const struct compute_args *args, quern_model *model, uint32_t n_ctx,
                    uint32_t n_expected, const quern_speculation *speculation, quern_session **out);

/* What quern_generate takes, made from sampling_args. */
struct sampling {
    quern_sampling values;
    quern_logit_bias bias[OPT_LIST_MAX];
};
/* A seed that is not given is drawn from the system. */
int sampling_make(const struct sampling_args *args, struct sampling *out, struct err *e);

/* ---- the answer of a model (answer.c) ------------------------------------------------------------------- */

/* Streams one generation to stdout: text, or token ids. */
struct answer {
    struct buf text; /* all of it, so far */
    bool print_ids;
    bool terminal; /* control characters of the model are left out */
    bool failed;   /* stdout could not be written */
    size_t n_ids;
};
void answer_init(struct answer *a, bool print_ids);
void answer_fini(struct answer *a);
/* Options that stream to a. */
quern_generate_options answer_options(struct answer *a, const struct sampling_args *args, const struct sampling *sampling);
/* Ends the last line; says on stderr when the context ended it. */
void answer_end(const struct answer *a, const quern_session *session, const quern_result *result);

/* The speeds of --verbose, on stderr. bandwidth_gb_s: 0 at first, then what was measured once. */
void answer_stats(const quern_model *model, const quern_session *session, const quern_result *result, uint64_t seed,
                  double *bandwidth_gb_s);

/* ---- conversations (conversation.c) --------------------------------------------------------------------------- */

struct message {
    struct str role, content; /* in the arena */
};
struct conversation {
    struct arena arena;
    struct message *p;
    size_t n, cap;
};
int conversation_add(struct conversation *v, struct str role, struct str content);
void conversation_clear(struct conversation *v); /* also frees */
/* Replaces the system message, or sets it before the others; empty removes it. */
int conversation_system(struct conversation *v, struct str text);
int conversation_json(const struct conversation *v, struct buf *out); /* an array of messages */
/* {"messages": [...]}: written durably; reading replaces v, or leaves it as it was. */
int conversation_save(const struct conversation *v, const char *path, struct err *e);
int conversation_load(struct conversation *v, const char *path, struct err *e);

/* ---- the terminal (line_input.c, terminal.c) ------------------------------------------------------------------- */

/* Lines typed by a person: edited and remembered with libedit, plain without it. */
struct line_input;
enum line_result { LINE_OK, LINE_END, LINE_INTERRUPTED };
int line_input_new(bool remember, struct line_input **out, struct err *e);
void line_input_free(struct line_input **in);
/* *line lives until the next call and has no newline. LINE_INTERRUPTED: Ctrl-C; what was typed is gone. */
enum line_result line_input_read(struct line_input *in, const char *prompt, struct str *line);
void line_input_remember(struct line_input *in, bool on); /* /set history, /set nohistory */

struct run_args {
    struct model_args model;
    struct compute_args compute;
    struct sampling_args sampling;
    struct form_args form_args;
    struct form form; /* made of them */
    struct speculation_args speculation;
    const char *prompt, *file, *system, *tokens, *kwargs;
    int64_t n_ctx;
    bool raw, special, print_tokens, verbose, no_history;
};
extern const struct opt_group run_groups[]; /* cmd_run.c */

/* Chats until the person leaves; an exit code. raw: no chat template, every line continues the text. */
int terminal_chat(const struct run_args *args, quern_model *model, quern_session *session, bool raw);

#endif
