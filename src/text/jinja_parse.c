/* jinja_parse.c: tokens to a tree. Recursive descent with the grammar and the precedences of jinja2:
 *
 *   tuple  := cond {"," cond}            cond  := or {"if" or ["else" cond]}      or  := and {"or" and}      and := not {"and"
 * not} not    := "not" not | compare        compare := sum {op sum}                  sum := concat {+|- concat} concat :=
 * product {"~" product}      product := power {*|/|//|% power}        power := unary {"**" unary}   (left to right) unary  :=
 * [-|+] unary | primary {.name | [subscript] | (args)}, then {"|" filter | "is" test | (args)}
 *
 * Operators of one level and everything that follows a primary become flat lists, so a sum of a thousand terms is no deeper
 * than one; what really nests is counted (JINJA_NEST_MAX) and refused beyond that. The tree is written once and never
 * changed: rendering threads share it. Exports jinja_compile, jinja_free, jinja_sym_find. */
#include "text/jinja_int.h"

struct open_macro {
    struct jmacro_def *def;
    struct open_macro *up;
};

struct jparse {
    struct jlex lx;
    struct jtoken cur, ahead;
    bool has_ahead;
    struct jinja *t;
    struct arena *a;
    struct err *e;
    unsigned depth;
    unsigned parts; /* so far: bounds what compiling costs in time and memory */
    int rc;         /* code of the failure that a NULL allocation stands for */
    unsigned loops; /* for statements around this point, inside the same macro */
    struct open_macro *macros;
};

/* ---- tools ------------------------------------------------------------------------------------------------- */

static int count_part(struct jparse *p)
{
    if (++p->parts <= JINJA_PARTS_MAX) return 0;
    p->rc = jlex_fail_at(&p->lx, p->cur.line, ERR_LIMIT, "the template has more than %d parts", JINJA_PARTS_MAX);
    return p->rc;
}

static void *parse_alloc(struct jparse *p, size_t bytes)
{
    if (count_part(p) < 0) return NULL;
    void *q = arena_alloc(p->a, bytes);
    if (!q) p->rc = fail_nomem(p->e, "a chat template", bytes);
    return q;
}

/* Appends an element to an arena array whose capacity is the power of two from 4 up that holds n. */
static int vec_put(struct jparse *p, void *vec, uint32_t *n, const void *elem, size_t size)
{
    char *v;
    if (size > 1) TRY(count_part(p));
    memcpy(&v, vec, sizeof v);
    if (*n == 0 || (*n >= 4 && (*n & (*n - 1)) == 0)) {
        size_t cap = *n == 0 ? 4 : (size_t)*n * 2;
        char *grown = arena_array(p->a, cap, size);
        if (!grown) return fail_nomem(p->e, "a chat template", cap * size);
        if (*n > 0) memcpy(grown, v, *n * size);
        v = grown;
        memcpy(vec, &v, sizeof v);
    }
    memcpy(v + (size_t)*n * size, elem, size);
    (*n)++;
    return 0;
}

#define BAD(p, ...) jlex_fail_at(&(p)->lx, (p)->cur.line, ERR_FORMAT, __VA_ARGS__)

static int advance(struct jparse *p)
{
    if (p->has_ahead) {
        p->cur = p->ahead;
        p->has_ahead = false;
        return 0;
    }
    return jlex_next(&p->lx, &p->cur);
}

static int look_ahead(struct jparse *p)
{
    if (p->has_ahead) return 0;
    p->has_ahead = true;
    return jlex_next(&p->lx, &p->ahead);
}

static int enter(struct jparse *p)
{
    if (++p->depth > JINJA_NEST_MAX)
        return jlex_fail_at(&p->lx, p->cur.line, ERR_LIMIT, "blocks and expressions are nested more than %d deep",
                            JINJA_NEST_MAX);
    return 0;
}

static bool at_word(const struct jparse *p, const char *word)
{
    return p->cur.kind == JTOK_IDENT && str_is(p->cur.s, word);
}

/* What stands here, for a message. */
static struct str cur_text(const struct jparse *p)
{
    return p->cur.kind == JTOK_IDENT ? p->cur.s : str_of(jlex_kind_name(p->cur.kind));
}

static int expect(struct jparse *p, enum jtok kind)
{
    if (p->cur.kind != kind) return BAD(p, "expected token '%s', got '%.*s'", jlex_kind_name(kind), STR_ARG(cur_text(p)));
    return advance(p);
}

static int expect_word(struct jparse *p, const char *word)
{
    if (!at_word(p, word)) return BAD(p, "expected token '%s', got '%.*s'", word, STR_ARG(cur_text(p)));
    return advance(p);
}

static int make_str(struct jparse *p, struct str s, struct jv *out)
{
    struct jstr *js = parse_alloc(p, sizeof *js);
    if (!js) return p->rc;
    size_t chars = 0;
    for (size_t at = 0; at < s.n; chars++) {
        uint32_t cp;
        at += jstr_next(s, at, &cp);
    }
    *js = (struct jstr){s.n ? s.p : "", s.n, chars, NULL};
    *out = jv_of_str(js);
    return 0;
}

/* ---- symbols -------------------------------------------------------------------------------------------------- */

static uint32_t sym_slot(const struct jinja *t, struct str name, uint64_t hash)
{
    uint32_t mask = t->sym_index_cap - 1, at = (uint32_t)hash & mask;
    while (t->sym_index[at]) {
        const struct jsym *s = &t->syms[t->sym_index[at] - 1];
        if (s->hash == hash && str_eq(s->name, name)) break;
        at = (at + 1) & mask;
    }
    return at;
}

uint32_t jinja_sym_find(const struct jinja *t, struct str name)
{
    uint32_t at = sym_slot(t, name, str_hash(name));
    return t->sym_index[at] - 1; /* 0 gives UINT32_MAX */
}

static int intern(struct jparse *p, struct str name, uint32_t *out)
{
    struct jinja *t = p->t;
    if ((t->n_syms + 1) * 2 > t->sym_index_cap) {
        uint32_t cap = t->sym_index_cap ? t->sym_index_cap * 2 : 64;
        uint32_t *index = arena_array(p->a, cap, sizeof *index);
        if (!index) return fail_nomem(p->e, "a chat template", cap * sizeof *index);
        t->sym_index = index;
        t->sym_index_cap = cap;
        for (uint32_t i = 0; i < t->n_syms; i++) index[sym_slot(t, t->syms[i].name, t->syms[i].hash)] = i + 1;
    }
    struct jsym sym = {name, str_hash(name)};
    uint32_t at = sym_slot(t, name, sym.hash);
    if (!t->sym_index[at]) {
        TRY(vec_put(p, &t->syms, &t->n_syms, &sym, sizeof sym));
        t->sym_index[at] = t->n_syms;
    }
    *out = t->sym_index[at] - 1;
    return 0;
}

/* ---- expressions ------------------------------------------------------------------------------------------------- */

static int parse_expr(struct jparse *p, struct jexpr **out);
static int parse_or(struct jparse *p, struct jexpr **out);
static int parse_unary(struct jparse *p, bool with_filter, struct jexpr **out);

typedef int parse_fn(struct jparse *p, struct jexpr **out);

static struct jexpr *make_expr(struct jparse *p, enum jexpr_kind kind, uint32_t line)
{
    struct jexpr *x = parse_alloc(p, sizeof *x);
    if (x) {
        x->kind = (uint8_t)kind;
        x->line = line;
    }
    return x;
}

static int put_expr(struct jparse *p, struct jexpr *list, struct jexpr *item)
{
    return vec_put(p, &list->u.many.v, &list->n, &item, sizeof item);
}

static int make_const(struct jparse *p, struct jv v, struct jexpr **out)
{
    *out = make_expr(p, JE_CONST, p->cur.line);
    if (!*out) return p->rc;
    (*out)->u.value = v;
    return 0;
}

/* Ends a comma list without brackets: the end of the tag, ")" or the given word. */
static bool at_tuple_end(const struct jparse *p, const char *end_word)
{
    if (p->cur.kind == JTOK_VAR_END || p->cur.kind == JTOK_BLOCK_END || p->cur.kind == JTOK_RPAREN) return true;
    return end_word && at_word(p, end_word);
}

/* One expression, or a tuple where commas follow. item: how an element is parsed. */
static int parse_tuple(struct jparse *p, parse_fn *item, const char *end_word, bool in_parens, struct jexpr **out)
{
    struct jexpr *tuple = NULL, *x;
    uint32_t line = p->cur.line;
    if (at_tuple_end(p, end_word)) {
        if (!in_parens) return BAD(p, "expected an expression, got '%.*s'", STR_ARG(cur_text(p)));
        *out = make_expr(p, JE_TUPLE, line);
        return *out ? 0 : p->rc;
    }
    TRY(item(p, &x));
    while (p->cur.kind == JTOK_COMMA) {
        if (!tuple) {
            if (!(tuple = make_expr(p, JE_TUPLE, line))) return p->rc;
            TRY(put_expr(p, tuple, x));
        }
        TRY(advance(p));
        if (at_tuple_end(p, end_word)) break;
        TRY(item(p, &x));
        TRY(put_expr(p, tuple, x));
    }
    *out = tuple ? tuple : x;
    return 0;
}

static int parse_list(struct jparse *p, struct jexpr **out)
{
    struct jexpr *list = make_expr(p, JE_LIST, p->cur.line), *x;
    if (!list) return p->rc;
    TRY(expect(p, JTOK_LBRACKET));
    while (p->cur.kind != JTOK_RBRACKET) {
        if (list->n > 0) TRY(expect(p, JTOK_COMMA));
        if (p->cur.kind == JTOK_RBRACKET) break;
        TRY(parse_expr(p, &x));
        TRY(put_expr(p, list, x));
    }
    *out = list;
    return advance(p);
}

static int parse_dict(struct jparse *p, struct jexpr **out)
{
    struct jexpr *dict = make_expr(p, JE_DICT, p->cur.line), *x;
    if (!dict) return p->rc;
    TRY(expect(p, JTOK_LBRACE));
    while (p->cur.kind != JTOK_RBRACE) {
        if (dict->n > 0) TRY(expect(p, JTOK_COMMA));
        if (p->cur.kind == JTOK_RBRACE) break;
        TRY(parse_expr(p, &x));
        TRY(put_expr(p, dict, x));
        TRY(expect(p, JTOK_COLON));
        TRY(parse_expr(p, &x));
        TRY(put_expr(p, dict, x));
    }
    *out = dict;
    return advance(p);
}

static int parse_name(struct jparse *p, struct jexpr **out)
{
    static const struct {
        const char *word;
        struct jv value;
    } words[] = {
        {"true", {.kind = JK_BOOL, .u.b = true}},
        {"false", {.kind = JK_BOOL}},
        {"True", {.kind = JK_BOOL, .u.b = true}},
        {"False", {.kind = JK_BOOL}},
        {"none", {.kind = JK_NONE}},
        {"None", {.kind = JK_NONE}},
    };
    for (size_t i = 0; i < COUNT_OF(words); i++) {
        if (!str_is(p->cur.s, words[i].word)) continue;
        TRY(make_const(p, words[i].value, out));
        return advance(p);
    }
    struct jexpr *x = make_expr(p, JE_NAME, p->cur.line);
    if (!x) return p->rc;
    TRY(intern(p, p->cur.s, &x->n));
    TRY(make_str(p, p->cur.s, &x->u.value));
    x->u.value.kind = JK_UNDEF;
    x->u.value.why = JU_NAME;
    for (struct open_macro *m = p->macros; m; m = m->up) {
        m->def->uses_caller |= x->n == JSYM_CALLER;
        m->def->uses_kwargs |= x->n == JSYM_KWARGS;
        m->def->uses_varargs |= x->n == JSYM_VARARGS;
    }
    *out = x;
    return advance(p);
}

/* "a" 'b' is one string. */
static int parse_string(struct jparse *p, struct jexpr **out)
{
    struct buf joined = {0};
    struct str s = p->cur.s;
    uint32_t parts = 0;
    int rc = 0;
    struct jexpr *x = make_expr(p, JE_CONST, p->cur.line);
    if (!x) return p->rc;
    for (; p->cur.kind == JTOK_STRING && rc == 0; parts++) {
        rc = buf_str(&joined, p->cur.s);
        if (rc < 0)
            fail_nomem(p->e, "a string of a chat template", p->cur.s.n);
        else
            rc = advance(p);
    }
    if (rc == 0 && parts > 1) {
        char *copy = arena_dup(p->a, joined.p ? joined.p : "", joined.n);
        s = (struct str){copy, joined.n};
        if (!copy) rc = fail_nomem(p->e, "a string of a chat template", joined.n);
    }
    buf_fini(&joined);
    if (rc == 0) rc = make_str(p, s, &x->u.value);
    *out = x;
    return rc;
}

static int parse_primary(struct jparse *p, struct jexpr **out)
{
    switch (p->cur.kind) {
    case JTOK_IDENT:
        return parse_name(p, out);
    case JTOK_STRING:
        return parse_string(p, out);
    case JTOK_INT:
        TRY(make_const(p, jv_int(p->cur.i), out));
        return advance(p);
    case JTOK_FLOAT:
        TRY(make_const(p, jv_float(p->cur.f), out));
        return advance(p);
    case JTOK_LPAREN:
        TRY(advance(p));
        TRY(parse_tuple(p, parse_expr, NULL, true, out));
        return expect(p, JTOK_RPAREN);
    case JTOK_LBRACKET:
        return parse_list(p, out);
    case JTOK_LBRACE:
        return parse_dict(p, out);
    default:
        return BAD(p, "unexpected '%.*s'", STR_ARG(cur_text(p)));
    }
}

/* A keyword argument "name = value" starts here. */
static int at_keyword(struct jparse *p, bool *yes)
{
    *yes = false;
    if (p->cur.kind != JTOK_IDENT) return 0;
    TRY(look_ahead(p));
    *yes = p->ahead.kind == JTOK_ASSIGN;
    return 0;
}

static int parse_arg(struct jparse *p, struct jargs *args)
{
    bool plain = !args->star && !args->star_star, keyword;
    if (p->cur.kind == JTOK_MUL || p->cur.kind == JTOK_POW) {
        bool twice = p->cur.kind == JTOK_POW;
        if (args->star_star || (args->star && !twice)) return BAD(p, "invalid syntax for function call expression");
        TRY(advance(p));
        return parse_expr(p, twice ? &args->star_star : &args->star);
    }
    TRY(at_keyword(p, &keyword));
    if (keyword) {
        struct jkwarg kw;
        if (args->star_star) return BAD(p, "invalid syntax for function call expression");
        TRY(make_str(p, p->cur.s, &kw.name));
        TRY(advance(p));
        TRY(advance(p));
        TRY(parse_expr(p, &kw.value));
        return vec_put(p, &args->kw, &args->n_kw, &kw, sizeof kw);
    }
    if (!plain || args->n_kw > 0) return BAD(p, "invalid syntax for function call expression");
    struct jexpr *x;
    TRY(parse_expr(p, &x));
    return vec_put(p, &args->v, &args->n, &x, sizeof x);
}

static int parse_args(struct jparse *p, struct jargs **out)
{
    struct jargs *args = parse_alloc(p, sizeof *args);
    if (!args) return p->rc;
    TRY(expect(p, JTOK_LPAREN));
    for (bool first = true; p->cur.kind != JTOK_RPAREN; first = false) {
        if (!first) TRY(expect(p, JTOK_COMMA));
        if (p->cur.kind == JTOK_RPAREN) break;
        TRY(parse_arg(p, args));
    }
    *out = args;
    return advance(p);
}

/* Inside [ ]: an expression, or start:stop:step. */
static int parse_subscript_part(struct jparse *p, struct jpost *op)
{
    op->kind = JP_ITEM;
    if (p->cur.kind != JTOK_COLON) TRY(parse_expr(p, &op->u.slice[0]));
    for (int i = 1; i < 3 && p->cur.kind == JTOK_COLON; i++) {
        op->kind = JP_SLICE;
        TRY(advance(p));
        if (p->cur.kind != JTOK_COLON && p->cur.kind != JTOK_RBRACKET && p->cur.kind != JTOK_COMMA)
            TRY(parse_expr(p, &op->u.slice[i]));
    }
    return 0;
}

static int parse_subscript(struct jparse *p, struct jpost *op)
{
    struct jexpr *tuple = NULL;
    TRY(expect(p, JTOK_LBRACKET));
    TRY(parse_subscript_part(p, op));
    while (p->cur.kind == JTOK_COMMA) {
        struct jpost more = {0};
        if (!tuple) {
            if (!(tuple = make_expr(p, JE_TUPLE, p->cur.line))) return p->rc;
            TRY(put_expr(p, tuple, op->u.slice[0]));
        }
        TRY(advance(p));
        if (p->cur.kind == JTOK_RBRACKET) break;
        TRY(parse_subscript_part(p, &more));
        if (more.kind == JP_SLICE) op->kind = JP_SLICE;
        TRY(put_expr(p, tuple, more.u.slice[0]));
    }
    if (tuple) {
        if (op->kind == JP_SLICE) return BAD(p, "a slice cannot be part of a tuple");
        op->u.slice[0] = tuple;
    }
    return expect(p, JTOK_RBRACKET);
}

static int parse_attribute(struct jparse *p, struct jpost *op)
{
    TRY(expect(p, JTOK_DOT));
    if (p->cur.kind == JTOK_INT) {
        op->kind = JP_ITEM;
        TRY(make_const(p, jv_int(p->cur.i), &op->u.slice[0]));
        return advance(p);
    }
    if (p->cur.kind != JTOK_IDENT) return BAD(p, "expected name or number, got '%.*s'", STR_ARG(cur_text(p)));
    op->kind = JP_ATTR;
    TRY(make_str(p, p->cur.s, &op->name));
    return advance(p);
}

/* name{.name} of a filter or test, as one string. */
static int parse_dotted(struct jparse *p, struct jv *out)
{
    if (p->cur.kind != JTOK_IDENT) return BAD(p, "expected token 'name', got '%.*s'", STR_ARG(cur_text(p)));
    struct str s = p->cur.s;
    TRY(advance(p));
    while (p->cur.kind == JTOK_DOT) {
        TRY(advance(p));
        if (p->cur.kind != JTOK_IDENT) return BAD(p, "expected token 'name', got '%.*s'", STR_ARG(cur_text(p)));
        s.n = (size_t)(p->cur.s.p + p->cur.s.n - s.p); /* no such filter exists: the text is for the message */
        TRY(advance(p));
    }
    return make_str(p, s, out);
}

static int parse_filter(struct jparse *p, struct jpost *op)
{
    op->kind = JP_FILTER;
    op->line = p->cur.line;
    TRY(parse_dotted(p, &op->name));
    op->u.call.fn = jfilter_find(jv_text(op->name));
    return p->cur.kind == JTOK_LPAREN ? parse_args(p, &op->u.call.args) : 0;
}

/* The single argument of a test may be written without parentheses: "is divisibleby 3". */
static bool at_bare_argument(const struct jparse *p)
{
    switch (p->cur.kind) {
    case JTOK_STRING:
    case JTOK_INT:
    case JTOK_FLOAT:
    case JTOK_LBRACKET:
    case JTOK_LBRACE:
        return true;
    case JTOK_IDENT:
        return !at_word(p, "else") && !at_word(p, "or") && !at_word(p, "and");
    default:
        return false;
    }
}

static int parse_postfix(struct jparse *p, struct jexpr **io, bool filters);

static int parse_test(struct jparse *p, struct jpost *op)
{
    op->kind = JP_TEST;
    op->line = p->cur.line;
    if (at_word(p, "not")) {
        op->negated = true;
        TRY(advance(p));
    }
    TRY(parse_dotted(p, &op->name));
    op->u.call.fn = jtest_find(jv_text(op->name));
    if (p->cur.kind == JTOK_LPAREN) return parse_args(p, &op->u.call.args);
    if (!at_bare_argument(p)) return 0;
    if (at_word(p, "is")) return BAD(p, "You cannot chain multiple tests with is");
    struct jargs *args = parse_alloc(p, sizeof *args);
    struct jexpr *x;
    if (!args) return p->rc;
    op->u.call.args = args;
    TRY(enter(p));
    TRY(parse_primary(p, &x));
    TRY(parse_postfix(p, &x, false));
    p->depth--;
    return vec_put(p, &args->v, &args->n, &x, sizeof x);
}

/* What follows a primary; with filters also "|" and "is". */
static int parse_postfix(struct jparse *p, struct jexpr **io, bool filters)
{
    struct jpost *ops = NULL;
    uint32_t n = 0;
    bool filtered = false; /* behind a filter only calls follow directly, as in jinja2 */
    for (;;) {
        struct jpost op = {.line = p->cur.line};
        if (p->cur.kind == JTOK_DOT && !filtered) {
            TRY(parse_attribute(p, &op));
        } else if (p->cur.kind == JTOK_LBRACKET && !filtered) {
            TRY(parse_subscript(p, &op));
        } else if (p->cur.kind == JTOK_LPAREN) {
            op.kind = JP_CALL;
            TRY(parse_args(p, &op.u.call.args));
        } else if (filters && p->cur.kind == JTOK_PIPE) {
            TRY(advance(p));
            TRY(parse_filter(p, &op));
            filtered = true;
        } else if (filters && at_word(p, "is")) {
            TRY(advance(p));
            TRY(parse_test(p, &op));
            filtered = true;
        } else {
            break;
        }
        TRY(vec_put(p, &ops, &n, &op, sizeof op));
    }
    if (n == 0) return 0;
    struct jexpr *x = make_expr(p, JE_POST, (*io)->line);
    if (!x) return p->rc;
    x->n = n;
    x->u.post.base = *io;
    x->u.post.ops = ops;
    *io = x;
    return 0;
}

static int parse_unary(struct jparse *p, bool with_filter, struct jexpr **out)
{
    TRY(enter(p));
    if (p->cur.kind == JTOK_SUB || p->cur.kind == JTOK_ADD) {
        struct jexpr *x = make_expr(p, p->cur.kind == JTOK_SUB ? JE_NEG : JE_POS, p->cur.line), *inner;
        if (!x) return p->rc;
        TRY(advance(p));
        TRY(parse_unary(p, false, &inner));
        TRY(put_expr(p, x, inner));
        *out = x;
    } else {
        TRY(parse_primary(p, out));
    }
    TRY(parse_postfix(p, out, with_filter));
    p->depth--;
    return 0;
}

/* The binary levels below the comparisons, tightest last. */
static const struct {
    enum jexpr_kind kind;
    struct {
        uint8_t tok, op;
    } ops[4];
    unsigned n;
} levels[] = {
    {JE_CHAIN, {{JTOK_ADD, JO_ADD}, {JTOK_SUB, JO_SUB}}, 2},
    {JE_CONCAT, {{JTOK_TILDE, 0}}, 1},
    {JE_CHAIN, {{JTOK_MUL, JO_MUL}, {JTOK_DIV, JO_DIV}, {JTOK_FLOORDIV, JO_FLOORDIV}, {JTOK_MOD, JO_MOD}}, 4},
    {JE_CHAIN, {{JTOK_POW, JO_POW}}, 1},
};

static int parse_level(struct jparse *p, size_t level, struct jexpr **out)
{
    if (level == COUNT_OF(levels)) return parse_unary(p, true, out);
    struct jexpr *x, *chain = NULL;
    uint8_t *ops = NULL;
    uint32_t n_ops = 0;
    TRY(parse_level(p, level + 1, &x));
    for (;;) {
        unsigned i = 0;
        while (i < levels[level].n && levels[level].ops[i].tok != p->cur.kind) i++;
        if (i == levels[level].n) break;
        if (!chain) {
            if (!(chain = make_expr(p, levels[level].kind, p->cur.line))) return p->rc;
            TRY(put_expr(p, chain, x));
            TRY(vec_put(p, &ops, &n_ops, &levels[level].ops[i].op, 1));
        }
        TRY(vec_put(p, &ops, &n_ops, &levels[level].ops[i].op, 1));
        TRY(advance(p));
        TRY(parse_level(p, level + 1, &x));
        TRY(put_expr(p, chain, x));
    }
    if (chain) chain->u.many.ops = ops;
    *out = chain ? chain : x;
    return 0;
}

/* The comparison operator here; *words: how many tokens it takes, 0 for none. */
static int at_comparison(struct jparse *p, uint8_t *op, int *words)
{
    static const uint8_t table[][2] = {{JTOK_EQ, JO_EQ}, {JTOK_NE, JO_NE}, {JTOK_LT, JO_LT},
                                       {JTOK_LE, JO_LE}, {JTOK_GT, JO_GT}, {JTOK_GE, JO_GE}};
    *words = 0;
    for (size_t i = 0; i < COUNT_OF(table); i++) {
        if (p->cur.kind != table[i][0]) continue;
        *op = table[i][1];
        *words = 1;
        return 0;
    }
    if (at_word(p, "in")) {
        *op = JO_IN;
        *words = 1;
    } else if (at_word(p, "not")) {
        TRY(look_ahead(p));
        if (p->ahead.kind == JTOK_IDENT && str_is(p->ahead.s, "in")) {
            *op = JO_NOT_IN;
            *words = 2;
        }
    }
    return 0;
}

static int parse_compare(struct jparse *p, struct jexpr **out)
{
    struct jexpr *x, *chain = NULL;
    uint8_t *ops = NULL, op = 0;
    uint32_t n_ops = 0;
    int words;
    TRY(parse_level(p, 0, &x));
    for (;;) {
        TRY(at_comparison(p, &op, &words));
        if (words == 0) break;
        if (!chain) {
            if (!(chain = make_expr(p, JE_COMPARE, p->cur.line))) return p->rc;
            TRY(put_expr(p, chain, x));
            TRY(vec_put(p, &ops, &n_ops, &op, 1));
        }
        TRY(vec_put(p, &ops, &n_ops, &op, 1));
        while (words-- > 0) TRY(advance(p));
        TRY(parse_level(p, 0, &x));
        TRY(put_expr(p, chain, x));
    }
    if (chain) chain->u.many.ops = ops;
    *out = chain ? chain : x;
    return 0;
}

static int parse_not(struct jparse *p, struct jexpr **out)
{
    if (!at_word(p, "not")) return parse_compare(p, out);
    struct jexpr *x = make_expr(p, JE_NOT, p->cur.line), *inner;
    if (!x) return p->rc;
    TRY(enter(p));
    TRY(advance(p));
    TRY(parse_not(p, &inner));
    TRY(put_expr(p, x, inner));
    p->depth--;
    *out = x;
    return 0;
}

/* item {word item} */
static int parse_words(struct jparse *p, const char *word, enum jexpr_kind kind, parse_fn *item, struct jexpr **out)
{
    struct jexpr *x, *list = NULL;
    TRY(item(p, &x));
    while (at_word(p, word)) {
        if (!list) {
            if (!(list = make_expr(p, kind, p->cur.line))) return p->rc;
            TRY(put_expr(p, list, x));
        }
        TRY(advance(p));
        TRY(item(p, &x));
        TRY(put_expr(p, list, x));
    }
    *out = list ? list : x;
    return 0;
}

static int parse_and(struct jparse *p, struct jexpr **out)
{
    return parse_words(p, "and", JE_AND, parse_not, out);
}

static int parse_or(struct jparse *p, struct jexpr **out)
{
    return parse_words(p, "or", JE_OR, parse_and, out);
}

static int parse_expr(struct jparse *p, struct jexpr **out)
{
    struct jexpr *x, *test, *other;
    TRY(enter(p));
    unsigned conditions = 0;
    TRY(parse_or(p, &x));
    while (at_word(p, "if")) {
        struct jexpr *cond = make_expr(p, JE_COND, p->cur.line);
        if (!cond) return p->rc;
        TRY(enter(p)); /* "a if b if c if ..." nests to the left */
        conditions++;
        TRY(advance(p));
        TRY(parse_or(p, &test));
        other = NULL;
        if (at_word(p, "else")) {
            TRY(advance(p));
            TRY(parse_expr(p, &other));
        }
        TRY(put_expr(p, cond, x));
        TRY(put_expr(p, cond, test));
        TRY(put_expr(p, cond, other));
        x = cond;
    }
    p->depth -= conditions + 1;
    *out = x;
    return 0;
}

/* ---- statements ----------------------------------------------------------------------------------------------------- */

static int parse_body(struct jparse *p, const char *const *ends, struct jbody *out);

static int put_stmt(struct jparse *p, struct jbody *body, struct jstmt *s)
{
    return vec_put(p, &body->v, &body->n, &s, sizeof s);
}

static struct jstmt *make_stmt(struct jparse *p, enum jstmt_kind kind)
{
    struct jstmt *s = parse_alloc(p, sizeof *s);
    if (s) {
        s->kind = (uint8_t)kind;
        s->line = p->cur.line;
    }
    return s;
}

/* A name that may be assigned to. */
static int parse_target_name(struct jparse *p, uint32_t *sym)
{
    static const char *const reserved[] = {"true", "false", "none", "True", "False", "None"};
    if (p->cur.kind != JTOK_IDENT) return BAD(p, "expected token 'name', got '%.*s'", STR_ARG(cur_text(p)));
    for (size_t i = 0; i < COUNT_OF(reserved); i++)
        if (str_is(p->cur.s, reserved[i])) return BAD(p, "can't assign to '%s'", reserved[i]);
    TRY(intern(p, p->cur.s, sym));
    return advance(p);
}

/* name, name.attribute (with_attr), or a tuple of those, with parentheses or without. */
static int parse_target(struct jparse *p, bool with_attr, struct jtarget **out)
{
    struct jtarget *x, *tuple = NULL;
    TRY(enter(p));
    for (;;) {
        if (p->cur.kind == JTOK_LPAREN) {
            TRY(advance(p));
            TRY(parse_target(p, with_attr, &x));
            TRY(expect(p, JTOK_RPAREN));
        } else {
            if (!(x = parse_alloc(p, sizeof *x))) return p->rc;
            TRY(parse_target_name(p, &x->sym));
            if (with_attr && p->cur.kind == JTOK_DOT) {
                TRY(advance(p));
                if (p->cur.kind != JTOK_IDENT) return BAD(p, "expected token 'name', got '%.*s'", STR_ARG(cur_text(p)));
                x->kind = JT_ATTR;
                TRY(make_str(p, p->cur.s, &x->name));
                TRY(advance(p));
            }
        }
        if (tuple) TRY(vec_put(p, &tuple->v, &tuple->n, &x, sizeof x));
        if (p->cur.kind != JTOK_COMMA) break;
        if (!tuple) {
            if (!(tuple = parse_alloc(p, sizeof *tuple))) return p->rc;
            tuple->kind = JT_TUPLE;
            TRY(vec_put(p, &tuple->v, &tuple->n, &x, sizeof x));
        }
        TRY(advance(p));
        if (p->cur.kind != JTOK_IDENT && p->cur.kind != JTOK_LPAREN) break;
        if (at_word(p, "in")) break;
    }
    p->depth--;
    *out = tuple ? tuple : x;
    return 0;
}

/* From the end of the opening tag to the closing tag `end`, which is taken up to its name. */
static int parse_block(struct jparse *p, const char *end, struct jbody *out)
{
    const char *const ends[] = {end, NULL};
    TRY(parse_body(p, ends, out));
    return advance(p);
}

static int parse_if(struct jparse *p, struct jstmt **out)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif", NULL};
    struct jstmt *s = make_stmt(p, JS_IF);
    if (!s) return p->rc;
    uint32_t n_bodies = 0;
    for (bool more = true; more;) {
        struct jexpr *test = NULL;
        struct jbody body = {0};
        bool otherwise = at_word(p, "else");
        TRY(advance(p));
        if (!otherwise) TRY(parse_tuple(p, parse_or, NULL, false, &test));
        TRY(parse_body(p, otherwise ? last : ends, &body));
        TRY(vec_put(p, &s->u.cond.tests, &s->u.cond.n, &test, sizeof test));
        TRY(vec_put(p, &s->u.cond.bodies, &n_bodies, &body, sizeof body));
        more = !at_word(p, "endif");
    }
    *out = s;
    return advance(p);
}

static int parse_for(struct jparse *p, struct jstmt **out)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    struct jstmt *s = make_stmt(p, JS_FOR);
    if (!s) return p->rc;
    TRY(advance(p));
    TRY(parse_target(p, false, &s->u.loop.target));
    TRY(expect_word(p, "in"));
    TRY(parse_tuple(p, parse_or, "recursive", false, &s->u.loop.iter));
    if (at_word(p, "if")) {
        TRY(advance(p));
        TRY(parse_expr(p, &s->u.loop.filter));
    }
    if (at_word(p, "recursive")) {
        s->u.loop.recursive = true;
        TRY(advance(p));
    }
    p->loops++;
    TRY(parse_body(p, ends, &s->u.loop.body));
    p->loops--;
    *out = s;
    if (!at_word(p, "else")) return advance(p);
    TRY(advance(p));
    return parse_block(p, "endfor", &s->u.loop.otherwise);
}

static int parse_filters(struct jparse *p, bool first_bare, struct jpost **ops, uint32_t *n)
{
    while (first_bare || p->cur.kind == JTOK_PIPE) {
        struct jpost op = {0};
        if (!first_bare) TRY(advance(p));
        first_bare = false;
        TRY(parse_filter(p, &op));
        TRY(vec_put(p, ops, n, &op, sizeof op));
    }
    return 0;
}

static int parse_set(struct jparse *p, struct jstmt **out)
{
    struct jstmt *s = make_stmt(p, JS_SET);
    if (!s) return p->rc;
    *out = s;
    TRY(advance(p));
    TRY(parse_target(p, true, &s->u.set.target));
    if (p->cur.kind == JTOK_ASSIGN) {
        TRY(advance(p));
        return parse_tuple(p, parse_expr, NULL, false, &s->u.set.value);
    }
    s->kind = JS_SET_BLOCK;
    TRY(parse_filters(p, false, &s->u.set.ops, &s->u.set.n_ops));
    return parse_block(p, "endset", &s->u.set.body);
}

/* (a, b=1) of a macro or call block. */
static int parse_signature(struct jparse *p, struct jmacro_def *def)
{
    uint32_t n_defaults = 0;
    bool seen_default = false;
    TRY(expect(p, JTOK_LPAREN));
    while (p->cur.kind != JTOK_RPAREN) {
        uint32_t sym;
        struct jexpr *value = NULL;
        if (def->n > 0) TRY(expect(p, JTOK_COMMA));
        TRY(parse_target_name(p, &sym));
        if (p->cur.kind == JTOK_ASSIGN) {
            TRY(advance(p));
            TRY(parse_expr(p, &value));
            seen_default = true;
        } else if (seen_default) {
            return BAD(p, "non-default argument follows default argument");
        }
        TRY(vec_put(p, &def->args, &def->n, &sym, sizeof sym));
        TRY(vec_put(p, &def->defaults, &n_defaults, &value, sizeof value));
    }
    return advance(p);
}

/* The body of a macro or call block: a function of its own, so break does not reach out of it. */
static int parse_macro_body(struct jparse *p, const char *end, struct jmacro_def *def)
{
    struct open_macro open = {def, p->macros};
    unsigned loops = p->loops;
    p->macros = &open;
    p->loops = 0;
    int rc = parse_block(p, end, &def->body);
    p->loops = loops;
    p->macros = open.up;
    return rc;
}

static int parse_macro(struct jparse *p, struct jstmt **out)
{
    struct jstmt *s = make_stmt(p, JS_MACRO);
    struct jmacro_def *def = parse_alloc(p, sizeof *def);
    if (!s || !def) return p->rc;
    *out = s;
    s->u.macro.def = def;
    TRY(advance(p));
    struct str name = p->cur.s;
    TRY(parse_target_name(p, &s->u.macro.sym));
    TRY(make_str(p, name, &def->name));
    TRY(parse_signature(p, def));
    return parse_macro_body(p, "endmacro", def);
}

static int parse_call(struct jparse *p, struct jstmt **out)
{
    struct jstmt *s = make_stmt(p, JS_CALL);
    struct jmacro_def *def = parse_alloc(p, sizeof *def);
    if (!s || !def) return p->rc;
    *out = s;
    s->u.macro.def = def;
    def->name = jv_none();
    TRY(advance(p));
    if (p->cur.kind == JTOK_LPAREN) TRY(parse_signature(p, def));
    TRY(parse_expr(p, &s->u.macro.call));
    struct jexpr *call = s->u.macro.call;
    if (call->kind != JE_POST || call->u.post.ops[call->n - 1].kind != JP_CALL) return BAD(p, "expected call");
    return parse_macro_body(p, "endcall", def);
}

static int parse_filter_block(struct jparse *p, struct jstmt **out)
{
    struct jstmt *s = make_stmt(p, JS_FILTER);
    if (!s) return p->rc;
    *out = s;
    TRY(advance(p));
    TRY(parse_filters(p, true, &s->u.filter.ops, &s->u.filter.n_ops));
    return parse_block(p, "endfilter", &s->u.filter.body);
}

static int parse_with(struct jparse *p, struct jstmt **out)
{
    struct jstmt *s = make_stmt(p, JS_WITH);
    if (!s) return p->rc;
    *out = s;
    uint32_t n_values = 0;
    TRY(advance(p));
    while (p->cur.kind != JTOK_BLOCK_END) {
        struct jtarget *target;
        struct jexpr *value;
        if (s->u.with.n > 0) TRY(expect(p, JTOK_COMMA));
        TRY(parse_target(p, false, &target));
        TRY(expect(p, JTOK_ASSIGN));
        TRY(parse_expr(p, &value));
        TRY(vec_put(p, &s->u.with.targets, &s->u.with.n, &target, sizeof target));
        TRY(vec_put(p, &s->u.with.values, &n_values, &value, sizeof value));
    }
    return parse_block(p, "endwith", &s->u.with.body);
}

static int parse_generation(struct jparse *p, struct jstmt **out)
{
    struct jstmt *s = make_stmt(p, JS_SCOPE);
    if (!s) return p->rc;
    *out = s;
    TRY(advance(p));
    return parse_block(p, "endgeneration", &s->u.body);
}

static int parse_loop_control(struct jparse *p, struct jstmt **out)
{
    if (p->loops == 0) return BAD(p, "'%.*s' outside of a loop", STR_ARG(p->cur.s));
    struct jstmt *s = make_stmt(p, at_word(p, "break") ? JS_BREAK : JS_CONTINUE);
    if (!s) return p->rc;
    *out = s;
    return advance(p);
}

static int parse_print(struct jparse *p, struct jstmt **out)
{
    struct jstmt *s = make_stmt(p, JS_PRINT);
    if (!s) return p->rc;
    *out = s;
    TRY(advance(p));
    return parse_tuple(p, parse_expr, NULL, false, &s->u.expr);
}

/* {% print a, b %} writes one after the other. */
static int parse_print_tag(struct jparse *p, struct jstmt **out)
{
    struct jstmt *s = make_stmt(p, JS_PRINT);
    struct jexpr *all = make_expr(p, JE_CONCAT, p->cur.line), *x;
    if (!s || !all) return p->rc;
    *out = s;
    s->u.expr = all;
    do {
        TRY(advance(p));
        TRY(parse_expr(p, &x));
        TRY(put_expr(p, all, x));
    } while (p->cur.kind == JTOK_COMMA);
    return 0;
}

static int parse_refused(struct jparse *p, struct jstmt **out)
{
    *out = NULL;
    return jlex_fail_at(&p->lx, p->cur.line, ERR_UNSUPPORTED,
                        "the tag '%.*s' is not supported: a chat template stands alone and is plain text", STR_ARG(p->cur.s));
}

static const struct {
    const char *word;
    int (*parse)(struct jparse *p, struct jstmt **out);
} tags[] = {
    {"if", parse_if},
    {"for", parse_for},
    {"set", parse_set},
    {"macro", parse_macro},
    {"call", parse_call},
    {"filter", parse_filter_block},
    {"with", parse_with},
    {"generation", parse_generation},
    {"break", parse_loop_control},
    {"continue", parse_loop_control},
    {"print", parse_print_tag},
    {"include", parse_refused},
    {"import", parse_refused},
    {"from", parse_refused},
    {"extends", parse_refused},
    {"block", parse_refused},
    {"autoescape", parse_refused},
};

static int parse_statement(struct jparse *p, const char *const *ends, struct jstmt **out)
{
    if (p->cur.kind != JTOK_IDENT) return BAD(p, "tag name expected, got '%.*s'", STR_ARG(cur_text(p)));
    for (size_t i = 0; i < COUNT_OF(tags); i++)
        if (str_is(p->cur.s, tags[i].word)) return tags[i].parse(p, out);
    if (ends)
        return BAD(p, "unknown tag '%.*s'; the innermost open block is closed by '%s'", STR_ARG(p->cur.s),
                   ends[ends[1] ? ends[2] ? 2 : 1 : 0]);
    return BAD(p, "unknown tag '%.*s'", STR_ARG(p->cur.s));
}

/* Statements up to a tag named in ends, whose name is then current; up to the end of the template where ends is NULL. */
static int parse_body(struct jparse *p, const char *const *ends, struct jbody *out)
{
    TRY(enter(p));
    if (ends) {
        if (p->cur.kind == JTOK_COLON) TRY(advance(p)); /* "{% if x: %}" is allowed */
        TRY(expect(p, JTOK_BLOCK_END));
    }
    for (;;) {
        struct jstmt *s = NULL;
        if (p->cur.kind == JTOK_EOF) {
            if (ends) return BAD(p, "unexpected end of template, looking for '%s'", ends[ends[1] ? ends[2] ? 2 : 1 : 0]);
            break;
        }
        if (p->cur.kind == JTOK_TEXT) {
            if (p->cur.s.n > 0) {
                if (!(s = make_stmt(p, JS_TEXT))) return p->rc;
                s->u.text = p->cur.s;
            }
            TRY(advance(p));
        } else if (p->cur.kind == JTOK_VAR_BEGIN) {
            TRY(parse_print(p, &s));
            TRY(expect(p, JTOK_VAR_END));
        } else {
            TRY(expect(p, JTOK_BLOCK_BEGIN));
            for (const char *const *end = ends; end && *end; end++) {
                if (!at_word(p, *end)) continue;
                p->depth--;
                return 0;
            }
            TRY(parse_statement(p, ends, &s));
            TRY(expect(p, JTOK_BLOCK_END));
        }
        if (s) TRY(put_stmt(p, out, s));
    }
    p->depth--;
    return 0;
}

/* ---- the template ------------------------------------------------------------------------------------------------------ */

static int parse_template(struct jinja *t, struct str source, const char *name, struct err *e)
{
    static const char *const fixed[JSYM_FIXED] = {"loop", "caller", "kwargs", "varargs"};
    struct jparse p = {.t = t, .a = &t->arena, .e = e};
    struct str n = str_of(name ? name : "template");
    t->name.p = arena_dup(&t->arena, n.p, n.n);
    if (!t->name.p) return fail_nomem(e, "a chat template", n.n);
    t->name.n = n.n;
    TRY(jlex_init(&p.lx, &t->arena, source, t->name, e));
    for (size_t i = 0; i < COUNT_OF(fixed); i++) {
        uint32_t sym;
        TRY(intern(&p, str_of(fixed[i]), &sym));
    }
    TRY(advance(&p));
    return parse_body(&p, NULL, &t->body);
}

int jinja_compile(struct str source, const char *name, struct jinja **out, struct err *e)
{
    *out = NULL;
    struct jinja *t = mem_zalloc(sizeof *t);
    if (!t) return fail_nomem(e, "a chat template", sizeof *t);
    int rc = parse_template(t, source, name, e);
    if (rc < 0) {
        jinja_free(&t);
        return rc;
    }
    *out = t;
    return 0;
}

void jinja_free(struct jinja **t)
{
    if (!*t) return;
    arena_fini(&(*t)->arena);
    mem_free(*t);
    *t = NULL;
}
