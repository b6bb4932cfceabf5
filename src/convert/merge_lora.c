/* merge_lora: adapters become part of the weights that a new file gets. They are bound to the model of the source, so that
 * names, shapes and the order of rows are known; each row then has scale * b a added, in f64, rounded once to f32, before it is
 * converted to the type of the file. */
#include "convert/convert_int.h"

#define MERGE_PIECE 512 /* weights of a row at once */

static int open_all(struct merge *g, const struct convert_opts *o, const struct model *m, struct err *e)
{
    for (size_t i = 0; i < o->n_loras; i++) {
        g->scales[i] = (double)o->loras[i].scale;
        TRY(adapter_open(o->loras[i].path, &g->adapters[i], e));
        g->n = i + 1;
        TRY(adapter_bind(g->adapters[i], m, e));
    }
    return 0;
}

int merge_open(struct merge *g, const struct convert_opts *o, const struct model *m, struct err *e)
{
    *g = (struct merge){0};
    if (o->n_loras == 0) return 0;
    g->adapters = mem_array(o->n_loras, sizeof(*g->adapters));
    g->scales = mem_array(o->n_loras, sizeof *g->scales);
    int rc = g->adapters && g->scales ? 0 : fail_nomem(e, "adapters", o->n_loras * sizeof *g->scales);
    if (rc == 0) rc = open_all(g, o, m, e);
    if (rc < 0) merge_close(g);
    return rc;
}

void merge_close(struct merge *g)
{
    for (size_t i = 0; i < g->n; i++) adapter_close(&g->adapters[i]);
    mem_free(g->adapters);
    mem_free(g->scales);
    *g = (struct merge){0};
}

/* Which row of the adapter's b is row r of t; false: none. */
static bool row_in(const struct lora_matrix *x, const struct tensor *t, uint64_t r, uint64_t *at)
{
    const uintptr_t row = (uintptr_t)t->data + r * tensor_row_bytes(t), first = (uintptr_t)x->of->data;
    if (x->of->ne[0] != t->ne[0] || x->of->type != t->type || row < first) return false;
    *at = (row - first) / tensor_row_bytes(t);
    return *at < x->of->ne[1];
}

static bool merge_changes(const struct merge *g, const struct tensor *t)
{
    const uintptr_t from = (uintptr_t)t->data;
    for (size_t i = 0; t->data && i < g->n; i++) {
        const struct lora *l = adapter_lora(g->adapters[i]);
        for (size_t k = 0; k < l->n; k++) {
            const uintptr_t at = (uintptr_t)l->matrices[k].of->data;
            if (at >= from && at - from < tensor_row_bytes(t) * t->ne[1]) return true;
        }
    }
    return false;
}

/* sum [n] += f * b[r] a, of columns from col on. */
static void add_product(const struct lora_matrix *x, double f, uint64_t r, uint64_t col, double *sum, size_t n)
{
    const size_t rank = (size_t)x->a->ne[1];
    const struct qrow b = tensor_row(x->b, (size_t)r);
    for (size_t k = 0; k < rank; k++) {
        const struct qrow a = tensor_row(x->a, k);
        float v[MERGE_PIECE], weight;
        qtypes[x->b->type].row_to_float(&b, k, &weight, 1);
        qtypes[x->a->type].row_to_float(&a, col, v, n);
        for (size_t i = 0; i < n; i++) sum[i] += f * (double)weight * (double)v[i];
    }
}

void merge_row(const struct merge *g, const struct tensor *t, uint64_t r, uint64_t col, float *x, size_t n)
{
    double sum[MERGE_PIECE];
    for (size_t some; n; n -= some, col += some, x += some) {
        some = size_min(n, MERGE_PIECE);
        for (size_t i = 0; i < some; i++) sum[i] = (double)x[i];
        for (size_t i = 0; i < g->n; i++) {
            const struct lora *l = adapter_lora(g->adapters[i]);
            uint64_t at;
            for (size_t k = 0; k < l->n; k++)
                if (row_in(&l->matrices[k], t, r, &at))
                    add_product(&l->matrices[k], g->scales[i] * l->matrices[k].scale, at, col, sum, some);
        }
        for (size_t i = 0; i < some; i++) x[i] = (float)sum[i];
    }
}

/* What cannot be merged: a table that is two things, and types that are not written here. */
int merge_items(const struct merge *g, const struct model *m, struct transfer *t, struct err *e)
{
    for (size_t i = 0; i < t->n; i++) {
        struct transfer_item *item = &t->items[i];
        if (item->parts || !merge_changes(g, item->src)) continue;
        if (item->src->data == m->token_embd->data)
            return fail(e, ERR_UNSUPPORTED,
                        "%s: the output matrix is the embedding table, so an adapter of it cannot be merged",
                        files_path(t->src));
        item->merge = g;
    }
    return 0;
}
