/* fuzz_json: the two readers must agree on what is valid, and what the writer makes of a tree must read back as the same tree.
 */
#include <stdlib.h>

#include "base/base.h"

static void require(bool ok)
{
    if (!ok) abort();
}

static bool same(const struct json *a, const struct json *b, unsigned depth)
{
    require(depth <= JSON_DEPTH_MAX);
    if (a->type != b->type || a->n != b->n || a->i != b->i || !str_eq(a->s, b->s)) return false;
    for (size_t i = 0; i < a->n; i++) {
        if (a->type == JSON_OBJECT && !str_eq(a->keys[i], b->keys[i])) return false;
        if (!same(&a->v[i], &b->v[i], depth + 1)) return false;
    }
    return true;
}

static bool pull(struct str text)
{
    struct json_cursor c;
    struct err e;
    char *scratch = malloc(text.n + 1);
    enum json_event ev;
    require(scratch != NULL);
    json_cursor_init(&c, text, "fuzz", &e);
    do {
        ev = json_next(&c);
        require(c.depth <= JSON_DEPTH_MAX && c.pos <= text.n);
        if (ev != JSON_EV_STRING && ev != JSON_EV_KEY) continue;
        size_t n = json_unescape(c.raw, scratch);
        require(n <= c.raw.n && utf8_valid((struct str){scratch, n}));
    } while (ev != JSON_EV_END && ev != JSON_EV_ERROR);
    free(scratch);
    return ev == JSON_EV_END;
}

/* A number beyond the range of double is the one thing that only the tree refuses. */
static bool tree_refuses_number(const struct err *e)
{
    return strstr(e->msg, "range of a double") != NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str text = {(const char *)data, size};
    struct arena a = {0}, again = {0};
    struct json *j, *k;
    struct err e = {0};
    struct buf out = {0};
    bool valid = pull(text);
    int rc = json_parse(&a, text, "fuzz", &j, &e);
    require(rc == 0 ? valid : !valid || tree_refuses_number(&e));
    if (rc == 0) {
        require(json_write(&out, j) == 0);
        require(json_parse(&again, buf_view(&out), "fuzz", &k, &e) == 0);
        require(same(j, k, 0));
    }
    buf_fini(&out);
    arena_fini(&a);
    arena_fini(&again);
    require(mem_stats().current == 0);
    return 0;
}
