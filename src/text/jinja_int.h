/* jinja_int.h: what the files of the Jinja engine share. No other room and no other part of text includes it.
 *
 * The way of a template:  source -> jinja_lex.c (tokens) -> jinja_parse.c (tree in the arena of struct jinja, immutable)
 *   -> jinja_eval.c (walks the tree over values) -> text.
 * The values (struct jv) are Python's: jinja_value.c has their operators, jinja_str.c and jinja_format.c what Python does with
 * strings, jinja_filters.c the tables of filters, tests, methods and functions.
 *
 * Invariants that make untrusted templates safe:
 *  - every value lives in the arena of one rendering (struct jrt) and is reached only through the tables of this engine: there
 *    is no way from a template to anything of the host;
 *  - every unit of work is paid for with fuel before it is done (J_COST_*), so a rendering ends; memory and output are counted;
 *  - all recursion passes through jrt_enter (rendering) or a depth count (parsing), so the C stack is bounded;
 *  - strings are immutable views, which lets slices, strip and split share bytes instead of copying them. */
#ifndef QUERN_JINJA_INT_H
#define QUERN_JINJA_INT_H

#include "text/text.h"

/* ---- values ------------------------------------------------------------------------------------------- */

enum jkind {
    JK_ABSENT, /* an argument that was not given; never seen by a template */
    JK_UNDEF,
    JK_NONE,
    JK_BOOL,
    JK_INT,
    JK_FLOAT,
    JK_BIG, /* an integer of the input beyond 64 bits: kept as its digits, printable, not computable */
    JK_STR,
    JK_LIST,
    JK_TUPLE,
    JK_DICT,
    JK_VIEW, /* d.keys(), d.values(), d.items() */
    JK_RANGE,
    JK_SLICE, /* the subscript a:b:c, never seen by a template */
    JK_ITER,  /* one-shot iterator: what map, select, batch, ... give */
    JK_NS,    /* namespace() */
    JK_FUNC,  /* a global function */
    JK_METHOD,
    JK_MACRO,
    JK_LOOP,
    JK_CYCLER,
    JK_JOINER,
    JK_N
};

/* Why a value is undefined; decides the message when it is used. */
enum jwhy { JU_NAME, JU_ATTR, JU_ELEM, JU_UNSAFE, JU_HINT };

struct jv {
    uint8_t kind; /* enum jkind */
    uint8_t why;  /* JK_UNDEF: enum jwhy. JK_TUPLE: 1 for a (grouper, list) pair of groupby */
    uint8_t of;   /* JK_UNDEF: kind of the object that lacked the attribute */
    bool safe;    /* JK_STR: Markup, is not escaped again */
    union {
        bool b;
        int64_t i;
        double f;
        const struct jstr *s; /* JK_STR, JK_BIG; JK_UNDEF: the name, or the whole message for JU_HINT */
        const struct jv *arg; /* JK_UNDEF with JU_ELEM: the subscript */
        struct jlist *list;   /* JK_LIST, JK_TUPLE; JK_SLICE: three values */
        struct jdict *dict;   /* JK_DICT, JK_NS */
        struct jview *view;
        struct jrange *range;
        struct jiter *iter;
        const struct jbuiltin *fn; /* JK_FUNC */
        struct jmethod *method;
        struct jmacro *macro;
        struct jloop *loop;
        struct jcycler *cycler;
        struct jjoiner *joiner;
    } u;
};

/* A string that was made by appending can be appended to in place: the old value stays a valid view of the front. */
struct jgrow {
    char *p;
    size_t used, cap;
};
#define JSTR_UNCOUNTED ((size_t)-1)
struct jstr {
    const char *p;
    size_t n;
    size_t chars; /* code points, or JSTR_UNCOUNTED. Constants of a template are counted at compile time (threads share them) */
    struct jgrow *grow;
};

struct jlist {
    struct jv *v;
    size_t n, cap;
};

struct jpair {
    struct jv key, val;
    uint64_t hash;
};
/* Insertion ordered. index (open addressing, entry + 1, 0 empty) appears once there are more than a few entries. */
struct jdict {
    struct jpair *e;
    size_t n, cap;
    uint32_t *index;
    size_t index_cap; /* power of two */
};

enum jview_of { JVIEW_KEYS, JVIEW_VALUES, JVIEW_ITEMS };
struct jview {
    struct jdict *dict;
    enum jview_of of;
};

/* start, start + step, ... n elements. All parts stay within +-2^62, so that no element overflows. */
struct jrange {
    int64_t start, step, n;
    int64_t stop; /* as given, for repr */
};

enum jiter_mode { JI_EMPTY, JI_LIST, JI_STR, JI_RANGE, JI_KEYS, JI_VALUES, JI_ITEMS };
struct jiter {
    enum jiter_mode mode;
    union {
        const struct jlist *list;
        const struct jstr *str;
        const struct jrange *range;
        const struct jdict *dict;
    } u;
    size_t pos; /* elements taken; bytes for JI_STR */
};

struct jmethod {
    struct jv self;
    const struct jbuiltin *fn;
};

struct jmacro {
    const struct jmacro_def *def;
    struct jscope *env; /* where it was defined */
};

struct jcycler {
    struct jlist items;
    size_t pos;
};

struct jjoiner {
    struct jv sep;
    bool used;
};

/* A running for loop: the `loop` variable. Elements are taken one ahead only when the template asks for what comes next. */
struct jloop {
    const struct jstmt *node;
    struct jscope *outer; /* scope of the for statement */
    struct jiter *it;
    struct jv before, cur, after; /* after: JK_ABSENT when not taken yet */
    bool ended;                   /* the iterator has given its last element */
    int64_t index0;               /* -1 before the first */
    int64_t length;               /* -1 while not known */
    int64_t depth0;
    struct jlist *last_changed; /* arguments of the last loop.changed, or NULL */
    struct jscope *test;        /* where the filter of the loop is evaluated; NULL without one */
};

/* ---- the tree -------------------------------------------------------------------------------------------- */

enum jop {
    JO_ADD,
    JO_SUB,
    JO_MUL,
    JO_DIV,
    JO_FLOORDIV,
    JO_MOD,
    JO_POW,
    JO_EQ,
    JO_NE,
    JO_LT,
    JO_LE,
    JO_GT,
    JO_GE,
    JO_IN,
    JO_NOT_IN
};

enum jexpr_kind {
    JE_CONST,
    JE_NAME,
    JE_LIST,
    JE_TUPLE,
    JE_DICT,    /* v: key, value, key, value, ... */
    JE_CHAIN,   /* binary operators of one precedence, left to right: v[0] ops[1] v[1] ops[2] v[2] ... */
    JE_COMPARE, /* the same layout, chained as in Python */
    JE_CONCAT,
    JE_AND,
    JE_OR,
    JE_NOT, /* v[0] */
    JE_NEG,
    JE_POS,
    JE_COND, /* v: value, test, value otherwise or NULL */
    JE_POST  /* a base and what follows it: attributes, subscripts, calls, filters, tests */
};

struct jexpr {
    uint8_t kind; /* enum jexpr_kind */
    uint32_t line;
    uint32_t n; /* elements of v, or of ops for JE_POST; the symbol for JE_NAME */
    union {
        struct jv value; /* JE_CONST; JE_NAME: the undefined value it gives when there is no such variable */
        struct {
            struct jexpr **v;
            const uint8_t *ops; /* JE_CHAIN, JE_COMPARE: enum jop, [0] unused */
        } many;
        struct {
            struct jexpr *base;
            struct jpost *ops;
        } post;
    } u;
};

struct jkwarg {
    struct jv name; /* JK_STR */
    struct jexpr *value;
};
struct jargs {
    uint32_t n, n_kw;
    struct jexpr **v;
    struct jkwarg *kw;
    struct jexpr *star, *star_star; /* f(*star, **star_star) or NULL */
};

enum jpost_kind { JP_ATTR, JP_ITEM, JP_SLICE, JP_CALL, JP_FILTER, JP_TEST };
struct jpost {
    uint8_t kind; /* enum jpost_kind */
    bool negated; /* JP_TEST: is not */
    uint32_t line;
    struct jv name; /* JP_ATTR, JP_FILTER, JP_TEST: JK_STR */
    union {
        struct jexpr *slice[3]; /* JP_SLICE: start, stop, step or NULL; JP_ITEM: the subscript in [0] */
        struct {
            const struct jbuiltin *fn; /* NULL: no such filter or test; an error when it is reached */
            struct jargs *args;        /* NULL: none */
        } call;
    } u;
};

struct jbody {
    struct jstmt **v;
    uint32_t n;
};

enum jtarget_kind { JT_NAME, JT_ATTR, JT_TUPLE };
struct jtarget {
    enum jtarget_kind kind;
    uint32_t sym;       /* JT_NAME; JT_ATTR: the namespace */
    uint32_t n;         /* JT_TUPLE */
    struct jv name;     /* JT_ATTR: the attribute */
    struct jtarget **v; /* JT_TUPLE */
};

struct jmacro_def {
    struct jv name; /* JK_STR, or JK_NONE for the body of a call block */
    uint32_t n;
    uint32_t *args;          /* symbols */
    struct jexpr **defaults; /* [n], NULL where there is none */
    bool uses_caller, uses_kwargs, uses_varargs;
    struct jbody body;
};

enum jstmt_kind {
    JS_TEXT,
    JS_PRINT,
    JS_IF,
    JS_FOR,
    JS_SET,
    JS_SET_BLOCK,
    JS_MACRO,
    JS_CALL,
    JS_FILTER,
    JS_WITH,
    JS_SCOPE, /* a body with its own variables: {% generation %} */
    JS_BREAK,
    JS_CONTINUE
};

struct jstmt {
    uint8_t kind; /* enum jstmt_kind */
    uint32_t line;
    union {
        struct str text;
        struct jexpr *expr; /* JS_PRINT */
        struct {
            uint32_t n; /* branches; a NULL test is the else */
            struct jexpr **tests;
            struct jbody *bodies;
        } cond;
        struct {
            struct jtarget *target;
            struct jexpr *iter, *filter; /* filter may be NULL */
            struct jbody body, otherwise;
            bool recursive;
        } loop;
        struct {
            struct jtarget *target;
            struct jexpr *value; /* JS_SET */
            struct jpost *ops;   /* JS_SET_BLOCK: filters on the body */
            uint32_t n_ops;
            struct jbody body;
        } set;
        struct {
            uint32_t sym;
            struct jmacro_def *def;
            struct jexpr *call; /* JS_CALL: a JE_POST whose last op is JP_CALL */
        } macro;
        struct {
            struct jpost *ops;
            uint32_t n_ops;
            struct jbody body;
        } filter;
        struct {
            uint32_t n;
            struct jtarget **targets;
            struct jexpr **values;
            struct jbody body;
        } with;
        struct jbody body; /* JS_SCOPE */
    } u;
};

struct jsym {
    struct str name;
    uint64_t hash;
};

/* Symbols that the engine itself binds; the parser interns them first, in this order. */
enum { JSYM_LOOP, JSYM_CALLER, JSYM_KWARGS, JSYM_VARARGS, JSYM_FIXED };

struct jinja {
    struct arena arena;
    struct str name;
    struct jsym *syms;
    uint32_t n_syms;
    uint32_t *sym_index; /* open addressing, symbol + 1 */
    uint32_t sym_index_cap;
    struct jbody body;
};

/* UINT32_MAX where the template does not use the name. */
uint32_t jinja_sym_find(const struct jinja *t, struct str name);

/* ---- jinja_lex.c ---------------------------------------------------------------------------------------- */

enum jtok {
    /* operators: the order is that of the table in jinja_lex.c */
    JTOK_ADD,
    JTOK_SUB,
    JTOK_DIV,
    JTOK_FLOORDIV,
    JTOK_MUL,
    JTOK_MOD,
    JTOK_POW,
    JTOK_TILDE,
    JTOK_LBRACKET,
    JTOK_RBRACKET,
    JTOK_LPAREN,
    JTOK_RPAREN,
    JTOK_LBRACE,
    JTOK_RBRACE,
    JTOK_EQ,
    JTOK_NE,
    JTOK_GT,
    JTOK_GE,
    JTOK_LT,
    JTOK_LE,
    JTOK_ASSIGN,
    JTOK_DOT,
    JTOK_COLON,
    JTOK_PIPE,
    JTOK_COMMA,
    JTOK_SEMICOLON,
    JTOK_STRING,
    JTOK_INT,
    JTOK_FLOAT,
    JTOK_IDENT,
    JTOK_TEXT,
    JTOK_VAR_BEGIN,
    JTOK_VAR_END,
    JTOK_BLOCK_BEGIN,
    JTOK_BLOCK_END,
    JTOK_EOF
};

struct jtoken {
    enum jtok kind;
    uint32_t line;
    struct str s; /* name, text, or unescaped string */
    int64_t i;
    double f;
};

/* Nesting of brackets, blocks and operators in the source. Deeper templates are refused when compiled. */
#define JINJA_NEST_MAX 128
#define JINJA_SOURCE_MAX ((size_t)1 << 20)
#define JINJA_PARTS_MAX 65536 /* nodes of the tree and elements of their lists */

struct jlex {
    struct arena *arena; /* of unescaped strings */
    struct str src;      /* newlines normalised to \n */
    struct str name;
    struct err *e;
    size_t pos;
    uint32_t line;
    int mode;           /* private: text, inside {{ }}, inside {% %} */
    bool line_starting; /* the last thing taken ended with a newline */
    char closers[JINJA_NEST_MAX];
    unsigned n_closers;
};

int jlex_init(struct jlex *lx, struct arena *a, struct str source, struct str name, struct err *e);
int jlex_next(struct jlex *lx, struct jtoken *t);
/* As jinja2 calls the token in messages. */
const char *jlex_kind_name(enum jtok kind);
/* fail() with "NAME: line N: " in front; shared with the parser. */
int jlex_fail_at(const struct jlex *lx, uint32_t line, int code, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* ---- a rendering ------------------------------------------------------------------------------------------ */

struct jbind {
    uint32_t sym;
    struct jv v;
};
struct jscope {
    struct jscope *up; /* NULL: the global variables */
    struct jbind *b;
    uint32_t n, cap;
};

struct jrt {
    const struct jinja *t;
    struct err *e;
    int rc; /* code of the failure that a NULL result stands for */
    struct arena arena;
    size_t memory, memory_max; /* bytes taken from the arena */
    uint64_t fuel;
    struct buf *out; /* text so far, and above it scratch: strings are built at its end and taken off (jrt_take) */
    size_t out_base, out_max;
    unsigned depth, depth_max;
    uint32_t line;      /* of the statement or operator being evaluated */
    struct jv *globals; /* [n_syms]; JK_ABSENT where not set */
    int64_t now;
};

/* Prices. One unit is about 5 ns on a machine of 2020, so that the default budget of 10 million ends within 50 ms. */
#define J_COST_NODE 8       /* a node of the tree, an element of a container */
#define J_COST_BYTE_SHIFT 1 /* a byte looked at: half a unit */
#define J_COST_NEW_BYTE 2   /* a byte of memory for values, a byte of output */
#define J_FUEL_DEFAULT 10000000u
#define J_FUEL_PER_INPUT_BYTE 64u /* what the variables add to the default budget: work is linear in the conversation */
#define J_FRAMES_PER_DEPTH 4u     /* nested evaluations that one level of limits.depth pays for */

int jrt_limit(struct jrt *rt); /* the error for spent fuel */
static inline int jrt_spend(struct jrt *rt, uint64_t units)
{
    if (rt->fuel < units) return jrt_limit(rt);
    rt->fuel -= units;
    return 0;
}
static inline int jrt_spend_bytes(struct jrt *rt, size_t n)
{
    return jrt_spend(rt, 1 + (n >> J_COST_BYTE_SHIFT));
}
/* Every recursion of the engine: enter, work, leave. */
int jrt_enter(struct jrt *rt);
static inline void jrt_leave(struct jrt *rt)
{
    rt->depth--;
}
/* Zeroed; NULL when a limit or the memory is exhausted (then rt->rc and rt->e are set). */
void *jrt_alloc(struct jrt *rt, size_t bytes);
void *jrt_array(struct jrt *rt, size_t n, size_t size);
/* Adds "NAME: line N: " to the message just written and returns code. */
int jrt_where(struct jrt *rt, int code);
#define JFAIL_CODE(rt, code, ...) (fail((rt)->e, (code), __VA_ARGS__), jrt_where((rt), (code)))
/* What Python would raise as an exception. */
#define JFAIL(rt, ...) JFAIL_CODE(rt, ERR_TEMPLATE, __VA_ARGS__)

/* Text output and scratch. */
int jrt_put(struct jrt *rt, const void *p, size_t n);
static inline int jrt_put_str(struct jrt *rt, struct str s)
{
    return jrt_put(rt, s.p, s.n);
}
int jrt_put_z(struct jrt *rt, const char *z);
int jrt_put_fill(struct jrt *rt, struct str unit, uint64_t times); /* unit repeated; paid for before it is written */
static inline size_t jrt_mark(const struct jrt *rt)
{
    return rt->out->n;
}
/* Takes everything after mark off the output as a string value. */
int jrt_take(struct jrt *rt, size_t mark, struct jv *out);

/* ---- jinja_value.c: Python's values ---------------------------------------------------------------------------- */

static inline struct jv jv_none(void)
{
    return (struct jv){.kind = JK_NONE};
}
static inline struct jv jv_bool(bool b)
{
    return (struct jv){.kind = JK_BOOL, .u.b = b};
}
static inline struct jv jv_int(int64_t i)
{
    return (struct jv){.kind = JK_INT, .u.i = i};
}
static inline struct jv jv_float(double f)
{
    return (struct jv){.kind = JK_FLOAT, .u.f = f};
}
static inline struct jv jv_of_str(const struct jstr *s)
{
    return (struct jv){.kind = JK_STR, .u.s = s};
}
static inline struct str jv_text(struct jv v)
{
    return (struct str){v.u.s->p, v.u.s->n};
}
static inline bool jv_given(struct jv v)
{
    return v.kind != JK_ABSENT;
}
static inline bool jv_is_none_or_absent(struct jv v)
{
    return v.kind == JK_ABSENT || v.kind == JK_NONE;
}
/* A constant string with static storage, for names and one-word values. */
#define JSTR_CONST(name, lit) static const struct jstr name = {lit, sizeof(lit) - 1, sizeof(lit) - 1, NULL}

const char *jv_type_name(uint8_t kind);                           /* "str", "dict", ... */
int jv_use_undefined(struct jrt *rt, struct jv v);                /* the error for using an undefined value */
int jv_hint(struct jrt *rt, const char *message, struct jv *out); /* an undefined value with that message (static text) */

int jv_str_view(struct jrt *rt, const char *p, size_t n, struct jv *out); /* bytes live as long as the rendering */
int jv_str_copy(struct jrt *rt, const char *p, size_t n, struct jv *out);
int jv_chars(struct jrt *rt, const struct jstr *s, size_t *out);                    /* number of code points */
int jv_byte_of(struct jrt *rt, const struct jstr *s, size_t chr, size_t *out);      /* byte offset of a code point */
int jv_substr(struct jrt *rt, struct jv s, size_t from, size_t to, struct jv *out); /* bytes; keeps safe */
int jv_concat(struct jrt *rt, struct jv a, struct jv b, struct jv *out);            /* two strings, Markup rules */
/* First needle at or after from; SIZE_MAX when there is none. */
int jv_find(struct jrt *rt, struct str hay, struct str needle, size_t from, size_t *at);

struct jlist *jlist_new(struct jrt *rt, size_t cap);
int jlist_put(struct jrt *rt, struct jlist *l, struct jv v);
int jlist_reserve(struct jrt *rt, struct jlist *l, size_t extra);
int jlist_of(struct jrt *rt, struct jv iterable, struct jlist **out); /* list(x), a fresh list */
static inline struct jv jv_list(struct jlist *l)
{
    return (struct jv){.kind = JK_LIST, .u.list = l};
}
static inline struct jv jv_tuple(struct jlist *l)
{
    return (struct jv){.kind = JK_TUPLE, .u.list = l};
}
int jv_pair(struct jrt *rt, struct jv a, struct jv b, struct jv *out); /* a tuple of two */
int jv_iter_of(struct jrt *rt, struct jlist *l, struct jv *out);       /* a one-shot iterator over l */

struct jdict *jdict_new(struct jrt *rt);
int jdict_find(struct jrt *rt, const struct jdict *d, struct jv key, struct jpair **out); /* NULL when missing */
int jdict_put(struct jrt *rt, struct jdict *d, struct jv key, struct jv val);
int jdict_update(struct jrt *rt, struct jdict *d, struct jv from); /* a dict, or an iterable of pairs */
int jv_hash(struct jrt *rt, struct jv v, uint64_t *out);
int jv_from_json(struct jrt *rt, const struct json *j, struct jv *out);

bool jv_truth(struct jv v);
int jv_len(struct jrt *rt, struct jv v, int64_t *out); /* -1: has no length */
int jv_eq(struct jrt *rt, struct jv a, struct jv b, bool *out);
int jv_less(struct jrt *rt, struct jv a, struct jv b, bool *out);
int jv_compare(struct jrt *rt, enum jop op, struct jv a, struct jv b, bool *out); /* all of JO_EQ .. JO_NOT_IN */
int jv_binary(struct jrt *rt, enum jop op, struct jv a, struct jv b, struct jv *out);
int jv_negate(struct jrt *rt, struct jv v, bool minus, struct jv *out);
/* A number for arithmetic: true with *f set, also for bool and int. */
bool jv_number(struct jv v, double *f);
/* An integer argument of a builtin; bool counts. what is named in the message. */
int jv_want_int(struct jrt *rt, struct jv v, const char *what, int64_t *out);
int jv_want_str(struct jrt *rt, struct jv v, const char *what, struct str *out);
int jv_overflow(struct jrt *rt, const char *op);

int jv_iter(struct jrt *rt, struct jv v, struct jiter **out);     /* iter(v); a JK_ITER gives itself */
int jiter_next(struct jrt *rt, struct jiter *it, struct jv *out); /* 1, or 0 at the end */

/* Subscript; missing elements give undefined, as jinja2's sandbox has it. */
int jv_item(struct jrt *rt, struct jv obj, struct jv key, struct jv *out);
int jv_attr(struct jrt *rt, struct jv obj, struct jv name, struct jv *out);
/* Only what Python's getattr would give; undefined otherwise. */
int jv_attr_only(struct jrt *rt, struct jv obj, struct jv name, struct jv *out, bool *found);
/* Python's slice.indices: start, stop, step (each JK_NONE or an int) for a sequence of n. */
int jv_slice_range(struct jrt *rt, const struct jv bound[3], int64_t n, struct jrange *out);
int jv_slice(struct jrt *rt, struct jv obj, const struct jv bound[3], struct jv *out);

int jv_put_str(struct jrt *rt, struct jv v);                  /* str(v) to the output */
int jv_put_repr(struct jrt *rt, struct jv v);                 /* repr(v) to the output */
int jv_str(struct jrt *rt, struct jv v, struct jv *out);      /* str(v), plain */
int jv_soft_str(struct jrt *rt, struct jv v, struct jv *out); /* the same, but Markup stays Markup */
int jv_put_escaped(struct jrt *rt, struct str s);             /* & < > ' " as HTML */
int jv_escape(struct jrt *rt, struct jv v, struct jv *out);   /* Markup; what is Markup already stays as it is */

struct jjson_style {
    bool ascii, sort_keys, pretty;
    struct str indent, item_sep, key_sep;
};
int jv_put_json(struct jrt *rt, struct jv v, const struct jjson_style *style);

/* Stable; keys[i] decides, vals follow. */
int jv_sort(struct jrt *rt, struct jv *keys, struct jv *vals, size_t n, bool reverse);

/* ---- calls ------------------------------------------------------------------------------------------------------- */

#define JCALL_BOUND_MAX 6
struct jkw {
    struct jv name, val;
};
struct jcall {
    struct jv self; /* value that is filtered or tested; object of a method */
    size_t n, n_kw;
    const struct jv *v;
    const struct jkw *kw;
    const struct jbuiltin *def;
    struct jv a[JCALL_BOUND_MAX]; /* the arguments by the signature; JK_ABSENT where not given */
};
typedef int jbuiltin_fn(struct jrt *rt, struct jcall *c, struct jv *out);
struct jbuiltin {
    const char *name;
    const char *sig; /* "old new count?"; "*": fn reads v and kw itself */
    jbuiltin_fn *fn; /* NULL for a method that the sandbox refuses */
    int arg;         /* tells apart the names that share one function */
};
/* Binds the arguments by the signature and calls. */
int jcall_builtin(struct jrt *rt, const struct jbuiltin *def, struct jv self, const struct jcall *args, struct jv *out);
int jcall(struct jrt *rt, struct jv callee, const struct jcall *args, struct jv *out); /* any callable; jinja_eval.c */

const struct jbuiltin *jbuiltin_find(const struct jbuiltin *table, size_t n, struct str name);

/* jinja_filters.c, jinja_builtins.c; NULL when there is none */
const struct jbuiltin *jfilter_find(struct str name);
const struct jbuiltin *jtest_find(struct str name);
const struct jbuiltin *jglobal_find(struct str name);
const struct jbuiltin *jmethod_find(uint8_t kind, struct str name);

/* jinja_eval.c: the loop variable */
int jloop_attr(struct jrt *rt, struct jloop *l, struct str name, struct jv *out, bool *found);
int jloop_cycle(struct jrt *rt, struct jcall *c, struct jv *out);
int jloop_changed(struct jrt *rt, struct jcall *c, struct jv *out);

/* jinja_str.c: methods of str, and the filters that are the same thing */
extern const struct jbuiltin jstr_methods[];
extern const size_t jstr_n_methods;
enum jstr_case { JCASE_UPPER, JCASE_LOWER, JCASE_SWAP, JCASE_CAPITALIZE, JCASE_TITLE, JCASE_FOLD, JCASE_FILTER_TITLE };
int jstr_put_case(struct jrt *rt, struct str s, enum jstr_case how);
int jstr_put_repr(struct jrt *rt, struct str s); /* quoted as Python's repr does */
bool jstr_is_space(uint32_t cp);
bool jstr_is_word(uint32_t cp); /* \w of a regular expression */
size_t jstr_next_wide(struct str s, size_t at, uint32_t *cp);
/* Bytes of the character at `at`; a byte that is not UTF-8 is one character, U+FFFD. */
static inline size_t jstr_next(struct str s, size_t at, uint32_t *cp)
{
    unsigned char c = (unsigned char)s.p[at];
    if (c >= 0x80) return jstr_next_wide(s, at, cp);
    *cp = c;
    return 1;
}
struct str jstr_trim(struct str s, bool left, bool right); /* without white space at the ends */
int jstr_strip(struct jrt *rt, struct jv s, struct jv chars, bool left, bool right,
               struct jv *out); /* chars none: white space */
/* Next line of s from *at, as Python's splitlines has it, without its line break of `ending` bytes; false at the end. */
bool jstr_line(struct str s, size_t *at, struct str *line, size_t *ending);
int jstr_center(struct jrt *rt, struct jv s, int64_t width, struct str fill, int align, struct jv *out); /* align < 0: left */
int jstr_replace(struct jrt *rt, struct str s, struct str from, struct str to, int64_t count, struct jv *out);
/* Python's int(text, base) and float(text); false where Python raises ValueError. */
bool jstr_to_int(struct str s, int base, int64_t *out, bool *overflow);
bool jstr_to_float(struct str s, double *out);

/* jinja_format.c */
int jformat_percent(struct jrt *rt, struct jv format, struct jv args, struct jv *out); /* format % args */
int jformat_braces(struct jrt *rt, struct jv format, const struct jcall *args, struct jv *out);
int jformat_time(struct jrt *rt, struct str format, int64_t now);
/* "%.*f" and friends; form is one of eEfFgG. Independent of the locale. Text of at most JFORMAT_DOUBLE_MAX bytes. */
#define JFORMAT_PRECISION_MAX 1000
#define JFORMAT_DOUBLE_MAX (JFORMAT_PRECISION_MAX + 400)
size_t jformat_double(char out[JFORMAT_DOUBLE_MAX], double v, char form, int precision, bool alternate);
int jformat_int(char out[24], int64_t v); /* decimal; returns the length */

#endif
