/* session: one sequence of tokens, the cache and the states that belong to it, and the backend that computes. The invariant:
 * the cache holds the keys and values of tokens[0 .. n_done), computed with the rotary frequencies of rope_class, and the
 * present state is the one behind them. Tokens from n_done to n_tokens, which a cut may leave, are computed by the next
 * evaluation. */
#include "run/run.h"

struct session {
    const struct model *m;
    struct arena arena; /* graph, rope, tokens */
    struct graph graph;
    struct rope ropes[ROPE_SETS];
    float *inv_freq[ROPE_SETS]; /* [rope dim / 2], what ropes point to */
    uint32_t rope_class;
    struct backend *be;
    struct kernels kernels;
    struct kv kv;
    struct states states;
    int32_t *tokens; /* [n_ctx] */
    uint32_t *out;   /* [max_out]: 0, 1, 2, ... */
    uint32_t n_tokens, n_done, n_ctx, n_batch, max_out, n_redo, n_expected, n_outputs;
    struct batch_seq last; /* what the last batch computed, as long as that may be taken back; n_rows 0: it may not */
    const uint8_t *types;  /* of the next evaluation's tokens */
    float *lora_scales;    /* [n_loras] of all tokens */
    uint32_t n_loras;
    const float *logits;       /* of the last token, in the backend */
    session_follow_fn *follow; /* NULL: nobody watches */
    void *follow_ctx;
    atomic_int cancel;
};

/* Logits of a batch may take so much memory; more rows are computed in several batches. */
#define LOGITS_BYTES ((size_t)64 << 20)

/* Frequencies for a sequence of n tokens. */
static void set_rope(struct session *s, uint32_t n)
{
    s->rope_class = model_rope_class(s->m, n);
    for (uint32_t i = 0; i < s->m->hp.n_ropes; i++) model_rope(s->m, i, n, s->inv_freq[i], &s->ropes[i].scale);
}

static int open_parts(struct session *s, const struct session_options *o, struct err *e)
{
    const struct hparams *hp = &s->m->hp;
    s->tokens = arena_array(&s->arena, s->n_ctx, sizeof *s->tokens);
    s->out = arena_array(&s->arena, s->max_out, sizeof *s->out);
    s->n_loras = o->n_loras;
    s->lora_scales = arena_array(&s->arena, size_max(o->n_loras, 1), sizeof *s->lora_scales);
    if (!s->tokens || !s->out || !s->lora_scales) return fail_nomem(e, "the session", s->n_ctx * sizeof *s->tokens);
    for (uint32_t i = 0; i < s->max_out; i++) s->out[i] = i;
    for (uint32_t i = 0; i < hp->n_ropes; i++) {
        const uint32_t n_pairs = hp->rope[i].dim / 2;
        s->inv_freq[i] = arena_array(&s->arena, n_pairs, sizeof(float));
        if (!s->inv_freq[i]) return fail_nomem(e, "rotary frequencies", n_pairs * sizeof(float));
        s->ropes[i] = (struct rope){.inv_freq = s->inv_freq[i], .n_pairs = n_pairs, .neox = hp->rope_neox};
    }
    set_rope(s, s->n_expected);

    TRY(kernels_init(&s->kernels, o->cpu_level, e));
    graph_init(&s->graph, &s->arena);
    TRY(graph_plan(&s->graph, model_record(s->m, s->ropes, o->hidden, &s->graph), e));
    struct backend_options bo = {.n_threads = o->n_threads,
                                 .max_rows = s->n_batch,
                                 .max_out = s->max_out,
                                 .max_redo = s->n_redo,
                                 .max_positions = s->n_ctx,
                                 .cpu_level = o->cpu_level,
                                 .loras = o->loras,
                                 .n_loras = o->n_loras,
                                 .from_disk = s->m->from_disk};
    TRY(backend_open_cpu(&s->graph, &bo, &s->be, e));
    TRY(states_init(&s->states, s->graph.state_floats, e));
    return kv_init(&s->kv, s->m, o->k_type, o->v_type, s->n_ctx, e);
}

int session_new(const struct model *m, const struct session_options *o, struct session **out, struct err *e)
{
    if (o->n_ctx == 0 || o->n_batch == 0) return fail(e, ERR_ARG, "a session needs room for at least one token");
    if (!attn_bits(o->k_type) || !attn_bits(o->v_type))
        return fail(e, ERR_UNSUPPORTED, "a KV cache cannot be of type %s; expected f32, f16, bf16, q8_0 or q4_0",
                    qtypes[attn_bits(o->k_type) ? o->v_type : o->k_type].name);
    if (!o->hidden) TRY(model_check_generates(m, e));
    struct session *s = mem_zalloc(sizeof *s);
    if (!s) return fail_nomem(e, "the session", sizeof *s);
    s->m = m;
    s->n_ctx = o->n_ctx;
    s->n_batch = (uint32_t)size_min(o->n_batch, o->n_ctx);
    s->n_outputs = model_outputs(m, o->hidden);
    s->max_out = (uint32_t)size_max(1, size_min(s->n_batch, LOGITS_BYTES / (s->n_outputs * sizeof(float))));
    s->n_redo = (uint32_t)size_min(o->n_redo, s->max_out);
    s->n_expected = o->n_expected;
    int rc = open_parts(s, o, e);
    if (rc < 0) {
        session_free(&s);
        return rc;
    }
    *out = s;
    return 0;
}

void session_free(struct session **sp)
{
    struct session *s = *sp;
    if (!s) return;
    backend_close(&s->be);
    kv_fini(&s->kv);
    states_fini(&s->states);
    arena_fini(&s->arena);
    mem_free(s);
    *sp = NULL;
}

const struct model *session_model(const struct session *s)
{
    return s->m;
}
uint32_t session_n_tokens(const struct session *s)
{
    return s->n_tokens;
}
uint32_t session_n_ctx(const struct session *s)
{
    return s->n_ctx;
}
uint32_t session_n_batch(const struct session *s)
{
    return s->n_batch;
}
const struct kv *session_kv(const struct session *s)
{
    return &s->kv;
}
const struct states *session_states(const struct session *s)
{
    return &s->states;
}
struct backend_info session_backend(const struct session *s)
{
    return backend_info(s->be);
}
const struct kernels *session_kernels(const struct session *s)
{
    return &s->kernels;
}
const struct graph *session_graph(const struct session *s)
{
    return &s->graph;
}
void session_observe(struct session *s, observe_fn *fn, void *ctx)
{
    backend_observe(s->be, fn, ctx);
}
const float *session_logits(const struct session *s)
{
    return s->logits;
}
const int32_t *session_tokens(const struct session *s)
{
    return s->tokens;
}
void session_follow(struct session *s, session_follow_fn *fn, void *ctx)
{
    s->follow = fn;
    s->follow_ctx = ctx;
}
void session_types(struct session *s, const uint8_t *types)
{
    s->types = types;
}
void session_cancel(struct session *s)
{
    atomic_store(&s->cancel, 1);
}
void session_cancel_clear(struct session *s)
{
    atomic_store(&s->cancel, 0);
}
bool session_cancelled(const struct session *s)
{
    return atomic_load(&s->cancel) != 0;
}

int session_speculator(const struct session *s, const struct speculate_options *how, struct speculator **out, struct err *e)
{
    const struct speculator_options o = {.how = *how,
                                         .n_seqs = 1,
                                         .n_ctx = s->n_ctx,
                                         .n_batch = s->n_batch,
                                         .n_redo = s->n_redo,
                                         .k_type = s->kv.view.k_type,
                                         .v_type = s->kv.view.v_type,
                                         .cpu_level = backend_info(s->be).level,
                                         .beside = s->be};
    return speculator_new(&s->graph, s->m, &o, out, e);
}

/* Computes tokens[n_done .. to), of which those from `wanted` on give logits to row (NULL: to nobody). */
static int compute(struct session *s, uint32_t to, uint32_t wanted, session_row_fn *row, void *ctx)
{
    uint32_t at = s->n_done;
    while (at < to) {
        bool all = row && at >= wanted;
        uint32_t n = (uint32_t)size_min(all ? s->max_out : s->n_batch, to - at);
        if (row && at < wanted) n = (uint32_t)size_min(n, wanted - at);
        uint32_t last = n - 1;
        const bool may_redo = s->states.floats && all && at == s->n_done && n > 1 && n <= s->n_redo;
        const struct batch_seq seq = {.kv = &s->kv.view,
                                      .n_rows = n,
                                      .pos = at,
                                      .state = states_step(&s->states, n, at + n == to && !may_redo),
                                      .lora_scales = s->lora_scales};
        s->last = may_redo ? seq : (struct batch_seq){0};
        struct batch batch = {.tokens = s->tokens + at,
                              .n_rows = n,
                              .types = s->types ? s->types + (at - s->n_tokens) : NULL,
                              .seqs = &seq,
                              .n_seqs = 1,
                              .may_redo = may_redo,
                              .cancel = &s->cancel};
        if (all)
            batch.out = s->out, batch.n_out = n;
        else if (at + n == to)
            batch.out = &last, batch.n_out = 1;
        TRY(backend_run(s->be, &batch));
        if (s->follow) s->follow(s->follow_ctx, s->tokens, at, n, backend_kept(s->be));
        const float *logits = backend_logits(s->be);
        for (uint32_t i = 0; all && i < n; i++) row(ctx, at + i - wanted, logits + (size_t)i * s->n_outputs);
        if (batch.n_out) s->logits = logits + (size_t)(batch.n_out - 1) * s->n_outputs;
        at += n;
    }
    return 0;
}

int session_eval(struct session *s, const int32_t *ids, size_t n, session_row_fn *row, void *ctx, struct err *e)
{
    if (n == 0) return 0;
    if (n > s->n_ctx - s->n_tokens)
        return fail(e, ERR_CONTEXT, "%zu tokens do not fit: the context holds %u and %u are in use", n, s->n_ctx, s->n_tokens);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= s->m->hp.n_vocab)
            return fail(e, ERR_ARG, "token %d (number %zu) is outside the vocabulary of %u", ids[i], i, s->m->hp.n_vocab);

    const uint32_t total = s->n_tokens + (uint32_t)n, length = (uint32_t)size_max(total, s->n_expected);
    memcpy(s->tokens + s->n_tokens, ids, n * sizeof *ids);
    if (model_rope_class(s->m, length) != s->rope_class) {
        set_rope(s, length); /* all positions turn with the new frequencies: everything is computed anew */
        s->n_done = states_cut(&s->states, 0);
    }
    int rc = compute(s, total, s->n_tokens, row, ctx);
    if (rc < 0) {
        states_undo(&s->states);
        s->last.n_rows = 0;
        s->logits = NULL;
        return fail(e, rc, "%s", err_text(rc));
    }
    states_done(&s->states, total);
    s->n_tokens = s->n_done = total;
    return 0;
}

/* Goes back into the last batch. */
static void redo(struct session *s, uint32_t n_keep)
{
    struct batch_seq seq = s->last;
    seq.n_rows = n_keep - seq.pos;
    backend_redo(s->be, &seq, 1);
    states_redone(&s->states, n_keep);
}

void session_truncate(struct session *s, uint32_t n_keep)
{
    if (n_keep >= s->n_tokens) return;
    if (s->last.n_rows && n_keep > s->last.pos) redo(s, n_keep);
    s->last.n_rows = 0;
    s->n_tokens = n_keep;
    s->n_done = states_cut(&s->states, (uint32_t)size_min(s->n_done, n_keep));
    s->logits = NULL;
    if (n_keep == 0) set_rope(s, s->n_expected);
}

void session_use(struct session *s, const float *lora_scales)
{
    const size_t bytes = s->n_loras * sizeof *lora_scales;
    if (bytes == 0 || memcmp(s->lora_scales, lora_scales, bytes) == 0) return;
    memcpy(s->lora_scales, lora_scales, bytes);
    session_truncate(s, 0);
}

int session_sync(struct session *s, const int32_t *ids, size_t n, uint32_t *reused, struct err *e)
{
    if (n == 0) return fail(e, ERR_ARG, "the prompt has no tokens");
    if (n > s->n_ctx)
        return fail(e, ERR_CONTEXT, "the prompt has %zu tokens, but the context holds %u (a larger one: -c)", n, s->n_ctx);
    uint32_t same = tokens_alike(s->tokens, s->n_tokens, ids, (uint32_t)n);
    if (same == n) same--; /* the last token is computed again for its logits */
    session_truncate(s, same);
    const uint32_t rope_class = s->rope_class, done = s->n_done;
    TRY(session_eval(s, ids + same, n - same, NULL, NULL, e));
    *reused = s->rope_class == rope_class ? done : 0; /* with new frequencies all was computed anew */
    return 0;
}
