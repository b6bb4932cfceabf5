/* api_model: quern.h's model and text functions. */
#include "api/api_int.h"
#include "machine/machine.h"

/* quern.h repeats the codes of err.def and the flags of text.h for those who see nothing else. */
#define ERR(name, value, text) _Static_assert(QUERN_ERR_##name == (value), #name);
#include "base/err.def"
#undef ERR
_Static_assert((int)QUERN_ADD_SPECIAL == (int)TOK_ADD_SPECIAL, "flags");
_Static_assert((int)QUERN_PARSE_SPECIAL == (int)TOK_PARSE_SPECIAL, "flags");

int api_fail(quern_error *err, const struct err *e)
{
    _Static_assert(sizeof err->message == sizeof e->msg, "messages differ");
    if (err) {
        err->code = e->code;
        memcpy(err->message, e->msg, sizeof err->message);
    }
    return e->code;
}

int api_give_string(struct buf *b, quern_string *out, struct err *e)
{
    size_t n = b->n;
    b->limit = 0;
    if (buf_c(b, 0) < 0) {
        buf_fini(b);
        return fail_nomem(e, "text", n);
    }
    *out = (quern_string){.text = b->p, .length = n};
    *b = (struct buf){0};
    return 0;
}

const char *quern_version(void)
{
    return QUERN_VERSION;
}

void quern_string_free(quern_string *s)
{
    mem_free(s->text);
    *s = (quern_string){0};
}

void quern_tokens_free(quern_tokens *t)
{
    mem_free(t->ids);
    *t = (quern_tokens){0};
}

/* ---- opening ---------------------------------------------------------------------------------------------- */

/* One JSON file of a folder; *out is NULL where there is none. */
static int optional_json(struct arena *a, const char *dir, const char *name, const struct json **out, struct err *e)
{
    char *path;
    struct str text;
    struct json *j;
    *out = NULL;
    TRY(vfs_join(a, dir, name, &path, e));
    if (!vfs_exists(path)) return 0;
    TRY(vfs_read(path, (size_t)64 << 20, a, &text, e));
    TRY(json_parse(a, text, path, &j, e));
    *out = j;
    return 0;
}

static int open_vocab_folder(quern_model *m, const char *path, struct err *e)
{
    const struct json *config, *special;
    char *file, *jinja;
    TRY(vfs_join(&m->arena, path, "tokenizer.json", &file, e));
    TRY(vfs_map(file, &m->map, e));
    TRY(optional_json(&m->arena, path, "tokenizer_config.json", &config, e));
    TRY(optional_json(&m->arena, path, "special_tokens_map.json", &special, e));
    TRY(vfs_join(&m->arena, path, "chat_template.jinja", &jinja, e));
    if (vfs_exists(jinja)) {
        TRY(vfs_read(jinja, (size_t)16 << 20, &m->arena, &m->template_text, e));
    } else {
        const struct json *own;
        TRY(optional_json(&m->arena, path, "chat_template.json", &own, e));
        if (!json_opt_str(own, "chat_template", &m->template_text))
            return fail(e, ERR_FORMAT, "%s: chat_template.json holds no template", path);
    }
    m->file_kind = "tokenizer.json";
    return tok_open_hf((struct str){(const char *)m->map.p, m->map.n}, config, special, file, &m->tok, e);
}

/* The vocabulary in g, which is the GGUF file path. */
static int open_gguf_vocab(quern_model *m, const struct gguf *g, const char *path, struct err *e)
{
    m->file_kind = gguf_version(g) == 2 ? "GGUF v2" : "GGUF v3";
    return tok_open_gguf(g, &m->tok, e) < 0 ? fail_prefix(e, "%s", path) : 0;
}

static int open_vocab(quern_model *m, const char *path, struct err *e)
{
    if (vfs_is_dir(path)) return open_vocab_folder(m, path, e);
    TRY(vfs_map(path, &m->map, e));
    struct str bytes = {(const char *)m->map.p, m->map.n};
    size_t i = 0;
    while (i < bytes.n && (bytes.p[i] == ' ' || bytes.p[i] == '\n' || bytes.p[i] == '\r' || bytes.p[i] == '\t')) i++;
    if (i < bytes.n && bytes.p[i] == '{') {
        m->file_kind = "tokenizer.json";
        return tok_open_hf(bytes, NULL, NULL, path, &m->tok, e);
    }
    TRY(gguf_parse(bytes, path, false, &m->gguf, e));
    return open_gguf_vocab(m, m->gguf, path, e);
}

/* Whether the weights are more than memory has room for, with an eighth of it for all else that a process needs. */
static bool exceeds_memory(const struct model *m)
{
    uint64_t total, available, bytes = 0;
    machine_memory_under("", &total, &available);
    for (size_t i = 0; i < m->n_reads; i++) bytes += m->reads[i].n;
    return bytes > available - available / 8;
}

/* A thread that cannot be had costs speed and nothing else: pages come when they are used. */
static void preload(quern_model *m, const quern_model_options *o)
{
    bool in_memory = o->copy || o->lock;
    if (in_memory) return;
    m->model->from_disk = exceeds_memory(m->model);
    if ((o->lazy || m->model->from_disk) && !o->prefault) return;
    const struct model *head = m->model->head;
    const size_t n = m->model->n_reads + (head ? head->n_reads : 0);
    if (preload_start(m->model->reads, n, &m->preload, NULL) == 0 && o->prefault) preload_wait(&m->preload);
}

static int open_model(quern_model *m, const char *path, const quern_model_options *o, struct err *e)
{
    TRY(files_open_as(path, &(struct files_options){.copy = o->copy, .lock = o->lock}, &m->files, e));
    TRY(model_open(m->files, &m->model, e));
    preload(m, o);
    const struct hf *hf = files_hf(m->files);
    if (!hf) {
        TRY(open_gguf_vocab(m, files_gguf(m->files), path, e));
    } else {
        char *file;
        m->file_kind = "Hugging Face folder";
        if (hf->tokenizer.n == 0) return fail(e, ERR_NOTFOUND, "%s: the folder has no tokenizer.json", path);
        TRY(vfs_join(&m->arena, path, "tokenizer.json", &file, e));
        TRY(tok_open_hf(hf->tokenizer, hf->tokenizer_config, hf->special_tokens, file, &m->tok, e));
        m->template_text = hf->chat_template;
    }
    if (tok_n_vocab(m->tok) > m->model->hp.n_vocab)
        return fail(e, ERR_FORMAT, "%s: the tokenizer has %zu entries, but the embedding only %u rows", path,
                    tok_n_vocab(m->tok), m->model->hp.n_vocab);
    return 0;
}

/* Last part of a path without ".gguf": a name where the file states none. */
static int name_of(quern_model *m, const char *path, struct err *e)
{
    struct str s = str_of(path), name = {0};
    const struct gguf *g = m->gguf ? m->gguf : m->files ? files_gguf(m->files) : NULL;
    while (s.n > 1 && s.p[s.n - 1] == '/') s.n--;
    for (size_t i = s.n; i-- > 0;) {
        if (s.p[i] != '/') continue;
        if (i + 1 < s.n) s = (struct str){s.p + i + 1, s.n - i - 1};
        break;
    }
    if (str_ends(s, STR(".gguf"))) s.n -= 5;
    if (g && gguf_get_str(g, "general.name", &name) && name.n) s = name;
    m->name = arena_dup(&m->arena, s.p, s.n);
    m->path = arena_dup(&m->arena, path, strlen(path));
    return m->name && m->path ? 0 : fail_nomem(e, "the name", s.n);
}

/* ---- defaults of the model ------------------------------------------------------------------------------------ */

static const struct sampling sampling_fallback = {
    .temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f, .repeat_penalty = 1, .penalty_last_n = 64};

/* generation_config.json and its counterpart in GGUF metadata. */
static const struct {
    const char *hf, *gguf;
    size_t offset;
    double min, max;
} defaults[] = {
    {"temperature", "general.sampling.temp", offsetof(struct sampling, temperature), 0, 1000},
    {"top_p", "general.sampling.top_p", offsetof(struct sampling, top_p), 0, 1},
    {"min_p", "general.sampling.min_p", offsetof(struct sampling, min_p), 0, 1},
    {"repetition_penalty", "general.sampling.penalty_repeat", offsetof(struct sampling, repeat_penalty), 0.001, 1000},
};

static int wrong_default(const quern_model *m, const char *key, struct err *e)
{
    return fail(e, ERR_FORMAT, "%s: the sampling default %s is not a number in its range", m->path, key);
}

static int read_sampling(quern_model *m, struct err *e)
{
    m->sampling = sampling_fallback;
    if (!m->files) return 0;
    const struct gguf *g = files_gguf(m->files);
    const struct json *j = g ? NULL : files_hf(m->files)->generation_config;
    for (size_t i = 0; i < COUNT_OF(defaults); i++) {
        float *at = (float *)(void *)((uint8_t *)&m->sampling + defaults[i].offset);
        const char *key = g ? defaults[i].gguf : defaults[i].hf;
        double v = (double)*at;
        bool ok =
            g ? !gguf_find(g, key) || gguf_get_f64(g, key, &v) : json_opt_f64(j, key, defaults[i].min, defaults[i].max, &v);
        if (!ok || !(v >= defaults[i].min && v <= defaults[i].max)) return wrong_default(m, key, e);
        *at = (float)v;
    }
    int64_t top_k = m->sampling.top_k;
    bool sample = true;
    bool ok = g ? !gguf_find(g, "general.sampling.top_k") || gguf_get_i64(g, "general.sampling.top_k", &top_k)
                : json_opt_i64(j, "top_k", -1, INT32_MAX, &top_k);
    if (!ok || top_k < -1 || top_k > INT32_MAX) return wrong_default(m, "top_k", e);
    m->sampling.top_k = top_k < 0 ? 0 : (uint32_t)top_k;
    if (!json_opt_bool(j, "do_sample", &sample)) return wrong_default(m, "do_sample", e);
    if (!sample) m->sampling.temperature = 0;
    return 0;
}

/* The ids of "eos_token_id": a number or an array of numbers. */
static void add_eog(quern_model *m, const struct json *j)
{
    const struct json *list = json_find(j, "eos_token_id");
    size_t n = list && list->type == JSON_ARRAY ? list->n : list && list->type == JSON_INT ? 1 : 0;
    for (size_t i = 0; i < n; i++) {
        const struct json *v = list->type == JSON_ARRAY ? &list->v[i] : list;
        bool known = v->type != JSON_INT || v->i < 0 || v->i > INT32_MAX;
        for (size_t k = 0; k < m->n_eog && !known; k++) known = m->eog[k] == v->i;
        if (!known) m->eog[m->n_eog++] = (int32_t)v->i;
    }
}

static size_t eog_count(const struct json *j)
{
    const struct json *list = json_find(j, "eos_token_id");
    return list && list->type == JSON_ARRAY ? list->n : 1;
}

static int read_eog(quern_model *m, struct err *e)
{
    const struct hf *hf = m->files ? files_hf(m->files) : NULL;
    size_t n;
    const int32_t *stops = tok_stops(m->tok, &n);
    size_t cap = n + (hf ? eog_count(hf->generation_config) + eog_count(hf->config) : 0);
    m->eog = arena_array(&m->arena, cap ? cap : 1, sizeof *m->eog);
    if (!m->eog) return fail_nomem(e, "end-of-text tokens", cap * sizeof *m->eog);
    if (n) memcpy(m->eog, stops, n * sizeof *stops);
    m->n_eog = n;
    if (hf) add_eog(m, hf->generation_config);
    if (hf) add_eog(m, hf->config);
    return 0;
}

static int finish(quern_model *m, const char *path, struct err *e)
{
    TRY(name_of(m, path, e));
    TRY(read_sampling(m, e));
    TRY(read_eog(m, e));
    TRY(api_vocab_new(&m->vocab, e));
    if (m->template_text.n == 0) m->template_text = tok_chat_template(m->tok);
    /* A template that does not compile only matters to those who use it. */
    if (m->template_text.n && jinja_compile(m->template_text, "chat template", &m->jinja, &m->template_err) == ERR_NOMEM)
        return fail(e, ERR_NOMEM, "%s", m->template_err.msg);
    if (!m->files) return 0;
    uint64_t bytes[QTYPE_COUNT] = {0};
    size_t most = 0;
    for (size_t i = 0; i < files_n_tensors(m->files); i++)
        bytes[files_tensor(m->files, i)->type] += files_tensor(m->files, i)->bytes;
    for (size_t t = 1; t < QTYPE_COUNT; t++)
        if (bytes[t] > bytes[most]) most = t;
    m->weight_type = qtypes[most].name;
    return 0;
}

int quern_model_open(const char *path, const quern_model_options *options, quern_model **out, quern_error *err)
{
    struct err e = {0};
    uint64_t start = clock_ns();
    const quern_model_options none = {0};
    if (!options) options = &none;
    quern_model *m = mem_zalloc(sizeof *m);
    int rc = m ? 0 : fail_nomem(&e, "the model", sizeof *m);
    if (rc == 0) rc = options->vocab_only ? open_vocab(m, path, &e) : open_model(m, path, options, &e);
    if (rc == 0) rc = finish(m, path, &e);
    if (rc < 0) {
        quern_model_close(&m);
        return api_fail(err, &e);
    }
    m->load_ns = clock_ns() - start;
    *out = m;
    return 0;
}

void quern_model_close(quern_model **model)
{
    quern_model *m = *model;
    if (!m) return;
    jinja_free(&m->jinja);
    api_vocab_free(&m->vocab);
    tok_close(&m->tok);
    preload_stop(&m->preload);
    model_close(&m->model);
    files_close(&m->files);
    gguf_free(&m->gguf);
    vfs_unmap(&m->map);
    arena_fini(&m->arena);
    mem_free(m);
    *model = NULL;
}

void quern_model_get_info(const quern_model *m, quern_model_info *out)
{
    *out = (quern_model_info){.name = m->name,
                              .file_kind = m->file_kind,
                              .n_vocab = (uint32_t)tok_n_vocab(m->tok),
                              .has_chat_template = m->template_text.n > 0,
                              .load_seconds = (double)m->load_ns * 1e-9};
    if (!m->model) return;
    const struct hparams *hp = &m->model->hp;
    out->architecture = hp->arch->gguf;
    out->weight_type = m->weight_type;
    out->parameters = m->model->parameters;
    out->weight_bytes = files_bytes(m->files);
    out->bytes_per_token = m->model->decode_bytes;
    out->macs = (quern_macs){m->model->layer_macs.int8, m->model->layer_macs.f32};
    out->output_macs = (quern_macs){m->model->output_macs.int8, m->model->output_macs.f32};
    out->n_layers = hp->n_layers;
    out->n_embd = hp->n_embd;
    out->n_heads = hp->n_heads;
    out->n_kv_heads = hp->n_kv_heads;
    out->head_dim = hp->head_dim;
    out->n_ff = hp->n_ff;
    out->n_vocab = hp->n_vocab;
    out->n_ctx_train = hp->n_ctx_train;
    out->embeds_only = hp->bidirectional;
}

int quern_model_describe(const quern_model *model, quern_string *json, quern_error *err)
{
    struct err e = {0};
    struct buf b = {0};
    int rc = api_describe(model, &b);
    rc = rc < 0 ? fail(&e, rc, "describing the model: %s", err_text(rc)) : api_give_string(&b, json, &e);
    buf_fini(&b);
    return rc < 0 ? api_fail(err, &e) : 0;
}

/* ---- text ------------------------------------------------------------------------------------------------------ */

int quern_tokenize(const quern_model *model, const char *text, size_t length, unsigned flags, quern_tokens *out,
                   quern_error *err)
{
    struct err e = {0};
    struct ids ids = {0};
    if (tok_encode(model->tok, (struct str){text, length}, flags, &ids, &e) < 0) {
        ids_fini(&ids);
        return api_fail(err, &e);
    }
    *out = (quern_tokens){.ids = ids.p, .count = ids.n};
    return 0;
}

int quern_detokenize(const quern_model *model, const int32_t *ids, size_t count, bool show_special, quern_string *out,
                     quern_error *err)
{
    struct err e = {0};
    struct buf b = {0};
    struct detok d;
    int rc = 0;
    detok_init(&d, model->tok, show_special);
    for (size_t i = 0; i < count && rc == 0; i++) rc = detok_put(&d, ids[i], &b, &e);
    if (rc == 0) rc = detok_end(&d, &b, &e);
    if (rc == 0) rc = api_give_string(&b, out, &e);
    buf_fini(&b);
    return rc < 0 ? api_fail(err, &e) : 0;
}

int quern_token_bytes(const quern_model *model, int32_t id, quern_string *out, quern_error *err)
{
    struct err e = {0};
    struct buf b = {0};
    int rc = tok_bytes(model->tok, id, &b, &e);
    if (rc == 0 && tok_is_special(model->tok, id)) {
        b.n = 0;
        if (buf_str(&b, tok_entry(model->tok, id)) < 0) rc = fail_nomem(&e, "a token", tok_entry(model->tok, id).n);
    }
    if (rc == 0) rc = api_give_string(&b, out, &e);
    buf_fini(&b);
    return rc < 0 ? api_fail(err, &e) : 0;
}

static int parse_arg(struct arena *a, const char *text, const char *name, enum json_type want, const struct json **out,
                     struct err *e)
{
    struct json *j;
    *out = NULL;
    if (!text) return 0;
    TRY(json_parse(a, str_of(text), name, &j, e));
    if (j->type != want) return fail(e, ERR_ARG, "%s: expected a JSON %s", name, want == JSON_ARRAY ? "array" : "object");
    *out = j;
    return 0;
}

static int render(const quern_model *m, struct arena *a, const char *messages_json, const quern_render_options *o,
                  struct jinja **own, struct buf *out, struct err *e)
{
    struct chat_args args = {.add_generation_prompt = o->add_generation_prompt, .now = o->now ? o->now : clock_local()};
    const struct jinja *t = m ? m->jinja : NULL;
    if (o->template_text) {
        TRY(jinja_compile(str_of(o->template_text), "template", own, e));
        t = *own;
    } else if (!t) {
        if (m && m->template_text.n) return fail(e, m->template_err.code, "%s", m->template_err.msg);
        return fail(e, ERR_TEMPLATE, "the model has no chat template; it only continues texts");
    }
    TRY(parse_arg(a, messages_json, "messages", JSON_ARRAY, &args.messages, e));
    TRY(parse_arg(a, o->tools_json, "tools", JSON_ARRAY, &args.tools, e));
    TRY(parse_arg(a, o->kwargs_json, "kwargs", JSON_OBJECT, &args.kwargs, e));
    if (!args.messages) return fail(e, ERR_ARG, "no messages");
    args.bos = o->bos ? str_of(o->bos) : m ? tok_entry(m->tok, tok_bos(m->tok)) : (struct str){0};
    args.eos = o->eos ? str_of(o->eos) : m ? tok_entry(m->tok, tok_eos(m->tok)) : (struct str){0};
    return chat_render(t, &args, out, e);
}

int api_render(const quern_model *m, const char *messages_json, const quern_render_options *o, struct buf *out, struct err *e)
{
    struct arena a = {0};
    struct jinja *own = NULL;
    int rc = render(m, &a, messages_json, o, &own, out, e);
    jinja_free(&own);
    arena_fini(&a);
    return rc;
}

int quern_render(const quern_model *model, const char *messages_json, const quern_render_options *options, quern_string *out,
                 quern_error *err)
{
    struct err e = {0};
    struct buf b = {0};
    const quern_render_options none = {0};
    int rc = api_render(model, messages_json, options ? options : &none, &b, &e);
    if (rc == 0) rc = api_give_string(&b, out, &e);
    buf_fini(&b);
    return rc < 0 ? api_fail(err, &e) : 0;
}
