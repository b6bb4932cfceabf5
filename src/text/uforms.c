/* The four Unicode normalization forms.
 *
 * The tables are utf8proc's, but combining marks are ordered here: utf8proc_decompose swaps neighbours, which is quadratic in a
 * long run of marks. A piece that is normalized alone starts at an ASCII character that a non-ASCII one follows, or at a
 * non-ASCII one, and ends before the next ASCII character: nothing composes or reorders across that end. norm.c calls. */
#include "text/text_int.h"

#include <utf8proc.h>

static const struct {
    const char *name;
    unsigned form;
    uint32_t stable; /* code points below are left alone, whatever stands beside them (UAX 15: quick check data) */
} unicode_forms[] = {
    {"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE, 0x300},
    {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, 0xC0},
    {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT, 0xA0},
    {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT, 0xA0},
};

bool uform_of(struct str name, unsigned *form)
{
    for (size_t i = 0; i < COUNT_OF(unicode_forms); i++) {
        if (!str_is(name, unicode_forms[i].name)) continue;
        *form = unicode_forms[i].form;
        return true;
    }
    return false;
}

/* Code points in work. */
struct points {
    int32_t *p, *tmp;
    size_t n, cap;
};

static void points_fini(struct points *v)
{
    mem_free(v->p);
    mem_free(v->tmp);
}

static int points_room(struct points *v, size_t extra)
{
    if (v->cap - v->n >= extra) return 0;
    size_t cap = v->cap * 2 + extra + 64, bytes;
    if (!size_mul(cap, sizeof *v->p, &bytes)) return ERR_NOMEM;
    int32_t *p = mem_realloc(v->p, bytes);
    if (!p) return ERR_NOMEM;
    v->p = p;
    p = mem_realloc(v->tmp, bytes);
    if (!p) return ERR_NOMEM;
    v->tmp = p;
    v->cap = cap;
    return 0;
}

static unsigned combining_class(int32_t cp)
{
    return (unsigned)utf8proc_get_property(cp)->combining_class & 0xFF;
}

/* Canonical ordering: each run of marks (class not 0) by class, stable. Counting sort: linear however long the run. */
static void order_marks(struct points *v)
{
    for (size_t i = 0; i < v->n;) {
        if (combining_class(v->p[i]) == 0) {
            i++;
            continue;
        }
        size_t at[256] = {0}, end = i, sum = i;
        unsigned c;
        bool sorted = true;
        for (unsigned last = 0; end < v->n && (c = combining_class(v->p[end])) != 0; end++, last = c) {
            at[c]++;
            sorted = sorted && c >= last;
        }
        for (c = 0; c < 256 && !sorted; c++) {
            size_t count = at[c];
            at[c] = sum;
            sum += count;
        }
        for (size_t k = i; k < end && !sorted; k++) v->tmp[at[combining_class(v->p[k])]++] = v->p[k];
        if (!sorted) memcpy(v->p + i, v->tmp + i, (end - i) * sizeof *v->p);
        i = end;
    }
}

/* Characters with a decomposition that are later than the Unicode 9 of the `tokenizers` library, which leaves them as they
 * are. */
static bool is_late(uint32_t cp)
{
    static const uint32_t rows[][2] = {{0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},   {0xAB69, 0xAB69},   {0x10781, 0x107BA},
                                       {0x11938, 0x11938}, {0x1E030, 0x1E06D}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9}};
    if (cp < rows[0][0]) return false;
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (cp >= rows[i][0] && cp <= rows[i][1]) return true;
    return false;
}

static int form_piece(struct points *v, struct str s, unsigned form, struct buf *out)
{
    v->n = 0;
    for (size_t i = 0; i < s.n;) {
        uint32_t cp;
        int boundary = 0;
        i += utf8_next(s.p + i, &cp);
        TRY(points_room(v, 32)); /* the longest decomposition has 18 */
        utf8proc_ssize_t k =
            is_late(cp) ? -1
                        : utf8proc_decompose_char((utf8proc_int32_t)cp, v->p + v->n, 32, (utf8proc_option_t)form, &boundary);
        if (k < 0 || k > 32) {
            v->p[v->n] = (int32_t)cp;
            k = 1;
        }
        v->n += (size_t)k;
    }
    order_marks(v);
    utf8proc_ssize_t n = utf8proc_normalize_utf32(v->p, (utf8proc_ssize_t)v->n, (utf8proc_option_t)form);
    TRY(buf_reserve(out, v->n * 4));
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        char enc[4];
        TRY(buf_put(out, enc, utf8_encode((uint32_t)v->p[i], enc)));
    }
    return 0;
}

/* Length of the piece at s that is normalized alone; *plain: it is left as it is. */
static size_t form_extent(struct str s, uint32_t stable, bool *plain)
{
    size_t i = 0;
    *plain = true;
    while (i < s.n && (unsigned char)s.p[i] < 0x80) i++;
    if (i == s.n) return i;
    uint32_t cp = 0;
    if (!utf8_decode((struct str){s.p + i, s.n - i}, &cp)) return i + 1;
    if (i > 1) return i - 1;
    while (i < s.n && ((unsigned char)s.p[i] >= 0x80)) {
        size_t k = utf8_decode((struct str){s.p + i, s.n - i}, &cp);
        if (k == 0) break;
        if (cp >= stable) *plain = false;
        i += k;
    }
    return i;
}

int uform_run(struct str in, unsigned form, struct buf *out)
{
    uint32_t stable = 0;
    struct points v = {0};
    int rc = 0;
    for (size_t i = 0; i < COUNT_OF(unicode_forms); i++)
        if (unicode_forms[i].form == form) stable = unicode_forms[i].stable;
    while (in.n && rc == 0) {
        bool plain;
        size_t n = form_extent(in, stable, &plain);
        struct str piece = {in.p, n};
        rc = plain ? buf_str(out, piece) : form_piece(&v, piece, form, out);
        in.p += n;
        in.n -= n;
    }
    points_fini(&v);
    return rc;
}
