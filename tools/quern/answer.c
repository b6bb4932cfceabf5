/* answer: what a model says, on its way to stdout, and the figures about it. Every piece is flushed as it comes. */
#include "cli.h"

#include <stdio.h>
#include <unistd.h>

void answer_init(struct answer *a, bool print_ids)
{
    *a = (struct answer){.print_ids = print_ids, .terminal = isatty(STDOUT_FILENO)};
}

void answer_fini(struct answer *a)
{
    buf_fini(&a->text);
}

/* Text of a model must not steer the terminal: control characters other than newline and tab are left out there. */
static bool write_to_terminal(const char *text, size_t length)
{
    size_t start = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if ((c >= 0x20 && c != 0x7f) || c == '\n' || c == '\t') continue;
        if (!cli_write(text + start, i - start, false)) return false;
        start = i + 1;
    }
    return cli_write(text + start, length - start, true);
}

static int on_text(void *user, const char *text, size_t length)
{
    struct answer *a = user;
    if (buf_put(&a->text, text, length) < 0) {
        a->failed = true;
    } else if (!a->print_ids) {
        a->failed = !(a->terminal ? write_to_terminal(text, length) : cli_write(text, length, true));
    }
    return a->failed;
}

static int on_token(void *user, int32_t id)
{
    struct answer *a = user;
    char text[16];
    int n = snprintf(text, sizeof text, "%s%d", a->n_ids++ ? "," : "", (int)id);
    a->failed = !cli_write(text, (size_t)n, true);
    return a->failed;
}

quern_generate_options answer_options(struct answer *a, const struct sampling_args *args, const struct sampling *sampling)
{
    quern_context_policy policy = QUERN_CONTEXT_ERROR;
    if (args->context_policy) (void)quern_context_policy_named(args->context_policy, &policy);
    return (quern_generate_options){
        .context_policy = policy,
        .n_keep = (uint32_t)args->n_keep,
        .sampling = &sampling->values,
        .max_tokens = args->n_predict < 0 ? 0 : (uint32_t)args->n_predict,
        .stop = args->stop.p,
        .n_stop = args->stop.n,
        .ignore_eos = args->ignore_eos,
        .on_text = on_text,
        .on_token = a->print_ids ? on_token : NULL,
        .user = a,
    };
}

void answer_end(const struct answer *a, const quern_session *session, const quern_result *result)
{
    bool line_open = a->print_ids || (a->text.n > 0 && a->text.p[a->text.n - 1] != '\n');
    if (line_open) cli_write("\n", 1, true);
    if (result->dropped_tokens)
        cli_note("%u messages and %u tokens were left out, for the context is full", result->dropped_messages,
                 result->dropped_tokens);
    if (result->stop != QUERN_STOP_CONTEXT) return;
    quern_session_info info;
    quern_session_get_info(session, &info);
    cli_note(
        "the context of %u tokens is full (%u of the prompt, %u of the answer), so the answer ends here; -c N makes room for "
        "more",
        info.n_ctx, result->n_prompt, info.n_ctx - result->n_prompt);
}

void answer_stats(const quern_model *model, const quern_session *session, const quern_result *result, uint64_t seed,
                  double *bandwidth_gb_s)
{
    quern_model_info info;
    quern_session_info sinfo;
    quern_model_get_info(model, &info);
    quern_session_get_info(session, &sinfo);
    uint32_t n_computed = result->n_prompt - result->n_reused;
    uint32_t n_decoded = result->n_generated > 0 ? result->n_generated - 1 : 0;
    fprintf(stderr, "\nload         %.3f s\n", info.load_seconds);
    fprintf(stderr, "first token  %.3f s\n", result->first_token_seconds);
    fprintf(stderr, "prompt       %u tokens, %u of them reused", result->n_prompt, result->n_reused);
    if (result->prefill_seconds > 0) fprintf(stderr, ", %.1f tokens/s", n_computed / result->prefill_seconds);
    fprintf(stderr, "\nanswer       %u tokens", result->n_generated);
    if (n_decoded > 0 && result->decode_seconds > 0) fprintf(stderr, ", %.1f tokens/s", n_decoded / result->decode_seconds);
    if (result->n_drafted)
        fprintf(stderr, "\nspeculation  %u draft tokens, %u accepted (%.0f%%)", result->n_drafted, result->n_accepted,
                100.0 * result->n_accepted / result->n_drafted);
    fprintf(stderr, "\nseed         %llu\n", (unsigned long long)seed);
    if (n_decoded == 0 || result->decode_seconds <= 0) return;
    quern_machine machine;
    if (*bandwidth_gb_s == 0 && quern_machine_probe(true, sinfo.n_threads, &machine, NULL) == 0) {
        *bandwidth_gb_s = machine.bandwidth_gb_s;
    }
    double read_gb_s = (double)result->decode_bytes / result->decode_seconds * 1e-9;
    fprintf(stderr, "memory       %.1f GB/s read", read_gb_s);
    if (*bandwidth_gb_s > 0) {
        fprintf(stderr, ", %.0f%% of the %.1f GB/s that %u threads can read here", 100 * read_gb_s / *bandwidth_gb_s,
                *bandwidth_gb_s, sinfo.n_threads);
    }
    fprintf(stderr, "\n");
}
