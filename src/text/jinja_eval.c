/* jinja_eval.c: renders a compiled template: the limits of a rendering, variables, expressions, statements.
 *
 * Variables live in scopes. The body of a loop, macro, call block, filter block, block set, with and generation has one of its
 * own: what it sets is gone behind it; if has none. A scope sees those around the place where its code is written, so a macro
 * sees the globals and not the variables of its caller. The outermost scope is an array over the template's symbols.
 *
 * All text, also that of macros and block sets, is written to the end of the caller's buffer; what must become a value is
 * taken off it again (jrt_take). So a failure anywhere needs no clean-up: the buffer is cut back, the arena dropped.
 *
 * exec functions return 0, a negative error, or FLOW_BREAK / FLOW_CONTINUE on their way to the loop. */
#include "text/jinja_int.h"

enum { FLOW_BREAK = 1, FLOW_CONTINUE = 2 };

static int eval(struct jrt *rt, struct jscope *sc, const struct jexpr *x, struct jv *out);
static int exec_body(struct jrt *rt, struct jscope *sc, const struct jbody *body);

/* ---- limits and memory ------------------------------------------------------------------------------------------------ */

int jrt_where(struct jrt *rt, int code)
{
    rt->rc = code;
    if (rt->e) fail_prefix(rt->e, "%.*s: line %u", STR_ARG(rt->t->name), (unsigned)rt->line);
    return code;
}

int jrt_limit(struct jrt *rt)
{
    rt->fuel = 0;
    return JFAIL_CODE(rt, ERR_LIMIT, "the template does more work than a rendering may");
}

int jrt_enter(struct jrt *rt)
{
    if (++rt->depth <= rt->depth_max) return 0;
    return JFAIL_CODE(rt, ERR_LIMIT, "calls and expressions are nested too deeply (more than %u)",
                      rt->depth_max / J_FRAMES_PER_DEPTH);
}

void *jrt_alloc(struct jrt *rt, size_t bytes)
{
    if (bytes > rt->memory_max - rt->memory) {
        JFAIL_CODE(rt, ERR_LIMIT, "the values of the template need more than %zu bytes", rt->memory_max);
        return NULL;
    }
    if (jrt_spend(rt, (uint64_t)bytes * J_COST_NEW_BYTE) < 0) return NULL;
    void *p = arena_alloc(&rt->arena, bytes);
    if (!p) {
        fail_nomem(rt->e, "the values of a template", bytes);
        rt->rc = ERR_NOMEM;
        return NULL;
    }
    rt->memory += bytes;
    return p;
}

void *jrt_array(struct jrt *rt, size_t n, size_t size)
{
    size_t bytes;
    if (!size_mul(n, size, &bytes)) {
        jrt_limit(rt);
        return NULL;
    }
    return jrt_alloc(rt, bytes);
}

/* Room for n more bytes of text, paid for. */
static int make_room(struct jrt *rt, uint64_t n)
{
    size_t used = rt->out->n - rt->out_base;
    if (n > rt->out_max - size_min(used, rt->out_max))
        return JFAIL_CODE(rt, ERR_LIMIT, "the template writes more than %zu bytes", rt->out_max);
    TRY(jrt_spend(rt, 4 + n * J_COST_NEW_BYTE));
    int rc = buf_reserve(rt->out, (size_t)n);
    if (rc == ERR_LIMIT)
        return JFAIL_CODE(rt, rc, "the rendered text does not fit into its buffer of %zu bytes", rt->out->limit);
    if (rc < 0) {
        fail_nomem(rt->e, "the rendered text", (size_t)n);
        rt->rc = rc;
    }
    return rc;
}

int jrt_put(struct jrt *rt, const void *p, size_t n)
{
    if (n == 0) return 0;
    TRY(make_room(rt, n));
    memcpy(rt->out->p + rt->out->n, p, n);
    rt->out->n += n;
    return 0;
}

int jrt_put_z(struct jrt *rt, const char *z)
{
    return jrt_put(rt, z, strlen(z));
}

int jrt_put_fill(struct jrt *rt, struct str unit, uint64_t times)
{
    uint64_t total;
    if (!u64_mul(unit.n, times, &total)) return jrt_limit(rt);
    if (total == 0) return 0;
    TRY(make_room(rt, total));
    for (uint64_t i = 0; i < times; i++) memcpy(rt->out->p + rt->out->n + i * unit.n, unit.p, unit.n);
    rt->out->n += (size_t)total;
    return 0;
}

int jrt_take(struct jrt *rt, size_t mark, struct jv *out)
{
    size_t n = rt->out->n - mark;
    TRY(jv_str_copy(rt, n ? rt->out->p + mark : "", n, out));
    rt->out->n = mark;
    return 0;
}

/* ---- variables ----------------------------------------------------------------------------------------------------------- */

static struct jscope *scope_new(struct jrt *rt, struct jscope *up)
{
    struct jscope *sc = jrt_alloc(rt, sizeof *sc);
    if (sc) sc->up = up;
    return sc;
}

static int scope_put(struct jrt *rt, struct jscope *sc, uint32_t sym, struct jv v)
{
    if (!sc->up) {
        rt->globals[sym] = v;
        return 0;
    }
    TRY(jrt_spend(rt, sc->n));
    for (uint32_t i = 0; i < sc->n; i++) {
        if (sc->b[i].sym != sym) continue;
        sc->b[i].v = v;
        return 0;
    }
    if (sc->n == sc->cap) {
        uint32_t cap = sc->cap ? sc->cap * 2 : 4;
        struct jbind *b = jrt_array(rt, cap, sizeof *b);
        if (!b) return rt->rc;
        if (sc->n > 0) memcpy(b, sc->b, sc->n * sizeof *b);
        sc->b = b;
        sc->cap = cap;
    }
    sc->b[sc->n++] = (struct jbind){sym, v};
    return 0;
}

/* JK_ABSENT where there is no such variable. */
static int scope_find(struct jrt *rt, const struct jscope *sc, uint32_t sym, struct jv *out)
{
    for (; sc->up; sc = sc->up) {
        TRY(jrt_spend(rt, 1 + sc->n));
        for (uint32_t i = 0; i < sc->n; i++) {
            if (sc->b[i].sym != sym) continue;
            *out = sc->b[i].v;
            return 0;
        }
    }
    *out = rt->globals[sym];
    return 0;
}

static int assign_tuple(struct jrt *rt, struct jscope *sc, const struct jtarget *t, struct jv v);

static int assign(struct jrt *rt, struct jscope *sc, const struct jtarget *t, struct jv v)
{
    struct jv ns;
    if (t->kind == JT_NAME) return scope_put(rt, sc, t->sym, v);
    if (t->kind == JT_TUPLE) return assign_tuple(rt, sc, t, v);
    TRY(scope_find(rt, sc, t->sym, &ns));
    if (ns.kind != JK_NS) return JFAIL(rt, "cannot assign attribute on non-namespace object");
    return jdict_put(rt, ns.u.dict, t->name, v);
}

static int assign_tuple(struct jrt *rt, struct jscope *sc, const struct jtarget *t, struct jv v)
{
    struct jlist *l;
    if (v.kind == JK_LIST || v.kind == JK_TUPLE)
        l = v.u.list;
    else
        TRY(jlist_of(rt, v, &l));
    if (l->n < t->n) return JFAIL(rt, "not enough values to unpack (expected %u, got %zu)", (unsigned)t->n, l->n);
    if (l->n > t->n) return JFAIL(rt, "too many values to unpack (expected %u)", (unsigned)t->n);
    for (uint32_t i = 0; i < t->n; i++) TRY(assign(rt, sc, t->v[i], l->v[i]));
    return 0;
}

/* ---- calls
 * ------------------------------------------------------------------------------------------------------------------- */

static int add_star(struct jrt *rt, struct jscope *sc, const struct jexpr *x, struct jlist *into)
{
    struct jv v;
    struct jlist *more;
    TRY(eval(rt, sc, x, &v));
    TRY(jlist_of(rt, v, &more));
    for (size_t i = 0; i < more->n; i++) TRY(jlist_put(rt, into, more->v[i]));
    return 0;
}

/* The arguments of a call. caller: the body of a call block, or NULL. */
static int eval_args(struct jrt *rt, struct jscope *sc, const struct jargs *args, struct jmacro *caller, struct jcall *c)
{
    static const struct jargs no_args = {0};
    JSTR_CONST(caller_name, "caller");
    struct jv extra = jv_none();
    struct jlist pos = {0};
    if (!args) args = &no_args;
    TRY(jlist_reserve(rt, &pos, args->n));
    for (uint32_t i = 0; i < args->n; i++) TRY(eval(rt, sc, args->v[i], &pos.v[pos.n++]));
    size_t n_kw = args->n_kw + (caller != NULL), filled = 0;
    struct jkw *kw = jrt_array(rt, n_kw, sizeof *kw);
    if (!kw) return rt->rc;
    for (; filled < args->n_kw; filled++) {
        kw[filled].name = args->kw[filled].name;
        TRY(eval(rt, sc, args->kw[filled].value, &kw[filled].val));
    }
    if (args->star) TRY(add_star(rt, sc, args->star, &pos));
    if (args->star_star) {
        TRY(eval(rt, sc, args->star_star, &extra));
        if (extra.kind != JK_DICT) return JFAIL(rt, "argument after ** must be a mapping, not %s", jv_type_name(extra.kind));
        struct jkw *all = jrt_array(rt, n_kw + extra.u.dict->n, sizeof *all);
        if (!all) return rt->rc;
        memcpy(all, kw, filled * sizeof *all);
        kw = all;
        for (size_t i = 0; i < extra.u.dict->n; i++, filled++) {
            kw[filled] = (struct jkw){extra.u.dict->e[i].key, extra.u.dict->e[i].val};
            if (kw[filled].name.kind != JK_STR) return JFAIL(rt, "keywords must be strings");
        }
    }
    if (caller) kw[filled++] = (struct jkw){jv_of_str(&caller_name), {.kind = JK_MACRO, .u.macro = caller}};
    *c = (struct jcall){.n = pos.n, .v = pos.v, .n_kw = filled, .kw = kw};
    return 0;
}

/* The value of a macro's argument number i: by position, by name, by default. */
static int macro_argument(struct jrt *rt, const struct jmacro_def *def, struct jscope *sc, uint32_t i, const struct jcall *c,
                          struct jv *out)
{
    struct str name = rt->t->syms[def->args[i]].name;
    TRY(jrt_spend(rt, 1 + c->n_kw));
    if (i < c->n) {
        *out = c->v[i];
        return 0;
    }
    for (size_t k = 0; k < c->n_kw; k++) {
        if (!str_eq(jv_text(c->kw[k].name), name)) continue;
        *out = c->kw[k].val;
        return 0;
    }
    if (def->defaults[i]) return eval(rt, sc, def->defaults[i], out);
    return jv_hint(rt, "a parameter of the macro was not provided", out);
}

/* kwargs, caller: what the named arguments leave over; one that was given by position takes none by name. */
static int macro_extras(struct jrt *rt, const struct jmacro_def *def, struct jscope *sc, const struct jcall *c)
{
    struct jdict *rest = jdict_new(rt);
    struct jv caller = {.kind = JK_ABSENT};
    if (!rest) return rt->rc;
    for (size_t k = 0; k < c->n_kw; k++) {
        struct str name = jv_text(c->kw[k].name);
        bool own = false;
        for (size_t i = c->n; i < def->n && !own; i++) own = str_eq(rt->t->syms[def->args[i]].name, name);
        if (own) continue;
        if (def->uses_caller && str_is(name, "caller"))
            caller = c->kw[k].val;
        else if (def->uses_kwargs)
            TRY(jdict_put(rt, rest, c->kw[k].name, c->kw[k].val));
        else
            return JFAIL(rt, "macro takes no keyword argument '%.*s'", STR_ARG(name));
    }
    if (def->uses_kwargs) TRY(scope_put(rt, sc, JSYM_KWARGS, (struct jv){.kind = JK_DICT, .u.dict = rest}));
    if (!def->uses_caller) return 0;
    if (!jv_given(caller)) TRY(jv_hint(rt, "No caller defined", &caller));
    return scope_put(rt, sc, JSYM_CALLER, caller);
}

static int call_macro(struct jrt *rt, const struct jmacro *m, const struct jcall *c, struct jv *out)
{
    const struct jmacro_def *def = m->def;
    struct jscope *sc = scope_new(rt, m->env);
    size_t mark = jrt_mark(rt);
    if (!sc) return rt->rc;
    if (c->n > def->n && !def->uses_varargs) return JFAIL(rt, "macro takes not more than %u argument(s)", (unsigned)def->n);
    TRY(macro_extras(rt, def, sc, c));
    if (def->uses_varargs) {
        struct jlist *more = jlist_new(rt, 0);
        if (!more) return rt->rc;
        for (size_t i = def->n; i < c->n; i++) TRY(jlist_put(rt, more, c->v[i]));
        TRY(scope_put(rt, sc, JSYM_VARARGS, jv_tuple(more)));
    }
    for (uint32_t i = 0; i < def->n; i++) {
        struct jv v;
        TRY(macro_argument(rt, def, sc, i, c, &v));
        TRY(scope_put(rt, sc, def->args[i], v));
    }
    TRY(exec_body(rt, sc, &def->body));
    return jrt_take(rt, mark, out);
}

static int run_loop(struct jrt *rt, struct jscope *sc, const struct jstmt *s, struct jv iterable, int64_t depth0);

/* loop(items) of a recursive loop: the loop again over items, its text as the value. */
static int call_loop(struct jrt *rt, const struct jloop *l, const struct jcall *c, struct jv *out)
{
    size_t mark = jrt_mark(rt);
    if (!l->node->u.loop.recursive) return JFAIL(rt, "The loop must have the 'recursive' marker enabled.");
    if (c->n != 1 || c->n_kw > 0) return JFAIL(rt, "loop() takes one argument");
    TRY(run_loop(rt, l->outer, l->node, c->v[0], l->depth0 + 1));
    return jrt_take(rt, mark, out);
}

static int call_method(struct jrt *rt, const struct jmethod *m, const struct jcall *c, struct jv *out)
{
    TRY(jcall_builtin(rt, m->fn, m->self, c, out));
    if (m->self.kind != JK_STR || !m->self.safe) return 0;
    if (out->kind == JK_STR) out->safe = true; /* methods of Markup give Markup */
    if (out->kind == JK_LIST || out->kind == JK_TUPLE)
        for (size_t i = 0; i < out->u.list->n; i++) out->u.list->v[i].safe = true;
    return 0;
}

int jcall(struct jrt *rt, struct jv callee, const struct jcall *args, struct jv *out)
{
    int rc;
    TRY(jrt_enter(rt));
    switch ((enum jkind)callee.kind) {
    case JK_FUNC:
        rc = jcall_builtin(rt, callee.u.fn, jv_none(), args, out);
        break;
    case JK_METHOD:
        rc = call_method(rt, callee.u.method, args, out);
        break;
    case JK_MACRO:
        rc = call_macro(rt, callee.u.macro, args, out);
        break;
    case JK_LOOP:
        rc = call_loop(rt, callee.u.loop, args, out);
        break;
    case JK_JOINER:
        *out = callee.u.joiner->sep;
        rc = callee.u.joiner->used ? 0 : jv_str_view(rt, "", 0, out);
        callee.u.joiner->used = true;
        break;
    case JK_UNDEF:
        return jv_use_undefined(rt, callee);
    default:
        return JFAIL(rt, "'%s' object is not callable", jv_type_name(callee.kind));
    }
    jrt_leave(rt);
    return rc;
}

/* ---- expressions
 * ----------------------------------------------------------------------------------------------------------------- */

static int eval_slice(struct jrt *rt, struct jscope *sc, const struct jpost *op, struct jv *io)
{
    struct jv bound[3];
    for (int i = 0; i < 3; i++) {
        bound[i] = jv_none();
        if (op->u.slice[i]) TRY(eval(rt, sc, op->u.slice[i], &bound[i]));
    }
    return jv_slice(rt, *io, bound, io);
}

static int eval_builtin(struct jrt *rt, struct jscope *sc, const struct jpost *op, struct jv *io)
{
    struct jcall c;
    bool test = op->kind == JP_TEST;
    if (!op->u.call.fn) return JFAIL(rt, "No %s named '%.*s'.", test ? "test" : "filter", STR_ARG(jv_text(op->name)));
    TRY(eval_args(rt, sc, op->u.call.args, NULL, &c));
    rt->line = op->line;
    TRY(jcall_builtin(rt, op->u.call.fn, *io, &c, io));
    if (op->negated) *io = jv_bool(!jv_truth(*io));
    return 0;
}

/* Applies one step of a postfix chain to *io. */
static int eval_post(struct jrt *rt, struct jscope *sc, const struct jpost *op, struct jmacro *caller, struct jv *io)
{
    struct jv key;
    struct jcall c;
    TRY(jrt_spend(rt, J_COST_NODE));
    rt->line = op->line;
    switch ((enum jpost_kind)op->kind) {
    case JP_ATTR:
        return jv_attr(rt, *io, op->name, io);
    case JP_ITEM:
        TRY(eval(rt, sc, op->u.slice[0], &key));
        return jv_item(rt, *io, key, io);
    case JP_SLICE:
        return eval_slice(rt, sc, op, io);
    case JP_CALL:
        TRY(eval_args(rt, sc, op->u.call.args, caller, &c));
        rt->line = op->line;
        return jcall(rt, *io, &c, io);
    default:
        return eval_builtin(rt, sc, op, io);
    }
}

static int eval_list(struct jrt *rt, struct jscope *sc, const struct jexpr *x, struct jv *out)
{
    struct jlist *l = jlist_new(rt, x->n);
    if (!l) return rt->rc;
    for (uint32_t i = 0; i < x->n; i++) {
        TRY(eval(rt, sc, x->u.many.v[i], &l->v[i]));
        l->n = i + 1;
    }
    *out = x->kind == JE_LIST ? jv_list(l) : jv_tuple(l);
    return 0;
}

static int eval_dict(struct jrt *rt, struct jscope *sc, const struct jexpr *x, struct jv *out)
{
    struct jdict *d = jdict_new(rt);
    if (!d) return rt->rc;
    for (uint32_t i = 0; i < x->n; i += 2) {
        struct jv key, val;
        TRY(eval(rt, sc, x->u.many.v[i], &key));
        TRY(eval(rt, sc, x->u.many.v[i + 1], &val));
        TRY(jdict_put(rt, d, key, val));
    }
    *out = (struct jv){.kind = JK_DICT, .u.dict = d};
    return 0;
}

static int eval_chain(struct jrt *rt, struct jscope *sc, const struct jexpr *x, struct jv *out)
{
    struct jv left, right;
    TRY(eval(rt, sc, x->u.many.v[0], &left));
    for (uint32_t i = 1; i < x->n; i++) {
        TRY(eval(rt, sc, x->u.many.v[i], &right));
        rt->line = x->line;
        TRY(jv_binary(rt, (enum jop)x->u.many.ops[i], left, right, &left));
    }
    *out = left;
    return 0;
}

static int eval_compare(struct jrt *rt, struct jscope *sc, const struct jexpr *x, struct jv *out)
{
    struct jv left, right;
    bool holds = true;
    TRY(eval(rt, sc, x->u.many.v[0], &left));
    for (uint32_t i = 1; i < x->n && holds; i++) {
        TRY(eval(rt, sc, x->u.many.v[i], &right));
        rt->line = x->line;
        TRY(jv_compare(rt, (enum jop)x->u.many.ops[i], left, right, &holds));
        left = right;
    }
    *out = jv_bool(holds);
    return 0;
}

/* a ~ b ~ c */
static int eval_concat(struct jrt *rt, struct jscope *sc, const struct jexpr *x, struct jv *out)
{
    struct jv parts;
    TRY(eval_list(rt, sc, x, &parts));
    struct jv *v = parts.u.list->v, joined;
    TRY(jv_str(rt, v[0], &joined));
    for (uint32_t i = 1; i < x->n; i++) {
        TRY(jv_str(rt, v[i], &v[i]));
        TRY(jv_concat(rt, joined, v[i], &joined));
    }
    *out = joined;
    return 0;
}

static int eval_and_or(struct jrt *rt, struct jscope *sc, const struct jexpr *x, struct jv *out)
{
    for (uint32_t i = 0; i < x->n; i++) {
        TRY(eval(rt, sc, x->u.many.v[i], out));
        if (jv_truth(*out) == (x->kind == JE_OR)) break;
    }
    return 0;
}

static int eval_cond(struct jrt *rt, struct jscope *sc, const struct jexpr *x, struct jv *out)
{
    struct jv test;
    TRY(eval(rt, sc, x->u.many.v[1], &test));
    const struct jexpr *branch = x->u.many.v[jv_truth(test) ? 0 : 2];
    if (branch) return eval(rt, sc, branch, out);
    return jv_hint(rt, "the inline if-expression evaluated to false and no else section was defined", out);
}

static int eval_post_chain(struct jrt *rt, struct jscope *sc, const struct jexpr *x, struct jmacro *caller, struct jv *out)
{
    struct jv v;
    TRY(eval(rt, sc, x->u.post.base, &v));
    for (uint32_t i = 0; i < x->n; i++) TRY(eval_post(rt, sc, &x->u.post.ops[i], i + 1 == x->n ? caller : NULL, &v));
    *out = v;
    return 0;
}

static int eval_nested(struct jrt *rt, struct jscope *sc, const struct jexpr *x, struct jv *out)
{
    struct jv v;
    switch ((enum jexpr_kind)x->kind) {
    case JE_LIST:
    case JE_TUPLE:
        return eval_list(rt, sc, x, out);
    case JE_DICT:
        return eval_dict(rt, sc, x, out);
    case JE_CHAIN:
        return eval_chain(rt, sc, x, out);
    case JE_COMPARE:
        return eval_compare(rt, sc, x, out);
    case JE_CONCAT:
        return eval_concat(rt, sc, x, out);
    case JE_AND:
    case JE_OR:
        return eval_and_or(rt, sc, x, out);
    case JE_COND:
        return eval_cond(rt, sc, x, out);
    case JE_POST:
        return eval_post_chain(rt, sc, x, NULL, out);
    default:
        break;
    }
    TRY(eval(rt, sc, x->u.many.v[0], &v));
    if (x->kind != JE_NOT) return jv_negate(rt, v, x->kind == JE_NEG, out);
    *out = jv_bool(!jv_truth(v));
    return 0;
}

static int eval(struct jrt *rt, struct jscope *sc, const struct jexpr *x, struct jv *out)
{
    TRY(jrt_spend(rt, J_COST_NODE));
    if (x->kind == JE_CONST) {
        *out = x->u.value;
        return 0;
    }
    if (x->kind == JE_NAME) {
        TRY(scope_find(rt, sc, x->n, out));
        if (!jv_given(*out)) *out = x->u.value;
        return 0;
    }
    TRY(jrt_enter(rt));
    TRY(eval_nested(rt, sc, x, out));
    jrt_leave(rt);
    return 0;
}

/* ---- loops
 * ---------------------------------------------------------------------------------------------------------------------------
 */

/* The next element that passes the loop's filter; 1, 0 at the end. */
static int loop_pull(struct jrt *rt, struct jloop *l, struct jv *out)
{
    for (;;) {
        struct jv pass;
        int more = jiter_next(rt, l->it, out);
        if (more <= 0 || !l->test) return more;
        l->test->n = 0;
        TRY(assign(rt, l->test, l->node->u.loop.target, *out));
        TRY(eval(rt, l->test, l->node->u.loop.filter, &pass));
        if (jv_truth(pass)) return 1;
    }
}

static int loop_peek(struct jrt *rt, struct jloop *l)
{
    if (jv_given(l->after) || l->ended) return 0;
    int more = loop_pull(rt, l, &l->after);
    if (more < 0) return more;
    if (more > 0) return 0;
    l->ended = true;
    l->after = (struct jv){.kind = JK_ABSENT};
    return 0;
}

static int loop_advance(struct jrt *rt, struct jloop *l)
{
    TRY(loop_peek(rt, l));
    if (l->ended) return 0;
    l->before = l->cur;
    l->cur = l->after;
    l->after = (struct jv){.kind = JK_ABSENT};
    l->index0++;
    return 1;
}

/* How many elements there are in all. Those still to come are taken and kept where nothing else tells. */
static int loop_length(struct jrt *rt, struct jloop *l)
{
    struct jv v;
    if (l->length >= 0) return 0;
    struct jlist *rest = jlist_new(rt, 0);
    struct jiter *it = jrt_alloc(rt, sizeof *it);
    if (!rest || !it) return rt->rc;
    for (;;) {
        int more = loop_pull(rt, l, &v);
        if (more < 0) return more;
        if (more == 0) break;
        TRY(jlist_put(rt, rest, v));
    }
    *it = (struct jiter){.mode = JI_LIST, .u.list = rest};
    l->it = it;
    l->test = NULL;
    l->length = l->index0 + 1 + jv_given(l->after) + (int64_t)rest->n;
    return 0;
}

enum {
    LOOP_INDEX,
    LOOP_INDEX0,
    LOOP_REVINDEX,
    LOOP_REVINDEX0,
    LOOP_FIRST,
    LOOP_LAST,
    LOOP_LENGTH,
    LOOP_PREV,
    LOOP_NEXT,
    LOOP_DEPTH,
    LOOP_DEPTH0,
    LOOP_N
};

int jloop_attr(struct jrt *rt, struct jloop *l, struct str name, struct jv *out, bool *found)
{
    static const char *const names[LOOP_N] = {"index",  "index0",   "revindex", "revindex0", "first", "last",
                                              "length", "previtem", "nextitem", "depth",     "depth0"};
    int which = 0;
    while (which < LOOP_N && !str_is(name, names[which])) which++;
    *found = which < LOOP_N;
    if (!*found) return 0;
    if (which == LOOP_REVINDEX || which == LOOP_REVINDEX0 || which == LOOP_LENGTH) TRY(loop_length(rt, l));
    if (which == LOOP_LAST || which == LOOP_NEXT) TRY(loop_peek(rt, l));
    switch (which) {
    case LOOP_INDEX:
        *out = jv_int(l->index0 + 1);
        return 0;
    case LOOP_INDEX0:
        *out = jv_int(l->index0);
        return 0;
    case LOOP_REVINDEX:
        *out = jv_int(l->length - l->index0);
        return 0;
    case LOOP_REVINDEX0:
        *out = jv_int(l->length - l->index0 - 1);
        return 0;
    case LOOP_FIRST:
        *out = jv_bool(l->index0 == 0);
        return 0;
    case LOOP_LAST:
        *out = jv_bool(l->ended);
        return 0;
    case LOOP_LENGTH:
        *out = jv_int(l->length);
        return 0;
    case LOOP_DEPTH:
        *out = jv_int(l->depth0 + 1);
        return 0;
    case LOOP_DEPTH0:
        *out = jv_int(l->depth0);
        return 0;
    case LOOP_PREV:
        *out = l->before;
        return l->index0 > 0 ? 0 : jv_hint(rt, "there is no previous item", out);
    default:
        *out = l->after;
        return jv_given(l->after) ? 0 : jv_hint(rt, "there is no next item", out);
    }
}

int jloop_cycle(struct jrt *rt, struct jcall *c, struct jv *out)
{
    if (c->n == 0) return JFAIL(rt, "no items for cycling given");
    *out = c->v[(uint64_t)c->self.u.loop->index0 % c->n];
    return 0;
}

int jloop_changed(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jloop *l = c->self.u.loop;
    bool same = l->last_changed && l->last_changed->n == c->n;
    for (size_t i = 0; same && i < c->n; i++) TRY(jv_eq(rt, l->last_changed->v[i], c->v[i], &same));
    *out = jv_bool(!same);
    if (same) return 0;
    if (!(l->last_changed = jlist_new(rt, c->n))) return rt->rc;
    for (size_t i = 0; i < c->n; i++) TRY(jlist_put(rt, l->last_changed, c->v[i]));
    return 0;
}

/* Runs the for statement s over iterable. The else part runs unless an iteration came to its end, as in jinja2. */
static int run_loop(struct jrt *rt, struct jscope *outer, const struct jstmt *s, struct jv iterable, int64_t depth0)
{
    struct jloop *l = jrt_alloc(rt, sizeof *l);
    struct jscope *sc = scope_new(rt, outer);
    bool completed = false;
    if (!l || !sc) return rt->rc;
    *l = (struct jloop){.node = s, .outer = outer, .index0 = -1, .length = -1, .depth0 = depth0};
    TRY(jv_iter(rt, iterable, &l->it));
    if (!s->u.loop.filter)
        TRY(jv_len(rt, iterable, &l->length));
    else if (!(l->test = scope_new(rt, outer)))
        return rt->rc;
    for (;;) {
        int more = loop_advance(rt, l);
        if (more < 0) return more;
        if (more == 0) break;
        sc->n = 0;
        TRY(scope_put(rt, sc, JSYM_LOOP, (struct jv){.kind = JK_LOOP, .u.loop = l}));
        TRY(assign(rt, sc, s->u.loop.target, l->cur));
        int rc = exec_body(rt, sc, &s->u.loop.body);
        if (rc < 0) return rc;
        if (rc == FLOW_BREAK) break;
        completed |= rc == 0;
    }
    if (completed || s->u.loop.otherwise.n == 0) return 0;
    if (!(sc = scope_new(rt, outer))) return rt->rc;
    return exec_body(rt, sc, &s->u.loop.otherwise);
}

/* ---- statements
 * ----------------------------------------------------------------------------------------------------------------------------
 */

static int exec_if(struct jrt *rt, struct jscope *sc, const struct jstmt *s)
{
    for (uint32_t i = 0; i < s->u.cond.n; i++) {
        struct jv test = jv_bool(true);
        if (s->u.cond.tests[i]) TRY(eval(rt, sc, s->u.cond.tests[i], &test));
        if (jv_truth(test)) return exec_body(rt, sc, &s->u.cond.bodies[i]);
    }
    return 0;
}

static int exec_for(struct jrt *rt, struct jscope *sc, const struct jstmt *s)
{
    struct jv iterable;
    TRY(eval(rt, sc, s->u.loop.iter, &iterable));
    return run_loop(rt, sc, s, iterable, 0);
}

/* The text of a body in its own scope, run through filters. A break or continue out of it drops the text. */
static int exec_captured(struct jrt *rt, struct jscope *outer, const struct jbody *body, const struct jpost *ops, uint32_t n,
                         struct jv *out)
{
    size_t mark = jrt_mark(rt);
    struct jscope *sc = scope_new(rt, outer);
    if (!sc) return rt->rc;
    int rc = exec_body(rt, sc, body);
    if (rc > 0) rt->out->n = mark;
    if (rc != 0) return rc;
    TRY(jrt_take(rt, mark, out));
    for (uint32_t i = 0; i < n; i++) TRY(eval_post(rt, outer, &ops[i], NULL, out));
    return 0;
}

static int exec_set_block(struct jrt *rt, struct jscope *sc, const struct jstmt *s)
{
    struct jv v;
    int rc = exec_captured(rt, sc, &s->u.set.body, s->u.set.ops, s->u.set.n_ops, &v);
    return rc != 0 ? rc : assign(rt, sc, s->u.set.target, v);
}

static int exec_filter(struct jrt *rt, struct jscope *sc, const struct jstmt *s)
{
    struct jv v;
    int rc = exec_captured(rt, sc, &s->u.filter.body, s->u.filter.ops, s->u.filter.n_ops, &v);
    return rc != 0 ? rc : jv_put_str(rt, v);
}

static struct jmacro *make_macro(struct jrt *rt, struct jscope *sc, const struct jstmt *s)
{
    struct jmacro *m = jrt_alloc(rt, sizeof *m);
    if (m) *m = (struct jmacro){s->u.macro.def, sc};
    return m;
}

static int exec_macro(struct jrt *rt, struct jscope *sc, const struct jstmt *s)
{
    struct jmacro *m = make_macro(rt, sc, s);
    if (!m) return rt->rc;
    return scope_put(rt, sc, s->u.macro.sym, (struct jv){.kind = JK_MACRO, .u.macro = m});
}

static int exec_call(struct jrt *rt, struct jscope *sc, const struct jstmt *s)
{
    struct jv v;
    struct jmacro *m = make_macro(rt, sc, s);
    if (!m) return rt->rc;
    TRY(eval_post_chain(rt, sc, s->u.macro.call, m, &v));
    return jv_put_str(rt, v);
}

static int exec_with(struct jrt *rt, struct jscope *outer, const struct jstmt *s)
{
    struct jscope *sc = scope_new(rt, outer);
    if (!sc) return rt->rc;
    for (uint32_t i = 0; i < s->u.with.n; i++) {
        struct jv v;
        TRY(eval(rt, outer, s->u.with.values[i], &v));
        TRY(assign(rt, sc, s->u.with.targets[i], v));
    }
    return exec_body(rt, sc, &s->u.with.body);
}

static int exec_scope(struct jrt *rt, struct jscope *outer, const struct jstmt *s)
{
    struct jscope *sc = scope_new(rt, outer);
    return sc ? exec_body(rt, sc, &s->u.body) : rt->rc;
}

static int exec_stmt(struct jrt *rt, struct jscope *sc, const struct jstmt *s)
{
    struct jv v;
    TRY(jrt_spend(rt, J_COST_NODE));
    rt->line = s->line;
    switch ((enum jstmt_kind)s->kind) {
    case JS_TEXT:
        return jrt_put_str(rt, s->u.text);
    case JS_PRINT:
        TRY(eval(rt, sc, s->u.expr, &v));
        return jv_put_str(rt, v);
    case JS_IF:
        return exec_if(rt, sc, s);
    case JS_FOR:
        return exec_for(rt, sc, s);
    case JS_SET:
        TRY(eval(rt, sc, s->u.set.value, &v));
        return assign(rt, sc, s->u.set.target, v);
    case JS_SET_BLOCK:
        return exec_set_block(rt, sc, s);
    case JS_MACRO:
        return exec_macro(rt, sc, s);
    case JS_CALL:
        return exec_call(rt, sc, s);
    case JS_FILTER:
        return exec_filter(rt, sc, s);
    case JS_WITH:
        return exec_with(rt, sc, s);
    case JS_SCOPE:
        return exec_scope(rt, sc, s);
    case JS_BREAK:
        return FLOW_BREAK;
    case JS_CONTINUE:
        return FLOW_CONTINUE;
    }
    return 0;
}

static int exec_body(struct jrt *rt, struct jscope *sc, const struct jbody *body)
{
    int rc = 0;
    TRY(jrt_enter(rt));
    for (uint32_t i = 0; i < body->n && rc == 0; i++) rc = exec_stmt(rt, sc, body->v[i]);
    jrt_leave(rt);
    return rc;
}

/* ---- a rendering
 * ----------------------------------------------------------------------------------------------------------------------------
 */

/* What a variable adds to the default budget: its bytes, and 16 for each value. False where it is nested too deeply. */
static bool weigh(const struct json *j, unsigned depth, uint64_t *sum)
{
    if (depth > JSON_DEPTH_MAX + 16) return false;
    *sum += 16 + j->s.n;
    for (size_t i = 0; i < j->n; i++) {
        if (j->type == JSON_OBJECT) *sum += j->keys[i].n;
        if (!weigh(&j->v[i], depth + 1, sum)) return false;
    }
    return true;
}

/* Fills the globals: the functions, over them the variables, of each only what the template names. Conversion is paid for by
 * the caller's data, not by the template's fuel. */
static int bind_globals(struct jrt *rt, const struct json *vars, uint64_t *weight)
{
    const struct jinja *t = rt->t;
    rt->globals = jrt_array(rt, t->n_syms, sizeof *rt->globals);
    if (!rt->globals) return rt->rc;
    for (uint32_t i = 0; i < t->n_syms; i++) {
        const struct jbuiltin *fn = jglobal_find(t->syms[i].name);
        if (fn) rt->globals[i] = (struct jv){.kind = JK_FUNC, .u.fn = fn};
    }
    for (size_t i = 0; vars && i < vars->n; i++) {
        uint32_t sym = jinja_sym_find(t, vars->keys[i]);
        if (sym == UINT32_MAX) continue;
        if (!weigh(&vars->v[i], 0, weight))
            return JFAIL_CODE(rt, ERR_LIMIT, "the variable '%.*s' is nested too deeply", STR_ARG(vars->keys[i]));
        TRY(jv_from_json(rt, &vars->v[i], &rt->globals[sym]));
    }
    return 0;
}

static int render(struct jrt *rt, const struct json *vars, uint64_t fuel)
{
    uint64_t weight = 0;
    rt->fuel = UINT64_MAX;
    TRY(bind_globals(rt, vars, &weight));
    rt->fuel = fuel ? fuel : J_FUEL_DEFAULT + J_FUEL_PER_INPUT_BYTE * weight;
    struct jscope *root = scope_new(rt, NULL);
    return root ? exec_body(rt, root, &rt->t->body) : rt->rc;
}

int jinja_render(const struct jinja *t, const struct json *vars, int64_t now, const struct jinja_limits *limits,
                 struct buf *out, struct err *e)
{
    static const struct jinja_limits standard = {0};
    const struct jinja_limits *lim = limits ? limits : &standard;
    if (vars && vars->type != JSON_OBJECT) return fail(e, ERR_ARG, "the variables of a template must be a JSON object");
    unsigned depth = lim->depth ? lim->depth : 128;
    struct jrt rt = {
        .t = t,
        .e = e,
        .out = out,
        .out_base = out->n,
        .out_max = lim->output ? lim->output : (size_t)16 << 20,
        .memory_max = lim->memory ? lim->memory : (size_t)64 << 20,
        .depth_max = depth > UINT32_MAX / J_FRAMES_PER_DEPTH ? UINT32_MAX : depth * J_FRAMES_PER_DEPTH,
        .now = now,
    };
    int rc = render(&rt, vars, lim->fuel);
    arena_fini(&rt.arena);
    if (rc < 0) out->n = rt.out_base;
    return rc;
}
