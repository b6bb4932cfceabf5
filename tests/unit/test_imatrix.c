/* imatrix: importance matrices in both formats, written, read back, and mutilated. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <math.h>

#include "convert/convert.h"
#include "scratch.h"

#include <cmocka.h>

static char dir[64];

static int make_dir(void **state)
{
    (void)state;
    scratch_make(dir);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    scratch_remove(dir);
    return 0;
}

static void put_u32(struct buf *b, uint32_t v)
{
    buf_put(b, &v, sizeof v);
}

static void put_entry(struct buf *b, const char *name, int32_t count, const float *values, uint32_t n)
{
    put_u32(b, (uint32_t)strlen(name));
    buf_z(b, name);
    put_u32(b, (uint32_t)count);
    put_u32(b, n);
    buf_put(b, values, n * sizeof *values);
}

/* Two entries, the second before the first in the alphabet. */
static struct buf legacy(bool tail)
{
    struct buf b = {0};
    put_u32(&b, 2);
    put_entry(&b, "blk.0.ffn_up.weight", 4, (const float[]){4, 8, 12, 0}, 4);
    put_entry(&b, "blk.0.attn_q.weight", 0, (const float[]){1, 2}, 2);
    if (tail) {
        put_u32(&b, 7);
        put_u32(&b, 4);
        buf_z(&b, "text");
    }
    return b;
}

static struct imatrix *parsed(const struct buf *b)
{
    struct imatrix *m;
    struct err e = {0};
    if (imatrix_parse(buf_view(b), "x.dat", &m, &e) < 0) fail_msg("%s", e.msg);
    return m;
}

static void legacy_format(void **state)
{
    (void)state;
    for (int tail = 0; tail < 2; tail++) {
        struct buf b = legacy(tail);
        struct imatrix *m = parsed(&b);
        float x[4];
        assert_int_equal(m->n, 2);
        assert_int_equal(m->n_chunks, tail ? 7 : 0);
        assert_true(str_is(m->dataset, tail ? "text" : ""));
        const struct imatrix_entry *up = imatrix_find(m, STR("blk.0.ffn_up.weight"));
        assert_true(up && imatrix_columns(up, 4, 1, x, NULL));
        assert_true(x[0] == 1 && x[1] == 2 && x[2] == 3 && x[3] == 0);
        assert_true(imatrix_columns(up, 2, 2, x, NULL)); /* two experts share the count */
        assert_false(imatrix_columns(up, 3, 1, x, NULL));
        assert_false(imatrix_columns(up, 0, 0, x, NULL));
        assert_true(imatrix_columns(imatrix_find(m, STR("blk.0.attn_q.weight")), 2, 1, x, NULL) && x[0] == 1 && x[1] == 2);
        assert_null(imatrix_find(m, STR("blk.0.ffn_down.weight")));
        assert_null(imatrix_find(NULL, STR("x")));
        imatrix_free(&m);
        buf_fini(&b);
    }
}

static void gguf_format(void **state)
{
    (void)state;
    float sum2[] = {2, 4, 6, 9, 9, 9}, sum[] = {1, -2, 3, 9, 9, 9}, counts[] = {2, 0}, one[] = {5}, five[] = {10};
    struct imatrix_entry entries[] = {{STR("blk.1.ffn_up_exps.weight"), 6, 2, sum2, sum, counts},
                                      {STR("blk.0.attn_q.weight"), 1, 1, five, NULL, one}};
    const struct imatrix m = {.entries = entries, .n = 2, .dataset = STR("calib"), .n_chunks = 3, .chunk_tokens = 512};
    struct imatrix *read = NULL;
    struct err e = {0};
    const char *path = scratch_path(dir, "m.gguf");
    if (imatrix_write(&m, path, &e) < 0 || imatrix_open(path, &read, &e) < 0) fail_msg("%s", e.msg);
    assert_int_equal(read->n, 2);
    assert_int_equal(read->n_chunks, 3);
    assert_int_equal(read->chunk_tokens, 512);
    assert_true(str_is(read->dataset, "calib"));
    float x[6], y[6];
    assert_true(imatrix_columns(imatrix_find(read, entries[0].name), 3, 2, x, y));
    assert_true(x[0] == 1 && x[1] == 2 && x[2] == 3 && y[0] == 0.5f && y[1] == -1 && y[2] == 1.5f);
    assert_true(x[3] == 1 && x[5] == 1 && y[3] == 0 && y[5] == 0); /* an expert without tokens */
    const struct imatrix_entry *q = imatrix_find(read, entries[1].name);
    assert_true(imatrix_columns(q, 1, 1, x, y) && x[0] == 2 && !q->sum);
    imatrix_free(&read);
}

static void refused(struct str bytes, const char *what)
{
    struct imatrix *m;
    struct err e = {0};
    size_t before = mem_stats().current;
    if (imatrix_parse(bytes, "x.dat", &m, &e) == 0) fail_msg("accepted: %s", what);
    assert_null(m);
    assert_true(e.msg[0]);
    assert_int_equal(mem_stats().current, before);
}

static void hostile(void **state)
{
    (void)state;
    struct buf b = legacy(true);
    for (size_t n = 0; n < b.n; n++) {
        struct buf without = legacy(false); /* a whole file, and so is one with the number of chunks behind it */
        if (n != without.n && n != without.n + 4) refused((struct str){b.p, n}, "a cut file");
        buf_fini(&without);
    }
    buf_c(&b, 'x');
    refused(buf_view(&b), "a byte too many");
    buf_fini(&b);

    const float bad[] = {NAN, INFINITY, -1};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        put_u32(&b, 1);
        put_entry(&b, "a", 1, &bad[i], 1);
        refused(buf_view(&b), "a bad value");
        buf_fini(&b);
    }
    put_u32(&b, 2);
    put_entry(&b, "a", 1, (const float[]){1}, 1);
    put_entry(&b, "a", 1, (const float[]){1}, 1);
    refused(buf_view(&b), "a name twice");
    buf_fini(&b);
    put_u32(&b, 0x7fffffff);
    for (int i = 0; i < 100; i++) put_u32(&b, 0x7fffffff);
    refused(buf_view(&b), "counts that are too large");
    buf_fini(&b);
    refused(STR("GGUF"), "no GGUF file");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(legacy_format),
        cmocka_unit_test(gguf_format),
        cmocka_unit_test(hostile),
    };
    return cmocka_run_group_tests_name("imatrix", tests, make_dir, remove_dir);
}
