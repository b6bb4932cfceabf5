/* Tokenizers: the vocabulary with its lookups, the tokens that are cut out of the text first, and tok_encode, which drives a
 * text through the stages (see text_int.h). tok_hf.c and tok_gguf.c build a struct tok with the functions of the first half, in
 * the order in which they stand; after tok_finish nothing changes any more, and every thread may use it. */
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
    mem_free(t->ents);
    mem_free(t->types);
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
    t->text = mem_alloc(text_bytes);
    if (!t->ents || !t->types || !t->text) return fail_nomem(e, "vocabulary", text_bytes);
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

/* Where text is or would be. */
static size_t slot_of(const struct tok *t, const char *p, size_t n)
{
    size_t at = (size_t)hash_bytes(t->seed, p, n) & t->slot_mask;
    for (uint32_t id1; (id1 = t->slots[at]) != 0; at = (at + 1) & t->slot_mask) {
        const struct tok_span *s = &t->ents[id1 - 1];
        if (s->n == n && memcmp(t->text + s->at, p, n) == 0) break;
    }
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
    if (t->model != MODEL_BYTES) return t->types[id] == TYPE_BYTE ? tok_byte_name(s) : -1;
    return t->types[id] == TYPE_NORMAL && s.n && s.n <= 2 && utf8_decode(s, &cp) == s.n ? char_to_byte(cp) : -1;
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
        t->slots[slot_of(t, s.p, s.n)] = (uint32_t)id + 1;
        if (t->types[id] == TYPE_NORMAL) t->max_bytes = size_max(t->max_bytes, s.n);
        int b = byte_of(t, id);
        if (b >= 0) t->byte_id[b] = (int32_t)id;
    }
    return 0;
}

int32_t tok_find(const struct tok *t, struct str entry)
{
    if (entry.n == 0) return -1;
    return (int32_t)t->slots[slot_of(t, entry.p, entry.n)] - 1;
}

int32_t tok_normal(const struct tok *t, const char *p, size_t n)
{
    int32_t id = (int32_t)t->slots[slot_of(t, p, n)] - 1;
    return id >= 0 && t->types[id] == TYPE_NORMAL ? id : -1;
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
    if (buf_str(scratch, left) < 0 || buf_str(scratch, right) < 0) return fail_nomem(e, "merge", left.n + right.n);
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

/* ---- added tokens ----------------------------------------------------------------------------------------- */

/* Heap sort: in place, n log n whatever the file holds. */
static void sort_added(struct tok_added *v, size_t n)
{
    for (size_t build = n / 2, end = n; end > 1;) {
        if (build > 0) {
            build--;
        } else {
            struct tok_added top = v[0];
            v[0] = v[--end];
            v[end] = top;
        }
        struct tok_added x = v[build];
        size_t at = build;
        for (size_t kid; (kid = 2 * at + 1) < end; at = kid) {
            if (kid + 1 < end && str_cmp(v[kid].text, v[kid + 1].text) < 0) kid++;
            if (str_cmp(x.text, v[kid].text) >= 0) break;
            v[at] = v[kid];
        }
        v[at] = x;
    }
}

int tok_set_added(struct tok *t, unsigned set, struct tok_added *v, size_t n, struct err *e)
{
    struct tok_added_set *s = &t->added[set];
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (v[i].text.n > ADDED_BYTES_MAX)
            return fail(e, ERR_UNSUPPORTED, "added token %d is %zu bytes long, supported are at most %d", (int)v[i].id,
                        v[i].text.n, ADDED_BYTES_MAX);
        if (v[i].text.n) v[kept++] = v[i];
    }
    sort_added(v, kept);
    s->v = v;
    for (size_t i = 0; i < kept; i++)
        if (i + 1 == kept || !str_eq(v[i].text, v[i + 1].text)) v[s->n++] = v[i];
    for (size_t i = 0; i < s->n; i++) s->first[(size_t)(unsigned char)v[i].text.p[0] + 1]++;
    for (size_t b = 0; b < 256; b++) s->first[b + 1] += s->first[b];
    return 0;
}

/* The longest token of the set that s starts with, NULL where there is none: the tokens are sorted, so those that agree
 * with s so far are a range, which each further byte narrows by bisection. */
static const struct tok_added *longest_added(const struct tok_added_set *set, struct str s, unsigned flags)
{
    const struct tok_added *v = set->v, *best = NULL;
    size_t lo = set->first[(unsigned char)s.p[0]], hi = set->first[(size_t)(unsigned char)s.p[0] + 1];
    for (size_t d = 1; lo < hi; d++) {
        if (v[lo].text.n == d) {
            if (!v[lo].special || (flags & TOK_PARSE_SPECIAL)) best = &v[lo];
            lo++;
        }
        if (d == s.n) break;
        unsigned char c = (unsigned char)s.p[d];
        size_t ends[2]; /* first entry with byte d at least c, at least c + 1 */
        for (unsigned k = 0; k < 2; k++) {
            size_t a = lo, b = hi;
            while (a < b) {
                size_t mid = a + (b - a) / 2;
                if ((unsigned)(unsigned char)v[mid].text.p[d] < c + k)
                    a = mid + 1;
                else
                    b = mid;
            }
            ends[k] = a;
        }
        lo = ends[0];
        hi = ends[1];
    }
    return best;
}

/* Start of the character that ends at end > 0; bytes that are no UTF-8 count one by one. */
static size_t char_before(struct str s, size_t end, uint32_t *cp)
{
    for (size_t n = 1; n <= 4 && n <= end; n++)
        if (utf8_decode((struct str){s.p + end - n, n}, cp) == n) return end - n;
    *cp = 0xFFFD;
    return end - 1;
}

static size_t skip_space(struct str s, size_t at)
{
    uint32_t cp;
    for (size_t n; at < s.n && (n = utf8_decode((struct str){s.p + at, s.n - at}, &cp)) != 0; at += n)
        if (uclass_of(cp) != U_SPACE) break;
    return at;
}

static bool touches_word(struct str s, size_t from, size_t to)
{
    uint32_t cp;
    if (from > 0) {
        char_before(s, from, &cp);
        if (uclass_is_word(cp)) return true;
    }
    return to < s.n && utf8_decode((struct str){s.p + to, s.n - to}, &cp) && uclass_is_word(cp);
}

/* A token found in the text: it takes [from, to). */
struct hit {
    size_t from, to;
    int32_t id;
};

/* The first token of the set in s at or after at. */
static bool next_added(const struct tok_added_set *set, struct str s, size_t at, unsigned flags, struct hit *h)
{
    if (set->n == 0) return false;
    for (size_t i = at; i < s.n; i++) {
        unsigned char b = (unsigned char)s.p[i];
        if (set->first[b] == set->first[(size_t)b + 1]) continue;
        const struct tok_added *a = longest_added(set, (struct str){s.p + i, s.n - i}, flags);
        if (!a || (a->single_word && touches_word(s, i, i + a->text.n))) continue;
        *h = (struct hit){i, i + a->text.n, a->id};
        uint32_t cp;
        for (size_t prev; a->lstrip && h->from > at; h->from = prev) {
            prev = char_before(s, h->from, &cp);
            if (prev < at || uclass_of(cp) != U_SPACE) break;
        }
        if (a->rstrip) h->to = skip_space(s, h->to);
        return true;
    }
    return false;
}

/* ---- finishing -------------------------------------------------------------------------------------------- */

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
    if (tok_normal(t, LOWER_BLOCK, 3) < 0) return false;
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
    if (t->model == MODEL_BYTES || t->model == MODEL_PIECES || t->n_pre == PRE_MAX || !cuts_at_spaces(t)) return 0;
    return pre_add(
        t, (struct pre_op){.find = FIND_LITERAL, .behavior = PRE_WITH_NEXT, .literal = STR(LOWER_BLOCK), .run = true}, e);
}

/* ---- encoding --------------------------------------------------------------------------------------------- */

#define TEXT_BYTES_MAX ((size_t)1 << 29)       /* so that offsets in a normalized text fit 32 bits */
#define NORMALIZED_BYTES_MAX ((size_t)1 << 31) /* a normalizer may make a text longer */

static int put_id(struct enc *e, int32_t id)
{
    return ids_put(e->out, id) < 0 ? fail_nomem(e->err, "token ids", e->out->n) : 0;
}

static int encode_words(struct enc *e, struct str piece, bool first, bool resumed)
{
    struct str word;
    int rc;
    pre_start(&e->pre, piece, first, resumed);
    while ((rc = pre_next(&e->pre, &word, e->err)) > 0) TRY(enc_word(e, word));
    return rc;
}

static size_t valid_bytes(struct str s)
{
    size_t i = 0;
    while (i < s.n) {
        uint64_t w;
        if (s.n - i >= 8 && (memcpy(&w, s.p + i, 8), (w & 0x8080808080808080u) == 0)) {
            i += 8;
            continue;
        }
        uint32_t cp;
        size_t n = utf8_decode((struct str){s.p + i, s.n - i}, &cp);
        if (n == 0) break;
        i += n;
    }
    return i;
}

/* Bytes that are no UTF-8 part the piece, and are the ids of their bytes, or U+FFFD where the vocabulary has none. */
static int encode_piece(struct enc *e, struct str piece, bool first)
{
    bool resumed = false;
    while (piece.n) {
        size_t n = valid_bytes(piece);
        if (n) {
            TRY(encode_words(e, (struct str){piece.p, n}, first, resumed));
        } else {
            int32_t id = e->t->byte_id[(unsigned char)piece.p[0]];
            TRY(id >= 0 ? put_id(e, id) : encode_words(e, STR("\xEF\xBF\xBD"), first, resumed));
            n = 1;
        }
        piece.p += n;
        piece.n -= n;
        first = false;
        resumed = true;
    }
    return 0;
}

static int encode_segment(struct enc *e, struct str segment, bool first)
{
    struct str s;
    struct hit h;
    TRY(norm_run(e->t, segment, e->norm, &s, e->err));
    for (size_t at = 0; at < s.n; at = h.to) {
        bool found = next_added(&e->t->added[1], s, at, e->flags, &h);
        size_t end = found ? h.from : s.n;
        if (end > at) TRY(encode_piece(e, (struct str){s.p + at, end - at}, first && at == 0));
        if (!found) break;
        TRY(put_id(e, h.id));
    }
    return 0;
}

static int encode_text(struct enc *e, struct str text)
{
    struct hit h;
    for (size_t at = 0; at < text.n; at = h.to) {
        bool found = next_added(&e->t->added[0], text, at, e->flags, &h);
        size_t end = found ? h.from : text.n;
        if (end > at) TRY(encode_segment(e, (struct str){text.p + at, end - at}, at == 0));
        if (!found) break;
        TRY(put_id(e, h.id));
    }
    return 0;
}

/* The cache pays where words come again: as many lines as a text of this length may fill. */
static int cache_new(struct enc *e, size_t text_bytes)
{
    size_t lines = 64;
    if (text_bytes < 1024) return 0;
    while (lines < text_bytes / 16 && lines < 16384) lines *= 2;
    e->cache = mem_array(lines, sizeof *e->cache);
    if (!e->cache) return fail_nomem(e->err, "cache of words", lines * sizeof *e->cache);
    e->cache_mask = lines - 1;
    return 0;
}

static int encode_all(struct enc *e, struct str text)
{
    const struct tok *t = e->t;
    TRY(pre_run_init(&e->pre, t, text.n, e->err));
    TRY(cache_new(e, text.n));
    for (unsigned i = 0; i < t->n_prefix && (e->flags & TOK_ADD_SPECIAL); i++) TRY(put_id(e, t->prefix[i]));
    TRY(encode_text(e, text));
    for (unsigned i = 0; i < t->n_suffix && (e->flags & TOK_ADD_SPECIAL); i++) TRY(put_id(e, t->suffix[i]));
    return 0;
}

int tok_encode(const struct tok *t, struct str text, unsigned flags, struct ids *out, struct err *e)
{
    size_t before = out->n;
    if (text.n > TEXT_BYTES_MAX)
        return fail(e, ERR_LIMIT, "the text has %zu bytes, the tokenizer takes at most %zu at once", text.n, TEXT_BYTES_MAX);
    struct enc enc = {.t = t, .flags = flags, .out = out, .err = e};
    enc.norm[0].limit = enc.norm[1].limit = NORMALIZED_BYTES_MAX;
    int rc = encode_all(&enc, text);
    if (rc < 0) out->n = before;
    pre_run_fini(&enc.pre);
    for (size_t i = 0; i < COUNT_OF(enc.norm); i++) buf_fini(&enc.norm[i]);
    buf_fini(&enc.word);
    mem_free(enc.syms);
    mem_free(enc.heap);
    mem_free(enc.cache);
    return rc;
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

static bool edge_has(const int32_t *v, unsigned n, int32_t id)
{
    for (unsigned i = 0; i < n; i++)
        if (v[i] == id) return true;
    return false;
}

bool tok_adds_bos(const struct tok *t)
{
    return edge_has(t->prefix, t->n_prefix, t->bos);
}

const int32_t *tok_stops(const struct tok *t, size_t *n)
{
    *n = t->n_stops;
    return t->stops;
}

const char *tok_kind(const struct tok *t)
{
    return t->model == MODEL_BYTES ? "bpe" : t->model == MODEL_PIECES ? "wordpiece" : "spm";
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

/* ---- export ----------------------------------------------------------------------------------------------- */

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

/* Pieces as GGUF marks them: those that begin a word by U+2581, the others by nothing. */
static int export_pieces(const struct tok *t, struct arena *a, struct tok_export *out, struct err *e)
{
    struct str *v = arena_array(a, t->n, sizeof *v);
    if (!v) return fail_nomem(e, "exported vocabulary", t->n * sizeof *v);
    for (size_t id = 0; id < t->n; id++) {
        struct buf b = {0};
        struct str s = out->tokens[id];
        const bool inside = t->piece_inside.n && str_starts(s, t->piece_inside);
        v[id] = s;
        if (t->types[id] != TYPE_NORMAL) continue;
        if (inside) s = (struct str){s.p + t->piece_inside.n, s.n - t->piece_inside.n};
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
    out->scores = t->scores;
    if (t->scores) return 0;
    float *v = arena_array(a, t->n, sizeof *v);
    if (!v) return fail_nomem(e, "exported scores", t->n * sizeof *v);
    for (size_t i = t->n_merges; i-- > 0;) v[t->merges[i].id] = -(float)i;
    for (size_t id = 0; id < t->n; id++)
        if (t->types[id] == TYPE_NORMAL && v[id] == 0.0f && !(t->n_merges && t->merges[0].id == (int32_t)id))
            v[id] = -(float)t->n_merges;
    out->scores = v;
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

int tok_export(const struct tok *t, struct arena *a, struct tok_export *out, struct err *e)
{
    bool bytes = t->model == MODEL_BYTES;
    const bool pieces = t->model == MODEL_PIECES;
    *out = (struct tok_export){.model = bytes    ? "gpt2"
                                        : pieces ? "bert"
                                                 : "llama",
                               .pre = bytes ? t->pre_name : NULL,
                               .n = t->n,
                               .types = t->types,
                               .bos = t->bos,
                               .eos = t->eos,
                               .unk = t->unk,
                               .pad = t->pad,
                               .add_bos = tok_adds_bos(t),
                               .add_eos = edge_has(t->suffix, t->n_suffix, t->eos),
                               .add_space_prefix = t->add_space_prefix};
    if (pieces && t->n_prefix && out->bos < 0) out->bos = t->prefix[0];                      /* [CLS] */
    if (pieces && t->n_suffix && out->eos < 0) out->eos = t->suffix[0], out->add_eos = true; /* [SEP] */
    if (bytes && !t->pre_name)
        return fail(e, ERR_UNSUPPORTED, "GGUF has no name for the pre-tokenizer and normalizer of this tokenizer%s%.*s",
                    t->n_pre ? ": " : "", STR_ARG(t->n_pre ? t->pre[0].regex : (struct str){0}));
    if (!bytes && !pieces && !is_plain_spm(t))
        return fail(e, ERR_UNSUPPORTED, "GGUF cannot express the normalizer or pre-tokenizer of this SentencePiece tokenizer");
    TRY(export_tokens(t, a, out, e));
    if (pieces) return export_pieces(t, a, out, e);
    return bytes ? export_merges(t, a, out, e) : export_scores(t, a, out, e);
}
