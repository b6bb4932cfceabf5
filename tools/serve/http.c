/* http: the table of paths, and libmicrohttpd around it. Every connection has a thread, which answers at once or waits for its
 * job (jobs.c). */
#include "serve.h"

#include <errno.h>
#include <microhttpd.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <netdb.h>

#define STOP_MS 5000 /* for answers that end because the server does */

enum family { OPENAI, OLLAMA };

static const struct route {
    const char *method, *path; /* a path that ends in '/' is a beginning */
    int (*handle)(struct call *c);
    enum family errors; /* whose errors it gives */
} routes[] = {
    {"POST", "/v1/chat/completions", openai_chat, OPENAI},
    {"POST", "/chat/completions", openai_chat, OPENAI},
    {"POST", "/v1/completions", openai_completions, OPENAI},
    {"POST", "/v1/embeddings", openai_embeddings, OPENAI},
    {"GET", "/v1/models", openai_models, OPENAI},
    {"GET", "/models", openai_models, OPENAI},
    {"GET", "/v1/models/", openai_models, OPENAI},
    {"GET", "/", ollama_root, OLLAMA},
    {"POST", "/api/chat", ollama_chat, OLLAMA},
    {"POST", "/api/generate", ollama_generate, OLLAMA},
    {"POST", "/api/embed", ollama_embed, OLLAMA},
    {"POST", "/api/embeddings", ollama_embeddings, OLLAMA},
    {"GET", "/api/tags", ollama_tags, OLLAMA},
    {"GET", "/api/ps", ollama_ps, OLLAMA},
    {"POST", "/api/show", ollama_show, OLLAMA},
    {"GET", "/api/version", ollama_version, OLLAMA},
    {"POST", "/completion", native_completion, OPENAI},
    {"POST", "/completions", native_completion, OPENAI},
    {"POST", "/v1/rerank", native_rerank, OPENAI},
    {"POST", "/v1/reranking", native_rerank, OPENAI},
    {"POST", "/reranking", native_rerank, OPENAI},
    {"POST", "/rerank", native_rerank, OPENAI},
    {"GET", "/lora-adapters", native_loras, OPENAI},
    {"POST", "/lora-adapters", native_set_loras, OPENAI},
    {"GET", "/health", native_health, OPENAI},
    {"GET", "/v1/health", native_health, OPENAI},
    {"GET", "/metrics", native_metrics, OPENAI},
    {"GET", "/props", native_props, OPENAI},
    {"GET", "/slots", native_slots, OPENAI},
    {"POST", "/apply-template", native_apply_template, OPENAI},
    {"POST", "/tokenize", native_tokenize, OPENAI},
    {"POST", "/detokenize", native_detokenize, OPENAI},
};

static bool path_is(const struct route *r, const char *path)
{
    const size_t n = strlen(r->path);
    return n > 1 && r->path[n - 1] == '/' ? strncmp(path, r->path, n) == 0 : strcmp(path, r->path) == 0;
}

static enum family family_of(const struct call *c)
{
    return strncmp(c->path, "/api/", 5) == 0 || strcmp(c->path, "/") == 0 ? OLLAMA : OPENAI;
}

/* ---- answers ----------------------------------------------------------------------------------------------------------- */

static const char *header(const struct call *c, const char *name)
{
    return MHD_lookup_connection_value(c->connection, MHD_HEADER_KIND, name);
}

/* "http://localhost:3000" and the like, or one that was allowed. */
static bool origin_allowed(const struct server *s, const char *origin)
{
    static const char *const local[] = {"http://localhost",  "http://127.0.0.1", "http://[::1]", "https://localhost",
                                        "https://127.0.0.1", "https://[::1]",    "app://",       "file://",
                                        "vscode-webview://"};
    for (size_t i = 0; i < COUNT_OF(local); i++) {
        const size_t n = strlen(local[i]);
        if (strncmp(origin, local[i], n) == 0 && (local[i][n - 1] == '/' || origin[n] == 0 || origin[n] == ':')) return true;
    }
    for (size_t i = 0; i < s->o.n_origins; i++)
        if (strcmp(s->o.origins[i], "*") == 0 || strcmp(s->o.origins[i], origin) == 0) return true;
    return false;
}

int serve_response(struct call *c, unsigned status, const char *type, struct MHD_Response *r)
{
    const char *origin = header(c, "Origin"), *wanted = header(c, "Access-Control-Request-Headers");
    if (!r) return MHD_NO;
    (void)MHD_add_response_header(r, "Content-Type", type);
    if (origin && origin_allowed(c->server, origin)) {
        (void)MHD_add_response_header(r, "Access-Control-Allow-Origin", origin);
        /* Clients have headers of their own, as OpenAI's has x-stainless-*; none of them does anything here. */
        (void)MHD_add_response_header(r, "Access-Control-Allow-Headers", wanted ? wanted : "Authorization, Content-Type");
        (void)MHD_add_response_header(r, "Access-Control-Allow-Methods", "GET, POST, OPTIONS, HEAD");
    }
    if (status == 503) (void)MHD_add_response_header(r, "Retry-After", "1");
    if (status == 401) (void)MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
    c->status = status;
    const int ok = (int)MHD_queue_response(c->connection, status, r);
    MHD_destroy_response(r);
    return ok;
}

int serve_text(struct call *c, unsigned status, const char *type, struct buf *body, int rc)
{
    struct MHD_Response *r = rc < 0 ? NULL : MHD_create_response_from_buffer(body->n, body->p, MHD_RESPMEM_MUST_COPY);
    buf_fini(body);
    return serve_response(c, status, type, r);
}

int serve_json(struct call *c, unsigned status, struct buf *body, int rc)
{
    return serve_text(c, status, "application/json", body, rc);
}

int serve_error(struct call *c, unsigned status, const char *fmt, ...)
{
    struct buf body = {0};
    char message[1024];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    const int rc = (family_of(c) == OLLAMA ? ollama_error : openai_error)(&body, status, message);
    return serve_json(c, status, &body, rc);
}

unsigned serve_status(int code)
{
    switch (code) {
    case QUERN_ERR_ARG:
    case QUERN_ERR_CONTEXT:
    case QUERN_ERR_TEMPLATE:
    case QUERN_ERR_FORMAT:
        return 400;
    case QUERN_ERR_LIMIT:
        return 503;
    case QUERN_ERR_UNSUPPORTED:
        return 501;
    default:
        return 500;
    }
}

int serve_failure(struct call *c, const quern_error *err)
{
    return serve_error(c, serve_status(err->code), "%s", err->message);
}

char *serve_copy(struct call *c, struct str s)
{
    return arena_dup(&c->arena, s.p, s.n);
}

/* ---- calls ------------------------------------------------------------------------------------------------------------- */

/* The name in a Host header, without its port. */
static struct str host_name(const char *host)
{
    const char *end = *host == '[' ? strchr(host, ']') : strchr(host, ':');
    if (*host == '[' && end) end++;
    return (struct str){host, end ? (size_t)(end - host) : strlen(host)};
}

/* A page of another site that was led to this address by its name server has its own name here. */
static bool host_allowed(const struct server *s, const char *host)
{
    static const char *const local[] = {"localhost", "127.0.0.1", "[::1]", "0.0.0.0", "host.docker.internal"};
    struct in_addr address;
    if (!host) return true; /* HTTP/1.0, no browser */
    const struct str name = host_name(host);
    char text[256];
    if (name.n >= sizeof text) return false;
    (void)snprintf(text, sizeof text, "%.*s", STR_ARG(name));
    for (size_t i = 0; i < COUNT_OF(local); i++)
        if (strcmp(text, local[i]) == 0) return true;
    for (size_t i = 0; i < s->o.n_hosts; i++)
        if (strcmp(text, s->o.hosts[i]) == 0) return true;
    if (strcmp(text, s->o.host) == 0) return true;
    return strcmp(s->o.host, "127.0.0.1") != 0 && inet_pton(AF_INET, text, &address) == 1; /* an address has no name server */
}

static bool key_allowed(const struct call *c)
{
    const char *want = c->server->o.api_key, *got = header(c, "Authorization"), *other = header(c, "x-api-key");
    if (!want) return true;
    if (other && strcmp(other, want) == 0) return true;
    return got && strncmp(got, "Bearer ", 7) == 0 && strcmp(got + 7, want) == 0;
}

static bool tells_health(const char *path)
{
    return strcmp(path, "/health") == 0 || strcmp(path, "/v1/health") == 0;
}

/* Whose paths begin like this one: OpenAI's, Ollama's, llama-server's. */
static const char *beginning_of(const char *path)
{
    static const char *const beginnings[] = {"/v1/", "/api/"};
    for (size_t i = 0; i < COUNT_OF(beginnings); i++)
        if (strncmp(path, beginnings[i], strlen(beginnings[i])) == 0) return beginnings[i];
    return "/";
}

/* Clients have more paths than there are here, so the answer names those that begin alike. */
static int nothing_here(struct call *c)
{
    struct buf list = {0};
    const char *beginning = beginning_of(c->path), *last = "";
    int rc = 0;
    for (size_t i = 0; i < COUNT_OF(routes); i++) {
        const char *path = routes[i].path;
        if (beginning_of(path) != beginning || path[strlen(path) - 1] == '/' || strcmp(path, last) == 0) continue;
        rc |= buf_printf(&list, "%s%s", list.n ? ", " : "", path);
        last = path;
    }
    rc |= buf_c(&list, '\0');
    const int answer = serve_error(c, 404, "there is nothing at %.200s; there are %s", c->path, rc == 0 ? list.p : "others");
    buf_fini(&list);
    return answer;
}

/* Counts a call whose answer the server waits for when it ends; false: it has begun to. */
static bool open_call(struct call *c)
{
    struct server *s = c->server;
    monitor_enter(s->lock);
    c->open = !s->stopping;
    s->n_open += c->open;
    monitor_leave(s->lock);
    return c->open;
}

static void close_call(struct call *c)
{
    struct server *s = c->server;
    if (!c->open) return;
    monitor_enter(s->lock);
    s->n_open--;
    monitor_wake(s->lock);
    monitor_leave(s->lock);
}

static int dispatch(struct call *c)
{
    bool path = false;
    struct err e = {0};
    struct json *json = NULL;
    const bool options = strcmp(c->method, "OPTIONS") == 0;
    if (!open_call(c)) return serve_error(c, 503, SERVE_ENDS);
    if (c->too_large)
        return serve_error(c, 413, "the body has more than %zu bytes (a larger limit: --body-limit)", c->server->o.body_limit);
    if (!host_allowed(c->server, header(c, "Host")))
        return serve_error(c, 403, "the Host header names \"%.100s\", which is not this server (allow it: --allow-host)",
                           header(c, "Host"));
    const char *origin = header(c, "Origin");
    if (origin && !origin_allowed(c->server, origin))
        return serve_error(c, 403, "pages of \"%.100s\" may not use this server (allow them: --allow-origin)", origin);
    if (options) return serve_text(c, 204, "text/plain", &(struct buf){0}, 0);
    if (!key_allowed(c) && !tells_health(c->path)) return serve_error(c, 401, "the API key is missing or wrong");
    const char *method = strcmp(c->method, "HEAD") == 0 ? "GET" : c->method;
    for (size_t i = 0; i < COUNT_OF(routes); i++) {
        if (!path_is(&routes[i], c->path)) continue;
        path = true;
        if (strcmp(routes[i].method, method) != 0) continue;
        const int rc = c->body.n ? json_parse(&c->arena, buf_view(&c->body), "the body", &json, &e) : 0;
        if (rc < 0) return serve_error(c, rc == ERR_NOMEM ? 500 : 400, "%s", e.msg);
        const bool array = routes[i].handle == native_set_loras; /* all others take an object */
        if (strcmp(method, "POST") == 0 && (!json || json->type != (array ? JSON_ARRAY : JSON_OBJECT)))
            return serve_error(c, 400, "the body must be a JSON %s", array ? "array" : "object");
        c->json = json;
        return routes[i].handle(c);
    }
    if (path) return serve_error(c, 405, "%s does not take %s", c->path, c->method);
    return nothing_here(c);
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *data, size_t *n, void **state)
{
    struct server *s = cls;
    struct call *c = *state;
    (void)version;
    if (!c) {
        c = *state = mem_zalloc(sizeof *c);
        if (!c) return MHD_NO;
        *c = (struct call){.server = s, .connection = connection, .start = clock_ns()};
        c->method = serve_copy(c, str_of(method));
        c->path = serve_copy(c, str_of(url));
        monitor_enter(s->lock);
        c->number = ++s->n_calls;
        monitor_leave(s->lock);
        return c->method && c->path ? MHD_YES : MHD_NO;
    }
    if (*n) {
        if (c->too_large || *n > s->o.body_limit - c->body.n)
            c->too_large = true;
        else if (buf_put(&c->body, data, *n) < 0)
            return MHD_NO;
        *n = 0;
        return MHD_YES;
    }
    return (enum MHD_Result)dispatch(c);
}

static void on_completed(void *cls, struct MHD_Connection *connection, void **state, enum MHD_RequestTerminationCode why)
{
    struct call *c = *state;
    (void)cls;
    (void)connection;
    (void)why;
    if (!c) return;
    close_call(c);
    if (c->job) serve_end_job(c->job);
    if (c->server->o.verbose && c->path)
        (void)fprintf(stderr, "%s %s %u %.1f ms\n", c->method, c->path, c->status, (double)(clock_ns() - c->start) * 1e-6);
    buf_fini(&c->body);
    arena_fini(&c->arena);
    mem_free(c);
    *state = NULL;
}

static int listen_on(const struct serve_options *o, int *out, uint16_t *port, struct err *e)
{
    char service[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found;
    (void)snprintf(service, sizeof service, "%u", o->port);
    const int rc = getaddrinfo(o->host, service, &hints, &found);
    if (rc) return fail(e, ERR_ARG, "%s is no address to listen on (--host, OLLAMA_HOST): %s", o->host, gai_strerror(rc));
    int fd = socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC, 0), on = 1;
    if (fd >= 0) (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    const bool ok = fd >= 0 && bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, 128) == 0;
    const int why = errno;
    freeaddrinfo(found);
    if (!ok) {
        if (fd >= 0) (void)close(fd);
        return fail(e, ERR_IO, "%s port %u cannot be used: %s%s", o->host, o->port, strerror(why),
                    why == EADDRINUSE ? "; another server runs there (another port: --port)" : "");
    }
    struct sockaddr_storage self;
    socklen_t n = sizeof self;
    *port = o->port;
    if (getsockname(fd, (struct sockaddr *)&self, &n) == 0)
        *port = ntohs(self.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&self)->sin6_port
                                                 : ((struct sockaddr_in *)&self)->sin_port);
    *out = fd;
    return 0;
}

static int read_template(struct server *s, struct err *e)
{
    struct arena a = {0};
    struct json *all;
    struct str template = {0};
    const int rc = json_parse(&a, str_of(s->description), "the description of the model", &all, e);
    if (rc == 0) (void)json_opt_str(all, "chat_template", &template);
    if (!template.p) template = STR("");
    s->template_has_tools = str_has(template, STR("tools"));
    s->template_thinks = str_has(template, STR("<think>"));
    s->tool_style = tool_style_of(template, &s->own_tool_style);
    arena_fini(&a);
    return rc;
}

/* Takes no more calls, and lets those that are there end with an error that their clients understand. */
static void stop(struct server *s, struct MHD_Daemon *d)
{
    const MHD_socket listening = MHD_quiesce_daemon(d);
    const uint64_t end = clock_ns() + (uint64_t)STOP_MS * 1000000;
    serve_stop_jobs(s);
    monitor_enter(s->lock);
    while (s->n_open && clock_ns() < end) monitor_wait_for(s->lock, 100);
    monitor_leave(s->lock);
    MHD_stop_daemon(d);
    if (listening != MHD_INVALID_SOCKET) (void)close(listening);
}

int serve_run(struct server *s, int stop_fd, void (*on_ready)(const struct server *s, uint16_t port), struct err *e)
{
    int fd;
    uint16_t port;
    TRY(read_template(s, e));
    TRY(listen_on(&s->o, &fd, &port, e));
    TRY(monitor_new(&s->lock, e));
    struct MHD_Daemon *d = MHD_start_daemon(
        MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL | MHD_USE_ITC, 0, NULL, NULL, on_request,
        s, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_CONNECTION_LIMIT,
        s->o.max_connections, MHD_OPTION_CONNECTION_TIMEOUT, s->o.timeout_seconds, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)64 << 10, MHD_OPTION_THREAD_STACK_SIZE, (size_t)512 << 10, MHD_OPTION_END);
    if (!d) {
        (void)close(fd);
        monitor_free(&s->lock);
        return fail(e, ERR_IO, "the server cannot be started");
    }
    on_ready(s, port);
    struct pollfd p = {.fd = stop_fd, .events = POLLIN};
    while (poll(&p, 1, -1) < 0 && errno == EINTR) continue;
    stop(s, d);
    monitor_free(&s->lock);
    return 0;
}
