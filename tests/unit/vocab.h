/* vocab: what tests of tokenizers share. */
#ifndef QUERN_TEST_VOCAB_H
#define QUERN_TEST_VOCAB_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "format/format.h"
#include "text/text.h"

#include <cmocka.h>

/* The vocabulary file that convert would make of t. */
static inline void write_export(const struct tok *t, const char *path)
{
    struct arena a = {0};
    struct err e = {0};
    struct tok_export x;
    struct gguf_writer *w;
    if (tok_export(t, &a, &x, &e) < 0) fail_msg("%s", e.msg);
    assert_int_equal(gguf_writer_new(path, &w, &e), 0);
    gguf_put_str(w, "tokenizer.ggml.model", str_of(x.model));
    if (x.pre) gguf_put_str(w, "tokenizer.ggml.pre", str_of(x.pre));
    gguf_put_strs(w, "tokenizer.ggml.tokens", x.tokens, x.n);
    gguf_put_i32s(w, "tokenizer.ggml.token_type", x.types, x.n);
    if (x.scores) gguf_put_f32s(w, "tokenizer.ggml.scores", x.scores, x.n);
    if (x.n_merges) gguf_put_strs(w, "tokenizer.ggml.merges", x.merges, x.n_merges);
    if (x.bos >= 0) gguf_put_u32(w, "tokenizer.ggml.bos_token_id", (uint32_t)x.bos);
    if (x.eos >= 0) gguf_put_u32(w, "tokenizer.ggml.eos_token_id", (uint32_t)x.eos);
    if (x.unk >= 0) gguf_put_u32(w, "tokenizer.ggml.unknown_token_id", (uint32_t)x.unk);
    gguf_put_bool(w, "tokenizer.ggml.add_bos_token", x.add_bos);
    gguf_put_bool(w, "tokenizer.ggml.add_eos_token", x.add_eos);
    gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", x.add_space_prefix);
    if (x.merge_spaces) gguf_put_bool(w, "tokenizer.ggml.remove_extra_whitespaces", true);
    if (x.charsmap.n) gguf_put_bytes(w, "tokenizer.ggml.precompiled_charsmap", x.charsmap);
    assert_int_equal(gguf_write_begin(w, &e), 0);
    if (gguf_write_end(w, &e) < 0) fail_msg("%s", e.msg);
    gguf_writer_free(&w);
    arena_fini(&a);
}

#endif
