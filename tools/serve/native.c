/* native: the paths of llama-server that tools around a server use: health, metrics, the chat template, the tokenizer. */
#include "serve.h"

int native_health(struct call *c)
{
    struct buf b = {0};
    return serve_json(c, 200, &b, buf_z(&b, "{\"status\":\"ok\"}"));
}

/* Prometheus text: llama-server's names where it has them. */
int native_metrics(struct call *c)
{
    struct buf b = {0};
    quern_engine_info i;
    quern_engine_get_info(c->server->engine, &i);
    const struct {
        const char *name, *type, *help;
        double value;
    } rows[] = {
        {"llamacpp:prompt_tokens_total", "counter", "Prompt tokens of admitted requests.", (double)i.prompt_tokens},
        {"llamacpp:tokens_predicted_total", "counter", "Generated tokens.", (double)i.generated_tokens},
        {"llamacpp:prompt_seconds_total", "counter", "Time of steps with prompt tokens.", i.prefill_seconds},
        {"llamacpp:tokens_predicted_seconds_total", "counter", "Time of steps without prompt tokens.", i.decode_seconds},
        {"llamacpp:requests_processing", "gauge", "Requests that are computed.", i.n_running},
        {"llamacpp:requests_deferred", "gauge", "Requests that wait.", i.n_waiting},
        {"quern:requests_total", "counter", "Requests admitted.", (double)i.requests},
        {"quern:prompt_tokens_reused_total", "counter", "Prompt tokens found in the cache.", (double)i.reused_tokens},
        {"quern:prompt_tokens_restored_total", "counter", "Of them, read back from disk.", (double)i.restored_tokens},
        {"quern:drafted_tokens_total", "counter", "Draft tokens that were checked.", (double)i.drafted_tokens},
        {"quern:accepted_tokens_total", "counter", "Of these, accepted.", (double)i.accepted_tokens},
        {"quern:kv_bytes", "gauge", "Memory of the KV cache.", (double)i.kv_bytes},
        {"quern:kv_used_bytes", "gauge", "Of it, in use or kept.", (double)i.kv_used_bytes},
        {"quern:kv_cached_bytes", "gauge", "Of it, kept for prompts that begin alike.", (double)i.kv_cached_bytes},
    };
    int rc = 0;
    for (size_t k = 0; k < COUNT_OF(rows); k++)
        rc |= buf_printf(&b, "# HELP %s %s\n# TYPE %s %s\n%s %.17g\n", rows[k].name, rows[k].help, rows[k].name, rows[k].type,
                         rows[k].name, rows[k].value);
    return serve_text(c, 200, "text/plain; version=0.0.4", &b, rc);
}

int native_apply_template(struct call *c)
{
    struct asked asked = {0};
    struct buf b = {0};
    quern_string prompt = {0};
    int answer = 0;
    const struct json *extra, *tools;
    const char *kwargs;
    const bool ok = ask_object(c, c->json, "chat_template_kwargs", &extra, &answer) &&
                    ask_tools(c, c->json, &tools, &asked, &answer) &&
                    ask_thinking(c, c->json, "reasoning_effort", extra, &kwargs, &answer) &&
                    ask_render(c, json_find(c->json, "messages"), tools, kwargs, &asked, &prompt, &answer);
    if (!ok) return answer;
    int rc = buf_z(&b, "{\"prompt\":");
    rc |= json_write_string(&b, (struct str){prompt.text, prompt.length});
    quern_string_free(&prompt);
    return serve_json(c, 200, &b, rc | buf_c(&b, '}'));
}

/* {"id":..,"piece":..}: the text that a token stands for, or its bytes where they are no whole characters. */
static int put_piece(struct call *c, struct buf *b, int32_t id)
{
    quern_string s = {0};
    quern_error err;
    if (quern_token_bytes(c->server->model, id, &s, &err) < 0) return ERR_NOMEM;
    const struct str text = {s.text, s.length};
    int rc = buf_printf(b, "{\"id\":%d,\"piece\":", id);
    if (utf8_valid(text)) {
        rc |= json_write_string(b, text);
    } else {
        for (size_t i = 0; i < text.n; i++) rc |= buf_printf(b, "%c%u", i ? ',' : '[', (unsigned char)text.p[i]);
        rc |= buf_c(b, ']');
    }
    quern_string_free(&s);
    return rc | buf_c(b, '}');
}

int native_tokenize(struct call *c)
{
    struct str text = {0};
    bool add = false, parse = true, pieces = false;
    quern_tokens t = {0};
    quern_error err;
    struct buf b = {0};
    if (!json_opt_str(c->json, "content", &text) || !json_opt_bool(c->json, "add_special", &add) ||
        !json_opt_bool(c->json, "parse_special", &parse) || !json_opt_bool(c->json, "with_pieces", &pieces))
        return serve_error(
            c, 400, "\"content\" must be a string, \"add_special\", \"parse_special\" and \"with_pieces\" true or false");
    const unsigned flags = (add ? QUERN_ADD_SPECIAL : 0) | (parse ? QUERN_PARSE_SPECIAL : 0);
    if (quern_tokenize(c->server->model, text.p ? text.p : "", text.n, flags, &t, &err) < 0) return serve_failure(c, &err);
    int rc = buf_z(&b, "{\"tokens\":[");
    for (size_t i = 0; i < t.count; i++) {
        if (i) rc |= buf_c(&b, ',');
        rc |= pieces ? put_piece(c, &b, t.ids[i]) : buf_printf(&b, "%d", t.ids[i]);
    }
    quern_tokens_free(&t);
    return serve_json(c, 200, &b, rc | buf_z(&b, "]}"));
}

int native_detokenize(struct call *c)
{
    quern_tokens ids = {0};
    quern_string s = {0};
    quern_error err;
    struct buf b = {0};
    int answer = 0;
    const struct json *tokens = json_find(c->json, "tokens");
    if (!tokens || tokens->type != JSON_ARRAY) return serve_error(c, 400, "\"tokens\" must be an array of token ids");
    if (tokens->n && !ask_ids(c, tokens, "\"tokens\" must be an array", &ids, &answer)) return answer;
    const int failed = quern_detokenize(c->server->model, ids.ids, ids.count, false, &s, &err);
    quern_tokens_free(&ids);
    if (failed < 0) return serve_failure(c, &err);
    int rc = buf_z(&b, "{\"content\":");
    rc |= json_write_string(&b, (struct str){s.text, s.length});
    quern_string_free(&s);
    return serve_json(c, 200, &b, rc | buf_c(&b, '}'));
}
