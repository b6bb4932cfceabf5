/* grammar: which texts a grammar, an expression and a schema take; that masks and steps agree; that what cannot be honoured is
 * refused; limits. The vocabulary is the demo model's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "grammar/grammar_int.h"
#include "run/run.h"
#include "scratch.h"

#include <cmocka.h>

static struct tok *tok;
static struct vocab *vocab;
static int32_t byte_ids[256]; /* the token that is this byte alone */

static int open_vocab(void **state)
{
    struct map map;
    struct gguf *g = NULL;
    struct err e = {0};
    size_t n_stops;
    (void)state;
    if (vfs_map(SOURCE_ROOT "/share/Llama-Quern-34M-Q8_0.gguf", &map, &e) < 0) fail_msg("%s", e.msg);
    if (gguf_parse((struct str){(const char *)map.p, map.n}, "demo", false, &g, &e) < 0) fail_msg("%s", e.msg);
    if (tok_open_gguf(g, &tok, &e) < 0) fail_msg("%s", e.msg);
    gguf_free(&g);
    vfs_unmap(&map);
    const int32_t *stops = tok_stops(tok, &n_stops);
    if (vocab_new(tok, stops, n_stops, (uint32_t)tok_n_vocab(tok), &vocab, &e) < 0) fail_msg("%s", e.msg);
    for (uint32_t i = 0; i < vocab->n_ids; i++)
        if (vocab->text_at[i + 1] - vocab->text_at[i] == 1) byte_ids[vocab->text[vocab->text_at[i]]] = (int32_t)i;
    return 0;
}

static int close_vocab(void **state)
{
    (void)state;
    vocab_free(&vocab);
    tok_close(&tok);
    return 0;
}

/* ---- tools ------------------------------------------------------------------------------------------------------------- */

static struct grammar *compile(enum grammar_kind kind, const char *text)
{
    struct err e = {0};
    struct grammar *g = NULL;
    if (grammar_compile(kind, str_of(text), &g, &e) < 0) fail_msg("%s: %s", text, e.msg);
    return g;
}

static struct matcher *follow(const struct grammar *g)
{
    struct err e = {0};
    struct matcher *m = NULL;
    if (matcher_new(g, vocab, &m, &e) < 0) fail_msg("%s", e.msg);
    return m;
}

static bool may_come(struct matcher *m, int32_t id)
{
    struct err e = {0};
    const uint64_t *mask;
    if (matcher_mask(m, &mask, &e) < 0) fail_msg("%s", e.msg);
    return mask[id / 64] >> (id % 64) & 1;
}

/* Whether text, byte by byte, is a whole answer; the mask must tell the same as each step. */
static bool takes(struct matcher *m, const char *text)
{
    for (const char *p = text; *p; p++) {
        const int32_t id = byte_ids[(unsigned char)*p];
        const bool allowed = may_come(m, id);
        assert_int_equal(matcher_accept(m, id, NULL) == 0, allowed);
        if (!allowed) return false;
    }
    return matcher_may_end(m);
}

struct row {
    const char *grammar, *good, *bad; /* texts, parted by tabs */
};

static void check_texts(const struct grammar *g, const struct row *r, const char *texts, bool want)
{
    char text[512];
    for (const char *p = texts; *p;) {
        const size_t n = strcspn(p, "\t");
        assert_true(n < sizeof text);
        memcpy(text, p, n);
        text[n] = 0;
        struct matcher *m = follow(g);
        if (takes(m, text) != want) fail_msg("%s should %s \"%s\"", r->grammar, want ? "take" : "refuse", text);
        matcher_free(&m);
        p += n + (p[n] == '\t');
    }
}

static void check_rows(enum grammar_kind kind, const struct row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct grammar *g = compile(kind, rows[i].grammar);
        check_texts(g, &rows[i], rows[i].good, true);
        check_texts(g, &rows[i], rows[i].bad, false);
        grammar_free(&g);
    }
}

static void refused(enum grammar_kind kind, struct str text, int code, const char *part)
{
    struct err e = {0};
    struct grammar *g = NULL;
    const int rc = grammar_compile(kind, text, &g, &e);
    if (rc != code || !strstr(e.msg, part)) fail_msg("%.*s: %d \"%s\", not \"%s\"", STR_ARG(text), rc, e.msg, part);
    assert_null(g);
}

/* ---- texts ------------------------------------------------------------------------------------------------------------- */

static void gbnf_takes_what_it_says(void **state)
{
    static const struct row rows[] = {
        {"root ::= \"yes\" | \"no\"", "yes\tno", "y\tyesno\tmaybe"},
        {"root ::= [a-c]+ \"x\"?", "a\tabcx", "x\tabxx\td"},
        {"root ::= [^a-y]{2}", "zz\tz1\t\xC3\xA9\xE2\x82\xAC", "z\tzzz\taz"},
        {"root ::= (\"ab\" | \"c\"){1,3}", "ab\tcabc", "abababab\tabb"},
        {"root ::= \"a\"{2,}", "aa\taaaa", "a\tab"},
        {"root ::= \"a\"{,2} \"b\"", "b\taab", "aaab"},
        {"root ::= item (\", \" item)* # a list\nitem ::= [0-9]+", "1\t1, 23, 4", "1,\t1,2"},
        {"root ::=\n  \"a\"\n\nb ::= \"b\"", "a", "b"},
        {"root ::= (\n \"a\" |\n \"b\" )\n", "a\tb", "c"},
        {"root ::= \"\\x41\\u00e9\\U0001F600\\n\\\"\"", "A\xC3\xA9\xF0\x9F\x98\x80\n\"", "A"},
        {"root ::= [\\]\\-x-]+", "]-x", "\\"},
        {"root ::= . .", "ab\t\xE2\x82\xAC\n", "a\tabc"},
        {"root ::= \"(\" root \")\" | \"\"", "()\t((()))", "(\t)("},
        {"root ::= a \"c\"\na ::= \"b\" | ", "bc\tc", "b"},
        {"root ::= \"a\" root | \"a\"", "a\taaaaaaaa", "b"},
        {"root ::= [\xC3\xA0-\xC3\xBF]", "\xC3\xA9", "e\t\xC3\x89"},
    };
    (void)state;
    check_rows(GRAMMAR_GBNF, rows, COUNT_OF(rows));
}

static void regex_takes_what_it_says(void **state)
{
    static const struct row rows[] = {
        {"a|bc", "a\tbc", "abc\tb"},
        {"^\\d{3}-\\d{4}$", "555-1234", "5555-1234\t555-12345"},
        {"[\\w.]+@\\w+\\.(?:com|org)", "a.b@c.org", "a@b.net\t@b.com"},
        {"(?<year>\\d+)[^\\d\\s]*?", "1x\t22", "1 \t1x2"},
        {"\\u{1F600}\\x41\\u00E9|\\uD83D\\uDE00",
         "\xF0\x9F\x98\x80"
         "A\xC3\xA9\t\xF0\x9F\x98\x80",
         "A"},
        {"[\\]a\\-z]{2,3}", "]a\t-z-", "bb\t]"},
        {"a.c",
         "abc\ta\xE2\x82\xAC"
         "c",
         "a\nc"},
        {"(^a|b)(?:c|d$)", "ac\tbd", "a\tcd"},
        {"(a{2}b?){2}", "aaaa\taabaab", "aab\taabb"},
        {"", "", "a"},
    };
    (void)state;
    check_rows(GRAMMAR_REGEX, rows, COUNT_OF(rows));
}

static void schemas_take_what_they_say(void **state)
{
    static const struct row rows[] = {
        {"{\"type\":\"string\"}", "\"\"\t\"a\xC3\xA9\\n\\u00e9\"", "a\t\"a\t\"\\ud800\"\t\"\\x\"\t\"\n\""},
        {"{\"type\":\"integer\"}", "0\t-12\t123456789012345", "01\t1.5\t+1\t1234567890123456"},
        {"{\"type\":\"number\"}", "0\t-0.5\t12.25\t1e5\t1.5E-10\t1670304000.123\t-12345678.1234567", ".5\t1.\t1e\t01"},
        {"{\"type\":[\"boolean\",\"null\"]}", "true\tfalse\tnull", "0\ttru"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"boolean\"}},\"required\":[\"a\"]"
         "}",
         "{\"a\":1}\t{ \"a\": 1,\n  \"b\": true\n}", "{}\t{\"b\":true}\t{\"b\":true,\"a\":1}\t{\"a\":1,}\t{\"a\":1,\"c\":2}"},
        {"{\"properties\":{\"a\":{},\"b\":{}},\"additionalProperties\":{\"type\":\"integer\"}}",
         "{}\t{\"b\":[1,{\"x\":null}]}\t{\"a\":1,\"b\":2,\"ab\":3,\"c\":4}\t{\"\":1}", "{\"c\":\"x\"}\t{\"c\":1,\"a\":2}"},
        {"{\"properties\":{\"ab\":{},\"ac\":{},\"b\\\"\":{}},\"additionalProperties\":true}",
         "{\"a\":1}\t{\"abc\":1}\t{\"\xC3\xA9\":1}\t{\"b\\\"\":1}", "{\"z\":1,\"ab\":1}\t{\"\\u0061b\":1}"},
        {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":1,\"maxItems\":3}", "[1]\t[1, 2,3]\t[\n 1\n]",
         "[]\t[1,2,3,4]\t[true]\t[1,]"},
        {"{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"boolean\"}]}", "[]\t[1]\t[1,true]",
         "[true]\t[1,true,2]"},
        {"{\"items\":[{\"const\":1}],\"additionalItems\":{\"const\":2},\"minItems\":2}", "[1,2]\t[1,2,2]", "[1]\t[2,1]"},
        {"{\"enum\":[\"a\",1,null,{\"x\":[1,2]},1.0]}", "\"a\"\t1\tnull\t{\"x\":[1,2]}", "a\t2"},
        {"{\"type\":\"integer\",\"enum\":[\"a\",1,2.5]}", "1", "\"a\"\t2.5"},
        {"{\"const\":\"\xE2\x82\xAC\\n\"}", "\"\xE2\x82\xAC\\n\"", "\"\""},
        {"{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"string\",\"maxLength\":2}]}", "12\t\"ab\"\t\"\"", "\"abc\"\ttrue"},
        {"{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"string\"}]}", "12\t\"ab\"", "true"},
        {"{\"type\":\"object\",\"oneOf\":[{\"properties\":{\"k\":{\"const\":1}},\"required\":[\"k\"]},{\"properties\":{\"k\":{"
         "\"const\":2}}}]}",
         "{\"k\":1}\t{\"k\":2}\t{}", "{\"k\":3}"},
        {"{\"allOf\":[{\"properties\":{\"a\":{\"type\":\"integer\"}}},{\"properties\":{\"a\":{\"minimum\":3},\"b\":{}},"
         "\"required\":[\"a\"]}]}",
         "{\"a\":3}\t{\"a\":17,\"b\":0}", "{\"a\":2}\t{\"b\":0}"},
        {"{\"$defs\":{\"list\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},\"next\":{\"$ref\":\"#/$defs/"
         "list\"}},"
         "\"required\":[\"v\"]}},\"$ref\":\"#/$defs/list\"}",
         "{\"v\":1}\t{\"v\":1,\"next\":{\"v\":2,\"next\":{\"v\":3}}}", "{\"v\":1,\"next\":{}}"},
        {"{\"type\":\"string\",\"pattern\":\"^[a-c]+\\\"$\"}", "\"ab\\\"\"", "\"ab\"\t\"abd\\\"\""},
        {"{\"type\":\"string\",\"pattern\":\"b+\"}", "\"b\"\t\"abc\"\t\"\\n\\\\b\"", "\"ac\""},
        {"{\"pattern\":\"^a|b$\"}", "\"ax\"\t\"xb\"", "\"xax\""},
        {"{\"pattern\":\"^$|(^a+$)|(b[)(]$)\"}", "\"\"\t\"aa\"\t\"xb(\"", "\"ab\"\t\"b\"\t\"b(x\""},
        {"{\"pattern\":\"(?:(^a|b)(c|$))\"}", "\"a\"\t\"xb\"\t\"bcx\"\t\"acx\"", "\"xa\"\t\"bx\"\t\"xac\""},
        {"{\"pattern\":\"^([^,]|$)\"}", "\"\"\t\"a,\"", "\",\""},
        {"{\"minLength\":2,\"maxLength\":3}", "\"ab\"\t\"\xC3\xA9\\u00e9\\n\"", "\"a\"\t\"abcd\""},
        {"{\"format\":\"date\"}", "\"2024-02-28\"\t\"1999-12-31\"", "\"2024-02-30\"\t\"2024-13-01\"\t\"24-01-01\""},
        {"{\"format\":\"time\"}", "\"23:59:59Z\"\t\"00:00:00.25+01:30\"", "\"24:00:00Z\"\t\"12:00Z\""},
        {"{\"format\":\"date-time\"}", "\"2024-02-28T01:02:03Z\"", "\"2024-02-28 01:02:03Z\""},
        {"{\"format\":\"uuid\"}", "\"01234567-89ab-cdef-0123-456789abcdef\"", "\"01234567\""},
        {"{\"format\":\"ipv4\"}", "\"127.0.0.1\"\t\"255.249.9.10\"", "\"256.0.0.1\"\t\"1.2.3\""},
        {"{\"type\":\"integer\",\"minimum\":-5,\"maximum\":120}", "-5\t0\t7\t99\t120", "-6\t121\t-0\t05"},
        {"{\"type\":\"integer\",\"exclusiveMinimum\":9,\"maximum\":1.2e3}", "10\t999\t1200", "9\t1201\t-10"},
        {"{\"type\":\"integer\",\"minimum\":1.5,\"exclusiveMaximum\":3}", "2", "1\t3"},
        {"{\"type\":\"integer\",\"maximum\":-10}", "-10\t-999", "-9\t0\t10"},
        {"{\"type\":\"number\",\"minimum\":0.1,\"maximum\":0.9}", "0.1\t0.10\t0.55\t0.9\t0.900", "0\t0.09\t0.91\t1\t0.9001"},
        {"{\"type\":\"number\",\"exclusiveMinimum\":-1.5,\"exclusiveMaximum\":2}", "-1.4\t0\t-0.5\t1.999\t1",
         "-1.5\t2\t2.0\t-1.50"},
        {"{\"minimum\":1e2}", "100\t100.0\t12345.5", "99.9\t10"},
        {"true", "1\t\"a\"\t[[{}],{\"a\":[]}]\tnull", "nul"},
        {"{}", "1\t{}", "}"},
        {"{\"properties\":{\"a\":{\"properties\":{\"a\":{\"$ref\":\"#\"}}}},\"required\":[]}", "{\"a\":{\"a\":{\"a\":{}}}}",
         "{\"b\":1}"},
        {"{\"properties\":{\"a~/b\":{\"const\":1},\"c\":{\"$ref\":\"#/properties/a~0~1b\"}}}", "{\"c\":1}", "{\"c\":2}"},
        /* What is in definitions that nothing refers to has a form, but need not be possible. */
        {"{\"$defs\":{\"a\":{\"pattern\":\"(\",\"maxContains\":1,\"$schema\":\"http://json-schema.org/draft-03/schema#\"}},"
         "\"definitions\":{\"title\":{\"not\":{\"unevaluatedProperties\":{}}}},\"contentSchema\":{\"$dynamicRef\":\"#a\"},"
         "\"const\":7}",
         "7", "8"},
        {"{\"x-vendor\":{\"type\":1,\"$defs\":2},\"default\":{\"title\":3},\"examples\":[{\"type\":4}],\"properties\":{"
         "\"title\":"
         "{\"const\":{\"type\":5}},\"\":true},\"required\":[\"\",\"title\"]}",
         "{\"title\":{\"type\":5},\"\":1}", "{\"title\":3,\"\":1}"},
        {"{\"x-vendor\":1,\"format\":\"colour\",\"type\":\"integer\",\"$defs\":{\"unused\":{\"unevaluatedItems\":{}}}}", "7",
         "\"\""},
        {"{\"minimum\":3,\"exclusiveMinimum\":true,\"maximum\":5,\"exclusiveMaximum\":false}", "4\t5\t3.5", "3\t3.0\t6"},
        {"{\"type\":\"number\",\"format\":\"int32\"}", "2147483647\t-2147483648", "2147483648\t1.5\t-2147483649"},
        {"{\"type\":\"integer\",\"maximum\":9223372036854775807}", "999999999999999\t-5", "1000000000000000"},
        {"{\"$id\":\"a\",\"$defs\":{\"b\":{\"$id\":\"b\",\"$ref\":\"#/$defs/b\",\"$defs\":{\"b\":{\"const\":1}}}},\"$ref\":"
         "\"#/$defs/b\"}",
         "1", "2"},
        {"{\"$id\":\"T\",\"type\":\"array\",\"items\":{\"$ref\":\"T\"}}", "[]\t[[],[[]]]", "[1]"},
        {"{\"$ref\":\"#n\",\"$defs\":{\"x\":{\"$anchor\":\"n\",\"const\":1},\"y\":{\"$id\":\"y\",\"$defs\":{\"z\":{\"$anchor\":"
         "\"n\"}}}}}",
         "1", "2"},
        {"{\"$ref\":\"http://x/y#/$defs/z\",\"$defs\":{\"x\":{\"$id\":\"http://x/"
         "y\",\"$defs\":{\"z\":{\"const\":2}}}},\"default\":{\"$id\":"
         "\"http://x/y\"}}",
         "2", "1"},
        {"{\"pattern\":\"b\",\"minLength\":2,\"maxLength\":3}", "\"ab\"\t\"\xC3\xA9\\nb\"", "\"b\"\t\"ac\"\t\"abcd\""},
        {"{\"allOf\":[{\"pattern\":\"^a\"},{\"pattern\":\"z$\"},{\"pattern\":\"\\\\d\"}]}", "\"a1z\"\t\"a\\\"0zz\"",
         "\"az\"\t\"a1\"\t\"1z\""},
        {"{\"pattern\":\"^(?!\\\\s*$)(?=.*[0-9(])[a-z0-9( ]+$\",\"maxLength\":3}", "\"1\"\t\"a1\"\t\" (\"",
         "\"\"\t\" \"\t\"ab\"\t\"abc1\""},
        {"{\"pattern\":\"^(?!a|b)\"}", "\"\"\t\"ca\"", "\"a\"\t\"bc\""},
        {"{\"format\":\"ipv4\",\"pattern\":\"^10[.]\"}", "\"10.1.2.3\"", "\"11.1.2.3\"\t\"10.\""},
        {"{\"format\":\"email\",\"minLength\":6,\"maxLength\":10}", "\"a@b.cde\"", "\"a@b.c\"\t\"abcde@fghi.kl\""},
        {"{\"enum\":[\"ab\",\"cd\",\"127.0.0.1\",1],\"pattern\":\"b|7\"}", "\"ab\"\t\"127.0.0.1\"\t1", "\"cd\""},
        {"{\"patternProperties\":{\"^a\":{\"type\":\"integer\"},\"z$\":{\"minimum\":5}}}", "{}\t{\"a\":1}\t{\"z\":7,\"az\":7}",
         "{\"az\":3}\t{\"b\":1}\t{\"a\":null}\t{\"\\u0061\":1}"},
        {"{\"properties\":{\"ab\":{\"minimum\":2},\"c\":{}},\"patternProperties\":{\"^a\":{\"type\":\"integer\"}},"
         "\"additionalProperties\":{\"const\":\"x\"}}",
         "{\"ab\":2,\"c\":null,\"abc\":0,\"d\":\"x\",\"a\\n\":1}", "{\"ab\":1}\t{\"ab\":2.5}\t{\"ac\":\"x\"}\t{\"d\":1}"},
        {"{\"propertyNames\":{\"maxLength\":2,\"pattern\":\"^[a-z]\"},\"properties\":{\"abc\":{},\"a\":{}},"
         "\"additionalProperties\":"
         "true}",
         "{\"a\":1,\"zz\":2}\t{}", "{\"abc\":1}\t{\"zzz\":1}\t{\"1\":1}"},
        {"{\"propertyNames\":{\"enum\":[\"x\",\"y\",1]},\"additionalProperties\":{\"type\":\"null\"}}",
         "{\"y\":null,\"x\":null}", "{\"z\":null}"},
        {"{\"properties\":{\"a\":{},\"b\":{},\"c\":{}},\"minProperties\":1,\"maxProperties\":2}",
         "{\"a\":1}\t{\"a\":1,\"c\":2}", "{}\t{\"a\":1,\"b\":1,\"c\":1}"},
        {"{\"minProperties\":1,\"additionalProperties\":{\"const\":0}}", "{\"a\":0}\t{\"a\":0,\"b\":0}", "{}"},
        {"{\"properties\":{\"a\":{}},\"minProperties\":2,\"maxProperties\":2,\"additionalProperties\":{\"const\":0}}",
         "{\"a\":0,\"b\":0}", "{\"b\":0}\t{\"b\":0,\"c\":0}\t{\"a\":0,\"b\":0,\"c\":0}"},
        {"{\"not\":{\"type\":[\"object\",\"array\",\"number\"]}}", "null\t\"x\"", "{}\t1\t[]"},
        {"{\"type\":[\"string\",\"integer\",\"boolean\"],\"not\":{\"enum\":[\"a\",\"b\\n\",0,-12,true]}}",
         "\"\"\t\"aa\"\t\"b\"\t1\t-1\t-120\tfalse", "\"a\"\t\"b\\n\"\t0\t-12\ttrue"},
        {"{\"type\":\"number\",\"minimum\":0,\"not\":{\"const\":1.5}}", "1\t1.51\t1.05", "1.5\t1.50\t-1"},
        {"{\"type\":\"string\",\"not\":{\"pattern\":\"^a|b$\"}}", "\"\"\t\"ba\"", "\"ab\"\t\"a\"\t\"cb\""},
        {"{\"properties\":{\"a\":{},\"b\":{}},\"not\":{\"required\":[\"a\",\"b\"]}}", "{}\t{\"a\":1}\t{\"b\":1}",
         "{\"a\":1,\"b\":2}"},
        {"{\"properties\":{\"a\":{},\"b\":{}},\"not\":{\"anyOf\":[{\"required\":[\"a\"]},{\"properties\":{\"b\":{\"maximum\":3}"
         "}}]}}",
         "{\"b\":4}", "{}\t{\"a\":1}\t{\"b\":3}\t{\"b\":null}"},
        {"{\"type\":\"string\",\"minLength\":1,\"maxLength\":2,\"not\":{\"pattern\":\"^a\"}}", "\"b\"\t\"ba\"",
         "\"\"\t\"a\"\t\"bbb\""},
        {"{\"items\":{\"enum\":[\"a\",\"b\",1,1.0,null]},\"uniqueItems\":true,\"minItems\":1,\"maxItems\":3}",
         "[\"a\"]\t[\"b\", null]\t[\"a\",1,null]\t[1]", "[]\t[\"a\",\"a\"]\t[1,1]\t[1,1.0]\t[\"a\",\"b\",1,null]"},
        {"{\"uniqueItems\":true,\"maxItems\":1,\"items\":{\"type\":\"integer\"}}", "[]\t[1]", "[1,2]"},
        {"{\"contains\":{\"const\":1}}", "[1]\t[1,\"a\",1]", "[]\t[2,1]"},
        {"{\"items\":{\"type\":\"integer\"},\"contains\":{\"minimum\":5},\"minContains\":2,\"maxItems\":3}", "[5,6]\t[7,7,0]",
         "[5]\t[5,4]\t[5,5,5,5]"},
        {"{\"allOf\":[{\"properties\":{\"a\":{}}}],\"properties\":{\"b\":{}},\"unevaluatedProperties\":false}",
         "{\"b\":1,\"a\":1}\t{}", "{\"c\":1}"},
        {"{\"allOf\":[{\"properties\":{\"a\":{}}},{\"properties\":{\"b\":{}},\"unevaluatedProperties\":false}],\"properties\":{"
         "\"d\":{}},\"additionalProperties\":true}",
         "{}\t{\"b\":1}", "{\"a\":1}\t{\"d\":1,\"b\":1}\t{\"c\":1}"},
        {"{\"properties\":{\"a\":{},\"b\":{}},\"not\":{\"properties\":{\"c\":{\"type\":\"null\"}}},\"unevaluatedProperties\":"
         "true}",
         "{\"c\":1}\t{\"a\":1,\"c\":1}", "{}\t{\"c\":null}"},
        {"{\"not\":{\"not\":{\"type\":\"null\"}}}", "null", "1"},
        {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"not\":{\"minItems\":2}}", "[]\t[1]", "[1,2]"},
        {"{\"properties\":{\"k\":{\"enum\":[1,2]},\"v\":{}},\"required\":[\"k\"],\"if\":{\"properties\":{\"k\":{\"const\":1}}},"
         "\"then\":{"
         "\"required\":[\"v\"]},\"else\":{\"properties\":{\"v\":false}}}",
         "{\"k\":1,\"v\":0}\t{\"k\":2}", "{\"k\":1}\t{\"k\":2,\"v\":0}"},
        {"{\"properties\":{\"a\":{},\"b\":{},\"c\":{}},\"dependencies\":{\"a\":[\"b\"],\"b\":{\"properties\":{\"c\":{\"const\":"
         "1}}}}}",
         "{}\t{\"c\":2}\t{\"a\":0,\"b\":0}\t{\"b\":0,\"c\":1}", "{\"a\":0}\t{\"b\":0,\"c\":2}\t{\"a\":0,\"c\":1}"},
        {"{\"type\":[\"object\",\"null\"],\"properties\":{\"a\":{},\"b\":{}},\"dependentRequired\":{\"a\":[\"b\"]},"
         "\"dependentSchemas\":{"
         "\"b\":{\"minProperties\":2}}}",
         "null\t{}\t{\"a\":0,\"b\":0}", "{\"a\":0}\t{\"b\":0}\t1"},
        {"{\"properties\":{\"a\":{},\"b\":{}},\"oneOf\":[{\"required\":[\"a\"]},{\"required\":[\"b\"]}]}",
         "{\"a\":1}\t{\"b\":1}", "{}\t{\"a\":1,\"b\":1}"},
        {"{\"oneOf\":[{\"type\":\"string\",\"maxLength\":3},{\"pattern\":\"^a\"},{\"enum\":[\"b\",1]}]}", "\"c\"\t\"abcd\"",
         "\"a\"\t\"b\"\t\"bcde\"\t1"},
        {"{\"oneOf\":[{\"properties\":{\"a\":{}},\"additionalProperties\":false},{\"properties\":{\"b\":{}},"
         "\"additionalProperties\":false}]}",
         "{\"a\":1}\t{\"b\":1}", "{}\t{\"a\":1,\"b\":1}"},
        {"{\"type\":\"integer\",\"multipleOf\":7,\"minimum\":-20,\"maximum\":100}", "-14\t0\t7\t98", "1\t-21\t105\t8"},
        {"{\"multipleOf\":0.25,\"exclusiveMinimum\":0}", "1\t1.5\t1.25\t0.75", "0\t0.3\t1.250\t-1"},
        {"{\"enum\":[1,1.5,2,2.25],\"multipleOf\":0.5}", "1\t1.5\t2", "2.25"},
        {"{\"type\":\"object\",\"required\":[\"x\"],\"properties\":{\"y\":{}}}", "{\"x\":1}\t{\"y\":1,\"x\":2}", "{\"y\":1}"},
    };
    static const struct row json = {"JSON", "{}\t{\"a\":[1,\"b\",null]}", "[]\t1\t{a:1}"};
    (void)state;
    check_rows(GRAMMAR_SCHEMA, rows, COUNT_OF(rows));
    struct grammar *g = compile(GRAMMAR_JSON, "");
    check_texts(g, &json, json.good, true);
    check_texts(g, &json, json.bad, false);
    grammar_free(&g);
}

static void parts_take_what_they_say(void **state)
{
    static const struct row rows[] = {
        {"{\"root\":\"ab\"}", "ab", "a\tabc"},
        {"{\"root\":[\"a\",\"b\",[]]}", "ab", "a\tb"},
        {"{\"root\":{\"any\":[\"a\",[\"b\",\"c\"],\"\"]}}", "a\tbc\t", "b\tabc"},
        {"{\"root\":[\"[\",{\"many\":[\"x\",{\"any\":[\",\",\"\"]}]},\"]\"]}", "[x]\t[x,x]\t[xx,]", "[]\t[,x]"},
        {"{\"root\":[{\"rule\":\"x\"},\"-\",{\"rule\":\"x\"}],\"x\":{\"regex\":\"[0-9]+\"}}", "1-23", "1-\t-1"},
        {"{\"x\":\"a\",\"root\":{\"any\":[{\"grammar\":\"root ::= x \\\"!\\\"\\nx ::= [0-9]\"},{\"rule\":\"x\"}]}}", "1!\ta",
         "1\ta!"},
        /* A reference leads into the schema that it is in. */
        {"{\"root\":{\"any\":[{\"schema\":{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"const\":1}}}},"
         "[\"b\",{\"schema\":{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"const\":2}}}}]]}}",
         "1\tb2", "2\tb1"},
        {"{\"root\":[\"=\",{\"json\":true}]}", "={}\t={\"a\":[1]}", "{}\t=1"},
        {"{\"root\":{\"free\":{}}}", "\ta\t{\n}\xC3\xA9", ""},
        {"{\"root\":[{\"free\":{\"without\":[\"<c>\",\"[C]\"],\"first\":[\"{\",\"[{\"]}},{\"any\":[\"\",\"<c>1\"]}]}",
         "\ta\ta{\t<\t<c\t<<c>1\t<c<c>1\t[\t[[C\t[C<c>1\ta [{\t[a{\t[ {\ta<c >",
         "{\t \n{\t[{\t [{\t<c>\t<c>2\ta<c>1b\t[C]\t[[C]\ta[C]<c>1"},
    };
    (void)state;
    check_rows(GRAMMAR_PARTS, rows, COUNT_OF(rows));
}

/* ---- what is refused ---------------------------------------------------------------------------------------------------- */

#define EIGHT "\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\","

static void names_the_place(void **state)
{
    static const struct {
        enum grammar_kind kind;
        const char *text;
        int code;
        const char *message;
    } rows[] = {
        {GRAMMAR_GBNF, "", ERR_ARG, "no rule \"root\""},
        {GRAMMAR_GBNF, "a ::= \"x\"", ERR_ARG, "no rule \"root\""},
        {GRAMMAR_GBNF, "root ::= x y\nx ::= \"a\"", ERR_ARG, "the rule \"y\" is used"},
        {GRAMMAR_GBNF, "root ::= \"a\"\nroot ::= \"b\"", ERR_ARG, "line 2, column 1: this rule is defined twice"},
        {GRAMMAR_GBNF, "root = \"a\"", ERR_ARG, "line 1, column 6: expected ::=, found \"=\""},
        {GRAMMAR_GBNF, "root ::= \"a", ERR_ARG, "expected \" at the end"},
        {GRAMMAR_GBNF, "root ::= [a", ERR_ARG, "expected ]"},
        {GRAMMAR_GBNF, "root ::= (\"a\"", ERR_ARG, "expected )"},
        {GRAMMAR_GBNF, "root ::= \"a\")", ERR_ARG, "line 1, column 13"},
        {GRAMMAR_GBNF, "root ::= \"\\q\"", ERR_ARG, "expected an escape"},
        {GRAMMAR_GBNF, "root ::= \"\\uD800\"", ERR_ARG, "no character"},
        {GRAMMAR_GBNF, "root ::= [z-a]", ERR_ARG, "backwards"},
        {GRAMMAR_GBNF, "root ::= \"a\"{3,2}", ERR_ARG, "second number"},
        {GRAMMAR_GBNF, "root ::= \"a\"{99999999999}", ERR_LIMIT, "more than 10000"},
        {GRAMMAR_GBNF, "root ::= *", ERR_ARG, "expected an item"},
        {GRAMMAR_GBNF, "root ::= <think>", ERR_ARG, "found \"<\""},
        {GRAMMAR_GBNF, "root ::= root \"a\" | \"a\"", ERR_ARG, "the grammar begins with itself"},
        {GRAMMAR_GBNF, "root ::= a\na ::= \"x\"? b \"y\"\nb ::= a | \"z\"", ERR_ARG, "begins with itself"},
        {GRAMMAR_GBNF, "root ::= \"a\" root", ERR_ARG, "no finite text satisfies the grammar"},
        {GRAMMAR_GBNF, "root ::= []", ERR_ARG, "no finite text"},
        {GRAMMAR_GBNF, "root ::= \"\xFF\"", ERR_ARG, "UTF-8"},
        {GRAMMAR_REGEX, "a(b", ERR_ARG, "character 4: expected )"},
        {GRAMMAR_REGEX, "a)b", ERR_ARG, "character 2"},
        {GRAMMAR_REGEX, "(?=a)", ERR_UNSUPPORTED, "assertions"},
        {GRAMMAR_REGEX, "(?<!a)b", ERR_UNSUPPORTED, "assertions"},
        {GRAMMAR_REGEX, "a(?<b", ERR_ARG, "expected > behind"},
        {GRAMMAR_REGEX, "a\\u", ERR_ARG, "character 4: expected a hexadecimal"},
        {GRAMMAR_REGEX, "a\\u{12", ERR_ARG, "hexadecimal"},
        {GRAMMAR_REGEX, "(a)\\1", ERR_UNSUPPORTED, "escape"},
        {GRAMMAR_REGEX, "\\bfoo", ERR_UNSUPPORTED, "escape"},
        {GRAMMAR_REGEX, "\\p{L}", ERR_UNSUPPORTED, "escape"},
        {GRAMMAR_REGEX, "a^b", ERR_UNSUPPORTED, "anchor"},
        {GRAMMAR_REGEX, "(^a)+", ERR_UNSUPPORTED, "anchor"},
        {GRAMMAR_REGEX, "(a$)b", ERR_UNSUPPORTED, "anchor"},
        {GRAMMAR_REGEX, "*a", ERR_ARG, "nothing to repeat"},
        {GRAMMAR_REGEX, "a**", ERR_ARG, "nothing to repeat"},
        {GRAMMAR_REGEX, "[b-a]", ERR_ARG, "range"},
        {GRAMMAR_REGEX, "a{2", ERR_ARG, "expected }"},
        {GRAMMAR_REGEX, "a\\", ERR_UNSUPPORTED, "escape"},
        {GRAMMAR_SCHEMA, "", ERR_ARG, "schema"},
        {GRAMMAR_SCHEMA, "{", ERR_ARG, "schema"},
        {GRAMMAR_SCHEMA, "1", ERR_ARG, "schema, #: a schema is an object"},
        {GRAMMAR_SCHEMA, "false", ERR_ARG, "no finite text"},
        {GRAMMAR_SCHEMA, "{\"properties\":{\"a\":{\"type\":\"strin\"}}}", ERR_ARG, "#/properties/a/type"},
        {GRAMMAR_SCHEMA, "{\"properties\":{\"a/b\":7}}", ERR_ARG, "#/properties/a~1b: a schema is"},
        {GRAMMAR_SCHEMA, "{\"not\":{}}", ERR_ARG, "no finite text"},
        {GRAMMAR_SCHEMA, "{\"not\":{\"format\":\"date\"}}", ERR_UNSUPPORTED, "#/not"},
        {GRAMMAR_SCHEMA, "{\"if\":{\"unevaluatedItems\":{}}}", ERR_UNSUPPORTED, "#/if/unevaluatedItems"},
        {GRAMMAR_SCHEMA, "{\"if\":{\"format\":\"date\"},\"then\":{}}", ERR_UNSUPPORTED, "#/if: this"},
        {GRAMMAR_SCHEMA, "{\"not\":{\"properties\":{\"c\":{\"type\":\"null\"}}},\"unevaluatedProperties\":false}", ERR_ARG,
         "no finite text"},
        {GRAMMAR_SCHEMA, "{\"unevaluatedProperties\":{}}", ERR_UNSUPPORTED, "#/unevaluatedProperties"},
        {GRAMMAR_SCHEMA, "{\"contains\":{},\"maxContains\":2}", ERR_UNSUPPORTED, "#/maxContains"},
        {GRAMMAR_SCHEMA, "{\"dependencies\":{\"a\":[1]}}", ERR_ARG, "#/dependencies/a: expected an array of strings"},
        {GRAMMAR_SCHEMA, "{\"items\":{\"type\":\"string\"},\"uniqueItems\":true}", ERR_UNSUPPORTED, "#/uniqueItems"},
        {GRAMMAR_SCHEMA, "{\"type\":\"number\",\"multipleOf\":12345}", ERR_UNSUPPORTED, "#/multipleOf"},
        {GRAMMAR_SCHEMA, "{\"minLength\":-1}", ERR_ARG, "#/minLength"},
        {GRAMMAR_SCHEMA, "{\"minLength\":1.5}", ERR_ARG, "#/minLength"},
        {GRAMMAR_SCHEMA, "{\"type\":\"array\",\"minItems\":1e69}", ERR_LIMIT, "#/minItems"},
        {GRAMMAR_SCHEMA, "{\"minimum\":\"1\"}", ERR_ARG, "#/minimum: expected a number"},
        {GRAMMAR_SCHEMA, "{\"minimum\":1.2345678901234567}", ERR_UNSUPPORTED, "#/minimum"},
        {GRAMMAR_SCHEMA, "{\"minimum\":2,\"maximum\":1}", ERR_ARG, "no finite text"},
        {GRAMMAR_SCHEMA, "{\"required\":\"a\"}", ERR_ARG, "#/required"},
        {GRAMMAR_SCHEMA, "{\"enum\":[]}", ERR_ARG, "#/enum"},
        {GRAMMAR_SCHEMA, "{\"type\":\"string\",\"enum\":[1]}", ERR_ARG, "no finite text"},
        {GRAMMAR_SCHEMA, "{\"enum\":[\"a\"],\"pattern\":\"b\"}", ERR_ARG, "no finite text"},
        {GRAMMAR_SCHEMA, "{\"enum\":[\"http://x/?q\"],\"format\":\"uri\"}", ERR_UNSUPPORTED, "#/format: whether a listed"},
        {GRAMMAR_SCHEMA, "{\"pattern\":\"(?=a)\"}", ERR_UNSUPPORTED, "schema, #/pattern, character"},
        {GRAMMAR_SCHEMA, "{\"pattern\":\"^(?!a)b|c\"}", ERR_UNSUPPORTED, "schema, #/pattern, character"},
        {GRAMMAR_SCHEMA, "{\"pattern\":\"^(?!a(?=b))c\"}", ERR_UNSUPPORTED, "schema, #/"},
        {GRAMMAR_SCHEMA, "{\"pattern\":\"^a{4}$\",\"maxLength\":3}", ERR_ARG, "no finite text"},
        {GRAMMAR_SCHEMA, "{\"pattern\":\"^a\",\"allOf\":[{\"pattern\":\"b{2,1}\"}]}", ERR_ARG, "#/allOf/0/pattern, character"},
        {GRAMMAR_SCHEMA, "{\"$schema\":\"http://json-schema.org/draft-03/schema#\"}", ERR_UNSUPPORTED, "#/$schema"},
        {GRAMMAR_SCHEMA, "{\"minProperties\":2}", ERR_UNSUPPORTED, "#/minProperties"},
        {GRAMMAR_SCHEMA, "{\"patternProperties\":{\"(?=a)\":{}}}", ERR_UNSUPPORTED, "#/patternProperties/(?=a), character"},
        {GRAMMAR_SCHEMA, "{\"propertyNames\":{\"anyOf\":[{}]}}", ERR_UNSUPPORTED, "#/propertyNames/anyOf"},
        {GRAMMAR_SCHEMA, "{\"$ref\":\"#\"}", ERR_ARG, "refers to itself"},
        {GRAMMAR_SCHEMA, "{\"$ref\":\"#/$defs/x\"}", ERR_ARG, "#/$ref: there is nothing"},
        {GRAMMAR_SCHEMA, "{\"$ref\":\"http://x/y\"}", ERR_UNSUPPORTED, "#/$ref"},
        {GRAMMAR_SCHEMA, "{\"$ref\":\"#x\"}", ERR_ARG, "#/$ref: there is nothing"},
        {GRAMMAR_SCHEMA, "{\"$ref\":\"x\",\"$defs\":{\"a\":{\"$id\":\"x\"},\"b\":{\"$id\":\"x\"}}}", ERR_UNSUPPORTED, "#/$ref"},
        {GRAMMAR_SCHEMA, "{\"anyOf\":[{\"$ref\":\"#\"}]}", ERR_ARG, "refers to itself"},
        {GRAMMAR_SCHEMA, "{\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", ERR_ARG, "no finite text"},
        {GRAMMAR_SCHEMA, "{\"oneOf\":[{\"format\":\"date\"},{\"format\":\"time\"}]}", ERR_UNSUPPORTED, "#/oneOf"},
        {GRAMMAR_SCHEMA, "{\"$ref\":\"#/$defs/x\",\"$defs\":{\"x\":{\"unevaluatedItems\":{}}}}", ERR_UNSUPPORTED,
         "#/$defs/x/unevaluatedItems"},
        /* What is not of the form that the drafts give, also where the answer would not depend on it. */
        {GRAMMAR_SCHEMA, "{\"type\":[\"string\",\"string\"]}", ERR_ARG, "#/type: expected the name"},
        {GRAMMAR_SCHEMA, "{\"required\":[\"\",\"a\",\"\"]}", ERR_ARG,
         "#/required: expected an array of strings, each of them once"},
        {GRAMMAR_SCHEMA, "{\"dependentRequired\":{\"a\":[\"b\",\"b\"]}}", ERR_ARG,
         "#/dependentRequired/a: expected an array of"},
        {GRAMMAR_SCHEMA, "{\"dependentRequired\":{\"a\":{}}}", ERR_ARG, "#/dependentRequired/a: expected an array of"},
        {GRAMMAR_SCHEMA, "{\"dependentSchemas\":{\"a\":[\"b\"]}}", ERR_ARG, "#/dependentSchemas/a: a schema is"},
        {GRAMMAR_SCHEMA, "{\"exclusiveMaximum\":true,\"minimum\":1}", ERR_ARG, "#/exclusiveMaximum: expected a number, or"},
        {GRAMMAR_SCHEMA, "{\"maxContains\":-1}", ERR_ARG, "#/maxContains: expected a whole number"},
        {GRAMMAR_SCHEMA, "{\"unevaluatedItems\":3}", ERR_ARG, "#/unevaluatedItems: a schema is"},
        {GRAMMAR_SCHEMA, "{\"unevaluatedProperties\":3}", ERR_ARG, "#/unevaluatedProperties: a schema is"},
        {GRAMMAR_SCHEMA, "{\"$anchor\":\"a b\"}", ERR_ARG, "#/$anchor: expected a name"},
        {GRAMMAR_SCHEMA, "{\"$dynamicAnchor\":\"1\"}", ERR_ARG, "#/$dynamicAnchor: expected a name"},
        {GRAMMAR_SCHEMA, "{\"$recursiveAnchor\":\"a\"}", ERR_ARG, "#/$recursiveAnchor: expected true or false"},
        {GRAMMAR_SCHEMA, "{\"$vocabulary\":{\"a\":1}}", ERR_ARG, "#/$vocabulary/a: expected true or false"},
        {GRAMMAR_SCHEMA, "{\"$comment\":3}", ERR_ARG, "#/$comment: expected a string"},
        {GRAMMAR_SCHEMA, "{\"title\":3}", ERR_ARG, "#/title: expected a string"},
        {GRAMMAR_SCHEMA, "{\"description\":[1]}", ERR_ARG, "#/description: expected a string"},
        {GRAMMAR_SCHEMA, "{\"examples\":{}}", ERR_ARG, "#/examples: expected an array"},
        {GRAMMAR_SCHEMA, "{\"readOnly\":\"x\"}", ERR_ARG, "#/readOnly: expected true or false"},
        {GRAMMAR_SCHEMA, "{\"writeOnly\":0}", ERR_ARG, "#/writeOnly: expected true or false"},
        {GRAMMAR_SCHEMA, "{\"deprecated\":1}", ERR_ARG, "#/deprecated: expected true or false"},
        {GRAMMAR_SCHEMA, "{\"contentEncoding\":4}", ERR_ARG, "#/contentEncoding: expected a string"},
        {GRAMMAR_SCHEMA, "{\"contentMediaType\":4}", ERR_ARG, "#/contentMediaType: expected a string"},
        {GRAMMAR_SCHEMA, "{\"contentSchema\":{\"type\":1}}", ERR_ARG, "#/contentSchema/type: expected the name"},
        {GRAMMAR_SCHEMA, "{\"$defs\":{\"a\":3}}", ERR_ARG, "#/$defs/a: a schema is"},
        {GRAMMAR_SCHEMA, "{\"$defs\":{\"a\":{\"type\":\"strin\"}},\"type\":\"integer\"}", ERR_ARG, "#/$defs/a/type"},
        {GRAMMAR_SCHEMA, "{\"definitions\":{\"a\":{\"items\":{\"minLength\":-1}}}}", ERR_ARG,
         "#/definitions/a/items/minLength"},
        {GRAMMAR_SCHEMA, "{\"items\":{\"$defs\":{\"a\":{\"title\":3}}}}", ERR_ARG, "#/items/$defs/a/title"},
        {GRAMMAR_SCHEMA, "{\"$ref\":\"#/$defs/x/items\",\"$defs\":{\"x\":{\"items\":{\"maxContains\":1}}}}", ERR_UNSUPPORTED,
         "#/$defs/x/items/maxContains"},
        {GRAMMAR_PARTS, "", ERR_ARG, "parts"},
        {GRAMMAR_PARTS, "[]", ERR_ARG, "\"root\""},
        {GRAMMAR_PARTS, "{\"a\":\"b\"}", ERR_ARG, "\"root\""},
        {GRAMMAR_PARTS, "{\"root\":\"a\",\"b\":\"c\",\"b\":\"d\"}", ERR_ARG, "the same name"},
        {GRAMMAR_PARTS, "{\"root\":1}", ERR_ARG, "a part is"},
        {GRAMMAR_PARTS, "{\"root\":{\"some\":[]}}", ERR_ARG, "a part is"},
        {GRAMMAR_PARTS, "{\"root\":{\"any\":\"a\"}}", ERR_ARG, "an array"},
        {GRAMMAR_PARTS, "{\"root\":{\"any\":[]}}", ERR_ARG, "no finite text"},
        {GRAMMAR_PARTS, "{\"root\":{\"rule\":\"x\"}}", ERR_ARG, "the name of a part"},
        {GRAMMAR_PARTS, "{\"root\":{\"rule\":\"root\"}}", ERR_ARG, "no finite text"},
        {GRAMMAR_PARTS, "{\"root\":{\"schema\":{\"unevaluatedItems\":{}}}}", ERR_UNSUPPORTED, "schema, #/unevaluatedItems"},
        {GRAMMAR_PARTS, "{\"root\":{\"grammar\":\"a\"}}", ERR_ARG, "expected ::="},
        {GRAMMAR_PARTS, "{\"root\":{\"grammar\":1}}", ERR_ARG, "must be a text"},
        {GRAMMAR_PARTS, "{\"root\":{\"regex\":\"(\"}}", ERR_ARG, "character"},
        {GRAMMAR_PARTS, "{\"root\":{\"json\":false}}", ERR_ARG, "must be true"},
        {GRAMMAR_PARTS, "{\"root\":{\"free\":{\"without\":\"a\"}}}", ERR_ARG, "arrays of texts"},
        {GRAMMAR_PARTS, "{\"root\":{\"free\":{\"first\":[\"\"]}}}", ERR_ARG, "arrays of texts"},
        {GRAMMAR_PARTS, "{\"root\":{\"free\":{\"without\":[" EIGHT EIGHT EIGHT EIGHT EIGHT EIGHT EIGHT EIGHT "\"a\"]}}}",
         ERR_ARG, "short"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) refused(rows[i].kind, str_of(rows[i].text), rows[i].code, rows[i].message);
}

static void put_times(struct buf *b, const char *z, unsigned n)
{
    while (n--) assert_int_equal(buf_z(b, z), 0);
}

/* None of these may take long, much memory, or a deep stack. */
static void sizes_have_limits(void **state)
{
    struct buf b = {0};
    (void)state;
    put_times(&b, "root ::= ", 1);
    put_times(&b, "(", 60000);
    refused(GRAMMAR_GBNF, buf_view(&b), ERR_LIMIT, "nested");
    b.n = 0;
    put_times(&b, "(", 60000);
    refused(GRAMMAR_REGEX, buf_view(&b), ERR_LIMIT, "nested");
    b.n = 0;
    put_times(&b, "root ::= \"x\"", 1);
    put_times(&b, " [ab]{9999}", 30);
    refused(GRAMMAR_GBNF, buf_view(&b), ERR_LIMIT, "too large");
    b.n = 0;
    put_times(&b, "root ::= r0\n", 1);
    for (int i = 0; i < 25000; i++) assert_int_equal(buf_printf(&b, "r%d ::= \"a\" r%d\n", i, i + 1), 0);
    refused(GRAMMAR_GBNF, buf_view(&b), ERR_LIMIT, "rules");
    b.n = 0;
    put_times(&b, "{\"allOf\":[", 40);
    refused(GRAMMAR_SCHEMA, buf_view(&b), ERR_ARG, "schema");
    b.n = 0;
    put_times(&b, "{\"allOf\":[{}", 1);
    put_times(&b, ",{}", 300);
    put_times(&b, "]}", 1);
    refused(GRAMMAR_SCHEMA, buf_view(&b), ERR_LIMIT, "too many schemas");
    b.n = 0;
    put_times(&b, "{\"anyOf\":[{}", 1);
    for (int i = 0; i < 40; i++)
        assert_int_equal(buf_printf(&b, ",{\"not\":{\"required\":[\"a%d\",\"b%d\",\"c%d\"]}}", i, i, i), 0);
    put_times(&b, "]}", 1);
    memcpy(b.p + 2, "all", 3);
    refused(GRAMMAR_SCHEMA, buf_view(&b), ERR_LIMIT, "too many alternatives");
    b.n = 0;
    put_times(&b, "{\"pattern\":\"b.{20}$\",\"maxLength\":90}", 1);
    refused(GRAMMAR_SCHEMA, buf_view(&b), ERR_LIMIT, "schema, #: the patterns");
    b.n = 0;
    for (int k = 0; k < 2; k++) { /* all of one list with all of the other */
        put_times(&b, k ? "],\"allOf\":[{\"enum\":[0" : "{\"enum\":[0", 1);
        for (int i = 0; i < 40000; i++) assert_int_equal(buf_printf(&b, ",\"%c%d\"", 'a' + k, i), 0);
    }
    put_times(&b, "]}]}", 1);
    refused(GRAMMAR_SCHEMA, buf_view(&b), ERR_LIMIT, "too many alternatives");
    b.n = 0;
    put_times(&b, "{\"properties\":{\"\":{}", 1); /* each of which is little work */
    for (int i = 0; i < 2000; i++)
        assert_int_equal(buf_printf(&b, ",\"%d\":{\"pattern\":\"%d.{9}$\",\"maxLength\":90}", i, i), 0);
    put_times(&b, "}}", 1);
    refused(GRAMMAR_SCHEMA, buf_view(&b), ERR_LIMIT, "too complex");
    b.n = 0;
    put_times(&b, "{\"anyOf\":[{}", 1); /* references to all of the definitions, which are inside of one another */
    for (int i = 1; i < 25; i++) {
        put_times(&b, ",{\"$ref\":\"#", 1);
        put_times(&b, "/$defs/a", (unsigned)i);
        put_times(&b, "\"}", 1);
    }
    put_times(&b, ",{\"$ref\":\"#/none\"}]", 1);
    put_times(&b, ",\"$defs\":{\"a\":{\"type\":\"null\"", 25);
    put_times(&b, ",\"$defs\":{\"a\":{}", 1);
    for (int i = 0; i < 60000; i++) assert_int_equal(buf_printf(&b, ",\"%d\":{}", i), 0);
    put_times(&b, "}}", 26);
    refused(GRAMMAR_SCHEMA, buf_view(&b), ERR_ARG, "#/anyOf/25/$ref: there is nothing");
    b.n = 0;
    put_times(&b, "{\"enum\":[\"", 1);
    put_times(&b, "a", 500000);
    put_times(&b, "\"],\"pattern\":\"(a?){30}b\"}", 1);
    refused(GRAMMAR_SCHEMA, buf_view(&b), ERR_LIMIT, "too complex");
    b.n = 0;
    put_times(&b, "{\"patternProperties\":{\"0\":{}", 1);
    for (int i = 1; i < 40; i++) assert_int_equal(buf_printf(&b, ",\"%d\":{}", i), 0);
    put_times(&b, "}}", 1);
    refused(GRAMMAR_SCHEMA, buf_view(&b), ERR_LIMIT, "#: more than 32 patterns");
    b.n = 0;
    put_times(&b, "x", (unsigned)TEXT_MAX + 1);
    refused(GRAMMAR_REGEX, buf_view(&b), ERR_LIMIT, "bytes");
    buf_fini(&b);
}

/* ---- masks ------------------------------------------------------------------------------------------------------------- */

static uint64_t random_state = 1;

static uint32_t random_below(uint32_t n)
{
    return scratch_below(&random_state, n);
}

/* Each token of the vocabulary: in the mask just where it is accepted. */
static void check_mask(struct matcher *m)
{
    const uint64_t *mask;
    struct err e = {0};
    if (matcher_mask(m, &mask, &e) < 0) fail_msg("%s", e.msg);
    uint64_t *copy = mem_array(vocab->n_words, sizeof *copy);
    memcpy(copy, mask, vocab->n_words * sizeof *copy);
    for (uint32_t id = 0; id < vocab->n_ids; id++) {
        const bool end = vocab->eog[id / 64] >> (id % 64) & 1;
        const bool accepted = matcher_accept(m, (int32_t)id, NULL) == 0;
        if (accepted != (bool)(copy[id / 64] >> (id % 64) & 1)) fail_msg("token %u: accepted %d", id, accepted);
        if (accepted && !end) matcher_back(m, 1);
    }
    mem_free(copy);
}

/* A random token of the mask; -1 where the answer ends. */
static int32_t random_token(struct matcher *m)
{
    const uint64_t *mask;
    uint32_t n = 0;
    int32_t picked = -1;
    struct err e = {0};
    if (matcher_must_end(m)) return -1;
    if (matcher_mask(m, &mask, &e) < 0) fail_msg("%s", e.msg);
    for (uint32_t id = 0; id < vocab->n_ids; id++)
        if ((mask[id / 64] >> (id % 64) & 1) && !(vocab->eog[id / 64] >> (id % 64) & 1) && random_below(++n) == 0)
            picked = (int32_t)id;
    return picked;
}

static const struct {
    enum grammar_kind kind;
    const char *text;
} walked[] = {
    {GRAMMAR_SCHEMA, "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"tags\":{\"type\":\"array\","
                     "\"items\":{\"type\":\"string\",\"maxLength\":12}},\"n\":{\"type\":\"number\"}},"
                     "\"required\":[\"name\",\"tags\"],\"additionalProperties\":{\"type\":\"string\"}}"},
    {GRAMMAR_SCHEMA, "{}"},
    {GRAMMAR_SCHEMA, "{\"type\":\"string\",\"pattern\":\"(ab|[^a])+x\"}"},
    {GRAMMAR_SCHEMA, "{\"type\":\"string\",\"pattern\":\"^[^\xC3\xA9]{2,20}$\"}"},
    {GRAMMAR_SCHEMA, "{\"type\":\"string\",\"minLength\":9,\"maxLength\":10}"},
    {GRAMMAR_SCHEMA,
     "{\"properties\":{\"a\":{\"pattern\":\"[ab]{2}\",\"maxLength\":4}},\"patternProperties\":{\"^x\":{\"type\":\"integer\"},"
     "\"y$\":{"
     "\"minimum\":5}},\"minProperties\":1}"},
    {GRAMMAR_PARTS, "{\"root\":[{\"free\":{\"without\":[\"e \",\"ing\"],\"first\":[\"{\",\"[{\"]}},{\"any\":[\"\",{\"many\":"
                    "[\"e \",{\"rule\":\"x\"}]}]}],\"x\":{\"any\":[{\"schema\":{\"type\":\"string\"}},{\"json\":true}]}}"},
};

static void masks_and_steps_agree(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(walked); i++) {
        struct grammar *g = compile(walked[i].kind, walked[i].text);
        for (int run = 0; run < 4; run++) {
            struct matcher *m = follow(g);
            for (int step = 0; step < 40; step++) {
                if (step % 4 == run) check_mask(m);
                const int32_t id = random_token(m);
                if (id < 0) break;
                assert_int_equal(matcher_accept(m, id, NULL), 0);
            }
            matcher_free(&m);
        }
        grammar_free(&g);
    }
}

/* Memory runs out many times on the way, and nothing changes by that. */
static void goes_on_where_memory_runs_out(void **state)
{
    static const char deep[] = "root ::= \"(\" ( root [0-9]{0,9} | [a-z] ) \")\"";
    struct grammar *g = compile(GRAMMAR_GBNF, deep);
    struct matcher *m = follow(g);
    (void)state;
    for (int i = 0; i < 3000; i++) assert_int_equal(matcher_accept(m, byte_ids['('], NULL), 0);
    assert_int_equal(matcher_accept(m, byte_ids['a'], NULL), 0);
    for (int i = 0; i < 3000; i++) {
        if (i % 500 == 0) check_mask(m);
        assert_false(matcher_may_end(m));
        assert_int_equal(matcher_accept(m, byte_ids[')'], NULL), 0);
    }
    assert_true(matcher_must_end(m));
    matcher_free(&m);
    grammar_free(&g);

    g = compile(GRAMMAR_SCHEMA, "{\"type\":\"string\",\"maxLength\":10000}");
    m = follow(g);
    assert_int_equal(matcher_accept(m, byte_ids['"'], NULL), 0);
    for (int i = 0; i < 10000; i++) assert_int_equal(matcher_accept(m, byte_ids['a' + i % 26], NULL), 0);
    check_mask(m);
    assert_int_not_equal(matcher_accept(m, byte_ids['a'], NULL), 0);
    assert_int_equal(matcher_accept(m, byte_ids['"'], NULL), 0);
    assert_true(matcher_must_end(m));
    matcher_free(&m);
    grammar_free(&g);
}

static void ambiguity_is_an_error_not_a_hang(void **state)
{
    struct grammar *g = compile(GRAMMAR_GBNF, "root ::= \"a\" root root root | \"a\" root root | \"a\"");
    struct matcher *m = follow(g);
    struct err e = {0};
    int rc = 0;
    (void)state;
    for (int i = 0; i < 100000 && rc == 0; i++) rc = matcher_accept(m, byte_ids['a'], &e);
    assert_int_equal(rc, ERR_LIMIT);
    matcher_free(&m);
    grammar_free(&g);
}

static void takes_back(void **state)
{
    struct grammar *g = compile(GRAMMAR_SCHEMA, "{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}");
    struct matcher *m = follow(g);
    (void)state;
    assert_true(takes(m, "[1,23]"));
    matcher_back(m, 2);
    assert_false(matcher_may_end(m));
    assert_true(takes(m, "4,5]"));
    assert_int_not_equal(matcher_accept(m, byte_ids[']'], NULL), 0);
    assert_true(matcher_must_end(m));
    matcher_free(&m);
    grammar_free(&g);
}

/* A control token may stand in front once, and changes nothing about what follows. */
static void lets_a_mark_through(void **state)
{
    const int32_t mark = tok_bos(tok), a = byte_ids['a'], b = byte_ids['b'];
    const struct constraint_options o = {
        .vocab = vocab, .kind = GRAMMAR_REGEX, .text = STR("ab"), .marked = true, .mark = mark, .n_vocab = vocab->n_ids};
    (void)state;
    for (int with = 0; with < 2; with++) {
        struct constraint c;
        struct err e = {0};
        const uint64_t *mask;
        assert_int_equal(constraint_init(&c, &o, tok, &e), 0);
        const int32_t ids[] = {mark, a, b};
        for (int i = with ? 0 : 1; i < 3; i++) {
            assert_int_equal(constraint_mask(&c, &mask, &e), 0);
            assert_int_equal(mask[mark / 64] >> (mark % 64) & 1, i == 0 || (i == 1 && !with));
            assert_int_equal(mask[ids[i] / 64] >> (ids[i] % 64) & 1, 1);
            assert_int_equal(constraint_put(&c, ids[i], &e), 0);
        }
        assert_true(constraint_done(&c));
        constraint_fini(&c);
    }
}

/* Every allocation fails once; nothing is lost. */
static bool fail_nth(void *ctx, enum fault_kind kind)
{
    int *left = ctx;
    return kind == FAULT_ALLOC && (*left)-- == 0;
}

static void fail_each(enum grammar_kind kind, const char *text)
{
    const size_t before = mem_stats().current;
    for (int n = 0;; n++) {
        struct err e = {0};
        struct grammar *g = NULL;
        struct matcher *m = NULL;
        int left = n;
        fault_set(fail_nth, &left);
        int rc = grammar_compile(kind, str_of(text), &g, &e);
        if (rc == 0) rc = matcher_new(g, vocab, &m, &e);
        fault_set(NULL, NULL);
        matcher_free(&m);
        grammar_free(&g);
        assert_int_equal(mem_stats().current, before);
        if (rc == 0) break;
        assert_int_equal(rc, ERR_NOMEM);
        assert_true(n < 10000);
    }
}

static void survives_failed_allocations(void **state)
{
    (void)state;
    fail_each(walked[0].kind, walked[0].text);
    fail_each(walked[COUNT_OF(walked) - 2].kind, walked[COUNT_OF(walked) - 2].text);
    fail_each(walked[COUNT_OF(walked) - 1].kind, walked[COUNT_OF(walked) - 1].text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gbnf_takes_what_it_says),
        cmocka_unit_test(regex_takes_what_it_says),
        cmocka_unit_test(schemas_take_what_they_say),
        cmocka_unit_test(parts_take_what_they_say),
        cmocka_unit_test(names_the_place),
        cmocka_unit_test(sizes_have_limits),
        cmocka_unit_test(masks_and_steps_agree),
        cmocka_unit_test(goes_on_where_memory_runs_out),
        cmocka_unit_test(ambiguity_is_an_error_not_a_hang),
        cmocka_unit_test(takes_back),
        cmocka_unit_test(lets_a_mark_through),
        cmocka_unit_test(survives_failed_allocations),
    };
    return cmocka_run_group_tests(tests, open_vocab, close_vocab);
}
