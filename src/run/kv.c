/* kv: memory of the KV cache. */
#include "run/run.h"

bool kv_layout(const struct model *m, enum qtype k_type, enum qtype v_type, struct kv_layer *layers, size_t *page_bytes)
{
    size_t page = 0;
    for (uint32_t l = 0; l < m->hp.n_layers; l++) {
        const struct kv_shape s = model_kv_shape(m, l);
        const size_t k_bytes = attn_bytes(k_type, s.k_dim), head = k_bytes + attn_bytes(v_type, s.v_dim);
        size_t layer = 0;
        layers[l] = (struct kv_layer){.at = page, .head_bytes = head, .k_bytes = k_bytes};
        if (!size_mul(head, s.n_heads, &layer) || !size_add(page, layer, &page)) return false;
    }
    *page_bytes = size_max(page, 64); /* a model may have no layer that keeps anything here */
    return true;
}

int kv_init(struct kv *kv, const struct model *m, enum qtype k_type, enum qtype v_type, uint32_t n_ctx, struct err *e)
{
    *kv = (struct kv){.n_pages = n_ctx / KV_PAGE + (n_ctx % KV_PAGE != 0)};
    size_t page = 0, bytes = 0;
    kv->layers = mem_array(m->hp.n_layers, sizeof *kv->layers);
    kv->pages = mem_array(kv->n_pages, sizeof *kv->pages);
    const bool ok = kv->layers && kv_layout(m, k_type, v_type, kv->layers, &page) && size_mul(page, kv->n_pages, &bytes);
    kv->memory = ok && kv->pages && kv->layers ? mem_pages(bytes) : NULL;
    if (!kv->memory) {
        kv_fini(kv);
        return fail(e, ERR_NOMEM,
                    "no memory for the KV cache: %zu MiB for %u tokens in %s and %s; a smaller context (-c) needs less",
                    bytes >> 20, n_ctx, qtypes[k_type].name, qtypes[v_type].name);
    }
    kv->bytes = bytes;
    kv->token_bytes = page / KV_PAGE;
    for (uint32_t i = 0; i < kv->n_pages; i++) kv->pages[i] = kv->memory + i * page;
    kv->view = (struct kv_view){.k_type = k_type, .v_type = v_type, .layers = kv->layers, .pages = kv->pages};
    return 0;
}

void kv_fini(struct kv *kv)
{
    if (kv->memory) mem_pages_free(kv->memory, kv->bytes);
    mem_free(kv->pages);
    mem_free(kv->layers);
    *kv = (struct kv){0};
}
