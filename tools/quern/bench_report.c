/* bench_report: the result of `quern bench` as a table for people, JSON, CSV or Markdown. */
#include "bench.h"

#include <inttypes.h>
#include <stdio.h>

double bench_fraction(const struct bench_row *row, const quern_limits *l)
{
    const double reading = row->bytes / (l->bandwidth_gb_s * 1e9);
    const double computing = (row->int8 / l->int8_tops + row->f32 / l->f32_tops) * 2e-12;
    if (!row->test.decode) return row->median * computing;
    return row->median * (row->test.parallel > 1 && computing > reading ? computing : reading);
}

const char *bench_name(const struct bench_test *t, char out[BENCH_NAME_MAX])
{
    int n = snprintf(out, BENCH_NAME_MAX, "%s%u", t->decode ? "tg" : "pp", t->n);
    if (t->parallel > 1) n += snprintf(out + n, BENCH_NAME_MAX - (size_t)n, "x%u", t->parallel);
    if (t->depth) snprintf(out + n, BENCH_NAME_MAX - (size_t)n, "@d%u", t->depth);
    return out;
}

/* ---- JSON ---------------------------------------------------------------------------------------------- */

static int put_number(struct buf *b, const char *key, double v)
{
    TRY(buf_printf(b, "\"%s\":", key));
    return buf_f64(b, v);
}

static int put_json_row(struct buf *b, const struct bench_row *row, const quern_limits *l)
{
    char name[BENCH_NAME_MAX];
    TRY(buf_z(b, "{\"model\":"));
    TRY(json_write_string(b, str_of(row->model)));
    TRY(buf_z(b, ",\"type\":"));
    TRY(json_write_string(b, str_of(row->type)));
    TRY(buf_printf(b, ",\"test\":\"%s\",", bench_name(&row->test, name)));
    TRY(put_number(b, "tokens_per_second", row->median));
    TRY(buf_c(b, ','));
    TRY(put_number(b, "min", row->min));
    TRY(buf_c(b, ','));
    TRY(put_number(b, "max", row->max));
    TRY(buf_printf(b, ",\"bytes_per_token\":%.0f,", row->bytes));
    TRY(put_number(b, "fraction_of_limit", bench_fraction(row, l)));
    return buf_c(b, '}');
}

static int put_json_prefix(struct buf *b, const struct bench_prefix *p, bool first)
{
    TRY(buf_z(b, first ? ",\"prefixes\":[{\"model\":" : ",{\"model\":"));
    TRY(json_write_string(b, str_of(p->model)));
    TRY(buf_z(b, ",\"type\":"));
    TRY(json_write_string(b, str_of(p->type)));
    TRY(buf_printf(b, ",\"prompt_tokens\":%u,", p->n));
    TRY(put_number(b, "computed_seconds", p->computed));
    TRY(buf_c(b, ','));
    TRY(put_number(b, "from_memory_seconds", p->from_memory));
    TRY(buf_c(b, ','));
    TRY(put_number(b, "from_disk_seconds", p->from_disk));
    return buf_c(b, '}');
}

static double acceptance_rate(const struct bench_speculation *s)
{
    return s->n_drafted ? (double)s->n_accepted / (double)s->n_drafted : 0;
}

static int put_json_speculation(struct buf *b, const struct bench_speculation *s, bool first)
{
    TRY(buf_z(b, first ? ",\"speculation\":[{\"model\":" : ",{\"model\":"));
    TRY(json_write_string(b, str_of(s->model)));
    TRY(buf_z(b, ",\"type\":"));
    TRY(json_write_string(b, str_of(s->type)));
    TRY(buf_printf(b, ",\"test\":\"%s%u\",", s->work, s->n));
    TRY(put_number(b, "plain_tokens_per_second", s->plain));
    TRY(buf_c(b, ','));
    TRY(put_number(b, "tokens_per_second", s->speculative));
    TRY(buf_c(b, ','));
    TRY(put_number(b, "worst_ratio", s->worst));
    TRY(buf_printf(b, ",\"draft_tokens\":%" PRIu64 ",\"accepted_tokens\":%" PRIu64 ",", s->n_drafted, s->n_accepted));
    TRY(put_number(b, "acceptance_rate", acceptance_rate(s)));
    return buf_c(b, '}');
}

static int put_json(struct buf *b, const struct bench_result *r)
{
    TRY(buf_c(b, '{'));
    TRY(put_number(b, "bandwidth_gb_s", r->limits.bandwidth_gb_s));
    TRY(buf_c(b, ','));
    TRY(put_number(b, "int8_tops", r->limits.int8_tops));
    TRY(buf_z(b, ",\"rows\":["));
    for (size_t i = 0; i < r->n; i++) {
        if (i) TRY(buf_c(b, ','));
        TRY(put_json_row(b, &r->rows[i], &r->limits));
    }
    TRY(buf_c(b, ']'));
    for (size_t i = 0; i < r->n_prefixes; i++) TRY(put_json_prefix(b, &r->prefixes[i], i == 0));
    if (r->n_prefixes) TRY(buf_c(b, ']'));
    for (size_t i = 0; i < r->n_speculations; i++) TRY(put_json_speculation(b, &r->speculations[i], i == 0));
    return buf_z(b, r->n_speculations ? "]}\n" : "}\n");
}

/* ---- tables ---------------------------------------------------------------------------------------------- */

/* Names of files may hold anything: quotes as RFC 4180 wants them. */
static int put_csv_text(struct buf *b, const char *text)
{
    if (!strpbrk(text, ",\"\n\r")) return buf_z(b, text);
    TRY(buf_c(b, '"'));
    for (; *text; text++) TRY(buf_printf(b, *text == '"' ? "\"%c" : "%c", *text));
    return buf_c(b, '"');
}

static int put_csv(struct buf *b, const struct bench_result *r)
{
    char name[BENCH_NAME_MAX];
    TRY(buf_z(b, "model,type,test,tokens_per_second,min,max,bytes_per_token,fraction_of_limit,bandwidth_gb_s,int8_tops\n"));
    for (size_t i = 0; i < r->n; i++) {
        const struct bench_row *row = &r->rows[i];
        TRY(put_csv_text(b, row->model));
        TRY(buf_c(b, ','));
        TRY(put_csv_text(b, row->type));
        TRY(buf_printf(b, ",%s,%.3f,%.3f,%.3f,%.0f,%.4f,%.2f,%.3f\n", bench_name(&row->test, name), row->median, row->min,
                       row->max, row->bytes, bench_fraction(row, &r->limits), r->limits.bandwidth_gb_s, r->limits.int8_tops));
    }
    return 0;
}

static int put_limits(struct buf *b, const struct bench_result *r, const char *between)
{
    const quern_limits *l = &r->limits;
    TRY(buf_printf(b, "memory   %.1f GB/s reading the weights with %u threads (%.1f from anonymous memory with huge pages)%s\n",
                   l->bandwidth_gb_s, r->n_threads, l->bandwidth_huge_gb_s, between));
    return buf_printf(b, "compute  %.2f T op/s of int8, %.2f of f32 (%s)\n\n", l->int8_tops, l->f32_tops, r->cpu_level);
}

static int put_prefixes(struct buf *b, const struct bench_result *r)
{
    for (size_t i = 0; i < r->n_prefixes; i++) {
        const struct bench_prefix *p = &r->prefixes[i];
        TRY(buf_printf(b, "%s%s, %s: first token after %u tokens in %.1f ms computed, %.1f ms from memory, %.1f ms from disk\n",
                       i ? "" : "\n", p->model, p->type, p->n, p->computed * 1e3, p->from_memory * 1e3, p->from_disk * 1e3));
    }
    return 0;
}

static int put_speculations(struct buf *b, const struct bench_result *r)
{
    for (size_t i = 0; i < r->n_speculations; i++) {
        const struct bench_speculation *s = &r->speculations[i];
        TRY(buf_printf(b, "%s%s, %s: %s%u %.1f tokens/s, with speculation %.1f (%.2f x, worst prompt %.2f x)", i ? "" : "\n",
                       s->model, s->type, s->work, s->n, s->plain, s->speculative, s->speculative / s->plain, s->worst));
        TRY(buf_printf(b, "; acceptance rate %.0f %% of %" PRIu64 " draft tokens\n", 100 * acceptance_rate(s), s->n_drafted));
    }
    return 0;
}

/* What does not fit the columns of a table. */
static int put_lines(struct buf *b, const struct bench_result *r)
{
    TRY(put_prefixes(b, r));
    return put_speculations(b, r);
}

static int put_text(struct buf *b, const struct bench_result *r)
{
    char name[BENCH_NAME_MAX];
    int width = 5;
    for (size_t i = 0; i < r->n; i++) width = (int)size_max((size_t)width, strlen(r->rows[i].model));
    TRY(put_limits(b, r, ""));
    TRY(buf_printf(b, "%-*s  %-8s  %-12s %10s %10s %10s %10s %9s\n", width, "model", "type", "test", "tokens/s", "min", "max",
                   "MB/token", "of limit"));
    for (size_t i = 0; i < r->n; i++) {
        const struct bench_row *row = &r->rows[i];
        TRY(buf_printf(b, "%-*s  %-8s  %-12s %10.2f %10.2f %10.2f %10.1f %7.1f %%\n", width, row->model, row->type,
                       bench_name(&row->test, name), row->median, row->min, row->max, row->bytes * 1e-6,
                       100 * bench_fraction(row, &r->limits)));
    }
    return put_lines(b, r);
}

static int put_markdown(struct buf *b, const struct bench_result *r)
{
    char name[BENCH_NAME_MAX];
    TRY(put_limits(b, r, "  "));
    TRY(buf_z(b, "| model | type | test | tokens/s | min | max | MB/token | of limit |\n"
                 "|---|---|---|---:|---:|---:|---:|---:|\n"));
    for (size_t i = 0; i < r->n; i++) {
        const struct bench_row *row = &r->rows[i];
        TRY(buf_printf(b, "| %s | %s | %s | %.2f | %.2f | %.2f | %.1f | %.1f %% |\n", row->model, row->type,
                       bench_name(&row->test, name), row->median, row->min, row->max, row->bytes * 1e-6,
                       100 * bench_fraction(row, &r->limits)));
    }
    return put_lines(b, r);
}

int bench_print(struct buf *b, const struct bench_result *r, const char *format)
{
    static const struct {
        const char *name;
        int (*put)(struct buf *b, const struct bench_result *r);
    } formats[] = {{"text", put_text}, {"json", put_json}, {"csv", put_csv}, {"md", put_markdown}};
    for (size_t i = 0; i < COUNT_OF(formats); i++)
        if (strcmp(format, formats[i].name) == 0) return formats[i].put(b, r);
    return ERR_ARG;
}
