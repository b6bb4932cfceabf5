/* safetensors: what a good file gives, and what a hostile one can try. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include "format/format_int.h"
#include "scratch.h"

#include <cmocka.h>

/* A file with this header and n_data bytes 0, 1, 2, ... */
static void build(struct buf *b, const char *json, size_t n_data)
{
    uint64_t n = strlen(json);
    b->n = 0;
    assert_int_equal(buf_put(b, &n, 8), 0);
    assert_int_equal(buf_z(b, json), 0);
    for (size_t i = 0; i < n_data; i++) assert_int_equal(buf_c(b, (char)i), 0);
}

/* Parses an exact copy and reads all that comes out; returns the code, with the message in e. */
static int try_parse(const void *bytes, size_t n, struct err *e)
{
    char *copy = scratch_exact(bytes, n);
    struct arena a = {.limit = 2 * n + ((size_t)16 << 20)};
    struct tensor *v;
    size_t n_tensors, before = mem_stats().current;
    *e = (struct err){0};
    mem_peak_reset();
    int rc = safetensors_parse((struct str){copy, n}, "x.safetensors", &a, &v, &n_tensors, e);
    assert_true(mem_stats().peak - before <= 4 * n + 65536);
    uint64_t sum = 0;
    for (size_t i = 0; rc == 0 && i < n_tensors; i++) {
        for (uint64_t k = 0; k < v[i].bytes; k++) sum += ((const uint8_t *)v[i].data)[k];
        for (size_t k = 0; k < v[i].name.n; k++) sum += (uint8_t)v[i].name.p[k];
    }
    assert_int_not_equal(sum, UINT64_MAX); /* the sum must be computed */
    if (rc < 0) {
        assert_int_equal(e->code, rc);
        assert_non_null(strstr(e->msg, "x.safetensors"));
    }
    arena_fini(&a);
    assert_int_equal(mem_stats().current, before);
    free(copy);
    return rc;
}

static const char small[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                            "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
                            "\"a\\u00e9\":{\"shape\":[],\"data_offsets\":[0,4],\"dtype\":\"F32\"},"
                            "\"c\":{\"dtype\":\"F16\",\"shape\":[1,2,1,2],\"data_offsets\":[16,24],\"more\":[{\"x\":1}]}}   ";

static void good_file(void **state)
{
    (void)state;
    struct buf b = {0};
    struct arena a = {0};
    struct tensor *v;
    size_t n;
    struct err e = {0};
    build(&b, small, 24);
    if (safetensors_parse(buf_view(&b), "x", &a, &v, &n, &e) < 0) fail_msg("%s", e.msg);
    assert_int_equal(n, 3);
    assert_true(str_is(v[0].name, "b") && v[0].type == QTYPE_BF16 && v[0].n_dims == 2);
    assert_true(v[0].ne[0] == 3 && v[0].ne[1] == 2 && v[0].ne[2] == 1 && v[0].ne[3] == 1);
    assert_int_equal(v[0].bytes, 12);
    assert_int_equal(((const uint8_t *)v[0].data)[0], 4);
    assert_true(str_is(v[1].name, "a\xc3\xa9") && v[1].type == QTYPE_F32 && v[1].n_dims == 1 && v[1].ne[0] == 1);
    assert_int_equal(((const uint8_t *)v[1].data)[0], 0);
    assert_true(v[2].type == QTYPE_F16 && v[2].ne[0] == 2 && v[2].ne[1] == 1 && v[2].ne[2] == 2 && v[2].ne[3] == 1);
    arena_fini(&a);
    build(&b, "{}", 0);
    assert_int_equal(try_parse(b.p, b.n, &e), 0);
    buf_fini(&b);
}

#define T(name, dtype, shape, offsets) "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void hostile_files(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        size_t data;
        const char *words; /* of the message; NULL: accepted */
    } cases[] = {
        {"{" T("t", "F32", "[2]", "[0,8]") "}", 8, NULL},
        {"{" T("t", "F32", "[2]", "[0,8]") "}", 7, "outside of the 7 bytes"},
        {"{" T("t", "F32", "[2]", "[0,8]") "}", 9, "1 bytes after the last tensor"},
        {"{" T("t", "F32", "[2]", "[0,4]") "}", 8, "expected 8 from its shape"},
        {"{" T("t", "F32", "[2]", "[8,0]") "}", 8, "lies at 8 to 0"},
        {"{" T("t", "F32", "[2]", "[18446744073709551608,0]") "}", 8, "outside of the 8 bytes"},
        {"{" T("t", "F32", "[2]", "[0,18446744073709551616]") "}", 8, "2 whole numbers"},
        {"{" T("t", "F32", "[2]", "[-8,0]") "}", 8, "2 whole numbers"},
        {"{" T("t", "F32", "[2]", "[0,8.0]") "}", 8, "2 whole numbers"},
        {"{" T("t", "F32", "[2]", "[0,8,8]") "}", 8, "2 whole numbers"},
        {"{" T("t", "F32", "[2]", "[0]") "}", 8, "two data_offsets"},
        {"{" T("t", "F32", "[2]", "{}") "}", 8, "2 whole numbers"},
        {"{" T("t", "F32", "[0]", "[0,0]") "}", 0, "dimension 0 of its shape is 0"},
        {"{" T("t", "F32", "[1,2,1,1,1]", "[0,8]") "}", 8, "at most 4"},
        {"{" T("t", "F32", "[4294967296,4294967296]", "[0,8]") "}", 8, "impossible size"},
        {"{" T("t", "F32", "[4611686018427387904]", "[0,0]") "}", 8, "impossible size"},
        {"{" T("t", "F32", "[1.5]", "[0,8]") "}", 8, "whole numbers"},
        {"{" T("t", "F32", "[-2]", "[0,8]") "}", 8, "whole numbers"},
        {"{" T("t", "F32", "[[2]]", "[0,8]") "}", 8, "whole numbers"},
        {"{" T("t", "F8_E4M3", "[8]", "[0,8]") "}", 8, "\"t\" is of dtype \"F8_E4M3\"; Quern runs F32, F16 and BF16"},
        {"{" T("t", "I64", "[1]", "[0,8]") "}", 8, "I64"},
        {"{\"t\":{\"dtype\":7,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "dtype is not a string"},
        {"{\"t\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "expected dtype"},
        {"{\"t\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "expected dtype"},
        {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "two data_offsets"},
        {"{\"t\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "there twice"},
        {"{\"t\":[]}", 0, "expected an object"},
        {"{" T("t", "F32", "[1]", "[0,4]") "," T("u", "F32", "[1]", "[4,8]") "}", 8, NULL},
        {"{" T("t", "F32", "[1]", "[4,8]") "," T("u", "F32", "[1]", "[0,4]") "}", 8, NULL},
        {"{" T("t", "F32", "[1]", "[0,4]") "," T("u", "F32", "[1]", "[3,7]") "}", 8, "overlaps"},
        {"{" T("t", "F32", "[1]", "[0,4]") "," T("u", "F32", "[1]", "[0,4]") "}", 4, "overlaps"},
        {"{" T("t", "F32", "[1]", "[0,4]") "," T("u", "F32", "[1]", "[5,9]") "}", 9, "after a gap"},
        {"{" T("t", "F32", "[1]", "[1,5]") "}", 5, "after a gap"},
        {"{" T("t", "F32", "[1]", "[0,4]") "," T("t", "F32", "[1]", "[4,8]") "}", 8, "\"t\" is there twice"},
        {"{" T("t", "F32", "[1]", "[0,4]") "," T("\\u0074", "F32", "[1]", "[4,8]") "}", 8, "\"t\" is there twice"},
        {"{" T("", "F32", "[1]", "[0,4]") "}", 4, "name of tensor 0"},
        {"{" T("\\u001b[2J", "F32", "[1]", "[0,4]") "}", 4, "name of tensor 0"},
        {"{" T("t", "F32", "[1]", "[0,4]") "} x", 4, "x.safetensors"},
        {"{" T("t", "F32", "[1]", "[0,4]") ",}", 4, "x.safetensors"},
        {"{" T("t", "F32", "[1]", "[0,4]"), 4, "x.safetensors"},
        {"{\"__metadata__\":[]}", 0, "\"__metadata__\": expected an object"},
        {"{\"__metadata__\":{\"a\":\"b\"},\"\\u005f_metadata__\":{\"c\":\"d\"}}", 0, "expected dtype"},
        {" {}", 0, "not a safetensors file"},
        {"[]", 0, "not a safetensors file"},
    };
    struct buf b = {0};
    struct err e;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        build(&b, cases[i].json, cases[i].data);
        int rc = try_parse(b.p, b.n, &e);
        if (!cases[i].words && rc < 0) fail_msg("case %zu: %s", i, e.msg);
        if (cases[i].words && (rc == 0 || !strstr(e.msg, cases[i].words)))
            fail_msg("case %zu: \"%s\" is not in \"%s\"", i, cases[i].words, e.msg);
    }
    buf_fini(&b);
}

static void header_length_attacked(void **state)
{
    (void)state;
    struct buf b = {0};
    struct err e;
    build(&b, small, 24);
    uint64_t left = b.n - 8, right = strlen(small);
    const uint64_t values[] = {0,
                               1,
                               INT32_MAX,
                               (uint64_t)INT32_MAX + 1,
                               UINT32_MAX,
                               INT64_MAX,
                               (uint64_t)INT64_MAX + 1,
                               left - 1,
                               left,
                               left + 1,
                               UINT64_MAX,
                               UINT64_MAX - 7,
                               right - 4,
                               right + 1,
                               100u << 20,
                               (100u << 20) + 1};
    for (size_t i = 0; i < COUNT_OF(values); i++) {
        memcpy(b.p, &values[i], 8);
        assert_true(try_parse(b.p, b.n, &e) < 0);
    }
    memcpy(b.p, &right, 8);
    assert_int_equal(try_parse(b.p, b.n, &e), 0);
    buf_fini(&b);
}

static void truncated_and_flipped(void **state)
{
    (void)state;
    struct buf b = {0};
    struct err e;
    build(&b, small, 24);
    for (size_t n = 0; n < b.n; n++) assert_true(try_parse(b.p, n, &e) < 0);
    uint32_t lcg = 7;
    for (int k = 0; k < 10000; k++) {
        lcg = lcg * 1664525u + 1013904223u;
        size_t at = (lcg >> 8) % b.n;
        char was = b.p[at];
        b.p[at] = (char)(was ^ (1 << (lcg & 7)));
        try_parse(b.p, b.n, &e);
        b.p[at] = was;
    }
    assert_int_equal(try_parse(b.p, b.n, &e), 0);
    buf_fini(&b);
}

static void allocation_failures(void **state)
{
    (void)state;
    struct buf b = {0};
    build(&b, small, 24);
    struct scratch_nth nth = {.kind = FAULT_ALLOC};
    size_t before = mem_stats().current;
    for (nth.at = 1;; nth.at++) {
        struct arena a = {0};
        struct tensor *v;
        size_t n;
        struct err e = {0};
        nth.seen = 0;
        fault_set(scratch_fail_nth, &nth);
        int rc = safetensors_parse(buf_view(&b), "x", &a, &v, &n, &e);
        fault_set(NULL, NULL);
        arena_fini(&a);
        assert_int_equal(mem_stats().current, before);
        if (nth.seen < nth.at) {
            assert_int_equal(rc, 0);
            break;
        }
        assert_int_equal(rc, ERR_NOMEM);
    }
    assert_true(nth.at > 1);
    buf_fini(&b);
}

static uint64_t parse_ns(unsigned n)
{
    struct buf json = {0}, b = {0};
    struct err e;
    buf_c(&json, '{');
    for (unsigned i = 0; i < n; i++)
        buf_printf(&json, "%s\"t.%u\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[%u,%u]}", i ? "," : "", i,
                   2 * (n - 1 - i), 2 * (n - i));
    buf_put(&json, "}", 2); /* with its NUL */
    build(&b, json.p, 2 * n);
    uint64_t best = UINT64_MAX;
    for (int k = 0; k < 3; k++) {
        const double start = scratch_cpu_seconds();
        if (try_parse(b.p, b.n, &e) < 0) fail_msg("%s", e.msg);
        const uint64_t ns = (uint64_t)((scratch_cpu_seconds() - start) * 1e9);
        if (ns < best) best = ns;
    }
    buf_fini(&json);
    buf_fini(&b);
    return best;
}

static void time_is_linear(void **state)
{
    (void)state;
    uint64_t one = parse_ns(10000), four = parse_ns(40000);
    assert_true(four < 10 * one); /* quadratic would be 16 */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_file),
        cmocka_unit_test(hostile_files),
        cmocka_unit_test(header_length_attacked),
        cmocka_unit_test(truncated_and_flipped),
        cmocka_unit_test(allocation_failures),
        cmocka_unit_test(time_is_linear),
    };
    return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
