/* Export: a tokenizer as the arrays of a GGUF file (tokenizer.ggml.*). What GGUF cannot express is an error; convert is the
 * caller. */
#include "text/text_int.h"

static int export_tokens(const struct tok *t, struct arena *a, struct tok_export *out, struct err *e)
{
    struct str *v = arena_array(a, t->n, sizeof *v);
    if (!v) return fail_nomem(e, "exported vocabulary", t->n * sizeof *v);
    for (size_t id = 0; id < t->n; id++) {
        v[id] = tok_text(t, id);
        if (v[id].n) continue;
        struct buf name = {0}; /* a hole needs a text of its own */
        int rc = buf_printf(&name, "[PAD%zu]", id);
        char *p = rc == 0 ? arena_dup(a, name.p, name.n) : NULL;
        v[id] = (struct str){p, name.n};
        buf_fini(&name);
        if (!p) return fail_nomem(e, "exported vocabulary", 16);
    }
    out->tokens = v;
    return 0;
}

static int export_merges(const struct tok *t, struct arena *a, struct tok_export *out, struct err *e)
{
    struct str *v = arena_array(a, t->n_merges, sizeof *v);
    size_t bytes = 0, n = 0;
    for (size_t i = 0; i < t->n_merges; i++) bytes += (size_t)t->ents[t->merges[i].left].n + t->ents[t->merges[i].right].n + 1;
    char *p = v ? arena_alloc(a, bytes) : NULL;
    if (!p) return fail_nomem(e, "exported merges", bytes);
    for (size_t i = 0; i < t->n_merges; i++) {
        struct str l = tok_text(t, (size_t)t->merges[i].left), r = tok_text(t, (size_t)t->merges[i].right);
        v[i] = (struct str){p + n, l.n + r.n + 1};
        memcpy(p + n, l.p, l.n);
        p[n + l.n] = ' ';
        memcpy(p + n + l.n + 1, r.p, r.n);
        n += v[i].n;
    }
    out->n_merges = t->n_merges;
    out->merges = v;
    return 0;
}

/* Pieces as GGUF marks them: those that begin a word by U+2581, the others by nothing. A piece that is nothing but the mark
 * of the others can only begin one. */
static int export_pieces(const struct tok *t, struct arena *a, struct tok_export *out, struct err *e)
{
    struct str *v = arena_array(a, t->n, sizeof *v);
    if (!v) return fail_nomem(e, "exported vocabulary", t->n * sizeof *v);
    if (t->n_prefix && out->bos < 0) out->bos = t->prefix[0];                      /* [CLS] */
    if (t->n_suffix && out->eos < 0) out->eos = t->suffix[0], out->add_eos = true; /* [SEP] */
    for (size_t id = 0; id < t->n; id++) {
        struct buf b = {0};
        struct str s = out->tokens[id];
        const bool inside = t->word_inside.n && s.n > t->word_inside.n && str_starts(s, t->word_inside);
        v[id] = s;
        if (t->types[id] != TYPE_NORMAL) continue;
        if (inside) s = (struct str){s.p + t->word_inside.n, s.n - t->word_inside.n};
        int rc = inside || t->piece_first.n ? 0 : buf_z(&b, LOWER_BLOCK);
        if (rc == 0) rc = buf_str(&b, s);
        v[id] = (struct str){rc == 0 ? arena_dup(a, b.p, b.n) : NULL, b.n};
        buf_fini(&b);
        if (!v[id].p) return fail_nomem(e, "exported vocabulary", s.n);
    }
    out->tokens = v;
    return 0;
}

/* A SentencePiece vocabulary of a tokenizer.json has merges instead of scores, in the order that falling scores give: the score
 * is the negative rank of the first merge that makes the entry. */
static int export_scores(const struct tok *t, struct arena *a, struct tok_export *out, struct err *e)
{
    float *v = arena_array(a, t->n, sizeof *v);
    if (!v) return fail_nomem(e, "exported scores", t->n * sizeof *v);
    out->scores = v;
    for (size_t id = 0; t->scores && id < t->n; id++) v[id] = (float)t->scores[id];
    if (t->scores) return 0;
    for (size_t i = t->n_merges; i-- > 0;) v[t->merges[i].id] = -(float)i;
    for (size_t id = 0; id < t->n; id++)
        if (t->types[id] == TYPE_NORMAL && v[id] == 0.0f && !(t->n_merges && t->merges[0].id == (int32_t)id))
            v[id] = -(float)t->n_merges;
    return 0;
}

/* Whether tokenizer.ggml.model "llama" means the same: a space in front or none, spaces to U+2581, nothing else. */
static bool is_plain_spm(const struct tok *t)
{
    for (unsigned i = 0; i < t->n_norm; i++) {
        const struct norm_op *op = &t->norm[i];
        if (op->kind == NORM_UNICODE || !str_is(op->to, LOWER_BLOCK)) return false;
        if (op->kind == NORM_REPLACE && !str_is(op->from, " ")) return false;
    }
    for (unsigned i = 0; i < t->n_pre; i++) {
        const struct pre_op *op = &t->pre[i];
        if (op->rewrite ? !str_is(op->space, LOWER_BLOCK) : op->find != FIND_LITERAL) return false;
    }
    return true;
}

/* Whether op cuts at white space and drops it, and puts a mark in front of every word, which is what GGUF's
 * remove_extra_whitespaces says. */
static bool merges_spaces(const struct tok *t)
{
    return t->n_pre > 1 && t->pre[0].find == FIND_CLASS && t->pre[0].cls == CLASS_SPACE && t->pre[0].behavior == PRE_REMOVED &&
           t->pre[1].rewrite && t->pre[1].prefix.n && !t->pre[1].first_only;
}

/* GGUF's "t5" knows a table of characters, and what becomes of spaces. Without such a table white space other than a space
 * would be treated another way. */
static bool is_plain_unigram(const struct tok *t, struct tok_export *out)
{
    const bool own = t->n_norm && t->norm[t->n_norm - 1].kind == NORM_SPACES; /* it came from a GGUF file */
    const unsigned n_norm = t->n_norm - own;
    out->charsmap = t->charsmap.blob;
    out->merge_spaces = own ? t->norm[t->n_norm - 1].form & SPACES_MERGE : merges_spaces(t);
    if (n_norm > 1 || (n_norm == 1 && t->norm[0].kind != NORM_CHARSMAP)) return false;
    if (out->merge_spaces && n_norm == 0 && !own) return false;
    for (unsigned i = out->merge_spaces && !own ? 1 : 0; i < t->n_pre; i++) {
        const struct pre_op *op = &t->pre[i];
        if (op->rewrite ? !str_is(op->space, LOWER_BLOCK) || op->first_only : !str_is(op->literal, LOWER_BLOCK)) return false;
    }
    return own || t->n_pre > (out->merge_spaces ? 1u : 0u);
}

static int export_bytes(const struct tok *t, struct arena *a, struct tok_export *out, struct err *e)
{
    out->pre = t->pre_name;
    if (!t->pre_name)
        return fail(e, ERR_UNSUPPORTED, "GGUF has no name for the pre-tokenizer and normalizer of this tokenizer%s%.*s",
                    t->n_pre ? ": " : "", STR_ARG(t->n_pre ? t->pre[0].regex : (struct str){0}));
    return export_merges(t, a, out, e);
}

static int export_spm(const struct tok *t, struct arena *a, struct tok_export *out, struct err *e)
{
    if (!is_plain_spm(t) || t->word_inside.n || t->word_end.n)
        return fail(e, ERR_UNSUPPORTED, "GGUF cannot express the normalizer or pre-tokenizer of this SentencePiece tokenizer");
    return export_scores(t, a, out, e);
}

static int export_unigram(const struct tok *t, struct arena *a, struct tok_export *out, struct err *e)
{
    if (!is_plain_unigram(t, out))
        return fail(e, ERR_UNSUPPORTED, "GGUF cannot express the normalizer or pre-tokenizer of this Unigram tokenizer");
    return export_scores(t, a, out, e);
}

int tok_export(const struct tok *t, struct arena *a, struct tok_export *out, struct err *e)
{
    static const struct {
        const char *model;
        int (*export)(const struct tok *t, struct arena *a, struct tok_export *out, struct err *e);
    } rows[] = {[MODEL_BYTES] = {"gpt2", export_bytes},
                [MODEL_CHARS] = {"llama", export_spm},
                [MODEL_PIECES] = {"bert", export_pieces},
                [MODEL_SCORES] = {"llama", export_spm},
                [MODEL_UNIGRAM] = {"t5", export_unigram}};
    if (t->model == MODEL_WORDS) return fail(e, ERR_UNSUPPORTED, "GGUF has no kind of vocabulary for WordLevel tokenizers");
    *out = (struct tok_export){.model = rows[t->model].model,
                               .n = t->n,
                               .types = t->types,
                               .bos = t->bos,
                               .eos = t->eos,
                               .unk = t->unk,
                               .pad = t->pad,
                               .add_bos = tok_adds_bos(t),
                               .add_eos = tok_edge_has(t->suffix, t->n_suffix, t->eos),
                               .add_space_prefix = t->add_space_prefix};
    TRY(export_tokens(t, a, out, e));
    return rows[t->model].export(t, a, out, e);
}
