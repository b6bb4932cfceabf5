/* api_describe: everything about a model as one JSON object, for `quern show` and for programs. */
#include "api/api_int.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

/* Arrays of the metadata are shown up to so many elements. */
#define SHOWN 8

/* Appends to b; the first failure sticks. */
struct writer {
    struct buf *b;
    int rc;
    bool comma; /* the next member needs one */
};

static void put(struct writer *w, const char *z)
{
    if (w->rc == 0) w->rc = buf_z(w->b, z);
}

static void put_str(struct writer *w, struct str s)
{
    if (w->rc == 0) w->rc = json_write_string(w->b, s);
}

static void put_u64(struct writer *w, uint64_t v)
{
    if (w->rc == 0) w->rc = buf_printf(w->b, "%llu", (unsigned long long)v);
}

/* JSON has no infinities; null stands for them. */
static void put_f64(struct writer *w, double v)
{
    char text[F64_TEXT_MAX];
    if (!(v - v == 0))
        put(w, "null");
    else if (w->rc == 0)
        w->rc = buf_put(w->b, text, f64_text(v, text));
}

static void next(struct writer *w)
{
    if (w->comma) put(w, ",");
    w->comma = true;
}

static void key(struct writer *w, const char *name)
{
    next(w);
    put_str(w, str_of(name));
    put(w, ":");
}

static void open(struct writer *w, const char *bracket)
{
    put(w, bracket);
    w->comma = false;
}

static void close(struct writer *w, const char *bracket)
{
    put(w, bracket);
    w->comma = true;
}

static void member_str(struct writer *w, const char *name, struct str s)
{
    key(w, name);
    put_str(w, s);
}

static void member_u64(struct writer *w, const char *name, uint64_t v)
{
    key(w, name);
    put_u64(w, v);
}

/* A float as the short decimal that was meant: 0.7 and not 0.699999988079071. */
static void put_f32(struct writer *w, float v)
{
    double scale = 1;
    for (int digits = 0; digits <= 9; digits++, scale *= 10) {
        double d = nearbyint((double)v * scale) / scale;
        if ((float)d != v) continue;
        put_f64(w, d);
        return;
    }
    put_f64(w, (double)v);
}

static void member_f32(struct writer *w, const char *name, float v)
{
    key(w, name);
    put_f32(w, v);
}

/* ---- parts ---------------------------------------------------------------------------------------------- */

static void rope(struct writer *w, const struct rope_hp *r)
{
    static const char *const scalings[] = {"none", "linear", "dynamic", "yarn", "longrope", "llama3"};
    open(w, "{");
    member_u64(w, "dim", r->dim);
    key(w, "theta");
    put_f64(w, r->theta);
    /* In GGUF files Llama 3's scaling is a tensor of divisors and has no name. */
    member_str(w, "scaling", str_of(scalings[r->scaling == ROPE_PLAIN && r->divisors ? ROPE_LLAMA3 : r->scaling]));
    key(w, "factor");
    put_f64(w, r->factor);
    close(w, "}");
}

static void hyper_parameters(struct writer *w, const struct model *m)
{
    const struct hparams *hp = &m->hp;
    struct hparam p;
    key(w, "hyper_parameters");
    open(w, "{");
    for (size_t i = 0; hparams_at(hp, i, &p); i++) {
        if (!p.key || !p.said) continue;
        key(w, p.key);
        if (p.kind == NUM_BOOL)
            put(w, p.value != 0 ? "true" : "false");
        else if (p.kind == NUM_U32)
            put_u64(w, (uint64_t)p.value);
        else if (p.kind == NUM_F32)
            put_f32(w, (float)p.value);
        else
            put_f64(w, p.value);
    }
    member_u64(w, "vocab_size", hp->n_vocab);
    if (m->head) member_u64(w, "mtp_layers", 1);
    if (hp->n_mtp > (m->head != NULL)) member_u64(w, "mtp_layers_not_used", hp->n_mtp - (m->head != NULL));
    key(w, "rope");
    rope(w, &hp->rope[0]);
    if (hp->n_ropes > 1) {
        key(w, "rope_of_windows");
        rope(w, &hp->rope[1]);
    }
    key(w, "tied_embeddings");
    put(w, hp->tied ? "true" : "false");
    close(w, "}");
}

static void tensors(struct writer *w, const struct files *f)
{
    key(w, "tensors");
    open(w, "[");
    for (size_t i = 0; i < files_n_tensors(f); i++) {
        const struct tensor *t = files_tensor(f, i);
        next(w);
        open(w, "{");
        member_str(w, "name", t->name);
        member_str(w, "type", str_of(qtypes[t->type].name));
        if (t->side) member_u64(w, "group", t->side->group); /* weights that share a scale */
        key(w, "shape");                                     /* the row length first, as GGUF has it */
        open(w, "[");
        for (uint32_t d = 0; d < t->n_dims; d++) {
            next(w);
            put_u64(w, t->ne[d]);
        }
        close(w, "]");
        member_u64(w, "bytes", t->bytes);
        close(w, "}");
    }
    close(w, "]");
}

static void scalar(struct writer *w, const struct gguf_kv *kv)
{
    if (kv->type == GGUF_STRING)
        put_str(w, kv->v.s);
    else if (kv->type == GGUF_BOOL)
        put(w, kv->v.u ? "true" : "false");
    else if (kv->type == GGUF_F32)
        put_f32(w, (float)kv->v.f);
    else if (kv->type == GGUF_F64)
        put_f64(w, kv->v.f);
    else if (kv->type == GGUF_I8 || kv->type == GGUF_I16 || kv->type == GGUF_I32 || kv->type == GGUF_I64) {
        if (w->rc == 0) w->rc = buf_printf(w->b, "%lld", (long long)kv->v.i);
    } else
        put_u64(w, kv->v.u);
}

static void array(struct writer *w, const struct gguf_kv *kv)
{
    struct reader strs;
    bool is_strs = gguf_strs(kv, &strs);
    open(w, "{");
    member_u64(w, "length", kv->n);
    key(w, "first");
    open(w, "[");
    for (uint64_t i = 0; i < kv->n && i < SHOWN; i++) {
        uint64_t u;
        int64_t s;
        double f;
        next(w);
        if (is_strs)
            put_str(w, gguf_next_str(&strs));
        else if (gguf_arr_u64(kv, i, &u))
            put_u64(w, u);
        else if (gguf_arr_i64(kv, i, &s))
            w->rc = w->rc ? w->rc : buf_printf(w->b, "%lld", (long long)s);
        else if (gguf_arr_f64(kv, i, &f))
            put_f64(w, f);
        else
            put(w, "null");
    }
    close(w, "]");
    close(w, "}");
}

static void metadata(struct writer *w, const struct gguf *g)
{
    key(w, "metadata");
    open(w, "{");
    for (size_t i = 0; i < gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = gguf_kv_at(g, i);
        next(w);
        put_str(w, kv->key);
        put(w, ":");
        if (kv->type == GGUF_ARRAY)
            array(w, kv);
        else
            scalar(w, kv);
    }
    close(w, "}");
}

/* How the file compares with the one that it was made from, where that was measured: the keys quern.quality.*. */
static void quality(struct writer *w, const struct gguf *g)
{
    const struct str prefix = STR("quern.quality.");
    bool any = false;
    for (size_t i = 0; i < gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = gguf_kv_at(g, i);
        if (!str_starts(kv->key, prefix) || kv->type == GGUF_ARRAY) continue;
        if (!any) {
            key(w, "quality");
            open(w, "{");
            any = true;
        }
        next(w);
        put_str(w, (struct str){kv->key.p + prefix.n, kv->key.n - prefix.n});
        put(w, ":");
        scalar(w, kv);
    }
    if (any) close(w, "}");
}

static void hf_metadata(struct writer *w, const struct hf *hf)
{
    key(w, "metadata");
    open(w, "{");
    key(w, "config");
    if (w->rc == 0) w->rc = json_write(w->b, hf->config);
    if (hf->generation_config) {
        key(w, "generation_config");
        if (w->rc == 0) w->rc = json_write(w->b, hf->generation_config);
    }
    close(w, "}");
}

static void token(struct writer *w, const char *name, const struct tok *t, int32_t id)
{
    key(w, name);
    if (id < 0) {
        put(w, "null");
        return;
    }
    open(w, "{");
    member_u64(w, "id", (uint64_t)id);
    member_str(w, "text", tok_entry(t, id));
    close(w, "}");
}

static void tokenizer(struct writer *w, const quern_model *m)
{
    key(w, "tokenizer");
    open(w, "{");
    member_str(w, "kind", str_of(tok_kind(m->tok)));
    member_str(w, "pre_tokenizer", str_of(tok_pre(m->tok)));
    member_u64(w, "n_vocab", tok_n_vocab(m->tok));
    token(w, "bos", m->tok, tok_bos(m->tok));
    token(w, "eos", m->tok, tok_eos(m->tok));
    key(w, "adds_bos");
    put(w, tok_adds_bos(m->tok) ? "true" : "false");
    key(w, "end_of_generation");
    open(w, "[");
    for (size_t i = 0; i < m->n_eog; i++) {
        next(w);
        put_u64(w, (uint64_t)m->eog[i]);
    }
    close(w, "]");
    close(w, "}");
}

static void sampling(struct writer *w, const struct sampling *s)
{
    key(w, "sampling");
    open(w, "{");
    member_f32(w, "temperature", s->temperature);
    member_u64(w, "top_k", s->top_k);
    member_f32(w, "top_p", s->top_p);
    member_f32(w, "min_p", s->min_p);
    member_f32(w, "repeat_penalty", s->repeat_penalty);
    close(w, "}");
}

/* Tensors of one kind that are not computed. */
struct left_out {
    const char *what;
    struct str first; /* name of one */
    size_t n;
    uint64_t bytes;
};
#define KINDS_MAX 16 /* more than unused.c knows */

static size_t count_left_out(const quern_model *m, struct left_out kinds[KINDS_MAX])
{
    size_t n = 0;
    for (size_t i = 0; i < files_n_tensors(m->files); i++) {
        const struct tensor *t = files_tensor(m->files, i);
        const char *what = model_leaves_out(m->model, t);
        size_t k = 0;
        if (!what) continue;
        while (k < n && strcmp(kinds[k].what, what) != 0) k++;
        if (k == KINDS_MAX) continue;
        if (k == n) kinds[n++] = (struct left_out){.what = what, .first = t->name};
        kinds[k].n++;
        kinds[k].bytes += t->bytes;
    }
    return n;
}

static void line(struct writer *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void line(struct writer *w, const char *fmt, ...)
{
    char text[600];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    next(w);
    put_str(w, str_of(text));
}

/* What the files have beside what is computed. Whatever would change the text that the model writes is an error on opening, so
 * nothing of that kind is here. */
static void unsupported(struct writer *w, const quern_model *m)
{
    static const struct {
        const char *key, *what;
    } parts[] = {{"vision_config", "vision"}, {"audio_config", "audio"}};
    struct left_out kinds[KINDS_MAX];
    const size_t n = count_left_out(m, kinds);
    const struct hf *hf = files_hf(m->files);
    key(w, "unsupported");
    open(w, "[");
    for (size_t i = 0; i < n; i++)
        line(w, "%s: %zu tensors of %llu bytes, such as %.*s", kinds[i].what, kinds[i].n, (unsigned long long)kinds[i].bytes,
             STR_ARG(kinds[i].first));
    for (size_t i = 0; hf && i < COUNT_OF(parts); i++) {
        size_t k = 0;
        while (k < n && strcmp(kinds[k].what, parts[i].what) != 0) k++;
        if (k == n && json_find(hf->config, parts[i].key)) line(w, "%s: described in config.json", parts[i].what);
    }
    if (m->template_text.n && !m->jinja) line(w, "chat template: %s", m->template_err.msg);
    close(w, "]");
}

int api_describe(const quern_model *m, struct buf *out)
{
    struct writer w = {.b = out};
    open(&w, "{");
    member_str(&w, "name", str_of(m->name));
    member_str(&w, "path", str_of(m->path));
    member_str(&w, "file_kind", str_of(m->file_kind));
    if (m->model) {
        member_str(&w, "architecture", str_of(m->model->hp.arch->gguf));
        member_str(&w, "weight_type", str_of(m->weight_type));
        member_u64(&w, "parameters", m->model->parameters);
        member_u64(&w, "weight_bytes", files_bytes(m->files));
        member_u64(&w, "bytes_per_token", m->model->decode_bytes);
        hyper_parameters(&w, m->model);
    }
    tokenizer(&w, m);
    sampling(&w, &m->sampling);
    key(&w, "chat_template");
    if (m->template_text.n)
        put_str(&w, m->template_text);
    else
        put(&w, "null");
    if (m->model) unsupported(&w, m);
    if (m->template_text.n && !m->jinja) member_str(&w, "chat_template_error", str_of(m->template_err.msg));
    const struct gguf *g = m->files ? files_gguf(m->files) : m->gguf;
    if (g) quality(&w, g);
    if (g)
        metadata(&w, g);
    else if (m->files)
        hf_metadata(&w, files_hf(m->files));
    if (m->files) tensors(&w, m->files);
    close(&w, "}");
    return w.rc;
}

int api_describe_adapter(const struct adapter *x, struct buf *out)
{
    struct writer w = {.b = out};
    const struct adapter_info *i = adapter_info(x);
    const struct gguf *g = files_gguf(adapter_files(x));
    open(&w, "{");
    member_str(&w, "path", str_of(i->path));
    member_str(&w, "file_kind", g ? STR("GGUF LoRA adapter") : STR("PEFT LoRA adapter"));
    if (i->architecture.n) member_str(&w, "architecture", i->architecture);
    if (i->base.n) member_str(&w, "base_model", i->base);
    member_u64(&w, "rank", i->rank);
    key(&w, "alpha");
    put_f64(&w, i->alpha);
    member_u64(&w, "modules", i->n_modules);
    member_u64(&w, "parameters", i->parameters);
    member_u64(&w, "weight_bytes", i->bytes);
    if (g)
        metadata(&w, g);
    else
        hf_metadata(&w, files_hf(adapter_files(x)));
    tensors(&w, adapter_files(x));
    close(&w, "}");
    return w.rc;
}
