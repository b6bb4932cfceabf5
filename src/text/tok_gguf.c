/* Tokenizers of GGUF files: the arrays tokenizer.ggml.tokens, .token_type, .scores and .merges, and the keys around them. The
 * models: "gpt2" (byte-level BPE, with the pre-tokenizer that tokenizer.ggml.pre names), "llama" (SentencePiece BPE by scores),
 * "bert" (WordPiece), "t5" (Unigram) and "gemma4" (BPE over characters). Nothing is taken on trust: the arrays must be of one
 * length and of the right kind, ids in range. All of it is copied. */
#include "text/text_int.h"

#define KEY(name) "tokenizer.ggml." name

static const struct gguf_kv *array_of(const struct gguf *g, const char *key, size_t n, struct err *e, int *rc)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    *rc = 0;
    if (!kv) return NULL;
    if (kv->type != GGUF_ARRAY)
        *rc = fail(e, ERR_FORMAT, "%s: expected an array", key);
    else if (n && kv->n != n)
        *rc = fail(e, ERR_FORMAT, "%s has %llu elements, " KEY("tokens") " has %zu", key, (unsigned long long)kv->n, n);
    return kv;
}

/* ---- vocabulary ------------------------------------------------------------------------------------------- */

static int load_tokens(const struct gguf *g, struct tok *t, struct err *e)
{
    int rc;
    const struct gguf_kv *tokens = array_of(g, KEY("tokens"), 0, e, &rc);
    TRY(rc);
    struct reader r;
    if (!tokens || !gguf_strs(tokens, &r) || tokens->n > SIZE_MAX / 2)
        return fail(e, ERR_FORMAT, KEY("tokens") ": expected an array of strings");
    size_t n = (size_t)tokens->n;
    TRY(tok_reserve(t, n, (size_t)tokens->array_bytes, e));
    const struct gguf_kv *types = array_of(g, KEY("token_type"), n, e, &rc);
    TRY(rc);
    for (size_t id = 0; id < n; id++) {
        int64_t type = TYPE_NORMAL;
        if (types && (!gguf_arr_i64(types, id, &type) || type < 0 || type > TYPE_BYTE))
            return fail(e, ERR_FORMAT, KEY("token_type") "[%zu] is no token type (1 to 6)", id);
        struct str text = gguf_next_str(&r);
        if (r.bad) return fail(e, ERR_FORMAT, KEY("tokens") "[%zu] lies outside of the file", id);
        TRY(tok_set(t, (int32_t)id, text, type == 0 ? TYPE_UNUSED : (int32_t)type, e));
    }
    return 0;
}

static int load_scores(const struct gguf *g, struct tok *t, struct err *e)
{
    int rc;
    const struct gguf_kv *kv = array_of(g, KEY("scores"), t->n, e, &rc);
    TRY(rc);
    if (!kv) return fail(e, ERR_FORMAT, KEY("scores") " is missing; a SentencePiece vocabulary needs it");
    t->scores = mem_array(t->n, sizeof *t->scores);
    if (!t->scores) return fail_nomem(e, "scores", t->n * sizeof *t->scores);
    for (size_t id = 0; id < t->n; id++) {
        double v;
        if (!gguf_arr_f64(kv, id, &v) || v != v) return fail(e, ERR_FORMAT, KEY("scores") "[%zu] is not a number", id);
        t->scores[id] = v;
    }
    return 0;
}

static int load_merges(const struct gguf *g, struct tok *t, struct err *e)
{
    const struct gguf_kv *kv = gguf_find(g, KEY("merges"));
    struct reader r;
    if (!kv || !gguf_strs(kv, &r) || kv->n > SIZE_MAX / 2)
        return fail(e, ERR_FORMAT, KEY("merges") ": expected an array of strings; a byte-level vocabulary needs it");
    TRY(tok_reserve_merges(t, (size_t)kv->n, e));
    struct buf scratch = {0};
    int rc = 0;
    for (size_t i = 0; i < kv->n && rc == 0; i++) {
        struct str s = gguf_next_str(&r);
        const char *gap = s.n > 1 ? memchr(s.p + 1, ' ', s.n - 1) : NULL;
        if (!gap) {
            rc = fail(e, ERR_FORMAT, KEY("merges") "[%zu] is no pair", i);
            break;
        }
        size_t left = (size_t)(gap - s.p);
        rc = tok_add_merge(t, (struct str){s.p, left}, (struct str){gap + 1, s.n - left - 1}, &scratch, e);
        if (rc < 0) fail_prefix(e, "tokenizer.ggml");
    }
    buf_fini(&scratch);
    return rc < 0 ? rc : tok_index_merges(t, e);
}

/* User-defined tokens are cut out of every text, control tokens and the unknown token only where they are asked for. */
static int load_added(struct tok *t, struct err *e)
{
    size_t n = 0;
    for (size_t id = 0; id < t->n; id++) n += t->types[id] >= TYPE_UNKNOWN && t->types[id] <= TYPE_USER;
    struct tok_added *v = arena_array(&t->arena, n ? n : 1, sizeof *v);
    if (!v) return fail_nomem(e, "added tokens", n * sizeof *v);
    n = 0;
    for (size_t id = 0; id < t->n; id++) {
        if (t->types[id] < TYPE_UNKNOWN || t->types[id] > TYPE_USER) continue;
        v[n] = (struct tok_added){.id = (int32_t)id, .text = tok_text(t, id), .special = t->types[id] != TYPE_USER};
        n++;
    }
    return tok_set_added(t, 0, v, n, e);
}

/* ---- keys ------------------------------------------------------------------------------------------------- */

/* *id keeps its value where the key is missing; a value out of range is an error. */
static int get_id(const struct gguf *g, const struct tok *t, const char *key, int32_t *id, struct err *e)
{
    int64_t v;
    if (!gguf_find(g, key)) return 0;
    if (!gguf_get_i64(g, key, &v)) return fail(e, ERR_FORMAT, "%s: expected a whole number", key);
    if (v == -1 || v == UINT32_MAX)
        v = -1; /* "none", as some writers put it */
    else if (!tok_id_ok(t, v))
        return fail(e, ERR_FORMAT, "%s is %lld, the vocabulary has %zu entries", key, (long long)v, t->n);
    *id = (int32_t)v;
    return 0;
}

static int get_flag(const struct gguf *g, const char *key, bool *flag, struct err *e)
{
    if (!gguf_find(g, key) || gguf_get_bool(g, key, flag)) return 0;
    return fail(e, ERR_FORMAT, "%s: expected true or false", key);
}

static int load_ids(const struct gguf *g, struct tok *t, bool add_bos, struct err *e)
{
    /* BERT's files have names of their own for what begins and ends a text. */
    TRY(get_id(g, t, KEY("cls_token_id"), &t->bos, e));
    TRY(get_id(g, t, KEY("seperator_token_id"), &t->eos, e));
    static const char *const turn_ends[] = {KEY("eot_token_id"), KEY("eom_token_id")};
    bool add_eos = false;
    TRY(get_id(g, t, KEY("bos_token_id"), &t->bos, e));
    TRY(get_id(g, t, KEY("eos_token_id"), &t->eos, e));
    TRY(get_id(g, t, KEY("unknown_token_id"), &t->unk, e));
    TRY(get_id(g, t, KEY("padding_token_id"), &t->pad, e));
    for (size_t i = 0; i < COUNT_OF(turn_ends); i++) {
        int32_t id = -1;
        TRY(get_id(g, t, turn_ends[i], &id, e));
        tok_add_stop(t, id);
    }
    add_eos = t->model == MODEL_PIECES || t->model == MODEL_UNIGRAM;
    TRY(get_flag(g, KEY("add_bos_token"), &add_bos, e));
    TRY(get_flag(g, KEY("add_eos_token"), &add_eos, e));
    if (add_bos && t->bos >= 0) tok_edge_add(t->prefix, &t->n_prefix, 0, t->bos);
    if (add_eos && t->eos >= 0) tok_edge_add(t->suffix, &t->n_suffix, 0, t->eos);
    return 0;
}

/* "llama": a space in front of each segment, spaces become U+2581. Special ids that are not given are the customary ones. */
static int setup_spm(const struct gguf *g, struct tok *t, struct err *e)
{
    t->model = MODEL_SCORES;
    t->add_space_prefix = true;
    TRY(get_flag(g, KEY("add_space_prefix"), &t->add_space_prefix, e));
    t->strip_space = t->add_space_prefix;
    t->show = SHOW_SPACED;
    t->show_mark = STR(LOWER_BLOCK);
    if (t->add_space_prefix) norm_add(t, (struct norm_op){.kind = NORM_PREPEND, .to = STR(LOWER_BLOCK)});
    norm_add(t, (struct norm_op){.kind = NORM_REPLACE, .from = STR(" "), .to = STR(LOWER_BLOCK)});
    TRY(load_tokens(g, t, e));
    TRY(load_scores(g, t, e));
    TRY(tok_index(t, e));
    if (t->n > 2) {
        t->unk = 0;
        t->bos = 1;
        t->eos = 2;
    }
    return load_ids(g, t, true, e);
}

static int setup_bpe(const struct gguf *g, struct tok *t, struct err *e)
{
    struct str pre = STR("default");
    bool add_bos = false;
    t->model = MODEL_BYTES;
    t->show = SHOW_BYTES;
    t->show_added_raw = true;
    gguf_get_str(g, KEY("pre"), &pre);
    TRY(pre_add_named(t, pre, &add_bos, e));
    TRY(load_tokens(g, t, e));
    TRY(tok_index(t, e));
    TRY(load_merges(g, t, e));
    return load_ids(g, t, add_bos, e);
}

/* "bert": pieces that begin a word have U+2581 before them; text is lowered and loses its accents. */
static int setup_pieces(const struct gguf *g, struct tok *t, struct err *e)
{
    norm_add(t, (struct norm_op){.kind = NORM_BERT, .form = BERT_CLEAN | BERT_CHINESE | BERT_ACCENTS | BERT_LOWER});
    TRY(wordpiece_setup(t, STR(LOWER_BLOCK), e));
    TRY(load_tokens(g, t, e));
    TRY(tok_index(t, e));
    t->unk = tok_find(t, STR("[UNK]"));
    return load_ids(g, t, true, e);
}

/* "gemma4": merges over characters, with spaces as U+2581 and bytes for what is no entry. No entry has a line feed beside
 * anything else, so texts are cut there. */
static int setup_chars(const struct gguf *g, struct tok *t, struct err *e)
{
    t->model = MODEL_CHARS;
    t->show = SHOW_SPACED;
    t->show_mark = STR(LOWER_BLOCK);
    t->byte_fallback = t->fuse_unk = true;
    TRY(get_flag(g, KEY("add_space_prefix"), &t->add_space_prefix, e));
    if (t->add_space_prefix) norm_add(t, (struct norm_op){.kind = NORM_PREPEND, .to = STR(LOWER_BLOCK)});
    norm_add(t, (struct norm_op){.kind = NORM_REPLACE, .from = STR(" "), .to = STR(LOWER_BLOCK)});
    TRY(pre_add(t, (struct pre_op){.find = FIND_LITERAL, .behavior = PRE_ISOLATED, .literal = STR("\n"), .run = true}, e));
    TRY(load_tokens(g, t, e));
    TRY(tok_index(t, e));
    TRY(load_merges(g, t, e));
    return load_ids(g, t, true, e);
}

static int load_charsmap(const struct gguf *g, struct tok *t, struct err *e)
{
    int rc;
    const struct gguf_kv *kv = array_of(g, KEY("precompiled_charsmap"), 0, e, &rc);
    struct str blob;
    TRY(rc);
    if (!kv || kv->n == 0) return 0;
    if (!gguf_bytes(kv, &blob)) return fail(e, ERR_FORMAT, KEY("precompiled_charsmap") ": expected an array of bytes");
    TRY(charsmap_open(t, blob, e));
    norm_add(t, (struct norm_op){.kind = NORM_CHARSMAP});
    return 0;
}

/* "t5": a Unigram vocabulary of SentencePiece. */
static int setup_unigram(const struct gguf *g, struct tok *t, struct err *e)
{
    bool merge = false;
    t->model = MODEL_UNIGRAM;
    t->show = SHOW_SPACED;
    t->show_mark = STR(LOWER_BLOCK);
    TRY(get_flag(g, KEY("add_space_prefix"), &t->add_space_prefix, e));
    TRY(get_flag(g, KEY("remove_extra_whitespaces"), &merge, e));
    t->strip_space = t->add_space_prefix || merge;
    TRY(load_charsmap(g, t, e));
    const unsigned spaces = (t->add_space_prefix ? SPACES_PREFIX : 0u) | (merge ? SPACES_MERGE : 0u);
    norm_add(t, (struct norm_op){.kind = NORM_SPACES, .form = spaces});
    TRY(load_tokens(g, t, e));
    TRY(load_scores(g, t, e));
    TRY(tok_index(t, e));
    TRY(unigram_index(t, e));
    if (t->n > 2) {
        t->pad = 0;
        t->eos = 1;
        t->unk = 2;
    }
    return load_ids(g, t, false, e);
}

static int load(const struct gguf *g, struct tok *t, struct err *e)
{
    static const struct {
        const char *model;
        int (*setup)(const struct gguf *g, struct tok *t, struct err *e);
    } rows[] = {
        {"gpt2", setup_bpe}, {"llama", setup_spm}, {"bert", setup_pieces}, {"t5", setup_unigram}, {"gemma4", setup_chars}};
    int (*setup)(const struct gguf *g, struct tok *t, struct err *e) = NULL;
    struct str model, chat = {0};
    if (!gguf_get_str(g, KEY("model"), &model)) return fail(e, ERR_FORMAT, KEY("model") " is missing");
    for (size_t i = 0; i < COUNT_OF(rows) && !setup; i++)
        if (str_is(model, rows[i].model)) setup = rows[i].setup;
    if (!setup)
        return fail(e, ERR_UNSUPPORTED,
                    KEY("model") ": '%.*s' is not supported; supported are gpt2, llama, bert, t5 and gemma4", STR_ARG(model));
    TRY(setup(g, t, e));
    TRY(load_added(t, e));
    gguf_get_str(g, "tokenizer.chat_template", &chat);
    TRY(tok_dup(t, chat, &t->chat_template, e));
    return tok_finish(t, e);
}

int tok_open_gguf(const struct gguf *g, struct tok **out, struct err *e)
{
    struct tok *t = NULL;
    *out = NULL;
    TRY(tok_new(&t, e));
    int rc = load(g, t, e);
    if (rc < 0) {
        tok_close(&t);
        return rc;
    }
    *out = t;
    return 0;
}
