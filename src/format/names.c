/* names: what the same tensor is called in a GGUF file and in a Hugging Face checkpoint. The rest of Quern speaks GGUF's
 * names; this table is the only place that knows the others. */
#include "format/format.h"

/* %u is the layer. A name stands with its suffix .weight or .bias behind it. */
static const struct name_row {
    const char *gguf, *hf;
} rows[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
    {"blk.%u.attn_norm", "model.layers.%u.input_layernorm"},
    {"blk.%u.attn_q", "model.layers.%u.self_attn.q_proj"},
    {"blk.%u.attn_k", "model.layers.%u.self_attn.k_proj"},
    {"blk.%u.attn_v", "model.layers.%u.self_attn.v_proj"},
    {"blk.%u.attn_output", "model.layers.%u.self_attn.o_proj"},
    {"blk.%u.ffn_norm", "model.layers.%u.post_attention_layernorm"},
    {"blk.%u.ffn_gate", "model.layers.%u.mlp.gate_proj"},
    {"blk.%u.ffn_up", "model.layers.%u.mlp.up_proj"},
    {"blk.%u.ffn_down", "model.layers.%u.mlp.down_proj"},
};

/* Matches name against pattern (at most one %u, canonical decimal); *layer gets the number. */
static bool matches(struct str name, const char *pattern, uint64_t *layer)
{
    const char *hole = strstr(pattern, "%u");
    if (!hole) return str_is(name, pattern);
    struct str head = {pattern, (size_t)(hole - pattern)}, tail = str_of(hole + 2);
    if (name.n <= head.n + tail.n || !str_starts(name, head) || !str_ends(name, tail)) return false;
    struct str digits = {name.p + head.n, name.n - head.n - tail.n};
    if (digits.n > 1 && digits.p[0] == '0') return false;
    return str_u64(digits, layer);
}

/* Splits "x.weight" into "x" and ".weight". */
static bool split_suffix(struct str name, struct str *stem, struct str *suffix)
{
    static const struct str suffixes[] = {{".weight", 7}, {".bias", 5}};
    for (size_t i = 0; i < COUNT_OF(suffixes); i++) {
        if (!str_ends(name, suffixes[i])) continue;
        *stem = (struct str){name.p, name.n - suffixes[i].n};
        *suffix = suffixes[i];
        return true;
    }
    return false;
}

static bool translate(struct str name, bool to_hf, struct buf *out)
{
    struct str stem, suffix;
    uint64_t layer = 0;
    if (!split_suffix(name, &stem, &suffix)) return false;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        if (!matches(stem, to_hf ? rows[i].gguf : rows[i].hf, &layer)) continue;
        const char *pattern = to_hf ? rows[i].hf : rows[i].gguf, *hole = strstr(pattern, "%u");
        out->n = 0;
        struct str head = {pattern, hole ? (size_t)(hole - pattern) : strlen(pattern)};
        int rc = buf_str(out, head);
        if (rc == 0 && hole) rc = buf_printf(out, "%llu%s", (unsigned long long)layer, hole + 2);
        return rc == 0 && buf_str(out, suffix) == 0;
    }
    return false;
}

bool tensor_name_to_hf(struct str gguf, struct buf *out)
{
    return translate(gguf, true, out);
}

bool tensor_name_to_gguf(struct str hf, struct buf *out)
{
    return translate(hf, false, out);
}
