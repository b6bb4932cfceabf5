/* api_fit: conversations that are made to fit a context by leaving out their oldest turns. */
#include "api/api_int.h"

/* The messages [n] of a conversation, and where turns begin: at each message of the user. */
struct turns {
    struct arena arena;
    const struct json *messages;
    size_t *starts; /* [n] */
    size_t n;
};

static bool has_role(const struct json *message, const char *role)
{
    struct str s = {0};
    return json_opt_str(message, "role", &s) && str_is(s, role);
}

static int read_turns(const char *messages_json, struct turns *t, struct err *e)
{
    struct json *j;
    TRY(json_parse(&t->arena, str_of(messages_json), "messages", &j, e));
    if (j->type != JSON_ARRAY) return fail(e, ERR_ARG, "messages: expected an array");
    t->messages = j;
    t->starts = arena_array(&t->arena, j->n + 1, sizeof *t->starts);
    if (!t->starts) return fail_nomem(e, "messages", j->n * sizeof *t->starts);
    for (size_t i = 0; i < j->n; i++)
        if (has_role(&j->v[i], "user")) t->starts[t->n++] = i;
    return 0;
}

/* Whether message i stays when the first n turns go: what the system says always does. */
static bool stays(const struct turns *t, size_t i, size_t n)
{
    const struct json *m = &t->messages->v[i];
    return n == 0 || i < t->starts[0] || i >= t->starts[n] || has_role(m, "system") || has_role(m, "developer");
}

/* The conversation without its first n turns, with a NUL; returns how many messages are missing, or an error. */
static int write_without(const struct turns *t, size_t n, struct buf *out)
{
    int missing = 0, rc = 0;
    out->n = 0;
    for (size_t i = 0; i < t->messages->n; i++) {
        if (!stays(t, i, n)) {
            missing++;
            continue;
        }
        rc |= buf_c(out, out->n ? ',' : '[');
        rc |= json_write(out, &t->messages->v[i]);
    }
    rc |= buf_z(out, out->n ? "]" : "[]");
    rc |= buf_c(out, '\0');
    return rc < 0 ? ERR_NOMEM : missing;
}

/* Tokens of the conversation without its first n turns, which then is in out. */
static int count_without(const quern_model *m, const struct turns *t, size_t n, const quern_render_options *o, struct buf *out,
                         size_t *tokens, struct err *e)
{
    struct buf text = {0};
    struct ids ids = {0};
    int rc = write_without(t, n, out) < 0 ? fail_nomem(e, "a conversation", out->cap) : 0;
    if (rc == 0) rc = api_render(m, out->p, o, &text, e);
    if (rc == 0) rc = tok_encode(m->tok, buf_view(&text), TOK_PARSE_SPECIAL, &ids, e);
    *tokens = ids.n;
    buf_fini(&text);
    ids_fini(&ids);
    return rc;
}

/* The fewest turns to leave out: more of them make it shorter, so the number is found by halving. */
static int find_fit(const quern_model *m, const struct turns *t, const quern_render_options *o, size_t n_max, struct buf *out,
                    struct api_fit *fit, struct err *e)
{
    size_t tokens, low = 0, high = t->n ? t->n - 1 : 0; /* the last turn stays */
    TRY(count_without(m, t, 0, o, out, &tokens, e));
    const size_t all = tokens;
    if (all > n_max) {
        TRY(count_without(m, t, high, o, out, &tokens, e));
        if (tokens > n_max)
            return fail(e, ERR_CONTEXT,
                        "the last turn of the conversation has %zu tokens with what the system says, of %zu in all; there is "
                        "room for %zu",
                        tokens, all, n_max);
        while (high - low > 1) { /* low does not fit, high does */
            const size_t middle = low + (high - low) / 2;
            TRY(count_without(m, t, middle, o, out, &tokens, e));
            *(tokens > n_max ? &low : &high) = middle;
        }
        TRY(count_without(m, t, high, o, out, &tokens, e));
    }
    const int missing = write_without(t, all > n_max ? high : 0, out);
    if (missing < 0) return fail_nomem(e, "a conversation", out->cap);
    *fit = (struct api_fit){.messages = (uint32_t)missing, .tokens = (uint32_t)(all - tokens)};
    return 0;
}

int api_fit_messages(const quern_model *m, const char *messages_json, const quern_render_options *o, size_t n_max,
                     struct buf *out, struct api_fit *fit, struct err *e)
{
    struct turns t = {0};
    int rc = read_turns(messages_json, &t, e);
    if (rc == 0) rc = find_fit(m, &t, o, n_max, out, fit, e);
    arena_fini(&t.arena);
    return rc;
}

int quern_fit_messages(const quern_model *model, const char *messages_json, const quern_render_options *options, size_t n_max,
                       quern_string *out, uint32_t *dropped_messages, uint32_t *dropped_tokens, quern_error *err)
{
    static const quern_render_options none;
    struct err e = {0};
    struct buf b = {0};
    struct api_fit fit = {0};
    int rc = api_fit_messages(model, messages_json, options ? options : &none, n_max, &b, &fit, &e);
    if (rc == 0) b.n--; /* the NUL is added again */
    if (rc == 0) rc = api_give_string(&b, out, &e);
    buf_fini(&b);
    if (dropped_messages) *dropped_messages = fit.messages;
    if (dropped_tokens) *dropped_tokens = fit.tokens;
    return rc < 0 ? api_fail(err, &e) : 0;
}

bool quern_context_policy_named(const char *name, quern_context_policy *out)
{
    static const char *const names[] = {
        [QUERN_CONTEXT_ERROR] = "error",
        [QUERN_CONTEXT_DROP_OLDEST_TURN] = "drop-oldest-turn",
        [QUERN_CONTEXT_SHIFT] = "shift",
    };
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *out = (quern_context_policy)i;
        return true;
    }
    return false;
}
