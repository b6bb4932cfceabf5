/* batch: several prompts answered together, each streamed as it comes. Usage: batch MODEL PROMPT...
 * One engine computes all requests in common steps; what each gets is what it would get alone. Every line of the output begins
 * with the number of its prompt. */
#include <quern.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct answer {
    int number;
    char line[4096]; /* text that has no newline yet */
    size_t length;
    quern_request *request;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int n_running;

static void print_line(struct answer *a)
{
    printf("%d: %.*s\n", a->number, (int)a->length, a->line);
    fflush(stdout);
    a->length = 0;
}

static void put(struct answer *a, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (text[i] != '\n' && a->length < sizeof a->line) a->line[a->length++] = text[i];
        if (text[i] == '\n') print_line(a);
    }
}

/* Both are called on the engine's thread, one after the other: printing needs no lock. */
static void on_token(void *user, const quern_token *token)
{
    put(user, token->text, token->length);
}

static void on_end(void *user, const quern_request_result *result)
{
    struct answer *a = user;
    put(a, result->tail, result->tail_length);
    print_line(a);
    if (result->error) fprintf(stderr, "batch: prompt %d: %s\n", a->number, result->message);
    fprintf(stderr, "%d: %u tokens, %u of the prompt's %u reused\n", a->number, result->result.n_generated,
            result->result.n_reused, result->result.n_prompt);
    pthread_mutex_lock(&lock);
    n_running--;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
}

static int fail(const quern_error *err)
{
    fprintf(stderr, "batch: %s\n", err->message);
    return 1;
}

/* Submits the prompt as a continuation; the engine copies what it needs. */
static int submit(quern_engine *engine, const quern_model *model, const char *prompt, struct answer *a, quern_error *err)
{
    quern_tokens tokens;
    quern_sampling greedy = quern_sampling_default();
    greedy.temperature = 0;
    int rc = quern_tokenize(model, prompt, strlen(prompt), QUERN_ADD_SPECIAL | QUERN_PARSE_SPECIAL, &tokens, err);
    if (rc < 0) return rc;
    const quern_request_options options = {.prompt = tokens.ids,
                                           .n_prompt = tokens.count,
                                           .sampling = &greedy,
                                           .max_tokens = 40,
                                           .on_token = on_token,
                                           .on_end = on_end,
                                           .user = a};
    rc = quern_engine_submit(engine, &options, &a->request, err);
    quern_tokens_free(&tokens);
    return rc;
}

int main(int argc, char **argv)
{
    quern_model *model;
    quern_engine *engine;
    quern_error err;
    if (argc < 3) return fprintf(stderr, "usage: batch MODEL PROMPT...\n"), 2;
    const int n = argc - 2;
    struct answer *answers = calloc((size_t)n, sizeof *answers);
    if (!answers) return 1;
    if (quern_model_open(argv[1], NULL, &model, &err) < 0) return fail(&err);
    const quern_engine_options options = {.n_ctx = 512, .n_parallel = (uint32_t)n, .n_queue = (uint32_t)n};
    if (quern_engine_new(model, &options, &engine, &err) < 0) return fail(&err);
    for (int i = 0; i < n; i++) {
        answers[i].number = i + 1;
        pthread_mutex_lock(&lock);
        n_running++;
        pthread_mutex_unlock(&lock);
        if (submit(engine, model, argv[2 + i], &answers[i], &err) < 0) return fail(&err);
    }
    pthread_mutex_lock(&lock);
    while (n_running > 0) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < n; i++) quern_request_free(&answers[i].request);
    quern_engine_free(&engine);
    quern_model_close(&model);
    free(answers);
    return 0;
}
