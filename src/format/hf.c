/* hf: the parts of a Hugging Face folder that are not weights: the JSON files, the chat template, and which weight files there
 * are. Only config.json must be there. File names that an index gives are plain names inside the folder: an index cannot lead
 * elsewhere. */
#include "format/format_int.h"

#include <stdio.h>

#define MIB ((size_t)1 << 20)

enum { SHARDS_MAX = 4096 };

static const struct {
    size_t text;      /* config.json and its like, and a template */
    size_t tokenizer; /* tokenizer.json, mapped */
    size_t index;     /* model.safetensors.index.json, mapped */
    size_t trees;     /* all JSON texts and trees of a folder together */
} limits = {16 * MIB, 512 * MIB, 256 * MIB, 128 * MIB};

/* ---- configuration -------------------------------------------------------------------------------------- */

/* dir/name; *path is NULL where there is no such file. */
static int find_file(struct arena *a, const char *dir, const char *name, char **path, struct err *e)
{
    TRY(vfs_join(a, dir, name, path, e));
    const int rc = vfs_look(*path, e);
    if (rc == 0) return 0;
    *path = NULL;
    return rc == ERR_NOTFOUND ? 0 : rc;
}

static int read_object(struct hf_files *h, const char *dir, const char *name, const struct json **out, struct err *e)
{
    char *path;
    struct str text;
    struct json *tree;
    TRY(find_file(&h->json, dir, name, &path, e));
    if (!path) return 0;
    TRY(vfs_read(path, limits.text, &h->json, &text, e));
    TRY(json_parse(&h->json, text, path, &tree, e));
    if (tree->type != JSON_OBJECT) return fail(e, ERR_FORMAT, "%s: not a JSON object", path);
    *out = tree;
    return 0;
}

/* A template is a string, or one of a list of named ones. */
static struct str pick_template(const struct json *v)
{
    if (v && v->type == JSON_STRING) return v->s;
    for (size_t i = 0; v && v->type == JSON_ARRAY && i < v->n; i++) {
        struct str name = {0}, text = {0};
        if (json_opt_str(&v->v[i], "name", &name) && json_opt_str(&v->v[i], "template", &text) && str_is(name, "default"))
            return text;
    }
    return (struct str){0};
}

static int read_template(struct hf_files *h, const char *dir, struct err *e)
{
    char *path;
    TRY(find_file(&h->json, dir, "chat_template.jinja", &path, e));
    if (path) return vfs_read(path, limits.text, &h->json, &h->hf.chat_template, e);
    const struct json *own = NULL;
    TRY(read_object(h, dir, "chat_template.json", &own, e));
    h->hf.chat_template = pick_template(json_find(own, "chat_template"));
    if (h->hf.chat_template.n == 0) h->hf.chat_template = pick_template(json_find(h->hf.tokenizer_config, "chat_template"));
    return 0;
}

static int map_limited(const char *path, size_t max, struct map *m, struct err *e)
{
    TRY(vfs_map(path, m, e));
    if (m->n <= max) return 0;
    size_t n = m->n;
    vfs_unmap(m);
    return fail(e, ERR_LIMIT, "%s: %zu bytes, expected at most %zu", path, n, max);
}

static int read_all(struct hf_files *h, const char *dir, struct err *e)
{
    char *tokenizer;
    TRY(read_object(h, dir, "config.json", &h->hf.config, e));
    if (!h->hf.config) return fail(e, ERR_NOTFOUND, "%s: no config.json in this folder", dir);
    TRY(read_object(h, dir, "tokenizer_config.json", &h->hf.tokenizer_config, e));
    TRY(read_object(h, dir, "generation_config.json", &h->hf.generation_config, e));
    TRY(read_object(h, dir, "1_Pooling/config.json", &h->hf.pooling, e));
    TRY(read_object(h, dir, "special_tokens_map.json", &h->hf.special_tokens, e));
    TRY(read_template(h, dir, e));
    TRY(find_file(&h->json, dir, "tokenizer.json", &tokenizer, e));
    if (tokenizer) TRY(map_limited(tokenizer, limits.tokenizer, &h->tokenizer, e));
    h->hf.tokenizer = (struct str){(const char *)h->tokenizer.p, h->tokenizer.n};
    return 0;
}

int hf_open(const char *dir, struct hf_files *h, struct err *e)
{
    *h = (struct hf_files){.json.limit = limits.trees};
    int rc = read_all(h, dir, e);
    if (rc < 0) hf_close(h);
    return rc;
}

static int read_adapter(struct hf_files *h, const char *dir, struct arena *a, char **weights, struct err *e)
{
    char *old;
    TRY(read_object(h, dir, "adapter_config.json", &h->hf.config, e));
    if (!h->hf.config)
        return fail(e, ERR_NOTFOUND,
                    "%s: no adapter_config.json in this folder; an adapter is what PEFT saves, or a .gguf file", dir);
    TRY(find_file(a, dir, "adapter_model.safetensors", weights, e));
    if (*weights) return 0;
    TRY(find_file(a, dir, "adapter_model.bin", &old, e));
    if (old)
        return fail(e, ERR_UNSUPPORTED,
                    "%s is a PyTorch checkpoint; Quern reads adapter_model.safetensors, which PEFT saves, too", old);
    return fail(e, ERR_NOTFOUND, "%s: no adapter_model.safetensors in this folder", dir);
}

int hf_open_adapter(const char *dir, struct hf_files *h, struct arena *a, char **weights, struct err *e)
{
    *h = (struct hf_files){.json.limit = limits.trees};
    int rc = read_adapter(h, dir, a, weights, e);
    if (rc < 0) hf_close(h);
    return rc;
}

void hf_close(struct hf_files *h)
{
    vfs_unmap(&h->tokenizer);
    arena_fini(&h->json);
    *h = (struct hf_files){0};
}

/* ---- the index of a sharded model ----------------------------------------------------------------------------- */

/* A walk through { ..., "weight_map": { "tensor": "file", ... }, ... }. */
struct index {
    struct map map;
    struct json_cursor c;
    const char *path;
    struct arena names; /* of tensors whose names have escapes */
    struct err *e;
};

static int bad_index(struct index *x, enum json_event ev)
{
    if (ev == JSON_EV_ERROR) return x->e && x->e->code < 0 ? x->e->code : ERR_FORMAT;
    return fail(x->e, ERR_FORMAT, "%s: expected an object with a weight_map of tensor names to file names", x->path);
}

static void index_close(struct index *x)
{
    vfs_unmap(&x->map);
    arena_fini(&x->names);
}

/* Goes to the first entry of weight_map. */
static int index_start(struct index *x)
{
    arena_fini(&x->names);
    json_cursor_init(&x->c, (struct str){(const char *)x->map.p, x->map.n}, x->path, x->e);
    enum json_event ev = json_next(&x->c);
    if (ev != JSON_EV_OBJECT) return bad_index(x, ev);
    while ((ev = json_next(&x->c)) == JSON_EV_KEY) {
        bool found = str_is(x->c.raw, "weight_map");
        ev = json_next(&x->c);
        if (found) return ev == JSON_EV_OBJECT ? 0 : bad_index(x, ev);
        if (!json_skip(&x->c, ev)) return bad_index(x, JSON_EV_ERROR);
    }
    return bad_index(x, ev);
}

/* The next entry: 1, or 0 after the last one. A file name is checked to be a plain name. */
static int index_next(struct index *x, struct str *tensor, struct str *file)
{
    enum json_event ev = json_next(&x->c);
    if (ev == JSON_EV_OBJECT_END) return 0;
    if (ev != JSON_EV_KEY) return bad_index(x, ev);
    *tensor = x->c.raw;
    if (x->c.escaped) {
        char *name = arena_alloc(&x->names, x->c.raw.n);
        if (!name) return fail_nomem(x->e, "name of a tensor", x->c.raw.n);
        *tensor = (struct str){name, json_unescape(x->c.raw, name)};
    }
    ev = json_next(&x->c);
    if (ev != JSON_EV_STRING) return bad_index(x, ev);
    *file = x->c.raw;
    if (!name_ok(*file, 255) || memchr(file->p, '/', file->n) || memchr(file->p, '\\', file->n) || file->p[0] == '.' ||
        !str_ends(*file, STR(".safetensors")))
        return fail(x->e, ERR_FORMAT,
                    "%s: tensor \"%.*s\" is said to be in \"%.*s\", expected the plain name of a .safetensors file", x->path,
                    STR_ARG(*tensor), STR_ARG(*file));
    return 1;
}

static int index_open(struct index *x, const char *path, struct err *e)
{
    *x = (struct index){.path = path, .names.limit = limits.index, .e = e};
    return map_limited(path, limits.index, &x->map, e);
}

static struct str file_at(const void *ctx, size_t i)
{
    return ((const struct str *)ctx)[i];
}

/* The different files that the index names, sorted. files has room for SHARDS_MAX. */
static int index_files(struct index *x, struct arena *scratch, struct str *files, size_t *n)
{
    struct names seen;
    struct str tensor, file;
    int rc;
    TRY(names_init(&seen, scratch, SHARDS_MAX, file_at, files, x->e));
    TRY(index_start(x));
    for (*n = 0; (rc = index_next(x, &tensor, &file)) > 0;) {
        if (*n > 0 && str_eq(file, files[*n - 1])) continue;
        files[*n] = file;
        if (names_enter(&seen, *n) != *n) continue;
        if (++*n == SHARDS_MAX) return fail(x->e, ERR_LIMIT, "%s: names %d files or more", x->path, SHARDS_MAX);
    }
    TRY(rc);
    for (size_t i = 1; i < *n; i++)
        for (size_t k = i; k > 0 && str_cmp(files[k], files[k - 1]) < 0; k--) {
            struct str t = files[k];
            files[k] = files[k - 1];
            files[k - 1] = t;
        }
    return 0;
}

static int paths_of_index(const char *dir, const char *index, struct arena *a, char ***paths, size_t *n, struct err *e)
{
    struct index x;
    struct arena scratch = {0};
    TRY(index_open(&x, index, e));
    struct str *files = arena_array(&scratch, SHARDS_MAX, sizeof *files);
    int rc = files ? index_files(&x, &scratch, files, n) : fail_nomem(e, index, SHARDS_MAX * sizeof *files);
    if (rc == 0 && *n == 0) rc = fail(e, ERR_FORMAT, "%s: its weight_map is empty", index);
    if (rc == 0 && !(*paths = arena_array(a, *n, sizeof **paths))) rc = fail_nomem(e, index, *n * sizeof **paths);
    for (size_t i = 0; rc == 0 && i < *n; i++) {
        char *name = arena_dup(a, files[i].p, files[i].n);
        rc = name ? vfs_join(a, dir, name, &(*paths)[i], e) : fail_nomem(e, index, files[i].n);
        if (rc == 0 && !vfs_exists((*paths)[i])) rc = fail(e, ERR_NOTFOUND, "%s is missing (%s names it)", (*paths)[i], index);
    }
    arena_fini(&scratch);
    index_close(&x);
    return rc;
}

int hf_check_index(const char *path, struct str (*in_file)(const void *ctx, struct str name), const void *ctx, struct err *e)
{
    struct index x;
    struct str tensor, file;
    TRY(index_open(&x, path, e));
    int rc = index_start(&x);
    while (rc == 0 && (rc = index_next(&x, &tensor, &file)) > 0) {
        struct str found = in_file(ctx, tensor);
        rc = str_eq(found, file) ? 0
             : found.n ? fail(e, ERR_FORMAT, "%s: tensor \"%.*s\" is said to be in %.*s, but is in %.*s", path, STR_ARG(tensor),
                              STR_ARG(file), STR_ARG(found))
                       : fail(e, ERR_FORMAT, "%s: tensor \"%.*s\" is said to be in %.*s, but is in none of the files", path,
                              STR_ARG(tensor), STR_ARG(file));
    }
    index_close(&x);
    return rc;
}

/* ---- which weight files there are ----------------------------------------------------------------------------- */

static int shard_path(struct arena *a, const char *dir, unsigned no, unsigned count, char **path, struct err *e)
{
    char name[64];
    snprintf(name, sizeof name, "model-%05u-of-%05u.safetensors", no, count);
    return find_file(a, dir, name, path, e);
}

/* model-00001-of-0000N.safetensors without an index. There is no way to list a folder here, so N is found by asking. */
static int numbered_files(const char *dir, struct arena *a, char ***paths, size_t *n, struct err *e)
{
    struct arena scratch = {0};
    char *first = NULL;
    unsigned count = 0;
    int rc = 0;
    while (rc == 0 && !first && ++count <= SHARDS_MAX) rc = shard_path(&scratch, dir, 1, count, &first, e);
    bool found = first != NULL;
    arena_fini(&scratch);
    TRY(rc);
    *n = found ? count : 0;
    *paths = arena_array(a, size_max(*n, 1), sizeof **paths);
    if (!*paths) return fail_nomem(e, dir, *n * sizeof **paths);
    for (unsigned i = 0; i < *n; i++) {
        TRY(shard_path(a, dir, i + 1, count, &(*paths)[i], e));
        if (!(*paths)[i]) return fail(e, ERR_NOTFOUND, "%s: model-%05u-of-%05u.safetensors is missing", dir, i + 1, count);
    }
    return 0;
}

/* What lies in a folder in place of the weights that Quern opens. */
static int fail_no_weights(const char *dir, struct err *e)
{
    static const struct {
        const char *file, *what;
    } others[] = {
        {"pytorch_model.bin", "a PyTorch checkpoint"},
        {"pytorch_model.bin.index.json", "a PyTorch checkpoint"},
        {"adapter_model.safetensors", "a LoRA adapter and not a model"},
        {"consolidated.safetensors", "weights in another layout"},
        {"tf_model.h5", "a TensorFlow checkpoint"},
    };
    struct arena scratch = {0};
    const char *what = NULL, *file = NULL;
    for (size_t i = 0; !what && i < COUNT_OF(others); i++) {
        char *path;
        if (find_file(&scratch, dir, others[i].file, &path, NULL) < 0 || !path) continue;
        what = others[i].what;
        file = others[i].file;
    }
    arena_fini(&scratch);
    if (what)
        return fail(e, ERR_UNSUPPORTED, "%s: has %s (%s); Quern opens model.safetensors, whole or sharded", dir, file, what);
    return fail(e, ERR_NOTFOUND, "%s: has a config.json but no model.safetensors and no model-00001-of-....safetensors", dir);
}

int hf_weight_files(const char *dir, struct arena *a, char ***paths, size_t *n, char **index, struct err *e)
{
    char *single;
    *index = NULL;
    TRY(find_file(a, dir, "model.safetensors", &single, e));
    if (single) {
        *n = 1;
        *paths = arena_array(a, 1, sizeof **paths);
        if (!*paths) return fail_nomem(e, dir, sizeof **paths);
        (*paths)[0] = single;
        return 0;
    }
    TRY(find_file(a, dir, "model.safetensors.index.json", index, e));
    if (*index) return paths_of_index(dir, *index, a, paths, n, e);
    TRY(numbered_files(dir, a, paths, n, e));
    return *n ? 0 : fail_no_weights(dir, e);
}

int hf_modules(const char *dir, struct arena *a, struct hf_module *out, size_t *n, struct err *e)
{
    static const struct {
        const char *name, *config, *weights;
    } known[HF_MODULES_MAX] = {{"2_Dense", "2_Dense/config.json", "2_Dense/model.safetensors"},
                               {"3_Dense", "3_Dense/config.json", "3_Dense/model.safetensors"}};
    *n = 0;
    for (size_t i = 0; i < HF_MODULES_MAX; i++) {
        struct hf_files h = {.json.limit = limits.trees};
        const struct json *config = NULL;
        struct str act = STR("");
        int rc = read_object(&h, dir, known[i].config, &config, e);
        (void)json_opt_str(config, "activation_function", &act);
        if (rc == 0 && config && act.n && !str_ends(act, STR("Identity")))
            rc = fail(e, ERR_UNSUPPORTED, "%s: %s: activation_function %.*s is not supported; expected Identity", dir,
                      known[i].config, STR_ARG(act));
        arena_fini(&h.json);
        TRY(rc);
        if (!config) continue;
        TRY(find_file(a, dir, known[i].weights, &out[*n].path, e));
        if (!out[*n].path) return fail(e, ERR_NOTFOUND, "%s: %s is missing", dir, known[i].weights);
        out[(*n)++].name = known[i].name;
    }
    return 0;
}
