/* graph: phases are where they should be, and no two values that one phase needs share memory. */
#include "backend/backend.h"
#include "model/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static struct tensor matrix(uint64_t in, uint64_t out)
{
    return (struct tensor){.type = QTYPE_F32, .n_dims = 2, .ne = {in, out, 1, 1}, .bytes = in * out * 4};
}

/* A Llama of two layers, recorded by the real architecture. */
struct house {
    struct arena arena;
    struct tensor embed, q, kv, o, ff, down;
    struct layer layers[2];
    struct model m;
    struct rope rope;
    struct layer_hp layer_hps[2];
    struct graph g;
};

static void build(struct house *h)
{
    static const float norm[64];
    *h = (struct house){.embed = matrix(64, 100),
                        .q = matrix(64, 64),
                        .kv = matrix(64, 32),
                        .o = matrix(64, 64),
                        .ff = matrix(64, 160),
                        .down = matrix(160, 64)};
    for (int i = 0; i < 2; i++)
        h->layers[i] = (struct layer){.attn_norm = norm,
                                      .ffn_norm = norm,
                                      .q = &h->q,
                                      .k = &h->kv,
                                      .v = &h->kv,
                                      .o = &h->o,
                                      .gate = &h->ff,
                                      .up = &h->ff,
                                      .down = &h->down};
    for (int i = 0; i < 2; i++) h->layer_hps[i] = (struct layer_hp){.n_heads = 4, .n_kv_heads = 2, .head_dim = 16, .n_ff = 160};
    h->m = (struct model){.token_embd = &h->embed, .output = &h->embed, .layers = h->layers};
    h->m.hp = (struct hparams){.arch = arch_at(0),
                               .n_layers = 2,
                               .n_embd = 64,
                               .layers = h->layer_hps,
                               .n_ropes = 1,
                               .norm_eps = 1e-5f,
                               .embd_scale = 1,
                               .residual_scale = 1,
                               .logit_scale = 1};
    graph_init(&h->g, &h->arena);
}

static void a_layer_has_five_phases(void **state)
{
    struct house h;
    struct err e;
    (void)state;
    build(&h);
    assert_int_equal(graph_plan(&h.g, model_record(&h.m, &h.rope, false, &h.g), &e), 0);
    /* embed; per layer: qkv, attention, o, gate and up, down; gather; output */
    assert_int_equal(h.g.n_phases, 1 + 2 * 5 + 2);
    uint32_t at = 0;
    for (uint32_t i = 0; i < h.g.n_phases; i++) {
        assert_int_equal(h.g.phases[i].first, at);
        at += h.g.phases[i].n;
    }
    assert_int_equal(at, h.g.n_ops);
    assert_string_equal(op_name(h.g.ops[0].code), "embed");
    arena_fini(&h.arena);
}

/* Recomputed from the list alone: which values each phase touches, and until when they are needed. */
static void values_alive_together_are_apart(void **state)
{
    struct house h;
    struct err e;
    uint32_t first[256], last[256];
    (void)state;
    build(&h);
    value_id out = model_record(&h.m, &h.rope, false, &h.g);
    assert_int_equal(graph_plan(&h.g, out, &e), 0);
    assert_true(h.g.n_values < 256);
    for (uint32_t v = 0; v < h.g.n_values; v++) first[v] = UINT32_MAX, last[v] = 0;
    for (uint32_t p = 0; p < h.g.n_phases; p++) {
        for (uint32_t i = 0; i < h.g.phases[p].n; i++) {
            const struct op *op = &h.g.ops[h.g.phases[p].first + i];
            const value_id ids[] = {op->dst, op->src[0], op->src[1]};
            for (int k = 0; k < 3; k++) {
                if (ids[k] == NO_VALUE) continue;
                if (first[ids[k]] == UINT32_MAX) first[ids[k]] = p;
                last[ids[k]] = p;
            }
        }
    }
    last[out] = h.g.n_phases;
    size_t sum = 0;
    for (uint32_t a = 0; a < h.g.n_values; a++) {
        const struct value *x = &h.g.values[a];
        assert_true(x->offset + x->cols <= (x->gathered ? h.g.out_floats : h.g.row_floats));
        sum += x->cols;
        for (uint32_t b = 0; b < a; b++) {
            const struct value *y = &h.g.values[b];
            if (x->gathered != y->gathered || first[a] > last[b] || first[b] > last[a]) continue;
            assert_true(x->offset + x->cols <= y->offset || y->offset + y->cols <= x->offset);
        }
    }
    assert_true(h.g.row_floats < sum / 2); /* memory is used again */
    arena_fini(&h.arena);
}

static bool out_of_memory(void *ctx, enum fault_kind kind)
{
    int *left = ctx;
    return kind == FAULT_ALLOC && (*left)-- == 0;
}

static void a_failed_allocation_is_reported(void **state)
{
    (void)state;
    for (int k = 0;; k++) {
        struct house h;
        struct err e;
        int left = k;
        build(&h);
        fault_set(out_of_memory, &left);
        int rc = graph_plan(&h.g, model_record(&h.m, &h.rope, false, &h.g), &e);
        fault_set(NULL, NULL);
        arena_fini(&h.arena);
        if (left >= 0) { /* nothing failed any more */
            assert_int_equal(rc, 0);
            assert_true(k > 0);
            return;
        }
        assert_int_equal(rc, ERR_NOMEM);
    }
}

/* Command R+ has weights for each head, and subtracts means. */
static void heads_are_normed_by_themselves(void **state)
{
    enum { HEADS = 3, LEN = 20, TOKENS = 5, COLS = HEADS * LEN };
    static float table[TOKENS][COLS], w[HEADS][LEN];
    static const int32_t ids[TOKENS] = {4, 0, 1, 3, 2};
    static const uint32_t out[TOKENS] = {0, 1, 2, 3, 4};
    struct arena a = {0};
    struct graph g;
    struct backend *be = NULL;
    struct err e;
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof **table; i++)
        table[i / COLS][i % COLS] = (float)((i * 7919) % 101) / 50.0f - 0.7f;
    for (size_t i = 0; i < COLS; i++) w[i / LEN][i % LEN] = 1.0f + (float)i / 100.0f;
    struct tensor embed = matrix(COLS, TOKENS);
    embed.data = table;
    for (unsigned by_head = 0; by_head < 2; by_head++) {
        graph_init(&g, &a);
        value_id x = graph_head_layer_norm(&g, graph_embed(&g, &embed, BY_TOKEN), w[0], by_head, 1e-5f, HEADS, LEN);
        assert_int_equal(graph_plan(&g, graph_gather(&g, x), &e), 0);
        const struct backend_options bo = {.n_threads = 2, .max_rows = TOKENS, .max_out = TOKENS, .max_positions = TOKENS};
        assert_int_equal(backend_open_cpu(&g, &bo, &be, &e), 0);
        const struct batch_seq seq = {.n_rows = TOKENS};
        const struct batch batch = {.tokens = ids, .n_rows = TOKENS, .seqs = &seq, .n_seqs = 1, .out = out, .n_out = TOKENS};
        assert_int_equal(backend_run(be, &batch), 0);
        struct kernels k;
        float want[LEN];
        kernels_init_scalar(&k);
        for (size_t t = 0; t < TOKENS; t++)
            for (size_t h = 0; h < HEADS; h++) {
                k.layer_norm(table[ids[t]] + h * LEN, w[by_head ? h : 0], NULL, 1e-5f, LEN, want);
                assert_memory_equal(want, backend_logits(be) + t * COLS + h * LEN, sizeof want);
            }
        backend_close(&be);
    }
    arena_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_layer_has_five_phases),
        cmocka_unit_test(values_alive_together_are_apart),
        cmocka_unit_test(a_failed_allocation_is_reported),
        cmocka_unit_test(heads_are_normed_by_themselves),
    };
    return cmocka_run_group_tests_name("graph", tests, NULL, NULL);
}
