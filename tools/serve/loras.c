/* loras: adapters as llama-server has them: /lora-adapters lists them and sets their scales, and a request may choose its own.
 */
#include "serve.h"

#include <math.h>

bool serve_lora_scales(struct call *c, const float **out)
{
    struct server *s = c->server;
    float *copy = arena_array(&c->arena, size_max(s->n_loras, 1), sizeof *copy);
    if (!copy) return false;
    monitor_enter(s->lock);
    if (s->n_loras) memcpy(copy, s->lora_scales, s->n_loras * sizeof *copy);
    monitor_leave(s->lock);
    *out = copy;
    return true;
}

/* [{"id":0,"scale":0.5}, ..] as scales of all adapters, in the call's arena; NULL with an answer where it is none. */
static const float *read_scales(struct call *c, const struct json *list, int *answer)
{
    const size_t n = c->server->n_loras;
    float *scales = arena_array(&c->arena, size_max(n, 1), sizeof *scales);
    bool ok = list->type == JSON_ARRAY;
    if (!scales) {
        *answer = serve_error(c, 500, "out of memory");
        return NULL;
    }
    for (size_t i = 0; ok && i < list->n; i++) {
        const struct json *id = json_find(&list->v[i], "id"), *scale = json_find(&list->v[i], "scale");
        ok = id && id->type == JSON_INT && id->i >= 0 && (uint64_t)id->i < n && scale &&
             (scale->type == JSON_INT || scale->type == JSON_REAL) && fabs(scale->f) <= 1e6;
        if (ok) scales[id->i] = (float)scale->f;
    }
    if (ok) return scales;
    *answer = serve_error(c, 400, "adapters are chosen as [{\"id\":0,\"scale\":1.0}]; this server has %zu of them", n);
    return NULL;
}

bool ask_loras(struct call *c, const struct json *obj, struct asked *out, int *answer)
{
    const struct json *list = json_find(obj, "lora");
    if (!list || list->type == JSON_NULL) return true;
    out->lora_scales = read_scales(c, list, answer);
    return out->lora_scales != NULL;
}

int native_loras(struct call *c)
{
    struct buf b = {0};
    const struct server *s = c->server;
    const float *scales;
    if (!serve_lora_scales(c, &scales)) return serve_error(c, 500, "out of memory");
    int rc = buf_c(&b, '[');
    for (size_t i = 0; i < s->n_loras; i++) {
        rc |= buf_printf(&b, "%s{\"id\":%zu,\"path\":", i ? "," : "", i);
        rc |= json_write_string(&b, str_of(s->loras[i].path));
        rc |= buf_printf(&b, ",\"scale\":%.9g}", (double)scales[i]);
    }
    return serve_json(c, 200, &b, rc | buf_c(&b, ']'));
}

int native_set_loras(struct call *c)
{
    struct buf b = {0};
    struct server *s = c->server;
    int answer = 0;
    const float *scales = read_scales(c, c->json, &answer);
    if (!scales) return answer;
    monitor_enter(s->lock);
    if (s->n_loras) memcpy(s->lora_scales, scales, s->n_loras * sizeof *scales);
    monitor_leave(s->lock);
    return serve_json(c, 200, &b, buf_z(&b, "{\"success\":true}"));
}
