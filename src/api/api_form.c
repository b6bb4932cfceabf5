/* api_form: quern.h's forms of answers. The tree of a model's vocabulary is made when the first form asks for it. */
#include "api/api_int.h"

struct api_vocab {
    struct monitor *lock; /* of tree */
    struct vocab *tree;   /* NULL: not made yet */
};

int api_vocab_new(struct api_vocab **out, struct err *e)
{
    *out = mem_zalloc(sizeof **out);
    return *out ? monitor_new(&(*out)->lock, e) : fail_nomem(e, "the vocabulary", sizeof **out);
}

void api_vocab_free(struct api_vocab **v)
{
    if (!*v) return;
    vocab_free(&(*v)->tree);
    monitor_free(&(*v)->lock);
    mem_free(*v);
    *v = NULL;
}

static bool kind_of(quern_form_kind kind, enum grammar_kind *out)
{
    static const enum grammar_kind kinds[] = {[QUERN_FORM_JSON] = GRAMMAR_JSON,
                                              [QUERN_FORM_SCHEMA] = GRAMMAR_SCHEMA,
                                              [QUERN_FORM_GBNF] = GRAMMAR_GBNF,
                                              [QUERN_FORM_REGEX] = GRAMMAR_REGEX,
                                              [QUERN_FORM_PARTS] = GRAMMAR_PARTS};
    if (kind <= QUERN_FORM_FREE || (size_t)kind >= COUNT_OF(kinds)) return false;
    *out = kinds[kind];
    return true;
}

static int check_form(const quern_form *form, enum grammar_kind *kind, struct err *e)
{
    if (!kind_of(form->kind, kind)) return fail(e, ERR_ARG, "there is no form of kind %d", (int)form->kind);
    if (!form->text && *kind != GRAMMAR_JSON) return fail(e, ERR_ARG, "the form has no text");
    return 0;
}

int api_form(const quern_model *m, const quern_form *form, struct constraint_options *out, struct err *e)
{
    struct constraint_options o = {.text = str_of(form->text), .after = str_of(form->after), .eog = m->eog, .n_eog = m->n_eog};
    *out = (struct constraint_options){0};
    if (form->kind == QUERN_FORM_FREE) return 0;
    TRY(check_form(form, &o.kind, e));
    o.n_vocab = m->model->hp.n_vocab;
    o.mark = form->mark ? tok_find(m->tok, str_of(form->mark)) : -1;
    o.marked = o.mark >= 0 && (uint32_t)o.mark < o.n_vocab && tok_is_special(m->tok, o.mark);
    int rc = 0;
    monitor_enter(m->vocab->lock);
    if (!m->vocab->tree) rc = vocab_new(m->tok, m->eog, m->n_eog, o.n_vocab, &m->vocab->tree, e);
    o.vocab = m->vocab->tree;
    monitor_leave(m->vocab->lock);
    if (rc == 0) *out = o;
    return rc;
}

int quern_form_check(const quern_form *form, quern_error *err)
{
    struct err e = {0};
    struct grammar *g = NULL;
    enum grammar_kind kind;
    if (form->kind == QUERN_FORM_FREE) return 0;
    int rc = check_form(form, &kind, &e);
    if (rc == 0) rc = grammar_compile(kind, str_of(form->text), &g, &e);
    grammar_free(&g);
    return rc < 0 ? api_fail(err, &e) : 0;
}
