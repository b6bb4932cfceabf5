/* api_engine: quern.h's engine functions. */
#include "api/api_int.h"
#include "machine/machine.h"

#define DEFAULT_CTX 4096
#define DEFAULT_BATCH 512
#define DEFAULT_PARALLEL 4
#define DEFAULT_QUEUE 64
#define MAX_PARALLEL 4096
#define DEFAULT_PREFIX_BYTES ((uint64_t)8 << 30)

struct quern_engine {
    const quern_model *model;
    struct api_loras loras;
    struct engine *en;
};

/* What the caller's callbacks are told in terms of quern.h. */
struct quern_request {
    struct request *q;
    quern_request_options o;
};

/* Pages of the cache: of kv_bytes, or for all requests at once as long as the whole stays below 70 % of the memory. */
static int count_pages(const quern_model *model, const quern_engine_options *o, struct engine_options *eo, struct err *e)
{
    const struct model *m = model->model;
    const uint64_t one = eo->n_ctx / KV_PAGE + (eo->n_ctx % KV_PAGE != 0);
    size_t page;
    struct kv_layer *layers = mem_array(m->hp.n_layers, sizeof *layers);
    if (!layers) return fail_nomem(e, "the engine", m->hp.n_layers * sizeof *layers);
    const bool ok = kv_layout(m, eo->k_type, eo->v_type, layers, &page);
    mem_free(layers);
    if (!ok) return fail(e, ERR_LIMIT, "%s: a page of the KV cache has an impossible size", model->name);
    uint64_t n = one * eo->n_parallel;
    if (o->kv_bytes) {
        n = o->kv_bytes / size_max(page, 1);
    } else {
        uint64_t memory, available;
        const uint64_t weights = files_bytes(m->files);
        machine_memory_under("", &memory, &available);
        memory = memory / 10 * 7;
        eo->memory_bytes = memory > weights ? memory - weights : 1;
    }
    if (n >= UINT32_MAX) return fail(e, ERR_ARG, "a KV cache of %llu pages; at most %u", (unsigned long long)n, UINT32_MAX - 1);
    eo->n_pages = (uint32_t)n;
    return 0;
}

static int make_options(const quern_model *model, const quern_engine_options *o, struct engine_options *eo, struct err *e)
{
    if (!model->model) return fail(e, ERR_ARG, "%s was opened for its vocabulary only", model->name);
    if (o->n_parallel > MAX_PARALLEL) return fail(e, ERR_ARG, "%u requests together; at most %d", o->n_parallel, MAX_PARALLEL);
    struct session_options so = {.k_type = QTYPE_F16, .v_type = QTYPE_F16};
    const quern_session_options qo = {.n_ctx = o->n_ctx,
                                      .n_batch = o->n_batch,
                                      .n_threads = o->n_threads,
                                      .k_type = o->k_type,
                                      .v_type = o->v_type,
                                      .cpu_level = o->cpu_level};
    TRY(api_session_options(&qo, &so, e));
    *eo = (struct engine_options){
        .n_ctx = o->n_ctx ? o->n_ctx : (uint32_t)size_min(model->model->hp.n_ctx_train, DEFAULT_CTX),
        .n_parallel = o->n_parallel ? o->n_parallel : DEFAULT_PARALLEL,
        .n_queue = o->n_queue ? o->n_queue : DEFAULT_QUEUE,
        .n_batch = o->n_batch ? o->n_batch : DEFAULT_BATCH,
        .n_threads = o->n_threads,
        .k_type = so.k_type,
        .v_type = so.v_type,
        .cpu_level = o->cpu_level,
        .no_prefix = o->no_prefix,
        .park_folder = o->prefix_folder,
        .park_bytes = o->prefix_bytes ? o->prefix_bytes : DEFAULT_PREFIX_BYTES,
        .on_message = o->on_message,
        .user = o->user,
    };
    TRY(api_speculation(model, &o->speculation, &eo->speculate, e));
    return count_pages(model, o, eo, e);
}

int quern_engine_new(const quern_model *model, const quern_engine_options *options, quern_engine **out, quern_error *err)
{
    struct err e = {0};
    const quern_engine_options none = {0};
    struct engine_options eo;
    quern_engine *en = mem_zalloc(sizeof *en);
    int rc = en ? make_options(model, options ? options : &none, &eo, &e) : fail_nomem(&e, "the engine", sizeof *en);
    if (rc == 0 && options) rc = api_loras_open(model, options->loras, options->n_loras, &en->loras, &e);
    if (rc == 0) {
        eo.loras = en->loras.loras;
        eo.n_loras = en->loras.n;
        rc = engine_new(model->model, model->tok, &eo, &en->en, &e);
    }
    if (rc < 0) {
        if (en) api_loras_close(&en->loras);
        mem_free(en);
        return api_fail(err, &e);
    }
    en->model = model;
    *out = en;
    return 0;
}

void quern_engine_free(quern_engine **engine)
{
    if (!*engine) return;
    engine_free(&(*engine)->en);
    api_loras_close(&(*engine)->loras);
    mem_free(*engine);
    *engine = NULL;
}

void quern_engine_get_info(quern_engine *engine, quern_engine_info *out)
{
    struct engine_info i;
    *out = (quern_engine_info){0};
    if (!engine) return;
    engine_info(engine->en, &i);
    *out = (quern_engine_info){.n_ctx = i.options.n_ctx,
                               .n_parallel = i.options.n_parallel,
                               .n_batch = i.options.n_batch,
                               .n_threads = i.n_threads,
                               .n_running = i.n_running,
                               .n_waiting = i.n_waiting,
                               .kv_bytes = i.kv_bytes,
                               .kv_used_bytes = i.kv_used_bytes,
                               .kv_cached_bytes = i.kv_cached_bytes,
                               .kv_token_bytes = i.kv_token_bytes,
                               .compute_bytes = i.compute_bytes,
                               .state_bytes = i.state_bytes,
                               .prompt_tokens = i.counters.prompt_tokens,
                               .reused_tokens = i.counters.reused_tokens,
                               .restored_tokens = i.counters.parked_tokens,
                               .generated_tokens = i.counters.generated_tokens,
                               .requests = i.counters.requests,
                               .prefill_seconds = i.counters.prefill_seconds,
                               .decode_seconds = i.counters.decode_seconds,
                               .drafted_tokens = i.counters.guessed_tokens,
                               .accepted_tokens = i.counters.right_tokens,
                               .draft_bytes = i.draft_bytes,
                               .speculates = i.speculates,
                               .k_type = qtypes[i.options.k_type].name,
                               .v_type = qtypes[i.options.v_type].name,
                               .cpu_level = i.level};
}

/* ---- requests ---------------------------------------------------------------------------------------------------------- */

static void tell_token(void *user, const struct token_event *t)
{
    const quern_request *r = user;
    const quern_token q = {.id = t->id,
                           .text = t->text.p,
                           .length = t->text.n,
                           .logprob = t->logprob,
                           .top_ids = t->top_ids,
                           .top_logprobs = t->top_logprobs,
                           .n_top = t->n_top,
                           .so_far = api_result(t->so_far)};
    r->o.on_token(r->o.user, &q);
}

static void tell_end(void *user, const struct request_result *x)
{
    const quern_request *r = user;
    const quern_request_result q = {.error = x->error,
                                    .message = x->message,
                                    .result = api_result(&x->generated),
                                    .tail = x->tail.p,
                                    .tail_length = x->tail.n,
                                    .miss_position = x->miss.pos,
                                    .miss_expected = x->miss.expected,
                                    .miss_found = x->miss.found,
                                    .n_restored = x->n_parked};
    r->o.on_end(r->o.user, &q);
}

int quern_engine_submit(quern_engine *engine, const quern_request_options *o, quern_request **out, quern_error *err)
{
    struct err e = {0};
    struct arena a = {0};
    quern_request *r = mem_zalloc(sizeof *r);
    struct constraint_options form = {0};
    struct str *stop = arena_array(&a, o->n_stop ? o->n_stop : 1, sizeof *stop);
    int rc = r && stop ? 0 : fail_nomem(&e, "a request", sizeof *r);
    if (rc == 0 && o->n_prompt > UINT32_MAX) rc = fail(&e, ERR_CONTEXT, "a prompt of %zu tokens", o->n_prompt);
    if (rc == 0) rc = api_form(engine->model, &o->form, &form, &e);
    if (rc == 0) {
        for (size_t i = 0; i < o->n_stop; i++) stop[i] = str_of(o->stop[i]);
        r->o = *o;
        const struct request_options ro = {.prompt = o->prompt,
                                           .n_prompt = (uint32_t)o->n_prompt,
                                           .max_tokens = o->max_tokens,
                                           .sampling = api_sampling(engine->model, o->sampling),
                                           .constraint = form,
                                           .stop = stop,
                                           .n_stop = o->n_stop,
                                           .eog = engine->model->eog,
                                           .n_eog = engine->model->n_eog,
                                           .ignore_eos = o->ignore_eos,
                                           .prompt_only = o->prompt_only,
                                           .show_special = o->show_special,
                                           .logprobs = o->logprobs,
                                           .n_top = o->n_top,
                                           .shift = o->context_policy == QUERN_CONTEXT_SHIFT,
                                           .n_keep = o->n_keep,
                                           .lora_scales = o->lora_scales ? o->lora_scales : engine->loras.scales,
                                           .speculate = (enum speculate)o->speculate,
                                           .draft_max = o->draft_max,
                                           .draft_min = o->draft_min,
                                           .expected = o->expected,
                                           .n_expected = (uint32_t)size_min(o->n_expected, UINT32_MAX),
                                           .on_token = o->on_token ? tell_token : NULL,
                                           .on_end = o->on_end ? tell_end : NULL,
                                           .user = r};
        *out = r; /* before the first callback */
        rc = engine_submit(engine->en, &ro, &r->q, &e);
    }
    arena_fini(&a);
    if (rc == 0) return 0;
    *out = NULL;
    mem_free(r);
    return api_fail(err, &e);
}

void quern_request_get_info(quern_request *request, quern_request_info *out)
{
    struct request_info i;
    request_info(request->q, &i);
    *out = (quern_request_info){.running = i.running,
                                .slot = i.slot,
                                .n_prompt = i.n_prompt,
                                .n_known = i.n_known,
                                .n_reused = i.n_reused,
                                .n_generated = i.n_generated};
}

void quern_request_cancel(quern_request *request)
{
    request_cancel(request->q);
}

void quern_request_free(quern_request **request)
{
    if (!*request) return;
    request_free(&(*request)->q);
    mem_free(*request);
    *request = NULL;
}
