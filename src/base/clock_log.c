/* clock and log. Durations come from the monotonic clock only; the wall clock may jump and serves chat templates and
 * times of files alone. The log
 * goes to stderr unless the host program takes it; lines are made plain because they may quote a file. */
#include "base/base_int.h"

#include <stdio.h>
#include <time.h>

uint64_t clock_ns(void)
{
    struct timespec t;
    if (clock_gettime(CLOCK_MONOTONIC, &t) != 0) return 0;
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t clock_utc_ns(void)
{
    struct timespec t;
    if (clock_gettime(CLOCK_REALTIME, &t) != 0 || t.tv_sec < 0) return 0;
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int64_t clock_utc(void)
{
    return (int64_t)time(NULL);
}

int64_t clock_local(void)
{
    time_t now = time(NULL);
    struct tm tm;
    return now < 0 || !localtime_r(&now, &tm) ? 0 : (int64_t)now + tm.tm_gmtoff;
}

static struct {
    enum log_level max;
    log_fn *fn;
    void *ctx;
} sink = {.max = LOG_WARN};

void log_set(enum log_level max, log_fn *fn, void *ctx)
{
    sink.max = max;
    sink.fn = fn;
    sink.ctx = ctx;
}

void log_msg(enum log_level level, const char *fmt, ...)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    if (level > sink.max) return;
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (n < 0) return;
    line[plain_line(line, size_min((size_t)n, sizeof line - 1))] = 0;
    if (sink.fn)
        sink.fn(sink.ctx, level, line);
    else
        fprintf(stderr, "quern: %s: %s\n", names[level], line);
}
