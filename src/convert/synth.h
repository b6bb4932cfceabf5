/* synth: models of real shapes with random weights, so that anybody can learn what a model would run at before downloading it.
 * Deterministic: the same shape and type give the same file on every machine; SYNTH_VERSION changes when the bytes do. */
#ifndef QUERN_SYNTH_H
#define QUERN_SYNTH_H

#include "base/base.h"
#include "quant/quant.h"

#define SYNTH_VERSION 2

/* What layers have beside attention and norms. */
enum synth_trait {
    S_DENSE = 1,
    S_EXPERTS = 2,
    S_SHARED = 4,
    S_QK_NORM = 8,
    S_BIASES = 16, /* and sinks */
    S_LATE_NORM = 32,
    S_DELTA = 64,        /* gated delta nets but for every fourth layer, whose attention has output gates */
    S_SHARED_GATE = 128, /* of the shared expert */
};

struct synth_shape {
    const char *name, *arch; /* arch: general.architecture */
    uint32_t n_layers, n_embd, n_ff, n_heads, n_kv_heads, head_dim, n_vocab, n_ctx;
    float rope_theta;
    bool tied;
    uint32_t n_experts, n_used, n_ff_expert, n_ff_shared; /* 0: none */
    uint32_t window;                                      /* of attention; 0: none */
    unsigned traits;                                      /* bits of synth_trait */
    uint32_t n_k_heads, n_v_heads, delta_dim;             /* of gated delta nets */
};
const struct synth_shape *synth_shape_at(size_t i); /* NULL past the end */
/* NULL with an error that lists the names where there is none of this name. */
const struct synth_shape *synth_shape_find(const char *name, struct err *e);

/* type: a recipe such as "q4_k_m", or a tensor type, for all matrices. Writes the GGUF file out_path, durably.
 * on_progress may be NULL; non-zero cancels. */
int synth_write(const struct synth_shape *shape, const char *type, const char *out_path,
                int (*on_progress)(void *user, uint64_t done, uint64_t all), void *user, struct err *e);

#endif
