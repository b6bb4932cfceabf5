/* grammar: answers of a given form. A grammar (GBNF, a regular expression, a JSON Schema) becomes an automaton over bytes with
 * a stack; a matcher walks it beside an answer and tells which tokens of the vocabulary may come next. Grammars come with
 * requests and are untrusted: every size has a limit, what cannot be honoured is an error that names the place, and nothing is
 * ever left out silently.
 *
 * Invariant: from wherever a matcher is, some text leads to an end that the grammar allows. */
#ifndef QUERN_GRAMMAR_H
#define QUERN_GRAMMAR_H

#include "base/base.h"
#include "text/text.h"

/* ---- grammars ---------------------------------------------------------------------------------------- */

enum grammar_kind {
    GRAMMAR_GBNF,   /* llama.cpp's notation; the answer is what the rule `root` says */
    GRAMMAR_REGEX,  /* an ECMAScript expression that the whole answer matches */
    GRAMMAR_SCHEMA, /* a JSON Schema: docs/structured-output.md lists the keywords */
    GRAMMAR_JSON,   /* any JSON object; no text */
    GRAMMAR_PARTS,  /* put together of the others: gram_parts.c */
};

/* Immutable; any thread may use it. */
struct grammar;

/* ERR_ARG: text is no such grammar, or nothing satisfies it; ERR_UNSUPPORTED: it asks for what cannot be honoured; ERR_LIMIT:
 * it is too large. The message names the line and column, or the JSON pointer. Time is linear in the size of the automaton. */
int grammar_compile(enum grammar_kind kind, struct str text, struct grammar **out, struct err *e);
void grammar_free(struct grammar **g);

/* ---- the vocabulary as a tree of bytes ------------------------------------------------------------------ */

/* Immutable; any thread may use it. */
struct vocab;

/* eog [n_eog]: ids that end an answer. n_ids: of the model, at least those of t. t is not used after the call. */
int vocab_new(const struct tok *t, const int32_t *eog, size_t n_eog, uint32_t n_ids, struct vocab **out, struct err *e);
void vocab_free(struct vocab **v);

/* ---- an answer under way ---------------------------------------------------------------------------------- */

/* One thread at a time. g and v must outlive it. Allocates nothing after matcher_new. */
struct matcher;

#define MATCHER_BACK 64 /* tokens that can be taken back */

int matcher_new(const struct grammar *g, const struct vocab *v, struct matcher **out, struct err *e);
void matcher_free(struct matcher **m);
/* *mask: bit id is set where the token may come next, those that end the answer included; [(n_ids + 63) / 64] words, valid
 * until the next call. ERR_LIMIT: the grammar is so ambiguous that its memory does not suffice. ERR_UNSUPPORTED: no token
 * of the vocabulary goes on. */
int matcher_mask(struct matcher *m, const uint64_t **mask, struct err *e);
/* The answer goes on with id. ERR_ARG where the grammar does not allow it: the matcher is as it was. */
int matcher_accept(struct matcher *m, int32_t id, struct err *e);
bool matcher_may_end(const struct matcher *m);  /* the answer is complete as it is */
bool matcher_must_end(const struct matcher *m); /* and nothing can follow */
/* Takes back the last n accepted tokens; n at most MATCHER_BACK and what was accepted. */
void matcher_back(struct matcher *m, uint32_t n);

#endif
