/* tok: tokenizers and the detokenizer, against published vectors (when the shared folder is there), against slow
 * reference implementations written here, and against what hostile files and texts can try. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <pthread.h>

#include "scratch.h"
#include "text/text_int.h"

#include <cmocka.h>

#include "vocab.h"

#define DATA SOURCE_ROOT "/tests/unit/data/"

static char dir[64];

static int make_dir(void **state)
{
    (void)state;
    scratch_make(dir);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    scratch_remove(dir);
    return 0;
}

/* ---- tools ------------------------------------------------------------------------------------------------ */

static uint64_t rng_state = 1;

static uint32_t rng(uint32_t n)
{
    return scratch_below(&rng_state, n);
}

static struct str sub(struct str s, size_t from, size_t to)
{
    return (struct str){s.p + from, to - from};
}

static struct str map_file(const char *path, struct map *m)
{
    struct err e = {0};
    if (vfs_map(path, m, &e) < 0) fail_msg("%s", e.msg);
    return (struct str){(const char *)m->p, m->n};
}

static struct tok *open_hf(struct str text, const struct json *config)
{
    struct err e = {0};
    struct tok *t = NULL;
    if (tok_open_hf(text, config, NULL, "tokenizer.json", &t, &e) < 0) fail_msg("%s", e.msg);
    return t;
}

/* The map goes away before the tokenizer is used: it must have copied what it needs. */
static int try_gguf(const char *path, struct tok **t, struct err *e)
{
    struct map m;
    struct str bytes = map_file(path, &m);
    struct gguf *g = NULL;
    int rc = gguf_parse(bytes, path, false, &g, e);
    if (rc == 0) rc = tok_open_gguf(g, t, e);
    gguf_free(&g);
    vfs_unmap(&m);
    return rc;
}

static struct tok *open_file(const char *path)
{
    struct err e = {0};
    struct tok *t = NULL;
    if (str_ends(str_of(path), STR(".gguf"))) {
        if (try_gguf(path, &t, &e) < 0) fail_msg("%s", e.msg);
        return t;
    }
    struct map m;
    struct str text = map_file(path, &m);
    t = open_hf(text, NULL);
    vfs_unmap(&m);
    return t;
}

static struct ids encode(const struct tok *t, struct str text, unsigned flags)
{
    struct err e = {0};
    struct ids v = {0};
    char *exact = scratch_exact(text.p, text.n);
    if (tok_encode(t, (struct str){exact, text.n}, flags, &v, &e) < 0) fail_msg("%s", e.msg);
    free(exact);
    return v;
}

static void decode(const struct tok *t, const struct ids *v, bool show_special, struct buf *out)
{
    struct err e = {0};
    struct detok d;
    detok_init(&d, t, show_special);
    for (size_t i = 0; i < v->n; i++) assert_int_equal(detok_put(&d, v->p[i], out, &e), 0);
    assert_int_equal(detok_end(&d, out, &e), 0);
}

static void print_ids(const char *what, const int32_t *p, size_t n)
{
    print_message("%s", what);
    for (size_t i = 0; i < n && i < 100; i++) print_message(" %d", (int)p[i]);
    print_message("\n");
}

static void expect_ids(const struct tok *t, struct str text, unsigned flags, const int32_t *want, size_t n)
{
    struct ids v = encode(t, text, flags);
    if (v.n != n || (n && memcmp(v.p, want, n * sizeof *want) != 0)) {
        print_ids("want", want, n);
        print_ids("got", v.p, v.n);
        fail_msg("wrong ids for '%.*s'", STR_ARG(text));
    }
    ids_fini(&v);
}

#define EXPECT(t, text, flags, ...) \
    expect_ids(t, STR(text), flags, (const int32_t[]){__VA_ARGS__}, COUNT_OF(((const int32_t[]){__VA_ARGS__})))

static void expect_text(const struct tok *t, const int32_t *p, size_t n, bool show_special, struct str want)
{
    struct buf out = {0};
    struct ids v = {(int32_t *)(uintptr_t)p, n, n};
    decode(t, &v, show_special, &out);
    if (!str_eq(buf_view(&out), want)) fail_msg("want '%.*s', got '%.*s'", STR_ARG(want), STR_ARG(buf_view(&out)));
    buf_fini(&out);
}

static void round_trip(const struct tok *t, struct str text)
{
    struct ids v = encode(t, text, 0);
    expect_text(t, v.p, v.n, false, text);
    ids_fini(&v);
}

/* ---- published vectors ------------------------------------------------------------------------------------ */

static const char *shared_or_skip(const char *name)
{
    const char *path = scratch_shared(name);
    if (!path) skip();
    return path;
}

/* .inp: texts parted by a line; .out: one line of ids each. */
static void run_vectors(const struct tok *t, const char *inp, const char *out, bool reversible)
{
    static const struct str part = {"\n__ggml_vocab_test__\n", 21};
    struct map mi, mo;
    struct str in = map_file(inp, &mi), ids = map_file(out, &mo);
    size_t cases = 0;
    for (size_t at = 0, line = 0; at < in.n; cases++) {
        size_t end = at;
        while (!str_starts(sub(in, end, in.n), part)) end++;
        size_t eol = line;
        while (eol < ids.n && ids.p[eol] != '\n') eol++;
        int32_t want[256];
        size_t n = 0;
        for (size_t i = line; i < eol;) {
            size_t k = i;
            uint64_t id = 0;
            while (k < eol && ids.p[k] != ' ') k++;
            if (k > i) assert_true(str_u64(sub(ids, i, k), &id));
            if (k > i) want[n++] = (int32_t)id;
            i = k + 1;
        }
        expect_ids(t, sub(in, at, end), 0, want, n);
        if (reversible) round_trip(t, sub(in, at, end));
        at = end + part.n;
        line = eol + 1;
    }
    assert_true(cases >= 46);
    vfs_unmap(&mi);
    vfs_unmap(&mo);
}

static void published_vectors(void **state)
{
    static const char *const names[] = {"llama-spm", "gpt-2", "deepseek-llm", "phi-3", "bert-bge"};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        char file[128];
        snprintf(file, sizeof file, "tokenizers/ggml-vocab-%s.gguf", names[i]);
        struct tok *t = open_file(shared_or_skip(file));
        char inp[512], out[512];
        snprintf(inp, sizeof inp, "%s.inp", scratch_shared(file));
        snprintf(out, sizeof out, "%s.out", scratch_shared(file));
        run_vectors(t, inp, out, strcmp(names[i], "bert-bge") != 0);
        tok_close(&t);
    }
}

static void run_cases(const struct tok *t, const char *path, unsigned flags, size_t min)
{
    struct map m;
    struct err e = {0};
    struct arena a = {0};
    struct json *cases;
    struct str text = map_file(path, &m);
    assert_int_equal(json_parse(&a, text, path, &cases, &e), 0);
    assert_true(cases->n >= min);
    for (size_t i = 0; i < cases->n; i++) {
        const struct json *ids = json_find(&cases->v[i], "ids");
        int32_t *want = calloc(ids->n + 1, sizeof *want);
        for (size_t k = 0; k < ids->n; k++) want[k] = (int32_t)ids->v[k].i;
        expect_ids(t, json_find(&cases->v[i], "text")->s, flags, want, ids->n);
        expect_text(t, want, ids->n, true, json_find(&cases->v[i], "text")->s);
        free(want);
    }
    arena_fini(&a);
    vfs_unmap(&m);
}

static void llama3_vectors(void **state)
{
    (void)state;
    struct tok *t = open_file(shared_or_skip("tokenizers/llama3/tokenizer.json"));
    char inp[512], out[512];
    snprintf(inp, sizeof inp, "%s", scratch_shared("tokenizers/llama3/llama-bpe.inp"));
    snprintf(out, sizeof out, "%s", scratch_shared("tokenizers/llama3/llama-bpe.out"));
    run_vectors(t, inp, out, true);
    run_cases(t, scratch_shared("tokenizers/llama3/cases.json"), TOK_PARSE_SPECIAL, 303);
    assert_string_equal(tok_kind(t), "bpe");
    assert_string_equal(tok_pre(t), "llama-bpe");
    assert_int_equal(tok_n_vocab(t), 128256);
    assert_true(tok_adds_bos(t));
    assert_int_equal(tok_bos(t), 128000);
    assert_true(tok_is_special(t, 128009));
    tok_close(&t);
}

/* Peak memory while a large tokenizer.json is opened. */
static void opening_takes_little_memory(void **state)
{
    (void)state;
    const char *path = shared_or_skip("tokenizers/llama3/tokenizer.json");
    struct map m;
    struct str text = map_file(path, &m);
    mem_peak_reset();
    size_t before = mem_stats().current;
    struct tok *t = open_hf(text, NULL);
    assert_true(mem_stats().peak - before < 2 * text.n);
    tok_close(&t);
    assert_int_equal(mem_stats().current, before);
    vfs_unmap(&m);
}

static void tiny_bpe_vectors(void **state)
{
    (void)state;
    struct tok *t = open_file(DATA "tiny-bpe/tokenizer.json");
    run_cases(t, DATA "tiny-bpe/cases.json", 0, 1);
    assert_string_equal(tok_pre(t), "gpt-2");
    assert_false(tok_adds_bos(t));
    EXPECT(t, "</s>x", TOK_PARSE_SPECIAL, 2, tok_find(t, STR("x")));
    EXPECT(t, "</s>", 0, tok_find(t, STR("<")), tok_find(t, STR("/")), tok_find(t, STR("s")), tok_find(t, STR(">")));
    assert_int_equal(tok_find(t, STR("no such entry")), -1);
    assert_int_equal(tok_entry(t, -1).n, 0);
    assert_int_equal(tok_entry(t, 512).n, 0);
    tok_close(&t);
}

/* ---- what convert writes reads back as the same tokenizer ------------------------------------------------- */

static void same_ids(const struct tok *a, const struct tok *b, struct str text, unsigned flags)
{
    struct ids v = encode(a, text, flags);
    expect_ids(b, text, flags, v.p, v.n);
    ids_fini(&v);
}

static void exports_are_the_same_tokenizer(void **state)
{
    (void)state;
    struct tok *t = open_file(DATA "tiny-bpe/tokenizer.json");
    write_export(t, scratch_path(dir, "tiny.gguf"));
    struct tok *g = open_file(scratch_path(dir, "tiny.gguf"));
    assert_int_equal(tok_n_vocab(g), 512);
    for (int i = 0; i < 300; i++) {
        char text[200];
        size_t n = rng(sizeof text);
        for (size_t k = 0; k < n; k++) text[k] = (char)("the letter '<s>\n 12\xC3\xA9\xFF"[rng(22)]);
        same_ids(t, g, (struct str){text, n}, TOK_PARSE_SPECIAL | TOK_ADD_SPECIAL);
    }
    tok_close(&t);
    tok_close(&g);
}

static void demo_model_text(void **state)
{
    (void)state;
    struct map m, mc;
    struct err e = {0};
    struct arena a = {0};
    struct json *config;
    struct str text = map_file(shared_or_skip("demo-model/val.txt"), &m);
    struct str cfg = map_file(scratch_shared("demo-model/main/tokenizer_config.json"), &mc);
    assert_int_equal(json_parse(&a, cfg, "tokenizer_config.json", &config, &e), 0);
    struct map mt;
    struct tok *t = open_hf(map_file(scratch_shared("demo-model/main/tokenizer.json"), &mt), config);
    vfs_unmap(&mt);
    struct ids v = encode(t, text, 0);
    assert_int_equal(v.n, 49877);
    expect_text(t, v.p, v.n, false, text);
    ids_fini(&v);
    assert_true(tok_adds_bos(t));
    assert_true(str_is(tok_entry(t, tok_eos(t)), "<|eot_id|>"));
    assert_true(tok_chat_template(t).n > 100);
    size_t n;
    const int32_t *stops = tok_stops(t, &n);
    assert_true(n >= 2 && stops[0] == tok_eos(t));
    write_export(t, scratch_path(dir, "demo.gguf"));
    struct tok *g = open_file(scratch_path(dir, "demo.gguf"));
    same_ids(t, g, text, TOK_ADD_SPECIAL);
    tok_close(&t);
    tok_close(&g);
    arena_fini(&a);
    vfs_unmap(&m);
    vfs_unmap(&mc);
}

/* ---- tokenizers made here --------------------------------------------------------------------------------- */

/* A tokenizer.json: the byte alphabet (ids 0-255) or given entries, then what the merges give. */
struct recipe {
    const char *normalizer, *pre, *post, *decoder; /* JSON, NULL: null */
    const char *added;                             /* objects of added_tokens */
    const char *model;                             /* more members of model, each with a comma behind */
    const char *const *entries;                    /* instead of the alphabet */
    const char *const *merges;                     /* "a b" */
    bool pairs;                                    /* merges as ["a", "b"] */
};

#define BYTES_ONLY "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define BYTES_REGEX "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}"
#define DECODE_BYTES "{\"type\":\"ByteLevel\"}"

static void put_entry(struct buf *b, struct str entry, size_t *id)
{
    if (*id) buf_c(b, ',');
    json_write_string(b, entry);
    buf_printf(b, ":%zu", (*id)++);
}

static void put_recipe(struct buf *b, const struct recipe *r)
{
    size_t id = 0;
    buf_printf(b, "{\"version\":\"1.0\",\"added_tokens\":[%s],\"normalizer\":%s,\"pre_tokenizer\":%s,\"post_processor\":%s,",
               r->added ? r->added : "", r->normalizer ? r->normalizer : "null", r->pre ? r->pre : "null",
               r->post ? r->post : "null");
    buf_printf(b, "\"decoder\":%s,\"model\":{\"type\":\"BPE\",%s\"vocab\":{", r->decoder ? r->decoder : "{\"type\":\"Fuse\"}",
               r->model ? r->model : "");
    for (unsigned i = 0; i < 256 && !r->entries; i++) {
        char utf8[4];
        put_entry(b, (struct str){utf8, utf8_encode(byte_to_char((unsigned char)i), utf8)}, &id);
    }
    for (size_t i = 0; r->entries && r->entries[i]; i++) put_entry(b, str_of(r->entries[i]), &id);
    for (size_t i = 0; r->merges && r->merges[i]; i++) {
        const char *gap = strchr(r->merges[i] + 1, ' ');
        struct buf joined = {0};
        buf_put(&joined, r->merges[i], (size_t)(gap - r->merges[i]));
        buf_z(&joined, gap + 1);
        put_entry(b, buf_view(&joined), &id);
        buf_fini(&joined);
    }
    buf_z(b, "},\"merges\":[");
    for (size_t i = 0; r->merges && r->merges[i]; i++) {
        const char *gap = strchr(r->merges[i] + 1, ' ');
        if (i) buf_c(b, ',');
        if (!r->pairs) {
            json_write_string(b, str_of(r->merges[i]));
            continue;
        }
        buf_c(b, '[');
        json_write_string(b, (struct str){r->merges[i], (size_t)(gap - r->merges[i])});
        buf_c(b, ',');
        json_write_string(b, str_of(gap + 1));
        buf_c(b, ']');
    }
    buf_z(b, "]}}");
}

static int try_recipe(const struct recipe *r, const struct json *config, struct tok **t, struct err *e)
{
    struct buf b = {0};
    put_recipe(&b, r);
    char *exact = scratch_exact(b.p, b.n);
    int rc = tok_open_hf((struct str){exact, b.n}, config, NULL, "tokenizer.json", t, e);
    free(exact);
    buf_fini(&b);
    return rc;
}

static struct tok *make(const struct recipe *r)
{
    struct err e = {0};
    struct tok *t = NULL;
    if (try_recipe(r, NULL, &t, &e) < 0) fail_msg("%s", e.msg);
    return t;
}

/* ---- words ------------------------------------------------------------------------------------------------------------------
 */

/* The words of a text, each followed by '|'. */
static void words_of(const struct tok *t, struct str text, struct buf *out)
{
    struct pre_run r;
    struct err e = {0};
    struct str w;
    pre_run_init(&r, t, text.n);
    pre_start(&r, text, true, false);
    int rc;
    while ((rc = pre_next(&r, &w, &e)) > 0) {
        assert_true(w.n > 0);
        buf_str(out, w);
        buf_c(out, '|');
    }
    if (rc < 0) fail_msg("%s", e.msg);
    pre_run_fini(&r);
}

static void expect_words(const char *pre, const char *text, const char *want)
{
    struct tok *t = make(&(struct recipe){.pre = pre});
    struct buf out = {0};
    words_of(t, str_of(text), &out);
    if (!str_is(buf_view(&out), want)) fail_msg("%s of '%s': want %s got %.*s", pre, text, want, STR_ARG(buf_view(&out)));
    buf_fini(&out);
    tok_close(&t);
}

#define SPLIT(pattern, behavior, invert) \
    "{\"type\":\"Split\",\"pattern\":{" pattern "},\"behavior\":\"" behavior "\",\"invert\":" invert "}"
#define SEQ(stages) "{\"type\":\"Sequence\",\"pretokenizers\":[" stages "]}"

static void stages_cut_where_they_should(void **state)
{
    (void)state;
    expect_words(SPLIT("\"String\":\"-\"", "Isolated", "false"), "the-final--countdown", "the|-|final|-|-|countdown|");
    expect_words(SPLIT("\"String\":\"-\"", "Removed", "false"), "the-final--countdown", "the|final|countdown|");
    expect_words(SPLIT("\"String\":\"-\"", "Removed", "true"), "the-final--countdown", "-|-|-|");
    expect_words(SPLIT("\"String\":\"-\"", "MergedWithPrevious", "false"), "the-final--countdown", "the-|final-|-|countdown|");
    expect_words(SPLIT("\"String\":\"-\"", "MergedWithNext", "false"), "the-final--countdown", "the|-final|-|-countdown|");
    expect_words(SPLIT("\"String\":\"-\"", "Contiguous", "false"), "-the-final--countdown--", "-|the|-|final|--|countdown|--|");
    expect_words(SPLIT("\"Regex\":\"-|(?=o)\"", "Isolated", "false"), "-a-oo-", "-|a|-|o|o|-|");
    expect_words(SPLIT("\"Regex\":\"x*\"", "Isolated", "false"), "axxb\xC3\xA9", "a|xx|b|\xC3\xA9|");
    expect_words(SPLIT("\"Regex\":\"[0-9]+$\"", "Isolated", "false"), "a1\nb23", "a|1|\nb|23|");
    expect_words("{\"type\":\"Digits\",\"individual_digits\":true}", "a12\xC2\xB2z", "a|1|2|\xC2\xB2|z|");
    expect_words("{\"type\":\"Digits\",\"individual_digits\":false}", "a12\xC2\xB2z", "a|12\xC2\xB2|z|");
    expect_words("{\"type\":\"Punctuation\"}", "ab,c!?", "ab|,|c|!|?|");
    expect_words("{\"type\":\"Punctuation\",\"behavior\":\"Contiguous\"}", "ab,c!?\xE3\x80\x82", "ab|,|c|!?\xE3\x80\x82|");
    expect_words("{\"type\":\"Whitespace\"}", "Hey  you_2, there!?", "Hey|you_2|,|there|!?|");
    expect_words("{\"type\":\"WhitespaceSplit\"}", " Hey\xC2\xA0 you,\n", "Hey|you,|");
    expect_words(SEQ(""), "a b", "a b|");
    expect_words(SEQ("{\"type\":\"WhitespaceSplit\"}," SEQ(
                     "{\"type\":\"Digits\",\"individual_digits\":true}") ",{\"type\":\"Punctuation\"}"),
                 "ab1 2.x", "ab|1|2|.|x|");
    expect_words("{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"always\"}", "a  bc", "_a|_|_bc|");
    expect_words("{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"always\"}", " a", "_a|");
    expect_words("{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"never\",\"split\":false}", "a b", "a_b|");
    expect_words("{\"type\":\"Metaspace\",\"replacement\":\"_\",\"add_prefix_space\":false}", "a b", "a|_b|");
    expect_words("{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", "it's 12 a's", " it|'s| 12| a|'s|");
    expect_words(BYTES_REGEX, "don't  stop\n\n 1234 x\xCC\x81!!", "don|'t| | stop|\n\n| 1234| x|\xCC\x81!!|");
}

/* The hand-written scanners against PCRE2 on the same expression, which a group round it keeps from being recognized. */
static void scanners_equal_their_expressions(void **state)
{
#define TAIL "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
    static const char *const expressions[] = {
        "'s|'t|'re|'ve|'m|'ll|'d| ?\\\\p{L}+| ?\\\\p{N}+| ?[^\\\\s\\\\p{L}\\\\p{N}]+|\\\\s+(?!\\\\S)|\\\\s+",
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}" TAIL,
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}" TAIL};
    static const char *const pieces[] = {"a",
                                         "B",
                                         "s",
                                         "S",
                                         "t",
                                         "l",
                                         "L",
                                         "re",
                                         "'",
                                         "'",
                                         "'s",
                                         "'S",
                                         "d",
                                         "1",
                                         "23",
                                         "\xC2\xB2",
                                         " ",
                                         " ",
                                         " ",
                                         "\t",
                                         "\n",
                                         "\r",
                                         "\n",
                                         "\xC2\xA0",
                                         "\xC2\x85",
                                         "\xE3\x80\x80",
                                         "\xE2\x80\xA8",
                                         "!",
                                         ".",
                                         "<",
                                         "_",
                                         "\xC5\xBF",
                                         "\xC3\xA9",
                                         "e\xCC\x81",
                                         "\xE4\xB8\xAD",
                                         "\xF0\x9F\x98\x80",
                                         "\x0B",
                                         "\xD9\xA3",
                                         "\xF0\x9F\xA6\x99\xEF\xB8\x8F",
                                         "\x01"};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(expressions); i++) {
        char pre[2][512];
        snprintf(pre[0], sizeof pre[0], SPLIT("\"Regex\":\"%s\"", "Isolated", "false"), expressions[i]);
        snprintf(pre[1], sizeof pre[1], SPLIT("\"Regex\":\"(?:%s)\"", "Isolated", "false"), expressions[i]);
        struct tok *fast = make(&(struct recipe){.pre = pre[0]}), *slow = make(&(struct recipe){.pre = pre[1]});
        assert_int_equal(fast->pre[0].find, FIND_GPT);
        assert_int_equal(slow->pre[0].find, FIND_REGEX);
        for (size_t round = scratch_rounds(8000); round > 0; round--) {
            struct buf text = {0}, a = {0}, b = {0};
            for (uint32_t k = rng(12) + 1; k > 0; k--) buf_z(&text, pieces[rng(COUNT_OF(pieces))]);
            words_of(fast, buf_view(&text), &a);
            words_of(slow, buf_view(&text), &b);
            if (!str_eq(buf_view(&a), buf_view(&b)))
                fail_msg("%s: '%.*s' instead of '%.*s'", expressions[i], STR_ARG(buf_view(&a)), STR_ARG(buf_view(&b)));
            buf_fini(&text);
            buf_fini(&a);
            buf_fini(&b);
        }
        tok_close(&fast);
        tok_close(&slow);
    }
}

static void a_regex_that_explodes_is_an_error(void **state)
{
    (void)state;
    struct tok *t = make(&(struct recipe){.pre = SPLIT("\"Regex\":\"(*NO_START_OPT)(a|aa)+!\"", "Isolated", "false")});
    struct ids v = {0};
    struct err e = {0};
    char text[201];
    memset(text, 'a', sizeof text);
    assert_int_equal(tok_encode(t, (struct str){text, sizeof text}, 0, &v, &e), ERR_LIMIT);
    assert_non_null(strstr(e.msg, "(a|aa)+!"));
    assert_int_equal(v.n, 0);
    ids_fini(&v);
    tok_close(&t);
}

/* ---- merging ---------------------------------------------------------------------------------------------------------------
 */

enum { MAX_MERGES = 40 };

/* Joins the best pair of all again and again: the definition. */
static void naive_bpe(const struct tok *t, struct str word, struct ids *out)
{
    for (size_t i = 0; i < word.n; i++) ids_put(out, t->byte_id[(unsigned char)word.p[i]]);
    for (;;) {
        size_t best = SIZE_MAX, rank = SIZE_MAX;
        for (size_t i = 0; i + 1 < out->n; i++)
            for (size_t r = 0; r < t->n_merges && r < rank; r++)
                if (t->merges[r].left == out->p[i] && t->merges[r].right == out->p[i + 1]) best = i, rank = r;
        if (best == SIZE_MAX) return;
        out->p[best] = t->merges[rank].id;
        memmove(out->p + best + 1, out->p + best + 2, (out->n - best - 2) * sizeof *out->p);
        out->n--;
    }
}

/* Random merges over a, b, c; some results have several. */
static size_t random_merges(char text[MAX_MERGES][40], const char *merges[MAX_MERGES + 1])
{
    char parts[MAX_MERGES + 3][20] = {"a", "b", "c"};
    size_t n = 0, n_parts = 3;
    for (int tries = 0; tries < 200 && n < MAX_MERGES; tries++) {
        const char *l = parts[rng((uint32_t)n_parts)], *r = parts[rng((uint32_t)n_parts)];
        if (strlen(l) + strlen(r) > 12) continue;
        snprintf(text[n], sizeof text[n], "%s %s", l, r);
        bool again = false, known = false;
        for (size_t i = 0; i < n; i++) again = again || strcmp(text[i], text[n]) == 0;
        if (again) continue;
        char joined[40];
        snprintf(joined, sizeof joined, "%s%s", l, r);
        for (size_t i = 0; i < n_parts; i++) known = known || strcmp(parts[i], joined) == 0;
        if (!known) strcpy(parts[n_parts++], joined);
        merges[n] = text[n];
        n++;
    }
    merges[n] = NULL;
    return n;
}

static void merging_is_what_the_definition_says(void **state)
{
    (void)state;
    for (int round = 0; round < 60; round++) {
        char text[MAX_MERGES][40], word[220];
        const char *merges[MAX_MERGES + 1];
        random_merges(text, merges);
        struct tok *t =
            make(&(struct recipe){.pre = BYTES_ONLY, .decoder = DECODE_BYTES, .merges = merges, .pairs = round & 1});
        for (int k = 0; k < 60; k++) {
            size_t n = rng(k < 30 ? 30 : sizeof word);
            uint32_t letters = 1 + rng(3);
            for (size_t i = 0; i < n; i++) word[i] = (char)('a' + rng(letters));
            struct ids want = {0};
            naive_bpe(t, (struct str){word, n}, &want);
            expect_ids(t, (struct str){word, n}, 0, want.p, want.n);
            ids_fini(&want);
            round_trip(t, (struct str){word, n});
        }
        tok_close(&t);
    }
}

static void whole_words_can_ignore_merges(void **state)
{
    /* a b comes before b c, so merging never makes abc, though it is an entry. */
    static const char *const merges[] = {"a b", "b c", "a bc", NULL};
    (void)state;
    struct tok *t = make(&(struct recipe){.pre = BYTES_REGEX, .merges = merges, .model = "\"ignore_merges\":true,"});
    EXPECT(t, "abc", 0, 258);
    EXPECT(t, "abc abc", 0, 258, ' ', 256, 'c');
    tok_close(&t);
    t = make(&(struct recipe){.pre = BYTES_REGEX, .merges = merges});
    EXPECT(t, "abc", 0, 256, 'c');
    tok_close(&t);
}

/* Words come out of the cache as they went in: a long text of few words. */
static void cached_words_are_the_same(void **state)
{
    (void)state;
    struct tok *t = open_file(DATA "tiny-bpe/tokenizer.json");
    struct buf text = {0};
    struct ids want = {0};
    static const struct str words[] = {{" the", 4}, {" captain", 8},     {" 12", 3},
                                       {"\n", 1},   {" a\xC3\xA9!?", 5}, {" donaudampfschifffahrts", 23}};
    for (int i = 0; i < 4000; i++) {
        /* A line end and a space would be one word with what follows, so none is put before a space. */
        struct str w = words[rng(COUNT_OF(words))];
        if (w.p[0] == '\n') continue;
        buf_str(&text, w);
    }
    for (size_t i = 0; i < text.n;) { /* the same, word by word, too short for a cache */
        size_t end = i + 1;
        while (end < text.n && text.p[end] != ' ') end++;
        struct ids v = encode(t, sub(buf_view(&text), i, end), 0);
        for (size_t k = 0; k < v.n; k++) ids_put(&want, v.p[k]);
        ids_fini(&v);
        i = end;
    }
    expect_ids(t, buf_view(&text), 0, want.p, want.n);
    ids_fini(&want);
    buf_fini(&text);
    tok_close(&t);
}

/* ---- SentencePiece --------------------------------------------------------------------------------------------------------
 */

struct piece {
    const char *text;
    float score;
    int32_t type;
};

struct vocab {
    const char *model, *pre;
    const struct piece *pieces; /* after <unk> <s> </s> and, where bytes, <0x00> ... */
    size_t n;
    bool bytes;
    const char *const *merges; /* with NULL */
    const char *skip;          /* a key to leave out */
    int space_prefix;          /* 0 or 1; else not said */
};

static void write_vocab(const char *path, const struct vocab *v)
{
    struct err e = {0};
    struct gguf_writer *w;
    struct arena a = {0};
    size_t n = 0, cap = 3 + 256 + v->n;
    struct str *tokens = arena_array(&a, cap, sizeof *tokens);
    float *scores = arena_array(&a, cap, sizeof *scores);
    int32_t *types = arena_array(&a, cap, sizeof *types);
    static const char *const first[] = {"<unk>", "<s>", "</s>"};
    for (size_t i = 0; i < 3; i++, n++) tokens[n] = str_of(first[i]), types[n] = i ? TYPE_CONTROL : TYPE_UNKNOWN;
    for (unsigned b = 0; b < 256 && v->bytes; b++, n++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", b);
        tokens[n] = (struct str){arena_dup(&a, name, 6), 6};
        types[n] = TYPE_BYTE;
    }
    for (size_t i = 0; i < v->n; i++, n++) {
        tokens[n] = str_of(v->pieces[i].text);
        scores[n] = v->pieces[i].score;
        types[n] = v->pieces[i].type ? v->pieces[i].type : TYPE_NORMAL;
    }
    size_t n_merges = 0;
    while (v->merges && v->merges[n_merges]) n_merges++;
    struct str *merges = arena_array(&a, n_merges, sizeof *merges);
    for (size_t i = 0; i < n_merges; i++) merges[i] = str_of(v->merges[i]);
    const char *skip = v->skip ? v->skip : "";
    assert_int_equal(gguf_writer_new(path, &w, &e), 0);
    gguf_put_str(w, "tokenizer.ggml.model", str_of(v->model));
    if (v->pre) gguf_put_str(w, "tokenizer.ggml.pre", str_of(v->pre));
    gguf_put_strs(w, "tokenizer.ggml.tokens", tokens, n);
    if (strcmp(skip, "scores") != 0) gguf_put_f32s(w, "tokenizer.ggml.scores", scores, n);
    if (strcmp(skip, "types") != 0) gguf_put_i32s(w, "tokenizer.ggml.token_type", types, n);
    if (v->merges) gguf_put_strs(w, "tokenizer.ggml.merges", merges, n_merges);
    if (v->space_prefix == 0 || v->space_prefix == 1) gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", v->space_prefix);
    gguf_put_str(w, "tokenizer.chat_template", STR("{{ x }}"));
    assert_int_equal(gguf_write_begin(w, &e), 0);
    if (gguf_write_end(w, &e) < 0) fail_msg("%s", e.msg);
    gguf_writer_free(&w);
    arena_fini(&a);
}

static struct tok *make_gguf(const struct vocab *v)
{
    const char *path = scratch_path(dir, "vocab.gguf");
    write_vocab(path, v);
    return open_file(path);
}

#define SP "\xE2\x96\x81"
static const struct piece small_spm[] = {{SP, -9, 0},   {"a", -9, 0},        {"b", -9, 0},
                                         {"c", -9, 0},  {SP "a", -1, 0},     {"ab", -2, 0},
                                         {"bc", -2, 0}, {SP "ab", -0.5f, 0}, {"<tool>", 0, TYPE_USER},
                                         {SP SP, -3, 0}};
enum { SP_A = 259 }; /* the first of small_spm after the bytes */

static void spm_joins_by_score(void **state)
{
    (void)state;
    struct tok *t = make_gguf(
        &(struct vocab){.model = "llama", .pieces = small_spm, .n = COUNT_OF(small_spm), .bytes = true, .space_prefix = 2});
    assert_string_equal(tok_kind(t), "spm");
    assert_string_equal(tok_pre(t), "default");
    assert_true(str_is(tok_chat_template(t), "{{ x }}"));
    assert_true(tok_adds_bos(t));
    EXPECT(t, "ab", 0, SP_A + 7);
    EXPECT(t, "bc", TOK_ADD_SPECIAL, 1, SP_A, SP_A + 6);
    EXPECT(t, "babc", 0, SP_A, SP_A + 2, SP_A + 5, SP_A + 3); /* ab and bc tie: the left one */
    EXPECT(t, " a", 0, SP_A, SP_A + 4);
    EXPECT(t, "\xC3\xA9", 0, SP_A, 3 + 0xC3, 3 + 0xA9);
    EXPECT(t,
           "a\xFF"
           "b",
           0, SP_A + 4, 3 + 0xFF, SP_A + 2);
    EXPECT(t, "a<tool>b</s>", 0, SP_A + 4, SP_A + 8, SP_A, SP_A + 2, 3 + '<', 3 + '/', 3 + 's', 3 + '>');
    EXPECT(t, "a</s>b", TOK_PARSE_SPECIAL, SP_A + 4, 2, SP_A, SP_A + 2);
    expect_ids(t, STR(""), 0, NULL, 0);
    expect_text(t, (const int32_t[]){1, SP_A + 4, 3 + 0xC3, 3 + 0xA9, SP_A, 2}, 6, false, STR("a\xC3\xA9 "));
    expect_text(t, (const int32_t[]){1, SP_A + 8, 2}, 3, true, STR("<s><tool></s>"));
    round_trip(t, STR(" a  b\n\xE4\xB8\xAD"));
    size_t n;
    assert_int_equal(tok_stops(t, &n)[0], 2);
    assert_int_equal(n, 1);
    tok_close(&t);
    t = make_gguf(&(struct vocab){.model = "llama", .pieces = small_spm, .n = COUNT_OF(small_spm), .space_prefix = 0});
    EXPECT(t, "ab\xC3\xA9", 0, 3 + 5, 0); /* no bytes: the unknown token */
    EXPECT(t, "a\xFF", 0, 3 + 1, 0);
    expect_text(t, (const int32_t[]){3, 3 + 1}, 2, false, STR(" a"));
    tok_close(&t);
}

static void gemma4_merges_characters(void **state)
{
    static const struct piece pieces[] = {{SP, 0, 0},   {"a", 0, 0},  {"b", 0, 0},   {SP "a", 0, 0},
                                          {"ab", 0, 0}, {"\n", 0, 0}, {"\n\n", 0, 0}};
    static const char *const merges[] = {SP " a", "a b", "\n \n", NULL};
    (void)state;
    struct tok *t = make_gguf(&(struct vocab){
        .model = "gemma4", .pieces = pieces, .n = COUNT_OF(pieces), .bytes = true, .merges = merges, .space_prefix = 2});
    EXPECT(t, "ab a", 0, SP_A + 4, SP_A + 3);
    EXPECT(t, " ab\n\na", 0, SP_A + 3, SP_A + 2, SP_A + 6, SP_A + 1);
    EXPECT(t, "\xC3\xA9", 0, 3 + 0xC3, 3 + 0xA9);
    round_trip(t, STR(" a b\n\xE4\xB8\xAD"));
    tok_close(&t);
}

static void naive_spm(const struct tok *t, struct str word, struct ids *out)
{
    size_t at[300], n = 0;
    for (size_t i = 0; i <= word.n; i++)
        if (i == word.n || ((unsigned char)word.p[i] & 0xC0) != 0x80) at[n++] = i;
    for (;;) {
        size_t best = SIZE_MAX;
        double score = 0;
        for (size_t i = 0; i + 2 < n; i++) {
            int32_t id = tok_find(t, sub(word, at[i], at[i + 2]));
            if (id < 0 || t->types[id] != TYPE_NORMAL || (best != SIZE_MAX && t->scores[id] <= score)) continue;
            best = i;
            score = t->scores[id];
        }
        if (best == SIZE_MAX) break;
        memmove(at + best + 1, at + best + 2, (n - best - 2) * sizeof *at);
        n--;
    }
    for (size_t i = 0; i + 1 < n; i++) ids_put(out, tok_find(t, sub(word, at[i], at[i + 1])));
}

/* Random vocabularies, with and without entries that reach across a space. */
static void spm_is_what_the_definition_says(void **state)
{
    (void)state;
    for (int round = 0; round < 40; round++) {
        struct piece pieces[44] = {{SP, -50, 0}, {"a", -50, 0}, {"b", -50, 0}, {"c", -50, 0}};
        char text[40][40];
        for (size_t i = 0; i < 40; i++) {
            text[i][0] = 0;
            for (uint32_t k = 2 + rng(4); k > 0; k--) {
                bool space = rng(3) == 0 && (round % 2 || !*text[i] || str_ends(str_of(text[i]), STR(SP)));
                strcat(text[i], space ? SP : (const char *[]){"a", "b", "c"}[rng(3)]);
            }
            pieces[4 + i] = (struct piece){text[i], -(float)rng(20), 0};
        }
        struct tok *t =
            make_gguf(&(struct vocab){.model = "llama", .pieces = pieces, .n = COUNT_OF(pieces), .space_prefix = 0});
        if (round % 2 == 0) assert_int_equal(t->n_pre, 1);
        for (int k = 0; k < 100; k++) {
            struct buf raw = {0}, escaped = {0};
            for (uint32_t i = rng(k < 50 ? 25 : 90); i > 0; i--) {
                unsigned c = rng(4);
                buf_c(&raw, " abc"[c]);
                buf_z(&escaped, (const char *[]){SP, "a", "b", "c"}[c]);
            }
            struct ids want = {0};
            naive_spm(t, buf_view(&escaped), &want);
            expect_ids(t, buf_view(&raw), 0, want.p, want.n);
            round_trip(t, buf_view(&raw));
            ids_fini(&want);
            buf_fini(&raw);
            buf_fini(&escaped);
        }
        tok_close(&t);
    }
}

/* A tokenizer.json of the Llama 2 kind, and the GGUF that convert makes of it. */
#define LLAMA2                                                                                                             \
    .normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\xE2\x96\x81\"},"           \
                  "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xE2\x96\x81\"}]}",                  \
    .decoder = "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xE2\x96\x81\"},"     \
               "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \"," \
               "\"start\":1,\"stop\":0}]}",                                                                                \
    .added = "{\"id\":0,\"content\":\"<unk>\",\"special\":true},{\"id\":1,\"content\":\"<s>\",\"special\":true},"          \
             "{\"id\":2,\"content\":\"</s>\",\"special\":true}",                                                           \
    .model = "\"byte_fallback\":true,\"fuse_unk\":true,\"unk_token\":\"<unk>\","
static const char *const llama2_entries[] = {"<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "<0xFF>", SP, "a", "b", "c", NULL};
static const char *const llama2_merges[] = {SP " a", "a b", SP "a b", "b c", "c c", NULL};

static void llama2_json_and_its_export(void **state)
{
    (void)state;
    struct tok *t = make(&(struct recipe){LLAMA2, .entries = llama2_entries, .merges = llama2_merges});
    assert_string_equal(tok_kind(t), "spm");
    EXPECT(t, "ab", 0, 12);
    EXPECT(t, "bc", 0, 6, 13);
    EXPECT(t, "b\xC3\xA9", 0, 6, 8, 3, 4);
    EXPECT(t,
           "b\xE4\xB8\xAD\xE4\xB8\xAD"
           "c",
           0, 6, 8, 0, 9); /* unknown ones in a row are one */
    EXPECT(t,
           "b\xFF"
           "c",
           0, 6, 8, 5, 9);
    EXPECT(t, "a</s>b", TOK_PARSE_SPECIAL, 10, 2, 6, 8);
    round_trip(t, STR("a cab\xC3\xA9 "));
    write_export(t, scratch_path(dir, "llama2.gguf"));
    struct tok *g = open_file(scratch_path(dir, "llama2.gguf"));
    for (int i = 0; i < 500; i++) {
        char text[80];
        size_t n = rng(sizeof text);
        for (size_t k = 0; k < n; k++) text[k] = " abc"[rng(4)];
        same_ids(t, g, (struct str){text, n}, 0);
    }
    tok_close(&g);
    tok_close(&t);
    t = make(&(struct recipe){.pre = "{\"type\":\"Metaspace\",\"replacement\":\"" SP "\",\"prepend_scheme\":\"first\"}",
                              .decoder = "{\"type\":\"Metaspace\",\"replacement\":\"" SP "\",\"prepend_scheme\":\"first\"}",
                              .added = "{\"id\":2,\"content\":\"</s>\",\"special\":true}",
                              .model = "\"unk_token\":\"<unk>\",",
                              .entries = llama2_entries,
                              .merges = llama2_merges});
    EXPECT(t, "ab ab</s>ab", TOK_PARSE_SPECIAL, 12, 12, 2, 11);
    expect_text(t, (const int32_t[]){12, 12}, 2, false, STR("ab ab"));
    tok_close(&t);
}

/* ---- added tokens ----------------------------------------------------------------------------------------------------------
 */

static void added_tokens_are_cut_out_first(void **state)
{
    (void)state;
    struct tok *t = make(&(struct recipe){
        .pre = BYTES_REGEX,
        .decoder = DECODE_BYTES,
        .added = "{\"id\":256,\"content\":\"<a>\",\"special\":true},{\"id\":257,\"content\":\"<a>b\",\"special\":false},"
                 "{\"id\":258,\"content\":\"[l]\",\"lstrip\":true},{\"id\":259,\"content\":\"[r]\",\"rstrip\":true},"
                 "{\"id\":260,\"content\":\"cat\",\"single_word\":true},{\"id\":261,\"content\":\"\xC3\xA9 x\"}"});
    EXPECT(t, "<a>", TOK_PARSE_SPECIAL, 256);
    EXPECT(t, "<a>", 0, '<', 'a', '>');
    EXPECT(t, "<a>b<a>", TOK_PARSE_SPECIAL, 257, 256);
    EXPECT(t, "<a>b<a>", 0, 257, '<', 'a', '>');
    EXPECT(t, "<a<a>", TOK_PARSE_SPECIAL, '<', 'a', 256);
    EXPECT(t, "x \n[l] y", 0, 'x', 258, ' ', 'y');
    EXPECT(t, "x\xC2\xA0[l][l]", 0, 'x', 258, 258);
    EXPECT(t, "x [r] \n\t", 0, 'x', ' ', 259);
    EXPECT(t, "[r] [l]y", 0, 259, 258, 'y');
    EXPECT(t, "cat,cats cat_ cat", 0, 260, ',', 'c', 'a', 't', 's', ' ', 'c', 'a', 't', '_', ' ', 260);
    EXPECT(t,
           "\xC3\xA9"
           "cat",
           0, 0xC3, 0xA9, 'c', 'a', 't');
    EXPECT(t,
           "\xFF"
           "cat\xFF",
           0, 0xFF, 260, 0xFF);
    expect_text(t, (const int32_t[]){256, 257, 261, 'z'}, 4, false, STR("<a>b\xC3\xA9 xz"));
    expect_text(t, (const int32_t[]){256, 257, 261, 'z'}, 4, true, STR("<a><a>b\xC3\xA9 xz"));
    assert_true(tok_is_special(t, 256));
    assert_false(tok_is_special(t, 257));
    tok_close(&t);
    /* Normalized ones are looked for behind the normalizer, as the normalizer makes them. */
    t = make(
        &(struct recipe){.pre = BYTES_REGEX,
                         .normalizer = "{\"type\":\"Replace\",\"pattern\":{\"String\":\"x\"},\"content\":\"yy\"}",
                         .added = "{\"id\":256,\"content\":\"<x>\",\"normalized\":true},{\"id\":257,\"content\":\"[x]\"}"});
    EXPECT(t, "<x><yy>[x][yy]x", 0, 256, 256, 257, '[', 'y', 'y', ']', 'y', 'y');
    tok_close(&t);
}

static void templates_and_config_say_what_is_added(void **state)
{
    static const char added[] =
        "{\"id\":256,\"content\":\"<s>\",\"special\":true},{\"id\":257,\"content\":\"</s>\",\"special\":true}";
    static const char post[] =
        "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},{\"type\":\"TemplateProcessing\",\"single\":"
        "[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],"
        "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[256],\"tokens\":[\"<s>\"]}}}]}";
    static const struct {
        const char *post, *config;
        int32_t want[3];
        size_t n;
    } rows[] = {
        {NULL, "{}", {'a'}, 1},
        {post, "{}", {256, 'a'}, 2},
        {post, "{\"bos_token\":\"<s>\",\"add_bos_token\":false}", {'a'}, 1},
        {NULL, "{\"bos_token\":{\"content\":\"<s>\"},\"add_bos_token\":true}", {256, 'a'}, 2},
        {post,
         "{\"bos_token\":\"<s>\",\"add_bos_token\":true,\"eos_token\":\"</s>\",\"add_eos_token\":true}",
         {256, 'a', 257},
         3},
        {"{\"type\":\"RobertaProcessing\",\"sep\":[\"</s>\",257],\"cls\":[\"<s>\",256]}", "{}", {256, 'a', 257}, 3},
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct arena a = {0};
        struct err e = {0};
        struct json *config;
        struct tok *t = NULL;
        assert_int_equal(json_parse(&a, str_of(rows[i].config), "config", &config, &e), 0);
        const struct recipe r = {.pre = BYTES_REGEX, .added = added, .post = rows[i].post};
        if (try_recipe(&r, config, &t, &e) < 0) fail_msg("%s", e.msg);
        expect_ids(t, STR("a"), TOK_ADD_SPECIAL, rows[i].want, rows[i].n);
        expect_ids(t, STR("a"), 0, (const int32_t[]){'a'}, 1);
        assert_int_equal(tok_adds_bos(t), rows[i].want[0] == 256);
        tok_close(&t);
        arena_fini(&a);
    }
}

static void unicode_forms(void **state)
{
    static const struct {
        const char *form, *in, *out;
    } rows[] = {
        {"NFC", "Ae\xCC\x81z", "A\xC3\xA9z"},
        {"NFC", "e\xCC\x81", "\xC3\xA9"},
        {"NFD", "A\xC3\xA9z", "Ae\xCC\x81z"},
        {"NFC", "\xEF\xAC\x81", "\xEF\xAC\x81"},
        {"NFKC", "\xEF\xAC\x81x\xC2\xBD",
         "fix1\xE2\x81\x84"
         "2"},
        {"NFKD", "\xC7\xB1", "DZ"},
        {"NFC", "q\xCC\x87\xCC\xA3", "q\xCC\xA3\xCC\x87"},               /* marks are put in order */
        {"NFC", "\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8", "\xEA\xB0\x81"}, /* Hangul composes */
        {"NFC",
         "e\xCC\x81\xFF"
         "e\xCC\x81\xC3",
         "\xC3\xA9\xFF\xC3\xA9\xC3"}, /* bytes that are no UTF-8 stay */
        {"NFD",
         "\xC3\xA9"
         "e\xE1\xBA\xAD!",
         "e\xCC\x81"
         "ea\xCC\xA3\xCC\x82!"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char norm[64];
        snprintf(norm, sizeof norm, "{\"type\":\"%s\"}", rows[i].form);
        struct tok *t = make(&(struct recipe){.pre = BYTES_ONLY, .normalizer = norm});
        struct buf bufs[2] = {{0}, {0}};
        struct str out;
        struct err e = {0};
        struct regex_run regex = {0};
        assert_int_equal(norm_run(t, str_of(rows[i].in), &regex, bufs, &out, &e), 0);
        if (!str_is(out, rows[i].out)) fail_msg("%s of row %zu: %.*s", rows[i].form, i, STR_ARG(out));
        buf_fini(&bufs[0]);
        buf_fini(&bufs[1]);
        tok_close(&t);
    }
}

/* ---- what is not supported is said
 * --------------------------------------------------------------------------------------------- */

static void refusals_name_their_reason(void **state)
{
    static const struct {
        struct recipe r;
        const char *says;
    } rows[] = {
        {{.pre = "{\"type\":\"Other\"}"}, "pre_tokenizer of type 'Other'"},
        {{.pre = SPLIT("\"Regex\":\"(\"", "Isolated", "false")}, "'('"},
        {{.pre = SPLIT("\"Regex\":\"a\"", "Sideways", "false")}, "Sideways"},
        {{.normalizer = "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"x\"}"}, "precompiled_charsmap"},
        {{.normalizer = "{\"type\":\"Replace\",\"pattern\":{},\"content\":\"\"}"}, "Replace"},
        {{.decoder = "{\"type\":\"CTC\"}"}, "decoder of type 'CTC'"},
        {{.post = "{\"type\":\"Other\"}"}, "post_processor of type 'Other'"},
        {{.post = "{\"type\":\"BertProcessing\",\"sep\":[\"x\",99999],\"cls\":[\"x\",0]}"}, "not in the vocabulary"},
        {{.added = "{\"id\":900000,\"content\":\"x\"}"}, "900000"},
        {{.added = "{\"id\":-1,\"content\":\"x\"}"}, "id"},
        {{.added = "{\"id\":7}"}, "no content"},
        {{.added = "7"}, "no object"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct err e = {0};
        struct tok *t = NULL;
        int rc = try_recipe(&rows[i].r, NULL, &t, &e);
        if (rc >= 0 || t || !strstr(e.msg, rows[i].says)) fail_msg("row %zu: %d '%s'", i, rc, e.msg);
        if (!str_starts(str_of(e.msg), STR("tokenizer.json: "))) fail_msg("row %zu: no file name in '%s'", i, e.msg);
    }
    static const struct {
        const char *text, *says;
    } files[] = {
        {"", "tokenizer.json"},
        {"[]", "object"},
        {"{}", "no vocab"},
        {"{\"model\":{\"type\":\"Other\",\"vocab\":{}}}", "'Other'"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":{}}}", "Unigram"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}}", "pair"},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":[[\"a\",1]]}}", "WordPiece"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0},\"unk_token\":\"b\"}}", "unk_token"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}},\"pre_tokenizer\":{\"type\":\"Other\"}}", "'Other'"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}},\"pre_tokenizer\":{\"type\":\"FixedLength\",\"length\":0}}",
         "FixedLength"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]},\"decoder\":{\"type\":\"Fuse\"}}",
         "'b' is not in the vocabulary"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"ab\"]},\"decoder\":{\"type\":\"Fuse\"}}", "space"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[7]},\"decoder\":{\"type\":\"Fuse\"}}", "merges"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]},\"decoder\":{\"type\":\"Fuse\"}}", "pair"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1.5},\"merges\":[]}}", "whole number"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]},\"decoder\":{\"type\":\"Fuse\"}}", "0 entries"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}x", "line 1"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"mer", "line 1"},
    };
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        struct err e = {0};
        struct tok *t = NULL;
        char *exact = scratch_exact(files[i].text, strlen(files[i].text));
        int rc = tok_open_hf((struct str){exact, strlen(files[i].text)}, NULL, NULL, "tokenizer.json", &t, &e);
        if (rc >= 0 || t || !strstr(e.msg, files[i].says)) fail_msg("file %zu: %d '%s'", i, rc, e.msg);
        free(exact);
    }
}

/* ---- GGUF vocabularies that lie
 * ----------------------------------------------------------------------------------------------------- */

static struct gguf_writer *vocab_writer(const char *model, size_t n)
{
    static const struct str tokens[] = {{"<unk>", 5}, {"<s>", 3}, {"</s>", 4}, {"a", 1}, {"a", 1}, {"", 0}};
    struct gguf_writer *w = NULL;
    struct err e = {0};
    assert_int_equal(gguf_writer_new(scratch_path(dir, "lie.gguf"), &w, &e), 0);
    gguf_put_str(w, "tokenizer.ggml.model", str_of(model));
    gguf_put_strs(w, "tokenizer.ggml.tokens", tokens, n);
    return w;
}

static void expect_lie(struct gguf_writer *w, const char *says)
{
    struct err e = {0};
    struct tok *t = NULL;
    assert_int_equal(gguf_write_begin(w, &e), 0);
    assert_int_equal(gguf_write_end(w, &e), 0);
    gguf_writer_free(&w);
    int rc = try_gguf(scratch_path(dir, "lie.gguf"), &t, &e);
    if (rc >= 0 || t || !strstr(e.msg, says)) fail_msg("%d '%s', expected '%s'", rc, e.msg, says);
}

static void vocabularies_that_lie(void **state)
{
    static const float scores[6] = {0}, nan[6] = {0, 0, 0.0f / 0.0f};
    static const int32_t types[6] = {2, 3, 3, 1, 1, 1}, wild[6] = {2, 3, 3, 1, 1, 9};
    static const struct str merges[] = {{"a a", 3}}, gapless[] = {{"aa", 2}};
    (void)state;
    struct gguf_writer *w = vocab_writer("llama", 6);
    expect_lie(w, "scores is missing");
    w = vocab_writer("llama", 6);
    gguf_put_f32s(w, "tokenizer.ggml.scores", scores, 5);
    expect_lie(w, "has 5 elements");
    w = vocab_writer("llama", 6);
    gguf_put_f32s(w, "tokenizer.ggml.scores", nan, 6);
    expect_lie(w, "scores[2] is not a number");
    w = vocab_writer("llama", 6);
    gguf_put_strs(w, "tokenizer.ggml.scores", merges, 1);
    expect_lie(w, "scores");
    w = vocab_writer("llama", 6);
    gguf_put_u32(w, "tokenizer.ggml.scores", 3);
    expect_lie(w, "expected an array");
    w = vocab_writer("llama", 6);
    gguf_put_f32s(w, "tokenizer.ggml.token_type", scores, 6);
    expect_lie(w, "token_type[0]");
    w = vocab_writer("llama", 6);
    gguf_put_i32s(w, "tokenizer.ggml.token_type", types, 4);
    expect_lie(w, "has 4 elements");
    w = vocab_writer("llama", 6);
    gguf_put_i32s(w, "tokenizer.ggml.token_type", wild, 6);
    expect_lie(w, "token_type[5]");
    w = vocab_writer("llama", 6);
    gguf_put_f32s(w, "tokenizer.ggml.scores", scores, 6);
    gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 6);
    expect_lie(w, "bos_token_id is 6");
    w = vocab_writer("llama", 6);
    gguf_put_f32s(w, "tokenizer.ggml.scores", scores, 6);
    gguf_put_u32(w, "tokenizer.ggml.add_bos_token", 1);
    expect_lie(w, "add_bos_token");
    w = vocab_writer("llama", 0);
    expect_lie(w, "0 entries");
    w = vocab_writer("rwkv", 6);
    expect_lie(w, "'rwkv' is not supported");
    w = vocab_writer("gpt2", 6);
    expect_lie(w, "merges");
    w = vocab_writer("gpt2", 6);
    gguf_put_strs(w, "tokenizer.ggml.merges", merges, 1);
    expect_lie(w, "'aa' is not in the vocabulary");
    w = vocab_writer("gpt2", 6);
    gguf_put_strs(w, "tokenizer.ggml.merges", gapless, 1);
    expect_lie(w, "merges[0] is no pair");
    w = vocab_writer("gpt2", 6);
    gguf_put_str(w, "tokenizer.ggml.pre", STR("klingon"));
    expect_lie(w, "'klingon' is not supported; known are llama-bpe");
}

/* Entries as an attacker would write them: they are text, nothing else. */
static void hostile_entries_are_text(void **state)
{
    (void)state;
    size_t n = (size_t)1 << 20;
    char *longest = malloc(n + 1);
    memset(longest, 'a', n);
    longest[n] = 0;
    const struct piece pieces[] = {{"<0x-1>", 0, TYPE_BYTE},  {"<0xZZ>", 0, TYPE_BYTE},     {"<0x100>", 0, TYPE_BYTE},
                                   {"", 0, TYPE_BYTE},        {"", 0, TYPE_NORMAL},         {"", 0, TYPE_CONTROL},
                                   {"a", 0, TYPE_NORMAL},     {"a", 0, TYPE_NORMAL},        {"<0x41>", 0, TYPE_BYTE},
                                   {longest, 5, TYPE_NORMAL}, {"\xFF\xFE", 0, TYPE_NORMAL}, {"b\xC3", 0, TYPE_USER},
                                   {longest, 5, TYPE_BYTE},   {SP, 0, TYPE_NORMAL},         {"aa", -1, TYPE_NORMAL}};
    struct tok *t = make_gguf(&(struct vocab){.model = "llama", .pieces = pieces, .n = COUNT_OF(pieces), .space_prefix = 0});
    EXPECT(t, "a", 0, 3 + 7); /* of equal entries the last one counts */
    EXPECT(t, "A", 0, 3 + 8);
    EXPECT(t,
           "b\xC3"
           "aaa",
           0, 3 + 11, 3 + 14, 3 + 7);
    struct ids v = encode(t, (struct str){longest, n}, 0);
    assert_int_equal(v.n, n / 2);
    ids_fini(&v);
    for (int32_t id = 0; id < (int32_t)tok_n_vocab(t); id++) {
        struct buf out = {0};
        struct ids one = {&id, 1, 1};
        decode(t, &one, true, &out);
        assert_true(utf8_valid(buf_view(&out)));
        buf_fini(&out);
    }
    tok_close(&t);
    const struct piece control[] = {{longest, 0, TYPE_CONTROL}};
    struct err e = {0};
    write_vocab(scratch_path(dir, "long.gguf"), &(struct vocab){.model = "llama", .pieces = control, .n = 1});
    assert_int_equal(try_gguf(scratch_path(dir, "long.gguf"), &t, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "1048576 bytes"));
    free(longest);
}

/* Control tokens must not come out of plain text, whatever can be joined. */
static void control_tokens_need_the_flag(void **state)
{
    static const struct piece pieces[] = {
        {"<", -5, 0}, {"e", -5, 0}, {">", -5, 0}, {"<e", -1, 0}, {"e>", -1, 0}, {"<e>", 9, TYPE_CONTROL}, {"eeee", -1, 0}};
    (void)state;
    struct tok *t = make_gguf(&(struct vocab){.model = "llama", .pieces = pieces, .n = COUNT_OF(pieces), .space_prefix = 0});
    EXPECT(t, "<e>", 0, 3 + 3, 3 + 2);
    EXPECT(t, "<e>", TOK_PARSE_SPECIAL, 3 + 5);
    tok_close(&t);
}

/* ---- detokenizer
 * --------------------------------------------------------------------------------------------------------------------- */

/* Whether some bytes behind p[0..n) make it a whole character. */
static bool can_complete(const unsigned char *p, size_t n)
{
    static const unsigned char tails[] = {0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF};
    unsigned char c[4];
    uint32_t cp;
    memcpy(c, p, n);
    for (size_t len = n; len <= 4; len++)
        for (size_t k = 0; k < 216; k++) {
            const size_t pick[3] = {k % 6, k / 6 % 6, k / 36};
            for (size_t i = n; i < len; i++) c[i] = tails[pick[i - n]];
            if (utf8_decode((struct str){(const char *)c, len}, &cp) == len) return true;
        }
    return false;
}

/* The recommended practice: U+FFFD for each maximal part of a character. */
static void lossy(struct str s, struct buf *out)
{
    const unsigned char *p = (const unsigned char *)s.p;
    uint32_t cp;
    for (size_t i = 0, n; i < s.n; i += n) {
        n = utf8_decode(sub(s, i, s.n), &cp);
        if (n) {
            buf_put(out, s.p + i, n);
            continue;
        }
        n = 1;
        while (n < 4 && i + n < s.n && can_complete(p + i, n + 1)) n++;
        buf_z(out, "\xEF\xBF\xBD");
    }
}

static void pieces_are_whole_characters(void **state)
{
    static const char *const paths[] = {DATA "tiny-bpe/tokenizer.json"};
    static const unsigned char edges[] = {0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF,
                                          0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF};
    (void)state;
    struct tok *t = open_file(paths[0]);
    for (size_t round = scratch_rounds(20000); round > 0; round--) {
        struct buf raw = {0}, whole = {0}, want = {0};
        struct detok d;
        struct err e = {0};
        detok_init(&d, t, false);
        for (uint32_t n = rng(12) + 1; n > 0; n--) {
            int32_t id = round & 1 ? t->byte_id[edges[rng(COUNT_OF(edges))]] : (int32_t)rng(512);
            struct buf one = {0};
            assert_int_equal(detok_put(&d, id, &one, &e), 0);
            assert_true(utf8_valid(buf_view(&one)));
            buf_str(&whole, buf_view(&one));
            buf_fini(&one);
            struct str s = tok_entry(t, id);
            uint32_t cp;
            for (size_t i = 0; i < s.n && id > 2; i += utf8_decode(sub(s, i, s.n), &cp)) {
                utf8_decode(sub(s, i, s.n), &cp);
                buf_c(&raw, (char)char_to_byte(cp));
            }
        }
        assert_int_equal(detok_end(&d, &whole, &e), 0);
        lossy(buf_view(&raw), &want);
        if (!str_eq(buf_view(&whole), buf_view(&want))) {
            for (size_t i = 0; i < raw.n; i++) print_message("%02X ", (unsigned char)raw.p[i]);
            fail_msg("round %zu: '%.*s' instead of '%.*s'", round, STR_ARG(buf_view(&whole)), STR_ARG(buf_view(&want)));
        }
        buf_fini(&raw);
        buf_fini(&whole);
        buf_fini(&want);
    }
    struct detok d;
    struct buf out = {.limit = 2};
    struct err e = {0};
    detok_init(&d, t, false);
    assert_int_equal(detok_put(&d, 512, &out, &e), ERR_ARG);
    assert_int_equal(detok_put(&d, -1, &out, &e), ERR_ARG);
    for (int i = 0; i < 2; i++) assert_int_equal(detok_put(&d, t->byte_id['x'], &out, &e), 0);
    assert_int_equal(detok_put(&d, t->byte_id['x'], &out, &e), ERR_LIMIT);
    buf_fini(&out);
    tok_close(&t);
}

static void byte_alphabet(void **state)
{
    (void)state;
    bool seen[400] = {false};
    for (unsigned b = 0; b < 256; b++) {
        uint32_t cp = byte_to_char((unsigned char)b);
        assert_true(cp < 324 && !seen[cp]);
        seen[cp] = true;
        assert_int_equal(char_to_byte(cp), (int)b);
    }
    for (uint32_t cp = 0; cp < 400; cp++)
        if (!seen[cp]) assert_int_equal(char_to_byte(cp), -1);
    assert_int_equal(byte_to_char(' '), 0x120);
    assert_int_equal(byte_to_char('\n'), 0x10A);
    assert_int_equal(byte_to_char(0xAD), 0x143);
}

/* ---- hostile texts
 * -------------------------------------------------------------------------------------------------------------------- */

static const struct str patterns[] = {{"a", 1},
                                      {" ", 1},
                                      {"\n", 1},
                                      {"\xCC\x81", 2},
                                      {"\xCC\xA3\xCC\x81", 4},
                                      {"\xE4\xB8\xAD", 3},
                                      {"\xFF", 1},
                                      {".", 1},
                                      {"<", 1},
                                      {"<|", 2},
                                      {"1", 1},
                                      {"'", 1},
                                      {" \n", 2},
                                      {"\r\n ", 3},
                                      {SP, 3},
                                      {"\xE2\x96", 2},
                                      {"\xF0\x9F\x98\x80", 4},
                                      {"ab", 2},
                                      {"<|eot_id", 8},
                                      {"\xC2\xA0", 2}};

struct job {
    const struct tok *t;
    struct str text;
    size_t ids;
    double seconds;
};

static void *run_job(void *arg)
{
    struct job *j = arg;
    struct err e = {0};
    struct ids v = {0};
    const double start = scratch_cpu_seconds();
    int rc = tok_encode(j->t, j->text, TOK_PARSE_SPECIAL, &v, &e);
    j->seconds = scratch_cpu_seconds() - start;
    j->ids = rc < 0 ? SIZE_MAX : v.n;
    ids_fini(&v);
    return NULL;
}

/* On a thread with a stack of 256 KiB. */
static double encode_repeated(const struct tok *t, struct str pattern, size_t n)
{
    pthread_attr_t attr;
    pthread_t thread;
    char *p = malloc(n);
    for (size_t i = 0; i < n; i++) p[i] = pattern.p[i % pattern.n];
    struct job j = {.t = t, .text = {p, n}};
    assert_int_equal(pthread_attr_init(&attr), 0);
    assert_int_equal(pthread_attr_setstacksize(&attr, (size_t)256 << 10), 0);
    assert_int_equal(pthread_create(&thread, &attr, run_job, &j), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    pthread_attr_destroy(&attr);
    free(p);
    assert_true(j.ids != SIZE_MAX);
    return j.seconds;
}

static void scaling_of(const struct tok *t)
{
    const size_t small_n = scratch_rounds(256 << 10), large_n = 4 * small_n;
    for (size_t i = 0; i < COUNT_OF(patterns); i++) {
        double small = encode_repeated(t, patterns[i], small_n);
        if (small > 0.25) continue; /* under an emulator */
        double large = encode_repeated(t, patterns[i], large_n);
        /* Four times the text; quadratic would be 16 times. Other load on the machine gets two more tries. */
        for (int tries = 0; tries < 2 && large > 10 * small + 0.05; tries++) {
            small = encode_repeated(t, patterns[i], small_n);
            large = encode_repeated(t, patterns[i], large_n);
        }
        if (large > 10 * small + 0.05) fail_msg("pattern %zu: %.3f s, then %.3f s for four times as much", i, small, large);
    }
}

static void time_is_linear_in_hostile_text(void **state)
{
    (void)state;
    struct tok *t = open_file(DATA "tiny-bpe/tokenizer.json");
    scaling_of(t);
    tok_close(&t);
    t = make_gguf(
        &(struct vocab){.model = "llama", .pieces = small_spm, .n = COUNT_OF(small_spm), .bytes = true, .space_prefix = 1});
    scaling_of(t);
    tok_close(&t);
    t = make(&(struct recipe){
        .pre =
            SEQ(SPLIT("\"Regex\":\"\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+|[a-z']+\"", "Isolated", "false") "," BYTES_REGEX),
        .normalizer = "{\"type\":\"NFC\"}",
        .added = "{\"id\":256,\"content\":\"<|eot_id|>\",\"lstrip\":true,\"rstrip\":true,\"single_word\":true}"});
    scaling_of(t);
    tok_close(&t);
    const char *path = scratch_shared("tokenizers/llama3/tokenizer.json");
    if (!path) return;
    t = open_file(path);
    scaling_of(t);
    tok_close(&t);
}

static void random_bytes_come_back(void **state)
{
    (void)state;
    struct tok *t = open_file(DATA "tiny-bpe/tokenizer.json");
    for (size_t round = scratch_rounds(3000); round > 0; round--) {
        char text[64];
        size_t n = rng(sizeof text);
        for (size_t i = 0; i < n; i++) text[i] = (char)(rng(2) ? rng(256) : (unsigned char)" a'\xE4\xB8\xAD\n1"[rng(8)]);
        struct buf want = {0};
        lossy((struct str){text, n}, &want);
        struct ids v = encode(t, (struct str){text, n}, 0);
        expect_text(t, v.p, v.n, false, buf_view(&want));
        ids_fini(&v);
        buf_fini(&want);
    }
    tok_close(&t);
}

/* A vocabulary without some bytes: U+FFFD for bytes that are no UTF-8, the unknown token or an error for characters. */
static void missing_bytes(void **state)
{
    static const struct piece pieces[] = {{"\xC3\xAF", 0, 0}, {"\xC2\xBF", 0, 0}, {"\xC2\xBD", 0, 0}, {"x", 0, 0}};
    static const char *const none[] = {NULL};
    (void)state;
    struct vocab v = {.model = "gpt2", .pre = "gpt-2", .pieces = pieces, .n = COUNT_OF(pieces), .merges = none};
    struct tok *t = make_gguf(&v);
    struct err e = {0};
    struct ids ids = {0};
    EXPECT(t, "x\xF8", 0, 6, 3, 4, 5);
    assert_int_equal(tok_encode(t, STR("x1"), 0, &ids, &e), ERR_UNSUPPORTED); /* the id of x is taken back */
    assert_non_null(strstr(e.msg, "0x31"));
    assert_int_equal(ids.n, 0);
    ids_fini(&ids);
    tok_close(&t);
    v.pre = "qwen2"; /* normalizes to NFC, as the models' own tokenizer.json does */
    static const struct piece composed[] = {{"\xC3\x83", 0, 0}, {"\xC2\xA9", 0, 0}};
    v.pieces = composed;
    v.n = COUNT_OF(composed);
    t = make_gguf(&v);
    EXPECT(t, "e\xCC\x81", 0, 3, 4);
    tok_close(&t);
}

/* ---- memory that runs out
 * ---------------------------------------------------------------------------------------------------------------- */

struct scenario {
    bool gguf;
    struct str bytes; /* of tokenizer.json */
    struct ids v;
    struct buf out;
    struct arena a;
};

static int open_and_use(struct scenario *s, struct err *e)
{
    struct tok *t = NULL;
    struct gguf *g = NULL;
    struct tok_export x;
    int rc;
    if (s->gguf) {
        rc = gguf_parse(s->bytes, "vocab.gguf", false, &g, e);
        if (rc == 0) rc = tok_open_gguf(g, &t, e);
        gguf_free(&g);
    } else {
        rc = tok_open_hf(s->bytes, NULL, NULL, "tokenizer.json", &t, e);
    }
    if (rc == 0) rc = tok_encode(t, STR(" a bc\xCC\x81\xFF abcabcabcabcabcabcabcabcabcabcabcabc <s>12"), 3, &s->v, e);
    struct detok d;
    if (rc == 0) detok_init(&d, t, true);
    for (size_t i = 0; rc == 0 && i < s->v.n; i++) rc = detok_put(&d, s->v.p[i], &s->out, e);
    if (rc == 0) rc = detok_end(&d, &s->out, e);
    if (rc == 0 && (t->model != MODEL_BYTES || t->pre_name)) rc = tok_export(t, &s->a, &x, e);
    tok_close(&t);
    return rc;
}

static void sweep(struct str bytes, bool gguf)
{
    size_t before = mem_stats().current;
    struct ids first = {0};
    for (size_t k = 0;; k++) {
        struct scenario s = {.gguf = gguf, .bytes = bytes};
        struct scratch_nth nth = {FAULT_ALLOC, k, 0};
        struct err e = {0};
        fault_set(scratch_fail_nth, &nth);
        int rc = open_and_use(&s, &e);
        fault_set(NULL, NULL);
        if (k == 0) {
            if (rc < 0) fail_msg("%s", e.msg);
            for (size_t i = 0; i < s.v.n; i++) ids_put(&first, s.v.p[i]);
            before = mem_stats().current; /* what is kept to compare counts as before */
            before -= s.v.cap * sizeof *s.v.p + s.out.cap + s.a.total;
        } else if (rc < 0) {
            if (rc != ERR_NOMEM || !*e.msg) fail_msg("allocation %zu: %d '%s'", k, rc, e.msg);
        } else {
            assert_int_equal(s.v.n, first.n);
            assert_memory_equal(s.v.p, first.p, first.n * sizeof *first.p);
        }
        bool past_the_end = k > 0 && nth.seen < k;
        ids_fini(&s.v);
        buf_fini(&s.out);
        arena_fini(&s.a);
        if (k == 0) before = mem_stats().current;
        assert_int_equal(mem_stats().current, before);
        if (past_the_end) {
            assert_true(k > 15);
            break;
        }
    }
    ids_fini(&first);
}

static void every_allocation_may_fail(void **state)
{
    static const char *const merges[] = {"a b", "ab c", NULL};
    (void)state;
    struct buf b = {0};
    put_recipe(
        &b,
        &(struct recipe){
            .pre = SEQ(SPLIT("\"Regex\":\"[0-9]\"", "Isolated", "false") ",{\"type\":\"ByteLevel\"}"),
            .normalizer =
                "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Prepend\",\"prepend\":\"x\"}]}",
            .decoder = DECODE_BYTES,
            .added = "{\"id\":300,\"content\":\"<s>\",\"special\":true},{\"id\":301,\"content\":\"12\",\"normalized\":true}",
            .merges = merges,
            .pairs = true});
    sweep(buf_view(&b), false);
    buf_fini(&b);
    put_recipe(&b, &(struct recipe){LLAMA2, .entries = llama2_entries, .merges = llama2_merges});
    sweep(buf_view(&b), false);
    buf_fini(&b);
    write_vocab(
        scratch_path(dir, "sweep.gguf"),
        &(struct vocab){.model = "llama", .pieces = small_spm, .n = COUNT_OF(small_spm), .bytes = true, .space_prefix = 1});
    struct map m;
    sweep(map_file(scratch_path(dir, "sweep.gguf"), &m), true);
    vfs_unmap(&m);
}

/* ---- damaged files
 * ------------------------------------------------------------------------------------------------------------------------ */

static void use_if_open(struct str bytes, bool gguf)
{
    struct tok *t = NULL;
    struct gguf *g = NULL;
    struct err e = {0};
    char *exact = scratch_exact(bytes.p, bytes.n);
    struct str copy = {exact, bytes.n};
    int rc = gguf ? gguf_parse(copy, "vocab.gguf", false, &g, &e) : tok_open_hf(copy, NULL, NULL, "tokenizer.json", &t, &e);
    if (gguf && rc == 0) rc = tok_open_gguf(g, &t, &e);
    gguf_free(&g);
    free(exact);
    if (rc < 0) {
        assert_true(*e.msg != 0 && !t);
        return;
    }
    struct ids v = {0};
    struct buf out = {0};
    if (tok_encode(t, STR("The captain's 12 <s> \xC3\xA9\xFF\n"), 3, &v, &e) == 0) decode(t, &v, true, &out);
    assert_true(utf8_valid(buf_view(&out)));
    ids_fini(&v);
    buf_fini(&out);
    tok_close(&t);
}

static void damaged_files_are_errors_or_tokenizers(void **state)
{
    (void)state;
    struct map m[2];
    struct tok *t = open_file(DATA "tiny-bpe/tokenizer.json");
    write_export(t, scratch_path(dir, "damage.gguf"));
    tok_close(&t);
    struct str files[2] = {map_file(DATA "tiny-bpe/tokenizer.json", &m[0]), map_file(scratch_path(dir, "damage.gguf"), &m[1])};
    size_t before = mem_stats().current;
    for (unsigned k = 0; k < 2; k++) {
        char *copy = malloc(files[k].n);
        for (int i = 0; i < 300; i++) use_if_open(sub(files[k], 0, rng((uint32_t)files[k].n)), k == 1);
        for (size_t i = scratch_rounds(1000); i > 0; i--) {
            memcpy(copy, files[k].p, files[k].n);
            for (uint32_t flips = 1 + rng(2); flips > 0; flips--) copy[rng((uint32_t)files[k].n)] ^= (char)(1u << rng(8));
            use_if_open((struct str){copy, files[k].n}, k == 1);
        }
        free(copy);
        vfs_unmap(&m[k]);
    }
    assert_int_equal(mem_stats().current, before);
}

/* ---- threads ---------------------------------------------------------------------------------------------- */

static void threads_share_a_tokenizer(void **state)
{
    (void)state;
    struct tok *t = make(&(struct recipe){.pre = SEQ(SPLIT("\"Regex\":\"[a-z]+\"", "Isolated", "false") "," BYTES_REGEX)});
    pthread_t threads[4];
    struct job jobs[4];
    char text[4096];
    for (size_t i = 0; i < sizeof text; i++) text[i] = "abc 12"[rng(6)];
    for (size_t i = 0; i < 4; i++) {
        jobs[i] = (struct job){.t = t, .text = {text, sizeof text}};
        assert_int_equal(pthread_create(&threads[i], NULL, run_job, &jobs[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(jobs[i].ids, sizeof text);
    }
    tok_close(&t);
}

static void nothing_is_leaked(void **state)
{
    (void)state;
    assert_int_equal(mem_stats().current, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_vectors),
        cmocka_unit_test(llama3_vectors),
        cmocka_unit_test(opening_takes_little_memory),
        cmocka_unit_test(tiny_bpe_vectors),
        cmocka_unit_test(exports_are_the_same_tokenizer),
        cmocka_unit_test(demo_model_text),
        cmocka_unit_test(stages_cut_where_they_should),
        cmocka_unit_test(scanners_equal_their_expressions),
        cmocka_unit_test(a_regex_that_explodes_is_an_error),
        cmocka_unit_test(merging_is_what_the_definition_says),
        cmocka_unit_test(whole_words_can_ignore_merges),
        cmocka_unit_test(cached_words_are_the_same),
        cmocka_unit_test(spm_joins_by_score),
        cmocka_unit_test(gemma4_merges_characters),
        cmocka_unit_test(spm_is_what_the_definition_says),
        cmocka_unit_test(llama2_json_and_its_export),
        cmocka_unit_test(added_tokens_are_cut_out_first),
        cmocka_unit_test(templates_and_config_say_what_is_added),
        cmocka_unit_test(unicode_forms),
        cmocka_unit_test(refusals_name_their_reason),
        cmocka_unit_test(vocabularies_that_lie),
        cmocka_unit_test(hostile_entries_are_text),
        cmocka_unit_test(control_tokens_need_the_flag),
        cmocka_unit_test(pieces_are_whole_characters),
        cmocka_unit_test(byte_alphabet),
        cmocka_unit_test(random_bytes_come_back),
        cmocka_unit_test(missing_bytes),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(damaged_files_are_errors_or_tokenizers),
        cmocka_unit_test(threads_share_a_tokenizer),
        cmocka_unit_test(time_is_linear_in_hostile_text),
        cmocka_unit_test(nothing_is_leaked),
    };
    return cmocka_run_group_tests_name("tok", tests, make_dir, remove_dir);
}
