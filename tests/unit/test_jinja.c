/* jinja: the template engine against Python's jinja2 (jinja_rows.def, and the renderings beside the published templates), what
 * is Quern's own (limits, errors, mutable lists, big integers of the input), and templates that try to do harm. */
#include "sanitized.h"
#include "scratch.h"
#include "text/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <pthread.h>
#include <time.h>

#define NOON 1768478400 /* 2026-01-15 12:00:00 */

static const char data_text[] =
    "{\"a\":1,\"b\":\"h\303\251llo "
    "w\303\266rld\",\"l\":[3,1,2],\"d\":{\"x\":1,\"y\":[1,2,{\"z\":null}],\"items\":5,\"B\":\"q\"},"
    "\"f\":1.5,\"n\":null,\"t\":true,\"e\":\"\",\"users\":[{\"name\":\"Bob\",\"age\":30,\"tags\":[\"x\"]},"
    "{\"name\":\"alice\",\"age\":25,\"tags\":[]},{\"name\":\"Carl\",\"age\":30,\"tags\":[\"y\",\"z\"]}],"
    "\"html\":\"<a href='x'>&\\\"q\\\"</a>\",\"big\":9223372036854775807,\"s\":\"the quick brown fox\","
    "\"tree\":[{\"v\":1,\"c\":[{\"v\":2,\"c\":[]},{\"v\":3,\"c\":[{\"v\":4,\"c\":[]}]}]},{\"v\":5,\"c\":[]}]}";

/* Compiles and renders; vars is JSON text or NULL. */
static int render(struct str source, const char *vars, const struct jinja_limits *limits, struct buf *out, struct err *e)
{
    struct arena a = {0};
    struct json *j = NULL;
    struct jinja *t = NULL;
    memset(e, 0, sizeof *e);
    int rc = vars ? json_parse(&a, str_of(vars), "vars", &j, e) : 0;
    if (rc == 0) rc = jinja_compile(source, "t", &t, e);
    if (rc == 0) rc = jinja_render(t, j, NOON, limits, out, e);
    jinja_free(&t);
    arena_fini(&a);
    return rc;
}

static void expect_text(const char *source, const char *vars, const char *want)
{
    struct buf out = {0};
    struct err e;
    int rc = render(str_of(source), vars, NULL, &out, &e);
    if (rc != 0 || !str_is(buf_view(&out), want))
        print_error("template %s\n  gave     %d %s|%.*s|\n  expected |%s|\n", source, rc, rc ? e.msg : "",
                    STR_ARG(buf_view(&out)), want);
    assert_int_equal(rc, 0);
    assert_true(str_is(buf_view(&out), want));
    buf_fini(&out);
}

static void expect_error(const char *source, const char *vars, int code, const char *part)
{
    struct buf out = {0};
    struct err e;
    assert_int_equal(buf_z(&out, "before"), 0);
    int rc = render(str_of(source), vars, NULL, &out, &e);
    if (rc >= 0 || (code && rc != code) || !strstr(e.msg, part))
        print_error("template %s\n  gave %d %s|%.*s|\n  expected %s\n", source, rc, e.msg, STR_ARG(buf_view(&out)), part);
    assert_true(rc < 0 && rc == e.code && (!code || rc == code));
    assert_non_null(strstr(e.msg, part));
    assert_true(str_is(buf_view(&out), "before")); /* a failure leaves no text behind */
    buf_fini(&out);
}

/* ---- the language ------------------------------------------------------------------------------------------------ */

static const struct {
    const char *source, *want;
} rows[] = {
#define ROW(source, want) {source, want},
#define BAD(source, part)
#include "jinja_rows.def"
#undef ROW
#undef BAD
};

static const struct {
    const char *source, *part;
} bad_rows[] = {
#define ROW(source, want)
#define BAD(source, part) {source, part},
#include "jinja_rows.def"
#undef ROW
#undef BAD
};

static void test_language(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) expect_text(rows[i].source, data_text, rows[i].want);
    assert_true(COUNT_OF(rows) > 800);
}

static void test_failures(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(bad_rows); i++) expect_error(bad_rows[i].source, data_text, 0, bad_rows[i].part);
    assert_true(COUNT_OF(bad_rows) > 150);
}

/* Where the engine goes its own way: lists may be changed, big integers of the input pass through, surrogate pairs are joined.
 */
static void test_own_ways(void **state)
{
    static const struct {
        const char *source, *vars, *want;
    } own[] = {
        {"{% set l = [] %}{% set _ = l.append(1) %}{{ l.append(2) }}{{ l }}", NULL, "None[1, 2]"},
        {"{{ l.pop(0) }}{{ l.pop() }}{{ l }}", data_text, "32[1]"},
        {"{% set _ = l.insert(1, 9) %}{% set _ = l.extend((7, 8)) %}{% set _ = l.remove(1) %}{{ l }}", data_text,
         "[3, 9, 2, 7, 8]"},
        {"{% set _ = l.insert(-9, 0) %}{% set _ = l.insert(99, 4) %}{% set _ = l.reverse() %}{{ l }}", data_text,
         "[4, 2, 1, 3, 0]"},
        {"{% set m = l.copy() %}{% set _ = l.clear() %}{{ l }}{{ m }}", data_text, "[][3, 1, 2]"},
        {"{% for x in l %}{% if x < 3 and loop.index < 9 %}{% set _ = l.append(x + 1) %}{% endif %}{{ x }}{% endfor %}",
         data_text, "312233"},
        {"{{ l.pop(9) }}", data_text, NULL},
        {"{{ [].pop() }}", data_text, NULL},
        {"{{ l.remove(9) }}", data_text, NULL},
        {"{{ d.pop('x') }}", data_text, NULL},
        {"{{ n }} {{ n|tojson }} {{ n is number }}{{ n is integer }} {{ n == n }}{{ n != 1 }} {{ [n] }} {{ '%d'|format(n) }}",
         "{\"n\":18446744073709551616}",
         "18446744073709551616 18446744073709551616 TrueTrue TrueTrue [18446744073709551616] "
         "18446744073709551616"},
        {"{{ n|float }}", "{\"n\":-18446744073709551616}", "-1.8446744073709552e+19"},
        {"{{ n + 1 }}", "{\"n\":18446744073709551616}", NULL},
        {"{{ range(n) }}", "{\"n\":18446744073709551616}", NULL},
        {"{{ '\\ud83d\\ude00' }}", NULL, "\360\237\230\200"},
        {"{{ '\\ud83d' == '\\ufffd' }}", NULL, "True"},
        {"{{ d.a }}{{ d|length }}", "{\"d\":{\"a\":1,\"b\":2,\"a\":3}}", "32"},
        {"{{ range }} {{ 'x'.upper }} {{ ['1']|map('upper') }}", NULL, "<function range> <method upper> <generator>"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(own); i++) {
        if (own[i].want)
            expect_text(own[i].source, own[i].vars, own[i].want);
        else
            expect_error(own[i].source, own[i].vars, 0, "t: line 1: ");
    }
}

static void test_compile_errors(void **state)
{
    static const struct {
        const char *source, *part;
        int code;
    } bad[] = {
        {"a\nb\n{{ 1 + }}", "t: line 3: unexpected 'end of print statement'", ERR_FORMAT},
        {"{% if x %}\n{% for a in b %}\n{% endif %}",
         "t: line 3: unknown tag 'endif'; the innermost open block is closed by 'endfor'", ERR_FORMAT},
        {"{% if x %}\n\n", "t: line 2: unexpected end of template, looking for 'endif'", ERR_FORMAT},
        {"\r\n\r\n{{ 'abc", "t: line 3: a string is not closed", ERR_FORMAT},
        {"{#\n#}{# x", "t: line 2: missing end of comment tag", ERR_FORMAT},
        {"\n{% raw %} {% endra %}", "t: line 2: missing end of raw directive", ERR_FORMAT},
        {"{{ 9223372036854775808 }}", "big integers", ERR_UNSUPPORTED},
        {"{% include 'x' %}", "'include' is not supported", ERR_UNSUPPORTED},
        {"{{ \"\\N{DASH}\" }}", "not supported", ERR_UNSUPPORTED},
        {"{{ (a] }}", "unexpected ']', expected ')'", ERR_FORMAT},
        {"\xff", "not valid UTF-8", ERR_FORMAT},
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(bad); i++) expect_error(bad[i].source, NULL, bad[i].code, bad[i].part);
}

static void test_runtime_errors(void **state)
{
    (void)state;
    expect_error("{{ raise_exception('exactly this') }}", NULL, ERR_TEMPLATE, "exactly this");
    expect_error("a\n{{ x.y }}", NULL, ERR_TEMPLATE, "t: line 2: 'x' is undefined");
    expect_error("{% macro m(a) %}\n{{ a.y }}{% endmacro %}\n{{ m({}) + 1 }}", NULL, ERR_TEMPLATE,
                 "t: line 3: can only concatenate str");
    expect_error("{{ 9223372036854775807 + 1 }}", NULL, ERR_UNSUPPORTED, "big integers");
    expect_error("{{ -9223372036854775807 - 2 }}", NULL, ERR_UNSUPPORTED, "big integers");
    expect_error("{{ 3037000500 * 3037000500 }}", NULL, ERR_UNSUPPORTED, "big integers");
    expect_error("{{ 10 ** 19 }}", NULL, ERR_UNSUPPORTED, "big integers");
    expect_error("{{ 5000000000000000001|round(-19) }}", NULL, ERR_UNSUPPORTED, "big integers");
    expect_error("{{ 9223372036854775807|round(-1) }}", NULL, ERR_UNSUPPORTED, "big integers");
    expect_error("{{ (-9223372036854775807 - 1) // -1 }}", NULL, ERR_UNSUPPORTED, "big integers");
    expect_error("{{ range(100001) }}", NULL, ERR_LIMIT, "Range too big");

    /* The template's own message is the whole message, cut between characters where it is too long. */
    struct buf source = {0}, out = {0};
    struct err e;
    for (int i = 0; i < 400; i++) assert_int_equal(buf_z(&source, i ? "\303\251" : "{{ raise_exception('"), 0);
    assert_int_equal(buf_z(&source, "') }}"), 0);
    assert_int_equal(render(buf_view(&source), NULL, NULL, &out, &e), ERR_TEMPLATE);
    assert_int_equal(strlen(e.msg), 502);
    assert_true(utf8_valid(str_of(e.msg)));
    buf_fini(&source);
    buf_fini(&out);
}

static void test_dates(void **state)
{
    static const struct {
        int64_t now;
        const char *want;
    } dates[] = {
        {0,
         "Thu Thursday Jan January 01 1  1 001 00 12 12 AM 00 00 70 1970 01 1 00 00 4 4 1970-W01 1970-01-01 00:00:00 01/01/70 "
         "00:00 Thu Jan  1 00:00:00 1970"},
        {951868799,
         "Tue Tuesday Feb February 29 29 29 060 23 11 11 PM 59 59 00 2000 02 2 09 09 2 2 2000-W09 2000-02-29 23:59:59 "
         "02/29/00 23:59 Tue Feb 29 23:59:59 2000"},
        {NOON, "Thu Thursday Jan January 15 15 15 015 12 12 12 PM 00 00 26 2026 01 1 02 02 4 4 2026-W03 2026-01-15 12:00:00 "
               "01/15/26 12:00 Thu Jan 15 12:00:00 2026"},
        {1735689599, "Tue Tuesday Dec December 31 31 31 366 23 11 11 PM 59 59 24 2024 12 12 52 53 2 2 2025-W01 2024-12-31 "
                     "23:59:59 12/31/24 23:59 Tue Dec 31 23:59:59 2024"},
        {1609459200, "Fri Friday Jan January 01 1  1 001 00 12 12 AM 00 00 21 2021 01 1 00 00 5 5 2020-W53 2021-01-01 00:00:00 "
                     "01/01/21 00:00 Fri Jan  1 00:00:00 2021"},
        {-86401, "Tue Tuesday Dec December 30 30 30 364 23 11 11 PM 59 59 69 1969 12 12 52 52 2 2 1970-W01 1969-12-30 23:59:59 "
                 "12/30/69 23:59 Tue Dec 30 23:59:59 1969"},
        {4102444800, "Fri Friday Jan January 01 1  1 001 00 12 12 AM 00 00 00 2100 01 1 00 00 5 5 2099-W53 2100-01-01 00:00:00 "
                     "01/01/00 00:00 Fri Jan  1 00:00:00 2100"},
        {1451606399, "Thu Thursday Dec December 31 31 31 365 23 11 11 PM 59 59 15 2015 12 12 52 52 4 4 2015-W53 2015-12-31 "
                     "23:59:59 12/31/15 23:59 Thu Dec 31 23:59:59 2015"},
    };
    static const char source[] =
        "{{ strftime_now('%a %A %b %B %d %-d %e %j %H %I %-I %p %M %S %y %Y %m %-m %U %W %u %w %G-W%V %F %T "
        "%D %R %c') }}";
    (void)state;
    struct jinja *t;
    struct err e;
    assert_int_equal(jinja_compile(str_of(source), "t", &t, &e), 0);
    for (size_t i = 0; i < COUNT_OF(dates); i++) {
        struct buf out = {0};
        assert_int_equal(jinja_render(t, NULL, dates[i].now, NULL, &out, &e), 0);
        assert_int_equal(buf_c(&out, '\0'), 0);
        assert_string_equal(out.p, dates[i].want);
        buf_fini(&out);
    }
    struct buf out = {0};
    assert_int_equal(jinja_render(t, NULL, INT64_MAX, NULL, &out, &e), 0);
    assert_int_equal(jinja_render(t, NULL, INT64_MIN, NULL, &out, &e), 0);
    buf_fini(&out);
    jinja_free(&t);
}

/* ---- published templates ---------------------------------------------------------------------------------------------- */

static bool case_passes(const struct jinja *t, const struct json *file, const struct json *c)
{
    const struct json *tools = json_find(c, "tools"), *gen = json_find(c, "add_generation_prompt");
    const struct json *want = json_find(c, "rendered"), *other = json_find(c, "rendered_js"), *error = json_find(c, "error");
    struct chat_args args = {
        .messages = json_find(c, "messages"),
        .tools = tools && tools->type == JSON_ARRAY ? tools : NULL,
        .add_generation_prompt = gen && gen->type == JSON_TRUE,
        .bos = json_find(file, "bos_token")->s,
        .eos = json_find(file, "eos_token")->s,
        .now = NOON,
    };
    struct buf out = {0};
    struct err e = {0};
    int rc = chat_render(t, &args, &out, &e);
    bool ok;
    if (error)
        ok = rc == ERR_TEMPLATE && str_is(error->s, e.msg);
    else
        ok = rc == 0 &&
             (str_eq(buf_view(&out), want->s) || (other && other->type == JSON_STRING && str_eq(buf_view(&out), other->s)));
    if (!ok) print_error("%.*s: %s: %d %s\n", STR_ARG(json_find(file, "template")->s), json_find(c, "name")->s.p, rc, e.msg);
    buf_fini(&out);
    return ok;
}

static void template_passes(const char *folder, const char *name, size_t *cases, size_t *errors)
{
    struct arena a = {0};
    struct err e;
    struct str text;
    struct json *file;
    struct jinja *t;
    char *path, *source;
    assert_int_equal(vfs_join(&a, folder, name, &path, &e), 0);
    assert_non_null(source = arena_dup(&a, path, strlen(path) + 1));
    assert_int_equal(vfs_read(path, 1 << 20, &a, &text, &e), 0);
    assert_int_equal(json_parse(&a, text, name, &file, &e), 0);
    memcpy(source + strlen(path) - 4, "jinja", 6);
    assert_int_equal(vfs_read(source, 1 << 20, &a, &text, &e), 0);
    assert_int_equal(jinja_compile(text, source, &t, &e), 0);
    const struct json *list = json_find(file, "cases");
    for (size_t i = 0; i < list->n; i++) {
        assert_true(case_passes(t, file, &list->v[i]));
        *errors += json_find(&list->v[i], "error") != NULL;
    }
    *cases += list->n;
    jinja_free(&t);
    arena_fini(&a);
}

static void test_published_templates(void **state)
{
    (void)state;
    const char *shared = scratch_shared("templates");
    size_t templates = 0, cases = 0, errors = 0;
    char folder[400];
    DIR *dir = shared ? opendir(shared) : NULL;
    if (!dir) {
        print_message("the published templates are not here: not run\n");
        skip();
    }
    snprintf(folder, sizeof folder, "%s", shared);
    for (struct dirent *f; (f = readdir(dir));) {
        size_t n = strlen(f->d_name);
        if (n < 6 || strcmp(f->d_name + n - 5, ".json") != 0) continue;
        template_passes(folder, f->d_name, &cases, &errors);
        templates++;
    }
    closedir(dir);
    print_message("%zu templates, %zu cases equal, %zu of them errors\n", templates, cases, errors);
    assert_true(templates >= 17 && cases >= 342);
}

/* ---- chats ------------------------------------------------------------------------------------------------------------- */

/* The template of the demo model. */
static const char demo[] =
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set "
    "content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";

static void test_chat(void **state)
{
    (void)state;
    struct arena a = {0};
    struct err e;
    struct jinja *t;
    struct json *messages, *kwargs;
    struct buf out = {0};
    assert_int_equal(jinja_compile(str_of(demo), "demo", &t, &e), 0);
    assert_int_equal(
        json_parse(&a, STR("[{\"role\":\"system\",\"content\":\"Be kind.\"},{\"role\":\"user\",\"content\":\" Hi \"}]"), "m",
                   &messages, &e),
        0);
    struct chat_args args = {.messages = messages, .add_generation_prompt = true, .bos = STR("<s>"), .eos = STR("</s>")};
    assert_int_equal(chat_render(t, &args, &out, &e), 0);
    assert_true(str_is(buf_view(&out), "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
                                       "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
                                       "<|start_header_id|>assistant<|end_header_id|>\n\n"));
    jinja_free(&t);

    out.n = 0;
    assert_int_equal(
        jinja_compile(STR("{{ tools }} {{ documents }} {{ x }} {{ bos_token }} {{ eos_token }} {{ add_generation_prompt }}"),
                      "vars", &t, &e),
        0);
    assert_int_equal(json_parse(&a, STR("{\"x\":[1],\"bos_token\":\"B\",\"documents\":2}"), "k", &kwargs, &e), 0);
    args.kwargs = kwargs;
    assert_int_equal(chat_render(t, &args, &out, &e), 0);
    assert_true(str_is(buf_view(&out), "None 2 [1] B </s> True"));
    assert_int_equal(json_parse(&a, STR("{\"messages\":[]}"), "k", &kwargs, &e), 0);
    args.kwargs = kwargs;
    assert_int_equal(chat_render(t, &args, &out, &e), ERR_ARG);
    args = (struct chat_args){.messages = kwargs};
    assert_int_equal(chat_render(t, &args, &out, &e), ERR_ARG);
    args = (struct chat_args){0};
    assert_int_equal(chat_render(t, &args, &out, &e), ERR_ARG);
    assert_int_equal(jinja_render(t, messages, 0, NULL, &out, &e), ERR_ARG);
    jinja_free(&t);
    buf_fini(&out);
    arena_fini(&a);
}

struct tools_case {
    struct arena a;
    struct str source, want;
    struct json *file;
};

static void tools_open(struct tools_case *c)
{
    struct err e;
    struct str text;
    static const char folder[] = SOURCE_ROOT "/tests/unit/data";
    assert_int_equal(vfs_read(scratch_path(folder, "tools.jinja"), 1 << 16, &c->a, &c->source, &e), 0);
    assert_int_equal(vfs_read(scratch_path(folder, "tools.txt"), 1 << 16, &c->a, &c->want, &e), 0);
    c->want.n--; /* a file ends with a newline, the rendering does not */
    assert_int_equal(vfs_read(scratch_path(folder, "tools.json"), 1 << 16, &c->a, &text, &e), 0);
    assert_int_equal(json_parse(&c->a, text, "tools.json", &c->file, &e), 0);
}

static int tools_render(const struct tools_case *c, struct buf *out, struct err *e)
{
    struct jinja *t = NULL;
    struct chat_args args = {
        .messages = json_find(c->file, "messages"),
        .tools = json_find(c->file, "tools"),
        .add_generation_prompt = true,
        .bos = STR("<s>"),
        .eos = STR("</s>"),
        .now = NOON,
    };
    int rc = jinja_compile(c->source, "tools.jinja", &t, e);
    if (rc == 0) rc = chat_render(t, &args, out, e);
    jinja_free(&t);
    return rc;
}

static void test_tools(void **state)
{
    (void)state;
    struct tools_case c = {0};
    struct buf out = {0};
    struct err e;
    tools_open(&c);
    assert_int_equal(tools_render(&c, &out, &e), 0);
    assert_true(str_eq(buf_view(&out), c.want));
    buf_fini(&out);
    arena_fini(&c.a);
}

/* Every allocation of compiling and rendering fails once: a clean error, nothing left, and the next attempt works. */
static void test_out_of_memory(void **state)
{
    (void)state;
    struct tools_case c = {0};
    tools_open(&c);
    size_t before = mem_stats().current, failed = 0;
    for (size_t k = 1;; k++) {
        struct scratch_nth nth = {.kind = FAULT_ALLOC, .at = k};
        struct buf out = {0};
        struct err e = {0};
        fault_set(scratch_fail_nth, &nth);
        int rc = tools_render(&c, &out, &e);
        fault_set(NULL, NULL);
        if (rc == 0) assert_true(str_eq(buf_view(&out), c.want));
        if (rc < 0) assert_true(rc == ERR_NOMEM && e.code == ERR_NOMEM && e.msg[0]);
        failed += rc < 0;
        buf_fini(&out);
        assert_int_equal(mem_stats().current, before);
        if (nth.seen < k) break;
    }
    assert_true(failed > 10);
    arena_fini(&c.a);
}

/* One compiled template, many threads. */
static void render_shared(void *ctx, unsigned ith, unsigned nth)
{
    const struct jinja *t = ctx;
    (void)ith, (void)nth;
    for (int i = 0; i < 20; i++) {
        struct buf out = {0};
        struct err e;
        assert_int_equal(jinja_render(t, NULL, NOON, NULL, &out, &e), 0);
        assert_true(str_is(buf_view(&out), "\303\251t\303\251s 4 {'k': ['x', 'y']} \303\211 x-y 2026"));
        buf_fini(&out);
    }
}

static void test_threads(void **state)
{
    (void)state;
    struct jinja *t;
    struct pool *pool;
    struct err e;
    assert_int_equal(
        jinja_compile(STR("{% set s = '\303\251t\303\251s' %}{% macro m(x) %}{{ x[0]|upper }}{% endmacro %}{{ s }} "
                          "{{ s|length }} {{ {'k': ['x', 'y']} }} {{ m(s) }} {{ 'x y'.split()|join('-') }} "
                          "{{ strftime_now('%Y') }}"),
                      "t", &t, &e),
        0);
    assert_int_equal(pool_new(4, &pool, &e), 0);
    pool_run(pool, render_shared, t);
    pool_free(&pool);
    jinja_free(&t);
}

/* Callers hand in struct json that no parser has seen: bytes that are not UTF-8 pass through as single characters, a tree
 * without an end to its depth is refused. */
static void test_unchecked_variables(void **state)
{
    (void)state;
    struct jinja *t;
    struct err e;
    struct buf out = {0};
    struct str key = STR("s");
    struct json bytes = {.type = JSON_STRING, .s = STR("\xff a\xc3\xa9\xc3 ")};
    struct json vars = {.type = JSON_OBJECT, .n = 1, .keys = &key, .v = &bytes};
    assert_int_equal(
        jinja_compile(
            STR("{{ s|length }}{{ s|upper }}|{{ s[0] }}|{{ s[-2:] }}|{{ s.strip() }}|{{ s.rsplit() }}|{{ s|tojson(true) }}"),
            "t", &t, &e),
        0);
    assert_int_equal(jinja_render(t, &vars, 0, NULL, &out, &e), 0);
    assert_true(str_is(buf_view(&out), "6\xff A\xc3\x89\xc3 |\xff|\xc3 |\xff a\xc3\xa9\xc3|['\xff', 'a\xc3\xa9\xc3']|"
                                       "\"\\ufffd a\\u00e9\\ufffd \""));
    struct json deep[200];
    for (size_t i = 0; i < COUNT_OF(deep); i++)
        deep[i] = (struct json){.type = JSON_ARRAY, .n = i + 1 < COUNT_OF(deep), .v = &deep[i] + 1};
    vars.v = deep;
    out.n = 0;
    assert_int_equal(jinja_render(t, &vars, 0, NULL, &out, &e), ERR_LIMIT);
    assert_non_null(strstr(e.msg, "variable 's'"));
    jinja_free(&t);
    buf_fini(&out);
}

/* ---- limits -----------------------------------------------------------------------------------------------------------------
 */

static void expect_limit(const char *source, struct jinja_limits limits, const char *part)
{
    struct buf out = {0};
    struct err e;
    assert_int_equal(render(str_of(source), data_text, &limits, &out, &e), ERR_LIMIT);
    assert_non_null(strstr(e.msg, part));
    assert_int_equal(out.n, 0);
    buf_fini(&out);
}

static void test_limits(void **state)
{
    (void)state;
    expect_limit("{% for x in range(1000) %}{{ x }}{% endfor %}", (struct jinja_limits){.fuel = 10000}, "more work");
    expect_limit("{% for x in range(1000) %}{{ x }}{% endfor %}", (struct jinja_limits){.output = 1000},
                 "writes more than 1000 bytes");
    expect_limit("{{ range(1000)|list|length }}", (struct jinja_limits){.memory = 8000}, "more than 8000 bytes");
    expect_limit("{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}", (struct jinja_limits){.depth = 10}, "more than 10)");
    struct buf out = {.limit = 10};
    struct err e;
    assert_int_equal(render(STR("{{ 'x' * 11 }}"), NULL, NULL, &out, &e), ERR_LIMIT);
    assert_int_equal(out.n, 0);
    buf_fini(&out);

    /* What a conversation may ask for is enough: recursion over a deep schema, and a text put together piece by piece. */
    expect_text(
        "{% macro m(n) %}{% if n %}{% for i in [1] %}({{ m(n - 1) }}){% endfor %}{% endif %}{% endmacro %}{{ m(30)|length }}",
        NULL, "60");
    expect_text("{% set ns = namespace(s='') %}{% for i in range(20000) %}{% set ns.s = ns.s + '0123456789' %}{% endfor %}"
                "{{ ns.s|length }}",
                NULL, "200000");
}

/* Work is paid for by the size of the conversation: 4 MiB of text pass through a dozen string operations. */
static void test_long_conversation(void **state)
{
    (void)state;
    struct jinja *t;
    struct err e;
    struct buf out = {0};
    size_t n = (size_t)4 << 20;
    char *text = malloc(n);
    assert_non_null(text);
    for (size_t i = 0; i < n; i++) text[i] = "the quick brown fox\n"[i % 20];
    struct str keys[] = {STR("role"), STR("content")};
    struct json message[] = {{.type = JSON_STRING, .s = STR("user")}, {.type = JSON_STRING, .s = {text, n}}};
    struct json object = {.type = JSON_OBJECT, .n = 2, .keys = keys, .v = message};
    struct json messages = {.type = JSON_ARRAY, .n = 1, .v = &object};
    struct chat_args args = {.messages = &messages};
    assert_int_equal(
        jinja_compile(STR("{% for m in messages %}{% set c = m.content|trim %}{% set c = c.replace('fox', 'cat') %}"
                          "{% if '<think>' in c %}no{% endif %}{{ '<' + m.role + '>' + c|upper|replace('CAT', 'dog') ~ "
                          "c.split('\n')|length }}{% endfor %}"),
                      "long", &t, &e),
        0);
    assert_int_equal(chat_render(t, &args, &out, &e), 0);
    assert_int_equal(out.n, 6 + n - 1 + 6);
    buf_fini(&out);
    jinja_free(&t);
    free(text);
}

/* ---- harm
 * ---------------------------------------------------------------------------------------------------------------------- */

/* head, then part so many times, then tail. */
static const struct {
    const char *head, *part;
    size_t times;
    const char *tail;
} hostile[] = {
    {"{{ 'x' * 10**9 }}", "", 0, ""},
    {"{{ 'x' * 9223372036854775807 }}", "", 0, ""},
    {"{{ ('x' * 1000) * 9223372036854775807 }}", "", 0, ""},
    {"{{ [1] * 10**9 }}", "", 0, ""},
    {"{{ [1, 2] * 9223372036854775807 }}", "", 0, ""},
    {"{% for i in range(10**9) %}{% endfor %}", "", 0, ""},
    {"{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "", 0, ""},
    {"{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}", "", 0, ""},
    {"{% for i in range(100000) %}{% for j in range(100000) if j < 0 %}{% endfor %}{% endfor %}", "", 0, ""},
    {"{% for i in range(100000) %}{{ range(100000)|list }}{% endfor %}", "", 0, ""},
    {"{% for i in range(100000) %}{{ range(100000)|sum }}{% endfor %}", "", 0, ""},
    {"{% for i in range(100000) %}{{ range(10000)|sort|first }}{% endfor %}", "", 0, ""},
    {"{% set n = namespace(s='xxxxxxxx') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}", "", 0, ""},
    {"{% set n = namespace(s='xxxxxxxx') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}", "", 0, ""},
    {"{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}", "", 0, ""},
    {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "", 0, ""},
    {"{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}", "", 0, ""},
    {"{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(30) }}", "", 0, ""},
    {"{% macro m() %}{{ caller() }}{% endmacro %}{% macro n() %}{% call m() %}{{ n() }}{% endcall %}{% endmacro %}{{ n() }}",
     "", 0, ""},
    {"{% macro m() %}{% set x %}{% filter upper %}{% with %}{{ '%s'|format(m()) }}{% endwith %}{% endfilter %}{% endset %}"
     "{% endmacro %}{{ m() }}",
     "", 0, ""},
    {"{% for i in [0] recursive %}{{ loop([0]) }}{% endfor %}", "", 0, ""},
    {"{{ 'x'.center(10**9) }}", "", 0, ""},
    {"{{ 'x'|center(10**9) }}", "", 0, ""},
    {"{{ 'x'.ljust(10**12) }}", "", 0, ""},
    {"{{ 'x'.zfill(10**18) }}", "", 0, ""},
    {"{{ '\t'.expandtabs(10**9) }}", "", 0, ""},
    {"{{ '%1000000000d' % 1 }}", "", 0, ""},
    {"{{ '%99999999999999999999999d' % 1 }}", "", 0, ""},
    {"{{ '%.1000000000f' % 1 }}", "", 0, ""},
    {"{{ '%*d' % (10**9, 1) }}", "", 0, ""},
    {"{{ '{:1000000000}'.format(1) }}", "", 0, ""},
    {"{{ '{:.1000000000f}'.format(1) }}", "", 0, ""},
    {"{% set s = 'a' * 100000 %}{{ s.replace('a', s) }}", "", 0, ""},
    {"{% set s = 'a' * 100000 %}{{ s.replace('', s) }}", "", 0, ""},
    {"{% set s = 'a' * 100000 %}{{ s.join(s) }}", "", 0, ""},
    {"{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{{ s.find('b') }}{% endfor %}", "", 0, ""},
    {"{% set s = 'a' * 300000 %}{{ s.find('a' * 150000 ~ 'b') }}", "", 0, ""},
    {"{% set s = 'a' * 300000 %}{{ s.rfind('a' * 1000 ~ 'b') }}", "", 0, ""},
    {"{% set s = 'a\303\251' * 500000 %}{% for i in range(100000) %}{{ s[499999] }}{% endfor %}", "", 0, ""},
    {"{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% set x = s.upper() %}{% endfor %}", "", 0, ""},
    {"{% set s = 'a' * 1000000 %}{{ s.strip('b' * 1000000 ~ 'a') }}", "", 0, ""},
    {"{% set s = 'a' * 1000000 %}{{ s|wordwrap(1) }}", "", 0, ""},
    {"{% set s = '\n' * 100000 %}{{ s|indent(100000, true, true) }}", "", 0, ""},
    {"{{ 'x'|indent(10**9, true) }}", "", 0, ""},
    {"{{ [1]|tojson(indent=10**9) }}", "", 0, ""},
    {"{{ [1]|slice(10**9)|list }}", "", 0, ""},
    {"{{ [1]|batch(10**9, 1)|list }}", "", 0, ""},
    {"{{ ('<' * 1000000)|e|e|forceescape|forceescape|length }}", "", 0, ""},
    {"{{ ('\\\\' * 100000)|tojson|tojson|tojson|tojson|tojson|tojson|tojson|tojson|length }}", "", 0, ""},
    {"{% for i in range(100000) %}{{ strftime_now('%c' * 1000) }}{% endfor %}", "", 0, ""},
    {"{% set n = namespace(x=[]) %}{% for i in range(100000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}", "", 0, ""},
    {"{% set n = namespace(x=[]) %}{% for i in range(90000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x|tojson }}", "", 0, ""},
    {"{% set n = namespace(x=[], y=[]) %}{% for i in range(9000) %}{% set n.x = [n.x] %}{% set n.y = [n.y] %}{% endfor %}"
     "{{ n.x == n.y }}",
     "", 0, ""},
    {"{% set n = namespace(x=()) %}{% for i in range(9000) %}{% set n.x = (n.x,) %}{% endfor %}{{ {n.x: 1} }}", "", 0, ""},
    {"{% set n = namespace(x=()) %}{% for i in range(9000) %}{% set n.x = (n.x,) %}{% endfor %}{{ n.x < (n.x,) }}", "", 0, ""},
    {"{% set n = namespace(x=[]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x|string|length }}", "",
     0, ""},
    {"{% set l = [] %}{% set _ = l.append(l) %}{{ l }}", "", 0, ""},
    {"{% set l = [] %}{% set _ = l.append(l) %}{{ l|tojson }}", "", 0, ""},
    {"{% set l = [1] %}{% for x in l %}{% set _ = l.append(1) %}{% endfor %}", "", 0, ""},
    {"{% set l = range(100000)|list %}{% for i in range(100000) %}{% set _ = l.pop(0) %}{% endfor %}", "", 0, ""},
    {"{% macro m() %}{{ varargs|length }}{% endmacro %}{% for i in range(100000) %}{{ m(*range(100000)) }}{% endfor %}", "", 0,
     ""},
    {"{{ 9**9**9**9 }}", "", 0, ""},
    {"{{ ", "(", 100000, ""},
    {"{{ ", "[", 100000, ""},
    {"{{ ", "{1:", 100000, ""},
    {"{{ ", "f(", 100000, ""},
    {"{{ ", "not ", 100000, "1 }}"},
    {"{{ ", "-", 100000, "1 }}"},
    {"{{ a", ".b", 100000, " }}"},
    {"{{ a", "[0]", 100000, " }}"},
    {"{{ a", "()", 100000, " }}"},
    {"{{ 1", "|abs", 100000, " }}"},
    {"{{ 1", "+1", 100000, " }}"},
    {"{{ 1", "~1", 100000, " }}"},
    {"{{ 1", "**1", 100000, " }}"},
    {"{{ 1", "<2", 100000, " }}"},
    {"{{ 1", " and 1", 100000, " }}"},
    {"{{ 1", " if 1", 100000, " }}"},
    {"{{ 1", " if 1 else 1", 80000, " }}"},
    {"{{ 1", " is number", 100000, " }}"},
    {"{{ f(", "x,", 100000, ") }}"},
    {"{% set ", "(", 100000, ""},
    {"{% set ", "a,", 100000, ""},
    {"{% for ", "(", 100000, ""},
    {"", "{% if 1 %}", 20000, ""},
    {"", "{% for x in y %}", 20000, ""},
    {"", "{% macro m() %}", 20000, ""},
    {"", "{% set x %}", 20000, ""},
    {"", "{% filter upper %}", 20000, ""},
    {"{% if x %}", "{% elif x %}", 80000, "{% endif %}"},
    {"", "{{ x }}", 140000, ""},
    {"", "{#", 500000, ""},
    {"", "{{", 500000, ""},
    {"", "{%", 500000, ""},
    {"{% raw %}", "{% endraw", 100000, ""},
    {"{{ '", "\\", 500001, ""},
    {"{%", " ", 1000000, "raw"},
    {"{% raw %}", "{%      ", 120000, ""},
    {"", "xxxxxxxx", 140000, "the source itself is too long"},
};

struct harm {
    double worst_ms;
    size_t worst_bytes, wrong;
};

static void *do_harm(void *arg)
{
    struct harm *h = arg;
    for (size_t i = 0; i < COUNT_OF(hostile); i++) {
        struct buf source = {0}, out = {0};
        struct err e;
        int rc = buf_z(&source, hostile[i].head);
        for (size_t k = 0; k < hostile[i].times && rc == 0; k++) rc = buf_z(&source, hostile[i].part);
        if (rc == 0) rc = buf_z(&source, hostile[i].tail);
        size_t before = mem_stats().current;
        mem_peak_reset();
        const double start = scratch_cpu_seconds();
        if (rc == 0) rc = render(buf_view(&source), NULL, NULL, &out, &e);
        const double ms = (scratch_cpu_seconds() - start) * 1e3;
        size_t bytes = mem_stats().peak - before;
        if (ms > h->worst_ms) h->worst_ms = ms;
        if (bytes > h->worst_bytes) h->worst_bytes = bytes;
        if (rc >= 0 || rc == ERR_NOMEM || !e.msg[0] || bytes > (size_t)16 << 20) {
            print_error("%.60s: %d, %.1f ms, %zu bytes\n", hostile[i].head, rc, ms, bytes);
            h->wrong++;
        }
        buf_fini(&source);
        buf_fini(&out);
    }
    return NULL;
}

/* Each ends with an error, within 50 ms of one CPU and 16 MiB, on a stack of 256 KiB. */
static void test_hostile_templates(void **state)
{
    (void)state;
    struct harm h = {0};
    pthread_t thread;
    pthread_attr_t attr;
    bool fast = !SANITIZED && !scratch_slow();
    pthread_attr_init(&attr);
    if (fast) assert_int_equal(pthread_attr_setstacksize(&attr, 256 << 10), 0);
    assert_int_equal(pthread_create(&thread, &attr, do_harm, &h), 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attr);
    print_message("%zu hostile templates: at most %.1f ms and %.1f MiB\n", COUNT_OF(hostile), h.worst_ms,
                  (double)h.worst_bytes / 1048576.0);
    assert_int_equal(h.wrong, 0);
    if (fast) assert_true(h.worst_ms < 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_language),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_own_ways),
        cmocka_unit_test(test_compile_errors),
        cmocka_unit_test(test_runtime_errors),
        cmocka_unit_test(test_dates),
        cmocka_unit_test(test_published_templates),
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_tools),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_unchecked_variables),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_long_conversation),
        cmocka_unit_test(test_hostile_templates),
    };
    return cmocka_run_group_tests_name("jinja", tests, NULL, NULL);
}
