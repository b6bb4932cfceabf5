/* conversation: the messages of a chat, from the system message to the last answer. They live in one arena that clearing drops
 * as a whole; a message that is replaced or taken back stays in it until then. */
#include "cli.h"

static int copy(struct conversation *v, struct str s, struct str *out)
{
    char *p = arena_dup(&v->arena, s.p ? s.p : "", s.n);
    if (!p) return ERR_NOMEM;
    *out = (struct str){p, s.n};
    return 0;
}

static int reserve(struct conversation *v)
{
    if (v->n < v->cap) return 0;
    size_t cap = v->cap ? 2 * v->cap : 16;
    struct message *p = mem_realloc(v->p, cap * sizeof *p);
    if (!p) return ERR_NOMEM;
    v->p = p;
    v->cap = cap;
    return 0;
}

int conversation_add(struct conversation *v, struct str role, struct str content)
{
    struct message m;
    TRY(reserve(v));
    TRY(copy(v, role, &m.role));
    TRY(copy(v, content, &m.content));
    v->p[v->n++] = m;
    return 0;
}

void conversation_clear(struct conversation *v)
{
    arena_fini(&v->arena);
    mem_free(v->p);
    *v = (struct conversation){0};
}

int conversation_system(struct conversation *v, struct str text)
{
    bool has = v->n > 0 && str_is(v->p[0].role, "system");
    if (text.n == 0) {
        if (!has) return 0;
        memmove(v->p, v->p + 1, (v->n - 1) * sizeof *v->p);
        v->n--;
        return 0;
    }
    if (has) return copy(v, text, &v->p[0].content);
    TRY(conversation_add(v, STR("system"), text));
    struct message m = v->p[v->n - 1];
    memmove(v->p + 1, v->p, (v->n - 1) * sizeof *v->p);
    v->p[0] = m;
    return 0;
}

int conversation_json(const struct conversation *v, struct buf *out)
{
    TRY(buf_c(out, '['));
    for (size_t i = 0; i < v->n; i++) {
        TRY(buf_z(out, i ? ",\n {\"role\":" : "\n {\"role\":"));
        TRY(json_write_string(out, v->p[i].role));
        TRY(buf_z(out, ",\"content\":"));
        TRY(json_write_string(out, v->p[i].content));
        TRY(buf_c(out, '}'));
    }
    return buf_z(out, "\n]");
}

int conversation_save(const struct conversation *v, const char *path, struct err *e)
{
    struct buf text = {0};
    int rc = buf_z(&text, "{\"messages\":");
    if (rc == 0) rc = conversation_json(v, &text);
    if (rc == 0) rc = buf_z(&text, "}\n");
    struct out *out = NULL;
    if (cli_is_model(path)) {
        rc = fail(e, ERR_ARG, "%s is a model; give the conversation another file", path);
    } else if (rc < 0) {
        fail_nomem(e, "the conversation", text.n);
    } else {
        rc = out_open(path, &out, e);
    }
    if (rc == 0) rc = out_write(out, text.p, text.n, e);
    if (rc == 0) rc = out_commit(&out, e);
    out_abort(&out);
    buf_fini(&text);
    return rc;
}

#define CONVERSATION_MAX ((size_t)64 << 20)

static int read_messages(struct conversation *v, struct arena *a, const char *path, struct err *e)
{
    struct str text;
    struct json *root;
    TRY(vfs_read(path, CONVERSATION_MAX, a, &text, e));
    TRY(json_parse(a, text, path, &root, e));
    const struct json *list = root->type == JSON_ARRAY ? root : json_find(root, "messages");
    if (!list || list->type != JSON_ARRAY) return fail(e, ERR_FORMAT, "%s: expected {\"messages\": [...]}", path);
    for (size_t i = 0; i < list->n; i++) {
        const struct json *role = json_find(&list->v[i], "role"), *content = json_find(&list->v[i], "content");
        bool ok = role && role->type == JSON_STRING && content && content->type == JSON_STRING;
        if (!ok) return fail(e, ERR_FORMAT, "%s: message %zu has no role and content that are texts", path, i);
        if (conversation_add(v, role->s, content->s) < 0) return fail_nomem(e, "the conversation", text.n);
    }
    return 0;
}

int conversation_load(struct conversation *v, const char *path, struct err *e)
{
    struct conversation loaded = {0};
    struct arena a = {0};
    int rc = read_messages(&loaded, &a, path, e);
    arena_fini(&a);
    if (rc < 0) {
        conversation_clear(&loaded);
        return rc;
    }
    conversation_clear(v);
    *v = loaded;
    return 0;
}
