/* Tokenizers of Hugging Face folders: tokenizer.json, with the names of the special tokens from tokenizer_config.json and
 * special_tokens_map.json.
 *
 * The vocabulary and the merges, nearly all of the file, go through the pull reader straight into the tables: a first walk
 * notes where they are and counts them, so that each table is allocated once. Only the small parts (normalizer, pre_tokenizer,
 * ...) become a JSON tree. What this program does not do as the file says is an error that names it; "truncation" and "padding"
 * are left to the caller by design, since they change a batch and not the meaning of a text. */
#include "text/text_int.h"

/* What the first walk finds. A cursor stands just behind the bracket that opens its value. */
struct source {
    const char *name;
    struct err *e;
    struct str normalizer, pre_tokenizer, post_processor, decoder; /* n 0: missing or null */
    struct json_cursor vocab, merges, added;
    bool has_vocab, has_merges, has_added;
    bool has_scores; /* the vocabulary is a Unigram one */
    size_t n_vocab, n_merges, n_added;
    size_t text_bytes; /* upper bound of all entries */
    int64_t max_id;
    struct str type, unk_token;  /* raw */
    struct str inside, word_end; /* raw: marks of entries that continue a word, and that end one; p NULL: not given */
    int64_t unk_id, word_chars;  /* Unigram: its unknown token, -1: none; WordPiece: longer words are unknown */
    bool byte_fallback, fuse_unk, ignore_merges;
    struct buf key, text; /* unescaped */
};

static int bad(struct source *s, const char *what)
{
    return fail(s->e, ERR_FORMAT, "%s", what);
}

/* The text of the key or string just read; lives until the next call with the same b. */
static int take(struct source *s, const struct json_cursor *c, struct buf *b, struct str *out)
{
    *out = c->raw;
    if (!c->escaped) return 0;
    b->n = 0;
    if (buf_reserve(b, c->raw.n) < 0) return fail_nomem(s->e, s->name, c->raw.n);
    b->n = json_unescape(c->raw, b->p);
    *out = buf_view(b);
    return 0;
}

static int note_id(struct source *s, const struct json_cursor *c, enum json_event ev, int64_t *id)
{
    if (ev == JSON_EV_ERROR) return s->e ? s->e->code : ERR_FORMAT;
    if (ev != JSON_EV_NUMBER || !str_i64(c->raw, id) || *id < 0 || *id > INT32_MAX / 2)
        return bad(s, "an id is not a whole number of a sensible size");
    if (*id > s->max_id) s->max_id = *id;
    return 0;
}

/* ---- first walk ------------------------------------------------------------------------------------------- */

static int count_vocab(struct source *s, struct json_cursor *c)
{
    enum json_event ev;
    int64_t id;
    s->vocab = *c;
    s->has_vocab = true;
    s->has_scores = false;
    s->n_vocab = 0;
    while ((ev = json_next(c)) == JSON_EV_KEY) {
        s->n_vocab++;
        s->text_bytes += c->raw.n;
        TRY(note_id(s, c, json_next(c), &id));
    }
    return ev == JSON_EV_ERROR ? ERR_FORMAT : 0;
}

/* The rest of [text, score], whose bracket was just read. *text is the cursor at the text, for take. */
static int read_pair(struct source *s, struct json_cursor *c, struct json_cursor *text, double *score)
{
    static const enum json_event shape[] = {JSON_EV_STRING, JSON_EV_NUMBER, JSON_EV_ARRAY_END};
    for (size_t i = 0; i < COUNT_OF(shape); i++) {
        const enum json_event ev = json_next(c);
        if (ev == JSON_EV_ERROR) return ERR_FORMAT;
        if (ev != shape[i] || (i == 1 && !str_f64(c->raw, score)))
            return bad(s, "an entry of model.vocab is no pair of a text and a score");
        if (i == 0) *text = *c;
    }
    return 0;
}

/* A Unigram vocabulary: an array of [text, score], whose places are the ids. */
static int count_pieces(struct source *s, struct json_cursor *c)
{
    enum json_event ev;
    struct json_cursor text;
    double score;
    s->vocab = *c;
    s->has_vocab = s->has_scores = true;
    s->n_vocab = 0;
    while ((ev = json_next(c)) == JSON_EV_ARRAY) {
        TRY(read_pair(s, c, &text, &score));
        s->text_bytes += text.raw.n;
        s->n_vocab++;
    }
    if (ev == JSON_EV_ERROR) return ERR_FORMAT;
    if (ev != JSON_EV_ARRAY_END || s->n_vocab > INT32_MAX / 2) return bad(s, "model.vocab is no list of pairs");
    if ((int64_t)s->n_vocab - 1 > s->max_id) s->max_id = (int64_t)s->n_vocab - 1;
    return 0;
}

static int count_merges(struct source *s, struct json_cursor *c)
{
    enum json_event ev;
    s->merges = *c;
    s->has_merges = true;
    s->n_merges = 0;
    while ((ev = json_next(c)) != JSON_EV_ARRAY_END) {
        if (ev == JSON_EV_ERROR || !json_skip(c, ev)) return ERR_FORMAT;
        s->n_merges++;
    }
    return 0;
}

/* Members of "model" that are not the vocabulary or the merges. */
static int model_member(struct source *s, struct json_cursor *c, struct str key, enum json_event ev)
{
    static const struct {
        const char *name;
        size_t at;
    } flags[] = {{"byte_fallback", offsetof(struct source, byte_fallback)},
                 {"fuse_unk", offsetof(struct source, fuse_unk)},
                 {"ignore_merges", offsetof(struct source, ignore_merges)}};
    const struct {
        const char *name;
        struct str *out;
    } strings[] = {{"type", &s->type},
                   {"unk_token", &s->unk_token},
                   {"continuing_subword_prefix", &s->inside},
                   {"end_of_word_suffix", &s->word_end}};
    for (size_t i = 0; i < COUNT_OF(flags); i++)
        if (str_is(key, flags[i].name) && ev == JSON_EV_BOOL) *(bool *)(void *)((char *)s + flags[i].at) = c->boolean;
    for (size_t i = 0; i < COUNT_OF(strings); i++)
        if (str_is(key, strings[i].name) && ev == JSON_EV_STRING) *strings[i].out = c->raw;
    if (str_is(key, "unk_id") && ev == JSON_EV_NUMBER && !str_i64(c->raw, &s->unk_id)) return bad(s, "model.unk_id is no id");
    if (str_is(key, "max_input_chars_per_word") && ev == JSON_EV_NUMBER && !str_i64(c->raw, &s->word_chars))
        return bad(s, "model.max_input_chars_per_word is no number");
    return json_skip(c, ev) ? 0 : ERR_FORMAT;
}

static int walk_model(struct source *s, struct json_cursor *c)
{
    enum json_event ev;
    while ((ev = json_next(c)) == JSON_EV_KEY) {
        struct str key = c->raw;
        ev = json_next(c);
        if (ev == JSON_EV_ERROR) return ERR_FORMAT;
        if (str_is(key, "vocab") && ev == JSON_EV_OBJECT)
            TRY(count_vocab(s, c));
        else if (str_is(key, "vocab") && ev == JSON_EV_ARRAY)
            TRY(count_pieces(s, c));
        else if (str_is(key, "merges") && ev == JSON_EV_ARRAY)
            TRY(count_merges(s, c));
        else
            TRY(model_member(s, c, key, ev));
    }
    return ev == JSON_EV_ERROR ? ERR_FORMAT : 0;
}

/* One object of added_tokens; *text lives until the next call. */
static int read_added(struct source *s, struct json_cursor *c, struct tok_added *a)
{
    static const struct {
        const char *name;
        size_t at;
    } flags[] = {{"special", offsetof(struct tok_added, special)},
                 {"lstrip", offsetof(struct tok_added, lstrip)},
                 {"rstrip", offsetof(struct tok_added, rstrip)},
                 {"single_word", offsetof(struct tok_added, single_word)},
                 {"normalized", offsetof(struct tok_added, normalized)}};
    enum json_event ev;
    int64_t id = -1;
    *a = (struct tok_added){.id = -1};
    while ((ev = json_next(c)) == JSON_EV_KEY) {
        struct str key = c->raw;
        ev = json_next(c);
        if (ev == JSON_EV_ERROR) return ERR_FORMAT;
        if (str_is(key, "id")) TRY(note_id(s, c, ev, &id));
        if (str_is(key, "content") && ev == JSON_EV_STRING) TRY(take(s, c, &s->text, &a->text));
        for (size_t i = 0; i < COUNT_OF(flags); i++)
            if (str_is(key, flags[i].name) && ev == JSON_EV_BOOL) *(bool *)(void *)((char *)a + flags[i].at) = c->boolean;
        if (!json_skip(c, ev)) return ERR_FORMAT;
    }
    if (ev == JSON_EV_ERROR) return ERR_FORMAT;
    a->id = (int32_t)id;
    return id < 0 || a->text.n == 0 ? bad(s, "an entry of added_tokens has no id or no content") : 0;
}

static int count_added(struct source *s, struct json_cursor *c)
{
    enum json_event ev;
    struct tok_added a;
    s->added = *c;
    s->has_added = true;
    s->n_added = 0;
    while ((ev = json_next(c)) == JSON_EV_OBJECT) {
        TRY(read_added(s, c, &a));
        s->n_added++;
        s->text_bytes += a.text.n;
    }
    if (ev == JSON_EV_ERROR) return ERR_FORMAT;
    return ev == JSON_EV_ARRAY_END ? 0 : bad(s, "added_tokens holds something that is no object");
}

static int walk(struct source *s, struct str text)
{
    const struct {
        const char *name;
        struct str *out;
    } parts[] = {{"normalizer", &s->normalizer},
                 {"pre_tokenizer", &s->pre_tokenizer},
                 {"post_processor", &s->post_processor},
                 {"decoder", &s->decoder}};
    struct json_cursor c;
    enum json_event ev;
    s->max_id = -1;
    json_cursor_init(&c, text, s->name, s->e);
    ev = json_next(&c);
    if (ev == JSON_EV_ERROR) return ERR_FORMAT;
    if (ev != JSON_EV_OBJECT) return bad(s, "expected an object");
    while ((ev = json_next(&c)) == JSON_EV_KEY) {
        struct str key = c.raw;
        ev = json_next(&c);
        if (ev == JSON_EV_ERROR) return ERR_FORMAT;
        if (str_is(key, "model") && ev == JSON_EV_OBJECT) {
            TRY(walk_model(s, &c));
            continue;
        }
        if (str_is(key, "added_tokens") && ev == JSON_EV_ARRAY) {
            TRY(count_added(s, &c));
            continue;
        }
        size_t start = c.pos - 1; /* the bracket, if it is one */
        if (!json_skip(&c, ev)) return ERR_FORMAT;
        for (size_t i = 0; i < COUNT_OF(parts); i++)
            if (str_is(key, parts[i].name))
                *parts[i].out = ev == JSON_EV_OBJECT ? (struct str){text.p + start, c.pos - start} : (struct str){0};
    }
    if (ev == JSON_EV_ERROR || json_next(&c) != JSON_EV_END) return ERR_FORMAT;
    return 0;
}

/* The kind of the model. Old files leave the type of BPE out. */
static int model_kind(struct source *s, enum tok_model *out)
{
    static const struct {
        const char *type;
        enum tok_model model;
        bool merges, scores;
    } rows[] = {{"BPE", MODEL_CHARS, true, false},
                {"WordPiece", MODEL_PIECES, false, false},
                {"Unigram", MODEL_UNIGRAM, false, true},
                {"WordLevel", MODEL_WORDS, false, false}};
    const struct str type = s->type.n ? s->type : s->has_scores ? STR("Unigram") : STR("BPE");
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        if (!str_is(type, rows[i].type)) continue;
        *out = rows[i].model;
        if (s->has_vocab && s->has_scores == rows[i].scores && (s->has_merges || !rows[i].merges)) return 0;
        return fail(s->e, ERR_FORMAT, "model has no vocab or no merges as a %s model has them", rows[i].type);
    }
    return fail(s->e, ERR_UNSUPPORTED,
                "model type '%.*s' is not supported; supported are BPE, WordPiece, WordLevel and Unigram", STR_ARG(type));
}

static struct str text_of(const struct json *j)
{
    return j && j->type == JSON_STRING ? j->s : (struct str){0};
}

/* ---- vocabulary ------------------------------------------------------------------------------------------- */

static int load_pieces(struct source *s, struct tok *t)
{
    struct json_cursor c = s->vocab, at;
    struct str text;
    t->scores = mem_array(t->n, sizeof *t->scores);
    if (!t->scores) return fail_nomem(s->e, "scores", t->n * sizeof *t->scores);
    for (size_t id = 0; id < s->n_vocab; id++) {
        json_next(&c);
        TRY(read_pair(s, &c, &at, &t->scores[id]));
        TRY(take(s, &at, &s->text, &text));
        const bool byte = s->byte_fallback && tok_byte_name(text) >= 0;
        TRY(tok_set(t, (int32_t)id, text, byte ? TYPE_BYTE : TYPE_NORMAL, s->e));
        t->word_use[id] = WORDS_ALWAYS;
    }
    return 0;
}

static int load_vocab(struct source *s, struct tok *t)
{
    struct json_cursor c = s->vocab;
    struct str text;
    int64_t id;
    while (json_next(&c) == JSON_EV_KEY) {
        TRY(take(s, &c, &s->text, &text));
        TRY(note_id(s, &c, json_next(&c), &id));
        bool byte = s->byte_fallback && t->model != MODEL_BYTES && tok_byte_name(text) >= 0;
        TRY(tok_set(t, (int32_t)id, text, byte ? TYPE_BYTE : TYPE_NORMAL, s->e));
        t->word_use[id] = WORDS_ALWAYS;
    }
    return 0;
}

/* The library shows a token that it looks for in the normalized text as it is looked for. */
static int show_normalized(struct source *s, struct tok *t, const struct tok_added *a)
{
    if (str_eq(a->text, tok_text(t, (size_t)a->id))) return 0;
    if (!t->shown) t->shown = arena_array(&t->arena, t->n, sizeof *t->shown);
    if (!t->shown) return fail_nomem(s->e, "added tokens", t->n * sizeof *t->shown);
    t->shown[a->id] = a->text;
    return 0;
}

/* Added tokens that are looked for in the normalized text are normalized themselves. */
static int add_to_set(struct source *s, struct tok *t, struct tok_added *a, struct tok_added *set, size_t *n)
{
    struct buf bufs[2] = {{0}, {0}};
    struct str text = tok_text(t, (size_t)a->id);
    struct regex_run regex = {.text_bytes = text.n};
    int rc = a->normalized ? norm_run(t, text, &regex, bufs, &text, s->e) : 0;
    if (rc == 0) rc = tok_dup(t, text, &a->text, s->e);
    if (rc == 0) rc = show_normalized(s, t, a);
    if (rc == 0) set[(*n)++] = *a;
    regex_run_fini(&regex);
    buf_fini(&bufs[0]);
    buf_fini(&bufs[1]);
    return rc;
}

static int load_added(struct source *s, struct tok *t, struct str unk)
{
    struct json_cursor c = s->added;
    size_t n[2] = {0, 0};
    struct tok_added a, *set[2];
    if (!s->has_added) return 0;
    for (unsigned i = 0; i < 2; i++) {
        set[i] = arena_array(&t->arena, s->n_added ? s->n_added : 1, sizeof *set[i]);
        if (!set[i]) return fail_nomem(s->e, "added tokens", s->n_added * sizeof *set[i]);
    }
    while (json_next(&c) == JSON_EV_OBJECT) {
        TRY(read_added(s, &c, &a));
        const bool is_unk = (unk.n && str_eq(a.text, unk)) || (s->has_scores && a.id == s->unk_id);
        TRY(tok_set(t, a.id, a.text, !a.special ? TYPE_USER : is_unk ? TYPE_UNKNOWN : TYPE_CONTROL, s->e));
        if (a.special && t->word_use[a.id]) t->word_use[a.id] = WORDS_SPECIAL;
        unsigned which = a.normalized ? 1 : 0;
        TRY(add_to_set(s, t, &a, set[which], &n[which]));
    }
    for (unsigned i = 0; i < 2; i++) TRY(tok_set_added(t, i, set[i], n[i], s->e));
    return 0;
}

static int load_merges(struct source *s, struct tok *t)
{
    struct json_cursor c = s->merges;
    struct buf scratch = {0};
    enum json_event ev;
    int rc = tok_reserve_merges(t, s->n_merges, s->e);
    while (rc == 0 && (ev = json_next(&c)) != JSON_EV_ARRAY_END) {
        struct str left, right;
        if (ev == JSON_EV_STRING) {
            rc = take(s, &c, &s->text, &left);
            const char *gap = left.n > 1 ? memchr(left.p + 1, ' ', left.n - 1) : NULL;
            if (rc == 0 && !gap) rc = bad(s, "an entry of merges has no space");
            if (rc < 0) break;
            right = (struct str){gap + 1, left.n - (size_t)(gap - left.p) - 1};
            left.n = (size_t)(gap - left.p);
        } else if (ev == JSON_EV_ARRAY && json_next(&c) == JSON_EV_STRING) {
            rc = take(s, &c, &s->key, &left);
            if (rc == 0 && json_next(&c) != JSON_EV_STRING) rc = bad(s, "an entry of merges is no pair of strings");
            if (rc == 0) rc = take(s, &c, &s->text, &right);
            if (rc == 0 && json_next(&c) != JSON_EV_ARRAY_END) rc = bad(s, "an entry of merges is no pair of strings");
            if (rc < 0) break;
        } else {
            rc = bad(s, "an entry of merges is neither a string nor a pair");
            break;
        }
        rc = tok_add_merge(t, left, right, &scratch, s->e);
    }
    buf_fini(&scratch);
    return rc < 0 ? rc : tok_index_merges(t, s->e);
}

/* ---- special tokens --------------------------------------------------------------------------------------- */

/* The id of "bos_token" and the like: text or {"content": text}, in tokenizer_config.json or special_tokens_map.json. */
static int32_t special_id(const struct tok *t, const struct json *config, const struct json *map, const char *key)
{
    const struct json *from[2] = {json_find(config, key), json_find(map, key)};
    for (size_t i = 0; i < 2; i++) {
        struct str s = text_of(from[i]);
        if (s.n == 0) s = text_of(json_find(from[i], "content"));
        int32_t id = tok_find(t, s);
        if (id >= 0) return id;
    }
    return -1;
}

/* add_bos_token and add_eos_token, where they are given, decide over the template. */
static void force_edge(int32_t *v, unsigned *n, bool front, const struct json *want, int32_t id)
{
    if (!want || id < 0 || (want->type != JSON_TRUE && want->type != JSON_FALSE)) return;
    unsigned kept = 0;
    bool had = false;
    for (unsigned i = 0; i < *n; i++) {
        had = had || v[i] == id;
        if (want->type == JSON_TRUE || v[i] != id) v[kept++] = v[i];
    }
    *n = kept;
    if (want->type == JSON_TRUE && !had) tok_edge_add(v, n, front ? 0 : *n, id);
}

static int read_config(struct source *s, struct tok *t, const struct json *config, const struct json *map)
{
    t->bos = special_id(t, config, map, "bos_token");
    t->eos = special_id(t, config, map, "eos_token");
    t->pad = special_id(t, config, map, "pad_token");
    if (t->unk < 0) t->unk = special_id(t, config, map, "unk_token");
    if (t->bos < 0 && t->n_prefix) t->bos = t->prefix[0];
    force_edge(t->prefix, &t->n_prefix, true, json_find(config, "add_bos_token"), t->bos);
    force_edge(t->suffix, &t->n_suffix, false, json_find(config, "add_eos_token"), t->eos);
    const struct json *chat = json_find(config, "chat_template");
    struct str text = text_of(chat);
    for (size_t i = 0; chat && chat->type == JSON_ARRAY && i < chat->n; i++)
        if (str_is(text_of(json_find(&chat->v[i], "name")), "default")) text = text_of(json_find(&chat->v[i], "template"));
    return tok_dup(t, text, &t->chat_template, s->e);
}

/* The unescaped text of a member of model, in t's arena. */
static int keep(struct source *s, struct tok *t, struct str raw, struct str *out)
{
    struct json_cursor c = {.raw = raw, .escaped = true};
    struct str text;
    TRY(take(s, &c, &s->text, &text));
    return tok_dup(t, text, out, s->e);
}

static int load_model(struct source *s, struct tok *t)
{
    TRY(model_kind(s, &t->model));
    TRY(keep(s, t, s->inside, &t->word_inside));
    TRY(keep(s, t, s->word_end, &t->word_end));
    if (t->model == MODEL_PIECES && !s->inside.p) t->word_inside = STR("##");
    if (t->model == MODEL_PIECES) t->word_chars = s->word_chars < 0 ? 0 : (size_t)s->word_chars;
    t->byte_fallback = s->byte_fallback;
    t->fuse_unk = s->fuse_unk;
    t->ignore_merges = s->ignore_merges;
    return 0;
}

static int load(struct source *s, struct tok *t, struct str file, const struct json *config, const struct json *map)
{
    struct str unk;
    TRY(walk(s, file));
    TRY(load_model(s, t));
    if (s->max_id > 0 && (uint64_t)s->max_id >= (uint64_t)(s->n_vocab + s->n_added) * 2 + 1024)
        return fail(s->e, ERR_FORMAT, "id %lld is far beyond the %zu entries", (long long)s->max_id, s->n_vocab + s->n_added);
    TRY(keep(s, t, s->unk_token, &unk));
    t->drop_unknown = unk.n == 0;
    TRY(tok_read_normalizer(t, s->normalizer, s->e));
    TRY(tok_read_pre(t, s->pre_tokenizer, s->e));
    for (unsigned i = 0; i < t->n_norm; i++) t->add_space_prefix = t->add_space_prefix || t->norm[i].kind == NORM_PREPEND;
    TRY(tok_read_decoder(t, s->decoder, s->e));
    TRY(tok_reserve(t, (size_t)(s->max_id + 1), s->text_bytes, s->e));
    TRY(s->has_scores ? load_pieces(s, t) : load_vocab(s, t));
    TRY(load_added(s, t, unk));
    TRY(tok_index(t, s->e));
    t->unk = s->has_scores && tok_id_ok(t, s->unk_id) ? (int32_t)s->unk_id : tok_find(t, unk);
    if (t->model == MODEL_WORDS && t->unk < 0)
        return fail(s->e, ERR_UNSUPPORTED, "a WordLevel model whose unk_token is not in its vocabulary is not supported");
    if (s->has_merges) TRY(load_merges(s, t));
    if (s->has_scores) TRY(unigram_index(t, s->e));
    TRY(tok_read_post(t, s->post_processor, s->e));
    TRY(read_config(s, t, config, map));
    if (t->model == MODEL_BYTES) t->pre_name = pre_name_of(t);
    return tok_finish(t, s->e);
}

int tok_open_hf(struct str tokenizer, const struct json *config, const struct json *special_tokens, const char *name,
                struct tok **out, struct err *e)
{
    struct err own;
    struct source s = {.name = name, .e = e ? e : &own, .unk_id = -1, .word_chars = 100};
    struct tok *t = NULL;
    *out = NULL;
    TRY(tok_new(&t, s.e));
    int rc = load(&s, t, tokenizer, config, special_tokens);
    buf_fini(&s.key);
    buf_fini(&s.text);
    if (rc < 0) {
        tok_close(&t);
        return str_starts(str_of(s.e->msg), str_of(name)) ? rc : fail_prefix(s.e, "%s", name); /* JSON errors have the name */
    }
    *out = t;
    return 0;
}
