/* err: failures as values. A function that fails writes one line into the caller's struct err and returns its code; nothing
 * here allocates, so that running out of memory can be reported too. Messages often quote bytes of an untrusted file,
 * so each one is made a single printable line before it is stored. */
#include "base/base_int.h"

#include <stdio.h>

size_t plain_line(char *s, size_t n)
{
    size_t w = 0;
    for (size_t r = 0; r < n;) {
        uint32_t cp = 0;
        size_t len = utf8_decode((struct str){s + r, n - r}, &cp);
        if (len == 0 || cp < 0x20 || (cp >= 0x7f && cp < 0xa0)) {
            bool space = len != 0 && (cp == '\n' || cp == '\r' || cp == '\t');
            s[w++] = space ? ' ' : '?';
            r += len ? len : 1;
            continue;
        }
        memmove(s + w, s + r, len);
        w += len;
        r += len;
    }
    return w;
}

/* Formats into a buffer of its own first: an argument may point into the message that is being replaced. */
__attribute__((format(printf, 4, 0))) static void store(struct err *e, int code, const char *rest, const char *fmt, va_list ap)
{
    char line[sizeof e->msg];
    int n = vsnprintf(line, sizeof line, fmt, ap);
    size_t len = n < 0 ? 0 : size_min((size_t)n, sizeof line - 1);
    if (rest && len < sizeof line - 1) {
        n = snprintf(line + len, sizeof line - len, ": %s", rest);
        if (n > 0) len = size_min(len + (size_t)n, sizeof line - 1);
    }
    len = plain_line(line, len);
    memcpy(e->msg, line, len);
    e->msg[len] = 0;
    e->code = code;
}

int fail(struct err *e, int code, const char *fmt, ...)
{
    if (!e) return code;
    va_list ap;
    va_start(ap, fmt);
    store(e, code, NULL, fmt, ap);
    va_end(ap);
    return code;
}

int fail_nomem(struct err *e, const char *what, size_t bytes)
{
    return fail(e, ERR_NOMEM, "out of memory: %zu bytes for %s", bytes, what);
}

int fail_prefix(struct err *e, const char *fmt, ...)
{
    if (!e) return ERR_ARG;
    va_list ap;
    va_start(ap, fmt);
    store(e, e->code, e->msg, fmt, ap);
    va_end(ap);
    return e->code;
}

static const struct {
    int code;
    const char *text;
} texts[] = {
#define ERR(name, value, text) {value, text},
#include "base/err.def"
#undef ERR
};

const char *err_text(int code)
{
    for (size_t i = 0; i < COUNT_OF(texts); i++)
        if (texts[i].code == code) return texts[i].text;
    return code == ERR_OK ? "no error" : "unknown error";
}
