/* make_lora: a random LoRA adapter for a Hugging Face folder, for tests: as PEFT saves it, and as a GGUF file; and the folder
 * in F32 whose weights have the adapter merged, in double precision, which says what model and adapter must compute together.
 * All is written by formulas of its own, and shares no code with what reads it.
 *
 * usage: make_lora [OPTION VALUE]... IN PEFT_OUT GGUF_OUT MERGED_OUT
 *
 *   --rank N --alpha X --seed N   8, 16, 1
 *   --rslora yes                  alpha is divided by the root of the rank
 *   --own LEAF=ALPHA              alpha_pattern: an alpha of its own for the modules of this name
 *   --type T                      of the weights: f32, f16, bf16; q8_0 for the GGUF file, PEFT then has the same in f32
 *   --only LEAF,LEAF              modules; default: all matrices of attention, feed-forward and output
 *   --arch NAME                   general.architecture; llama
 *   --turned N,M                  rows of q and k lie otherwise in GGUF: their heads
 */
#include <math.h>

#include "folder_files.h"

struct job {
    uint64_t rank, seed, q_heads, k_heads;
    double alpha, own_alpha;
    bool root;
    enum qtype type;
    struct str only, own, arch;
};

/* Modules by the end of their names, and what GGUF calls them. */
static const struct module {
    const char *leaf, *gguf;
} modules[] = {
    {"self_attn.q_proj", "attn_q"},      {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},      {"self_attn.o_proj", "attn_output"},
    {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},       {"self_attn.qkv_proj", "attn_qkv"},
    {"mlp.gate_up_proj", "ffn_up"},      {"lm_head", "output"},
    {"self_attn.q_a_proj", "attn_q_a"},  {"self_attn.q_b_proj", "attn_q_b"},
    {"linear_attn.out_proj", "ssm_out"}, {"self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"},
};

/* One pair of matrices. */
struct pair {
    struct str name; /* of the module */
    const struct module *module;
    struct tensor a, b;
    float *av, *bv; /* their values */
};

/* ---- random weights ------------------------------------------------------------------------------------------------- */

static uint64_t state;

static double uniform(void) /* -1..1 */
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)(state >> 11) * 0x1p-52 - 1;
}

/* What the type makes of n values, in rows of len. */
static void store(enum qtype t, float *x, size_t n, size_t len, uint8_t *to)
{
    const size_t row = len / qtypes[t].block_n * qtypes[t].block_bytes;
    if (len % qtypes[t].block_n) die("--rank", "no whole number of blocks");
    for (size_t i = 0; i < n / len; i++) {
        qtypes[t].quantize(x + i * len, NULL, to + i * row, len);
        qtype_to_float(t, to + i * row, x + i * len, len);
    }
}

/* rows x len random numbers up to `limit`. */
static float *make_matrix(struct arena *a, const struct job *j, struct tensor *t, uint64_t len, uint64_t rows, double limit)
{
    const size_t n = (size_t)(len * rows);
    float *x = arena_array(a, n, sizeof *x);
    uint8_t *bytes = arena_array(a, n, sizeof *x);
    if (!x || !bytes) die("memory", "none");
    for (size_t i = 0; i < n; i++) x[i] = (float)(limit * uniform());
    store(j->type, x, n, (size_t)len, bytes);
    *t = (struct tensor){.type = j->type, .n_dims = 2, .ne = {len, rows, 1, 1}, .data = bytes};
    t->bytes = rows * tensor_row_bytes(t);
    return x;
}

static double scale_of(const struct job *j, struct str name)
{
    const double alpha = j->own.n && str_ends(name, j->own) ? j->own_alpha : j->alpha;
    return alpha / (j->root ? sqrt((double)j->rank) : (double)j->rank);
}

/* Adds scale * b a to w [rows][len]; the pair is made so that this changes w by about a third of itself. */
static void merge(struct arena *a, const struct job *j, struct pair *p, const struct tensor *t, float *w)
{
    const size_t len = (size_t)t->ne[0], rows = (size_t)t->ne[1], rank = (size_t)j->rank;
    const double scale = scale_of(j, p->name);
    double squares = 0;
    for (size_t i = 0; i < len * rows; i++) squares += (double)w[i] * (double)w[i];
    const double deviation = sqrt(squares / (double)(len * rows));
    p->av = make_matrix(a, j, &p->a, len, rank, 1 / sqrt((double)len));
    p->bv = make_matrix(a, j, &p->b, rank, rows, deviation / scale * sqrt((double)len / (double)rank));
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < len; c++) {
            double sum = 0;
            for (size_t k = 0; k < rank; k++) sum += (double)p->bv[r * rank + k] * (double)p->av[k * len + c];
            w[r * len + c] = (float)((double)w[r * len + c] + scale * sum);
        }
    }
}

/* ---- which matrices --------------------------------------------------------------------------------------------------- */

static bool in_list(struct str list, struct str name)
{
    while (list.n) {
        const char *comma = memchr(list.p, ',', list.n);
        const struct str one = {list.p, comma ? (size_t)(comma - list.p) : list.n};
        if (str_ends(name, one)) return true;
        list = comma ? (struct str){comma + 1, list.n - one.n - 1} : (struct str){0};
    }
    return false;
}

static bool is_module(const struct job *j, const struct tensor *t, struct pair *p)
{
    if (!str_ends(t->name, STR(".weight")) || t->n_dims != 2) return false;
    p->name = (struct str){t->name.p, t->name.n - sizeof ".weight" + 1};
    p->module = NULL;
    for (size_t i = 0; i < COUNT_OF(modules) && !p->module; i++)
        if (str_ends(p->name, str_of(modules[i].leaf))) p->module = &modules[i];
    if (!p->module || str_has(p->name, STR("expert"))) return false;
    return !j->only.n || in_list(j->only, p->name);
}

/* ---- PEFT --------------------------------------------------------------------------------------------------------------- */

static void add_peft(const struct job *j, const struct pair *p, struct sink *s)
{
    char name[256];
    const bool wide = j->type == QTYPE_Q8_0;
    const struct tensor *const t[] = {&p->a, &p->b};
    const float *const v[] = {p->av, p->bv};
    static const char *const ends[] = {".lora_A.weight", ".lora_B.weight"};
    (void)snprintf(name, sizeof name, "base_model.model.%.*s", STR_ARG(p->name));
    for (size_t i = 0; i < 2; i++) {
        const size_t bytes = wide ? (size_t)(t[i]->ne[0] * t[i]->ne[1]) * sizeof(float) : (size_t)t[i]->bytes;
        add(s, str_of(name), ends[i], wide ? "F32" : dtype_of(j->type), t[i], t[i]->ne[0],
            wide ? (const void *)v[i] : t[i]->data, bytes);
    }
}

/* adapter_config.json with the members that PEFT 0.17 writes. */
static void save_peft(const struct job *j, struct sink *weights, const char *dir)
{
    struct buf b = {0};
    (void)mkdir(dir, 0777);
    save_weights(weights, dir, "adapter_model.safetensors");
    int rc = buf_z(&b, "{\n  \"alpha_pattern\": {");
    if (j->own.n) rc |= buf_printf(&b, "\"%.*s\": %g", STR_ARG(j->own), j->own_alpha);
    rc |= buf_printf(&b,
                     "},\n  \"auto_mapping\": null,\n  \"base_model_name_or_path\": \"quern/test\",\n  \"bias\": \"none\",\n"
                     "  \"corda_config\": null,\n  \"eva_config\": null,\n  \"exclude_modules\": null,\n"
                     "  \"fan_in_fan_out\": false,\n  \"inference_mode\": true,\n  \"init_lora_weights\": true,\n"
                     "  \"layer_replication\": null,\n  \"layers_pattern\": null,\n  \"layers_to_transform\": null,\n"
                     "  \"loftq_config\": {},\n  \"lora_alpha\": %g,\n  \"lora_bias\": false,\n  \"lora_dropout\": 0.0,\n"
                     "  \"megatron_config\": null,\n  \"megatron_core\": \"megatron.core\",\n  \"modules_to_save\": null,\n"
                     "  \"peft_type\": \"LORA\",\n  \"qalora_group_size\": 16,\n  \"r\": %llu,\n  \"rank_pattern\": {},\n"
                     "  \"revision\": null,\n  \"target_modules\": [\"q_proj\"],\n  \"target_parameters\": null,\n"
                     "  \"task_type\": \"CAUSAL_LM\",\n  \"trainable_token_indices\": null,\n  \"use_dora\": false,\n"
                     "  \"use_qalora\": false,\n  \"use_rslora\": %s\n}",
                     j->alpha, (unsigned long long)j->rank, j->root ? "true" : "false");
    need(rc, "memory", NULL);
    const struct str text = buf_view(&b);
    save(&text, 1, dir, "adapter_config.json");
    buf_fini(&b);
}

/* ---- GGUF --------------------------------------------------------------------------------------------------------------- */

static uint64_t heads_of(const struct job *j, const struct pair *p)
{
    return strcmp(p->module->gguf, "attn_q") == 0 ? j->q_heads : strcmp(p->module->gguf, "attn_k") == 0 ? j->k_heads : 0;
}

static void gguf_name(const struct pair *p, const char *end, char name[128])
{
    const char *layer = NULL;
    for (size_t i = 0; i + 7 < p->name.n && !layer; i++)
        if (memcmp(p->name.p + i, "layers.", 7) == 0) layer = p->name.p + i + 7;
    if (layer)
        (void)snprintf(name, 128, "blk.%d.%s.weight%s", atoi(layer), p->module->gguf, end);
    else
        (void)snprintf(name, 128, "%s.weight%s", p->module->gguf, end);
}

/* B's rows: of each head of D, the pairs (j, j + D/2) become neighbours. */
static void write_rows(struct gguf_writer *w, const struct tensor *b, uint64_t heads, struct err *e)
{
    const uint64_t dim = heads ? b->ne[1] / heads : 0;
    for (uint64_t r = 0; r < b->ne[1]; r++) {
        const uint64_t at = dim ? r % dim : 0, from = dim ? r - at + (at % 2 ? dim / 2 + at / 2 : at / 2) : r;
        const uint8_t *row = (const uint8_t *)b->data + from * tensor_row_bytes(b);
        need(gguf_write_data(w, row, tensor_row_bytes(b), e), "gguf", e);
    }
}

static void save_gguf(const struct job *j, const struct pair *pairs, size_t n, const char *path)
{
    struct gguf_writer *w;
    struct err e = {0};
    char name[128];
    need(gguf_writer_new(path, &w, &e), path, &e);
    need(gguf_put_str(w, "general.architecture", j->arch), path, NULL);
    need(gguf_put_str(w, "general.type", STR("adapter")), path, NULL);
    need(gguf_put_str(w, "general.name", STR("Test Adapter")), path, NULL);
    need(gguf_put_str(w, "adapter.type", STR("lora")), path, NULL);
    need(gguf_put_f32(w, "adapter.lora.alpha", (float)(j->alpha * (j->root ? sqrt((double)j->rank) : 1))), path, NULL);
    for (size_t i = 0; i < n; i++) {
        gguf_name(&pairs[i], ".lora_a", name);
        need(gguf_add_tensor(w, str_of(name), j->type, 2, pairs[i].a.ne, &e), name, &e);
        gguf_name(&pairs[i], ".lora_b", name);
        need(gguf_add_tensor(w, str_of(name), j->type, 2, pairs[i].b.ne, &e), name, &e);
    }
    need(gguf_write_begin(w, &e), path, &e);
    for (size_t i = 0; i < n; i++) {
        need(gguf_write_data(w, pairs[i].a.data, (size_t)pairs[i].a.bytes, &e), path, &e);
        write_rows(w, &pairs[i].b, heads_of(j, &pairs[i]), &e);
    }
    need(gguf_write_end(w, &e), path, &e);
    gguf_writer_free(&w);
}

/* ---- all ---------------------------------------------------------------------------------------------------------------- */

static void make_all(const struct job *j, const char *in, const char *peft, const char *gguf, const char *merged)
{
    struct arena a = {0};
    struct sink adapter = {0}, weights = {0};
    struct files *f;
    struct err e = {0};
    size_t n = 0;
    need(files_open(in, &f, &e), in, &e);
    struct pair *pairs = arena_array(&a, files_n_tensors(f), sizeof *pairs);
    if (!pairs) die("memory", "none");
    for (size_t i = 0; i < files_n_tensors(f); i++) {
        const struct tensor *t = files_tensor(f, i);
        struct arena scratch = {0};
        const size_t count = (size_t)(t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3]);
        float *w = arena_array(&scratch, count, sizeof *w);
        if (!w) die("memory", "none");
        qtype_to_float(t->type, t->data, w, count);
        if (is_module(j, t, &pairs[n])) {
            merge(&a, j, &pairs[n], t, w);
            add_peft(j, &pairs[n++], &adapter);
        }
        add(&weights, t->name, "", "F32", t, t->ne[0], w, count * sizeof *w);
        arena_fini(&scratch);
    }
    if (n == 0) die(in, "has no such module");
    save_peft(j, &adapter, peft);
    save_gguf(j, pairs, n, gguf);
    save_copies(in, merged, &weights);
    files_close(&f);
    arena_fini(&a);
}

static uint64_t number_of(struct str text)
{
    uint64_t v;
    if (!str_u64(text, &v)) die("no such number", text.p);
    return v;
}

static void parse_option(struct job *j, const char *name, const char *value)
{
    const char *mark = strpbrk(value, "=,");
    const struct str text = str_of(value), head = {value, mark ? (size_t)(mark - value) : text.n};
    const struct str tail = {mark ? mark + 1 : "", mark ? text.n - head.n - 1 : 0};
    if (strcmp(name, "--rank") == 0)
        j->rank = number_of(text);
    else if (strcmp(name, "--seed") == 0)
        j->seed = number_of(text);
    else if (strcmp(name, "--alpha") == 0)
        j->alpha = (double)number_of(text);
    else if (strcmp(name, "--rslora") == 0)
        j->root = true;
    else if (strcmp(name, "--own") == 0)
        j->own = head, j->own_alpha = (double)number_of(tail);
    else if (strcmp(name, "--only") == 0)
        j->only = text;
    else if (strcmp(name, "--arch") == 0)
        j->arch = text;
    else if (strcmp(name, "--turned") == 0)
        j->q_heads = number_of(head), j->k_heads = number_of(tail);
    else if (strcmp(name, "--type") != 0 || !qtype_by_name(text, &j->type))
        die("unknown option", name);
}

int main(int argc, char **argv)
{
    struct job j = {.rank = 8, .alpha = 16, .seed = 1, .type = QTYPE_F32, .arch = STR("llama")};
    int i = 1;
    for (; i + 1 < argc && argv[i][0] == '-'; i += 2) parse_option(&j, argv[i], argv[i + 1]);
    if (argc - i != 4) die("usage", "make_lora [OPTION VALUE]... IN PEFT_OUT GGUF_OUT MERGED_OUT");
    state = j.seed;
    make_all(&j, argv[i], argv[i + 1], argv[i + 2], argv[i + 3]);
    return 0;
}
