/* fuzz_grammar: a byte that says which kind, a grammar, a zero byte, and bytes that choose an answer. Whatever the grammar is,
 * it compiles or fails with one error; where it compiles an answer of random tokens goes on, the masks tell what is accepted,
 * and an answer that has gone on can be taken back. */
#include <stdlib.h>

#include "grammar/grammar.h"

#define STEPS 24

static void require(bool ok)
{
    if (!ok) abort();
}

/* Tokens: all bytes, one that ends an answer, some pieces, and as many that begin with "a" as a matcher takes in as a whole. */
enum { END = 256, PIECES };
static const char *const pieces[] = {"ab", "\\\",", "\\\"}",    "true",           "{\\\"", "\\u00e9\\u00e9",
                                     "00", "],",    "\\u010a ", "a\\u00c3\\u00a9"};
#define LETTERS 17
static struct tok *tok;
static struct vocab *vocab;

static int put_byte_name(struct buf *b, unsigned i)
{
    char utf8[4];
    const bool plain = (i > 32 && i < 127) || (i > 160 && i != 173);
    static uint32_t next;
    if (i == 0) next = 0x100;
    const size_t n = utf8_encode(plain ? i : next++, utf8);
    return json_write_string(b, (struct str){utf8, n});
}

/* A byte-level tokenizer.json. */
static void open_vocab(void)
{
    struct buf b = {0};
    struct err e;
    const int32_t eog = END;
    int rc = buf_z(
        &b, "{\"added_tokens\":[{\"id\":256,\"content\":\"<end>\",\"special\":true}],\"pre_tokenizer\":{\"type\":\"ByteLevel\","
            "\"add_prefix_space\":false,\"use_regex\":false},\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\","
            "\"merges\":[],\"vocab\":{");
    for (unsigned i = 0; i < 256; i++) {
        rc |= put_byte_name(&b, i);
        rc |= buf_printf(&b, ":%u,", i);
    }
    for (size_t i = 0; i < COUNT_OF(pieces); i++) rc |= buf_printf(&b, "\"%s\":%zu,", pieces[i], PIECES + i);
    for (unsigned i = 0; i < LETTERS * LETTERS; i++)
        rc |= buf_printf(&b, "\"a%c%c\":%zu,", 'a' + i / LETTERS, 'a' + i % LETTERS, PIECES + COUNT_OF(pieces) + i);
    rc |= buf_z(&b, "\"<end>\":256}}}");
    require(rc == 0);
    require(tok_open_hf(buf_view(&b), NULL, NULL, "fuzz", &tok, &e) == 0);
    require(vocab_new(tok, &eog, 1, (uint32_t)tok_n_vocab(tok), &vocab, &e) == 0);
    buf_fini(&b);
}

static void answer(struct matcher *m, const uint8_t *choices, size_t n)
{
    struct err e;
    const uint64_t *mask;
    const uint32_t n_ids = (uint32_t)tok_n_vocab(tok);
    for (size_t i = 0; i < STEPS && !matcher_must_end(m); i++) {
        if (matcher_mask(m, &mask, &e) < 0) {
            require(e.code == ERR_LIMIT);
            return;
        }
        uint64_t copy[16];
        int32_t picked = -1;
        uint32_t k = n ? choices[i % n] : (uint32_t)i;
        memcpy(copy, mask, (n_ids + 63) / 64 * sizeof *mask);
        for (uint32_t id = 0; id < n_ids; id++) {
            const bool allowed = copy[id / 64] >> (id % 64) & 1;
            const int rc = matcher_accept(m, (int32_t)id, &e);
            if (rc == ERR_LIMIT) return;
            require(allowed == (rc == 0));
            if (id == END) require(allowed == matcher_may_end(m));
            if (rc == 0 && id != END) matcher_back(m, 1);
            if (allowed && id != END && (picked < 0 || k-- > 0)) picked = (int32_t)id;
        }
        require(picked >= 0 || matcher_may_end(m));
        if (picked < 0 || matcher_accept(m, picked, &e) < 0) return;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!tok) open_vocab();
    if (size == 0) return 0;
    const enum grammar_kind kind = data[0] == 'g'   ? GRAMMAR_GBNF
                                   : data[0] == 'r' ? GRAMMAR_REGEX
                                   : data[0] == 'p' ? GRAMMAR_PARTS
                                                    : GRAMMAR_SCHEMA;
    const uint8_t *zero = memchr(data + 1, 0, size - 1);
    const struct str text = {(const char *)data + 1, zero ? (size_t)(zero - data) - 1 : size - 1};
    const size_t before = mem_stats().current;
    struct grammar *g = NULL;
    struct matcher *m = NULL;
    struct err e = {0};
    if (grammar_compile(kind, text, &g, &e) < 0) {
        require(e.code < 0 && e.msg[0] && !g);
    } else if (matcher_new(g, vocab, &m, &e) == 0) {
        answer(m, zero ? zero + 1 : NULL, zero ? size - text.n - 2 : 0);
    } else {
        require(e.code == ERR_LIMIT);
    }
    matcher_free(&m);
    grammar_free(&g);
    require(mem_stats().current == before);
    return 0;
}
