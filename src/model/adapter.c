/* adapter: LoRA adapters (arXiv 2106.09685): for some of a model's matrices two small ones, whose product is added to what the
 * matrix makes. adapter_open reads the file, adapter_bind finds each matrix in a model and checks shapes; then the adapter is
 * a list that backends take (struct lora). The names are, behind their prefixes,
 *
 *   PEFT   base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight   [rank][row length], and lora_B [rows][rank]
 *   GGUF   blk.3.attn_q.weight.lora_a                                       the same
 *
 * Weights of float types are used in place. What an adapter says that would change more than these products is refused. */
#include <math.h>

#include "model/model_int.h"

/* Two tensors of the file. */
struct pair {
    struct str module; /* the name without the prefix and what tells A from B */
    const struct tensor *a, *b;
};

struct adapter {
    struct files *files;
    struct arena arena;
    struct adapter_info info;
    bool root;                        /* alpha is divided by the root of the rank */
    const struct json *alpha_pattern; /* of modules with an alpha of their own; NULL: none */
    struct pair *pairs;               /* [n_pairs] */
    size_t n_pairs;
    struct lora_matrix *matrices; /* [cap] of the model */
    struct lora lora;
    size_t cap;
};

/* ---- what the file says ------------------------------------------------------------------------------------------------ */

/* Whether a member of adapter_config.json asks for something. */
static bool asks(const struct json *j)
{
    if (!j || j->type == JSON_NULL || j->type == JSON_FALSE) return false;
    return !(j->type == JSON_ARRAY || j->type == JSON_OBJECT) || j->n > 0;
}

/* What PEFT does beside adding the products, by the member that asks for it. */
static const struct {
    const char *key, *what;
} refused[] = {
    {"use_dora", "DoRA, which norms the merged matrix"},
    {"use_qalora", "QA-LoRA, which pools the input"},
    {"lora_bias", "biases of its own matrices"},
    {"fan_in_fan_out", "matrices with rows and columns exchanged"},
    {"modules_to_save", "whole modules in place of the model's"},
    {"trainable_token_indices", "embeddings of single tokens"},
    {"target_parameters", "parameters that are no matrices of their own (stacks of experts)"},
    {"layer_replication", "layers that are there several times"},
    {"alora_invocation_tokens", "activation by a token (aLoRA)"},
    {"arrow_config", "routing between adapters"},
};

/* Ways to begin a training that leave the model's own matrices as they were. */
static bool keeps_base(const struct json *init)
{
    static const char *const names[] = {"gaussian", "eva", "orthogonal"};
    if (!init || init->type != JSON_STRING) return true;
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (str_is(init->s, names[i])) return true;
    return false;
}

static int read_peft(struct adapter *x, struct err *e)
{
    const char *path = files_path(x->files);
    const struct json *config = files_hf(x->files)->config, *init = json_find(config, "init_lora_weights");
    struct str type = {0}, bias = STR("none");
    if (!json_opt_str(config, "peft_type", &type) || !str_is(type, "LORA"))
        return fail(e, ERR_UNSUPPORTED, "%s: adapter_config.json: peft_type is \"%.*s\"; Quern runs LORA", path, STR_ARG(type));
    for (size_t i = 0; i < COUNT_OF(refused); i++)
        if (asks(json_find(config, refused[i].key)))
            return fail(e, ERR_UNSUPPORTED, "%s: adapter_config.json: %s asks for %s, which Quern does not do", path,
                        refused[i].key, refused[i].what);
    if (!json_opt_str(config, "bias", &bias) || !str_is(bias, "none"))
        return fail(e, ERR_UNSUPPORTED,
                    "%s: adapter_config.json: bias \"%.*s\" changes the model's biases; Quern runs \"none\"", path,
                    STR_ARG(bias));
    if (!keeps_base(init))
        return fail(e, ERR_UNSUPPORTED,
                    "%s: adapter_config.json: init_lora_weights \"%.*s\" goes with changed weights of the model; PEFT can save "
                    "such an adapter for the original ones (path_initial_model_for_weight_conversion)",
                    path, STR_ARG(init->s));
    x->info.alpha = NAN;
    if (!json_opt_f64(config, "lora_alpha", -1e9, 1e9, &x->info.alpha) || isnan(x->info.alpha) ||
        !json_opt_bool(config, "use_rslora", &x->root) || !json_opt_str(config, "base_model_name_or_path", &x->info.base))
        return fail(e, ERR_FORMAT, "%s: adapter_config.json: lora_alpha must be a number, use_rslora true or false", path);
    x->alpha_pattern = json_find(config, "alpha_pattern");
    return 0;
}

static int read_gguf(struct adapter *x, struct err *e)
{
    const struct gguf *g = files_gguf(x->files);
    const char *path = files_path(x->files);
    struct str type = {0}, kind = {0};
    (void)gguf_get_str(g, "general.type", &type);
    (void)gguf_get_str(g, "adapter.type", &kind);
    if (!str_is(type, "adapter") || !str_is(kind, "lora"))
        return fail(e, ERR_UNSUPPORTED, "%s: general.type is \"%.*s\" and adapter.type \"%.*s\"; expected adapter and lora",
                    path, STR_ARG(type), STR_ARG(kind));
    if (gguf_find(g, "adapter.alora.invocation_tokens"))
        return fail(e, ERR_UNSUPPORTED,
                    "%s: adapter.alora.invocation_tokens asks for activation by a token (aLoRA), which "
                    "Quern does not do",
                    path);
    if (!gguf_get_str(g, "general.architecture", &x->info.architecture) ||
        !gguf_get_f64(g, "adapter.lora.alpha", &x->info.alpha) || !isfinite(x->info.alpha))
        return fail(e, ERR_FORMAT, "%s: general.architecture and a number adapter.lora.alpha must be there", path);
    if (!gguf_get_str(g, "general.base_model.0.name", &x->info.base)) (void)gguf_get_str(g, "general.name", &x->info.base);
    return 0;
}

/* ---- its tensors ------------------------------------------------------------------------------------------------------- */

/* How a tensor of an adapter is called: prefix, module, and one of the ends. */
struct spelling {
    struct str prefix, a, b;
};
static const struct spelling spellings[] = {
    [FILES_GGUF] = {{0}, STR(".lora_a"), STR(".lora_b")},
    [FILES_HF] = {STR("base_model.model."), STR(".lora_A.weight"), STR(".lora_B.weight")},
};

/* The module of a name that ends so; n 0: it does not. */
static struct str module_of(struct str name, struct str prefix, struct str end)
{
    if (!str_starts(name, prefix) || !str_ends(name, end) || name.n <= prefix.n + end.n) return (struct str){0};
    return (struct str){name.p + prefix.n, name.n - prefix.n - end.n};
}

static const struct tensor *find_other(const struct adapter *x, const struct spelling *s, struct str module)
{
    char name[2 * TENSOR_NAME_MAX];
    if (s->prefix.n + module.n + s->b.n >= sizeof name) return NULL;
    memcpy(name, s->prefix.p ? s->prefix.p : "", s->prefix.n);
    memcpy(name + s->prefix.n, module.p, module.n);
    memcpy(name + s->prefix.n + module.n, s->b.p, s->b.n);
    return files_find(x->files, (struct str){name, s->prefix.n + module.n + s->b.n});
}

static int check_pair(const struct adapter *x, const struct pair *p, struct err *e)
{
    if (p->a->n_dims <= 2 && p->b->n_dims <= 2 && p->b->ne[0] == p->a->ne[1]) return 0;
    return fail(e, ERR_FORMAT,
                "%s: %.*s: the matrices are %llu x %llu and %llu x %llu; expected rank x columns and rows x rank",
                files_path(x->files), STR_ARG(p->module), (unsigned long long)p->a->ne[1], (unsigned long long)p->a->ne[0],
                (unsigned long long)p->b->ne[1], (unsigned long long)p->b->ne[0]);
}

static int read_pairs(struct adapter *x, struct err *e)
{
    const struct spelling *s = &spellings[files_kind(x->files)];
    const size_t n = files_n_tensors(x->files);
    size_t n_b = 0;
    x->pairs = arena_array(&x->arena, size_max(n, 1), sizeof *x->pairs);
    if (!x->pairs) return fail_nomem(e, "an adapter", n * sizeof *x->pairs);
    for (size_t i = 0; i < n; i++) {
        const struct tensor *t = files_tensor(x->files, i);
        struct pair p = {.module = module_of(t->name, s->prefix, s->a), .a = t};
        if (module_of(t->name, s->prefix, s->b).n) {
            n_b++;
            continue;
        }
        if (p.module.n == 0)
            return fail(e, ERR_UNSUPPORTED,
                        "%s: tensor %.*s: Quern knows what \"%s....%s\" and \"...%s\" mean, and nothing else",
                        files_path(x->files), STR_ARG(t->name), s->prefix.p ? s->prefix.p : "", s->a.p, s->b.p);
        p.b = find_other(x, s, p.module);
        if (!p.b) return fail(e, ERR_FORMAT, "%s: %.*s has an A but no B", files_path(x->files), STR_ARG(p.module));
        TRY(check_pair(x, &p, e));
        x->pairs[x->n_pairs++] = p;
        const uint32_t rank = (uint32_t)size_min(p.a->ne[1], UINT32_MAX);
        x->info.rank = rank > x->info.rank ? rank : x->info.rank;
        x->info.parameters += p.a->ne[0] * p.a->ne[1] + p.b->ne[0] * p.b->ne[1];
    }
    if (x->n_pairs == 0 || n_b != x->n_pairs)
        return fail(e, ERR_FORMAT, "%s: %zu matrices A and %zu matrices B; expected as many of both", files_path(x->files),
                    x->n_pairs, n_b);
    x->info.n_modules = x->n_pairs;
    return 0;
}

/* ---- scales ------------------------------------------------------------------------------------------------------------ */

/* Whether a key of alpha_pattern names the module: its end, from a dot on, or with '^' all of it. */
static int pattern_is(const struct adapter *x, struct str key, struct str module, bool *match, struct err *e)
{
    const bool whole = key.n && *key.p == '^';
    if (whole) key = (struct str){key.p + 1, key.n - 1};
    for (size_t i = 0; i < key.n; i++)
        if (strchr("\\^$*+?()[]{}|", key.p[i]))
            return fail(e, ERR_UNSUPPORTED, "%s: adapter_config.json: alpha_pattern: \"%.*s\" is a pattern; Quern knows names",
                        files_path(x->files), STR_ARG(key));
    *match =
        whole ? str_eq(key, module) : str_ends(module, key) && (module.n == key.n || module.p[module.n - key.n - 1] == '.');
    return 0;
}

static int scale_of(const struct adapter *x, const struct pair *p, double *scale, struct err *e)
{
    const struct json *own = x->alpha_pattern;
    const double rank = (double)p->a->ne[1];
    double alpha = x->info.alpha;
    bool match = false;
    for (size_t i = 0; own && own->type == JSON_OBJECT && i < own->n && !match; i++) {
        TRY(pattern_is(x, own->keys[i], p->module, &match, e));
        if (match && own->v[i].type != JSON_INT && own->v[i].type != JSON_REAL)
            return fail(e, ERR_FORMAT, "%s: adapter_config.json: alpha_pattern: \"%.*s\" is no number", files_path(x->files),
                        STR_ARG(own->keys[i]));
        if (match) alpha = own->v[i].f;
    }
    const bool unsaid = files_kind(x->files) == FILES_GGUF && alpha == 0; /* llama.cpp's way to say no scale */
    *scale = unsaid ? 1 : alpha / (x->root ? sqrt(rank) : rank);
    return 0;
}

/* ---- binding ----------------------------------------------------------------------------------------------------------- */

/* How rows of B lie in the adapter where they lie otherwise in the model. */
struct turn {
    uint64_t dim; /* rows of a head; 0: as they are */
    bool to_gguf; /* the model is a GGUF file */
};

/* The adapter's row that is row r of the model: convert/transfer.c has the rule. */
static uint64_t row_of(const struct turn *t, uint64_t r)
{
    if (!t->dim) return r;
    const uint64_t in_head = r % t->dim, half = t->dim / 2;
    return r - in_head + (t->to_gguf ? in_head / 2 + half * (in_head % 2) : 2 * (in_head % half) + in_head / half);
}

/* Rows [first, first + n) of t as a backend takes them: where they lie, or as f32. NULL: no memory. */
static const struct tensor *take_rows(struct adapter *x, const struct tensor *t, uint64_t first, uint64_t n,
                                      const struct turn *turn)
{
    struct tensor *out = arena_alloc(&x->arena, sizeof *out);
    const uint64_t len = t->ne[0];
    if (!out) return NULL;
    *out = (struct tensor){.name = t->name, .type = t->type, .n_dims = 2, .ne = {len, n, 1, 1}};
    out->bytes = n * tensor_row_bytes(t);
    out->data = (const uint8_t *)t->data + first * tensor_row_bytes(t);
    if (qtypes[t->type].arith == ARITH_FLOAT && !t->side && !turn->dim) return out;
    float *v = arena_array(&x->arena, n * len, sizeof *v);
    if (!v) return NULL;
    for (uint64_t r = 0; r < n; r++) {
        const struct qrow row = tensor_row(t, row_of(turn, first + r));
        qtypes[t->type].row_to_float(&row, 0, v + r * len, len);
    }
    out->type = QTYPE_F32;
    out->bytes = n * len * sizeof *v;
    out->data = v;
    return out;
}

/* Which rows of t, a matrix of the model's files, w has; false: w is no part of it. */
static bool rows_in(const struct tensor *t, const struct tensor *w, uint64_t *first)
{
    const uintptr_t from = (uintptr_t)t->data, at = (uintptr_t)w->data;
    if (w->type != t->type || w->ne[0] != t->ne[0] || at < from) return false;
    *first = (at - from) / tensor_row_bytes(t);
    return *first < t->ne[1] && w->ne[1] <= t->ne[1] - *first;
}

static bool bound_before(const struct adapter *x, const struct tensor *w)
{
    for (size_t i = 0; i < x->lora.n; i++)
        if (x->matrices[i].of == w) return true;
    return false;
}

/* Whether op is the first product with its matrix. */
static bool first_product(const struct graph *pass, uint32_t op)
{
    for (uint32_t i = 0; i < op; i++)
        if (pass->ops[i].code == OP_MATMUL && pass->ops[i].w == pass->ops[op].w) return false;
    return true;
}

static int add_matrix(struct adapter *x, const struct pair *p, const struct tensor *w, uint64_t first, const struct turn *turn,
                      struct err *e)
{
    struct lora_matrix *m = &x->matrices[x->lora.n];
    const struct turn none = {0};
    if (x->lora.n == x->cap || bound_before(x, w))
        return fail(e, ERR_FORMAT, "%s: %.*s: another module of the adapter has this matrix, too", files_path(x->files),
                    STR_ARG(p->module));
    *m = (struct lora_matrix){.of = w};
    TRY(scale_of(x, p, &m->scale, e));
    m->a = take_rows(x, p->a, 0, p->a->ne[1], &none);
    m->b = take_rows(x, p->b, first, w->ne[1], turn);
    if (!m->a || !m->b) return fail_nomem(e, "an adapter's matrices", p->b->bytes);
    x->lora.n++;
    return 0;
}

/* Finds what the pass multiplies with of the matrix that the pair is for. */
static int bind_pair(struct adapter *x, const struct model *m, const struct graph *pass, const struct pair *p, struct err *e)
{
    const bool gguf = files_kind(x->files) == FILES_GGUF;
    const char *path = files_path(x->files);
    uint32_t heads = 0;
    uint64_t first;
    const struct tensor *t = gguf ? bind_by_gguf(m, p->module, &heads) : bind_by_hf(m, p->module, &heads);
    if (!t)
        return fail(e, ERR_ARG, "%s: %.*s: %s has no matrix that is known by this name%s", path, STR_ARG(p->module),
                    files_path(m->files),
                    gguf == (files_kind(m->files) == FILES_GGUF)
                        ? "; the adapter is for another model"
                        : ": the adapter is for another model, or needs the model as the kind of file that it was made for");
    if (t->ne[0] != p->a->ne[0] || t->ne[1] != p->b->ne[1])
        return fail(e, ERR_ARG,
                    "%s: %.*s is for a matrix of %llu rows of %llu, but in %s it has %llu rows of %llu; the adapter "
                    "is for another model",
                    path, STR_ARG(p->module), (unsigned long long)p->b->ne[1], (unsigned long long)p->a->ne[0],
                    files_path(m->files), (unsigned long long)t->ne[1], (unsigned long long)t->ne[0]);
    const struct turn turn = {heads ? t->ne[1] / heads : 0, !gguf};
    bool any = false;
    for (uint32_t i = 0; i < pass->n_ops; i++) {
        const struct op *op = &pass->ops[i];
        if (op->code != OP_MATMUL || !rows_in(t, op->w, &first) || !first_product(pass, i)) continue;
        TRY(add_matrix(x, p, op->w, first, &turn, e));
        any = true;
    }
    if (any) return 0;
    return fail(e, ERR_UNSUPPORTED, "%s: %.*s: adapters of embeddings, experts and absorbed matrices are not supported", path,
                STR_ARG(p->module));
}

static int bind_pairs(struct adapter *x, const struct model *m, struct err *e)
{
    struct arena scratch = {0};
    struct graph pass;
    const struct rope ropes[ROPE_SETS] = {{0}};
    graph_init(&pass, &scratch);
    (void)model_record(m, ropes, false, &pass);
    int rc = pass.failed ? fail_nomem(e, "the forward pass", 0) : 0;
    x->cap = pass.n_ops;
    x->matrices = rc == 0 ? arena_array(&x->arena, size_max(x->cap, 1), sizeof *x->matrices) : NULL;
    if (rc == 0 && !x->matrices) rc = fail_nomem(e, "an adapter", x->cap * sizeof *x->matrices);
    for (size_t i = 0; rc == 0 && i < x->n_pairs; i++) rc = bind_pair(x, m, &pass, &x->pairs[i], e);
    arena_fini(&scratch);
    x->lora.matrices = x->matrices;
    return rc;
}

/* Of the matrices as they are bound. */
static uint64_t digest_of(const struct lora *l)
{
    uint64_t h = 1;
    for (size_t i = 0; i < l->n; i++) {
        const struct lora_matrix *m = &l->matrices[i];
        h = bytes_hash(h, m->of->name.p, m->of->name.n);
        h = bytes_hash(h, &m->scale, sizeof m->scale);
        h = bytes_hash(h, m->a->data, m->a->bytes);
        h = bytes_hash(h, m->b->data, m->b->bytes);
    }
    return h;
}

int adapter_bind(struct adapter *x, const struct model *m, struct err *e)
{
    if (files_kind(x->files) == FILES_GGUF && !str_is(x->info.architecture, m->hp.arch->gguf))
        return fail(e, ERR_ARG, "%s is an adapter for architecture %.*s, but %s is %s", files_path(x->files),
                    STR_ARG(x->info.architecture), files_path(m->files), m->hp.arch->gguf);
    TRY(bind_pairs(x, m, e));
    x->lora.digest = digest_of(&x->lora);
    return 0;
}

/* ---- opening ----------------------------------------------------------------------------------------------------------- */

static int open_file(struct adapter *x, const char *path, struct err *e)
{
    TRY(files_open_adapter(path, &x->files, e));
    const bool gguf = files_kind(x->files) == FILES_GGUF;
    x->info.path = files_path(x->files);
    x->info.kind = files_kind(x->files);
    x->info.bytes = files_bytes(x->files);
    TRY(gguf ? read_gguf(x, e) : read_peft(x, e));
    return read_pairs(x, e);
}

int adapter_open(const char *path, struct adapter **out, struct err *e)
{
    struct adapter *x = mem_zalloc(sizeof *x);
    if (!x) return fail_nomem(e, "an adapter", sizeof *x);
    const int rc = open_file(x, path, e);
    if (rc < 0) adapter_close(&x);
    *out = x;
    return rc;
}

void adapter_close(struct adapter **x)
{
    if (!*x) return;
    files_close(&(*x)->files);
    arena_fini(&(*x)->arena);
    mem_free(*x);
    *x = NULL;
}

const struct lora *adapter_lora(const struct adapter *x)
{
    return &x->lora;
}

const struct adapter_info *adapter_info(const struct adapter *x)
{
    return &x->info;
}

const struct files *adapter_files(const struct adapter *x)
{
    return x->files;
}
