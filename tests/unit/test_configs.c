/* What a config.json means by leaving a key out. data/configs.json holds pairs of configurations: one as people write it, and
 * what the transformers library (5.17) makes of it, where every key is said. Both must give the same hyper-parameters; those
 * models gave the library's logits when the pairs were made. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include "model/model.h"
#include "scratch.h"

#include <cmocka.h>

#define PAIRS SOURCE_ROOT "/tests/unit/data/configs.json"

static char dir[64];

static int make_dir(void **state)
{
    /* A folder needs weights to be one. */
    static const char weights[] = "\x36\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}\0\0\0\0";
    (void)state;
    scratch_make(dir);
    scratch_write(dir, "model.safetensors", weights, sizeof weights - 1);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    scratch_remove(dir);
    return 0;
}

static void take(struct str name, const struct json *config, struct arena *a, struct hparams *hp)
{
    struct buf text = {0};
    struct files *f;
    struct err e = {0};
    assert_int_equal(json_write(&text, config), 0);
    scratch_write(dir, "config.json", text.p, text.n);
    if (files_open(dir, &f, &e) < 0 || hparams_read(f, a, hp, &e) < 0) fail_msg("%.*s: %s", STR_ARG(name), e.msg);
    files_close(&f);
    buf_fini(&text);
}

static bool same_rope(const struct hparams *x, const struct hparams *y, uint32_t set)
{
    const struct rope_hp *a = &x->rope[set], *b = &y->rope[set];
    struct model one = {.hp = *x}, other = {.hp = *y};
    float f[ATTN_DIM_MAX], g[ATTN_DIM_MAX], scale_f, scale_g;
    if (a->dim != b->dim || a->scaling != b->scaling || a->mscale_all != b->mscale_all) return false;
    for (uint32_t n = 5; n < 1000; n += 300) { /* tokens */
        model_rope(&one, set, n, f, &scale_f);
        model_rope(&other, set, n, g, &scale_g);
        if (scale_f != scale_g || memcmp(f, g, a->dim / 2 * sizeof *f) != 0) return false;
    }
    return true;
}

/* NULL, or in what they differ. */
static const char *difference(const struct hparams *x, const struct hparams *y)
{
    struct hparam p, q;
    for (size_t i = 0; hparams_at(x, i, &p) && hparams_at(y, i, &q); i++)
        if (p.value != q.value && p.key && (p.said || q.said)) return p.key;
    if (x->tied != y->tied || x->bidirectional != y->bidirectional) return "tied or bidirectional";
    if (x->rope_neox != y->rope_neox || x->n_ropes != y->n_ropes) return "kind of rotation";
    for (uint32_t i = 0; i < x->n_ropes; i++)
        if (!same_rope(x, y, i)) return "rotation";
    if (x->act != y->act) return "activation";
    if (x->rope_part != y->rope_part || x->nope_part != y->nope_part || x->delta.v_dim != y->delta.v_dim)
        return "parts of heads";
    if (x->chunked != y->chunked || x->temp != y->temp || x->temp_offset != y->temp_offset) return "chunks or temperature";
    for (uint32_t l = 0; l < x->n_layers; l++) {
        const struct layer_hp *a = &x->layers[l], *b = &y->layers[l];
        if (a->mixer != b->mixer || a->local != b->local || a->nope != b->nope) return "kind of a layer";
        if (a->n_kv_heads != b->n_kv_heads || a->head_dim != b->head_dim || a->n_ff != b->n_ff) return "width of a layer";
        if (a->kv_layer != b->kv_layer) return "cache of a layer";
    }
    return NULL;
}

static void what_is_not_said_is_what_the_class_means(void **state)
{
    struct arena a = {0};
    struct str text;
    struct json *pairs;
    struct err e = {0};
    (void)state;
    if (vfs_read(PAIRS, (size_t)1 << 20, &a, &text, &e) < 0 || json_parse(&a, text, PAIRS, &pairs, &e) < 0)
        fail_msg("%s", e.msg);
    unsigned n_wrong = 0;
    assert_true(pairs->n > 60);
    for (size_t i = 0; i < pairs->n; i++) {
        const struct str name = json_find(&pairs->v[i], "name")->s;
        struct hparams said, meant;
        take(name, json_find(&pairs->v[i], "said"), &a, &said);
        take(name, json_find(&pairs->v[i], "meant"), &a, &meant);
        const char *differs = difference(&said, &meant);
        if (differs) print_error("%.*s: %s\n", STR_ARG(name), differs), n_wrong++;
    }
    arena_fini(&a);
    assert_int_equal(n_wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_said_is_what_the_class_means),
    };
    return cmocka_run_group_tests_name("configs", tests, make_dir, remove_dir);
}
