/* draw_answers: answers of JSON Schemas, drawn with equal odds from the tokens that each mask allows. Without a
 * model's preferences the odd corners of a mask are met soon.
 *
 * usage: draw_answers VOCABULARY < SCHEMAS
 *
 * VOCABULARY: a .gguf file or a tokenizer.json. SCHEMAS: one in each line. Prints for each {"answer":TEXT} or {"error":TEXT} in
 * a line. */
#include <stdio.h>
#include <stdlib.h>

#include "any_vocab.h"

#define HURRY 150 /* tokens after which answers take the first way to an end */
#define LENGTH_MAX 4000

static struct tok *tok;
static struct vocab *vocab;
static uint32_t n_ids;

static void die(const char *message)
{
    fprintf(stderr, "draw_answers: %s\n", message);
    exit(1);
}

static void open_vocabulary(const char *path)
{
    struct err e = {0};
    if (any_vocab_open(path, &tok, &vocab, &e) < 0) die(e.msg);
    n_ids = (uint32_t)tok_n_vocab(tok);
}

static uint32_t random_below(uint32_t n)
{
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) % n);
}

static bool is_set(const uint64_t *mask, int32_t id)
{
    return id >= 0 && (mask[id / 64] >> (id % 64) & 1);
}

/* A byte that may lead to an end, as far as one can tell without the grammar; -1. */
static int32_t closing_token(const uint64_t *mask)
{
    static const char *const ends[] = {"]", "}", "@", "b", "z", "0", "e", "l", " "};
    int32_t id = tok_find(tok, STR("\""));
    for (size_t i = 0; i < COUNT_OF(ends) && !is_set(mask, id); i++)
        id = tok_find(tok, str_of(ends[random_below(COUNT_OF(ends))]));
    return is_set(mask, id) ? id : -1;
}

static int32_t draw(const uint64_t *mask, bool hurry)
{
    const int32_t closing = hurry ? closing_token(mask) : -1;
    uint32_t n = 0, i = 0;
    if (closing >= 0) return closing;
    for (uint32_t w = 0; w <= (n_ids - 1) / 64; w++) n += (uint32_t)__builtin_popcountll(mask[w]);
    for (uint32_t k = n ? random_below(n) + 1 : 0; k > 0; i++) k -= is_set(mask, (int32_t)i);
    return (int32_t)i - 1;
}

static int answer(const struct grammar *g, struct buf *text, struct err *e)
{
    struct matcher *m = NULL;
    int rc = matcher_new(g, vocab, &m, e);
    for (unsigned i = 0; rc == 0 && !matcher_must_end(m) && !(i > HURRY && matcher_may_end(m)); i++) {
        const uint64_t *mask;
        rc = i < LENGTH_MAX ? matcher_mask(m, &mask, e) : fail(e, ERR_LIMIT, "the answer does not end");
        if (rc < 0) break;
        const int32_t id = draw(mask, i > HURRY);
        const size_t before = text->n;
        rc = matcher_accept(m, id, e);
        if (rc == 0) rc = tok_bytes(tok, id, text, e);
        if (rc == 0 && text->n == before) break; /* an end of the text */
    }
    matcher_free(&m);
    return rc;
}

static void print(const char *key, struct str text)
{
    struct buf line = {0};
    int rc = buf_printf(&line, "{\"%s\":", key);
    rc |= json_write_string(&line, text);
    rc |= buf_z(&line, "}\n");
    if (rc < 0) die("out of memory");
    fwrite(line.p, 1, line.n, stdout);
    buf_fini(&line);
}

int main(int argc, char **argv)
{
    char *line = NULL;
    size_t cap = 0;
    if (argc != 2) die("usage: draw_answers VOCABULARY < SCHEMAS");
    open_vocabulary(argv[1]);
    for (ssize_t n; (n = getline(&line, &cap, stdin)) > 0;) {
        struct err e = {0};
        struct grammar *g = NULL;
        struct buf text = {0};
        n -= line[n - 1] == '\n';
        int rc = grammar_compile(GRAMMAR_SCHEMA, (struct str){line, (size_t)n}, &g, &e);
        if (rc == 0) rc = answer(g, &text, &e);
        print(rc < 0 ? "error" : "answer", rc < 0 ? str_of(e.msg) : buf_view(&text));
        grammar_free(&g);
        buf_fini(&text);
    }
    free(line);
    vocab_free(&vocab);
    tok_close(&tok);
    return 0;
}
