/* pre: the pre-tokenizers that GGUF files name. Each name opens; words of each are what its published expression gives, by
 * hand; what is found by scanners instead of the expression is compared with the expression; and no text takes long. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <pthread.h>

#include "scratch.h"
#include "text/text_int.h"

#include <cmocka.h>

static uint64_t rng_state = 1;

static uint32_t rng(uint32_t n)
{
    return scratch_below(&rng_state, n);
}

static struct tok *open_named(const char *name)
{
    struct tok *t = NULL;
    struct err e = {0};
    bool add_bos;
    assert_int_equal(tok_new(&t, &e), 0);
    if (pre_add_named(t, str_of(name), &add_bos, &e) < 0) fail_msg("%s: %s", name, e.msg);
    return t;
}

static struct tok *open_regex(const char *regex)
{
    struct tok *t = NULL;
    struct err e = {0};
    assert_int_equal(tok_new(&t, &e), 0);
    if (pre_add_regex(t, str_of(regex), PRE_ISOLATED, &e) < 0) fail_msg("%s", e.msg);
    return t;
}

/* The words of a text, each followed by '|'; the number of words. */
static size_t words_of(const struct tok *t, struct str text, struct buf *out)
{
    struct pre_run r;
    struct err e = {0};
    struct str w;
    size_t n = 0;
    int rc;
    pre_run_init(&r, t, text.n);
    pre_start(&r, text, true, false);
    for (; (rc = pre_next(&r, &w, &e)) > 0; n++) {
        assert_true(w.n > 0);
        if (out) buf_str(out, w);
        if (out) buf_c(out, '|');
    }
    if (rc < 0) fail_msg("%s", e.msg);
    pre_run_fini(&r);
    return n;
}

static void words_are_those_of_the_published_expressions(void **state)
{
    static const struct {
        const char *name, *text, *want;
    } rows[] = {
        {"llama-bpe", "It's 12345 x.\n\n  yes", "It|'s| |123|45| x|.\n\n| | yes|"},
        {"llama-bpe", "WE'LL a  \n b", "WE|'LL| a|  \n| b|"},
        {"gpt-2", "It's 12345 x.\n\n  yes", "It|'s| 12345| x|.|\n\n | yes|"},
        {"gpt-2", "WE'LL", "WE|'|LL|"},
        {"roberta-bpe", "a1 b", "a|1| b|"},
        {"qwen2", "x 123\t=\n", "x| |1|2|3|\t|=\n|"},
        {"qwen35", "ne\xCC\x81g 12", "ne\xCC\x81g| |1|2|"},
        {"deepseek-r1-qwen", "a-b", "a|-b|"},
        {"smollm", "a 12 b", "a| |1|2| b|"},
        {"dbrx", "1234", "123|4|"},
        {"jais-2", "a       b 1234", "a|    |  | b| |123|4|"},
        {"gpt-4o", "camelCase's HTTPServer /x\n 12345", "camel|Case's| HTTPServer| /|x|\n| |123|45|"},
        {"tekken", "camelCase's 123", "camel|Case|'s| |1|2|3|"},
        {"kimi-k2",
         "ab\xE4\xB8\xAD\xE6\x96\x87"
         "cd camelCase's 1234",
         "ab|\xE4\xB8\xAD\xE6\x96\x87|cd| camel|Case's| |123|4|"},
        {"kimi-k2", "  \xE4\xB8\xAD", " | |\xE4\xB8\xAD|"},
        {"tiny_aya", "1234567 12ab", "1|234|567| |12|ab|"},
        {"superbpe", "by 1234567, 12", "by |1|234|567|, |12|"},
        {"youtu", "aB\xED\x95\x9C\xEA\xB5\xAD 12\xEF\xBC\x81!", "a|B|\xED\x95\x9C\xEA\xB5\xAD| |1|2|\xEF\xBC\x81|!|"},
        {"default", "a, 12345 b", "a|,| |123|45| b|"},
        {"falcon", "a` 12345 b", "a|`| |123|45| b|"},
        {"deepseek-llm", "a b\n\n 12 \xE4\xB8\xAD,x  ", "a| b|\n|\n| |12| |\xE4\xB8\xAD|,|x|  |"},
        {"deepseek-coder", "a b\n12 !", "a| b|\n|1|2| !|"},
        {"deepseek-v3", "a 1234 (foo) \xE4\xB8\xAD", "a| |123|4| (|foo|)| |\xE4\xB8\xAD|"},
        {"deepseek-v3", "x.foo!!\n", "x|.foo|!!\n|"},
        {"afmoe", "x 1234567 \xE4\xB8\xAD.", "x| |1|234|567| |\xE4\xB8\xAD|.|"},
        {"bailingmoe", "it's\n\n12", "it|'s|\n\n|1|2|"},
        {"exaone-moe", "a b  c 1/\n", "a b| | c| |1|/\n|"},
        {"seed-coder", "a!\n\n12", "a|!|\n\n|1|2|"},
        {"chameleon", "a<sentinel:12> IMGIMGABZ b1.\n", "a|<|sentinel|:|1|2|>| |IMGIMGABZ| b|1|.|\n|"},
        {"bloom", "a, b(c d", "a|,| b|(|c| d|"},
        {"viking", "a12 b", "a|1|2| b|"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct tok *t = open_named(rows[i].name);
        struct buf out = {0};
        words_of(t, str_of(rows[i].text), &out);
        if (!str_is(buf_view(&out), rows[i].want))
            print_error("%s of '%s': want %s got %.*s\n", rows[i].name, rows[i].text, rows[i].want, STR_ARG(buf_view(&out)));
        assert_true(str_is(buf_view(&out), rows[i].want));
        buf_fini(&out);
        tok_close(&t);
    }
}

static void all_names_open(void **state)
{
    static const char *const some[] = {"kimi-k2",     "superbpe",  "jina-v1-en", "jina-v2-de", "roberta-bpe",
                                       "modern-bert", "chameleon", "youtu",      "afmoe",      "exaone-moe",
                                       "solar-open",  "mellum2",   "llama4"};
    size_t n = 0;
    (void)state;
    for (const char *name; (name = pre_name_at(n)) != NULL; n++) {
        struct tok *t = open_named(name);
        struct buf out = {0};
        for (size_t k = 0; k < n; k++) assert_string_not_equal(pre_name_at(k), name);
        assert_string_equal(tok_pre(t), name);
        assert_true(t->n_pre > 0);
        words_of(t, STR("The quick brown fox's 12 \xE4\xB8\xAD\xE6\x96\x87, na\xC3\xAFve\xC2\xA0\xF0\x9F\x98\x80!\r\n\tx"),
                 &out);
        buf_fini(&out);
        tok_close(&t);
    }
    assert_true(n >= 70);
    for (size_t i = 0; i < COUNT_OF(some); i++) {
        struct tok *t = open_named(some[i]);
        tok_close(&t);
    }
}

/* Texts of what the expressions tell apart. */
static void random_text(struct buf *out)
{
    static const char *const pieces[] = {"a",
                                         "B",
                                         "S",
                                         "s",
                                         "'s",
                                         "'",
                                         "1",
                                         "23",
                                         "456",
                                         "\xD9\xA3",
                                         "\xC2\xB2",
                                         " ",
                                         "     ",
                                         "            ",
                                         "  ",
                                         "\n",
                                         "\r",
                                         "\t",
                                         "\xC2\xA0",
                                         "!",
                                         "_",
                                         "\xC3\xA9",
                                         "\xC3\x89",
                                         "\xCC\x81",
                                         "\xC7\x85",
                                         "\xCA\xB0",
                                         "\xD7\x90",
                                         "\xE4\xB8\xAD",
                                         "\xE3\x80\x85",
                                         "\xE3\x80\x87",
                                         "\xE2\xBA\x80",
                                         "\xF0\x9F\x98\x80",
                                         "'LL",
                                         "\xE3\x81\x82"};
    out->n = 0;
    for (uint32_t k = rng(14); k > 0; k--) buf_z(out, pieces[rng(COUNT_OF(pieces))]);
}

static void compare(const char *what, const struct tok *fast, const struct tok *slow)
{
    struct buf text = {0}, a = {0}, b = {0};
    for (size_t round = scratch_rounds(20000); round > 0; round--) {
        random_text(&text);
        a.n = b.n = 0;
        words_of(fast, buf_view(&text), &a);
        words_of(slow, buf_view(&text), &b);
        if (!str_eq(buf_view(&a), buf_view(&b)))
            fail_msg("%s: '%.*s' instead of '%.*s'", what, STR_ARG(buf_view(&a)), STR_ARG(buf_view(&b)));
    }
    buf_fini(&text);
    buf_fini(&a);
    buf_fini(&b);
}

/* What is written another way than published, or found without PCRE2, finds the same. The group keeps the expression from being
 * recognized. */
static void scanners_equal_their_expressions(void **state)
{
#define CLASS(set) "(?:(?!\\p{Han})[" set "])"
#define UPPER CLASS("\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}")
#define LOWER CLASS("\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}")
#define LEAD "[^\\r\\n\\p{L}\\p{N}]?"
#define TAIL "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    static const struct {
        const char *name, *fast, *slow;
    } rows[] = {
        {NULL, "\\d{1,3}(?=(?:\\d{3})*\\b)", "(?:\\d{1,3}(?=(?:\\d{3})*(?![\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}])))"},
        {NULL, "(?=(\\d{3})+(?!\\d))", "(?:(?=(\\d{3})+(?!\\d)))"},
        {NULL, "\\s+$", "(?:\\s+$)"},
        {"jais-2", NULL,
         "(?:(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
         "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+"
         "|\\s{512}(?!\\S)|\\s{256}(?!\\S)|\\s{128}(?!\\S)|\\s{64}(?!\\S)|\\s{32}(?!\\S)|\\s{16}(?!\\S)|\\s{8}(?!\\S)|\\s{4}(?!"
         "\\S)"
         "|\\s{1,2}(?!\\S)|\\s{1})"},
        {NULL, "\\p{N}", "(?:\\p{N})"},
        {NULL, "\\p{N}+", "(?:\\p{N}+)"},
        {"kimi-k2", NULL,
         "[\\p{Han}]+|" LEAD UPPER "*" LOWER "+" TAIL "|" LEAD UPPER "+" LOWER "*" TAIL
         "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
        {"kimi-k2", NULL,
         "[\\p{Han}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^"
         "\\p{Han}]]+" TAIL "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]+[\\p{Ll}\\p{Lm}\\p{Lo}"
         "\\p{M}&&[^\\p{Han}]]*" TAIL "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
        {"exaone-moe", NULL,
         "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}"
         "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"},
        {"gpt-4o", NULL,
         "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+" TAIL
         "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*" TAIL
         "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
        {"qwen35", NULL,
         "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*"
         "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct tok *fast = rows[i].name ? open_named(rows[i].name) : open_regex(rows[i].fast);
        struct tok *slow = open_regex(rows[i].slow);
        assert_int_equal(slow->pre[0].find, FIND_REGEX);
        if (!rows[i].name) assert_int_not_equal(fast->pre[0].find, FIND_REGEX);
        compare(rows[i].name ? rows[i].name : rows[i].fast, fast, slow);
        tok_close(&fast);
        tok_close(&slow);
    }
}

/* ---- Oniguruma's expressions ------------------------------------------------------------------------------- */

#define MEDIAL \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]+"

/* What version 6.9.10 of the library finds. */
static void expressions_mean_what_oniguruma_says(void **state)
{
    static const struct {
        const char *regex, *text, *want;
    } rows[] = {
        {"[a-c&&b-d]+", "abcd", "a|bc|d|"},
        {"[^a-c&&b-d]+", "abcd", "a|bc|d|"},
        {"[a-z&&[^aeiou]&&[^x]]+", "hexlo", "h|ex|l|o|"},
        {"[a&&b&&[ab]]", "ab", "ab|"},
        {"[a&&[b]c]", "abc", "abc|"},
        {"[a[bc]x]+", "zabcxd", "z|abcx|d|"},
        {"[^[a]]+", "abc[]", "a|bc[]|"},
        {"[]a[x]]+", "b]ax", "b|]ax|"},
        {"[[a]^b]+", "^abc", "^ab|c|"},
        {"[a-c&&-b]", "a-b", "a-|b|"},
        {"[a\\]&&[^\\]]]+", "a]", "a|]|"},
        {"(?i)[A-Z&&[^B]]+", "acbB", "ac|bB|"},
        {"[a-z&&[^b]]{2}", "abcdb", "ab|cd|b|"},
        {"[\\w&&[^\\d_]]+", "ab1_c", "ab|1_|c|"},
        {"[^\\W_]+", "ab_c", "ab|_|c|"},
        {"[\\s\\S]", "a \n", "a| |\n|"},
        {"[\\w-]+", "a-b c", "a-b| |c|"},
        {"[[:alpha:]_]+", "a_1b", "a_|1|b|"},
        {"[[:punct:]]+", "a+,b", "a|+,|b|"},
        {"\\p{Letter}+", "ab1", "ab|1|"},
        {"[\\p{decimal_number}_]+", "a1_2", "a|1_2|"},
        {"\\P{Punctuation}+|\\p{^other symbol}", "a.\xE2\x98\x85", "a|.|\xE2\x98\x85|"},
        {"[[:blank:]]+", "a \t\nb", "a| \t|\nb|"},
        {"[[:^alpha:][b]]+", "ab1", "a|b1|"},
        {"[^\\p{L}\\P{M}&&[^-a^]]+", "^\xCC\x81-ab", "^\xCC\x81-a|b|"},
        {"[^\\p{L}\\P{M}&&[^a^-]]+", "^\xCC\x81-ab", "^\xCC\x81-a|b|"},
        {"(?:(?i:b)|[\\p{Ll}&&[^a]])+", "abBcC", "a|bBc|C|"},
        {"((?i)x)[\\p{Lu}&&[^A]]", "XAxBxb", "XA|xB|xb|"},
        {MEDIAL, "aB\xE4\xB8\xAD\xD0\xB1", "a|B\xE4\xB8\xAD|\xD0\xB1|"},
        {"\\p{Han}", "\xE4\xB8\xAD\xE3\x80\x81", "\xE4\xB8\xAD|\xE3\x80\x81|"},
        {"[\\p{^Han}]+", "ab\xE4\xB8\xAD\xE3\x80\x81", "ab|\xE4\xB8\xAD|\xE3\x80\x81|"},
        {"[\\u4e00-\\u9fa5&&[^\\u4e2d]]+", "\xE4\xB8\xAD\xE6\x96\x87", "\xE4\xB8\xAD|\xE6\x96\x87|"},
        {"\\w+", "e\xCC\x81-\xC2\xB2-\xE2\x80\x8D", "e\xCC\x81|-|\xC2\xB2|-\xE2\x80\x8D|"},
        {"\\s", "a\xE1\xA0\x8E b", "a\xE1\xA0\x8E| |b|"},
        {"\\bab\\b", "ab ab\xCC\x81", "ab| ab\xCC\x81|"},
        {"\\h+", "xhaf9", "xh|af9|"},
        {"(?m:a.b)", "a\nba", "a\nb|a|"},
        {"a{1,2}+a", "aaaX", "aaa|X|"},
        {"a{0,2}+b", "aaab", "aaab|"},
        {"a{,2}b", "aaab", "a|aab|"},
        {"{a}", "{a}a", "{a}|a|"},
    };
    static const struct {
        const char *regex, *says;
    } errors[] = {{"[a&&]", "an empty side of &&"},
                  {"[&&a]", "an empty side of &&"},
                  {"[a-[b]]", "a range of sets"},
                  {"[[a]-b]", "a range of sets"},
                  {"[a&&[b]", "does not end"},
                  {"[a", "does not end"},
                  {"\\Qa", "\\Q or \\E"},
                  {"a{2}?", "a repeat of a repeat"},
                  {"a{2,3}+", "a repeat of a repeat"},
                  {"[[:graph:]]", "this set by name"},
                  {"[[[[[[[[[[a]]]]]]]]]]", "a set in so many others"}};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct buf got = {0};
        struct tok *t = open_regex(rows[i].regex);
        words_of(t, str_of(rows[i].text), &got);
        if (!str_is(buf_view(&got), rows[i].want))
            fail_msg("%s, '%s': '%.*s'", rows[i].regex, rows[i].text, STR_ARG(buf_view(&got)));
        buf_fini(&got);
        tok_close(&t);
    }
    for (size_t i = 0; i < COUNT_OF(errors); i++) {
        pcre2_code *code;
        struct err e = {0};
        if (regex_compile(str_of(errors[i].regex), &code, &e) >= 0) fail_msg("%s is no error", errors[i].regex);
        if (!strstr(e.msg, errors[i].says)) fail_msg("%s: '%s'", errors[i].regex, e.msg);
    }
}

/* ---- hostile texts ---------------------------------------------------------------------------------------- */

struct job {
    const struct tok *t;
    struct str text;
    double seconds;
};

static void *run_job(void *arg)
{
    struct job *j = arg;
    words_of(j->t, j->text, NULL);
    j->seconds = scratch_cpu_seconds();
    return NULL;
}

/* On a thread with a stack of 256 KiB, the last character another one; seconds. */
static double cut_repeated(const struct tok *t, struct str pattern, char last, size_t n)
{
    pthread_attr_t attr;
    pthread_t thread;
    struct buf b = {0};
    while (b.n < n) buf_str(&b, pattern);
    if (last) buf_c(&b, last);
    struct job j = {t, buf_view(&b), 0};
    assert_int_equal(pthread_attr_init(&attr), 0);
    assert_int_equal(pthread_attr_setstacksize(&attr, (size_t)256 << 10), 0);
    assert_int_equal(pthread_create(&thread, &attr, run_job, &j), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    pthread_attr_destroy(&attr);
    buf_fini(&b);
    return j.seconds;
}

static void time_is_linear_in_hostile_text(void **state)
{
    static const struct str patterns[] = {
        {"a", 1},  {"A", 1},        {" ", 1},        {"\n", 1},           {"1", 1},
        {"'", 1},  {"\xC3\xA9", 2}, {"\xCC\x81", 2}, {"\xE4\xB8\xAD", 3}, {"\xF0\x9F\x98\x80", 4},
        {"aA", 2}, {"a ", 2},       {" \n", 2},      {"IMG", 3}};
    const size_t small_n = scratch_rounds(128 << 10), large_n = 4 * small_n;
    (void)state;
    for (size_t n = 0; pre_name_at(n); n++) {
        struct tok *t = open_named(pre_name_at(n));
        for (size_t k = 0; k < COUNT_OF(patterns); k++) {
            const char last = "\0aA1\n"[k % 5];
            double small = 0, large = 0;
            for (int tries = 0; tries < 3; tries++) {
                small = cut_repeated(t, patterns[k], last, small_n);
                large = cut_repeated(t, patterns[k], last, large_n);
                if (large <= 10 * small + 0.05) break;
            }
            if (large > 10 * small + 0.05)
                fail_msg("%s, pattern %zu: %.3f s, then %.3f s for four times as much", pre_name_at(n), k, small, large);
        }
        tok_close(&t);
    }
}

/* A repeated set needs no memory for a way back; a repeated group would need more than there is. */
static void a_word_may_be_as_long_as_its_text(void **state)
{
    static const struct str patterns[] = {{"\xE0\xB8\x81", 3}, {"\xE0\xB8\x81\xE0\xB8\xB4", 6}};
    struct tok *t = open_regex(MEDIAL);
    (void)state;
    for (size_t k = 0; k < COUNT_OF(patterns); k++) cut_repeated(t, patterns[k], '1', (size_t)2 << 20);
    tok_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_those_of_the_published_expressions),
        cmocka_unit_test(all_names_open),
        cmocka_unit_test(scanners_equal_their_expressions),
        cmocka_unit_test(expressions_mean_what_oniguruma_says),
        cmocka_unit_test(time_is_linear_in_hostile_text),
        cmocka_unit_test(a_word_may_be_as_long_as_its_text),
    };
    return cmocka_run_group_tests_name("pre", tests, NULL, NULL);
}
