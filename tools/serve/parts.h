/* parts: what a model writes, as thinking, answer and calls of tools, while it is written. */
#ifndef QUERN_SERVE_PARTS_H
#define QUERN_SERVE_PARTS_H

#include "base/base.h"

enum part { PART_ANSWER, PART_THINKING };

/* How a model writes calls of tools, as its chat template tells (tool_calls.c). A call is {"name": "..", KEY: {..}}. */
struct tool_style {
    const char *template;     /* a text that the template has; NULL: this is of all others */
    const char *key;          /* "arguments" */
    const char *open, *close; /* around each call; NULL: the calls are an array, */
    const char *mark;         /* in front of which this may stand, a control token in most vocabularies, "": nothing; */
    bool plain;               /* or one call alone */
};
/* *own: the template has tools in a notation that is none of these, for which the plain one stands. */
const struct tool_style *tool_style_of(struct str template, bool *own);

struct parts {
    enum { PARTS_START, PARTS_THINKING, PARTS_GAP, PARTS_ANSWER, PARTS_CALLS } at;
    bool tools;                     /* the request has some: text that calls them is held back until the end */
    const struct tool_style *style; /* in which all calls are, to the blank; NULL: they may be in any */
    bool blank;                     /* nothing of the answer was handed out yet */
    struct buf held;                /* not handed out yet: what may become a mark, or calls of tools */
};

/* Gets text in order; returns 0 or an error, which ends the call. */
typedef int parts_out(void *user, enum part part, struct str text);

/* thinking: the prompt ends with the mark that opens it. */
void parts_init(struct parts *p, bool tools, const struct tool_style *style, bool thinking);
void parts_fini(struct parts *p);
int parts_put(struct parts *p, struct str text, parts_out *out, void *user);
/* The end of the text. *calls gets what may be calls of tools, held back whole; empty where there are none. It lives as long as
 * p. */
int parts_end(struct parts *p, parts_out *out, void *user, struct str *calls);

struct tool_call {
    struct str name;
    const struct json *arguments; /* an object */
};

/* The first place in text from which on it may be calls; text.n: none. *sure: it is whole, and not only the beginning of a mark
 * that goes on in text to come. blank: text is the beginning of the answer. style: as of struct parts. */
size_t tool_calls_find(struct str text, const struct tool_style *style, bool blank, bool *sure);
/* All calls of text, in the arena; false where it is something else. */
bool tool_calls_parse(struct arena *a, struct str text, const struct tool_style *style, struct tool_call **out, size_t *n);

#endif
