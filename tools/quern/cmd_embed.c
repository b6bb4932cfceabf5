/* quern embed and quern rerank: vectors of texts, and how well documents answer a query. */
#include "cli.h"

#include <stdio.h>
#include <stdlib.h>

struct embed_args {
    struct model_args model;
    const char *tokens, *prompt, *file, *pooling, *cpu, *query;
    struct opt_list documents;
    int64_t dimensions, n_threads, n_ctx, top_n;
    bool raw, json;
};

#define EMBED(member) .offset = offsetof(struct embed_args, member)
#define COMMON                                                                                                             \
    {"--pooling",                                                                                                          \
     "KIND",                                                                                                               \
     "mean, cls or last token; default: as the model says",                                                                \
     .kind = OPT_CHOICE,                                                                                                   \
     .choices = "mean cls last",                                                                                           \
     EMBED(pooling)},                                                                                                      \
        {"-c --ctx-size --ctx", "N",      "most tokens of a text; default: what the model was trained for, at most 8192",  \
         .kind = OPT_INT,       .min = 1, .max = 1 << 24,                                                                  \
         EMBED(n_ctx)},                                                                                                    \
        {"-t --threads", "N", "compute threads; default, or -1: the cores that this process may use", .kind = OPT_THREADS, \
         EMBED(n_threads)},                                                                                                \
        {"--cpu", "LEVEL", "highest CPU level to use; the results do not depend on it", .kind = OPT_TEXT, EMBED(cpu)},     \
        {"--json", NULL, "print JSON", .kind = OPT_FLAG, EMBED(json)},                                                     \
    {                                                                                                                      \
        0                                                                                                                  \
    }

static const struct opt embed_opts[] = {
    {"--tokens", "IDS", "embed these token ids, given as 1,2,3", .kind = OPT_TEXT, EMBED(tokens)},
    {"-p --prompt", "TEXT", "embed TEXT", .kind = OPT_TEXT, EMBED(prompt)},
    {"-f --file", "FILE", "embed each line of FILE; - is standard input", .kind = OPT_TEXT, EMBED(file)},
    {"--dimensions", "N", "only the first N numbers, for models that are trained for it", .kind = OPT_INT, .min = 1,
     .max = 1 << 20, EMBED(dimensions)},
    {"--no-normalize", NULL, "leave the length of the vector as it is", .kind = OPT_FLAG, EMBED(raw)},
    COMMON};

static const struct opt rerank_opts[] = {
    {"--query", "TEXT", "what is asked", .kind = OPT_TEXT, EMBED(query)},
    {"--document", "TEXT", "what may answer it; may be repeated", .kind = OPT_LIST, EMBED(documents)},
    {"--top-n", "N", "only the best N", .kind = OPT_INT, .min = 1, .max = OPT_LIST_MAX, EMBED(top_n)},
    COMMON};

static const struct opt_group embed_groups[] = {
    {"Model", model_opts, offsetof(struct embed_args, model)}, {"Options", embed_opts, 0}, {0}};
static const struct opt_group rerank_groups[] = {
    {"Model", model_opts, offsetof(struct embed_args, model)}, {"Options", rerank_opts, 0}, {0}};

static int open_embedder(const struct embed_args *args, const struct words *words, quern_model **model, quern_embedder **out)
{
    quern_error err;
    const quern_model_options how = {0};
    const int exit_code = model_open_args(&args->model, words, &how, model);
    if (exit_code != CLI_OK) return exit_code;
    const quern_embed_options o = {.n_ctx = (uint32_t)args->n_ctx,
                                   .n_threads = (uint32_t)args->n_threads,
                                   .pooling = args->pooling,
                                   .cpu_level = args->cpu};
    return quern_embedder_new(*model, &o, out, &err) < 0 ? cli_fail("%s", err.message) : CLI_OK;
}

/* ---- embed ------------------------------------------------------------------------------------------------------------- */

struct embedding {
    const struct embed_args *args;
    quern_model *model;
    quern_embedder *embedder;
    struct buf out;
    size_t n_done;
    bool many; /* an array of vectors */
};

static int put_vector(struct embedding *x, const float *v, size_t n)
{
    int rc = x->many && x->n_done ? buf_z(&x->out, x->args->json ? ",\n" : "\n") : 0;
    if (x->args->json) rc |= buf_c(&x->out, '[');
    for (size_t i = 0; i < n; i++) rc |= buf_printf(&x->out, "%s%.9g", i ? (x->args->json ? "," : " ") : "", (double)v[i]);
    if (x->args->json) rc |= buf_c(&x->out, ']');
    x->n_done++;
    return rc;
}

static int embed_ids(struct embedding *x, const int32_t *ids, size_t n_ids)
{
    quern_error err;
    const size_t n = x->args->dimensions ? (size_t)x->args->dimensions : quern_embedder_dimensions(x->embedder);
    float *v = mem_array(n, sizeof *v);
    int exit_code = CLI_OK;
    if (!v)
        exit_code = cli_fail("out of memory");
    else if (quern_embed(x->embedder, ids, n_ids, (uint32_t)x->args->dimensions, !x->args->raw, v, &err) < 0)
        exit_code = x->many ? cli_fail("text %zu: %s", x->n_done + 1, err.message) : cli_fail("%s", err.message);
    else if (put_vector(x, v, n) < 0)
        exit_code = cli_fail("out of memory");
    mem_free(v);
    return exit_code;
}

static int embed_text(struct embedding *x, struct str text)
{
    quern_tokens t;
    quern_error err;
    if (quern_tokenize(x->model, text.p, text.n, QUERN_ADD_SPECIAL, &t, &err) < 0) return cli_fail("%s", err.message);
    const int exit_code = embed_ids(x, t.ids, t.count);
    quern_tokens_free(&t);
    return exit_code;
}

/* Each line has its vector, an empty one, too: the caller pairs them by number. */
static int embed_lines(struct embedding *x, const char *path)
{
    struct buf text = {0};
    struct err e;
    if (cli_read_file(path, &text, &e) < 0) return cli_fail("%s", e.msg);
    int exit_code = CLI_OK;
    for (struct str rest = buf_view(&text); exit_code == CLI_OK && rest.n;) {
        const char *end = memchr(rest.p, '\n', rest.n);
        struct str line = {rest.p, end ? (size_t)(end - rest.p) : rest.n};
        const size_t step = line.n + (end != NULL);
        rest = (struct str){rest.p + step, rest.n - step};
        if (line.n && line.p[line.n - 1] == '\r') line.n--;
        exit_code = embed_text(x, line);
    }
    buf_fini(&text);
    return exit_code;
}

static int embed_all(struct embedding *x, const char *const *texts, size_t n_texts)
{
    const struct embed_args *args = x->args;
    int exit_code = CLI_OK;
    x->many = args->file || n_texts + (args->prompt != NULL) > 1;
    if (args->json && x->many && buf_c(&x->out, '[') < 0) return cli_fail("out of memory");
    if (args->tokens) {
        struct buf ids = {0};
        struct err e;
        exit_code = cli_ids_parse(str_of(args->tokens), &ids, &e) < 0 ? cli_fail("%s", e.msg)
                                                                      : embed_ids(x, ids_of(&ids), ids_count(&ids));
        buf_fini(&ids);
    }
    if (exit_code == CLI_OK && args->prompt) exit_code = embed_text(x, str_of(args->prompt));
    for (size_t i = 0; exit_code == CLI_OK && i < n_texts; i++) exit_code = embed_text(x, str_of(texts[i]));
    if (exit_code == CLI_OK && args->file) exit_code = embed_lines(x, args->file);
    if (exit_code == CLI_OK && args->json && x->many && buf_c(&x->out, ']') < 0) return cli_fail("out of memory");
    return exit_code;
}

static int run_embed(const struct command *c, int argc, char **argv)
{
    struct embed_args args = {0};
    struct words words;
    int exit_code;
    if (!args_parse(c, &args, argc, argv, &words, &exit_code)) return exit_code;
    const size_t own = args.model.model ? 0 : 1; /* words that name the model */
    if (words.n < own) return cli_usage(c, "give a model");
    const size_t n_texts = words.n - own;
    if (!args.tokens && !args.prompt && !args.file && n_texts == 0) return cli_usage(c, "give a text, --tokens or -f");
    if (args.tokens && (args.prompt || args.file || n_texts)) return cli_usage(c, "give token ids or texts, not both");
    struct embedding x = {.args = &args};
    exit_code = open_embedder(&args, &words, &x.model, &x.embedder);
    if (exit_code == CLI_OK) exit_code = embed_all(&x, (const char *const *)words.p + own, n_texts);
    if (exit_code == CLI_OK) exit_code = cli_print(&x.out, buf_c(&x.out, '\n'));
    buf_fini(&x.out);
    quern_embedder_free(&x.embedder);
    quern_model_close(&x.model);
    return exit_code;
}

/* ---- rerank ------------------------------------------------------------------------------------------------------------ */

struct scored {
    size_t index;
    float score;
};

/* The best first; of equals the earlier one. */
static int by_score(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    return x->index < y->index ? -1 : 1;
}

static int print_scores(const struct embed_args *args, const struct scored *v)
{
    struct buf out = {0};
    const size_t n = args->top_n ? size_min((size_t)args->top_n, args->documents.n) : args->documents.n;
    int rc = args->json ? buf_z(&out, "{\"results\":[") : 0;
    for (size_t i = 0; i < n; i++) {
        const struct scored *s = &v[i];
        rc |= args->json
                  ? buf_printf(&out, "%s{\"index\":%zu,\"relevance_score\":%.9g}", i ? "," : "", s->index, (double)s->score)
                  : buf_printf(&out, "%12.6f  %s\n", (double)s->score, args->documents.p[s->index]);
    }
    if (args->json) rc |= buf_z(&out, "]}\n");
    return cli_print(&out, rc);
}

static int run_rerank(const struct command *c, int argc, char **argv)
{
    struct embed_args args = {0};
    struct words words;
    struct scored v[OPT_LIST_MAX];
    int exit_code;
    quern_model *model = NULL;
    quern_embedder *embedder = NULL;
    quern_error err;
    if (!args_parse(c, &args, argc, argv, &words, &exit_code)) return exit_code;
    if (!args.query || args.documents.n == 0) return cli_usage(c, "give --query and at least one --document");
    if (!args.model.model && words.n == 0) return cli_usage(c, "give a model");
    exit_code = open_embedder(&args, &words, &model, &embedder);
    for (size_t i = 0; exit_code == CLI_OK && i < args.documents.n; i++) {
        v[i].index = i;
        if (quern_rerank(embedder, args.query, args.documents.p[i], &v[i].score, &err) < 0)
            exit_code = cli_fail("%s", err.message);
    }
    if (exit_code == CLI_OK) {
        qsort(v, args.documents.n, sizeof *v, by_score);
        exit_code = print_scores(&args, v);
    }
    quern_embedder_free(&embedder);
    quern_model_close(&model);
    return exit_code;
}

const struct command command_embed = {
    .name = "embed",
    .usage = "MODEL [TEXT...]",
    .summary = "vectors of texts",
    .text = "Prints one vector of length 1 for each text: what an embedding model is made for, or of another model the pooled "
            "hidden states "
            "behind its last norm. With --json one text gives an array of numbers, several give an array of such.\n",
    .groups = embed_groups,
    .max_words = OPT_LIST_MAX,
    .run = run_embed,
};

const struct command command_rerank = {
    .name = "rerank",
    .usage = "MODEL --query TEXT --document TEXT...",
    .summary = "how well documents answer a query",
    .text = "Scores each document against the query and prints the best first: by the head of a cross-encoder, by the answer "
            "of a model that "
            "says yes or no (Qwen3-Reranker), or by the cosine of the vectors of any other.\n",
    .groups = rerank_groups,
    .max_words = 1,
    .run = run_rerank,
};
