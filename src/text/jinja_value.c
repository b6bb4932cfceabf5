/* jinja_value.c: Python's values and their operators: truth, length, equality, order, arithmetic, subscripts, slices,
 * attributes, iteration, str() and repr().
 *
 * Numbers are int64 and double. Where Python would go on with a big integer the operation fails and says so. Strings are
 * UTF-8; positions and lengths that templates see count code points, and a string remembers how many it has, so that ASCII
 * costs nothing. Dicts keep the order of insertion; a hash index (seeded, the keys are untrusted) appears with the ninth key.
 * Called by all other files of the engine. */
#include "text/jinja_int.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

static const char *const type_names[JK_N] = {
    [JK_ABSENT] = "missing", [JK_UNDEF] = "Undefined", [JK_NONE] = "NoneType", [JK_BOOL] = "bool",   [JK_INT] = "int",
    [JK_FLOAT] = "float",    [JK_BIG] = "int",         [JK_STR] = "str",       [JK_LIST] = "list",   [JK_TUPLE] = "tuple",
    [JK_DICT] = "dict",      [JK_VIEW] = "dict view",  [JK_RANGE] = "range",   [JK_SLICE] = "slice", [JK_ITER] = "generator",
    [JK_NS] = "namespace",   [JK_FUNC] = "function",   [JK_METHOD] = "method", [JK_MACRO] = "Macro", [JK_LOOP] = "LoopContext",
    [JK_CYCLER] = "Cycler",  [JK_JOINER] = "Joiner",
};

const char *jv_type_name(uint8_t kind)
{
    return kind < JK_N ? type_names[kind] : "?";
}

/* ---- undefined ------------------------------------------------------------------------------------------------ */

static struct jv undefined(enum jwhy why, uint8_t of, struct jv name)
{
    return (struct jv){.kind = JK_UNDEF, .why = (uint8_t)why, .of = of, .u.s = name.u.s};
}

int jv_hint(struct jrt *rt, const char *message, struct jv *out)
{
    TRY(jv_str_view(rt, message, strlen(message), out));
    *out = undefined(JU_HINT, JK_NONE, *out);
    return 0;
}

/* What jinja2's Undefined says when it is used. */
int jv_use_undefined(struct jrt *rt, struct jv v)
{
    const char *of = v.of == JK_NONE ? "None" : jv_type_name(v.of), *object = v.of == JK_NONE ? "" : " object";
    if (v.why == JU_ELEM) {
        size_t mark = jrt_mark(rt);
        struct jv key;
        TRY(jv_put_repr(rt, *v.u.arg));
        TRY(jrt_take(rt, mark, &key));
        return JFAIL(rt, "%s%s has no element %.*s", of, object, STR_ARG(jv_text(key)));
    }
    struct str name = {v.u.s->p, v.u.s->n};
    switch ((enum jwhy)v.why) {
    case JU_NAME:
        return JFAIL(rt, "'%.*s' is undefined", STR_ARG(name));
    case JU_UNSAFE:
        return JFAIL(rt, "access to attribute '%.*s' of '%s%s' is unsafe", STR_ARG(name), of, object);
    case JU_ATTR:
        return JFAIL(rt, "'%s%s' has no attribute '%.*s'", of, object, STR_ARG(name));
    default:
        return JFAIL(rt, "%.*s", STR_ARG(name));
    }
}

/* ---- strings ---------------------------------------------------------------------------------------------------- */

int jv_str_view(struct jrt *rt, const char *p, size_t n, struct jv *out)
{
    struct jstr *s = jrt_alloc(rt, sizeof *s);
    if (!s) return rt->rc;
    *s = (struct jstr){n ? p : "", n, JSTR_UNCOUNTED, NULL};
    *out = jv_of_str(s);
    return 0;
}

int jv_str_copy(struct jrt *rt, const char *p, size_t n, struct jv *out)
{
    char *copy = jrt_array(rt, n + 1, 1);
    if (!copy) return rt->rc;
    if (n > 0) memcpy(copy, p, n);
    return jv_str_view(rt, copy, n, out);
}

int jv_chars(struct jrt *rt, const struct jstr *s, size_t *out)
{
    if (s->chars == JSTR_UNCOUNTED) {
        TRY(jrt_spend(rt, 1 + s->n));
        size_t chars = 0;
        for (size_t at = 0; at < s->n; chars++) {
            uint32_t cp;
            at += jstr_next((struct str){s->p, s->n}, at, &cp);
        }
        ((struct jstr *)(uintptr_t)s)->chars = chars; /* never a constant: those are counted when compiled */
    }
    *out = s->chars;
    return 0;
}

int jv_byte_of(struct jrt *rt, const struct jstr *s, size_t chr, size_t *out)
{
    size_t chars, at = 0;
    TRY(jv_chars(rt, s, &chars));
    if (chars == s->n || chr >= chars) {
        *out = chr >= chars ? s->n : chr;
        return 0;
    }
    for (; chr > 0; chr--) {
        uint32_t cp;
        at += jstr_next((struct str){s->p, s->n}, at, &cp);
    }
    *out = at;
    return jrt_spend(rt, 1 + at);
}

int jv_substr(struct jrt *rt, struct jv s, size_t from, size_t to, struct jv *out)
{
    bool safe = s.safe;
    if (from == 0 && to == s.u.s->n) {
        *out = s;
        return 0;
    }
    size_t n = to > from ? to - from : 0;
    struct jstr *sub = jrt_alloc(rt, sizeof *sub);
    if (!sub) return rt->rc;
    *sub = (struct jstr){n ? s.u.s->p + from : "", n, s.u.s->chars == s.u.s->n ? n : JSTR_UNCOUNTED, NULL};
    *out = jv_of_str(sub);
    out->safe = safe;
    return 0;
}

/* a followed by b. A string that was itself made by appending has room behind it, so building a text piece by piece takes
 * linear time and memory. */
static int append(struct jrt *rt, struct str a, struct jgrow *grow, struct str b, struct jv *out)
{
    enum { GROW_FROM = 64 };
    size_t n;
    if (!size_add(a.n, b.n, &n)) return jrt_limit(rt);
    if (grow && a.p + a.n == grow->p + grow->used && grow->cap - grow->used >= b.n) {
        TRY(jrt_spend(rt, b.n));
    } else {
        size_t cap = grow ? n + n / 2 : n;
        char *p = jrt_array(rt, cap + 1, 1);
        if (!p) return rt->rc;
        if (a.n > 0) memcpy(p, a.p, a.n);
        grow = NULL;
        if (n >= GROW_FROM) {
            grow = jrt_alloc(rt, sizeof *grow);
            if (!grow) return rt->rc;
            *grow = (struct jgrow){p, a.n, cap};
        }
        a.p = p;
    }
    if (b.n > 0) memcpy((char *)(uintptr_t)a.p + a.n, b.p, b.n);
    if (grow) grow->used = n;
    TRY(jv_str_view(rt, a.p, n, out));
    ((struct jstr *)(uintptr_t)out->u.s)->grow = grow;
    return 0;
}

int jv_concat(struct jrt *rt, struct jv a, struct jv b, struct jv *out)
{
    bool safe = a.safe || b.safe;
    if (safe) {
        TRY(jv_escape(rt, a, &a));
        TRY(jv_escape(rt, b, &b));
    }
    TRY(append(rt, jv_text(a), a.u.s->grow, jv_text(b), out));
    out->safe = safe;
    return 0;
}

int jv_find(struct jrt *rt, struct str hay, struct str needle, size_t from, size_t *at)
{
    *at = SIZE_MAX;
    if (from > hay.n || needle.n > hay.n - from) return 0;
    if (needle.n == 0) {
        *at = from;
        return 0;
    }
    size_t last = hay.n - needle.n;
    for (size_t i = from; i <= last;) {
        const char *hit = memchr(hay.p + i, needle.p[0], last - i + 1);
        size_t stop = hit ? (size_t)(hit - hay.p) : last + 1;
        TRY(jrt_spend_bytes(rt, stop - i + (hit ? needle.n : 0)));
        if (!hit) return 0;
        if (memcmp(hit, needle.p, needle.n) == 0) {
            *at = stop;
            return 0;
        }
        i = stop + 1;
    }
    return 0;
}

/* ---- lists ---------------------------------------------------------------------------------------------------------- */

struct jlist *jlist_new(struct jrt *rt, size_t cap)
{
    struct jlist *l = jrt_alloc(rt, sizeof *l);
    if (!l || cap == 0) return l;
    l->v = jrt_array(rt, cap, sizeof *l->v);
    if (!l->v) return NULL;
    l->cap = cap;
    return l;
}

int jlist_reserve(struct jrt *rt, struct jlist *l, size_t extra)
{
    if (extra <= l->cap - l->n) return 0;
    size_t cap;
    if (!size_add(l->n, size_max(extra, l->n), &cap)) return jrt_limit(rt);
    cap = size_max(cap, 4);
    struct jv *v = jrt_array(rt, cap, sizeof *v);
    if (!v) return rt->rc;
    if (l->n > 0) memcpy(v, l->v, l->n * sizeof *v);
    l->v = v;
    l->cap = cap;
    return 0;
}

int jlist_put(struct jrt *rt, struct jlist *l, struct jv v)
{
    TRY(jlist_reserve(rt, l, 1));
    l->v[l->n++] = v;
    return 0;
}

int jlist_of(struct jrt *rt, struct jv iterable, struct jlist **out)
{
    struct jiter *it;
    struct jv v;
    int64_t n;
    TRY(jv_iter(rt, iterable, &it));
    TRY(jv_len(rt, iterable, &n));
    *out = jlist_new(rt, n > 0 ? (size_t)n : 0);
    if (!*out) return rt->rc;
    for (;;) {
        int more = jiter_next(rt, it, &v);
        if (more <= 0) return more;
        TRY(jlist_put(rt, *out, v));
    }
}

int jv_pair(struct jrt *rt, struct jv a, struct jv b, struct jv *out)
{
    struct jlist *l = jlist_new(rt, 2);
    if (!l) return rt->rc;
    l->v[0] = a;
    l->v[1] = b;
    l->n = 2;
    *out = jv_tuple(l);
    return 0;
}

int jv_iter_of(struct jrt *rt, struct jlist *l, struct jv *out)
{
    struct jiter *it = jrt_alloc(rt, sizeof *it);
    if (!it) return rt->rc;
    *it = (struct jiter){.mode = JI_LIST, .u.list = l};
    *out = (struct jv){.kind = JK_ITER, .u.iter = it};
    return 0;
}

/* ---- dicts ------------------------------------------------------------------------------------------------------------ */

enum { INDEX_FROM = 9 };

struct jdict *jdict_new(struct jrt *rt)
{
    return jrt_alloc(rt, sizeof(struct jdict));
}

int jv_hash(struct jrt *rt, struct jv v, uint64_t *out)
{
    struct {
        uint64_t tag, value;
    } key = {0, 0};
    TRY(jrt_spend(rt, J_COST_NODE));
    switch ((enum jkind)v.kind) {
    case JK_STR:
    case JK_BIG:
        TRY(jrt_spend_bytes(rt, v.u.s->n));
        *out = str_hash(jv_text(v));
        return 0;
    case JK_BOOL:
        key.value = v.u.b;
        break;
    case JK_INT:
        key.value = (uint64_t)v.u.i;
        break;
    case JK_FLOAT: /* equal numbers have equal hashes */
        if (v.u.f >= -9223372036854775808.0 && v.u.f < 9223372036854775808.0 && floor(v.u.f) == v.u.f) {
            key.value = (uint64_t)(int64_t)v.u.f;
        } else {
            key.tag = 1;
            memcpy(&key.value, &v.u.f, sizeof key.value);
        }
        break;
    case JK_NONE:
    case JK_UNDEF:
        key.tag = (uint64_t)v.kind + 2;
        break;
    case JK_TUPLE:
        key.tag = 3;
        TRY(jrt_enter(rt));
        for (size_t i = 0; i < v.u.list->n; i++) {
            uint64_t h;
            TRY(jv_hash(rt, v.u.list->v[i], &h));
            key.value = (key.value ^ h) * 0x9E3779B97F4A7C15u;
        }
        jrt_leave(rt);
        break;
    case JK_LIST:
    case JK_DICT:
        return JFAIL(rt, "unhashable type: '%s'", jv_type_name(v.kind));
    default:
        key.tag = 4;
        key.value = (uint64_t)(uintptr_t)v.u.list;
        break;
    }
    *out = str_hash((struct str){(const char *)&key, sizeof key});
    return 0;
}

/* The slot of the index that holds the key, or the empty one where it would go. */
static int dict_slot(struct jrt *rt, const struct jdict *d, struct jv key, uint64_t hash, size_t *slot)
{
    size_t mask = d->index_cap - 1, at = (size_t)hash & mask;
    for (; d->index[at]; at = (at + 1) & mask) {
        const struct jpair *e = &d->e[d->index[at] - 1];
        bool same = false;
        if (e->hash == hash) TRY(jv_eq(rt, e->key, key, &same));
        if (same) break;
    }
    *slot = at;
    return 0;
}

static int dict_find_hashed(struct jrt *rt, const struct jdict *d, struct jv key, uint64_t hash, struct jpair **out)
{
    *out = NULL;
    if (d->index) {
        size_t slot;
        TRY(dict_slot(rt, d, key, hash, &slot));
        if (d->index[slot]) *out = &d->e[d->index[slot] - 1];
        return 0;
    }
    for (size_t i = 0; i < d->n; i++) {
        bool same = false;
        if (d->e[i].hash == hash) TRY(jv_eq(rt, d->e[i].key, key, &same));
        if (!same) continue;
        *out = &d->e[i];
        return 0;
    }
    return 0;
}

int jdict_find(struct jrt *rt, const struct jdict *d, struct jv key, struct jpair **out)
{
    uint64_t hash;
    TRY(jv_hash(rt, key, &hash));
    return dict_find_hashed(rt, d, key, hash, out);
}

static int dict_grow(struct jrt *rt, struct jdict *d)
{
    if (d->n == d->cap) {
        size_t cap = d->cap ? d->cap * 2 : 4;
        struct jpair *e = jrt_array(rt, cap, sizeof *e);
        if (!e) return rt->rc;
        if (d->n > 0) memcpy(e, d->e, d->n * sizeof *e);
        d->e = e;
        d->cap = cap;
    }
    if (d->n + 1 < INDEX_FROM || (d->n + 1) * 2 <= d->index_cap) return 0;
    if (d->n >= UINT32_MAX / 4) return jrt_limit(rt);
    size_t cap = d->index_cap ? d->index_cap * 2 : 32;
    uint32_t *index = jrt_array(rt, cap, sizeof *index);
    if (!index) return rt->rc;
    d->index = index;
    d->index_cap = cap;
    for (size_t i = 0; i < d->n; i++) { /* all keys differ: the first empty slot is the right one */
        size_t at = (size_t)d->e[i].hash & (cap - 1);
        while (index[at]) at = (at + 1) & (cap - 1);
        index[at] = (uint32_t)i + 1;
    }
    return 0;
}

int jdict_put(struct jrt *rt, struct jdict *d, struct jv key, struct jv val)
{
    struct jpair *e;
    uint64_t hash;
    TRY(jv_hash(rt, key, &hash));
    TRY(dict_find_hashed(rt, d, key, hash, &e));
    if (e) {
        e->val = val;
        return 0;
    }
    TRY(dict_grow(rt, d));
    if (d->index) {
        size_t slot;
        TRY(dict_slot(rt, d, key, hash, &slot));
        d->index[slot] = (uint32_t)d->n + 1;
    }
    d->e[d->n++] = (struct jpair){key, val, hash};
    return 0;
}

int jdict_update(struct jrt *rt, struct jdict *d, struct jv from)
{
    struct jiter *it;
    struct jv v;
    if (from.kind == JK_DICT) {
        for (size_t i = 0; i < from.u.dict->n; i++) TRY(jdict_put(rt, d, from.u.dict->e[i].key, from.u.dict->e[i].val));
        return 0;
    }
    TRY(jv_iter(rt, from, &it));
    for (;;) {
        struct jlist *pair;
        int more = jiter_next(rt, it, &v);
        if (more <= 0) return more;
        TRY(jlist_of(rt, v, &pair));
        if (pair->n != 2) return JFAIL(rt, "dictionary update sequence element has length %zu; 2 is required", pair->n);
        TRY(jdict_put(rt, d, pair->v[0], pair->v[1]));
    }
}

/* ---- truth, length, numbers ---------------------------------------------------------------------------------------- */

bool jv_truth(struct jv v)
{
    switch ((enum jkind)v.kind) {
    case JK_ABSENT:
    case JK_UNDEF:
    case JK_NONE:
        return false;
    case JK_BOOL:
        return v.u.b;
    case JK_INT:
        return v.u.i != 0;
    case JK_FLOAT:
        return v.u.f != 0;
    case JK_STR:
        return v.u.s->n > 0;
    case JK_LIST:
    case JK_TUPLE:
        return v.u.list->n > 0;
    case JK_DICT:
        return v.u.dict->n > 0;
    case JK_VIEW:
        return v.u.view->dict->n > 0;
    case JK_RANGE:
        return v.u.range->n > 0;
    default:
        return true;
    }
}

int jv_len(struct jrt *rt, struct jv v, int64_t *out)
{
    size_t n;
    switch ((enum jkind)v.kind) {
    case JK_UNDEF:
        n = 0;
        break;
    case JK_STR:
        TRY(jv_chars(rt, v.u.s, &n));
        break;
    case JK_LIST:
    case JK_TUPLE:
        n = v.u.list->n;
        break;
    case JK_DICT:
        n = v.u.dict->n;
        break;
    case JK_VIEW:
        n = v.u.view->dict->n;
        break;
    case JK_RANGE:
        *out = v.u.range->n;
        return 0;
    default:
        *out = -1;
        return 0;
    }
    *out = (int64_t)n;
    return 0;
}

static bool is_int(struct jv v, int64_t *i)
{
    if (v.kind == JK_BOOL) {
        *i = v.u.b;
        return true;
    }
    if (v.kind == JK_INT) *i = v.u.i;
    return v.kind == JK_INT;
}

bool jv_number(struct jv v, double *f)
{
    int64_t i;
    if (v.kind == JK_FLOAT)
        *f = v.u.f;
    else if (is_int(v, &i))
        *f = (double)i;
    else
        return false;
    return true;
}

int jv_want_int(struct jrt *rt, struct jv v, const char *what, int64_t *out)
{
    if (is_int(v, out)) return 0;
    if (v.kind == JK_UNDEF) return jv_use_undefined(rt, v);
    if (v.kind == JK_BIG) return jv_overflow(rt, what);
    return JFAIL(rt, "%s: expected an integer, got '%s'", what, jv_type_name(v.kind));
}

int jv_want_str(struct jrt *rt, struct jv v, const char *what, struct str *out)
{
    if (v.kind == JK_UNDEF) return jv_use_undefined(rt, v);
    if (v.kind != JK_STR) return JFAIL(rt, "%s: expected a string, got '%s'", what, jv_type_name(v.kind));
    *out = jv_text(v);
    return 0;
}

int jv_overflow(struct jrt *rt, const char *op)
{
    return JFAIL_CODE(rt, ERR_UNSUPPORTED, "%s: the result is beyond 64 bits (Python's big integers are not supported)", op);
}

/* ---- equality and order ---------------------------------------------------------------------------------------------- */

/* -1, 0, 1; 2 where one is not a number (NaN). An int and a double are compared exactly. */
static int order_numbers(struct jv a, struct jv b)
{
    int64_t i, j;
    double f, g;
    bool ia = is_int(a, &i), ib = is_int(b, &j);
    if (ia && ib) return (i > j) - (i < j);
    if (!ia && !ib) {
        f = a.u.f;
        g = b.u.f;
        return f != f || g != g ? 2 : (f > g) - (f < g);
    }
    if (!ia) {
        int r = order_numbers(b, a);
        return r == 2 ? 2 : -r;
    }
    g = b.u.f;
    if (g != g) return 2;
    if (g >= 9223372036854775808.0) return -1;
    if (g < -9223372036854775808.0) return 1;
    j = (int64_t)g; /* towards zero */
    if (i != j) return i > j ? 1 : -1;
    f = g - (double)j;
    return (f < 0) - (f > 0);
}

static bool is_number(struct jv v)
{
    return v.kind == JK_BOOL || v.kind == JK_INT || v.kind == JK_FLOAT;
}

static int eq_lists(struct jrt *rt, const struct jlist *a, const struct jlist *b, bool *out)
{
    *out = a == b;
    if (a == b || a->n != b->n) return 0;
    TRY(jrt_enter(rt));
    *out = true;
    for (size_t i = 0; *out && i < a->n && i < b->n; i++) TRY(jv_eq(rt, a->v[i], b->v[i], out));
    jrt_leave(rt);
    return 0;
}

static int eq_dicts(struct jrt *rt, const struct jdict *a, const struct jdict *b, bool *out)
{
    *out = a == b;
    if (a == b || a->n != b->n) return 0;
    TRY(jrt_enter(rt));
    *out = true;
    for (size_t i = 0; *out && i < a->n; i++) {
        struct jpair *e;
        TRY(dict_find_hashed(rt, b, a->e[i].key, a->e[i].hash, &e));
        *out = e != NULL;
        if (e) TRY(jv_eq(rt, a->e[i].val, e->val, out));
    }
    jrt_leave(rt);
    return 0;
}

int jv_eq(struct jrt *rt, struct jv a, struct jv b, bool *out)
{
    TRY(jrt_spend(rt, J_COST_NODE));
    if (is_number(a) && is_number(b)) {
        *out = order_numbers(a, b) == 0;
        return 0;
    }
    *out = false;
    if (a.kind != b.kind) return 0;
    switch ((enum jkind)a.kind) {
    case JK_NONE:
    case JK_ABSENT:
    case JK_UNDEF:
        *out = true;
        return 0;
    case JK_STR:
    case JK_BIG:
        *out = a.u.s == b.u.s;
        if (*out || a.u.s->n != b.u.s->n) return 0;
        TRY(jrt_spend_bytes(rt, a.u.s->n));
        *out = str_eq(jv_text(a), jv_text(b));
        return 0;
    case JK_LIST:
    case JK_TUPLE:
        return eq_lists(rt, a.u.list, b.u.list, out);
    case JK_DICT:
        return eq_dicts(rt, a.u.dict, b.u.dict, out);
    case JK_RANGE:
        *out = a.u.range->n == b.u.range->n &&
               (a.u.range->n == 0 ||
                (a.u.range->start == b.u.range->start && (a.u.range->n == 1 || a.u.range->step == b.u.range->step)));
        return 0;
    case JK_METHOD:
        *out = a.u.method->fn == b.u.method->fn && a.u.method->self.u.list == b.u.method->self.u.list;
        return 0;
    default:
        *out = a.u.list == b.u.list;
        return 0;
    }
}

static const char *op_text(enum jop op)
{
    static const char *const text[] = {
        [JO_ADD] = "+",           [JO_SUB] = "-", [JO_MUL] = "*",        [JO_DIV] = "/", [JO_FLOORDIV] = "//", [JO_MOD] = "%",
        [JO_POW] = "** or pow()", [JO_EQ] = "==", [JO_NE] = "!=",        [JO_LT] = "<",  [JO_LE] = "<=",       [JO_GT] = ">",
        [JO_GE] = ">=",           [JO_IN] = "in", [JO_NOT_IN] = "not in"};
    return text[op];
}

/* One of < <= > >=. */
static int order(struct jrt *rt, enum jop op, struct jv a, struct jv b, bool *out)
{
    int r;
    TRY(jrt_spend(rt, J_COST_NODE));
    if (is_number(a) && is_number(b)) {
        r = order_numbers(a, b);
        if (r == 2) {
            *out = false;
            return 0;
        }
    } else if (a.kind == JK_STR && b.kind == JK_STR) {
        TRY(jrt_spend_bytes(rt, size_min(a.u.s->n, b.u.s->n)));
        r = str_cmp(jv_text(a), jv_text(b)); /* the order of UTF-8 bytes is that of code points */
    } else if (a.kind == b.kind && (a.kind == JK_LIST || a.kind == JK_TUPLE)) {
        const struct jlist *x = a.u.list, *y = b.u.list;
        size_t i = 0;
        bool same = true;
        TRY(jrt_enter(rt));
        for (; i < x->n && i < y->n; i++) {
            TRY(jv_eq(rt, x->v[i], y->v[i], &same));
            if (!same) break;
        }
        int rc = same ? 0 : order(rt, op, x->v[i], y->v[i], out);
        jrt_leave(rt);
        if (rc < 0 || !same) return rc;
        r = (x->n > y->n) - (x->n < y->n);
    } else {
        if (a.kind == JK_UNDEF) return jv_use_undefined(rt, a);
        if (b.kind == JK_UNDEF) return jv_use_undefined(rt, b);
        return JFAIL(rt, "'%s' not supported between instances of '%s' and '%s'", op_text(op), jv_type_name(a.kind),
                     jv_type_name(b.kind));
    }
    *out = op == JO_LT ? r < 0 : op == JO_LE ? r <= 0 : op == JO_GT ? r > 0 : r >= 0;
    return 0;
}

int jv_less(struct jrt *rt, struct jv a, struct jv b, bool *out)
{
    return order(rt, JO_LT, a, b, out);
}

static int contains(struct jrt *rt, struct jv box, struct jv v, bool *out)
{
    *out = false;
    if (box.kind == JK_STR) {
        size_t at;
        if (v.kind == JK_UNDEF) return jv_use_undefined(rt, v);
        if (v.kind != JK_STR) return JFAIL(rt, "'in <string>' requires string as left operand, not %s", jv_type_name(v.kind));
        TRY(jv_find(rt, jv_text(box), jv_text(v), 0, &at));
        *out = at != SIZE_MAX;
        return 0;
    }
    if (box.kind == JK_DICT || (box.kind == JK_VIEW && box.u.view->of == JVIEW_KEYS)) {
        struct jpair *e;
        TRY(jdict_find(rt, box.kind == JK_DICT ? box.u.dict : box.u.view->dict, v, &e));
        *out = e != NULL;
        return 0;
    }
    struct jiter *it;
    struct jv x;
    if (box.kind != JK_UNDEF && box.kind < JK_STR)
        return JFAIL(rt, "argument of type '%s' is not iterable", jv_type_name(box.kind));
    TRY(jv_iter(rt, box, &it));
    for (;;) {
        int more = jiter_next(rt, it, &x);
        if (more <= 0) return more;
        TRY(jv_eq(rt, x, v, out));
        if (*out) return 0;
    }
}

int jv_compare(struct jrt *rt, enum jop op, struct jv a, struct jv b, bool *out)
{
    if (op == JO_EQ || op == JO_NE) {
        TRY(jv_eq(rt, a, b, out));
        *out ^= op == JO_NE;
        return 0;
    }
    if (op == JO_IN || op == JO_NOT_IN) {
        TRY(contains(rt, b, a, out));
        *out ^= op == JO_NOT_IN;
        return 0;
    }
    return order(rt, op, a, b, out);
}

/* Merge sort from the bottom up: stable, and a comparison may fail. */
int jv_sort(struct jrt *rt, struct jv *keys, struct jv *vals, size_t n, bool reverse)
{
    struct jv *k2 = jrt_array(rt, n, sizeof *k2), *v2 = jrt_array(rt, n, sizeof *v2);
    if (!k2 || !v2) return rt->rc;
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * width) {
            size_t mid = size_min(lo + width, n), hi = size_min(lo + 2 * width, n), a = lo, b = mid;
            for (size_t i = lo; i < hi; i++) {
                bool right = a == mid;
                if (!right && b < hi)
                    TRY(reverse ? jv_less(rt, keys[a], keys[b], &right) : jv_less(rt, keys[b], keys[a], &right));
                size_t from = right ? b++ : a++;
                k2[i] = keys[from];
                v2[i] = vals[from];
            }
        }
        TRY(jrt_spend(rt, n));
        memcpy(keys, k2, n * sizeof *keys);
        memcpy(vals, v2, n * sizeof *vals);
    }
    return 0;
}

/* ---- arithmetic --------------------------------------------------------------------------------------------------------- */

static int int_power(struct jrt *rt, int64_t base, int64_t exp, int64_t *out)
{
    int64_t r = 1;
    while (exp > 0) {
        if ((exp & 1) && __builtin_mul_overflow(r, base, &r)) return jv_overflow(rt, "**");
        exp >>= 1;
        if (exp > 0 && __builtin_mul_overflow(base, base, &base)) return jv_overflow(rt, "**");
    }
    *out = r;
    return 0;
}

static int int_binary(struct jrt *rt, enum jop op, int64_t a, int64_t b, struct jv *out)
{
    int64_t r = 0;
    bool over = false;
    switch (op) {
    case JO_ADD:
        over = __builtin_add_overflow(a, b, &r);
        break;
    case JO_SUB:
        over = __builtin_sub_overflow(a, b, &r);
        break;
    case JO_MUL:
        over = __builtin_mul_overflow(a, b, &r);
        break;
    case JO_POW:
        TRY(int_power(rt, a, b, &r));
        break;
    default:
        if (b == 0) return JFAIL(rt, "integer division or modulo by zero");
        if (b == -1) { /* INT64_MIN / -1 does not fit */
            over = op == JO_FLOORDIV && __builtin_sub_overflow((int64_t)0, a, &r);
            break;
        }
        r = op == JO_FLOORDIV ? a / b : a % b;
        if (a % b != 0 && (a < 0) != (b < 0)) r += op == JO_FLOORDIV ? -1 : b;
        break;
    }
    if (over) return jv_overflow(rt, op_text(op));
    *out = jv_int(r);
    return 0;
}

/* The quotient and remainder with the sign of the divisor. */
static void float_divmod(double a, double b, double *quot, double *rem)
{
    double m = fmod(a, b), q = (a - m) / b;
    if (m != 0) {
        if ((b < 0) != (m < 0)) {
            m += b;
            q -= 1.0;
        }
    } else {
        m = copysign(0.0, b);
    }
    double whole = floor(q);
    if (q - whole > 0.5) whole += 1.0;
    *quot = q != 0 ? whole : copysign(0.0, a / b);
    *rem = m;
}

static int float_binary(struct jrt *rt, enum jop op, double a, double b, struct jv *out)
{
    double r = 0, rem;
    switch (op) {
    case JO_ADD:
        r = a + b;
        break;
    case JO_SUB:
        r = a - b;
        break;
    case JO_MUL:
        r = a * b;
        break;
    case JO_POW:
        if (a == 0 && b < 0) return JFAIL(rt, "0.0 cannot be raised to a negative power");
        if (a < 0 && floor(b) != b) return JFAIL(rt, "** of a negative number and a fraction is a complex number");
        r = pow(a, b);
        if (isinf(r) && !isinf(a) && !isinf(b)) return JFAIL(rt, "the result of ** is too large");
        break;
    case JO_DIV:
        if (b == 0) return JFAIL(rt, "division by zero");
        r = a / b;
        break;
    default:
        if (b == 0) return JFAIL(rt, op == JO_MOD ? "float modulo" : "float floor division by zero");
        float_divmod(a, b, &r, &rem);
        if (op == JO_MOD) r = rem;
        break;
    }
    *out = jv_float(r);
    return 0;
}

static int repeat(struct jrt *rt, struct jv seq, int64_t times, struct jv *out)
{
    uint64_t n = times > 0 ? (uint64_t)times : 0;
    if (seq.kind == JK_STR) {
        size_t mark = jrt_mark(rt);
        bool safe = seq.safe;
        TRY(jrt_put_fill(rt, jv_text(seq), n));
        TRY(jrt_take(rt, mark, out));
        out->safe = safe;
        return 0;
    }
    uint64_t total;
    if (!u64_mul(n, seq.u.list->n, &total) || total > SIZE_MAX / sizeof(struct jv)) return jrt_limit(rt);
    struct jlist *l = jlist_new(rt, (size_t)total);
    if (!l) return rt->rc;
    for (l->n = 0; l->n < total; l->n += seq.u.list->n) memcpy(l->v + l->n, seq.u.list->v, seq.u.list->n * sizeof *l->v);
    *out = (struct jv){.kind = seq.kind, .u.list = l};
    return 0;
}

static int add_lists(struct jrt *rt, struct jv a, struct jv b, struct jv *out)
{
    size_t na = a.u.list->n, nb = b.u.list->n;
    struct jlist *l = jlist_new(rt, na + nb);
    if (!l) return rt->rc;
    if (na > 0) memcpy(l->v, a.u.list->v, na * sizeof *l->v);
    if (nb > 0) memcpy(l->v + na, b.u.list->v, nb * sizeof *l->v);
    l->n = na + nb;
    *out = (struct jv){.kind = a.kind, .u.list = l};
    return 0;
}

static bool is_sequence(struct jv v)
{
    return v.kind == JK_STR || v.kind == JK_LIST || v.kind == JK_TUPLE;
}

int jv_binary(struct jrt *rt, enum jop op, struct jv a, struct jv b, struct jv *out)
{
    int64_t i, j;
    double f, g;
    if (is_int(a, &i) && is_int(b, &j) && op != JO_DIV && !(op == JO_POW && j < 0)) return int_binary(rt, op, i, j, out);
    if (jv_number(a, &f) && jv_number(b, &g)) return float_binary(rt, op, f, g, out);
    if (op == JO_MOD && a.kind == JK_STR) return jformat_percent(rt, a, b, out);
    if (a.kind == JK_UNDEF) return jv_use_undefined(rt, a);
    if (b.kind == JK_UNDEF) return jv_use_undefined(rt, b);
    if (op == JO_ADD && a.kind == JK_STR && b.kind == JK_STR) return jv_concat(rt, a, b, out);
    if (op == JO_ADD && a.kind == b.kind && is_sequence(a)) return add_lists(rt, a, b, out);
    if (op == JO_MUL && is_sequence(a) && is_int(b, &j)) return repeat(rt, a, j, out);
    if (op == JO_MUL && is_sequence(b) && is_int(a, &i)) return repeat(rt, b, i, out);
    if (op == JO_ADD && is_sequence(a))
        return JFAIL(rt, "can only concatenate %s (not \"%s\") to %s", jv_type_name(a.kind), jv_type_name(b.kind),
                     jv_type_name(a.kind));
    if (a.kind == JK_BIG || b.kind == JK_BIG) return jv_overflow(rt, op_text(op));
    return JFAIL(rt, "unsupported operand type(s) for %s: '%s' and '%s'", op_text(op), jv_type_name(a.kind),
                 jv_type_name(b.kind));
}

int jv_negate(struct jrt *rt, struct jv v, bool minus, struct jv *out)
{
    int64_t i;
    if (v.kind == JK_UNDEF) return jv_use_undefined(rt, v);
    if (v.kind == JK_FLOAT) {
        *out = jv_float(minus ? -v.u.f : v.u.f);
        return 0;
    }
    if (!is_int(v, &i)) return JFAIL(rt, "bad operand type for unary %c: '%s'", minus ? '-' : '+', jv_type_name(v.kind));
    if (minus && __builtin_sub_overflow((int64_t)0, i, &i)) return jv_overflow(rt, "-");
    *out = jv_int(i);
    return 0;
}

/* ---- iteration -------------------------------------------------------------------------------------------------------------
 */

int jv_iter(struct jrt *rt, struct jv v, struct jiter **out)
{
    static const enum jiter_mode view_mode[] = {JI_KEYS, JI_VALUES, JI_ITEMS};
    struct jiter it = {.mode = JI_EMPTY};
    switch ((enum jkind)v.kind) {
    case JK_ITER:
        *out = v.u.iter;
        return 0;
    case JK_UNDEF:
        break;
    case JK_STR:
        it = (struct jiter){.mode = JI_STR, .u.str = v.u.s};
        break;
    case JK_LIST:
    case JK_TUPLE:
        it = (struct jiter){.mode = JI_LIST, .u.list = v.u.list};
        break;
    case JK_RANGE:
        it = (struct jiter){.mode = JI_RANGE, .u.range = v.u.range};
        break;
    case JK_DICT:
        it = (struct jiter){.mode = JI_KEYS, .u.dict = v.u.dict};
        break;
    case JK_VIEW:
        it = (struct jiter){.mode = view_mode[v.u.view->of], .u.dict = v.u.view->dict};
        break;
    default:
        return JFAIL(rt, "'%s' object is not iterable", jv_type_name(v.kind));
    }
    *out = jrt_alloc(rt, sizeof **out);
    if (!*out) return rt->rc;
    **out = it;
    return 0;
}

int jiter_next(struct jrt *rt, struct jiter *it, struct jv *out)
{
    TRY(jrt_spend(rt, J_COST_NODE));
    size_t at = it->pos;
    switch (it->mode) {
    case JI_EMPTY:
        return 0;
    case JI_LIST:
        if (at >= it->u.list->n) return 0;
        *out = it->u.list->v[at];
        break;
    case JI_STR: {
        uint32_t cp;
        if (at >= it->u.str->n) return 0;
        size_t k = jstr_next((struct str){it->u.str->p, it->u.str->n}, at, &cp);
        TRY(jv_str_view(rt, it->u.str->p + at, k, out));
        it->pos += k;
        return 1;
    }
    case JI_RANGE:
        if (at >= (uint64_t)it->u.range->n) return 0;
        *out = jv_int(it->u.range->start + it->u.range->step * (int64_t)at);
        break;
    default:
        if (at >= it->u.dict->n) return 0;
        if (it->mode == JI_ITEMS)
            TRY(jv_pair(rt, it->u.dict->e[at].key, it->u.dict->e[at].val, out));
        else
            *out = it->mode == JI_KEYS ? it->u.dict->e[at].key : it->u.dict->e[at].val;
        break;
    }
    it->pos++;
    return 1;
}

/* ---- subscripts and attributes
 * ------------------------------------------------------------------------------------------------ */

static int element_missing(struct jrt *rt, struct jv obj, struct jv key, struct jv *out)
{
    if (key.kind == JK_STR) {
        *out = undefined(JU_ATTR, obj.kind, key);
        return 0;
    }
    struct jv *arg = jrt_alloc(rt, sizeof *arg);
    if (!arg) return rt->rc;
    *arg = key;
    *out = (struct jv){.kind = JK_UNDEF, .why = JU_ELEM, .of = obj.kind, .u.arg = arg};
    return 0;
}

/* Element i of a sequence; *found false where it has none. */
static int sequence_item(struct jrt *rt, struct jv obj, int64_t i, struct jv *out, bool *found)
{
    int64_t n;
    TRY(jv_len(rt, obj, &n));
    if (i < 0) i += n;
    *found = i >= 0 && i < n;
    if (!*found) return 0;
    if (obj.kind == JK_RANGE) {
        *out = jv_int(obj.u.range->start + obj.u.range->step * i);
    } else if (obj.kind == JK_STR) {
        size_t from;
        uint32_t cp;
        TRY(jv_byte_of(rt, obj.u.s, (size_t)i, &from));
        return jv_substr(rt, obj, from, from + jstr_next(jv_text(obj), from, &cp), out);
    } else {
        *out = obj.u.list->v[i];
    }
    return 0;
}

static bool may_be_key(struct jv v)
{
    if (v.kind != JK_TUPLE) return v.kind != JK_LIST && v.kind != JK_DICT;
    for (size_t i = 0; i < v.u.list->n; i++)
        if (v.u.list->v[i].kind == JK_LIST || v.u.list->v[i].kind == JK_DICT) return false;
    return true;
}

int jv_item(struct jrt *rt, struct jv obj, struct jv key, struct jv *out)
{
    int64_t i;
    bool found = false;
    if (obj.kind == JK_UNDEF) return jv_use_undefined(rt, obj);
    if (obj.kind == JK_DICT && may_be_key(key)) {
        struct jpair *e;
        TRY(jdict_find(rt, obj.u.dict, key, &e));
        if (e) {
            *out = e->val;
            return 0;
        }
    } else if ((is_sequence(obj) || obj.kind == JK_RANGE) && is_int(key, &i)) {
        TRY(sequence_item(rt, obj, i, out, &found));
    }
    if (!found && key.kind == JK_STR) TRY(jv_attr_only(rt, obj, key, out, &found));
    return found ? 0 : element_missing(rt, obj, key, out);
}

/* Attributes that are not methods. */
static int data_attr(struct jrt *rt, struct jv obj, struct jv name, struct jv *out, bool *found)
{
    struct str n = jv_text(name);
    struct jpair *e;
    switch ((enum jkind)obj.kind) {
    case JK_NS:
        TRY(jdict_find(rt, obj.u.dict, name, &e));
        *found = e != NULL;
        if (e) *out = e->val;
        return 0;
    case JK_LOOP:
        return jloop_attr(rt, obj.u.loop, n, out, found);
    case JK_TUPLE:
        *found = obj.why == 1 && (str_is(n, "grouper") || str_is(n, "list"));
        if (*found) *out = obj.u.list->v[str_is(n, "list")];
        return 0;
    case JK_CYCLER:
        *found = str_is(n, "current");
        if (*found) *out = obj.u.cycler->items.v[obj.u.cycler->pos];
        return 0;
    case JK_MACRO:
        *found = str_is(n, "name");
        if (*found) *out = obj.u.macro->def->name;
        return 0;
    default:
        return 0;
    }
}

int jv_attr_only(struct jrt *rt, struct jv obj, struct jv name, struct jv *out, bool *found)
{
    struct str n = jv_text(name);
    *found = false;
    TRY(jrt_spend(rt, J_COST_NODE));
    if (n.n > 0 && n.p[0] == '_') {
        /* Private names are never reached; those that every Python object has do not even fall through to a key. */
        *found = n.n > 4 && str_starts(n, STR("__")) && str_ends(n, STR("__"));
        if (*found) *out = undefined(JU_UNSAFE, obj.kind, name);
        return 0;
    }
    const struct jbuiltin *fn = jmethod_find(obj.kind, n);
    if (!fn) return data_attr(rt, obj, name, out, found);
    *found = true;
    if (!fn->fn) {
        *out = undefined(JU_UNSAFE, obj.kind, name);
        return 0;
    }
    struct jmethod *m = jrt_alloc(rt, sizeof *m);
    if (!m) return rt->rc;
    *m = (struct jmethod){obj, fn};
    *out = (struct jv){.kind = JK_METHOD, .u.method = m};
    return 0;
}

int jv_attr(struct jrt *rt, struct jv obj, struct jv name, struct jv *out)
{
    bool found;
    if (obj.kind == JK_UNDEF) return jv_use_undefined(rt, obj);
    TRY(jv_attr_only(rt, obj, name, out, &found));
    if (found) return 0;
    if (obj.kind == JK_DICT) {
        struct jpair *e;
        TRY(jdict_find(rt, obj.u.dict, name, &e));
        if (e) {
            *out = e->val;
            return 0;
        }
    }
    *out = undefined(JU_ATTR, obj.kind, name);
    return 0;
}

/* A slice bound brought into [low, high], counted from the end where negative. */
static int64_t clamp_bound(int64_t v, int64_t n, int64_t low, int64_t high)
{
    if (v < 0) v = v < -n ? low : v + n;
    return v < low ? low : v > high ? high : v;
}

int jv_slice_range(struct jrt *rt, const struct jv bound[3], int64_t n, struct jrange *out)
{
    int64_t v[3] = {0, 0, 1};
    for (int i = 0; i < 3; i++)
        if (bound[i].kind != JK_NONE) TRY(jv_want_int(rt, bound[i], "a slice", &v[i]));
    int64_t step = v[2];
    if (step == 0) return JFAIL(rt, "slice step cannot be zero");
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;
    int64_t start = bound[0].kind == JK_NONE ? (step < 0 ? high : low) : clamp_bound(v[0], n, low, high);
    int64_t stop = bound[1].kind == JK_NONE ? (step < 0 ? low : high) : clamp_bound(v[1], n, low, high);
    out->start = start;
    out->stop = stop;
    out->step = step;
    uint64_t gap = step < 0 ? 0 - (uint64_t)step : (uint64_t)step;
    int64_t distance = step < 0 ? start - stop : stop - start;
    out->n = distance <= 0 ? 0 : (int64_t)(((uint64_t)distance - 1) / gap) + 1;
    if (out->n <= 1) out->step = 1; /* so that start + step * i never overflows */
    return 0;
}

static int slice_str(struct jrt *rt, struct jv s, const struct jrange *r, struct jv *out)
{
    size_t from, to, mark = jrt_mark(rt);
    bool safe = s.safe;
    if (r->step == 1) {
        TRY(jv_byte_of(rt, s.u.s, (size_t)r->start, &from));
        TRY(jv_byte_of(rt, s.u.s, (size_t)(r->start + r->n), &to));
        return jv_substr(rt, s, from, r->n > 0 ? to : from, out);
    }
    struct jlist *chars;
    TRY(jlist_of(rt, s, &chars));
    for (int64_t i = 0; i < r->n; i++) {
        TRY(jrt_spend(rt, J_COST_NODE));
        TRY(jrt_put_str(rt, jv_text(chars->v[r->start + r->step * i])));
    }
    TRY(jrt_take(rt, mark, out));
    out->safe = safe;
    return 0;
}

int jv_slice(struct jrt *rt, struct jv obj, const struct jv bound[3], struct jv *out)
{
    struct jrange r;
    int64_t n;
    if (obj.kind == JK_UNDEF) return jv_use_undefined(rt, obj);
    if (!is_sequence(obj) && obj.kind != JK_RANGE) return JFAIL(rt, "'%s' object cannot be sliced", jv_type_name(obj.kind));
    TRY(jv_len(rt, obj, &n));
    TRY(jv_slice_range(rt, bound, n, &r));
    if (obj.kind == JK_STR) return slice_str(rt, obj, &r, out);
    if (obj.kind == JK_RANGE) {
        struct jrange *part = jrt_alloc(rt, sizeof *part);
        if (!part) return rt->rc;
        const struct jrange *of = obj.u.range;
        *part = (struct jrange){of->start + of->step * r.start, of->step * r.step, r.n, of->start + of->step * r.stop};
        *out = (struct jv){.kind = JK_RANGE, .u.range = part};
        return 0;
    }
    struct jlist *l = jlist_new(rt, (size_t)r.n);
    if (!l) return rt->rc;
    for (int64_t i = 0; i < r.n; i++) l->v[i] = obj.u.list->v[r.start + r.step * i];
    l->n = (size_t)r.n;
    *out = (struct jv){.kind = obj.kind, .u.list = l};
    return 0;
}

/* ---- str() and repr()
 * ---------------------------------------------------------------------------------------------------------- */

static int put_double(struct jrt *rt, double f)
{
    char text[F64_TEXT_MAX];
    if (isnan(f)) return jrt_put_z(rt, "nan");
    if (isinf(f)) return jrt_put_z(rt, f > 0 ? "inf" : "-inf");
    return jrt_put(rt, text, f64_text(f, text));
}

static int put_sequence(struct jrt *rt, const struct jlist *l, const char *open, const char *close)
{
    TRY(jrt_put_z(rt, open));
    for (size_t i = 0; i < l->n; i++) {
        if (i > 0) TRY(jrt_put_z(rt, ", "));
        TRY(jv_put_repr(rt, l->v[i]));
    }
    return jrt_put_z(rt, close);
}

static int put_dict(struct jrt *rt, const struct jdict *d)
{
    TRY(jrt_put_z(rt, "{"));
    for (size_t i = 0; i < d->n; i++) {
        if (i > 0) TRY(jrt_put_z(rt, ", "));
        TRY(jv_put_repr(rt, d->e[i].key));
        TRY(jrt_put_z(rt, ": "));
        TRY(jv_put_repr(rt, d->e[i].val));
    }
    return jrt_put_z(rt, "}");
}

static int put_view(struct jrt *rt, struct jv v)
{
    static const char *const open[] = {"dict_keys([", "dict_values([", "dict_items(["};
    struct jlist *l;
    TRY(jlist_of(rt, v, &l));
    return put_sequence(rt, l, open[v.u.view->of], "])");
}

static int put_range(struct jrt *rt, const struct jrange *r)
{
    char a[24], b[24], c[24];
    TRY(jrt_put_z(rt, "range("));
    TRY(jrt_put(rt, a, (size_t)jformat_int(a, r->start)));
    TRY(jrt_put_z(rt, ", "));
    TRY(jrt_put(rt, b, (size_t)jformat_int(b, r->stop)));
    if (r->step != 1) {
        TRY(jrt_put_z(rt, ", "));
        TRY(jrt_put(rt, c, (size_t)jformat_int(c, r->step)));
    }
    return jrt_put_z(rt, ")");
}

/* What a template rarely prints: functions and engine objects, named without an address. */
static int put_object(struct jrt *rt, struct jv v)
{
    TRY(jrt_put_z(rt, "<"));
    TRY(jrt_put_z(rt, jv_type_name(v.kind)));
    if (v.kind == JK_FUNC || v.kind == JK_METHOD) {
        TRY(jrt_put_z(rt, " "));
        TRY(jrt_put_z(rt, v.kind == JK_FUNC ? v.u.fn->name : v.u.method->fn->name));
    } else if (v.kind == JK_MACRO) {
        TRY(jrt_put_z(rt, " "));
        if (v.u.macro->def->name.kind == JK_STR)
            TRY(jv_put_repr(rt, v.u.macro->def->name));
        else
            TRY(jrt_put_z(rt, "anonymous"));
    }
    return jrt_put_z(rt, ">");
}

static int put_repr_nested(struct jrt *rt, struct jv v)
{
    switch ((enum jkind)v.kind) {
    case JK_LIST:
        return put_sequence(rt, v.u.list, "[", "]");
    case JK_TUPLE:
        return put_sequence(rt, v.u.list, "(", v.u.list->n == 1 ? ",)" : ")");
    case JK_DICT:
        return put_dict(rt, v.u.dict);
    case JK_VIEW:
        return put_view(rt, v);
    case JK_NS:
        TRY(jrt_put_z(rt, "<Namespace "));
        TRY(put_dict(rt, v.u.dict));
        return jrt_put_z(rt, ">");
    default:
        return put_object(rt, v);
    }
}

int jv_put_repr(struct jrt *rt, struct jv v)
{
    char text[24];
    TRY(jrt_spend(rt, J_COST_NODE));
    switch ((enum jkind)v.kind) {
    case JK_UNDEF:
        return jrt_put_z(rt, "Undefined");
    case JK_NONE:
        return jrt_put_z(rt, "None");
    case JK_BOOL:
        return jrt_put_z(rt, v.u.b ? "True" : "False");
    case JK_INT:
        return jrt_put(rt, text, (size_t)jformat_int(text, v.u.i));
    case JK_FLOAT:
        return put_double(rt, v.u.f);
    case JK_BIG:
        return jrt_put_str(rt, jv_text(v));
    case JK_RANGE:
        return put_range(rt, v.u.range);
    case JK_STR:
        if (!v.safe) return jstr_put_repr(rt, jv_text(v));
        TRY(jrt_put_z(rt, "Markup("));
        TRY(jstr_put_repr(rt, jv_text(v)));
        return jrt_put_z(rt, ")");
    default:
        break;
    }
    TRY(jrt_enter(rt));
    TRY(put_repr_nested(rt, v));
    jrt_leave(rt);
    return 0;
}

int jv_put_str(struct jrt *rt, struct jv v)
{
    if (v.kind == JK_STR) return jrt_put_str(rt, jv_text(v));
    if (v.kind == JK_UNDEF) return 0;
    return jv_put_repr(rt, v);
}

int jv_soft_str(struct jrt *rt, struct jv v, struct jv *out)
{
    *out = v;
    if (v.kind == JK_STR) return 0;
    size_t mark = jrt_mark(rt);
    TRY(jv_put_str(rt, v));
    return jrt_take(rt, mark, out);
}

int jv_str(struct jrt *rt, struct jv v, struct jv *out)
{
    TRY(jv_soft_str(rt, v, out));
    out->safe = false;
    return 0;
}

int jv_put_escaped(struct jrt *rt, struct str s)
{
    static const char special[] = "&<>'\"";
    static const char *const entity[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    size_t start = 0;
    for (size_t i = 0; i < s.n; i++) {
        const char *hit = s.p[i] ? strchr(special, s.p[i]) : NULL;
        if (!hit) continue;
        TRY(jrt_put(rt, s.p + start, i - start));
        TRY(jrt_put_z(rt, entity[hit - special]));
        start = i + 1;
    }
    return jrt_put(rt, s.p + start, s.n - start);
}

int jv_escape(struct jrt *rt, struct jv v, struct jv *out)
{
    if (v.kind == JK_STR && v.safe) {
        *out = v;
        return 0;
    }
    size_t mark = jrt_mark(rt);
    TRY(jv_str(rt, v, &v));
    TRY(jv_put_escaped(rt, jv_text(v)));
    TRY(jrt_take(rt, mark, out));
    out->safe = true;
    return 0;
}
