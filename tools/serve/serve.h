/* serve: HTTP in front of one model's engine. A request of any dialect becomes a struct call; its handler answers at once
 * (serve_json), or makes a job: one request to the engine whose tokens the dialect turns into text. Each dialect is one file
 * and some rows of the table in http.c. */
#ifndef QUERN_SERVE_H
#define QUERN_SERVE_H

#include <math.h>

#include "base/base.h"
#include "quern.h"
#include "parts.h"

struct serve_options {
    const char *host;
    uint16_t port;
    const char *api_key;      /* NULL: none is asked for */
    const char *const *hosts; /* [n_hosts] names that the Host header may have, besides those of this machine */
    size_t n_hosts;
    const char *const *origins; /* [n_origins] that browsers may come from, besides this machine; "*": any */
    size_t n_origins;
    size_t body_limit;        /* bytes */
    unsigned timeout_seconds; /* of a connection on which nothing moves */
    unsigned max_connections;
    uint32_t n_queue;                    /* requests that may wait in the engine */
    bool verbose;                        /* a line on stderr for each request */
    quern_context_policy context_policy; /* of requests that ask for none */
};

struct server {
    const quern_model *model;
    quern_engine *engine;          /* NULL: the model only embeds */
    quern_speculation speculation; /* of the engine */
    quern_model_info info;
    const char *name;                         /* that clients call the model */
    const char *digest;                       /* 64 hexadecimal digits, made of its name and size */
    char *description;                        /* quern_model_describe */
    bool template_has_tools, template_thinks; /* the chat template has a place for tools; and for thinking */
    const struct tool_style *tool_style;
    bool own_tool_style; /* the model's own is not known */
    int64_t started;     /* seconds since 1970 */
    uint64_t n_calls;    /* for ids */
    struct serve_options o;
    const quern_lora *loras; /* [n_loras] the engine's adapters */
    size_t n_loras;
    float *lora_scales;   /* [n_loras] of requests that say nothing */
    struct job *jobs;     /* that are under way */
    uint32_t n_open;      /* calls that are answered */
    bool stopping;        /* no more are taken */
    bool scoring;         /* a prompt is computed beside the engine (prompts.c) */
    struct monitor *lock; /* of n_calls, lora_scales, jobs, n_open, stopping and scoring */
    quern_embed_options embed_options;
    struct monitor *embed_lock; /* of embedder: NULL until the first use; used by one thread at a time */
    quern_embedder *embedder;
};

struct MHD_Connection;
struct MHD_Response;

/* One HTTP request with its body. */
struct call {
    struct server *server;
    struct MHD_Connection *connection;
    const char *method, *path;
    struct arena arena; /* lives as long as the answer */
    struct buf body;
    const struct json *json; /* the body; NULL where there is none */
    struct job *job;
    uint64_t number; /* of this call */
    uint64_t start;  /* clock_ns */
    unsigned status;
    bool too_large, open; /* open: counted in n_open */
};

/* ---- answering --------------------------------------------------------------------------------------------------------- */

/* All return what the handler returns: whether libmicrohttpd took the answer. body is emptied. rc: what the appends to it
 * returned, several of them or'ed. */
int serve_text(struct call *c, unsigned status, const char *type, struct buf *body, int rc);
int serve_json(struct call *c, unsigned status, struct buf *body, int rc);
/* An error as the dialect of the path says it. */
int serve_error(struct call *c, unsigned status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The same for an error of the library: 400, 503 with Retry-After, 500. */
int serve_failure(struct call *c, const quern_error *err);
unsigned serve_status(int code); /* of an error of the library */
/* r, which becomes its own, with the headers that all answers have. */
int serve_response(struct call *c, unsigned status, const char *type, struct MHD_Response *r);

/* ---- jobs (jobs.c) ----------------------------------------------------------------------------------------------------- */

/* What is asked about calls of tools. */
struct calls {
    const struct json *tools;   /* an array; NULL: none may be called */
    struct str name;            /* the only function that may be called; n 0: all may, or */
    const struct json *allowed; /* those in this array; NULL: all */
    bool must, parallel;        /* nothing else is an answer; several calls may follow one another */
    bool held;                  /* they are part of the form, and in the model's own style */
};

/* The options that all dialects share, as they have been read. */
struct asked {
    quern_tokens *prompts; /* [n_prompts] in the call's arena, each owned */
    uint32_t n_prompts;
    quern_sampling sampling;
    uint32_t max_tokens;
    bool prompt_only; /* max_tokens is 0 there where there is no limit */
    const char *stop[16];
    size_t n_stop;
    bool ignore_eos;
    quern_form form;
    bool split, tools, opened; /* a chat; which has tools; whose prompt opens the thinking */
    struct calls calls;
    quern_logit_bias *bias; /* in the call's arena */
    size_t n_bias;
    quern_context_policy context_policy;
    uint32_t n_keep, dropped_messages, dropped_tokens;
    const float *lora_scales; /* [n_loras] likewise; NULL: the server's */
    quern_speculate speculate;
    uint32_t draft_max, draft_min;
    const int32_t *expected; /* [n_expected] what the answer may resemble, in the call's arena */
    size_t n_expected;
};

struct job;
/* A prompt that an answer tells. */
struct prompt {
    struct str text;
    uint32_t n_tokens;
    struct str probs; /* objects as of serve_put_prob, parted by commas; n 0: not asked for */
};
/* One of the answers that a job's prompts get; a request of the engine. */
struct choice {
    struct job *job;
    uint32_t index;
    quern_request *request;
    struct buf text, thinking; /* all so far */
    struct parts parts;
    struct tool_call *calls; /* [n_calls] at the end */
    size_t n_calls;
    struct buf probs;                 /* logprobs that were not sent yet: objects, parted by commas */
    size_t probs_offset, probs_bytes; /* characters and bytes of the tokens that were sent; of completions */
    uint64_t n_chunks;                /* of a stream, that the dialect has made */
    struct buf ids;                   /* int32_t: tokens that were not sent yet, where they are asked for */
    quern_result so_far;              /* up to the last token */
    uint32_t n_thinking;              /* tokens of the thinking */
    uint64_t first;                   /* clock_ns of the first token; 0: none came */
    bool late;                        /* it took longer than the job's limit */
    bool opened;                      /* what it repeats of its prompt was handed out */
    quern_request_result r;           /* at the end; its texts live as long as the request, but for the tail */
};

/* How a dialect says what happens. All append to out and return 0 or ERR_NOMEM. They run on the engine's thread inside the
 * job's lock, error and fail also on the thread that stops the server, whole on that of the connection. */
struct dialect {
    const char *stream_type;                                                          /* Content-Type of a stream */
    int (*token)(struct choice *x, struct buf *out, enum part part, struct str text); /* some more of a choice; streams only */
    int (*end)(struct choice *x, struct buf *out);                                    /* the last of a choice in a stream */
    int (*close)(struct job *j, struct buf *out); /* the last of a stream, behind all ends; NULL: nothing */
    int (*whole)(struct job *j, struct buf *out); /* the answer at once, when all is done */
    int (*error)(struct buf *out, unsigned status, const char *message); /* in place of an answer */
    int (*fail)(struct buf *out, unsigned status, const char *message);  /* the last of a stream that has begun */
};

struct job {
    struct call *call;
    const struct dialect *dialect;
    struct asked asked; /* without its prompts, once it has begun */
    bool stream, chat;
    struct choice *choices; /* [n_choices] the n_each of the first prompt, of the second one, .. */
    uint32_t n_choices, n_each;
    struct job *next; /* of the server's, inside its lock */
    /* For the dialect. */
    const char *id;
    int64_t created;
    bool include_usage, logprobs;
    bool echo, tell;        /* answers begin with their prompt; prompts are told */
    struct prompt *prompts; /* [prompts] where either is */
    uint32_t n_top;
    bool ids, timings;         /* tokens by their ids; times with each of them */
    uint64_t limit_ns;         /* time from the first token on, after which an answer with a line end stops; 0: none */
    const struct json *fields; /* that are wanted of an answer; NULL: all */
    /* Between the threads. */
    struct monitor *lock;
    struct buf pending; /* bytes to send */
    unsigned status;    /* of the answer */
    uint32_t n_ended;   /* choices */
    bool begun;         /* a stream has something that was or can be sent */
    bool done, gone;    /* nothing follows; nobody gets what does: the client has left, or memory ran out */
};

/* The job of a call, in its arena, which ends with the call; n_each: answers to each of its n_prompts. NULL: no memory. */
struct job *serve_new_job(struct call *c, const struct dialect *d, bool stream, uint32_t n_prompts, uint32_t n_each);
/* Starts the job and answers when it begins to speak (streams) or is done. The prompts are freed. */
int serve_job(struct call *c, struct job *j, struct asked *asked);
void serve_end_job(struct job *j);
#define SERVE_WATCH_MS 100 /* in which a client that leaves is noticed */
#define SERVE_ENDS "the server is ending"
/* Whether somebody waits for the answer: the client is there, and the server does not end. Inside the server's lock. */
bool serve_is_wanted(const struct call *c);
/* Ends all jobs with an error, because the server ends; those that come are refused. */
void serve_stop_jobs(struct server *s);
/* Appends {"id":..,"token":"..","logprob":..,"bytes":[..],"top_logprobs":[..]}; null where the logprob is not a number. */
int serve_put_prob(struct call *c, struct buf *b, const quern_token *t);
/* Makes the job's prompts, of asked.prompts; 0 or an error. */
int serve_tell_prompts(struct call *c, struct job *j, quern_error *err);
/* Whether a text that begins with this token is shown without the space that the token begins with. */
bool serve_loses_space(const struct call *c, int32_t id);
void serve_free_prompts(struct asked *a);
/* Appends the array of the choice's logprobs that were not sent yet, which thereby are. */
int serve_new_probs(struct choice *x, struct buf *b);

/* ---- reading requests -------------------------------------------------------------------------------------------------- */

/* A member of obj by name with a range; false with an error on *answer (that was given) where it has another kind or is out of
 * range. */
bool ask_number(struct call *c, const struct json *obj, const char *key, double min, double max, double *io, int *answer);
bool ask_integer(struct call *c, const struct json *obj, const char *key, double min, double max, double *io, int *answer);
/* *out: NULL where there is none. */
bool ask_object(struct call *c, const struct json *obj, const char *key, const struct json **out, int *answer);
bool ask_bool(struct call *c, const struct json *obj, const char *key, bool *io, int *answer);
/* Whether it is a string that serve_copy can copy: one without NUL. */
bool ask_is_text(const struct json *j);
/* A string or an array of them. */
bool ask_stop(struct call *c, const struct json *obj, const char *key, struct asked *out, int *answer);
/* temperature, top_p, top_k, min_p, penalties, seed, bias of obj; samplers; speculative.n_max (0: no guesses) and
 * speculative.n_min. */
bool ask_sampling(struct call *c, const struct json *obj, struct asked *out, int *answer);
/* "context_policy" and "n_keep". Before the prompt, which depends on them. */
bool ask_context(struct call *c, const struct json *obj, struct asked *out, int *answer);
/* "lora": an array of adapters by id, with their scales; those that it does not name are not used. */
bool ask_loras(struct call *c, const struct json *obj, struct asked *out, int *answer);
/* The server's scales now, [n_loras] in the call's arena; false: no memory. */
bool serve_lora_scales(struct call *c, const float **out);
/* Whether and how hard to think, a member of the request, as variables of the template, together with those in extra (may be
 * NULL); *kwargs is in the call's arena, NULL where nothing is said. */
bool ask_thinking(struct call *c, const struct json *obj, const char *key, const struct json *extra, const char **kwargs,
                  int *answer);
/* The text of a conversation's prompt: messages with content parts joined, arguments of tool calls as objects. *prompt is owned
 * by the caller. */
bool ask_render(struct call *c, const struct json *messages, const struct json *tools, const char *kwargs, struct asked *out,
                quern_string *prompt, int *answer);
/* The same as the tokens of asked, and ask_hold_calls. */
bool ask_chat(struct call *c, const struct json *messages, const struct json *tools, const char *kwargs, struct asked *out,
              int *answer);
/* An error where obj has one of the members, names [n] with what is said of them, that is neither null nor empty. */
struct refused {
    const char *key, *why;
};
bool ask_refused(struct call *c, const struct json *obj, const struct refused *names, size_t n, int *answer);
/* "top_logprobs", which says something only where there are logprobs. */
bool ask_top(struct call *c, const struct json *obj, bool logprobs, uint32_t *out, int *answer);
/* Appends the text of a message's content: a string, or text parts. */
bool ask_content(struct buf *text, const struct json *content);
/* Whether the conversation has something of tools, and the chat template has no place for it (tool_text.c). */
bool tool_text_needed(const struct call *c, const struct json *messages, const struct json *tools);
/* Appends the array of messages that says it in words. */
bool tool_text_put(struct buf *b, const struct json *messages, const struct json *tools);
/* An array of token ids; what: how the message begins. *out is owned by the caller. */
bool ask_ids(struct call *c, const struct json *array, const char *what, quern_tokens *out, int *answer);
/* A text, tokenized with special tokens, or an array of token ids and texts; key: of it in the request. *out is owned by the
 * caller. */
bool ask_prompt(struct call *c, const char *key, const struct json *prompt, bool parse_special, quern_tokens *out, int *answer);
/* The same, or an array of them, as the prompts of asked; and how many there are. */
bool ask_prompts(struct call *c, const char *key, const struct json *prompt, struct asked *out, int *answer);
uint32_t ask_prompt_count(const struct json *prompt);
/* How many answers there are to each, as many as the server takes at once. */
bool ask_choices(struct call *c, const struct json *obj, const char *key, uint32_t n_prompts, double *io, int *answer);
/* OpenAI's "prediction", a text that the answer may resemble. */
bool ask_prediction(struct call *c, const struct json *obj, struct asked *out, int *answer);
/* A text as the only prompt. */
bool ask_text(struct call *c, struct str text, unsigned flags, struct asked *out, int *answer);
/* "images", in a request or a message of Ollama's, must be empty: nothing here reads them. */
bool ask_images(struct call *c, const struct json *obj, int *answer);
/* The form of the answer, by the names of all dialects: grammar, json_schema, format, response_format. */
bool ask_form(struct call *c, const struct json *obj, struct asked *out, int *answer);

/* "tools", "tool_choice" and "parallel_tool_calls", behind ask_form: *tools becomes NULL where none may be called. */
bool ask_tools(struct call *c, const struct json *obj, const struct json **tools, struct asked *out, int *answer);
/* Puts the calls into the form, where they are held to something. */
bool ask_hold_calls(struct call *c, struct asked *a, int *answer);
/* Whether the request has a function of this name. */
bool ask_is_tool(const struct call *c, struct str name);

char *serve_copy(struct call *c, struct str s); /* with a NUL, in the call's arena; NULL: no memory */

/* ---- the dialects' handlers ---------------------------------------------------------------------------------------------- */

int openai_chat(struct call *c);
int openai_completions(struct call *c);
int openai_models(struct call *c);
int openai_error(struct buf *b, unsigned status, const char *message);

int openai_embeddings(struct call *c);
int ollama_embed(struct call *c);
int ollama_embeddings(struct call *c);

int ollama_root(struct call *c);
int ollama_chat(struct call *c);
int ollama_generate(struct call *c);
int ollama_tags(struct call *c);
int ollama_ps(struct call *c);
int ollama_show(struct call *c);
int ollama_version(struct call *c);
int ollama_error(struct buf *b, unsigned status, const char *message);

int native_completion(struct call *c);
/* {..}: what answers are drawn with; x NULL: those of requests that ask for nothing else. */
int native_settings(struct buf *b, const struct asked *a, const struct choice *x);
/* ,"timings":{..} as llama-server has it. */
int native_timings(struct buf *b, const quern_result *x);
int native_rerank(struct call *c);
int native_loras(struct call *c);
int native_set_loras(struct call *c);
int native_health(struct call *c);
int native_metrics(struct call *c);
int native_props(struct call *c);
int native_slots(struct call *c);
int native_apply_template(struct call *c);
int native_tokenize(struct call *c);
int native_detokenize(struct call *c);

/* Listens until stop_fd can be read; 0 or an error. on_ready is called when connections are taken, with the port. */
int serve_run(struct server *s, int stop_fd, void (*on_ready)(const struct server *s, uint16_t port), struct err *e);

#endif
