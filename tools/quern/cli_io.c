/* cli_io: messages, standard input and output, interrupts and progress.
 *
 * The program's only mutable globals live here, because a signal handler and stdout are global by nature: what
 * Ctrl-C did, and whether stdout still takes bytes. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- messages ------------------------------------------------------------------------------------------ */

/* One line on stderr. Names and texts of files may stand in it, so control characters must not reach the terminal. */
__attribute__((format(printf, 2, 0))) static void say(const char *command, const char *fmt, va_list ap)
{
    char line[1024];
    vsnprintf(line, sizeof line, fmt, ap);
    for (char *p = line; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = '?';
    }
    fprintf(stderr, "quern%s%s: %s\n", command ? " " : "", command ? command : "", line);
}

int cli_fail(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(NULL, fmt, ap);
    va_end(ap);
    return CLI_FAILED;
}

int cli_usage(const struct command *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(c ? c->name : NULL, fmt, ap);
    va_end(ap);
    fprintf(stderr, "Try 'quern %s%s--help'.\n", c ? c->name : "", c ? " " : "");
    return CLI_USAGE;
}

void cli_note(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(NULL, fmt, ap);
    va_end(ap);
}

/* ---- stdout ---------------------------------------------------------------------------------------------- */

static int write_errno; /* of the first write to stdout that failed */

bool cli_write(const void *p, size_t n, bool flush)
{
    if (write_errno) return false;
    errno = 0;
    if (fwrite(p, 1, n, stdout) != n || (flush && fflush(stdout) != 0)) write_errno = errno ? errno : EIO;
    return write_errno == 0;
}

int cli_finish(int exit_code)
{
    cli_write("", 0, true);
    if (write_errno == EPIPE) return exit_code;
    if (write_errno && exit_code == CLI_OK) return cli_fail("standard output: %s", strerror(write_errno));
    if (ferror(stdout) && exit_code == CLI_OK) return cli_fail("standard output could not be written");
    return exit_code;
}

int cli_print(struct buf *b, int rc)
{
    if (rc >= 0) cli_write(b->p, b->n, false);
    buf_fini(b);
    return rc < 0 ? cli_fail("out of memory") : CLI_OK;
}

int buf_f64(struct buf *b, double v)
{
    char text[F64_TEXT_MAX];
    if (v - v != 0) return buf_z(b, "null"); /* JSON has no infinities */
    return buf_put(b, text, f64_text(v, text));
}

/* ---- input --------------------------------------------------------------------------------------------------- */

#define INPUT_MAX ((size_t)1 << 30)

/* All that fd gives; name: what messages call it. */
static int read_all(int fd, const char *name, struct buf *out, struct err *e)
{
    out->limit = INPUT_MAX;
    char chunk[1 << 16];
    for (;;) {
        ssize_t n = read(fd, chunk, sizeof chunk);
        if (n == 0) return 0;
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail(e, ERR_IO, "%s: %s", name, strerror(errno));
        int rc = buf_put(out, chunk, (size_t)n);
        if (rc < 0) return fail(e, rc, "%s: %s", name, rc == ERR_LIMIT ? "more than 1 GiB" : "out of memory");
    }
}

int cli_read_stdin(struct buf *out, struct err *e)
{
    /* A pipe that nobody writes to looks like a hang: say what the program waits for. */
    struct pollfd pfd = {.fd = STDIN_FILENO, .events = POLLIN};
    if (poll(&pfd, 1, 1000) == 0) cli_note("reading standard input until it ends");
    return read_all(STDIN_FILENO, "standard input", out, e);
}

/* What stands behind <(COMMAND) and /dev/stdin. */
static bool is_pipe(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISFIFO(st.st_mode);
}

static int read_pipe(const char *path, struct buf *out, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail(e, ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    int rc = read_all(fd, path, out, e);
    close(fd);
    return rc;
}

int cli_read_file(const char *path, struct buf *out, struct err *e)
{
    if (strcmp(path, "-") == 0) return cli_read_stdin(out, e);
    if (is_pipe(path)) return read_pipe(path, out, e);
    struct map map;
    TRY(vfs_map(path, &map, e));
    out->limit = INPUT_MAX;
    int rc = map.n > 0 ? buf_put(out, map.p, map.n) : 0;
    if (rc < 0) fail(e, rc, "%s: %s", path, rc == ERR_LIMIT ? "larger than 1 GiB" : "out of memory");
    vfs_unmap(&map);
    return rc;
}

bool cli_is_model(const char *path)
{
    struct map m;
    if (!vfs_exists(path) || vfs_is_dir(path) || vfs_map(path, &m, NULL) < 0) return false;
    bool is = m.n > 8 && (memcmp(m.p, "GGUF", 4) == 0 || m.p[8] == '{'); /* GGUF; safetensors: a length, then JSON */
    vfs_unmap(&m);
    return is;
}

bool cli_make_folders(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        bool ok = mkdir(path, 0700) == 0 || errno == EEXIST;
        *slash = '/';
        if (!ok) return false;
    }
    return true;
}

#ifdef __APPLE__
#define CACHE_BELOW_HOME "Library/Caches"
#else
#define CACHE_BELOW_HOME ".cache"
#endif

bool cli_cache_folder(const char *name, char *out)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    const bool own = cache && cache[0] == '/';
    if (!own && (!home || home[0] != '/')) return false;
    const int n =
        snprintf(out, PATH_MAX, "%s%s/quern%s%s", own ? cache : home, own ? "" : "/" CACHE_BELOW_HOME, *name ? "/" : "", name);
    return n > 0 && n < PATH_MAX;
}

bool cli_same_file(const char *a, const char *b)
{
    struct stat sa, sb;
    return stat(a, &sa) == 0 && stat(b, &sb) == 0 && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

static bool is_id_separator(char c)
{
    return c == ',' || c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

int cli_ids_parse(struct str text, struct buf *out, struct err *e)
{
    while (text.n > 0 && is_id_separator(text.p[text.n - 1])) text.n--;
    while (text.n > 0 && is_id_separator(*text.p)) text.p++, text.n--;
    if (text.n >= 2 && text.p[0] == '[' && text.p[text.n - 1] == ']') text.p++, text.n -= 2;
    size_t i = 0;
    while (i < text.n) {
        if (is_id_separator(text.p[i])) {
            i++;
            continue;
        }
        size_t start = i;
        while (i < text.n && !is_id_separator(text.p[i])) i++;
        struct str word = {text.p + start, i - start};
        int64_t v;
        if (!str_i64(word, &v) || v < 0 || v > INT32_MAX) return fail(e, ERR_ARG, "'%.*s' is no token id", STR_ARG(word));
        int32_t id = (int32_t)v;
        if (buf_put(out, &id, sizeof id) < 0) return fail_nomem(e, "token ids", out->n);
    }
    return 0;
}

/* ---- interrupts ------------------------------------------------------------------------------------------------ */

static volatile sig_atomic_t interrupted;
static quern_session *volatile interrupt_session;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
    quern_session *session = interrupt_session;
    if (session) quern_session_cancel(session);
}

void cli_interrupt_catch(quern_session *session, bool restart)
{
    interrupt_session = session;
    struct sigaction act = {.sa_handler = on_interrupt, .sa_flags = restart ? SA_RESTART : 0};
    sigemptyset(&act.sa_mask);
    sigaction(SIGINT, &act, NULL);
}

void cli_terminate_catch(void)
{
    struct sigaction act = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
    sigemptyset(&act.sa_mask);
    sigaction(SIGTERM, &act, NULL);
    sigaction(SIGHUP, &act, NULL);
}

void cli_interrupt_clear(void)
{
    interrupted = 0;
}

bool cli_interrupted(void)
{
    return interrupted != 0;
}

/* ---- amounts and progress ----------------------------------------------------------------------------------------- */

/* Three significant digits with the prefix that suits. */
static const char *amount(uint64_t n, const char *unit, char out[AMOUNT_MAX])
{
    static const char prefixes[] = " kMGTPE";
    double v = (double)n;
    size_t i = 0;
    for (; v >= 999.5 && i + 2 < sizeof prefixes; i++) v /= 1000;
    if (i == 0) {
        snprintf(out, AMOUNT_MAX, "%.0f%s%s", v, *unit ? " " : "", unit);
    } else {
        snprintf(out, AMOUNT_MAX, "%.*f %c%s", v < 9.995 ? 2 : v < 99.95 ? 1 : 0, v, prefixes[i], unit);
    }
    return out;
}

const char *amount_bytes(uint64_t n, char out[AMOUNT_MAX])
{
    return amount(n, "B", out);
}

const char *amount_count(uint64_t n, char out[AMOUNT_MAX])
{
    return amount(n, "", out);
}

bool read_size(struct str text, uint64_t *bytes)
{
    static const struct {
        const char *suffix;
        double unit;
    } units[] = {{"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9},
                 {"TB", 1e12},    {"K", 1e3},      {"M", 1e6},      {"G", 1e9},      {"T", 1e12}, {"", 1}};
    size_t i = 0;
    double v;
    while (!str_ends(text, str_of(units[i].suffix))) i++;
    text.n -= strlen(units[i].suffix);
    if (!str_f64(text, &v) || v * units[i].unit < 1 || v * units[i].unit >= 0x1p60) return false;
    *bytes = (uint64_t)(v * units[i].unit);
    return true;
}

void progress_start(struct progress *p, const char *what, bool bytes)
{
    *p = (struct progress){.what = what, .on = isatty(STDERR_FILENO), .bytes = bytes, .started_ns = clock_ns()};
}

void progress_next(struct progress *p, const char *what)
{
    p->what = what;
    p->due = true;
}

void progress_show(struct progress *p, uint64_t done, uint64_t all)
{
    uint64_t now = clock_ns();
    bool due = p->due || now - p->shown_ns >= 100 * 1000 * 1000;
    if (!p->on || all == 0 || !due) return;
    p->due = false;
    p->shown_ns = now;
    double seconds = (double)(now - p->started_ns) * 1e-9;
    double rate = seconds > 0 ? (double)done / seconds : 0;
    char a[AMOUNT_MAX], b[AMOUNT_MAX], r[AMOUNT_MAX];
    const char *(*text)(uint64_t, char[AMOUNT_MAX]) = p->bytes ? amount_bytes : amount_count;
    fprintf(stderr, "\r%s %3.0f%%  %s of %s", p->what, 100.0 * (double)done / (double)all, text(done, a), text(all, b));
    if (rate >= 1) fprintf(stderr, "  %s/s", text((uint64_t)rate, r));
    if (rate > 0 && done <= all) {
        uint64_t left = (uint64_t)((double)(all - done) / rate + 0.5);
        fprintf(stderr, "  %u:%02u left", (unsigned)(left / 60), (unsigned)(left % 60));
    }
    fputs("\033[K", stderr);
}

void progress_end(struct progress *p)
{
    if (p->on && p->shown_ns) fputs("\r\033[K", stderr);
}
