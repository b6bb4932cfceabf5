/* recipes: the types that mixes give to tensors, layer by layer, as llama.cpp gives them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>

#include "convert/convert_int.h"

#include <cmocka.h>

enum { LAYERS_MAX = 96, PER_LAYER = 9, ITEMS_MAX = LAYERS_MAX * PER_LAYER + 3 };

static const char *const layer_names[PER_LAYER] = {
    "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "ffn_norm",
};

/* A model of llama's tensors. */
struct made {
    struct transfer_item items[ITEMS_MAX];
    struct tensor src[ITEMS_MAX];
    char names[ITEMS_MAX][48];
    size_t n;
};

static void add(struct made *m, const char *name, uint32_t n_dims, uint64_t n_experts)
{
    snprintf(m->names[m->n], sizeof m->names[0], "%s", name);
    m->src[m->n] = (struct tensor){.name = str_of(m->names[m->n]), .n_dims = n_dims, .ne = {512, 64, n_experts, 1}};
    m->items[m->n] = (struct transfer_item){.src = &m->src[m->n], .name = m->src[m->n].name, .type = QTYPE_COUNT};
    m->n++;
}

static struct made *make(uint32_t n_layers, bool tied, uint32_t n_experts)
{
    struct made *m = test_calloc(1, sizeof *m);
    char name[48];
    add(m, "token_embd.weight", 2, 1);
    for (uint32_t l = n_layers; l-- > 0;) /* the order of the file does not matter */
        for (size_t i = 0; i < PER_LAYER; i++) {
            bool expert = n_experts && strncmp(layer_names[i], "ffn_", 4) == 0 && i != PER_LAYER - 1;
            snprintf(name, sizeof name, "blk.%u.%s%s.weight", l, layer_names[i], expert ? "_exps" : "");
            add(m, name, i == 0 || i == PER_LAYER - 1 ? 1 : expert ? 3 : 2, expert ? n_experts : 1);
        }
    if (!tied) add(m, "output.weight", 2, 1);
    return m;
}

static enum qtype type_at(const struct made *m, const char *name)
{
    for (size_t i = 0; i < m->n; i++)
        if (str_is(m->items[i].name, name)) return m->items[i].type;
    fail_msg("no tensor %s", name);
    return QTYPE_COUNT;
}

/* k-quants by their bits, other types by a letter. */
static char letter(enum qtype t)
{
    static const struct {
        enum qtype type;
        char letter;
    } letters[] = {{QTYPE_Q2_K, '2'}, {QTYPE_Q3_K, '3'},   {QTYPE_Q4_K, '4'},   {QTYPE_Q5_K, '5'}, {QTYPE_Q6_K, '6'},
                   {QTYPE_Q8_0, '8'}, {QTYPE_IQ4_NL, 'n'}, {QTYPE_IQ4_XS, 'x'}, {QTYPE_Q4_0, 'a'}, {QTYPE_Q4_1, 'b'},
                   {QTYPE_Q5_0, 'c'}, {QTYPE_Q5_1, 'd'},   {QTYPE_MXFP4, 'm'},  {QTYPE_F16, 'h'}};
    for (size_t i = 0; i < COUNT_OF(letters); i++)
        if (letters[i].type == t) return letters[i].letter;
    return '?';
}

struct shape {
    uint32_t n_layers, n_heads, n_kv_heads, n_experts;
    bool tied, weighted;
};

static struct made *assigned(const char *mix, const struct shape *s)
{
    struct made *m = make(s->n_layers, s->tied, s->n_experts);
    const struct recipe *r = recipe_find(str_of(mix));
    assert_non_null(r);
    const struct recipe_model rm = {s->n_layers, s->n_heads, s->n_kv_heads, s->n_experts, s->tied, s->weighted};
    recipe_assign(r, &rm, m->items, m->n);
    return m;
}

static void layer_by_layer(void **state)
{
    (void)state;
    static const struct shape plain = {.n_layers = 32, .n_heads = 32, .n_kv_heads = 32},
                              demo = {.n_layers = 8, .n_heads = 8, .n_kv_heads = 4, .tied = true},
                              shared = {.n_layers = 16, .n_heads = 32, .n_kv_heads = 8, .tied = true},
                              weighted = {.n_layers = 16, .n_heads = 32, .n_kv_heads = 8, .weighted = true},
                              large = {.n_layers = 80, .n_heads = 64, .n_kv_heads = 8},
                              odd = {.n_layers = 22, .n_heads = 32, .n_kv_heads = 4},
                              experts = {.n_layers = 8, .n_heads = 32, .n_kv_heads = 8, .n_experts = 8};
    static const struct {
        const struct shape *shape;
        const char *mix, *tensor, *types; /* of the layers, the last one repeated */
    } rows[] = {
        {&plain, "Q4_K_M", "attn_v", "66664464464464464464464464466666"},
        {&plain, "Q4_K_M", "ffn_down", "66664464464464464464464464466666"},
        {&plain, "q4_k", "ffn_down", "66664464464464464464464464466666"},
        {&plain, "Q4_K_M", "attn_q", "4"},
        {&plain, "Q4_K_M", "attn_output", "4"},
        {&plain, "Q5_K_M", "ffn_down", "66665565565565565565565565566666"},
        {&plain, "Q4_K_S", "attn_v", "55554"},
        {&plain, "Q4_K_S", "ffn_down", "55554"},
        {&plain, "Q5_K_S", "attn_v", "5"},
        {&plain, "Q3_K_M", "attn_v", "554"},
        {&plain, "Q3_K_M", "ffn_down", "554"},
        {&plain, "Q3_K_M", "attn_output", "4"},
        {&plain, "Q3_K_M", "attn_k", "3"},
        {&plain, "Q3_K_L", "ffn_down", "5"},
        {&plain, "Q3_K_L", "attn_v", "5"},
        {&plain, "Q3_K_S", "attn_v", "3"},
        {&plain, "Q2_K", "attn_v", "3"},
        {&plain, "Q2_K", "ffn_down", "3"},
        {&plain, "Q2_K", "ffn_up", "2"},
        {&plain, "Q2_K_S", "attn_v", "2"},
        {&plain, "Q2_K_S", "ffn_down", "44442"},
        {&plain, "Q2_K_S", "attn_output", "2"},
        {&plain, "IQ4_XS", "attn_v", "x"},
        {&plain, "IQ4_XS", "ffn_down", "5555x"},
        {&plain, "Q6_K", "ffn_down", "6"},
        {&plain, "Q4_0", "ffn_down", "a"},
        {&demo, "Q4_K_M", "attn_v", "64464466"},
        {&demo, "Q3_K_M", "ffn_down", "4"},
        {&demo, "IQ4_NL", "ffn_down", "5n"},
        {&shared, "Q2_K", "attn_v", "4"},
        {&shared, "Q2_K_S", "attn_v", "4"},
        {&shared, "IQ4_NL", "attn_v", "5"},
        {&shared, "IQ4_XS", "ffn_down", "55x"},
        {&shared, "Q4_K_M", "ffn_down", "6644644644644666"},
        {&weighted, "IQ4_XS", "ffn_down", "x"},
        {&weighted, "Q4_0", "ffn_down", "bba"},
        {&weighted, "Q5_0", "ffn_down", "ddc"},
        {&large, "Q3_K_S", "attn_v", "5"},
        {&large, "Q4_K_S", "attn_v", "5"},
        {&large, "Q2_K", "attn_v", "5"},
        {&odd, "Q4_K_M", "ffn_down", "6644644644644644644666"},
        {&experts, "Q4_K_M", "attn_v", "8"},
        {&experts, "Q4_K_M", "attn_k", "8"},
        {&experts, "Q4_K_M", "attn_output", "5"},
        {&experts, "Q3_K_L", "attn_output", "3"},
        {&experts, "Q4_K_M", "ffn_down_exps", "64464466"},
        {&experts, "MXFP4_MOE", "ffn_down_exps", "m"},
        {&experts, "MXFP4_MOE", "attn_q", "8"},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct made *m = assigned(rows[i].mix, rows[i].shape);
        for (uint32_t l = 0; l < rows[i].shape->n_layers; l++) {
            char name[48];
            snprintf(name, sizeof name, "blk.%u.%s.weight", l, rows[i].tensor);
            char got = letter(type_at(m, name)), want = rows[i].types[size_min(l, strlen(rows[i].types) - 1)];
            if (got != want) fail_msg("%s, %u layers: %s is %c, not %c", rows[i].mix, rows[i].shape->n_layers, name, got, want);
        }
        test_free(m);
    }
}

static void ends_of_the_model(void **state)
{
    (void)state;
    static const struct {
        const char *mix;
        enum qtype tied, embedding, output;
    } rows[] = {
        {"Q2_K", QTYPE_Q6_K, QTYPE_Q2_K, QTYPE_Q6_K},      {"Q4_K_M", QTYPE_Q6_K, QTYPE_Q4_K, QTYPE_Q6_K},
        {"Q8_0", QTYPE_Q8_0, QTYPE_Q8_0, QTYPE_Q8_0},      {"Q4_0", QTYPE_Q6_K, QTYPE_Q4_0, QTYPE_Q6_K},
        {"MXFP4_MOE", QTYPE_Q8_0, QTYPE_Q8_0, QTYPE_Q8_0},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct made *m = assigned(rows[i].mix, &(struct shape){4, 8, 8, 0, true, false});
        assert_int_equal(type_at(m, "token_embd.weight"), rows[i].tied);
        test_free(m);
        m = assigned(rows[i].mix, &(struct shape){4, 8, 8, 0, false, false});
        assert_int_equal(type_at(m, "token_embd.weight"), rows[i].embedding);
        assert_int_equal(type_at(m, "output.weight"), rows[i].output);
        assert_int_equal(type_at(m, "blk.0.attn_norm.weight"), QTYPE_COUNT); /* left alone */
        test_free(m);
    }
}

static void names(void **state)
{
    (void)state;
    for (size_t i = 0; recipe_at(i); i++) assert_ptr_equal(recipe_find(str_of(recipe_at(i)->name)), recipe_at(i));
    assert_ptr_equal(recipe_find(STR("q3_k")), recipe_find(STR("Q3_K_M")));
    assert_ptr_equal(recipe_find(STR("Q5_K")), recipe_find(STR("q5_k_m")));
    assert_ptr_equal(recipe_find(STR("15")), recipe_find(STR("Q4_K_M")));
    assert_ptr_equal(recipe_find(STR("0")), recipe_find(STR("F32")));
    assert_ptr_equal(recipe_find(STR("38")), recipe_find(STR("MXFP4_MOE")));
    assert_null(recipe_find(STR("5")));
    assert_null(recipe_find(STR("TQ1_0")));
    assert_null(recipe_find(STR("")));
    assert_int_equal(recipe_file_type(QTYPE_Q4_K), 15);
    assert_int_equal(recipe_file_type(QTYPE_TQ1_0), 1024);
    assert_true(recipe_keeps(STR("blk.0.ffn_gate_inp.weight"), 2));
    assert_true(recipe_keeps(STR("blk.0.attn_q_norm.weight"), 2));
    assert_true(recipe_keeps(STR("blk.0.attn_q.bias"), 1));
    assert_false(recipe_keeps(STR("blk.0.attn_q.weight"), 2));
}

static void rows_that_do_not_fit(void **state)
{
    (void)state;
    static const struct {
        enum qtype type;
        uint64_t row;
        enum qtype want;
    } rows[] = {
        {QTYPE_Q4_K, 512, QTYPE_Q4_K},    {QTYPE_Q2_K, 96, QTYPE_Q4_0}, {QTYPE_Q3_K, 96, QTYPE_Q4_0},
        {QTYPE_Q4_K, 96, QTYPE_Q5_0},     {QTYPE_Q5_K, 96, QTYPE_Q5_1}, {QTYPE_Q6_K, 96, QTYPE_Q8_0},
        {QTYPE_IQ4_XS, 96, QTYPE_IQ4_NL}, {QTYPE_Q4_K, 40, QTYPE_F16},  {QTYPE_Q8_0, 40, QTYPE_F16},
        {QTYPE_MXFP4, 33, QTYPE_F16},     {QTYPE_F32, 7, QTYPE_F32},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) assert_int_equal(recipe_fit(rows[i].type, rows[i].row), rows[i].want);
}

/* Names and layer numbers come from files. */
static void strange_names(void **state)
{
    (void)state;
    static const char *const strange[] = {"blk.18446744073709551615.attn_v.weight",
                                          "blk.99999.ffn_down.weight",
                                          "blk..attn_v.weight",
                                          "blk.-1.attn_v.weight",
                                          "attn_v.weight",
                                          "blk."};
    struct made *m = test_calloc(1, sizeof *m);
    for (size_t i = 0; i < COUNT_OF(strange); i++) add(m, strange[i], 2, 1);
    const struct recipe_model rm = {0};
    recipe_assign(recipe_find(STR("Q4_K_M")), &rm, m->items, m->n);
    for (size_t i = 0; i + 1 < COUNT_OF(strange); i++) assert_true(m->items[i].type < QTYPE_COUNT);
    test_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layer_by_layer),       cmocka_unit_test(ends_of_the_model), cmocka_unit_test(names),
        cmocka_unit_test(rows_that_do_not_fit), cmocka_unit_test(strange_names),
    };
    return cmocka_run_group_tests_name("recipes", tests, NULL, NULL);
}
