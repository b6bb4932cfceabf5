/* parts: the marks around thinking, and where calls of tools begin. */
#include "parts.h"

#define OPEN STR("<think>")
#define CLOSE STR("</think>")

void parts_init(struct parts *p, bool tools, const struct tool_style *style, bool thinking)
{
    *p = (struct parts){.at = thinking ? PARTS_THINKING : PARTS_START, .tools = tools, .style = style, .blank = true};
}

void parts_fini(struct parts *p)
{
    buf_fini(&p->held);
}

static size_t count_space(struct str s)
{
    size_t n = 0;
    while (n < s.n && (s.p[n] == ' ' || s.p[n] == '\n' || s.p[n] == '\r' || s.p[n] == '\t')) n++;
    return n;
}

static void drop(struct parts *p, size_t n)
{
    if (n) memmove(p->held.p, p->held.p + n, p->held.n - n);
    p->held.n -= n;
}

static int give(struct parts *p, enum part part, size_t n, parts_out *out, void *user)
{
    const int rc = n ? out(user, part, (struct str){p->held.p, n}) : 0;
    if (part == PART_ANSWER && count_space((struct str){p->held.p, n}) < n) p->blank = false;
    drop(p, n);
    return rc;
}

/* The place of mark in s, or of its beginning at the end of s; s.n: neither. */
static size_t find_mark(struct str s, struct str mark)
{
    size_t i = 0;
    for (; i < s.n; i++) {
        const size_t n = size_min(mark.n, s.n - i);
        if (memcmp(s.p + i, mark.p, n) == 0) break;
    }
    return i;
}

/* Thinking is only what an answer begins with. False: more text is needed. */
static bool pass_start(struct parts *p)
{
    const struct str s = buf_view(&p->held);
    const size_t space = count_space(s), n = size_min(s.n - space, OPEN.n);
    const bool alike = memcmp(s.p + space, OPEN.p, n) == 0;
    if (alike && n < OPEN.n) return false;
    if (alike) drop(p, space + OPEN.n);
    p->at = alike ? PARTS_THINKING : PARTS_ANSWER;
    return true;
}

static int pass_thinking(struct parts *p, parts_out *out, void *user)
{
    const size_t at = find_mark(buf_view(&p->held), CLOSE);
    const bool closed = at + CLOSE.n <= p->held.n;
    const int rc = give(p, PART_THINKING, at, out, user);
    if (!closed) return rc;
    drop(p, CLOSE.n);
    p->at = PARTS_GAP;
    return rc;
}

static int pass_answer(struct parts *p, parts_out *out, void *user)
{
    bool sure = false;
    const size_t at = p->tools ? tool_calls_find(buf_view(&p->held), p->style, p->blank, &sure) : p->held.n;
    if (sure) p->at = PARTS_CALLS;
    return give(p, PART_ANSWER, at, out, user);
}

int parts_put(struct parts *p, struct str text, parts_out *out, void *user)
{
    int rc = buf_str(&p->held, text);
    if (rc < 0 || p->held.n == 0) return rc;
    if (p->at == PARTS_START && !pass_start(p)) return 0;
    if (p->at == PARTS_THINKING) rc = pass_thinking(p, out, user);
    if (rc == 0 && p->at == PARTS_GAP) { /* lines between thinking and answer belong to neither */
        drop(p, count_space(buf_view(&p->held)));
        if (p->held.n) p->at = PARTS_ANSWER;
    }
    if (rc == 0 && p->at == PARTS_ANSWER) rc = pass_answer(p, out, user);
    return rc;
}

int parts_end(struct parts *p, parts_out *out, void *user, struct str *calls)
{
    *calls = (struct str){0};
    if (p->at != PARTS_CALLS) return give(p, p->at == PARTS_THINKING ? PART_THINKING : PART_ANSWER, p->held.n, out, user);
    *calls = buf_view(&p->held);
    return 0;
}
