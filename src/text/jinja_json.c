/* jinja_json.c: JSON in and out. The variables of a rendering come as struct json and become values; tojson writes values as
 * Python's json.dumps does, with its separators, its escapes and its conversion of keys. Called by jinja_eval.c and
 * jinja_filters.c. */
#include "text/jinja_int.h"

#include <math.h>

static bool is_integer_text(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if ((s.p[i] < '0' || s.p[i] > '9') && !(i == 0 && s.p[i] == '-' && s.n > 1)) return false;
    return s.n > 0;
}

int jv_from_json(struct jrt *rt, const struct json *j, struct jv *out)
{
    switch (j->type) {
    case JSON_NULL:
        *out = jv_none();
        return 0;
    case JSON_FALSE:
        *out = jv_bool(false);
        return 0;
    case JSON_TRUE:
        *out = jv_bool(true);
        return 0;
    case JSON_INT:
        *out = jv_int(j->i);
        return 0;
    case JSON_REAL:
        if (!is_integer_text(j->s)) {
            *out = jv_float(j->f);
            return 0;
        }
        TRY(jv_str_view(rt, j->s.p, j->s.n, out));
        out->kind = JK_BIG;
        return 0;
    case JSON_STRING:
        return jv_str_view(rt, j->s.p, j->s.n, out);
    case JSON_ARRAY: {
        struct jlist *l = jlist_new(rt, j->n);
        if (!l) return rt->rc;
        *out = jv_list(l);
        TRY(jrt_enter(rt));
        for (size_t i = 0; i < j->n; i++) TRY(jv_from_json(rt, &j->v[i], &l->v[l->n++]));
        jrt_leave(rt);
        return 0;
    }
    case JSON_OBJECT:
        break;
    }
    struct jdict *d = jdict_new(rt);
    if (!d) return rt->rc;
    *out = (struct jv){.kind = JK_DICT, .u.dict = d};
    TRY(jrt_enter(rt));
    for (size_t i = 0; i < j->n; i++) {
        struct jv key, val;
        TRY(jv_str_view(rt, j->keys[i].p, j->keys[i].n, &key));
        TRY(jv_from_json(rt, &j->v[i], &val));
        TRY(jdict_put(rt, d, key, val));
    }
    jrt_leave(rt);
    return 0;
}

static int put_unit(struct jrt *rt, uint32_t unit)
{
    static const char hex[] = "0123456789abcdef";
    char esc[6] = {'\\', 'u', hex[unit >> 12 & 15], hex[unit >> 8 & 15], hex[unit >> 4 & 15], hex[unit & 15]};
    return jrt_put(rt, esc, 6);
}

static int put_json_char(struct jrt *rt, uint32_t cp)
{
    static const char plain[] = "\"\\\n\r\t\f\b", letter[] = "\"\\nrtfb";
    const char *hit = cp < 0x80 && cp > 0 ? strchr(plain, (int)cp) : NULL;
    if (hit) {
        char esc[2] = {'\\', letter[hit - plain]};
        return jrt_put(rt, esc, 2);
    }
    if (cp < 0x10000) return put_unit(rt, cp);
    TRY(put_unit(rt, 0xD800 + ((cp - 0x10000) >> 10)));
    return put_unit(rt, 0xDC00 + ((cp - 0x10000) & 0x3FF));
}

static int put_json_string(struct jrt *rt, struct str s, bool ascii)
{
    size_t start = 0, k;
    TRY(jrt_put(rt, "\"", 1));
    for (size_t at = 0; at < s.n; at += k) {
        uint32_t cp;
        k = jstr_next(s, at, &cp);
        if (cp >= 0x20 && cp != '"' && cp != '\\' && !(ascii && cp >= 0x7F)) continue;
        TRY(jrt_put(rt, s.p + start, at - start));
        TRY(put_json_char(rt, cp));
        start = at + k;
    }
    TRY(jrt_put(rt, s.p + start, s.n - start));
    return jrt_put(rt, "\"", 1);
}

static int put_break(struct jrt *rt, const struct jjson_style *style, unsigned level)
{
    if (!style->pretty) return 0;
    TRY(jrt_put(rt, "\n", 1));
    return jrt_put_fill(rt, style->indent, level);
}

static int put_scalar(struct jrt *rt, struct jv v)
{
    switch ((enum jkind)v.kind) {
    case JK_NONE:
        return jrt_put_z(rt, "null");
    case JK_BOOL:
        return jrt_put_z(rt, v.u.b ? "true" : "false");
    case JK_FLOAT:
        if (isnan(v.u.f)) return jrt_put_z(rt, "NaN");
        if (isinf(v.u.f)) return jrt_put_z(rt, v.u.f > 0 ? "Infinity" : "-Infinity");
        return jv_put_repr(rt, v);
    default:
        return jv_put_repr(rt, v);
    }
}

static bool is_scalar(struct jv v)
{
    return v.kind == JK_NONE || v.kind == JK_BOOL || v.kind == JK_INT || v.kind == JK_FLOAT || v.kind == JK_BIG;
}

static int put_key(struct jrt *rt, struct jv key, const struct jjson_style *style)
{
    if (key.kind == JK_STR) return put_json_string(rt, jv_text(key), style->ascii);
    if (!is_scalar(key)) return JFAIL(rt, "keys must be str, int, float, bool or None, not %s", jv_type_name(key.kind));
    TRY(jrt_put(rt, "\"", 1));
    TRY(put_scalar(rt, key));
    return jrt_put(rt, "\"", 1);
}

static int put_json(struct jrt *rt, struct jv v, const struct jjson_style *style, unsigned level);

static int put_array(struct jrt *rt, const struct jlist *l, const struct jjson_style *style, unsigned level)
{
    if (l->n == 0) return jrt_put_z(rt, "[]");
    TRY(jrt_put(rt, "[", 1));
    for (size_t i = 0; i < l->n; i++) {
        if (i > 0) TRY(jrt_put_str(rt, style->item_sep));
        TRY(put_break(rt, style, level + 1));
        TRY(put_json(rt, l->v[i], style, level + 1));
    }
    TRY(put_break(rt, style, level));
    return jrt_put(rt, "]", 1);
}

static int put_object(struct jrt *rt, const struct jdict *d, const struct jjson_style *style, unsigned level)
{
    if (d->n == 0) return jrt_put_z(rt, "{}");
    struct jv *keys = NULL, *vals = NULL;
    if (style->sort_keys) {
        keys = jrt_array(rt, d->n, sizeof *keys);
        vals = jrt_array(rt, d->n, sizeof *vals);
        if (!keys || !vals) return rt->rc;
        for (size_t i = 0; i < d->n; i++) {
            keys[i] = d->e[i].key;
            vals[i] = d->e[i].val;
        }
        TRY(jv_sort(rt, keys, vals, d->n, false));
    }
    TRY(jrt_put(rt, "{", 1));
    for (size_t i = 0; i < d->n; i++) {
        if (i > 0) TRY(jrt_put_str(rt, style->item_sep));
        TRY(put_break(rt, style, level + 1));
        TRY(put_key(rt, keys ? keys[i] : d->e[i].key, style));
        TRY(jrt_put_str(rt, style->key_sep));
        TRY(put_json(rt, keys ? vals[i] : d->e[i].val, style, level + 1));
    }
    TRY(put_break(rt, style, level));
    return jrt_put(rt, "}", 1);
}

static int put_json(struct jrt *rt, struct jv v, const struct jjson_style *style, unsigned level)
{
    TRY(jrt_spend(rt, J_COST_NODE));
    if (v.kind == JK_STR) return put_json_string(rt, jv_text(v), style->ascii);
    if (is_scalar(v)) return put_scalar(rt, v);
    if (v.kind != JK_LIST && v.kind != JK_TUPLE && v.kind != JK_DICT)
        return JFAIL(rt, "Object of type %s is not JSON serializable", jv_type_name(v.kind));
    TRY(jrt_enter(rt));
    TRY(v.kind == JK_DICT ? put_object(rt, v.u.dict, style, level) : put_array(rt, v.u.list, style, level));
    jrt_leave(rt);
    return 0;
}

int jv_put_json(struct jrt *rt, struct jv v, const struct jjson_style *style)
{
    return put_json(rt, v, style, 0);
}
