/* slots: /props and /slots of llama-server: what the server is, with the options of requests that ask for none, and what it
 * computes just now. A slot is a place among the requests that the engine computes together. */
#include "serve.h"

#include <microhttpd.h>

int native_settings(struct buf *b, const struct asked *a, const struct choice *x)
{
    const struct job *j = x ? x->job : NULL;
    const quern_sampling *s = &a->sampling;
    const long long most = a->prompt_only ? 0 : a->max_tokens ? (long long)a->max_tokens : -1;
    int rc = buf_printf(b, "{\"n_predict\":%lld,\"max_tokens\":%lld,\"n_keep\":%lld,\"seed\":", most, most,
                        a->n_keep == UINT32_MAX ? -1 : (long long)a->n_keep);
    rc |= buf_printf(b, "%llu",
                     x ? (unsigned long long)s->seed + x->index % j->n_each : (unsigned long long)UINT32_MAX); /* any */
    rc |= buf_printf(b,
                     ",\"temperature\":%.9g,\"top_k\":%d,\"top_p\":%.9g,\"min_p\":%.9g,\"min_keep\":%u,\"repeat_last_n\":%d,"
                     "\"repeat_penalty\":%.9g,\"presence_penalty\":%.9g,\"frequency_penalty\":%.9g",
                     (double)s->temperature, s->top_k, (double)s->top_p, (double)s->min_p, s->min_keep, s->penalty_last_n,
                     (double)s->repeat_penalty, (double)s->presence_penalty, (double)s->frequency_penalty);
    rc |= buf_printf(b, ",\"ignore_eos\":%s,\"stream\":%s,\"n_probs\":%u,\"stop\":[", a->ignore_eos ? "true" : "false",
                     j && j->stream ? "true" : "false", j ? j->n_top : 0);
    for (size_t i = 0; i < a->n_stop; i++) {
        if (i) rc |= buf_c(b, ',');
        rc |= json_write_string(b, str_of(a->stop[i]));
    }
    rc |= buf_z(b, "],\"logit_bias\":[");
    for (size_t i = 0; i < a->n_bias; i++) {
        rc |= buf_printf(b, "%s{\"token\":%d,\"bias\":", i ? "," : "", a->bias[i].id);
        rc |= isinf(a->bias[i].bias) ? buf_z(b, "false}") : buf_printf(b, "%.9g}", (double)a->bias[i].bias);
    }
    return rc | buf_z(b, "],\"samplers\":[\"penalties\",\"top_k\",\"top_p\",\"min_p\",\"temperature\"]}");
}

/* ,"key":"text of obj's member", or "" where it has none. */
static int put_text(struct buf *b, const char *key, const struct json *obj, const char *member)
{
    struct str text = {0};
    (void)json_opt_str(obj, member, &text);
    const int rc = buf_printf(b, ",\"%s\":", key);
    return rc | json_write_string(b, text.p ? text : STR(""));
}

int native_props(struct call *c)
{
    const struct server *s = c->server;
    struct buf b = {0};
    struct json *all = NULL;
    struct err e;
    quern_engine_info i;
    const struct asked none = {.sampling = quern_sampling_of(s->model)};
    if (json_parse(&c->arena, str_of(s->description), "the description", &all, &e) < 0) return serve_error(c, 500, "%s", e.msg);
    const struct json *tokenizer = json_find(all, "tokenizer");
    quern_engine_get_info(s->engine, &i);
    int rc = buf_printf(&b, "{\"default_generation_settings\":{\"n_ctx\":%u,", i.n_ctx);
    rc |= buf_z(&b, "\"params\":");
    rc |= native_settings(&b, &none, NULL);
    rc |= buf_printf(&b, "},\"total_slots\":%u,\"model_alias\":", i.n_parallel);
    rc |= json_write_string(&b, str_of(s->name));
    rc |= put_text(&b, "model_path", all, "path");
    rc |= put_text(&b, "chat_template", all, "chat_template");
    rc |= put_text(&b, "bos_token", json_find(tokenizer, "bos"), "text");
    rc |= put_text(&b, "eos_token", json_find(tokenizer, "eos"), "text");
    rc |= buf_printf(&b, ",\"chat_template_caps\":{\"supports_tools\":%s}", s->template_has_tools ? "true" : "false");
    rc |= buf_z(&b, ",\"modalities\":{\"vision\":false,\"audio\":false},\"endpoint_slots\":true,\"endpoint_props\":false,"
                    "\"endpoint_metrics\":true,\"is_sleeping\":false");
    return serve_json(c, 200, &b, rc | buf_printf(&b, ",\"build_info\":\"quern %s\"}", quern_version()));
}

/* ---- slots --------------------------------------------------------------------------------------------------------------- */

struct slot {
    struct choice *choice; /* NULL: nothing runs there */
    quern_request_info info;
};

/* Inside the server's lock, in which jobs stay. */
static uint32_t find_running(const struct server *s, struct slot *slots, uint32_t n)
{
    uint32_t n_running = 0;
    for (struct job *j = s->jobs; j; j = j->next)
        for (uint32_t k = 0; k < j->n_choices; k++) {
            quern_request_info i;
            quern_request_get_info(j->choices[k].request, &i);
            if (!i.running || i.slot >= n) continue;
            n_running += !slots[i.slot].choice;
            slots[i.slot] = (struct slot){&j->choices[k], i};
        }
    return n_running;
}

static bool has_line(struct choice *x)
{
    monitor_enter(x->job->lock);
    const bool has = x->text.n && memchr(x->text.p, '\n', x->text.n);
    monitor_leave(x->job->lock);
    return has;
}

static int put_running(struct buf *b, const struct slot *slot)
{
    const quern_request_info *i = &slot->info;
    const struct job *j = slot->choice->job;
    const long long most = j->asked.max_tokens;
    int rc =
        buf_printf(b, ",\"id_task\":%llu,\"n_prompt_tokens\":%u,\"n_prompt_tokens_processed\":%u,\"n_prompt_tokens_cache\":%u,",
                   (unsigned long long)j->call->number, i->n_prompt, i->n_known - i->n_reused, i->n_reused);
    rc |= buf_z(b, "\"params\":");
    rc |= native_settings(b, &j->asked, slot->choice);
    return rc |
           buf_printf(b, ",\"next_token\":[{\"has_next_token\":true,\"has_new_line\":%s,\"n_remain\":%lld,\"n_decoded\":%u}]",
                      has_line(slot->choice) ? "true" : "false", most ? most - i->n_generated : -1, i->n_generated);
}

int native_slots(struct call *c)
{
    struct server *s = c->server;
    struct buf b = {0};
    quern_engine_info i;
    quern_engine_get_info(s->engine, &i);
    struct slot *slots = arena_array(&c->arena, size_max(i.n_parallel, 1), sizeof *slots);
    const char *fail = MHD_lookup_connection_value(c->connection, MHD_GET_ARGUMENT_KIND, "fail_on_no_slot");
    if (!slots) return serve_error(c, 500, "out of memory");
    int rc = buf_c(&b, '[');
    monitor_enter(s->lock);
    const uint32_t n_running = find_running(s, slots, i.n_parallel);
    for (uint32_t k = 0; k < i.n_parallel; k++) {
        rc |= buf_printf(&b, "%s{\"id\":%u,\"n_ctx\":%u,\"speculative\":%s,\"is_processing\":%s", k ? "," : "", k, i.n_ctx,
                         i.speculates ? "true" : "false", slots[k].choice ? "true" : "false");
        if (slots[k].choice) rc |= put_running(&b, &slots[k]);
        rc |= buf_c(&b, '}');
    }
    monitor_leave(s->lock);
    if (fail && strcmp(fail, "1") == 0 && n_running == i.n_parallel) {
        buf_fini(&b);
        return serve_error(c, 503, "all %u slots are taken", n_running);
    }
    return serve_json(c, 200, &b, rc | buf_c(&b, ']'));
}
