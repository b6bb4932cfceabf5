/* fuzz_jinja: a template, a zero byte, its variables as JSON. Whatever the template is, rendering ends within its fuel, gives
 * valid UTF-8 or one error, gives it again the second time, and leaves nothing behind. */
#include <stdlib.h>

#include "text/text.h"

static void require(bool ok)
{
    if (!ok) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct jinja_limits limits = {.fuel = 400000, .output = 100000, .memory = 1 << 20};
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    struct str source = {(const char *)data, zero ? (size_t)(zero - data) : size};
    struct str text = {zero ? (const char *)zero + 1 : NULL, zero ? size - source.n - 1 : 0};
    struct arena a = {0};
    struct json *vars = NULL;
    struct jinja *t = NULL;
    struct buf out[2] = {0};
    struct err e[2] = {0};
    int rc[2] = {0};
    if (json_parse(&a, text, "fuzz", &vars, &e[0]) < 0 || vars->type != JSON_OBJECT) vars = NULL;
    if (jinja_compile(source, "fuzz", &t, &e[0]) == 0) {
        for (int i = 0; i < 2; i++) rc[i] = jinja_render(t, vars, 1768478400, &limits, &out[i], &e[i]);
        require(rc[0] == rc[1] && str_eq(buf_view(&out[0]), buf_view(&out[1])));
        require(rc[0] < 0 ? out[0].n == 0 && e[0].code == rc[0] && strcmp(e[0].msg, e[1].msg) == 0
                          : utf8_valid(buf_view(&out[0])));
        require(out[0].n <= limits.output);
    } else {
        require(e[0].code < 0 && e[0].msg[0] && !t);
    }
    jinja_free(&t);
    buf_fini(&out[0]);
    buf_fini(&out[1]);
    arena_fini(&a);
    require(mem_stats().current == 0);
    return 0;
}
