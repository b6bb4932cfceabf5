/* api_files: quern.h's functions that make files, and the one that looks at the machine. */
#include "api/api_int.h"
#include "machine/machine.h"

typedef int convert_fn(const struct files *src, const char *out_path, const struct convert_opts *opts,
                       struct convert_result *result, struct err *e);

static struct convert_opts opts_of(const quern_convert_options *o)
{
    _Static_assert((int)QUERN_MTP_KEEP == (int)CONVERT_HEAD_KEEP && (int)QUERN_MTP_DROP == (int)CONVERT_HEAD_DROP, "heads");
    _Static_assert(sizeof(struct convert_lora) == sizeof(quern_lora) &&
                       offsetof(struct convert_lora, scale) == offsetof(quern_lora, scale),
                   "adapters");
    return (struct convert_opts){.type = o->type,
                                 .name = o->name,
                                 .dry_run = o->dry_run,
                                 .pure = o->pure,
                                 .head = (enum convert_head)o->mtp,
                                 .target_bytes = o->target_bytes,
                                 .target_bits = o->target_bits,
                                 .output_type = o->output_type,
                                 .embedding_type = o->embedding_type,
                                 .tensor_types = o->tensor_types,
                                 .n_tensor_types = o->n_tensor_types,
                                 .imatrix = o->imatrix,
                                 .loras = (const struct convert_lora *)(const void *)o->loras,
                                 .n_loras = o->n_loras,
                                 .n_threads = o->n_threads,
                                 .on_progress = o->on_progress,
                                 .user = o->user};
}

static quern_divergence divergence_of(const struct convert_quality *q)
{
    return (quern_divergence){.mean = (double)q->kld_mean,
                              .median = (double)q->kld_median,
                              .p99 = (double)q->kld_p99,
                              .max = (double)q->kld_max,
                              .same_top = (double)q->same_top,
                              .base_ppl = (double)q->source_ppl};
}

static void give_result(const struct convert_result *r, quern_convert_result *out)
{
    _Static_assert(QTYPE_COUNT <= QUERN_TYPES_MAX, "types");
    *out = (quern_convert_result){.file_bytes = r->file_bytes,
                                  .parameters = r->parameters,
                                  .tensors = r->tensors,
                                  .unweighted = r->unweighted,
                                  .mtp_dropped = r->head_dropped};
    if (r->quality.tokens)
        out->quality = (quern_perplexity_result){.ppl = (double)r->quality.ppl,
                                                 .nll = num_log((double)r->quality.ppl),
                                                 .tokens = r->quality.tokens,
                                                 .divergence = divergence_of(&r->quality)};
    for (size_t i = 0; i < QTYPE_COUNT; i++) {
        const struct convert_share *s = &r->shares[i];
        if (s->tensors) out->shares[out->n_shares++] = (quern_type_share){qtypes[i].name, s->tensors, s->weights, s->bytes};
    }
}

static int run(convert_fn *fn, const char *path, const char *out_path, const quern_convert_options *o,
               quern_convert_result *result, quern_error *err)
{
    const quern_convert_options none = {0};
    struct convert_result r;
    struct files *src;
    struct err e = {0};
    struct convert_opts opts = opts_of(o ? o : &none);
    struct api_measurer measurer = {path, o};
    if (o && o->card_text && !o->dry_run) {
        opts.measure = api_measure;
        opts.measurer = &measurer;
        opts.measure_text = o->card_name ? o->card_name : "text";
    }
    int rc = files_open(path, &src, &e);
    if (rc == 0) {
        rc = fn(src, out_path, &opts, &r, &e);
        files_close(&src);
    }
    if (rc < 0) return api_fail(err, &e);
    if (result) give_result(&r, result);
    return 0;
}

int quern_convert(const char *folder, const char *out_path, const quern_convert_options *options, quern_convert_result *result,
                  quern_error *err)
{
    return run(convert_hf, folder, out_path, options, result, err);
}

int quern_quantize(const char *path, const char *out_path, const quern_convert_options *options, quern_convert_result *result,
                   quern_error *err)
{
    return run(convert_quantize, path, out_path, options, result, err);
}

const char *quern_shape(size_t i)
{
    const struct synth_shape *s = synth_shape_at(i);
    return s ? s->name : NULL;
}

unsigned quern_shape_version(void)
{
    return SYNTH_VERSION;
}

int quern_synthesize(const char *shape, const char *out_path, const quern_convert_options *o, quern_error *err)
{
    struct err e = {0};
    const char *type = o && o->type ? o->type : "q8_0";
    const struct synth_shape *s = synth_shape_find(shape, &e);
    if (!s) return api_fail(err, &e);
    return synth_write(s, type, out_path, o ? o->on_progress : NULL, o ? o->user : NULL, &e) < 0 ? api_fail(err, &e) : 0;
}

int quern_machine_probe(bool measure, uint32_t n_threads, quern_machine *out, quern_error *err)
{
    struct machine_info i;
    struct err e = {0};
    if (machine_probe(measure, n_threads, &i, &e) < 0) return api_fail(err, &e);
    *out = (quern_machine){.cores = i.cores,
                           .threads = i.threads,
                           .memory_bytes = i.memory_bytes,
                           .available_bytes = i.available_bytes,
                           .bandwidth_gb_s = i.bandwidth_gb_s,
                           .bandwidth_huge_gb_s = i.bandwidth_huge_gb_s};
    _Static_assert(sizeof out->cpu == sizeof i.cpu && sizeof out->cpu_levels == sizeof i.cpu_levels, "texts differ");
    memcpy(out->cpu, i.cpu, sizeof i.cpu);
    memcpy(out->cpu_levels, i.cpu_levels, sizeof i.cpu_levels);
    return 0;
}
