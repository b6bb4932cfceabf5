/* park: what one engine computed another finds on disk, after a restart and a crash, with the same bytes; and whatever lies in
 * the folder, a request gets what it gets alone. On a dense model, one with windows, and one with recurrent layers. */
#include "convert/synth.h"
#include "run/run.h"
#include "scratch.h"

#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>

#include <cmocka.h>

#define N_VOCAB 300
#define N_CTX 1024

static const struct synth_shape shapes[] = {
    {"dense", "llama", 2, 64, 96, 4, 2, 16, N_VOCAB, N_CTX, 10000, true, .traits = S_DENSE},
    {"window", "gpt-oss", 2, 64, 96, 4, 2, 16, N_VOCAB, N_CTX, 10000, false, 4, 2, 96, .window = 96,
     .traits = S_EXPERTS | S_BIASES | S_LATE_NORM},
    {"recurrent", "qwen35", 4, 64, 96, 4, 2, 16, N_VOCAB, N_CTX, 10000, true, .n_k_heads = 2, .n_v_heads = 4, .delta_dim = 16,
     .traits = S_DENSE | S_QK_NORM | S_LATE_NORM | S_DELTA},
};

struct opened {
    struct files *files;
    struct model *model;
    struct tok *tok;
};

static char dir[64], folder[100];
static struct opened models[COUNT_OF(shapes) + 1]; /* the last: the first one with another weight */
static atomic_int n_messages;
static char message[600];

static int open_one(const char *name, struct opened *o)
{
    struct err e;
    const char *path = scratch_path(dir, name);
    if (files_open(path, &o->files, &e) == 0 && model_open(o->files, &o->model, &e) == 0 &&
        tok_open_gguf(files_gguf(o->files), &o->tok, &e) == 0)
        return 0;
    print_message("%s\n", e.msg);
    return -1;
}

/* A copy of the first model whose last bytes, of some matrix, are others. */
static int write_variant(void)
{
    struct map m;
    struct err e;
    if (vfs_map(scratch_path(dir, "dense"), &m, &e) < 0) return -1;
    uint8_t *copy = malloc(m.n);
    if (!copy) return -1;
    memcpy(copy, m.p, m.n);
    copy[m.n - 40] ^= 1;
    scratch_write(dir, "variant", copy, m.n);
    free(copy);
    vfs_unmap(&m);
    return 0;
}

static int setup(void **state)
{
    struct err e;
    (void)state;
    scratch_make(dir);
    (void)snprintf(folder, sizeof folder, "%s/a/b", dir);
    for (size_t i = 0; i < COUNT_OF(shapes); i++)
        if (synth_write(&shapes[i], "q8_0", scratch_path(dir, shapes[i].name), NULL, NULL, &e) < 0 ||
            open_one(shapes[i].name, &models[i]) < 0)
            return -1;
    return write_variant() < 0 ? -1 : open_one("variant", &models[COUNT_OF(shapes)]);
}

static int teardown(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(models); i++) {
        tok_close(&models[i].tok);
        model_close(&models[i].model);
        files_close(&models[i].files);
    }
    scratch_remove(dir);
    return 0;
}

static int empty_folder(void **state)
{
    (void)state;
    scratch_remove(scratch_path(dir, "a"));
    atomic_store(&n_messages, 0);
    return 0;
}

/* ---- engines and requests ---------------------------------------------------------------------------------------------- */

static void on_message(void *user, const char *line)
{
    (void)user;
    if (atomic_fetch_add(&n_messages, 1) == 0) (void)snprintf(message, sizeof message, "%s", line);
}

static struct engine_options options(void)
{
    return (struct engine_options){.n_ctx = N_CTX,
                                   .n_parallel = 2,
                                   .n_queue = 100,
                                   .n_batch = 128,
                                   .n_threads = 1,
                                   .n_pages = 40,
                                   .k_type = QTYPE_F16,
                                   .v_type = QTYPE_F16,
                                   .park_folder = folder,
                                   .park_bytes = (uint64_t)1 << 30,
                                   .on_message = on_message};
}

static struct engine *start(const struct opened *m, const struct engine_options *o)
{
    struct engine *en;
    struct err e;
    if (engine_new(m->model, m->tok, o, &en, &e) < 0) fail_msg("%s", e.msg);
    return en;
}

struct chat {
    int32_t tokens[N_CTX];
    uint32_t n, n_prompt, n_reused, n_parked;
    struct request *q;
    int error;
    atomic_uint n_seen; /* tokens of the answer */
    atomic_bool ended;
};

static void on_token(void *user, const struct token_event *t)
{
    struct chat *c = user;
    c->tokens[c->n++] = t->id;
    atomic_fetch_add(&c->n_seen, 1);
}

static void on_end(void *user, const struct request_result *r)
{
    struct chat *c = user;
    c->error = r->error;
    c->n_reused = r->generated.n_reused;
    c->n_parked = r->n_parked;
    atomic_store(&c->ended, true);
}

static void submit(struct engine *en, struct chat *c, uint32_t n_answer)
{
    struct err e;
    const struct request_options o = {.prompt = c->tokens,
                                      .n_prompt = c->n,
                                      .max_tokens = n_answer,
                                      .sampling = {.top_p = 1, .repeat_penalty = 1},
                                      .ignore_eos = true,
                                      .on_token = on_token,
                                      .on_end = on_end,
                                      .user = c};
    c->n_prompt = c->n;
    atomic_store(&c->ended, false);
    if (engine_submit(en, &o, &c->q, &e) < 0) fail_msg("%s", e.msg);
}

static void answer(struct engine *en, struct chat *c, uint32_t n_answer)
{
    submit(en, c, n_answer);
    while (!atomic_load(&c->ended)) usleep(100);
    request_free(&c->q);
    assert_int_equal(c->error, 0);
}

/* n more tokens, which follow from seed. */
static void say(struct chat *c, uint32_t n, uint32_t seed)
{
    for (uint32_t end = c->n + n; c->n < end; c->n++) c->tokens[c->n] = (int32_t)((seed * 31 + c->n * 7919) % N_VOCAB);
}

/* The answer to the prompt of c, of an engine that knows nothing. */
static void check_answer(const struct opened *m, const struct chat *c)
{
    struct chat alone = {.n = c->n_prompt};
    struct engine_options o = options();
    o.no_prefix = true;
    struct engine *en = start(m, &o);
    memcpy(alone.tokens, c->tokens, c->n_prompt * sizeof *c->tokens);
    answer(en, &alone, c->n - c->n_prompt);
    engine_free(&en);
    assert_memory_equal(alone.tokens, c->tokens, c->n * sizeof *c->tokens);
}

/* ---- the folder -------------------------------------------------------------------------------------------------------- */

struct found {
    char names[200][64];
    uint64_t bytes[200], total;
    size_t n;
};

static int by_depth(const void *a, const void *b)
{
    return strcmp((const char *)a + 17, (const char *)b + 17);
}

static int add_file(void *ctx, const struct vfs_entry *f)
{
    struct found *x = ctx;
    if (strncmp(f->name, ".quern", 6) == 0) return 0;
    assert_true(x->n < COUNT_OF(x->names));
    (void)snprintf(x->names[x->n], sizeof x->names[0], "%s", f->name);
    x->bytes[x->n++] = f->bytes;
    x->total += f->bytes;
    return 0;
}

static void look(struct found *x)
{
    struct err e;
    *x = (struct found){0};
    if (vfs_list(folder, add_file, x, &e) < 0) fail_msg("%s", e.msg);
    qsort(x->names, x->n, sizeof x->names[0], by_depth);
}

static const char *in_folder(const char *name)
{
    return scratch_path(folder, name);
}

/* ---- what is found again ----------------------------------------------------------------------------------------------- */

static void forty_turns(const struct opened *m)
{
    struct engine_options o = options();
    struct engine *en = start(m, &o);
    struct chat c = {0};
    say(&c, 130, 1);
    for (uint32_t turn = 0; turn < 40; turn++) {
        const bool again = turn % 10 == 9; /* another process, as far as the engine knows */
        if (again) {
            engine_free(&en);
            en = start(m, &o);
        }
        const uint32_t before = c.n;
        say(&c, 9, turn);
        answer(en, &c, 8);
        if (turn == 0) continue;
        /* Only the new tokens are read, the last answer, and what is left of a page. */
        if (c.n_reused + 64 + 8 < before) fail_msg("turn %u: %u of %u tokens were known", turn, c.n_reused, before);
        if (again)
            assert_int_equal(c.n_parked, c.n_reused);
        else
            assert_int_equal(c.n_parked, 0);
    }
    engine_free(&en);
    check_answer(m, &c);
    assert_int_equal(atomic_load(&n_messages), 0);
}

static void a_chat_goes_on_after_restarts(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(shapes); i++) forty_turns(&models[i]);
}

/* A child computes, sees that its pages are there, and is killed. */
static void what_a_killed_process_knew_is_found(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        const struct engine_options o = options();
        struct chat c = {0};
        struct found before, now;
        int status;
        say(&c, 200, 2);
        (void)empty_folder(NULL);
        const pid_t child = fork();
        if (child == 0) {
            struct engine *en = start(&models[i], &o);
            answer(en, &c, 8);
            do look(&now);
            while (now.n < (models[i].model->hp.delta.taps ? 4 : 3));
            kill(getpid(), SIGKILL);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        look(&before);
        struct engine *en = start(&models[i], &o);
        answer(en, &c, 8);
        assert_int_equal(c.n_parked, 192);
        engine_free(&en);
        look(&now);
        assert_int_equal(now.n, before.n);
        check_answer(&models[i], &c);
    }
}

static void models_keep_to_themselves(void **state)
{
    const struct engine_options o = options();
    struct engine_options q8 = options();
    struct chat c = {0};
    struct found first, all;
    (void)state;
    say(&c, 200, 3);
    struct engine *en = start(&models[0], &o);
    answer(en, &c, 4);
    engine_free(&en);
    look(&first);
    /* Another weight, another type of the cache: nothing is known. */
    q8.v_type = QTYPE_Q8_0;
    const struct opened *const others[] = {&models[COUNT_OF(shapes)], &models[0]};
    const struct engine_options *const with[] = {&o, &q8};
    for (size_t i = 0; i < 2; i++) {
        c.n = c.n_prompt;
        en = start(others[i], with[i]);
        answer(en, &c, 4);
        assert_int_equal(c.n_reused, 0);
        engine_free(&en);
    }
    look(&all);
    assert_int_equal(all.n, 3 * first.n);
    assert_int_equal(atomic_load(&n_messages), 0);
    /* The page of one model under the name of another's is told, and not used. */
    size_t other = 0;
    while (strcmp(all.names[other], first.names[0]) == 0) other++;
    assert_int_equal(rename(in_folder(all.names[other]), in_folder(first.names[0])), 0);
    c.n = c.n_prompt;
    en = start(&models[0], &o);
    answer(en, &c, 4);
    engine_free(&en);
    assert_int_equal(c.n_reused, 0);
    assert_int_equal(atomic_load(&n_messages), 1);
    assert_non_null(strstr(message, "another model"));
    check_answer(&models[0], &c);
}

/* ---- damage ------------------------------------------------------------------------------------------------------------ */

struct damaged {
    uint8_t *p;
    size_t n;
};

static void read_whole(const char *name, struct damaged *d)
{
    struct map m;
    struct err e;
    if (vfs_map(in_folder(name), &m, &e) < 0) fail_msg("%s", e.msg);
    *d = (struct damaged){malloc(m.n + 1), m.n};
    memcpy(d->p, m.p, m.n);
    d->p[m.n] = 0;
    vfs_unmap(&m);
}

/* The file is not used, that is told, and there is a good one afterwards. */
static void check_damage(const struct opened *m, struct chat *c, const char *name, const struct damaged *good, const void *bad,
                         size_t n_bad, uint32_t left)
{
    const struct engine_options o = options();
    struct damaged now;
    scratch_write(folder, name, bad, n_bad);
    atomic_store(&n_messages, 0);
    c->n = c->n_prompt;
    struct engine *en = start(m, &o);
    answer(en, c, 4);
    engine_free(&en);
    assert_int_equal(atomic_load(&n_messages), 1);
    if (!strstr(message, name) || !strstr(message, "ignored")) fail_msg("%s", message);
    assert_int_equal(c->n_reused, left);
    read_whole(name, &now);
    assert_int_equal(now.n, good->n);
    assert_memory_equal(now.p, good->p, good->n);
    free(now.p);
}

/* Of a file of a sequence of three pages; left: tokens that are known without it. */
static void damage(const struct opened *m, struct chat *c, const char *name, uint32_t left)
{
    struct damaged good;
    read_whole(name, &good);
    for (size_t at = 0; at < good.n; at += at < 60 ? 1 : 997) {
        good.p[at] ^= (uint8_t)(1u << at % 8);
        uint8_t *bad = scratch_exact(good.p, good.n);
        good.p[at] ^= (uint8_t)(1u << at % 8);
        check_damage(m, c, name, &good, bad, good.n, left);
        free(bad);
    }
    for (size_t n = 0; n < good.n; n = n * 3 + 7) check_damage(m, c, name, &good, good.p, n, left);
    check_damage(m, c, name, &good, good.p, good.n + 1, left);
    free(good.p);
    check_answer(m, c);
}

static void damaged_files_are_ignored(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(shapes); i += 2) {
        const struct engine_options o = options();
        const bool recurrent = i == 2;
        struct chat c = {0};
        struct found f;
        say(&c, 200, 4);
        (void)empty_folder(NULL);
        struct engine *en = start(&models[i], &o);
        answer(en, &c, 4);
        engine_free(&en);
        look(&f);
        assert_int_equal(f.n, recurrent ? 4 : 3);
        damage(&models[i], &c, f.names[1], recurrent ? 0 : 64);
        if (recurrent) damage(&models[i], &c, f.names[3], 0); /* the state */
    }
}

static void other_things_in_the_folder_stay(void **state)
{
    static const char *const names[] = {"notes.txt", "0123456789abcdef-0000000.kv2", "0123456789abcdef-0000000.k", ".hidden"};
    struct engine_options o = options();
    struct chat c = {0};
    struct found f;
    (void)state;
    struct engine *en = start(&models[0], &o);
    engine_free(&en);
    for (size_t i = 0; i < COUNT_OF(names); i++) scratch_write(folder, names[i], "mine", 4);
    scratch_write(folder, ".quern-0123.tmp", "left by a crash", 15);
    assert_int_equal(vfs_touch(in_folder(".quern-0123.tmp"), 1000000000u, NULL), 0);
    o.park_bytes = 1; /* nothing of its own may stay */
    en = start(&models[0], &o);
    say(&c, 200, 5);
    answer(en, &c, 4);
    engine_free(&en);
    look(&f);
    assert_int_equal(f.n, COUNT_OF(names));
    assert_int_equal(vfs_exists(in_folder(".quern-0123.tmp")), 0);
    assert_int_equal(atomic_load(&n_messages), 1);
    assert_non_null(strstr(message, "limit"));
}

/* ---- room -------------------------------------------------------------------------------------------------------------- */

static void the_folder_keeps_to_its_size(void **state)
{
    struct engine_options o = options();
    struct found f;
    (void)state;
    o.park_bytes = 12 * 9000; /* a page of this model is 8 KiB, with its head and tokens some more */
    struct engine *en = start(&models[0], &o);
    for (uint32_t k = 0; k < 8; k++) {
        struct chat c = {0};
        say(&c, 200 + k * 64, k * 5 + 1);
        answer(en, &c, 1);
    }
    engine_free(&en);
    look(&f);
    assert_true(f.n > 3);
    assert_true(f.total <= o.park_bytes);
    /* The last sequence is there from its beginning on. */
    struct chat c = {0};
    en = start(&models[0], &o);
    say(&c, 200 + 7 * 64, 7 * 5 + 1);
    answer(en, &c, 1);
    assert_true(c.n_parked >= 64);
    engine_free(&en);
}

static atomic_bool disk_is_slow;

static bool wait_for_disk(void *ctx, enum fault_kind kind)
{
    (void)ctx;
    while (kind == FAULT_IO && atomic_load(&disk_is_slow)) usleep(100);
    return false;
}

/* When pages run out, sequences that wait for a slow disk give theirs; one that ends afterwards is stored all the same. The
 * prompts are shorter than a page: nothing is looked for on that disk. */
static void a_slow_disk_costs_only_what_waits(void **state)
{
    static struct chat first, runs, last;
    struct engine_options o = options();
    (void)state;
    o.n_pages = 30;
    fault_set(wait_for_disk, NULL);
    struct engine *en = start(&models[0], &o);
    first = runs = last = (struct chat){0};
    say(&first, 60, 1);
    say(&runs, 60, 2);
    say(&last, 60, 3);
    atomic_store(&disk_is_slow, true);
    answer(en, &first, 640);
    submit(en, &runs, N_CTX - 60);
    submit(en, &last, 640); /* waits for pages of both */
    const uint32_t n = atomic_load(&runs.n_seen);
    while (atomic_load(&runs.n_seen) < n + 4 && !atomic_load(&runs.ended)) usleep(100);
    request_free(&runs.q);
    while (!atomic_load(&last.ended)) usleep(100);
    request_free(&last.q);
    atomic_store(&disk_is_slow, false);
    engine_free(&en);
    fault_set(NULL, NULL);
    en = start(&models[0], &o);
    answer(en, &last, 1);
    assert_int_equal(last.n_parked, 640);
    engine_free(&en);
}

/* A request that waits for the disk is cancelled whenever that comes, however long the disk takes. */
static void a_slow_disk_delays_no_cancel(void **state)
{
    static struct chat c;
    const struct engine_options o = options();
    (void)state;
    fault_set(wait_for_disk, NULL);
    struct engine *en = start(&models[0], &o);
    atomic_store(&disk_is_slow, true);
    for (uint32_t i = 0; i < 300; i++) {
        const uint64_t patience = clock_ns() + 5000000000u;
        c = (struct chat){0};
        say(&c, 200, i);
        submit(en, &c, 1);
        for (uint32_t k = 0; k < i * 10; k++) atomic_signal_fence(memory_order_seq_cst);
        request_cancel(c.q);
        while (!atomic_load(&c.ended) && clock_ns() < patience) usleep(20);
        assert_true(atomic_load(&c.ended));
        request_free(&c.q);
    }
    atomic_store(&disk_is_slow, false);
    engine_free(&en);
    fault_set(NULL, NULL);
}

/* ---- failures ---------------------------------------------------------------------------------------------------------- */

static struct {
    atomic_uint at, seen;
} failing;

static bool fail_one(void *ctx, enum fault_kind kind)
{
    (void)ctx;
    return kind == FAULT_IO && atomic_fetch_add(&failing.seen, 1) + 1 == atomic_load(&failing.at);
}

static void failing_disks_change_no_answer(void **state)
{
    const struct engine_options o = options();
    struct chat c = {0}, want;
    (void)state;
    say(&c, 200, 6);
    struct engine *en = start(&models[2], &o);
    answer(en, &c, 4);
    engine_free(&en);
    want = c;
    for (unsigned at = 1;; at++) {
        struct err e;
        if (at % 2) (void)empty_folder(NULL); /* storing; searching */
        atomic_store(&failing.at, at);
        atomic_store(&failing.seen, 0);
        fault_set(fail_one, NULL);
        c.n = c.n_prompt;
        const int rc = engine_new(models[2].model, models[2].tok, &o, &en, &e);
        if (rc == 0) {
            answer(en, &c, 4);
            engine_free(&en);
            assert_memory_equal(c.tokens, want.tokens, c.n * sizeof *c.tokens);
        }
        fault_set(NULL, NULL);
        if (atomic_load(&failing.seen) < at && at % 2 == 0) break;
    }
}

static void a_folder_that_cannot_be_is_refused(void **state)
{
    struct engine_options o = options();
    struct engine *en = NULL;
    struct err e;
    (void)state;
    scratch_write(dir, "file", "", 0);
    o.park_folder = scratch_path(dir, "file");
    assert_true(engine_new(models[0].model, models[0].tok, &o, &en, &e) < 0);
    assert_non_null(strstr(e.msg, "folder"));
    o.park_folder = "";
    assert_true(engine_new(models[0].model, models[0].tok, &o, &en, &e) < 0);
}

static void requests_may_leave_at_any_time(void **state)
{
    struct engine_options o = options();
    static struct chat chats[12];
    struct engine_info i;
    (void)state;
    o.n_pages = 18;
    for (size_t round = 0; round < 60; round++) {
        struct engine *en = start(&models[round % 3], &o);
        for (uint32_t k = 0; k < COUNT_OF(chats); k++) {
            chats[k] = (struct chat){0};
            say(&chats[k], 30 + 70 * (k % 6), (uint32_t)(k + round) % 7);
            submit(en, &chats[k], 1 + k);
        }
        usleep((useconds_t)(round * 200));
        for (uint32_t k = 0; k < COUNT_OF(chats); k++) request_free(&chats[k].q);
        engine_info(en, &i);
        assert_int_equal(i.kv_used_bytes, i.kv_cached_bytes);
        engine_free(&en);
    }
    assert_int_equal(atomic_load(&n_messages), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_chat_goes_on_after_restarts, empty_folder),
        cmocka_unit_test_setup(what_a_killed_process_knew_is_found, empty_folder),
        cmocka_unit_test_setup(models_keep_to_themselves, empty_folder),
        cmocka_unit_test_setup(damaged_files_are_ignored, empty_folder),
        cmocka_unit_test_setup(other_things_in_the_folder_stay, empty_folder),
        cmocka_unit_test_setup(the_folder_keeps_to_its_size, empty_folder),
        cmocka_unit_test_setup(a_slow_disk_costs_only_what_waits, empty_folder),
        cmocka_unit_test_setup(a_slow_disk_delays_no_cancel, empty_folder),
        cmocka_unit_test_setup(failing_disks_change_no_answer, empty_folder),
        cmocka_unit_test_setup(a_folder_that_cannot_be_is_refused, empty_folder),
        cmocka_unit_test_setup(requests_may_leave_at_any_time, empty_folder),
    };
    return cmocka_run_group_tests_name("park", tests, setup, teardown);
}
