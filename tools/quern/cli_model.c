/* cli_model: which model a command means, how it shall compute, and how it shall draw tokens; the option tables that
 * several commands share stand here beside the code that turns their values into calls of the library. */
#include "cli.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>
#ifdef __APPLE__
#include <mach-o/dyld.h>
#include <sys/random.h>
#endif

/* ---- which model --------------------------------------------------------------------------------------- */

const struct opt model_opts[] = {
    {"-m --model", "MODEL", "a .gguf file or a Hugging Face folder; default: the demo model " DEMO_MODEL, .kind = OPT_TEXT,
     .offset = offsetof(struct model_args, model)},
    {0},
};

/* The path of this program; false where the system does not tell. */
static bool program_path(char *out, size_t size)
{
#ifdef __APPLE__
    uint32_t n = (uint32_t)size;
    return _NSGetExecutablePath(out, &n) == 0;
#else
    ssize_t n = readlink("/proc/self/exe", out, size - 1);
    if (n <= 0) return false;
    out[n] = '\0';
    return true;
#endif
}

int shared_file_find(struct arena *a, const char *name, const char **out, struct err *e)
{
    char program[PATH_MAX] = "", path[PATH_MAX + 64];
    if (program_path(program, sizeof program)) {
        char *slash = strrchr(program, '/');
        if (slash) *slash = '\0';
    }
    /* An installed program finds what was installed with it, wherever its prefix went; one in a build folder what the source
     * tree has. */
    const struct {
        const char *folder, *below;
    } places[] = {{program, "/../share/quern/"}, {QUERN_SHARE_SOURCE, "/"}, {QUERN_SHARE_INSTALLED, "/"}};
    for (size_t i = 0; i < COUNT_OF(places); i++) {
        if (!*places[i].folder) continue;
        int n = snprintf(path, sizeof path, "%s%s%s", places[i].folder, places[i].below, name);
        if (n < 0 || (size_t)n >= sizeof path || !vfs_exists(path)) continue;
        *out = arena_dup(a, path, (size_t)n);
        return *out ? 0 : fail_nomem(e, "a path", (size_t)n);
    }
    return fail(e, ERR_NOTFOUND, "the file %s is not here (looked in %s/../share/quern, %s and %s)", name, program,
                QUERN_SHARE_SOURCE, QUERN_SHARE_INSTALLED);
}

int demo_model_find(struct arena *a, const char **out, struct err *e)
{
    struct err why;
    if (shared_file_find(a, DEMO_MODEL, out, &why) == 0) return 0;
    return fail(e, why.code, "the demo model: %s; name a model with -m", why.msg);
}

/* NAME:TAG, as a store of models names them. */
static bool is_store_name(struct str word)
{
    const char *colon = word.n > 0 ? memchr(word.p, ':', word.n) : NULL;
    if (!colon || colon == word.p || colon + 1 == word.p + word.n) return false;
    for (size_t i = 0; i < word.n; i++) {
        unsigned char c = (unsigned char)word.p[i];
        bool ok = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '.' || c == '_' || c == '-' ||
                  c == ':' || c == '/';
        if (!ok) return false;
    }
    return true;
}

bool model_looks_like(const char *word)
{
    struct str s = str_of(word);
    if (vfs_exists(word) || vfs_is_dir(word)) return true;
    if (str_ends(s, STR(".gguf")) || str_ends(s, STR(".safetensors"))) return true;
    if (str_starts(s, STR("/")) || str_starts(s, STR("./")) || str_starts(s, STR("../")) || str_starts(s, STR("~/")))
        return true;
    bool one_word = !strpbrk(word, " \t\r\n");
    return one_word && (strchr(word, '/') || is_store_name(s));
}

int cli_model_open(const char *path, const quern_model_options *how, quern_model **out)
{
    struct err why = {0};
    const int found = vfs_look(path, &why);
    if (found == ERR_NOTFOUND) {
        if (is_store_name(str_of(path))) {
            return cli_fail(
                "%s: there is no such file, and this version has no store of models that knows names; give the path "
                "of a .gguf file or of a Hugging Face folder",
                path);
        }
        return cli_fail("%s: no such file or folder; MODEL is the path of a .gguf file or of a Hugging Face folder", path);
    }
    if (found < 0) return cli_fail("%s", why.msg);
    quern_error e = {0};
    return quern_model_open(path, how, out, &e) < 0 ? cli_fail("%s", e.message) : CLI_OK;
}

int model_open_args(const struct model_args *args, const struct words *words, const quern_model_options *how, quern_model **out)
{
    if (args->model) return cli_model_open(args->model, how, out);
    if (words->n > 0) return cli_model_open(words->p[0], how, out);
    struct arena a = {0};
    struct err e = {0};
    const char *path;
    int exit_code = demo_model_find(&a, &path, &e) < 0 ? cli_fail("%s", e.msg) : cli_model_open(path, how, out);
    arena_fini(&a);
    return exit_code;
}

bool model_has_template(const quern_model *model)
{
    quern_model_info info;
    quern_model_get_info(model, &info);
    return info.has_chat_template;
}

/* ---- how to compute ------------------------------------------------------------------------------------------ */

#define COMPUTE(member) .offset = offsetof(struct compute_args, member)
#define KV_TYPES "f16 f32 bf16 q8_0 q4_0"

const struct opt compute_opts[] = {
    {"-t --threads", "N", "compute threads; default, or -1: the cores that this process may use", .kind = OPT_THREADS,
     COMPUTE(n_threads)},
    {"-b --batch-size --batch", "N",
     "most tokens computed at once while reading a prompt; default 512. The results do not depend on it", .kind = OPT_INT,
     .min = 1, .max = 65536, COMPUTE(n_batch)},
    {"-ub --ubatch-size", "N", "the same; the smaller of the two counts", .kind = OPT_INT, .min = 1, .max = 65536,
     COMPUTE(n_ubatch)},
    {"--cpu", "LEVEL",
     "highest CPU level to use, as 'quern doctor' lists them; default: the best. The results do not depend on it",
     .kind = OPT_TEXT, COMPUTE(cpu)},
    {"--kv", "TYPE", "type of the KV cache: f16 (default), f32, bf16, q8_0 (half the memory of f16) or q4_0 (a quarter)",
     .kind = OPT_CHOICE, .choices = KV_TYPES, COMPUTE(kv)},
    {"-ctk --cache-type-k", "TYPE", "type of the keys in it, where it differs", .kind = OPT_CHOICE, .choices = KV_TYPES,
     COMPUTE(cache_k)},
    {"-ctv --cache-type-v", "TYPE", "type of the values in it, where it differs", .kind = OPT_CHOICE, .choices = KV_TYPES,
     COMPUTE(cache_v)},
    {"-fa --flash-attn", "on|off|auto",
     "accepted; attention is always computed tile by tile, which is what this asks for elsewhere", .kind = OPT_CHOICE,
     .otherwise = "on", .choices = "on off auto 1 0", COMPUTE(flash)},
    {"--jinja --no-warmup", NULL, "accepted; templates are always rendered, and no run comes before the first",
     .kind = OPT_FLAG, COMPUTE(accepted)},
    {"-ngl --gpu-layers --n-gpu-layers", "N", "accepted; this build has no GPU backend and computes all layers on the CPU",
     .kind = OPT_TEXT, COMPUTE(gpu_layers)},
    {"--mmap", NULL, "use the weights in place, from a mapping of the file that processes share (default)", .kind = OPT_FLAG,
     COMPUTE(mmap)},
    {"--no-mmap", NULL,
     "read the weights into memory of this process instead. It takes seconds and memory of its own; where the file's pages in "
     "memory are small ones, reading huge pages can be faster",
     .kind = OPT_FLAG, COMPUTE(no_mmap)},
    {"--mlock", NULL, "keep the weights in memory, whatever else needs it; needs the right to (ulimit -l)", .kind = OPT_FLAG,
     COMPUTE(mlock)},
    {"--prefault", NULL, "bring all weights into memory before the start, not in the background", .kind = OPT_FLAG,
     COMPUTE(prefault)},
    {"--lora", "FILE", "LoRA adapter to use: a folder as PEFT saves it, or a .gguf file; may be repeated", .kind = OPT_LIST,
     COMPUTE(lora)},
    {"--lora-scaled", "FILE:SCALE", "the same, what it adds being multiplied by SCALE; may be repeated", .kind = OPT_LIST,
     COMPUTE(lora_scaled)},
    {0},
};

static int check_gpu_layers(const struct command *c, const char *text)
{
    if (!text || strcmp(text, "0") == 0 || strcmp(text, "auto") == 0) return CLI_OK;
    int64_t n;
    if (strcmp(text, "all") != 0 && !(str_i64(str_of(text), &n) && n >= -1)) {
        return cli_usage(c, "-ngl must be a number of layers, auto or all, not '%.100s'", text);
    }
    cli_note("-ngl %s: this build has no GPU backend; all layers are computed on the CPU", text);
    return CLI_OK;
}

/* FILE:SCALE */
static bool parse_scaled(struct arena *a, const char *text, quern_lora *out)
{
    const char *colon = strrchr(text, ':');
    double scale;
    if (!colon || colon == text || !str_f64(str_of(colon + 1), &scale) || fabs(scale) > 1e6) return false;
    *out = (quern_lora){arena_dup(a, text, (size_t)(colon - text)), (float)scale};
    return out->path != NULL;
}

int cli_loras(const struct command *c, const struct opt_list *plain, const struct opt_list *scaled, struct arena *a,
              const quern_lora **out, size_t *n)
{
    quern_lora *list = arena_array(a, 2 * OPT_LIST_MAX, sizeof *list);
    if (!list) return cli_fail("out of memory");
    *n = 0;
    for (size_t i = 0; i < plain->n; i++) list[(*n)++] = (quern_lora){plain->p[i], 1};
    for (size_t i = 0; i < scaled->n; i++)
        if (!parse_scaled(a, scaled->p[i], &list[(*n)++]))
            return cli_usage(c, "--lora-scaled takes FILE:SCALE, not '%.200s'", scaled->p[i]);
    *out = list;
    return CLI_OK;
}

quern_model_options compute_loading(const struct compute_args *args)
{
    return (quern_model_options){.copy = args->no_mmap && !args->mmap, .lock = args->mlock, .prefault = args->prefault};
}

int compute_session(const struct command *c, const struct compute_args *args, quern_model *model, uint32_t n_ctx,
                    uint32_t n_expected, const quern_speculation *speculation, quern_session **out)
{
    int rc = check_gpu_layers(c, args->gpu_layers);
    if (rc != CLI_OK) return rc;
    quern_model_info info;
    quern_model_get_info(model, &info);
    if (n_ctx > info.n_ctx_train && !n_expected) {
        cli_note(
            "a context of %u tokens is more than the %u that this model was trained for; beyond them it may write nonsense",
            n_ctx, info.n_ctx_train);
    }
    int64_t n_batch = args->n_batch;
    if (args->n_ubatch && (!n_batch || args->n_ubatch < n_batch)) n_batch = args->n_ubatch;
    quern_session_options options = {
        .n_ctx = n_ctx,
        .n_expected = n_expected,
        .n_batch = (uint32_t)n_batch,
        .n_threads = (uint32_t)args->n_threads,
        .k_type = args->cache_k ? args->cache_k : args->kv,
        .v_type = args->cache_v ? args->cache_v : args->kv,
        .cpu_level = args->cpu,
        .speculation = speculation ? *speculation : (quern_speculation){.how = QUERN_SPECULATE_OFF},
    };
    quern_error e = {0};
    struct arena a = {0};
    rc = cli_loras(c, &args->lora, &args->lora_scaled, &a, &options.loras, &options.n_loras);
    if (rc == CLI_OK && quern_session_new(model, &options, out, &e) < 0) rc = cli_fail("%s", e.message);
    arena_fini(&a);
    return rc;
}

/* ---- how to draw tokens ----------------------------------------------------------------------------------------- */

#define SAMPLING(member) .offset = offsetof(struct sampling_args, member)

const struct opt sampling_opts[] = {
    {"-n --predict --n-predict --num-predict", "N", "most tokens to answer with; default -1: until the model stops",
     .kind = OPT_INT, .min = -1, .max = INT32_MAX, SAMPLING(n_predict)},
    {"--temp --temperature", "T", "0 takes the likeliest token each time; default: the model's, else 0.8", .kind = OPT_REAL,
     .max = 100, SAMPLING(temp)},
    {"--top-k", "N", "draw from the N likeliest tokens; 0: off; default: the model's, else 40", .kind = OPT_INT,
     .max = INT32_MAX, SAMPLING(top_k)},
    {"--top-p", "P", "draw from the likeliest tokens that make up P together; 1: off; default: the model's, else 0.95",
     .kind = OPT_REAL, .max = 1, SAMPLING(top_p)},
    {"--min-p", "P", "draw from tokens at least P times as likely as the likeliest; 0: off; default: the model's, else 0.05",
     .kind = OPT_REAL, .max = 1, SAMPLING(min_p)},
    {"--repeat-penalty", "X", "divides the odds of tokens that occurred lately; 1: off (default)", .kind = OPT_REAL, .max = 100,
     SAMPLING(repeat_penalty)},
    {"--presence-penalty", "X", "subtracted from the logit of tokens that occurred lately; 0: off (default)", .kind = OPT_REAL,
     .min = -100, .max = 100, SAMPLING(presence_penalty)},
    {"--frequency-penalty", "X", "the same times how often they occurred; 0: off (default)", .kind = OPT_REAL, .min = -100,
     .max = 100, SAMPLING(frequency_penalty)},
    {"--repeat-last-n", "N", "how many tokens back the penalties look; default 64", .kind = OPT_INT, .max = INT32_MAX,
     SAMPLING(repeat_last_n)},
    {"-s --seed", "N", "of the draws: the same seed gives the same answer on every machine; default -1: a new one each time",
     .kind = OPT_TEXT, SAMPLING(seed)},
    {"-l --logit-bias", "ID+X", "adds X to the logit of token ID; ID-X subtracts, ID-inf forbids it; may be repeated",
     .kind = OPT_LIST, SAMPLING(logit_bias)},
    {"--stop", "TEXT", "ends the answer before TEXT; may be repeated", .kind = OPT_LIST, SAMPLING(stop)},
    {"--context-policy", "POLICY", CONTEXT_POLICY_HELP, .kind = OPT_CHOICE, .choices = CONTEXT_POLICIES,
     SAMPLING(context_policy)},
    {"--keep", "N", "first tokens that a shift leaves in place; default 1", .kind = OPT_INT, .min = 0, .max = INT32_MAX,
     SAMPLING(n_keep)},
    {"--ignore-eos", NULL, "go on after the model ended its text", .kind = OPT_FLAG, SAMPLING(ignore_eos)},
    {0},
};

/* ID+X, ID-X, ID-inf. */
static int parse_bias(struct str text, quern_logit_bias *out, struct err *e)
{
    size_t n = 0;
    while (n < text.n && text.p[n] >= '0' && text.p[n] <= '9') n++;
    int64_t id;
    double bias;
    struct str sign = {text.p + n, text.n - n};
    struct str number = sign;
    if (str_starts(sign, STR("+"))) number.p++, number.n--;
    bool banned = str_is(sign, "-inf");
    bool ok = str_i64((struct str){text.p, n}, &id) && id <= INT32_MAX && sign.n > 1 && (*sign.p == '+' || *sign.p == '-') &&
              (banned || (str_f64(number, &bias) && bias >= -1e6 && bias <= 1e6));
    if (!ok) return fail(e, ERR_ARG, "--logit-bias takes ID+X, ID-X or ID-inf, not '%.*s'", STR_ARG(text));
    *out = (quern_logit_bias){(int32_t)id, banned ? -INFINITY : (float)bias};
    return 0;
}

static int make_seed(const char *text, uint64_t *out, struct err *e)
{
    if (text && strcmp(text, "-1") != 0) {
        if (str_u64(str_of(text), out)) return 0;
        return fail(e, ERR_ARG, "--seed must be a whole number from 0 to 18446744073709551615, or -1, not '%.100s'", text);
    }
    /* 32 bits: enough to differ, short enough to type again. */
    uint32_t drawn;
    if (getentropy(&drawn, sizeof drawn) < 0) return fail(e, ERR_IO, "no random seed from the system: %s", strerror(errno));
    *out = drawn;
    return 0;
}

int sampling_make(const struct sampling_args *args, struct sampling *out, struct err *e)
{
    if (args->n_predict == 0) return fail(e, ERR_ARG, "-n must be at least 1, or -1 for no limit");
    out->values = quern_sampling_default();
    out->values.temperature = (float)args->temp;
    out->values.top_k = (int32_t)args->top_k;
    out->values.top_p = (float)args->top_p;
    out->values.min_p = (float)args->min_p;
    out->values.repeat_penalty = (float)args->repeat_penalty;
    if (args->presence_penalty > PENALTY_UNSET) out->values.presence_penalty = (float)args->presence_penalty;
    if (args->frequency_penalty > PENALTY_UNSET) out->values.frequency_penalty = (float)args->frequency_penalty;
    out->values.penalty_last_n = (int32_t)args->repeat_last_n;
    TRY(make_seed(args->seed, &out->values.seed, e));
    for (size_t i = 0; i < args->logit_bias.n; i++) TRY(parse_bias(str_of(args->logit_bias.p[i]), &out->bias[i], e));
    out->values.logit_bias = out->bias;
    out->values.n_logit_bias = args->logit_bias.n;
    return 0;
}
