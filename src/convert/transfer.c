/* transfer: tensors from a map into a new GGUF file, converted on the way in pieces of at most CHUNK weights.
 *
 * Q and K of the llama architecture change their row order. A rotation turns pairs of rows of a head: Hugging Face pairs row j
 * with row j + D/2 of the head's D rows, GGUF's llama pairs neighbours. So
 *
 *   new row  h*D + 2*j + i   is   old row  h*D + j + (D/2)*i        j < D/2, i < 2
 *
 * A weight that the new type cannot hold (not finite, or too large) is an error and never becomes an infinity in silence. */
#include "convert/convert_int.h"

#include <float.h>
#include <math.h>

enum { CHUNK = 65536, QUANTIZATION_VERSION = 2 };
#define HALF_MAX 65504.0f

static const struct {
    uint32_t file_type; /* general.file_type of a file whose matrices are of this type */
    float largest;      /* magnitude that it can hold */
} kinds[QTYPE_COUNT] = {
    [QTYPE_F32] = {0, FLT_MAX},
    [QTYPE_F16] = {1, 0x1.ffdffep15f},     /* the next float, 65520, rounds to infinity */
    [QTYPE_BF16] = {32, 0x1.fefffep127f},  /* likewise */
    [QTYPE_Q8_0] = {7, HALF_MAX * 127.0f}, /* the scale is a half; so are those of the types below, with fewer levels */
    [QTYPE_Q4_0] = {2, HALF_MAX},
    [QTYPE_Q4_1] = {3, HALF_MAX},
    [QTYPE_Q5_0] = {8, HALF_MAX},
    [QTYPE_Q5_1] = {9, HALF_MAX},
    [QTYPE_IQ4_NL] = {25, HALF_MAX},
    [QTYPE_MXFP4] = {38, 0x1p40f},
    [QTYPE_Q2_K] = {10, HALF_MAX},
    [QTYPE_Q3_K] = {12, HALF_MAX},
    [QTYPE_Q4_K] = {15, HALF_MAX},
    [QTYPE_Q5_K] = {17, HALF_MAX},
    [QTYPE_Q6_K] = {18, HALF_MAX},
    [QTYPE_IQ4_XS] = {30, HALF_MAX},
};

int transfer_init(struct transfer *t, const struct files *src, const char *out_path, const struct convert_opts *opts,
                  struct err *e)
{
    *t = (struct transfer){.src = src, .out_path = opts->dry_run ? NULL : out_path, .opts = opts, .as_stored = !opts->type};
    if (!opts->dry_run && !out_path) return fail(e, ERR_ARG, "%s: no file name to write to", files_path(src));
    if (opts->type && (!qtype_by_name(str_of(opts->type), &t->type) || !qtypes[t->type].quantize)) {
        struct buf names = {0};
        for (unsigned i = 0; i < QTYPE_COUNT; i++)
            if (qtypes[i].quantize) (void)buf_printf(&names, "%s%s", names.n ? ", " : "", qtypes[i].name);
        int rc = fail(e, ERR_ARG, "type \"%s\" cannot be written; Quern writes %.*s", opts->type, STR_ARG(buf_view(&names)));
        buf_fini(&names);
        return rc;
    }
    return gguf_writer_new(t->out_path, &t->w, e);
}

void transfer_fini(struct transfer *t)
{
    gguf_writer_free(&t->w);
    arena_fini(&t->a);
}

/* Vectors, norms and routers are small and sensitive: they are f32. So is whatever is no weight of a product. */
enum qtype transfer_type(const struct transfer *t, const struct tensor *src, struct str name)
{
    if (src->n_dims < 2) return QTYPE_F32;
    bool matrix =
        str_ends(name, STR(".weight")) && !str_ends(name, STR("_norm.weight")) && !str_ends(name, STR("ffn_gate_inp.weight"));
    if (t->as_stored || !matrix || src->ne[0] % qtypes[t->type].block_n) return src->type;
    return t->type;
}

void transfer_put_types(struct transfer *t)
{
    uint64_t elements[QTYPE_COUNT] = {0};
    enum qtype most = QTYPE_F32;
    for (size_t i = 0; i < t->n; i++) {
        const uint64_t *ne = t->items[i].src->ne;
        elements[t->items[i].type] += ne[0] * ne[1] * ne[2] * ne[3]; /* checked when the source was opened */
    }
    for (unsigned i = 0; i < QTYPE_COUNT; i++)
        if (elements[i] > elements[most]) most = (enum qtype)i;
    gguf_put_u32(t->w, "general.file_type", kinds[most].file_type);
    gguf_put_u32(t->w, "general.quantization_version", QUANTIZATION_VERSION);
}

/* ---- data ---------------------------------------------------------------------------------------------------------- */

/* The rows of a tensor under way. */
struct stream {
    struct transfer *t;
    const struct transfer_item *item;
    uint64_t row_len, row_bytes; /* in the source */
    float *floats;               /* [CHUNK] */
    uint8_t *bytes;              /* what CHUNK weights take in the new type */
    uint64_t done, all;          /* bytes of data, for progress */
    struct err *e;
};

static int put(struct stream *s, const void *p, size_t n)
{
    const struct convert_opts *o = s->t->opts;
    uint64_t before = s->done;
    TRY(gguf_write_data(s->t->w, p, n, s->e));
    s->done += n;
    bool tell = s->done == s->all || s->done >> 20 != before >> 20;
    if (tell && o->on_progress && o->on_progress(o->user, s->done, s->all) != 0)
        return fail(s->e, ERR_CANCELLED, "%s: cancelled, nothing was written", s->t->out_path);
    return 0;
}

static int put_same(struct stream *s, const uint8_t *p, uint64_t n)
{
    for (size_t piece; n; p += piece, n -= piece) {
        piece = size_min((size_t)n, (size_t)1 << 20);
        TRY(put(s, p, piece));
    }
    return 0;
}

static int check_range(const struct stream *s, const float *x, size_t n)
{
    float largest = kinds[s->item->type].largest;
    size_t n_good = 0, bad = 0;
    for (size_t i = 0; i < n; i++) n_good += fabsf(x[i]) <= largest; /* false for NaN */
    if (n_good == n) return 0;
    while (fabsf(x[bad]) <= largest) bad++;
    return fail(s->e, ERR_FORMAT, "%s: tensor \"%.*s\" holds %g, which %s cannot hold (largest %g)", files_path(s->t->src),
                STR_ARG(s->item->src->name), (double)x[bad], qtypes[s->item->type].name, (double)largest);
}

/* n weights of the source that begin at a block. */
static int put_converted(struct stream *s, const uint8_t *p, uint64_t n)
{
    const struct qtype_info *from = &qtypes[s->item->src->type], *to = &qtypes[s->item->type];
    for (size_t piece; n; n -= piece, p += piece / from->block_n * from->block_bytes) {
        piece = size_min((size_t)n, CHUNK);
        qtype_to_float(s->item->src->type, p, s->floats, piece);
        TRY(check_range(s, s->floats, piece));
        to->quantize(s->floats, NULL, s->bytes, piece);
        TRY(put(s, s->bytes, piece / to->block_n * to->block_bytes));
    }
    return 0;
}

static int put_rows(struct stream *s, uint64_t row, uint64_t n_rows)
{
    const uint8_t *p = (const uint8_t *)s->item->src->data + row * s->row_bytes;
    if (s->item->src->type == s->item->type) return put_same(s, p, n_rows * s->row_bytes);
    return put_converted(s, p, n_rows * s->row_len);
}

static int put_tensor(struct stream *s, const struct transfer_item *item)
{
    const struct tensor *src = item->src;
    bool vector = item->heads && src->n_dims == 1; /* the rows of a bias are its elements */
    uint64_t n_rows = vector ? src->ne[0] : src->ne[1] * src->ne[2] * src->ne[3];
    s->item = item;
    s->row_len = vector ? 1 : src->ne[0];
    s->row_bytes = src->bytes / n_rows;
    if (!item->heads) return put_rows(s, 0, n_rows);
    uint64_t dim = n_rows / item->heads;
    for (uint64_t row = 0; row < n_rows; row++) {
        uint64_t in_head = row % dim, pair = in_head / 2, half = in_head % 2;
        TRY(put_rows(s, row - in_head + pair + dim / 2 * half, 1));
    }
    return 0;
}

static int put_all(struct transfer *t, struct err *e)
{
    struct stream s = {.t = t, .all = gguf_writer_data_bytes(t->w), .e = e};
    s.floats = arena_array(&t->a, CHUNK, sizeof *s.floats);
    s.bytes = arena_array(&t->a, CHUNK, sizeof(float)); /* no type takes more */
    if (!s.floats || !s.bytes) return fail_nomem(e, "a conversion buffer", CHUNK * sizeof(float));
    for (size_t i = 0; i < t->n; i++) TRY(put_tensor(&s, &t->items[i]));
    return gguf_write_end(t->w, e);
}

int transfer_run(struct transfer *t, struct convert_result *result, struct err *e)
{
    struct convert_result r = {.tensors = (uint32_t)t->n};
    for (size_t i = 0; i < t->n; i++) {
        const struct transfer_item *item = &t->items[i];
        const uint64_t *ne = item->src->ne;
        TRY(gguf_add_tensor(t->w, item->name, item->type, item->src->n_dims, ne, e));
        if (!str_starts(item->name, STR("rope_"))) r.parameters += ne[0] * ne[1] * ne[2] * ne[3];
    }
    TRY(gguf_write_begin(t->w, e));
    r.file_bytes = gguf_writer_file_bytes(t->w);
    if (t->out_path) TRY(put_all(t, e));
    if (result) *result = r;
    return 0;
}
