/* tokenizers: small tokenizers of every kind against what the `tokenizers` library (0.23.2) makes of the same texts: ids
 * without and with special tokens, the text of those ids with and without special tokens, and pairs of texts with the segment
 * of each id.
 *
 * usage: test_tokenizers FILE     FILE is {"texts": [text], "pairs": [[a, b]], "tokenizers": [{"name", "tokenizer": the
 * tokenizer.json, "texts": [{"ids", "special", "all", "plain"}], "pairs": [{"ids", "types"}]}]}, in the order of the texts. */
#include <stdio.h>
#include <stdlib.h>

#include "text/text.h"

#define FILE_BYTES_MAX ((size_t)16 << 20)
#define BOTH (TOK_ADD_SPECIAL | TOK_PARSE_SPECIAL)

struct tokenizer {
    const struct json *texts, *pairs, *row;
    struct tok *t;
    char detail[512]; /* of the first difference; empty: none */
};

static void differs(struct tokenizer *x, const char *what, struct str text, struct str got)
{
    if (!*x->detail)
        snprintf(x->detail, sizeof x->detail, "%s of '%.*s': '%.*s'", what, (int)size_min(text.n, 150), text.p,
                 (int)size_min(got.n, 150), got.p);
}

static void write_ids(const int32_t *v, size_t n, struct buf *out)
{
    for (size_t i = 0; i < n; i++) buf_printf(out, "%s%d", i ? "," : "", v[i]);
}

static void compare_numbers(struct tokenizer *x, const char *what, struct str text, const struct json *want, const int32_t *v,
                            size_t n)
{
    bool same = want->n == n;
    for (size_t i = 0; same && i < n; i++) same = want->v[i].i == v[i];
    if (same) return;
    struct buf got = {0};
    write_ids(v, n, &got);
    differs(x, what, text, buf_view(&got));
    buf_fini(&got);
}

static void encode(struct tokenizer *x, const char *what, struct str text, unsigned flags, const struct json *want)
{
    struct ids v = {0};
    struct err e = {0};
    if (tok_encode(x->t, text, flags, &v, &e) < 0)
        differs(x, what, text, str_of(e.msg));
    else
        compare_numbers(x, what, text, want, v.p, v.n);
    ids_fini(&v);
}

static void decode(struct tokenizer *x, const char *what, struct str text, const struct json *ids, bool special,
                   const struct json *want)
{
    struct detok d;
    struct buf out = {0};
    struct err e = {0};
    int rc = 0;
    detok_init(&d, x->t, special);
    for (size_t i = 0; i < ids->n && rc == 0; i++) rc = detok_put(&d, (int32_t)ids->v[i].i, &out, &e);
    if (rc == 0) rc = detok_end(&d, &out, &e);
    if (rc < 0 || !str_eq(buf_view(&out), want->s)) differs(x, what, text, rc < 0 ? str_of(e.msg) : buf_view(&out));
    buf_fini(&out);
}

static void encode_pair(struct tokenizer *x, const struct json *texts, const struct json *want)
{
    const struct str a = texts->v[0].s, b = texts->v[1].s;
    struct ids v = {0}, types = {0};
    struct buf segments = {0};
    struct err e = {0};
    if (tok_encode_pair(x->t, a, b, BOTH, &v, &segments, &e) < 0) differs(x, "pair", a, str_of(e.msg));
    for (size_t i = 0; i < segments.n; i++) ids_put(&types, segments.p[i]);
    compare_numbers(x, "ids of a pair", a, json_find(want, "ids"), v.p, v.n);
    compare_numbers(x, "segments of a pair", a, json_find(want, "types"), types.p, types.n);
    buf_fini(&segments);
    ids_fini(&types);
    ids_fini(&v);
}

static void compare(struct tokenizer *x)
{
    const struct json *texts = json_find(x->row, "texts"), *pairs = json_find(x->row, "pairs");
    for (size_t i = 0; i < x->texts->n && i < texts->n; i++) {
        const struct str text = x->texts->v[i].s;
        const struct json *want = &texts->v[i], *ids = json_find(want, "ids");
        encode(x, "ids", text, TOK_PARSE_SPECIAL, ids);
        encode(x, "ids with special tokens", text, BOTH, json_find(want, "special"));
        decode(x, "text", text, ids, true, json_find(want, "all"));
        decode(x, "text without special tokens", text, ids, false, json_find(want, "plain"));
    }
    for (size_t i = 0; i < x->pairs->n && i < pairs->n; i++) encode_pair(x, &x->pairs->v[i], &pairs->v[i]);
}

/* 1: all are the same. */
static bool run(struct tokenizer *x, const struct json *tokenizer)
{
    struct buf file = {0};
    struct err e = {0};
    json_write(&file, tokenizer);
    if (tok_open_hf(buf_view(&file), NULL, NULL, "tokenizer.json", &x->t, &e) < 0)
        differs(x, "opening", (struct str){0}, str_of(e.msg));
    else
        compare(x);
    buf_fini(&file);
    tok_close(&x->t);
    return !*x->detail;
}

int main(int argc, char **argv)
{
    struct arena a = {0};
    struct str text;
    struct json *file;
    struct err e = {0};
    unsigned n_failed = 0;
    if (argc != 2 || vfs_read(argv[1], FILE_BYTES_MAX, &a, &text, &e) < 0 || json_parse(&a, text, argv[1], &file, &e) < 0) {
        printf("Bail out! %s\n", argc == 2 ? e.msg : "usage: test_tokenizers FILE");
        return 1;
    }
    const struct json *list = json_find(file, "tokenizers");
    for (size_t i = 0; i < list->n; i++) {
        struct tokenizer x = {.texts = json_find(file, "texts"), .pairs = json_find(file, "pairs"), .row = &list->v[i]};
        const bool ok = run(&x, json_find(x.row, "tokenizer"));
        printf("%sok %zu - %.*s\n", ok ? "" : "not ", i + 1, STR_ARG(json_find(x.row, "name")->s));
        if (!ok) printf("# %s\n", x.detail);
        n_failed += !ok;
    }
    printf("1..%zu\n", list->n);
    arena_fini(&a);
    return n_failed > 0;
}
