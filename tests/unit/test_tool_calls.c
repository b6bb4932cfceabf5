/* tool_calls, parts: thinking, answers and calls come out alike however the text is cut into pieces. */
#include "serve/parts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static const struct example {
    const char *text;
    bool tools, opened; /* by the prompt */
    const char *thinking, *answer;
    const char *names[2], *arguments[2]; /* of the calls */
} examples[] = {
    {"Hello.", false, false, "", "Hello.", {0}, {0}},
    {"", true, false, "", "", {0}, {0}},
    {"<think>\nHm.\n</think>\n\nYes.", false, false, "\nHm.\n", "Yes.", {0}, {0}},
    {"Hm.</think>Yes.", false, true, "Hm.", "Yes.", {0}, {0}},
    {"Never closed </thi", false, true, "Never closed </thi", "", {0}, {0}},
    {"a <think>b</think>", false, false, "", "a <think>b</think>", {0}, {0}},
    {"<thin", false, false, "", "<thin", {0}, {0}},
    {"<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>",
     false,
     false,
     "",
     "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>",
     {0},
     {0}},
    {"<think>x</think>Well. <tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": "
     "1}}\n</tool_call>\n<tool_call>{\"name\":\"g\","
     "\"arguments\":{}}</tool_call>",
     true,
     false,
     "x",
     "Well. ",
     {"f", "g"},
     {"{\"a\":1}", "{}"}},
    {"<tool_call>{\"name\":\"f\",\"arguments\":{}}", true, false, "", "", {"f"}, {"{}"}},
    {"{\"name\": \"f\", \"parameters\": {\"b\": [2]}}", true, false, "", "", {"f"}, {"{\"b\":[2]}"}},
    {"[TOOL_CALLS][{\"name\":\"f\",\"arguments\":{}},{\"name\":\"g\",\"arguments\":{}}]",
     true,
     false,
     "",
     "",
     {"f", "g"},
     {"{}", "{}"}},
    {"[{\"name\":\"f\",\"arguments\":{\"a\":null}}]", true, false, "", "", {"f"}, {"{\"a\":null}"}},
    {"The set {1, 2} [TOOL", true, false, "", "The set {1, 2} [TOOL", {0}, {0}},
    {"{\"name\": 1}", true, false, "", "{\"name\": 1}", {0}, {0}},
    {"<tool_call>{broken</tool_call>", true, false, "", "<tool_call>{broken</tool_call>", {0}, {0}},
    {"<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call> and text",
     true,
     false,
     "",
     "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call> and text",
     {0},
     {0}},
};

static int collect(void *user, enum part part, struct str text)
{
    return buf_str((struct buf *)user + part, text);
}

static void check_calls(const struct example *x, const struct tool_style *style, struct str held, struct buf *answer)
{
    struct arena a = {0};
    struct tool_call *calls;
    size_t n;
    if (!tool_calls_parse(&a, held, style, &calls, &n)) assert_int_equal(buf_str(answer, held), 0);
    for (size_t i = 0; i < 2; i++) {
        struct buf b = {0};
        assert_int_equal(x->names[i] != NULL, i < n);
        if (i >= n) continue;
        assert_true(str_is(calls[i].name, x->names[i]));
        assert_int_equal(json_write(&b, calls[i].arguments), 0);
        assert_true(str_is(buf_view(&b), x->arguments[i]));
        buf_fini(&b);
    }
    arena_fini(&a);
}

static void check(const struct example *x, const struct tool_style *style, size_t piece)
{
    struct parts p;
    struct buf out[2] = {0}; /* by enum part */
    struct str all = str_of(x->text), held;
    parts_init(&p, x->tools, style, x->opened);
    for (size_t i = 0; i < all.n; i += piece)
        assert_int_equal(parts_put(&p, (struct str){all.p + i, size_min(piece, all.n - i)}, collect, out), 0);
    assert_int_equal(parts_end(&p, collect, out, &held), 0);
    check_calls(x, style, held, &out[PART_ANSWER]);
    assert_true(str_is(buf_view(&out[PART_ANSWER]), x->answer));
    assert_true(str_is(buf_view(&out[PART_THINKING]), x->thinking));
    buf_fini(&out[0]);
    buf_fini(&out[1]);
    parts_fini(&p);
}

static void examples_come_apart(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(examples); i++)
        for (size_t piece = 1; piece < 120; piece += piece < 20 ? 1 : 33) check(&examples[i], NULL, piece);
}

/* Calls that are held to a form come in the style of the model, and what has another is text. */
static void styles_are_told_apart(void **state)
{
    static const char tagged[] = "{%- if tools %}<tool_call>", listed[] = "[TOOL_CALLS][", llama[] = "<|python_tag|>",
                      none[] = "";
    static const struct {
        const char *template;
        struct example x;
    } rows[] = {
        {tagged, {"a<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>", true, false, "", "a", {"f"}, {"{}"}}},
        {tagged, {"{\"name\": \"f\", \"arguments\": {}}", true, false, "", "{\"name\": \"f\", \"arguments\": {}}", {0}, {0}}},
        {listed, {"[{\"name\": \"f\", \"arguments\": {}}]", true, false, "", "", {"f"}, {"{}"}}},
        {listed, {"{\"name\": \"f\", \"arguments\": {}}", true, false, "", "{\"name\": \"f\", \"arguments\": {}}", {0}, {0}}},
        {llama, {"<|python_tag|>{\"name\": \"f\", \"parameters\": {}}", true, false, "", "", {"f"}, {"{}"}}},
        {llama, {"{\"name\": \"f\", \"parameters\": {}}", true, false, "", "", {"f"}, {"{}"}}},
        {none, {"{\"name\": \"f\", \"arguments\": {}}", true, false, "", "", {"f"}, {"{}"}}},
        {none, {"{ \"name\":\"f\",\"arguments\":{}}", true, false, "", "{ \"name\":\"f\",\"arguments\":{}}", {0}, {0}}},
        {none, {"[{\"name\": \"f\"}]", true, false, "", "[{\"name\": \"f\"}]", {0}, {0}}},
    };
    bool own;
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        for (size_t piece = 1; piece < 40; piece++) check(&rows[i].x, tool_style_of(str_of(rows[i].template), &own), piece);
}

static void other_notations_are_noticed(void **state)
{
    static const struct {
        const char *template;
        bool own;
    } rows[] = {{"", false},
                {"{{ messages }}", false},
                {"{% if tools %}<tool_call>", false},
                {"{% if tools %}[TOOL_CALLS]", false},
                {"{% if tools %}the format {\"name\": function name, \"parameters\": ..}", false},
                {"{% if tools %}<|channel|>", true},
                {"{% if tools %}<tool_call>\n<function=", true},
                {"{% if tools %}[TOOL_CALLS]f[ARGS]", true},
                {"{% if tools %}<tool_call>x<arg_key>", true}};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        bool own;
        const struct tool_style *style = tool_style_of(str_of(rows[i].template), &own);
        assert_int_equal(own, rows[i].own);
        assert_true(!own || style->plain);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(examples_come_apart), cmocka_unit_test(styles_are_told_apart),
                                       cmocka_unit_test(other_notations_are_noticed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
