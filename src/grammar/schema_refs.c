/* schema_refs: what a "$ref" means: a JSON pointer from the schema around it that has an "$id", or the name of a part, its
 * "$id" or "$anchor". Names are compared as they are written; one that two parts have cannot be told. */
#include "grammar/schema_int.h"

/* ---- names ------------------------------------------------------------------------------------------------------------- */

#define AMBIGUOUS (NONE - 1)

bool schema_has_id(const struct json *j)
{
    const struct json *id = json_find(j, "$id"), *old = json_find(j, "id");
    if (!id && old && old->type == JSON_STRING) id = old;
    return id && id->s.n && id->s.p[0] != '#';
}

/* Where the number of the part with a name is; base: of an anchor, NULL for an identifier. NULL: out of memory. */
static uint32_t *name_at(struct schema *s, const struct json *base, struct str name)
{
    struct buf key = {0};
    const int rc = buf_put(&key, &base, sizeof(struct json *)) | buf_str(&key, name);
    uint32_t *at = rc == 0 ? names_at(&s->part_names, buf_view(&key)) : NULL;
    buf_fini(&key);
    if (!at && s->b->rc == 0) s->b->rc = fail_nomem(s->b->e, "a schema", name.n);
    return at;
}

static void add_name(struct schema *s, const struct json *base, struct str name, const struct json *j)
{
    uint32_t *at = name_at(s, base, name);
    if (at && s->n_parts == s->cap_parts) {
        const uint32_t cap = s->cap_parts ? s->cap_parts * 2 : 16;
        const struct json **v = mem_realloc(s->parts_named, cap * sizeof *v);
        if (v) s->parts_named = v, s->cap_parts = cap;
    }
    if (s->n_parts == s->cap_parts && s->b->rc == 0) s->b->rc = fail_nomem(s->b->e, "a schema", name.n);
    if (s->b->rc < 0) return;
    if (*at == NONE)
        s->parts_named[ *at = s->n_parts++] = j;
    else
        *at = AMBIGUOUS;
}

/* An "$id" as references write it: drafts before 2019-09 let a fragment that says nothing follow, and wrote anchors so. */
static void name_part(struct schema *s, const struct json *j, const struct json *base)
{
    const struct json *id = json_find(j, "$id"), *old = json_find(j, "id"), *anchor = json_find(j, "$anchor");
    if (!id) id = old;
    if (anchor && anchor->type == JSON_STRING) add_name(s, base, anchor->s, j);
    if (!id || id->type != JSON_STRING || id->s.n == 0) return;
    if (id->s.p[0] == '#')
        add_name(s, base, (struct str){id->s.p + 1, id->s.n - 1}, j);
    else
        add_name(s, NULL, (struct str){id->s.p, id->s.n - (id->s.p[id->s.n - 1] == '#')}, j);
}

/* Names all parts; the depth is that of the text, which is bounded. */
static void name_parts(struct schema *s, const struct json *j, const struct json *base)
{
    static const char *const values[] = {"enum", "const", "default", "examples"};
    if (j->type == JSON_OBJECT) {
        if (schema_has_id(j)) base = j;
        name_part(s, j, base);
    }
    for (size_t i = 0; i < j->n && s->b->rc == 0; i++) {
        bool value = false;
        for (size_t k = 0; k < COUNT_OF(values) && j->type == JSON_OBJECT; k++) value = value || str_is(j->keys[i], values[k]);
        if (!value && (j->v[i].type == JSON_OBJECT || j->v[i].type == JSON_ARRAY)) name_parts(s, &j->v[i], base);
    }
}

/* The part with a name; NULL: there is none, or there are two. */
static const struct json *named(struct schema *s, const struct json *base, struct str name)
{
    if (!s->named) name_parts(s, s->root, s->root);
    s->named = true;
    const uint32_t *at = s->b->rc == 0 ? name_at(s, base, name) : NULL;
    return at && *at < AMBIGUOUS ? s->parts_named[*at] : NULL;
}

/* ---- pointers ---------------------------------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    const char low = (char)(c | 0x20);
    return low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

/* One step of a pointer without its escapes (%XX, ~0, ~1); buf: room for it. */
static struct str read_step(struct str step, char *buf)
{
    size_t n = 0;
    for (size_t i = 0; i < step.n; i++) {
        char c = step.p[i];
        if (c == '%' && step.n - i > 2 && hex_digit(step.p[i + 1]) >= 0 && hex_digit(step.p[i + 2]) >= 0) {
            c = (char)(hex_digit(step.p[i + 1]) << 4 | hex_digit(step.p[i + 2]));
            i += 2;
        }
        if (c == '~' && step.n - i > 1 && (step.p[i + 1] == '0' || step.p[i + 1] == '1')) c = step.p[++i] == '0' ? '~' : '/';
        buf[n++] = c;
    }
    return (struct str){buf, n};
}

static const struct json *follow_step(const struct json *j, struct str step)
{
    uint64_t i;
    if (j->type == JSON_OBJECT) return json_find_str(j, step);
    return j->type == JSON_ARRAY && str_u64(step, &i) && i < j->n ? &j->v[i] : NULL;
}

/* What a pointer means, from `from` on; *base becomes what its own references begin at. */
static const struct json *follow(struct str ref, const struct json *from, char *buf, const struct json **base)
{
    const struct json *j = *base = from;
    for (size_t i = 1; i < ref.n && j;) {
        size_t end = ++i;
        while (end < ref.n && ref.p[end] != '/') end++;
        j = follow_step(j, read_step((struct str){ref.p + i, end - i}, buf));
        i = end;
        if (j && schema_has_id(j)) *base = j;
    }
    return j;
}

/* ---- references -------------------------------------------------------------------------------------------------------- */

/* What ref means in sub; NULL: nothing that is there. */
static const struct json *target_of(struct schema *s, struct sub sub, struct str ref, const struct json **base)
{
    size_t hash = 0;
    while (hash < ref.n && ref.p[hash] != '#') hash++;
    const struct str place = {ref.p + hash, ref.n - hash};
    char *buf = arena_alloc(&s->arena, ref.n + 1);
    *base = hash > 0 ? named(s, NULL, (struct str){ref.p, hash}) : sub.base;
    if (!buf && s->b->rc == 0) s->b->rc = fail_nomem(s->b->e, "a schema", ref.n);
    if (!*base || s->b->rc < 0) return NULL;
    if (place.n > 1 && place.p[1] != '/') return named(s, *base, (struct str){place.p + 1, place.n - 1});
    const struct json *j = follow(place, *base, buf, base);
    if (!j && hash == 0) j = follow(place, s->root, buf, base); /* many give parts an "$id" and go on to mean the whole */
    return j;
}

bool schema_resolve(struct schema *s, struct sub sub, struct sub *out)
{
    const struct str ref = json_find(sub.j, "$ref")->s;
    const struct json *base, *j = target_of(s, sub, ref, &base);
    if (!j) {
        const bool inside = ref.n > 0 && ref.p[0] == '#';
        schema_wrong(s, inside ? ERR_ARG : ERR_UNSUPPORTED, sub, "$ref",
                     inside ? "there is nothing at this place"
                            : "only references to parts of the schema itself can be honoured");
        return false;
    }
    *out = (struct sub){.j = j, .base = base, .path = arena_dup(&s->arena, ref.p, size_min(ref.n, 400))};
    if (!out->path) {
        if (s->b->rc == 0) s->b->rc = fail_nomem(s->b->e, "a schema", ref.n);
        return false;
    }
    schema_check(s, *out);
    return s->b->rc == 0;
}
