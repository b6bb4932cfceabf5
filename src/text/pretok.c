/* Pre-tokenizers: where a text may be cut into words before merging.
 *
 * A pre-tokenizer is a row of stages. A stage takes a piece, looks for matches in it, and gives out smaller pieces (or rewrites
 * the piece). The stages run as a chain of iterators: the last one is asked for a word and asks the one before when it has none
 * left, so nothing is stored per word and 16 MiB of text take as much memory as one line.
 *
 * Matches are found by
 *  - scan_gpt, a scanner written by hand for the patterns of GPT-2, Llama 3, Qwen 2 and Jais 2. It gives what the regular
 * expression gives (a unit test compares them), in one pass and without a stack whatever the text is;
 *  - classes of characters and fixed strings;
 *  - PCRE2 (regex.c) for every other expression of a tokenizer.json and of the named pre-tokenizers of GGUF. */
#include "text/text_int.h"

/* ---- patterns with a scanner ------------------------------------------------------------------------------ */

static const struct {
    const char *regex;
    struct gpt_pattern pattern;
} gpt_patterns[] = {
    {RE_GPT2, {.icase = false}},
    {RE_LLAMA3, {.icase = true, .any_lead = true, .digits = 3, .newlines = true}},
    {RE_QWEN2, {.icase = true, .any_lead = true, .digits = 1, .newlines = true}},
    {RE_JAIS2, {.icase = true, .any_lead = true, .digits = 3, .newlines = true, .steps = true}},
};

/* Class and length of the character at offset i < s.n of valid text. */
static inline enum uclass class_at(struct str s, size_t i, size_t *n)
{
    unsigned char b = (unsigned char)s.p[i];
    if (b < 0x80) {
        *n = 1;
        return uclass_ascii[b];
    }
    uint32_t cp;
    *n = utf8_next(s.p + i, &cp);
    return uclass_wide(cp);
}

/* End of the run of class c from offset i, of at most max characters. */
static inline size_t class_run(struct str s, size_t i, enum uclass c, size_t max)
{
    size_t n;
    for (; i < s.n && max && class_at(s, i, &n) == c; i += n) max--;
    return i;
}

/* Length of 's 't 're 've 'm 'll 'd at the start of s (which has a quote there), else 0. Without regard to case,
 * the long s (U+017F) is an s too. */
static size_t contraction(struct str s, bool icase)
{
    if (s.n < 2) return 0;
    unsigned fold = icase ? 0x20 : 0;
    unsigned a = (unsigned char)s.p[1] | fold, b = s.n > 2 ? (unsigned char)s.p[2] | fold : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
    return icase && s.n > 2 && memcmp(s.p + 1, "\xC5\xBF", 2) == 0 ? 3 : 0;
}

static inline bool is_line_end(char c)
{
    return c == '\r' || c == '\n';
}

/* The run of white space at the start of s: up to its last line end if those count; all of it at the end of the text; else
 * all but its last character, which belongs to what follows; a single one is a piece of its own. */
static size_t scan_spaces(const struct gpt_pattern *g, struct str s)
{
    size_t i = 0, n, last = 0, line_end = 0;
    while (i < s.n && class_at(s, i, &n) == U_SPACE) {
        if (is_line_end(s.p[i])) line_end = i + 1;
        last = i;
        i += n;
    }
    if (g->newlines && line_end) return line_end;
    return i == s.n || last == 0 ? i : last;
}

/* The same where white space without a line end is cut into powers of two. What is left of a row is counted once and kept in
 * st. */
static size_t scan_steps(struct pre_stage *st)
{
    const struct str s = st->seg;
    size_t i = st->search, n, line_end = 0, step = 512;
    if (i >= st->run_end) {
        st->run_left = 0;
        for (; i < s.n && class_at(s, i, &n) == U_SPACE; i += n, st->run_left++)
            if (is_line_end(s.p[i])) line_end = i + 1;
        st->run_end = line_end ? line_end : i;
        if (line_end) return line_end - st->search;
    }
    const bool ends_text = st->run_end == s.n;
    while (step > 2 && !(st->run_left > step || (st->run_left == step && ends_text))) step /= 2;
    if (step == 2 && st->run_left < (ends_text ? 2u : 3u)) step = 1;
    st->run_left -= step;
    for (i = st->search; step > 0; step--, i += n) class_at(s, i, &n);
    return i - st->search;
}

static size_t scan_punct(const struct gpt_pattern *g, struct str s, size_t i)
{
    i = class_run(s, i, U_OTHER, SIZE_MAX);
    if (g->newlines)
        while (i < s.n && is_line_end(s.p[i])) i++;
    return i;
}

/* Length of the match at the stage's search, before the end of its text. There always is one: each class has an alternative. */
static size_t scan_gpt(const struct gpt_pattern *g, struct pre_stage *st)
{
    const struct str s = {st->seg.p + st->search, st->seg.n - st->search};
    size_t n, n2;
    if (s.p[0] == '\'' && (n = contraction(s, g->icase)) != 0) return n;
    enum uclass c = class_at(s, 0, &n);
    if (c == U_LETTER) return class_run(s, n, U_LETTER, SIZE_MAX);
    if (n < s.n) {
        enum uclass c2 = class_at(s, n, &n2);
        bool space = s.p[0] == ' ';
        bool lead = g->any_lead ? c != U_NUMBER && !is_line_end(s.p[0]) : space;
        if (c2 == U_LETTER && lead) return class_run(s, n, U_LETTER, SIZE_MAX);
        if (c2 == U_NUMBER && space && g->digits == 0) return class_run(s, n, U_NUMBER, SIZE_MAX);
        if (c2 == U_OTHER && space) return scan_punct(g, s, n);
    }
    if (c == U_NUMBER) return class_run(s, n, U_NUMBER, g->digits ? g->digits - 1 : SIZE_MAX);
    if (c == U_OTHER) return scan_punct(g, s, n);
    return g->steps ? scan_steps(st) : scan_spaces(g, s);
}

/* ---- building --------------------------------------------------------------------------------------------- */

#define LITERAL_BYTES_MAX 256 /* bounds the work at one position of the text */

int pre_add(struct tok *t, struct pre_op op, struct err *e)
{
    if (t->n_pre == PRE_MAX) return fail(e, ERR_UNSUPPORTED, "pre_tokenizer: more than %d stages are not supported", PRE_MAX);
    if (op.literal.n > LITERAL_BYTES_MAX)
        return fail(e, ERR_UNSUPPORTED, "pre_tokenizer: a pattern of %zu bytes is not supported (at most %d)", op.literal.n,
                    LITERAL_BYTES_MAX);
    TRY(tok_dup(t, op.literal, &op.literal, e));
    TRY(tok_dup(t, op.regex, &op.regex, e));
    TRY(tok_dup(t, op.space, &op.space, e));
    TRY(tok_dup(t, op.prefix, &op.prefix, e));
    t->pre[t->n_pre++] = op;
    return 0;
}

int pre_add_regex(struct tok *t, struct str regex, enum pre_behavior behavior, struct err *e)
{
    static const struct {
        const char *regex;
        enum pre_find find;
        bool run;
    } known[] = {{RE_NUMBER, FIND_CLASS, false},
                 {RE_NUMBERS, FIND_CLASS, true},
                 {RE_TRIPLES, FIND_TRIPLES, false},
                 {RE_TRIPLE_STARTS, FIND_TRIPLE_STARTS, false},
                 {RE_SPACES_END, FIND_SPACES_END, false}};
    struct pre_op op = {.find = FIND_REGEX, .behavior = behavior, .regex = regex};
    for (size_t i = 0; i < COUNT_OF(known); i++)
        if (str_is(regex, known[i].regex)) {
            op.find = known[i].find;
            op.cls = CLASS_NUMBER;
            op.run = known[i].run;
        }
    for (size_t i = 0; i < COUNT_OF(gpt_patterns); i++)
        if (str_is(regex, gpt_patterns[i].regex)) {
            op.find = FIND_GPT;
            op.gpt = &gpt_patterns[i].pattern;
        }
    if (op.find == FIND_REGEX && regex_compile(regex, &op.code, e) < 0) return fail_prefix(e, "pre_tokenizer");
    int rc = pre_add(t, op, e);
    if (rc < 0) pcre2_code_free(op.code);
    return rc;
}

void pre_fini(struct tok *t)
{
    for (unsigned i = 0; i < t->n_pre; i++) pcre2_code_free(t->pre[i].code);
}

/* ---- finding matches -------------------------------------------------------------------------------------- */

/* Each finder sets [*ms, *me) to the first match at or after from and returns 1; 0: no match; negative: failed. */

static bool in_class(enum pre_class cls, uint32_t cp)
{
    switch (cls) {
    case CLASS_NUMBER:
        return uclass_of(cp) == U_NUMBER;
    case CLASS_PUNCT:
        return uclass_is_punct(cp);
    case CLASS_SPACE:
        return uclass_of(cp) == U_SPACE;
    }
    return false;
}

static int find_class(const struct pre_op *op, struct str seg, size_t from, size_t *ms, size_t *me)
{
    uint32_t cp;
    size_t i = from, n = 0;
    for (; i < seg.n; i += n) {
        n = utf8_next(seg.p + i, &cp);
        if (in_class(op->cls, cp)) break;
    }
    if (i >= seg.n) return 0;
    *ms = i;
    do i += n;
    while (op->run && i < seg.n && (n = utf8_next(seg.p + i, &cp), in_class(op->cls, cp)));
    *me = i;
    return 1;
}

/* \w+|[^\w\s]+ */
static int find_words(struct str seg, size_t from, size_t *ms, size_t *me)
{
    enum { SPACE, WORD, OTHER } kind = SPACE, k;
    uint32_t cp;
    size_t i = from, n;
    for (; i < seg.n; i += n) {
        n = utf8_next(seg.p + i, &cp);
        k = uclass_is_word(cp) ? WORD : uclass_of(cp) == U_SPACE ? SPACE : OTHER;
        if (kind == SPACE) *ms = i;
        if (kind != SPACE && k != kind) break;
        kind = k;
    }
    *me = i;
    return kind != SPACE;
}

static int find_literal(const struct pre_op *op, struct str seg, size_t from, size_t *ms, size_t *me)
{
    struct str lit = op->literal;
    for (size_t i = from; seg.n - i >= lit.n; i++) {
        const char *hit = memchr(seg.p + i, lit.p[0], seg.n - i - lit.n + 1);
        if (!hit) return 0;
        i = (size_t)(hit - seg.p);
        if (memcmp(hit, lit.p, lit.n) != 0) continue;
        *ms = i;
        do i += lit.n;
        while (op->run && seg.n - i >= lit.n && memcmp(seg.p + i, lit.p, lit.n) == 0);
        *me = i;
        return 1;
    }
    return 0;
}

/* Goes to the next row of digits at or after the stage's search, and counts it once; false where there is none. bounded: one
 * that a word character follows does not count. */
static bool next_digits(struct pre_stage *st, bool bounded)
{
    const struct str s = st->seg;
    uint32_t cp = 0;
    for (size_t i = size_max(st->search, st->run_end), n; i < s.n; i += n) {
        n = utf8_next(s.p + i, &cp);
        if (!uclass_is_digit(cp)) continue;
        st->run_at = i;
        st->run_left = 0;
        while (uclass_is_digit(cp)) {
            i += n;
            st->run_left++;
            if (i == s.n) break;
            n = utf8_next(s.p + i, &cp);
        }
        st->run_end = i;
        if (i == s.n || !bounded || !uclass_is_word(cp)) return true;
    }
    return false;
}

static void skip_digits(struct pre_stage *st, size_t count)
{
    uint32_t cp;
    for (; count > 0; count--, st->run_left--) st->run_at += utf8_next(st->seg.p + st->run_at, &cp);
}

/* The lookahead of the expression would walk to the end of a row from each of its digits. */
static int find_triples(struct pre_stage *st, bool starts)
{
    while (st->run_at < st->search && st->run_at < st->run_end) skip_digits(st, 1);
    if (st->run_left < (starts ? 3u : 1u) && !next_digits(st, !starts)) return 0;
    if (starts) {
        while (st->run_left < 3)
            if (!next_digits(st, false)) return 0;
        skip_digits(st, st->run_left % 3);
        st->ms = st->me = st->run_at;
    } else {
        st->ms = st->run_at;
        skip_digits(st, st->run_left % 3 ? st->run_left % 3 : 3);
        st->me = st->run_at;
    }
    return 1;
}

/* White space as far as the end of its line: of a row of it all, where it ends the text, else up to its last line feed. */
static int find_spaces_end(struct str s, size_t from, size_t *ms, size_t *me)
{
    size_t n, last = 0;
    for (size_t i = from; i < s.n;) {
        if (class_at(s, i, &n) != U_SPACE) {
            i += n;
            continue;
        }
        *ms = i;
        *me = last = i;
        for (; i < s.n && class_at(s, i, &n) == U_SPACE; i += n)
            if (s.p[i] == '\n') last = i;
        *me = i == s.n ? i : last;
        if (*me > *ms) return 1;
    }
    return 0;
}

/* Characters of one script, and those of none among and behind them. */
static int find_script(struct str seg, size_t from, size_t *ms, size_t *me)
{
    unsigned first = 0;
    uint32_t cp;
    size_t i = from, n;
    for (; i < seg.n; i += n) {
        n = utf8_next(seg.p + i, &cp);
        const unsigned script = uclass_script(cp);
        if (script == 0 || script == first) continue;
        if (first) break;
        first = script;
        *ms = i;
    }
    *me = i;
    return first != 0;
}

/* An empty match at the end of the match before is none. */
static int find_regex(struct pre_run *r, const struct pre_op *op, struct pre_stage *st, struct err *e)
{
    const size_t last = st->found ? st->me : SIZE_MAX;
    for (size_t from = st->search; from < st->seg.n;) {
        uint32_t cp;
        const int rc = regex_find(&r->regex, op->code, st->seg, from, &st->ms, &st->me, e);
        if (rc < 0) return fail_prefix(e, "pre_tokenizer '%.*s'", STR_ARG(op->regex));
        if (rc == 0 || st->ms < st->me || st->me != last) return rc;
        from = last + (last < st->seg.n ? utf8_next(st->seg.p + last, &cp) : 1);
    }
    return 0;
}

/* Advances the stage to its next match; none left is the empty match at the end. */
static int next_match(struct pre_run *r, const struct pre_op *op, struct pre_stage *st, struct err *e)
{
    int rc = 0;
    if (st->search < st->seg.n) {
        switch (op->find) {
        case FIND_GPT:
            st->ms = st->search;
            st->me = st->ms + scan_gpt(op->gpt, st);
            rc = 1;
            break;
        case FIND_CLASS:
            rc = find_class(op, st->seg, st->search, &st->ms, &st->me);
            break;
        case FIND_WORDS:
            rc = find_words(st->seg, st->search, &st->ms, &st->me);
            break;
        case FIND_TRIPLES:
        case FIND_TRIPLE_STARTS:
            rc = find_triples(st, op->find == FIND_TRIPLE_STARTS);
            break;
        case FIND_SPACES_END:
            rc = find_spaces_end(st->seg, st->search, &st->ms, &st->me);
            break;
        case FIND_SCRIPT:
            rc = find_script(st->seg, st->search, &st->ms, &st->me);
            break;
        case FIND_LITERAL:
            rc = find_literal(op, st->seg, st->search, &st->ms, &st->me);
            break;
        case FIND_REGEX:
            rc = find_regex(r, op, st, e);
            break;
        }
    }
    if (rc < 0) return rc;
    st->have = true;
    if (rc == 0) {
        st->ms = st->me = st->search = st->seg.n;
        return 0;
    }
    st->found = true;
    st->search = st->me;
    uint32_t cp;
    if (st->me == st->ms && st->me < st->seg.n) st->search += utf8_next(st->seg.p + st->me, &cp);
    return 0;
}

/* ---- stages ----------------------------------------------------------------------------------------------- */

/* Next piece of a cutting stage: 1 and *piece, or 0 at the end of its segment. An empty match cuts, but is no piece. */
static int stage_cut(struct pre_run *r, const struct pre_op *op, struct pre_stage *st, struct str *piece, struct err *e)
{
    while (st->pos < st->seg.n) {
        if (!st->have) TRY(next_match(r, op, st, e));
        size_t from = st->pos, to = st->ms;
        bool gap = from < to; /* the text before the match comes first, except where the two belong together */
        bool keep = true;
        switch (op->behavior) {
        case PRE_ISOLATED:
        case PRE_REMOVED:
        case PRE_ONLY_MATCHES:
            if (!gap) to = st->me;
            keep = op->behavior == PRE_ISOLATED || gap == (op->behavior == PRE_REMOVED);
            st->have = gap;
            break;
        case PRE_CONTIGUOUS:
            if (gap) break;
            do {
                to = st->me;
                TRY(next_match(r, op, st, e));
            } while (st->ms == to && st->me > to);
            break;
        case PRE_WITH_PREVIOUS:
            to = st->me;
            st->have = false;
            break;
        case PRE_WITH_NEXT:
            if (gap) break;
            TRY(next_match(r, op, st, e));
            to = st->ms;
            break;
        }
        st->pos = to;
        if (to > from && keep) {
            *piece = (struct str){st->seg.p + from, to - from};
            return 1;
        }
    }
    return 0;
}

static int write_spaces(const struct pre_op *op, const struct pre_stage *st, struct str s, struct buf *out)
{
    struct str first = s.p[0] == ' ' && op->space.n ? op->space : s;
    if (op->prefix.n && !st->resumed && (st->first || !op->first_only) && !str_starts(first, op->prefix))
        TRY(buf_str(out, op->prefix));
    for (size_t i = 0; i < s.n;) {
        const char *hit = op->space.n ? memchr(s.p + i, ' ', s.n - i) : NULL;
        size_t end = hit ? (size_t)(hit - s.p) : s.n;
        TRY(buf_put(out, s.p + i, end - i));
        if (hit) TRY(buf_str(out, op->space));
        i = end + (hit ? 1 : 0);
    }
    return 0;
}

/* The one piece of a rewriting stage. */
static int stage_rewrite(const struct pre_op *op, struct pre_stage *st, struct str *piece, struct err *e)
{
    struct str s = st->seg;
    if (st->pos == s.n) return 0;
    st->pos = s.n;
    st->buf.n = 0;
    const int rc = op->bytes ? alphabet_put(&st->buf, s) : write_spaces(op, st, s, &st->buf);
    if (rc < 0) return fail_nomem(e, "rewritten text", s.n);
    *piece = buf_view(&st->buf);
    return 1;
}

static void stage_start(struct pre_stage *st, struct str seg, bool first, bool resumed)
{
    st->seg = seg;
    st->pos = st->search = 0;
    st->run_at = st->run_left = st->run_end = 0;
    st->have = st->found = false;
    st->first = first;
    st->resumed = resumed;
}

void pre_start(struct pre_run *r, struct str piece, bool first, bool resumed)
{
    r->at = 0;
    r->pending = true;
    stage_start(&r->st[0], piece, first, resumed);
}

int pre_next(struct pre_run *r, struct str *word, struct err *e)
{
    const struct tok *t = r->t;
    if (t->n_pre == 0) {
        bool one = r->pending && r->st[0].seg.n;
        *word = r->st[0].seg;
        r->pending = false;
        return one;
    }
    for (;;) {
        struct pre_stage *st = &r->st[r->at];
        const struct pre_op *op = &t->pre[r->at];
        bool start = st->pos == 0;
        struct str piece;
        int rc = op->rewrite ? stage_rewrite(op, st, &piece, e) : stage_cut(r, op, st, &piece, e);
        if (rc < 0) return rc;
        if (rc == 0) {
            if (r->at == 0) return 0;
            r->at--;
            if (r->st[r->at].piece.n) r->watch.done(r->watch.ctx, r->at, r->st[r->at].piece);
            continue;
        }
        if (r->at + 1 == t->n_pre) {
            *word = piece;
            return 1;
        }
        st->piece = (struct str){0};
        if (r->watch.known && r->at >= r->t->watched) {
            const int known = r->watch.known(r->watch.ctx, r->at, piece);
            if (known < 0) return known;
            if (known) continue;
            st->piece = piece;
        }
        r->at++;
        start = start && (op->rewrite || piece.p == st->seg.p);
        stage_start(&r->st[r->at], piece, st->first && start, st->resumed && start);
    }
}

/* ---- one encoding's share --------------------------------------------------------------------------------- */

void pre_run_init(struct pre_run *r, const struct tok *t, size_t text_bytes)
{
    *r = (struct pre_run){.t = t, .regex = {.text_bytes = text_bytes}};
}

void pre_run_fini(struct pre_run *r)
{
    for (unsigned i = 0; i < PRE_MAX; i++) buf_fini(&r->st[i].buf);
    regex_run_fini(&r->regex);
}
