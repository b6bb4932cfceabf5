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

static int token(struct job *j, struct buf *b, enum part part, struct str text)
{
    (void)part; /* all is answer: the prompt is raw */
    j->n_chunks++;
    int rc = buf_z(b, "data: {\"index\":0,\"content\":");
    rc |= json_write_string(b, text);
    return rc | buf_z(b, ",\"stop\":false}\n\n");
}

int native_timings(struct buf *b, const quern_result *x)
{
    int rc = buf_printf(
        b, ",\"timings\":{\"cache_n\":%u,\"prompt_n\":%u,\"prompt_ms\":%.3f,\"predicted_n\":%u,\"predicted_ms\":%.3f",
        x->n_reused, x->n_prompt - x->n_reused, x->prefill_seconds * 1e3, x->n_generated, x->decode_seconds * 1e3);
    if (x->n_drafted) rc |= buf_printf(b, ",\"draft_n\":%u,\"draft_n_accepted\":%u", x->n_drafted, x->n_accepted);
    return rc | buf_c(b, '}');
}

static int put_end(struct job *j, struct buf *b, const quern_request_result *r, struct str text)
{
    const quern_result *x = &r->result;
    int rc = buf_z(b, "{\"index\":0,\"content\":");
    rc |= json_write_string(b, text);
    rc |= buf_z(b, ",\"stop\":true,\"model\":");
    rc |= json_write_string(b, str_of(j->call->server->name));
    rc |= buf_printf(b,
                     ",\"stop_type\":\"%s\",\"truncated\":%s,\"tokens_predicted\":%u,\"tokens_evaluated\":%u,"
                     "\"tokens_cached\":%u",
                     stop_type(r), x->dropped_tokens ? "true" : "false", x->n_generated, x->n_prompt, x->n_reused);
    rc |= native_timings(b, x);
    return rc | buf_c(b, '}');
}

static int end(struct job *j, struct buf *b, const quern_request_result *r)
{
    if (r->error && j->n_chunks == 0) return openai_error(b, j->status, r->message);
    int rc = buf_z(b, "data: ");
    rc |= r->error ? openai_error(b, 500, r->message) : put_end(j, b, r, STR(""));
    return rc | buf_z(b, "\n\n");
}

static int whole(struct job *j, struct buf *b, const quern_request_result *r)
{
    return r->error ? openai_error(b, j->status, r->message) : put_end(j, b, r, buf_view(&j->text));
}

static const struct dialect dialect = {"text/event-stream", token, end, whole};

int native_completion(struct call *c)
{
    struct asked asked = {0};
    bool stream = false;
    double n_predict = -1;
    int answer = 0;
    const struct json *j = c->json;
    if (!ask_bool(c, j, "stream", &stream, &answer) || !ask_integer(c, j, "n_predict", -1, INT32_MAX, &n_predict, &answer) ||
        !ask_bool(c, j, "ignore_eos", &asked.ignore_eos, &answer) || !ask_stop(c, j, "stop", &asked, &answer) ||
        !ask_sampling(c, j, &asked, &answer) || !ask_context(c, j, &asked, &answer) || !ask_form(c, j, &asked, &answer) ||
        !ask_loras(c, j, &asked, &answer))
        return answer;
    if (n_predict > 0) asked.max_tokens = (uint32_t)n_predict;
    asked.prompt_only = n_predict == 0;
    struct job *job = serve_new_job(c, &dialect, stream);
    if (!job) return serve_error(c, 500, "out of memory");
    return ask_prompt(c, "prompt", json_find(j, "prompt"), true, &asked, &answer) ? serve_job(c, job, &asked) : answer;
}
