/* quern doctor: what this machine is and what Quern will use of it. */
#include "cli.h"

#include <stdio.h>
#include <sys/utsname.h>

struct doctor_args {
    int64_t n_threads;
    bool json, no_measure;
};

#define DOCTOR(member) .offset = offsetof(struct doctor_args, member)

static const struct opt doctor_opts[] = {
    {"-t --threads", "N", "measure with N threads; default, or -1: those that Quern would use", .kind = OPT_THREADS,
     DOCTOR(n_threads)},
    {"--no-measure", NULL, "do not measure the memory bandwidth, which takes a second or two and up to 1 GiB of memory",
     .kind = OPT_FLAG, DOCTOR(no_measure)},
    {"--json", NULL, "print the facts as one JSON object", .kind = OPT_FLAG, DOCTOR(json)},
    {0},
};

static const struct opt_group doctor_groups[] = {{"Options", doctor_opts, 0}, {0}};

struct facts {
    quern_machine machine;
    struct utsname system;
    const char *demo_model; /* NULL: not found */
    bool measured;
};

#ifdef HAVE_LIBEDIT
#define LINE_EDITING "libedit"
#else
#define LINE_EDITING "plain"
#endif

/* The last of the levels. */
static struct str best_level(const quern_machine *m)
{
    struct str rest = str_of(m->cpu_levels), level = {0};
    while (word_next(&rest, &level)) continue;
    return level;
}

static int put_bandwidth(struct buf *b, const char *key, bool measured, double v)
{
    TRY(buf_printf(b, ",\"%s\":", key));
    return measured ? buf_f64(b, v) : buf_z(b, "null");
}

static int put_text(struct buf *b, const char *key, const char *text)
{
    TRY(buf_printf(b, "%s\"%s\":", b->n > 1 ? "," : "", key));
    return text ? json_write_string(b, str_of(text)) : buf_z(b, "null");
}

static int put_json(struct buf *b, const struct facts *f)
{
    const quern_machine *m = &f->machine;
    TRY(buf_c(b, '{'));
    TRY(put_text(b, "version", QUERN_VERSION));
    TRY(put_text(b, "library_version", quern_version()));
    TRY(put_text(b, "system", f->system.sysname));
    TRY(put_text(b, "system_release", f->system.release));
    TRY(put_text(b, "architecture", f->system.machine));
    TRY(put_text(b, "cpu", m->cpu));
    TRY(buf_z(b, ",\"cpu_levels\":["));
    struct str rest = str_of(m->cpu_levels), level;
    for (bool first = true; word_next(&rest, &level); first = false) {
        TRY(buf_z(b, first ? "" : ","));
        TRY(json_write_string(b, level));
    }
    TRY(buf_z(b, "],\"cpu_level\":"));
    TRY(json_write_string(b, best_level(m)));
    TRY(buf_printf(b, ",\"cores\":%u,\"threads\":%u", m->cores, m->threads));
    TRY(buf_printf(b, ",\"memory_bytes\":%llu", (unsigned long long)m->memory_bytes));
    TRY(buf_printf(b, ",\"available_bytes\":%llu", (unsigned long long)m->available_bytes));
    TRY(put_bandwidth(b, "bandwidth_gb_s", f->measured, m->bandwidth_gb_s));
    TRY(put_bandwidth(b, "bandwidth_huge_gb_s", f->measured, m->bandwidth_huge_gb_s));
    TRY(put_text(b, "gpu", NULL));
    TRY(put_text(b, "line_editing", LINE_EDITING));
    TRY(put_text(b, "demo_model", f->demo_model));
    return buf_z(b, "}\n");
}

static int put_table(struct buf *b, const struct facts *f)
{
    const quern_machine *m = &f->machine;
    struct str level = best_level(m);
    char all[AMOUNT_MAX], free_now[AMOUNT_MAX];
    TRY(buf_printf(b, "quern         %s (libquern %s, line editing: %s)\n", QUERN_VERSION, quern_version(), LINE_EDITING));
    TRY(buf_printf(b, "system        %s %s on %s\n", f->system.sysname, f->system.release, f->system.machine));
    TRY(buf_printf(b, "cpu           %s\n", m->cpu));
    TRY(buf_printf(b, "cpu levels    %s; %.*s is used\n", m->cpu_levels, STR_ARG(level)));
    TRY(buf_printf(b, "cores         %u; %u threads are used\n", m->cores, m->threads));
    TRY(buf_printf(b, "memory        %s, of which %s can be had now\n", amount_bytes(m->memory_bytes, all),
                   amount_bytes(m->available_bytes, free_now)));
    if (f->measured) {
        TRY(buf_printf(b, "bandwidth     %.1f GB/s read from a mapped file, as weights are (4 KiB pages)\n",
                       m->bandwidth_gb_s));
        TRY(buf_printf(b, "              %.1f GB/s read from anonymous memory with huge pages\n", m->bandwidth_huge_gb_s));
    }
    TRY(buf_z(b, "gpu           none; this build has no GPU backend\n"));
    return buf_printf(b, "demo model    %s\n", f->demo_model ? f->demo_model : "not found");
}

static int run(const struct command *c, int argc, char **argv)
{
    struct doctor_args args = {0};
    struct words words;
    int exit_code;
    if (!args_parse(c, &args, argc, argv, &words, &exit_code)) return exit_code;
    struct facts facts = {.measured = !args.no_measure};
    quern_error e = {0};
    if (quern_machine_probe(facts.measured, (uint32_t)args.n_threads, &facts.machine, &e) < 0) return cli_fail("%s", e.message);
    uname(&facts.system);
    struct arena a = {0};
    if (demo_model_find(&a, &facts.demo_model, NULL) < 0) facts.demo_model = NULL;
    struct buf out = {0};
    exit_code = cli_print(&out, args.json ? put_json(&out, &facts) : put_table(&out, &facts));
    arena_fini(&a);
    return exit_code;
}

const struct command command_doctor = {
    .name = "doctor",
    .usage = "",
    .summary = "what this machine is, and what Quern will use of it",
    .text =
        "Prints CPU, cores, memory and the memory bandwidth, measured here and now: it limits how fast a model can answer.\n",
    .groups = doctor_groups,
    .run = run,
};
