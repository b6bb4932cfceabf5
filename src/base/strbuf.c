/* strbuf: views of bytes, growing buffers, UTF-8, seeded hashing, and numbers as text in both directions.
 *
 * Numbers: a decimal is first reduced to digits and a power of ten in a buffer of fixed size, so the C library's correctly
 * rounding conversion only ever sees a short text without a decimal point, which reads the same in every locale. */
#include "base/base_int.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#if defined(__APPLE__)
#include <sys/random.h>
#endif

int str_cmp(struct str a, struct str b)
{
    size_t n = size_min(a.n, b.n);
    int c = n ? memcmp(a.p, b.p, n) : 0;
    if (c != 0) return c < 0 ? -1 : 1;
    return a.n < b.n ? -1 : a.n > b.n;
}

bool str_has(struct str s, struct str part)
{
    for (; s.n >= part.n; s.p++, s.n--) {
        if (str_starts(s, part)) return true;
        if (s.n == 0) return false;
    }
    return false;
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

bool str_is_any_case(struct str a, const char *z)
{
    struct str b = str_of(z);
    if (a.n != b.n) return false;
    for (size_t i = 0; i < a.n; i++)
        if (lower(a.p[i]) != lower(b.p[i])) return false;
    return true;
}

/* ---- hashing: SipHash-1-3 with a key drawn once per process ---- */

static uint64_t hash_key[2];
static pthread_once_t hash_once = PTHREAD_ONCE_INIT;

void random_bytes(void *p, size_t n)
{
    if (getentropy(p, n) == 0) return;
    /* A system without entropy: the clock and an address still differ from run to run. */
    uint64_t x = clock_ns() ^ (uint64_t)(uintptr_t)p ^ ((uint64_t)getpid() << 32);
    for (size_t i = 0; i < n; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        ((uint8_t *)p)[i] = (uint8_t)(x >> 56);
    }
}

static void draw_key(void)
{
    random_bytes(hash_key, sizeof hash_key);
}

static uint64_t rotl(uint64_t x, int k)
{
    return x << k | x >> (64 - k);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotl(v[1], 13) ^ v[0];
    v[3] = rotl(v[3], 16) ^ v[2];
    v[0] = rotl(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = rotl(v[1], 17) ^ v[2];
    v[3] = rotl(v[3], 21) ^ v[0];
    v[2] = rotl(v[2], 32);
}

uint64_t str_hash(struct str s)
{
    pthread_once(&hash_once, draw_key);
    uint64_t v[4] = {hash_key[0] ^ 0x736f6d6570736575u, hash_key[1] ^ 0x646f72616e646f6du, hash_key[0] ^ 0x6c7967656e657261u,
                     hash_key[1] ^ 0x7465646279746573u};
    size_t i = 0;
    for (; s.n - i >= 8; i += 8) {
        uint64_t m;
        memcpy(&m, s.p + i, 8);
        v[3] ^= m;
        sip_round(v);
        v[0] ^= m;
    }
    uint64_t last = (uint64_t)s.n << 56;
    for (size_t k = 0; i + k < s.n; k++) last |= (uint64_t)(uint8_t)s.p[i + k] << (8 * k);
    v[3] ^= last;
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    for (int k = 0; k < 3; k++) sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* ---- text to number ---- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

bool str_u64(struct str s, uint64_t *out)
{
    uint64_t v = 0;
    if (s.n == 0) return false;
    for (size_t i = 0; i < s.n; i++) {
        if (!is_digit(s.p[i])) return false;
        if (!u64_mul(v, 10, &v) || !u64_add(v, (uint64_t)(s.p[i] - '0'), &v)) return false;
    }
    *out = v;
    return true;
}

bool str_i64(struct str s, int64_t *out)
{
    bool minus = s.n > 0 && s.p[0] == '-';
    uint64_t v;
    if (!str_u64(minus ? (struct str){s.p + 1, s.n - 1} : s, &v)) return false;
    if (v > (uint64_t)INT64_MAX + minus) return false;
    /* Written so that the smallest number does not pass through one that int64_t lacks. */
    *out = minus && v ? -(int64_t)(v - 1) - 1 : (int64_t)v;
    return true;
}

/* No double needs more than 767 significant digits to be placed on the right side of a rounding boundary; what follows
 * matters only by being zero or not, which one digit more can say. */
#define DIGITS_MAX 800
#define EXP_MAX 100000 /* far beyond any double; keeps sums of exponents small */

struct decimal {
    bool minus;
    char digits[DIGITS_MAX + 24]; /* without leading zeros; room for the exponent */
    size_t n;
    int64_t exp10; /* value = digits * 10^exp10 */
};

/* Collects the digits at *i; frac counts those behind the point. Returns how many there were. */
static size_t take_digits(struct str s, size_t *i, struct decimal *d, bool frac)
{
    size_t start = *i;
    for (; *i < s.n && is_digit(s.p[*i]); ++*i) {
        char c = s.p[*i];
        bool keep = d->n < DIGITS_MAX && (d->n > 0 || c != '0');
        if (keep)
            d->digits[d->n++] = c;
        else if (d->n == DIGITS_MAX && c != '0')
            d->digits[DIGITS_MAX - 1] = '1'; /* sticky: the 800th digit is no longer exact, only non-zero */
        bool dropped = !keep && d->n == DIGITS_MAX;
        d->exp10 += (dropped ? 1 : 0) - (frac ? 1 : 0);
    }
    return *i - start;
}

static bool scan_decimal(struct str s, struct decimal *d)
{
    size_t i = 0, count;
    d->minus = false;
    d->n = 0;
    d->exp10 = 0;
    if (i < s.n && (s.p[i] == '-' || s.p[i] == '+')) d->minus = s.p[i++] == '-';
    count = take_digits(s, &i, d, false);
    if (i < s.n && s.p[i] == '.') {
        i++;
        count += take_digits(s, &i, d, true);
    }
    if (count == 0) return false;
    if (i == s.n) return true;
    if (s.p[i] != 'e' && s.p[i] != 'E') return false;
    i++;
    bool minus = false;
    if (i < s.n && (s.p[i] == '-' || s.p[i] == '+')) minus = s.p[i++] == '-';
    if (i == s.n) return false;
    int64_t x = 0;
    for (; i < s.n; i++) {
        if (!is_digit(s.p[i])) return false;
        /* The digits of the mantissa may shift the exponent by the length of the text, so saturate beyond that. */
        if (x < INT64_MAX / 100) x = x * 10 + (s.p[i] - '0');
    }
    d->exp10 += minus ? -x : x;
    return true;
}

bool str_f64(struct str s, double *out)
{
    static const double pow10[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                   1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    struct decimal d;
    if (!scan_decimal(s, &d)) return false;
    double v = 0;
    if (d.n == 0) {
        *out = d.minus ? -v : v;
        return true;
    }
    if (d.n <= 15 && d.exp10 >= -22 && d.exp10 <= 22) {
        /* Both operands are exact doubles, so the one operation rounds once. */
        uint64_t m = 0;
        for (size_t i = 0; i < d.n; i++) m = m * 10 + (uint64_t)(d.digits[i] - '0');
        v = d.exp10 < 0 ? (double)m / pow10[-d.exp10] : (double)m * pow10[d.exp10];
    } else {
        int64_t x = d.exp10 > EXP_MAX ? EXP_MAX : d.exp10 < -EXP_MAX ? -EXP_MAX : d.exp10;
        snprintf(d.digits + d.n, sizeof d.digits - d.n, "e%d", (int)x);
        v = strtod(d.digits, NULL);
        if (isinf(v)) return false;
    }
    *out = d.minus ? -v : v;
    return true;
}

/* ---- number to text ---- */

/* The n significant digits nearest to v > 0; returns the power of ten of the first. */
static int nearest_digits(double v, int n, char digits[20])
{
    char text[48];
    snprintf(text, sizeof text, "%.*e", n - 1, v);
    int at = 0, i = 0;
    for (; text[i] && text[i] != 'e'; i++)
        if (is_digit(text[i]) && at < n) digits[at++] = text[i]; /* the point differs by locale: step over it */
    bool minus = text[i + 1] == '-';
    int x = 0;
    for (i += 2; is_digit(text[i]); i++) x = x * 10 + (text[i] - '0');
    return minus ? -x : x;
}

static bool reads_back(double v, const char *digits, int n, int exp10)
{
    char text[48];
    snprintf(text, sizeof text, "%.*se%d", n, digits, exp10 - n + 1);
    return strtod(text, NULL) == v;
}

/* Adds one to the last digit; false where that would carry out of the first. */
static bool next_up(char *digits, int n)
{
    for (int i = n - 1; i >= 0; i--) {
        if (digits[i] != '9') {
            digits[i]++;
            return true;
        }
        digits[i] = '0';
    }
    return false;
}

/* Fewest digits that read back as v. 15 digits are unique for every normal number, so fewer never do better than 15 less its
 * zeros; only subnormals need the search from 1. Just below a power of two the spacing halves: there the nearest
 * short decimal may lie too low while its upper neighbour still reads back. */
static int shortest_digits(double v, char digits[20], int *exp10)
{
    for (int n = v < DBL_MIN ? 1 : 15; n < 17; n++) {
        *exp10 = nearest_digits(v, n, digits);
        if (reads_back(v, digits, n, *exp10)) return n;
        if (next_up(digits, n) && reads_back(v, digits, n, *exp10)) return n;
    }
    *exp10 = nearest_digits(v, 17, digits);
    return 17;
}

size_t f64_text(double v, char out[F64_TEXT_MAX])
{
    char digits[20];
    int x = 0, n = 1;
    size_t w = 0;
    if (isnan(v)) {
        memcpy(out, "nan", 4);
        return 3;
    }
    if (signbit(v)) out[w++] = '-';
    v = fabs(v);
    if (isinf(v)) {
        memcpy(out + w, "inf", 4);
        return w + 3;
    }
    digits[0] = '0';
    if (v > 0) n = shortest_digits(v, digits, &x);
    while (n > 1 && digits[n - 1] == '0') n--;

    if (x < -4 || x >= 16) {
        out[w++] = digits[0];
        if (n > 1) {
            out[w++] = '.';
            memcpy(out + w, digits + 1, (size_t)n - 1);
            w += (size_t)n - 1;
        }
        int len = snprintf(out + w, F64_TEXT_MAX - w, "e%c%02d", x < 0 ? '-' : '+', x < 0 ? -x : x);
        return w + (size_t)len;
    }
    for (int i = x < 0 ? x : 0; i < n || i <= x + 1; i++) {
        /* i counts digits from the first significant one; a value below 1 starts with zeros */
        if (i == x + 1) out[w++] = '.';
        out[w++] = i >= 0 && i < n ? digits[i] : '0';
    }
    out[w] = 0;
    return w;
}

/* ---- UTF-8 ---- */

size_t utf8_decode(struct str s, uint32_t *cp)
{
    if (s.n == 0) return 0;
    const uint8_t *p = (const uint8_t *)s.p;
    if (p[0] < 0x80) {
        *cp = p[0];
        return 1;
    }
    size_t len = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || s.n < len) return 0;
    /* The second byte's range excludes overlong forms, surrogates and what is above U+10FFFF. */
    uint8_t low = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
    uint8_t high = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
    if (p[1] < low || p[1] > high) return 0;
    uint32_t c = p[0] & (0x7fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (p[i] & 0x3fu);
    }
    *cp = c;
    return len;
}

size_t utf8_encode(uint32_t cp, char out[4])
{
    if (cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000)) cp = 0xfffd;
    size_t len = cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    static const uint8_t lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = len - 1; i > 0; i--, cp >>= 6) out[i] = (char)(0x80 | (cp & 0x3f));
    out[0] = (char)(lead[len] | cp);
    return len;
}

bool utf8_valid(struct str s)
{
    uint32_t cp;
    for (size_t i = 0, len; i < s.n; i += len) {
        len = utf8_decode((struct str){s.p + i, s.n - i}, &cp);
        if (len == 0) return false;
    }
    return true;
}

/* ---- growing buffer ---- */

int buf_reserve(struct buf *b, size_t extra)
{
    size_t need;
    if (!size_add(b->n, extra, &need)) return ERR_NOMEM;
    if (b->limit && need > b->limit) return ERR_LIMIT;
    if (need <= b->cap) return 0;
    size_t cap = size_max(need, b->cap < SIZE_MAX / 2 ? b->cap * 2 : need);
    cap = size_max(cap, 64);
    if (b->limit) cap = size_min(cap, b->limit);
    char *p = mem_realloc(b->p, cap);
    if (!p) return ERR_NOMEM;
    b->p = p;
    b->cap = cap;
    return 0;
}

int buf_put(struct buf *b, const void *p, size_t n)
{
    TRY(buf_reserve(b, n));
    if (n) memcpy(b->p + b->n, p, n);
    b->n += n;
    return 0;
}

int buf_str(struct buf *b, struct str s)
{
    return buf_put(b, s.p, s.n);
}

int buf_z(struct buf *b, const char *z)
{
    return buf_str(b, str_of(z));
}

int buf_c(struct buf *b, char c)
{
    return buf_put(b, &c, 1);
}

int buf_printf(struct buf *b, const char *fmt, ...)
{
    char small[256];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(small, sizeof small, fmt, ap);
    va_end(ap);
    if (n < 0) return ERR_ARG;
    if ((size_t)n < sizeof small) return buf_put(b, small, (size_t)n);
    size_t len = (size_t)n;
    char *tmp = mem_alloc(len + 1);
    if (!tmp) return ERR_NOMEM;
    va_start(ap, fmt);
    vsnprintf(tmp, len + 1, fmt, ap);
    va_end(ap);
    int rc = buf_put(b, tmp, len);
    mem_free(tmp);
    return rc;
}

void buf_fini(struct buf *b)
{
    mem_free(b->p);
    *b = (struct buf){.limit = b->limit};
}
