/* quern convert and quern quantize: models into GGUF files. Both write a temporary file beside OUT and rename it when it is
 * whole; Ctrl-C leaves OUT as it was and nothing else behind. */
#include "cli.h"

#include <stdio.h>

struct convert_args {
    const char *type, *name;
    bool dry_run, json;
};

#define CONVERT(member) .offset = offsetof(struct convert_args, member)
#define WEIGHT_TYPES "f32 f16 bf16 q8_0"

static const struct opt convert_opts[] = {
    {"--type", "TYPE", "type of the matrices, one of " WEIGHT_TYPES "; default: as stored", .kind = OPT_CHOICE,
     .choices = WEIGHT_TYPES, CONVERT(type)},
    {"--name", "NAME", "name of the model, kept in the file; default: from the source", .kind = OPT_TEXT, CONVERT(name)},
    {"--dry-run", NULL, "write nothing, only print what would be written", .kind = OPT_FLAG, CONVERT(dry_run)},
    {"--json", NULL, "print the result as one JSON object", .kind = OPT_FLAG, CONVERT(json)},
    {0},
};

static const struct opt_group convert_groups[] = {{"Options", convert_opts, 0}, {0}};

static int on_progress(void *user, uint64_t done, uint64_t all)
{
    progress_show(user, done, all);
    return cli_interrupted();
}

static int print_result(const struct convert_args *args, const char *path, const quern_convert_result *r)
{
    struct buf out = {0};
    double bits = r->parameters ? 8.0 * (double)r->file_bytes / (double)r->parameters : 0;
    int rc;
    if (args->json) {
        rc = buf_z(&out, "{\"file\":");
        if (rc >= 0) rc = json_write_string(&out, str_of(path));
        if (rc >= 0) {
            rc = buf_printf(&out, ",\"file_bytes\":%llu,\"parameters\":%llu,\"tensors\":%u,\"bits_per_weight\":",
                            (unsigned long long)r->file_bytes, (unsigned long long)r->parameters, r->tensors);
        }
        if (rc >= 0) rc = buf_f64(&out, bits);
        if (rc >= 0) rc = buf_printf(&out, ",\"dry_run\":%s}\n", args->dry_run ? "true" : "false");
    } else {
        char bytes[AMOUNT_MAX], count[AMOUNT_MAX];
        rc = buf_printf(&out, "%s%s: %s, %s parameters in %u tensors, %.2f bits per weight\n",
                        args->dry_run ? "would write " : "", path, amount_bytes(r->file_bytes, bytes),
                        amount_count(r->parameters, count), r->tensors, bits);
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

typedef int convert_fn(const char *path, const char *out_path, const quern_convert_options *options,
                       quern_convert_result *result, quern_error *err);

static int convert(const struct command *c, const struct convert_args *args, const char *in, const char *out, convert_fn *fn)
{
    if (!vfs_exists(in) && !vfs_is_dir(in)) return cli_fail("%s: no such file or folder", in);
    if (strcmp(out, "-") == 0)
        return cli_usage(c, "the result is a file that is replaced as a whole; it cannot go to standard output");
    if (would_overwrite(in, out)) return cli_usage(c, "%s is part of what is read; give the result another name", out);
    struct progress progress;
    quern_convert_options options = {
        .type = args->type,
        .name = args->name,
        .dry_run = args->dry_run,
        .on_progress = on_progress,
        .user = &progress,
    };
    quern_convert_result result = {0};
    quern_error e = {0};
    cli_interrupt_catch(NULL, true);
    cli_terminate_catch();
    progress_start(&progress, c->name, true);
    int rc = fn(in, out, &options, &result, &e);
    progress_end(&progress);
    return rc < 0 ? cli_fail("%s", e.message) : print_result(args, out, &result);
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
    if (words.n == 3) {
        if (args.type) return cli_usage(c, "the type is given twice: %s and %.100s", args.type, words.p[2]);
        if (args_assign(convert_opts, &args, STR("--type"), STR("TYPE"), words.p[2], &e) < 0) return cli_usage(c, "%s", e.msg);
    }
    if (!args.type) return cli_usage(c, "TYPE is missing, one of: " WEIGHT_TYPES);
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
    .text = "Writes the model IN (a GGUF file or a Hugging Face folder) with its matrices in TYPE, one of " WEIGHT_TYPES ".\n",
    .groups = convert_groups,
    .min_words = 2,
    .max_words = 3,
    .run = run_quantize,
};
