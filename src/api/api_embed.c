/* api_embed: quern.h's vectors of texts, and the scores of pairs. */
#include "api/api_int.h"

#include <math.h>
#include <stdio.h>

#include "kernel/kernel.h"

#define MAX_CTX 8192

struct quern_embedder {
    const quern_model *model;
    struct session *s;       /* of hidden states */
    struct session *answers; /* of logits, for a model that answers yes or no; made when first wanted */
    struct session_options o;
    enum pooling pooling;
};

static const char *const pooling_names[] = {[POOL_MEAN] = "mean", [POOL_CLS] = "cls", [POOL_LAST] = "last"};

static int read_pooling(const quern_model *m, const char *name, enum pooling *out, struct err *e)
{
    if (!name) {
        *out = m->model->hp.pooling;
        return 0;
    }
    for (size_t i = 0; i < COUNT_OF(pooling_names); i++)
        if (strcmp(name, pooling_names[i]) == 0) {
            *out = (enum pooling)i;
            return 0;
        }
    return fail(e, ERR_ARG, "pooling \"%s\" is not known; expected mean, cls or last", name);
}

int quern_embedder_new(const quern_model *model, const quern_embed_options *options, quern_embedder **out, quern_error *err)
{
    const quern_embed_options none = {0}, *o = options ? options : &none;
    struct err e = {0};
    quern_embedder *b = mem_zalloc(sizeof *b);
    int rc = b ? 0 : fail_nomem(&e, "the embedder", sizeof *b);
    if (rc == 0 && !model->model) rc = fail(&e, ERR_ARG, "%s was opened for its vocabulary only", model->name);
    if (rc == 0) {
        const uint32_t most = model->model->hp.n_ctx_train;
        const uint32_t n_ctx = o->n_ctx ? o->n_ctx : (uint32_t)size_min(most, MAX_CTX);
        b->model = model;
        /* Where tokens see all others, they are one batch. */
        b->o = (struct session_options){.n_ctx = n_ctx,
                                        .n_batch = model->model->hp.bidirectional ? n_ctx : 512,
                                        .n_threads = o->n_threads,
                                        .k_type = QTYPE_F32,
                                        .v_type = QTYPE_F32,
                                        .hidden = true,
                                        .cpu_level = o->cpu_level};
        if (model->model->hp.arch->features & ABSOLUTE && n_ctx > most)
            rc = fail(&e, ERR_ARG, "%s: a context of %u tokens; the model has %u positions", model->name, n_ctx, most);
        if (rc == 0) rc = read_pooling(model, o->pooling, &b->pooling, &e);
        if (rc == 0) rc = session_new(model->model, &b->o, &b->s, &e);
    }
    if (rc < 0) {
        mem_free(b);
        return api_fail(err, &e);
    }
    *out = b;
    return 0;
}

void quern_embedder_free(quern_embedder **embedder)
{
    if (!*embedder) return;
    session_free(&(*embedder)->s);
    session_free(&(*embedder)->answers);
    mem_free(*embedder);
    *embedder = NULL;
}

uint32_t quern_embedder_dimensions(const quern_embedder *b)
{
    return (uint32_t)embed_dimensions(b->model->model);
}

/* The vector of ids into v [embed_dimensions]. */
static int vector_of(quern_embedder *b, const int32_t *ids, size_t n, float *v, struct err *e)
{
    const struct model *m = b->model->model;
    struct arena a = {0};
    float *pooled = arena_array(&a, m->hp.n_embd, sizeof *pooled);
    int rc = pooled ? 0 : fail_nomem(e, "a vector", m->hp.n_embd * sizeof *pooled);
    if (rc == 0) rc = embed_tokens(b->s, ids, NULL, n, b->pooling, pooled, e);
    if (rc == 0) rc = embed_dense(m, pooled, v, e);
    arena_fini(&a);
    return rc;
}

int quern_embed(quern_embedder *b, const int32_t *ids, size_t count, uint32_t dimensions, bool normalise, float *out,
                quern_error *err)
{
    const size_t all = embed_dimensions(b->model->model), n = dimensions ? dimensions : all;
    struct err e = {0};
    struct arena a = {0};
    float *v = arena_array(&a, all, sizeof *v);
    int rc = v ? 0 : fail_nomem(&e, "a vector", all * sizeof *v);
    if (rc == 0 && n > all) rc = fail(&e, ERR_ARG, "%zu dimensions; the model has %zu", n, all);
    if (rc == 0) rc = vector_of(b, ids, count, v, &e);
    if (rc == 0) {
        if (normalise) embed_normalise(v, n);
        memcpy(out, v, n * sizeof *v);
    }
    arena_fini(&a);
    return rc < 0 ? api_fail(err, &e) : 0;
}

/* ---- pairs ------------------------------------------------------------------------------------------------------------- */

static int tokens_of(const quern_model *m, const char *text, unsigned flags, struct ids *out, struct err *e)
{
    return tok_encode(m->tok, str_of(text), flags, out, e);
}

/* The score of a head that classifies the two texts together. */
static int score_by_head(quern_embedder *b, const char *query, const char *document, float *score, struct err *e)
{
    const quern_model *m = b->model;
    const bool typed = m->model->type_embd && m->model->type_embd->ne[1] > 1;
    struct ids ids = {0};
    struct buf types = {0};
    struct arena a = {0};
    float *v = arena_array(&a, m->model->hp.n_embd, sizeof *v);
    int rc = v ? 0 : fail_nomem(e, "a pair", m->model->hp.n_embd * sizeof *v);
    if (rc == 0) rc = tok_encode_pair(m->tok, str_of(query), str_of(document), TOK_ADD_SPECIAL, &ids, &types, e);
    if (rc == 0) rc = embed_tokens(b->s, ids.p, typed ? (const uint8_t *)types.p : NULL, ids.n, b->pooling, v, e);
    if (rc == 0) rc = embed_score(b->s, v, score, e);
    arena_fini(&a);
    buf_fini(&types);
    ids_fini(&ids);
    return rc;
}

/* Qwen3-Reranker and its kin answer yes or no to a fixed question; the score is the probability of yes against no. What is in
 * the body stands for itself: no text of a document is taken for a special token. */
static const char question[] =
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note "
    "that the answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>";
static const char question_body[] = "user\n<Instruct>: Given a web search query, retrieve relevant passages that answer the "
                                    "query\n<Query>: %s\n<Document>: %s";
static const char question_end[] = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";

static int put_question(const quern_model *m, const char *query, const char *document, struct ids *out, struct err *e)
{
    struct buf body = {0};
    int rc = buf_printf(&body, question_body, query, document) < 0 ? fail_nomem(e, "a question", strlen(document)) : 0;
    if (rc == 0) rc = tok_encode(m->tok, str_of(question), TOK_PARSE_SPECIAL, out, e);
    if (rc == 0) rc = tok_encode(m->tok, buf_view(&body), 0, out, e);
    if (rc == 0) rc = tok_encode(m->tok, str_of(question_end), TOK_PARSE_SPECIAL, out, e);
    buf_fini(&body);
    return rc;
}

/* By its name; or by a head with two labels, which GGUF files have in place of the answers' rows of the output matrix. */
static bool answers_yes_or_no(const quern_model *m)
{
    if (m->model->hp.bidirectional) return false;
    if (m->model->cls_out) return m->model->n_labels == 2;
    for (const char *p = m->name; *p; p++)
        if (strncasecmp(p, "rerank", 6) == 0)
            return m->model->output && tok_find(m->tok, STR("yes")) >= 0 && tok_find(m->tok, STR("no")) >= 0;
    return false;
}

static int answer(quern_embedder *b, const struct ids *ids, float *score, struct err *e)
{
    const quern_model *m = b->model;
    struct session_options o = b->o;
    o.hidden = false;
    if (!b->answers) TRY(session_new(m->model, &o, &b->answers, e));
    session_truncate(b->answers, 0);
    TRY(session_eval(b->answers, ids->p, ids->n, NULL, NULL, e));
    const float *logits = session_logits(b->answers);
    const float yes = logits[tok_find(m->tok, STR("yes"))], no = logits[tok_find(m->tok, STR("no"))];
    *score = (float)(1.0 / (1.0 + num_exp_f64((double)no - (double)yes)));
    return 0;
}

static int score_by_answer(quern_embedder *b, const char *query, const char *document, float *score, struct err *e)
{
    const struct model *m = b->model->model;
    struct ids ids = {0};
    struct arena a = {0};
    float *v = arena_array(&a, m->hp.n_embd, sizeof *v);
    int rc = v ? put_question(b->model, query, document, &ids, e) : fail_nomem(e, "a vector", m->hp.n_embd * sizeof *v);
    if (rc == 0 && !m->cls_out) rc = answer(b, &ids, score, e);
    if (rc == 0 && m->cls_out) {
        rc = embed_tokens(b->s, ids.p, NULL, ids.n, POOL_LAST, v, e);
        if (rc == 0) rc = embed_score(b->s, v, score, e);
    }
    arena_fini(&a);
    ids_fini(&ids);
    return rc;
}

static int score_by_cosine(quern_embedder *b, const char *query, const char *document, float *score, struct err *e)
{
    const size_t n = embed_dimensions(b->model->model);
    struct arena a = {0};
    float *v[2] = {arena_array(&a, n, sizeof(float)), arena_array(&a, n, sizeof(float))};
    int rc = v[0] && v[1] ? 0 : fail_nomem(e, "a vector", n * sizeof(float));
    for (int i = 0; rc == 0 && i < 2; i++) {
        struct ids ids = {0};
        rc = tokens_of(b->model, i ? document : query, TOK_ADD_SPECIAL, &ids, e);
        if (rc == 0) rc = vector_of(b, ids.p, ids.n, v[i], e);
        if (rc == 0) embed_normalise(v[i], n);
        ids_fini(&ids);
    }
    double sum = 0;
    for (size_t k = 0; rc == 0 && k < n; k++) sum += (double)v[0][k] * (double)v[1][k];
    *score = (float)sum;
    arena_fini(&a);
    return rc;
}

int quern_rerank(quern_embedder *b, const char *query, const char *document, float *score, quern_error *err)
{
    struct err e = {0};
    const int rc = answers_yes_or_no(b->model) ? score_by_answer(b, query, document, score, &e)
                   : b->model->model->cls_out  ? score_by_head(b, query, document, score, &e)
                                               : score_by_cosine(b, query, document, score, &e);
    return rc < 0 ? api_fail(err, &e) : 0;
}
