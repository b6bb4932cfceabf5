/* draft: a small model guesses how sequences go on, which costs a fraction of what the large one takes to say so. It draws with
 * the sampling options and the random numbers of the request, those that the large model will draw with: where both expect the
 * same, they draw the same.
 *
 * A slot holds the cache of one sequence and remembers its tokens after the sequence has ended: the next turn of a conversation
 * finds most of itself. The passes use the threads of the large model's backend. */
#include "run/speculate_int.h"

#include <math.h>

void draft_keep_time(double *known, double seconds)
{
    const double part = seconds < *known ? 0.5 : 0.1;
    *known += *known > 0 ? part * (fmin(seconds, 2 * *known) - *known) : seconds;
}

static int open_states(struct drafter *d, struct err *e)
{
    const size_t n = d->runner.graph.state_floats;
    if (n == 0) return 0;
    if (!size_mul(n, 2 * (size_t)d->n_slots * sizeof *d->states, &d->state_bytes) || !(d->states = mem_pages(d->state_bytes)))
        return fail(e, ERR_NOMEM, "no memory for the draft model's recurrent states: %zu MiB; fewer requests at once need less",
                    d->state_bytes >> 20);
    for (uint32_t i = 0; i < d->n_slots; i++) {
        d->slots[i].known = d->states + 2 * i * n;
        d->slots[i].guessed = d->slots[i].known + n;
    }
    d->bytes += d->state_bytes;
    return 0;
}

static int open_slots(struct drafter *d, const struct drafter_options *o, struct err *e)
{
    struct arena *a = &d->arena;
    d->slots = arena_array(a, d->n_slots, sizeof *d->slots);
    d->seqs = arena_array(a, d->n_slots, sizeof *d->seqs);
    d->out = arena_array(a, d->n_slots, sizeof *d->out);
    d->tokens = arena_array(a, d->n_batch, sizeof *d->tokens);
    const bool other = d->map || d->n_draft_vocab < d->n_vocab;
    if (other) d->logits = arena_array(a, d->n_vocab, sizeof *d->logits);
    if (!d->slots || !d->seqs || !d->out || !d->tokens || (other && !d->logits))
        return fail_nomem(e, "the draft model", d->n_batch * sizeof *d->tokens);
    for (uint32_t i = 0; i < d->n_slots; i++) {
        struct draft_slot *s = &d->slots[i];
        if (!(s->tokens = arena_array(a, d->n_ctx, sizeof *s->tokens)))
            return fail_nomem(e, "the draft model", d->n_ctx * sizeof *s->tokens);
        TRY(kv_init(&s->kv, d->runner.m, o->k_type, o->v_type, d->n_ctx, e));
        d->bytes += s->kv.bytes;
    }
    TRY(open_states(d, e));
    return sampler_init(&d->sampler, &d->runner.kernels, d->n_vocab, e);
}

int drafter_new(const struct model *m, const struct drafter_options *o, struct drafter **out, struct err *e)
{
    struct drafter *d = mem_zalloc(sizeof *d);
    if (!d) return fail_nomem(e, "the draft model", sizeof *d);
    d->n_slots = o->n_slots;
    d->n_ctx = o->n_ctx;
    d->n_batch = (uint32_t)size_max(o->n_batch, (size_t)o->n_slots * (DRAFT_LAG + 1));
    d->n_vocab = o->n_vocab;
    d->map = o->map;
    d->n_draft_vocab = m->hp.n_vocab;
    const struct runner_options ro = {.n_batch = d->n_batch,
                                      .max_out = o->n_slots,
                                      .n_ctx = o->n_ctx,
                                      .n_expected = o->n_ctx,
                                      .beside = o->beside,
                                      .cpu_level = o->cpu_level};
    int rc = runner_init(&d->runner, m, &ro, e);
    if (rc == 0) rc = open_slots(d, o, e);
    if (rc < 0) {
        drafter_free(&d);
        return rc;
    }
    d->bytes += backend_info(d->runner.be).bytes;
    *out = d;
    return 0;
}

void drafter_free(struct drafter **dp)
{
    struct drafter *d = *dp;
    if (!d) return;
    for (uint32_t i = 0; d->slots && i < d->n_slots; i++) kv_fini(&d->slots[i].kv);
    if (d->states) mem_pages_free(d->states, d->state_bytes);
    sampler_fini(&d->sampler);
    runner_fini(&d->runner);
    arena_fini(&d->arena);
    mem_free(d);
    *dp = NULL;
}

/* How many of n right tokens a slot can go on from. */
static uint32_t kept_of(const struct draft_slot *s, uint32_t n)
{
    if (n >= s->n) return s->n;
    return !s->known ? n : n >= s->n_known ? s->n_known : 0;
}

void drafter_cut(struct draft_slot *s, uint32_t n)
{
    s->n = kept_of(s, n);
    if (s->n < s->n_known) s->n_known = s->n;
}

struct draft_slot *drafter_take(struct drafter *d, const int32_t *tokens, uint32_t n)
{
    struct draft_slot *best = NULL;
    uint32_t most = 0;
    for (uint32_t i = 0; i < d->n_slots; i++) {
        struct draft_slot *s = &d->slots[i];
        if (s->taken) continue;
        const uint32_t same = kept_of(s, tokens_alike(s->tokens, s->n, tokens, n));
        /* Where several know as little, the one that loses least. */
        if (best && (same < most || (same == most && s->n >= best->n))) continue;
        best = s;
        most = same;
    }
    if (!best) return NULL;
    best->taken = true;
    drafter_cut(best, most);
    return best;
}

void drafter_give(struct draft_slot *s)
{
    s->taken = false;
}

/* The draft model's id of a token; n_draft_vocab or more where it has none. */
static uint32_t draft_id(const struct drafter *d, int32_t token)
{
    const int32_t id = d->map ? d->map[token] : token;
    return (uint32_t)(d->map && id < 0 ? ~id : id);
}

/* The states of a pass over what a slot lacks up to token `to`, of which the first n_known are known. */
static struct state_step step_states(struct draft_slot *s, uint32_t n_known, uint32_t to)
{
    if (!s->known) return (struct state_step){0};
    const bool guesses = to > n_known;
    if (!guesses && s->n > s->n_known) { /* they were right */
        float *const right = s->guessed;
        s->guessed = s->known;
        s->known = right;
    }
    const float *from = s->n > s->n_known && guesses ? s->guessed : s->known;
    if (!guesses) s->n_known = to;
    return (struct state_step){.from = s->n ? from : NULL, .to = guesses ? s->guessed : s->known};
}

/* Adds tokens [s->n .. to) of a sequence to a batch, all of them known or all guesses; false where the draft model does not
 * know one of them. */
static bool add_rows(struct drafter *d, struct batch *b, struct draft_slot *s, const int32_t *tokens, uint32_t n_known,
                     uint32_t to)
{
    const uint32_t n = to - s->n;
    for (uint32_t i = s->n; i < to; i++)
        if (draft_id(d, tokens[i]) >= d->n_draft_vocab) return false;
    d->seqs[b->n_seqs++] =
        (struct batch_seq){.kv = &s->kv.view, .row = b->n_rows, .n_rows = n, .pos = s->n, .state = step_states(s, n_known, to)};
    for (uint32_t i = 0; i < n; i++) d->tokens[b->n_rows + i] = (int32_t)draft_id(d, tokens[s->n + i]);
    memcpy(s->tokens + s->n, tokens + s->n, n * sizeof *d->tokens);
    b->n_rows += n;
    s->n = to;
    return true;
}

static struct batch new_batch(const struct drafter *d)
{
    return (struct batch){.tokens = d->tokens, .seqs = d->seqs, .out = d->out};
}

bool drafter_read(struct drafter *d, struct draft_slot *s, const int32_t *tokens, uint32_t n)
{
    struct batch b = new_batch(d);
    const uint32_t to = (uint32_t)size_min(n - 1, s->n + (size_t)d->n_batch);
    if (n > d->n_ctx) return false;
    if (to > s->n) {
        const uint32_t rows = to - s->n;
        const uint64_t start = clock_ns();
        if (!add_rows(d, &b, s, tokens, n, to)) return false;
        (void)backend_run(d->runner.be, &b); /* fails only where it is cancelled, and nobody can */
        if (rows > DRAFT_LAG) draft_keep_time(&d->row_seconds, (double)(clock_ns() - start) * 1e-9 / rows);
    }
    return n - 1 - s->n <= DRAFT_LAG;
}

/* A row of the draft model's logits as one of the large model's. */
static const float *large_row(struct drafter *d, const float *row)
{
    if (!d->logits) return row;
    for (uint32_t v = 0; v < d->n_vocab; v++) {
        const uint32_t id = d->map ? (uint32_t)d->map[v] : v; /* what is not drafted is beyond */
        d->logits[v] = id < d->n_draft_vocab ? row[id] : -INFINITY;
    }
    return d->logits;
}

/* Draws a job's guess number i from its row of logits. */
static void draw(struct drafter *d, struct draft_job *j, uint32_t i, const float *row)
{
    struct err e;
    int32_t *out = &j->tokens[j->n_tokens + i];
    if (sampler_pick(&d->sampler, j->sampling, large_row(d, row), j->tokens, j->n_tokens + i, j->step + i, out, &e) < 0)
        j->n = i;
}

/* Pass number i: of each job that wants more than i guesses what its slot lacks, then a draw. False where none does. */
static bool pass(struct drafter *d, struct draft_job *jobs, uint32_t n_jobs, uint32_t i)
{
    struct batch b = new_batch(d);
    for (uint32_t k = 0; k < n_jobs; k++) {
        struct draft_job *j = &jobs[k];
        if (j->n <= i) continue;
        if (j->n_tokens + i > d->n_ctx || !add_rows(d, &b, j->slot, j->tokens, j->n_tokens, j->n_tokens + i))
            j->n = i;
        else
            d->out[b.n_out++] = b.n_rows - 1;
    }
    if (b.n_out == 0) return false;
    (void)backend_run(d->runner.be, &b);
    const float *row = backend_logits(d->runner.be);
    for (uint32_t k = 0; k < n_jobs; k++) {
        if (jobs[k].n <= i) continue;
        draw(d, &jobs[k], i, row);
        row += d->n_draft_vocab;
    }
    return true;
}

uint32_t drafter_guess(struct drafter *d, struct draft_job *jobs, uint32_t n_jobs)
{
    const uint64_t start = clock_ns();
    uint32_t n = 0;
    while (pass(d, jobs, n_jobs, n)) n++;
    const double seconds = (double)(clock_ns() - start) * 1e-9;
    if (n) draft_keep_time(&d->pass_seconds, seconds / n);
    return n;
}
