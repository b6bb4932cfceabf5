/* logits_file: what a model expects after each scored token, to compare other models with, in the format of llama.cpp's
 * perplexity tool:
 *
 *   "_logits_", u32 n_ctx, u32 n_vocab, u32 n_windows, i32 ids[n_windows][n_ctx], then for each window and each position
 *   n_ctx / 2 .. n_ctx - 2 a row: f32 scale, f32 min, u16 q[n_vocab], padded to an even number; log p[v] = scale * q[v] + min
 *
 * What is less likely than the likeliest by more than e^16 is stored as just so much. */
#include "run/run.h"

#define MAGIC "_logits_"
#define RANGE 16.0f

enum { HEADER_BYTES = 20, ROW_HEADER_BYTES = 8, LEVELS = 65535 };

static size_t row_bytes(uint32_t n_vocab)
{
    return ROW_HEADER_BYTES + ((size_t)n_vocab + 1) / 2 * 2 * sizeof(uint16_t);
}

/* ---- reading ----------------------------------------------------------------------------------------------------------- */

static int parse(struct logits_file *f, const char *path, struct err *e)
{
    struct reader r = rd_of(f->map.p, f->map.n);
    const void *magic = rd_bytes(&r, 8);
    if (!magic || memcmp(magic, MAGIC, 8) != 0)
        return fail(e, ERR_FORMAT, "%s: no file of log-probabilities; --save-all-logits writes one", path);
    f->n_ctx = rd_u32(&r);
    f->n_vocab = rd_u32(&r);
    f->n_windows = rd_u32(&r);
    uint64_t n_ids = (uint64_t)f->n_ctx * f->n_windows, n_rows = 0, bytes = 0;
    bool ok = !r.bad && f->n_ctx >= 3 && f->n_ctx <= INT32_MAX && f->n_vocab > 0 && f->n_vocab <= INT32_MAX &&
              f->n_windows > 0 && rd_count_ok(&r, n_ids, sizeof(int32_t));
    const void *ids = ok ? rd_bytes(&r, n_ids * sizeof(int32_t)) : NULL;
    ok = ok && u64_mul(f->n_windows, second_half_of(f->n_ctx), &n_rows) && u64_mul(n_rows, row_bytes(f->n_vocab), &bytes) &&
         rd_left(&r) == bytes;
    if (!ok)
        return fail(e, ERR_FORMAT, "%s: %zu bytes are not what %u windows of %u tokens and a vocabulary of %u take", path,
                    f->map.n, f->n_windows, f->n_ctx, f->n_vocab);
    f->rows = r.p;
    f->ids = mem_alloc((size_t)n_ids * sizeof *f->ids);
    if (!f->ids) return fail_nomem(e, path, (size_t)n_ids * sizeof *f->ids);
    memcpy(f->ids, ids, (size_t)n_ids * sizeof *f->ids);
    return 0;
}

int logits_file_open(const char *path, struct logits_file *f, struct err *e)
{
    *f = (struct logits_file){0};
    TRY(vfs_map(path, &f->map, e));
    int rc = parse(f, path, e);
    if (rc < 0) logits_file_close(f);
    return rc;
}

void logits_file_close(struct logits_file *f)
{
    vfs_unmap(&f->map);
    mem_free(f->ids);
    *f = (struct logits_file){0};
}

struct log_probs logits_file_row(const struct logits_file *f, size_t i, float *x)
{
    const uint8_t *p = f->rows + i * row_bytes(f->n_vocab);
    float head[2];
    memcpy(head, p, sizeof head);
    for (size_t v = 0; v < f->n_vocab; v++) x[v] = head[0] * (float)load_u16(p + ROW_HEADER_BYTES + 2 * v) + head[1];
    return (struct log_probs){x, 0};
}

/* ---- writing ----------------------------------------------------------------------------------------------------------- */

int logits_file_begin(struct out *o, const int32_t *ids, uint32_t n_ctx, uint32_t n_vocab, uint32_t n_windows, struct err *e)
{
    const uint32_t numbers[] = {n_ctx, n_vocab, n_windows};
    TRY(out_write(o, MAGIC, 8, e));
    TRY(out_write(o, numbers, sizeof numbers, e));
    return out_write(o, ids, (size_t)n_ctx * n_windows * sizeof *ids, e);
}

int logits_file_put(struct out *o, const struct log_probs *p, uint32_t n_vocab, struct err *e)
{
    float min = 0; /* x of the likeliest is 0 */
    for (uint32_t v = 0; v < n_vocab; v++) min = p->x[v] < min ? p->x[v] : min;
    if (min < -RANGE) min = -RANGE;
    const float step = -min / LEVELS, head[2] = {step, (float)((double)min - p->log_total)};
    TRY(out_write(o, head, sizeof head, e));
    for (uint32_t v = 0; v < n_vocab + n_vocab % 2; v++) {
        uint16_t q = v < n_vocab && p->x[v] > min ? (uint16_t)((p->x[v] - min) / step + 0.5f) : 0;
        TRY(out_write(o, &q, sizeof q, e));
    }
    return 0;
}
