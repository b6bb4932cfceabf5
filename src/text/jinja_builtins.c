/* jinja_builtins.c: how a built-in gets its arguments, and the tables of tests, global functions and methods (those of str are
 * in jinja_str.c).
 *
 * The sandbox is this file: a template reaches what has a row, nothing else. Methods that change their object are refused for
 * the data that dicts hold, as the sandbox of transformers does; those of lists are allowed, because published templates (tool
 * call queues) need them and every list of a rendering belongs to that rendering alone. */
#include "text/jinja_int.h"

#include <stdio.h>

const struct jbuiltin *jbuiltin_find(const struct jbuiltin *table, size_t n, struct str name)
{
    for (size_t i = 0; i < n; i++)
        if (name.n > 0 && table[i].name[0] == name.p[0] && str_is(name, table[i].name)) return &table[i];
    return NULL;
}

/* The next name of a signature: "old new count?" */
static bool sig_next(const char **sig, struct str *name, bool *optional)
{
    const char *p = *sig;
    while (*p == ' ') p++;
    *name = (struct str){p, 0};
    while (*p && *p != ' ' && *p != '?') p++;
    name->n = (size_t)(p - name->p);
    *optional = *p == '?';
    *sig = p + *optional;
    return name->n > 0;
}

static int bind(struct jrt *rt, struct jcall *c)
{
    const char *sig = c->def->sig;
    struct str name;
    bool optional;
    size_t n = 0, used_kw = 0;
    for (; sig_next(&sig, &name, &optional); n++) {
        c->a[n] = (struct jv){.kind = JK_ABSENT};
        if (n < c->n) c->a[n] = c->v[n];
        for (size_t i = 0; i < c->n_kw; i++) {
            if (!str_eq(jv_text(c->kw[i].name), name)) continue;
            if (jv_given(c->a[n]))
                return JFAIL(rt, "%s() got multiple values for argument '%.*s'", c->def->name, STR_ARG(name));
            c->a[n] = c->kw[i].val;
            used_kw++;
        }
        if (!optional && !jv_given(c->a[n]))
            return JFAIL(rt, "%s() missing required argument '%.*s'", c->def->name, STR_ARG(name));
    }
    if (c->n > n) return JFAIL(rt, "%s() takes at most %zu arguments (%zu given)", c->def->name, n, c->n);
    if (used_kw < c->n_kw) return JFAIL(rt, "%s() got an unexpected keyword argument", c->def->name);
    return 0;
}

int jcall_builtin(struct jrt *rt, const struct jbuiltin *def, struct jv self, const struct jcall *args, struct jv *out)
{
    struct jcall c = {.self = self, .n = args->n, .n_kw = args->n_kw, .v = args->v, .kw = args->kw, .def = def};
    TRY(jrt_spend(rt, J_COST_NODE));
    if (def->sig[0] != '*') TRY(bind(rt, &c));
    return def->fn(rt, &c, out);
}

/* ---- tests --------------------------------------------------------------------------------------------------------------- */

enum {
    IS_BOOLEAN,
    IS_CALLABLE,
    IS_DEFINED,
    IS_FALSE,
    IS_FLOAT,
    IS_INTEGER,
    IS_ITERABLE,
    IS_MAPPING,
    IS_NONE,
    IS_NUMBER,
    IS_SEQUENCE,
    IS_STRING,
    IS_TRUE,
    IS_UNDEFINED,
    IS_ESCAPED
};

static int t_kind(struct jrt *rt, struct jcall *c, struct jv *out)
{
    (void)rt;
    uint8_t k = c->self.kind;
    bool sequence = k == JK_UNDEF || k == JK_STR || k == JK_LIST || k == JK_TUPLE || k == JK_DICT || k == JK_RANGE;
    bool r = false;
    switch (c->def->arg) {
    case IS_BOOLEAN:
        r = k == JK_BOOL;
        break;
    case IS_CALLABLE:
        r = k == JK_UNDEF || k == JK_FUNC || k == JK_METHOD || k == JK_MACRO || k == JK_LOOP || k == JK_JOINER;
        break;
    case IS_DEFINED:
        r = k != JK_UNDEF;
        break;
    case IS_UNDEFINED:
        r = k == JK_UNDEF;
        break;
    case IS_FALSE:
        r = k == JK_BOOL && !c->self.u.b;
        break;
    case IS_TRUE:
        r = k == JK_BOOL && c->self.u.b;
        break;
    case IS_FLOAT:
        r = k == JK_FLOAT;
        break;
    case IS_INTEGER:
        r = k == JK_INT || k == JK_BIG;
        break;
    case IS_NUMBER:
        r = k == JK_BOOL || k == JK_INT || k == JK_FLOAT || k == JK_BIG;
        break;
    case IS_ITERABLE:
        r = sequence || k == JK_VIEW || k == JK_ITER || k == JK_LOOP;
        break;
    case IS_SEQUENCE:
        r = sequence;
        break;
    case IS_MAPPING:
        r = k == JK_DICT;
        break;
    case IS_NONE:
        r = k == JK_NONE;
        break;
    case IS_STRING:
        r = k == JK_STR;
        break;
    case IS_ESCAPED:
        r = k == JK_STR && c->self.safe;
        break;
    }
    *out = jv_bool(r);
    return 0;
}

static int t_compare(struct jrt *rt, struct jcall *c, struct jv *out)
{
    bool r = false;
    TRY(jv_compare(rt, (enum jop)c->def->arg, c->self, c->a[0], &r));
    *out = jv_bool(r);
    return 0;
}

static int divides(struct jrt *rt, struct jv v, struct jv by, int64_t want, struct jv *out)
{
    bool r = false;
    TRY(jv_binary(rt, JO_MOD, v, by, &v));
    TRY(jv_eq(rt, v, jv_int(want), &r));
    *out = jv_bool(r);
    return 0;
}

static int t_parity(struct jrt *rt, struct jcall *c, struct jv *out)
{
    return divides(rt, c->self, jv_int(2), c->def->arg, out);
}

static int t_divisibleby(struct jrt *rt, struct jcall *c, struct jv *out)
{
    return divides(rt, c->self, c->a[0], 0, out);
}

/* Identity: values without one (text, numbers) are the same when they are equal and of one type. */
static int t_sameas(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jv a = c->self, b = c->a[0];
    bool r = a.kind == b.kind;
    if (r && (a.kind == JK_STR || a.kind == JK_INT || a.kind == JK_FLOAT || a.kind == JK_BOOL))
        TRY(jv_eq(rt, a, b, &r));
    else if (r && a.kind != JK_NONE)
        r = a.u.list == b.u.list;
    *out = jv_bool(r);
    return 0;
}

static int t_str_case(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jv s;
    struct jcall none = {0};
    TRY(jv_str(rt, c->self, &s));
    return jcall_builtin(rt, jmethod_find(JK_STR, str_of(c->def->arg ? "isupper" : "islower")), s, &none, out);
}

static int t_named(struct jrt *rt, struct jcall *c, struct jv *out)
{
    (void)rt;
    bool known = c->self.kind == JK_STR && (c->def->arg ? jtest_find(jv_text(c->self)) : jfilter_find(jv_text(c->self)));
    *out = jv_bool(known);
    return 0;
}

static const struct jbuiltin tests[] = {
    {"!=", "other", t_compare, JO_NE},
    {"<", "other", t_compare, JO_LT},
    {"<=", "other", t_compare, JO_LE},
    {"==", "other", t_compare, JO_EQ},
    {">", "other", t_compare, JO_GT},
    {">=", "other", t_compare, JO_GE},
    {"boolean", "", t_kind, IS_BOOLEAN},
    {"callable", "", t_kind, IS_CALLABLE},
    {"defined", "", t_kind, IS_DEFINED},
    {"divisibleby", "num", t_divisibleby, 0},
    {"eq", "other", t_compare, JO_EQ},
    {"equalto", "other", t_compare, JO_EQ},
    {"escaped", "", t_kind, IS_ESCAPED},
    {"even", "", t_parity, 0},
    {"false", "", t_kind, IS_FALSE},
    {"filter", "", t_named, 0},
    {"float", "", t_kind, IS_FLOAT},
    {"ge", "other", t_compare, JO_GE},
    {"greaterthan", "other", t_compare, JO_GT},
    {"gt", "other", t_compare, JO_GT},
    {"in", "seq", t_compare, JO_IN},
    {"integer", "", t_kind, IS_INTEGER},
    {"iterable", "", t_kind, IS_ITERABLE},
    {"le", "other", t_compare, JO_LE},
    {"lessthan", "other", t_compare, JO_LT},
    {"lower", "", t_str_case, 0},
    {"lt", "other", t_compare, JO_LT},
    {"mapping", "", t_kind, IS_MAPPING},
    {"ne", "other", t_compare, JO_NE},
    {"none", "", t_kind, IS_NONE},
    {"number", "", t_kind, IS_NUMBER},
    {"odd", "", t_parity, 1},
    {"sameas", "other", t_sameas, 0},
    {"sequence", "", t_kind, IS_SEQUENCE},
    {"string", "", t_kind, IS_STRING},
    {"test", "", t_named, 1},
    {"true", "", t_kind, IS_TRUE},
    {"undefined", "", t_kind, IS_UNDEFINED},
    {"upper", "", t_str_case, 1},
};

const struct jbuiltin *jtest_find(struct str name)
{
    return jbuiltin_find(tests, COUNT_OF(tests), name);
}

/* ---- global functions
 * -------------------------------------------------------------------------------------------------------- */

/* The message is the whole text of the error: callers show it as the template's own words. */
static int g_raise_exception(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jv s;
    (void)out;
    TRY(jv_str(rt, c->a[0], &s));
    size_t room = rt->e ? sizeof rt->e->msg - 1 : 0, n = s.u.s->n;
    if (n > room) /* cut between characters */
        for (n = room; n > 0 && ((unsigned char)s.u.s->p[n] & 0xC0) == 0x80;) n--;
    return fail(rt->e, ERR_TEMPLATE, "%.*s", (int)n, s.u.s->p);
}

static int g_strftime_now(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct str format;
    size_t mark = jrt_mark(rt);
    TRY(jv_want_str(rt, c->a[0], "strftime_now", &format));
    TRY(jformat_time(rt, format, rt->now));
    return jrt_take(rt, mark, out);
}

/* dict(mapping or pairs, **more), also what namespace holds. */
static int g_dict(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jdict *d = jdict_new(rt);
    if (!d) return rt->rc;
    if (c->n > 1) return JFAIL(rt, "dict expected at most 1 argument, got %zu", c->n);
    if (c->n == 1) TRY(jdict_update(rt, d, c->v[0]));
    for (size_t i = 0; i < c->n_kw; i++) TRY(jdict_put(rt, d, c->kw[i].name, c->kw[i].val));
    *out = (struct jv){.kind = (uint8_t)c->def->arg, .u.dict = d};
    return 0;
}

static int g_range(struct jrt *rt, struct jcall *c, struct jv *out)
{
    enum { LONGEST = 100000 }; /* as jinja2's sandbox */
    const int64_t largest = (int64_t)1 << 60;
    int64_t v[3] = {0, 0, 1};
    if (c->n < 1 || c->n > 3 || c->n_kw > 0) return JFAIL(rt, "range expected 1 to 3 arguments, got %zu", c->n + c->n_kw);
    for (size_t i = 0; i < c->n; i++) {
        int64_t *slot = &v[c->n == 1 ? 1 : i];
        TRY(jv_want_int(rt, c->v[i], "range", slot));
        if (*slot > largest || *slot < -largest) return jv_overflow(rt, "range");
    }
    if (v[2] == 0) return JFAIL(rt, "range() arg 3 must not be zero");
    int64_t distance = v[2] > 0 ? v[1] - v[0] : v[0] - v[1], gap = v[2] > 0 ? v[2] : -v[2];
    int64_t n = distance <= 0 ? 0 : (distance - 1) / gap + 1;
    if (n > LONGEST)
        return JFAIL_CODE(rt, ERR_LIMIT, "Range too big. Ranges of more than %d elements are refused, this one has %lld",
                          LONGEST, (long long)n);
    struct jrange *r = jrt_alloc(rt, sizeof *r);
    if (!r) return rt->rc;
    *r = (struct jrange){.start = v[0], .step = v[2], .n = n, .stop = v[1]};
    *out = (struct jv){.kind = JK_RANGE, .u.range = r};
    return 0;
}

static int g_cycler(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jcycler *cycler = jrt_alloc(rt, sizeof *cycler);
    if (!cycler) return rt->rc;
    if (c->n == 0) return JFAIL(rt, "at least one item has to be provided");
    for (size_t i = 0; i < c->n; i++) TRY(jlist_put(rt, &cycler->items, c->v[i]));
    *out = (struct jv){.kind = JK_CYCLER, .u.cycler = cycler};
    return 0;
}

static int g_joiner(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jjoiner *joiner = jrt_alloc(rt, sizeof *joiner);
    if (!joiner) return rt->rc;
    joiner->sep = c->a[0];
    if (!jv_given(c->a[0])) TRY(jv_str_view(rt, ", ", 2, &joiner->sep));
    *out = (struct jv){.kind = JK_JOINER, .u.joiner = joiner};
    return 0;
}

static const struct jbuiltin globals[] = {
    {"cycler", "*", g_cycler, 0},
    {"dict", "*", g_dict, JK_DICT},
    {"joiner", "sep?", g_joiner, 0},
    {"namespace", "*", g_dict, JK_NS},
    {"range", "*", g_range, 0},
    {"raise_exception", "message", g_raise_exception, 0},
    {"strftime_now", "format", g_strftime_now, 0},
};

const struct jbuiltin *jglobal_find(struct str name)
{
    return jbuiltin_find(globals, COUNT_OF(globals), name);
}

/* ---- methods of lists and tuples
 * ------------------------------------------------------------------------------------------------ */

static int l_append(struct jrt *rt, struct jcall *c, struct jv *out)
{
    *out = jv_none();
    return jlist_put(rt, c->self.u.list, c->a[0]);
}

static int l_extend(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jlist *more;
    TRY(jlist_of(rt, c->a[0], &more));
    for (size_t i = 0; i < more->n; i++) TRY(jlist_put(rt, c->self.u.list, more->v[i]));
    *out = jv_none();
    return 0;
}

/* Takes element i out; the price is the move of those behind it. */
static int take_out(struct jrt *rt, struct jlist *l, size_t i)
{
    TRY(jrt_spend(rt, l->n - i));
    memmove(l->v + i, l->v + i + 1, (l->n - i - 1) * sizeof *l->v);
    l->n--;
    return 0;
}

static int l_pop(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jlist *l = c->self.u.list;
    int64_t i = -1;
    if (jv_given(c->a[0])) TRY(jv_want_int(rt, c->a[0], "pop", &i));
    if (l->n == 0) return JFAIL(rt, "pop from empty list");
    if (i < 0) i += (int64_t)l->n;
    if (i < 0 || i >= (int64_t)l->n) return JFAIL(rt, "pop index out of range");
    *out = l->v[i];
    return take_out(rt, l, (size_t)i);
}

static int l_insert(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jlist *l = c->self.u.list;
    int64_t i, n = (int64_t)l->n;
    TRY(jv_want_int(rt, c->a[0], "insert", &i));
    if (i < 0) i = i < -n ? 0 : i + n;
    if (i > n) i = n;
    TRY(jlist_reserve(rt, l, 1));
    TRY(jrt_spend(rt, (uint64_t)(n - i)));
    memmove(l->v + i + 1, l->v + i, (size_t)(n - i) * sizeof *l->v);
    l->v[i] = c->a[1];
    l->n++;
    *out = jv_none();
    return 0;
}

static int find_in_list(struct jrt *rt, struct jcall *c, size_t from, size_t to, size_t *at)
{
    const struct jlist *l = c->self.u.list;
    for (*at = from; *at < l->n && *at < to; (*at)++) {
        bool same;
        TRY(jv_eq(rt, l->v[*at], c->a[0], &same));
        if (same) return 1;
    }
    return 0;
}

static int l_index(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jv bound[3] = {jv_given(c->a[1]) ? c->a[1] : jv_none(), jv_given(c->a[2]) ? c->a[2] : jv_none(), jv_none()};
    struct jrange r;
    size_t at;
    TRY(jv_slice_range(rt, bound, (int64_t)c->self.u.list->n, &r));
    int found = find_in_list(rt, c, (size_t)r.start, (size_t)r.stop, &at);
    if (found < 0) return found;
    if (!found) return JFAIL(rt, "the value is not in the %s", jv_type_name(c->self.kind));
    *out = jv_int((int64_t)at);
    return 0;
}

static int l_remove(struct jrt *rt, struct jcall *c, struct jv *out)
{
    size_t at;
    int found = find_in_list(rt, c, 0, c->self.u.list->n, &at);
    if (found < 0) return found;
    if (!found) return JFAIL(rt, "list.remove(x): x not in list");
    *out = jv_none();
    return take_out(rt, c->self.u.list, at);
}

static int l_count(struct jrt *rt, struct jcall *c, struct jv *out)
{
    int64_t n = 0;
    for (size_t i = 0; i < c->self.u.list->n; i++) {
        bool same;
        TRY(jv_eq(rt, c->self.u.list->v[i], c->a[0], &same));
        n += same;
    }
    *out = jv_int(n);
    return 0;
}

static int l_reverse(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jlist *l = c->self.u.list;
    TRY(jrt_spend(rt, l->n));
    for (size_t i = 0, j = l->n; i + 1 < j; i++) {
        struct jv t = l->v[i];
        l->v[i] = l->v[--j];
        l->v[j] = t;
    }
    *out = jv_none();
    return 0;
}

static int l_copy(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jlist *l;
    TRY(jlist_of(rt, c->self, &l));
    *out = jv_list(l);
    return 0;
}

static int l_clear(struct jrt *rt, struct jcall *c, struct jv *out)
{
    (void)rt;
    c->self.u.list->n = 0;
    *out = jv_none();
    return 0;
}

static const struct jbuiltin list_methods[] = {
    {"append", "object", l_append, 0},
    {"clear", "", l_clear, 0},
    {"copy", "", l_copy, 0},
    {"count", "value", l_count, 0},
    {"extend", "iterable", l_extend, 0},
    {"index", "value start? stop?", l_index, 0},
    {"insert", "index object", l_insert, 0},
    {"pop", "index?", l_pop, 0},
    {"remove", "value", l_remove, 0},
    {"reverse", "", l_reverse, 0},
    {"sort", "", NULL, 0},
};

static const struct jbuiltin tuple_methods[] = {
    {"count", "value", l_count, 0},
    {"index", "value start? stop?", l_index, 0},
};

/* ---- methods of dicts and engine objects
 * -------------------------------------------------------------------------------------------- */

static int d_get(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jpair *e;
    TRY(jdict_find(rt, c->self.u.dict, c->a[0], &e));
    *out = e ? e->val : jv_given(c->a[1]) ? c->a[1] : jv_none();
    return 0;
}

static int d_view(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jview *v = jrt_alloc(rt, sizeof *v);
    if (!v) return rt->rc;
    *v = (struct jview){c->self.u.dict, (enum jview_of)c->def->arg};
    *out = (struct jv){.kind = JK_VIEW, .u.view = v};
    return 0;
}

static int d_copy(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jdict *d = jdict_new(rt);
    if (!d) return rt->rc;
    *out = (struct jv){.kind = JK_DICT, .u.dict = d};
    return jdict_update(rt, d, c->self);
}

static const struct jbuiltin dict_methods[] = {
    {"clear", "", NULL, 0},
    {"copy", "", d_copy, 0},
    {"fromkeys", "", NULL, 0},
    {"get", "key default?", d_get, 0},
    {"items", "", d_view, JVIEW_ITEMS},
    {"keys", "", d_view, JVIEW_KEYS},
    {"pop", "", NULL, 0},
    {"popitem", "", NULL, 0},
    {"setdefault", "", NULL, 0},
    {"update", "", NULL, 0},
    {"values", "", d_view, JVIEW_VALUES},
};

static int c_next(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jcycler *cycler = c->self.u.cycler;
    (void)rt;
    *out = cycler->items.v[cycler->pos];
    cycler->pos = (cycler->pos + 1) % cycler->items.n;
    return 0;
}

static int c_reset(struct jrt *rt, struct jcall *c, struct jv *out)
{
    (void)rt;
    c->self.u.cycler->pos = 0;
    *out = jv_none();
    return 0;
}

static const struct jbuiltin cycler_methods[] = {
    {"next", "", c_next, 0},
    {"reset", "", c_reset, 0},
};

static const struct jbuiltin loop_methods[] = {
    {"changed", "*", jloop_changed, 0},
    {"cycle", "*", jloop_cycle, 0},
};

const struct jbuiltin *jmethod_find(uint8_t kind, struct str name)
{
    switch ((enum jkind)kind) {
    case JK_STR:
        return jbuiltin_find(jstr_methods, jstr_n_methods, name);
    case JK_LIST:
        return jbuiltin_find(list_methods, COUNT_OF(list_methods), name);
    case JK_TUPLE:
        return jbuiltin_find(tuple_methods, COUNT_OF(tuple_methods), name);
    case JK_DICT:
        return jbuiltin_find(dict_methods, COUNT_OF(dict_methods), name);
    case JK_CYCLER:
        return jbuiltin_find(cycler_methods, COUNT_OF(cycler_methods), name);
    case JK_LOOP:
        return jbuiltin_find(loop_methods, COUNT_OF(loop_methods), name);
    default:
        return NULL;
    }
}
