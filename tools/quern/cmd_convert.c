/* quern convert and quern quantize: models into GGUF files. Both write a temporary file beside OUT and rename it when it is
 * whole; Ctrl-C leaves OUT as it was and nothing else behind. */
#include "cli.h"

#include <stdio.h>

struct convert_args {
    const char *type, *name, *imatrix, *card, *target, *output_type, *embedding_type;
    struct opt_list tensor_types, lora, lora_scaled;
    int64_t n_threads;
    bool dry_run, pure, mtp, no_mtp, json;
};

#define CONVERT(member) .offset = offsetof(struct convert_args, member)
#define TYPES "f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q2_k q3_k q4_k q5_k q6_k iq4_nl iq4_xs mxfp4"
#define MIXES                                                                                                           \
    "f32 f16 bf16 q8_0 q6_k q5_k_m q5_k_s q5_k q4_k_m q4_k_s q4_k q3_k_l q3_k_m q3_k_s q3_k q2_k q2_k_s iq4_nl iq4_xs " \
    "mxfp4 mxfp4_moe q5_1 q5_0 q4_1 q4_0"

static const struct opt convert_opts[] = {
    {"--type", "TYPE", "type of the matrices, or a mix of types, by name or by llama-quantize's number; default: as stored",
     .kind = OPT_CHOICE, .choices = MIXES, .numbers = true, CONVERT(type)},
    {"--name", "NAME", "name of the model, kept in the file; default: from the source", .kind = OPT_TEXT, CONVERT(name)},
    {"--dry-run", NULL, "write nothing, only print what would be written", .kind = OPT_FLAG, CONVERT(dry_run)},
    {"-t --threads", "N",
     "threads that quantise; default, or -1: the cores that this process may use. The file does not depend on it",
     .kind = OPT_THREADS, CONVERT(n_threads)},
    {"--lora", "FILE", "LoRA adapter that becomes part of the weights; may be repeated", .kind = OPT_LIST, CONVERT(lora)},
    {"--lora-scaled", "FILE:SCALE", "the same, what it adds being multiplied by SCALE; may be repeated", .kind = OPT_LIST,
     CONVERT(lora_scaled)},
    {"--mtp", NULL,
     "take along a folder's head for multi-token prediction even where llama.cpp cannot read the file with it (DeepSeek V3)",
     .kind = OPT_FLAG, CONVERT(mtp)},
    {"--no-mtp", NULL, "leave out a folder's head for multi-token prediction, for readers that do not know it",
     .kind = OPT_FLAG, CONVERT(no_mtp)},
    {"--json", NULL, "print the result as one JSON object", .kind = OPT_FLAG, CONVERT(json)},
    {0},
};

static const struct opt mix_opts[] = {
    {"--imatrix", "FILE", "importance matrix, as 'quern imatrix' or llama.cpp makes it: columns that matter are rounded better",
     .kind = OPT_TEXT, CONVERT(imatrix)},
    {"--target-size", "SIZE",
     "in place of TYPE: choose the type of each matrix, by how much it suffers, so that the file is not larger; 600M, 0.8G "
     "(powers of 1000), 600MiB, or 4.5bpw (bits per weight)",
     .kind = OPT_TEXT, CONVERT(target)},
    {"--tensor-type", "REGEX=TYPE",
     "type of all tensors in whose name REGEX is found; may be repeated, the first that is found holds", .kind = OPT_LIST,
     CONVERT(tensor_types)},
    {"--output-tensor-type", "TYPE", "type of the output matrix", .kind = OPT_CHOICE, .choices = TYPES, CONVERT(output_type)},
    {"--token-embedding-type", "TYPE", "type of the embedding table", .kind = OPT_CHOICE, .choices = TYPES,
     CONVERT(embedding_type)},
    {"--card", "TEXT", "measure the new file with this text before it gets its name, and keep in it how it compares with IN",
     .kind = OPT_TEXT, CONVERT(card)},
    {"--pure", NULL, "no mix: all matrices in the mix's main type", .kind = OPT_FLAG, CONVERT(pure)},
    {0},
};

static const struct opt_group convert_groups[] = {{"Options", convert_opts, 0}, {"Types of tensors", mix_opts, 0}, {0}};

/* The line of progress: first of the bytes, then of the windows of the card. */
static int on_progress(void *user, uint64_t done, uint64_t all)
{
    progress_show(user, done, all);
    return cli_interrupted();
}

static int on_measure(void *user, size_t done, size_t all)
{
    struct progress *p = user;
    if (p->bytes) {
        progress_end(p);
        progress_start(p, "measuring, windows", false);
    }
    progress_show(p, done, all);
    return cli_interrupted();
}

static double bits_per_weight(uint64_t bytes, uint64_t parameters)
{
    return parameters ? 8.0 * (double)bytes / (double)parameters : 0;
}

static int put_json(struct buf *out, const struct convert_args *args, const char *path, const quern_convert_result *r)
{
    TRY(buf_z(out, "{\"file\":"));
    TRY(json_write_string(out, str_of(path)));
    TRY(buf_printf(out, ",\"file_bytes\":%llu,\"parameters\":%llu,\"tensors\":%u,\"bits_per_weight\":",
                   (unsigned long long)r->file_bytes, (unsigned long long)r->parameters, r->tensors));
    TRY(buf_f64(out, bits_per_weight(r->file_bytes, r->parameters)));
    TRY(buf_z(out, ",\"types\":["));
    for (size_t i = 0; i < r->n_shares; i++) {
        const quern_type_share *s = &r->shares[i];
        TRY(buf_printf(out, "%s{\"type\":\"%s\",\"tensors\":%u,\"parameters\":%llu,\"bytes\":%llu}", i ? "," : "", s->type,
                       s->tensors, (unsigned long long)s->parameters, (unsigned long long)s->bytes));
    }
    TRY(buf_z(out, "]"));
    if (r->quality.tokens) {
        const quern_divergence *d = &r->quality.divergence;
        const struct {
            const char *name;
            double value;
        } figures[] = {
            {",\"quality\":{\"ppl\":", r->quality.ppl},
            {",\"source_ppl\":", d->base_ppl},
            {",\"mean_kld\":", d->mean},
            {",\"median_kld\":", d->median},
            {",\"kld_99\":", d->p99},
            {",\"max_kld\":", d->max},
            {",\"same_top\":", d->same_top},
        };
        for (size_t i = 0; i < COUNT_OF(figures); i++) {
            TRY(buf_z(out, figures[i].name));
            TRY(buf_f64(out, figures[i].value));
        }
        TRY(buf_printf(out, ",\"tokens\":%llu}", (unsigned long long)r->quality.tokens));
    }
    return buf_printf(out, ",\"dry_run\":%s}\n", args->dry_run ? "true" : "false");
}

/* A line for each type, and one for all. */
static int put_table(struct buf *out, const quern_convert_result *r)
{
    char bytes[AMOUNT_MAX], count[AMOUNT_MAX];
    TRY(buf_printf(out, "%-8s %8s %12s %12s %7s\n", "type", "tensors", "parameters", "bytes", "bits"));
    for (size_t i = 0; i < r->n_shares; i++) {
        const quern_type_share *s = &r->shares[i];
        TRY(buf_printf(out, "%-8s %8u %12s %12s %7.2f\n", s->type, s->tensors, amount_count(s->parameters, count),
                       amount_bytes(s->bytes, bytes), bits_per_weight(s->bytes, s->parameters)));
    }
    return 0;
}

static int print_result(const struct convert_args *args, const char *path, const quern_convert_result *r)
{
    struct buf out = {0};
    char bytes[AMOUNT_MAX], count[AMOUNT_MAX];
    int rc = 0;
    if (r->mtp_dropped)
        cli_note("the head for multi-token prediction stays behind, as llama.cpp cannot read the file with it; --mtp takes it "
                 "along");
    if (args->imatrix && r->unweighted) cli_note("%s says nothing about %u of the matrices", args->imatrix, r->unweighted);
    if (args->json) return cli_print(&out, put_json(&out, args, path, r));
    if (args->dry_run) rc = put_table(&out, r);
    if (rc >= 0) {
        rc = buf_printf(&out, "%s%s: %s, %s parameters in %u tensors, %.2f bits per weight\n",
                        args->dry_run ? "would write " : "", path, amount_bytes(r->file_bytes, bytes),
                        amount_count(r->parameters, count), r->tensors, bits_per_weight(r->file_bytes, r->parameters));
    }
    if (rc >= 0 && r->quality.tokens) {
        const quern_divergence *d = &r->quality.divergence;
        rc = buf_printf(&out, "perplexity %.4f, source %.4f; divergence %.5f, the same likeliest token for %.2f %%\n",
                        r->quality.ppl, d->base_ppl, d->mean, 100 * d->same_top);
    }
    return cli_print(&out, rc);
}

/* True where writing out would destroy what is read: in itself, or a file of the folder in. */
static bool would_overwrite(const char *in, const char *out)
{
    if (cli_same_file(in, out)) return true;
    const char *slash = strrchr(out, '/');
    struct str name = str_of(slash ? slash + 1 : out);
    if (!vfs_is_dir(in) || !vfs_exists(out) || str_ends(name, STR(".gguf"))) return false;
    struct arena a = {0};
    char *inside;
    bool same = vfs_join(&a, in, name.p, &inside, NULL) == 0 && cli_same_file(inside, out);
    arena_fini(&a);
    return same;
}

/* A size, or "4.5bpw". */
static int parse_target(const char *text, uint64_t *bytes, double *bits, struct err *e)
{
    struct str s = str_of(text);
    double v;
    if (read_size(s, bytes)) return 0;
    const bool per_weight = str_ends(s, STR("bpw"));
    if (per_weight) s.n -= 3;
    if (!per_weight || !str_f64(s, &v) || v <= 0 || v > 32)
        return fail(e, ERR_ARG, "--target-size takes a size as 600M, 0.8G, 600MiB or 4.5bpw, not '%.100s'", text);
    *bits = v;
    return 0;
}

typedef int convert_fn(const char *path, const char *out_path, const quern_convert_options *options,
                       quern_convert_result *result, quern_error *err);

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* CLI_OK where in and out can be meant so. */
static int check_paths(const struct command *c, const char *in, const char *out)
{
    struct err e = {0};
    if (vfs_look(in, &e) < 0) return cli_fail("%s", e.msg);
    if (strcmp(out, "-") == 0)
        return cli_usage(c, "the result is a file that is replaced as a whole; it cannot go to standard output");
    if (would_overwrite(in, out)) return cli_usage(c, "%s is part of what is read; give the result another name", out);
    return CLI_OK;
}

static int write_file(const struct command *c, const struct convert_args *args, const char *in, const char *out,
                      quern_convert_options *options, convert_fn *fn)
{
    struct progress progress;
    quern_convert_result result = {0};
    quern_error e = {0};
    options->on_progress = on_progress;
    options->on_measure = on_measure;
    options->user = &progress;
    cli_interrupt_catch(NULL, true);
    cli_terminate_catch();
    progress_start(&progress, c->name, true);
    int rc = fn(in, out, options, &result, &e);
    progress_end(&progress);
    return rc < 0 ? cli_fail("%s", e.message) : print_result(args, out, &result);
}

static int convert(const struct command *c, const struct convert_args *args, const char *in, const char *out, convert_fn *fn)
{
    quern_convert_options options = {
        .type = args->type,
        .name = args->name,
        .dry_run = args->dry_run,
        .pure = args->pure,
        .mtp = args->mtp      ? QUERN_MTP_KEEP
               : args->no_mtp ? QUERN_MTP_DROP
                              : QUERN_MTP_AUTO,
        .imatrix = args->imatrix,
        .output_type = args->output_type,
        .embedding_type = args->embedding_type,
        .tensor_types = args->tensor_types.p,
        .n_tensor_types = args->tensor_types.n,
        .n_threads = (uint32_t)args->n_threads,
        .card_name = args->card ? base_name(args->card) : NULL,
    };
    struct buf card = {0};
    struct arena a = {0};
    struct err e = {0};
    int exit_code = check_paths(c, in, out);
    if (exit_code != CLI_OK) return exit_code;
    if (args->mtp && args->no_mtp) return cli_usage(c, "--mtp and --no-mtp contradict each other");
    if (args->target && args->type) return cli_usage(c, "a file has a type or a size, not both");
    if (args->target && parse_target(args->target, &options.target_bytes, &options.target_bits, &e) < 0)
        return cli_usage(c, "%s", e.msg);
    if (args->card && cli_read_file(args->card, &card, &e) < 0) return cli_fail("%s", e.msg);
    options.card_text = card.p;
    options.card_length = card.n;
    exit_code = cli_loras(c, &args->lora, &args->lora_scaled, &a, &options.loras, &options.n_loras);
    if (exit_code == CLI_OK) exit_code = write_file(c, args, in, out, &options, fn);
    arena_fini(&a);
    buf_fini(&card);
    return exit_code;
}

static int run_convert(const struct command *c, int argc, char **argv)
{
    struct convert_args args = {0};
    struct words words;
    int exit_code;
    if (!args_parse(c, &args, argc, argv, &words, &exit_code)) return exit_code;
    return convert(c, &args, words.p[0], words.p[1], quern_convert);
}

static int run_quantize(const struct command *c, int argc, char **argv)
{
    struct convert_args args = {0};
    struct words words;
    struct err e = {0};
    int exit_code;
    if (!args_parse(c, &args, argc, argv, &words, &exit_code)) return exit_code;
    const struct opt *type = args_find(convert_opts, STR("--type"));
    if (words.n == 3) {
        if (args.type) return cli_usage(c, "the type is given twice: %s and %.100s", args.type, words.p[2]);
        if (args_assign(type, &args, STR("TYPE"), words.p[2], &e) < 0) return cli_usage(c, "%s", e.msg);
    }
    if (!args.type && !args.target) {
        const bool is_type = args_assign(type, &(struct convert_args){0}, STR("TYPE"), words.p[1], NULL) == 0;
        return is_type ? cli_usage(c, "OUT.gguf is missing: %.100s is a type, and no file", words.p[1])
                       : cli_usage(c, "TYPE is missing, one of: " MIXES);
    }
    return convert(c, &args, words.p[0], words.p[1], quern_quantize);
}

const struct command command_convert = {
    .name = "convert",
    .usage = "DIR OUT.gguf",
    .summary = "a Hugging Face folder to a GGUF file",
    .text =
        "Writes the model in DIR as one GGUF file. OUT.gguf is replaced when the new file is whole, and else left as it was.\n",
    .groups = convert_groups,
    .min_words = 2,
    .max_words = 2,
    .run = run_convert,
};

const struct command command_quantize = {
    .name = "quantize",
    .usage = "IN OUT.gguf TYPE",
    .summary = "the weights of a model to another type",
    .text =
        "Writes the model IN (a GGUF file or a Hugging Face folder) with its matrices in TYPE, which is one type for all or a "
        "mix, as llama.cpp knows them: " MIXES ". Vectors, norms and routers stay as they are.\n",
    .groups = convert_groups,
    .min_words = 2,
    .max_words = 3,
    .run = run_quantize,
};
