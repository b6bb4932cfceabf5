/* gram_vocab: the vocabulary as a tree of bytes, made once for a model. */
#include <stdlib.h>

#include "grammar/grammar_int.h"

/* ---- groups of characters ---------------------------------------------------------------------------------------------- */

const struct char_shape char_shapes[CHAR_SHAPES] = {
    {2, {0xC2, 0x80}, {0xDF, 0xBF}},
    {3, {0xE0, 0xA0, 0x80}, {0xE0, 0xBF, 0xBF}},
    {3, {0xE1, 0x80, 0x80}, {0xEC, 0xBF, 0xBF}},
    {3, {0xED, 0x80, 0x80}, {0xED, 0x9F, 0xBF}},
    {3, {0xEE, 0x80, 0x80}, {0xEF, 0xBF, 0xBF}},
    {4, {0xF0, 0x90, 0x80, 0x80}, {0xF0, 0xBF, 0xBF, 0xBF}},
    {4, {0xF1, 0x80, 0x80, 0x80}, {0xF3, 0xBF, 0xBF, 0xBF}},
    {4, {0xF4, 0x80, 0x80, 0x80}, {0xF4, 0x8F, 0xBF, 0xBF}},
};

enum char_group char_group_of(uint8_t ascii)
{
    static const char singles[] = "\t\n \"#'()*,-./:;<=>[\\]_`|";
    _Static_assert(GROUP_SINGLE + sizeof singles - 1 <= GROUPS_MAX, "groups are bits of 32");
    const char *single = memchr(singles, ascii, sizeof singles - 1);
    if (single) return (enum char_group)(GROUP_SINGLE + (single - singles));
    if (ascii >= 'a' && ascii <= 'z') return GROUP_LOWER;
    if (ascii >= 'A' && ascii <= 'Z') return GROUP_UPPER;
    if (ascii >= '0' && ascii <= '9') return GROUP_DIGIT;
    return ascii < ' ' || ascii == 0x7F ? GROUP_CONTROL : GROUP_OTHER;
}

/* The group of the character at p [n], at least one byte; *length: its bytes, or those before the end. */
static enum char_group read_group(const uint8_t *p, uint32_t n, uint32_t *length)
{
    *length = 1;
    if (*p < 0x80) return char_group_of(*p);
    for (const struct char_shape *s = char_shapes; s < char_shapes + CHAR_SHAPES; s++) {
        uint32_t i = 0;
        while (i < s->n && i < n && s->lo[i] <= p[i] && p[i] <= s->hi[i]) i++;
        if (i < s->n && i < n) continue;
        *length = i;
        return GROUP_BEYOND;
    }
    return GROUP_BROKEN;
}

/* ---- the tree ---------------------------------------------------------------------------------------------------------- */

struct entry {
    const uint8_t *p;
    uint32_t n;
    int32_t id;
};

static int by_bytes(const void *x, const void *y)
{
    const struct entry *a = x, *b = y;
    const int c = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);
    if (c) return c;
    if (a->n != b->n) return a->n < b->n ? -1 : 1;
    return a->id < b->id ? -1 : 1;
}

/* The bytes of all tokens that answers may use, one after the other. */
static int collect(struct vocab *v, const struct tok *t, struct err *e)
{
    struct buf text = {0};
    v->text_at = mem_array((size_t)v->n_ids + 1, sizeof *v->text_at);
    if (!v->text_at) return fail_nomem(e, "the vocabulary", v->n_ids * sizeof *v->text_at);
    for (uint32_t id = 0; id < v->n_ids; id++) {
        const size_t start = text.n;
        v->text_at[id] = (uint32_t)start;
        if (id >= tok_n_vocab(t) || (v->eog[id / 64] >> (id % 64) & 1)) continue;
        const int rc = tok_bytes(t, (int32_t)id, &text, e);
        if (rc < 0 || text.n > UINT32_MAX) {
            buf_fini(&text);
            return rc < 0 ? rc : fail(e, ERR_LIMIT, "the vocabulary has more than 4 GB of text");
        }
        if (text.n - start > TOKEN_BYTES_MAX) text.n = start;
    }
    v->text_at[v->n_ids] = (uint32_t)text.n;
    v->text = (uint8_t *)text.p;
    return 0;
}

/* Tells the nodes on the way to a token what of it lies below them. */
static void note_below(struct vocab *v, const struct entry *x, const uint32_t *open)
{
    uint32_t groups[TOKEN_BYTES_MAX + 1]; /* of what follows the first d bytes */
    groups[x->n] = 0;
    for (uint32_t d = x->n - 1; d > 0; d--) {
        uint32_t length;
        const enum char_group group = read_group(x->p + d, x->n - d, &length);
        groups[d] = (uint32_t)1 << group | groups[d + length];
    }
    for (uint32_t d = 1; d <= x->n; d++) {
        struct vocab_node *node = &v->nodes[open[d - 1]];
        node->groups |= groups[d];
        node->below = (uint8_t)size_max(node->below, x->n - d);
    }
}

/* Appends the nodes of one token behind those of the one before, with which it has `same` bytes in common; open: [depth] the
 * nodes on the way to the last. */
static void add_token(struct vocab *v, const struct entry *x, uint32_t same, uint32_t n_before, uint32_t *open)
{
    for (uint32_t d = same; d < n_before; d++) v->nodes[open[d]].next = v->n_nodes;
    for (uint32_t d = same; d < x->n; d++) {
        open[d] = v->n_nodes;
        v->nodes[v->n_nodes++] = (struct vocab_node){.token = v->n_tokens, .byte = x->p[d], .depth = (uint8_t)(d + 1)};
    }
    note_below(v, x, open);
    v->ids[v->n_tokens++] = x->id;
}

static int make_nodes(struct vocab *v, const struct entry *sorted, uint32_t n, struct err *e)
{
    uint32_t open[TOKEN_BYTES_MAX], n_before = 0;
    size_t most = 1;
    for (int pass = 0; pass < 2; pass++) { /* counts, then makes */
        for (uint32_t i = 0; i < n; i++) {
            uint32_t same = 0;
            const uint32_t limit = i ? (uint32_t)size_min(sorted[i - 1].n, sorted[i].n) : 0;
            while (same < limit && sorted[i - 1].p[same] == sorted[i].p[same]) same++;
            if (pass == 0)
                most += sorted[i].n - same;
            else
                add_token(v, &sorted[i], same, n_before, open);
            n_before = sorted[i].n;
        }
        if (pass == 1) break;
        n_before = 0;
        v->nodes = mem_array(most, sizeof *v->nodes);
        if (!v->nodes) return fail_nomem(e, "the vocabulary", most * sizeof *v->nodes);
    }
    for (uint32_t d = 0; d < n_before; d++) v->nodes[open[d]].next = v->n_nodes;
    v->nodes[v->n_nodes].token = v->n_tokens;
    return 0;
}

static int make(struct vocab *v, const struct tok *t, struct err *e)
{
    TRY(collect(v, t, e));
    struct entry *entries = mem_array(v->n_ids, sizeof *entries);
    v->ids = mem_array(v->n_ids, sizeof *v->ids);
    uint32_t n = 0;
    if (!entries || !v->ids) {
        mem_free(entries);
        return fail_nomem(e, "the vocabulary", v->n_ids * sizeof *entries);
    }
    for (uint32_t id = 0; id < v->n_ids; id++) {
        const uint32_t at = v->text_at[id], size = v->text_at[id + 1] - at;
        if (size) entries[n++] = (struct entry){v->text + at, size, (int32_t)id};
    }
    qsort(entries, n, sizeof *entries, by_bytes);
    const int rc = make_nodes(v, entries, n, e);
    mem_free(entries);
    if (rc < 0) return rc;
    v->space = NONE;
    for (uint32_t i = 0; i < v->n_nodes; i = v->nodes[i].next)
        if (v->nodes[i].byte == ' ') v->space = i;
    return 0;
}

int vocab_new(const struct tok *t, const int32_t *eog, size_t n_eog, uint32_t n_ids, struct vocab **out, struct err *e)
{
    struct vocab *v = mem_zalloc(sizeof *v);
    if (!v) return fail_nomem(e, "the vocabulary", sizeof *v);
    v->n_ids = n_ids;
    v->n_words = n_ids / 64 + (n_ids % 64 != 0);
    v->strip_space = tok_strips_space(t);
    v->eog = mem_array(v->n_words, sizeof *v->eog);
    int rc = v->eog ? 0 : fail_nomem(e, "the vocabulary", v->n_words * sizeof *v->eog);
    for (size_t i = 0; i < n_eog && rc == 0; i++)
        if (eog[i] >= 0 && (uint32_t)eog[i] < n_ids) v->eog[eog[i] / 64] |= (uint64_t)1 << (eog[i] % 64);
    if (rc == 0) rc = make(v, t, e);
    if (rc < 0)
        vocab_free(&v);
    else
        *out = v;
    return rc;
}

void vocab_free(struct vocab **vp)
{
    struct vocab *v = *vp;
    if (!v) return;
    mem_free(v->nodes);
    mem_free(v->ids);
    mem_free(v->text_at);
    mem_free(v->text);
    mem_free(v->eog);
    mem_free(v);
    *vp = NULL;
}
