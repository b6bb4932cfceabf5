/* Words repeat: their ids are kept for the time of one encoding. Kept are words, and pieces that a stage of the pre-tokenizer
 * gave out and that later stages may cut further, so that frequent words pass all of these stages only once.
 *
 * The table has one line for a hash; a newer word takes the place of an older one. Texts too short to repeat themselves have
 * none. */
#include "text/text_int.h"

#define LINES_MAX 65536 /* 4 MiB */

int cache_new(struct enc *e, size_t text_bytes)
{
    size_t lines = 64;
    if (text_bytes < 1024) return 0;
    while (lines < text_bytes / 16 && lines < LINES_MAX) lines *= 2;
    e->cache = mem_array(lines, sizeof *e->cache);
    if (!e->cache) return fail_nomem(e->err, "cache of words", lines * sizeof *e->cache);
    e->cache_mask = lines - 1;
    return 0;
}

/* The n <= CACHE_KEY_MAX bytes at p, zeros behind. */
static void key_of(const char *p, size_t n, uint64_t key[CACHE_KEY_MAX / 8])
{
    size_t i = 0;
    for (; n >= 8; p += 8, n -= 8) key[i++] = load_u64(p);
    if (n) key[i++] = load_few(p, n);
    while (i < CACHE_KEY_MAX / 8) key[i++] = 0;
}

static struct cache_line *line_of(const struct enc *e, const uint64_t key[CACHE_KEY_MAX / 8], uint8_t tag)
{
    const uint64_t h = hash_mix(key[0] ^ e->t->seed ^ tag, key[1] ^ 0xD6E8FEB86659FD93u);
    return &e->cache[hash_mix(h ^ key[2], 0xA0761D6478BD642Fu) & e->cache_mask];
}

/* The length and the stage; never 0. */
static uint8_t tag_of(unsigned stage, struct str piece)
{
    return (uint8_t)(stage << 5 | piece.n);
}

bool cache_takes(const struct enc *e, unsigned stage, struct str piece)
{
    return e->cache && piece.n && piece.n <= CACHE_KEY_MAX && stage < 8;
}

int cache_find(struct enc *e, unsigned stage, struct str piece)
{
    uint64_t key[CACHE_KEY_MAX / 8];
    const uint8_t tag = tag_of(stage, piece);
    key_of(piece.p, piece.n, key);
    const struct cache_line *line = line_of(e, key, tag);
    if (line->tag != tag || memcmp(line->key, key, sizeof key) != 0) return 0;
    for (unsigned i = 0; i < line->n_ids; i++) TRY(enc_put(e, line->ids[i]));
    return 1;
}

void cache_keep(struct enc *e, unsigned stage, struct str piece, size_t from)
{
    const size_t n = e->out->n - from;
    uint64_t key[CACHE_KEY_MAX / 8];
    if (n > CACHE_IDS_MAX) return;
    key_of(piece.p, piece.n, key);
    struct cache_line *line = line_of(e, key, tag_of(stage, piece));
    memcpy(line->key, key, sizeof key);
    line->tag = tag_of(stage, piece);
    line->n_ids = (uint8_t)n;
    for (size_t i = 0; i < n; i++) line->ids[i] = e->out->p[from + i];
}
