/* base: the ground floor. Errors, memory, strings, checked sizes, the bounds-checked reader, JSON,
 * files, time, log and threads. Every other room allocates, reads files, and asks for the time
 * only through this header, so that a test can fail the N-th call of each kind (fault_set).
 *
 * Conventions of the whole tree:
 *  - a function that can fail returns 0 or a negative ERR_ code and fills a caller-owned struct err;
 *  - struct str is a borrowed view and is not NUL-terminated;
 *  - lifetimes are arenas; open/close, new/free, init/fini, find, take/give say who owns what;
 *  - nothing here is thread-safe unless its comment says so.
 */
#ifndef QUERN_BASE_H
#define QUERN_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* ---- errors ------------------------------------------------------------------------------- */

enum {
    ERR_OK = 0,
#define ERR(name, value, text) ERR_##name = value,
#include "base/err.def"
#undef ERR
};

/* One failure, owned by the caller. msg is one plain line: what, where, expected, found, what to do. */
struct err {
    int code;
    char msg[504];
};

/* Fills e (which may be NULL) and returns code. */
int fail(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The same for a failed allocation: names what the memory was for. */
int fail_nomem(struct err *e, const char *what, size_t bytes);
/* Puts "prefix: " in front of an error that a callee reported; returns e->code. */
int fail_prefix(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
const char *err_text(int code); /* static text of a code */

/* Forwards a failure. */
#define TRY(call)                        \
    do {                                 \
        int try_rc_ = (call);            \
        if (try_rc_ < 0) return try_rc_; \
    } while (0)

#define COUNT_OF(a) (sizeof(a) / sizeof((a)[0]))

/* ---- faults: the hook by which tests fail the N-th call ------------------------------------ */

enum fault_kind { FAULT_ALLOC, FAULT_IO, FAULT_THREAD };

/* Asked before every allocation, file operation and thread start; true makes that call fail as the
 * system would. NULL (the default) never fails. Set it while no other thread is inside base. */
typedef bool fault_fn(void *ctx, enum fault_kind kind);
void fault_set(fault_fn *fn, void *ctx);

/* ---- memory -------------------------------------------------------------------------------- */

/* malloc and friends, counted and failable; thread-safe. NULL on failure. Size 0 gives a valid pointer. */
void *mem_alloc(size_t bytes) __attribute__((malloc, warn_unused_result));
void *mem_zalloc(size_t bytes) __attribute__((malloc, warn_unused_result));
void *mem_realloc(void *p, size_t bytes) __attribute__((warn_unused_result)); /* p stays valid on failure */
void mem_free(void *p);
/* n * size with overflow check; NULL on overflow too. Zeroed. */
void *mem_array(size_t n, size_t size) __attribute__((warn_unused_result));

/* Large anonymous pages for KV caches and activations: zeroed, 2 MiB aligned where that pays, huge
 * pages advised. Not part of mem_stats.current; counted in mem_stats.pages. */
void *mem_pages(size_t bytes) __attribute__((warn_unused_result));
void mem_pages_free(void *p, size_t bytes);

struct mem_stats {
    size_t current, peak; /* bytes in mem_alloc blocks now, and at most since mem_peak_reset */
    size_t calls;         /* allocations so far */
    size_t pages;         /* bytes in mem_pages now */
};
struct mem_stats mem_stats(void);
void mem_peak_reset(void);

/* Arena: many small allocations, one free. Blocks grow geometrically; pointers stay valid until fini.
 * A zeroed struct is an empty arena. */
struct arena {
    struct arena_block *head;
    size_t used, cap; /* of the head block */
    size_t total;     /* bytes of all blocks */
    size_t limit;     /* 0: none; else an allocation that would push total beyond it fails */
};
void *arena_alloc(struct arena *a, size_t bytes) __attribute__((warn_unused_result)); /* zeroed, 16-aligned */
void *arena_array(struct arena *a, size_t n, size_t size) __attribute__((warn_unused_result));
char *arena_dup(struct arena *a, const char *p, size_t n) __attribute__((warn_unused_result)); /* adds a NUL */
void arena_fini(struct arena *a); /* frees all; a is empty and usable again */

/* ---- checked sizes -------------------------------------------------------------------------- */

/* *out = a op b; false (and *out untouched) when the result does not fit. */
static inline bool size_add(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_add_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}
static inline bool size_mul(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}
static inline bool u64_add(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;
    if (__builtin_add_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}
static inline bool u64_mul(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;
    if (__builtin_mul_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}
/* n rounded up to a multiple of align (a power of two); false on overflow. */
static inline bool u64_align(uint64_t n, uint64_t align, uint64_t *out)
{
    uint64_t r;
    if (!u64_add(n, align - 1, &r)) return false;
    *out = r & ~(align - 1);
    return true;
}
static inline size_t size_min(size_t a, size_t b)
{
    return a < b ? a : b;
}
static inline size_t size_max(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* ---- strings ---------------------------------------------------------------------------------- */

struct str {
    const char *p; /* borrowed, not NUL-terminated; NULL only when n is 0 */
    size_t n;
};
#define STR(lit) ((struct str){"" lit, sizeof(lit) - 1})
/* For printf("%.*s", STR_ARG(s)). */
#define STR_ARG(s) (int)((s).n > 200 ? 200 : (s).n), ((s).p ? (s).p : "")

static inline struct str str_of(const char *z)
{
    return (struct str){z, z ? strlen(z) : 0};
}
static inline bool str_eq(struct str a, struct str b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}
static inline bool str_is(struct str a, const char *z)
{
    return str_eq(a, str_of(z));
}
static inline bool str_starts(struct str s, struct str prefix)
{
    return s.n >= prefix.n && (prefix.n == 0 || memcmp(s.p, prefix.p, prefix.n) == 0);
}
static inline bool str_ends(struct str s, struct str suffix)
{
    return s.n >= suffix.n && (suffix.n == 0 || memcmp(s.p + s.n - suffix.n, suffix.p, suffix.n) == 0);
}
int str_cmp(struct str a, struct str b); /* bytewise, shorter first */
bool str_has(struct str s, struct str part);
bool str_is_any_case(struct str a, const char *z); /* ASCII letters of either case are alike */
/* Seeded hash of bytes (the seed is drawn once per process): for hash tables over untrusted keys. */
uint64_t str_hash(struct str s);
/* Hash of bytes that is the same everywhere and always, at the speed of memory: for checksums, and names of what is kept. It
 * finds damage, not forgery. */
uint64_t bytes_hash(uint64_t seed, const void *p, size_t n);

/* Whole-string number parsers: no sign for u64, no white space, no partial match. */
bool str_u64(struct str s, uint64_t *out);
bool str_i64(struct str s, int64_t *out);
bool str_f64(struct str s, double *out); /* decimal; independent of the locale */

/* UTF-8: decodes one code point at s.p[0..]; returns its length 1..4, or 0 where the bytes are not valid UTF-8. */
size_t utf8_decode(struct str s, uint32_t *cp);
size_t utf8_encode(uint32_t cp, char out[4]); /* length 1..4; surrogates and > 10FFFF give U+FFFD */
bool utf8_valid(struct str s);

/* Growing byte buffer. A zeroed struct is empty. The append functions return 0 or ERR_NOMEM / ERR_LIMIT. */
struct buf {
    char *p;
    size_t n, cap;
    size_t limit; /* 0: none; else the most bytes it may hold (ERR_LIMIT beyond) */
};
int buf_put(struct buf *b, const void *p, size_t n);
int buf_str(struct buf *b, struct str s);
int buf_z(struct buf *b, const char *z);
int buf_c(struct buf *b, char c);
int buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int buf_reserve(struct buf *b, size_t extra); /* room for extra more bytes without reallocation */
static inline struct str buf_view(const struct buf *b)
{
    return (struct str){b->p, b->n};
}
void buf_fini(struct buf *b); /* frees; b is empty and usable again */

/* Shortest decimal text that reads back as the same double, in Python's repr form ("1.0", "1e-07", "0.1"). */
#define F64_TEXT_MAX 32
size_t f64_text(double v, char out[F64_TEXT_MAX]);

/* ---- bounds-checked reader: the only place that does pointer arithmetic on untrusted bytes ------ */

/* Little-endian. A read past the end sets bad, returns zero/NULL, and every later read does the same,
 * so a parser may read a whole record and check bad once, before it uses any of it. */
struct reader {
    const uint8_t *p, *end, *start;
    bool bad;
};
static inline struct reader rd_of(const void *p, size_t n)
{
    const uint8_t *b = (const uint8_t *)p;
    return (struct reader){b, n ? b + n : b, b, false};
}
static inline size_t rd_left(const struct reader *r)
{
    return (size_t)(r->end - r->p);
}
static inline size_t rd_pos(const struct reader *r)
{
    return (size_t)(r->p - r->start);
}
const void *rd_bytes(struct reader *r, uint64_t n); /* borrowed view of the next n bytes */
uint8_t rd_u8(struct reader *r);
uint16_t rd_u16(struct reader *r);
uint32_t rd_u32(struct reader *r);
uint64_t rd_u64(struct reader *r);
float rd_f32(struct reader *r);
double rd_f64(struct reader *r);
/* Checks a count read from the file: n elements of at least elem_min bytes must still fit. */
bool rd_count_ok(struct reader *r, uint64_t n, size_t elem_min);

/* Little-endian loads from unaligned memory that is already known to be in bounds. */
static inline uint16_t load_u16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint32_t load_u32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint64_t load_u64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* ---- JSON ------------------------------------------------------------------------------------- */

/* RFC 8259, strict, UTF-8 checked, depth limited. Two readers over the same bytes:
 *  - the pull reader (json_cursor) allocates nothing and serves files whose values are many and small
 *    (a tokenizer.json of 280,000 merges must not take several times its size in memory);
 *  - json_parse builds a tree in an arena, with the order of keys kept.
 * Duplicate keys: the last one wins in json_find. */
#define JSON_DEPTH_MAX 64

enum json_type { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_INT, JSON_REAL, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json {
    enum json_type type;
    int64_t i;        /* JSON_INT (a number without fraction or exponent that fits) */
    double f;         /* JSON_REAL and JSON_INT */
    struct str s;     /* JSON_STRING: unescaped text. JSON_INT/JSON_REAL: the number as written */
    size_t n;         /* JSON_ARRAY, JSON_OBJECT: number of elements */
    struct json *v;   /* elements [n] */
    struct str *keys; /* JSON_OBJECT: [n], in the order of the text */
};

/* Parses all of text into arena; the tree lives as long as the arena, and may point into text, which must live as long.
 * name is used in messages ("config.json: line 3: ..."). */
int json_parse(struct arena *a, struct str text, const char *name, struct json **out, struct err *e);

/* NULL where j is NULL, not an object, or has no such key. */
const struct json *json_find(const struct json *j, const char *key);
const struct json *json_find_str(const struct json *j, struct str key);
/* Convenience for optional members: the default where missing or null. Wrong type or range: false. */
bool json_opt_i64(const struct json *j, const char *key, int64_t min, int64_t max, int64_t *io);
bool json_opt_f64(const struct json *j, const char *key, double min, double max, double *io);
bool json_opt_bool(const struct json *j, const char *key, bool *io);
bool json_opt_str(const struct json *j, const char *key, struct str *io);

int json_write(struct buf *b, const struct json *j); /* compact */
int json_write_string(struct buf *b, struct str s);  /* quoted and escaped; invalid UTF-8 becomes U+FFFD */

/* Pull reader. Call json_next until JSON_EV_END or JSON_EV_ERROR; the message is then in e. For strings and keys,
 * raw is the text between the quotes with escapes still in it; json_unescape makes the real bytes. */
enum json_event {
    JSON_EV_ERROR,
    JSON_EV_END,
    JSON_EV_NULL,
    JSON_EV_BOOL,
    JSON_EV_NUMBER,
    JSON_EV_STRING,
    JSON_EV_KEY,
    JSON_EV_ARRAY,
    JSON_EV_ARRAY_END,
    JSON_EV_OBJECT,
    JSON_EV_OBJECT_END
};
struct json_cursor {
    struct str text;
    const char *name;
    size_t pos;
    struct str raw;     /* of the last string, key or number */
    bool escaped;       /* raw holds backslashes */
    bool boolean;       /* of the last JSON_EV_BOOL */
    unsigned depth;     /* open arrays and objects */
    uint64_t is_object; /* bit d: level d is an object */
    unsigned state;     /* private: what may come next */
    struct err *e;
};
void json_cursor_init(struct json_cursor *c, struct str text, const char *name, struct err *e);
enum json_event json_next(struct json_cursor *c);
/* Reads past the value that the event ev (just returned) starts; false on error. */
bool json_skip(struct json_cursor *c, enum json_event ev);
/* Writes the unescaped bytes of raw to out (raw.n bytes always suffice) and returns their number. Lone surrogates give U+FFFD.
 */
size_t json_unescape(struct str raw, char *out);

/* ---- files --------------------------------------------------------------------------------------- */

/* Bytes in memory, borrowed. */
struct region {
    const uint8_t *p;
    size_t n;
};

/* A whole regular file in memory, read-only. */
struct map {
    const uint8_t *p;
    size_t n;
    bool copied; /* the bytes are this process's own; else the file's pages, shared with all who map it */
};
int vfs_map(const char *path, struct map *out, struct err *e); /* an empty file gives p NULL, n 0 */
/* Reads the file into memory with huge pages instead: the bytes stay whatever happens to the file. */
int vfs_copy(const char *path, struct map *out, struct err *e);
void vfs_unmap(struct map *m); /* of either; m becomes empty */
/* Brings the bytes into memory and keeps them there until vfs_unmap. path is for messages. */
int vfs_lock(const struct map *m, const char *path, struct err *e);

/* Makes the pages of spans of maps present, one after the other, on a thread of its own. preload_wait returns when all are
 * done, preload_stop within milliseconds (a read from a disk that is under way ends first); both free it, and no page is
 * touched afterwards. NULL is fine. */
struct preload;
int preload_start(const struct region *spans, size_t n, struct preload **out, struct err *e);
void preload_wait(struct preload **p);
void preload_stop(struct preload **p);
/* For spans of maps of which little is used at a time: from now on the pages around one that is used are not read with it. */
void preload_sparse(struct region s);
/* Asks for the pages of s, and no others, without waiting for them. */
void preload_ask(struct region s);

/* Reads a small regular file into arena (NUL added). max: the most bytes accepted. */
int vfs_read(const char *path, size_t max, struct arena *a, struct str *out, struct err *e);
/* Reads what a small file of /proc or /sys holds now, up to cap - 1 bytes, NUL-terminated; -1 where it cannot be read. */
long read_small(const char *path, char *out, size_t cap);
bool vfs_is_dir(const char *path);
bool vfs_exists(const char *path);
/* 0 where vfs_exists; else ERR_NOTFOUND, or why it cannot be told, as of what lies in a folder that may not be entered. */
int vfs_look(const char *path, struct err *e);
/* A folder and those above it, where they are not there yet, for this user alone. */
int vfs_make_folder(const char *path, struct err *e);
/* Calls each for every regular file in a folder, in no order, until it returns an error. ns: of the last change, since 1970. */
struct vfs_entry {
    const char *name;
    uint64_t bytes, ns;
};
int vfs_list(const char *folder, int (*each)(void *ctx, const struct vfs_entry *f), void *ctx, struct err *e);
int vfs_remove(const char *path, struct err *e);
int vfs_touch(const char *path, uint64_t ns, struct err *e); /* sets the time of the last change; ERR_NOTFOUND */
/* Bytes that can still be written on the disk where path lies; UINT64_MAX where that is not known. */
uint64_t vfs_free_bytes(const char *path);
/* dir/name in arena. */
int vfs_join(struct arena *a, const char *dir, const char *name, char **out, struct err *e);

/* Durable replacement: bytes go to a temporary file beside path; out_commit makes them durable (fsync), renames it over
 * path and syncs the folder; out_abort (or a failed commit) removes it. path is untouched until commit succeeds. */
struct out;
int out_open(const char *path, struct out **out, struct err *e);
int out_write(struct out *o, const void *p, size_t n, struct err *e);
uint64_t out_pos(const struct out *o);
/* Makes all that was written so far readable in the temporary file, whose name lives as long as o. */
int out_peek(struct out *o, const char **tmp_path, struct err *e);
/* Replaces n bytes that were written before, at pos. */
int out_patch(struct out *o, uint64_t pos, const void *p, size_t n, struct err *e);
int out_commit(struct out **o, struct err *e);
void out_abort(struct out **o); /* NULL and already-committed are fine */
/* Removes the temporary files in a folder that are older than an hour and were left by processes which are gone; out_sweep does
 * so in the folder of o. What cannot be removed stays. */
void vfs_sweep(const char *folder);
void out_sweep(const struct out *o);

/* ---- time and log ----------------------------------------------------------------------------------- */

uint64_t clock_ns(void);     /* monotonic */
uint64_t clock_utc_ns(void); /* the wall clock, since 1970 */
int64_t clock_utc(void);     /* seconds since 1970 of the wall clock */
int64_t clock_local(void);   /* seconds since 1970 of the wall clock in local time: what a calendar on the wall says */

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
typedef void log_fn(void *ctx, enum log_level level, const char *line);
void log_set(enum log_level max, log_fn *fn, void *ctx); /* fn NULL: stderr */
void log_msg(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- threads ------------------------------------------------------------------------------------------ */

/* How many threads compute should use here: min(affinity mask, floor of the cgroup CPU quota), counting only
 * performance cores where the system tells them apart. At least 1. */
unsigned cpu_threads(void);

/* A thread of its own that runs fn to its end. */
struct worker_thread;
int worker_start(void (*fn)(void *arg), void *arg, struct worker_thread **out, struct err *e);
void worker_join(struct worker_thread **w);

/* A lock that threads can wait in: monitor_wait leaves it until another thread calls monitor_wake, and enters it again; it may
 * return without cause, too. */
struct monitor;
int monitor_new(struct monitor **out, struct err *e);
void monitor_free(struct monitor **m);
void monitor_enter(struct monitor *m);
void monitor_leave(struct monitor *m);
void monitor_wait(struct monitor *m);                            /* inside */
void monitor_wait_for(struct monitor *m, unsigned milliseconds); /* the same, no longer than that */
void monitor_wake(struct monitor *m);                            /* all that wait; inside or outside */

/* Persistent pool of n threads, the caller of pool_run being number 0. Idle workers spin for about 50 us, then sleep. */
struct pool;
typedef void pool_fn(void *ctx, unsigned ith, unsigned nth);
int pool_new(unsigned n, struct pool **out, struct err *e);
void pool_free(struct pool **p);
unsigned pool_size(const struct pool *p);
/* Runs fn on every thread and returns when all are done. One caller at a time. */
void pool_run(struct pool *p, pool_fn *fn, void *ctx);
/* Inside fn: waits until all threads of the pool are here. Everything written before is visible after. */
void pool_barrier(struct pool *p);

#endif
