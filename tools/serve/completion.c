/* completion: /completion of llama-server. Streams are server-sent events. */
#include "serve.h"

/* ---- what answers say -------------------------------------------------------------------------------------------------- */

/* ,"stop_type":..,"stopping_word":.. */
static int put_stop(const struct choice *x, struct buf *b)
{
    const quern_result *r = &x->r.result;
    const bool word = r->stop == QUERN_STOP_STRING;
    const char *type = word ? "word" : r->stop == QUERN_STOP_EOS ? "eos" : "limit";
    int rc = buf_printf(b, ",\"stop_type\":\"%s\",\"stopping_word\":", type);
    return rc | json_write_string(b, word ? str_of(x->job->asked.stop[r->stop_index]) : STR(""));
}

/* ,"completion_probabilities":[..] with what is new, where it was asked for. */
static int put_probs(struct choice *x, struct buf *b)
{
    if (!x->job->logprobs) return 0;
    const int rc = buf_z(b, ",\"completion_probabilities\":");
    return rc | serve_new_probs(x, b);
}

/* ,"tokens":[..] with those that are new; none where they were not asked for. */
static int put_tokens(struct choice *x, struct buf *b)
{
    int rc = buf_z(b, ",\"tokens\":[");
    for (size_t i = 0; i < x->ids.n; i += sizeof(int32_t)) {
        int32_t id;
        memcpy(&id, x->ids.p + i, sizeof id);
        rc |= buf_printf(b, i ? ",%d" : "%d", id);
    }
    x->ids.n = 0;
    return rc | buf_c(b, ']');
}

/* ,"WHAT_n":..,"WHAT_ms":..,"WHAT_per_token_ms":..,"WHAT_per_second":.. */
static int put_speed(struct buf *b, const char *what, uint32_t n, double seconds)
{
    const double ms = seconds * 1e3;
    int rc = buf_printf(b, ",\"%s_n\":%u,\"%s_ms\":%.3f,\"%s_per_token_ms\":%.3f", what, n, what, ms, what, n ? ms / n : 0);
    return rc | buf_printf(b, ",\"%s_per_second\":%.3f", what, seconds > 0 ? n / seconds : 0);
}

int native_timings(struct buf *b, const quern_result *x)
{
    int rc = buf_printf(b, ",\"timings\":{\"cache_n\":%u", x->n_reused);
    rc |= put_speed(b, "prompt", x->n_prompt - x->n_reused, x->prefill_seconds);
    rc |= put_speed(b, "predicted", x->n_generated, x->decode_seconds);
    if (x->n_drafted) rc |= buf_printf(b, ",\"draft_n\":%u,\"draft_n_accepted\":%u", x->n_drafted, x->n_accepted);
    return rc | buf_c(b, '}');
}

static const struct prompt *prompt_of(const struct choice *x)
{
    return &x->job->prompts[x->index / x->job->n_each];
}

static int put_head(struct choice *x, struct buf *b, struct str text, bool stop)
{
    int rc = buf_printf(b, "{\"index\":%u,\"content\":", x->index);
    rc |= json_write_string(b, text);
    rc |= put_tokens(x, b);
    return rc | buf_printf(b, ",\"id_slot\":-1,\"stop\":%s", stop ? "true" : "false");
}

static int token(struct choice *x, struct buf *b, enum part part, struct str text)
{
    (void)part; /* all is answer: the prompt is raw */
    int rc = buf_z(b, "data: ");
    rc |= put_head(x, b, text, false);
    rc |= buf_printf(b, ",\"tokens_predicted\":%u,\"tokens_evaluated\":%u", x->so_far.n_generated, prompt_of(x)->n_tokens);
    rc |= put_probs(x, b);
    if (x->job->timings) rc |= native_timings(b, &x->so_far);
    return rc | buf_z(b, "}\n\n");
}

static int put_all(struct choice *x, struct buf *b, struct str text)
{
    const struct job *j = x->job;
    const quern_result *r = &x->r.result;
    const bool lines = x->text.n && memchr(x->text.p, '\n', x->text.n);
    int rc = put_head(x, b, text, true);
    rc |= buf_z(b, ",\"model\":");
    rc |= json_write_string(b, str_of(j->call->server->name));
    rc |= buf_printf(b, ",\"tokens_predicted\":%u,\"tokens_evaluated\":%u,\"tokens_cached\":%u", r->n_generated, r->n_prompt,
                     r->n_reused);
    rc |= buf_z(b, ",\"generation_settings\":");
    rc |= native_settings(b, &j->asked, x);
    rc |= buf_z(b, ",\"prompt\":");
    rc |= json_write_string(b, prompt_of(x)->text);
    rc |=
        buf_printf(b, ",\"has_new_line\":%s,\"truncated\":%s", lines ? "true" : "false", r->dropped_tokens ? "true" : "false");
    rc |= put_stop(x, b);
    rc |= put_probs(x, b);
    rc |= native_timings(b, r);
    return rc | buf_c(b, '}');
}

/* ---- fields that are wanted -------------------------------------------------------------------------------------------- */

/* The member that a path such as generation_settings/seed leads to; *name: its last part. NULL: there is none. */
static const struct json *find_field(const struct json *all, struct str path, struct str *name)
{
    const struct json *j = all;
    for (size_t at = 0; j && at <= path.n; at += name->n + 1) {
        *name = (struct str){path.p + at, 0};
        while (at + name->n < path.n && name->p[name->n] != '/') name->n++;
        j = json_find_str(j, *name);
    }
    return j;
}

#define MAX_FIELDS 64 /* that are wanted: each may be as long as the answer */

/* Whether a field behind i has its name; of those the last is told. */
static bool comes_again(const struct json *fields, size_t i, const struct json *all, struct str name)
{
    struct str other;
    while (++i < fields->n)
        if (find_field(all, fields->v[i].s, &other) && str_eq(other, name)) return true;
    return false;
}

/* Of the answer, an object, those fields that the request asks for, next to each other. */
static int put_fields(const struct json *fields, struct str answer, struct buf *b)
{
    struct arena a = {0};
    struct json *all;
    struct err e;
    size_t n = 0;
    int rc = json_parse(&a, answer, "the answer", &all, &e) < 0 ? ERR_NOMEM : buf_c(b, '{');
    for (size_t i = 0; rc == 0 && i < fields->n; i++) {
        struct str name;
        const struct json *j = find_field(all, fields->v[i].s, &name);
        if (!j || comes_again(fields, i, all, name)) continue;
        rc |= n++ ? buf_c(b, ',') : 0;
        rc |= json_write_string(b, name);
        rc |= buf_c(b, ':');
        rc |= json_write(b, j);
    }
    arena_fini(&a);
    return rc | buf_c(b, '}');
}

static int put_end(struct choice *x, struct buf *b, struct str text)
{
    struct buf all = {0};
    if (!x->job->fields) return put_all(x, b, text);
    int rc = put_all(x, &all, text);
    if (rc == 0) rc = put_fields(x->job->fields, buf_view(&all), b);
    buf_fini(&all);
    return rc;
}

static int end(struct choice *x, struct buf *b)
{
    int rc = buf_z(b, "data: ");
    rc |= put_end(x, b, STR(""));
    return rc | buf_z(b, "\n\n");
}

/* Several answers are an array. */
static int whole(struct job *j, struct buf *b)
{
    const bool several = j->n_choices > 1;
    int rc = several ? buf_c(b, '[') : 0;
    for (uint32_t i = 0; i < j->n_choices; i++) {
        if (i) rc |= buf_c(b, ',');
        rc |= put_end(&j->choices[i], b, buf_view(&j->choices[i].text));
    }
    return rc | (several ? buf_c(b, ']') : 0);
}

static int fail_stream(struct buf *b, unsigned status, const char *message)
{
    int rc = buf_z(b, "data: ");
    rc |= openai_error(b, status, message);
    return rc | buf_z(b, "\n\n");
}

static const struct dialect dialect = {"text/event-stream", token, end, NULL, whole, openai_error, fail_stream};

/* ---- requests ---------------------------------------------------------------------------------------------------------- */

static bool ask_fields(struct call *c, const struct json **out, int *answer)
{
    const struct json *j = json_find(c->json, "response_fields");
    bool ok = !j || j->type == JSON_NULL || (j->type == JSON_ARRAY && j->n <= MAX_FIELDS);
    for (size_t i = 0; ok && j && i < j->n; i++) ok = j->v[i].type == JSON_STRING;
    *out = ok && j && j->n ? j : NULL;
    if (!ok) *answer = serve_error(c, 400, "\"response_fields\" must be an array of at most %d names", MAX_FIELDS);
    return ok;
}

/* What would change the answer, and is not there. */
static bool refuse_unsupported(struct call *c, const struct json *j, int *answer)
{
    bool post = false;
    if (!ask_bool(c, j, "post_sampling_probs", &post, answer)) return false;
    if (post) *answer = serve_error(c, 400, "\"post_sampling_probs\": probabilities are those before the options of sampling");
    return !post;
}

/* What is told of the answers. */
static bool ask_told(struct call *c, struct job *job, int *answer)
{
    double n_probs = 0, limit_ms = 0;
    const struct json *j = c->json;
    if (!ask_integer(c, j, "n_probs", 0, 20, &n_probs, answer) || !refuse_unsupported(c, j, answer) ||
        !ask_bool(c, j, "return_tokens", &job->ids, answer) || !ask_bool(c, j, "timings_per_token", &job->timings, answer) ||
        !ask_number(c, j, "t_max_predict_ms", -1, 1e12, &limit_ms, answer) || !ask_fields(c, &job->fields, answer))
        return false;
    job->tell = true;
    job->ids = job->ids || job->stream;
    job->logprobs = n_probs > 0;
    job->n_top = (uint32_t)n_probs;
    if (limit_ms > 0) job->limit_ns = (uint64_t)(limit_ms * 1e6);
    return true;
}

int native_completion(struct call *c)
{
    struct asked asked = {0};
    bool stream = false;
    double n_predict = -1, n = 1;
    int answer = 0;
    const struct json *j = c->json, *prompt = json_find(j, "prompt");
    const uint32_t n_prompts = ask_prompt_count(prompt);
    if (!ask_bool(c, j, "stream", &stream, &answer) || !ask_integer(c, j, "max_tokens", -1, INT32_MAX, &n_predict, &answer) ||
        !ask_integer(c, j, "n_predict", -1, INT32_MAX, &n_predict, &answer) ||
        !ask_choices(c, j, "n_cmpl", n_prompts, &n, &answer) || !ask_bool(c, j, "ignore_eos", &asked.ignore_eos, &answer) ||
        !ask_stop(c, j, "stop", &asked, &answer) || !ask_sampling(c, j, &asked, &answer) ||
        !ask_context(c, j, &asked, &answer) || !ask_form(c, j, &asked, &answer) || !ask_loras(c, j, &asked, &answer))
        return answer;
    if (n_predict > 0) asked.max_tokens = (uint32_t)n_predict;
    asked.prompt_only = n_predict == 0;
    struct job *job = serve_new_job(c, &dialect, stream, n_prompts, (uint32_t)n);
    if (!job) return serve_error(c, 500, "out of memory");
    const bool ok = ask_told(c, job, &answer) && ask_prompts(c, "prompt", prompt, &asked, &answer);
    return ok ? serve_job(c, job, &asked) : answer;
}
