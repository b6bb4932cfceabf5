/* runner: a model ready to compute: its pass recorded and planned, its rotary frequencies, a backend with its memory. */
#include "run/run.h"

static int open_parts(struct runner *r, const struct runner_options *o, struct err *e)
{
    const struct hparams *hp = &r->m->hp;
    for (uint32_t i = 0; i < hp->n_ropes; i++) {
        const uint32_t n_pairs = hp->rope[i].dim / 2;
        r->inv_freq[i] = arena_array(&r->arena, n_pairs, sizeof(float));
        if (!r->inv_freq[i]) return fail_nomem(e, "rotary frequencies", n_pairs * sizeof(float));
        r->ropes[i] = (struct rope){.inv_freq = r->inv_freq[i], .n_pairs = n_pairs, .neox = hp->rope_neox};
    }
    runner_set_length(r, o->n_expected);
    TRY(kernels_init(&r->kernels, o->cpu_level, e));
    graph_init(&r->graph, &r->arena);
    TRY(graph_plan(&r->graph, model_record(r->m, r->ropes, false, &r->graph), e));
    const struct backend_options bo = {.n_threads = o->n_threads,
                                       .beside = o->beside,
                                       .max_rows = o->n_batch,
                                       .max_out = o->max_out,
                                       .max_redo = o->n_redo,
                                       .max_positions = o->n_ctx,
                                       .cpu_level = o->cpu_level,
                                       .loras = o->loras,
                                       .n_loras = o->n_loras,
                                       .from_disk = r->m->from_disk};
    return backend_open_cpu(&r->graph, &bo, &r->be, e);
}

int runner_init(struct runner *r, const struct model *m, const struct runner_options *o, struct err *e)
{
    *r = (struct runner){.m = m};
    const int rc = open_parts(r, o, e);
    if (rc < 0) runner_fini(r);
    return rc;
}

void runner_fini(struct runner *r)
{
    backend_close(&r->be);
    arena_fini(&r->arena);
    *r = (struct runner){0};
}

void runner_set_length(struct runner *r, uint32_t n)
{
    r->rope_class = model_rope_class(r->m, n);
    for (uint32_t i = 0; i < r->m->hp.n_ropes; i++) model_rope(r->m, i, n, r->inv_freq[i], &r->ropes[i].scale);
}
