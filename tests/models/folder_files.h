/* folder_files: how the programs of this folder write Hugging Face folders: weights as safetensors, and copies of the other
 * files. What cannot be done ends the program. */
#ifndef QUERN_TEST_FOLDER_FILES_H
#define QUERN_TEST_FOLDER_FILES_H

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "format/format.h"

static _Noreturn void die(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static void need(int rc, const char *what, const struct err *e)
{
    if (rc < 0) die(what, e && e->msg[0] ? e->msg : err_text(rc));
}

/* A file that grows in memory. */
struct sink {
    struct buf header, data;
};

/* Shapes are those of the tensor, with another row length. */
static void add(struct sink *s, struct str name, const char *suffix, const char *dtype, const struct tensor *t, uint64_t row,
                const void *p, size_t n)
{
    int rc = buf_printf(&s->header, "%s\"%.*s%s\":{\"dtype\":\"%s\",\"shape\":[", s->header.n ? "," : "{", STR_ARG(name),
                        suffix, dtype);
    for (uint32_t d = t->n_dims; rc == 0 && d-- > 1;) rc = buf_printf(&s->header, "%llu,", (unsigned long long)t->ne[d]);
    if (rc == 0)
        rc = buf_printf(&s->header, "%llu],\"data_offsets\":[%zu,%zu]}", (unsigned long long)row, s->data.n, s->data.n + n);
    if (rc == 0) rc = buf_put(&s->data, p, n);
    need(rc, "memory", NULL);
}

static void save(const struct str *parts, size_t n, const char *dir, const char *name)
{
    struct arena a = {0};
    struct out *out;
    struct err e = {0};
    char *path;
    need(vfs_join(&a, dir, name, &path, &e), name, &e);
    need(out_open(path, &out, &e), path, &e);
    for (size_t i = 0; i < n; i++) need(out_write(out, parts[i].p, parts[i].n, &e), path, &e);
    need(out_commit(&out, &e), path, &e);
    arena_fini(&a);
}

static void save_weights(struct sink *s, const char *dir, const char *name)
{
    need(buf_c(&s->header, '}'), "memory", NULL);
    const uint64_t n = s->header.n;
    const struct str parts[] = {{(const char *)&n, 8}, buf_view(&s->header), buf_view(&s->data)};
    save(parts, COUNT_OF(parts), dir, name);
    buf_fini(&s->header);
    buf_fini(&s->data);
}

static const char *dtype_of(enum qtype t)
{
    return t == QTYPE_F16 ? "F16" : t == QTYPE_BF16 ? "BF16" : "F32";
}

static struct str slurp(struct arena *a, const char *dir, const char *name)
{
    struct str text = {0};
    struct err e = {0};
    char *path;
    need(vfs_join(a, dir, name, &path, &e), name, &e);
    if (vfs_exists(path)) need(vfs_read(path, (size_t)1 << 30, a, &text, &e), path, &e);
    return text;
}

/* The weights, and the files that lie beside them in another folder. */
static void save_copies(const char *from, const char *dir, struct sink *weights)
{
    static const char *const names[] = {"tokenizer.json",          "tokenizer_config.json", "generation_config.json",
                                        "special_tokens_map.json", "chat_template.jinja",   "config.json"};
    struct arena a = {0};
    (void)mkdir(dir, 0777);
    save_weights(weights, dir, "model.safetensors");
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct str text = slurp(&a, from, names[i]);
        if (text.n) save(&text, 1, dir, names[i]);
    }
    arena_fini(&a);
}

#endif
