/* qtypes: the table of tensor types, made from types.def, and the names of all types that GGUF files use. The names serve
 * messages ("blk.0.ffn_up.weight is q4_k (12)"), for a file must be refused by name and not by number. */
#include "quant/quant_int.h"

#define UNPACK_FLOAT(NAME) NULL
#define UNPACK_32(NAME) unpack_##NAME
#define UNPACK_256(NAME) unpack_##NAME
#define WRITE_R(NAME) NULL
#define WRITE_W(NAME) quantize_##NAME

/* Floats of the integer types, by the definition of struct qblock. */
static void block_floats(enum qtype t, const struct qblock *q, float *dst)
{
    const struct qtype_info *info = &qtypes[t];
    for (size_t i = 0; i < info->block_n; i++) {
        float v = (float)(q->u[i] - info->off);
        if (info->arith == ARITH_32)
            dst[i] = info->has_min ? q->d * v + q->m : q->d * v;
        else
            dst[i] = info->has_min ? q->d * (float)q->sc[i / QSUB] * v - q->m * (float)q->mn[i / QSUB]
                                   : q->d * (float)q->sc[i / QSUB] * v;
    }
}

#define BLOCKS(NAME)                                                                     \
    void row_to_float_##NAME(const struct qrow *row, size_t from, float *dst, size_t n)  \
    {                                                                                    \
        struct qblock q;                                                                 \
        const size_t block_n = qtypes[QTYPE_##NAME].block_n;                             \
        for (size_t b = from / block_n; b < (from + n) / block_n; b++, dst += block_n) { \
            unpack_##NAME(row, b, &q);                                                   \
            block_floats(QTYPE_##NAME, &q, dst);                                         \
        }                                                                                \
    }
#define DEFINE_FLOAT(NAME)
#define DEFINE_32(NAME) BLOCKS(NAME)
#define DEFINE_256(NAME) BLOCKS(NAME)
#define T(NAME, name, id, block_n, bytes, ARITH, off, min, W) DEFINE_##ARITH(NAME)
#include "quant/types.def"
#undef T

const struct qtype_info qtypes[QTYPE_COUNT] = {
#define T(NAME, name, id, block_n, bytes, ARITH, off, min, W)                                                                 \
    [QTYPE_##NAME] = {name,           id, block_n, bytes, ARITH_##ARITH, off, min, UNPACK_##ARITH(NAME), row_to_float_##NAME, \
                      WRITE_##W(NAME)},
#include "quant/types.def"
#undef T
};

void qtype_to_float(enum qtype t, const void *src, float *dst, size_t n)
{
    qtypes[t].row_to_float(&(struct qrow){.data = src}, 0, dst, n);
}

/* Indexed by the number in the file. 4, 5, 31..33 and 36..38 were withdrawn from the format. */
static const char *const ggml_names[] = {
    "f32",        "f16",        "q4_0",       "q4_1",  "q4_2",     "q4_3",     "q5_0",     "q5_1",    "q8_0",
    "q8_1",       "q2_k",       "q3_k",       "q4_k",  "q5_k",     "q6_k",     "q8_k",     "iq2_xxs", "iq2_xs",
    "iq3_xxs",    "iq1_s",      "iq4_nl",     "iq3_s", "iq2_s",    "iq4_xs",   "i8",       "i16",     "i32",
    "i64",        "f64",        "iq1_m",      "bf16",  "q4_0_4_4", "q4_0_4_8", "q4_0_8_8", "tq1_0",   "tq2_0",
    "iq4_nl_4_4", "iq4_nl_4_8", "iq4_nl_8_8", "mxfp4", "nvfp4",    "q1_0",     "q2_0",
};

bool qtype_by_name(struct str name, enum qtype *out)
{
    for (unsigned t = 0; t < QTYPE_COUNT; t++) {
        if (!str_is_any_case(name, qtypes[t].name)) continue;
        *out = (enum qtype)t;
        return true;
    }
    return false;
}

bool qtype_by_ggml(uint32_t id, enum qtype *out)
{
    for (unsigned t = 0; t < QTYPE_COUNT; t++) {
        if (qtypes[t].ggml_id != id || id == NO_GGML) continue;
        *out = (enum qtype)t;
        return true;
    }
    return false;
}

const char *ggml_type_name(uint32_t id)
{
    return id < COUNT_OF(ggml_names) ? ggml_names[id] : "?";
}

bool qtype_row_bytes(enum qtype t, uint64_t n, uint64_t *out)
{
    const struct qtype_info *q = &qtypes[t];
    return n % q->block_n == 0 && u64_mul(n / q->block_n, q->block_bytes, out);
}
