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

/* What the draft model has read of one sequence. Recurrent layers cannot take back a wrong guess, so where it has some there
 * are two states: behind tokens that were known, and behind the guesses that it has read since. */
struct draft_slot {
    struct kv kv;
    int32_t *tokens; /* [n_ctx] in its cache */
    uint32_t n, n_known;
    float *known, *guessed; /* states behind n_known tokens and behind n, NULL: none; the latter only where n is larger */
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
    float *states;                                            /* two of each slot; NULL: no recurrent layers */
    size_t state_bytes;
    double pass_seconds, row_seconds; /* of a pass with few rows; of a row in one with many; 0: not known */
    size_t bytes;
};
/* The next n tokens of a sequence are wanted. */
struct draft_job {
    struct draft_slot *slot; /* of a draft model, or */
    struct mtp_slot *head;   /* of the model's own head */
    uint32_t row;            /* of a head: its last row in the pass before */
    int32_t *tokens;         /* n_tokens known ones; behind them the guesses go */
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
/* Only the first n tokens are right: what was read of others is forgotten. */
void drafter_cut(struct draft_slot *s, uint32_t n);
/* Reads up to n_batch tokens of what a slot lacks; true where it then lacks no more than a pass takes on. */
bool drafter_read(struct drafter *d, struct draft_slot *s, const int32_t *tokens, uint32_t n);
/* Guesses for all jobs together. A job's n falls where the draft model cannot go on. Returns the number of passes. */
uint32_t drafter_guess(struct drafter *d, struct draft_job *jobs, uint32_t n_jobs);
#define DRAFT_LAG 8 /* tokens that a pass may take on beside the last one */
/* Takes a measurement into a time: what is lower counts more, for other work on the machine only ever adds to it. */
void draft_keep_time(double *known, double seconds);

/* ---- mtp.c ------------------------------------------------------------------------------------------------------------- */

/* What the head for multi-token prediction knows of one sequence. */
struct mtp_slot {
    struct kv kv;
    int32_t *tokens;          /* [n_ctx] those that it was told of */
    uint32_t known, first, n; /* of them; those before which nothing was read; rows read behind: of tokens first + 1, ... */
    float *waiting;           /* [MTP_LAG][n_embd] what the model left behind tokens first + n .. known - 1 */
    bool taken;
};
#define MTP_LAG 32 /* rows that may wait */

struct mtp {
    struct runner runner; /* of the head */
    struct sampler sampler;
    struct arena arena;
    struct mtp_slot *slots; /* [n_slots] */
    uint32_t n_slots, n_ctx, n_batch;
    size_t n_embd;
    int32_t *tokens;        /* [n_batch] of a pass, */
    float *inputs;          /* [n_batch][n_embd] and what it reads beside them */
    struct batch_seq *seqs; /* [n_slots] */
    uint32_t *out;          /* [n_slots] */
    double pass_seconds;    /* of a pass that guesses; 0: not known */
    double spent;           /* seconds of reading in the present call */
    size_t bytes;
};
struct mtp_options {
    uint32_t n_slots, n_ctx, n_batch;
    enum qtype k_type, v_type;
    const char *cpu_level;
    struct backend *beside;
};
int mtp_new(const struct model *head, const struct mtp_options *o, struct mtp **out, struct err *e);
void mtp_free(struct mtp **h);
/* The free slot that knows most of the beginning of tokens [n]; NULL: none is free. */
struct mtp_slot *mtp_take(struct mtp *h, const int32_t *tokens, uint32_t n);
void mtp_give(struct mtp_slot *s);
/* The model has computed tokens pos .. pos + n - 1 of a sequence and left this behind them, [n][n_embd]. Not may_read: where
 * the head would have to read, it forgets the sequence instead. Returns the seconds that reading took. */
double mtp_follow(struct mtp *h, struct mtp_slot *s, const int32_t *tokens, uint32_t pos, uint32_t n, const float *left,
                  bool may_read);
/* Whether guesses at what follows n tokens can be made. */
bool mtp_ready(const struct mtp_slot *s, uint32_t n);
/* As drafter_guess. */
uint32_t mtp_guess(struct mtp *h, struct draft_job *jobs, uint32_t n_jobs);

/* ---- draft_map.c ------------------------------------------------------------------------------------------------------- */

/* *out: [n_vocab] for each token of the large model that of the draft model, or ~ the one that it reads in its place and does
 * not draft; in the arena. NULL where ids mean the same to both. Vocabularies with little in common are an error. */
int draft_map_new(const struct tok *large, uint32_t n_vocab, const struct tok *draft, uint32_t n_draft_vocab, struct arena *a,
                  int32_t **out, struct err *e);

#endif
