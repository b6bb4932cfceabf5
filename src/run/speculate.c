/* speculate: whether to guess, how, and how far.
 *
 * Two things are measured while requests run. The cost: seconds of a step by its number of rows, and of a pass of the draft
 * model or of the model's own head. The odds: how often a guess was right, by where it came from (one of these, or a match of
 * so many tokens) and how far it reached; of each sequence, and of all so far, which is where a new sequence begins. From these
 * follows how many tokens a second any number of guesses promises; the best is taken, and none where plain steps are as good.
 *
 * What is believed may be wrong, so it is not trusted further than it has paid. A sequence has a credit in seconds, that grows
 * by a part of the time that passes, by what guesses saved, and falls by what they cost in vain; a step whose guesses may cost
 * more than the credit does not guess. What it begins with, half a step, and what the draft model takes to read its prompt come
 * from a purse of all sequences, which is filled in the same way. So where guesses never hold, answers take in the long run
 * at most 1.25 % longer than without. Odds and costs that are not used drift back to what is usual, so that a later try is
 * made. */
#include "run/speculate_int.h"

#include <math.h>

#define MARGIN 1.03          /* by which guesses must promise to be faster */
#define CREDIT_START 0.5     /* steps */
#define CREDIT_GROWTH 0.0075 /* of the time */
#define CREDIT_MOST 16       /* steps */
#define ANSWER_START 64      /* tokens: how long an answer is thought to be at first */
#define READ_GAIN 2          /* times what it costs, that letting the draft model read a prompt must promise */
#define HEAD_READS 1024      /* tokens at the end of a prompt that the model's own head reads: it looks back no further */
#define PURSE_START 32       /* steps */
#define PURSE_GROWTH 0.005   /* of the time */
#define PURSE_MOST 1024      /* steps */
#define PLAIN_EVERY 64       /* steps without a plain one, which the cost of plain steps would be guessed from */
#define ROW_COST 0.25        /* of a step: what one more row is thought to take, where nothing was measured */
#define UNUSED_COST 0.995    /* of the trust in a measurement, per plain step */
#define SURE 4               /* measurements of which the least is taken, before what is lower only counts more */
#define MOST_UP 1.1          /* times what was known: more of a single measurement is the machine's doing */

/* ---- odds -------------------------------------------------------------------------------------------------------------- */

/* Kinds of guesses: by the length of the match that they follow, those of the draft model, and of the model's own head. */
enum { KIND_DRAFT = 5, KIND_MTP, N_KINDS };
enum { N_PLACES = 4 }; /* first, second, third or fourth guess in a row, later */

/* How often a guess was right, the older the less it counts. */
struct odds {
    double right, all;
};
#define FORGET_SEQUENCE 0.95
#define FORGET_ALL 0.99
#define UNUSED_SEQUENCE 0.98 /* per step that did not guess */
#define UNUSED_ALL 0.998
#define WEIGHT 3.0 /* guesses that what is usual stands for */

static uint32_t kind_of(uint32_t same)
{
    return same <= 2 ? 0 : same == 3 ? 1 : same <= 5 ? 2 : same <= 9 ? 3 : 4;
}

static uint32_t place_of(uint32_t i)
{
    return i < 2 ? i : i < 4 ? 2 : 3;
}

static double chance(const struct odds *o, double usual)
{
    return (o->right + WEIGHT * usual) / (o->all + WEIGHT);
}

static void count(struct odds *o, bool right, double forget)
{
    o->right = o->right * forget + right;
    o->all = o->all * forget + 1;
}

static void fade(struct odds o[N_PLACES], double part)
{
    for (uint32_t i = 0; i < N_PLACES; i++) o[i].right *= part, o[i].all *= part;
}

/* ---- the parts --------------------------------------------------------------------------------------------------------- */

struct speculator {
    struct speculate_options o;
    struct drafter *drafter; /* NULL: none */
    struct mtp *mtp;         /* NULL: no head */
    double read_share;       /* weight bytes of the draft model or the head, as a share of the model's */
    uint32_t n_rows;         /* most rows of a step that guesses */
    double *cost;            /* [n_rows + 1] seconds of a step; 0: not known */
    double *trust;           /* [n_rows + 1] in that, from 1 down */
    uint8_t *n_measured;     /* [n_rows + 1] how often it was measured, up to SURE */
    struct odds odds[N_KINDS][N_PLACES];
    double answer;  /* tokens that answers have, of late */
    double purse;   /* seconds */
    bool has_purse; /* it begins with the first step, when that is known */
    uint32_t since_plain;
    /* Of the present step. */
    struct guesser **order; /* [SPECULATE_MAX] whose guess each next one is */
    struct draft_job *jobs; /* [n_seqs] */
    double drafting;        /* seconds */
    struct arena arena;
};

struct guesser {
    struct speculator *s;
    struct guess_options o;
    int32_t *tokens;     /* [cap + SPECULATE_MAX] those known, then the guesses; before them, what is expected */
    uint32_t n_expected; /* of which the lookup's places count the tokens, too */
    uint32_t n, cap, n_prompt;
    struct lookup lookup;
    struct draft_slot *slot; /* NULL: none */
    struct mtp_slot *head;   /* NULL: none */
    bool unreadable;         /* the draft model does not know a token, or has no room */
    struct odds odds[N_KINDS][N_PLACES];
    double credit;       /* seconds */
    bool begun, started; /* an answer is under way; it has made a step */
    struct guess_counts counts;
    /* Of the present step: where guesses come from, how many may be and are made, tokens drawn so far, those as guessed. */
    uint32_t kind, at, limit, n_guesses, n_added, n_right;
};

static int map_tokens(struct speculator *s, const struct model *m, const struct speculate_options *how, const int32_t **out,
                      struct err *e)
{
    int32_t *map;
    const int rc = draft_map_new(how->tok, m->hp.n_vocab, how->draft_tok, how->draft->hp.n_vocab, &s->arena, &map, e);
    if (rc == 0) *out = map;
    return rc;
}

static int open_draft(struct speculator *s, const struct model *m, const struct speculator_options *o, struct err *e)
{
    struct drafter_options d = {.n_slots = o->n_seqs,
                                .n_ctx = o->n_ctx,
                                .n_batch = o->n_batch,
                                .k_type = o->k_type,
                                .v_type = o->v_type,
                                .cpu_level = o->cpu_level,
                                .beside = o->beside,
                                .n_vocab = m->hp.n_vocab};
    s->read_share = (double)o->how.draft->decode_bytes / (double)size_max(m->decode_bytes, 1);
    if (o->how.tok) TRY(map_tokens(s, m, &o->how, &d.map, e));
    return drafter_new(o->how.draft, &d, &s->drafter, e);
}

static int open_head(struct speculator *s, const struct model *m, const struct speculator_options *o, struct err *e)
{
    const struct mtp_options d = {.n_slots = o->n_seqs,
                                  .n_ctx = o->n_ctx,
                                  .n_batch = o->n_batch,
                                  .k_type = o->k_type,
                                  .v_type = o->v_type,
                                  .cpu_level = o->cpu_level,
                                  .beside = o->beside};
    s->read_share = (double)m->head->decode_bytes / (double)size_max(m->decode_bytes, 1);
    return mtp_new(m->head, &d, &s->mtp, e);
}

/* What makes guesses beside the lookup: a draft model where there is one, else the model's own head. */
static int open_sources(struct speculator *s, const struct model *m, const struct speculator_options *o, struct err *e)
{
    const enum speculate how = o->how.how;
    if (o->how.draft && (how == SPECULATE_AUTO || how == SPECULATE_DRAFT)) return open_draft(s, m, o, e);
    if (m->head && (how == SPECULATE_AUTO || how == SPECULATE_MTP)) return open_head(s, m, o, e);
    return 0;
}

int speculator_new(const struct graph *graph, const struct model *m, const struct speculator_options *o,
                   struct speculator **out, struct err *e)
{
    *out = NULL;
    if (o->how.max > SPECULATE_MAX) return fail(e, ERR_ARG, "guesses of %u tokens; at most %d", o->how.max, SPECULATE_MAX);
    if (o->how.how == SPECULATE_DRAFT && !o->how.draft)
        return fail(e, ERR_ARG, "guesses of a draft model are asked for, but there is none");
    if (o->how.how == SPECULATE_MTP && !m->head)
        return fail(e, ERR_ARG, "%s: the model has no head for multi-token prediction, whose guesses are asked for",
                    files_path(m->files));
    const size_t most = graph->state_floats ? size_min(o->n_batch, o->n_redo) : o->n_batch; /* rows of a step with guesses */
    if (o->how.how == SPECULATE_OFF || most < 2) return 0;
    struct speculator *s = mem_zalloc(sizeof *s);
    if (!s) return fail_nomem(e, "speculation", sizeof *s);
    s->o = o->how;
    s->o.max = (uint32_t)size_min(speculate_max(&o->how), most - 1);
    s->n_rows = o->n_seqs + s->o.max;
    s->answer = ANSWER_START;
    s->cost = arena_array(&s->arena, s->n_rows + (size_t)1, sizeof *s->cost);
    s->trust = arena_array(&s->arena, s->n_rows + (size_t)1, sizeof *s->trust);
    s->n_measured = arena_array(&s->arena, s->n_rows + (size_t)1, sizeof *s->n_measured);
    s->order = arena_array(&s->arena, SPECULATE_MAX, sizeof(*s->order));
    s->jobs = arena_array(&s->arena, o->n_seqs, sizeof *s->jobs);
    int rc = s->cost && s->trust && s->n_measured && s->order && s->jobs
                 ? 0
                 : fail_nomem(e, "speculation", s->n_rows * sizeof *s->cost);
    for (uint32_t i = 0; rc == 0 && i <= s->n_rows; i++) s->trust[i] = 1;
    if (rc == 0) rc = open_sources(s, m, o, e);
    if (rc < 0)
        speculator_free(&s);
    else
        *out = s;
    return rc;
}

void speculator_free(struct speculator **sp)
{
    struct speculator *s = *sp;
    if (!s) return;
    drafter_free(&s->drafter);
    mtp_free(&s->mtp);
    arena_fini(&s->arena);
    mem_free(s);
    *sp = NULL;
}

size_t speculator_bytes(const struct speculator *s)
{
    if (!s) return 0;
    return s->drafter ? s->drafter->bytes : s->mtp ? s->mtp->bytes : 0;
}

/* ---- one sequence ------------------------------------------------------------------------------------------------------ */

int guesser_new(struct speculator *s, struct arena *a, uint32_t cap, const int32_t *expected, uint32_t n_expected,
                struct guesser **out, struct err *e)
{
    const size_t most = n_expected + (size_t)cap + SPECULATE_MAX;
    struct guesser *g = arena_alloc(a, sizeof *g);
    int32_t *tokens = arena_array(a, most, sizeof *tokens);
    if (!g || !tokens) return fail_nomem(e, "guesses", most * sizeof *tokens);
    if (n_expected) memcpy(tokens, expected, n_expected * sizeof *tokens);
    g->s = s;
    g->tokens = tokens + n_expected;
    g->n_expected = n_expected;
    g->cap = cap;
    *out = g;
    return lookup_init(&g->lookup, a, tokens, n_expected + cap, e);
}

static bool uses(const struct guesser *g, enum speculate how)
{
    const enum speculate own = g->o.how == SPECULATE_AUTO ? g->s->o.how : g->o.how;
    return own == SPECULATE_AUTO || own == how;
}

void guesser_begin(struct guesser *g, const struct guess_options *o, const int32_t *tokens, uint32_t n)
{
    guesser_end(g);
    g->o = *o;
    g->o.max = (uint32_t)size_min(o->max ? o->max : g->s->o.max, g->s->o.max);
    g->o.min = (uint32_t)size_max(o->min ? o->min : g->s->o.min, 1);
    memcpy(g->tokens, tokens, n * sizeof *tokens);
    g->n = g->n_prompt = n;
    g->unreadable = false;
    g->credit = 0;
    g->started = false;
    g->counts = (struct guess_counts){0};
    g->n_guesses = g->n_added = g->n_right = 0;
    memset(g->odds, 0, sizeof g->odds);
    lookup_clear(&g->lookup);
    if (uses(g, SPECULATE_LOOKUP)) lookup_extend(&g->lookup, g->n_expected + n);
    if (g->s->drafter && uses(g, SPECULATE_DRAFT)) g->slot = drafter_take(g->s->drafter, tokens, n);
    if (g->s->mtp && uses(g, SPECULATE_MTP)) g->head = mtp_take(g->s->mtp, tokens, n);
    g->begun = true;
}

void guesser_add(struct guesser *g, int32_t id)
{
    if (!g->begun || g->n == g->cap) return;
    if (g->n_right == g->n_added && g->n_right < g->n_guesses && g->tokens[g->n] == id) g->n_right++;
    g->n_added++;
    g->tokens[g->n++] = id;
}

void guesser_end(struct guesser *g)
{
    if (!g->begun) return;
    if (g->n > g->n_prompt) g->s->answer += 0.2 * (g->n - g->n_prompt - g->s->answer);
    if (g->slot) drafter_give(g->slot);
    if (g->head) mtp_give(g->head);
    g->slot = NULL;
    g->head = NULL;
    g->begun = false;
}

/* What the head reads, other than to guess, is paid for by the purse. */
void guesser_follow(struct guesser *g, const int32_t *tokens, uint32_t pos, uint32_t n, const float *left)
{
    struct speculator *s = g->s;
    if (!g->head || n == 0) return;
    const bool pays = (!s->has_purse || s->purse > 0) && (uint64_t)pos + n + HEAD_READS >= g->n_prompt;
    s->purse -= mtp_follow(s->mtp, g->head, tokens, pos, n, left, s->o.always || pays);
}

const int32_t *guesser_guesses(const struct guesser *g, uint32_t *n)
{
    *n = g->n_guesses;
    return g->tokens + g->n;
}

struct speculator *guesser_speculator(const struct guesser *g)
{
    return g->s;
}

struct guess_counts guesser_counts(const struct guesser *g)
{
    return g->counts;
}

/* ---- what a step costs ------------------------------------------------------------------------------------------------- */

/* Seconds of a step of so many rows: as measured, or on the line between the two nearest that were; beyond them a row takes
 * ROW_COST. Never more than its rows would take in several steps. 0: nothing is known. */
static double cost_of(const struct speculator *s, uint32_t rows)
{
    uint32_t low = rows - 1, high = rows;
    while (low > 0 && s->cost[low] <= 0) low--;
    while (high <= s->n_rows && s->cost[high] <= 0) high++;
    if (low == 0) return high > s->n_rows ? 0 : s->cost[high];
    const double step = s->cost[low], most = step * rows / low;
    if (high > s->n_rows) return fmin(most, step + (rows - low) * ROW_COST * step / low);
    return fmin(most, step + (s->cost[high] - step) * (rows - low) / (high - low));
}

/* Seconds that n sequences may hope for in a step of so many rows. What was measured may have been so at a bad time; where it
 * is dear it is not measured again, so the trust in it fades, and a later try is made. */
static double hoped_cost(const struct speculator *s, uint32_t n, uint32_t rows)
{
    const double known = cost_of(s, rows), usual = cost_of(s, n) * (1 + ROW_COST * (rows - n) / n);
    return known > usual ? usual + s->trust[rows] * (known - usual) : known;
}

/* What a step of n sequences costs with guesses, which is never less than without: where measurements say so, they are of a
 * time when the machine was less busy, and guesses that fail would seem to be paid for. */
static double guessing_cost(const struct speculator *s, uint32_t n, uint32_t rows)
{
    return fmax(cost_of(s, rows), cost_of(s, n));
}

static void fade_trust(struct speculator *s, uint32_t n)
{
    for (uint32_t rows = n + 1; rows <= s->n_rows; rows++) s->trust[rows] *= UNUSED_COST;
}

/* A step took so long. Other work on the machine only ever adds to that, so what is lower counts more, and by the same rules
 * for all numbers of rows: else those that are rarely measured would seem cheaper. What slows one kind of step slows all: the
 * others follow a little. */
static void learn_cost(struct speculator *s, uint32_t rows, double seconds)
{
    double *known = &s->cost[rows];
    s->trust[rows] = 1;
    if (s->n_measured[rows] < SURE) s->n_measured[rows]++;
    if (*known <= 0) {
        const double expected = cost_of(s, rows);
        *known = expected > 0 ? fmin(seconds, 2 * expected) : seconds;
        return;
    }
    const double ratio = fmin(seconds / *known, MOST_UP);
    const double part = ratio >= 1 ? 0.03 : s->n_measured[rows] < SURE ? 1 : 0.3;
    for (uint32_t i = 1; i <= s->n_rows; i++) s->cost[i] *= 1 + (i == rows ? part : 0.1 * part) * (ratio - 1);
}

/* Seconds of a pass of the draft model or the head, and of one token of a prompt that the draft model reads. */
static double pass_cost(const struct speculator *s)
{
    const double known = s->drafter ? s->drafter->pass_seconds : s->mtp->pass_seconds;
    return known > 0 ? known : s->read_share * cost_of(s, 1);
}

static double read_cost(const struct speculator *s)
{
    return s->drafter->row_seconds > 0 ? s->drafter->row_seconds : pass_cost(s) / 4;
}

/* ---- what guesses promise ---------------------------------------------------------------------------------------------- */

/* Where little is known, what such guesses were seen to do elsewhere. A head is trained for its first guess. */
static double usual_chance(const struct speculator *s, uint32_t kind, uint32_t place)
{
    static const double first[N_KINDS][N_PLACES] = {
        {0.3, 0.7, 0.7, 0.7},
        {0.45, 0.7, 0.7, 0.7},
        {0.6, 0.7, 0.7, 0.7},
        {0.75, 0.75, 0.75, 0.75},
        {0.85, 0.85, 0.85, 0.85},
        [KIND_DRAFT] = {0.7, 0.7, 0.7, 0.7},
        [KIND_MTP] = {0.8, 0.65, 0.5, 0.4},
    };
    return chance(&s->odds[kind][place], first[kind][place]);
}

/* Whether each guess of a kind takes a pass of another model. */
static bool is_drafted(uint32_t kind)
{
    return kind == KIND_DRAFT || kind == KIND_MTP;
}

/* That the guess is right, those before it being so. */
static double next_chance(const struct guesser *g, uint32_t kind, uint32_t i)
{
    const uint32_t place = place_of(i);
    return chance(&g->odds[kind][place], usual_chance(g->s, kind, place));
}

/* The most tokens a second that guesses of a kind promise to a sequence by itself. */
static double promise(const struct guesser *g, uint32_t kind)
{
    const struct speculator *s = g->s;
    double best = 0, gain = 0, reach = 1;
    for (uint32_t i = 0; i < g->limit; i++) {
        reach *= next_chance(g, kind, i);
        gain += reach;
        const double seconds = hoped_cost(s, 1, i + 2) + (is_drafted(kind) ? (i + 1) * pass_cost(s) : 0);
        best = fmax(best, (1 + gain) / seconds);
    }
    return best;
}

/* Whether the draft model has read the sequence, or is to do so now, a piece each step. It is where that promises to pay over
 * an answer of the usual length, or as long again as it has become. */
static bool has_read(struct guesser *g, double promised)
{
    struct speculator *s = g->s;
    if (!g->slot || g->unreadable) return false;
    const uint32_t behind = g->n - 1 - g->slot->n, written = g->n - g->n_prompt;
    if (behind <= DRAFT_LAG) return true;
    const double rest = fmin(fmax(s->answer, written), g->cap - g->n), plain = cost_of(s, 1);
    const double taken = behind * read_cost(s);
    if (!s->o.always && (taken > s->purse || rest * (plain - 1 / promised) < READ_GAIN * taken)) return false;
    const bool done = drafter_read(s->drafter, g->slot, g->tokens, g->n);
    s->purse -= (behind - (g->n - 1 - g->slot->n)) * read_cost(s);
    g->unreadable = !done && g->slot->n == g->n - 1 - behind;
    return done;
}

/* Where g's guesses would come from, and how many there may be. */
static void choose_source(struct guesser *g)
{
    uint32_t same = 0;
    const uint32_t room = g->cap - g->n;
    g->limit = room > 1 ? (uint32_t)size_min(g->o.max, room - 1) : 0;
    if (g->limit < g->o.min) {
        g->limit = 0;
        return;
    }
    double best = 0;
    if (uses(g, SPECULATE_LOOKUP)) {
        lookup_extend(&g->lookup, g->n_expected + g->n);
        g->at = lookup_find(&g->lookup, &same);
        if (same) best = promise(g, g->kind = kind_of(same));
    }
    const uint32_t kind = g->slot ? KIND_DRAFT : KIND_MTP;
    const double drafted = g->slot || g->head ? promise(g, kind) : 0;
    if (drafted > best && (g->slot ? has_read(g, drafted) : mtp_ready(g->head, g->n)))
        g->kind = kind;
    else if (g->slot || g->head)
        fade(g->s->odds[kind], UNUSED_ALL);
    if (g->kind == N_KINDS) g->limit = 0;
}

/* ---- how many ---------------------------------------------------------------------------------------------------------- */

/* Of the n sequences, the one whose next guess is likeliest to be reached and right; *reach gets how likely. */
static struct guesser *likeliest(struct guesser *const *g, uint32_t n, double *reach)
{
    struct guesser *best = NULL;
    *reach = 0;
    for (uint32_t k = 0; k < n; k++) {
        double p = 1;
        if (g[k]->n_guesses == g[k]->limit) continue;
        for (uint32_t i = 0; i <= g[k]->n_guesses; i++) p *= next_chance(g[k], g[k]->kind, i);
        if (p > *reach) *reach = p, best = g[k];
    }
    return best;
}

/* Guesses are added one by one, the likeliest first; the number that promises the most tokens a second, and can be paid for
 * where all fail, is kept. */
static uint32_t plan(struct speculator *s, struct guesser *const *g, uint32_t n, uint32_t most)
{
    const double plain = cost_of(s, n);
    double best = MARGIN * n / plain, gain = 0, credit = 0, reach;
    uint32_t total = 0, passes = 0, chosen = 0;
    for (struct guesser *next; total < most && (next = likeliest(g, n, &reach));) {
        if (next->n_guesses++ == 0) credit += next->credit;
        if (is_drafted(next->kind)) passes = (uint32_t)size_max(passes, next->n_guesses);
        s->order[total++] = next;
        gain += reach;
        const double drafting = passes ? passes * pass_cost(s) : 0, seconds = hoped_cost(s, n, n + total) + drafting;
        if (!s->o.always && ((n + gain) / seconds <= best || guessing_cost(s, n, n + total) + drafting - plain > credit))
            continue;
        best = (n + gain) / seconds;
        chosen = total;
    }
    for (; total > chosen; total--) s->order[total - 1]->n_guesses--;
    return chosen;
}

/* Makes the guesses that were planned. */
static void make_guesses(struct speculator *s, struct guesser *const *g, uint32_t n)
{
    uint32_t n_jobs = 0;
    for (uint32_t k = 0; k < n; k++) {
        struct guesser *x = g[k];
        if (x->n_guesses < x->o.min) x->n_guesses = 0;
        if (x->n_guesses && is_drafted(x->kind))
            s->jobs[n_jobs++] = (struct draft_job){.slot = x->slot,
                                                   .head = x->head,
                                                   .tokens = x->tokens,
                                                   .n_tokens = x->n,
                                                   .n = x->n_guesses,
                                                   .sampling = x->o.sampling,
                                                   .step = x->o.n_drawn + x->n - x->n_prompt};
        else /* one by one: the place may be so near that guesses follow guesses */
            for (uint32_t i = 0; i < x->n_guesses; i++) x->tokens[x->n + i] = x->lookup.tokens[x->at + i];
    }
    const uint32_t n_passes = n_jobs == 0  ? 0
                              : s->drafter ? drafter_guess(s->drafter, s->jobs, n_jobs)
                                           : mtp_guess(s->mtp, s->jobs, n_jobs);
    s->drafting = n_passes ? n_passes * pass_cost(s) : 0;
    for (uint32_t k = 0, job = 0; job < n_jobs; k++)
        if (g[k]->n_guesses && is_drafted(g[k]->kind)) {
            g[k]->unreadable = s->jobs[job].n == 0;
            g[k]->n_guesses = s->jobs[job++].n;
        }
}

void speculator_guess(struct speculator *s, struct guesser *const *g, uint32_t n, uint32_t most)
{
    s->drafting = 0;
    for (uint32_t k = 0; k < n; k++) {
        g[k]->n_guesses = g[k]->n_added = g[k]->n_right = g[k]->limit = 0;
        g[k]->kind = N_KINDS;
    }
    const bool known = n <= s->n_rows && s->n_measured[n] == SURE;
    if (!known || s->since_plain == PLAIN_EVERY || most == 0) return;
    for (uint32_t k = 0; k < n; k++) choose_source(g[k]);
    if (plan(s, g, n, (uint32_t)size_min(most, s->o.max))) make_guesses(s, g, n);
}

/* ---- what came of it --------------------------------------------------------------------------------------------------- */

/* Guess i was tested where those before it were right. */
static void learn_odds(struct guesser *g)
{
    struct speculator *s = g->s;
    for (uint32_t i = 0; i < g->n_guesses && i < g->n_added && i <= g->n_right; i++) {
        count(&g->odds[g->kind][place_of(i)], i < g->n_right, FORGET_SEQUENCE);
        count(&s->odds[g->kind][place_of(i)], i < g->n_right, FORGET_ALL);
    }
    if (g->n_guesses == 0 && g->kind < N_KINDS) {
        fade(g->odds[g->kind], UNUSED_SEQUENCE);
        fade(s->odds[g->kind], UNUSED_ALL);
    }
    g->counts.guessed += g->n_guesses;
    g->counts.right += g->n_right;
    if (g->kind < KIND_DRAFT && g->at < g->n_expected) {
        g->counts.expected += g->n_guesses;
        g->counts.expected_right += g->n_right;
    }
    /* What the draft model has taken in of wrong guesses is forgotten. */
    const uint32_t known = g->n - g->n_added + g->n_right;
    if (g->slot) drafter_cut(g->slot, known);
}

/* A step is over that saved so many seconds, all sequences together. */
static void fill_purse(struct speculator *s, double plain, double saved)
{
    s->purse += (s->has_purse ? PURSE_GROWTH : PURSE_START) * plain + saved;
    s->purse = fmin(s->purse, PURSE_MOST * plain);
    s->has_purse = true;
}

/* The same, of one sequence. */
static void give_credit(struct guesser *g, double plain, double saved)
{
    struct speculator *s = g->s;
    const double start = g->started ? 0 : fmin(CREDIT_START * plain, fmax(s->purse, 0));
    s->purse -= start;
    g->started = true;
    g->credit = fmin(g->credit + start + CREDIT_GROWTH * plain + saved, CREDIT_MOST * plain);
}

void speculator_learn(struct speculator *s, struct guesser *const *g, uint32_t n, double seconds)
{
    uint32_t rows = n, n_tokens = 0, n_guessing = 0;
    for (uint32_t k = 0; k < n; k++) {
        rows += g[k]->n_guesses;
        n_tokens += g[k]->n_added;
        n_guessing += g[k]->n_guesses > 0;
        learn_odds(g[k]);
    }
    if (rows > s->n_rows) return;
    learn_cost(s, rows, seconds);
    if (rows == n) fade_trust(s, n);
    /* By what steps usually take, as soon as that is known: a single measurement says more about the machine than about the
     * guesses. */
    const double plain = cost_of(s, n), once = s->n_measured[rows] < SURE ? fmin(seconds, plain * rows / n) : 0;
    const double taken = fmax(guessing_cost(s, n, rows), once) + s->drafting;
    const double saved = n_guessing ? (plain * n_tokens / n - taken) / n_guessing : 0;
    s->since_plain = n_guessing ? s->since_plain + 1 : 0;
    fill_purse(s, plain, saved * n_guessing);
    for (uint32_t k = 0; k < n; k++) give_credit(g[k], plain, g[k]->n_guesses ? saved : 0);
}
