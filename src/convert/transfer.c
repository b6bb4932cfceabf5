/* transfer: tensors from a map into a new GGUF file, converted on the way. A tensor goes through memory in slabs: the threads
 * of a pool convert the rows of one together, then it is written. A row is converted as a whole, or where it is very long in
 * pieces, always the same ones: the bytes of the file do not depend on the number of threads.
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

enum {
    PIECE = 1 << 18, /* weights converted at once at most; a multiple of every block */
    SLAB = 4 << 20,  /* bytes of the new file that are made before they are written */
};
_Static_assert((size_t)PIECE * sizeof(float) <= SLAB, "a slab holds a piece of any type");

/* The largest magnitude that a type can hold; of every type that is written. */
static const float largest[QTYPE_COUNT] = {
    [QTYPE_F32] = FLT_MAX,
    [QTYPE_F16] = 0x1.ffdffep15f,     /* the next float, 65520, rounds to infinity */
    [QTYPE_BF16] = 0x1.fefffep127f,   /* likewise */
    [QTYPE_Q8_0] = 65504.0f * 127.0f, /* the scale is a half */
    [QTYPE_Q4_0] = 65504.0f * 8.0f,
    [QTYPE_Q4_1] = 65504.0f,
    [QTYPE_Q5_0] = 65504.0f * 16.0f,
    [QTYPE_Q5_1] = 65504.0f,
    [QTYPE_IQ4_NL] = 65504.0f * 127.0f,
    [QTYPE_MXFP4] = 0x1p40f,
    [QTYPE_Q2_K] = 65504.0f * 15.0f,
    [QTYPE_Q3_K] = 65504.0f * 32.0f * 4.0f,
    [QTYPE_Q4_K] = 65504.0f * 63.0f,
    [QTYPE_Q5_K] = 65504.0f * 63.0f,
    [QTYPE_Q6_K] = 65504.0f * 128.0f * 32.0f,
    [QTYPE_IQ4_XS] = 65504.0f * 32.0f * 127.0f,
};

int transfer_init(struct transfer *t, const struct files *src, const char *out_path, const struct convert_opts *opts,
                  struct err *e)
{
    *t = (struct transfer){.src = src, .out_path = opts->dry_run ? NULL : out_path, .opts = opts};
    if (!opts->dry_run && !out_path) return fail(e, ERR_ARG, "%s: no file name to write to", files_path(src));
    if (opts->imatrix) TRY(imatrix_open(opts->imatrix, &t->imatrix, e));
    if (t->out_path || opts->target_bytes || opts->target_bits > 0)
        TRY(pool_new(opts->n_threads ? opts->n_threads : cpu_threads(), &t->pool, e));
    return gguf_writer_new(t->out_path, &t->w, e);
}

void transfer_fini(struct transfer *t)
{
    gguf_writer_free(&t->w);
    pool_free(&t->pool);
    imatrix_free(&t->imatrix);
    arena_fini(&t->a);
}

int transfer_columns(const struct transfer *t, const struct transfer_item *item, struct arena *a, struct qcolumns *out,
                     struct err *e)
{
    const struct tensor *src = item->src;
    const struct imatrix_entry *x = imatrix_find(t->imatrix, item->name);
    *out = (struct qcolumns){0};
    if (!x || recipe_keeps(item->name, src->n_dims)) return 0;
    float *squares = arena_array(a, x->n_values, sizeof *squares);
    float *means = x->sum ? arena_array(a, x->n_values, sizeof *means) : NULL;
    if (!squares || (x->sum && !means)) return fail_nomem(e, "importance of columns", x->n_values * 2 * sizeof *means);
    if (!imatrix_columns(x, src->ne[0], src->ne[2] * src->ne[3], squares, means))
        return fail(e, ERR_ARG, "%s: %zu values for \"%.*s\", whose rows have %llu weights; it was made for another model",
                    t->opts->imatrix, x->n_values, STR_ARG(item->name), (unsigned long long)src->ne[0]);
    *out = (struct qcolumns){squares, means};
    return 0;
}

/* Row r, counted over all parts. */
static struct qrow row_of(const struct transfer_item *item, uint64_t r)
{
    if (item->order && item->order->rows) r = item->order->rows[r];
    if (!item->parts) return tensor_row(item->src, r);
    const uint64_t rows = item->parts[0]->ne[1] * item->parts[0]->ne[2] * item->parts[0]->ne[3];
    return tensor_row(item->parts[r / rows], r % rows);
}

void transfer_floats(const struct transfer_item *item, uint64_t r, uint64_t col, float *x, size_t n)
{
    const struct reorder *order = item->order;
    const struct qrow from = row_of(item, r);
    const uint64_t len = item->src->ne[0], width = order && order->blocks ? len / order->n_blocks : len;
    for (size_t some; n; n -= some, col += some, x += some) {
        const uint64_t left = width - col % width, src_col = reorder_column(order, len, col);
        some = (size_t)(n < left ? n : left);
        qtypes[item->src->type].row_to_float(&from, src_col, x, some);
        if (item->merge) merge_row(item->merge, item->src, order && order->rows ? order->rows[r] : r, src_col, x, some);
    }
}

/* Tables that everybody computes are not the model's. The product was checked when the source was opened. */
uint64_t transfer_weights(const struct transfer_item *item)
{
    const uint64_t *ne = item->src->ne;
    return str_starts(item->name, STR("rope_")) ? 0 : ne[0] * ne[1] * ne[2] * ne[3];
}

/* ---- one tensor -------------------------------------------------------------------------------------------------------- */

/* The rows of a tensor under way. */
struct stream {
    struct transfer *t;
    const struct transfer_item *item;
    uint64_t n_rows, row_len, row_bytes; /* in the source */
    bool vector;                         /* a bias, the rows of which are its elements */
    uint64_t piece;                      /* weights; the last of a row may be shorter */
    uint64_t row_pieces, n_pieces;
    uint64_t piece_bytes, new_row_bytes; /* in the new file */
    struct qcolumns columns;             /* [matrices][row_len]; squares NULL: all alike */
    uint64_t from, to;                   /* pieces of the slab that is being made */
    float **floats;                      /* [threads][PIECE] */
    uint64_t *bad;                       /* [threads] first piece with a weight that the new type cannot hold, else n_pieces */
    uint8_t *slab;                       /* [SLAB] */
    uint64_t done, all;                  /* bytes of data, for progress */
    struct err *e;
};

/* Row of the source that becomes row r of the file. */
static uint64_t source_row(const struct stream *s, uint64_t r)
{
    if (!s->item->heads) return r;
    uint64_t dim = s->n_rows / s->item->heads, in_head = r % dim;
    return r - in_head + in_head / 2 + dim / 2 * (in_head % 2);
}

static bool in_range(const float *x, size_t n, float limit)
{
    size_t n_good = 0;
    for (size_t i = 0; i < n; i++) n_good += fabsf(x[i]) <= limit; /* false for NaN */
    return n_good == n;
}

/* Piece p of the file: into dst, with x [PIECE] for the floats. False where a weight does not fit. */
static bool make_piece(const struct stream *s, uint64_t p, uint8_t *dst, float *x)
{
    const struct tensor *src = s->item->src;
    const struct qtype_info *to = &qtypes[s->item->type];
    uint64_t row = source_row(s, p / s->row_pieces), col = p % s->row_pieces * s->piece;
    size_t n = (size_t)(s->row_len - col < s->piece ? s->row_len - col : s->piece);
    struct qrow from = row_of(s->item, row);
    if (s->vector) from = (struct qrow){(const uint8_t *)src->data + row * s->row_bytes, NULL, 0};
    if (src->type == s->item->type && !s->item->merge && !(s->item->order && s->item->order->blocks)) {
        memcpy(dst, from.data + col / to->block_n * to->block_bytes, n / to->block_n * to->block_bytes);
        return true;
    }
    if (s->vector)
        qtypes[src->type].row_to_float(&from, col, x, n);
    else
        transfer_floats(s->item, row, col, x, n);
    if (!in_range(x, n, largest[s->item->type])) return false;
    const struct qcolumns at = qcolumns_from(&s->columns, row / src->ne[1] * s->row_len + col);
    to->quantize(x, &at, dst, n);
    return true;
}

static uint64_t place_of(const struct stream *s, uint64_t p)
{
    return p / s->row_pieces * s->new_row_bytes + p % s->row_pieces * s->piece_bytes;
}

static void make_share(void *ctx, unsigned ith, unsigned nth)
{
    struct stream *s = ctx;
    uint64_t n = s->to - s->from, p = s->from + n * ith / nth, end = s->from + n * (ith + 1) / nth;
    s->bad[ith] = s->n_pieces;
    for (; p < end; p++) {
        if (make_piece(s, p, s->slab + (place_of(s, p) - place_of(s, s->from)), s->floats[ith])) continue;
        s->bad[ith] = p;
        return;
    }
}

/* Names the first weight of piece p that does not fit. */
static int fail_range(const struct stream *s, uint64_t p)
{
    const struct tensor *src = s->item->src;
    float *x = s->floats[0], limit = largest[s->item->type];
    size_t n = 0;
    (void)make_piece(s, p, s->slab, x);
    while (fabsf(x[n]) <= limit) n++;
    return fail(s->e, ERR_FORMAT, "%s: tensor \"%.*s\" holds %g, which %s cannot hold (largest %g)", files_path(s->t->src),
                STR_ARG(src->name), (double)x[n], qtypes[s->item->type].name, (double)limit);
}

static int put(struct stream *s, const void *p, size_t n)
{
    const struct convert_opts *o = s->t->opts;
    TRY(gguf_write_data(s->t->w, p, n, s->e));
    s->done += n;
    if (o->on_progress && o->on_progress(o->user, s->done, s->all) != 0)
        return fail(s->e, ERR_CANCELLED, "%s: cancelled, nothing was written", s->t->out_path);
    return 0;
}

static int put_slabs(struct stream *s)
{
    uint64_t in_slab = SLAB / s->piece_bytes;
    for (s->from = 0; s->from < s->n_pieces; s->from = s->to) {
        s->to = s->n_pieces - s->from < in_slab ? s->n_pieces : s->from + in_slab;
        pool_run(s->t->pool, make_share, s);
        for (unsigned i = 0; i < pool_size(s->t->pool); i++)
            if (s->bad[i] < s->n_pieces) return fail_range(s, s->bad[i]);
        TRY(put(s, s->slab, (size_t)(place_of(s, s->to) - place_of(s, s->from))));
    }
    return 0;
}

/* What lies in the new file as it lies in the old one. */
static int put_same(struct stream *s)
{
    const struct tensor *const *parts = s->item->parts ? s->item->parts : &s->item->src;
    for (uint32_t i = 0; i < (s->item->parts ? s->item->n_parts : 1); i++) {
        const uint8_t *p = parts[i]->data;
        uint64_t n = parts[i]->bytes;
        for (size_t piece; n; p += piece, n -= piece) {
            piece = (size_t)(n < SLAB ? n : SLAB);
            TRY(put(s, p, piece));
        }
    }
    return 0;
}

static int put_tensor(struct stream *s, const struct transfer_item *item)
{
    const struct tensor *src = item->src;
    const struct qtype_info *to = &qtypes[item->type];
    const bool vector = s->vector = item->heads && src->n_dims == 1;
    s->item = item;
    if (src->type == item->type && !item->heads && !item->order && !item->merge) return put_same(s);
    s->n_rows = vector ? src->ne[0] : src->ne[1] * src->ne[2] * src->ne[3];
    s->row_len = vector ? 1 : src->ne[0];
    s->row_bytes = vector ? src->bytes / s->n_rows : tensor_row_bytes(src);
    s->piece = s->row_len < PIECE ? s->row_len : PIECE;
    s->row_pieces = (s->row_len + s->piece - 1) / s->piece;
    s->n_pieces = s->n_rows * s->row_pieces;
    s->piece_bytes = s->piece / to->block_n * to->block_bytes;
    s->new_row_bytes = s->row_len / to->block_n * to->block_bytes;
    struct arena a = {0};
    int rc = transfer_columns(s->t, item, &a, &s->columns, s->e);
    if (rc == 0) rc = put_slabs(s);
    arena_fini(&a);
    return rc;
}

/* ---- all of them ----------------------------------------------------------------------------------------------------------
 */

static int put_all(struct transfer *t, struct convert_quality *quality, struct err *e)
{
    const size_t n_threads = pool_size(t->pool);
    struct stream s = {.t = t, .all = gguf_writer_data_bytes(t->w), .e = e};
    s.slab = arena_alloc(&t->a, SLAB);
    s.bad = arena_array(&t->a, n_threads, sizeof *s.bad);
    s.floats = arena_array(&t->a, n_threads, sizeof *s.floats);
    if (!s.slab || !s.bad || !s.floats) return fail_nomem(e, "a conversion buffer", SLAB);
    for (size_t i = 0; i < n_threads; i++)
        if (!(s.floats[i] = arena_array(&t->a, PIECE, sizeof(float))))
            return fail_nomem(e, "a conversion buffer", PIECE * sizeof(float));
    for (size_t i = 0; i < t->n; i++) TRY(put_tensor(&s, &t->items[i]));
    TRY(quality_measure(t, quality, e));
    return gguf_write_end(t->w, e);
}

static void count(const struct transfer *t, const struct transfer_item *item, struct convert_result *r)
{
    const uint64_t n = transfer_weights(item);
    struct convert_share *share = &r->shares[item->type];
    if (n == 0) return;
    r->parameters += n;
    share->tensors++;
    share->weights += n;
    share->bytes += n / qtypes[item->type].block_n * qtypes[item->type].block_bytes;
    bool weighted = recipe_keeps(item->name, item->src->n_dims) || imatrix_find(t->imatrix, item->name);
    r->unweighted += !weighted;
}

int transfer_run(struct transfer *t, struct convert_result *result, struct err *e)
{
    struct convert_result r = {.tensors = (uint32_t)t->n};
    for (size_t i = 0; i < t->n; i++) {
        const struct transfer_item *item = &t->items[i];
        if (item->merge && !qtypes[item->type].quantize)
            return fail(e, ERR_UNSUPPORTED, "%.*s is %s, which is not written here; merging needs another type",
                        STR_ARG(item->name), qtypes[item->type].name);
        TRY(gguf_add_tensor(t->w, item->name, item->type, item->src->n_dims, item->src->ne, e));
        count(t, item, &r);
    }
    TRY(gguf_write_begin(t->w, e));
    r.file_bytes = gguf_writer_file_bytes(t->w);
    if (t->out_path) TRY(put_all(t, &r.quality, e));
    if (result) *result = r;
    return 0;
}
