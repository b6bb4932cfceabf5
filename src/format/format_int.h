/* format_int: what the files of this room share: checks on names, a hash table over them, and the check that tensors do not
 * overlap. Nothing here knows a file format. */
#ifndef QUERN_FORMAT_INT_H
#define QUERN_FORMAT_INT_H

#include "format/format.h"

enum {
    KEY_MAX = 65535,        /* bytes of a metadata key */
    TENSOR_NAME_MAX = 1024, /* bytes of a tensor's name */
};

/* True where s has 1..max bytes of valid UTF-8 without control characters, so that it can stand in a message. */
bool name_ok(struct str s, size_t max);

/* A hash table over names that live elsewhere; at(ctx, i) gives the i-th. Slots hold index + 1. */
struct names {
    uint32_t *slots;
    size_t mask; /* slots - 1; meaningless while slots is NULL (an empty table) */
    struct str (*at)(const void *ctx, size_t i);
    const void *ctx;
};
/* An empty table with room for n names, its slots in a. */
int names_init(struct names *t, struct arena *a, size_t n, struct str (*at)(const void *ctx, size_t i), const void *ctx,
               struct err *e);
/* Enters name i, unless an equal one is there; returns the index that the table holds for it. */
size_t names_enter(struct names *t, size_t i);
/* Enters names 0..n-1 and returns the first that repeats an earlier one, n where there is none. */
size_t names_enter_all(struct names *t, size_t n);
bool names_find(const struct names *t, struct str name, size_t *i);

/* Bytes of a number or bool; 0 for a string or an array. */
size_t gguf_type_bytes(enum gguf_type type);

/* Pointers to the n tensors in the order of their data, in a. */
int tensors_by_data(struct arena *a, const struct tensor *tensors, size_t n, const struct tensor ***out, struct err *e);

/* Size of a tensor from its type and shape; false where a row is no whole number of blocks or the product overflows. */
bool tensor_bytes(struct tensor *t);

/* Says that the product of a tensor's shape and its element size overflows. */
int fail_size(const struct tensor *t, const char *file, struct err *e);
/* Says why a tensor of shape t->ne cannot be of its type, after tensor_bytes has refused it. */
int fail_shape(const struct tensor *t, const char *file, struct err *e);

/* The types of GGUF files that run: "f32, f16, ..." */
enum { KNOWN_TYPES = 512 };
const char *known_types(char out[KNOWN_TYPES]);

/* The Hugging Face side of files_open. */
struct hf_files {
    struct hf hf;
    struct map tokenizer; /* of hf.tokenizer */
    struct arena json;    /* holds the trees of hf */
};
int hf_open(const char *dir, struct hf_files *h, struct err *e);
/* The same for PEFT's folders, whose only JSON file becomes h->hf.config; *weights is the path of the other file, in a. */
int hf_open_adapter(const char *dir, struct hf_files *h, struct arena *a, char **weights, struct err *e);
void hf_close(struct hf_files *h);
/* Paths of the folder's weight files, in order, in a. index is the path of the index file that names them, NULL without one. */
int hf_weight_files(const char *dir, struct arena *a, char ***paths, size_t *n, char **index, struct err *e);
/* The matrices that sentence-transformers puts behind the pooling, in their order: out [HF_MODULES_MAX], paths in a. */
#define HF_MODULES_MAX 2
struct hf_module {
    const char *name; /* of its folder, and before the names of its tensors */
    char *path;
};
int hf_modules(const char *dir, struct arena *a, struct hf_module *out, size_t *n, struct err *e);
/* Checks that each tensor of the index at path lies in the file that it names; in_file(ctx, name) gives the file's base name, n
 * 0 where there is no such tensor. */
int hf_check_index(const char *path, struct str (*in_file)(const void *ctx, struct str name), const void *ctx, struct err *e);

/* The tensors of a folder, with one in place of the parts of each quantised matrix of MLX. names is over the n tensors; the new
 * list and what is new in it are in a. No tensor of it is of type QTYPE_COUNT. */
int hf_join(const struct hf *hf, const char *path, const struct names *names, struct arena *a,
            const struct tensor *const *tensors, size_t n, const struct tensor ***out, size_t *n_out, struct err *e);

/* What a file that Quern cannot open seems to be, from its first bytes: "a ZIP archive (a PyTorch checkpoint?)". */
const char *sniff(struct str bytes);

#endif
