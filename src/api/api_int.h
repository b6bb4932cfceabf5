/* api_int: what the files behind quern.h share. */
#ifndef QUERN_API_INT_H
#define QUERN_API_INT_H

#include "base/base.h"
#include "convert/convert.h"
#include "format/format.h"
#include "model/model.h"
#include "quern.h"
#include "run/run.h"
#include "text/text.h"

struct quern_model {
    struct arena arena;
    char *name; /* for people */
    char *path;
    struct files *files;     /* NULL with vocab_only */
    struct model *model;     /* NULL with vocab_only */
    struct preload *preload; /* of the weights; NULL where there is none to stop */
    struct map map;          /* vocab_only: the file */
    struct gguf *gguf;       /* vocab_only: of a GGUF file */
    struct tok *tok;
    struct str template_text; /* n 0: none */
    struct jinja *jinja;      /* NULL: none, or it does not compile */
    struct err template_err;  /* why it does not compile */
    struct sampling sampling; /* the model's defaults */
    int32_t *eog;             /* ids that end a generation */
    size_t n_eog;
    struct api_vocab *vocab; /* made on first use */
    const char *file_kind, *weight_type;
    uint64_t load_ns;
};

/* Open adapters of a model. */
struct api_loras {
    struct adapter **adapters; /* [n] */
    struct lora *loras;        /* [n] */
    float *scales;             /* [n] */
    uint32_t n;
};

struct quern_session {
    const quern_model *model;
    struct session *s;
    struct api_loras loras;
    struct sampler sampler;
    struct arena arena;            /* of the guesser */
    struct speculator *speculator; /* NULL: nobody guesses, */
    struct guesser *guesser;       /* and this is, too */
};

/* Copies e to err (which may be NULL) and returns its code. */
int api_fail(quern_error *err, const struct err *e);
/* b's bytes as an owned string with a NUL behind; b is empty afterwards. */
int api_give_string(struct buf *b, quern_string *out, struct err *e);
int api_render(const quern_model *m, const char *messages_json, const quern_render_options *o, struct buf *out, struct err *e);
/* See quern_fit_messages; out gets the conversation with a NUL. */
struct api_fit {
    uint32_t messages, tokens; /* left out */
};
int api_fit_messages(const quern_model *m, const char *messages_json, const quern_render_options *o, size_t n_max,
                     struct buf *out, struct api_fit *fit, struct err *e);
int api_describe(const quern_model *m, struct buf *out);
int api_describe_adapter(const struct adapter *x, struct buf *out);
int api_loras_open(const quern_model *m, const quern_lora *list, size_t n, struct api_loras *out, struct err *e);
void api_loras_close(struct api_loras *l); /* a zeroed one is fine */
/* Checks o and puts what it says into so. */
int api_session_options(const quern_session_options *o, struct session_options *so, struct err *e);
/* Checks q. */
int api_speculation(const quern_model *m, const quern_speculation *q, struct speculate_options *out, struct err *e);
/* What the caller left open is the model's. The biases are borrowed. */
struct sampling api_sampling(const quern_model *m, const quern_sampling *q);
/* The form of an answer, whose strings are borrowed; makes the vocabulary's tree when it is asked for first. Any thread. */
int api_form(const quern_model *m, const quern_form *form, struct constraint_options *out, struct err *e);
int api_vocab_new(struct api_vocab **out, struct err *e);
void api_vocab_free(struct api_vocab **v);
quern_result api_result(const struct generate_result *r);
/* Compares the model at path with the one at source, on a text; see quern_quantize. */
struct api_measurer {
    const char *source;
    const quern_convert_options *o;
};
int api_measure(void *measurer, const char *path, struct convert_quality *out, struct err *e);

#endif
