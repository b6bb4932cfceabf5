/* completion: /completion of llama-server. Streams are server-sent events. */
#include "serve.h"

static const char *stop_type(const quern_request_result *r)
{
    switch (r->result.stop) {
    case QUERN_STOP_EOS:
        return "eos";
    case QUERN_STOP_STRING:
        return "word";
    default:
        return "limit";
    }
}

/* ,"completion_probabilities":[..] with what is new, where it was asked for. */
static int put_probs(struct choice *x, struct buf *b)
{
    if (!x->job->logprobs) return 0;
    const int rc = buf_z(b, ",\"completion_probabilities\":");
    return rc | serve_new_probs(x, b);
}

static int token(struct choice *x, struct buf *b, enum part part, struct str text)
{
    (void)part; /* all is answer: the prompt is raw */
    int rc = buf_z(b, "data: {\"index\":0,\"content\":");
    rc |= json_write_string(b, text);
    rc |= put_probs(x, b);
    return rc | buf_z(b, ",\"stop\":false}\n\n");
}

/* ,"WHAT_n":..,"WHAT_ms":..,"WHAT_per_second":.. */
static int put_speed(struct buf *b, const char *what, uint32_t n, double seconds)
{
    return buf_printf(b, ",\"%s_n\":%u,\"%s_ms\":%.3f,\"%s_per_second\":%.3f", what, n, what, seconds * 1e3, what,
                      seconds > 0 ? n / seconds : 0);
}

int native_timings(struct buf *b, const quern_result *x)
{
    int rc = buf_printf(b, ",\"timings\":{\"cache_n\":%u", x->n_reused);
    rc |= put_speed(b, "prompt", x->n_prompt - x->n_reused, x->prefill_seconds);
    rc |= put_speed(b, "predicted", x->n_generated, x->decode_seconds);
    if (x->n_drafted) rc |= buf_printf(b, ",\"draft_n\":%u,\"draft_n_accepted\":%u", x->n_drafted, x->n_accepted);
    return rc | buf_c(b, '}');
}

static int put_end(struct choice *x, struct buf *b, struct str text)
{
    const quern_result *r = &x->r.result;
    int rc = buf_z(b, "{\"index\":0,\"content\":");
    rc |= json_write_string(b, text);
    rc |= buf_z(b, ",\"stop\":true,\"model\":");
    rc |= json_write_string(b, str_of(x->job->call->server->name));
    rc |= buf_printf(b,
                     ",\"stop_type\":\"%s\",\"truncated\":%s,\"tokens_predicted\":%u,\"tokens_evaluated\":%u,"
                     "\"tokens_cached\":%u",
                     stop_type(&x->r), r->dropped_tokens ? "true" : "false", r->n_generated, r->n_prompt, r->n_reused);
    rc |= put_probs(x, b);
    rc |= native_timings(b, r);
    return rc | buf_c(b, '}');
}

static int end(struct choice *x, struct buf *b)
{
    int rc = buf_z(b, "data: ");
    rc |= put_end(x, b, STR(""));
    return rc | buf_z(b, "\n\n");
}

static int whole(struct job *j, struct buf *b)
{
    return put_end(&j->choices[0], b, buf_view(&j->choices[0].text));
}

static int fail_stream(struct buf *b, unsigned status, const char *message)
{
    int rc = buf_z(b, "data: ");
    rc |= openai_error(b, status, message);
    return rc | buf_z(b, "\n\n");
}

static const struct dialect dialect = {"text/event-stream", token, end, NULL, whole, openai_error, fail_stream};

/* What would change the answer, and is not there. */
static bool refuse_unsupported(struct call *c, const struct json *j, int *answer)
{
    double n = 1;
    bool post = false;
    if (!ask_integer(c, j, "n_cmpl", 1, INT32_MAX, &n, answer) || !ask_bool(c, j, "post_sampling_probs", &post, answer))
        return false;
    const char *what = n > 1  ? "\"n_cmpl\": several answers to a prompt are given by /v1/completions, with \"n\""
                       : post ? "\"post_sampling_probs\": probabilities are those before the options of sampling"
                              : NULL;
    if (what) *answer = serve_error(c, 400, "%s", what);
    return !what;
}

int native_completion(struct call *c)
{
    struct asked asked = {0};
    bool stream = false;
    double n_predict = -1, n_probs = 0;
    int answer = 0;
    const struct json *j = c->json;
    if (!ask_bool(c, j, "stream", &stream, &answer) || !ask_integer(c, j, "n_predict", -1, INT32_MAX, &n_predict, &answer) ||
        !ask_integer(c, j, "n_probs", 0, 20, &n_probs, &answer) || !refuse_unsupported(c, j, &answer) ||
        !ask_bool(c, j, "ignore_eos", &asked.ignore_eos, &answer) || !ask_stop(c, j, "stop", &asked, &answer) ||
        !ask_sampling(c, j, &asked, &answer) || !ask_context(c, j, &asked, &answer) || !ask_form(c, j, &asked, &answer) ||
        !ask_loras(c, j, &asked, &answer))
        return answer;
    if (n_predict > 0) asked.max_tokens = (uint32_t)n_predict;
    asked.prompt_only = n_predict == 0;
    struct job *job = serve_new_job(c, &dialect, stream, 1, 1);
    if (!job) return serve_error(c, 500, "out of memory");
    job->logprobs = n_probs > 0;
    job->n_top = (uint32_t)n_probs;
    return ask_prompts(c, "prompt", json_find(j, "prompt"), &asked, &answer) ? serve_job(c, job, &asked) : answer;
}
