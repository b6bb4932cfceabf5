/* convert: models into GGUF files. A Hugging Face folder becomes one file with llama.cpp's names for keys and tensors; a GGUF
 * file becomes one with its matrices in other types. Weights stream from the source's map through a small buffer into the new
 * file, which replaces out_path durably or not at all. */
#ifndef QUERN_CONVERT_H
#define QUERN_CONVERT_H

#include "base/base.h"
#include "convert/synth.h"
#include "format/format.h"

/* How the new file compares with its source, as the caller measured it. */
struct convert_quality {
    uint32_t tokens; /* scored */
    float ppl, source_ppl;
    float kld_mean, kld_median, kld_p99, kld_max; /* from the source to the new file */
    float same_top;                               /* share of the tokens for which both find the same entry likeliest */
};

/* An adapter that becomes part of the weights. */
struct convert_lora {
    const char *path;
    float scale;
};

/* Whether a folder's head for multi-token prediction goes along: by default where llama.cpp reads the file with it, too. */
enum convert_head { CONVERT_HEAD_AUTO, CONVERT_HEAD_KEEP, CONVERT_HEAD_DROP };

struct convert_opts { /* zeroed: the defaults */
    const char *type; /* of the matrices: a recipe (recipes.c); NULL: as stored. Vectors are always f32 */
    const char *name; /* general.name; NULL: the source's */
    bool dry_run;     /* check everything and compute the sizes, write nothing; out_path may be NULL */
    bool pure;        /* all matrices in the recipe's default type */
    enum convert_head head;
    const char *output_type, *embedding_type; /* of these two; NULL: what the recipe says */
    const char *const *tensor_types;          /* "REGEX=TYPE", the first that is found in a name holds */
    size_t n_tensor_types;
    uint64_t
        target_bytes;    /* size of the file: types are chosen so that it is not larger, and type is NULL (budget.c); 0: none */
    double target_bits;  /* the same as bits for each weight of the model */
    const char *imatrix; /* file of an importance matrix; NULL: all columns are alike */
    const struct convert_lora *loras; /* [n_loras] */
    size_t n_loras;
    uint32_t n_threads; /* 0: cpu_threads() */
    /* Called now and then with the bytes of weights written and in all; non-zero cancels. May be NULL. */
    int (*on_progress)(void *user, uint64_t done, uint64_t all);
    void *user;
    /* Measures the new file, which lies whole at path under another name; the result is stored in it as quern.quality.*. NULL:
     * nothing is measured. */
    int (*measure)(void *measurer, const char *path, struct convert_quality *out, struct err *e);
    void *measurer;
    const char *measure_text; /* name of the text that is measured with */
};

/* What the tensors of one type add up to. */
struct convert_share {
    uint32_t tensors;
    uint64_t weights, bytes;
};

struct convert_result {
    uint64_t file_bytes;
    uint64_t parameters; /* weights of the model */
    uint32_t tensors;
    uint32_t unweighted; /* matrices that the importance matrix says nothing about */
    bool head_dropped;   /* by default */
    struct convert_share shares[QTYPE_COUNT];
    struct convert_quality quality; /* where measured */
};

/* src: a folder (FILES_HF). result may be NULL. */
int convert_hf(const struct files *src, const char *out_path, const struct convert_opts *opts, struct convert_result *result,
               struct err *e);
/* src: either kind; a folder is converted. opts->type or a target must be set. */
int convert_quantize(const struct files *src, const char *out_path, const struct convert_opts *opts,
                     struct convert_result *result, struct err *e);

/* ---- importance matrices (imatrix.c) ----------------------------------------------------------------------------------- */

struct imatrix_entry {
    struct str name; /* of the tensor, as GGUF files have it */
    size_t n_values; /* row length times the number of matrices (experts, else 1) */
    size_t n_counts; /* one for each matrix; the legacy format has one for all */
    float *sum2;     /* [n_values] sums of squared activations */
    float *sum;      /* [n_values] of activations; NULL: the file has none */
    float *counts;   /* [n_counts] rows that went into them */
};

struct imatrix {
    struct imatrix_entry *entries; /* [n], in the order of their names */
    size_t n;
    struct str dataset;
    uint32_t n_chunks, chunk_tokens;
    struct arena a;
};

/* A file in llama.cpp's GGUF or legacy format. */
int imatrix_open(const char *path, struct imatrix **out, struct err *e);
/* The same from memory; nothing points into bytes afterwards. */
int imatrix_parse(struct str bytes, const char *path, struct imatrix **out, struct err *e);
void imatrix_free(struct imatrix **m);
const struct imatrix_entry *imatrix_find(const struct imatrix *m, struct str name); /* NULL when missing, or m is NULL */
/* Means for n_mats matrices with rows of n, [n_mats][n] each: of the squares, and of the activations where x->sum is known
 * (else means is left alone). False where the entry has another size. */
bool imatrix_columns(const struct imatrix_entry *x, size_t n, size_t n_mats, float *squares, float *means);
/* Writes the GGUF format, durably. */
int imatrix_write(const struct imatrix *m, const char *path, struct err *e);

#endif
