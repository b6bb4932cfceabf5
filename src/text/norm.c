/* Normalizers of tokenizer.json: Prepend, Replace of a fixed string, and the four Unicode forms. A segment goes through all
 * of them, from one buffer into the other. tok_encode is the caller.
 *
 * The Unicode forms take the tables of utf8proc, but order combining marks here: utf8proc_decompose swaps neighbours, which
 * is quadratic in a long run of marks. A piece that is normalized alone starts at an ASCII character that a non-ASCII one
 * follows, or at a non-ASCII one, and ends before the next ASCII character: nothing composes or reorders across that end. */
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

bool norm_add(struct tok *t, struct norm_op op)
{
    if (t->n_norm == NORM_MAX) return false;
    t->norm[t->n_norm++] = op;
    return true;
}

bool norm_add_unicode(struct tok *t, struct str name)
{
    for (size_t i = 0; i < COUNT_OF(unicode_forms); i++)
        if (str_is(name, unicode_forms[i].name))
            return norm_add(t, (struct norm_op){.kind = NORM_UNICODE, .form = unicode_forms[i].form});
    return false;
}

/* ---- Replace ---------------------------------------------------------------------------------------------- */

static int replace_all(struct str in, struct str from, struct str to, struct buf *out)
{
    size_t done = 0, i = 0;
    while (in.n - i >= from.n) {
        const char *hit = memchr(in.p + i, from.p[0], in.n - i - from.n + 1);
        if (!hit) break;
        i = (size_t)(hit - in.p);
        if (memcmp(hit, from.p, from.n) != 0) {
            i++;
            continue;
        }
        TRY(buf_put(out, in.p + done, i - done));
        TRY(buf_str(out, to));
        i += from.n;
        done = i;
    }
    return buf_put(out, in.p + done, in.n - done);
}

/* ---- Unicode forms ---------------------------------------------------------------------------------------- */

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

static int form_piece(struct points *v, struct str s, unsigned form, struct buf *out)
{
    v->n = 0;
    for (size_t i = 0; i < s.n;) {
        uint32_t cp;
        int boundary = 0;
        i += utf8_next(s.p + i, &cp);
        TRY(points_room(v, 32)); /* the longest decomposition has 18 */
        utf8proc_ssize_t k = utf8proc_decompose_char((utf8proc_int32_t)cp, v->p + v->n, 32, (utf8proc_option_t)form, &boundary);
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

static int form_all(struct str in, unsigned form, struct buf *out)
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

/* ---- BERT ---------------------------------------------------------------------------------------------------- */

static bool is_chinese(uint32_t c)
{
    static const uint32_t ranges[][2] = {{0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x20000, 0x2A6DF}, {0x2A700, 0x2B73F},
                                         {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF}, {0xF900, 0xFAFF},   {0x2F800, 0x2FA1F}};
    for (size_t i = 0; i < COUNT_OF(ranges); i++)
        if (c >= ranges[i][0] && c <= ranges[i][1]) return true;
    return false;
}

/* Characters that the original drops: controls, formats, those without a meaning. */
static bool is_control(uint32_t c)
{
    if (c == '\t' || c == '\n' || c == '\r') return false;
    const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return c == 0 || c == 0xFFFD || k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CN ||
           k == UTF8PROC_CATEGORY_CO || k == UTF8PROC_CATEGORY_CS;
}

static int put_char(struct buf *out, utf8proc_int32_t c, unsigned what)
{
    char text[4];
    if (what & BERT_ACCENTS && utf8proc_category(c) == UTF8PROC_CATEGORY_MN) return 0;
    if (what & BERT_LOWER) c = utf8proc_tolower(c);
    return buf_put(out, text, utf8_encode((uint32_t)c, text));
}

static int bert_char(uint32_t c, unsigned what, struct buf *out)
{
    utf8proc_int32_t parts[8];
    int bound = 0;
    if (what & BERT_CLEAN && is_control(c)) return 0;
    if (what & BERT_CLEAN && uclass_of(c) == U_SPACE) return buf_c(out, ' ');
    if (c < 0x80) return put_char(out, (utf8proc_int32_t)c, what);
    const bool apart = what & BERT_CHINESE && is_chinese(c);
    if (apart) TRY(buf_c(out, ' '));
    utf8proc_ssize_t n = 1;
    parts[0] = (utf8proc_int32_t)c;
    if (what & BERT_ACCENTS)
        n = utf8proc_decompose_char((utf8proc_int32_t)c, parts, COUNT_OF(parts), UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &bound);
    if (n < 1 || n > (utf8proc_ssize_t)COUNT_OF(parts)) n = 1, parts[0] = (utf8proc_int32_t)c;
    for (utf8proc_ssize_t i = 0; i < n; i++) TRY(put_char(out, parts[i], what));
    return apart ? buf_c(out, ' ') : 0;
}

/* Bytes that are no UTF-8 pass unchanged. */
static int bert_all(struct str in, unsigned what, struct buf *out)
{
    uint32_t c;
    for (size_t n; in.n; in.p += n, in.n -= n) {
        n = utf8_decode(in, &c);
        TRY(n ? bert_char(c, what, out) : buf_c(out, in.p[0]));
        if (n == 0) n = 1;
    }
    return 0;
}

/* ---- all of them ------------------------------------------------------------------------------------------ */

int norm_run(const struct tok *t, struct str in, struct buf bufs[2], struct str *out, struct err *e)
{
    for (unsigned i = 0; i < t->n_norm && in.n; i++) {
        const struct norm_op *op = &t->norm[i];
        struct buf *b = &bufs[i & 1];
        int rc = 0;
        b->n = 0;
        switch (op->kind) {
        case NORM_PREPEND:
            rc = buf_str(b, op->to);
            if (rc == 0) rc = buf_str(b, in);
            break;
        case NORM_REPLACE:
            rc = replace_all(in, op->from, op->to, b);
            break;
        case NORM_UNICODE:
            rc = form_all(in, op->form, b);
            break;
        case NORM_BERT:
            rc = bert_all(in, op->form, b);
            break;
        }
        if (rc == ERR_LIMIT) return fail(e, rc, "the normalizer makes the text longer than %zu bytes", b->limit);
        if (rc < 0) return fail_nomem(e, "normalized text", in.n);
        in = buf_view(b);
    }
    *out = in;
    return 0;
}
