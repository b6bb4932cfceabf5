/* A prefix tree over the entries of a vocabulary: finds all entries at one place of a text in one walk.
 *
 * Nodes are numbered level by level, so that the children of a node are neighbours, in the order of their bytes: first[v] is
 * the first child of node v, first[v + 1] the end, label[c] the byte that leads to c, id[c] the entry that ends there. Built
 * once (unigram.c), by sorting the entries one byte further per level: linear in the bytes of the vocabulary. */
#include "text/text_int.h"

/* Entries that the node owns while the tree grows: order[lo..hi), which agree in as many bytes as its depth. */
struct span {
    uint32_t lo, hi;
};

struct builder {
    const struct tok *t;
    struct trie *tree;
    int32_t *order, *tmp; /* entries that belong into the tree */
    size_t n_order;
    struct span *spans; /* of each node */
    size_t n, cap;      /* nodes; room for them */
};

static bool belongs(const struct tok *t, size_t id)
{
    const struct str s = tok_text(t, id);
    return t->word_use[id] && s.n && utf8_valid(s);
}

/* Puts the entries of one node in the order of their byte at depth d, stable. */
static void sort_by_byte(struct builder *b, struct span s, size_t d)
{
    size_t at[257] = {0};
    for (uint32_t i = s.lo; i < s.hi; i++) at[(unsigned char)tok_text(b->t, (size_t)b->order[i]).p[d] + 1]++;
    for (size_t c = 0; c < 256; c++) at[c + 1] += at[c];
    for (uint32_t i = s.lo; i < s.hi; i++) b->tmp[at[(unsigned char)tok_text(b->t, (size_t)b->order[i]).p[d]]++] = b->order[i];
    memcpy(b->order + s.lo, b->tmp, (s.hi - s.lo) * sizeof *b->order);
}

/* Small ranges, which are nearly all, by insertion: clearing and adding up 256 counters would cost more. */
static void insert_by_byte(struct builder *b, struct span s, size_t d)
{
    for (uint32_t i = s.lo + 1; i < s.hi; i++) {
        const int32_t id = b->order[i];
        const unsigned char c = (unsigned char)tok_text(b->t, (size_t)id).p[d];
        uint32_t k = i;
        for (; k > s.lo && (unsigned char)tok_text(b->t, (size_t)b->order[k - 1]).p[d] > c; k--) b->order[k] = b->order[k - 1];
        b->order[k] = id;
    }
}

/* Gives node v, at depth d, its entry and its children. Of equal entries the last id counts. */
static void grow(struct builder *b, size_t v, size_t d)
{
    struct span s = b->spans[v];
    uint32_t ended = s.lo;
    for (uint32_t i = s.lo; i < s.hi; i++) {
        const int32_t id = b->order[i];
        if (tok_text(b->t, (size_t)id).n > d) continue;
        b->tree->id[v] = id > b->tree->id[v] ? id : b->tree->id[v];
        b->order[i] = b->order[ended];
        b->order[ended++] = id;
    }
    s.lo = ended;
    (s.hi - s.lo > 64 ? sort_by_byte : insert_by_byte)(b, s, d);
    b->tree->first[v] = (uint32_t)b->n;
    for (uint32_t i = s.lo; i < s.hi;) {
        const unsigned char c = (unsigned char)tok_text(b->t, (size_t)b->order[i]).p[d];
        const uint32_t lo = i;
        while (i < s.hi && (unsigned char)tok_text(b->t, (size_t)b->order[i]).p[d] == c) i++;
        b->tree->label[b->n] = c;
        b->tree->id[b->n] = -1;
        b->spans[b->n++] = (struct span){lo, i};
    }
}

static int build(struct builder *b, struct err *e)
{
    struct trie *tree = b->tree;
    size_t nodes = 1; /* at most: a node for each byte */
    for (size_t id = 0; id < b->t->n; id++)
        if (belongs(b->t, id)) nodes += b->t->ents[id].n, b->n_order++;
    tree->first = mem_array(nodes + 1, sizeof *tree->first);
    tree->id = mem_array(nodes, sizeof *tree->id);
    tree->label = mem_array(nodes, 1);
    b->spans = mem_array(nodes, sizeof *b->spans);
    b->order = mem_array(b->n_order + 1, sizeof *b->order);
    b->tmp = mem_array(b->n_order + 1, sizeof *b->tmp);
    if (!tree->first || !tree->id || !tree->label || !b->spans || !b->order || !b->tmp)
        return fail_nomem(e, "prefix tree", nodes * sizeof *b->spans);
    b->n_order = 0;
    for (size_t id = 0; id < b->t->n; id++)
        if (belongs(b->t, id)) b->order[b->n_order++] = (int32_t)id;
    tree->id[0] = -1;
    b->spans[0] = (struct span){0, (uint32_t)b->n_order};
    b->n = 1;
    for (size_t v = 0, d = 0, level_end = 1; v < b->n; v++) {
        if (v == level_end) {
            d++;
            level_end = b->n;
        }
        grow(b, v, d);
    }
    tree->first[b->n] = (uint32_t)b->n;
    for (unsigned c = 0; c < 256; c++) tree->root[c] = trie_step(tree, 0, (unsigned char)c);
    return 0;
}

int trie_build(struct tok *t, struct err *e)
{
    struct builder b = {.t = t, .tree = &t->trie};
    const int rc = build(&b, e);
    mem_free(b.spans);
    mem_free(b.order);
    mem_free(b.tmp);
    return rc;
}

void trie_fini(struct trie *tree)
{
    mem_free(tree->first);
    mem_free(tree->id);
    mem_free(tree->label);
}
