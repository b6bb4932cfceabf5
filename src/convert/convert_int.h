/* convert_int: what the files of this room share: the list of tensors to write, and the writing of them. */
#ifndef QUERN_CONVERT_INT_H
#define QUERN_CONVERT_INT_H

#include "convert/convert.h"

/* One tensor of the new file. */
struct transfer_item {
    const struct tensor *src;
    struct str name; /* in the new file */
    enum qtype type; /* in the new file */
    uint64_t heads;  /* 0: rows stay in order. Else the rows make so many heads, and each is interleaved (transfer.c) */
};

/* What the file is to be. */
struct transfer {
    const struct files *src;
    const char *out_path; /* NULL: only sizes are wanted */
    const struct convert_opts *opts;
    bool as_stored;
    enum qtype type; /* of matrices, unless as_stored */
    struct arena a;  /* names, made tensors */
    struct transfer_item *items;
    size_t n;
    struct gguf_writer *w;
};

/* Resolves the options and opens the writer. transfer_fini also after a failure. */
int transfer_init(struct transfer *t, const struct files *src, const char *out_path, const struct convert_opts *opts,
                  struct err *e);
/* The type that a tensor takes in the new file. */
enum qtype transfer_type(const struct transfer *t, const struct tensor *src, struct str name);
/* general.file_type and general.quantization_version, for the items there are. */
void transfer_put_types(struct transfer *t);
/* Describes all items, writes everything and finishes the file; fills result. */
int transfer_run(struct transfer *t, struct convert_result *result, struct err *e);
void transfer_fini(struct transfer *t);

/* Metadata of a GGUF file for a Hugging Face folder; see hf_meta.c. */
struct model;
int hf_meta_put(struct gguf_writer *w, const struct files *src, const struct model *m, const char *name, struct err *e);

#endif
