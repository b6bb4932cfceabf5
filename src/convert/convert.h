/* convert: models into GGUF files. A Hugging Face folder becomes one file with llama.cpp's names for keys and tensors; a GGUF
 * file becomes one with its matrices in another type. Weights stream from the source's map through a small buffer into the new
 * file, which replaces out_path durably or not at all. */
#ifndef QUERN_CONVERT_H
#define QUERN_CONVERT_H

#include "base/base.h"
#include "convert/synth.h"
#include "format/format.h"

struct convert_opts { /* zeroed: the defaults */
    const char *type; /* of the matrices, a name of types.def; NULL: as stored. Vectors are always f32 */
    const char *name; /* general.name; NULL: the source's */
    bool dry_run;     /* check everything and compute the sizes, write nothing; out_path may be NULL */
    /* Called now and then with the bytes of weights written and in all; non-zero cancels. May be NULL. */
    int (*on_progress)(void *user, uint64_t done, uint64_t all);
    void *user;
};

struct convert_result {
    uint64_t file_bytes;
    uint64_t parameters; /* weights of the model */
    uint32_t tensors;
};

/* src: a folder (FILES_HF). result may be NULL. */
int convert_hf(const struct files *src, const char *out_path, const struct convert_opts *opts, struct convert_result *result,
               struct err *e);
/* src: either kind; a folder is converted. opts->type must be set. */
int convert_quantize(const struct files *src, const char *out_path, const struct convert_opts *opts,
                     struct convert_result *result, struct err *e);

#endif
