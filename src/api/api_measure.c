/* api_measure: quern.h's functions that run a text through a model to learn something about it. */
#include "api/api_int.h"

#define DEFAULT_WINDOW 512

/* ---- perplexity --------------------------------------------------------------------------------------------------- */

static void give_divergence(const struct perplexity_result *r, quern_divergence *out)
{
    const struct divergence_result *d = &r->divergence;
    *out = (quern_divergence){.mean = d->mean,
                              .median = d->median,
                              .p99 = d->p99,
                              .max = d->max,
                              .same_top = d->same_top,
                              .base_ppl = num_exp_f64(d->base_nll)};
}

/* Either the windows come from the base, or text is tokenized. */
static int prepare(const quern_session *q, struct str text, const quern_perplexity_options *o, struct perplexity_options *po,
                   struct logits_file *base, struct ids *ids, struct err *e)
{
    if (o->bos && (po->bos = tok_bos(q->model->tok)) < 0) return fail(e, ERR_ARG, "the model has no BOS token");
    if (!o->base_logits) return tok_encode(q->model->tok, text, 0, ids, e);
    TRY(logits_file_open(o->base_logits, base, e));
    po->base = base;
    po->n_ctx = base->n_ctx;
    return 0;
}

int quern_perplexity(quern_session *q, const char *text, size_t length, const quern_perplexity_options *options,
                     quern_perplexity_result *out, quern_error *err)
{
    struct err e = {0};
    struct ids ids = {0};
    struct logits_file base = {0};
    struct perplexity_result r;
    const quern_perplexity_options none = {0}, *o = options ? options : &none;
    struct perplexity_options po = {.n_ctx = o->n_ctx ? o->n_ctx : DEFAULT_WINDOW,
                                    .bos = -1,
                                    .second_half = o->second_half || o->save_logits || o->base_logits,
                                    .n_windows = o->n_windows,
                                    .save = o->save_logits,
                                    .on_window = o->on_window,
                                    .user = o->user};
    session_cancel_clear(q->s);
    int rc = prepare(q, (struct str){text, length}, o, &po, &base, &ids, &e);
    if (rc == 0) rc = perplexity(q->s, ids.p, ids.n, &po, &r, &e);
    ids_fini(&ids);
    logits_file_close(&base);
    if (rc < 0) return api_fail(err, &e);
    *out = (quern_perplexity_result){.ppl = r.ppl, .nll = r.nll, .tokens = r.tokens};
    if (o->base_logits) give_divergence(&r, &out->divergence);
    return 0;
}

int quern_perplexity_windows(const char *base_logits, uint32_t *n_ctx, size_t *n_windows, quern_error *err)
{
    struct err e = {0};
    struct logits_file f;
    if (logits_file_open(base_logits, &f, &e) < 0) return api_fail(err, &e);
    *n_ctx = f.n_ctx;
    *n_windows = f.n_windows;
    logits_file_close(&f);
    return 0;
}

/* ---- importance matrix --------------------------------------------------------------------------------------------- */

static int make_entry(const struct importance_entry *from, struct arena *a, struct imatrix_entry *to, struct err *e)
{
    const struct bound *b = from->tensor;
    const size_t n = b->n_parts * (size_t)b->parts[0]->ne[0];
    to->name = str_of(b->name);
    to->n_values = n;
    to->n_counts = b->n_parts;
    to->sum = arena_array(a, n, sizeof *to->sum);
    to->sum2 = arena_array(a, n, sizeof *to->sum2);
    to->counts = arena_array(a, b->n_parts, sizeof *to->counts);
    if (!to->sum || !to->sum2 || !to->counts) return fail_nomem(e, "an importance matrix", n * 2 * sizeof *to->sum);
    for (size_t i = 0; i < n; i++) {
        const uint64_t column = reorder_column(b->order, n, i);
        to->sum[i] = (float)from->sum[column];
        to->sum2[i] = (float)from->sum2[column];
    }
    for (size_t i = 0; i < b->n_parts; i++) to->counts[i] = (float)from->rows[i];
    return 0;
}

/* Of matrices that were used. */
static int write_imatrix(const struct importance *im, struct imatrix *out, const char *path, struct err *e)
{
    out->entries = arena_array(&out->a, size_max(im->n, 1), sizeof *out->entries);
    if (!out->entries) return fail_nomem(e, "an importance matrix", im->n * sizeof *out->entries);
    for (size_t i = 0; i < im->n; i++) {
        uint64_t rows = 0;
        for (uint32_t p = 0; p < im->entries[i].tensor->n_parts; p++) rows += im->entries[i].rows[p];
        if (rows) TRY(make_entry(&im->entries[i], &out->a, &out->entries[out->n++], e));
    }
    return imatrix_write(out, path, e);
}

int quern_imatrix(quern_session *q, const char *text, size_t length, const quern_imatrix_options *options, const char *out_path,
                  quern_error *err)
{
    struct err e = {0};
    struct ids ids = {0};
    struct importance im = {0};
    const quern_imatrix_options none = {0}, *o = options ? options : &none;
    const struct importance_options io = {.n_ctx = o->n_ctx ? o->n_ctx : DEFAULT_WINDOW,
                                          .n_windows = o->n_windows,
                                          .bos = tok_adds_bos(q->model->tok) ? tok_bos(q->model->tok) : -1,
                                          .output = o->output,
                                          .on_window = o->on_window,
                                          .user = o->user};
    size_t n_windows = 0;
    session_cancel_clear(q->s);
    int rc = tok_encode(q->model->tok, (struct str){text, length}, 0, &ids, &e);
    if (rc == 0) rc = importance_collect(q->s, ids.p, ids.n, &io, &im, &n_windows, &e);
    struct imatrix m = {
        .dataset = str_of(o->dataset ? o->dataset : "text"), .n_chunks = (uint32_t)n_windows, .chunk_tokens = io.n_ctx};
    if (rc == 0) rc = write_imatrix(&im, &m, out_path, &e);
    arena_fini(&m.a);
    importance_fini(&im);
    ids_fini(&ids);
    return rc < 0 ? api_fail(err, &e) : 0;
}

/* ---- quality of a new file ------------------------------------------------------------------------------------------- */

struct measuring {
    const quern_convert_options *o;
    quern_model *models[2]; /* the source, the new file */
    quern_session *sessions[2];
};

static int on_window(void *user, size_t done, size_t all, double ppl)
{
    const quern_convert_options *o = user;
    (void)ppl;
    return o->on_measure ? o->on_measure(o->user, done, all) : 0;
}

static int open_side(struct measuring *m, size_t i, const char *path, quern_error *err)
{
    TRY(quern_model_open(path, NULL, &m->models[i], err));
    const uint32_t trained = m->models[i]->model->hp.n_ctx_train;
    const quern_session_options so = {.n_ctx = (uint32_t)size_min(trained, DEFAULT_WINDOW),
                                      .n_expected = (uint32_t)size_min(trained, DEFAULT_WINDOW),
                                      .n_threads = m->o->n_threads,
                                      .loras = m->o->loras,
                                      .n_loras = i == 0 ? m->o->n_loras : 0};
    return quern_session_new(m->models[i], &so, &m->sessions[i], err);
}

static int compare(const struct measuring *m, struct perplexity_result *r, struct err *e)
{
    const struct tok *tok = m->models[0]->tok;
    struct ids ids = {0};
    const struct perplexity_options po = {.n_ctx = session_n_ctx(m->sessions[0]->s),
                                          .bos = tok_adds_bos(tok) ? tok_bos(tok) : -1,
                                          .against = m->sessions[0]->s,
                                          .on_window = on_window,
                                          .user = (void *)m->o};
    int rc = tok_encode(tok, (struct str){m->o->card_text, m->o->card_length}, 0, &ids, e);
    if (rc == 0) rc = perplexity(m->sessions[1]->s, ids.p, ids.n, &po, r, e);
    ids_fini(&ids);
    return rc;
}

int api_measure(void *measurer, const char *path, struct convert_quality *out, struct err *e)
{
    const struct api_measurer *am = measurer;
    struct measuring m = {.o = am->o};
    struct perplexity_result r;
    quern_error err = {0};
    int rc = open_side(&m, 0, am->source, &err);
    if (rc == 0) rc = open_side(&m, 1, path, &err);
    if (rc < 0) (void)fail(e, rc, "%s", err.message);
    if (rc == 0) rc = compare(&m, &r, e);
    if (rc == 0) {
        const struct divergence_result *d = &r.divergence;
        *out = (struct convert_quality){.tokens = (uint32_t)size_min((size_t)r.tokens, UINT32_MAX),
                                        .ppl = (float)r.ppl,
                                        .source_ppl = (float)num_exp_f64(d->base_nll),
                                        .kld_mean = (float)d->mean,
                                        .kld_median = (float)d->median,
                                        .kld_p99 = (float)d->p99,
                                        .kld_max = (float)d->max,
                                        .same_top = (float)d->same_top};
    }
    for (size_t i = 0; i < 2; i++) {
        quern_session_free(&m.sessions[i]);
        quern_model_close(&m.models[i]);
    }
    return rc;
}
