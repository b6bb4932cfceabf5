/* quern serve: a model behind HTTP, in the dialects that people's tools speak (tools/serve). */
#include "cli.h"
#include "serve/serve.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct serve_args {
    struct model_args model;
    struct compute_args compute;
    struct speculation_args speculation;
    const char *host, *api_key, *alias, *prefix_cache, *context_policy;
    int64_t port, n_ctx, n_parallel, n_queue, kv_size, prefix_size, body_limit, timeout;
    struct opt_list hosts, origins;
    bool verbose, no_prefix, lora_off, accepted;
};

#define SERVE(member) .offset = offsetof(struct serve_args, member)

static const struct opt serve_opts[] = {
    {"--host", "ADDRESS", "where to listen; default 127.0.0.1, or OLLAMA_HOST", .kind = OPT_TEXT, SERVE(host)},
    {"--port", "N", "default 11434; 0: any that is free", .kind = OPT_INT, .min = 0, .max = 65535, SERVE(port)},
    {"-a --alias", "NAME", "what clients call the model; default: its own name", .kind = OPT_TEXT, SERVE(alias)},
    {"-c --ctx-size --ctx", "N",
     "tokens that one request may take, prompt and answer; default, or 0: what the model was trained for, at most 4096",
     .kind = OPT_INT, .min = 0, .max = 1 << 24, SERVE(n_ctx)},
    {"--context-policy", "POLICY", "of requests that ask for none: " CONTEXT_POLICY_HELP, .kind = OPT_CHOICE,
     .choices = CONTEXT_POLICIES, SERVE(context_policy)},
    {"-np --parallel", "N", "requests that are computed together; default 4", .kind = OPT_INT, .min = 1, .max = 1024,
     SERVE(n_parallel)},
    {"--queue", "N", "requests that may wait; more get 503. Default 64", .kind = OPT_INT, .min = 1, .max = 100000,
     SERVE(n_queue)},
    {"--kv-size", "SIZE",
     "memory of the KV cache, which also keeps the beginnings of ended requests; default: all requests at their longest, as "
     "long "
     "as everything together stays below 70% of the machine's memory",
     .kind = OPT_SIZE, SERVE(kv_size)},
    {"--prefix-cache", "FOLDER",
     "where these beginnings are kept on disk, too, to be found after a restart; none: nowhere; default: quern/prefix in the "
     "user's cache folder",
     .kind = OPT_TEXT, SERVE(prefix_cache)},
    {"--prefix-cache-size", "SIZE", "of the files there, and at most half of what the disk has left; default 8GiB",
     .kind = OPT_SIZE, SERVE(prefix_size)},
    {"--no-prefix", NULL, "requests do not use again what others computed", .kind = OPT_FLAG, SERVE(no_prefix)},
    {"--lora-init-without-apply", NULL, "adapters are used only where a request or POST /lora-adapters asks for them",
     .kind = OPT_FLAG, SERVE(lora_off)},
    {"--api-key", "KEY", "ask for this key (Authorization: Bearer KEY); default: none, or QUERN_API_KEY", .kind = OPT_TEXT,
     SERVE(api_key)},
    {"--allow-host", "NAME", "name by which browsers may call this server, beside localhost; may be repeated", .kind = OPT_LIST,
     SERVE(hosts)},
    {"--allow-origin", "ORIGIN",
     "site whose pages may use this server, beside those of this machine; * for all; may be repeated", .kind = OPT_LIST,
     SERVE(origins)},
    {"--body-limit", "MIB", "largest request; default 32", .kind = OPT_INT, .min = 1, .max = 1024, SERVE(body_limit)},
    {"--timeout", "SECONDS", "how long a connection may stand still; default 600", .kind = OPT_INT, .min = 1, .max = 86400,
     SERVE(timeout)},
    {"-v --verbose", NULL, "a line on stderr for each request", .kind = OPT_FLAG, SERVE(verbose)},
    {"--metrics --slots --embeddings -cb --cont-batching --no-webui", NULL,
     "accepted; /metrics, /slots and embeddings are always served, requests always computed together, and there is no page",
     .kind = OPT_FLAG, SERVE(accepted)},
    {0},
};

static const struct opt_group serve_groups[] = {
    {"Model", model_opts, offsetof(struct serve_args, model)},
    {"Server", serve_opts, 0},
    {"Speculation", speculation_opts, offsetof(struct serve_args, speculation)},
    {"Computing", compute_opts, offsetof(struct serve_args, compute)},
    {0},
};

/* ---- signals ----------------------------------------------------------------------------------------------------------- */

static int stop_pipe[2] = {-1, -1};

static void on_stop(int sig)
{
    (void)sig;
    if (write(stop_pipe[1], "", 1) < 0) _exit(1);
}

static bool catch_stop(void)
{
    struct sigaction sa = {.sa_handler = on_stop, .sa_flags = SA_RESTART | (int)SA_RESETHAND};
    if (pipe(stop_pipe) != 0) return false;
    return sigaction(SIGINT, &sa, NULL) == 0 && sigaction(SIGTERM, &sa, NULL) == 0;
}

/* ---- the server -------------------------------------------------------------------------------------------------------- */

static void say_ready(const struct server *s, uint16_t port)
{
    quern_engine_info i;
    char kv[AMOUNT_MAX];
    quern_engine_get_info(s->engine, &i);
    const bool v6 = strchr(s->o.host, ':') != NULL;
    (void)fprintf(stderr, "quern: %s listens on http://%s%s%s:%u\n", s->name, v6 ? "[" : "", s->o.host, v6 ? "]" : "", port);
    if (!s->engine) {
        (void)fprintf(stderr, "       embeddings and scores only: the model does not write\n");
        return;
    }
    (void)fprintf(stderr, "       %u requests of %u tokens together, KV cache %s in %s, %u threads, %s\n", i.n_parallel,
                  i.n_ctx, amount_bytes(i.kv_bytes, kv), i.k_type, i.n_threads, i.cpu_level);
}

/* "host:port", "host", ":port" or "[v6]:port", with or without http:// and a path, as Ollama reads it. False: it is none of
 * them. */
static bool read_ollama_host(char host[256], uint16_t *port)
{
    const char *text = getenv("OLLAMA_HOST");
    struct str s = str_of(text ? text : "");
    uint64_t v = *port;
    const size_t scheme = str_starts(s, STR("http://")) ? 7 : str_starts(s, STR("https://")) ? 8 : 0;
    s = (struct str){s.p + scheme, strcspn(s.p + scheme, "/")};
    const char *close = s.n && *s.p == '[' ? memchr(s.p, ']', s.n) : NULL;
    const char *end = s.p + s.n, *name = close ? s.p + 1 : s.p;
    const size_t n = close ? (size_t)(close - name) : size_min(s.n, strcspn(s.p, ":"));
    const char *colon = close ? close + 1 : name + n;
    const bool has_port = colon < end;
    if (n >= 256) return false;
    if (has_port && (*colon != ':' || !str_u64((struct str){colon + 1, (size_t)(end - colon) - 1}, &v) || v > 65535))
        return false;
    if (n > 0) (void)snprintf(host, 256, "%.*s", (int)n, name);
    *port = (uint16_t)v;
    return true;
}

static void make_digest(const struct server *s, char digest[65])
{
    uint64_t h = str_hash(str_of(s->name)) ^ s->info.weight_bytes;
    for (int i = 0; i < 4; i++) {
        (void)snprintf(digest + 16 * i, 17, "%016llx", (unsigned long long)h);
        h = h * 0x9e3779b97f4a7c15u + 1;
    }
}

static void say_line(void *user, const char *line)
{
    (void)user;
    (void)fprintf(stderr, "quern: %s\n", line);
}

/* NULL: beginnings are kept in memory alone. A folder that was not asked for may be missing. */
static const char *prefix_folder(const struct serve_args *args, char out[PATH_MAX])
{
    struct err e;
    if (args->prefix_cache) return strcmp(args->prefix_cache, "none") == 0 ? NULL : args->prefix_cache;
    if (args->no_prefix || !cli_cache_folder("prefix", out)) return NULL;
    if (vfs_make_folder(out, &e) == 0) return out;
    cli_note("%s; what was computed is not kept on disk", e.msg);
    return NULL;
}

/* The adapters and their scales, in a. */
static int find_loras(const struct command *c, const struct serve_args *args, struct arena *a, struct server *s)
{
    const int exit_code = cli_loras(c, &args->compute.lora, &args->compute.lora_scaled, a, &s->loras, &s->n_loras);
    if (exit_code != CLI_OK) return exit_code;
    if (s->n_loras && s->info.embeds_only)
        return cli_usage(c, "--lora is for models that write, and %.100s only embeds", s->name);
    s->lora_scales = arena_array(a, size_max(s->n_loras, 1), sizeof *s->lora_scales);
    if (!s->lora_scales) return cli_fail("out of memory");
    for (size_t i = 0; i < s->n_loras; i++) s->lora_scales[i] = args->lora_off ? 0 : s->loras[i].scale;
    return CLI_OK;
}

static int start_engine(const struct serve_args *args, struct server *s)
{
    quern_error err;
    char folder[PATH_MAX];
    const struct compute_args *c = &args->compute;
    const int64_t n_batch = c->n_ubatch && (!c->n_batch || c->n_ubatch < c->n_batch) ? c->n_ubatch : c->n_batch;
    const quern_engine_options o = {.n_ctx = (uint32_t)args->n_ctx,
                                    .n_parallel = (uint32_t)args->n_parallel,
                                    .n_queue = (uint32_t)args->n_queue,
                                    .n_batch = (uint32_t)n_batch,
                                    .n_threads = (uint32_t)c->n_threads,
                                    .kv_bytes = (uint64_t)args->kv_size,
                                    .prefix_folder = prefix_folder(args, folder),
                                    .prefix_bytes = (uint64_t)args->prefix_size,
                                    .on_message = say_line,
                                    .k_type = c->cache_k ? c->cache_k : c->kv,
                                    .v_type = c->cache_v ? c->cache_v : c->kv,
                                    .cpu_level = c->cpu,
                                    .no_prefix = args->no_prefix,
                                    .loras = s->loras,
                                    .n_loras = s->n_loras,
                                    .speculation = s->speculation};
    return quern_engine_new(s->model, &o, &s->engine, &err) < 0 ? cli_fail("%s", err.message) : CLI_OK;
}

static int serve_model(const struct command *c, const struct serve_args *args, const quern_model *model,
                       const quern_speculation *speculation)
{
    char host[256] = "127.0.0.1", digest[65];
    uint16_t port = 11434;
    quern_error err;
    quern_string description = {0};
    struct err e = {0};
    struct server s = {.model = model, .speculation = *speculation, .started = clock_utc(), .digest = digest};
    s.embed_options = (quern_embed_options){.n_threads = (uint32_t)args->compute.n_threads, .cpu_level = args->compute.cpu};
    if (!read_ollama_host(host, &port))
        return cli_usage(c, "OLLAMA_HOST must be HOST:PORT, not '%.100s'", getenv("OLLAMA_HOST"));
    quern_model_get_info(model, &s.info);
    s.name = args->alias ? args->alias : s.info.name;
    make_digest(&s, digest);
    s.o = (struct serve_options){.host = args->host ? args->host : host,
                                 .port = args->port >= 0 ? (uint16_t)args->port : port,
                                 .api_key = args->api_key ? args->api_key : getenv("QUERN_API_KEY"),
                                 .hosts = args->hosts.p,
                                 .n_hosts = args->hosts.n,
                                 .origins = args->origins.p,
                                 .n_origins = args->origins.n,
                                 .body_limit = (size_t)args->body_limit << 20,
                                 .timeout_seconds = (unsigned)args->timeout,
                                 .max_connections = (unsigned)(args->n_parallel + args->n_queue + 64),
                                 .n_queue = (uint32_t)args->n_queue,
                                 .verbose = args->verbose};
    if (args->context_policy) (void)quern_context_policy_named(args->context_policy, &s.o.context_policy);
    struct arena arena = {0};
    int exit_code = find_loras(c, args, &arena, &s);
    if (exit_code == CLI_OK && !s.info.embeds_only) exit_code = start_engine(args, &s);
    if (exit_code == CLI_OK && monitor_new(&s.embed_lock, &e) < 0) exit_code = cli_fail("%s", e.msg);
    if (exit_code == CLI_OK && quern_model_describe(model, &description, &err) < 0) exit_code = cli_fail("%s", err.message);
    s.description = description.text;
    if (exit_code == CLI_OK && !catch_stop()) exit_code = cli_fail("signals cannot be caught");
    if (exit_code == CLI_OK && serve_run(&s, stop_pipe[0], say_ready, &e) < 0) exit_code = cli_fail("%s", e.msg);
    quern_engine_free(&s.engine);
    quern_embedder_free(&s.embedder);
    monitor_free(&s.embed_lock);
    quern_string_free(&description);
    arena_fini(&arena);
    return exit_code;
}

static int run(const struct command *c, int argc, char **argv)
{
    struct serve_args args = {.port = -1, .n_parallel = 4, .n_queue = 64, .body_limit = 32, .timeout = 600};
    struct words words;
    int exit_code;
    quern_model *model = NULL, *draft = NULL;
    quern_speculation speculation;
    if (!args_parse(c, &args, argc, argv, &words, &exit_code)) return exit_code;
    const quern_model_options how = compute_loading(&args.compute);
    exit_code = model_open_args(&args.model, &words, &how, &model);
    if (exit_code == CLI_OK) exit_code = speculation_open(c, &args.speculation, &how, &draft, &speculation);
    if (exit_code == CLI_OK) exit_code = serve_model(c, &args, model, &speculation);
    quern_model_close(&draft);
    quern_model_close(&model);
    return exit_code;
}

const struct command command_serve = {
    .name = "serve",
    .usage = "[MODEL]",
    .summary = "answer requests of OpenAI's, Ollama's and llama.cpp's clients",
    .text = "Listens on 127.0.0.1:11434 and answers /v1/chat/completions, /v1/completions, /v1/embeddings and "
            "/v1/models as OpenAI does, /api/chat, /api/generate, /api/embed, /api/tags, /api/ps, /api/show and "
            "/api/version as Ollama does, /health, /metrics, /props, /slots, /completion, /v1/rerank, /lora-adapters, "
            "/apply-template, /tokenize and /detokenize as llama-server does. Requests are computed together, and those "
            "that begin alike share what was computed. What a request gets does not depend on the others.\n",
    .groups = serve_groups,
    .max_words = 1,
    .run = run,
};
