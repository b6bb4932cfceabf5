/* plan: the type of each tensor of a new file, from the recipe and what the caller wants otherwise. In order of precedence:
 * the types for the embedding table and the output matrix, the patterns, the recipe; then what the row length allows. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "convert/convert_int.h"

enum { QUANTIZATION_VERSION = 2, MATCH_STEPS = 100000, PATTERN_BYTES_MAX = 4096 };

/* ---- names of types ------------------------------------------------------------------------------------------------- */

static const char *why_not(struct str name)
{
    enum qtype t;
    return qtype_by_name(name, &t) ? "is only read and cannot be written" : "is not known";
}

static int writable_type(const char *what, struct str name, enum qtype *out, struct err *e)
{
    if (qtype_by_name(name, out) && qtypes[*out].quantize) return 0;
    struct buf names = {0};
    for (unsigned i = 0; i < QTYPE_COUNT; i++)
        if (qtypes[i].quantize) (void)buf_printf(&names, "%s%s", names.n ? ", " : "", qtypes[i].name);
    int rc = fail(e, ERR_ARG, "%s: type \"%.*s\" %s; Quern writes %.*s", what, STR_ARG(name), why_not(name),
                  STR_ARG(buf_view(&names)));
    buf_fini(&names);
    return rc;
}

static int writable_recipe(struct str name, const struct recipe **out, struct err *e)
{
    if ((*out = recipe_find(name)) != NULL) return 0;
    struct buf names = {0};
    for (size_t i = 0; recipe_at(i); i++) (void)buf_printf(&names, "%s%s", names.n ? ", " : "", recipe_at(i)->name);
    int rc = fail(e, ERR_ARG, "type \"%.*s\" %s; Quern writes %.*s", STR_ARG(name), why_not(name), STR_ARG(buf_view(&names)));
    buf_fini(&names);
    return rc;
}

/* ---- patterns --------------------------------------------------------------------------------------------------------- */

static void *pcre_alloc(PCRE2_SIZE n, void *ctx)
{
    (void)ctx;
    return mem_alloc(n);
}

static void pcre_release(void *p, void *ctx)
{
    (void)ctx;
    mem_free(p);
}

/* "REGEX=TYPE" */
struct pattern {
    pcre2_code *code;
    enum qtype type;
};

struct patterns {
    struct pattern *p; /* [n] */
    size_t n;
    pcre2_general_context *gctx;
    pcre2_compile_context *cctx;
    pcre2_match_context *mctx;
    pcre2_match_data *md;
};

static void patterns_fini(struct patterns *ps)
{
    for (size_t i = 0; i < ps->n; i++) pcre2_code_free(ps->p[i].code);
    pcre2_match_data_free(ps->md);
    pcre2_match_context_free(ps->mctx);
    pcre2_compile_context_free(ps->cctx);
    pcre2_general_context_free(ps->gctx);
}

static int compile(const struct patterns *ps, const char *text, struct pattern *p, struct err *e)
{
    const char *equals = strrchr(text, '=');
    size_t n = equals ? (size_t)(equals - text) : 0;
    if (n == 0 || n > PATTERN_BYTES_MAX) return fail(e, ERR_ARG, "'%.200s' is not of the form REGEX=TYPE", text);
    TRY(writable_type(text, str_of(equals + 1), &p->type, e));
    int code;
    PCRE2_SIZE at;
    p->code = pcre2_compile((PCRE2_SPTR)text, n, PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C, &code, &at, ps->cctx);
    if (p->code) return 0;
    PCRE2_UCHAR why[128] = {0};
    pcre2_get_error_message(code, why, sizeof why);
    return fail(e, ERR_ARG, "regular expression '%.*s': %s at offset %zu", (int)size_min(n, 200), text, (const char *)why,
                (size_t)at);
}

static int patterns_init(struct patterns *ps, const struct convert_opts *o, struct arena *a, struct err *e)
{
    ps->p = arena_array(a, size_max(o->n_tensor_types, 1), sizeof *ps->p);
    ps->gctx = pcre2_general_context_create(pcre_alloc, pcre_release, NULL);
    ps->cctx = ps->gctx ? pcre2_compile_context_create(ps->gctx) : NULL;
    ps->mctx = ps->cctx ? pcre2_match_context_create(ps->gctx) : NULL;
    ps->md = ps->mctx ? pcre2_match_data_create(1, ps->gctx) : NULL;
    if (!ps->p || !ps->md) return fail_nomem(e, "patterns of tensor names", o->n_tensor_types * sizeof *ps->p);
    pcre2_set_match_limit(ps->mctx, MATCH_STEPS);
    for (; ps->n < o->n_tensor_types; ps->n++) TRY(compile(ps, o->tensor_types[ps->n], &ps->p[ps->n], e));
    return 0;
}

/* The first pattern that is found in the name. */
static const struct pattern *find_pattern(const struct patterns *ps, struct str name)
{
    for (size_t i = 0; i < ps->n; i++)
        if (pcre2_match(ps->p[i].code, (PCRE2_SPTR)name.p, name.n, 0, 0, ps->md, ps->mctx) >= 0) return &ps->p[i];
    return NULL;
}

/* ---- the plan ----------------------------------------------------------------------------------------------------------- */

/* A special wish for one of the two big tensors at the ends of a model. */
static int end_type(const char *option, const char *name, enum qtype *out, struct err *e)
{
    *out = QTYPE_COUNT;
    return name ? writable_type(option, str_of(name), out, e) : 0;
}

static int apply_wishes(struct transfer *t, const struct patterns *ps, struct err *e)
{
    enum qtype embedding, output;
    TRY(end_type("type of the embedding table", t->opts->embedding_type, &embedding, e));
    TRY(end_type("type of the output matrix", t->opts->output_type, &output, e));
    for (size_t i = 0; i < t->n; i++) {
        struct transfer_item *item = &t->items[i];
        if (recipe_keeps(item->name, item->src->n_dims)) continue;
        const bool table = str_is(item->name, "token_embd.weight");
        const struct pattern *p = find_pattern(ps, item->name);
        item->fixed = true;
        if (table && embedding != QTYPE_COUNT)
            item->type = embedding;
        else if (output != QTYPE_COUNT && (str_is(item->name, "output.weight") || (table && t->model.tied)))
            item->type = output;
        else if (p)
            item->type = p->type;
        else
            item->fixed = false;
        item->type = recipe_fit(item->type, item->src->ne[0]);
    }
    return 0;
}

/* Vectors are small and sensitive: they are always f32. What else is kept stays as it is, but a folder's becomes f32, too. */
static void assign(struct transfer *t)
{
    for (size_t i = 0; i < t->n; i++) {
        struct transfer_item *item = &t->items[i];
        bool kept = item->fixed = recipe_keeps(item->name, item->src->n_dims);
        item->type = item->src->type;
        if (item->src->n_dims < 2 || (kept && files_kind(t->src) == FILES_HF)) item->type = QTYPE_F32;
        if (!kept && t->recipe) item->type = t->recipe->type;
    }
    if (t->recipe && !t->opts->pure && qtypes[t->recipe->type].arith != ARITH_FLOAT)
        recipe_assign(t->recipe, &t->model, t->items, t->n);
}

static int check_writable(const struct transfer *t, struct err *e)
{
    for (size_t i = 0; i < t->n; i++) {
        const struct transfer_item *item = &t->items[i];
        if (item->type == item->src->type || qtypes[item->type].quantize) continue;
        return fail(e, ERR_UNSUPPORTED, "tensor \"%.*s\" would be %s, which this build only reads", STR_ARG(item->name),
                    qtypes[item->type].name);
    }
    return 0;
}

/* As llama.cpp names them. */
static void put_imatrix_keys(struct transfer *t)
{
    const char *slash = strrchr(t->opts->imatrix, '/');
    gguf_put_str(t->w, "quantize.imatrix.file", str_of(slash ? slash + 1 : t->opts->imatrix));
    gguf_put_str(t->w, "quantize.imatrix.dataset", t->imatrix->dataset);
    gguf_put_i32(t->w, "quantize.imatrix.entries_count", (int32_t)size_min(t->imatrix->n, INT32_MAX));
    gguf_put_i32(t->w, "quantize.imatrix.chunks_count", (int32_t)size_min(t->imatrix->n_chunks, INT32_MAX));
}

static uint32_t file_type(const struct transfer *t)
{
    uint64_t weights[QTYPE_COUNT] = {0};
    enum qtype most = QTYPE_F32;
    for (size_t i = 0; i < t->n; i++) weights[t->items[i].type] += transfer_weights(&t->items[i]);
    for (unsigned i = 0; i < QTYPE_COUNT; i++)
        if (weights[i] > weights[most]) most = (enum qtype)i;
    return t->recipe ? t->recipe->file_type : recipe_file_type(most);
}

static int choose(struct transfer *t, struct err *e)
{
    struct patterns ps = {0};
    const struct convert_opts *o = t->opts;
    bool target = o->target_bytes || o->target_bits > 0;
    if (target && o->type) return fail(e, ERR_ARG, "a file has a type or a size, not both");
    if (o->type) TRY(writable_recipe(str_of(o->type), &t->recipe, e));
    assign(t);
    int rc = patterns_init(&ps, o, &t->a, e);
    if (rc == 0) rc = apply_wishes(t, &ps, e);
    patterns_fini(&ps);
    if (rc == 0 && target) rc = budget_assign(t, e);
    return rc < 0 ? rc : check_writable(t, e);
}

int transfer_plan(struct transfer *t, struct err *e)
{
    t->model.weighted = t->imatrix != NULL;
    if (t->imatrix) put_imatrix_keys(t);
    quality_put(t);
    TRY(choose(t, e));
    gguf_put_u32(t->w, "general.file_type", file_type(t));
    gguf_put_u32(t->w, "general.quantization_version", QUANTIZATION_VERSION);
    return 0;
}
