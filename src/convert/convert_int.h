/* convert_int: what the files of this room share: the list of tensors to write, the choice of their types, and the writing. */
#ifndef QUERN_CONVERT_INT_H
#define QUERN_CONVERT_INT_H

#include "convert/convert.h"
#include "model/model.h"

/* Adapters that become part of the weights, bound to the model of the source (merge_lora.c). */
struct merge {
    struct adapter **adapters; /* [n] */
    double *scales;            /* [n] */
    size_t n;
};

/* One tensor of the new file. */
struct transfer_item {
    const struct tensor *src;          /* its shape and, where it is whole, the tensor itself */
    const struct tensor *const *parts; /* [n_parts] of one shape and type, laid one behind the other; NULL: src is whole */
    uint32_t n_parts;
    const struct reorder *order; /* of the new tensor, in the source; NULL: the same */
    struct str name;             /* in the new file */
    enum qtype type;             /* in the new file */
    bool fixed;                  /* the type is not to be chosen for a size */
    const struct merge *merge;   /* what is added to its rows; NULL: nothing */
    uint64_t heads; /* 0: rows stay in order. Else the rows make so many heads, and each is interleaved (transfer.c) */
};

/* ---- recipes: named mixes of types ------------------------------------------------------------------------------------- */

struct recipe {
    const char *name;
    enum qtype type;    /* of most matrices */
    uint32_t file_type; /* general.file_type */
};

#define RECIPE_LAYERS 1024

/* What the rules ask about a model; numbers are 0 where the source does not say. */
struct recipe_model {
    uint32_t n_layers; /* at most RECIPE_LAYERS */
    uint32_t n_heads, n_kv_heads, n_experts;
    bool tied;     /* the embedding table is the output matrix */
    bool weighted; /* there is an importance matrix */
};

const struct recipe *recipe_find(struct str name); /* any case, or its number; NULL when unknown */
const struct recipe *recipe_at(size_t i);          /* NULL past the end */
/* general.file_type of a file that follows no recipe and has mostly this type. */
uint32_t recipe_file_type(enum qtype most);
/* True for tensors that no recipe touches: vectors, norms, routers and the like. */
bool recipe_keeps(struct str name, uint32_t n_dims);
/* The type itself where rows of so many weights are whole blocks of it, else what takes its place. */
enum qtype recipe_fit(enum qtype type, uint64_t row);
/* Gives all items a type, save those that are kept. */
void recipe_assign(const struct recipe *r, const struct recipe_model *m, struct transfer_item *items, size_t n);

/* ---- transfer ------------------------------------------------------------------------------------------------------------ */

/* What the file is to be. */
struct transfer {
    const struct files *src;
    const char *out_path; /* NULL: only sizes are wanted */
    const struct convert_opts *opts;
    const struct recipe *recipe; /* NULL: as stored, or chosen for a size */
    struct recipe_model model;
    struct imatrix *imatrix; /* NULL: all weights are alike */
    struct pool *pool;       /* NULL: only sizes are wanted, and nothing has to be measured */
    struct arena a;          /* names, made tensors, buffers */
    struct transfer_item *items;
    size_t n;
    struct gguf_writer *w;
    struct quality_places { /* of the numbers in the header; quality.c */
        uint64_t p[8];
    } quality;
};

/* Resolves the options, opens the writer and the importance matrix. transfer_fini also after a failure. */
int transfer_init(struct transfer *t, const struct files *src, const char *out_path, const struct convert_opts *opts,
                  struct err *e);
/* Gives each item its type (plan.c), for t->model; puts general.file_type and what else describes the quantisation. */
int transfer_plan(struct transfer *t, struct err *e);
/* Chooses the types of all items that are not fixed so that the file does not exceed the size of the options. */
int budget_assign(struct transfer *t, struct err *e);
/* What is known of the columns of each matrix of an item, [matrices][row length], in a; squares are NULL where nothing is. */
int transfer_columns(const struct transfer *t, const struct transfer_item *item, struct arena *a, struct qcolumns *out,
                     struct err *e);
/* n weights of row r of the new tensor from `col` on, as its source has them. Where the item has an order of blocks, these and
 * col are multiples of the source's block. */
void transfer_floats(const struct transfer_item *item, uint64_t r, uint64_t col, float *x, size_t n);
/* Weights that count as the model's. */
uint64_t transfer_weights(const struct transfer_item *item);
/* Describes all items, writes everything and finishes the file; fills result. */
int transfer_run(struct transfer *t, struct convert_result *result, struct err *e);
void transfer_fini(struct transfer *t);

/* Puts the keys of the quality card, still without values; measures the written file and gives them theirs. Nothing where the
 * options do not ask for it. */
void quality_put(struct transfer *t);
int quality_measure(struct transfer *t, struct convert_quality *out, struct err *e);

/* The adapters of the options; merge_close also for a zeroed one. */
int merge_open(struct merge *g, const struct convert_opts *o, const struct model *m, struct err *e);
void merge_close(struct merge *g);
/* Gives the items that adapters change their merge. */
int merge_items(const struct merge *g, const struct model *m, struct transfer *t, struct err *e);
/* Adds to x, n weights of row r of t from col on, what adapters add to them. */
void merge_row(const struct merge *g, const struct tensor *t, uint64_t r, uint64_t col, float *x, size_t n);

/* Metadata of a GGUF file for a Hugging Face folder; see hf_meta.c. */
struct model;
int hf_meta_put(struct gguf_writer *w, const struct files *src, const struct model *m, const char *name, struct err *e);

#endif
