/* ask_sampling: how the tokens of an answer are drawn, by the names of all dialects. What would draw others and is not there is
 * an error, and so is an order of the steps that is not theirs. */
#include "serve.h"

/* ---- steps of other samplers ------------------------------------------------------------------------------------------- */

/* The steps in their order, which is llama-server's; those without one here are off, or the request is refused. */
static const struct {
    const char *name, *other; /* as llama-server calls it, and clients of older ones */
    char letter;
} steps[] = {
    {"penalties", "penalties", 'e'}, {"dry", "dry", 'd'},         {"top_n_sigma", "top_n_sigma", 's'},
    {"top_k", "top-k", 'k'},         {"typ_p", "typical_p", 'y'}, {"top_p", "top-p", 'p'},
    {"min_p", "min-p", 'm'},         {"xtc", "xtc", 'x'},         {"temperature", "temp", 't'},
};
enum { PENALTIES, TOP_K = 3, TOP_P = 5, MIN_P, TEMPERATURE = 8, STEPS };
_Static_assert(COUNT_OF(steps) == STEPS, "steps");

static bool refuse_steps(struct call *c, const struct json *obj, int *answer)
{
    static const struct {
        const char *key;
        double off;
    } others[] = {{"mirostat", 0},       {"dry_multiplier", 0}, {"xtc_probability", 0}, {"typical_p", 1},
                  {"dynatemp_range", 0}, {"top_n_sigma", 0},    {"tfs_z", 1},           {"n_indent", 0}};
    for (size_t i = 0; i < COUNT_OF(others); i++) {
        const struct json *j = json_find(obj, others[i].key);
        const bool number = j && (j->type == JSON_INT || j->type == JSON_REAL);
        if (!j || j->type == JSON_NULL || (number && (j->f == others[i].off || j->f < 0))) continue;
        *answer = serve_error(c, 400, "\"%s\" is not supported; leave it out, or off (%g)", others[i].key, others[i].off);
        return false;
    }
    return true;
}

static bool find_step(struct str name, size_t *out)
{
    for (*out = 0; *out < STEPS; ++*out)
        if (str_is(name, steps[*out].name) || str_is(name, steps[*out].other)) return true;
    return false;
}

static bool find_letter(char letter, size_t *out)
{
    for (*out = 0; *out < STEPS; ++*out)
        if (steps[*out].letter == letter) return true;
    return false;
}

/* "samplers": those that are not in the list are off. */
static bool ask_steps(struct call *c, const struct json *obj, quern_sampling *s, int *answer)
{
    const struct json *j = json_find(obj, "samplers");
    bool on[STEPS] = {false}, ok = true;
    if (!j || j->type == JSON_NULL) return true;
    const size_t n = j->type == JSON_STRING ? j->s.n : j->n;
    ok = j->type == JSON_STRING || j->type == JSON_ARRAY;
    for (size_t i = 0, step = 0, last = 0; ok && i < n; i++, last = step) {
        ok =
            j->type == JSON_STRING ? find_letter(j->s.p[i], &step) : j->v[i].type == JSON_STRING && find_step(j->v[i].s, &step);
        ok = ok && step >= last;
        if (ok) on[step] = true;
    }
    if (!ok) {
        *answer =
            serve_error(c, 400, "\"samplers\" must be some of penalties, top_k, top_p, min_p, temperature, in this order");
        return false;
    }
    if (!on[PENALTIES]) s->repeat_penalty = 1, s->presence_penalty = s->frequency_penalty = 0;
    if (!on[TOP_K]) s->top_k = 0;
    if (!on[TOP_P]) s->top_p = 1;
    if (!on[MIN_P]) s->min_p = 0;
    if (!on[TEMPERATURE]) s->temperature = 1;
    return true;
}

/* ---- bias -------------------------------------------------------------------------------------------------------------- */

/* Numbers from -100, which bans as false does, to 100. */
static bool read_bias(const struct json *v, float *out)
{
    const bool number = v->type == JSON_INT || v->type == JSON_REAL;
    *out = v->type == JSON_FALSE || (number && v->f <= -100) ? -INFINITY : (float)v->f;
    return v->type == JSON_FALSE || (number && v->f >= -100 && v->f <= 100);
}

/* Appends the biases of a token by its number, or of all tokens of a text. */
static bool add_bias(struct call *c, const struct json *id, struct str text, const struct json *v, struct buf *all)
{
    quern_tokens tokens = {0};
    quern_logit_bias bias = {.id = id ? (int32_t)id->i : 0};
    uint64_t number;
    if (!read_bias(v, &bias.bias)) return false;
    if (!id && str_u64(text, &number)) {
        if (number >= c->server->info.n_vocab) return false;
        bias.id = (int32_t)number;
    } else if (!id) {
        if (quern_tokenize(c->server->model, text.p, text.n, 0, &tokens, NULL) < 0) return false;
    } else if (id->type != JSON_INT || id->i < 0 || id->i >= c->server->info.n_vocab) {
        return false;
    }
    int rc = tokens.ids ? 0 : buf_put(all, &bias, sizeof bias);
    for (size_t i = 0; i < tokens.count; i++) {
        bias.id = tokens.ids[i];
        rc |= buf_put(all, &bias, sizeof bias);
    }
    quern_tokens_free(&tokens);
    return rc == 0;
}

/* OpenAI's object, whose names are ids, or with llama-server also texts; or its array of pairs. */
static bool ask_bias(struct call *c, const struct json *obj, struct asked *out, int *answer)
{
    const struct json *j = json_find(obj, "logit_bias");
    struct buf all = {0};
    if (!j || j->type == JSON_NULL) return true;
    bool ok = j->type == JSON_OBJECT || j->type == JSON_ARRAY;
    for (size_t i = 0; ok && i < j->n && all.n / sizeof *out->bias <= c->server->info.n_vocab; i++) {
        const struct json *pair = &j->v[i];
        if (j->type == JSON_OBJECT) {
            ok = add_bias(c, NULL, j->keys[i], pair, &all);
        } else {
            ok = pair->type == JSON_ARRAY && pair->n == 2;
            const bool text = ok && pair->v[0].type == JSON_STRING;
            ok = ok && add_bias(c, text ? NULL : &pair->v[0], text ? pair->v[0].s : STR(""), &pair->v[1], &all);
        }
    }
    out->n_bias = all.n / sizeof *out->bias;
    const bool many = out->n_bias > c->server->info.n_vocab; /* each is added for each token drawn */
    out->bias = ok && !many && all.n ? arena_array(&c->arena, out->n_bias, sizeof *out->bias) : NULL;
    if (out->bias) memcpy(out->bias, all.p, all.n);
    if (!ok)
        *answer =
            serve_error(c, 400,
                        "\"logit_bias\" must be an object {\"TOKEN\": BIAS} or an array of [TOKEN, BIAS]: ids or texts with "
                        "numbers from -100 to 100, or false");
    else if (many)
        *answer = serve_error(c, 400, "\"logit_bias\" is of more tokens than there are; at most %u", c->server->info.n_vocab);
    else if (all.n && !out->bias)
        *answer = serve_error(c, 500, "out of memory");
    ok = ok && (!all.n || out->bias);
    buf_fini(&all);
    return ok;
}

/* ---- all of it --------------------------------------------------------------------------------------------------------- */

static bool ask_speculation(struct call *c, const struct json *obj, struct asked *out, int *answer)
{
    double most = -1, least = 0;
    if (!ask_integer(c, obj, "speculative.n_max", 0, 64, &most, answer)) return false;
    if (!ask_integer(c, obj, "speculative.n_min", 0, 64, &least, answer)) return false;
    if (most == 0) out->speculate = QUERN_SPECULATE_OFF;
    if (most > 0) out->draft_max = (uint32_t)most;
    out->draft_min = (uint32_t)least;
    return true;
}

static bool ask_floats(struct call *c, const struct json *obj, quern_sampling *s, int *answer)
{
    static const struct {
        const char *key;
        size_t at;
        double min, max;
    } floats[] = {
        {"temperature", offsetof(quern_sampling, temperature), 0, 100},
        {"top_p", offsetof(quern_sampling, top_p), 0, 1},
        {"min_p", offsetof(quern_sampling, min_p), 0, 1},
        {"repeat_penalty", offsetof(quern_sampling, repeat_penalty), 0.001, 1000},
        {"repetition_penalty", offsetof(quern_sampling, repeat_penalty), 0.001, 1000},
        {"presence_penalty", offsetof(quern_sampling, presence_penalty), -100, 100},
        {"frequency_penalty", offsetof(quern_sampling, frequency_penalty), -100, 100},
    };
    for (size_t i = 0; i < COUNT_OF(floats); i++) {
        double v = NAN;
        if (!ask_number(c, obj, floats[i].key, floats[i].min, floats[i].max, &v, answer)) return false;
        if (!isnan(v)) *(float *)(void *)((uint8_t *)s + floats[i].at) = (float)v;
    }
    return true;
}

bool ask_sampling(struct call *c, const struct json *obj, struct asked *out, int *answer)
{
    quern_sampling *s = &out->sampling;
    *s = quern_sampling_of(c->server->model);
    double top_k = s->top_k, last_n = s->penalty_last_n, min_keep = 0, seed = -1;
    if (!refuse_steps(c, obj, answer) || !ask_floats(c, obj, s, answer) ||
        !ask_integer(c, obj, "top_k", -1, INT32_MAX, &top_k, answer) ||
        !ask_integer(c, obj, "repeat_last_n", -1, INT32_MAX, &last_n, answer) ||
        !ask_integer(c, obj, "min_keep", 0, INT32_MAX, &min_keep, answer) ||
        !ask_integer(c, obj, "seed", -1, 9007199254740992.0, &seed, answer))
        return false;
    s->top_k = top_k < 0 ? 0 : (int32_t)top_k;                    /* -1: off */
    s->penalty_last_n = last_n < 0 ? INT32_MAX : (int32_t)last_n; /* -1: all */
    s->min_keep = (uint32_t)min_keep;
    s->seed = seed >= 0 ? (uint64_t)seed : clock_ns() * 0x9e3779b97f4a7c15u;
    return ask_steps(c, obj, s, answer) && ask_bias(c, obj, out, answer) && ask_speculation(c, obj, out, answer);
}
