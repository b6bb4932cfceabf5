/* The small parts of a tokenizer.json: normalizer, pre_tokenizer, decoder and post_processor. Each is a tree of typed objects,
 * where "Sequence" holds others; a row of a table reads each type. What is not supported is an error that names it. tok_hf.c is
 * the caller. */
#include "text/text_int.h"

#include <stdio.h>

/* Strings of the small parts that are put into a text or looked for in it. */
#define PART_BYTES_MAX 256
#define PART_DEPTH_MAX 8
#define LENGTH_MAX 65535 /* of pieces of FixedLength: what a pattern can count to */

struct part_row {
    const char *type;
    int (*read)(struct tok *t, const struct json *j, struct err *e);
};
struct part {
    const char *name, *members; /* of the part; of its Sequence: the list's key */
    const struct part_row *rows;
    size_t n_rows;
    bool before_bytes; /* what follows ByteLevel sees characters of the byte alphabet */
};

static struct str text_of(const struct json *j)
{
    return j && j->type == JSON_STRING ? j->s : (struct str){0};
}

static bool true_at(const struct json *j, const char *key, bool missing)
{
    bool v = missing;
    return json_opt_bool(j, key, &v) ? v : missing;
}

/* The byte alphabet becomes visible to stages and models behind ByteLevel. A BPE model behind it needs no such stage: it takes
 * the bytes of words for what they stand for. */
static int write_bytes(struct tok *t, struct err *e)
{
    if (t->model == MODEL_BYTES) t->model = MODEL_CHARS;
    return pre_add(t, (struct pre_op){.rewrite = true, .bytes = true}, e);
}

static int read_part(const struct part *p, struct tok *t, const struct json *j, unsigned depth, struct err *e)
{
    const struct str type = text_of(json_find(j, "type"));
    if (depth == PART_DEPTH_MAX) return fail(e, ERR_FORMAT, "%s: nested too deep", p->name);
    if (str_is(type, "Sequence")) {
        const struct json *seq = json_find(j, p->members);
        if (!seq || seq->type != JSON_ARRAY) return fail(e, ERR_FORMAT, "%s: a Sequence without %s", p->name, p->members);
        for (size_t i = 0; i < seq->n; i++) TRY(read_part(p, t, &seq->v[i], depth + 1, e));
        return 0;
    }
    if (p->before_bytes && t->model == MODEL_BYTES) TRY(write_bytes(t, e));
    for (size_t i = 0; i < p->n_rows; i++)
        if (str_is(type, p->rows[i].type)) return p->rows[i].read(t, j, e) < 0 ? fail_prefix(e, "%s", p->name) : 0;
    return fail(e, ERR_UNSUPPORTED, "%s of type '%.*s' is not supported%s", p->name, STR_ARG(type),
                type.n ? "" : " (it has no type)");
}

#define PART_TEXT_MAX ((size_t)4 << 20) /* a precompiled_charsmap has 320 KB */
#define PART_TREE_MAX ((size_t)16 << 20)

static int parse_part(const struct part *p, struct tok *t, struct str text, struct err *e)
{
    struct arena a = {.limit = PART_TREE_MAX};
    struct json *j;
    if (text.n == 0) return 0;
    if (text.n > PART_TEXT_MAX)
        return fail(e, ERR_UNSUPPORTED, "%s has %zu bytes, supported are at most %zu", p->name, text.n, PART_TEXT_MAX);
    int rc = json_parse(&a, text, p->name, &j, e);
    if (rc == 0) rc = read_part(p, t, j, 0, e);
    arena_fini(&a);
    return rc;
}

/* ---- normalizer ------------------------------------------------------------------------------------------- */

static int add_norm(struct tok *t, struct norm_op op, struct err *e)
{
    if ((op.from.n > PART_BYTES_MAX && op.kind != NORM_REGEX) || op.to.n > PART_BYTES_MAX)
        return fail(e, ERR_UNSUPPORTED, "a string of more than %d bytes is not supported", PART_BYTES_MAX);
    TRY(tok_dup(t, op.from, &op.from, e));
    TRY(tok_dup(t, op.to, &op.to, e));
    if (norm_add(t, op)) return 0;
    return fail(e, ERR_UNSUPPORTED, "more than %d of them are not supported", NORM_MAX);
}

static int norm_prepend(struct tok *t, const struct json *j, struct err *e)
{
    return add_norm(t, (struct norm_op){.kind = NORM_PREPEND, .to = text_of(json_find(j, "prepend"))}, e);
}

static int norm_replace(struct tok *t, const struct json *j, struct err *e)
{
    const struct json *pattern = json_find(j, "pattern");
    struct norm_op op = {
        .kind = NORM_REPLACE, .from = text_of(json_find(pattern, "String")), .to = text_of(json_find(j, "content"))};
    if (op.from.n) return add_norm(t, op, e);
    op.kind = NORM_REGEX;
    op.from = text_of(json_find(pattern, "Regex"));
    if (op.from.n == 0) return fail(e, ERR_FORMAT, "Replace has no pattern");
    TRY(regex_compile(op.from, &op.code, e));
    const int rc = add_norm(t, op, e);
    if (rc < 0) pcre2_code_free(op.code);
    return rc;
}

static int norm_unicode(struct tok *t, const struct json *j, struct err *e)
{
    struct norm_op op = {.kind = NORM_UNICODE};
    uform_of(text_of(json_find(j, "type")), &op.form);
    return add_norm(t, op, e);
}

static int norm_bert(struct tok *t, const struct json *j, struct err *e)
{
    const bool lower = true_at(j, "lowercase", true);
    const unsigned what = (true_at(j, "clean_text", true) ? BERT_CLEAN : 0u) |
                          (true_at(j, "handle_chinese_chars", true) ? BERT_CHINESE : 0u) |
                          (true_at(j, "strip_accents", lower) ? BERT_ACCENTS : 0u) | (lower ? BERT_LOWER : 0u);
    return add_norm(t, (struct norm_op){.kind = NORM_BERT, .form = what}, e);
}

static int norm_strip(struct tok *t, const struct json *j, struct err *e)
{
    const unsigned ends =
        (true_at(j, "strip_left", true) ? STRIP_LEFT : 0u) | (true_at(j, "strip_right", true) ? STRIP_RIGHT : 0u);
    return add_norm(t, (struct norm_op){.kind = NORM_STRIP, .form = ends}, e);
}

/* Base64 with or without padding into out (3 bytes for 4 always suffice); false where it is none. */
static bool unbase64(struct str s, char *out, size_t *n)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t value[256];
    uint32_t bits = 0;
    unsigned n_bits = 0;
    memset(value, 64, sizeof value);
    for (unsigned i = 0; i < 64; i++) value[(unsigned char)alphabet[i]] = (uint8_t)i;
    while (s.n && s.p[s.n - 1] == '=') s.n--;
    *n = 0;
    for (size_t i = 0; i < s.n; i++) {
        const uint8_t v = value[(unsigned char)s.p[i]];
        if (v == 64) return false;
        bits = bits << 6 | v;
        n_bits += 6;
        if (n_bits < 8) continue;
        n_bits -= 8;
        out[(*n)++] = (char)(bits >> n_bits);
    }
    return true;
}

static int norm_precompiled(struct tok *t, const struct json *j, struct err *e)
{
    const struct str text = text_of(json_find(j, "precompiled_charsmap"));
    size_t n;
    if (text.n == 0) return 0;
    if (t->charsmap.blob.n) return fail(e, ERR_UNSUPPORTED, "two of type Precompiled are not supported");
    char *blob = mem_alloc(text.n);
    if (!blob) return fail_nomem(e, "precompiled_charsmap", text.n);
    int rc = unbase64(text, blob, &n) ? charsmap_open(t, (struct str){blob, n}, e)
                                      : fail(e, ERR_FORMAT, "precompiled_charsmap is no base64");
    mem_free(blob);
    return rc < 0 ? rc : add_norm(t, (struct norm_op){.kind = NORM_CHARSMAP, .form = 1}, e);
}

static int norm_lower(struct tok *t, const struct json *j, struct err *e)
{
    (void)j;
    return add_norm(t, (struct norm_op){.kind = NORM_LOWER}, e);
}

static int norm_accents(struct tok *t, const struct json *j, struct err *e)
{
    (void)j;
    return add_norm(t, (struct norm_op){.kind = NORM_ACCENTS}, e);
}

static int norm_nmt(struct tok *t, const struct json *j, struct err *e)
{
    (void)j;
    return add_norm(t, (struct norm_op){.kind = NORM_NMT}, e);
}

static int norm_bytes(struct tok *t, const struct json *j, struct err *e)
{
    (void)j;
    return add_norm(t, (struct norm_op){.kind = NORM_BYTES}, e);
}

int tok_read_normalizer(struct tok *t, struct str text, struct err *e)
{
    static const struct part_row rows[] = {
        {"NFC", norm_unicode},     {"NFD", norm_unicode},          {"NFKC", norm_unicode},    {"NFKD", norm_unicode},
        {"Lowercase", norm_lower}, {"StripAccents", norm_accents}, {"Replace", norm_replace}, {"Prepend", norm_prepend},
        {"Strip", norm_strip},     {"BertNormalizer", norm_bert},  {"Nmt", norm_nmt},         {"Precompiled", norm_precompiled},
        {"ByteLevel", norm_bytes}};
    static const struct part part = {"normalizer", "normalizers", rows, COUNT_OF(rows), false};
    return parse_part(&part, t, text, e);
}

/* ---- pre-tokenizer ---------------------------------------------------------------------------------------- */

/* inverted: the matches are what is between the pattern's. A piece that goes to the match on one side of it then goes to the
 * pattern's match on the other. */
static int behavior_of(struct str name, bool invert, enum pre_behavior *out, struct err *e)
{
    static const struct {
        const char *name;
        enum pre_behavior plain, inverted;
    } rows[] = {{"Isolated", PRE_ISOLATED, PRE_ISOLATED},
                {"Removed", PRE_REMOVED, PRE_ONLY_MATCHES},
                {"MergedWithPrevious", PRE_WITH_PREVIOUS, PRE_WITH_NEXT},
                {"MergedWithNext", PRE_WITH_NEXT, PRE_WITH_PREVIOUS},
                {"Contiguous", PRE_CONTIGUOUS, PRE_CONTIGUOUS}};
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        if (!str_is(name, rows[i].name)) continue;
        *out = invert ? rows[i].inverted : rows[i].plain;
        return 0;
    }
    return fail(e, ERR_UNSUPPORTED, "behavior '%.*s' is not supported", STR_ARG(name));
}

static int pre_split(struct tok *t, const struct json *j, struct err *e)
{
    const struct json *pattern = json_find(j, "pattern");
    struct str regex = text_of(json_find(pattern, "Regex")), literal = text_of(json_find(pattern, "String"));
    enum pre_behavior behavior;
    TRY(behavior_of(text_of(json_find(j, "behavior")), true_at(j, "invert", false), &behavior, e));
    if (regex.n) return pre_add_regex(t, regex, behavior, e);
    if (literal.n == 0) return fail(e, ERR_FORMAT, "Split has no pattern");
    return pre_add(t, (struct pre_op){.find = FIND_LITERAL, .behavior = behavior, .literal = literal}, e);
}

static int pre_byte_level(struct tok *t, const struct json *j, struct err *e)
{
    if (true_at(j, "add_prefix_space", true)) {
        t->add_space_prefix = true;
        TRY(pre_add(t, (struct pre_op){.rewrite = true, .prefix = STR(" ")}, e));
    }
    if (true_at(j, "use_regex", true)) TRY(pre_add_regex(t, STR(RE_GPT2), PRE_ISOLATED, e));
    if (t->model != MODEL_CHARS) return write_bytes(t, e);
    t->model = MODEL_BYTES;
    return 0;
}

static int pre_digits(struct tok *t, const struct json *j, struct err *e)
{
    return pre_add_regex(t, true_at(j, "individual_digits", false) ? STR(RE_NUMBER) : STR(RE_NUMBERS), PRE_ISOLATED, e);
}

static int pre_punctuation(struct tok *t, const struct json *j, struct err *e)
{
    struct pre_op op = {.find = FIND_CLASS, .cls = CLASS_PUNCT};
    struct str behavior = text_of(json_find(j, "behavior"));
    TRY(behavior_of(behavior.n ? behavior : STR("Isolated"), false, &op.behavior, e));
    return pre_add(t, op, e);
}

static int pre_whitespace(struct tok *t, const struct json *j, struct err *e)
{
    (void)j;
    return pre_add(t, (struct pre_op){.find = FIND_WORDS, .behavior = PRE_ONLY_MATCHES}, e);
}

static int pre_whitespace_split(struct tok *t, const struct json *j, struct err *e)
{
    (void)j;
    return pre_add(t, (struct pre_op){.find = FIND_CLASS, .behavior = PRE_REMOVED, .cls = CLASS_SPACE, .run = true}, e);
}

static int pre_bert(struct tok *t, const struct json *j, struct err *e)
{
    TRY(pre_whitespace_split(t, j, e));
    return pre_add(t, (struct pre_op){.find = FIND_CLASS, .behavior = PRE_ISOLATED, .cls = CLASS_PUNCT}, e);
}

/* Characters of no script at the beginning go to no piece. */
static int pre_scripts(struct tok *t, const struct json *j, struct err *e)
{
    (void)j;
    return pre_add(t, (struct pre_op){.find = FIND_SCRIPT, .behavior = PRE_ONLY_MATCHES}, e);
}

static int pre_delimiter(struct tok *t, const struct json *j, struct err *e)
{
    const struct str delimiter = text_of(json_find(j, "delimiter"));
    if (delimiter.n == 0) return fail(e, ERR_FORMAT, "CharDelimiterSplit has no delimiter");
    return pre_add(t, (struct pre_op){.find = FIND_LITERAL, .behavior = PRE_REMOVED, .literal = delimiter}, e);
}

/* Pieces of so many characters, and what is left at the end of each piece of before. */
static int pre_fixed_length(struct tok *t, const struct json *j, struct err *e)
{
    const struct json *length = json_find(j, "length");
    const int64_t n = length ? length->i : 5;
    char regex[32];
    if (n < 1 || n > LENGTH_MAX || (length && length->type != JSON_INT))
        return fail(e, ERR_FORMAT, "FixedLength: \"length\" is not a whole number from 1 to %d", LENGTH_MAX);
    (void)snprintf(regex, sizeof regex, "(?m:.{1,%d})", (int)n);
    return pre_add_regex(t, str_of(regex), PRE_ISOLATED, e);
}

/* Spaces become the replacement, one is put in front, and each begins a piece. */
static int pre_metaspace(struct tok *t, const struct json *j, struct err *e)
{
    struct str to = text_of(json_find(j, "replacement")), scheme = text_of(json_find(j, "prepend_scheme"));
    if (to.n == 0 || to.n > 4) return fail(e, ERR_FORMAT, "Metaspace: the replacement is not one character");
    if (scheme.n == 0) scheme = true_at(j, "add_prefix_space", true) ? STR("always") : STR("never");
    const bool first = str_is(scheme, "first"), never = str_is(scheme, "never");
    if (!first && !never && !str_is(scheme, "always"))
        return fail(e, ERR_UNSUPPORTED, "Metaspace: prepend_scheme '%.*s' is not supported", STR_ARG(scheme));
    t->add_space_prefix = !never;
    TRY(pre_add(t, (struct pre_op){.rewrite = true, .space = to, .prefix = never ? (struct str){0} : to, .first_only = first},
                e));
    if (!true_at(j, "split", true)) return 0;
    return pre_add(t, (struct pre_op){.find = FIND_LITERAL, .behavior = PRE_WITH_NEXT, .literal = to}, e);
}

int tok_read_pre(struct tok *t, struct str text, struct err *e)
{
    static const struct part_row rows[] = {{"Split", pre_split},
                                           {"ByteLevel", pre_byte_level},
                                           {"Digits", pre_digits},
                                           {"Punctuation", pre_punctuation},
                                           {"Whitespace", pre_whitespace},
                                           {"WhitespaceSplit", pre_whitespace_split},
                                           {"Metaspace", pre_metaspace},
                                           {"BertPreTokenizer", pre_bert},
                                           {"UnicodeScripts", pre_scripts},
                                           {"CharDelimiterSplit", pre_delimiter},
                                           {"FixedLength", pre_fixed_length}};
    static const struct part part = {"pre_tokenizer", "pretokenizers", rows, COUNT_OF(rows), true};
    return parse_part(&part, t, text, e);
}

/* ---- decoder ---------------------------------------------------------------------------------------------- */

/* The detokenizer knows some ways to show entries; the decoders of a file must agree on one. */
static int set_show(struct tok *t, enum tok_show show, struct str mark, struct err *e)
{
    if (t->show != SHOW_PLAIN && (t->show != show || !str_eq(t->show_mark, mark)))
        return fail(e, ERR_UNSUPPORTED, "these types together are not supported");
    t->show = show;
    return tok_dup(t, mark, &t->show_mark, e);
}

static int decode_bytes(struct tok *t, const struct json *j, struct err *e)
{
    (void)j;
    return set_show(t, SHOW_BYTES, (struct str){0}, e);
}

static int decode_pieces(struct tok *t, const struct json *j, struct err *e)
{
    const struct json *prefix = json_find(j, "prefix");
    t->show_close = true_at(j, "cleanup", true);
    return set_show(t, SHOW_PIECES, prefix ? text_of(prefix) : STR("##"), e);
}

static int decode_metaspace(struct tok *t, const struct json *j, struct err *e)
{
    const struct str scheme = text_of(json_find(j, "prepend_scheme")), mark = text_of(json_find(j, "replacement"));
    t->strip_space = scheme.n ? !str_is(scheme, "never") : true_at(j, "add_prefix_space", true);
    t->strip_marks = t->strip_space;
    return set_show(t, SHOW_SPACED, mark.n ? mark : STR(LOWER_BLOCK), e);
}

static int decode_suffix(struct tok *t, const struct json *j, struct err *e)
{
    const struct str suffix = text_of(json_find(j, "suffix"));
    return set_show(t, SHOW_SUFFIX, suffix.n ? suffix : STR("</w>"), e);
}

static int decode_replace(struct tok *t, const struct json *j, struct err *e)
{
    const struct str from = text_of(json_find(json_find(j, "pattern"), "String"));
    if (from.n == 0 || from.n > 4 || !str_is(text_of(json_find(j, "content")), " "))
        return fail(e, ERR_UNSUPPORTED, "Replace of anything but one character by a space is not supported");
    return set_show(t, SHOW_SPACED, from, e);
}

static int decode_strip(struct tok *t, const struct json *j, struct err *e)
{
    int64_t start = 0, stop = 0;
    if (!str_is(text_of(json_find(j, "content")), " ") || !json_opt_i64(j, "start", 0, 1, &start) ||
        !json_opt_i64(j, "stop", 0, 0, &stop))
        return fail(e, ERR_UNSUPPORTED, "Strip of anything but one space in front is not supported");
    t->strip_space = start == 1;
    return 0;
}

static int decode_byte_names(struct tok *t, const struct json *j, struct err *e)
{
    (void)j, (void)e;
    t->show_byte_names = false;
    t->show_all_bytes = true;
    return 0;
}

static int decode_nothing(struct tok *t, const struct json *j, struct err *e)
{
    (void)t, (void)j, (void)e;
    return 0;
}

int tok_read_decoder(struct tok *t, struct str text, struct err *e)
{
    static const struct part_row rows[] = {
        {"ByteLevel", decode_bytes},         {"WordPiece", decode_pieces}, {"Metaspace", decode_metaspace},
        {"BPEDecoder", decode_suffix},       {"Replace", decode_replace},  {"Strip", decode_strip},
        {"ByteFallback", decode_byte_names}, {"Fuse", decode_nothing}}; /* this is always done */
    static const struct part part = {"decoder", "decoders", rows, COUNT_OF(rows), false};
    t->show_byte_names = true;
    if (text.n == 0) t->show = t->model == MODEL_BYTES ? SHOW_BYTES : SHOW_JOINED;
    TRY(parse_part(&part, t, text, e));
    if (t->show == SHOW_PLAIN && t->model == MODEL_BYTES) t->show = SHOW_BYTES;
    return 0;
}

/* ---- post-processor --------------------------------------------------------------------------------------- */

static int add_edge(struct tok *t, bool front, int32_t id, struct err *e)
{
    unsigned *n = front ? &t->n_prefix : &t->n_suffix;
    if (tok_edge_add(front ? t->prefix : t->suffix, n, *n, id)) return 0;
    return fail(e, ERR_UNSUPPORTED, "more than %d tokens on one side are not supported", EDGE_MAX);
}

static int add_to_pair(struct tok *t, int32_t id, int64_t type, struct err *e)
{
    if (tok_pair_add(t, id, (uint8_t)type)) return 0;
    return fail(e, ERR_UNSUPPORTED, "a template of more than %d parts is not supported", PAIR_MAX);
}

static int id_of(const struct tok *t, const struct json *id, int32_t *out, struct err *e)
{
    if (!id || id->type != JSON_INT || !tok_id_ok(t, id->i)) return fail(e, ERR_FORMAT, "an id is not in the vocabulary");
    *out = (int32_t)id->i;
    return 0;
}

/* One item of a template: a text, or a special token, which may have several ids. ids: NULL for a text. */
struct item {
    int32_t text; /* PAIR_A or PAIR_B */
    const struct json *ids;
    int64_t type;
};

static int read_item(const struct json *tokens, const struct json *j, struct item *it, struct err *e)
{
    const struct json *special = json_find(j, "SpecialToken"), *text = json_find(j, "Sequence");
    *it = (struct item){.text = str_is(text_of(json_find(text, "id")), "B") ? PAIR_B : PAIR_A};
    if (!json_opt_i64(special ? special : text, "type_id", 0, 1, &it->type))
        return fail(e, ERR_UNSUPPORTED, "a type_id other than 0 and 1 is not supported");
    if (!special) return text ? 0 : fail(e, ERR_FORMAT, "a template holds something that is neither token nor text");
    it->ids = json_find(json_find_str(tokens, text_of(json_find(special, "id"))), "ids");
    if (it->ids && it->ids->type == JSON_ARRAY) return 0;
    return fail(e, ERR_FORMAT, "the template names a token without ids");
}

static int post_template(struct tok *t, const struct json *j, struct err *e)
{
    const struct json *tokens = json_find(j, "special_tokens"), *lists[2] = {json_find(j, "single"), json_find(j, "pair")};
    bool front = true;
    t->n_pair = 0;
    for (unsigned pair = 0; pair < 2; pair++)
        for (size_t i = 0; lists[pair] && lists[pair]->type == JSON_ARRAY && i < lists[pair]->n; i++) {
            struct item it;
            TRY(read_item(tokens, &lists[pair]->v[i], &it, e));
            if (!it.ids) front = false;
            if (!it.ids && pair) TRY(add_to_pair(t, it.text, it.type, e));
            for (size_t k = 0; it.ids && k < it.ids->n; k++) {
                int32_t id;
                TRY(id_of(t, &it.ids->v[k], &id, e));
                TRY(pair ? add_to_pair(t, id, it.type, e) : add_edge(t, front, id, e));
            }
        }
    return 0;
}

/* "cls" and "sep" are each ["text", id]. */
static int post_edges(struct tok *t, const struct json *j, int32_t *cls, int32_t *sep, struct err *e)
{
    const struct json *c = json_find(j, "cls"), *s = json_find(j, "sep");
    TRY(id_of(t, c && c->type == JSON_ARRAY && c->n == 2 ? &c->v[1] : NULL, cls, e));
    TRY(id_of(t, s && s->type == JSON_ARRAY && s->n == 2 ? &s->v[1] : NULL, sep, e));
    TRY(add_edge(t, true, *cls, e));
    return add_edge(t, false, *sep, e);
}

static int post_bert(struct tok *t, const struct json *j, struct err *e)
{
    int32_t cls, sep;
    TRY(post_edges(t, j, &cls, &sep, e));
    tok_pair_bert(t, cls, sep);
    return 0;
}

static int post_roberta(struct tok *t, const struct json *j, struct err *e)
{
    int32_t cls, sep;
    TRY(post_edges(t, j, &cls, &sep, e));
    tok_pair_roberta(t, cls, sep);
    return 0;
}

/* ByteLevel changes offsets only. */
static int post_nothing(struct tok *t, const struct json *j, struct err *e)
{
    (void)t, (void)j, (void)e;
    return 0;
}

int tok_read_post(struct tok *t, struct str text, struct err *e)
{
    static const struct part_row rows[] = {{"TemplateProcessing", post_template},
                                           {"BertProcessing", post_bert},
                                           {"RobertaProcessing", post_roberta},
                                           {"ByteLevel", post_nothing}};
    static const struct part part = {"post_processor", "processors", rows, COUNT_OF(rows), false};
    return parse_part(&part, t, text, e);
}
