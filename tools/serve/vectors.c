/* vectors: vectors of texts, in the dialects of OpenAI and Ollama, and scores of documents, in that of Jina. One embedder, made
 * on first use, serves all calls, one after the other. */
#include "serve.h"

#include <stdlib.h>

#define MAX_TEXTS 2048

/* Takes the embedder, which give_embedder gives back; NULL with an answer where it cannot be made. */
static quern_embedder *take_embedder(struct call *c, int *answer)
{
    struct server *s = c->server;
    quern_error err;
    monitor_enter(s->embed_lock);
    if (s->embedder || quern_embedder_new(s->model, &s->embed_options, &s->embedder, &err) == 0) return s->embedder;
    monitor_leave(s->embed_lock);
    *answer = serve_failure(c, &err);
    return NULL;
}

static void give_embedder(struct call *c)
{
    monitor_leave(c->server->embed_lock);
}

/* Whether somebody waits for the text that is next; else *answer says that nobody does. */
static bool goes_on(struct call *c, int *answer)
{
    monitor_enter(c->server->lock);
    const bool wanted = serve_is_wanted(c);
    monitor_leave(c->server->lock);
    if (!wanted) *answer = serve_error(c, 503, SERVE_ENDS);
    return wanted;
}

/* ---- vectors ----------------------------------------------------------------------------------------------------------- */

/* A call's texts, each a string or an array of token ids. */
struct wanted {
    const char *key; /* of input in the request */
    const struct json *input;
    bool many, base64; /* input is an array of n; vectors as the bytes of little-endian floats */
    size_t n;
    uint32_t dimensions; /* 0: all */
    uint64_t n_tokens;   /* of all, counted on the way */
};

static bool read_input(struct call *c, const char *key, struct wanted *out, int *answer)
{
    const struct json *j = json_find(c->json, key);
    double dimensions = 0;
    if (!ask_integer(c, c->json, "dimensions", 0, INT32_MAX, &dimensions, answer)) return false;
    if (!j || (j->type != JSON_STRING && (j->type != JSON_ARRAY || j->n == 0))) {
        *answer = serve_error(c, 400, "\"%s\" must be a string, an array of token ids, or an array of these", key);
        return false;
    }
    const bool many = j->type == JSON_ARRAY && j->v[0].type != JSON_INT;
    *out = (struct wanted){.key = key, .input = j, .many = many, .n = many ? j->n : 1, .dimensions = (uint32_t)dimensions};
    if (out->n <= MAX_TEXTS) return true;
    *answer = serve_error(c, 400, "\"%s\" has %zu texts; at most %d", key, out->n, MAX_TEXTS);
    return false;
}

static int put_numbers(struct buf *b, const float *v, uint32_t n)
{
    int rc = 0;
    for (uint32_t i = 0; i < n; i++) rc |= buf_printf(b, "%c%.9g", i ? ',' : '[', (double)v[i]);
    return rc | buf_c(b, ']');
}

static int put_base64(struct buf *b, const float *v, uint32_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *p = (const uint8_t *)v;
    const size_t size = n * sizeof *v;
    int rc = buf_c(b, '"');
    for (size_t i = 0; i < size; i += 3) {
        const size_t left = size_min(3, size - i);
        const uint32_t x = (uint32_t)p[i] << 16 | (left > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (left > 2 ? p[i + 2] : 0);
        for (size_t k = 0; k < 4; k++) rc |= buf_c(b, k <= left ? digits[x >> (18 - 6 * k) & 63] : '=');
    }
    return rc | buf_c(b, '"');
}

/* Appends the vector of text i. */
static bool put_vector(struct call *c, quern_embedder *m, struct wanted *w, size_t i, struct buf *b, int *answer)
{
    const uint32_t all = quern_embedder_dimensions(m), n = w->dimensions ? w->dimensions : all;
    quern_tokens text = {0};
    quern_error err;
    if (n > all) {
        *answer = serve_error(c, 400, "\"dimensions\": the model has %u", all);
        return false;
    }
    if (!ask_prompt(c, w->key, w->many ? &w->input->v[i] : w->input, false, &text, answer)) return false;
    float *v = mem_array(n, sizeof *v);
    int rc = v ? quern_embed(m, text.ids, text.count, n, true, v, &err) : QUERN_ERR_NOMEM;
    if (rc < 0) *answer = v ? serve_failure(c, &err) : serve_error(c, 500, "out of memory");
    w->n_tokens += text.count;
    if (rc >= 0) rc = w->base64 ? put_base64(b, v, n) : put_numbers(b, v, n);
    mem_free(v);
    quern_tokens_free(&text);
    return rc >= 0;
}

/* Appends all vectors, each between before (which may have its number) and after. */
static bool put_vectors(struct call *c, struct wanted *w, const char *before, const char *after, struct buf *b, int *answer)
{
    quern_embedder *m = take_embedder(c, answer);
    bool ok = m != NULL;
    for (size_t i = 0; ok && i < w->n; i++) {
        if (i) ok = buf_c(b, ',') == 0;
        ok = ok && goes_on(c, answer) && buf_z(b, before) == 0 && put_vector(c, m, w, i, b, answer) && buf_z(b, after) == 0;
        if (ok && *after) ok = buf_printf(b, "%zu}", i) == 0;
    }
    if (m) give_embedder(c);
    if (!ok) buf_fini(b);
    return ok;
}

int openai_embeddings(struct call *c)
{
    struct wanted w;
    struct buf b = {0};
    struct str format = {0};
    int answer = 0;
    if (!json_opt_str(c->json, "encoding_format", &format) ||
        (format.n && !str_is(format, "float") && !str_is(format, "base64")))
        return serve_error(c, 400, "\"encoding_format\" must be \"float\" or \"base64\"");
    if (!read_input(c, "input", &w, &answer)) return answer;
    w.base64 = str_is(format, "base64");
    int rc = buf_z(&b, "{\"object\":\"list\",\"data\":[");
    if (!put_vectors(c, &w, "{\"object\":\"embedding\",\"embedding\":", ",\"index\":", &b, &answer)) return answer;
    rc |= buf_z(&b, "],\"model\":");
    rc |= json_write_string(&b, str_of(c->server->name));
    rc |= buf_printf(&b, ",\"usage\":{\"prompt_tokens\":%llu,\"total_tokens\":%llu}}", (unsigned long long)w.n_tokens,
                     (unsigned long long)w.n_tokens);
    return serve_json(c, 200, &b, rc);
}

int ollama_embed(struct call *c)
{
    struct wanted w;
    struct buf b = {0};
    int answer = 0;
    if (!read_input(c, "input", &w, &answer)) return answer;
    int rc = buf_z(&b, "{\"model\":");
    rc |= json_write_string(&b, str_of(c->server->name));
    rc |= buf_z(&b, ",\"embeddings\":[");
    if (!put_vectors(c, &w, "", "", &b, &answer)) return answer;
    rc |= buf_printf(&b, "],\"total_duration\":%llu,\"load_duration\":0,\"prompt_eval_count\":%llu}",
                     (unsigned long long)(clock_ns() - c->start), (unsigned long long)w.n_tokens);
    return serve_json(c, 200, &b, rc);
}

/* Ollama's older form: one text. */
int ollama_embeddings(struct call *c)
{
    struct wanted w;
    struct buf b = {0};
    int answer = 0;
    if (!read_input(c, "prompt", &w, &answer)) return answer;
    if (w.many) return serve_error(c, 400, "\"prompt\" must be one text");
    const int rc = buf_z(&b, "{\"embedding\":");
    if (!put_vectors(c, &w, "", "", &b, &answer)) return answer;
    return serve_json(c, 200, &b, rc | buf_c(&b, '}'));
}

/* ---- scores ------------------------------------------------------------------------------------------------------------ */

struct scored {
    size_t index;
    float score;
};

/* The best first; equals in the order in which they came. */
static int by_score(const void *pa, const void *pb)
{
    const struct scored *a = pa, *b = pb;
    if (a->score != b->score) return a->score > b->score ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

static bool score_one(struct call *c, quern_embedder *m, const char *query, struct str text, float *out, int *answer)
{
    quern_error err = {.code = QUERN_ERR_NOMEM, .message = "out of memory"};
    const char *document = serve_copy(c, text);
    if (query && document && quern_rerank(m, query, document, out, &err) == 0) return true;
    *answer = serve_failure(c, &err);
    return false;
}

static bool score_all(struct call *c, struct str query, const struct json *documents, struct scored *out, int *answer)
{
    quern_embedder *m = take_embedder(c, answer);
    const char *q = serve_copy(c, query);
    bool ok = m != NULL;
    for (size_t i = 0; ok && i < documents->n; i++) {
        out[i].index = i;
        ok = goes_on(c, answer) && score_one(c, m, q, documents->v[i].s, &out[i].score, answer);
    }
    if (m) give_embedder(c);
    return ok;
}

int native_rerank(struct call *c)
{
    struct buf b = {0};
    double top_n = INT32_MAX;
    int answer = 0;
    const struct json *query = json_find(c->json, "query"), *documents = json_find(c->json, "documents");
    bool ok = query && ask_is_text(query) && query->s.n && documents && documents->type == JSON_ARRAY && documents->n > 0 &&
              documents->n <= MAX_TEXTS;
    for (size_t i = 0; ok && i < documents->n; i++) ok = ask_is_text(&documents->v[i]);
    if (!ok)
        return serve_error(c, 400, "\"query\" must be a string, \"documents\" an array of at most %d strings, without NUL",
                           MAX_TEXTS);
    if (!ask_integer(c, c->json, "top_n", 1, INT32_MAX, &top_n, &answer)) return answer;
    struct scored *all = arena_array(&c->arena, documents->n, sizeof *all);
    if (!all) return serve_error(c, 500, "out of memory");
    if (!score_all(c, query->s, documents, all, &answer)) return answer;
    qsort(all, documents->n, sizeof *all, by_score);
    int rc = buf_z(&b, "{\"object\":\"list\",\"model\":");
    rc |= json_write_string(&b, str_of(c->server->name));
    rc |= buf_z(&b, ",\"results\":[");
    for (size_t i = 0; i < documents->n && (double)i < top_n; i++)
        rc |= buf_printf(&b, "%s{\"index\":%zu,\"relevance_score\":%.9g}", i ? "," : "", all[i].index, (double)all[i].score);
    return serve_json(c, 200, &b, rc | buf_z(&b, "]}"));
}
