/* run: a model at work. A session is one sequence of tokens with its KV cache; the sampler picks tokens; generate turns both
 * into text. Everything that can fail for memory fails in session_new. */
#ifndef QUERN_RUN_H
#define QUERN_RUN_H

#include <stdatomic.h>

#include "backend/backend.h"
#include "base/base.h"
#include "grammar/grammar.h"
#include "model/model.h"
#include "text/text.h"

/* ---- KV cache ----------------------------------------------------------------------------------------- */

/* Pages of KV_PAGE positions for one sequence. The pages lie in one block so far; readers only see kv_view. */
struct kv {
    struct kv_view view;
    struct kv_layer *layers;
    uint8_t **pages;
    uint32_t n_pages;
    uint8_t *memory;
    size_t bytes;
    size_t token_bytes; /* that one position takes */
};
int kv_init(struct kv *kv, const struct model *m, enum qtype k_type, enum qtype v_type, uint32_t n_ctx, struct err *e);
void kv_fini(struct kv *kv);

/* Where each layer of a page lies; false where the size overflows. layers: [layers of the model]. */
bool kv_layout(const struct model *m, enum qtype k_type, enum qtype v_type, struct kv_layer *layers, size_t *page_bytes);

/* Pages that sequences share (prefix.c). One thread at a time; nothing is allocated after prefix_init. */
struct node;
struct prefix {
    struct kv_layer *layers;
    uint8_t *memory;
    size_t bytes, page_bytes;
    uint32_t n_pages, n_free, n_kept; /* kept: in the tree */
    uint32_t *refs, *free;            /* [n_pages] holders; numbers of free pages */
    struct node *nodes;               /* [n_pages] */
    uint32_t *buckets, mask, first_root;
    uint64_t tick;
    /* Recurrent states: those that sequences work with, and those behind some of the pages in the tree. */
    size_t state_floats, state_bytes; /* of one, 0: the model has none; of all */
    float *states;
    uint32_t n_states, n_free_states;
    uint32_t *state_refs, *free_states; /* [n_states] */
};
#define PREFIX_ROOT UINT32_MAX /* the parent of a first page */
#define NO_STATE UINT32_MAX
struct prefix_options {
    enum qtype k_type, v_type;
    uint32_t n_pages;
    size_t state_floats;
    uint32_t n_states;
};
int prefix_init(struct prefix *t, const struct model *m, const struct prefix_options *o, struct err *e);
void prefix_fini(struct prefix *t);
uint8_t *prefix_page(const struct prefix *t, uint32_t page);
/* A page for the caller alone; where none is free the least recently used kept one. False: all are in use. */
bool prefix_take(struct prefix *t, uint32_t *page);
void prefix_give(struct prefix *t, uint32_t page); /* the caller holds it no more */
uint32_t prefix_available(const struct prefix *t); /* pages that prefix_take could give */
/* What pages depend on beside their tokens: the rotary class, and the weights that an adapter adds (a hash of them; 0: none).
 */
static inline uint64_t prefix_key(uint32_t rope_class, uint64_t adapter)
{
    return adapter ^ rope_class * (uint64_t)0x9e3779b97f4a7c15u;
}
/* The pages of the longest known beginning of tokens [n], whole pages only, which the caller then holds; their number. */
uint32_t prefix_match(struct prefix *t, const int32_t *tokens, uint32_t n, uint64_t key, uint32_t *pages);
/* Where tokens leave what the tree knows after the n_pages that matched: the position, the token that the nearest known
 * sequence has there and the one that was found; both -1 where it knows nothing further. */
struct prefix_miss {
    uint32_t pos;
    int32_t expected, found;
};
void prefix_miss(struct prefix *t, const int32_t *tokens, uint32_t n, const uint32_t *pages, uint32_t n_pages,
                 struct prefix_miss *out);
/* Keeps a full page behind its parent, which is in the tree. Returns the page that stands for these tokens, which the caller
 * holds from now on in place of its own: the same one, or one that was kept before. It is the parent for the next page. */
uint32_t prefix_keep(struct prefix *t, uint32_t parent, const int32_t *tokens, uint64_t key, uint32_t page);

/* Whether every page and state is what exactly one of them says: free, kept in the tree, or in use by someone. Debug builds ask
 * after each step of the engine. */
bool prefix_consistent(const struct prefix *t);

float *prefix_state(const struct prefix *t, uint32_t state); /* NULL for NO_STATE */
/* A state for the caller alone; where none is free the least recently used kept one. False: all are in use. */
bool prefix_take_state(struct prefix *t, uint32_t *state);
void prefix_give_state(struct prefix *t, uint32_t state);
/* The state behind a page in the tree, which the caller then holds, too; NO_STATE. */
uint32_t prefix_find_state(struct prefix *t, uint32_t page);
/* Keeps the caller's state, which it holds no more, behind a page in the tree; NO_STATE: takes away the one that is there. */
void prefix_keep_state(struct prefix *t, uint32_t page, uint32_t state);

/* ---- pages on disk (park.c) ------------------------------------------------------------------------------- */

/* Files of pages in a folder, and the thread that searches and stores them. */
struct park;
struct park_options {
    const char *folder; /* made where it is not there */
    uint64_t max_bytes; /* of its files */
    enum qtype k_type, v_type;
    void (*on_message)(void *user, const char *line); /* what was wrong with a file; on the thread; may be NULL */
    void *user;
    void (*on_done)(void *engine); /* a parcel is done; on the thread */
    void *engine;
};
/* What a request has to do with the disk: first a search for the beginning of its prompt, at its end pages to be stored. Of its
 * owner, but for the time of these. */
struct parcel {
    struct parcel *next;
    struct arena arena;
    uint64_t key;
    int32_t *tokens; /* [n_pages * KV_PAGE] */
    uint32_t n_pages;
    bool asked, busy, orphan; /* a search was asked for, and goes on; nobody waits for it any more */
    uint32_t from, usable;    /* pages in memory; of these to be used (recurrent models: up to where a state is) */
    uint32_t n_found;         /* maps [from .. n_found) are files of pages */
    struct map *maps, state;  /* state: behind state_at pages; 0: none */
    uint32_t state_at;
    uint32_t *pages, *states; /* held to be stored; states NULL: the model has none */
    uint64_t *names;          /* of the pages' files */
    uint32_t n_stored;
    bool unwanted; /* its pages are needed elsewhere: what is not stored yet stays so */
    uint64_t time;
};
int park_open(const struct park_options *o, const struct model *m, const struct prefix *t, struct park **out, struct err *e);
void park_close(struct park **p); /* goes on storing what waits for some seconds; t is still there */
int parcel_new(const struct park *p, uint32_t n_tokens, struct parcel **out, struct err *e);
void parcel_free(struct park *p, struct parcel **x); /* also while it is searched for */
void park_search(struct park *p, struct parcel *x, const int32_t *tokens, uint32_t n_pages, uint32_t from, uint32_t usable);
bool park_searches(struct park *p, const struct parcel *x); /* still */
/* Puts what was found into the tree, behind the n_pages that matched there; returns how many pages are held then. */
uint32_t park_unpack(struct prefix *t, struct parcel *x, uint32_t *pages, uint32_t n_pages);
/* Takes the parcel, and the caller's hold of the pages, which are in the tree. Nothing is allocated. */
void park_store(struct park *p, struct prefix *t, struct parcel **x, const int32_t *tokens, const uint32_t *pages,
                uint32_t n_pages);
void park_collect(struct park *p, struct prefix *t); /* gives back the pages of parcels that are stored */
void park_hurry(struct park *p);                     /* the parcels that wait to be stored give back their pages soon */

/* A model ready to compute (runner.c). */
struct runner {
    const struct model *m;
    struct arena arena; /* graph and frequencies */
    struct graph graph;
    struct rope ropes[ROPE_SETS];
    float *inv_freq[ROPE_SETS]; /* [rope dim / 2], what ropes point to */
    uint32_t rope_class;
    struct kernels kernels;
    struct backend *be;
};
struct runner_options {
    uint32_t n_batch, max_out, n_ctx; /* most rows of a batch, rows with logits, positions of a sequence */
    uint32_t n_redo;                  /* see struct backend_options */
    uint32_t n_threads;               /* 0: cpu_threads() */
    struct backend *beside;           /* see struct backend_options */
    uint32_t n_expected;              /* length that sequences will reach, where known: see model_rope_class */
    const char *cpu_level;
    const struct lora *loras; /* [n_loras] adapters that sequences may use */
    uint32_t n_loras;
};
int runner_init(struct runner *r, const struct model *m, const struct runner_options *o, struct err *e);
void runner_fini(struct runner *r);
void runner_set_length(struct runner *r, uint32_t n); /* frequencies for sequences of n tokens */

/* ---- recurrent states --------------------------------------------------------------------------------- */

#define STATE_SLOTS 4 /* the present one, one to write, and one for each of the last two evaluations of several tokens */

struct state_slot {
    uint32_t n;    /* tokens that it has taken in; 0: empty */
    uint64_t kept; /* when it was kept for later, by states.clock; 0: it need not be */
};
/* Of one sequence. A state is a block of numbers that nothing points into: it may be copied, and read by several. */
struct states {
    size_t floats; /* of a state; 0: the model has none, and all functions do nothing */
    struct state_slot slots[STATE_SLOTS];
    uint32_t base, work, middle; /* slots of the present state and of the running evaluation; STATE_SLOTS: none */
    uint64_t clock;
    float *memory; /* [STATE_SLOTS][floats] */
    size_t bytes;
};
static inline size_t states_step_bytes(const struct states *s) /* that a step reads and writes */
{
    return 2 * s->floats * sizeof(float);
}
int states_init(struct states *s, size_t floats, struct err *e);
void states_fini(struct states *s);
/* Goes back to the last state that is known of the first n tokens or fewer, and forgets those of more: returns of how many. */
uint32_t states_cut(struct states *s, uint32_t n);
/* An evaluation goes on by one batch from where it is; last: it ends with it. */
struct state_step states_step(struct states *s, uint32_t n_rows, bool last);
void states_done(struct states *s, uint32_t n);   /* it has ended, and the sequence has n tokens */
void states_redone(struct states *s, uint32_t n); /* the present state has become that of n tokens (backend_redo) */
void states_undo(struct states *s);               /* it has failed: the present state is the one before it */

/* ---- session --------------------------------------------------------------------------------------------- */

struct session_options {
    uint32_t n_ctx;            /* positions */
    uint32_t n_batch;          /* most rows computed at once */
    uint32_t n_threads;        /* 0: cpu_threads() */
    uint32_t n_expected;       /* length that the sequence will reach, where known: see model_rope_class */
    enum qtype k_type, v_type; /* of the cache */
    uint32_t
        n_redo;  /* rows of an evaluation that session_truncate takes back without computing anew, recurrent layers or not */
    bool hidden; /* rows are not logits but what the last norm gives (model_outputs) */
    const char *cpu_level;
    const struct lora *loras; /* [n_loras] adapters that may be used (session_use); none is at first */
    uint32_t n_loras;
};

/* One thread at a time, but for session_cancel. */
struct session;

int session_new(const struct model *m, const struct session_options *opts, struct session **out, struct err *e);
void session_free(struct session **s);
const struct model *session_model(const struct session *s);
uint32_t session_n_tokens(const struct session *s);
uint32_t session_n_ctx(const struct session *s);
uint32_t session_n_batch(const struct session *s);
const struct kv *session_kv(const struct session *s);
const struct states *session_states(const struct session *s);
struct backend_info session_backend(const struct session *s);
const struct kernels *session_kernels(const struct session *s);
const struct graph *session_graph(const struct session *s);
void session_observe(struct session *s, observe_fn *fn, void *ctx); /* of the session's backend */

/* Called for row i of an eval with its logits [n_vocab], in order; the row is valid during the call. */
typedef void session_row_fn(void *ctx, size_t i, const float *logits);

/* Appends ids. row may be NULL: only the logits of the last token are computed then. ERR_CONTEXT where they do not fit, ERR_ARG
 * for an id outside the vocabulary, ERR_CANCELLED; the session then holds what it held. */
int session_eval(struct session *s, const int32_t *ids, size_t n, session_row_fn *row, void *ctx, struct err *e);
const float *session_logits(const struct session *s); /* of the last token; NULL when empty. Valid until the next eval */
const int32_t *session_tokens(const struct session *s);
void session_truncate(struct session *s, uint32_t n_keep);
/* What each adapter is multiplied by from now on, [n_loras]; 0: it is not used. Where that differs from before, all tokens are
 * forgotten. */
void session_use(struct session *s, const float *lora_scales);
/* Kinds of the tokens of the next evaluation, [n], borrowed (struct batch); NULL: all 0. */
void session_types(struct session *s, const uint8_t *types);
/* Sees each batch of the session when it was computed: tokens pos .. pos + n - 1, and what the graph kept of them
 * (backend_kept). fn NULL: nobody does (at first). */
typedef void session_follow_fn(void *ctx, const int32_t *tokens, uint32_t pos, uint32_t n, const float *kept);
void session_follow(struct session *s, session_follow_fn *fn, void *ctx);
/* Makes the session hold exactly ids, whose common beginning with what it holds is kept (all but the last token, whose
 * logits are computed anew). *reused gets how much of it was not computed again: with recurrent layers, up to where a state was
 * kept. */
int session_sync(struct session *s, const int32_t *ids, size_t n, uint32_t *reused, struct err *e);
void session_cancel(struct session *s); /* any thread, signal handlers */
void session_cancel_clear(struct session *s);
bool session_cancelled(const struct session *s);

/* ---- vectors of texts ------------------------------------------------------------------------------------- */

/* s was opened with `hidden` and a batch as large as its context, for the tokens of an encoder see one another. types: [n] 1
 * for tokens of the second text of a pair, NULL: all are of one. out: [n_embd]. */
int embed_tokens(struct session *s, const int32_t *ids, const uint8_t *types, size_t n, enum pooling kind, float *out,
                 struct err *e);
/* What a pooled vector v [n_embd] is in the end: out [embed_dimensions(m)]; not v. */
size_t embed_dimensions(const struct model *m);
int embed_dense(const struct model *m, const float *v, float *out, struct err *e);
void embed_normalise(float *v, size_t n); /* to length 1 */
/* What the model's head makes of a pooled vector: its first label, or of a decoder's two labels the probability of the first.
 */
int embed_score(const struct session *s, const float *v, float *score, struct err *e);

/* ---- sampler ---------------------------------------------------------------------------------------------- */

struct bias {
    int32_t id;
    float bias;
};
struct sampling {
    float temperature; /* 0: greedy */
    uint32_t top_k;    /* 0: off */
    float top_p;       /* 1: off */
    float min_p;       /* 0: off */
    uint32_t min_keep; /* candidates that top_p and min_p leave at least */
    float repeat_penalty, presence_penalty, frequency_penalty;
    uint32_t penalty_last_n;
    uint64_t seed;
    const struct bias *bias; /* borrowed */
    size_t n_bias;
};
/* Error where a member is out of its range or a bias names no token. */
int sampling_check(const struct sampling *p, uint32_t n_vocab, struct err *e);

struct sampler {
    void (*exp)(const float *x, size_t n, float *y);
    uint32_t n_vocab;
    struct candidate *cand;  /* [n_vocab] */
    uint32_t *count;         /* [n_vocab], zero between calls */
    float *logits;           /* [n_vocab], the adjusted copy */
    float *weights;          /* [n_vocab], of the candidates */
    const uint64_t *allowed; /* bit id: the next pick may take it; borrowed, NULL: all. For one pick */
};
int sampler_init(struct sampler *s, const struct kernels *k, uint32_t n_vocab, struct err *e);
void sampler_fini(struct sampler *s);
/* Picks a token. history: the n tokens so far (penalties). step: how many tokens were drawn before with this seed; the draw is
 * a function of seed and step alone. Fails only where no logit is a number. Allocates nothing. */
int sampler_pick(struct sampler *s, const struct sampling *p, const float *logits, const int32_t *history, size_t n,
                 uint64_t step, int32_t *out, struct err *e);

/* ---- answers of a given form ------------------------------------------------------------------------------ */

struct constraint_options {
    const struct vocab *vocab; /* NULL: the answer is free */
    enum grammar_kind kind;
    struct str text;
    struct str after; /* the grammar holds behind the first of these texts; n 0: from the start */
    bool marked;      /* the token `mark`, which has no text, may stand in front of what the grammar holds */
    int32_t mark;
    const int32_t *eog; /* [n_eog] */
    size_t n_eog;
    uint32_t n_vocab;
};
/* Of one answer. Allocates nothing after constraint_init, but for bytes of the free text before `after`, which are few. */
struct constraint {
    const struct tok *tok;
    struct grammar *grammar;
    struct matcher *matcher; /* NULL: the answer is free */
    /* While the text that comes first is awaited: */
    char *after; /* [n_after]; n_after 0: no longer */
    size_t n_after;
    uint64_t *not_end; /* all tokens but those that end the answer; NULL: no longer */
    struct buf tail;
    /* While a mark may come, and nothing did: */
    uint64_t *with_mark; /* [n_words] for masks; NULL: no longer */
    size_t n_words;
    int32_t mark;
    struct arena arena;
};
/* Errors as of grammar_compile. constraint_fini is fine after a failure, too. */
int constraint_init(struct constraint *c, const struct constraint_options *o, const struct tok *t, struct err *e);
void constraint_fini(struct constraint *c);
int constraint_mask(struct constraint *c, const uint64_t **allowed, struct err *e); /* *allowed NULL: all tokens */
int constraint_put(struct constraint *c, int32_t id, struct err *e); /* the answer goes on with id, which the mask allowed */
bool constraint_done(const struct constraint *c);                    /* nothing can follow */

/* ---- text as it comes ------------------------------------------------------------------------------------- */

/* Text of a sequence that may be shown: whole characters, no part of a stop string. */
struct stream {
    struct detok detok;
    const struct str *stop; /* [n_stop], borrowed */
    size_t n_stop;
    struct buf held; /* text not handed out yet, after what was handed out last */
    size_t n_ready;
    bool stopped; /* a stop string came; nothing follows */
    uint32_t stop_index;
};
int stream_init(struct stream *s, const struct tok *t, bool show_special, const struct str *stop, size_t n_stop, struct err *e);
void stream_fini(struct stream *s);
/* *text gets what may be shown after this id, often nothing; valid until the next call. */
int stream_put(struct stream *s, int32_t id, struct str *text, struct err *e);
/* What was held back to the last, where no stop string came. */
struct str stream_end(struct stream *s);

/* ---- speculation -------------------------------------------------------------------------------------------- */

/* Guesses at the next tokens of sequences, which one step of the model checks together. The model draws each token as it would
 * have without a guess, from the same logits and with the same random number, and a guess that is that token saves a step: so
 * nobody gets other tokens because of them. One thread at a time. */
enum speculate { SPECULATE_AUTO, SPECULATE_OFF, SPECULATE_LOOKUP, SPECULATE_DRAFT, SPECULATE_MTP };
struct speculate_options {
    enum speculate how;
    const struct model *draft;         /* guesses; NULL: none */
    const struct tok *tok, *draft_tok; /* the vocabularies of both; NULL: they are the same */
    uint32_t max;                      /* tokens guessed in a step, of all sequences together; 0: 16 */
    uint32_t min;                      /* fewer of a sequence are not tried */
    bool always;                       /* guess as far as may be, whether or not it pays: for tests */
};
#define SPECULATE_MAX 64 /* most that max may be */
#define SPECULATE_DEFAULT 16
static inline uint32_t speculate_max(const struct speculate_options *o) /* tokens guessed in a step at most */
{
    return o->how == SPECULATE_OFF ? 0 : o->max ? o->max : SPECULATE_DEFAULT;
}

struct speculator;
struct speculator_options {
    struct speculate_options how;
    uint32_t n_seqs, n_ctx, n_batch; /* sequences at once; tokens of one; rows of a step, */
    uint32_t n_redo;                 /* and those of them that can be taken back where there are recurrent layers */
    enum qtype k_type, v_type;       /* of the draft model's cache */
    const char *cpu_level;
    struct backend *beside; /* the model's */
};
/* *out: NULL where guesses are off: they were not asked for, or no step may have two rows for a sequence. */
int speculator_new(const struct graph *g, const struct model *m, const struct speculator_options *o, struct speculator **out,
                   struct err *e);
/* For the one sequence of a session, with its options. */
int session_speculator(const struct session *s, const struct speculate_options *how, struct speculator **out, struct err *e);
void speculator_free(struct speculator **s);
size_t speculator_bytes(const struct speculator *s); /* of the draft model's cache and activations */

/* What guesses the tokens of one sequence; it lives in the arena. */
struct guesser;
struct guess_options {
    enum speculate how; /* AUTO: as the speculator */
    uint32_t max, min;  /* 0: as the speculator */
    const struct sampling *sampling;
    uint64_t n_drawn; /* tokens drawn with its seed before */
};
/* cap: most tokens of the sequence. expected [n_expected]: what an answer is thought to resemble, as if it stood in front. */
int guesser_new(struct speculator *s, struct arena *a, uint32_t cap, const int32_t *expected, uint32_t n_expected,
                struct guesser **out, struct err *e);
/* The sequence is tokens [n], and an answer begins. Between this and the end nothing is allocated. */
void guesser_begin(struct guesser *g, const struct guess_options *o, const int32_t *tokens, uint32_t n);
void guesser_add(struct guesser *g, int32_t id); /* the model has drawn id */
void guesser_end(struct guesser *g);             /* also where none began */
/* The model has computed tokens pos .. pos + n - 1 of the sequence: left [n][n_embd] is what it kept of them (backend_kept),
 * which its own head reads. To be called after each step, also of those that read the prompt. */
void guesser_follow(struct guesser *g, const int32_t *tokens, uint32_t pos, uint32_t n, const float *left);
/* The guesses for the next step, at what follows the last token added. */
const int32_t *guesser_guesses(const struct guesser *g, uint32_t *n);
struct guess_counts {
    uint32_t guessed, right;
    uint32_t expected, expected_right; /* of these, from what was expected */
};
struct guess_counts guesser_counts(const struct guesser *g); /* since the beginning */

struct speculator *guesser_speculator(const struct guesser *g);

/* Before a step over n sequences: how many tokens to guess of each, and which; `most` of all together. */
void speculator_guess(struct speculator *s, struct guesser *const *g, uint32_t n, uint32_t most);
/* After it, when the tokens that were drawn have been added. */
void speculator_learn(struct speculator *s, struct guesser *const *g, uint32_t n, double seconds);

/* ---- generation ------------------------------------------------------------------------------------------- */

enum stop_reason { STOP_EOS, STOP_LENGTH, STOP_CONTEXT, STOP_STRING, STOP_CALLBACK };

/* How many tokens a [n] and b [m] have in common from their beginning on. */
static inline uint32_t tokens_alike(const int32_t *a, uint32_t n, const int32_t *b, uint32_t m)
{
    uint32_t i = 0;
    while (i < n && i < m && a[i] == b[i]) i++;
    return i;
}
/* The first n_keep of n tokens stay, at least one and at most half, and half of the others goes; returns how many. */
uint32_t shift_tokens(int32_t *tokens, uint32_t n, uint32_t n_keep);

struct generate_options {
    struct sampling sampling;
    struct constraint_options constraint;
    uint32_t max_tokens; /* 0: no limit but the context */
    bool shift;          /* a full context is no end: shift_tokens, and what is left is computed anew */
    uint32_t n_keep;
    const struct str *stop;
    size_t n_stop;
    const int32_t *eog; /* ids that end the generation, unless ignore_eos */
    size_t n_eog;
    bool ignore_eos, show_special;
    struct guesser *guesser; /* guesses tokens, unless speculate is OFF; NULL: nobody does */
    enum speculate speculate;
    uint32_t draft_max, draft_min; /* 0: as the guesser's speculator */
    int (*on_text)(void *user, const char *text, size_t n);
    int (*on_token)(void *user, int32_t id);
    void *user;
};
struct generate_result {
    enum stop_reason stop;
    uint32_t stop_index;                                 /* STOP_STRING: of which one */
    uint32_t n_prompt, n_reused, n_generated, n_shifted; /* shifted: tokens that went */
    struct guess_counts guesses;
    uint64_t prefill_ns, first_token_ns, decode_ns, decode_bytes;
};
int generate(struct session *s, const struct tok *t, struct sampler *sampler, const int32_t *prompt, size_t n,
             const struct generate_options *opts, struct generate_result *out, struct err *e);

/* ---- engine -------------------------------------------------------------------------------------------------- */

struct engine_options {
    uint32_t n_ctx, n_parallel, n_queue, n_batch, n_threads; /* n_threads 0: cpu_threads(); the others at least 1 */
    uint32_t n_pages;                                        /* of the cache, at least those of n_ctx tokens */
    uint64_t memory_bytes; /* fewer pages, but never fewer than that, where all would take more than this; 0: no limit */
    enum qtype k_type, v_type;
    const char *cpu_level;
    bool no_prefix;          /* requests do not use again what others computed */
    const char *park_folder; /* NULL: pages are kept in memory alone */
    uint64_t park_bytes;
    void (*on_message)(void *user, const char *line); /* see struct park_options */
    void *user;
    const struct lora *loras; /* [n_loras] adapters that requests may use */
    uint32_t n_loras;
    struct speculate_options speculate;
};
struct engine_counters {
    uint64_t prompt_tokens, reused_tokens, parked_tokens, generated_tokens, requests; /* parked: reused, from disk */
    uint64_t guessed_tokens, right_tokens;
    uint64_t inconsistent; /* of debug builds: steps after which prefix_consistent was false, which must not be */
    double prefill_seconds, decode_seconds; /* of steps with and without pieces of prompts */
};
struct engine_info {
    struct engine_options options;
    struct engine_counters counters;
    uint32_t n_running, n_waiting, n_threads;
    const char *level;
    uint64_t kv_bytes, kv_used_bytes, kv_cached_bytes, kv_token_bytes, state_bytes, compute_bytes, draft_bytes;
    bool speculates;
};

#define TOP_MAX 20 /* likeliest tokens that a request may ask for */
struct token_event {
    int32_t id;
    struct str text;
    float logprob; /* where asked for */
    const int32_t *top_ids;
    const float *top_logprobs; /* [n_top], likeliest first */
    size_t n_top;
    const struct generate_result *so_far; /* but for why it stopped */
};
/* Fills in the probabilities: the n likeliest after logits [n_vocab], at most TOP_MAX, go into ids and probs. Works in what the
 * sampler, which is done with them, has for its own. */
void token_probs(struct sampler *s, const struct kernels *k, const float *logits, uint32_t n, struct token_event *t,
                 int32_t *ids, float *probs);
struct request_result {
    int error; /* then message says why */
    const char *message;
    struct generate_result generated;
    struct str tail; /* text that was held back as the possible beginning of a stop string */
    struct prefix_miss miss;
    uint32_t n_parked; /* tokens that were reused from disk */
};
struct request_options {
    const int32_t *prompt;
    uint32_t n_prompt, max_tokens; /* max_tokens 0: no limit but the context */
    struct sampling sampling;
    struct constraint_options constraint; /* its text is read when the request is submitted */
    const struct str *stop;
    size_t n_stop;
    const int32_t *eog; /* ids that end the generation, unless ignore_eos */
    size_t n_eog;
    bool ignore_eos, show_special, logprobs;
    bool prompt_only; /* no token is drawn: the prompt is computed for those that come later */
    uint32_t n_top;   /* at most TOP_MAX */
    bool shift;       /* as in struct generate_options; max_tokens may then be beyond the context */
    uint32_t n_keep;
    const float *lora_scales;      /* [n_loras] what each adapter is multiplied by; NULL: none is used */
    enum speculate speculate;      /* AUTO: as the engine */
    uint32_t draft_max, draft_min; /* 0: as the engine */
    const int32_t *expected;       /* [n_expected] see guesser_new; at most n_ctx of them are used */
    uint32_t n_expected;
    /* On the engine's thread; on_end is the last, and neither may call the engine but for request_cancel. */
    void (*on_token)(void *user, const struct token_event *t);
    void (*on_end)(void *user, const struct request_result *r);
    void *user;
};

/* Any thread may call these. See quern.h for the rules. */
struct engine;
struct request;
int engine_new(const struct model *m, const struct tok *t, const struct engine_options *o, struct engine **out, struct err *e);
void engine_free(struct engine **en);
void engine_info(struct engine *en, struct engine_info *out);
int engine_submit(struct engine *en, const struct request_options *o, struct request **out, struct err *e);
void request_cancel(struct request *q);
struct request_info {
    bool running;
    uint32_t slot;                                     /* running: below n_parallel, no other that runs has it */
    uint32_t n_prompt, n_known, n_reused, n_generated; /* known: tokens of the prompt that are in the cache */
};
void request_info(struct request *q, struct request_info *out);
void request_free(struct request **q);

/* ---- importance of columns ----------------------------------------------------------------------------------- */

/* Sums of what meets each column of a matrix, and of its squares; of a tensor of several (experts) for each of them. */
struct importance_entry {
    const struct bound *tensor;
    double *sum, *sum2; /* [n_parts][row length] */
    uint64_t *rows;     /* [n_parts] that went into them */
};
/* One matrix, by where its weights lie. */
struct importance_part {
    const void *data;
    size_t row; /* its length */
    double *sum, *sum2;
    uint64_t *rows;
};
struct importance {
    struct importance_entry *entries; /* [n], in the order of a pass */
    struct importance_part *parts;    /* [n_parts] of all of them */
    size_t n, n_parts, next;          /* next: the part that is probably asked for next */
    struct arena a;
};
struct importance_options {
    uint32_t n_ctx;   /* tokens of a window */
    size_t n_windows; /* most windows; 0: all of the text */
    int32_t bos;      /* replaces the first token of each window; -1: none */
    bool output;      /* the output matrix, too */
    int (*on_window)(void *user, size_t done, size_t all);
    void *user;
};
/* Runs ids through the model, window by window (a rest is left out). Sums are exact to f64 in the order of the tokens: they
 * depend on neither threads nor batch. *n_windows gets their number. importance_fini also after a failure. */
int importance_collect(struct session *s, const int32_t *ids, size_t n, const struct importance_options *o,
                       struct importance *out, size_t *n_windows, struct err *e);
void importance_fini(struct importance *im);

/* ---- perplexity ---------------------------------------------------------------------------------------------- */

/* What a model expects after a token: log p[v] = x[v] - log_total. */
struct log_probs {
    float *x; /* [n_vocab] */
    double log_total;
};
/* From logits; x and scratch [n_vocab]. */
struct log_probs log_probs_of(const struct kernels *k, const float *logits, uint32_t n_vocab, float *x, float *scratch);

/* Windows of a text and what a model expects after each scored token, in a file: logits_file.c. */
struct logits_file {
    struct map map;
    uint32_t n_ctx, n_vocab, n_windows;
    const uint8_t *rows;
    int32_t *ids; /* [n_windows * n_ctx] */
};
int logits_file_open(const char *path, struct logits_file *f, struct err *e);
void logits_file_close(struct logits_file *f);
struct log_probs logits_file_row(const struct logits_file *f, size_t i, float *x); /* i-th scored token */
int logits_file_begin(struct out *o, const int32_t *ids, uint32_t n_ctx, uint32_t n_vocab, uint32_t n_windows, struct err *e);
int logits_file_put(struct out *o, const struct log_probs *p, uint32_t n_vocab, struct err *e);
/* Tokens of a window that are scored from the logits of position n_ctx / 2 on. */
static inline uint32_t second_half_of(uint32_t n_ctx)
{
    return n_ctx - 1 - n_ctx / 2;
}

/* How far expectations are from those of another model: Kullback-Leibler divergence after each scored token. */
struct divergence {
    float *values; /* [n of cap] */
    size_t n, cap;
    uint64_t same_top;
    double base_nll; /* sum over the tokens, of the other model */
};
struct divergence_result {
    double mean, median, p99, max;
    double same_top; /* share of the tokens for which both find the same entry likeliest */
    double base_nll; /* mean */
};
int divergence_init(struct divergence *d, size_t cap, struct err *e);
/* token: what followed. scratch [n_vocab]. Values beyond cap are not kept. */
void divergence_add(struct divergence *d, const struct kernels *k, const struct log_probs *base, const struct log_probs *p,
                    uint32_t n_vocab, int32_t token, float *scratch);
void divergence_sum(struct divergence *d, struct divergence_result *out); /* puts the values in order */
void divergence_fini(struct divergence *d);

struct perplexity_options {
    uint32_t n_ctx;
    int32_t bos; /* replaces the first token of each window; -1: none */
    bool second_half;
    size_t n_windows; /* most windows; 0: all of the text */
    /* At most one of these; the first two go with second_half only. */
    const char *save;               /* a file of what is expected, to compare others with */
    const struct logits_file *base; /* compare with it; the windows are its own */
    struct session *against;        /* compare with this model, which runs alongside; its vocabulary is as large */
    int (*on_window)(void *user, size_t done, size_t all, double ppl);
    void *user;
};
struct perplexity_result {
    double ppl, nll;
    uint64_t tokens;
    struct divergence_result divergence; /* where compared */
};
/* ids is not read where there is a base. */
int perplexity(struct session *s, const int32_t *ids, size_t n, const struct perplexity_options *opts,
               struct perplexity_result *out, struct err *e);

#endif
