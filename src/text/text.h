/* text: between characters and tokens, and between a conversation and one string. Tokenizers (vocabularies of GGUF files and of
 * tokenizer.json), the streaming detokenizer, the Jinja engine for chat templates. Everything here reads untrusted input:
 * time is linear in the text, the stack does not grow with it, and every failure is an error. */
#ifndef QUERN_TEXT_H
#define QUERN_TEXT_H

#include "base/base.h"
#include "format/format.h"

/* ---- tokenizers -------------------------------------------------------------------------------------- */

/* Immutable after open; any thread may use it. */
struct tok;

/* A growing list of token ids; zeroed is empty. */
struct ids {
    int32_t *p;
    size_t n, cap;
};
int ids_put(struct ids *v, int32_t id); /* 0 or ERR_NOMEM */
void ids_fini(struct ids *v);

int tok_open_gguf(const struct gguf *g, struct tok **out, struct err *e);
/* tokenizer: the bytes of tokenizer.json; config and special_tokens: tokenizer_config.json and special_tokens_map.json, may be
 * NULL. name is for messages. The bytes may go away after the call. */
int tok_open_hf(struct str tokenizer, const struct json *config, const struct json *special_tokens, const char *name,
                struct tok **out, struct err *e);
void tok_close(struct tok **t);

enum {
    TOK_ADD_SPECIAL = 1,   /* BOS / EOS and the like, where the model asks for them */
    TOK_PARSE_SPECIAL = 2, /* special tokens written in the text become their ids; without it they are plain text */
};
/* Appends the ids of text. Invalid UTF-8 is encoded as its bytes (or U+FFFD where the vocabulary has no bytes). */
int tok_encode(const struct tok *t, struct str text, unsigned flags, struct ids *out, struct err *e);

/* Appends the ids of two texts as the tokenizer puts them together ([CLS] a [SEP] b [SEP] and the like, with TOK_ADD_SPECIAL),
 * and to types a byte for each id: the segment it belongs to, 0 or 1. */
int tok_encode_pair(const struct tok *t, struct str a, struct str b, unsigned flags, struct ids *out, struct buf *types,
                    struct err *e);

size_t tok_n_vocab(const struct tok *t);
/* The entry as stored ("Ġthe", "▁the", "<0x0A>"); n 0 where id is out of range or the id is a hole. */
struct str tok_entry(const struct tok *t, int32_t id);
/* Appends the bytes that id stands for in a text; none for control tokens. They need not be whole characters. */
int tok_bytes(const struct tok *t, int32_t id, struct buf *out, struct err *e);
bool tok_strips_space(const struct tok *t);           /* a space that begins a text is not shown */
bool tok_is_special(const struct tok *t, int32_t id); /* control tokens, not shown in text */
/* An id by its stored text; -1 when there is none. */
int32_t tok_find(const struct tok *t, struct str entry);

/* -1 where the model has none. */
int32_t tok_bos(const struct tok *t);
int32_t tok_eos(const struct tok *t);
bool tok_adds_bos(const struct tok *t);
/* Ids that end a turn or the text: eos, eot, eom and what their names mark as such. Borrowed. */
const int32_t *tok_stops(const struct tok *t, size_t *n);
const char *tok_kind(const struct tok *t);         /* "bpe", "spm", "unigram", "wordpiece", "wordlevel" */
const char *tok_pre(const struct tok *t);          /* name of the pre-tokenizer, "llama-bpe", "gpt-2", ... */
struct str tok_chat_template(const struct tok *t); /* of a GGUF file or tokenizer_config; n 0 where there is none */

/* What convert writes as tokenizer.ggml.* : the vocabulary as arrays, borrowed from t. */
struct tok_export {
    const char *model; /* "gpt2", "llama", "bert", "t5" */
    const char *pre;   /* "llama-bpe", "gpt-2", ..., NULL for llama */
    size_t n;
    const struct str *tokens;
    const float *scores;  /* NULL where the kind has none */
    const int32_t *types; /* ggml's token types: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte */
    size_t n_merges;
    const struct str *merges;   /* "a b" */
    int32_t bos, eos, unk, pad; /* -1: none */
    bool add_bos, add_eos, add_space_prefix;
    bool merge_spaces;   /* t5: tokenizer.ggml.remove_extra_whitespaces */
    struct str charsmap; /* t5: tokenizer.ggml.precompiled_charsmap, n 0: none */
};
int tok_export(const struct tok *t, struct arena *a, struct tok_export *out, struct err *e);

/* ---- detokenizer ---------------------------------------------------------------------------------------- */

/* Streaming: feed ids one at a time, get text that is always whole UTF-8 characters; an incomplete or invalid tail is held
 * back, and becomes U+FFFD once it can no longer complete. Zeroed by detok_init; needs no fini. */
struct detok {
    const struct tok *t;
    bool show_special; /* print control tokens by name instead of leaving them out */
    bool any;          /* some text was produced (SPM drops one leading space) */
    bool begun;        /* an entry was shown, be it without text */
    bool raw;          /* bytes as they come, whole characters or not */
    bool space_due;    /* a word ended; a space follows if more does */
    unsigned char held[8];
    unsigned n_held;
};
void detok_init(struct detok *d, const struct tok *t, bool show_special);
int detok_put(struct detok *d, int32_t id, struct buf *out, struct err *e); /* an id out of range is an error */
int detok_end(struct detok *d, struct buf *out, struct err *e);             /* flushes what is held */

/* ---- Jinja ------------------------------------------------------------------------------------------------ */

/* A compiled template. Immutable; any thread may render it. */
struct jinja;

struct jinja_limits { /* zero: the default in brackets */
    uint64_t fuel;    /* units of about 5 ns of work [10 million, and 64 for each byte of the variables] */
    size_t output;    /* bytes of rendered text [16 MiB] */
    size_t memory;    /* bytes of values alive during a rendering [64 MiB] */
    unsigned depth;   /* nesting of calls and expressions [128] */
};

int jinja_compile(struct str source, const char *name, struct jinja **out, struct err *e);
void jinja_free(struct jinja **t);
/* Renders with the members of vars (a JSON object) as variables and raise_exception, strftime_now, namespace, range, dict, ...
 * as functions, in the environment that transformers sets up (trim_blocks, lstrip_blocks, tojson without escaping of
 * non-ASCII). now: seconds since 1970, local time already applied. A template's own raise_exception is ERR_TEMPLATE with its
 * message. */
int jinja_render(const struct jinja *t, const struct json *vars, int64_t now, const struct jinja_limits *limits,
                 struct buf *out, struct err *e);

/* ---- chat ----------------------------------------------------------------------------------------------------- */

struct chat_args {
    const struct json *messages; /* array of {role, content, ...} */
    const struct json *tools;    /* array or NULL (then `none`) */
    const struct json *kwargs;   /* object of extra variables (chat_template_kwargs) or NULL */
    bool add_generation_prompt;
    struct str bos, eos; /* bos_token, eos_token */
    int64_t now;         /* as in jinja_render */
};
int chat_render(const struct jinja *t, const struct chat_args *args, struct buf *out, struct err *e);

#endif
