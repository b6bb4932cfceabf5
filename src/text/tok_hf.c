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
    size_t n_vocab, n_merges, n_added;
    size_t text_bytes; /* upper bound of all entries */
    int64_t max_id;
    struct str type, unk_token, inside; /* raw; inside: the mark of entries that continue a word */
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
    s->n_vocab = 0;
    while ((ev = json_next(c)) == JSON_EV_KEY) {
        s->n_vocab++;
        s->text_bytes += c->raw.n;
        TRY(note_id(s, c, json_next(c), &id));
    }
    return ev == JSON_EV_ERROR ? ERR_FORMAT : 0;
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
    static const char *const unsupported[] = {"end_of_word_suffix"};
    double zero;
    for (size_t i = 0; i < COUNT_OF(flags); i++)
        if (str_is(key, flags[i].name) && ev == JSON_EV_BOOL) *(bool *)(void *)((char *)s + flags[i].at) = c->boolean;
    if (str_is(key, "type") && ev == JSON_EV_STRING) s->type = c->raw;
    if (str_is(key, "unk_token") && ev == JSON_EV_STRING) s->unk_token = c->raw;
    if (str_is(key, "continuing_subword_prefix") && ev == JSON_EV_STRING) s->inside = c->raw;
    for (size_t i = 0; i < COUNT_OF(unsupported); i++)
        if (str_is(key, unsupported[i]) && ev == JSON_EV_STRING && c->raw.n)
            return fail(s->e, ERR_UNSUPPORTED, "model.%s is not supported", unsupported[i]);
    if (str_is(key, "dropout") && ev == JSON_EV_NUMBER && !(str_f64(c->raw, &zero) && zero == 0))
        return fail(s->e, ERR_UNSUPPORTED, "model.dropout is not supported (it makes tokenization random)");
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
    const bool pieces = str_is(s->type, "WordPiece");
    if (s->type.n && !str_is(s->type, "BPE") && !pieces)
        return fail(s->e, ERR_UNSUPPORTED, "model type '%.*s' is not supported; supported are BPE and WordPiece",
                    STR_ARG(s->type));
    if (!s->has_vocab || (!s->has_merges && !pieces)) return bad(s, "model has no vocab or no merges (expected a BPE model)");
    return 0;
}

/* ---- normalizer and pre-tokenizer ------------------------------------------------------------------------- */

/* Strings of the small parts that are put into a text or looked for in it. */
#define PART_BYTES_MAX 256
#define PART_DEPTH_MAX 8

static struct str text_of(const struct json *j)
{
    return j && j->type == JSON_STRING ? j->s : (struct str){0};
}

static bool true_at(const struct json *j, const char *key, bool missing)
{
    bool v = missing;
    return json_opt_bool(j, key, &v) ? v : missing;
}

static int unsupported(struct source *s, const char *part, const struct json *j)
{
    struct str type = text_of(json_find(j, "type"));
    return fail(s->e, ERR_UNSUPPORTED, "%s of type '%.*s' is not supported%s", part, STR_ARG(type),
                type.n ? "" : " (it has no type)");
}

/* The members of a Sequence under any of the names in use; NULL where j is none. */
static const struct json *sequence_of(const struct json *j, const char *members)
{
    const struct json *v = str_is(text_of(json_find(j, "type")), "Sequence") ? json_find(j, members) : NULL;
    return v && v->type == JSON_ARRAY ? v : NULL;
}

static int add_norm(struct source *s, struct tok *t, struct norm_op op)
{
    if (op.from.n > PART_BYTES_MAX || op.to.n > PART_BYTES_MAX)
        return fail(s->e, ERR_UNSUPPORTED, "normalizer: a string of more than %d bytes is not supported", PART_BYTES_MAX);
    TRY(tok_dup(t, op.from, &op.from, s->e));
    TRY(tok_dup(t, op.to, &op.to, s->e));
    if (norm_add(t, op)) return 0;
    return fail(s->e, ERR_UNSUPPORTED, "more than %d normalizers are not supported", NORM_MAX);
}

static int read_normalizer(struct source *s, struct tok *t, const struct json *j, unsigned depth)
{
    const struct json *seq = sequence_of(j, "normalizers");
    struct str type = text_of(json_find(j, "type"));
    if (depth == PART_DEPTH_MAX) return bad(s, "normalizer: nested too deep");
    for (size_t i = 0; seq && i < seq->n; i++) TRY(read_normalizer(s, t, &seq->v[i], depth + 1));
    if (seq) return 0;
    if (str_is(type, "Prepend"))
        return add_norm(s, t, (struct norm_op){.kind = NORM_PREPEND, .to = text_of(json_find(j, "prepend"))});
    if (str_is(type, "Replace")) {
        struct str from = text_of(json_find(json_find(j, "pattern"), "String"));
        if (from.n == 0) return fail(s->e, ERR_UNSUPPORTED, "normalizer Replace: only a pattern that is a String is supported");
        return add_norm(s, t, (struct norm_op){NORM_REPLACE, from, text_of(json_find(j, "content")), 0});
    }
    if (str_is(type, "BertNormalizer")) {
        const bool lower = true_at(j, "lowercase", true);
        const unsigned what = (true_at(j, "clean_text", true) ? BERT_CLEAN : 0u) |
                              (true_at(j, "handle_chinese_chars", true) ? BERT_CHINESE : 0u) |
                              (true_at(j, "strip_accents", lower) ? BERT_ACCENTS : 0u) | (lower ? BERT_LOWER : 0u);
        return add_norm(s, t, (struct norm_op){.kind = NORM_BERT, .form = what});
    }
    return norm_add_unicode(t, type) ? 0 : unsupported(s, "normalizer", j);
}

static int behavior_of(struct source *s, struct str name, bool invert, enum pre_behavior *out)
{
    static const struct {
        const char *name;
        enum pre_behavior plain;
        int inverted; /* -1: not supported */
    } rows[] = {{"Isolated", PRE_ISOLATED, PRE_ISOLATED},
                {"Removed", PRE_REMOVED, PRE_ONLY_MATCHES},
                {"MergedWithPrevious", PRE_WITH_PREVIOUS, -1},
                {"MergedWithNext", PRE_WITH_NEXT, -1},
                {"Contiguous", PRE_CONTIGUOUS, -1}};
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        if (!str_is(name, rows[i].name) || (invert && rows[i].inverted < 0)) continue;
        *out = invert ? (enum pre_behavior)rows[i].inverted : rows[i].plain;
        return 0;
    }
    return fail(s->e, ERR_UNSUPPORTED, "pre_tokenizer Split: behavior '%.*s'%s is not supported", STR_ARG(name),
                invert ? " with invert" : "");
}

static int add_split(struct source *s, struct tok *t, const struct json *j)
{
    const struct json *pattern = json_find(j, "pattern");
    struct str regex = text_of(json_find(pattern, "Regex")), literal = text_of(json_find(pattern, "String"));
    enum pre_behavior behavior;
    TRY(behavior_of(s, text_of(json_find(j, "behavior")), true_at(j, "invert", false), &behavior));
    if (regex.n) return pre_add_regex(t, regex, behavior, s->e);
    if (literal.n == 0) return bad(s, "pre_tokenizer Split has no pattern");
    return pre_add(t, (struct pre_op){.find = FIND_LITERAL, .behavior = behavior, .literal = literal}, s->e);
}

static int add_byte_level(struct source *s, struct tok *t, const struct json *j)
{
    t->model = MODEL_BYTES;
    if (true_at(j, "add_prefix_space", true)) {
        t->add_space_prefix = true;
        TRY(pre_add(t, (struct pre_op){.rewrite = true, .prefix = STR(" ")}, s->e));
    }
    return true_at(j, "use_regex", true) ? pre_add_regex(t, pre_gpt2_regex(), PRE_ISOLATED, s->e) : 0;
}

static int add_digits(struct source *s, struct tok *t, const struct json *j)
{
    return pre_add_regex(t, true_at(j, "individual_digits", false) ? STR("\\p{N}") : STR("\\p{N}+"), PRE_ISOLATED, s->e);
}

static int add_punctuation(struct source *s, struct tok *t, const struct json *j)
{
    struct pre_op op = {.find = FIND_CLASS, .cls = CLASS_PUNCT};
    struct str behavior = text_of(json_find(j, "behavior"));
    TRY(behavior_of(s, behavior.n ? behavior : STR("Isolated"), false, &op.behavior));
    return pre_add(t, op, s->e);
}

static int add_whitespace(struct source *s, struct tok *t, const struct json *j)
{
    (void)j;
    return pre_add_regex(t, STR("\\w+|[^\\w\\s]+"), PRE_ONLY_MATCHES, s->e);
}

static int add_whitespace_split(struct source *s, struct tok *t, const struct json *j)
{
    (void)j;
    return pre_add(t, (struct pre_op){.find = FIND_CLASS, .behavior = PRE_REMOVED, .cls = CLASS_SPACE, .run = true}, s->e);
}

/* Spaces become the replacement, one is put in front, and each begins a piece. */
static int add_metaspace(struct source *s, struct tok *t, const struct json *j)
{
    struct str to = text_of(json_find(j, "replacement")), scheme = text_of(json_find(j, "prepend_scheme"));
    if (to.n == 0 || to.n > 4) return bad(s, "pre_tokenizer Metaspace: the replacement is not one character");
    if (scheme.n == 0) scheme = true_at(j, "add_prefix_space", true) ? STR("always") : STR("never");
    bool first = str_is(scheme, "first"), never = str_is(scheme, "never");
    if (!first && !never && !str_is(scheme, "always"))
        return fail(s->e, ERR_UNSUPPORTED, "pre_tokenizer Metaspace: prepend_scheme '%.*s' is not supported", STR_ARG(scheme));
    struct pre_op op = {.rewrite = true, .space = to, .prefix = never ? (struct str){0} : to, .first_only = first};
    t->add_space_prefix = !never;
    TRY(pre_add(t, op, s->e));
    if (!true_at(j, "split", true)) return 0;
    return pre_add(t, (struct pre_op){.find = FIND_LITERAL, .behavior = PRE_WITH_NEXT, .literal = to}, s->e);
}

static int add_bert(struct source *s, struct tok *t, const struct json *j)
{
    TRY(add_whitespace_split(s, t, j));
    return pre_add(t, (struct pre_op){.find = FIND_CLASS, .behavior = PRE_ISOLATED, .cls = CLASS_PUNCT}, s->e);
}

static int read_pre(struct source *s, struct tok *t, const struct json *j, unsigned depth)
{
    static const struct {
        const char *type;
        int (*add)(struct source *s, struct tok *t, const struct json *j);
    } rows[] = {{"Split", add_split},           {"ByteLevel", add_byte_level},
                {"Digits", add_digits},         {"Punctuation", add_punctuation},
                {"Whitespace", add_whitespace}, {"WhitespaceSplit", add_whitespace_split},
                {"Metaspace", add_metaspace},   {"BertPreTokenizer", add_bert}};
    const struct json *seq = sequence_of(j, "pretokenizers");
    if (depth == PART_DEPTH_MAX) return bad(s, "pre_tokenizer: nested too deep");
    for (size_t i = 0; seq && i < seq->n; i++) TRY(read_pre(s, t, &seq->v[i], depth + 1));
    if (seq) return 0;
    if (t->model == MODEL_BYTES) return fail(s->e, ERR_UNSUPPORTED, "pre_tokenizer: a stage behind ByteLevel is not supported");
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (str_is(text_of(json_find(j, "type")), rows[i].type)) return rows[i].add(s, t, j);
    return unsupported(s, "pre_tokenizer", j);
}

/* ---- decoder and post-processor --------------------------------------------------------------------------- */

/* The detokenizer knows two ways; the decoder must be one of them. */
static int read_decoder(struct source *s, struct tok *t, const struct json *j, unsigned depth)
{
    const struct json *seq = sequence_of(j, "decoders");
    struct str type = text_of(json_find(j, "type"));
    if (depth == PART_DEPTH_MAX) return bad(s, "decoder: nested too deep");
    for (size_t i = 0; seq && i < seq->n; i++) TRY(read_decoder(s, t, &seq->v[i], depth + 1));
    if (seq || str_is(type, "Fuse")) return 0;
    if (t->model == MODEL_PIECES) return str_is(type, "WordPiece") ? 0 : unsupported(s, "decoder (beside WordPiece)", j);
    if (t->model == MODEL_BYTES) return str_is(type, "ByteLevel") ? 0 : unsupported(s, "decoder (beside ByteLevel)", j);
    if (str_is(type, "ByteFallback")) return 0;
    if (str_is(type, "Replace") && str_is(text_of(json_find(json_find(j, "pattern"), "String")), LOWER_BLOCK) &&
        str_is(text_of(json_find(j, "content")), " "))
        return 0;
    int64_t start = 0, stop = 0;
    if (str_is(type, "Strip") && str_is(text_of(json_find(j, "content")), " ") && json_opt_i64(j, "start", 0, 1, &start) &&
        json_opt_i64(j, "stop", 0, 0, &stop)) {
        t->strip_space = start == 1;
        return 0;
    }
    if (str_is(type, "Metaspace")) {
        struct str scheme = text_of(json_find(j, "prepend_scheme"));
        t->strip_space = scheme.n ? !str_is(scheme, "never") : true_at(j, "add_prefix_space", true);
        return 0;
    }
    return unsupported(s, "decoder", j);
}

static int add_edge(struct source *s, struct tok *t, bool front, const struct json *id)
{
    if (!id || id->type != JSON_INT || !tok_id_ok(t, id->i)) return bad(s, "post_processor: an id is not in the vocabulary");
    unsigned *n = front ? &t->n_prefix : &t->n_suffix;
    if (tok_edge_add(front ? t->prefix : t->suffix, n, *n, (int32_t)id->i)) return 0;
    return fail(s->e, ERR_UNSUPPORTED, "post_processor: more than %d tokens on one side are not supported", EDGE_MAX);
}

/* TemplateProcessing: what stands before and behind "Sequence A" in the template for one text. */
static int read_template(struct source *s, struct tok *t, const struct json *j)
{
    const struct json *single = json_find(j, "single");
    bool front = true;
    for (size_t i = 0; single && single->type == JSON_ARRAY && i < single->n; i++) {
        const struct json *special = json_find(&single->v[i], "SpecialToken");
        if (!special) {
            front = false;
            continue;
        }
        const struct json *ids =
            json_find(json_find_str(json_find(j, "special_tokens"), text_of(json_find(special, "id"))), "ids");
        if (!ids || ids->type != JSON_ARRAY) return bad(s, "post_processor: the template names a token without ids");
        for (size_t k = 0; k < ids->n; k++) TRY(add_edge(s, t, front, &ids->v[k]));
    }
    return 0;
}

static int read_post(struct source *s, struct tok *t, const struct json *j, unsigned depth)
{
    const struct json *seq = sequence_of(j, "processors");
    struct str type = text_of(json_find(j, "type"));
    if (depth == PART_DEPTH_MAX) return bad(s, "post_processor: nested too deep");
    for (size_t i = 0; seq && i < seq->n; i++) TRY(read_post(s, t, &seq->v[i], depth + 1));
    if (seq || str_is(type, "ByteLevel")) return 0; /* ByteLevel changes offsets only */
    if (str_is(type, "TemplateProcessing")) return read_template(s, t, j);
    if (!str_is(type, "RobertaProcessing") && !str_is(type, "BertProcessing")) return unsupported(s, "post_processor", j);
    const struct json *cls = json_find(j, "cls"), *sep = json_find(j, "sep"); /* each ["text", id] */
    TRY(add_edge(s, t, true, cls && cls->type == JSON_ARRAY && cls->n == 2 ? &cls->v[1] : NULL));
    return add_edge(s, t, false, sep && sep->type == JSON_ARRAY && sep->n == 2 ? &sep->v[1] : NULL);
}

#define PART_TEXT_MAX ((size_t)1 << 20)
#define PART_TREE_MAX ((size_t)16 << 20)

static int read_part(struct source *s, struct tok *t, struct str part, const char *name,
                     int (*read)(struct source *s, struct tok *t, const struct json *j, unsigned depth))
{
    if (part.n == 0) return 0;
    if (part.n > PART_TEXT_MAX)
        return fail(s->e, ERR_UNSUPPORTED, "%s has %zu bytes, supported are at most %zu", name, part.n, PART_TEXT_MAX);
    struct arena a = {.limit = PART_TREE_MAX};
    struct json *j;
    int rc = json_parse(&a, part, name, &j, s->e);
    if (rc == 0) rc = read(s, t, j, 0);
    arena_fini(&a);
    return rc;
}

/* ---- vocabulary ------------------------------------------------------------------------------------------- */

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
    }
    return 0;
}

/* Added tokens that are looked for in the normalized text are normalized themselves. */
static int add_to_set(struct source *s, struct tok *t, struct tok_added *a, struct tok_added *set, size_t *n)
{
    struct buf bufs[2] = {{0}, {0}};
    struct str text = tok_text(t, (size_t)a->id);
    int rc = a->normalized ? norm_run(t, text, bufs, &text, s->e) : 0;
    if (rc == 0) rc = tok_dup(t, text, &a->text, s->e);
    if (rc == 0) set[(*n)++] = *a;
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
        bool is_unk = unk.n && str_eq(a.text, unk);
        TRY(tok_set(t, a.id, a.text, is_unk ? TYPE_UNKNOWN : a.special ? TYPE_CONTROL : TYPE_USER, s->e));
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

static int load(struct source *s, struct tok *t, struct str file, const struct json *config, const struct json *map)
{
    struct str unk;
    TRY(walk(s, file));
    struct json_cursor at = {.raw = s->unk_token, .escaped = true};
    if ((uint64_t)s->max_id >= (uint64_t)(s->n_vocab + s->n_added) * 2 + 1024)
        return fail(s->e, ERR_FORMAT, "id %lld is far beyond the %zu entries", (long long)s->max_id, s->n_vocab + s->n_added);
    t->model = MODEL_CHARS;
    if (str_is(s->type, "WordPiece")) {
        struct json_cursor mark = {.raw = s->inside, .escaped = true};
        t->model = MODEL_PIECES;
        TRY(take(s, &mark, &s->text, &t->piece_inside));
        TRY(tok_dup(t, t->piece_inside.n ? t->piece_inside : STR("##"), &t->piece_inside, s->e));
    } else if (s->inside.n) {
        return fail(s->e, ERR_UNSUPPORTED, "model.continuing_subword_prefix is not supported");
    }
    t->byte_fallback = s->byte_fallback;
    t->fuse_unk = s->fuse_unk;
    t->ignore_merges = s->ignore_merges;
    TRY(read_part(s, t, s->normalizer, "normalizer", read_normalizer));
    TRY(read_part(s, t, s->pre_tokenizer, "pre_tokenizer", read_pre));
    for (unsigned i = 0; i < t->n_norm; i++) t->add_space_prefix = t->add_space_prefix || t->norm[i].kind == NORM_PREPEND;
    if (t->model != MODEL_BYTES && s->decoder.n == 0)
        return fail(s->e, ERR_UNSUPPORTED, "no decoder: how its tokens become text is not said");
    TRY(read_part(s, t, s->decoder, "decoder", read_decoder));
    TRY(tok_reserve(t, (size_t)(s->max_id + 1), s->text_bytes, s->e));
    TRY(load_vocab(s, t));
    TRY(take(s, &at, &s->key, &unk));
    TRY(load_added(s, t, unk));
    TRY(tok_index(t, s->e));
    t->unk = tok_find(t, unk);
    if (s->has_merges) TRY(load_merges(s, t));
    TRY(read_part(s, t, s->post_processor, "post_processor", read_post));
    TRY(read_config(s, t, config, map));
    if (t->model == MODEL_BYTES) t->pre_name = pre_name_of(t);
    return tok_finish(t, s->e);
}

int tok_open_hf(struct str tokenizer, const struct json *config, const struct json *special_tokens, const char *name,
                struct tok **out, struct err *e)
{
    struct err own;
    struct source s = {.name = name, .e = e ? e : &own};
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
