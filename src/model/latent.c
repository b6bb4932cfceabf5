/* latent: the matrices of multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1), in its absorbed form. The
 * cache keeps the latent vector c of kv_lora elements and one rotated key part for all heads. A head's key is K c, so that its
 * score is q K c = (K^T q) c; its value is V c, so that V can wait until the softmax has weighed the c:
 *
 *   k_up[h]  K^T   nope_part -> kv_lora
 *   v_up[h]  V     kv_lora -> v_dim
 *
 * Folders and older GGUF files keep K and V as one matrix of [n_heads][nope_part + v_dim] rows: V is used in place, K^T copied.
 */
#include <stdio.h>

#include "model/model_int.h"

/* bias may be NULL: then the matrix can have none. */
static int bind_matrix(struct model *m, const char *gguf, const char *hf, uint32_t layer, uint64_t in, uint64_t out,
                       const struct tensor **at, const float **bias, struct err *e)
{
    char name[TENSOR_NAME_MAX];
    const struct tensor *b = bias ? bind_find(m, files_kind(m->files) == FILES_HF ? hf : gguf, ".bias", layer) : NULL;
    const struct tensor *t = bind_find(m, files_kind(m->files) == FILES_HF ? hf : gguf, ".weight", layer);
    if (!t) return bind_missing(m, gguf, layer, e);
    if (t->ne[0] != in || t->ne[1] != out || t->n_dims != 2) return bind_wrong_shape(m, t, in, out, e);
    const struct tensor **part = arena_array(&m->arena, 1, sizeof(*part));
    if (!part) return fail_nomem(e, "table of tensors", sizeof *part);
    *at = part[0] = t;
    (void)snprintf(name, sizeof name, "%s.weight", gguf);
    TRY(bind_note(m, name, layer, part, 1, 0, e));
    TRY(bind_reads(m, t, e));
    bind_count(m, t, 1, &m->layer_macs);
    if (!b) return 0;
    TRY(bind_floats(m, b, out, 0, bias, e));
    (void)snprintf(name, sizeof name, "%s.bias", gguf);
    return bind_note_vector(m, name, layer, *bias, &out, 1, e);
}

static int bind_norm(struct model *m, const char *gguf, const char *hf, uint32_t layer, uint64_t n, const float **at,
                     struct err *e)
{
    char name[TENSOR_NAME_MAX];
    const struct tensor *t = bind_find(m, files_kind(m->files) == FILES_HF ? hf : gguf, ".weight", layer);
    if (!t) return bind_missing(m, gguf, layer, e);
    TRY(bind_floats(m, t, n, 0, at, e));
    (void)snprintf(name, sizeof name, "%s.weight", gguf);
    return bind_note_vector(m, name, layer, *at, &n, 1, e);
}

/* K and V of all heads. */
static int bind_ups(struct model *m, uint32_t layer, struct err *e)
{
    const struct hparams *hp = &m->hp;
    struct layer *l = &m->layers[layer];
    const bool gguf = files_kind(m->files) == FILES_GGUF;
    const struct tensor *k = gguf ? bind_find(m, "blk.%u.attn_k_b", ".weight", layer) : NULL;
    const struct tensor *v = gguf ? bind_find(m, "blk.%u.attn_v_b", ".weight", layer) : NULL;
    const struct tensor *both =
        bind_find(m, gguf ? "blk.%u.attn_kv_b" : "model.layers.%u.self_attn.kv_b_proj", ".weight", layer);
    l->k_up = arena_array(&m->arena, hp->n_heads, sizeof *l->k_up);
    l->v_up = arena_array(&m->arena, hp->n_heads, sizeof *l->v_up);
    if (!l->k_up || !l->v_up) return fail_nomem(e, "table of heads", hp->n_heads * sizeof *l->k_up);
    if ((!k || !v) && !both) return bind_missing(m, "blk.%u.attn_kv_b", layer, e);
    const uint64_t rows = hp->nope_part + (uint64_t)hp->v_dim;
    if (!k || !v) {
        if (both->ne[0] != hp->kv_lora || both->ne[1] != hp->n_heads * rows)
            return bind_wrong_shape(m, both, hp->kv_lora, hp->n_heads * rows, e);
    } else if (k->ne[0] != hp->nope_part || k->ne[1] != hp->kv_lora || k->ne[2] != hp->n_heads) {
        return bind_wrong_shape(m, k, hp->nope_part, (uint64_t)hp->kv_lora * hp->n_heads, e);
    } else if (v->ne[0] != hp->kv_lora || v->ne[1] != hp->v_dim || v->ne[2] != hp->n_heads) {
        return bind_wrong_shape(m, v, hp->kv_lora, (uint64_t)hp->v_dim * hp->n_heads, e);
    }
    for (uint32_t h = 0; h < hp->n_heads; h++) {
        if (k && v) {
            l->k_up[h] = bind_view(m, k, (uint64_t)h * hp->kv_lora, hp->kv_lora);
            l->v_up[h] = bind_view(m, v, (uint64_t)h * hp->v_dim, hp->v_dim);
        } else {
            const struct tensor *head = bind_view(m, both, h * rows, hp->nope_part);
            l->k_up[h] = head ? bind_exchanged(m, head) : NULL;
            l->v_up[h] = bind_view(m, both, h * rows + hp->nope_part, hp->v_dim);
        }
        if (!l->k_up[h] || !l->v_up[h]) return fail_nomem(e, "the matrices of a head", rows * hp->kv_lora * sizeof(float));
        TRY(bind_reads(m, l->v_up[h], e));
        bind_count(m, l->k_up[h], 1, &m->layer_macs);
        bind_count(m, l->v_up[h], 1, &m->layer_macs);
    }
    TRY(bind_note(m, "blk.%u.attn_k_b.weight", layer, l->k_up, hp->n_heads, 0, e));
    return bind_note(m, "blk.%u.attn_v_b.weight", layer, l->v_up, hp->n_heads, 0, e);
}

int bind_latent(struct model *m, uint32_t layer, struct err *e)
{
    const struct hparams *hp = &m->hp;
    struct layer *l = &m->layers[layer];
    const uint64_t q_out = (uint64_t)hp->n_heads * (hp->nope_part + hp->rope_part);
    if (hp->q_lora) {
        TRY(bind_matrix(m, "blk.%u.attn_q_a", "model.layers.%u.self_attn.q_a_proj", layer, hp->n_embd, hp->q_lora, &l->q_a,
                        &l->q_a_bias, e));
        TRY(bind_norm(m, "blk.%u.attn_q_a_norm", "model.layers.%u.self_attn.q_a_layernorm", layer, hp->q_lora, &l->q_a_norm,
                      e));
        TRY(bind_matrix(m, "blk.%u.attn_q_b", "model.layers.%u.self_attn.q_b_proj", layer, hp->q_lora, q_out, &l->q_b, NULL,
                        e));
    } else {
        TRY(bind_matrix(m, "blk.%u.attn_q", "model.layers.%u.self_attn.q_proj", layer, hp->n_embd, q_out, &l->q, NULL, e));
    }
    TRY(bind_matrix(m, "blk.%u.attn_kv_a_mqa", "model.layers.%u.self_attn.kv_a_proj_with_mqa", layer, hp->n_embd,
                    (uint64_t)hp->kv_lora + hp->rope_part, &l->kv_a, &l->kv_a_bias, e));
    TRY(bind_norm(m, "blk.%u.attn_kv_a_norm", "model.layers.%u.self_attn.kv_a_layernorm", layer, hp->kv_lora, &l->kv_a_norm,
                  e));
    TRY(bind_ups(m, layer, e));
    return bind_matrix(m, "blk.%u.attn_output", "model.layers.%u.self_attn.o_proj", layer, (uint64_t)hp->n_heads * hp->v_dim,
                       hp->n_embd, &l->o, &l->o_bias, e);
}
