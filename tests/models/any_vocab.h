/* any_vocab: what programs that walk a vocabulary share: opening one. */
#ifndef QUERN_TEST_ANY_VOCAB_H
#define QUERN_TEST_ANY_VOCAB_H

#include "format/format.h"
#include "grammar/grammar.h"

/* path: a .gguf file or a tokenizer.json. Both are the caller's to close. */
static inline int any_vocab_open(const char *path, struct tok **tok, struct vocab **vocab, struct err *e)
{
    struct map map;
    struct gguf *g = NULL;
    size_t n_stops;
    TRY(vfs_map(path, &map, e));
    const struct str bytes = {(const char *)map.p, map.n};
    int rc = str_starts(bytes, STR("GGUF")) ? gguf_parse(bytes, path, false, &g, e) : 0;
    if (rc == 0) rc = g ? tok_open_gguf(g, tok, e) : tok_open_hf(bytes, NULL, NULL, path, tok, e);
    gguf_free(&g);
    vfs_unmap(&map);
    if (rc < 0) return rc;
    const int32_t *stops = tok_stops(*tok, &n_stops);
    return vocab_new(*tok, stops, n_stops, (uint32_t)tok_n_vocab(*tok), vocab, e);
}

#endif
