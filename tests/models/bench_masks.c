/* bench_masks: what the mask of a step takes, for answers as models write them. Each answer is followed by new matchers, as
 * each request has one, and then again by the same matcher, which has met it all.
 *
 * usage: bench_masks VOCABULARY
 *
 * VOCABULARY: a .gguf file or a tokenizer.json. Times are those of the thread: other programs count little. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "any_vocab.h"

enum { RUNS = 20, STEPS = RUNS * MATCHER_BACK };

static struct tok *tok;
static struct vocab *vocab;

/* text: of the grammar; answer: at most MATCHER_BACK tokens. */
static const struct {
    const char *name;
    enum grammar_kind kind;
    const char *text, *answer;
} forms[] = {
    {"any object", GRAMMAR_JSON, "",
     "{\"name\": \"Ada Lovelace\", \"born\": 1815, \"fields\": [\"mathematics\", \"computing\"], \"note\": \"She wrote the "
     "first "
     "program that was published.\"}"},
    {"nested schema", GRAMMAR_SCHEMA,
     "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":60},\"age\":{\"type\":\"integer\","
     "\"minimum\":0,"
     "\"maximum\":120},\"role\":{\"enum\":[\"author\",\"editor\",\"reader\"]},\"address\":{\"type\":\"object\",\"properties\":{"
     "\"street\":{\"type\":\"string\"},\"city\":{\"type\":\"string\"},\"zip\":{\"type\":\"string\",\"pattern\":\"^\\\\d{5}$\"}}"
     ","
     "\"required\":[\"street\",\"city\"]},\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\",\"maxLength\":200}}},"
     "\"required\":[\"name\",\"age\",\"role\",\"address\",\"tags\"],\"additionalProperties\":false}",
     "{\"name\": \"Ada Lovelace\", \"age\": 36, \"role\": \"author\", \"address\": {\"street\": \"12 St James's Square\", "
     "\"city\": "
     "\"London\", \"zip\": \"12345\"}, \"tags\": [\"mathematics\", \"first programs\"]}"},
    {"text of a length", GRAMMAR_SCHEMA, "{\"type\":\"string\",\"minLength\":20,\"maxLength\":300}",
     "\"The sea was calm that morning, and nobody on the quay could have said which of the boats would come back before the "
     "\\\"great "
     "storm\\\" that everybody remembers — not even the old man who knew the sky.\""},
    {"pattern and length", GRAMMAR_SCHEMA,
     "{\"type\":\"string\",\"pattern\":\"^[A-Z][^|]*[.]$\",\"minLength\":20,\"maxLength\":300}",
     "\"The sea was calm that morning, and nobody on the quay could have said which of the boats would come back before the "
     "great storm that everybody remembers.\""},
    {"keys by patterns", GRAMMAR_SCHEMA,
     "{\"patternProperties\":{\"^[a-z]+_id$\":{\"type\":\"integer\"},\"^x-\":{\"type\":\"string\"}},\"additionalProperties\":{"
     "\"type\":"
     "\"boolean\"}}",
     "{\"order_id\": 17, \"customer_id\": 4, \"paid\": true, \"x-note\": \"to be delivered in the morning\", \"gift\": false}"},
    {"regex", GRAMMAR_REGEX, "\\d{4}-\\d{2}-\\d{2}: [A-Z][\\w ,'-]{10,200}[.!?]",
     "2024-05-17: The committee met in the old town hall, and it was agreed that the bridge would be repaired before winter."},
    {"recursive GBNF", GRAMMAR_GBNF,
     "root ::= expr\nexpr ::= term ((\" + \" | \" - \") term)*\nterm ::= value ((\" * \" | \" / \") value)*\n"
     "value ::= [0-9]+ | [a-z]+ | \"(\" expr \")\" | [a-z]+ \"(\" expr (\", \" expr)* \")\"",
     "(alpha + 12) * max(beta, gamma / (delta - 7)) + sqrt(omega * (x - 1) * (x + 1)) - f(g(h(y)), 42)"},
    {"text between tags", GRAMMAR_GBNF, "root ::= \"<answer>\" [^<]+ \"</answer>\"",
     "<answer>Paris is the capital of France, and lies on the Seine; about two million people live there.</answer>"},
};

static void die(const char *message)
{
    fprintf(stderr, "bench_masks: %s\n", message);
    exit(1);
}

static void open_vocabulary(const char *path)
{
    struct err e = {0};
    if (any_vocab_open(path, &tok, &vocab, &e) < 0) die(e.msg);
}

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

/* Follows an answer and appends what each mask took. */
static void follow(struct matcher *m, const struct ids *answer, double *us, size_t *n)
{
    struct err e = {0};
    for (size_t i = 0; i < answer->n; i++) {
        const uint64_t *mask;
        const double start = now_us();
        if (matcher_mask(m, &mask, &e) < 0) die(e.msg);
        us[(*n)++] = now_us() - start;
        if (matcher_accept(m, answer->p[i], &e) < 0) die(e.msg);
    }
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_times(double *us, size_t n)
{
    qsort(us, n, sizeof *us, by_size);
    printf(" %8.1f %8.1f %8.1f", us[n / 2], us[n * 99 / 100], us[n - 1]);
}

static void measure(size_t form)
{
    static double first[STEPS], again[STEPS];
    size_t n_first = 0, n_again = 0;
    struct grammar *g = NULL;
    struct ids answer = {0};
    struct err e = {0};
    const double start = now_us();
    if (grammar_compile(forms[form].kind, str_of(forms[form].text), &g, &e) < 0) die(e.msg);
    const double compile = now_us() - start;
    if (tok_encode(tok, str_of(forms[form].answer), 0, &answer, &e) < 0) die(e.msg);
    if (answer.n > MATCHER_BACK) die("the vocabulary cuts an answer into too many tokens");
    for (int run = 0; run < RUNS; run++) {
        struct matcher *m = NULL;
        if (matcher_new(g, vocab, &m, &e) < 0) die(e.msg);
        follow(m, &answer, first, &n_first);
        if (!matcher_may_end(m)) die("an answer is not complete");
        matcher_back(m, (uint32_t)answer.n);
        follow(m, &answer, again, &n_again);
        matcher_free(&m);
    }
    printf("%-18s %9.0f", forms[form].name, compile);
    print_times(first, n_first);
    print_times(again, n_again);
    printf("\n");
    ids_fini(&answer);
    grammar_free(&g);
}

int main(int argc, char **argv)
{
    if (argc != 2) die("usage: bench_masks VOCABULARY");
    open_vocabulary(argv[1]);
    printf("%d tokens; microseconds\n%-18s %9s %26s %26s\n%-18s %9s", (int)tok_n_vocab(tok), "", "", "new matcher",
           "the same answer again", "form", "compile");
    for (int i = 0; i < 2; i++) printf(" %8s %8s %8s", "median", "p99", "max");
    printf("\n");
    for (size_t i = 0; i < COUNT_OF(forms); i++) measure(i);
    vocab_free(&vocab);
    tok_close(&tok);
    return 0;
}
