/* api_adapter: quern.h's adapters, as sessions and engines open them. */
#include <math.h>

#include "api/api_int.h"

#define MAX_LORAS 256

static int open_one(const quern_model *m, const quern_lora *list, size_t i, struct api_loras *out, struct err *e)
{
    if (!list[i].path || !isfinite(list[i].scale)) return fail(e, ERR_ARG, "adapter %zu needs a path and a finite scale", i);
    for (size_t k = 0; k < i; k++)
        if (strcmp(list[k].path, list[i].path) == 0) return fail(e, ERR_ARG, "the adapter %s is given twice", list[i].path);
    TRY(adapter_open(list[i].path, &out->adapters[i], e));
    TRY(adapter_bind(out->adapters[i], m->model, e));
    out->loras[i] = *adapter_lora(out->adapters[i]);
    out->scales[i] = list[i].scale;
    return 0;
}

int api_loras_open(const quern_model *m, const quern_lora *list, size_t n, struct api_loras *out, struct err *e)
{
    *out = (struct api_loras){0};
    if (n == 0) return 0;
    if (n > MAX_LORAS) return fail(e, ERR_ARG, "%zu adapters; at most %d", n, MAX_LORAS);
    *out = (struct api_loras){mem_array(n, sizeof(*out->adapters)), mem_array(n, sizeof *out->loras),
                              mem_array(n, sizeof *out->scales), (uint32_t)n};
    int rc = out->adapters && out->loras && out->scales ? 0 : fail_nomem(e, "adapters", n * sizeof *out->loras);
    for (size_t i = 0; rc == 0 && i < n; i++) rc = open_one(m, list, i, out, e);
    if (rc < 0) api_loras_close(out);
    return rc;
}

void api_loras_close(struct api_loras *l)
{
    for (uint32_t i = 0; l->adapters && i < l->n; i++) adapter_close(&l->adapters[i]);
    mem_free(l->adapters);
    mem_free(l->loras);
    mem_free(l->scales);
    *l = (struct api_loras){0};
}

bool quern_is_adapter(const char *path)
{
    return files_is_adapter(path);
}

int quern_adapter_describe(const char *path, quern_string *json, quern_error *err)
{
    struct err e = {0};
    struct buf b = {0};
    struct adapter *x;
    if (adapter_open(path, &x, &e) < 0) return api_fail(err, &e);
    int rc = api_describe_adapter(x, &b);
    adapter_close(&x);
    if (rc == 0) return api_give_string(&b, json, &e) < 0 ? api_fail(err, &e) : 0;
    buf_fini(&b);
    (void)fail_nomem(&e, "a description", 0);
    return api_fail(err, &e);
}
