/* kv: memory of the KV cache. */
#include "run/run.h"

int kv_init(struct kv *kv, const struct hparams *hp, enum qtype k_type, enum qtype v_type, uint32_t n_ctx, struct err *e)
{
    *kv = (struct kv){.n_pages = n_ctx / KV_PAGE + (n_ctx % KV_PAGE != 0)};
    size_t k_bytes = attn_bytes(k_type, hp->head_dim), layer, page, bytes = 0;
    size_t head = k_bytes + attn_bytes(v_type, hp->head_dim);
    bool ok =
        size_mul(head, hp->n_kv_heads, &layer) && size_mul(layer, hp->n_layers, &page) && size_mul(page, kv->n_pages, &bytes);
    kv->pages = mem_array(kv->n_pages, sizeof *kv->pages);
    kv->memory = ok && kv->pages ? mem_pages(bytes) : NULL;
    if (!kv->memory) {
        kv_fini(kv);
        return fail(e, ERR_NOMEM,
                    "no memory for the KV cache: %zu MiB for %u tokens in %s and %s; a smaller context (-c) needs less",
                    bytes >> 20, n_ctx, qtypes[k_type].name, qtypes[v_type].name);
    }
    kv->bytes = bytes;
    kv->token_bytes = page / KV_PAGE;
    for (uint32_t i = 0; i < kv->n_pages; i++) kv->pages[i] = kv->memory + i * page;
    kv->view = (struct kv_view){
        .k_type = k_type, .v_type = v_type, .pages = kv->pages, .layer_bytes = layer, .head_bytes = head, .k_bytes = k_bytes};
    return 0;
}

void kv_fini(struct kv *kv)
{
    if (kv->memory) mem_pages_free(kv->memory, kv->bytes);
    mem_free(kv->pages);
    *kv = (struct kv){0};
}
