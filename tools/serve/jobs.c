/* jobs: requests to the engine on behalf of calls. A job makes one or several answers of its prompt; their tokens arrive on the
 * engine's thread, which never waits for a client: what they become is appended to bytes that the thread of the connection
 * sends. An error of one answer ends the job. A client that leaves is noticed by its thread within SERVE_WATCH_MS, and its
 * requests end with the step under way. */
#include "serve.h"

#include <errno.h>
#include <microhttpd.h>
#include <sys/socket.h>

struct job *serve_new_job(struct call *c, const struct dialect *d, bool stream, uint32_t n_prompts, uint32_t n_each)
{
    const uint32_t n_choices = n_prompts * n_each;
    struct job *j = arena_alloc(&c->arena, sizeof *j);
    struct choice *choices = arena_array(&c->arena, n_choices, sizeof *choices);
    struct err e;
    if (!j || !choices) return NULL;
    *j = (struct job){.call = c, .dialect = d, .stream = stream, .created = clock_utc(), .status = 200};
    j->choices = choices;
    j->n_choices = n_choices;
    j->n_each = n_each;
    for (uint32_t i = 0; i < n_choices; i++) choices[i] = (struct choice){.job = j, .index = i};
    if (monitor_new(&j->lock, &e) < 0) return NULL;
    c->job = j;
    return j;
}

/* Inside the lock, in which requests come and stay until nobody wants the job. */
static void cancel(struct job *j)
{
    for (uint32_t i = 0; i < j->n_choices; i++)
        if (j->choices[i].request) quern_request_cancel(j->choices[i].request);
}

/* Nobody wants what else comes. Inside the lock. */
static void abandon(struct job *j)
{
    j->gone = true;
    cancel(j);
}

static void unlist_job(struct job *j)
{
    struct server *s = j->call->server;
    monitor_enter(s->lock);
    for (struct job **p = &s->jobs; *p; p = &(*p)->next) {
        if (*p != j) continue;
        *p = j->next;
        break;
    }
    monitor_leave(s->lock);
}

void serve_end_job(struct job *j)
{
    unlist_job(j);
    monitor_enter(j->lock);
    abandon(j);
    monitor_leave(j->lock);
    for (uint32_t i = 0; i < j->n_choices; i++) {
        struct choice *x = &j->choices[i];
        quern_request_free(&x->request);
        buf_fini(&x->text);
        buf_fini(&x->thinking);
        parts_fini(&x->parts);
        buf_fini(&x->probs);
        buf_fini(&x->ids);
    }
    monitor_free(&j->lock);
    buf_fini(&j->pending);
}

/* ---- the end, inside the lock ------------------------------------------------------------------------------------------- */

static void end(struct job *j)
{
    j->done = true;
    monitor_wake(j->lock);
}

/* What does not fit into memory ends the job. */
static void check(struct job *j, int rc)
{
    if (rc < 0) {
        abandon(j);
        end(j);
    } else if (j->pending.n) {
        monitor_wake(j->lock);
    }
}

/* All ends with this error: as an answer of its own where nothing was sent, else as the last that is. */
static void fail_job(struct job *j, unsigned status, const char *message)
{
    int rc;
    if (j->stream && j->begun) {
        rc = j->dialect->fail(&j->pending, status, message);
    } else {
        j->status = status;
        j->pending.n = 0;
        rc = j->dialect->error(&j->pending, status, message);
    }
    cancel(j);
    end(j);
    check(j, rc);
}

void serve_stop_jobs(struct server *s)
{
    monitor_enter(s->lock);
    s->stopping = true;
    for (struct job *j = s->jobs; j; j = j->next) {
        monitor_enter(j->lock);
        if (!j->done) fail_job(j, 503, SERVE_ENDS);
        monitor_leave(j->lock);
    }
    monitor_leave(s->lock);
}

static void list_job(struct job *j)
{
    struct server *s = j->call->server;
    monitor_enter(s->lock);
    j->next = s->jobs;
    s->jobs = j;
    monitor_enter(j->lock);
    if (s->stopping && !j->done) fail_job(j, 503, SERVE_ENDS);
    monitor_leave(j->lock);
    monitor_leave(s->lock);
}

/* ---- what the engine tells ----------------------------------------------------------------------------------------------- */

static int put_part(void *user, enum part part, struct str text)
{
    struct choice *x = user;
    struct job *j = x->job;
    const int rc = buf_str(part == PART_THINKING ? &x->thinking : &x->text, text);
    if (rc < 0 || !j->stream) return rc;
    j->begun = true;
    return j->dialect->token(x, &j->pending, part, text);
}

static int put_text(struct choice *x, struct str text)
{
    if (text.n == 0) return 0;
    return x->job->asked.split ? parts_put(&x->parts, text, put_part, x) : put_part(x, PART_ANSWER, text);
}

/* Beside a form, whose text may look like a call, calls are only those of functions that are there. */
static bool are_known(const struct choice *x)
{
    bool known = true;
    for (size_t i = 0; x->parts.style && i < x->n_calls; i++) known = known && ask_is_tool(x->job->call, x->calls[i].name);
    return known;
}

/* What was held back is calls of tools, or text after all. */
static int end_text(struct choice *x)
{
    struct str held;
    if (!x->job->asked.split) return 0;
    const int rc = parts_end(&x->parts, put_part, x, &held);
    if (rc < 0 || held.n == 0) return rc;
    const bool read = tool_calls_parse(&x->job->call->arena, held, x->parts.style, &x->calls, &x->n_calls) && are_known(x);
    if (!x->job->asked.calls.parallel) x->n_calls = size_min(x->n_calls, 1);
    if (read) return 0;
    x->n_calls = 0;
    return put_part(x, PART_ANSWER, held);
}

/* {"id":..,"token":..,"logprob":..,"bytes":[..] of one token; the object goes on. */
static int put_one_prob(struct call *c, struct buf *b, int32_t id, float logprob)
{
    quern_string s = {0};
    quern_error err;
    if (quern_token_bytes(c->server->model, id, &s, &err) < 0) return ERR_NOMEM;
    int rc = buf_printf(b, "{\"id\":%d,\"token\":", id);
    rc |= json_write_string(b, (struct str){s.text, s.length});
    rc |= isnan(logprob) ? buf_z(b, ",\"logprob\":null") : buf_printf(b, ",\"logprob\":%.6f", (double)logprob);
    rc |= buf_z(b, ",\"bytes\":[");
    for (size_t i = 0; i < s.length; i++) rc |= buf_printf(b, "%s%u", i ? "," : "", (unsigned char)s.text[i]);
    rc |= buf_z(b, "]");
    quern_string_free(&s);
    return rc;
}

int serve_put_prob(struct call *c, struct buf *b, const quern_token *t)
{
    int rc = put_one_prob(c, b, t->id, t->logprob);
    if (isnan(t->logprob)) return rc | buf_z(b, ",\"top_logprobs\":null}");
    rc |= buf_z(b, ",\"top_logprobs\":[");
    for (size_t i = 0; i < t->n_top; i++) {
        if (i) rc |= buf_c(b, ',');
        rc |= put_one_prob(c, b, t->top_ids[i], t->top_logprobs[i]);
        rc |= buf_c(b, '}');
    }
    return rc | buf_z(b, "]}");
}

int serve_new_probs(struct choice *x, struct buf *b)
{
    int rc = buf_c(b, '[');
    rc |= buf_str(b, buf_view(&x->probs));
    x->probs.n = 0;
    return rc | buf_c(b, ']');
}

/* Before anything else of the answer: the prompt, where that is repeated. */
static int open_choice(struct choice *x)
{
    const struct job *j = x->job;
    if (x->opened || !j->echo) return 0;
    const struct prompt *prompt = &j->prompts[x->index / j->n_each];
    x->opened = true;
    int rc = buf_str(&x->probs, prompt->probs);
    return rc == 0 ? put_part(x, PART_ANSWER, prompt->text) : rc;
}

/* The end of an answer that has taken long enough is asked for, once it has a whole line. */
static void watch_time(struct choice *x)
{
    const uint64_t limit = x->job->limit_ns, now = clock_ns();
    if (!x->first) x->first = now;
    if (!limit || now - x->first < limit || !x->request || !x->text.n || !memchr(x->text.p, '\n', x->text.n)) return;
    x->late = true;
    quern_request_cancel(x->request);
}

/* An answer that goes on from a raw prompt is no beginning of a text, as which its first token is shown: it keeps the space
 * that it may begin with. A form is that of the text without it. */
static int keep_space(struct choice *x, int32_t first)
{
    const struct job *j = x->job;
    if (j->asked.split || j->asked.form.kind != QUERN_FORM_FREE || !serve_loses_space(j->call, first)) return 0;
    return put_part(x, PART_ANSWER, STR(" "));
}

static void on_token(void *user, const quern_token *t)
{
    struct choice *x = user;
    struct job *j = x->job;
    monitor_enter(j->lock);
    if (!j->done && !j->gone && !x->late) {
        const bool thinking = j->asked.split && x->parts.at == PARTS_THINKING;
        int rc = open_choice(x);
        x->so_far = t->so_far;
        if (rc == 0 && !x->first) rc = keep_space(x, t->id);
        if (rc == 0 && j->ids) rc = buf_put(&x->ids, &t->id, sizeof t->id);
        if (rc == 0 && j->logprobs) rc = (x->probs.n ? buf_c(&x->probs, ',') : 0) | serve_put_prob(j->call, &x->probs, t);
        if (rc == 0) rc = put_text(x, (struct str){t->text, t->length});
        x->n_thinking += thinking || (j->asked.split && x->parts.at == PARTS_THINKING);
        watch_time(x);
        check(j, rc);
    }
    monitor_leave(j->lock);
}

static int end_choice(struct choice *x)
{
    struct job *j = x->job;
    const bool last = ++j->n_ended == j->n_choices;
    int rc = open_choice(x);
    if (rc == 0) rc = put_text(x, (struct str){x->r.tail, x->r.tail_length});
    if (rc == 0) rc = end_text(x);
    j->begun = true;
    if (rc == 0 && j->stream) rc = j->dialect->end(x, &j->pending);
    if (rc == 0 && last && j->stream && j->dialect->close) rc = j->dialect->close(j, &j->pending);
    if (last) end(j);
    return rc;
}

static void on_end(void *user, const quern_request_result *r)
{
    struct choice *x = user;
    struct job *j = x->job;
    monitor_enter(j->lock);
    x->r = *r;
    if (!j->done && !j->gone) {
        if (x->late && r->error == QUERN_ERR_CANCELLED) x->r.error = 0, x->r.result.stop = QUERN_STOP_LENGTH;
        if (x->r.error)
            fail_job(j, serve_status(r->error), r->message);
        else
            check(j, end_choice(x));
    }
    monitor_leave(j->lock);
}

/* ---- what the client gets ------------------------------------------------------------------------------------------------ */

static bool client_left(const struct call *c)
{
    const union MHD_ConnectionInfo *i = MHD_get_connection_info(c->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    char byte;
    if (!i) return false;
    const ssize_t n = recv(i->connect_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

bool serve_is_wanted(const struct call *c)
{
    return !c->server->stopping && !client_left(c);
}

/* Waits, inside the lock, until there is something to send or nothing will come; false: the client has left, or there was no
 * memory for the answer. */
static bool wait_for_text(struct job *j, bool all)
{
    while (!j->done && !j->gone && (all || j->pending.n == 0)) {
        monitor_wait_for(j->lock, SERVE_WATCH_MS);
        if (!j->done && client_left(j->call)) abandon(j);
    }
    return !j->gone;
}

static ssize_t read_stream(void *cls, uint64_t pos, char *to, size_t max)
{
    struct job *j = cls;
    (void)pos;
    monitor_enter(j->lock);
    const bool there = wait_for_text(j, false);
    const size_t n = there ? size_min(max, j->pending.n) : 0;
    if (n) {
        memcpy(to, j->pending.p, n);
        memmove(j->pending.p, j->pending.p + n, j->pending.n - n);
        j->pending.n -= n;
    }
    monitor_leave(j->lock);
    return n ? (ssize_t)n : there ? MHD_CONTENT_READER_END_OF_STREAM : MHD_CONTENT_READER_END_WITH_ERROR;
}

/* An answer that is one piece, or an error. Such an answer may be long, so the engine's thread is spared it. */
static int answer_whole(struct call *c, struct job *j)
{
    struct buf body = {0};
    monitor_enter(j->lock);
    const bool there = wait_for_text(j, true);
    const unsigned status = j->status;
    body = j->pending;
    j->pending = (struct buf){0};
    monitor_leave(j->lock);
    const int rc = there && status == 200 ? j->dialect->whole(j, &body) : 0;
    if (there && rc == 0) return serve_json(c, status, &body, 0);
    buf_fini(&body);
    return serve_error(c, 500, "out of memory");
}

static int answer_stream(struct call *c, struct job *j)
{
    /* What fails before the first token is an answer with a status. */
    monitor_enter(j->lock);
    const bool failed = !wait_for_text(j, false) || j->status != 200;
    monitor_leave(j->lock);
    if (failed) return answer_whole(c, j);
    struct MHD_Response *r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, read_stream, j, NULL);
    if (r) (void)MHD_add_response_header(r, "Cache-Control", "no-cache");
    return serve_response(c, 200, j->dialect->stream_type, r);
}

/* ---- the beginning ------------------------------------------------------------------------------------------------------- */

/* Outside the lock, as it may take long, and the engine's thread would wait: others of the job may speak already. */
static int submit(struct choice *x, quern_error *err)
{
    struct job *j = x->job;
    quern_request *request;
    const struct asked *a = &j->asked;
    quern_sampling sampling = a->sampling;
    sampling.logit_bias = a->bias;
    sampling.n_logit_bias = a->n_bias;
    sampling.seed += x->index % j->n_each; /* each draws with its own */
    const quern_tokens *prompt = &a->prompts[x->index / j->n_each];
    const quern_request_options o = {.prompt = prompt->ids,
                                     .n_prompt = prompt->count,
                                     .sampling = &sampling,
                                     .max_tokens = a->max_tokens,
                                     .prompt_only = a->prompt_only,
                                     .stop = a->stop,
                                     .n_stop = a->n_stop,
                                     .ignore_eos = a->ignore_eos,
                                     .form = a->form,
                                     .logprobs = j->logprobs,
                                     .n_top = j->n_top,
                                     .context_policy = a->context_policy,
                                     .n_keep = a->n_keep,
                                     .lora_scales = a->lora_scales,
                                     .speculate = a->speculate,
                                     .draft_max = a->draft_max,
                                     .draft_min = a->draft_min,
                                     .expected = a->expected,
                                     .n_expected = a->n_expected,
                                     .on_token = on_token,
                                     .on_end = on_end,
                                     .user = x};
    parts_init(&x->parts, a->tools, a->calls.held ? j->call->server->tool_style : NULL, a->opened);
    const int rc = quern_engine_submit(j->call->server->engine, &o, &request, err);
    if (rc < 0) return rc;
    monitor_enter(j->lock);
    x->request = request;
    if (j->done || j->gone) quern_request_cancel(request); /* another one had an error */
    monitor_leave(j->lock);
    return 0;
}

/* All choices, or none. */
static int submit_all(struct job *j, quern_error *err)
{
    struct asked *a = &j->asked;
    int rc = a->lora_scales || serve_lora_scales(j->call, &a->lora_scales) ? 0 : QUERN_ERR_NOMEM;
    if (rc < 0) *err = (quern_error){.code = rc, .message = "out of memory"};
    if (rc == 0 && (j->echo || j->tell)) rc = serve_tell_prompts(j->call, j, err);
    for (uint32_t i = 0; rc == 0 && i < j->n_choices; i++) rc = submit(&j->choices[i], err);
    if (rc == 0) return 0;
    monitor_enter(j->lock);
    abandon(j);
    monitor_leave(j->lock);
    return rc;
}

int serve_job(struct call *c, struct job *j, struct asked *asked)
{
    quern_error err;
    const bool writes = c->server->engine;
    j->asked = *asked;
    const int rc = writes ? submit_all(j, &err) : 0;
    serve_free_prompts(&j->asked);
    if (!writes)
        return serve_error(c, 400, "this model makes vectors of texts and does not write; ask for embeddings or a rerank");
    if (rc < 0) return serve_failure(c, &err);
    list_job(j);
    return j->stream ? answer_stream(c, j) : answer_whole(c, j);
}
