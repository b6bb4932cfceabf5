/* format: model files as validated descriptors. Bytes on disk (GGUF v2/v3, also split; safetensors, also sharded; Hugging Face
 * and MLX folders) go in; names, shapes, types and in-bounds pointers into the read-only maps come out. Nothing is copied, and
 * after a successful open no later room can be led outside of a file. */
#ifndef QUERN_FORMAT_H
#define QUERN_FORMAT_H

#include "base/base.h"
#include "quant/quant.h"

/* ---- tensors ------------------------------------------------------------------------------------ */

#define TENSOR_DIMS 4

struct tensor {
    struct str name;
    enum qtype type;
    uint32_t n_dims;
    uint64_t ne[TENSOR_DIMS]; /* ne[0] is the row length (runs fastest), GGUF's order; unused ones are 1. A safetensors shape
                               * [rows, cols] is ne {cols, rows}. */
    const void *data;         /* borrowed: in the map. Aligned to 1 byte only */
    uint64_t bytes;           /* checked against the file; those of side are counted, too */
    const struct qside *side; /* scales that are tensors of their own; NULL: there are none */
};

/* From one row of data to the next. */
static inline size_t tensor_row_bytes(const struct tensor *t)
{
    const struct qtype_info *q = &qtypes[t->type];
    return (size_t)t->ne[0] / q->block_n * q->block_bytes;
}
/* Row r, counted over all dimensions but the first. */
static inline struct qrow tensor_row(const struct tensor *t, size_t r)
{
    return (struct qrow){(const uint8_t *)t->data + r * tensor_row_bytes(t), t->side,
                         t->side ? r * ((size_t)t->ne[0] / t->side->group) : 0};
}

/* An open model: a GGUF file (with all its splits) or a Hugging Face folder. Immutable after open; any thread may read it. */
struct files;

enum files_kind { FILES_GGUF, FILES_HF };

/* path: a .gguf file (any part of a split set), or a folder with config.json and *.safetensors. */
int files_open(const char *path, struct files **out, struct err *e);
/* How the weights come to memory; zeroed: the files are mapped, and pages come as they are used. */
struct files_options {
    bool copy; /* read into memory of this process */
    bool lock; /* kept in memory */
};
int files_open_as(const char *path, const struct files_options *opts, struct files **out, struct err *e);
/* The same for a LoRA adapter: a .gguf file, or a folder as PEFT writes it (adapter_config.json, which stands in the place of
 * hf.config, and adapter_model.safetensors), or that file in it. */
int files_open_adapter(const char *path, struct files **out, struct err *e);
bool files_is_adapter(const char *path); /* whether it says that it is one */
void files_close(struct files **f);
enum files_kind files_kind(const struct files *f);
const char *files_path(const struct files *f);
size_t files_n_tensors(const struct files *f);
const struct tensor *files_tensor(const struct files *f, size_t i);      /* in the order of the files */
const struct tensor *files_find(const struct files *f, struct str name); /* NULL when missing */
bool files_index(const struct files *f, struct str name, size_t *i);     /* its place; false when missing */
uint64_t files_bytes(const struct files *f);                             /* sum of the tensors' bytes */

/* ---- GGUF metadata -------------------------------------------------------------------------------- */

enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPE_COUNT
};

struct gguf_kv {
    struct str key;
    enum gguf_type type;
    enum gguf_type elem; /* of an array */
    uint64_t n;          /* elements of an array, else 1 */
    union {
        uint64_t u; /* unsigned and bool */
        int64_t i;  /* signed */
        double f;
        struct str s;
    } v;
    const uint8_t *array; /* first element in the map; its extent is checked */
    uint64_t array_bytes;
};

/* The metadata of a GGUF file; NULL for a folder. */
const struct gguf *files_gguf(const struct files *f);

size_t gguf_n_kv(const struct gguf *g);
const struct gguf_kv *gguf_kv_at(const struct gguf *g, size_t i);
const struct gguf_kv *gguf_find(const struct gguf *g, const char *key); /* NULL when missing */
uint32_t gguf_version(const struct gguf *g);

/* Typed accessors: false when missing or of another kind. Any integer type that holds the value serves u64/i64;
 * any number serves f64. *out is untouched on false. */
bool gguf_get_u64(const struct gguf *g, const char *key, uint64_t *out);
bool gguf_get_i64(const struct gguf *g, const char *key, int64_t *out);
bool gguf_get_f64(const struct gguf *g, const char *key, double *out);
bool gguf_get_bool(const struct gguf *g, const char *key, bool *out);
bool gguf_get_str(const struct gguf *g, const char *key, struct str *out);

/* Arrays, element by element; false where i is out of range or the element is of another kind. */
bool gguf_arr_u64(const struct gguf_kv *kv, uint64_t i, uint64_t *out);
bool gguf_arr_i64(const struct gguf_kv *kv, uint64_t i, int64_t *out);
bool gguf_arr_f64(const struct gguf_kv *kv, uint64_t i, double *out);
bool gguf_arr_bool(const struct gguf_kv *kv, uint64_t i, bool *out);
/* Strings have no fixed size: walk them with a reader that gguf_strs makes; false when kv is no array of strings. */
bool gguf_strs(const struct gguf_kv *kv, struct reader *out);
struct str gguf_next_str(struct reader *r);
bool gguf_bytes(const struct gguf_kv *kv, struct str *out); /* an array of 8-bit integers as it stands; false: another kind */

/* ---- GGUF parsing and writing ----------------------------------------------------------------------- */

/* One GGUF file from memory (used by files_open, the vocabulary-only files of `tokenize`, and the fuzz target).
 * bytes must outlive the result. Tensor data is validated only where with_data is true; else data is NULL, and a type that
 * Quern does not run is QTYPE_COUNT with 0 bytes in place of an error. */
int gguf_parse(struct str bytes, const char *name, bool with_data, struct gguf **out, struct err *e);
void gguf_free(struct gguf **g);
size_t gguf_n_tensors(const struct gguf *g);
const struct tensor *gguf_tensor(const struct gguf *g, size_t i);

/* Writer: add all metadata and all tensor descriptions, then gguf_write_begin, then the data of each tensor in the order
 * added (gguf_write_data, any number of pieces), then gguf_write_end, which makes the file durable. All strings are copied.
 * The first put that fails is remembered and reported by gguf_write_begin. */
struct gguf_writer;
/* path NULL: no file is made, and gguf_write_begin only computes its size. */
int gguf_writer_new(const char *path, struct gguf_writer **out, struct err *e);
void gguf_writer_free(struct gguf_writer **w); /* without a successful end: leaves no file behind */
int gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t v);
int gguf_put_u64(struct gguf_writer *w, const char *key, uint64_t v);
int gguf_put_i32(struct gguf_writer *w, const char *key, int32_t v);
int gguf_put_f32(struct gguf_writer *w, const char *key, float v);
int gguf_put_bool(struct gguf_writer *w, const char *key, bool v);
int gguf_put_str(struct gguf_writer *w, const char *key, struct str v);
int gguf_put_strs(struct gguf_writer *w, const char *key, const struct str *v, size_t n);
int gguf_put_bytes(struct gguf_writer *w, const char *key, struct str v); /* an array of 8-bit integers */
int gguf_put_i32s(struct gguf_writer *w, const char *key, const int32_t *v, size_t n);
int gguf_put_bools(struct gguf_writer *w, const char *key, const bool *v, size_t n);
int gguf_put_f32s(struct gguf_writer *w, const char *key, const float *v, size_t n);
int gguf_put_kv(struct gguf_writer *w, const struct gguf_kv *kv); /* copies an entry of another file as it is */
int gguf_add_tensor(struct gguf_writer *w, struct str name, enum qtype type, uint32_t n_dims, const uint64_t *ne,
                    struct err *e);
int gguf_write_begin(struct gguf_writer *w, struct err *e);
int gguf_write_data(struct gguf_writer *w, const void *p, size_t n, struct err *e);
int gguf_write_end(struct gguf_writer *w, struct err *e);
/* Numbers may be put before they are known. gguf_last_value names the place of the one that was just put; after the data and
 * before gguf_write_end, gguf_replace gives it a value of the same type, n bytes. gguf_peek makes what was written readable
 * under the name of the temporary file, which lives as long as w. */
uint64_t gguf_last_value(const struct gguf_writer *w, enum gguf_type type);
int gguf_peek(struct gguf_writer *w, const char **tmp_path, struct err *e);
int gguf_replace(struct gguf_writer *w, uint64_t place, const void *value, size_t n, struct err *e);
uint64_t gguf_writer_head_bytes(const struct gguf_writer *w); /* of header and metadata so far, without tensor descriptions */
uint64_t gguf_writer_data_bytes(const struct gguf_writer *w); /* of all tensors added, for progress */
uint64_t gguf_writer_file_bytes(const struct gguf_writer *w); /* of the whole file; known after gguf_write_begin */

/* ---- safetensors ---------------------------------------------------------------------------------------- */

/* One safetensors file from memory; the array of tensors is in arena, their data in bytes. Integers (U32 and U8, of which only
 * files_open makes weights) are of type QTYPE_COUNT. */
int safetensors_parse(struct str bytes, const char *name, struct arena *a, struct tensor **tensors, size_t *n, struct err *e);

/* ---- Hugging Face folder ---------------------------------------------------------------------------------- */

/* The JSON side of a folder, parsed; NULL where the file is not there (config is always there). */
struct hf {
    const struct json *config;            /* config.json */
    const struct json *tokenizer_config;  /* tokenizer_config.json */
    const struct json *generation_config; /* generation_config.json */
    const struct json *special_tokens;    /* special_tokens_map.json */
    const struct json *pooling;           /* 1_Pooling/config.json, of sentence-transformers */
    struct str tokenizer;                 /* tokenizer.json, the bytes as mapped (n 0 where missing) */
    struct str chat_template;             /* chat_template.jinja, else chat_template.json, else tokenizer_config's (the one
                                           * named "default" of a list); n 0 where there is none */
};
/* NULL for a GGUF file. */
const struct hf *files_hf(const struct files *f);
/* What config.json says about MLX's quantised matrices, which files_open has read; NULL where it says nothing. */
const struct json *hf_quantization(const struct hf *hf);

#endif
