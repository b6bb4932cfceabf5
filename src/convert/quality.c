/* quality: the card of a file, quern.quality.*: how its model compares with the one that it was made from. The numbers are put
 * into the header before they are known; when all tensors are written the caller measures, and they get their values before
 * the file gets its name. A file thus never stands there with a card that nobody measured. */
#include "convert/convert_int.h"

static const struct row {
    const char *key;
    enum gguf_type type;
    size_t offset;
} rows[] = {
    {"quern.quality.tokens", GGUF_U32, offsetof(struct convert_quality, tokens)},
    {"quern.quality.perplexity", GGUF_F32, offsetof(struct convert_quality, ppl)},
    {"quern.quality.source_perplexity", GGUF_F32, offsetof(struct convert_quality, source_ppl)},
    {"quern.quality.kld_mean", GGUF_F32, offsetof(struct convert_quality, kld_mean)},
    {"quern.quality.kld_median", GGUF_F32, offsetof(struct convert_quality, kld_median)},
    {"quern.quality.kld_99", GGUF_F32, offsetof(struct convert_quality, kld_p99)},
    {"quern.quality.kld_max", GGUF_F32, offsetof(struct convert_quality, kld_max)},
    {"quern.quality.same_top", GGUF_F32, offsetof(struct convert_quality, same_top)},
};
_Static_assert(COUNT_OF(rows) == COUNT_OF(((struct quality_places *)0)->p), "a place for each number");

void quality_put(struct transfer *t)
{
    if (!t->opts->measure) return;
    gguf_put_str(t->w, "quern.quality.text", str_of(t->opts->measure_text));
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        gguf_put_kv(t->w, &(struct gguf_kv){.key = str_of(rows[i].key), .type = rows[i].type});
        t->quality.p[i] = gguf_last_value(t->w, rows[i].type);
    }
}

int quality_measure(struct transfer *t, struct convert_quality *out, struct err *e)
{
    const char *path;
    if (!t->opts->measure) return 0;
    TRY(gguf_peek(t->w, &path, e));
    TRY(t->opts->measure(t->opts->measurer, path, out, e));
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        TRY(gguf_replace(t->w, t->quality.p[i], (const uint8_t *)out + rows[i].offset, sizeof(uint32_t), e));
    return 0;
}
