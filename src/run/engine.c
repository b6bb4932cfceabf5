/* engine: many sequences computed together. One thread takes requests from a queue, gives each its pages, and goes in steps: a
 * step is one run of the graph over the next token of every answer under way and pieces of the prompts that are still to be
 * read.
 *
 * What a sequence gets does not depend on its company: the kernels compute every row alike, and a draw is a function of the
 * request's seed and the number of tokens drawn. Everything that a request needs is reserved when it is admitted.
 *
 *   lock guards the queue, the counters and the states that other threads read. Only the engine's thread touches running
 * requests. */
#include "run/run.h"

#include <math.h>

#define PIECE_SECONDS 0.25        /* of a step: how long answers wait for a piece of a prompt at most */
#define PIECE_MIN 16              /* tokens of a prompt in a step at least */
#define STATE_EVERY (8 * KV_PAGE) /* of prompts: positions at which a recurrent state is kept, beside the last page's end */

enum stage { WAITING, RUNNING, ENDED };

struct request {
    struct engine *en;
    struct request *next;
    struct arena arena;
    struct request_options o; /* what it points to is in the arena */
    struct stream stream;
    struct constraint form;
    enum stage stage;
    struct request_info info; /* as of the last step; inside the lock */
    atomic_bool cancel;
    int32_t *tokens;                  /* [cap] prompt and answer */
    uint32_t n_tokens, n_done, cap;   /* known; of these in the cache; most */
    uint32_t *pages;                  /* [n_pages] numbers */
    uint8_t **addresses;              /* [n_pages] */
    uint32_t n_pages, n_kept, parent; /* in the tree, from the first on; the last of them */
    uint32_t rope_class;
    uint64_t key;          /* of its pages: prefix_key */
    struct parcel *parcel; /* NULL: there is no disk */
    struct kv_view view;
    /* Of models with recurrent layers: the state that it works with; the one to go on from instead, at first; the one to be
     * kept of this step, and its position; the page behind which the last one of the answer is kept. */
    uint32_t state, from, kept, kept_at, answer_page;
    struct guesser *guesser; /* NULL: nobody guesses */
    bool guesses;            /* it does, since the last time that the tokens were read */
    uint32_t n_guesses;      /* in this step */
    struct request_result r;
    bool over; /* after this step, with err */
    struct err err;
    uint64_t submitted, admitted, first;
};

struct engine {
    const struct model *m;
    const struct tok *tok;
    struct engine_options o;
    struct runner runner;
    struct prefix prefix;
    struct park *park;     /* NULL: none */
    uint64_t n_news, seen; /* parcels that the disk is done with, and cancels; the same when the queue was last looked at */
    bool blocked;          /* the first in the queue waits for the disk, with none running */
    struct sampler sampler;
    struct speculator *speculator; /* NULL: nobody guesses */
    struct worker_thread *thread;
    struct monitor *lock;
    bool stopping;
    struct request *waiting, **waiting_end;
    struct request **running; /* [n_parallel] in the order of admission */
    uint32_t n_running, n_waiting;
    struct engine_counters counters;
    uint32_t n_free, n_kept; /* pages, as of late: those of prefix change while others look */
    uint64_t *lora_digests;  /* [n_loras] */
    double prefill_rate;     /* prompt tokens a second, of late; 0: not known */
    /* Of a step. */
    int32_t *tokens;           /* [n_batch] */
    struct batch_seq *seqs;    /* [n_parallel] */
    struct request **who;      /* [n_parallel] of each sequence */
    struct guesser **guessers; /* [n_parallel] of those that write */
    uint32_t n_guessers;
    struct batch_seq *redo; /* [n_parallel] of which not all rows stand */
    uint32_t *out;          /* [max_out] rows with logits */
    atomic_int stop_run;
};

/* ---- the end of a request ---------------------------------------------------------------------------------------------- */

static void give_pages(struct request *q)
{
    for (uint32_t i = 0; i < q->n_pages; i++) prefix_give(&q->en->prefix, q->pages[i]);
    q->n_pages = 0;
}

static void give_states(struct request *q)
{
    uint32_t *const held[] = {&q->state, &q->from, &q->kept};
    for (size_t i = 0; i < COUNT_OF(held); i++) {
        if (*held[i] != NO_STATE) prefix_give_state(&q->en->prefix, *held[i]);
        *held[i] = NO_STATE;
    }
}

static void end_guesses(struct request *q)
{
    if (!q->guesses) return;
    const struct guess_counts n = guesser_counts(q->guesser);
    q->r.generated.guesses.guessed += n.guessed;
    q->r.generated.guesses.right += n.right;
    q->r.generated.guesses.expected += n.expected;
    q->r.generated.guesses.expected_right += n.expected_right;
    guesser_end(q->guesser);
    q->guesses = false;
}

static void note_times(struct request *q)
{
    q->r.generated.prefill_ns = q->first ? q->first - q->admitted : 0;
    q->r.generated.decode_ns = q->first ? clock_ns() - q->first : 0;
}

/* Called with nothing locked. */
static void finish(struct request *q, int error, const char *message)
{
    q->r.error = error;
    q->r.message = message;
    note_times(q);
    q->r.tail = q->stage == RUNNING ? stream_end(&q->stream) : (struct str){0};
    if (q->o.on_end) q->o.on_end(q->o.user, &q->r);
}

/* Inside the lock. */
static void note_pages(struct engine *en)
{
    en->n_free = en->prefix.n_free;
    en->n_kept = en->prefix.n_kept;
}

static void mark_ended(struct request *q)
{
    struct engine *en = q->en;
    monitor_enter(en->lock);
    note_pages(en);
    q->stage = ENDED;
    monitor_wake(en->lock);
    monitor_leave(en->lock);
}

/* The pages of q that others may use go to the disk, too, which gives them back later. */
static void park_pages(struct engine *en, struct request *q)
{
    if (!q->parcel || q->n_kept == 0) return;
    park_store(en->park, &en->prefix, &q->parcel, q->tokens, q->pages, q->n_kept);
    q->n_pages -= q->n_kept;
    memmove(q->pages, q->pages + q->n_kept, q->n_pages * sizeof *q->pages);
}

/* Takes a running request out. */
static void retire(struct engine *en, uint32_t i, int error, const char *message)
{
    struct request *q = en->running[i];
    end_guesses(q);
    finish(q, error, message);
    give_states(q);
    park_pages(en, q);
    give_pages(q);
    monitor_enter(en->lock);
    en->n_running--;
    memmove(en->running + i, en->running + i + 1, (en->n_running - i) * sizeof(*en->running));
    monitor_leave(en->lock);
    mark_ended(q);
}

/* ---- admission --------------------------------------------------------------------------------------------------------- */

static uint32_t pages_for(uint32_t n)
{
    return n / KV_PAGE + (n % KV_PAGE != 0);
}

/* A recurrent model goes on from the last page that matched and has a state. */
static bool reserve_states(struct request *q)
{
    struct prefix *t = &q->en->prefix;
    if (t->state_floats == 0) return true;
    while (q->n_pages && (q->from = prefix_find_state(t, q->pages[q->n_pages - 1])) == NO_STATE)
        prefix_give(t, q->pages[--q->n_pages]);
    return prefix_take_state(t, &q->state); /* there are enough for all that run */
}

/* Pages of q's beginning that are known in memory and can be gone on from. */
static uint32_t usable_pages(struct prefix *t, const struct request *q)
{
    uint32_t n = q->n_pages;
    for (uint32_t state; t->state_floats && n > 0; n--) {
        if ((state = prefix_find_state(t, q->pages[n - 1])) == NO_STATE) continue;
        prefix_give_state(t, state);
        break;
    }
    return n;
}

/* Takes the pages of q's beginning that are known; false while the disk is searched for more. */
static bool find_beginning(struct engine *en, struct request *q)
{
    struct prefix *t = &en->prefix;
    const uint32_t n = q->n_tokens - 1; /* the last one is computed in any case */
    if (en->o.no_prefix) return true;
    if (q->parcel && q->parcel->asked && park_searches(en->park, q->parcel)) return false;
    q->n_pages = prefix_match(t, q->tokens, n, q->key, q->pages);
    if (!q->parcel) return true;
    const uint32_t before = usable_pages(t, q);
    if (!q->parcel->asked && before < n / KV_PAGE) {
        park_search(en->park, q->parcel, q->tokens, n / KV_PAGE, q->n_pages, before);
        give_pages(q);
        return false;
    }
    q->n_pages = park_unpack(t, q->parcel, q->pages, q->n_pages);
    q->r.n_parked += (usable_pages(t, q) - before) * KV_PAGE;
    return true;
}

/* How many of the first n tokens of r's prompt others can go on from, when it has been read. */
static uint32_t leaves(const struct request *r, uint32_t n)
{
    const uint32_t last = (r->o.n_prompt - 1) / KV_PAGE * KV_PAGE;
    if (r->en->prefix.state_floats == 0 || n >= last) return n / KV_PAGE * KV_PAGE;
    return n / STATE_EVERY * STATE_EVERY;
}

/* Whether a request that runs is about to compute some of q's beginning. Waiting for that costs q nothing, nor those behind it:
 * older prompts are read first. */
static bool comes_soon(const struct engine *en, const struct request *q)
{
    if (en->o.no_prefix || q->admitted) return false;
    for (uint32_t i = 0; i < en->n_running; i++) {
        const struct request *r = en->running[i];
        if (r->key != q->key || r->n_done >= r->o.n_prompt) continue;
        if (leaves(r, tokens_alike(q->tokens, q->n_tokens - 1, r->tokens, r->o.n_prompt)) > r->n_kept * KV_PAGE) return true;
    }
    return false;
}

/* Gives q its pages; false where it must wait: for another request, for the disk, or for pages. */
static bool reserve(struct engine *en, struct request *q)
{
    const uint32_t want = pages_for(q->cap);
    if (comes_soon(en, q)) return false;
    if (!find_beginning(en, q)) return false;
    if (!reserve_states(q) || want - q->n_pages > prefix_available(&en->prefix)) {
        give_states(q);
        give_pages(q);
        if (en->park) park_hurry(en->park);
        return false;
    }
    q->n_kept = q->n_pages;
    q->parent = q->n_pages ? q->pages[q->n_pages - 1] : PREFIX_ROOT;
    q->n_done = q->n_pages * KV_PAGE;
    if (!q->admitted) {
        q->r.generated.n_reused = q->n_done;
        prefix_miss(&en->prefix, q->tokens, q->o.n_prompt, q->pages, q->n_pages, &q->r.miss);
    }
    while (q->n_pages < want) {
        if (!prefix_take(&en->prefix, &q->pages[q->n_pages])) { /* cannot be: they were counted */
            give_states(q);
            give_pages(q);
            return false;
        }
        q->n_pages++;
    }
    for (uint32_t i = 0; i < want; i++) q->addresses[i] = prefix_page(&en->prefix, q->pages[i]);
    return true;
}

static bool slot_taken(const struct engine *en, uint32_t slot)
{
    for (uint32_t i = 0; i < en->n_running; i++)
        if (en->running[i]->info.slot == slot) return true;
    return false;
}

/* The oldest request first; those behind it wait until it fits. The lock, which is held, is left for the work: only this thread
 * takes from the queue. */
static void admit(struct engine *en)
{
    en->blocked = false;
    while (en->waiting && en->n_running < en->o.n_parallel) {
        struct request *q = en->waiting;
        monitor_leave(en->lock);
        const bool ready = reserve(en, q);
        monitor_enter(en->lock);
        en->blocked = !ready && !en->n_running;
        if (!ready) return;
        en->waiting = q->next;
        if (!en->waiting) en->waiting_end = &en->waiting;
        en->n_waiting--;
        q->stage = RUNNING;
        for (q->info.slot = 0; slot_taken(en, q->info.slot);) q->info.slot++;
        en->running[en->n_running++] = q;
        if (q->admitted) continue; /* it comes back from a shift */
        q->admitted = clock_ns();
        q->info.n_known = q->n_done;
        en->counters.prompt_tokens += q->o.n_prompt;
        en->counters.reused_tokens += q->info.n_reused = q->n_done;
        en->counters.parked_tokens += q->r.n_parked;
        en->counters.requests++;
    }
}

/* Waiting requests that were cancelled, as a list of their own. */
static struct request *take_cancelled(struct engine *en)
{
    struct request *taken = NULL, **end = &taken;
    for (struct request **p = &en->waiting; *p;) {
        struct request *q = *p;
        if (!atomic_load(&q->cancel) && !en->stopping) {
            p = &q->next;
            continue;
        }
        *p = q->next;
        q->next = NULL;
        *end = q;
        end = &q->next;
        en->n_waiting--;
    }
    en->waiting_end = &en->waiting;
    while (*en->waiting_end) en->waiting_end = &(*en->waiting_end)->next;
    return taken;
}

/* ---- a step ------------------------------------------------------------------------------------------------------------ */

/* Prompt tokens that this step may compute beside the answers. */
static uint32_t prompt_budget(const struct engine *en, uint32_t n_rows, bool answers)
{
    uint32_t n = en->o.n_batch - n_rows;
    if (!answers || en->prefill_rate <= 0) return n;
    const double limit = fmax(PIECE_MIN, en->prefill_rate * PIECE_SECONDS);
    return limit < n ? (uint32_t)limit : n;
}

/* Where in the next n tokens of q, guesses too, the state is to be kept: at the end of the prompt's last whole page; in prompts
 * now and then and in answers with each page, as far as the tokens go. 0: nowhere. */
static uint32_t keep_at(const struct request *q, uint32_t n)
{
    const uint32_t end = q->n_done + n, last = (q->o.n_prompt - 1) / KV_PAGE * KV_PAGE;
    const uint32_t unit = end > q->o.n_prompt ? KV_PAGE : STATE_EVERY, at = end / unit * unit;
    if (q->en->o.no_prefix) return 0;
    if (last > q->n_done && last <= end) return last;
    return at > q->n_done ? at : 0;
}

static struct state_step state_step(struct request *q, uint32_t n)
{
    struct prefix *t = &q->en->prefix;
    if (t->state_floats == 0) return (struct state_step){0};
    struct state_step s = {.from = prefix_state(t, q->from != NO_STATE ? q->from
                                                   : q->n_done         ? q->state
                                                                       : NO_STATE),
                           .to = prefix_state(t, q->state)};
    q->kept_at = keep_at(q, n);
    if (!q->kept_at || !prefix_take_state(t, &q->kept) || q->kept_at == q->n_done + n) return s;
    s.keep = prefix_state(t, q->kept);
    s.keep_rows = q->kept_at - q->n_done;
    return s;
}

/* At the beginning, and again where the tokens have become others. */
static void begin_guesses(struct request *q)
{
    const struct guess_options o = {.how = q->o.speculate,
                                    .max = q->o.draft_max,
                                    .min = q->o.draft_min,
                                    .sampling = &q->o.sampling,
                                    .n_drawn = q->r.generated.n_generated};
    guesser_begin(q->guesser, &o, q->tokens, q->n_tokens);
    q->guesses = true;
}

/* What q goes on from stays as it is, for guesses may be wrong. False: no state is free, which cannot be. */
static bool set_aside(struct request *q)
{
    struct prefix *t = &q->en->prefix;
    if (t->state_floats == 0 || q->from != NO_STATE) return true;
    q->from = q->state;
    if (prefix_take_state(t, &q->state)) return true;
    q->from = NO_STATE;
    return false;
}

/* Adds what was guessed of q behind its next token, which is the last of the batch so far. */
static void add_guesses(struct engine *en, struct batch *b, struct request *q)
{
    const int32_t *guesses = guesser_guesses(q->guesser, &q->n_guesses);
    if (q->n_guesses == 0 || !set_aside(q)) {
        q->n_guesses = 0;
        return;
    }
    memcpy(en->tokens + b->n_rows, guesses, q->n_guesses * sizeof *guesses);
    en->seqs[b->n_seqs - 1].n_rows += q->n_guesses;
    for (uint32_t i = 0; i < q->n_guesses; i++) en->out[b->n_out++] = b->n_rows++;
    b->may_redo = true;
}

/* Adds the next n tokens of q to the batch, and guesses where there may be some. */
static void add_rows(struct engine *en, struct batch *b, struct request *q, uint32_t n, bool guesses)
{
    if (q->guesser && !q->guesses) begin_guesses(q);
    struct batch_seq *seq = &en->seqs[b->n_seqs];
    *seq = (struct batch_seq){.kv = &q->view, .row = b->n_rows, .n_rows = n, .pos = q->n_done};
    seq->lora_scales = q->o.lora_scales;
    en->who[b->n_seqs++] = q;
    memcpy(en->tokens + b->n_rows, q->tokens + q->n_done, n * sizeof *en->tokens);
    b->n_rows += n;
    if (q->n_done + n == q->n_tokens) en->out[b->n_out++] = b->n_rows - 1;
    if (guesses) add_guesses(en, b, q);
    seq->state = state_step(q, seq->n_rows);
}

static bool writes(const struct request *q, uint32_t rope_class)
{
    return q->rope_class == rope_class && q->n_tokens - q->n_done == 1;
}

/* Guesses for all that write, where no prompt is to be read in the same step. */
static void guess(struct engine *en, uint32_t rope_class)
{
    en->n_guessers = 0;
    for (uint32_t i = 0; i < en->n_running; i++) en->running[i]->n_guesses = 0;
    for (uint32_t i = 0; en->speculator && i < en->n_running; i++) {
        struct request *q = en->running[i];
        if (q->rope_class != rope_class) continue;
        if (!q->guesses || !writes(q, rope_class)) {
            en->n_guessers = 0;
            return;
        }
        en->guessers[en->n_guessers++] = q->guesser;
    }
    if (en->n_guessers) speculator_guess(en->speculator, en->guessers, en->n_guessers, en->o.n_batch - en->n_guessers);
}

/* Tokens that q has to read before it writes. */
static uint32_t unread(const struct request *q, uint32_t rope_class)
{
    const uint32_t n = q->n_tokens - q->n_done;
    return q->rope_class == rope_class && n > 1 ? n : 0;
}

/* Rows of prompts, `left` at most; whether there are any. The prompt that came first has half of them at least, so that each is
 * read in the end; for the rest it comes behind the others, of which the shortest are first: a short one does not wait until a
 * long one is read. */
static bool add_prompts(struct engine *en, struct batch *b, uint32_t class, uint32_t left)
{
    uint32_t first = 0, others = 0, last = 0, last_at = 0; /* last: what the prompt at last_at, taken last, had to read */
    while (first < en->n_running && !unread(en->running[first], class)) first++;
    if (first == en->n_running || left == 0) return false;
    for (uint32_t i = first + 1; i < en->n_running; i++) others += unread(en->running[i], class);
    const uint32_t own = (uint32_t)size_min(unread(en->running[first], class), left - size_min(left / 2, others));
    add_rows(en, b, en->running[first], own, false);
    left -= own;
    while (left > 0) {
        uint32_t next = 0, at = 0; /* the shortest behind the last; as long ones in their order */
        for (uint32_t i = first + 1; i < en->n_running; i++) {
            const uint32_t n = unread(en->running[i], class);
            if (n > last || (n > 0 && n == last && i > last_at))
                if (next == 0 || n < next) next = n, at = i;
        }
        if (next == 0) break;
        const uint32_t n = (uint32_t)size_min(left, next);
        add_rows(en, b, en->running[at], n, false);
        left -= n;
        last = next, last_at = at;
    }
    return true;
}

/* Answers first, then prompts by age. Only sequences that turn with the same frequencies go together: those of the oldest. */
static bool compose(struct engine *en, struct batch *b)
{
    bool answers = false;
    const uint32_t class = en->running[0]->rope_class;
    guess(en, class);
    *b = (struct batch){.tokens = en->tokens, .seqs = en->seqs, .out = en->out, .cancel = &en->stop_run};
    for (uint32_t i = 0; i < en->n_running; i++) {
        struct request *q = en->running[i];
        if (!writes(q, class) || b->n_rows == en->o.n_batch) continue;
        add_rows(en, b, q, 1, en->n_guessers > 0);
        answers = true;
    }
    const bool prompts = add_prompts(en, b, class, prompt_budget(en, b->n_rows, answers));
    if (en->runner.rope_class != class) runner_set_length(&en->runner, en->running[0]->cap);
    return prompts;
}

/* Pages of q that became full are kept for others. */
static void keep_pages(struct engine *en, struct request *q)
{
    if (en->o.no_prefix) return;
    for (; (q->n_kept + 1) * KV_PAGE <= q->n_done; q->n_kept++) {
        const uint32_t i = q->n_kept;
        q->pages[i] = q->parent = prefix_keep(&en->prefix, q->parent, q->tokens + i * KV_PAGE, q->key, q->pages[i]);
        q->addresses[i] = prefix_page(&en->prefix, q->pages[i]);
    }
}

/* The state that is to be kept goes behind its page; of the answer only the last one stays. */
static void keep_state(struct engine *en, struct request *q)
{
    struct prefix *t = &en->prefix;
    if (q->from != NO_STATE) prefix_give_state(t, q->from);
    q->from = NO_STATE;
    if (q->kept == NO_STATE) return;
    const uint32_t page = q->pages[q->kept_at / KV_PAGE - 1], other = q->kept;
    if (q->kept_at == q->n_done) { /* it is the present one: q goes on from it, and works with the other */
        q->kept = q->state;
        q->state = other;
    }
    prefix_keep_state(t, page, q->kept);
    if (q->kept_at == q->n_done) q->from = prefix_find_state(t, page);
    q->kept = NO_STATE;
    if (q->kept_at <= q->o.n_prompt) return;
    if (q->answer_page != NO_STATE) prefix_keep_state(t, q->answer_page, NO_STATE);
    q->answer_page = page;
}

static bool is_eog(const struct request *q, int32_t id)
{
    for (size_t i = 0; i < q->o.n_eog; i++)
        if (q->o.eog[i] == id) return true;
    return false;
}

static uint32_t index_of(const struct engine *en, const struct request *q)
{
    uint32_t i = 0;
    while (en->running[i] != q) i++;
    return i;
}

/* A full q goes on as if the tokens that stay and id were a new prompt: it gives back what it holds, and is the next to be
 * admitted. So whatever it needs, no page is ever missing. */
static void shift(struct engine *en, struct request *q, int32_t id)
{
    const uint32_t gone = shift_tokens(q->tokens, q->n_tokens, q->o.n_keep);
    q->r.generated.n_shifted += gone;
    q->n_tokens -= gone;
    q->tokens[q->n_tokens++] = id;
    q->o.n_prompt = q->n_tokens;
    q->answer_page = NO_STATE;
    give_states(q);
    give_pages(q);
    end_guesses(q);
    monitor_enter(en->lock);
    const uint32_t i = index_of(en, q);
    en->n_running--;
    memmove(en->running + i, en->running + i + 1, (en->n_running - i) * sizeof(*en->running));
    q->stage = WAITING;
    q->next = en->waiting;
    if (!en->waiting) en->waiting_end = &q->next;
    en->waiting = q;
    en->n_waiting++;
    monitor_leave(en->lock);
}

/* Draws the next token of q and hands out what it made; true where the request ends, with its error if e has one. */
static bool draw(struct engine *en, struct request *q, const float *logits, struct err *e)
{
    int32_t ids[TOP_MAX];
    float probs[TOP_MAX];
    struct generate_result *r = &q->r.generated;
    struct token_event t = {0};
    r->stop = STOP_LENGTH;
    if (q->o.prompt_only) return true;
    if (constraint_mask(&q->form, &en->sampler.allowed, e) < 0) return true;
    if (sampler_pick(&en->sampler, &q->o.sampling, logits, q->tokens, q->n_tokens, r->n_generated, &t.id, e) < 0) return true;
    if (r->n_generated++ == 0) {
        q->first = clock_ns();
        r->first_token_ns = q->first - q->submitted;
    }
    if (q->guesses) guesser_add(q->guesser, t.id);
    if (q->o.logprobs) token_probs(&en->sampler, &en->runner.kernels, logits, q->o.n_top, &t, ids, probs);
    bool end = (!q->o.ignore_eos || q->form.matcher) && is_eog(q, t.id);
    if (!end && constraint_put(&q->form, t.id, e) < 0) return true;
    if (!end && stream_put(&q->stream, t.id, &t.text, e) < 0) return true;
    note_times(q);
    t.so_far = r;
    if (q->o.on_token) q->o.on_token(q->o.user, &t);
    end = end || constraint_done(&q->form);
    r->stop = end ? STOP_EOS : q->stream.stopped ? STOP_STRING : STOP_LENGTH;
    r->stop_index = q->stream.stop_index;
    if (end || q->stream.stopped || (q->o.max_tokens && r->n_generated == q->o.max_tokens)) return true;
    if (q->n_tokens == q->cap && q->o.shift && q->cap > 1) {
        shift(en, q, t.id);
        return false;
    }
    if (q->n_tokens == q->cap) {
        r->stop = STOP_CONTEXT;
        return true;
    }
    q->tokens[q->n_tokens++] = t.id;
    return false;
}

/* Draws what follows the last known token of q and, as long as they are right, its guesses [n_guesses]; logits: a row of each.
 * Returns how many were right. */
static uint32_t write_on(struct engine *en, struct request *q, const int32_t *guesses, const float *logits)
{
    for (uint32_t i = 0;; i++) {
        const uint32_t at = q->n_tokens;
        q->over = draw(en, q, logits + (size_t)i * en->m->hp.n_vocab, &q->err);
        if (q->over || i == q->n_guesses || q->tokens[at] != guesses[i] || atomic_load(&q->cancel)) return i;
        q->n_done++;
        keep_pages(en, q);
    }
}

/* Those of the rows that stand are what the model's own head reads. */
static void follow(struct engine *en, struct request *q, const struct batch_seq *rows)
{
    const float *kept = backend_kept(en->runner.be);
    if (!q->guesses || !kept || q->over) return;
    guesser_follow(q->guesser, q->tokens, rows->pos, q->n_done - rows->pos, kept + (size_t)rows->row * en->m->hp.n_embd);
}

/* Recurrent states become those of the rows that stand; what they were to be kept at must stand, too. Returns the seconds. */
static double settle_states(struct engine *en, const struct batch *b)
{
    const uint64_t start = clock_ns();
    uint32_t n = 0;
    for (uint32_t s = 0; s < b->n_seqs; s++) {
        struct request *q = en->who[s];
        const uint32_t stand = q->n_done - en->seqs[s].pos;
        if (q->state == NO_STATE || stand == en->seqs[s].n_rows) continue; /* NO_STATE: it was shifted */
        if (q->kept != NO_STATE && q->kept_at > q->n_done) {
            prefix_give_state(&en->prefix, q->kept);
            q->kept = NO_STATE;
        }
        en->redo[n] = en->seqs[s];
        en->redo[n].state.keep = NULL;
        en->redo[n++].n_rows = stand;
    }
    if (n) backend_redo(en->runner.be, en->redo, n);
    return (double)(clock_ns() - start) * 1e-9;
}

/* What the step made of each sequence; the number of guesses that were right. Adds what wrong ones took to *seconds. */
static uint32_t take_rows(struct engine *en, const struct batch *b, double *seconds)
{
    const float *logits = backend_logits(en->runner.be);
    uint32_t n_right = 0;
    for (uint32_t s = 0; s < b->n_seqs; s++) {
        struct request *q = en->who[s];
        const struct batch_seq *rows = &en->seqs[s];
        q->n_done += rows->n_rows - q->n_guesses;
        keep_pages(en, q);
        if (q->n_done == q->n_tokens) {
            if (!atomic_load(&q->cancel)) /* else it is seen before the next step */
                n_right += write_on(en, q, b->tokens + rows->row + 1, logits);
            logits += (1 + q->n_guesses) * (size_t)en->m->hp.n_vocab;
        }
    }
    *seconds += settle_states(en, b);
    for (uint32_t s = 0; s < b->n_seqs; s++) {
        keep_state(en, en->who[s]);
        follow(en, en->who[s], &en->seqs[s]);
    }
    return n_right;
}

static void count_step(struct engine *en, const struct batch *b, bool prompts, double seconds, uint32_t n_right)
{
    uint32_t n_guesses = 0;
    for (uint32_t s = 0; s < b->n_seqs; s++) n_guesses += en->who[s]->n_guesses;
    if (prompts) en->prefill_rate = b->n_rows / seconds;
    monitor_enter(en->lock);
    note_pages(en);
    for (uint32_t s = 0; s < b->n_seqs; s++) {
        struct request *q = en->who[s];
        /* A context that was shifted is read again, but its prompt has been known. */
        q->info.n_known = (uint32_t)size_max(q->info.n_known, size_min(q->n_done, q->r.generated.n_prompt));
        q->info.n_generated = q->r.generated.n_generated;
    }
    *(prompts ? &en->counters.prefill_seconds : &en->counters.decode_seconds) += seconds;
    en->counters.generated_tokens += b->n_out - n_guesses + n_right;
    en->counters.guessed_tokens += n_guesses;
    en->counters.right_tokens += n_right;
    monitor_leave(en->lock);
}

static void step(struct engine *en)
{
    struct batch b;
    const uint64_t start = clock_ns();
    const bool prompts = compose(en, &b);
    const uint64_t composed = clock_ns();
    const int rc = backend_run(en->runner.be, &b);
    const uint64_t end = clock_ns();
    if (rc < 0) return; /* stopping: everything ends */
    double seconds = (double)(end - composed) * 1e-9;
    const uint32_t n_right = take_rows(en, &b, &seconds);
    count_step(en, &b, prompts, (double)(end - start) * 1e-9, n_right);
    if (en->n_guessers) speculator_learn(en->speculator, en->guessers, en->n_guessers, seconds);
    for (uint32_t i = 0; i < en->n_running;)
        if (en->running[i]->over)
            retire(en, i, en->running[i]->err.code, en->running[i]->err.msg);
        else
            i++;
#ifndef NDEBUG
    monitor_enter(en->lock);
    en->counters.inconsistent += !prefix_consistent(&en->prefix);
    monitor_leave(en->lock);
#endif
}

/* Something happened that requests may wait for. */
static void news(void *engine)
{
    struct engine *en = engine;
    monitor_enter(en->lock);
    en->n_news++;
    monitor_wake(en->lock);
    monitor_leave(en->lock);
}

static bool idle(const struct engine *en)
{
    return !en->n_running && !en->stopping && (!en->waiting || (en->blocked && en->n_news == en->seen));
}

/* Inside the lock, which is left for it. */
static void collect_pages(struct engine *en)
{
    en->seen = en->n_news;
    if (!en->park) return;
    monitor_leave(en->lock);
    park_collect(en->park, &en->prefix);
    monitor_enter(en->lock);
    note_pages(en);
}

static void work(void *arg)
{
    struct engine *en = arg;
    monitor_enter(en->lock);
    for (;;) {
        collect_pages(en);
        struct request *cancelled = take_cancelled(en);
        const bool stopping = en->stopping;
        if (!stopping) admit(en);
        monitor_leave(en->lock);
        for (struct request *q = cancelled, *next; q; q = next) {
            next = q->next;
            finish(q, ERR_CANCELLED, "cancelled");
            mark_ended(q);
        }
        for (uint32_t i = 0; i < en->n_running;)
            if (stopping || atomic_load(&en->running[i]->cancel))
                retire(en, i, ERR_CANCELLED, "cancelled");
            else
                i++;
        if (en->n_running) step(en);
        monitor_enter(en->lock);
        if (stopping && !en->waiting && !en->n_running) break;
        if (idle(en)) monitor_wait(en->lock);
    }
    monitor_leave(en->lock);
}

/* ---- opening ----------------------------------------------------------------------------------------------------------- */

/* Beside activations and recurrent states the pages must fit the memory. */
static int limit_pages(struct engine *en, uint32_t n_states, struct err *e)
{
    struct engine_options *o = &en->o;
    size_t page;
    struct kv_layer *layers = arena_array(&en->runner.arena, en->m->hp.n_layers, sizeof *layers);
    if (!layers) return fail_nomem(e, "the engine", en->m->hp.n_layers * sizeof *layers);
    if (!kv_layout(en->m, o->k_type, o->v_type, layers, &page)) return fail(e, ERR_LIMIT, "pages of an impossible size");
    const uint64_t others = backend_info(en->runner.be).bytes + en->runner.graph.state_floats * sizeof(float) * n_states;
    const uint64_t most = others < o->memory_bytes ? (o->memory_bytes - others) / page : 0;
    if (o->memory_bytes && most < o->n_pages) o->n_pages = (uint32_t)size_max(most, pages_for(o->n_ctx));
    return 0;
}

/* Rows of a step beside prompts: the next token of each that runs, and guesses. */
static uint32_t rows_of_answers(const struct engine_options *o)
{
    return (uint32_t)size_min(o->n_batch, o->n_parallel + (size_t)speculate_max(&o->speculate));
}

static uint32_t rows_redone(const struct engine_options *o)
{
    return speculate_max(&o->speculate) ? rows_of_answers(o) : 0;
}

static int open_runner(struct engine *en, struct err *e)
{
    const struct engine_options *o = &en->o;
    const struct runner_options ro = {.n_batch = o->n_batch,
                                      .max_out = rows_of_answers(o),
                                      .n_redo = rows_redone(o),
                                      .n_ctx = o->n_ctx,
                                      .n_threads = o->n_threads,
                                      .cpu_level = o->cpu_level,
                                      .loras = o->loras,
                                      .n_loras = o->n_loras};
    return runner_init(&en->runner, en->m, &ro, e);
}

/* The arrays of running requests and of a step; of the adapters, which are the caller's, their digests. */
static int open_arrays(struct engine *en, struct err *e)
{
    struct engine_options *o = &en->o;
    struct arena *a = &en->runner.arena;
    en->running = arena_array(a, o->n_parallel, sizeof(*en->running));
    en->who = arena_array(a, o->n_parallel, sizeof(*en->who));
    en->seqs = arena_array(a, o->n_parallel, sizeof *en->seqs);
    en->redo = arena_array(a, o->n_parallel, sizeof *en->redo);
    en->guessers = arena_array(a, o->n_parallel, sizeof(*en->guessers));
    en->out = arena_array(a, rows_of_answers(o), sizeof *en->out);
    en->tokens = arena_array(a, o->n_batch, sizeof *en->tokens);
    en->lora_digests = arena_array(a, size_max(o->n_loras, 1), sizeof *en->lora_digests);
    if (!en->running || !en->who || !en->seqs || !en->redo || !en->guessers || !en->out || !en->tokens || !en->lora_digests)
        return fail_nomem(e, "the engine", o->n_batch * sizeof *en->tokens);
    for (uint32_t i = 0; i < o->n_loras; i++) en->lora_digests[i] = o->loras[i].digest;
    o->loras = NULL;
    return 0;
}

static int open_prefix(struct engine *en, struct err *e)
{
    const struct engine_options *o = &en->o;
    /* Of each that runs: the state that it works with, the one that it began from, one to keep; one more where it guesses. Two
     * that go to the disk. */
    const uint32_t each = (o->no_prefix ? 1u : 3u) + (speculate_max(&o->speculate) ? 1u : 0u);
    const uint32_t n_states = each * o->n_parallel + (o->park_folder ? 2 : 0);
    TRY(limit_pages(en, n_states, e));
    const struct prefix_options po = {.k_type = o->k_type,
                                      .v_type = o->v_type,
                                      .n_pages = o->n_pages,
                                      .state_floats = en->runner.graph.state_floats,
                                      .n_states = n_states};
    TRY(prefix_init(&en->prefix, en->m, &po, e));
    note_pages(en);
    return 0;
}

static int open_speculator(struct engine *en, struct err *e)
{
    const struct engine_options *o = &en->o;
    const struct speculator_options so = {.how = o->speculate,
                                          .n_seqs = o->n_parallel,
                                          .n_ctx = o->n_ctx,
                                          .n_batch = o->n_batch,
                                          .n_redo = rows_redone(o),
                                          .k_type = o->k_type,
                                          .v_type = o->v_type,
                                          .cpu_level = o->cpu_level,
                                          .beside = en->runner.be};
    return speculator_new(&en->runner.graph, en->m, &so, &en->speculator, e);
}

static int open_park(struct engine *en, struct err *e)
{
    const struct engine_options *o = &en->o;
    const struct park_options ko = {.folder = o->park_folder,
                                    .max_bytes = o->park_bytes,
                                    .k_type = o->k_type,
                                    .v_type = o->v_type,
                                    .on_message = o->on_message,
                                    .user = o->user,
                                    .on_done = news,
                                    .engine = en};
    return o->park_folder && !o->no_prefix ? park_open(&ko, en->m, &en->prefix, &en->park, e) : 0;
}

static int open_parts(struct engine *en, struct err *e)
{
    en->o.n_parallel = (uint32_t)size_min(en->o.n_parallel, en->o.n_batch);
    TRY(open_runner(en, e));
    TRY(open_arrays(en, e));
    TRY(sampler_init(&en->sampler, &en->runner.kernels, en->m->hp.n_vocab, e));
    TRY(open_prefix(en, e));
    TRY(open_speculator(en, e));
    TRY(monitor_new(&en->lock, e));
    TRY(open_park(en, e));
    return worker_start(work, en, &en->thread, e);
}

int engine_new(const struct model *m, const struct tok *t, const struct engine_options *o, struct engine **out, struct err *e)
{
    if (o->n_ctx == 0 || o->n_batch == 0 || o->n_parallel == 0) return fail(e, ERR_ARG, "an engine needs room for a token");
    if (o->n_pages < pages_for(o->n_ctx))
        return fail(e, ERR_ARG,
                    "a KV cache of %u pages of %d tokens cannot hold one request of %u tokens; a smaller context needs less",
                    o->n_pages, KV_PAGE, o->n_ctx);
    TRY(model_check_generates(m, e));
    struct engine *en = mem_zalloc(sizeof *en);
    if (!en) return fail_nomem(e, "the engine", sizeof *en);
    en->m = m;
    en->tok = t;
    en->o = *o;
    en->waiting_end = &en->waiting;
    const int rc = open_parts(en, e);
    if (rc < 0) {
        engine_free(&en);
        return rc;
    }
    *out = en;
    return 0;
}

void engine_free(struct engine **ep)
{
    struct engine *en = *ep;
    if (!en) return;
    if (en->thread) {
        monitor_enter(en->lock);
        en->stopping = true;
        atomic_store(&en->stop_run, 1);
        monitor_wake(en->lock);
        monitor_leave(en->lock);
        worker_join(&en->thread);
    }
    park_close(&en->park);
    monitor_free(&en->lock);
    prefix_fini(&en->prefix);
    sampler_fini(&en->sampler);
    speculator_free(&en->speculator);
    runner_fini(&en->runner);
    mem_free(en);
    *ep = NULL;
}

void engine_info(struct engine *en, struct engine_info *out)
{
    const struct backend_info b = backend_info(en->runner.be);
    const struct prefix *t = &en->prefix;
    monitor_enter(en->lock);
    *out = (struct engine_info){.counters = en->counters, .n_running = en->n_running, .n_waiting = en->n_waiting};
    const uint32_t n_free = en->n_free, n_kept = en->n_kept;
    monitor_leave(en->lock);
    out->options = en->o;
    out->level = b.level;
    out->n_threads = b.n_threads;
    out->compute_bytes = b.bytes;
    out->kv_bytes = t->bytes;
    out->kv_cached_bytes = (uint64_t)n_kept * t->page_bytes;
    out->kv_used_bytes = (uint64_t)(t->n_pages - n_free) * t->page_bytes;
    out->kv_token_bytes = t->page_bytes / KV_PAGE;
    out->state_bytes = t->state_bytes;
    out->speculates = en->speculator != NULL;
    out->draft_bytes = speculator_bytes(en->speculator);
}

/* ---- requests ---------------------------------------------------------------------------------------------------------- */

static void *copy(struct arena *a, const void *p, size_t n, size_t size)
{
    void *to = arena_array(a, size_max(n, 1), size);
    if (to && n) memcpy(to, p, n * size);
    return to;
}

/* Of the adapters that a request uses, and how much of each; 0: none. */
static uint64_t adapters_key(const struct engine *en, const float *scales)
{
    uint64_t h = 0;
    for (uint32_t i = 0; scales && i < en->o.n_loras; i++) {
        if (scales[i] == 0) continue;
        h = bytes_hash(h ^ en->lora_digests[i], &scales[i], sizeof scales[i]);
    }
    return h;
}

/* Everything that the request will need, in its arena. */
static int prepare(struct request *q, const struct request_options *o, struct err *e)
{
    struct engine *en = q->en;
    struct arena *a = &q->arena;
    const uint32_t most = en->o.n_ctx;
    q->o = *o;
    q->cap = o->max_tokens && o->max_tokens < most - o->n_prompt ? o->n_prompt + o->max_tokens : most;
    if (o->prompt_only) q->cap = o->n_prompt;
    q->rope_class = model_rope_class(en->m, q->cap);
    q->key = prefix_key(q->rope_class, adapters_key(en, o->lora_scales));
    q->n_tokens = o->n_prompt;
    q->state = q->from = q->kept = q->answer_page = NO_STATE;
    q->tokens = arena_array(a, q->cap, sizeof *q->tokens);
    q->pages = arena_array(a, pages_for(q->cap), sizeof *q->pages);
    q->addresses = arena_array(a, pages_for(q->cap), sizeof *q->addresses);
    struct bias *bias = copy(a, o->sampling.bias, o->sampling.n_bias, sizeof *bias);
    struct str *stop = copy(a, o->stop, o->n_stop, sizeof *stop);
    int32_t *eog = copy(a, o->eog, o->n_eog, sizeof *eog);
    float *scales = copy(a, o->lora_scales, o->lora_scales ? en->o.n_loras : 0, sizeof *scales);
    if (!q->tokens || !q->pages || !q->addresses || !bias || !stop || !eog || !scales)
        return fail_nomem(e, "a request", q->cap * sizeof *q->tokens);
    memcpy(q->tokens, o->prompt, o->n_prompt * sizeof *q->tokens);
    for (size_t i = 0; i < o->n_stop; i++)
        if (!(stop[i].p = arena_dup(a, o->stop[i].p, o->stop[i].n))) return fail_nomem(e, "a stop string", o->stop[i].n);
    q->o.sampling.bias = bias;
    q->o.stop = stop;
    q->o.eog = eog;
    q->o.lora_scales = o->lora_scales ? scales : NULL;
    q->o.prompt = q->tokens;
    q->view =
        (struct kv_view){.k_type = en->o.k_type, .v_type = en->o.v_type, .layers = en->prefix.layers, .pages = q->addresses};
    q->r.generated.n_prompt = o->n_prompt;
    if (en->park) {
        TRY(parcel_new(en->park, q->cap, &q->parcel, e));
        q->parcel->key = q->key;
    }
    if (en->speculator && o->speculate != SPECULATE_OFF)
        TRY(guesser_new(en->speculator, a, q->cap, o->expected, (uint32_t)size_min(o->n_expected, en->o.n_ctx), &q->guesser,
                        e));
    TRY(constraint_init(&q->form, &o->constraint, en->tok, e));
    return stream_init(&q->stream, en->tok, o->show_special, q->o.stop, o->n_stop, e);
}

static int check_tokens(const struct engine *en, const int32_t *ids, uint32_t n, struct err *e)
{
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= en->m->hp.n_vocab)
            return fail(e, ERR_ARG, "token %d (number %u) is outside the vocabulary of %u", ids[i], i, en->m->hp.n_vocab);
    return 0;
}

static int check(const struct engine *en, const struct request_options *o, struct err *e)
{
    if (o->n_prompt == 0) return fail(e, ERR_ARG, "the prompt has no tokens");
    if (o->n_prompt >= en->o.n_ctx)
        return fail(e, ERR_CONTEXT, "the prompt has %u tokens, but the context holds %u with at least one of the answer",
                    o->n_prompt, en->o.n_ctx);
    if (!o->shift && o->max_tokens && o->max_tokens > en->o.n_ctx - o->n_prompt)
        return fail(e, ERR_CONTEXT, "%u tokens of prompt and up to %u of answer do not fit: the context holds %u", o->n_prompt,
                    o->max_tokens, en->o.n_ctx);
    TRY(check_tokens(en, o->prompt, o->n_prompt, e));
    TRY(check_tokens(en, o->expected, o->n_expected, e));
    for (uint32_t i = 0; o->lora_scales && i < en->o.n_loras; i++)
        if (!isfinite(o->lora_scales[i])) return fail(e, ERR_ARG, "the scale of adapter %u is no number", i);
    if (o->n_top > TOP_MAX) return fail(e, ERR_ARG, "%u likeliest tokens; at most %d", o->n_top, TOP_MAX);
    return sampling_check(&o->sampling, en->m->hp.n_vocab, e);
}

static void discard(struct request **qp)
{
    if ((*qp)->parcel) parcel_free((*qp)->en->park, &(*qp)->parcel);
    stream_fini(&(*qp)->stream);
    constraint_fini(&(*qp)->form);
    arena_fini(&(*qp)->arena);
    mem_free(*qp);
    *qp = NULL;
}

int engine_submit(struct engine *en, const struct request_options *o, struct request **out, struct err *e)
{
    TRY(check(en, o, e));
    struct request *q = mem_zalloc(sizeof *q);
    if (!q) return fail_nomem(e, "a request", sizeof *q);
    q->en = en;
    int rc = prepare(q, o, e);
    if (rc == 0) {
        monitor_enter(en->lock);
        if (en->n_waiting >= en->o.n_queue) {
            rc = fail(e, ERR_LIMIT, "%u requests wait already; the queue is full", en->n_waiting);
        } else {
            q->submitted = clock_ns();
            *out = *en->waiting_end = q;
            en->waiting_end = &q->next;
            en->n_waiting++;
            monitor_wake(en->lock);
        }
        monitor_leave(en->lock);
    }
    if (rc < 0) discard(&q);
    return rc;
}

void request_cancel(struct request *q)
{
    atomic_store(&q->cancel, true);
    news(q->en);
}

void request_info(struct request *q, struct request_info *out)
{
    monitor_enter(q->en->lock);
    *out = q->info;
    out->running = q->stage == RUNNING;
    monitor_leave(q->en->lock);
    out->n_prompt = q->r.generated.n_prompt;
}

void request_free(struct request **qp)
{
    struct request *q = *qp;
    if (!q) return;
    request_cancel(q);
    monitor_enter(q->en->lock);
    while (q->stage != ENDED) monitor_wait(q->en->lock);
    monitor_leave(q->en->lock);
    discard(qp);
}
