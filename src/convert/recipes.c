/* recipes: which type each matrix of a file takes. A mix is a default type and rules that give the tensors which suffer most
 * from rounding more bits. Names, numbers and rules are those of llama.cpp, so that a file is the same mix whichever program
 * made it, and may be exchanged for the other's. The first rule that fits a tensor holds.
 *
 * A tensor's place counts the tensors of its class from the first layer up, for models do not have each in every layer. */
#include "convert/convert_int.h"

enum mix {
    MIX_F32,
    MIX_F16,
    MIX_BF16,
    MIX_Q4_0,
    MIX_Q4_1,
    MIX_Q5_0,
    MIX_Q5_1,
    MIX_Q8_0,
    MIX_Q2_K,
    MIX_Q2_K_S,
    MIX_Q3_K_M,
    MIX_Q3_K_S,
    MIX_Q3_K_L,
    MIX_Q4_K_M,
    MIX_Q4_K_S,
    MIX_Q5_K_M,
    MIX_Q5_K_S,
    MIX_Q6_K,
    MIX_IQ4_NL,
    MIX_IQ4_XS,
    MIX_MXFP4,
    MIX_MXFP4_MOE,
    MIX_COUNT
};

/* Where several have one default type, the one that a file of mostly this type is called by comes first. */
static const struct recipe recipes[MIX_COUNT] = {
    [MIX_F32] = {"F32", QTYPE_F32, 0},           [MIX_F16] = {"F16", QTYPE_F16, 1},
    [MIX_BF16] = {"BF16", QTYPE_BF16, 32},       [MIX_Q4_0] = {"Q4_0", QTYPE_Q4_0, 2},
    [MIX_Q4_1] = {"Q4_1", QTYPE_Q4_1, 3},        [MIX_Q5_0] = {"Q5_0", QTYPE_Q5_0, 8},
    [MIX_Q5_1] = {"Q5_1", QTYPE_Q5_1, 9},        [MIX_Q8_0] = {"Q8_0", QTYPE_Q8_0, 7},
    [MIX_Q2_K] = {"Q2_K", QTYPE_Q2_K, 10},       [MIX_Q2_K_S] = {"Q2_K_S", QTYPE_Q2_K, 21},
    [MIX_Q3_K_M] = {"Q3_K_M", QTYPE_Q3_K, 12},   [MIX_Q3_K_S] = {"Q3_K_S", QTYPE_Q3_K, 11},
    [MIX_Q3_K_L] = {"Q3_K_L", QTYPE_Q3_K, 13},   [MIX_Q4_K_M] = {"Q4_K_M", QTYPE_Q4_K, 15},
    [MIX_Q4_K_S] = {"Q4_K_S", QTYPE_Q4_K, 14},   [MIX_Q5_K_M] = {"Q5_K_M", QTYPE_Q5_K, 17},
    [MIX_Q5_K_S] = {"Q5_K_S", QTYPE_Q5_K, 16},   [MIX_Q6_K] = {"Q6_K", QTYPE_Q6_K, 18},
    [MIX_IQ4_NL] = {"IQ4_NL", QTYPE_IQ4_NL, 25}, [MIX_IQ4_XS] = {"IQ4_XS", QTYPE_IQ4_XS, 30},
    [MIX_MXFP4] = {"MXFP4", QTYPE_MXFP4, 38},    [MIX_MXFP4_MOE] = {"MXFP4_MOE", QTYPE_Q8_0, 38},
};

static const struct {
    const char *name;
    enum mix mix;
} aliases[] = {{"Q3_K", MIX_Q3_K_M}, {"Q4_K", MIX_Q4_K_M}, {"Q5_K", MIX_Q5_K_M}};

enum { FILE_TYPE_GUESSED = 1024 }; /* llama.cpp's "look at the tensors" */

/* ---- rules ----------------------------------------------------------------------------------------------------------- */

enum tensor_class {
    CLASS_OTHER,
    CLASS_OUTPUT, /* also an embedding table that is the output matrix */
    CLASS_EMBEDDING,
    CLASS_ATTN_V, /* values, alone or with queries and keys */
    CLASS_ATTN_K,
    CLASS_ATTN_OUT,
    CLASS_FFN_DOWN,
    CLASS_COUNT
};

static const struct {
    struct str part;
    enum tensor_class class;
} classes[] = {
    {{"attn_qkv.weight", 15}, CLASS_ATTN_V}, {{"attn_kv_b.weight", 16}, CLASS_ATTN_V},
    {{"attn_v.weight", 13}, CLASS_ATTN_V},   {{"attn_k.weight", 13}, CLASS_ATTN_K},
    {{"ffn_down", 8}, CLASS_FFN_DOWN},       {{"attn_output.weight", 18}, CLASS_ATTN_OUT},
};

enum condition {
    ALWAYS,
    FIRST_TWO,
    FIRST_FOUR,
    FIRST_8TH,
    FIRST_16TH,
    FIRST_8TH_PLAIN,    /* ... without an importance matrix */
    FIRST_8TH_WEIGHTED, /* ... with one */
    SPREAD,             /* the first and last eighth, and each third layer between */
    SHARED_4,           /* four or more query heads share the tensor */
    LAYERS_80,          /* Llama 70B's shape */
    EXPERTS_8,
    EXPERT_STACK, /* the tensor holds the matrices of all experts */
};

#define M(mix) (1u << MIX_##mix)
#define INTEGER_MIXES (((1u << MIX_COUNT) - 1) & ~(M(F32) | M(F16) | M(BF16) | M(MXFP4_MOE)))
_Static_assert(MIX_COUNT < 32, "mixes are bits");

static const struct rule {
    enum tensor_class class; /* CLASS_COUNT: any */
    enum condition when;
    enum qtype type;
    unsigned mixes;
} rules[] = {
    {CLASS_OUTPUT, ALWAYS, QTYPE_Q6_K, INTEGER_MIXES & ~M(Q8_0)},
    {CLASS_COUNT, EXPERT_STACK, QTYPE_MXFP4, M(MXFP4_MOE)},

    {CLASS_ATTN_V, EXPERTS_8, QTYPE_Q8_0, INTEGER_MIXES},
    {CLASS_ATTN_V, SPREAD, QTYPE_Q6_K, M(Q4_K_M) | M(Q5_K_M)},
    {CLASS_ATTN_V, LAYERS_80, QTYPE_Q5_K, M(Q2_K) | M(Q2_K_S) | M(Q3_K_S) | M(Q3_K_M) | M(Q4_K_S) | M(Q4_K_M)},
    {CLASS_ATTN_V, SHARED_4, QTYPE_Q4_K, M(Q2_K) | M(Q2_K_S)},
    {CLASS_ATTN_V, SHARED_4, QTYPE_Q5_K, M(IQ4_NL) | M(IQ4_XS)},
    {CLASS_ATTN_V, FIRST_TWO, QTYPE_Q5_K, M(Q3_K_M)},
    {CLASS_ATTN_V, FIRST_FOUR, QTYPE_Q5_K, M(Q4_K_S)},
    {CLASS_ATTN_V, ALWAYS, QTYPE_Q3_K, M(Q2_K)},
    {CLASS_ATTN_V, ALWAYS, QTYPE_Q4_K, M(Q3_K_M)},
    {CLASS_ATTN_V, ALWAYS, QTYPE_Q5_K, M(Q3_K_L)},

    {CLASS_ATTN_K, EXPERTS_8, QTYPE_Q8_0, INTEGER_MIXES},

    {CLASS_FFN_DOWN, SPREAD, QTYPE_Q6_K, M(Q4_K_M) | M(Q5_K_M)},
    {CLASS_FFN_DOWN, FIRST_16TH, QTYPE_Q5_K, M(Q3_K_M)},
    {CLASS_FFN_DOWN, FIRST_8TH, QTYPE_Q4_K, M(Q2_K_S)},
    {CLASS_FFN_DOWN, FIRST_8TH, QTYPE_Q5_K, M(Q4_K_S)},
    {CLASS_FFN_DOWN, FIRST_8TH_PLAIN, QTYPE_Q5_K, M(IQ4_NL) | M(IQ4_XS)},
    {CLASS_FFN_DOWN, FIRST_8TH_WEIGHTED, QTYPE_Q4_1, M(Q4_0)},
    {CLASS_FFN_DOWN, FIRST_8TH_WEIGHTED, QTYPE_Q5_1, M(Q5_0)},
    {CLASS_FFN_DOWN, ALWAYS, QTYPE_Q3_K, M(Q2_K)},
    {CLASS_FFN_DOWN, ALWAYS, QTYPE_Q4_K, M(Q3_K_M)},
    {CLASS_FFN_DOWN, ALWAYS, QTYPE_Q5_K, M(Q3_K_L)},

    {CLASS_ATTN_OUT, EXPERTS_8, QTYPE_Q5_K, M(Q2_K) | M(Q3_K_S) | M(Q3_K_M) | M(Q4_K_S) | M(Q4_K_M) | M(IQ4_NL) | M(IQ4_XS)},
    {CLASS_ATTN_OUT, EXPERTS_8, QTYPE_Q3_K, M(Q3_K_L)},
    {CLASS_ATTN_OUT, ALWAYS, QTYPE_Q3_K, M(Q2_K)},
    {CLASS_ATTN_OUT, ALWAYS, QTYPE_Q4_K, M(Q3_K_M)},
    {CLASS_ATTN_OUT, ALWAYS, QTYPE_Q5_K, M(Q3_K_L)},
};

/* What a type becomes where the rows are no whole number of its blocks; types that are not here become F16. */
static const struct {
    enum qtype type, other;
} narrower[] = {
    {QTYPE_Q2_K, QTYPE_Q4_0}, {QTYPE_Q3_K, QTYPE_Q4_0}, {QTYPE_Q4_K, QTYPE_Q5_0},
    {QTYPE_Q5_K, QTYPE_Q5_1}, {QTYPE_Q6_K, QTYPE_Q8_0}, {QTYPE_IQ4_XS, QTYPE_IQ4_NL},
};

/* Parts of the names of matrices that stay as they are: small ones, and some that no product reads. */
static const struct str kept[] = {
    {"_norm.weight", 12},
    {"ffn_gate_inp.weight", 19},
    {"position_embd", 13},
    {"token_types.weight", 18},
    {"attn_rel_b.weight", 17},
    {"ssm_conv1d", 10},
    {"altup", 5},
    {"laurel", 6},
    {"per_layer_model_proj", 20},
    {"shortconv.conv.weight", 21},
    {"time_mix_", 9},
};

/* ---- choosing ---------------------------------------------------------------------------------------------------------- */

/* By its number, as llama-quantize takes it; of two with one number it means the second. */
static const struct recipe *find_number(uint64_t file_type)
{
    for (size_t i = MIX_COUNT; i-- > 0;)
        if (recipes[i].file_type == file_type) return &recipes[i];
    return NULL;
}

const struct recipe *recipe_find(struct str name)
{
    uint64_t number;
    if (str_u64(name, &number)) return find_number(number);
    for (size_t i = 0; i < MIX_COUNT; i++)
        if (str_is_any_case(name, recipes[i].name)) return &recipes[i];
    for (size_t i = 0; i < COUNT_OF(aliases); i++)
        if (str_is_any_case(name, aliases[i].name)) return &recipes[aliases[i].mix];
    return NULL;
}

const struct recipe *recipe_at(size_t i)
{
    return i < MIX_COUNT ? &recipes[i] : NULL;
}

uint32_t recipe_file_type(enum qtype most)
{
    for (size_t i = 0; i < MIX_COUNT; i++)
        if (recipes[i].type == most) return recipes[i].file_type;
    return FILE_TYPE_GUESSED;
}

bool recipe_keeps(struct str name, uint32_t n_dims)
{
    if (n_dims < 2 || !str_ends(name, STR(".weight"))) return true;
    for (size_t i = 0; i < COUNT_OF(kept); i++)
        if (str_has(name, kept[i])) return true;
    return false;
}

enum qtype recipe_fit(enum qtype type, uint64_t row)
{
    for (size_t i = 0; i < COUNT_OF(narrower) && row % qtypes[type].block_n; i++)
        if (narrower[i].type == type) return row % qtypes[narrower[i].other].block_n ? QTYPE_F16 : narrower[i].other;
    return row % qtypes[type].block_n ? QTYPE_F16 : type;
}

static enum tensor_class class_of(struct str name, bool tied)
{
    if (str_is(name, "output.weight")) return CLASS_OUTPUT;
    if (str_ends(name, STR("token_embd.weight")))
        return tied && str_is(name, "token_embd.weight") ? CLASS_OUTPUT : CLASS_EMBEDDING;
    for (size_t i = 0; i < COUNT_OF(classes); i++)
        if (str_has(name, classes[i].part)) return classes[i].class;
    return CLASS_OTHER;
}

/* The number behind "blk."; 0 outside of the layers. */
static uint64_t layer_of(struct str name)
{
    uint64_t layer = 0;
    if (!str_starts(name, STR("blk."))) return 0;
    struct str digits = {name.p + 4, 0};
    while (digits.n < name.n - 4 && digits.p[digits.n] != '.') digits.n++;
    (void)str_u64(digits, &layer);
    return layer;
}

static bool spread(uint32_t i, uint32_t n)
{
    return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
}

static bool holds(enum condition when, const struct recipe_model *m, const struct tensor *t, uint32_t i, uint32_t n)
{
    switch (when) {
    case ALWAYS:
        return true;
    case FIRST_TWO:
        return i < 2;
    case FIRST_FOUR:
        return i < 4;
    case FIRST_8TH:
        return i < n / 8;
    case FIRST_16TH:
        return i < n / 16;
    case FIRST_8TH_PLAIN:
        return i < n / 8 && !m->weighted;
    case FIRST_8TH_WEIGHTED:
        return i < n / 8 && m->weighted;
    case SPREAD:
        return spread(i, n);
    case SHARED_4:
        return m->n_kv_heads && m->n_heads / m->n_kv_heads >= 4;
    case LAYERS_80:
        return m->n_layers == 80 && m->n_heads != m->n_kv_heads;
    case EXPERTS_8:
        return m->n_experts == 8;
    case EXPERT_STACK:
        return t->ne[2] > 1;
    }
    return false;
}

static enum qtype type_of(const struct recipe *r, const struct recipe_model *m, const struct transfer_item *item,
                          enum tensor_class class, uint32_t i, uint32_t n)
{
    unsigned mix = 1u << (r - recipes);
    for (size_t k = 0; k < COUNT_OF(rules); k++) {
        const struct rule *rule = &rules[k];
        if ((rule->class == class || rule->class == CLASS_COUNT) && rule->mixes & mix && holds(rule->when, m, item->src, i, n))
            return rule->type;
    }
    return r->type;
}

void recipe_assign(const struct recipe *r, const struct recipe_model *m, struct transfer_item *items, size_t n)
{
    uint32_t before[CLASS_COUNT][RECIPE_LAYERS + 1] = {0}; /* tensors of a class in lower layers; [RECIPE_LAYERS]: in all */
    for (size_t i = 0; i < n; i++)
        before[class_of(items[i].name, m->tied)][size_min(layer_of(items[i].name), RECIPE_LAYERS - 1) + 1]++;
    for (size_t c = 0; c < CLASS_COUNT; c++)
        for (size_t l = 1; l <= RECIPE_LAYERS; l++) before[c][l] += before[c][l - 1];
    for (size_t i = 0; i < n; i++) {
        if (recipe_keeps(items[i].name, items[i].src->n_dims)) continue;
        enum tensor_class c = class_of(items[i].name, m->tied);
        uint32_t layer = (uint32_t)size_min(layer_of(items[i].name), RECIPE_LAYERS);
        bool by_layer = c == CLASS_FFN_DOWN && m->n_experts > 1; /* dense and expert layers are counted together */
        items[i].type = type_of(r, m, &items[i], c, by_layer ? layer : before[c][layer],
                                c == CLASS_FFN_DOWN ? m->n_layers : before[c][RECIPE_LAYERS]);
    }
}
