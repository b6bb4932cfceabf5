/* fuzz_tok_gguf: the vocabulary of a GGUF file and a text. The first byte says how many bytes of text follow; the rest is
 * the file. Whatever opens must encode and decode without a fault; every entry can be asked for and shown. */
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
    if (tok_encode(t, text, flags, &v, &e) < 0) require(*e.msg != 0 && v.n == 0);
    detok_init(&d, t, flags != 0);
    for (size_t i = 0; i < v.n; i++) require(detok_put(&d, v.p[i], &out, &e) == 0);
    for (int32_t id = 0; (size_t)id < tok_n_vocab(t); id++) {
        struct str entry = tok_entry(t, id);
        require(entry.n == 0 || tok_find(t, entry) >= 0);
        require(detok_put(&d, id, &out, &e) == 0);
    }
    require(detok_end(&d, &out, &e) == 0);
    require(utf8_valid(buf_view(&out)));
    ids_fini(&v);
    buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t n = size ? size_min(data[0], size - 1) : 0;
    struct str text = {(const char *)data + 1, n}, file = {(const char *)data + 1 + n, size ? size - 1 - n : 0};
    struct gguf *g = NULL;
    struct tok *t = NULL;
    struct err e = {0};
    if (gguf_parse(file, "fuzz.gguf", false, &g, &e) == 0) {
        int rc = tok_open_gguf(g, &t, &e);
        gguf_free(&g);
        require(rc == 0 ? t != NULL : !t && *e.msg != 0);
        if (t) use(t, text, 0);
        if (t) use(t, text, TOK_ADD_SPECIAL | TOK_PARSE_SPECIAL);
    }
    tok_close(&t);
    require(mem_stats().current == 0);
    return 0;
}
