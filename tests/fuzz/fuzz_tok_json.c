/* fuzz_tok_json: a tokenizer.json and a text. The first byte says how many bytes of text follow; the rest is the file. Whatever
 * opens must encode and decode without a fault; decoded text is UTF-8; what can be exported has one text per id. */
#include <stdlib.h>

#include "text/text.h"

static void require(bool ok)
{
    if (!ok) abort();
}

static void use(const struct tok *t, struct str text, unsigned flags)
{
    struct ids v = {0};
    struct buf out = {0};
    struct detok d;
    struct err e = {0};
    if (tok_encode(t, text, flags, &v, &e) < 0) {
        require(*e.msg != 0 && v.n == 0);
    } else {
        detok_init(&d, t, flags != 0);
        for (size_t i = 0; i < v.n; i++) {
            require(v.p[i] >= 0 && (size_t)v.p[i] < tok_n_vocab(t));
            require(detok_put(&d, v.p[i], &out, &e) == 0);
        }
        require(detok_end(&d, &out, &e) == 0);
        require(utf8_valid(buf_view(&out)));
    }
    ids_fini(&v);
    buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t n = size ? size_min(data[0], size - 1) : 0;
    struct str text = {(const char *)data + 1, n}, file = {(const char *)data + 1 + n, size ? size - 1 - n : 0};
    struct tok *t = NULL;
    struct err e = {0};
    if (tok_open_hf(file, NULL, NULL, "tokenizer.json", &t, &e) < 0) {
        require(*e.msg != 0 && !t);
    } else {
        struct arena a = {0};
        struct tok_export x;
        use(t, text, 0);
        use(t, text, TOK_ADD_SPECIAL | TOK_PARSE_SPECIAL);
        if (tok_export(t, &a, &x, &e) == 0)
            for (size_t i = 0; i < x.n; i++) require(x.tokens[i].n > 0);
        arena_fini(&a);
    }
    tok_close(&t);
    require(mem_stats().current == 0);
    return 0;
}
