/* constrain: keeps an answer to a grammar. Where a text such as "</think>" has to come first, what stands before its end is
 * free, but for the end of the answer. A control token that marks what follows as calls of tools may be let through. */
#include "run/run.h"

static int open_free_part(struct constraint *c, const struct constraint_options *o, struct err *e)
{
    const uint32_t n_words = o->n_vocab / 64 + (o->n_vocab % 64 != 0);
    c->after = arena_dup(&c->arena, o->after.p, o->after.n);
    c->n_after = o->after.n;
    c->not_end = arena_array(&c->arena, n_words, sizeof *c->not_end);
    if (!c->after || !c->not_end) return fail_nomem(e, "a grammar", n_words * sizeof *c->not_end);
    memset(c->not_end, 0xFF, n_words * sizeof *c->not_end);
    for (size_t i = 0; i < o->n_eog; i++)
        if (o->eog[i] >= 0 && (uint32_t)o->eog[i] < o->n_vocab)
            c->not_end[o->eog[i] / 64] &= ~((uint64_t)1 << (o->eog[i] % 64));
    return buf_reserve(&c->tail, 4096) < 0 ? fail_nomem(e, "a grammar", 4096) : 0;
}

static int open_mark(struct constraint *c, const struct constraint_options *o, struct err *e)
{
    c->mark = o->mark;
    c->n_words = o->n_vocab / 64 + (o->n_vocab % 64 != 0);
    c->with_mark = arena_array(&c->arena, c->n_words, sizeof *c->with_mark);
    return c->with_mark ? 0 : fail_nomem(e, "a grammar", c->n_words * sizeof *c->with_mark);
}

int constraint_init(struct constraint *c, const struct constraint_options *o, const struct tok *t, struct err *e)
{
    *c = (struct constraint){.tok = t};
    if (!o->vocab) return 0;
    int rc = grammar_compile(o->kind, o->text, &c->grammar, e);
    if (rc == 0) rc = matcher_new(c->grammar, o->vocab, &c->matcher, e);
    if (rc == 0 && o->after.n) rc = open_free_part(c, o, e);
    if (rc == 0 && o->marked) rc = open_mark(c, o, e);
    if (rc < 0) constraint_fini(c);
    return rc;
}

void constraint_fini(struct constraint *c)
{
    matcher_free(&c->matcher);
    grammar_free(&c->grammar);
    buf_fini(&c->tail);
    arena_fini(&c->arena);
    *c = (struct constraint){0};
}

int constraint_mask(struct constraint *c, const uint64_t **allowed, struct err *e)
{
    *allowed = c->not_end;
    if (!c->matcher || c->n_after) return 0;
    TRY(matcher_mask(c->matcher, allowed, e));
    if (!c->with_mark) return 0;
    memcpy(c->with_mark, *allowed, c->n_words * sizeof *c->with_mark);
    c->with_mark[c->mark / 64] |= (uint64_t)1 << (c->mark % 64);
    *allowed = c->with_mark;
    return 0;
}

/* Text before the grammar; a control token stands for its name. */
static int put_free(struct constraint *c, int32_t id, struct err *e)
{
    const size_t most = c->n_after;
    if (tok_is_special(c->tok, id)) {
        if (buf_str(&c->tail, tok_entry(c->tok, id)) < 0) return fail_nomem(e, "text", c->tail.n);
    } else {
        TRY(tok_bytes(c->tok, id, &c->tail, e));
    }
    if (c->tail.n > most) {
        memmove(c->tail.p, c->tail.p + (c->tail.n - most), most);
        c->tail.n = most;
    }
    if (c->tail.n < most || memcmp(c->tail.p, c->after, most) != 0) return 0;
    c->n_after = 0;
    c->not_end = NULL;
    return 0;
}

int constraint_put(struct constraint *c, int32_t id, struct err *e)
{
    if (!c->matcher) return 0;
    if (c->n_after) return put_free(c, id, e);
    const bool mark = c->with_mark && id == c->mark;
    c->with_mark = NULL;
    return mark ? 0 : matcher_accept(c->matcher, id, e);
}

bool constraint_done(const struct constraint *c)
{
    return c->matcher && !c->n_after && matcher_must_end(c->matcher);
}
