/* park: pages of the prefix tree on disk, so that they outlive the process, a crash, and a change of models.
 *
 * One file holds one page, or the recurrent state behind one. Its name is a hash over what the page depends on and all tokens
 * up to its end, so the folder needs no index: whether a beginning is known is asked by opening files. The file has these
 * tokens in full, and nothing is used before they, the model's fingerprint and the checksum have been compared. It becomes
 * visible whole or not at all (out_commit). Files are never changed, only removed, so any number of processes may share a
 * folder.
 *
 * All files of a sequence get the same time whenever it is stored or met again: a page is never newer than those before it.
 * The oldest go first, and of the same age the deepest, so that what stays are whole beginnings.
 *
 * A thread of its own does all of this. The engine gives it parcels: to search the disk for the beginning of a prompt, which
 * goes first, and to store the pages of a request that ended, which the parcel holds until then. lock guards the lists.
 *
 *     file, little-endian: magic[8] version:u32 kind:u32 fingerprint:u64 key:u64 page:u32 n_pages:u32 payload:u64
 *                          checksum:u64 tokens:i32[page * n_pages] payload
 */
#include "run/run.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#define MAGIC "quernkv\n"
#define VERSION 1
#define CHECKED_BYTES 48 /* of the head, in front of the checksum */
#define HEAD_BYTES 56
#define CLOSE_NS 10000000000u /* how long closing goes on storing what waits */
#define NAME_MAX_BYTES 40

enum kind { KIND_PAGE = 1, KIND_STATE };
static const char *const endings[] = {[KIND_PAGE] = "kv", [KIND_STATE] = "state"};

struct queue {
    struct parcel *first, **end;
};

struct park {
    struct park_options o;
    const struct prefix *t;
    uint64_t fingerprint;
    size_t payload[KIND_STATE + 1]; /* bytes of each kind; 0: there are none */
    uint64_t bytes;                 /* of the files, as far as this process knows */
    bool troubled;                  /* the last write failed, and that was told */
    const struct model *m;
    struct worker_thread *thread;
    struct monitor *lock;
    struct queue searches, stores, stored;
    bool stopping;
    uint64_t deadline;
    char *folder;
    struct arena arena;
};

/* ---- parcels ----------------------------------------------------------------------------------------------------------- */

int parcel_new(const struct park *p, uint32_t n_tokens, struct parcel **out, struct err *e)
{
    struct parcel *x = mem_zalloc(sizeof *x);
    if (!x) return fail_nomem(e, "a request", sizeof *x);
    const size_t n = n_tokens / KV_PAGE;
    const bool states = p->payload[KIND_STATE] > 0;
    x->tokens = arena_array(&x->arena, n + 1, KV_PAGE * sizeof *x->tokens);
    x->pages = arena_array(&x->arena, n + 1, sizeof *x->pages);
    x->states = states ? arena_array(&x->arena, n + 1, sizeof *x->states) : NULL;
    x->names = arena_array(&x->arena, n + 1, sizeof *x->names);
    x->maps = arena_array(&x->arena, n + 1, sizeof *x->maps);
    if (x->tokens && x->pages && (x->states || !states) && x->names && x->maps) {
        *out = x;
        return 0;
    }
    arena_fini(&x->arena);
    mem_free(x);
    return fail_nomem(e, "a request", n * KV_PAGE * sizeof *x->tokens);
}

static void forget_files(struct parcel *x)
{
    for (uint32_t i = x->from; i < x->n_found; i++) vfs_unmap(&x->maps[i]);
    vfs_unmap(&x->state);
    x->n_found = x->state_at = 0;
}

static void discard(struct parcel *x)
{
    forget_files(x);
    arena_fini(&x->arena);
    mem_free(x);
}

static void append(struct queue *q, struct parcel *x)
{
    x->next = NULL;
    *q->end = x;
    q->end = &x->next;
}

static struct parcel *take(struct queue *q)
{
    struct parcel *x = q->first;
    if (!x) return NULL;
    q->first = x->next;
    if (!q->first) q->end = &q->first;
    return x;
}

void parcel_free(struct park *p, struct parcel **px)
{
    struct parcel *x = *px;
    *px = NULL;
    if (!x) return;
    monitor_enter(p->lock);
    const bool busy = x->busy;
    x->orphan = busy; /* the thread frees it then */
    monitor_leave(p->lock);
    if (!busy) discard(x);
}

/* ---- what pages depend on ------------------------------------------------------------------------------------------------ */

#define SAMPLES 16 /* pieces of a tensor that stand for all of it */
#define SAMPLE_BYTES 256

static uint64_t hash_tensor(uint64_t h, const struct tensor *t)
{
    const uint8_t *p = t->data;
    const uint64_t n = tensor_row_bytes(t) * t->ne[1] * t->ne[2] * t->ne[3];
    h = bytes_hash(h ^ t->type, t->ne, sizeof t->ne);
    if (n <= SAMPLES * SAMPLE_BYTES) return bytes_hash(h, p, n);
    for (uint64_t i = 0; i < SAMPLES; i++) h = bytes_hash(h, p + (n - SAMPLE_BYTES) / (SAMPLES - 1) * i, SAMPLE_BYTES);
    return h;
}

static uint64_t hash_rope(uint64_t h, const struct rope_hp *r)
{
    const double v[] = {r->scaling, r->dim,         r->theta,      r->factor,   r->low,
                        r->high,    r->attn_factor, r->mscale_all, r->truncate, r->n_ctx};
    h = bytes_hash(h, v, sizeof v);
    if (r->divisors) h = bytes_hash(h, r->divisors, r->dim / 2 * sizeof *r->divisors);
    return r->long_divisors ? bytes_hash(h, r->long_divisors, r->dim / 2 * sizeof *r->long_divisors) : h;
}

/* Of everything that decides what is in a page: the arithmetic, the layout, the model's numbers, and samples of its weights.
 * Neither paths nor times: a copy of a model is the same model. */
static uint64_t fingerprint_of(const struct model *m, const struct park_options *o, const struct prefix *t)
{
    const uint64_t layout[] = {VERSION, ARITHMETIC_VERSION, KV_PAGE, o->k_type, o->v_type, t->page_bytes, t->state_floats};
    uint64_t h = bytes_hash(0, layout, sizeof layout);
    h = bytes_hash(h, m->hp.arch->gguf, strlen(m->hp.arch->gguf));
    struct hparam x;
    for (size_t i = 0; hparams_at(&m->hp, i, &x); i++) h = bytes_hash(h + i, &x.value, sizeof x.value);
    for (uint32_t i = 0; i < m->hp.n_ropes; i++) h = hash_rope(h, &m->hp.rope[i]);
    for (size_t i = 0; i < m->n_bound; i++) {
        h = bytes_hash(h, m->bound[i].name, strlen(m->bound[i].name));
        for (uint32_t k = 0; k < m->bound[i].n_parts; k++) h = hash_tensor(h, m->bound[i].parts[k]);
    }
    return h;
}

/* ---- names --------------------------------------------------------------------------------------------------------------- */

/* Each page's name follows from that of the page before. */
static void name_pages(const struct park *p, struct parcel *x)
{
    uint64_t h = bytes_hash(p->fingerprint, &x->key, sizeof x->key);
    for (uint32_t i = 0; i < x->n_pages; i++)
        x->names[i] = h = bytes_hash(h, x->tokens + (size_t)i * KV_PAGE, KV_PAGE * sizeof *x->tokens);
}

static void path_of(const struct park *p, const struct parcel *x, uint32_t i, enum kind kind, char out[PATH_MAX])
{
    (void)snprintf(out, PATH_MAX, "%s/%016llx-%07x.%s", p->folder, (unsigned long long)x->names[i], i, endings[kind]);
}

/* Which page of its sequence a file of this name is; false where it has another form. */
static bool read_name(const char *name, uint32_t *depth)
{
    static const char digits[] = "0123456789abcdef";
    if (strspn(name, digits) != 16 || name[16] != '-' || strspn(name + 17, digits) != 7 || name[24] != '.') return false;
    *depth = (uint32_t)strtoul(name + 17, NULL, 16);
    return strcmp(name + 25, endings[KIND_PAGE]) == 0 || strcmp(name + 25, endings[KIND_STATE]) == 0;
}

static void tell(struct park *p, const char *line)
{
    if (p->o.on_message) p->o.on_message(p->o.user, line);
}

/* ---- room ---------------------------------------------------------------------------------------------------------------- */

struct entry {
    char name[NAME_MAX_BYTES];
    uint64_t bytes, ns;
    uint32_t depth;
};
struct listing {
    struct buf entries; /* struct entry[] */
    uint64_t bytes;
};

static int list_one(void *ctx, const struct vfs_entry *f)
{
    struct listing *l = ctx;
    struct entry x = {.bytes = f->bytes, .ns = f->ns};
    if (!read_name(f->name, &x.depth)) return 0;
    (void)snprintf(x.name, sizeof x.name, "%s", f->name);
    l->bytes += f->bytes;
    return buf_put(&l->entries, &x, sizeof x);
}

static int by_age(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->ns != y->ns) return x->ns < y->ns ? -1 : 1;
    return (x->depth < y->depth) - (x->depth > y->depth);
}

/* Removes the oldest files until `more` bytes have room: within the limit, and in half of what the disk could give. */
static int make_room(struct park *p, uint64_t more, struct err *e)
{
    struct listing l = {0};
    vfs_sweep(p->folder);
    int rc = vfs_list(p->folder, list_one, &l, e);
    const uint64_t left = vfs_free_bytes(p->folder);
    const uint64_t half = left > UINT64_MAX - l.bytes ? UINT64_MAX : (left + l.bytes) / 2;
    const uint64_t limit = half < p->o.max_bytes ? half : p->o.max_bytes;
    p->bytes = l.bytes;
    if (rc == 0 && more > limit)
        rc = fail(e, ERR_LIMIT, "%s: a page of %llu bytes is beyond the limit of %llu", p->folder, (unsigned long long)more,
                  (unsigned long long)limit);
    if (rc == 0 && p->bytes > limit - more) {
        struct entry *x = (struct entry *)(void *)l.entries.p;
        const size_t n = l.entries.n / sizeof *x;
        qsort(x, n, sizeof *x, by_age);
        for (size_t i = 0; i < n && p->bytes > (limit - more) / 10 * 9; i++) { /* some more than needed: not each time anew */
            char path[PATH_MAX];
            (void)snprintf(path, sizeof path, "%s/%s", p->folder, x[i].name);
            if (vfs_remove(path, NULL) == 0) p->bytes -= x[i].bytes;
        }
    }
    buf_fini(&l.entries);
    return rc;
}

/* ---- writing ------------------------------------------------------------------------------------------------------------- */

static void put(uint8_t **at, const void *p, size_t n)
{
    memcpy(*at, p, n);
    *at += n;
}

/* The head in front of page i's file; returns the tokens' bytes. */
static size_t make_head(const struct park *p, const struct parcel *x, uint32_t i, enum kind kind, const void *payload,
                        uint8_t head[HEAD_BYTES])
{
    const uint32_t version = VERSION, k = kind, page = KV_PAGE, n_pages = i + 1;
    const uint64_t n = p->payload[kind];
    const size_t tokens = (size_t)n_pages * KV_PAGE * sizeof *x->tokens;
    uint8_t *at = head;
    put(&at, MAGIC, 8);
    put(&at, &version, 4);
    put(&at, &k, 4);
    put(&at, &p->fingerprint, 8);
    put(&at, &x->key, 8);
    put(&at, &page, 4);
    put(&at, &n_pages, 4);
    put(&at, &n, 8);
    const uint64_t sum = bytes_hash(bytes_hash(bytes_hash(0, head, CHECKED_BYTES), x->tokens, tokens), payload, n);
    put(&at, &sum, 8);
    return tokens;
}

static int write_file(struct park *p, const struct parcel *x, uint32_t i, enum kind kind, const void *payload, const char *path,
                      struct err *e)
{
    uint8_t head[HEAD_BYTES];
    const size_t n = p->payload[kind], tokens = make_head(p, x, i, kind, payload, head);
    struct out *o;
    if (p->bytes + HEAD_BYTES + tokens + n > p->o.max_bytes) TRY(make_room(p, HEAD_BYTES + tokens + n, e));
    TRY(out_open(path, &o, e));
    int rc = out_write(o, head, HEAD_BYTES, e);
    if (rc == 0) rc = out_write(o, x->tokens, tokens, e);
    if (rc == 0) rc = out_write(o, payload, n, e);
    if (rc < 0)
        out_abort(&o);
    else
        rc = out_commit(&o, e);
    if (rc < 0) return rc;
    p->bytes += HEAD_BYTES + tokens + n;
    return vfs_touch(path, x->time, e);
}

static int store_one(struct park *p, const struct parcel *x, uint32_t i, enum kind kind, const void *payload, struct err *e)
{
    char path[PATH_MAX];
    path_of(p, x, i, kind, path);
    const int rc = vfs_touch(path, x->time, e);
    return rc == ERR_NOTFOUND ? write_file(p, x, i, kind, payload, path, e) : rc;
}

/* The next page of x; what fails is told once, and ends the parcel. */
static void store_next(struct park *p, struct parcel *x)
{
    struct err e = {0};
    const uint32_t i = x->n_stored;
    if (i == 0) {
        x->time = clock_utc_ns();
        name_pages(p, x);
    }
    int rc = store_one(p, x, i, KIND_PAGE, prefix_page(p->t, x->pages[i]), &e);
    if (rc == 0 && x->states && x->states[i] != NO_STATE)
        rc = store_one(p, x, i, KIND_STATE, prefix_state(p->t, x->states[i]), &e);
    x->n_stored = rc < 0 ? x->n_pages : i + 1;
    if (rc < 0 && !p->troubled) tell(p, e.msg);
    p->troubled = rc < 0;
}

/* ---- reading ------------------------------------------------------------------------------------------------------------- */

/* Whether these bytes are the payload that is looked for; *at gets where it lies. */
static int check_file(const struct park *p, const struct parcel *x, uint32_t i, enum kind kind, const char *path,
                      const struct map *m, struct err *e)
{
    struct reader r = rd_of(m->p, m->n);
    const uint8_t *magic = rd_bytes(&r, 8);
    const uint32_t version = rd_u32(&r), k = rd_u32(&r);
    const uint64_t fingerprint = rd_u64(&r), key = rd_u64(&r);
    const uint32_t page = rd_u32(&r), n_pages = rd_u32(&r);
    const uint64_t n = rd_u64(&r), sum = rd_u64(&r);
    if (r.bad || memcmp(magic, MAGIC, 8) != 0) return fail(e, ERR_FORMAT, "%s: not a file of pages", path);
    if (version != VERSION) return fail(e, ERR_FORMAT, "%s: version %u, expected %d", path, version, VERSION);
    if (fingerprint != p->fingerprint || key != x->key || page != KV_PAGE || k != kind || n_pages != i + 1 ||
        n != p->payload[kind])
        return fail(e, ERR_FORMAT, "%s: of another model or another kind of KV cache", path);
    const size_t bytes = (size_t)n_pages * KV_PAGE * sizeof *x->tokens;
    const uint8_t *tokens = rd_bytes(&r, bytes), *payload = rd_bytes(&r, n);
    if (r.bad || rd_left(&r) != 0)
        return fail(e, ERR_FORMAT, "%s: %zu bytes, expected %zu", path, m->n, HEAD_BYTES + bytes + (size_t)n);
    if (bytes_hash(bytes_hash(bytes_hash(0, m->p, CHECKED_BYTES), tokens, bytes), payload, n) != sum)
        return fail(e, ERR_FORMAT, "%s: damaged: its checksum is another", path);
    return memcmp(tokens, x->tokens, bytes) == 0 ? 0 : fail(e, ERR_FORMAT, "%s: of other tokens", path);
}

/* What is wrong with a file is told, and the file removed, as a good one will take its name. */
static bool open_file(struct park *p, const struct parcel *x, uint32_t i, enum kind kind, struct map *out)
{
    struct err e = {0};
    char path[PATH_MAX];
    path_of(p, x, i, kind, path);
    int rc = vfs_map(path, out, &e);
    if (rc == ERR_NOTFOUND) return false;
    if (rc == 0) rc = check_file(p, x, i, kind, path, out, &e);
    if (rc == 0) return true;
    vfs_unmap(out);
    (void)vfs_remove(path, NULL);
    char line[sizeof e.msg + 16];
    (void)snprintf(line, sizeof line, "%s; it is ignored", e.msg);
    tell(p, line);
    return false;
}

static bool is_there(const struct park *p, const struct parcel *x, uint32_t i, enum kind kind)
{
    char path[PATH_MAX];
    path_of(p, x, i, kind, path);
    return vfs_exists(path);
}

/* Opens the pages of x up to `to`; how far they go. */
static uint32_t open_pages(struct park *p, struct parcel *x, uint32_t to)
{
    uint32_t i = x->n_found;
    while (i < to && open_file(p, x, i, KIND_PAGE, &x->maps[i])) x->n_found = ++i;
    return i < to ? i : to;
}

static void search(struct park *p, struct parcel *x)
{
    const bool recurrent = p->payload[KIND_STATE] > 0;
    uint32_t n = x->from;
    x->n_found = x->from;
    name_pages(p, x);
    if (!recurrent) {
        (void)open_pages(p, x, x->n_pages);
        return;
    }
    /* Pages help as far as there is a state behind one. */
    while (n < x->n_pages && is_there(p, x, n, KIND_PAGE)) n++;
    for (uint32_t to = n; to > x->usable; to--) {
        if (!open_file(p, x, to - 1, KIND_STATE, &x->state)) continue;
        x->state_at = to;
        const uint32_t found = open_pages(p, x, to);
        if (found == to) return;
        vfs_unmap(&x->state);
        x->state_at = 0;
        to = found + 1;
    }
}

/* ---- the thread ---------------------------------------------------------------------------------------------------------- */

/* Inside lock, which is left meanwhile. */
static void run_search(struct park *p)
{
    struct parcel *x = take(&p->searches);
    bool orphan = x->orphan;
    monitor_leave(p->lock);
    if (!orphan) search(p, x);
    monitor_enter(p->lock);
    x->busy = false;
    orphan = x->orphan;
    monitor_leave(p->lock);
    if (orphan) discard(x);
    p->o.on_done(p->o.engine);
    monitor_enter(p->lock);
}

static void run_store(struct park *p)
{
    struct parcel *x = p->stores.first;
    const bool drop = x->unwanted || (p->stopping && clock_ns() > p->deadline);
    monitor_leave(p->lock);
    if (!drop && x->n_stored < x->n_pages) store_next(p, x);
    const bool done = drop || x->n_stored == x->n_pages;
    monitor_enter(p->lock);
    if (!done) return;
    append(&p->stored, take(&p->stores));
    monitor_leave(p->lock);
    p->o.on_done(p->o.engine);
    monitor_enter(p->lock);
}

static void work(void *arg)
{
    struct park *p = arg;
    struct err e = {0};
    p->fingerprint = fingerprint_of(p->m, &p->o, p->t);
    if (make_room(p, 0, &e) < 0) tell(p, e.msg);
    monitor_enter(p->lock);
    while (!p->stopping || p->stores.first || p->searches.first) {
        if (p->searches.first)
            run_search(p);
        else if (p->stores.first)
            run_store(p);
        else
            monitor_wait(p->lock);
    }
    monitor_leave(p->lock);
}

/* ---- for the engine ------------------------------------------------------------------------------------------------------ */

int park_open(const struct park_options *o, const struct model *m, const struct prefix *t, struct park **out, struct err *e)
{
    struct park *p = mem_zalloc(sizeof *p);
    if (!p) return fail_nomem(e, "the prefix cache", sizeof *p);
    p->o = *o;
    p->m = m;
    p->t = t;
    p->payload[KIND_PAGE] = t->page_bytes;
    p->payload[KIND_STATE] = t->state_floats * sizeof(float);
    struct queue *const queues[] = {&p->searches, &p->stores, &p->stored};
    for (size_t i = 0; i < COUNT_OF(queues); i++) queues[i]->end = &queues[i]->first;
    p->folder = arena_dup(&p->arena, o->folder, strlen(o->folder));
    int rc = p->folder ? 0 : fail_nomem(e, "a path", strlen(o->folder));
    if (rc == 0 && strlen(o->folder) > PATH_MAX - 2 * NAME_MAX_BYTES)
        rc = fail(e, ERR_ARG, "%.200s...: the path is too long", o->folder);
    if (rc == 0) rc = vfs_make_folder(o->folder, e);
    if (rc == 0) rc = monitor_new(&p->lock, e);
    if (rc == 0) rc = worker_start(work, p, &p->thread, e);
    *out = p;
    if (rc < 0) park_close(out);
    return rc;
}

void park_close(struct park **pp)
{
    struct park *p = *pp;
    if (!p) return;
    if (p->thread) {
        monitor_enter(p->lock);
        p->stopping = true;
        p->deadline = clock_ns() + CLOSE_NS;
        monitor_wake(p->lock);
        monitor_leave(p->lock);
        worker_join(&p->thread);
    }
    for (struct parcel *x; (x = take(&p->stored));) discard(x);
    monitor_free(&p->lock);
    arena_fini(&p->arena);
    mem_free(p);
    *pp = NULL;
}

void park_search(struct park *p, struct parcel *x, const int32_t *tokens, uint32_t n_pages, uint32_t from, uint32_t usable)
{
    memcpy(x->tokens, tokens, (size_t)n_pages * KV_PAGE * sizeof *tokens);
    x->n_pages = n_pages;
    x->from = from;
    x->usable = usable;
    x->asked = x->busy = true;
    monitor_enter(p->lock);
    append(&p->searches, x);
    monitor_wake(p->lock);
    monitor_leave(p->lock);
}

bool park_searches(struct park *p, const struct parcel *x)
{
    monitor_enter(p->lock);
    const bool busy = x->busy;
    monitor_leave(p->lock);
    return busy;
}

/* A copy of a file's payload as a page in the tree; false where there is no page to be had. */
static bool unpack_page(struct prefix *t, struct parcel *x, uint32_t i, uint32_t *pages)
{
    uint32_t page;
    if (!prefix_take(t, &page)) return false;
    memcpy(prefix_page(t, page), x->maps[i].p + (x->maps[i].n - t->page_bytes), t->page_bytes);
    pages[i] = prefix_keep(t, i ? pages[i - 1] : PREFIX_ROOT, x->tokens + (size_t)i * KV_PAGE, x->key, page);
    return true;
}

uint32_t park_unpack(struct prefix *t, struct parcel *x, uint32_t *pages, uint32_t n_pages)
{
    uint32_t state;
    for (uint32_t i = n_pages; i >= x->from && i < x->n_found && unpack_page(t, x, i, pages); i++) n_pages++;
    if (x->state_at && x->state_at <= n_pages && prefix_take_state(t, &state)) {
        const size_t bytes = t->state_floats * sizeof(float);
        memcpy(prefix_state(t, state), x->state.p + (x->state.n - bytes), bytes);
        prefix_keep_state(t, pages[x->state_at - 1], state);
    }
    forget_files(x);
    return n_pages;
}

void park_store(struct park *p, struct prefix *t, struct parcel **px, const int32_t *tokens, const uint32_t *pages,
                uint32_t n_pages)
{
    struct parcel *x = *px;
    *px = NULL;
    memcpy(x->tokens, tokens, (size_t)n_pages * KV_PAGE * sizeof *tokens);
    memcpy(x->pages, pages, n_pages * sizeof *pages);
    x->n_pages = n_pages;
    for (uint32_t i = 0; i < n_pages && x->states; i++) x->states[i] = prefix_find_state(t, pages[i]);
    monitor_enter(p->lock);
    append(&p->stores, x);
    monitor_wake(p->lock);
    monitor_leave(p->lock);
}

void park_collect(struct park *p, struct prefix *t)
{
    for (;;) {
        monitor_enter(p->lock);
        struct parcel *x = take(&p->stored);
        monitor_leave(p->lock);
        if (!x) return;
        for (uint32_t i = 0; i < x->n_pages; i++) {
            prefix_give(t, x->pages[i]);
            if (x->states && x->states[i] != NO_STATE) prefix_give_state(t, x->states[i]);
        }
        discard(x);
    }
}

void park_hurry(struct park *p)
{
    monitor_enter(p->lock);
    for (struct parcel *x = p->stores.first; x; x = x->next) x->unwanted = true;
    monitor_leave(p->lock);
}
