/* files: opening a model, whichever way it lies on disk. A model is a list of parts (one mapped file each); the tensors of all
 * parts make one list and one table of names.
 *
 * Invariant: after files_open every tensor's bytes are inside a map that lives until files_close, and names are unique. */
#include "format/format_int.h"

#include <stdio.h>

enum { SPLITS_MAX = 9999 };

#define WHAT_OPENS "Quern opens a .gguf file or a Hugging Face folder (config.json and model.safetensors)"

struct part {
    const char *path;
    struct map map;
    struct gguf *gguf;      /* of a GGUF model */
    struct tensor *tensors; /* [n], of a folder */
    size_t n;
};

struct files {
    enum files_kind kind;
    struct files_options opts;
    struct arena a; /* everything below but the parts' own; grows with the sizes of the files */
    const char *path;
    struct part *parts; /* [n_parts] */
    size_t n_parts;
    const struct tensor **tensors; /* [n], in the order of the parts */
    uint32_t *part_of;             /* [n]; of a folder only until its quantised matrices are joined */
    size_t n;
    struct names names;
    uint64_t bytes;
    struct hf_files hf; /* of a folder */
};

static struct str bytes_of(const struct part *p)
{
    return (struct str){(const char *)p->map.p, p->map.n};
}

static int map_part(struct files *f, struct part *p, const char *path, struct err *e)
{
    p->path = path;
    TRY((f->opts.copy ? vfs_copy : vfs_map)(path, &p->map, e));
    if (!size_add(f->a.limit, p->map.n, &f->a.limit) || !size_add(f->a.limit, p->map.n, &f->a.limit))
        return fail(e, ERR_LIMIT, "%s: too large", path);
    return 0;
}

static int alloc_parts(struct files *f, size_t n, struct err *e)
{
    f->parts = arena_array(&f->a, n, sizeof *f->parts);
    if (!f->parts) return fail_nomem(e, f->path, n * sizeof *f->parts);
    f->n_parts = n;
    return 0;
}

/* ---- GGUF ------------------------------------------------------------------------------------------------- */

static int parse_part(struct files *f, struct part *p, const char *path, struct err *e)
{
    TRY(map_part(f, p, path, e));
    TRY(gguf_parse(bytes_of(p), path, true, &p->gguf, e));
    p->n = gguf_n_tensors(p->gguf);
    return 0;
}

/* split.no and split.count of a part; 0 of 1 where the file is whole. */
static int read_split(const struct part *p, uint64_t *no, uint64_t *count, struct err *e)
{
    *no = 0;
    *count = 1;
    if (!gguf_find(p->gguf, "split.count")) return 0;
    if (!gguf_get_u64(p->gguf, "split.count", count) || !gguf_get_u64(p->gguf, "split.no", no) || *count == 0 ||
        *count > SPLITS_MAX || *no >= *count)
        return fail(e, ERR_FORMAT, "%s: split.no and split.count don't say which part of how many (1 to %d) this is", p->path,
                    SPLITS_MAX);
    return 0;
}

/* NAME-00001-of-00003.gguf */
static int split_path(struct files *f, struct str stem, unsigned no, unsigned count, const char **out, struct err *e)
{
    char suffix[40];
    int n = snprintf(suffix, sizeof suffix, "-%05u-of-%05u.gguf", no + 1, count);
    char *path = arena_alloc(&f->a, stem.n + (size_t)n + 1);
    if (!path) return fail_nomem(e, f->path, stem.n);
    memcpy(path, stem.p, stem.n);
    memcpy(path + stem.n, suffix, (size_t)n);
    *out = path;
    return 0;
}

/* Opens the parts beside the given one, which has been opened as part 0 of f. */
static int open_splits(struct files *f, unsigned given, unsigned count, struct err *e)
{
    char suffix[40];
    snprintf(suffix, sizeof suffix, "-%05u-of-%05u.gguf", given + 1, count);
    struct str stem = str_of(f->path);
    if (!str_ends(stem, str_of(suffix)))
        return fail(e, ERR_FORMAT, "%s: part %u of %u of a split model; its name must end in %s, so that the others are found",
                    f->path, given + 1, count, suffix);
    stem.n -= strlen(suffix);

    struct part first = f->parts[0];
    f->parts[0] = (struct part){0}; /* it moves, so that closing after a failure frees it once */
    struct part *parts = arena_array(&f->a, count, sizeof *parts);
    if (!parts) {
        f->parts[0] = first;
        return fail_nomem(e, f->path, count * sizeof *parts);
    }
    f->parts = parts;
    f->n_parts = count;
    parts[given] = first;

    uint64_t n_tensors = 0, expected;
    for (unsigned i = 0; i < count; i++) {
        uint64_t no, of;
        if (i != given) {
            const char *path = NULL;
            TRY(split_path(f, stem, i, count, &path, e));
            const int rc = vfs_look(path, e);
            if (rc == ERR_NOTFOUND)
                return fail(e, rc, "%s is missing: %s is one of %u parts, which must lie side by side", path, f->path, count);
            if (rc < 0) return rc;
            TRY(parse_part(f, &parts[i], path, e));
        }
        TRY(read_split(&parts[i], &no, &of, e));
        if (no != i || of != count)
            return fail(e, ERR_FORMAT, "%s: says it is part %llu of %llu, expected part %u of %u", parts[i].path,
                        (unsigned long long)no + 1, (unsigned long long)of, i + 1, count);
        n_tensors += parts[i].n;
    }
    if (gguf_get_u64(parts[0].gguf, "split.tensors.count", &expected) && expected != n_tensors)
        return fail(e, ERR_FORMAT, "%s: the %u parts hold %llu tensors, expected %llu (split.tensors.count)", f->path, count,
                    (unsigned long long)n_tensors, (unsigned long long)expected);
    return 0;
}

static int open_gguf(struct files *f, struct err *e)
{
    uint64_t no, count;
    f->kind = FILES_GGUF;
    TRY(alloc_parts(f, 1, e));
    struct part *p = &f->parts[0];
    TRY(map_part(f, p, f->path, e));
    if (!str_starts(bytes_of(p), STR("GGUF")))
        return fail(e, ERR_UNSUPPORTED, "%s: this is %s; %s", f->path, sniff(bytes_of(p)), WHAT_OPENS);
    TRY(gguf_parse(bytes_of(p), f->path, true, &p->gguf, e));
    p->n = gguf_n_tensors(p->gguf);
    TRY(read_split(p, &no, &count, e));
    return count == 1 ? 0 : open_splits(f, (unsigned)no, (unsigned)count, e);
}

/* ---- Hugging Face folder -------------------------------------------------------------------------------------- */

/* Modules of sentence-transformers have the same names of tensors, so these get that of the module before them. */
static int name_after(struct files *f, struct part *p, const char *module, struct err *e)
{
    for (size_t i = 0; i < p->n; i++) {
        struct buf b = {0};
        const bool ok = buf_printf(&b, "%s.", module) == 0 && buf_str(&b, p->tensors[i].name) == 0;
        const struct str s = buf_view(&b);
        char *name = ok ? arena_dup(&f->a, s.p, s.n) : NULL;
        buf_fini(&b);
        if (!name) return fail_nomem(e, p->path, s.n);
        p->tensors[i].name = (struct str){name, s.n};
    }
    return 0;
}

static int open_hf(struct files *f, char **index, struct err *e)
{
    struct hf_module modules[HF_MODULES_MAX];
    char **paths;
    size_t n = 0, n_modules;
    f->kind = FILES_HF;
    TRY(hf_open(f->path, &f->hf, e));
    TRY(hf_weight_files(f->path, &f->a, &paths, &n, index, e));
    TRY(hf_modules(f->path, &f->a, modules, &n_modules, e));
    TRY(alloc_parts(f, n + n_modules, e));
    for (size_t i = 0; i < f->n_parts; i++) {
        struct part *p = &f->parts[i];
        TRY(map_part(f, p, i < n ? paths[i] : modules[i - n].path, e));
        TRY(safetensors_parse(bytes_of(p), p->path, &f->a, &p->tensors, &p->n, e));
        if (i >= n) TRY(name_after(f, p, modules[i - n].name, e));
    }
    return 0;
}

static struct str file_of(const void *ctx, struct str name)
{
    const struct files *f = ctx;
    size_t i;
    if (!names_find(&f->names, name, &i)) return (struct str){0};
    struct str path = str_of(f->parts[f->part_of[i]].path), base = path;
    for (size_t k = 0; k < path.n; k++)
        if (path.p[k] == '/') base = (struct str){path.p + k + 1, path.n - k - 1};
    return base;
}

/* ---- both ------------------------------------------------------------------------------------------------------ */

static struct str name_at(const void *ctx, size_t i)
{
    return ((const struct files *)ctx)->tensors[i]->name;
}

static int collect(struct files *f, struct err *e)
{
    for (size_t i = 0; i < f->n_parts; i++) f->n += f->parts[i].n; /* each is bounded by its file's size */
    f->tensors = arena_array(&f->a, size_max(f->n, 1), sizeof *f->tensors);
    f->part_of = arena_array(&f->a, size_max(f->n, 1), sizeof *f->part_of);
    if (!f->tensors || !f->part_of) return fail_nomem(e, "list of tensors", f->n * sizeof *f->tensors);
    size_t n = 0;
    for (size_t i = 0; i < f->n_parts; i++) {
        const struct part *p = &f->parts[i];
        for (size_t k = 0; k < p->n; k++, n++) {
            f->tensors[n] = p->gguf ? gguf_tensor(p->gguf, k) : &p->tensors[k];
            f->part_of[n] = (uint32_t)i;
            f->bytes += f->tensors[n]->bytes; /* no wrap: tensors of a file don't overlap */
        }
    }
    TRY(names_init(&f->names, &f->a, f->n, name_at, f, e));
    size_t dup = names_enter_all(&f->names, f->n);
    if (dup < f->n)
        return fail(e, ERR_FORMAT, "%s: tensor \"%.*s\" is in another file, too", f->parts[f->part_of[dup]].path,
                    STR_ARG(f->tensors[dup]->name));
    return 0;
}

static int join_matrices(struct files *f, struct err *e)
{
    const struct tensor **joined;
    size_t n;
    TRY(hf_join(&f->hf.hf, f->path, &f->names, &f->a, f->tensors, f->n, &joined, &n, e));
    f->tensors = joined;
    f->n = n;
    f->part_of = NULL;
    TRY(names_init(&f->names, &f->a, f->n, name_at, f, e));
    (void)names_enter_all(&f->names, f->n); /* the names that are left are unique, as all were */
    return 0;
}

#define USE_ADAPTER "is a LoRA adapter; give it beside its model (--lora)"

/* Whether a GGUF file says that it holds something else than a model. */
static int check_type(const struct files *f, struct err *e)
{
    static const struct {
        const char *type, *what;
    } others[] = {
        {"adapter", USE_ADAPTER},
        {"imatrix", "is an importance matrix and no model; quantize takes it beside one (--imatrix)"},
    };
    struct str type = {0};
    (void)gguf_get_str(f->parts[0].gguf, "general.type", &type);
    for (size_t i = 0; i < COUNT_OF(others); i++)
        if (str_is(type, others[i].type)) return fail(e, ERR_UNSUPPORTED, "%s %s", f->path, others[i].what);
    return 0;
}

static int open_path(struct files *f, struct err *e)
{
    char *index = NULL;
    TRY(vfs_look(f->path, e));
    if (vfs_is_dir(f->path)) {
        char *config;
        TRY(vfs_join(&f->a, f->path, "config.json", &config, e));
        const int rc = vfs_look(config, e);
        if (rc == ERR_NOTFOUND && files_is_adapter(f->path)) return fail(e, ERR_UNSUPPORTED, "%s " USE_ADAPTER, f->path);
        if (rc == ERR_NOTFOUND) return fail(e, ERR_UNSUPPORTED, "%s: a folder without config.json; %s", f->path, WHAT_OPENS);
        if (rc < 0) return rc;
        TRY(open_hf(f, &index, e));
    } else {
        TRY(open_gguf(f, e));
        TRY(check_type(f, e));
    }
    TRY(collect(f, e));
    if (index) TRY(hf_check_index(index, file_of, f, e));
    return f->kind == FILES_HF ? join_matrices(f, e) : 0;
}

/* The folder of a file named as PEFT names it. */
static int adapter_folder(struct files *f, struct err *e)
{
    static const char name[] = "adapter_model.safetensors";
    struct str path = str_of(f->path);
    if (vfs_is_dir(f->path) || !str_ends(path, STR("adapter_model.safetensors"))) return 0;
    path.n -= sizeof name - 1;
    while (path.n > 1 && path.p[path.n - 1] == '/') path.n--;
    f->path = path.n ? arena_dup(&f->a, path.p, path.n) : ".";
    return f->path ? 0 : fail_nomem(e, name, path.n);
}

static int open_adapter(struct files *f, struct err *e)
{
    char *weights;
    TRY(vfs_look(f->path, e));
    TRY(adapter_folder(f, e));
    if (!vfs_is_dir(f->path)) {
        TRY(open_gguf(f, e));
        return collect(f, e);
    }
    f->kind = FILES_HF;
    TRY(hf_open_adapter(f->path, &f->hf, &f->a, &weights, e));
    TRY(alloc_parts(f, 1, e));
    struct part *p = &f->parts[0];
    TRY(map_part(f, p, weights, e));
    TRY(safetensors_parse(bytes_of(p), p->path, &f->a, &p->tensors, &p->n, e));
    TRY(collect(f, e));
    return join_matrices(f, e);
}

static int lock_parts(const struct files *f, struct err *e)
{
    for (size_t i = 0; i < f->n_parts; i++) TRY(vfs_lock(&f->parts[i].map, f->parts[i].path, e));
    return 0;
}

static int open_with(const char *path, const struct files_options *opts, int (*fn)(struct files *f, struct err *e),
                     struct files **out, struct err *e)
{
    *out = NULL;
    struct files *f = mem_zalloc(sizeof *f);
    if (!f) return fail_nomem(e, path, sizeof *f);
    f->opts = *opts;
    f->a.limit = (size_t)16 << 20;
    f->path = arena_dup(&f->a, path, strlen(path));
    int rc = f->path ? fn(f, e) : fail_nomem(e, path, strlen(path));
    if (rc == 0 && opts->lock) rc = lock_parts(f, e);
    if (rc < 0) files_close(&f);
    *out = f;
    return rc;
}

int files_open(const char *path, struct files **out, struct err *e)
{
    return files_open_as(path, &(struct files_options){0}, out, e);
}

int files_open_as(const char *path, const struct files_options *opts, struct files **out, struct err *e)
{
    return open_with(path, opts, open_path, out, e);
}

int files_open_adapter(const char *path, struct files **out, struct err *e)
{
    return open_with(path, &(struct files_options){0}, open_adapter, out, e);
}

bool files_is_adapter(const char *path)
{
    struct arena a = {0};
    struct map map;
    struct gguf *g;
    struct str type = {0};
    char *config;
    bool found = str_ends(str_of(path), STR("adapter_model.safetensors"));
    if (vfs_is_dir(path)) {
        found = vfs_join(&a, path, "adapter_config.json", &config, NULL) == 0 && vfs_exists(config);
        arena_fini(&a);
    } else if (!found && vfs_exists(path) && vfs_map(path, &map, NULL) == 0) {
        const struct str bytes = {(const char *)map.p, map.n};
        if (str_starts(bytes, STR("GGUF")) && gguf_parse(bytes, path, false, &g, NULL) == 0) {
            found = gguf_get_str(g, "general.type", &type) && str_is(type, "adapter");
            gguf_free(&g);
        }
        vfs_unmap(&map);
    }
    return found;
}

void files_close(struct files **f)
{
    if (!*f) return;
    for (size_t i = 0; i < (*f)->n_parts; i++) {
        gguf_free(&(*f)->parts[i].gguf);
        vfs_unmap(&(*f)->parts[i].map);
    }
    hf_close(&(*f)->hf);
    arena_fini(&(*f)->a);
    mem_free(*f);
    *f = NULL;
}

enum files_kind files_kind(const struct files *f)
{
    return f->kind;
}

const char *files_path(const struct files *f)
{
    return f->path;
}

size_t files_n_tensors(const struct files *f)
{
    return f->n;
}

const struct tensor *files_tensor(const struct files *f, size_t i)
{
    return i < f->n ? f->tensors[i] : NULL;
}

const struct tensor *files_find(const struct files *f, struct str name)
{
    size_t i;
    return names_find(&f->names, name, &i) ? f->tensors[i] : NULL;
}

bool files_index(const struct files *f, struct str name, size_t *i)
{
    return names_find(&f->names, name, i);
}

uint64_t files_bytes(const struct files *f)
{
    return f->bytes;
}

const struct gguf *files_gguf(const struct files *f)
{
    return f->kind == FILES_GGUF ? f->parts[0].gguf : NULL;
}

const struct hf *files_hf(const struct files *f)
{
    return f->kind == FILES_HF ? &f->hf.hf : NULL;
}
