/* json: what RFC 8259 allows and what it forbids, both readers, the writer, running out of memory. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <math.h>
#include <stdio.h>

#include "base/base.h"
#include "scratch.h"

#include <cmocka.h>

static struct json *parse(struct arena *a, const char *text)
{
    struct json *j = NULL;
    struct err e = {0};
    if (json_parse(a, str_of(text), "test", &j, &e) < 0) fail_msg("%s", e.msg);
    return j;
}

static void reads_a_tree(void **state)
{
    (void)state;
    struct arena a = {0};
    const struct json *j = parse(&a, " {\"a\":[1,-2.5e1,true,false,null,\"x\"],\n\t\"b\":{\"c\":{}},\"a\\u0062\":[]} ");
    assert_int_equal(j->type, JSON_OBJECT);
    assert_int_equal(j->n, 3);
    const struct json *list = json_find(j, "a");
    assert_int_equal(list->n, 6);
    assert_int_equal(list->v[0].type, JSON_INT);
    assert_int_equal(list->v[0].i, 1);
    assert_int_equal(list->v[1].type, JSON_REAL);
    assert_true(list->v[1].f == -25.0);
    assert_true(str_is(list->v[1].s, "-2.5e1"));
    assert_int_equal(list->v[2].type, JSON_TRUE);
    assert_int_equal(list->v[3].type, JSON_FALSE);
    assert_int_equal(list->v[4].type, JSON_NULL);
    assert_true(str_is(list->v[5].s, "x"));
    assert_int_equal(json_find(json_find(json_find(j, "b"), "c"), "d") == NULL, 1);
    assert_int_equal(json_find(j, "ab")->type, JSON_ARRAY);
    assert_true(str_is(j->keys[2], "ab"));
    assert_null(json_find(list, "a"));
    arena_fini(&a);
}

static void reads_every_escape(void **state)
{
    (void)state;
    struct arena a = {0};
    struct json *j =
        parse(&a, "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e9\\u20AC\\uD83D\\uDE00|\\ud83d|\\ude00\\ud83d\\u0041\"");
    static const char expected[] = "\"\\/\b\f\n\r\tA\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80|\xef\xbf\xbd|\xef\xbf\xbd\xef\xbf\xbd"
                                   "A";
    assert_int_equal(j->s.n, sizeof expected - 1);
    assert_memory_equal(j->s.p, expected, j->s.n);
    j = parse(&a, "\"a\\u0000b\"");
    assert_int_equal(j->s.n, 3);
    arena_fini(&a);
}

static void numbers_keep_their_kind(void **state)
{
    (void)state;
    struct arena a = {0};
    const struct json *j = parse(&a, "[0,-0,9223372036854775807,-9223372036854775808,9223372036854775808,1.0,1e2,5e-324]");
    static const enum json_type types[] = {JSON_INT, JSON_INT, JSON_INT, JSON_INT, JSON_REAL, JSON_REAL, JSON_REAL, JSON_REAL};
    for (size_t i = 0; i < j->n; i++) assert_int_equal(j->v[i].type, types[i]);
    assert_true(j->v[2].i == INT64_MAX && j->v[3].i == INT64_MIN);
    assert_true(j->v[4].f == 9223372036854775808.0 && j->v[7].f == 0x1p-1074);
    arena_fini(&a);
}

static const char *const invalid[] = {
    "",
    " ",
    "{",
    "}",
    "[",
    "]",
    "[1",
    "[1,",
    "[1,]",
    "[,1]",
    "[1 2]",
    "{\"a\"}",
    "{\"a\":}",
    "{\"a\":1,}",
    "{,}",
    "{a:1}",
    "{'a':1}",
    "{\"a\" 1}",
    "{\"a\":1 \"b\":2}",
    "{1:2}",
    "[1}",
    "{\"a\":1]",
    "1 2",
    "[]]",
    "nul",
    "nulL",
    "True",
    "tru",
    "NaN",
    "Infinity",
    "-",
    "+1",
    "01",
    "-01",
    "1.",
    ".5",
    "1e",
    "1e+",
    "0x1",
    "1a",
    "\"",
    "\"a",
    "\"\\\"",
    "\"\\x\"",
    "\"\\u12\"",
    "\"\\u12g4\"",
    "\"\n\"",
    "\"\x1f\"",
    "\"\xff\"",
    "\"\xc3\"",
    "\"\xed\xa0\x80\"",
    "\xef\xbb\xbf{}",
    "[1]//",
    "/**/1",
    "1e999",
    "-1e999",
};

static void refuses_what_is_not_json(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(invalid); i++) {
        struct arena a = {0};
        struct json *j = NULL;
        struct err e = {0};
        size_t n = strlen(invalid[i]);
        char *text = scratch_exact(invalid[i], n);
        int rc = json_parse(&a, (struct str){text, n}, "bad.json", &j, &e);
        if (rc != ERR_FORMAT) fail_msg("accepted: %s", invalid[i]);
        assert_null(j);
        assert_non_null(strstr(e.msg, "bad.json: line 1, column "));
        free(text);
        arena_fini(&a);
    }
}

static void errors_say_where(void **state)
{
    (void)state;
    struct arena a = {0};
    struct json *j;
    struct err e = {0};
    json_parse(&a, STR("{\n  \"a\": 1,\n  \"b\" 2\n}"), "c.json", &j, &e);
    assert_string_equal(e.msg, "c.json: line 3, column 7: expected ':'");
    json_parse(&a, STR("[1"), "c.json", &j, &e);
    assert_string_equal(e.msg, "c.json: line 1, column 3: expected ',' or ']', found the end");
    arena_fini(&a);
}

/* 64 levels pass, 65 do not, and a million opening brackets cost no stack. */
static void depth_is_limited(void **state)
{
    (void)state;
    static char text[1000000];
    struct arena a = {0};
    struct json *j;
    struct err e;
    memset(text, '[', 64);
    memset(text + 64, ']', 64);
    assert_int_equal(json_parse(&a, (struct str){text, 128}, "deep", &j, &e), 0);
    struct buf b = {0};
    assert_int_equal(json_write(&b, j), 0);
    assert_int_equal(b.n, 128);
    memset(text, '[', 65);
    memset(text + 65, ']', 65);
    assert_int_equal(json_parse(&a, (struct str){text, 130}, "deep", &j, &e), ERR_FORMAT);
    memset(text, '[', sizeof text);
    assert_int_equal(json_parse(&a, (struct str){text, sizeof text}, "deep", &j, &e), ERR_FORMAT);
    struct json chain[66] = {0};
    for (size_t i = 0; i + 1 < COUNT_OF(chain); i++) chain[i] = (struct json){.type = JSON_ARRAY, .n = 1, .v = &chain[i + 1]};
    assert_int_equal(json_write(&b, chain), ERR_LIMIT);
    buf_fini(&b);
    arena_fini(&a);
}

static void duplicate_keys_last_wins(void **state)
{
    (void)state;
    struct arena a = {0};
    const struct json *j = parse(&a, "{\"a\":1,\"b\":2,\"a\":3}");
    assert_int_equal(json_find(j, "a")->i, 3);
    assert_int_equal(j->n, 3);
    arena_fini(&a);
}

static void optional_members(void **state)
{
    (void)state;
    struct arena a = {0};
    const struct json *j = parse(&a, "{\"i\":5,\"f\":0.5,\"t\":true,\"s\":\"x\",\"z\":null}");
    int64_t i = 1;
    double f = 1;
    bool t = false;
    struct str s = STR("d");
    assert_true(json_opt_i64(j, "none", 0, 9, &i) && json_opt_i64(j, "z", 0, 9, &i) && i == 1);
    assert_true(json_opt_i64(j, "i", 0, 9, &i) && i == 5);
    assert_false(json_opt_i64(j, "i", 6, 9, &i) || json_opt_i64(j, "i", 0, 4, &i) || json_opt_i64(j, "f", 0, 9, &i));
    assert_true(json_opt_f64(j, "i", 0, 9, &f) && f == 5.0 && json_opt_f64(j, "f", 0, 9, &f) && f == 0.5);
    assert_false(json_opt_f64(j, "s", 0, 9, &f) || json_opt_f64(j, "f", 1, 9, &f));
    assert_true(json_opt_bool(j, "t", &t) && t && !json_opt_bool(j, "i", &t));
    assert_true(json_opt_str(j, "s", &s) && str_is(s, "x") && !json_opt_str(j, "i", &s));
    assert_true(json_opt_str(NULL, "s", &s));
    arena_fini(&a);
}

static void check_written(const char *text, const char *expected)
{
    struct arena a = {0};
    struct buf b = {0};
    assert_int_equal(json_write(&b, parse(&a, text)), 0);
    assert_int_equal(buf_c(&b, 0), 0);
    assert_string_equal(b.p, expected);
    buf_fini(&b);
    arena_fini(&a);
}

static void writes_compact_text(void **state)
{
    (void)state;
    check_written(" [ ] ", "[]");
    check_written("{ }", "{}");
    check_written("[[],[{}],{\"a\":[]}, 1.50 , -0, true,false,null]", "[[],[{}],{\"a\":[]},1.50,-0,true,false,null]");
    check_written("{\"a\\n\":\"\\u0007\\\"\\\\/\xc3\xa9\"}", "{\"a\\n\":\"\\u0007\\\"\\\\/\xc3\xa9\"}");
    struct buf b = {0};
    json_write_string(&b, STR("a\xff\xc3z\0"));
    assert_true(str_eq(buf_view(&b), STR("\"a\xef\xbf\xbd\xef\xbf\xbdz\\u0000\"")));
    b.n = 0;
    struct json made[3] = {
        {.type = JSON_REAL, .f = 1e-7}, {.type = JSON_INT, .i = INT64_MIN}, {.type = JSON_REAL, .f = (double)INFINITY}};
    json_write(&b, &(struct json){.type = JSON_ARRAY, .n = 3, .v = made});
    assert_true(str_is(buf_view(&b), "[1e-07,-9223372036854775808,null]"));
    buf_fini(&b);
}

static void pull_reader_walks_and_skips(void **state)
{
    (void)state;
    struct json_cursor c;
    struct err e;
    struct mem_stats before = mem_stats();
    json_cursor_init(&c, STR("{\"skip\":[1,{\"x\":[[]]},2],\"k\\n\":\"v\",\"t\":true,\"n\":-1.5,\"deep\":{\"a\":1}}"), "pull",
                     &e);
    assert_int_equal(json_next(&c), JSON_EV_OBJECT);
    assert_int_equal(json_next(&c), JSON_EV_KEY);
    assert_true(str_is(c.raw, "skip") && !c.escaped);
    assert_true(json_skip(&c, json_next(&c)));
    assert_int_equal(json_next(&c), JSON_EV_KEY);
    assert_true(c.escaped);
    char key[8];
    assert_int_equal(json_unescape(c.raw, key), 2);
    assert_memory_equal(key, "k\n", 2);
    assert_int_equal(json_next(&c), JSON_EV_STRING);
    assert_true(str_is(c.raw, "v"));
    assert_int_equal(json_next(&c), JSON_EV_KEY);
    assert_int_equal(json_next(&c), JSON_EV_BOOL);
    assert_true(c.boolean);
    assert_int_equal(json_next(&c), JSON_EV_KEY);
    assert_int_equal(json_next(&c), JSON_EV_NUMBER);
    assert_true(str_is(c.raw, "-1.5"));
    assert_int_equal(json_next(&c), JSON_EV_KEY);
    assert_true(json_skip(&c, JSON_EV_KEY));
    assert_int_equal(json_next(&c), JSON_EV_OBJECT_END);
    assert_int_equal(json_next(&c), JSON_EV_END);
    assert_int_equal(json_next(&c), JSON_EV_END);
    json_cursor_init(&c, STR("[1,x]"), "pull", &e);
    assert_false(json_skip(&c, json_next(&c)));
    assert_int_equal(json_next(&c), JSON_EV_ERROR);
    assert_int_equal(mem_stats().calls, before.calls);
}

static const char document[] =
    "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\\u00e9\":1,\"b\":2},\"merges\":[[\"a\",\"b\"],[\"c\",\"d\"]]},"
    "\"x\":[1.5,2,null,true,\"\\n\"],\"empty\":[{},[],\"\"]}";

/* Every prefix of a valid document is an error, and no read goes beyond it. */
static void truncations_are_errors(void **state)
{
    (void)state;
    for (size_t n = 0; n < sizeof document - 1; n++) {
        struct arena a = {0};
        struct json *j;
        struct err e;
        char *text = scratch_exact(document, n);
        assert_int_equal(json_parse(&a, (struct str){text, n}, "cut", &j, &e), ERR_FORMAT);
        free(text);
        arena_fini(&a);
    }
}

static void each_allocation_may_fail(void **state)
{
    (void)state;
    size_t before = mem_stats().current, k = 1;
    for (;; k++) {
        struct scratch_nth nth = {FAULT_ALLOC, k, 0};
        struct arena a = {0};
        struct json *j = (struct json *)&nth;
        struct err e = {0};
        fault_set(scratch_fail_nth, &nth);
        /* a long text, so that the arena grows more than once */
        static char text[20000];
        size_t n = 1;
        text[0] = '[';
        while (n + sizeof document < sizeof text) {
            memcpy(text + n, document, sizeof document - 1);
            n += sizeof document;
            text[n - 1] = ',';
        }
        text[n - 1] = ']';
        int rc = json_parse(&a, (struct str){text, n}, "oom.json", &j, &e);
        fault_set(NULL, NULL);
        arena_fini(&a);
        assert_int_equal(mem_stats().current, before);
        if (nth.seen < k) {
            assert_int_equal(rc, 0);
            break;
        }
        assert_int_equal(rc, ERR_NOMEM);
        assert_null(j);
        assert_non_null(strstr(e.msg, "out of memory"));
        assert_non_null(strstr(e.msg, "oom.json"));
    }
    assert_true(k > 8);
}

/* A tree costs its nodes: 64 bytes for each and 16 for each key, and nothing that grows and is copied. */
static void memory_is_proportional(void **state)
{
    (void)state;
    const size_t count = 100000;
    struct buf b = {0};
    struct arena a = {0};
    struct json *j;
    struct err e;
    buf_c(&b, '[');
    for (size_t i = 0; i < count; i++) buf_printf(&b, "%s\"%zu\"", i ? "," : "", i);
    buf_c(&b, ']');
    size_t before = mem_stats().current;
    mem_peak_reset();
    assert_int_equal(json_parse(&a, buf_view(&b), "big", &j, &e), 0);
    assert_int_equal(j->n, count);
    assert_true(mem_stats().peak - before < count * sizeof(struct json) + 65536);
    arena_fini(&a);
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_tree),
        cmocka_unit_test(reads_every_escape),
        cmocka_unit_test(numbers_keep_their_kind),
        cmocka_unit_test(refuses_what_is_not_json),
        cmocka_unit_test(errors_say_where),
        cmocka_unit_test(depth_is_limited),
        cmocka_unit_test(duplicate_keys_last_wins),
        cmocka_unit_test(optional_members),
        cmocka_unit_test(writes_compact_text),
        cmocka_unit_test(pull_reader_walks_and_skips),
        cmocka_unit_test(truncations_are_errors),
        cmocka_unit_test(each_allocation_may_fail),
        cmocka_unit_test(memory_is_proportional),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
