/* tok_hf: the parts of a tokenizer.json against the library that defines the format, and Unigram vocabularies.
 *
 * data/tok-parts/cases.json holds small tokenizers, one for each type of normalizer, pre-tokenizer, model, post-processor and
 * decoder and for their options, with texts and what the `tokenizers` library (0.23) made of them: ids, segments of pairs, and
 * the text that it makes of the ids. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <math.h>
#include <pthread.h>

#include "scratch.h"
#include "text/text_int.h"

#include <cmocka.h>

#include "vocab.h"

#define CASES SOURCE_ROOT "/tests/unit/data/tok-parts/cases.json"
#define SP "\xE2\x96\x81"

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

static uint64_t rng_state = 1;

static uint32_t rng(uint32_t n)
{
    return scratch_below(&rng_state, n);
}

/* ---- the reference's cases -------------------------------------------------------------------------------- */

struct cases {
    struct map m;
    struct arena a;
    struct json *list;
};

static void cases_open(struct cases *c)
{
    struct err e = {0};
    *c = (struct cases){0};
    if (vfs_map(CASES, &c->m, &e) < 0) fail_msg("%s", e.msg);
    if (json_parse(&c->a, (struct str){(const char *)c->m.p, c->m.n}, CASES, &c->list, &e) < 0) fail_msg("%s", e.msg);
}

static void cases_close(struct cases *c)
{
    arena_fini(&c->a);
    vfs_unmap(&c->m);
}

static struct tok *open_json(const struct json *tokenizer)
{
    struct buf b = {0};
    struct tok *t = NULL;
    struct err e = {0};
    json_write(&b, tokenizer);
    if (tok_open_hf(buf_view(&b), NULL, NULL, "tokenizer.json", &t, &e) < 0) fail_msg("%s", e.msg);
    buf_fini(&b);
    return t;
}

static struct tok *open_case(const struct cases *c, const char *name)
{
    for (size_t i = 0; i < c->list->n; i++)
        if (str_is(json_find(&c->list->v[i], "name")->s, name)) return open_json(json_find(&c->list->v[i], "tokenizer"));
    fail_msg("no tokenizer %s", name);
    return NULL;
}

static bool same_numbers(const struct json *want, const int32_t *got, size_t n)
{
    if (want->n != n) return false;
    for (size_t i = 0; i < n; i++)
        if (want->v[i].i != got[i]) return false;
    return true;
}

static void run_pair(const struct tok *t, const char *name, const struct json *c)
{
    const struct str text = json_find(c, "text")->s, pair = json_find(c, "pair")->s;
    struct ids v = {0}, types = {0};
    struct buf segments = {0};
    struct err e = {0};
    if (tok_encode_pair(t, text, pair, TOK_ADD_SPECIAL | TOK_PARSE_SPECIAL, &v, &segments, &e) < 0) fail_msg("%s", e.msg);
    for (size_t i = 0; i < segments.n; i++) ids_put(&types, segments.p[i]);
    if (!same_numbers(json_find(c, "ids"), v.p, v.n))
        fail_msg("%s: wrong ids for '%.*s', '%.*s'", name, STR_ARG(text), STR_ARG(pair));
    if (!same_numbers(json_find(c, "types"), types.p, types.n)) fail_msg("%s: wrong segments for '%.*s'", name, STR_ARG(text));
    buf_fini(&segments);
    ids_fini(&types);
    ids_fini(&v);
}

static void run_single(const struct tok *t, const char *name, const struct json *c)
{
    const struct str text = json_find(c, "text")->s, want = json_find(c, "decoded")->s;
    struct ids v = {0};
    struct buf out = {0};
    struct err e = {0};
    struct detok d;
    char *exact = scratch_exact(text.p, text.n);
    if (tok_encode(t, (struct str){exact, text.n}, TOK_ADD_SPECIAL | TOK_PARSE_SPECIAL, &v, &e) < 0)
        fail_msg("%s: %s", name, e.msg);
    free(exact);
    if (!same_numbers(json_find(c, "ids"), v.p, v.n)) fail_msg("%s: wrong ids for '%.*s'", name, STR_ARG(text));
    detok_init(&d, t, false);
    for (size_t i = 0; i < v.n; i++) assert_int_equal(detok_put(&d, v.p[i], &out, &e), 0);
    assert_int_equal(detok_end(&d, &out, &e), 0);
    if (!str_eq(buf_view(&out), want)) fail_msg("%s: '%.*s' instead of '%.*s'", name, STR_ARG(buf_view(&out)), STR_ARG(want));
    buf_fini(&out);
    ids_fini(&v);
}

static void parts_do_what_the_reference_does(void **state)
{
    struct cases c;
    (void)state;
    cases_open(&c);
    assert_true(c.list->n >= 40);
    for (size_t i = 0; i < c.list->n; i++) {
        const struct json *cases = json_find(&c.list->v[i], "cases");
        char name[64];
        snprintf(name, sizeof name, "%.*s", STR_ARG(json_find(&c.list->v[i], "name")->s));
        struct tok *t = open_json(json_find(&c.list->v[i], "tokenizer"));
        for (size_t k = 0; k < cases->n; k++) (json_find(&cases->v[k], "pair") ? run_pair : run_single)(t, name, &cases->v[k]);
        tok_close(&t);
    }
    cases_close(&c);
}

/* An added token that is cut out of any text, so that what is behind it does not depend on what is before it. */
static struct str separator_of(const struct tok *t)
{
    for (size_t i = 0; i < t->added[0].n; i++) {
        const struct tok_added *a = &t->added[0].v[i];
        if (!a->lstrip && !a->rstrip && !a->single_word) return a->text;
    }
    fail_msg("no added token");
    return (struct str){0};
}

static void append_ids(const struct tok *t, struct str text, struct ids *v)
{
    struct err e = {0};
    if (tok_encode(t, text, TOK_PARSE_SPECIAL, v, &e) < 0) fail_msg("%s", e.msg);
}

/* A long text, whose words and pieces come out of the cache, against its parts, which are too short for one. */
static void cached_pieces_are_the_same(void **state)
{
    struct cases c;
    (void)state;
    cases_open(&c);
    for (size_t i = 0; i < c.list->n; i++) {
        const struct json *cases = json_find(&c.list->v[i], "cases");
        struct tok *t = open_json(json_find(&c.list->v[i], "tokenizer"));
        struct buf text = {0}, part = {0};
        struct ids whole = {0}, parts = {0};
        for (size_t k = scratch_rounds(500); k > 0; k--) {
            part.n = 0;
            if (text.n) buf_str(&part, separator_of(t));
            buf_str(&part, json_find(&cases->v[rng((uint32_t)cases->n)], "text")->s);
            assert_true(part.n < 1024);
            buf_str(&text, buf_view(&part));
            append_ids(t, buf_view(&part), &parts);
        }
        append_ids(t, buf_view(&text), &whole);
        if (whole.n != parts.n || memcmp(whole.p, parts.p, whole.n * sizeof *whole.p) != 0)
            fail_msg("%.*s: other ids", STR_ARG(json_find(&c.list->v[i], "name")->s));
        ids_fini(&whole);
        ids_fini(&parts);
        buf_fini(&part);
        buf_fini(&text);
        tok_close(&t);
    }
    cases_close(&c);
}

/* The first word of a text is another one than the same word later, though the stage before gave out the same piece. */
static void cached_pieces_know_the_first_word(void **state)
{
    static const char file[] =
        "{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"<unk>\",0],[\"a\",-1],[\"\\u2581a\",-1]]},"
        "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"WhitespaceSplit\"},"
        "{\"type\":\"Metaspace\",\"replacement\":\"\\u2581\",\"prepend_scheme\":\"first\"}]}}";
    enum { N_WORDS = 1000 };
    struct tok *t = NULL;
    struct err e = {0};
    struct buf text = {0};
    struct ids v = {0};
    (void)state;
    if (tok_open_hf(str_of(file), NULL, NULL, "tokenizer.json", &t, &e) < 0) fail_msg("%s", e.msg);
    for (int i = 0; i < N_WORDS; i++) buf_z(&text, "a ");
    append_ids(t, buf_view(&text), &v);
    assert_int_equal(v.n, N_WORDS);
    for (size_t i = 0; i < v.n; i++) assert_int_equal(v.p[i], i == 0 ? 2 : 1);
    ids_fini(&v);
    buf_fini(&text);
    tok_close(&t);
}

/* An entry that is a special token as well makes no words of a text in which no special tokens are looked for. */
static void special_entries_are_asked_for(void **state)
{
    static const char file[] =
        "{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"<unk>\",0],[\"a\",-9],[\"b\",-9],[\"ab\",-1]]},"
        "\"added_tokens\":[{\"id\":3,\"content\":\"ab\",\"special\":true,\"single_word\":true}]}";
    static const int32_t plain[] = {1, 1, 2}, asked[] = {1, 3};
    struct tok *t = NULL;
    struct err e = {0};
    struct ids v = {0};
    (void)state;
    if (tok_open_hf(str_of(file), NULL, NULL, "tokenizer.json", &t, &e) < 0) fail_msg("%s", e.msg);
    assert_int_equal(tok_encode(t, STR("aab"), 0, &v, &e), 0);
    assert_int_equal(v.n, COUNT_OF(plain));
    assert_memory_equal(v.p, plain, sizeof plain);
    v.n = 0;
    append_ids(t, STR("aab"), &v); /* not cut out of the text, since a word character touches it */
    assert_int_equal(v.n, COUNT_OF(asked));
    assert_memory_equal(v.p, asked, sizeof asked);
    ids_fini(&v);
    tok_close(&t);
}

/* Every allocation of opening and encoding may fail, for every type of part. */
static void every_allocation_may_fail(void **state)
{
    static const char *const names[] = {"u_albert", "u_bf", "w_bert", "b_clip", "b_prefix", "b_norm"};
    struct cases c;
    (void)state;
    cases_open(&c);
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct buf b = {0};
        for (size_t k = 0; k < c.list->n; k++)
            if (str_is(json_find(&c.list->v[k], "name")->s, names[i])) json_write(&b, json_find(&c.list->v[k], "tokenizer"));
        assert_true(b.n > 0);
        const size_t before = mem_stats().current;
        bool done = false;
        for (size_t n = 1; !done; n++) {
            struct scratch_nth nth = {FAULT_ALLOC, n, 0};
            struct err e = {0};
            struct tok *t = NULL;
            struct ids v = {0};
            struct buf types = {0};
            fault_set(scratch_fail_nth, &nth);
            int rc = tok_open_hf(buf_view(&b), NULL, NULL, "tokenizer.json", &t, &e);
            if (rc == 0)
                rc = tok_encode_pair(t, STR(" The \xEF\xAC\x81sh's  caf\xC3\xA9 12\n"), STR("\xE4\xB8\xAD <s>"), 3, &v, &types,
                                     &e);
            fault_set(NULL, NULL);
            done = nth.seen < n;
            if (rc < 0 && (rc != ERR_NOMEM || !*e.msg)) fail_msg("%s, allocation %zu: %d '%s'", names[i], n, rc, e.msg);
            if (done) assert_int_equal(rc, 0);
            ids_fini(&v);
            buf_fini(&types);
            tok_close(&t);
            assert_int_equal(mem_stats().current, before);
        }
        buf_fini(&b);
    }
    cases_close(&c);
}

/* ---- Unigram ---------------------------------------------------------------------------------------------- */

enum { N_ENTRIES = 24 };

/* The best sum of scores over all ways to cut s, by trying all of them. */
static double best_sum(const struct tok *t, struct str s)
{
    double best = -HUGE_VAL;
    if (s.n == 0) return 0;
    for (size_t n = 1; n <= s.n; n++) {
        const int32_t id = tok_part(t, s.p, n, 0);
        if (id < 0 && n > 1) continue;
        const double sum = (id < 0 ? t->unk_score : t->scores[id]) + best_sum(t, (struct str){s.p + n, s.n - n});
        if (sum > best) best = sum;
    }
    return best;
}

static struct tok *random_unigram(void)
{
    struct buf b = {0};
    struct tok *t = NULL;
    struct err e = {0};
    buf_z(&b, "{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"<unk>\",0]");
    for (unsigned i = 0; i < N_ENTRIES; i++) {
        buf_z(&b, ",[\"");
        for (uint32_t k = 1 + rng(4); k > 0; k--) buf_c(&b, "abc"[rng(3)]);
        buf_printf(&b, "\",-%u.25]", 1 + rng(12));
    }
    buf_z(&b, "]}}");
    if (tok_open_hf(buf_view(&b), NULL, NULL, "tokenizer.json", &t, &e) < 0) fail_msg("%s", e.msg);
    buf_fini(&b);
    return t;
}

static void unigram_finds_the_best_way(void **state)
{
    (void)state;
    for (int round = 0; round < 100; round++) {
        struct tok *t = random_unigram();
        for (int k = 0; k < 30; k++) {
            char text[12];
            const size_t n = rng(sizeof text);
            for (size_t i = 0; i < n; i++) text[i] = "abcd"[rng(4)];
            struct ids v = {0};
            struct err e = {0};
            double sum = 0;
            size_t bytes = 0, unknown = 0;
            assert_int_equal(tok_encode(t, (struct str){text, n}, 0, &v, &e), 0);
            for (size_t i = 0; i < v.n; i++) {
                const int32_t id = v.p[i];
                if (i) assert_true(id != 0 || v.p[i - 1] != 0); /* a row of unknown characters is one token */
                if (id != 0) sum += t->scores[id], bytes += tok_entry(t, id).n;
            }
            unknown = n - bytes;
            assert_true(fabs(sum + (double)unknown * t->unk_score - best_sum(t, (struct str){text, n})) < 1e-9);
            ids_fini(&v);
        }
        tok_close(&t);
    }
}

static struct tok *open_gguf(const char *path)
{
    struct map m;
    struct gguf *g = NULL;
    struct tok *t = NULL;
    struct err e = {0};
    if (vfs_map(path, &m, &e) < 0 || gguf_parse((struct str){(const char *)m.p, m.n}, path, false, &g, &e) < 0 ||
        tok_open_gguf(g, &t, &e) < 0)
        fail_msg("%s", e.msg);
    gguf_free(&g);
    vfs_unmap(&m);
    return t;
}

/* What convert writes of a tokenizer.json of the XLM-RoBERTa kind is the same tokenizer. */
static void unigram_exports_are_the_same(void **state)
{
    static const char *const pieces[] = {
        "the", " ", "  ", "\n", "\t", "\xEF\xAC\x81", "\xC2\xBD", "\xEF\xBC\xA1", "e\xCC\x81", "a", "\xE4\xB8\xAD", "is", "."};
    struct cases c;
    (void)state;
    cases_open(&c);
    struct tok *t = open_case(&c, "u_xlm");
    assert_string_equal(tok_kind(t), "unigram");
    write_export(t, scratch_path(dir, "unigram.gguf"));
    struct tok *g = open_gguf(scratch_path(dir, "unigram.gguf"));
    for (int i = 0; i < 500; i++) {
        struct buf text = {0};
        struct ids a = {0}, b = {0};
        struct err e = {0};
        for (uint32_t k = rng(12); k > 0; k--) buf_z(&text, pieces[rng(COUNT_OF(pieces))]);
        assert_int_equal(tok_encode(t, buf_view(&text), 0, &a, &e), 0);
        assert_int_equal(tok_encode(g, buf_view(&text), 0, &b, &e), 0);
        if (a.n != b.n || (a.n && memcmp(a.p, b.p, a.n * sizeof *a.p) != 0)) fail_msg("'%.*s'", STR_ARG(buf_view(&text)));
        buf_fini(&text);
        ids_fini(&a);
        ids_fini(&b);
    }
    tok_close(&g);
    tok_close(&t);
    t = open_case(&c, "u_albert"); /* it lowers letters, which GGUF has no word for */
    struct tok_export x;
    struct arena a = {0};
    struct err e = {0};
    assert_int_equal(tok_export(t, &a, &x, &e), ERR_UNSUPPORTED);
    arena_fini(&a);
    tok_close(&t);
    cases_close(&c);
}

struct vocab {
    bool prefix, merge;
    const char *says; /* an error */
    float score;
    const char *charsmap;
    size_t n_charsmap;
};

static int open_t5(const struct vocab *v, struct tok **t, struct err *e)
{
    static const struct str tokens[] = {{"<pad>", 5}, {"</s>", 4}, {"<unk>", 5}, {SP, 3}, {SP "a", 4}, {"a", 1}, {"b", 1}};
    static const int32_t types[] = {TYPE_CONTROL, TYPE_CONTROL, TYPE_UNKNOWN, TYPE_NORMAL,
                                    TYPE_NORMAL,  TYPE_NORMAL,  TYPE_NORMAL};
    const float scores[] = {0, 0, 0, -2, -2.5f, -1.5f, v->score};
    struct gguf_writer *w;
    const char *path = scratch_path(dir, "t5.gguf");
    assert_int_equal(gguf_writer_new(path, &w, e), 0);
    gguf_put_str(w, "tokenizer.ggml.model", STR("t5"));
    gguf_put_strs(w, "tokenizer.ggml.tokens", tokens, COUNT_OF(tokens));
    gguf_put_f32s(w, "tokenizer.ggml.scores", scores, COUNT_OF(scores));
    gguf_put_i32s(w, "tokenizer.ggml.token_type", types, COUNT_OF(types));
    gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", v->prefix);
    gguf_put_bool(w, "tokenizer.ggml.remove_extra_whitespaces", v->merge);
    if (v->charsmap) gguf_put_bytes(w, "tokenizer.ggml.precompiled_charsmap", (struct str){v->charsmap, v->n_charsmap});
    assert_int_equal(gguf_write_begin(w, e), 0);
    assert_int_equal(gguf_write_end(w, e), 0);
    gguf_writer_free(&w);
    struct map m;
    struct gguf *g = NULL;
    assert_int_equal(vfs_map(path, &m, e), 0);
    assert_int_equal(gguf_parse((struct str){(const char *)m.p, m.n}, path, false, &g, e), 0);
    const int rc = tok_open_gguf(g, t, e);
    gguf_free(&g);
    vfs_unmap(&m);
    return rc;
}

static void expect(const struct tok *t, const char *text, const int32_t *want, size_t n)
{
    struct ids v = {0};
    struct err e = {0};
    if (tok_encode(t, str_of(text), 0, &v, &e) < 0) fail_msg("%s", e.msg);
    if (v.n != n || (n && memcmp(v.p, want, n * sizeof *want) != 0)) fail_msg("wrong ids for '%s'", text);
    ids_fini(&v);
}
#define EXPECT(t, text, ...) expect(t, text, (const int32_t[]){__VA_ARGS__}, COUNT_OF(((const int32_t[]){__VA_ARGS__})))

static void gguf_says_what_becomes_of_spaces(void **state)
{
    struct tok *t = NULL;
    struct err e = {0};
    (void)state;
    assert_int_equal(open_t5(&(struct vocab){.prefix = true, .merge = true, .score = -3}, &t, &e), 0);
    EXPECT(t, "a  b ", 4, 3, 6);
    EXPECT(t, "  aaz", 4, 5, 2);
    expect(t, "  ", NULL, 0);
    tok_close(&t);
    assert_int_equal(open_t5(&(struct vocab){.prefix = true, .score = -3}, &t, &e), 0);
    EXPECT(t, "a  b ", 4, 3, 3, 6, 3);
    EXPECT(t, " a", 3, 4);
    tok_close(&t);
    assert_int_equal(open_t5(&(struct vocab){.score = -3}, &t, &e), 0);
    EXPECT(t, "a <unk>zzb", 5, 3, 2, 6);
    struct ids v = {0};
    assert_int_equal(tok_encode(t, STR("a"), TOK_ADD_SPECIAL, &v, &e), 0);
    assert_true(v.n == 2 && v.p[1] == 1);
    ids_fini(&v);
    tok_close(&t);
}

static void damaged_unigram_files_are_errors(void **state)
{
    static const struct vocab rows[] = {
        {.score = HUGE_VALF, .says = "out of range"},
        {.charsmap = "", .n_charsmap = 0, .says = NULL},
        {.charsmap = "\x04\0\0\0", .n_charsmap = 4, .says = "charsmap"},
        {.charsmap = "\x04\0\0\0\0\0\0\0x", .n_charsmap = 9, .says = "charsmap"},
        {.charsmap = "\xFF\xFF\xFF\xFF\0\0\0\0\0", .n_charsmap = 9, .says = "charsmap"},
        {.charsmap = "\x03\0\0\0\0\0\0\0\0", .n_charsmap = 9, .says = "charsmap"},
        {.charsmap = "\x04\0\0\0\xFF\xFF\xFF\xFF\0", .n_charsmap = 9, .says = NULL},
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct tok *t = NULL;
        struct err e = {0};
        const int rc = open_t5(&rows[i], &t, &e);
        if (rows[i].says ? rc >= 0 || !strstr(e.msg, rows[i].says) : rc < 0) fail_msg("row %zu: %d '%s'", i, rc, e.msg);
        if (rc == 0) EXPECT(t, "a", 5);
        tok_close(&t);
    }
    /* Bits of a good table turned over: what opens works. */
    struct cases c;
    cases_open(&c);
    struct tok *good = open_case(&c, "u_xlm");
    struct str blob = good->charsmap.blob;
    char *copy = malloc(blob.n);
    for (size_t i = scratch_rounds(2000); i > 0; i--) {
        struct tok *t = NULL;
        struct err e = {0};
        struct ids v = {0};
        memcpy(copy, blob.p, blob.n);
        for (uint32_t k = 1 + rng(3); k > 0; k--) copy[rng((uint32_t)blob.n)] ^= (char)(1u << rng(8));
        if (open_t5(&(struct vocab){.charsmap = copy, .n_charsmap = blob.n}, &t, &e) == 0)
            tok_encode(t, STR("a \xEF\xAC\x81\xC2\xBD e\xCC\x81\xEF\xB7\xBA\t"), 0, &v, &e);
        ids_fini(&v);
        tok_close(&t);
    }
    free(copy);
    tok_close(&good);
    cases_close(&c);
}

/* ---- hostile texts ---------------------------------------------------------------------------------------- */

struct job {
    const struct tok *t;
    struct str text;
    bool ok;
    double seconds;
};

static void *run_job(void *arg)
{
    struct job *j = arg;
    struct ids v = {0};
    struct err e = {0};
    j->ok = tok_encode(j->t, j->text, TOK_PARSE_SPECIAL, &v, &e) == 0;
    j->seconds = scratch_cpu_seconds();
    ids_fini(&v);
    return NULL;
}

/* On a thread with a stack of 256 KiB; seconds. */
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
    assert_true(j.ok);
    return j.seconds;
}

/* Every kind of part, on texts of one character: four times the text may take ten times as long, not sixteen. */
static void time_is_linear_in_hostile_text(void **state)
{
    static const struct str patterns[] = {{"a", 1},
                                          {" ", 1},
                                          {"\n", 1},
                                          {"1", 1},
                                          {"\xCC\x81", 2},
                                          {"\xC3\xA9", 2},
                                          {"\xF0\x9F\x98\x80", 4},
                                          {"\xF0\x9F\x87\xA9", 4},
                                          {SP, 3},
                                          {"\xFF", 1},
                                          {"</w>", 4},
                                          {"the", 3}};
    const size_t small_n = scratch_rounds(64 << 10), large_n = 4 * small_n;
    struct cases c;
    (void)state;
    cases_open(&c);
    for (size_t i = 0; i < c.list->n; i++) {
        struct tok *t = open_json(json_find(&c.list->v[i], "tokenizer"));
        for (size_t k = 0; k < COUNT_OF(patterns); k++) {
            double small = 0, large = 0;
            for (int tries = 0; tries < 3; tries++) {
                small = encode_repeated(t, patterns[k], small_n);
                large = encode_repeated(t, patterns[k], large_n);
                if (large <= 10 * small + 0.05) break;
            }
            if (large > 10 * small + 0.05)
                fail_msg("%.*s, pattern %zu: %.3f s, then %.3f s", STR_ARG(json_find(&c.list->v[i], "name")->s), k, small,
                         large);
        }
        tok_close(&t);
    }
    cases_close(&c);
}

static void nothing_is_leaked(void **state)
{
    (void)state;
    assert_int_equal(mem_stats().current, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_do_what_the_reference_does),
        cmocka_unit_test(cached_pieces_are_the_same),
        cmocka_unit_test(cached_pieces_know_the_first_word),
        cmocka_unit_test(special_entries_are_asked_for),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(unigram_finds_the_best_way),
        cmocka_unit_test(unigram_exports_are_the_same),
        cmocka_unit_test(gguf_says_what_becomes_of_spaces),
        cmocka_unit_test(damaged_unigram_files_are_errors),
        cmocka_unit_test(time_is_linear_in_hostile_text),
        cmocka_unit_test(nothing_is_leaked),
    };
    return cmocka_run_group_tests_name("tok_hf", tests, make_dir, remove_dir);
}
