/* grammar_int.h: what the files of the room share.
 *
 * A grammar is a set of rules, each an automaton of states and edges; an edge takes a byte of a range, or takes nothing, or
 * takes what another rule takes. So a position in a text is a state and, for each rule that is under way, the state to return
 * to: a stack. Front ends append to a struct build; build_finish checks and prunes. */
#ifndef QUERN_GRAMMAR_INT_H
#define QUERN_GRAMMAR_INT_H

#include "grammar/grammar.h"

#define TEXT_MAX ((size_t)1 << 20) /* bytes of a grammar's text */
#define STATES_MAX 200000
#define EDGES_MAX 400000
#define RULES_MAX 20000
#define NESTING_MAX 100 /* of groups, and of schemas inside of one another */
#define REPEAT_MAX 10000
#define UNBOUNDED UINT32_MAX

#define NONE UINT32_MAX

enum edge_kind { EDGE_BYTES, EDGE_EMPTY, EDGE_CALL, EDGE_SET };
struct edge {
    uint32_t from, to, rule; /* rule: of EDGE_CALL; of EDGE_SET, which are in struct lang only, the number of the set */
    uint32_t next;           /* of the same state; NONE */
    uint8_t kind, lo, hi;    /* lo, hi: of EDGE_BYTES, both included */
};
enum {
    STATE_FINAL = 1, /* of its rule */
    STATE_TAIL = 2,  /* nothing but the end of the rule follows: a call need not return here */
    STATE_TAKES = 4, /* has edges that take bytes */
    STATE_WIDE = 8,  /* which are many */
};
struct rule {
    uint32_t entry, final; /* states; final has no edges */
    const char *name;      /* for messages */
};
struct grammar {
    uint32_t *first; /* [n_states] edge of each state; NONE */
    uint8_t *flags;  /* [n_states] STATE_ */
    struct edge *edges;
    struct rule *rules; /* rule 0 is the root */
    uint32_t n_states, n_edges, n_rules;
    /* Bytes that no edge tells apart are one class. */
    uint8_t class_of[256], class_byte[256]; /* class_byte: [n_classes] one of its bytes */
    uint32_t n_classes;
    struct arena arena; /* names */
};

/* ---- building -------------------------------------------------------------------------------------------- */

/* A grammar under construction. The first failure is kept in rc and e, and later calls do nothing that matters, so that callers
 * look at rc where they would loop for long or report something else. */
struct build {
    struct grammar *g;
    uint32_t cap_states, cap_edges, cap_rules;
    unsigned depth;        /* of the parser */
    size_t work;           /* of all struct lang that are written into it */
    struct charsets *sets; /* for a struct lang, whose edges take characters and which has no rules; NULL */
    int rc;
    struct err *e;
};

uint32_t build_state(struct build *b);
void build_empty(struct build *b, uint32_t from, uint32_t to);
void build_bytes(struct build *b, uint32_t from, uint32_t to, uint8_t lo, uint8_t hi);
void build_call(struct build *b, uint32_t from, uint32_t to, uint32_t rule);
uint32_t build_rule(struct build *b, struct str name); /* with its two states */

/* The following append to the state `at` and return the state behind what they appended. */
uint32_t build_text(struct build *b, uint32_t at, struct str s);
uint32_t build_use(struct build *b, uint32_t at, uint32_t rule);

/* A part that stands alone: its states are those from `from` to the last one made so far. */
struct part {
    uint32_t from, to;
};
/* From min to max times; max may be UNBOUNDED. */
uint32_t build_repeat(struct build *b, uint32_t at, struct part p, uint32_t min, uint32_t max);

/* Checks that an end can be reached, that no rule begins with itself, takes out what leads nowhere; build_drop instead after a
 * failure. */
int build_finish(struct build *b);

/* ---- sets of characters ------------------------------------------------------------------------------------- */

#define CHARS_MAX 256
struct span {
    uint32_t lo, hi;
};
struct chars {
    struct span r[CHARS_MAX];
    uint32_t n;
    bool full; /* there were more */
};
#define CHAR_LAST 0x10FFFFu
void chars_add(struct chars *c, uint32_t lo, uint32_t hi);
void chars_sort(struct chars *c); /* ascending and apart, without surrogates */
void chars_invert(struct chars *c);
/* One character of c in UTF-8, or as such in a struct lang; in_json: as it stands in a JSON string, with an escape where it
 * needs one. */
uint32_t build_chars(struct build *b, uint32_t at, struct chars *c, bool in_json);
uint32_t build_char(struct build *b, uint32_t at, uint32_t cp, bool in_json);
/* gram_lang.c: the number in b->sets of a set that is in order. */
uint32_t charset_of(struct build *b, const struct chars *c);

/* ---- names -------------------------------------------------------------------------------------------------- */

/* From byte strings to numbers. */
struct names {
    struct name_slot {
        struct str key; /* p NULL: empty */
        uint32_t value;
    } * slots;
    size_t n, cap;
    struct arena arena;
};
/* Where the value of key is; a new one is NONE. NULL: out of memory. */
uint32_t *names_at(struct names *t, struct str key);
void names_fini(struct names *t);

/* ---- front ends: fill b, whose rule 0 is there and empty ------------------------------------------------------ */

void gbnf_build(struct build *b, struct str text);
void schema_build(struct build *b, struct str text);
void parts_build(struct build *b, struct str text);
/* The same of another rule that is empty. */
void gbnf_fill(struct build *b, uint32_t rule, struct str text);
void schema_fill(struct build *b, uint32_t rule, const struct json *root);

/* search: the expression may match anywhere in the text, as a schema's "pattern"; otherwise it matches all of it. where: what
 * messages begin with. */
struct regex_options {
    bool search, in_json;
    const char *where;
};
uint32_t regex_append(struct build *b, uint32_t at, struct str regex, const struct regex_options *o);
/* Whether the character at *i is one of syntax: not escaped, and in no class. Steps onto what is escaped. *in_set: of a class.
 */
bool regex_is_syntax(struct str text, size_t *i, bool *in_set);
/* The bytes of the group that an expression begins with, its brackets included; 0: it begins with none. */
size_t regex_group(struct str text);

/* ---- JSON values -------------------------------------------------------------------------------------------- */

/* Rules that schemas share. VALUE, OBJECT and ARRAY are those of no particular form. */
enum json_rule {
    JSON_RULE_SPACE,
    JSON_RULE_CHARACTER,
    JSON_RULE_STRING,
    JSON_RULE_INTEGER,
    JSON_RULE_NUMBER,
    JSON_RULE_VALUE,
    JSON_RULE_OBJECT,
    JSON_RULE_ARRAY,
    JSON_RULES
};
struct json_parts {
    struct build *b;
    uint32_t rules[JSON_RULES]; /* NONE: not made yet */
    struct names sets;          /* rules of sets of characters, by their ranges */
};
void json_parts_init(struct json_parts *p, struct build *b);
void json_parts_fini(struct json_parts *p);
uint32_t json_use(struct json_parts *p, uint32_t at, enum json_rule which);
/* The rule of one character of c inside of a string, with an escape only where it must have one. */
uint32_t json_chars(struct json_parts *p, struct chars *c);

/* ---- texts under several conditions ------------------------------------------------------------------------------------ */

#define LANG_PARTS 32

/* What a text does about a condition: it must satisfy it, must not, or may. */
enum lang_want { LANG_WITH, LANG_WITHOUT, LANG_EITHER };

/* Sets of characters, each once. */
struct charsets {
    struct charset {
        const struct span *r; /* [n] in order */
        uint32_t n;
    } * v;
    uint32_t n, cap;
    struct names known;
    struct arena arena;
};

/* Conditions on one text. Failures are those of `into`; where: the schema's JSON pointer, for messages. */
struct lang {
    struct build *into, b; /* b: of characters */
    const char *where;
    struct grammar g;
    struct charsets sets;
    struct lang_part {
        uint32_t entry, final; /* states of g; a part's are those behind the final one of the part before it */
        enum lang_want want;
    } v[LANG_PARTS];
    size_t n;
};
void lang_init(struct lang *l, struct build *into, const char *where);
void lang_fini(struct lang *l);
/* A condition is what the caller appends, in l->b, to the state that lang_begin returns. */
uint32_t lang_begin(struct lang *l);
void lang_end(struct lang *l, uint32_t from, uint32_t to, enum lang_want want);
void lang_any(struct lang *l);                                                           /* any text */
void lang_texts(struct lang *l, const struct str *texts, size_t n, enum lang_want want); /* one of these */
/* The conditions that text satisfies, 1 << number, whether it should or not; and whether these are as they should. */
uint32_t lang_takes(struct lang *l, struct str text);
bool lang_satisfied(const struct lang *l, uint32_t ends);
/* *min, *max: bounds of the length in characters; they become 0, UNBOUNDED where a condition implies them. */
void lang_lengths(struct lang *l, uint32_t *min, uint32_t *max);
/* Appends the texts as they stand in a JSON string; at least one condition is LANG_WITH. */
uint32_t lang_append(struct lang *l, struct json_parts *p, uint32_t at);
/* The same, but texts go on at different states: end_of returns that of texts that satisfy the conditions `ends`, or NONE. */
typedef uint32_t lang_end_fn(void *ctx, uint32_t ends);
void lang_append_ends(struct lang *l, struct json_parts *p, uint32_t at, lang_end_fn *end_of, void *ctx);

/* ---- the vocabulary ------------------------------------------------------------------------------------------- */

#define TOKEN_BYTES_MAX 255 /* longer ones are never used */

/* Characters in groups that grammars seldom tell apart: letters, digits, what lies beyond ASCII, controls; those that often
 * have a meaning are groups of their own. */
enum char_group {
    GROUP_LOWER,
    GROUP_UPPER,
    GROUP_DIGIT,
    GROUP_BEYOND,
    GROUP_CONTROL,
    GROUP_OTHER,
    GROUP_BROKEN, /* what is no UTF-8 */
    GROUP_SINGLE, /* the first of them */
    GROUPS_MAX = 32
};
enum char_group char_group_of(uint8_t ascii);
/* GROUP_BEYOND in UTF-8: byte i of a character of shape s lies from lo[i] to hi[i]. */
struct char_shape {
    uint8_t n, lo[4], hi[4];
};
#define CHAR_SHAPES 8
extern const struct char_shape char_shapes[CHAR_SHAPES];

/* The tree of all tokens' bytes in preorder: what follows node i begins with its children, and behind them comes nodes[next].
 * The tokens that end at node i are ids[nodes[i].token .. nodes[i + 1].token). */
struct vocab_node {
    uint32_t next, token;
    uint32_t groups;     /* 1 << enum char_group of all characters below, of which the last ones may be cut off */
    uint8_t byte, depth; /* depth: bytes from the root, at least 1 */
    uint8_t below;       /* bytes of the longest way down from here */
};
struct vocab {
    struct vocab_node *nodes; /* [n_nodes + 1] */
    int32_t *ids;             /* [n_tokens] in the order of their bytes */
    uint32_t *text_at;        /* [n_ids + 1] where the bytes of each id are in text */
    uint8_t *text;
    uint64_t *eog; /* [n_words] */
    uint32_t n_nodes, n_tokens, n_ids, n_words;
    uint32_t space;   /* the node of " " at the root; NONE */
    bool strip_space; /* an answer that begins with a space is shown without it */
};

#endif
