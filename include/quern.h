/* quern.h: run open-weight language models on the machine you have.
 *
 * Four objects:
 *   quern_model    an open model file or folder: weights mapped read-only, tokenizer, chat template. Immutable; any number of
 *                  threads and sessions may share it.
 *   quern_session  one sequence of tokens with its KV cache and compute threads. One thread at a time.
 *   quern_engine   a thread that computes many sequences together, for servers. Any thread may submit.
 *   quern_error    why a call failed; yours, usually on the stack.
 *
 * A whole program:
 *
 *     quern_error err;
 *     quern_model *model;
 *     quern_session *session;
 *     if (quern_model_open("model.gguf", NULL, &model, &err) < 0) ...
 *     if (quern_session_new(model, NULL, &session, &err) < 0) ...
 *     quern_generate_options opts = {.on_text = print_it};
 *     quern_chat(session, "[{\"role\":\"user\",\"content\":\"Hello\"}]", &opts, NULL, &err);
 *     quern_session_free(&session);
 *     quern_model_close(&model);
 *
 * Rules that hold everywhere: functions return 0 or a negative QUERN_ERR_ code and then fill err (which may be NULL); on
 * failure nothing has changed, but for a cancelled call, which may leave the session with fewer tokens (quern_session_get_info
 * tells how many) and part of its output written. Option structs start zeroed, and zero means the default; quern_sampling
 * starts from quern_sampling_default. Text is UTF-8. The same model, tokens and options give the same bytes on every CPU, with
 * any number of threads and any batch size. No function exits, prints, or reads the environment. Threads that call Quern must
 * have the floating-point environment that programs start with: rounding to nearest, subnormals not flushed to zero. */
#ifndef QUERN_H
#define QUERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QUERN_API __attribute__((visibility("default")))

#define QUERN_VERSION "0.1.0"

/* ---- errors ------------------------------------------------------------------------------------ */

enum {
    QUERN_ERR_NOMEM = -1,       /* out of memory */
    QUERN_ERR_IO = -2,          /* a file could not be read or written */
    QUERN_ERR_FORMAT = -3,      /* a file is malformed */
    QUERN_ERR_UNSUPPORTED = -4, /* a file asks for something that Quern does not do */
    QUERN_ERR_ARG = -5,         /* an argument is out of range */
    QUERN_ERR_LIMIT = -6,       /* a resource limit was reached */
    QUERN_ERR_NOTFOUND = -7,    /* a file or name does not exist */
    QUERN_ERR_CONTEXT = -8,     /* the tokens do not fit into the context; the message has the counts */
    QUERN_ERR_CANCELLED = -9,   /* quern_session_cancel */
    QUERN_ERR_TEMPLATE = -10,   /* the chat template refused the conversation; the message is its own */
};

typedef struct quern_error {
    int code;
    char message[504]; /* one plain line: what, where, what to do */
} quern_error;

/* Text or tokens that a call made for you; free with quern_string_free / quern_tokens_free (NULL members are fine). */
typedef struct quern_string {
    char *text; /* NUL-terminated; may contain NULs before length */
    size_t length;
} quern_string;
typedef struct quern_tokens {
    int32_t *ids;
    size_t count;
} quern_tokens;

QUERN_API void quern_string_free(quern_string *s);
QUERN_API void quern_tokens_free(quern_tokens *t);

QUERN_API const char *quern_version(void); /* of the library that is linked */

/* ---- model ---------------------------------------------------------------------------------------- */

typedef struct quern_model quern_model;

/* Zeroed: weights are used in place from a read-only mapping that all processes share, and a thread of the model makes its
 * pages present in the background, in the order in which the first pass needs them. */
typedef struct quern_model_options {
    bool vocab_only; /* tokenizer and chat template only; also accepts a bare tokenizer.json and a GGUF file without weights */
    bool copy;       /* read the weights into memory of this process, with huge pages, instead of mapping them */
    bool lock;       /* keep the weights in memory; needs the right to (RLIMIT_MEMLOCK) */
    bool prefault;   /* return only when all weights are in memory */
    bool lazy;       /* no background thread: pages come when they are used, if ever */
} quern_model_options;

/* path: a .gguf file (any part of a split one), or a Hugging Face folder (config.json, *.safetensors, tokenizer.json). */
QUERN_API int quern_model_open(const char *path, const quern_model_options *options, quern_model **out, quern_error *err);
/* All sessions of the model must be freed before. Sets *model to NULL. */
QUERN_API void quern_model_close(quern_model **model);

/* Multiply-adds, by the arithmetic that computes them. */
typedef struct quern_macs {
    uint64_t int8, f32;
} quern_macs;

typedef struct quern_model_info {
    const char *name;         /* general.name or the folder's name */
    const char *architecture; /* "llama" */
    const char *file_kind;    /* "GGUF v3", "Hugging Face folder" */
    const char *weight_type;  /* the type that holds most of the weights: "q8_0" */
    uint64_t parameters, weight_bytes;
    uint64_t bytes_per_token;     /* weight bytes that one decode step reads */
    quern_macs macs, output_macs; /* of one token in the matrices of the layers; for the logits of one position */
    uint32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab;
    uint32_t n_ctx_train; /* context length that the model was trained for */
    bool has_chat_template;
    bool embeds_only;    /* makes vectors of texts and does not write: sessions and engines refuse it */
    double load_seconds; /* wall time of quern_model_open */
} quern_model_info;

/* Strings live as long as the model. With vocab_only, only name, n_vocab and file_kind are set. */
QUERN_API void quern_model_get_info(const quern_model *model, quern_model_info *out);
/* Everything about the model as one JSON object: architecture, hyper-parameters, tensors (name, type, shape, bytes), metadata
 * (long arrays shortened), tokenizer, template, sampling defaults, and in "unsupported" a line for each part of the files that
 * is not used. */
QUERN_API int quern_model_describe(const quern_model *model, quern_string *json, quern_error *err);

/* ---- text and tokens --------------------------------------------------------------------------------- */

enum {
    QUERN_ADD_SPECIAL = 1,   /* add BOS / EOS where the model asks for them */
    QUERN_PARSE_SPECIAL = 2, /* special tokens written in the text become their ids */
};
QUERN_API int quern_tokenize(const quern_model *model, const char *text, size_t length, unsigned flags, quern_tokens *out,
                             quern_error *err);
/* show_special: control tokens by name instead of nothing. */
QUERN_API int quern_detokenize(const quern_model *model, const int32_t *ids, size_t count, bool show_special, quern_string *out,
                               quern_error *err);
/* The bytes that one token stands for inside of a text: maybe a part of a character, whose other part is the next token's. Of
 * control tokens, the name. */
QUERN_API int quern_token_bytes(const quern_model *model, int32_t id, quern_string *out, quern_error *err);

typedef struct quern_render_options {
    const char *template_text; /* Jinja source used instead of the model's own; model may then be NULL */
    const char *tools_json;    /* array of tools, or NULL */
    const char *kwargs_json;   /* object of extra template variables (chat_template_kwargs), or NULL */
    const char *bos, *eos;     /* bos_token and eos_token; NULL: the model's */
    int64_t now;               /* for strftime_now: seconds since 1970 in local time; 0: the clock of this machine */
    bool add_generation_prompt;
} quern_render_options;

/* messages_json: array of {"role":..,"content":..}. */
QUERN_API int quern_render(const quern_model *model, const char *messages_json, const quern_render_options *options,
                           quern_string *out, quern_error *err);

/* What becomes of a conversation that is longer than its context. Nothing is ever left out but by a policy that was chosen, and
 * then results say how much. */
typedef enum quern_context_policy {
    QUERN_CONTEXT_ERROR,            /* QUERN_ERR_CONTEXT with the counts; an answer ends where the context is full */
    QUERN_CONTEXT_DROP_OLDEST_TURN, /* the oldest turns of a conversation are left out; for what has messages */
    QUERN_CONTEXT_SHIFT,            /* when an answer fills the context, half of what lies behind the first n_keep tokens is
                                     * left out, the rest is computed anew, and the answer goes on. With any model */
} quern_context_policy;
/* "error", "drop-oldest-turn", "shift"; false: none of these. */
QUERN_API bool quern_context_policy_named(const char *name, quern_context_policy *out);

/* Leaves out the oldest turns of a conversation until it has no more than n_max tokens, rendered as options say (NULL: zeroed)
 * and tokenized as quern_chat does. A turn goes from a message of the user to the next one; the last turn, what stands before
 * the first, and all that the system says stay: QUERN_ERR_CONTEXT with the counts where these are too long. *out gets the
 * messages as JSON; the numbers, where not NULL, what was left out. */
QUERN_API int quern_fit_messages(const quern_model *model, const char *messages_json, const quern_render_options *options,
                                 size_t n_max, quern_string *out, uint32_t *dropped_messages, uint32_t *dropped_tokens,
                                 quern_error *err);
/* ---- adapters ------------------------------------------------------------------------------------------- */

/* A LoRA adapter: a folder as PEFT saves it (adapter_config.json, adapter_model.safetensors), or a GGUF file; either goes with
 * a model of either kind. Sessions and engines open the adapters that they are given and close them. What an adapter adds is
 * computed beside the model's weights, which stay as they are. */
typedef struct quern_lora {
    const char *path;
    float scale; /* what it adds is multiplied by this, beside its own scale; 0: it is not used until that is changed */
} quern_lora;

QUERN_API bool quern_is_adapter(const char *path);
/* Everything about an adapter as one JSON object: rank, alpha, its model's name, tensors, metadata. QUERN_ERR_UNSUPPORTED where
 * it asks for more than plain LoRA. */
QUERN_API int quern_adapter_describe(const char *path, quern_string *json, quern_error *err);

/* ---- speculation ---------------------------------------------------------------------------------------- */

/* Speculative decoding: several tokens in one step. Draft tokens are checked by the model together, and those that it would
 * have written itself are accepted. Nothing else changes: text, tokens and probabilities are the same to the last bit, drawn
 * ones too. What steps cost and how many are accepted is measured while requests run; there are as many as pays. */
typedef enum quern_speculate {
    QUERN_SPECULATE_AUTO, /* from the sources below, by what they promise: the model's own head where there is no draft model */
    QUERN_SPECULATE_OFF,  /* one token in each step */
    QUERN_SPECULATE_LOOKUP, /* what followed the same tokens earlier in prompt and answer */
    QUERN_SPECULATE_DRAFT,  /* what the draft model expects */
    QUERN_SPECULATE_MTP     /* what the model's own head for multi-token prediction expects; an error where it has none */
} quern_speculate;

typedef struct quern_speculation {
    quern_speculate how;
    const quern_model *draft; /* a small model, best with the same vocabulary, which must outlive what uses it; NULL: none */
    uint32_t draft_max;       /* most draft tokens of a step, of all requests together, up to 64; 0: 16 */
    uint32_t draft_min;       /* fewer of one request are not tried; 0: 1 */
} quern_speculation;

/* ---- session -------------------------------------------------------------------------------------------- */

typedef struct quern_session quern_session;

typedef struct quern_session_options {
    uint32_t n_ctx;              /* tokens the session can hold; 0: the model's training context, at most 4096 */
    uint32_t n_batch;            /* most tokens computed at once in prefill; 0: 512 */
    uint32_t n_threads;          /* 0: what the machine and its limits allow */
    uint32_t n_expected;         /* tokens the sequence will reach, where known; models whose rotary embedding depends on the
                                  * length (LongRoPE, dynamic) then use the right one from the start. 0: as tokens come */
    const char *k_type, *v_type; /* of the cached keys and values: "f16" (NULL), "f32", "bf16", "q8_0", "q4_0" */
    const char *cpu_level;       /* "scalar", "avx2", ...; NULL: the best. The results are the same */
    const quern_lora *loras;     /* adapters; copied */
    size_t n_loras;
    quern_speculation speculation; /* of quern_generate */
} quern_session_options;

/* Reserves everything that later calls need: the KV cache, activations, logits, threads. */
QUERN_API int quern_session_new(const quern_model *model, const quern_session_options *options, quern_session **out,
                                quern_error *err);
QUERN_API void quern_session_free(quern_session **session);

typedef struct quern_session_info {
    uint32_t n_ctx, n_batch, n_threads, n_tokens; /* n_tokens: held now */
    const char *k_type, *v_type, *cpu_level;
    uint64_t kv_bytes, compute_bytes; /* KV cache; activations, logits and scratch */
    uint64_t kv_token_bytes;          /* of the cache that one token takes, and a decode step reads */
    uint64_t state_bytes;             /* of recurrent layers: the present state, and earlier ones to go back to */
    uint64_t state_step_bytes;        /* of them that a decode step reads and writes */
    uint64_t draft_bytes;             /* cache and activations of the draft model, or of the model's own head */
    bool speculates;                  /* there may be draft tokens */
} quern_session_info;
QUERN_API void quern_session_get_info(const quern_session *session, quern_session_info *out);

/* Appends count tokens. logits, where not NULL, gets [count][n_vocab] floats: row i is what follows token i. */
QUERN_API int quern_session_eval(quern_session *session, const int32_t *ids, size_t count, float *logits, quern_error *err);
/* Forgets all tokens from position n_keep on. */
QUERN_API void quern_session_truncate(quern_session *session, uint32_t n_keep);
/* Changes the scales of the session's adapters, [n_loras] of its options, for all tokens: where they differ from before, the
 * session forgets what it holds. QUERN_ERR_ARG where one is not finite. */
QUERN_API int quern_session_set_loras(quern_session *session, const float *scales, quern_error *err);
/* Makes a running quern_session_eval, quern_session_score or quern_generate return soon; callable from any thread and from a
 * signal handler. The next call starts afresh. */
QUERN_API void quern_session_cancel(quern_session *session);

/* What limits the speed of a session on this machine; bench measures it in the run that it judges. */
typedef struct quern_limits {
    double bandwidth_gb_s;      /* reading the model's weights where they lie, with the session's threads */
    double bandwidth_huge_gb_s; /* reading anonymous memory with huge pages */
    double int8_tops, f32_tops; /* 10^12 operations a second of the arithmetic units at the session's CPU level; a multiply-add
                                 * counts as two */
} quern_limits;
/* Takes about a second, and up to 1 GiB of memory for the while. */
QUERN_API int quern_session_measure(const quern_session *session, quern_limits *out, quern_error *err);

/* ---- generation --------------------------------------------------------------------------------------------- */

typedef struct quern_logit_bias {
    int32_t id;
    float bias; /* added to the logit; -INFINITY bans the token */
} quern_logit_bias;

/* Negative numbers mean: not set, take the model's default (generation_config), else the one in brackets.
 * quern_sampling_default fills it so. */
typedef struct quern_sampling {
    float temperature;       /* [0.8] 0: greedy */
    int32_t top_k;           /* [40] 0: off */
    float top_p;             /* [0.95] 1: off */
    float min_p;             /* [0.05] 0: off */
    uint32_t min_keep;       /* candidates that top_p and min_p leave at least; 0: one */
    float repeat_penalty;    /* [1] 1: off */
    float presence_penalty;  /* [0] */
    float frequency_penalty; /* [0] */
    int32_t penalty_last_n;  /* [64] tokens that the penalties look at */
    uint64_t seed;           /* the draws depend on it and on nothing else */
    const quern_logit_bias *logit_bias;
    size_t n_logit_bias;
} quern_sampling;

QUERN_API quern_sampling quern_sampling_default(void); /* every member "not set", seed 0 */
QUERN_API quern_sampling
quern_sampling_of(const quern_model *model); /* with the model's defaults and the bracketed ones filled in */

typedef enum quern_stop {
    QUERN_STOP_EOS,
    QUERN_STOP_LENGTH,
    QUERN_STOP_CONTEXT,
    QUERN_STOP_STRING,
    QUERN_STOP_CALLBACK
} quern_stop;

/* The form that an answer must have. docs/structured-output.md tells which keywords of JSON Schema can be honoured: what cannot
 * is an error, never left out. An answer that max_tokens or the context ends may be incomplete; every other one has the form.
 */
typedef enum quern_form_kind {
    QUERN_FORM_FREE,
    QUERN_FORM_JSON,   /* a JSON object; no text */
    QUERN_FORM_SCHEMA, /* text: a JSON Schema */
    QUERN_FORM_GBNF,   /* text: a grammar in llama.cpp's notation */
    QUERN_FORM_REGEX,  /* text: an ECMAScript regular expression that the whole answer matches */
    QUERN_FORM_PARTS,  /* text: a JSON object of parts, put together of texts and the other forms */
} quern_form_kind;
typedef struct quern_form {
    quern_form_kind kind;
    const char *text;
    const char *after; /* "</think>": the form is that of what follows this text, which must come; NULL: of all */
    const char *mark;  /* "[TOOL_CALLS]": a control token of this name, which has no text, may stand in front of what has the
                        * form; NULL, or the model has no such one: nothing may */
} quern_form;
/* Whether a form can be honoured: QUERN_ERR_ARG, QUERN_ERR_UNSUPPORTED and QUERN_ERR_LIMIT name the line and column, or the
 * JSON pointer. Any thread; the model is not needed. Calls that take a form fail in the same way. */
QUERN_API int quern_form_check(const quern_form *form, quern_error *err);

typedef struct quern_generate_options {
    const quern_sampling *sampling; /* NULL: the model's defaults */
    uint32_t max_tokens;            /* 0: until the model stops or the context is full */
    const char *const *stop;        /* stop strings: generation ends before the first one, which is not part of the text */
    size_t n_stop;
    bool ignore_eos;   /* go on after end-of-text tokens */
    bool show_special; /* control tokens by name in the text */
    /* Dropping turns is for quern_chat: they go until max_tokens have room, or where that is 0 a quarter of the context. */
    quern_context_policy context_policy;
    uint32_t n_keep;               /* QUERN_CONTEXT_SHIFT: first tokens that stay; at least 1, at most half of the context */
    quern_form form;               /* zeroed: free */
    quern_speculate speculate;     /* AUTO: as the session */
    uint32_t draft_max, draft_min; /* 0: as the session */
    const char *kwargs_json;       /* quern_chat: object of extra template variables, as in quern_render_options, or NULL */
    /* Called with each piece of text (whole characters, maybe several tokens after one another); non-zero ends the generation.
     */
    int (*on_text)(void *user, const char *text, size_t length);
    /* Called with each token before its text. */
    int (*on_token)(void *user, int32_t id);
    void *user;
} quern_generate_options;

typedef struct quern_result {
    quern_stop stop;
    uint32_t stop_index;                                         /* QUERN_STOP_STRING: of which stop string */
    uint32_t n_prompt;                                           /* tokens of the prompt */
    uint32_t n_reused;                                           /* of these, found in the KV cache */
    uint32_t n_generated;                                        /* the end-of-text token included */
    uint32_t n_drafted, n_accepted;                              /* draft tokens; those that were right */
    uint32_t n_expected, n_expected_accepted;                    /* of these, from what was expected */
    double prefill_seconds, first_token_seconds, decode_seconds; /* decode: after the first token */
    uint64_t decode_bytes;                                       /* weights and KV cache read by the decode steps */
    uint32_t dropped_messages, dropped_tokens;                   /* that the context policy left out */
} quern_result;

/* A token and what may be shown of the text so far: whole characters, no part of a stop string. */
typedef struct quern_token {
    int32_t id;
    const char *text; /* length bytes, valid during the call */
    size_t length;
    float logprob; /* natural logarithm, where asked for; of the distribution before sampling options */
    const int32_t *top_ids;
    const float *top_logprobs; /* [n_top], likeliest first */
    size_t n_top;
    quern_result so_far; /* of a request: the counts and times up to this token */
} quern_token;

/* Appends count tokens, and tells of each but the first what the model thought of it, in order: fn gets its logprob and n_top
 * likeliest tokens, at most 20, and no text. */
QUERN_API int quern_session_score(quern_session *session, const int32_t *ids, size_t count, uint32_t n_top,
                                  void (*fn)(void *user, const quern_token *token), void *user, quern_error *err);

/* Makes the session hold exactly prompt (what it already holds of its beginning is kept, not recomputed), then generates after
 * it. The prompt alone must fit the context: QUERN_ERR_CONTEXT otherwise, and the session is as it was. result may be NULL. */
QUERN_API int quern_generate(quern_session *session, const int32_t *prompt, size_t count, const quern_generate_options *options,
                             quern_result *result, quern_error *err);
/* Renders the conversation with the model's chat template (generation prompt added), tokenizes it, and generates. */
QUERN_API int quern_chat(quern_session *session, const char *messages_json, const quern_generate_options *options,
                         quern_result *result, quern_error *err);

/* ---- engine: many requests at once ------------------------------------------------------------------------------- */

/* One thread that computes the requests of any number of callers together: prompts in pieces between the steps that write
 * answers. What a request gets does not depend on the others. All functions may be called from any thread. */
typedef struct quern_engine quern_engine;
typedef struct quern_request quern_request;

typedef struct quern_engine_options {
    uint32_t n_ctx;      /* most tokens of one request, prompt and answer; 0: the model's training context, at most 4096 */
    uint32_t n_parallel; /* most requests computed together; 0: 4 */
    uint32_t n_queue;    /* most requests that wait; 0: 64 */
    uint32_t n_batch;    /* most tokens computed in one step; 0: 512 */
    uint32_t n_threads;  /* 0: what the machine and its limits allow */
    uint64_t kv_bytes;   /* of the cache that all requests share, and that keeps the beginnings of ended ones; 0: room for
                          * n_parallel requests of n_ctx tokens, or less where weights and engine would take more than 70 % of
                          * the machine's memory, but always for one */
    const char *k_type, *v_type; /* as in quern_session_options */
    const char *cpu_level;
    bool no_prefix; /* requests do not use again what others computed */
    /* A folder where the beginnings of ended requests are kept, too, and found again after a restart, a crash, or another
     * model; processes may share it. NULL: they are kept in memory alone. It is made, for this user alone: its files hold what
     * was said, as tokens. */
    const char *prefix_folder;
    uint64_t prefix_bytes; /* of its files, and at most half of what the disk has left; 0: 8 GiB */
    /* Told one line when a file there cannot be used (it is then ignored) or written. On a thread of the engine. */
    void (*on_message)(void *user, const char *line);
    void *user;
    const quern_lora *loras; /* adapters that requests may use, with scales for those that say nothing; copied */
    size_t n_loras;
    quern_speculation speculation;
} quern_engine_options;

QUERN_API int quern_engine_new(const quern_model *model, const quern_engine_options *options, quern_engine **out,
                               quern_error *err);
/* All requests must be freed before. Sets *engine to NULL. */
QUERN_API void quern_engine_free(quern_engine **engine);

typedef struct quern_engine_info {
    uint32_t n_ctx, n_parallel, n_batch, n_threads;
    uint32_t n_running, n_waiting;
    uint64_t kv_bytes, kv_used_bytes, kv_cached_bytes; /* used: by running requests; cached: kept from ended ones */
    uint64_t kv_token_bytes, compute_bytes;
    uint64_t state_bytes; /* of recurrent layers: of running requests, and kept from ended ones */
    uint64_t prompt_tokens, reused_tokens, generated_tokens, requests; /* since the start */
    uint64_t restored_tokens;                                          /* of reused ones, from prefix_folder */
    uint64_t drafted_tokens, accepted_tokens;                          /* draft tokens; those that were right */
    double prefill_seconds, decode_seconds;                            /* that steps with and without prompt pieces took */
    uint64_t draft_bytes;                                              /* cache and activations of the draft model */
    bool speculates;                                                   /* there may be draft tokens */
    const char *k_type, *v_type, *cpu_level;
} quern_engine_info;
/* Of NULL, zeros. */
QUERN_API void quern_engine_get_info(quern_engine *engine, quern_engine_info *out);

typedef struct quern_request_result {
    int error; /* 0 or a negative code; then message says why */
    const char *message;
    quern_result result;
    const char *tail; /* text that was held back as the possible beginning of a stop string; tail_length bytes */
    size_t tail_length;
    /* Why no more of the prompt was reused: the position of the first token that differs from the nearest earlier sequence, the
     * token that it has there, and the one of the prompt; both -1 where the cache knew nothing further. Whole pages of 64
     * tokens are reused. */
    uint32_t miss_position;
    int32_t miss_expected, miss_found;
    uint32_t n_restored; /* of the reused tokens, from prefix_folder */
} quern_request_result;

typedef struct quern_request_options {
    const int32_t *prompt;
    size_t n_prompt;
    const quern_sampling *sampling; /* NULL: the model's defaults */
    uint32_t max_tokens;            /* 0: until the model stops or the context is full */
    const char *const *stop;
    size_t n_stop;
    bool ignore_eos, show_special;
    bool prompt_only; /* no token is written: the prompt is computed for requests that begin with it */
    bool logprobs;
    uint32_t n_top;  /* likeliest tokens to report with each, at most 20 */
    quern_form form; /* zeroed: free */
    /* Messages are the caller's to drop, with quern_fit_messages. For QUERN_CONTEXT_SHIFT max_tokens may be beyond n_ctx. */
    quern_context_policy context_policy;
    uint32_t n_keep;           /* as in quern_generate_options */
    const float *lora_scales;  /* [n_loras] of the engine's adapters for this request, 0: not used; NULL: those of its options.
                                * Requests with different ones are computed together */
    quern_speculate speculate; /* AUTO: as the engine */
    uint32_t draft_max, draft_min; /* 0: as the engine */
    const int32_t *expected; /* [n_expected] what the answer is thought to resemble: lookup takes draft tokens from it, too */
    size_t n_expected;
    /* Called on the engine's thread, one after the other; they must be quick and may not call the engine but for
     * quern_request_cancel. on_end is the last. */
    void (*on_token)(void *user, const quern_token *token);
    void (*on_end)(void *user, const quern_request_result *result);
    void *user;
} quern_request_options;

/* Copies what options point to. Fails at once: QUERN_ERR_CONTEXT where prompt and max_tokens cannot fit n_ctx, QUERN_ERR_LIMIT
 * where the queue is full. The request ends with on_end; free it after that, or at any time to cancel it. */
QUERN_API int quern_engine_submit(quern_engine *engine, const quern_request_options *options, quern_request **out,
                                  quern_error *err);

/* How far a request is. */
typedef struct quern_request_info {
    bool running;         /* it is computed; else it waits, or has ended */
    uint32_t slot;        /* of a running one: a number below n_parallel that no other running one has */
    uint32_t n_prompt;    /* tokens of the prompt */
    uint32_t n_known;     /* of these, found in the cache or computed */
    uint32_t n_reused;    /* of these, found */
    uint32_t n_generated; /* tokens of the answer */
} quern_request_info;
/* As of the last step. Any thread. */
QUERN_API void quern_request_get_info(quern_request *request, quern_request_info *out);
QUERN_API void quern_request_cancel(quern_request *request); /* on_end comes within a step */
/* Returns when no callback runs or will run any more; not from a callback. Sets *request to NULL. */
QUERN_API void quern_request_free(quern_request **request);

/* ---- vectors of texts -------------------------------------------------------------------------------------------- */

/* Turns texts into vectors, or scores pairs. One thread at a time. */
typedef struct quern_embedder quern_embedder;

typedef struct quern_embed_options {
    uint32_t n_ctx;      /* most tokens of a text; 0: what the model was trained for, at most 8192 */
    uint32_t n_threads;  /* 0: what the machine and its limits allow */
    const char *pooling; /* "mean", "cls" or "last"; NULL: as the model says */
    const char *cpu_level;
} quern_embed_options;

/* Any model: encoders as they are meant, others by the hidden states behind their last norm. */
QUERN_API int quern_embedder_new(const quern_model *model, const quern_embed_options *options, quern_embedder **out,
                                 quern_error *err);
QUERN_API void quern_embedder_free(quern_embedder **embedder);
QUERN_API uint32_t quern_embedder_dimensions(const quern_embedder *embedder);
/* out: [dimensions], where 0 means all of them; fewer are the first ones (Matryoshka models). normalise: to length 1.
 * QUERN_ERR_CONTEXT where the tokens are too many. */
QUERN_API int quern_embed(quern_embedder *embedder, const int32_t *ids, size_t count, uint32_t dimensions, bool normalise,
                          float *out, quern_error *err);
/* How well document answers query: the logit of a cross-encoder's head, or for the cosine of other models the cosine of both
 * vectors. */
QUERN_API int quern_rerank(quern_embedder *embedder, const char *query, const char *document, float *score, quern_error *err);

/* ---- perplexity ------------------------------------------------------------------------------------------------ */

typedef struct quern_perplexity_options {
    uint32_t n_ctx;          /* window; 0: 512 */
    size_t n_windows;        /* most windows; 0: all of the text */
    bool bos;                /* the first token of each window is replaced by BOS */
    bool second_half;        /* score only the second half of each window */
    const char *save_logits; /* file that gets what the model expects after each scored token, in llama.cpp's format, to compare
                              * other models with; implies second_half */
    const char *base_logits; /* such a file: its windows are scored, text is not read, and the result has the divergence */
    /* Called after each window with the windows done and in all, and the perplexity so far; non-zero cancels. */
    int (*on_window)(void *user, size_t done, size_t all, double ppl);
    void *user;
} quern_perplexity_options;

/* Kullback-Leibler divergence of a model from a base, over all scored tokens, natural logarithm. */
typedef struct quern_divergence {
    double mean, median, p99, max;
    double same_top; /* share of the tokens for which both find the same next token likeliest */
    double base_ppl;
} quern_divergence;

typedef struct quern_perplexity_result {
    double ppl, nll;             /* exp(nll); mean negative log-likelihood, natural logarithm */
    uint64_t tokens;             /* scored */
    quern_divergence divergence; /* where compared, else zero */
} quern_perplexity_result;

/* text is tokenized in one piece without special tokens and cut into windows of n_ctx that do not overlap (the rest is left
 * out). The session's content is lost; its n_ctx must hold a window. */
QUERN_API int quern_perplexity(quern_session *session, const char *text, size_t length, const quern_perplexity_options *options,
                               quern_perplexity_result *out, quern_error *err);
/* The windows of a file that save_logits made. */
QUERN_API int quern_perplexity_windows(const char *base_logits, uint32_t *n_ctx, size_t *n_windows, quern_error *err);

/* ---- importance matrix ----------------------------------------------------------------------------------------- */

typedef struct quern_imatrix_options {
    uint32_t n_ctx;      /* window; 0: 512 */
    size_t n_windows;    /* most windows; 0: all of the text */
    bool output;         /* the output matrix, too */
    const char *dataset; /* name of the text, kept in the file */
    /* Called after each window; non-zero cancels. */
    int (*on_window)(void *user, size_t done, size_t all);
    void *user;
} quern_imatrix_options;

/* Runs text through the model and writes the sums of the activations that meet each column of each matrix, and of their
 * squares, for quern_convert_options.imatrix; llama.cpp reads the file, too. Windows as in quern_perplexity; their first token
 * is BOS where the model asks for one. The bytes depend on neither threads nor batch. */
QUERN_API int quern_imatrix(quern_session *session, const char *text, size_t length, const quern_imatrix_options *options,
                            const char *out_path, quern_error *err);

/* ---- files ------------------------------------------------------------------------------------------------------- */

/* Whether a folder's head for multi-token prediction goes into the GGUF file. */
typedef enum quern_mtp {
    QUERN_MTP_AUTO, /* where llama.cpp reads the file with it, too: not of DeepSeek V3 */
    QUERN_MTP_KEEP,
    QUERN_MTP_DROP,
} quern_mtp;

typedef struct quern_convert_options {
    const char *type; /* of the matrices: a type or mix, as llama.cpp names them ("f16", "q8_0", "q4_k_m"); NULL: as stored */
    const char *name; /* general.name; NULL: from the source */
    bool dry_run;     /* compute sizes, write nothing */
    bool pure;        /* all matrices in the mix's main type */
    quern_mtp mtp;    /* 0: QUERN_MTP_AUTO */
    uint64_t target_bytes; /* size of the file, in place of type: the type of each matrix is chosen so that it is not larger */
    double target_bits;    /* the same as bits for each parameter */
    const char *imatrix;   /* file that quern_imatrix or llama.cpp wrote; NULL: all columns are alike */
    const char *output_type, *embedding_type; /* of the output matrix and the embedding table; NULL: what the mix says */
    const char *const *tensor_types;          /* "REGEX=TYPE": the first that is found in a tensor's name sets its type */
    size_t n_tensor_types;
    const quern_lora *loras; /* adapters that become part of the weights */
    size_t n_loras;
    uint32_t n_threads; /* 0: what the machine and its limits allow. The file does not depend on it */
    /* A text to measure the new file with, before it gets its name: perplexity and divergence from the source, in windows of
     * 512, are kept in it as quern.quality.*. NULL: nothing is measured. */
    const char *card_text;
    size_t card_length;
    const char *card_name; /* kept in the file */
    /* Called now and then, and after each measured window; non-zero cancels (no file is left behind). */
    int (*on_progress)(void *user, uint64_t bytes_done, uint64_t bytes_all);
    int (*on_measure)(void *user, size_t windows_done, size_t windows_all);
    void *user;
} quern_convert_options;

/* What the tensors of one type add up to. */
typedef struct quern_type_share {
    const char *type;
    uint32_t tensors;
    uint64_t parameters, bytes;
} quern_type_share;

#define QUERN_TYPES_MAX 64
typedef struct quern_convert_result {
    uint64_t file_bytes, parameters;
    uint32_t tensors;
    uint32_t unweighted; /* matrices that the importance matrix says nothing about */
    bool mtp_dropped;    /* a head for multi-token prediction stayed behind, as nobody asked for it (QUERN_MTP_AUTO) */
    quern_type_share shares[QUERN_TYPES_MAX];
    size_t n_shares;
    quern_perplexity_result quality; /* where measured */
} quern_convert_result;

/* Hugging Face folder -> GGUF. out_path is replaced durably, or untouched on failure. */
QUERN_API int quern_convert(const char *folder, const char *out_path, const quern_convert_options *options,
                            quern_convert_result *result, quern_error *err);
/* GGUF file or folder -> GGUF with its matrices in options->type, or of options->target_bytes or target_bits: one must be set.
 */
QUERN_API int quern_quantize(const char *path, const char *out_path, const quern_convert_options *options,
                             quern_convert_result *result, quern_error *err);

/* Names of the model shapes that quern_synthesize knows; NULL past the end. */
QUERN_API const char *quern_shape(size_t i);
/* Changes whenever quern_synthesize would write other bytes for the same arguments: for names of kept files. */
QUERN_API unsigned quern_shape_version(void);
/* Writes a GGUF file with the shapes of a real model and random weights in options->type (a tensor type or a mix such as
 * q4_k_m; NULL: q8_0): it runs at the speed of the real one. The same shape and type give the same file everywhere. */
QUERN_API int quern_synthesize(const char *shape, const char *out_path, const quern_convert_options *options, quern_error *err);

/* ---- machine --------------------------------------------------------------------------------------------------------- */

typedef struct quern_machine {
    char cpu[96];            /* model name */
    char cpu_levels[64];     /* runnable levels, "scalar avx2 avxvnni avx512": the last one is used */
    uint32_t cores, threads; /* cores the system shows; threads that Quern will use */
    uint64_t memory_bytes, available_bytes;
    double bandwidth_gb_s;      /* read bandwidth, measured over all threads (0 where not measured) */
    double bandwidth_huge_gb_s; /* the same from anonymous memory with huge pages */
} quern_machine;

/* measure: takes about a second and 1 GiB of memory (less where less is available). */
QUERN_API int quern_machine_probe(bool measure, uint32_t n_threads, quern_machine *out, quern_error *err);

#ifdef __cplusplus
}
#endif

#endif
