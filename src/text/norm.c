/* Normalizers of tokenizer.json and of GGUF files. A segment goes through all of them, from one buffer into the other. Bytes
 * that are no UTF-8 pass unchanged. encode.c is the caller. */
#include "text/text_int.h"

#include <utf8proc.h>

/* What the functions below need beside their operation. */
struct norm_run {
    const struct tok *t;
    struct regex_run *regex;
    struct err *e;
};

bool norm_add(struct tok *t, struct norm_op op)
{
    if (t->n_norm == NORM_MAX) return false;
    t->norm[t->n_norm++] = op;
    return true;
}

bool norm_add_unicode(struct tok *t, struct str name)
{
    unsigned form;
    return uform_of(name, &form) && norm_add(t, (struct norm_op){.kind = NORM_UNICODE, .form = form});
}

void norm_fini(struct tok *t)
{
    for (unsigned i = 0; i < t->n_norm; i++) pcre2_code_free(t->norm[i].code);
}

/* ---- fixed strings and expressions ------------------------------------------------------------------------ */

static int run_prepend(const struct norm_op *op, struct str in, struct norm_run *r, struct buf *out)
{
    (void)r;
    TRY(buf_str(out, op->to));
    return buf_str(out, in);
}

static int run_replace(const struct norm_op *op, struct str in, struct norm_run *r, struct buf *out)
{
    const struct str from = op->from, to = op->to;
    (void)r;
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

/* The length of the valid UTF-8 at the start of s. */
static size_t valid_part(struct str s)
{
    uint32_t c;
    size_t i = 0;
    for (size_t n; i < s.n && (n = utf8_decode((struct str){s.p + i, s.n - i}, &c)) != 0;) i += n;
    return i;
}

/* An empty match gives a replacement and moves on by a character, but for one at the end of the match before. */
static int replace_matches(const struct norm_op *op, struct str in, struct norm_run *r, struct buf *out)
{
    size_t done = 0, last = SIZE_MAX;
    for (size_t from = 0, ms, me; from <= in.n;) {
        uint32_t c;
        int rc = regex_find(r->regex, op->code, in, from, &ms, &me, r->e);
        if (rc < 0) return rc;
        if (rc == 0) break;
        from = me > ms ? me : me < in.n ? me + utf8_next(in.p + me, &c) : in.n + 1;
        if (me == ms && me == last) continue;
        TRY(buf_put(out, in.p + done, ms - done));
        TRY(buf_str(out, op->to));
        done = last = me;
    }
    return buf_put(out, in.p + done, in.n - done);
}

static int run_regex(const struct norm_op *op, struct str in, struct norm_run *r, struct buf *out)
{
    while (in.n) {
        const size_t n = valid_part(in);
        TRY(n ? replace_matches(op, (struct str){in.p, n}, r, out) : buf_c(out, in.p[0]));
        in.p += n ? n : 1;
        in.n -= n ? n : 1;
    }
    return 0;
}

/* ---- character by character ------------------------------------------------------------------------------- */

static int put_lower(utf8proc_int32_t c, struct buf *out)
{
    char text[4];
    if (c == 0x130) return buf_z(out, "i\xCC\x87"); /* the one capital whose small form is two characters */
    return buf_put(out, text, utf8_encode((uint32_t)utf8proc_tolower(c), text));
}

static int lower_char(uint32_t c, struct str s, struct buf *out)
{
    (void)s;
    return c < 0x80 ? buf_c(out, (char)(c - 'A' < 26 ? c + 32 : c)) : put_lower((utf8proc_int32_t)c, out);
}

static int accent_char(uint32_t c, struct str s, struct buf *out)
{
    const utf8proc_category_t k = c < 0x80 ? UTF8PROC_CATEGORY_CN : utf8proc_category((utf8proc_int32_t)c);
    const bool mark = k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_ME;
    return mark && !uclass_is_late(c, 9) ? 0 : buf_str(out, s);
}

/* Published with SentencePiece: controls go away, what separates becomes a space. */
static int nmt_char(uint32_t c, struct str s, struct buf *out)
{
    static const struct {
        uint32_t first, last;
        bool space;
    } rows[] = {{0x01, 0x08, false},    {0x09, 0x0A, true},     {0x0B, 0x0B, false},    {0x0C, 0x0D, true},
                {0x0E, 0x1F, false},    {0x7F, 0x7F, false},    {0x8F, 0x8F, false},    {0x9F, 0x9F, false},
                {0x1680, 0x1680, true}, {0x200B, 0x200F, true}, {0x2028, 0x2029, true}, {0x2581, 0x2581, true},
                {0xFEFF, 0xFEFF, true}, {0xFFFD, 0xFFFD, true}};
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (c >= rows[i].first && c <= rows[i].last) return rows[i].space ? buf_c(out, ' ') : 0;
    return buf_str(out, s);
}

static int each_char(struct str in, int (*put)(uint32_t c, struct str s, struct buf *out), struct buf *out)
{
    uint32_t c;
    for (size_t n; in.n; in.p += n, in.n -= n) {
        n = utf8_decode(in, &c);
        TRY(n ? put(c, (struct str){in.p, n}, out) : buf_c(out, in.p[0]));
        if (n == 0) n = 1;
    }
    return 0;
}

static int run_lower(const struct norm_op *op, struct str in, struct norm_run *r, struct buf *out)
{
    (void)op, (void)r;
    return each_char(in, lower_char, out);
}

static int run_accents(const struct norm_op *op, struct str in, struct norm_run *r, struct buf *out)
{
    (void)op, (void)r;
    return each_char(in, accent_char, out);
}

static int run_nmt(const struct norm_op *op, struct str in, struct norm_run *r, struct buf *out)
{
    (void)op, (void)r;
    return each_char(in, nmt_char, out);
}

static int run_bytes(const struct norm_op *op, struct str in, struct norm_run *r, struct buf *out)
{
    (void)op, (void)r;
    return alphabet_put(out, in);
}

/* ---- spaces ----------------------------------------------------------------------------------------------- */

static int run_strip(const struct norm_op *op, struct str in, struct norm_run *r, struct buf *out)
{
    uint32_t c;
    (void)r;
    for (size_t n; op->form & STRIP_LEFT && in.n && (n = utf8_decode(in, &c)) != 0 && uclass_of(c) == U_SPACE;) {
        in.p += n;
        in.n -= n;
    }
    for (size_t start; op->form & STRIP_RIGHT && in.n; in.n = start) {
        start = utf8_before(in, in.n, &c);
        if (uclass_of(c) != U_SPACE) break;
    }
    return buf_str(out, in);
}

static int run_spaces(const struct norm_op *op, struct str in, struct norm_run *r, struct buf *out)
{
    const bool merge = op->form & SPACES_MERGE;
    bool prefix = op->form & SPACES_PREFIX, in_word = false;
    (void)r;
    for (size_t i = 0; i < in.n; i++) {
        const bool space = in.p[i] == ' ';
        if (space ? !merge : !in_word && (merge || prefix)) TRY(buf_z(out, LOWER_BLOCK));
        if (!space) TRY(buf_c(out, in.p[i]));
        prefix = prefix && space;
        in_word = !space;
    }
    return 0;
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

/* Characters that the original drops: controls, formats, those for private use. */
static bool is_control(uint32_t c)
{
    if (c == '\t' || c == '\n' || c == '\r') return false;
    const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return c == 0 || c == 0xFFFD || k == UTF8PROC_CATEGORY_CC || (k == UTF8PROC_CATEGORY_CF && !uclass_is_late(c, 8)) ||
           k == UTF8PROC_CATEGORY_CO || k == UTF8PROC_CATEGORY_CS;
}

static int put_char(struct buf *out, utf8proc_int32_t c, unsigned what)
{
    char text[4];
    const bool accent = what & BERT_ACCENTS && utf8proc_category(c) == UTF8PROC_CATEGORY_MN;
    if (accent && !uclass_is_late((uint32_t)c, 8)) return 0;
    return what & BERT_LOWER ? put_lower(c, out) : buf_put(out, text, utf8_encode((uint32_t)c, text));
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
static int run_bert(const struct norm_op *op, struct str in, struct norm_run *r, struct buf *out)
{
    uint32_t c;
    (void)r;
    for (size_t n; in.n; in.p += n, in.n -= n) {
        n = utf8_decode(in, &c);
        TRY(n ? bert_char(c, op->form, out) : buf_c(out, in.p[0]));
        if (n == 0) n = 1;
    }
    return 0;
}

/* ---- all of them ------------------------------------------------------------------------------------------ */

static int run_unicode(const struct norm_op *op, struct str in, struct norm_run *r, struct buf *out)
{
    (void)r;
    return uform_run(in, op->form, out);
}

static int run_charsmap(const struct norm_op *op, struct str in, struct norm_run *r, struct buf *out)
{
    return charsmap_run(&r->t->charsmap, in, op->form != 0, out);
}

int norm_run(const struct tok *t, struct str in, struct regex_run *regex, struct buf bufs[2], struct str *out, struct err *e)
{
    static int (*const runs[])(const struct norm_op *op, struct str in, struct norm_run *r, struct buf *out) = {
        [NORM_PREPEND] = run_prepend, [NORM_REPLACE] = run_replace, [NORM_REGEX] = run_regex,
        [NORM_UNICODE] = run_unicode, [NORM_BERT] = run_bert,       [NORM_LOWER] = run_lower,
        [NORM_ACCENTS] = run_accents, [NORM_STRIP] = run_strip,     [NORM_CHARSMAP] = run_charsmap,
        [NORM_NMT] = run_nmt,         [NORM_BYTES] = run_bytes,     [NORM_SPACES] = run_spaces,
    };
    struct err why = {0};
    struct norm_run r = {t, regex, &why};
    for (unsigned i = 0; i < t->n_norm && in.n; i++) {
        const struct norm_op *op = &t->norm[i];
        struct buf *b = &bufs[i & 1];
        b->n = 0;
        const int rc = runs[op->kind](op, in, &r, b);
        if (rc < 0 && *why.msg) return fail(e, rc, "normalizer: %s", why.msg);
        if (rc == ERR_LIMIT) return fail(e, rc, "the normalizer makes the text longer than %zu bytes", b->limit);
        if (rc < 0) return fail_nomem(e, "normalized text", in.n);
        in = buf_view(b);
    }
    *out = in;
    return 0;
}
