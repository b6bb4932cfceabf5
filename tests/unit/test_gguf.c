/* gguf: writer to reader and back, and what a hostile file can try. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include "format/format_int.h"
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

/* ---- a small valid file made by the writer ---- */

static const float f32s[4] = {1.0f, -2.5f, 0.125f, 3e8f};
static const int32_t i32s[3] = {-1, 0, INT32_MAX};

/* The types that have no gguf_put of their own. */
static const struct gguf_kv others[] = {
    {.key = {"t.u8", 4}, .type = GGUF_U8, .v.u = 200},         {.key = {"t.i8", 4}, .type = GGUF_I8, .v.i = -100},
    {.key = {"t.u16", 5}, .type = GGUF_U16, .v.u = 60000},     {.key = {"t.i16", 5}, .type = GGUF_I16, .v.i = -30000},
    {.key = {"t.i64", 5}, .type = GGUF_I64, .v.i = INT64_MIN}, {.key = {"t.f64", 5}, .type = GGUF_F64, .v.f = 0.1},
};

/* Arrays of each element type, from the bytes 0, 1, 0, 1, ... */
static const uint8_t zero_one[24] = {0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1};

static int write_small(const char *path, struct err *e)
{
    static const char *const array_keys[GGUF_TYPE_COUNT] = {"a.0", "a.1", "a.2", "a.3",  "a.4",  "a.5", "a.6",
                                                            "a.7", "a.8", "a.9", "a.10", "a.11", "a.12"};
    static const struct str strs[] = {{"a", 1}, {NULL, 0}, {"\xff\x00z", 3}};
    struct gguf_writer *w;
    TRY(gguf_writer_new(path, &w, e));
    gguf_put_str(w, "general.architecture", STR("llama"));
    gguf_put_u32(w, "t.u32", UINT32_MAX);
    gguf_put_u64(w, "t.u64", UINT64_MAX);
    gguf_put_i32(w, "t.i32", INT32_MIN);
    gguf_put_f32(w, "t.f32", 0.5f);
    gguf_put_bool(w, "t.true", true);
    gguf_put_bool(w, "t.false", false);
    gguf_put_strs(w, "t.strs", strs, COUNT_OF(strs));
    gguf_put_i32s(w, "t.i32s", i32s, COUNT_OF(i32s));
    gguf_put_f32s(w, "t.f32s", f32s, COUNT_OF(f32s));
    gguf_put_i32s(w, "t.empty", i32s, 0);
    for (size_t i = 0; i < COUNT_OF(others); i++) gguf_put_kv(w, &others[i]);
    for (enum gguf_type t = 0; t < GGUF_TYPE_COUNT; t++) {
        if (t == GGUF_STRING || t == GGUF_ARRAY) continue;
        struct gguf_kv kv = {str_of(array_keys[t]), GGUF_ARRAY, t, 3, {0}, zero_one, 3 * gguf_type_bytes(t)};
        gguf_put_kv(w, &kv);
    }
    gguf_put_u32(w, "general.alignment", 64);

    float x[64];
    uint8_t q[68];
    for (int i = 0; i < 64; i++) x[i] = (float)(i - 20);
    qtypes[QTYPE_Q8_0].quantize(x, NULL, q, 64);
    int rc = gguf_add_tensor(w, STR("norm.weight"), QTYPE_F32, 1, (const uint64_t[]){5}, e);
    if (rc == 0) rc = gguf_add_tensor(w, STR("q.weight"), QTYPE_Q8_0, 2, (const uint64_t[]){32, 2}, e);
    if (rc == 0) rc = gguf_add_tensor(w, STR("h.weight"), QTYPE_F16, 3, (const uint64_t[]){3, 1, 2}, e);
    if (rc == 0) rc = gguf_write_begin(w, e);
    if (rc == 0) rc = gguf_write_data(w, x, 8, e);
    if (rc == 0) rc = gguf_write_data(w, x + 2, 12, e);
    if (rc == 0) rc = gguf_write_data(w, q, 68, e);
    if (rc == 0) rc = gguf_write_data(w, "abcdefghijkl", 12, e);
    if (rc == 0) rc = gguf_write_end(w, e);
    gguf_writer_free(&w);
    return rc;
}

static struct map small_file(void)
{
    struct err e = {0};
    struct map m;
    const char *path = scratch_path(dir, "small.gguf");
    if (!vfs_exists(path) && write_small(path, &e) < 0) fail_msg("%s", e.msg);
    if (vfs_map(path, &m, &e) < 0) fail_msg("%s", e.msg);
    return m;
}

static void round_trip(void **state)
{
    (void)state;
    struct map m = small_file();
    struct gguf *g;
    struct err e = {0};
    assert_int_equal(gguf_parse((struct str){(const char *)m.p, m.n}, "small", true, &g, &e), 0);
    assert_int_equal(gguf_version(g), 3);
    assert_int_equal(m.n % 64, 0);

    uint64_t u;
    int64_t i;
    double f;
    bool b;
    struct str s;
    assert_true(gguf_get_str(g, "general.architecture", &s) && str_is(s, "llama"));
    assert_true(gguf_get_u64(g, "t.u32", &u) && u == UINT32_MAX);
    assert_true(gguf_get_i64(g, "t.u32", &i) && i == UINT32_MAX);
    assert_true(gguf_get_u64(g, "t.u64", &u) && u == UINT64_MAX);
    assert_true(gguf_get_i64(g, "t.i32", &i) && i == INT32_MIN);
    assert_true(gguf_get_f64(g, "t.i32", &f) && f == INT32_MIN);
    assert_true(gguf_get_f64(g, "t.f32", &f) && f == 0.5);
    assert_true(gguf_get_f64(g, "t.f64", &f) && f == 0.1);
    assert_true(gguf_get_bool(g, "t.true", &b) && b);
    assert_true(gguf_get_bool(g, "t.false", &b) && !b);
    assert_true(gguf_get_u64(g, "t.u8", &u) && u == 200);
    assert_true(gguf_get_i64(g, "t.i8", &i) && i == -100);
    assert_true(gguf_get_u64(g, "t.u16", &u) && u == 60000);
    assert_true(gguf_get_i64(g, "t.i16", &i) && i == -30000);
    assert_true(gguf_get_i64(g, "t.i64", &i) && i == INT64_MIN);

    struct reader r;
    const struct gguf_kv *kv = gguf_find(g, "t.strs");
    assert_true(kv && kv->n == 3 && gguf_strs(kv, &r));
    assert_true(str_is(gguf_next_str(&r), "a"));
    assert_int_equal(gguf_next_str(&r).n, 0);
    s = gguf_next_str(&r);
    assert_true(s.n == 3 && memcmp(s.p, "\xff\x00z", 3) == 0);
    assert_false(r.bad);
    gguf_next_str(&r);
    assert_true(r.bad);

    kv = gguf_find(g, "t.i32s");
    assert_int_equal(kv->n, 3);
    for (uint64_t k = 0; k < 3; k++) assert_true(gguf_arr_i64(kv, k, &i) && i == i32s[k]);
    kv = gguf_find(g, "t.f32s");
    for (uint64_t k = 0; k < 4; k++) assert_true(gguf_arr_f64(kv, k, &f) && f == (double)f32s[k]);
    assert_int_equal(gguf_find(g, "t.empty")->n, 0);

    assert_int_equal(gguf_n_tensors(g), 3);
    const struct tensor *t = gguf_tensor(g, 1);
    assert_true(str_is(t->name, "q.weight") && t->type == QTYPE_Q8_0 && t->n_dims == 2);
    assert_true(t->ne[0] == 32 && t->ne[1] == 2 && t->ne[2] == 1 && t->ne[3] == 1 && t->bytes == 68);
    float x[64];
    qtype_to_float(QTYPE_Q8_0, t->data, x, 64);
    for (int k = 0; k < 64; k++) assert_true(x[k] > (float)(k - 20) - 0.2f && x[k] < (float)(k - 20) + 0.2f);
    assert_memory_equal(gguf_tensor(g, 2)->data, "abcdefghijkl", 12);
    for (size_t k = 0; k < 3; k++) assert_int_equal(((const uint8_t *)gguf_tensor(g, k)->data - m.p) % 64, 0);
    assert_null(gguf_tensor(g, 3));
    assert_null(gguf_kv_at(g, gguf_n_kv(g)));
    gguf_free(&g);
    assert_null(g);
    vfs_unmap(&m);
}

/* Every accessor against every type: only the fitting ones answer, and the others leave *out alone. */
static void accessors_are_strict(void **state)
{
    (void)state;
    struct map m = small_file();
    struct gguf *g;
    assert_int_equal(gguf_parse((struct str){(const char *)m.p, m.n}, "small", true, &g, NULL), 0);
    for (size_t k = 0; k < gguf_n_kv(g); k++) {
        const struct gguf_kv *kv = gguf_kv_at(g, k);
        char key[64] = {0};
        memcpy(key, kv->key.p, kv->key.n);
        uint64_t u = 77;
        int64_t i = 77;
        double f = 77;
        struct str s = {"x", 1};
        bool b = true;
        enum gguf_type t = kv->type;
        bool is_int = t <= GGUF_I32 || t == GGUF_U64 || t == GGUF_I64;
        bool is_float = t == GGUF_F32 || t == GGUF_F64;
        assert_int_equal(gguf_get_u64(g, key, &u), is_int && !(kv->v.i < 0 && strstr(key, ".i")));
        assert_int_equal(gguf_get_i64(g, key, &i), is_int && !(kv->v.u > INT64_MAX && strstr(key, ".u")));
        assert_int_equal(gguf_get_f64(g, key, &f), is_int || is_float);
        assert_int_equal(gguf_get_str(g, key, &s), t == GGUF_STRING);
        assert_int_equal(gguf_get_bool(g, key, &b), t == GGUF_BOOL);
        if (!is_int) assert_true(u == 77 && i == 77);
        if (t != GGUF_STRING) assert_true(str_is(s, "x"));

        bool nums = t == GGUF_ARRAY && kv->n > 0;
        enum gguf_type el = kv->elem;
        is_int = el <= GGUF_I32 || el == GGUF_U64 || el == GGUF_I64;
        is_float = el == GGUF_F32 || el == GGUF_F64;
        struct reader r;
        assert_int_equal(gguf_strs(kv, &r), t == GGUF_ARRAY && el == GGUF_STRING);
        if (strcmp(key, "t.i32s") != 0) assert_int_equal(gguf_arr_u64(kv, 0, &u), nums && is_int);
        assert_int_equal(gguf_arr_i64(kv, 0, &i), nums && is_int);
        assert_int_equal(gguf_arr_f64(kv, 0, &f), nums && (is_int || is_float));
        assert_false(gguf_arr_u64(kv, kv->n, &u));
        assert_false(gguf_arr_f64(kv, UINT64_MAX, &f));
    }
    assert_null(gguf_find(g, "t.u3"));
    assert_null(gguf_find(g, ""));
    gguf_free(&g);
    vfs_unmap(&m);
}

/* ---- use of whatever was accepted ---- */

/* Reads every byte that a parse result gives out. */
static uint64_t use(const struct gguf *g)
{
    uint64_t sum = 0, u;
    double f;
    struct reader r;
    for (size_t k = 0; k < gguf_n_kv(g); k++) {
        const struct gguf_kv *kv = gguf_kv_at(g, k);
        for (size_t i = 0; i < kv->key.n; i++) sum += (uint8_t)kv->key.p[i];
        if (kv->type == GGUF_STRING)
            for (size_t i = 0; i < kv->v.s.n; i++) sum += (uint8_t)kv->v.s.p[i];
        for (uint64_t i = 0; i < kv->n; i++) {
            if (gguf_arr_u64(kv, i, &u)) sum += u;
            if (gguf_arr_f64(kv, i, &f) && f > 0) sum++;
        }
        if (gguf_strs(kv, &r)) {
            for (uint64_t i = 0; i < kv->n; i++) {
                struct str s = gguf_next_str(&r);
                for (size_t c = 0; c < s.n; c++) sum += (uint8_t)s.p[c];
            }
            assert_false(r.bad);
        }
    }
    for (size_t k = 0; k < gguf_n_tensors(g); k++) {
        const struct tensor *t = gguf_tensor(g, k);
        for (uint64_t i = 0; t->data && i < t->bytes; i++) sum += ((const uint8_t *)t->data)[i];
    }
    return sum;
}

/* Parses n bytes; true where they were accepted. Refusals carry one line that names the file; memory follows the file. */
static bool try_parse(const void *bytes, size_t n, bool with_data)
{
    char *copy = scratch_exact(bytes, n);
    struct gguf *g;
    struct err e = {0};
    size_t before = mem_stats().current;
    mem_peak_reset();
    int rc = gguf_parse((struct str){copy, n}, "x.gguf", with_data, &g, &e);
    assert_true(mem_stats().peak - before <= 4 * n + 65536);
    if (rc == 0) {
        use(g);
        gguf_free(&g);
    } else {
        assert_null(g);
        assert_int_equal(e.code, rc);
        assert_non_null(strstr(e.msg, "x.gguf"));
        assert_null(strchr(e.msg, '\n'));
    }
    assert_int_equal(mem_stats().current, before);
    free(copy);
    return rc == 0;
}

static void truncated_at_every_byte(void **state)
{
    (void)state;
    struct map m = small_file();
    /* The padding after the last tensor of 12 bytes may be missing. */
    size_t needed = m.n - 52;
    for (size_t n = 0; n <= m.n; n++) assert_int_equal(try_parse(m.p, n, true), n >= needed);
    vfs_unmap(&m);
}

/* The places of all length, count, type, size and value fields of a valid file, found by walking it. */
struct fields {
    size_t at[400];
    uint8_t bytes[400];
    size_t n;
    const uint8_t *p;
    size_t pos;
};

static uint64_t field(struct fields *f, uint8_t bytes)
{
    uint64_t v = 0;
    assert_true(f->n < COUNT_OF(f->at));
    f->at[f->n] = f->pos;
    f->bytes[f->n++] = bytes;
    memcpy(&v, f->p + f->pos, bytes);
    f->pos += bytes;
    return v;
}

static void walk_value(struct fields *f, uint64_t type)
{
    if (type == GGUF_STRING)
        f->pos += field(f, 8);
    else if (gguf_type_bytes((enum gguf_type)type) >= 4)
        field(f, (uint8_t)gguf_type_bytes((enum gguf_type)type));
    else
        f->pos += gguf_type_bytes((enum gguf_type)type);
}

static void walk(struct fields *f, const uint8_t *p)
{
    *f = (struct fields){.p = p, .pos = 4};
    field(f, 4);
    uint64_t n_tensors = field(f, 8), n_kv = field(f, 8);
    for (uint64_t i = 0; i < n_kv; i++) {
        f->pos += field(f, 8);
        uint64_t type = field(f, 4);
        if (type != GGUF_ARRAY) {
            walk_value(f, type);
            continue;
        }
        uint64_t elem = field(f, 4), n = field(f, 8);
        for (uint64_t k = 0; k < n; k++) walk_value(f, elem);
    }
    for (uint64_t i = 0; i < n_tensors; i++) {
        f->pos += field(f, 8);
        uint64_t n_dims = field(f, 4);
        for (uint64_t d = 0; d < n_dims; d++) field(f, 8);
        field(f, 4);
        field(f, 8);
    }
}

static void every_field_attacked(void **state)
{
    (void)state;
    struct map m = small_file();
    struct fields f;
    walk(&f, m.p);
    assert_true(f.n > 100);
    uint8_t *bytes = malloc(m.n);
    size_t accepted = 0, tried = 0;
    for (size_t i = 0; i < f.n; i++) {
        uint64_t left = m.n - f.at[i] - f.bytes[i];
        const uint64_t values[] = {0,
                                   1,
                                   INT32_MAX,
                                   (uint64_t)INT32_MAX + 1,
                                   UINT32_MAX,
                                   INT64_MAX,
                                   (uint64_t)INT64_MAX + 1,
                                   UINT64_MAX,
                                   left - 1,
                                   left,
                                   left + 1,
                                   left / 13,
                                   9,
                                   33};
        for (size_t k = 0; k < COUNT_OF(values); k++) {
            memcpy(bytes, m.p, m.n);
            memcpy(bytes + f.at[i], &values[k], f.bytes[i]);
            tried++;
            bool same = memcmp(bytes, m.p, m.n) == 0, ok = try_parse(bytes, m.n, true);
            accepted += ok;
            if (same) assert_true(ok);
            /* Version and metadata count bear none of these values (fewer tensors are fine). */
            if ((i == 0 || i == 2) && !same) assert_false(ok);
            try_parse(bytes, m.n, false);
        }
    }
    assert_true(tried > 1500 && accepted < tried);
    free(bytes);
    vfs_unmap(&m);
}

static void random_byte_flips(void **state)
{
    (void)state;
    struct map m = small_file();
    uint8_t *bytes = malloc(m.n);
    uint32_t lcg = 1;
    for (int k = 0; k < 10000; k++) {
        memcpy(bytes, m.p, m.n);
        for (int flips = k % 3; flips >= 0; flips--) {
            lcg = lcg * 1664525u + 1013904223u;
            bytes[(lcg >> 8) % m.n] ^= (uint8_t)(1u << (lcg & 7));
        }
        try_parse(bytes, m.n, k & 1);
    }
    free(bytes);
    vfs_unmap(&m);
}

/* ---- files that the writer refuses to make ---- */

static void put(struct buf *b, uint64_t v, size_t bytes)
{
    assert_int_equal(buf_put(b, &v, bytes), 0);
}

static void put_text(struct buf *b, const char *z)
{
    put(b, strlen(z), 8);
    assert_int_equal(buf_z(b, z), 0);
}

static void header(struct buf *b, uint32_t version, uint64_t n_tensors, uint64_t n_kv)
{
    b->n = 0;
    buf_z(b, "GGUF");
    put(b, version, 4);
    put(b, n_tensors, 8);
    put(b, n_kv, 8);
}

static void tensor1(struct buf *b, const char *name, uint64_t ne, uint32_t type, uint64_t offset)
{
    put_text(b, name);
    put(b, 1, 4);
    put(b, ne, 8);
    put(b, type, 4);
    put(b, offset, 8);
}

static void zeros(struct buf *b, size_t n)
{
    for (size_t i = 0; i < n; i++) buf_c(b, 0);
}

/* The file must be refused with all of the words in the message. */
static void refused(const struct buf *b, const char *words)
{
    struct gguf *g;
    struct err e = {0};
    assert_false(try_parse(b->p, b->n, true));
    assert_true(gguf_parse(buf_view(b), "x.gguf", true, &g, &e) < 0);
    if (!strstr(e.msg, words)) fail_msg("\"%s\" is not in \"%s\"", words, e.msg);
}

static void hostile_headers(void **state)
{
    (void)state;
    struct buf b = {0};
    header(&b, 1, 0, 0);
    refused(&b, "version 1");
    header(&b, 4, 0, 0);
    refused(&b, "version 4");
    header(&b, 0, 0, 0);
    refused(&b, "version 0");
    header(&b, 0x03000000, 0, 0);
    refused(&b, "big-endian");
    header(&b, 3, UINT64_MAX, 0);
    refused(&b, "claims");
    header(&b, 3, 0, UINT64_MAX / 13 + 1);
    refused(&b, "claims");
    b.n = 0;
    buf_z(&b, "version https://git-lfs.github.com/spec/v1\noid sha256:00");
    refused(&b, "Git LFS");
    b.n = 0;
    refused(&b, "empty");
    header(&b, 3, 0, 0);
    assert_true(try_parse(b.p, b.n, true));
    header(&b, 2, 0, 0);
    assert_true(try_parse(b.p, b.n, true));
    buf_fini(&b);
}

static void hostile_metadata(void **state)
{
    (void)state;
    struct buf b = {0};
    header(&b, 3, 0, 2);
    for (int i = 0; i < 2; i++) {
        put_text(&b, "same.key");
        put(&b, GGUF_U8, 4);
        put(&b, 1, 1);
    }
    refused(&b, "\"same.key\" is there twice");

    const struct {
        uint64_t type, value;
        size_t bytes;
        const char *words;
    } values[] = {
        {GGUF_BOOL, 2, 1, "expected a bool"},
        {13, 0, 8, "unknown type 13"},
        {UINT32_MAX, 0, 8, "unknown type 4294967295"},
        {GGUF_STRING, 1, 8, "ends in"},
    };
    for (size_t i = 0; i < COUNT_OF(values); i++) {
        header(&b, 3, 0, 1);
        put_text(&b, "some.key");
        put(&b, values[i].type, 4);
        put(&b, values[i].value, values[i].bytes);
        refused(&b, values[i].words);
    }

    const struct {
        uint64_t elem, n, body;
        const char *words;
    } arrays[] = {
        {GGUF_ARRAY, 1, 64, "array of arrays"},       {13, 1, 64, "unknown type 13"},   {GGUF_U64, 9, 64, "claims 9"},
        {GGUF_U64, UINT64_MAX / 8 + 1, 64, "claims"}, {GGUF_STRING, 9, 64, "claims 9"}, {GGUF_BOOL, 1, 8, NULL},
    };
    for (size_t i = 0; i < COUNT_OF(arrays); i++) {
        header(&b, 3, 0, 1);
        put_text(&b, "some.key");
        put(&b, GGUF_ARRAY, 4);
        put(&b, arrays[i].elem, 4);
        put(&b, arrays[i].n, 8);
        zeros(&b, arrays[i].body);
        if (arrays[i].words)
            refused(&b, arrays[i].words);
        else
            assert_true(try_parse(b.p, b.n, true));
    }
    b.p[b.n - 8] = 3; /* the first element of the array of bools */
    refused(&b, "expected a bool");

    const char *keys[] = {"", "a\nb", "\xff", "\x1b[31m"};
    for (size_t i = 0; i < COUNT_OF(keys); i++) {
        header(&b, 3, 0, 1);
        put_text(&b, keys[i]);
        put(&b, GGUF_U8, 4);
        put(&b, 1, 1);
        refused(&b, "key of metadata entry 0");
    }

    const uint64_t alignments[] = {0, 3, 48, 131072, UINT32_MAX};
    for (size_t i = 0; i < COUNT_OF(alignments); i++) {
        header(&b, 3, 0, 1);
        put_text(&b, "general.alignment");
        put(&b, GGUF_U32, 4);
        put(&b, alignments[i], 4);
        refused(&b, "power of two");
    }
    header(&b, 3, 0, 1);
    put_text(&b, "general.alignment");
    put(&b, GGUF_STRING, 4);
    put_text(&b, "32");
    refused(&b, "power of two");
    buf_fini(&b);
}

static void hostile_tensors(void **state)
{
    (void)state;
    struct buf b = {0};
    const struct {
        const char *name;
        uint64_t ne;
        uint32_t type;
        uint64_t offset;
        const char *words;
    } one[] = {
        {"t", 8, 0, 0, NULL},
        {"t", 0, 0, 0, "impossible size"},
        {"t", UINT64_MAX, 0, 0, "impossible size"},
        {"t", UINT64_MAX / 4 + 1, 0, 0, "impossible size"},
        {"t", UINT64_MAX / 4, 0, 0, "outside of the file"},
        {"t", 8, 0, 16, "multiple of 32"},
        {"t", 8, 0, 1 << 20, "outside of the file"},
        {"t", 8, 0, UINT64_MAX - 31, "outside of the file"},
        {"t", 33, 8, 0, "multiple of 32"},
        {"t", 256, 9, 0, "q8_1 (number 9)"},
        {"t", 256, 99, 0, "? (number 99)"},
        {"", 8, 0, 0, "name of tensor 0"},
        {"a\x7f", 8, 0, 0, "name of tensor 0"},
    };
    for (size_t i = 0; i < COUNT_OF(one); i++) {
        header(&b, 3, 1, 0);
        tensor1(&b, one[i].name, one[i].ne, one[i].type, one[i].offset);
        zeros(&b, 400);
        if (one[i].words)
            refused(&b, one[i].words);
        else
            assert_true(try_parse(b.p, b.n, true));
    }
    /* Without data the types of others are no obstacle: their vocabulary can be read. */
    header(&b, 3, 1, 0);
    tensor1(&b, "t", 256, 9, 0);
    struct gguf *g;
    assert_int_equal(gguf_parse(buf_view(&b), "x", false, &g, NULL), 0);
    assert_int_equal(gguf_tensor(g, 0)->type, QTYPE_COUNT);
    assert_null(gguf_tensor(g, 0)->data);
    gguf_free(&g);

    for (uint32_t n_dims = 0; n_dims < 7; n_dims++) {
        header(&b, 3, 1, 0);
        put_text(&b, "t");
        put(&b, n_dims, 4);
        for (uint32_t d = 0; d < n_dims; d++) put(&b, 2, 8);
        put(&b, 0, 4);
        put(&b, 0, 8);
        zeros(&b, 400);
        if (n_dims >= 1 && n_dims <= 4)
            assert_true(try_parse(b.p, b.n, true));
        else
            refused(&b, "dimensions, expected 1 to 4");
    }
    /* 2^32 x 2^32: the product wraps to 0. */
    header(&b, 3, 1, 0);
    put_text(&b, "t");
    put(&b, 2, 4);
    put(&b, UINT64_C(1) << 32, 8);
    put(&b, UINT64_C(1) << 32, 8);
    put(&b, 0, 4);
    put(&b, 0, 8);
    refused(&b, "impossible size");

    const uint64_t second[] = {0, 32, 64, 96};
    for (size_t i = 0; i < COUNT_OF(second); i++) {
        header(&b, 3, 2, 0);
        tensor1(&b, "first", 17, 0, second[i]); /* 68 bytes: up to 3 slots of 32 */
        tensor1(&b, "second", 8, 0, 0);
        zeros(&b, 400);
        if (i == 0)
            refused(&b, "overlap");
        else
            assert_true(try_parse(b.p, b.n, true));
    }
    header(&b, 3, 2, 0);
    tensor1(&b, "first", 17, 0, 0);
    tensor1(&b, "second", 8, 0, 64);
    zeros(&b, 400);
    refused(&b, "overlap");
    header(&b, 3, 2, 0);
    tensor1(&b, "same", 8, 0, 0);
    tensor1(&b, "same", 8, 0, 32);
    zeros(&b, 400);
    refused(&b, "\"same\" is there twice");
    buf_fini(&b);
}

/* Sizes that sum to 2^64 - 4 k: every one lies outside of the file, however the sum wraps. */
static void sums_past_two_to_the_64(void **state)
{
    (void)state;
    struct buf b = {0};
    for (uint64_t n = 2; n <= 64; n += 31)
        for (uint64_t k = 0; k <= 1024; k += 16) {
            uint64_t each = (UINT64_MAX / 4 - k) / n, offset = 0;
            header(&b, 3, n, 0);
            for (uint64_t i = 0; i < n; i++) {
                char name[8];
                snprintf(name, sizeof name, "t%u", (unsigned)i);
                tensor1(&b, name, i + 1 < n ? each : UINT64_MAX / 4 - k - each * (n - 1), 0, offset);
                offset = (offset + each * 4 + 31) & ~UINT64_C(31);
            }
            zeros(&b, 256);
            refused(&b, "outside of the file");
        }
    buf_fini(&b);
}

static void sizes_agree_with_128_bits(void **state)
{
    (void)state;
    uint64_t x = 88172645463325252u;
    for (int k = 0; k < 300000; k++) {
        struct tensor t = {.n_dims = 4};
        unsigned __int128 bytes = 1;
        bool fits = true;
        for (int d = 0; d < 4; d++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            t.ne[d] = (x >> (x & 63)) + 1;
        }
        t.type = (enum qtype)(x >> 32 & 3);
        const struct qtype_info *q = &qtypes[t.type];
        if (k & 4) t.ne[0] &= ~(uint64_t)31;
        fits = t.ne[0] % q->block_n == 0;
        bytes = (unsigned __int128)(t.ne[0] / q->block_n) * q->block_bytes;
        fits = fits && bytes <= UINT64_MAX;
        for (int d = 1; fits && d < 4; d++) {
            bytes *= t.ne[d];
            fits = bytes <= UINT64_MAX;
        }
        assert_int_equal(tensor_bytes(&t), fits);
        if (fits) assert_true(t.bytes == (uint64_t)bytes);
    }
}

/* ---- cost ---- */

static uint64_t parse_ns(unsigned n)
{
    struct buf b = {0};
    header(&b, 3, n, n);
    for (unsigned i = 0; i < n; i++) {
        char key[16];
        snprintf(key, sizeof key, "key.%u", i);
        put_text(&b, key);
        put(&b, GGUF_U8, 4);
        put(&b, 1, 1);
    }
    for (unsigned i = 0; i < n; i++) {
        char name[16];
        snprintf(name, sizeof name, "t.%u", i);
        tensor1(&b, name, 8, 0, 32ull * (n - 1 - i)); /* in falling order */
    }
    zeros(&b, 32ull * n + 32);
    uint64_t best = UINT64_MAX;
    for (int k = 0; k < 3; k++) {
        const double start = scratch_cpu_seconds();
        assert_true(try_parse(b.p, b.n, true));
        const uint64_t ns = (uint64_t)((scratch_cpu_seconds() - start) * 1e9);
        if (ns < best) best = ns;
    }
    buf_fini(&b);
    return best;
}

static void time_is_linear(void **state)
{
    (void)state;
    uint64_t one = parse_ns(20000), four = parse_ns(80000);
    assert_true(four < 10 * one); /* quadratic would be 16 */
}

/* ---- faults ---- */

static void parse_survives_allocation_failures(void **state)
{
    (void)state;
    struct map m = small_file();
    struct scratch_nth nth = {.kind = FAULT_ALLOC};
    size_t before = mem_stats().current, failed = 0;
    for (nth.at = 1;; nth.at++) {
        struct gguf *g;
        struct err e = {0};
        nth.seen = 0;
        fault_set(scratch_fail_nth, &nth);
        int rc = gguf_parse((struct str){(const char *)m.p, m.n}, "small", true, &g, &e);
        fault_set(NULL, NULL);
        if (nth.seen < nth.at) {
            assert_int_equal(rc, 0);
            gguf_free(&g);
            break;
        }
        failed++;
        assert_int_equal(rc, ERR_NOMEM);
        assert_null(g);
        assert_int_equal(mem_stats().current, before);
    }
    assert_true(failed >= 3);
    vfs_unmap(&m);
}

static void writer_leaves_nothing_behind(void **state)
{
    (void)state;
    char sub[64];
    scratch_make(sub);
    enum fault_kind kinds[] = {FAULT_ALLOC, FAULT_IO};
    for (size_t k = 0; k < COUNT_OF(kinds); k++) {
        struct scratch_nth nth = {.kind = kinds[k]};
        size_t before = mem_stats().current;
        const char *path = scratch_path(sub, "w.gguf");
        for (nth.at = 1;; nth.at++) {
            struct err e = {0};
            nth.seen = 0;
            fault_set(scratch_fail_nth, &nth);
            int rc = write_small(path, &e);
            fault_set(NULL, NULL);
            assert_int_equal(mem_stats().current, before);
            if (nth.seen < nth.at) {
                assert_int_equal(rc, 0);
                break;
            }
            /* Where the call was only for tidying up, the file is whole. */
            if (rc == 0) continue;
            assert_true(e.msg[0] != 0);
        }
        assert_true(nth.at > 4);
        assert_int_equal(remove(path), 0);
        assert_int_equal(rmdir(sub), 0); /* no temporary file is left */
        assert_int_equal(mkdir(sub, 0700), 0);
    }
    scratch_remove(sub);
}

static void writer_refuses_nonsense(void **state)
{
    (void)state;
    struct gguf_writer *w;
    struct err e = {0};
    const char *path = scratch_path(dir, "bad.gguf");
    const uint64_t ne[] = {31, 2};

    assert_int_equal(gguf_writer_new(path, &w, &e), 0);
    gguf_put_u32(w, "k", 1);
    gguf_put_u32(w, "k", 2);
    assert_true(gguf_write_begin(w, &e) < 0);
    assert_non_null(strstr(e.msg, "\"k\" is there twice"));
    gguf_writer_free(&w);

    assert_int_equal(gguf_writer_new(path, &w, &e), 0);
    assert_true(gguf_add_tensor(w, STR("t"), QTYPE_Q8_0, 2, ne, &e) < 0);
    assert_true(gguf_write_begin(w, &e) < 0);
    gguf_writer_free(&w);

    assert_int_equal(gguf_writer_new(path, &w, &e), 0);
    assert_int_equal(gguf_add_tensor(w, STR("t"), QTYPE_F32, 2, ne, &e), 0);
    assert_int_equal(gguf_writer_data_bytes(w), 31 * 2 * 4);
    assert_true(gguf_write_data(w, ne, 4, &e) < 0);
    assert_int_equal(gguf_write_begin(w, &e), 0);
    assert_int_equal(gguf_write_data(w, ne, 16, &e), 0);
    assert_true(gguf_write_end(w, &e) < 0);
    assert_non_null(strstr(e.msg, "0 of 1 tensors"));
    gguf_writer_free(&w);
    assert_false(vfs_exists(path));
    gguf_writer_free(&w);
}

/* A number that is known only when the data are written, and a look at the file before that. */
static void late_values(void **state)
{
    (void)state;
    struct gguf_writer *w;
    struct err e = {0};
    const char *path = scratch_path(dir, "late.gguf"), *tmp = NULL;
    const uint64_t ne[] = {3};
    const float data[] = {1, 2, 3}, value = 0.25f;
    assert_int_equal(gguf_writer_new(path, &w, &e), 0);
    gguf_put_f32(w, "late", 0);
    const uint64_t place = gguf_last_value(w, GGUF_F32);
    gguf_put_u32(w, "after", 7);
    assert_int_equal(gguf_add_tensor(w, STR("t"), QTYPE_F32, 1, ne, &e), 0);
    assert_true(gguf_peek(w, &tmp, &e) < 0); /* nothing is there to look at */
    assert_int_equal(gguf_write_begin(w, &e), 0);
    assert_int_equal(gguf_write_data(w, data, sizeof data, &e), 0);
    assert_int_equal(gguf_peek(w, &tmp, &e), 0);

    struct files *f;
    double v = 1;
    uint64_t after = 0;
    assert_int_equal(files_open(tmp, &f, &e), 0);
    assert_true(gguf_get_f64(files_gguf(f), "late", &v) && v == 0);
    files_close(&f);
    assert_false(vfs_exists(path));
    assert_true(gguf_replace(w, (uint64_t)1 << 40, &value, sizeof value, &e) < 0);
    assert_int_equal(gguf_replace(w, place, &value, sizeof value, &e), 0);
    assert_int_equal(gguf_write_end(w, &e), 0);
    gguf_writer_free(&w);
    assert_int_equal(files_open(path, &f, &e), 0);
    assert_true(gguf_get_f64(files_gguf(f), "late", &v) && v == 0.25);
    assert_true(gguf_get_u64(files_gguf(f), "after", &after) && after == 7);
    assert_memory_equal(files_tensor(f, 0)->data, data, sizeof data);
    files_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(accessors_are_strict),
        cmocka_unit_test(truncated_at_every_byte),
        cmocka_unit_test(every_field_attacked),
        cmocka_unit_test(random_byte_flips),
        cmocka_unit_test(hostile_headers),
        cmocka_unit_test(hostile_metadata),
        cmocka_unit_test(hostile_tensors),
        cmocka_unit_test(sums_past_two_to_the_64),
        cmocka_unit_test(sizes_agree_with_128_bits),
        cmocka_unit_test(time_is_linear),
        cmocka_unit_test(parse_survives_allocation_failures),
        cmocka_unit_test(writer_leaves_nothing_behind),
        cmocka_unit_test(writer_refuses_nonsense),
        cmocka_unit_test(late_values),
    };
    return cmocka_run_group_tests_name("gguf", tests, make_dir, remove_dir);
}
