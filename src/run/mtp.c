/* mtp: the model's own head for multi-token prediction guesses how a sequence goes on. The head is a layer with a cache of its
 * own. Its row for token q reads that token and what the model left behind token q - 1, the vector behind its last norm, and
 * expects token q + 1; with its own vector in place of the model's it goes on from there.
 *
 * What the model leaves comes with each of its steps (mtp_follow) and waits in the slot, up to MTP_LAG rows, so that the head
 * reads many rows at once where nobody wants guesses. Rows that it lacks, because they came out of a shared cache or reading
 * them was not worth it, are not made up for: it then knows the sequence from there on only, which makes guesses worse, not
 * wrong. */
#include "run/speculate_int.h"

static int open_slots(struct mtp *h, const struct mtp_options *o, struct err *e)
{
    struct arena *a = &h->arena;
    h->slots = arena_array(a, h->n_slots, sizeof *h->slots);
    h->seqs = arena_array(a, h->n_slots, sizeof *h->seqs);
    h->out = arena_array(a, h->n_slots, sizeof *h->out);
    h->tokens = arena_array(a, h->n_batch, sizeof *h->tokens);
    h->inputs = arena_array(a, h->n_batch, h->n_embd * sizeof *h->inputs);
    if (!h->slots || !h->seqs || !h->out || !h->tokens || !h->inputs)
        return fail_nomem(e, "the head for multi-token prediction", h->n_batch * h->n_embd * sizeof *h->inputs);
    for (uint32_t i = 0; i < h->n_slots; i++) {
        struct mtp_slot *s = &h->slots[i];
        s->tokens = arena_array(a, h->n_ctx, sizeof *s->tokens);
        s->waiting = arena_array(a, MTP_LAG, h->n_embd * sizeof *s->waiting);
        if (!s->tokens || !s->waiting)
            return fail_nomem(e, "the head for multi-token prediction", MTP_LAG * h->n_embd * sizeof *s->waiting);
        TRY(kv_init(&s->kv, h->runner.m, o->k_type, o->v_type, h->n_ctx, e));
        h->bytes += s->kv.bytes + MTP_LAG * h->n_embd * sizeof *s->waiting;
    }
    h->bytes += h->n_batch * h->n_embd * sizeof *h->inputs;
    return sampler_init(&h->sampler, &h->runner.kernels, h->runner.m->hp.n_vocab, e);
}

int mtp_new(const struct model *head, const struct mtp_options *o, struct mtp **out, struct err *e)
{
    struct mtp *h = mem_zalloc(sizeof *h);
    if (!h) return fail_nomem(e, "the head for multi-token prediction", sizeof *h);
    h->n_slots = o->n_slots;
    h->n_ctx = o->n_ctx;
    h->n_batch = (uint32_t)size_max(o->n_batch, (size_t)o->n_slots * MTP_LAG);
    h->n_embd = head->hp.n_embd;
    const struct runner_options ro = {.n_batch = h->n_batch,
                                      .max_out = o->n_slots,
                                      .n_ctx = o->n_ctx,
                                      .n_expected = o->n_ctx,
                                      .beside = o->beside,
                                      .cpu_level = o->cpu_level};
    int rc = runner_init(&h->runner, head, &ro, e);
    if (rc == 0) rc = open_slots(h, o, e);
    if (rc < 0) {
        mtp_free(&h);
        return rc;
    }
    h->bytes += backend_info(h->runner.be).bytes;
    *out = h;
    return 0;
}

void mtp_free(struct mtp **hp)
{
    struct mtp *h = *hp;
    if (!h) return;
    for (uint32_t i = 0; h->slots && i < h->n_slots; i++) kv_fini(&h->slots[i].kv);
    sampler_fini(&h->sampler);
    runner_fini(&h->runner);
    arena_fini(&h->arena);
    mem_free(h);
    *hp = NULL;
}

/* ---- what a slot knows -------------------------------------------------------------------------------------------------- */

static uint32_t n_waiting(const struct mtp_slot *s)
{
    return s->known - s->first - s->n;
}

/* Forgets what comes behind the first n tokens. The last row that stays may have read another token than the one that now
 * follows: its vector was lost, and a guess that is a little worse costs less than to begin anew. */
static void cut(struct mtp_slot *s, uint32_t n)
{
    if (n >= s->known) return;
    if (n < s->first) s->first = n;
    s->known = n;
    s->n = (uint32_t)size_min(s->n, n - s->first);
}

/* Begins anew behind the first n tokens. */
static void restart(struct mtp_slot *s, const int32_t *tokens, uint32_t n)
{
    memcpy(s->tokens, tokens, n * sizeof *tokens);
    s->first = s->known = n;
    s->n = 0;
}

struct mtp_slot *mtp_take(struct mtp *h, const int32_t *tokens, uint32_t n)
{
    struct mtp_slot *best = NULL;
    uint32_t most = 0;
    for (uint32_t i = 0; i < h->n_slots; i++) {
        struct mtp_slot *s = &h->slots[i];
        if (s->taken) continue;
        const uint32_t same = tokens_alike(s->tokens, s->known, tokens, n);
        /* Where several know as little, the one that loses least. */
        if (best && (same < most || (same == most && s->known >= best->known))) continue;
        best = s;
        most = same;
    }
    if (!best) return NULL;
    best->taken = true;
    cut(best, most);
    return best;
}

void mtp_give(struct mtp_slot *s)
{
    s->taken = false;
}

/* ---- reading ------------------------------------------------------------------------------------------------------------ */

/* Adds n rows to a batch, the first of which reads tokens[0]; what they read beside it is in b->inputs already. */
static void add_rows(struct mtp *h, struct batch *b, struct mtp_slot *s, uint32_t at, const int32_t *tokens, uint32_t n)
{
    h->seqs[b->n_seqs++] = (struct batch_seq){.kv = &s->kv.view, .row = b->n_rows, .n_rows = n, .pos = at};
    memcpy(h->tokens + b->n_rows, tokens, n * sizeof *tokens);
    b->n_rows += n;
}

static struct batch new_batch(const struct mtp *h)
{
    return (struct batch){.tokens = h->tokens, .inputs = h->inputs, .seqs = h->seqs, .out = h->out};
}

/* Reads the next n rows of a slot: those behind first + n, with these inputs. */
static void read_rows(struct mtp *h, struct mtp_slot *s, const int32_t *tokens, const float *inputs, uint32_t n)
{
    const uint64_t start = clock_ns();
    for (uint32_t some; n; n -= some, inputs += (size_t)some * h->n_embd) {
        struct batch b = new_batch(h);
        some = (uint32_t)size_min(n, h->n_batch);
        b.inputs = inputs;
        add_rows(h, &b, s, s->n, tokens + s->first + s->n + 1, some);
        (void)backend_run(h->runner.be, &b); /* fails only where it is cancelled, and nobody can */
        s->n += some;
    }
    h->spent += (double)(clock_ns() - start) * 1e-9;
}

double mtp_follow(struct mtp *h, struct mtp_slot *s, const int32_t *tokens, uint32_t pos, uint32_t n, const float *left,
                  bool may_read)
{
    h->spent = 0;
    if (pos > s->known) restart(s, tokens, pos);
    cut(s, pos);
    memcpy(s->tokens + pos, tokens + pos, n * sizeof *tokens);
    if (n_waiting(s) + n > MTP_LAG) {
        if (!may_read) {
            restart(s, tokens, pos + n);
            return 0;
        }
        read_rows(h, s, tokens, s->waiting, n_waiting(s));
        const uint32_t now = n - 1; /* nobody knows yet what follows the last one */
        s->known = pos + now;
        read_rows(h, s, tokens, left, now);
        left += (size_t)now * h->n_embd;
        pos += now;
        n = 1;
    }
    memcpy(s->waiting + (size_t)n_waiting(s) * h->n_embd, left, (size_t)n * h->n_embd * sizeof *left);
    s->known = pos + n;
    return h->spent;
}

/* ---- guesses ------------------------------------------------------------------------------------------------------------ */

bool mtp_ready(const struct mtp_slot *s, uint32_t n)
{
    return n > s->first + s->n + 1 && n <= s->known + 1;
}

/* Draws a job's guess number i from its row of logits. */
static void draw(struct mtp *h, struct draft_job *j, uint32_t i, const float *row)
{
    struct err e;
    int32_t *out = &j->tokens[j->n_tokens + i];
    if (sampler_pick(&h->sampler, j->sampling, row, j->tokens, j->n_tokens + i, j->step + i, out, &e) < 0) j->n = i;
}

/* The first pass: of each job all rows that wait, the last of which reads the last token. */
static void add_waiting(struct mtp *h, struct batch *b, struct draft_job *j)
{
    struct mtp_slot *s = j->head;
    const uint32_t n = j->n_tokens - 1 - s->first - s->n;
    memcpy(h->inputs + (size_t)b->n_rows * h->n_embd, s->waiting, (size_t)n * h->n_embd * sizeof *s->waiting);
    add_rows(h, b, s, s->n, j->tokens + s->first + s->n + 1, n);
    s->n += n;
    s->known = s->first + s->n;
}

/* A later one, number i: the guess before, and what the head left of the job's last row in the pass before. */
static void add_guess(struct mtp *h, struct batch *b, struct draft_job *j, uint32_t i)
{
    memcpy(h->inputs + (size_t)b->n_rows * h->n_embd, backend_kept(h->runner.be) + (size_t)j->row * h->n_embd,
           h->n_embd * sizeof *h->inputs);
    add_rows(h, b, j->head, j->head->n + i - 1, j->tokens + j->n_tokens + i - 1, 1);
}

/* Pass number i; false where nobody wants it. */
static bool pass(struct mtp *h, struct draft_job *jobs, uint32_t n_jobs, uint32_t i)
{
    struct batch b = new_batch(h);
    for (uint32_t k = 0; k < n_jobs; k++) {
        struct draft_job *j = &jobs[k];
        if (j->head->n + i > h->n_ctx) j->n = (uint32_t)size_min(j->n, i);
        if (j->n <= i) continue;
        if (i == 0)
            add_waiting(h, &b, j);
        else
            add_guess(h, &b, j, i);
        h->out[b.n_out++] = j->row = b.n_rows - 1;
    }
    if (b.n_out == 0) return false;
    (void)backend_run(h->runner.be, &b);
    const float *row = backend_logits(h->runner.be);
    for (uint32_t k = 0; k < n_jobs; k++) {
        if (jobs[k].n <= i) continue;
        draw(h, &jobs[k], i, row);
        row += h->runner.m->hp.n_vocab;
    }
    return true;
}

uint32_t mtp_guess(struct mtp *h, struct draft_job *jobs, uint32_t n_jobs)
{
    const uint64_t start = clock_ns();
    uint32_t n = 0;
    while (pass(h, jobs, n_jobs, n)) n++;
    if (n) draft_keep_time(&h->pass_seconds, (double)(clock_ns() - start) * 1e-9 / n);
    return n;
}
