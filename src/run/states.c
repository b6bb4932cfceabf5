/* states: the recurrent states of one sequence. Attention's cache can be cut anywhere; what a recurrent layer has taken in
 * cannot be taken back. So a few states at earlier points of the sequence are kept: an evaluation writes to another slot than
 * the one it reads, which costs nothing and leaves the old state whole, should it fail. */
#include "run/run.h"

#define NONE STATE_SLOTS

int states_init(struct states *s, size_t floats, struct err *e)
{
    size_t bytes = 0;
    *s = (struct states){.floats = floats, .base = NONE, .work = NONE, .middle = NONE};
    if (floats == 0) return 0;
    if (!size_mul(floats, STATE_SLOTS * sizeof *s->memory, &bytes) || !(s->memory = mem_pages(bytes)))
        return fail(e, ERR_NOMEM, "no memory for recurrent states: %zu MiB", bytes >> 20);
    s->bytes = bytes;
    return 0;
}

void states_fini(struct states *s)
{
    if (s->memory) mem_pages_free(s->memory, s->bytes);
    *s = (struct states){0};
}

static float *memory_of(const struct states *s, uint32_t slot)
{
    return slot == NONE ? NULL : s->memory + slot * s->floats;
}

uint32_t states_cut(struct states *s, uint32_t n)
{
    if (s->floats == 0) return n;
    s->base = NONE;
    for (uint32_t i = 0; i < STATE_SLOTS; i++) {
        struct state_slot *slot = &s->slots[i];
        if (slot->n > n) *slot = (struct state_slot){0};
        if (slot->n && (s->base == NONE || slot->n > s->slots[s->base].n)) s->base = i;
    }
    return s->base == NONE ? 0 : s->slots[s->base].n;
}

/* A slot to write: an empty one, else one of no further use, else the one that has been kept longest. */
static uint32_t spare(const struct states *s)
{
    uint32_t best = NONE;
    for (uint32_t i = 0; i < STATE_SLOTS; i++) {
        if (i == s->base || i == s->work || i == s->middle) continue;
        if (s->slots[i].n == 0) return i;
        if (best == NONE || s->slots[i].kept < s->slots[best].kept) best = i;
    }
    return best;
}

static uint32_t take(struct states *s)
{
    const uint32_t slot = spare(s);
    s->slots[slot] = (struct state_slot){0};
    return slot;
}

struct state_step states_step(struct states *s, uint32_t n_rows, bool last)
{
    if (s->floats == 0) return (struct state_step){0};
    const uint32_t from = s->work == NONE ? s->base : s->work;
    if (s->work == NONE || (last && n_rows == 1)) {
        s->middle = s->work; /* the state without the last row is there already */
        s->work = take(s);
    }
    if (last && n_rows > 1) s->middle = take(s);
    return (struct state_step){.from = memory_of(s, from),
                               .keep = last && n_rows > 1 ? memory_of(s, s->middle) : NULL,
                               .keep_rows = n_rows - 1,
                               .to = memory_of(s, s->work)};
}

void states_done(struct states *s, uint32_t n)
{
    if (s->floats == 0) return;
    if (s->middle != NONE) s->slots[s->middle] = (struct state_slot){n - 1, ++s->clock};
    s->slots[s->work] = (struct state_slot){n, 0};
    s->base = s->work;
    s->work = s->middle = NONE;
}

void states_redone(struct states *s, uint32_t n)
{
    if (s->floats) s->slots[s->base].n = n;
}

void states_undo(struct states *s)
{
    s->work = s->middle = NONE;
}
