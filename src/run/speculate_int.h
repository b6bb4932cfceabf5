/* speculate_int: what the files of speculation share; nobody else includes it. */
#ifndef QUERN_SPECULATE_INT_H
#define QUERN_SPECULATE_INT_H

#include "run/run.h"

/* ---- lookup.c ---------------------------------------------------------------------------------------------------------- */

struct lookup {
    const int32_t *tokens; /* [cap] borrowed */
    uint32_t n;            /* of them in the index */
    uint32_t same, at;     /* the longest match with their end, and the position behind it */
    uint32_t *heads, mask; /* the latest edge with a hash */
    struct lookup_state *states;
    struct lookup_edge *edges;
    uint32_t n_states, n_edges, last; /* last: the state of all n tokens */
};
int lookup_init(struct lookup *l, struct arena *a, const int32_t *tokens, uint32_t cap, struct err *e);
void lookup_clear(struct lookup *l);
void lookup_extend(struct lookup *l, uint32_t n); /* the first n tokens are known now */
/* The position behind the longest match with the end of the sequence, of those the latest; *same: its length, 0 where there is
 * none of at least two tokens. Tokens beyond the end may be what follows, where it repeats itself. */
uint32_t lookup_find(const struct lookup *l, uint32_t *same);

/* ---- draft.c ----------------------------------------------------------------------------------------------------------- */

/* What the draft model has read of one sequence. */
struct draft_slot {
    struct kv kv;
    int32_t *tokens; /* [n_ctx] in its cache */
    uint32_t n;
    bool taken;
};

/* A small model that runs beside a large one, for several sequences at once. */
struct drafter {
    struct runner runner;
    struct sampler sampler;
    struct arena arena;
    struct draft_slot *slots;                                 /* [n_slots] */
    uint32_t n_slots, n_ctx, n_batch, n_vocab, n_draft_vocab; /* of the large model; of the draft model */
    const int32_t *map;                                       /* NULL: ids mean the same to both */
    float *logits;                                            /* [n_vocab]; NULL where the draft model's will do */
    int32_t *tokens;                                          /* [n_batch] of a pass */
    struct batch_seq *seqs;                                   /* [n_slots] */
    uint32_t *out;                                            /* [n_slots] */
    double pass_seconds, row_seconds; /* of a pass with few rows; of a row in one with many; 0: not known */
    size_t bytes;
};
/* The next n tokens of a sequence are wanted. */
struct draft_job {
    struct draft_slot *slot;
    int32_t *tokens; /* n_tokens known ones; behind them the guesses go */
    uint32_t n_tokens, n;
    const struct sampling *sampling;
    uint64_t step; /* draws before this one */
};
struct drafter_options {
    uint32_t n_slots, n_ctx, n_batch;
    enum qtype k_type, v_type;
    const char *cpu_level;
    struct backend *beside;
    uint32_t n_vocab;
    const int32_t *map; /* [n_vocab] borrowed, see draft_map_new */
};
int drafter_new(const struct model *m, const struct drafter_options *o, struct drafter **out, struct err *e);
void drafter_free(struct drafter **d);
/* The free slot that knows most of the beginning of tokens [n]; NULL: none is free. */
struct draft_slot *drafter_take(struct drafter *d, const int32_t *tokens, uint32_t n);
void drafter_give(struct draft_slot *s);
/* Reads up to n_batch tokens of what a slot lacks; true where it then lacks no more than a pass takes on. */
bool drafter_read(struct drafter *d, struct draft_slot *s, const int32_t *tokens, uint32_t n);
/* Guesses for all jobs together. A job's n falls where the draft model cannot go on. Returns the number of passes. */
uint32_t drafter_guess(struct drafter *d, struct draft_job *jobs, uint32_t n_jobs);
#define DRAFT_LAG 8 /* tokens that a pass may take on beside the last one */

/* ---- draft_map.c ------------------------------------------------------------------------------------------------------- */

/* *out: [n_vocab] for each token of the large model that of the draft model, or ~ the one that it reads in its place and does
 * not draft; in the arena. NULL where ids mean the same to both. Vocabularies with little in common are an error. */
int draft_map_new(const struct tok *large, uint32_t n_vocab, const struct tok *draft, uint32_t n_draft_vocab, struct arena *a,
                  int32_t **out, struct err *e);

#endif
