/* Tokenizers: the vocabulary with its lookups, and what others ask of it. tok_hf.c and tok_gguf.c build a struct tok with the
 * functions of the first half, in the order in which they stand; after tok_finish nothing changes any more, and every thread
 * may use it. */
#include "text/text_int.h"

int ids_put(struct ids *v, int32_t id)
{
    if (v->n == v->cap) {
        size_t cap = v->cap ? v->cap + v->cap / 2 : 64, bytes;
        int32_t *p = size_mul(cap, sizeof *p, &bytes) ? mem_realloc(v->p, bytes) : NULL;
        if (!p) return ERR_NOMEM;
        v->p = p;
        v->cap = cap;
    }
    v->p[v->n++] = id;
    return 0;
}

void ids_fini(struct ids *v)
{
    mem_free(v->p);
    *v = (struct ids){0};
}

/* ---- building --------------------------------------------------------------------------------------------- */

int tok_new(struct tok **out, struct err *e)
{
    struct tok *t = mem_zalloc(sizeof *t);
    if (!t) return fail_nomem(e, "tokenizer", sizeof *t);
    t->seed = str_hash(STR("vocabulary"));
    t->bos = t->eos = t->unk = t->pad = -1;
    for (size_t i = 0; i < 256; i++) t->byte_id[i] = -1;
    *out = t;
    return 0;
}

void tok_close(struct tok **tp)
{
    struct tok *t = *tp;
    if (!t) return;
    pre_fini(t);
    norm_fini(t);
    trie_fini(&t->trie);
    mem_free(t->ents);
    mem_free(t->types);
    mem_free(t->word_use);
    mem_free(t->scores);
    mem_free(t->text);
    mem_free(t->slots);
    mem_free(t->merges);
    mem_free(t->pair_slots);
    arena_fini(&t->arena);
    mem_free(t);
    *tp = NULL;
}

int tok_dup(struct tok *t, struct str s, struct str *out, struct err *e)
{
    *out = (struct str){0};
    if (s.n == 0) return 0;
    char *p = arena_dup(&t->arena, s.p, s.n);
    if (!p) return fail_nomem(e, "tokenizer", s.n);
    *out = (struct str){p, s.n};
    return 0;
}

int tok_reserve(struct tok *t, size_t n, size_t text_bytes, struct err *e)
{
    if (n == 0 || n > INT32_MAX / 2 || text_bytes > UINT32_MAX / 2)
        return fail(e, ERR_LIMIT, "a vocabulary of %zu entries and %zu bytes is not supported", n, text_bytes);
    t->ents = mem_array(n, sizeof *t->ents);
    t->types = mem_array(n, sizeof *t->types);
    t->word_use = mem_array(n, sizeof *t->word_use);
    t->text = mem_alloc(text_bytes);
    if (!t->ents || !t->types || !t->word_use || !t->text) return fail_nomem(e, "vocabulary", text_bytes);
    t->n = n;
    t->text_cap = text_bytes;
    for (size_t i = 0; i < n; i++) t->types[i] = TYPE_UNUSED;
    return 0;
}

int tok_set(struct tok *t, int32_t id, struct str text, int32_t type, struct err *e)
{
    struct tok_span *s = &t->ents[id];
    t->types[id] = type;
    if (s->n && str_eq(tok_text(t, (size_t)id), text)) return 0;
    if (text.n > t->text_cap - t->text_n) return fail(e, ERR_FORMAT, "the texts of the vocabulary are longer than counted");
    *s = (struct tok_span){(uint32_t)t->text_n, (uint32_t)text.n};
    if (text.n) memcpy(t->text + t->text_n, text.p, text.n);
    t->text_n += text.n;
    return 0;
}

/* A power of two at least half again as large as n. */
static size_t table_size(size_t n)
{
    size_t size = 16;
    while (size - size / 3 < n) size *= 2;
    return size;
}

#define SLOT_HASH 0xFFFFFFFF00000000u

/* Where the text with the hash h is or would be. */
static size_t slot_of(const struct tok *t, uint64_t h, struct str text)
{
    size_t at = (size_t)h & t->slot_mask;
    for (uint64_t slot; (slot = t->slots[at]) != 0; at = (at + 1) & t->slot_mask)
        if ((slot & SLOT_HASH) == (h & SLOT_HASH) && str_eq(tok_text(t, (uint32_t)slot - 1), text)) break;
    return at;
}

int tok_byte_name(struct str s)
{
    static const char hex[] = "0123456789ABCDEFabcdef";
    if (s.n != 6 || memcmp(s.p, "<0x", 3) != 0 || s.p[5] != '>') return -1;
    int v = 0;
    for (size_t i = 3; i < 5; i++) {
        const char *hit = s.p[i] ? strchr(hex, s.p[i]) : NULL;
        if (!hit) return -1;
        int digit = (int)(hit - hex);
        v = v * 16 + (digit < 16 ? digit : digit - 6);
    }
    return v;
}

/* The byte that an entry stands for, else -1. */
static int byte_of(const struct tok *t, size_t id)
{
    struct str s = tok_text(t, id);
    uint32_t cp;
    const bool named = t->types[id] == TYPE_BYTE || (t->byte_fallback && t->word_use[id]); /* an added token may be both */
    if (t->model != MODEL_BYTES) return named ? tok_byte_name(s) : -1;
    return t->word_use[id] && s.n && s.n <= 2 && utf8_decode(s, &cp) == s.n ? char_to_byte(cp) : -1;
}

int tok_index(struct tok *t, struct err *e)
{
    size_t size = table_size(t->n);
    t->slots = mem_array(size, sizeof *t->slots);
    if (!t->slots) return fail_nomem(e, "vocabulary index", size * sizeof *t->slots);
    t->slot_mask = size - 1;
    for (size_t id = 0; id < t->n; id++) {
        struct str s = tok_text(t, id);
        if (s.n == 0) continue;
        const uint64_t h = hash_bytes(t->seed, s.p, s.n);
        t->slots[slot_of(t, h, s)] = (h & SLOT_HASH) | ((uint32_t)id + 1);
        if (t->types[id] == TYPE_NORMAL) t->word_use[id] = WORDS_ALWAYS;
        if (t->word_use[id]) t->max_bytes = size_max(t->max_bytes, s.n);
        int b = byte_of(t, id);
        if (b >= 0) t->byte_id[b] = (int32_t)id;
    }
    return 0;
}

int32_t tok_find(const struct tok *t, struct str entry)
{
    if (entry.n == 0) return -1;
    return (int32_t)(uint32_t)t->slots[slot_of(t, hash_bytes(t->seed, entry.p, entry.n), entry)] - 1;
}

int32_t tok_part(const struct tok *t, const char *p, size_t n, unsigned flags)
{
    const int32_t id = (int32_t)(uint32_t)t->slots[slot_of(t, hash_bytes(t->seed, p, n), (struct str){p, n})] - 1;
    return id >= 0 && tok_in_words(t, id, flags) ? id : -1;
}

/* ---- merges ----------------------------------------------------------------------------------------------- */

int tok_reserve_merges(struct tok *t, size_t n, struct err *e)
{
    if (n > INT32_MAX / 2) return fail(e, ERR_LIMIT, "%zu merges are not supported", n);
    t->merges = mem_array(n ? n : 1, sizeof *t->merges);
    if (!t->merges) return fail_nomem(e, "merges", n * sizeof *t->merges);
    t->merges_cap = n;
    return 0;
}

int tok_add_merge(struct tok *t, struct str left, struct str right, struct buf *scratch, struct err *e)
{
    if (t->n_merges == t->merges_cap) return fail(e, ERR_FORMAT, "merges: more than the %zu counted", t->merges_cap);
    scratch->n = 0;
    const size_t mark = t->word_inside.n && str_starts(right, t->word_inside) ? t->word_inside.n : 0;
    if (buf_str(scratch, left) < 0 || buf_put(scratch, right.p + mark, right.n - mark) < 0)
        return fail_nomem(e, "merge", left.n + right.n);
    struct str parts[3] = {left, right, buf_view(scratch)};
    int32_t id[3];
    for (size_t i = 0; i < 3; i++) {
        id[i] = tok_find(t, parts[i]);
        if (id[i] < 0)
            return fail(e, ERR_FORMAT, "merges[%zu] is '%.*s' + '%.*s': '%.*s' is not in the vocabulary", t->n_merges,
                        STR_ARG(left), STR_ARG(right), STR_ARG(parts[i]));
    }
    t->merges[t->n_merges++] = (struct tok_merge){id[0], id[1], id[2]};
    return 0;
}

int tok_index_merges(struct tok *t, struct err *e)
{
    size_t size = table_size(t->n_merges);
    t->pair_slots = mem_array(size, sizeof *t->pair_slots);
    if (!t->pair_slots) return fail_nomem(e, "index of merges", size * sizeof *t->pair_slots);
    t->pair_mask = size - 1;
    for (size_t rank = 0; rank < t->n_merges; rank++) {
        const struct tok_merge *m = &t->merges[rank];
        size_t at;
        if (bpe_find(t, (uint32_t)m->left, (uint32_t)m->right, &at) == RANK_NONE) t->pair_slots[at] = (uint32_t)rank + 1;
    }
    return 0;
}

/* ---- finishing -------------------------------------------------------------------------------------------- */

bool tok_pair_add(struct tok *t, int32_t id, uint8_t type)
{
    if (t->n_pair == PAIR_MAX) return false;
    t->pair[t->n_pair++] = (struct pair_item){id, type};
    return true;
}

static void set_pair(struct tok *t, const struct pair_item *v, unsigned n)
{
    memcpy(t->pair, v, n * sizeof *v);
    t->n_pair = n;
}

void tok_pair_bert(struct tok *t, int32_t cls, int32_t sep)
{
    set_pair(t, (const struct pair_item[]){{cls, 0}, {PAIR_A, 0}, {sep, 0}, {PAIR_B, 1}, {sep, 1}}, 5);
}

void tok_pair_roberta(struct tok *t, int32_t cls, int32_t sep)
{
    set_pair(t, (const struct pair_item[]){{cls, 0}, {PAIR_A, 0}, {sep, 0}, {sep, 0}, {PAIR_B, 0}, {sep, 0}}, 6);
}

/* Where no template says how two texts go together: as BERT or RoBERTa have it, if both ends of a text are marked; else one
 * behind the other. */
static void default_pair(struct tok *t)
{
    if (t->n_pair) return;
    const bool ends = t->n_prefix && t->n_suffix;
    if (ends && t->model == MODEL_PIECES) {
        tok_pair_bert(t, t->prefix[0], t->suffix[0]);
    } else if (ends) {
        tok_pair_roberta(t, t->prefix[0], t->suffix[0]);
    } else {
        for (unsigned i = 0; i < t->n_prefix; i++) tok_pair_add(t, t->prefix[i], 0);
        tok_pair_add(t, PAIR_A, 0);
        tok_pair_add(t, PAIR_B, 1);
        for (unsigned i = 0; i < t->n_suffix; i++) tok_pair_add(t, t->suffix[i], 1);
    }
}

bool tok_edge_add(int32_t *v, unsigned *n, unsigned at, int32_t id)
{
    if (*n == EDGE_MAX) return false;
    for (unsigned i = (*n)++; i > at; i--) v[i] = v[i - 1];
    v[at] = id;
    return true;
}

static void add_stop(struct tok *t, int32_t id)
{
    if (!tok_id_ok(t, id) || t->n_stops == STOPS_MAX) return;
    for (size_t i = 0; i < t->n_stops; i++)
        if (t->stops[i] == id) return;
    t->stops[t->n_stops++] = id;
}

void tok_add_stop(struct tok *t, int64_t id)
{
    if (tok_id_ok(t, id)) add_stop(t, (int32_t)id);
}

static bool is_added_type(int32_t type)
{
    return type == TYPE_CONTROL || type == TYPE_USER;
}

/* Whether every join stays between two boundaries "not U+2581, U+2581": no entry has one inside, and U+2581 is an entry (so it
 * never becomes part of a fused unknown). Then words can be merged one by one. */
static bool cuts_at_spaces(const struct tok *t)
{
    if (tok_part(t, LOWER_BLOCK, 3, 0) < 0) return false;
    for (size_t id = 0; id < t->n; id++) {
        struct str s = tok_text(t, id);
        if (t->types[id] != TYPE_NORMAL && t->types[id] != TYPE_USER) continue;
        for (size_t i = 1; i + 3 <= s.n; i++)
            if (memcmp(s.p + i, LOWER_BLOCK, 3) == 0 && !(i >= 3 && memcmp(s.p + i - 3, LOWER_BLOCK, 3) == 0)) return false;
    }
    return true;
}

int tok_finish(struct tok *t, struct err *e)
{
    /* Ends of a turn or of the text, by the names that published models give them. */
    static const char *const stop_names[] = {"<|eot_id|>",    "<|im_end|>", "<|end_of_text|>", "<|endoftext|>", "</s>",
                                             "<end_of_turn>", "<|end|>",    "<|eom_id|>",      "<|return|>",    "<|call|>"};
    add_stop(t, t->eos);
    for (size_t i = 0; i < COUNT_OF(stop_names); i++) {
        int32_t id = tok_find(t, str_of(stop_names[i]));
        if (id >= 0 && is_added_type(t->types[id])) add_stop(t, id);
    }
    default_pair(t);
    for (unsigned i = 0; i < t->n_pre; i++)
        if (t->pre[i].rewrite) t->watched = i;
    if (t->model == MODEL_BYTES || t->model == MODEL_PIECES || t->model == MODEL_WORDS || t->n_pre == PRE_MAX) return 0;
    const struct pre_op *last = t->n_pre ? &t->pre[t->n_pre - 1] : NULL;
    if (last && last->behavior == PRE_WITH_NEXT && str_is(last->literal, LOWER_BLOCK)) return 0;
    if (t->word_end.n || t->word_inside.n || t->ignore_merges) return 0;
    if (t->drop_unknown && !t->byte_fallback) return 0; /* what is left out parts nothing */
    if (!cuts_at_spaces(t)) return 0;
    return pre_add(
        t, (struct pre_op){.find = FIND_LITERAL, .behavior = PRE_WITH_NEXT, .literal = STR(LOWER_BLOCK), .run = true}, e);
}

/* ---- what is asked of a tokenizer ------------------------------------------------------------------------- */

size_t tok_n_vocab(const struct tok *t)
{
    return t->n;
}

struct str tok_entry(const struct tok *t, int32_t id)
{
    return tok_id_ok(t, id) ? tok_text(t, (size_t)id) : (struct str){0};
}

bool tok_is_special(const struct tok *t, int32_t id)
{
    return tok_id_ok(t, id) && (t->types[id] == TYPE_CONTROL || t->types[id] == TYPE_UNKNOWN);
}

int32_t tok_bos(const struct tok *t)
{
    return t->bos;
}

int32_t tok_eos(const struct tok *t)
{
    return t->eos;
}

bool tok_edge_has(const int32_t *v, unsigned n, int32_t id)
{
    for (unsigned i = 0; i < n; i++)
        if (v[i] == id) return true;
    return false;
}

bool tok_adds_bos(const struct tok *t)
{
    return tok_edge_has(t->prefix, t->n_prefix, t->bos);
}

const int32_t *tok_stops(const struct tok *t, size_t *n)
{
    *n = t->n_stops;
    return t->stops;
}

const char *tok_kind(const struct tok *t)
{
    static const char *const names[] = {[MODEL_BYTES] = "bpe",  [MODEL_CHARS] = "spm",       [MODEL_PIECES] = "wordpiece",
                                        [MODEL_SCORES] = "spm", [MODEL_UNIGRAM] = "unigram", [MODEL_WORDS] = "wordlevel"};
    return names[t->model];
}

const char *tok_pre(const struct tok *t)
{
    if (t->pre_name) return t->pre_name;
    return t->model == MODEL_BYTES ? "custom" : "default";
}

struct str tok_chat_template(const struct tok *t)
{
    return t->chat_template;
}
