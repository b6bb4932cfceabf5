/* conformance: the tiny random models of conformance.tar.xz against what the transformers library computes for them, through
 * the program as a user would run it: logits and greedy continuation, or vectors, or scores of pairs, from the Hugging Face
 * folder and from the GGUF files that `quern convert` makes of it, as stored and in Q8_0; and the same bytes for every batch
 * size, thread count and CPU level.
 *
 * usage: test_conformance QUERN FOLDER WORK NAME...     FOLDER/NAME are the models; WORK is scratch space. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "kernel/kernel.h"

#define MAX_SHELL 8192
#define LOGIT_TOLERANCE 1e-3 /* of the range of the logits; the data's README */
/* Of the deviation of the logits: the median over the tokens of the root of the mean squared error of Q8_0. The weights are
 * random, so that every rounding error comes through and grows from token to token: 2 to 7 %, and up to 17 % where routers tip
 * over or scores are not scaled (Gemma 4), where single tokens differ altogether. */
#define Q8_TOLERANCE 0.2
#define VECTOR_TOLERANCE 1e-5 /* of numbers of a vector of length 1, and of scores */
#define VECTOR_Q8_COSINE 0.99
#define MARGIN 0.01 /* a greedy step with a smaller lead may fall either way in float rounding */

static unsigned n_tests, n_failed;

static void report(bool ok, const char *what, const char *detail)
{
    printf("%sok %u - %s%s%s\n", ok ? "" : "not ", ++n_tests, what, ok || !*detail ? "" : ": ", ok ? "" : detail);
    n_failed += !ok;
    fflush(stdout);
}

/* Runs a shell command; its standard output goes to path, or is dropped. */
static int shell(const char *path, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int shell(const char *path, const char *fmt, ...)
{
    char cmd[MAX_SHELL];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(cmd, sizeof cmd, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof cmd) return -1;
    snprintf(cmd + n, sizeof cmd - (size_t)n, " >%s", path ? path : "/dev/null");
    return system(cmd);
}

static struct str slurp(struct arena *a, const char *path)
{
    struct str s = {0};
    struct err e;
    if (vfs_read(path, (size_t)1 << 30, a, &s, &e) < 0) printf("# %s\n", e.msg);
    return s;
}

static void join_ids(const struct json *ids, char *out, size_t cap)
{
    size_t n = 0;
    out[0] = 0;
    for (size_t i = 0; i < ids->n; i++) n += (size_t)snprintf(out + n, cap - n, "%s%lld", i ? "," : "", (long long)ids->v[i].i);
}

struct model {
    const char *quern, *name, *folder; /* FOLDER/name */
    const char *work;
    const struct json *reference;
};

/* How far logits [n] are from those of a sequence of the reference; infinitely where their number differs. */
struct distance {
    double worst, median;    /* largest error; over the tokens, of the root of the mean of its squares */
    double range, deviation; /* of the reference */
};
static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static struct distance distance(const struct model *m, struct arena *a, const struct json *seq, struct str got)
{
    struct distance d = {.worst = INFINITY, .median = INFINITY, .range = 1, .deviation = 1};
    char path[512];
    struct str name = json_find(json_find(seq, "logits"), "file")->s;
    snprintf(path, sizeof path, "%s/%.*s", m->folder, STR_ARG(name));
    struct str ref = slurp(a, path);
    const size_t n = ref.n / 4, width = (size_t)json_find(json_find(seq, "logits"), "shape")->v[1].i, n_rows = n / width;
    double *rows = arena_array(a, n_rows, sizeof *rows); /* mean squares */
    if (ref.n != got.n || n == 0 || !rows) return d;
    double low = INFINITY, high = -INFINITY, sum = 0, squares = 0;
    d.worst = 0;
    for (size_t i = 0; i < n; i++) {
        float r, q;
        memcpy(&r, ref.p + 4 * i, 4);
        memcpy(&q, got.p + 4 * i, 4);
        const double e = fabs((double)r - (double)q);
        if (!(e <= d.worst)) d.worst = e;
        rows[i / width] += e * e / (double)width;
        sum += (double)r;
        squares += (double)r * (double)r;
        low = fmin(low, (double)r);
        high = fmax(high, (double)r);
    }
    qsort(rows, n_rows, sizeof *rows, by_value);
    d.median = sqrt(rows[n_rows / 2]);
    d.range = high - low;
    d.deviation = sqrt(squares / (double)n - sum / (double)n * sum / (double)n);
    return d;
}

/* Every way of computing the logits of one sequence gives the same bytes, which are near those of the reference. Of the longest
 * one at every CPU level, of the others at the highest. The scalar level takes most of the time and goes one way, from the
 * folder: test_kernels holds the others, which go all ways, against it for every number of activation rows. */
static void check_logits(const struct model *m, const char *path, const char *kind, size_t seq)
{
    static const struct {
        unsigned batch, threads;
    } ways[] = {{512, 1}, {7, 2}, {1, 2}};
    enum { SCALAR_WAY = 1 };
    struct arena a = {0};
    const struct json *all = json_find(m->reference, "sequences"), *s = &all->v[seq];
    const bool longest = seq + 1 == all->n;
    char ids[4096], file[512], what[256], detail[256] = "";
    join_ids(json_find(s, "ids"), ids, sizeof ids);

    struct str first = {0};
    bool same = true, ran = true;
    for (unsigned l = 0; longest ? cpu_level(l) != NULL : l == 0; l++) {
        char level[32] = "";
        if (longest) snprintf(level, sizeof level, "--cpu %s", cpu_level(l));
        for (size_t w = 0; w < COUNT_OF(ways); w++) {
            if (longest && l == 0 && (w != SCALAR_WAY || path != m->folder)) continue;
            snprintf(file, sizeof file, "%s/logits.bin", m->work);
            unlink(file);
            if (shell(NULL, "%s logits '%s' --tokens %s --kv f32 --batch %u --threads %u %s --out '%s'", m->quern, path, ids,
                      ways[w].batch, ways[w].threads, level, file) != 0)
                ran = false;
            struct str now = slurp(&a, file);
            if (first.n == 0) first = now;
            if (!same || str_eq(first, now)) continue;
            same = false;
            snprintf(detail, sizeof detail, "other bytes at %s --batch %u --threads %u", level, ways[w].batch, ways[w].threads);
        }
    }
    snprintf(what, sizeof what, "%s %s sequence %zu: same logits for every batch and thread count%s", m->name, kind, seq,
             longest ? " and level" : "");
    report(ran && same && first.n > 0, what, ran ? detail : "quern logits failed");

    struct distance d = distance(m, &a, s, first);
    snprintf(what, sizeof what, "%s %s sequence %zu: logits of the reference (error %.1e of the range)", m->name, kind, seq,
             d.worst / d.range);
    report(d.worst <= LOGIT_TOLERANCE * d.range, what, "beyond the tolerance");
    arena_fini(&a);
}

static int copy_with_config5(const struct model *m, const char *to)
{
    return shell(NULL,
                 "rm -rf '%s' && cp -rs \"$(cd '%s' && pwd)\" '%s' && rm '%s/config.json' && "
                 "cp '%s/config.transformers5.json' '%s/config.json'",
                 to, m->folder, to, to, m->folder, to);
}

/* Eight bits a weight are near the reference, too; and config.json as transformers 5 writes it means the same. */
static void check_variants(const struct model *m, const char *gguf)
{
    struct arena a = {0};
    const struct json *s = &json_find(m->reference, "sequences")->v[1];
    char ids[4096], file[512], other[512], what[256];
    join_ids(json_find(s, "ids"), ids, sizeof ids);
    snprintf(file, sizeof file, "%s/logits.bin", m->work);
    int rc = shell(NULL, "%s convert '%s' '%s' --type q8_0", m->quern, m->folder, gguf);
    if (rc == 0) rc = shell(NULL, "%s logits '%s' --tokens %s --kv f32 --out '%s'", m->quern, gguf, ids, file);
    struct distance d = distance(m, &a, s, rc == 0 ? slurp(&a, file) : (struct str){0});
    snprintf(what, sizeof what, "%s q8_0: near the logits of the reference (error %.3f of their deviation)", m->name,
             d.median / d.deviation);
    report(rc == 0 && d.median <= Q8_TOLERANCE * d.deviation, what, "beyond the tolerance");

    snprintf(other, sizeof other, "%s/config5", m->work);
    rc = copy_with_config5(m, other);
    if (rc == 0) rc = shell(NULL, "%s logits '%s' --tokens %s --kv f32 --out '%s'", m->quern, m->folder, ids, file);
    struct str one = slurp(&a, file);
    if (rc == 0) rc = shell(NULL, "%s logits '%s' --tokens %s --kv f32 --out '%s'", m->quern, other, ids, file);
    snprintf(what, sizeof what, "%s: the same logits with transformers 5's config.json", m->name);
    report(rc == 0 && one.n > 0 && str_eq(one, slurp(&a, file)), what, "other bytes");
    arena_fini(&a);
}

static void check_greedy(const struct model *m, const char *path, const char *kind, size_t seq)
{
    struct arena a = {0};
    struct err e;
    const struct json *s = &json_find(m->reference, "sequences")->v[seq];
    const struct json *want = json_find(s, "greedy"), *margin = json_find(s, "greedy_margin");
    char ids[4096], file[512], what[256], detail[256] = "";
    join_ids(json_find(s, "ids"), ids, sizeof ids);
    snprintf(file, sizeof file, "%s/tokens.txt", m->work);
    int rc = shell(file, "%s run '%s' --tokens %s --temp 0 -n %zu --kv f32 --ignore-eos --print-tokens", m->quern, path, ids,
                   want->n);
    struct str text = slurp(&a, file);
    struct buf array = {0};
    struct json *got = NULL;
    bool ok = rc == 0 && buf_c(&array, '[') == 0 && buf_str(&array, text) == 0 && buf_c(&array, ']') == 0 &&
              json_parse(&a, buf_view(&array), "tokens", &got, &e) == 0 && got->n == want->n;
    if (!ok) snprintf(detail, sizeof detail, "quern run printed: %.*s", STR_ARG(text));
    size_t i = 0;
    for (; ok && i < want->n; i++) {
        if (margin->v[i].f < MARGIN && got->v[i].i != want->v[i].i) break; /* a near tie: what follows may differ */
        if (got->v[i].i == want->v[i].i) continue;
        ok = false;
        snprintf(detail, sizeof detail, "token %zu is %lld, expected %lld", i, (long long)got->v[i].i, (long long)want->v[i].i);
    }
    snprintf(what, sizeof what, "%s %s sequence %zu: greedy continuation (%zu of %zu tokens compared)", m->name, kind, seq, i,
             want->n);
    report(ok, what, detail);
    buf_fini(&array);
    arena_fini(&a);
}

/* ---- vectors and scores ------------------------------------------------------------------------------------------------ */

/* What `quern embed` or `quern rerank` prints as JSON; NULL where it fails. */
static const struct json *ask(const struct model *m, struct arena *a, const char *command, struct str *printed)
{
    struct json *got = NULL;
    struct err e;
    char file[512];
    snprintf(file, sizeof file, "%s/answer.json", m->work);
    if (shell(file, "%s %s --json", m->quern, command) != 0) return NULL;
    *printed = slurp(a, file);
    return json_parse(a, *printed, "the answer", &got, &e) == 0 ? got : NULL;
}

/* Whether the command prints the same with all threads and levels. */
static void check_same(const struct model *m, const char *command, const char *kind)
{
    struct arena a = {0};
    struct str first = {0}, now = {0};
    bool same = true;
    char what[256];
    for (unsigned l = 0; cpu_level(l); l++)
        for (unsigned threads = 1; threads <= 2; threads++) {
            char with[MAX_SHELL];
            snprintf(with, sizeof with, "%s --cpu %s --threads %u", command, cpu_level(l), threads);
            same = ask(m, &a, with, &now) != NULL && (first.n == 0 || str_eq(first, now)) && same;
            first = now;
        }
    snprintf(what, sizeof what, "%s %s: the same numbers for every thread count and level", m->name, kind);
    report(same, what, "other numbers");
    arena_fini(&a);
}

/* rounded: of quantised weights, for which cosines are enough. */
static void check_vectors(const struct model *m, const char *path, const char *kind, bool rounded)
{
    struct arena a = {0};
    const struct json *all = json_find(m->reference, "sequences"), *embeddings = json_find(m->reference, "embeddings");
    const size_t n = (size_t)json_find(embeddings, "shape")->v[1].i;
    char file[512], what[256], command[MAX_SHELL] = "";
    snprintf(file, sizeof file, "%s/%.*s", m->folder, STR_ARG(json_find(embeddings, "file")->s));
    const struct str want = slurp(&a, file);
    double worst = want.n == all->n * n * 4 ? 0 : INFINITY, cosine = 1;
    for (size_t i = 0; i < all->n && worst < INFINITY; i++) {
        char ids[4096];
        struct str printed;
        join_ids(json_find(&all->v[i], "ids"), ids, sizeof ids);
        snprintf(command, sizeof command, "embed '%s' --tokens %s", path, ids);
        const struct json *got = ask(m, &a, command, &printed);
        if (!got || got->n != n) worst = INFINITY;
        double sum = 0;
        for (size_t k = 0; k < n && worst < INFINITY; k++) {
            float r;
            memcpy(&r, want.p + 4 * (i * n + k), 4);
            worst = fmax(worst, fabs((double)r - got->v[k].f));
            sum += (double)r * got->v[k].f;
        }
        cosine = fmin(cosine, sum);
    }
    snprintf(what, sizeof what, "%s %s: vectors of the reference (error %.1e, cosine %.6f)", m->name, kind, worst, cosine);
    report(worst < INFINITY && (rounded ? cosine >= VECTOR_Q8_COSINE : worst <= VECTOR_TOLERANCE), what,
           "beyond the tolerance");
    if (!rounded) check_same(m, command, kind);
    arena_fini(&a);
}

static void check_pairs(const struct model *m, const char *path, const char *kind)
{
    struct arena a = {0};
    const struct json *pairs = json_find(m->reference, "pairs");
    double worst = pairs->n ? 0 : INFINITY;
    char what[256], command[MAX_SHELL] = "";
    for (size_t i = 0; i < pairs->n && worst < INFINITY; i++) {
        const struct json *p = &pairs->v[i];
        struct str printed;
        const struct str query = json_find(p, "query")->s, document = json_find(p, "document")->s;
        snprintf(command, sizeof command, "rerank '%s' --query '%.*s' --document '%.*s'", path, (int)query.n, query.p,
                 (int)document.n, document.p);
        const struct json *got = json_find(ask(m, &a, command, &printed), "results");
        const struct json *score = got && got->n == 1 ? json_find(&got->v[0], "relevance_score") : NULL;
        worst = score ? fmax(worst, fabs(score->f - json_find(p, "logit")->f)) : INFINITY;
    }
    snprintf(what, sizeof what, "%s %s: scores of the reference (error %.1e)", m->name, kind, worst);
    report(worst <= VECTOR_TOLERANCE, what, "beyond the tolerance");
    check_same(m, command, kind);
    arena_fini(&a);
}

static void check_encoder(const struct model *m, const char *gguf)
{
    char what[256], other[512];
    const bool ranks = json_find(m->reference, "pairs") != NULL;
    snprintf(other, sizeof other, "%s/config5", m->work);
    report(copy_with_config5(m, other) == 0, m->name, "no folder with config.transformers5.json");
    const struct {
        const char *path, *kind;
    } files[] = {{m->folder, "folder"}, {gguf, "gguf"}, {other, "folder of transformers 5"}};
    for (size_t i = 0; i < COUNT_OF(files); i++)
        if (ranks)
            check_pairs(m, files[i].path, files[i].kind);
        else
            check_vectors(m, files[i].path, files[i].kind, false);
    if (ranks) return;
    snprintf(what, sizeof what, "%s: quern convert --type q8_0", m->name);
    report(shell(NULL, "%s convert '%s' '%s' --type q8_0", m->quern, m->folder, gguf) == 0, what, "failed");
    check_vectors(m, gguf, "q8_0", true);
}

static void check_model(const struct model *m)
{
    char gguf[512], what[256];
    snprintf(gguf, sizeof gguf, "%s/%s.gguf", m->work, m->name);
    snprintf(what, sizeof what, "%s: quern convert", m->name);
    report(shell(NULL, "%s convert '%s' '%s'", m->quern, m->folder, gguf) == 0, what, "failed");
    const struct json *sequences = json_find(m->reference, "sequences");
    const bool writes = sequences && json_find(&sequences->v[0], "logits");
    for (size_t seq = 0; writes && seq < sequences->n; seq++) {
        check_logits(m, m->folder, "folder", seq);
        check_logits(m, gguf, "gguf", seq);
        check_greedy(m, m->folder, "folder", seq);
        check_greedy(m, gguf, "gguf", seq);
    }
    if (writes)
        check_variants(m, gguf);
    else
        check_encoder(m, gguf);
    unlink(gguf);
}

int main(int argc, char **argv)
{
    if (argc < 5) return fprintf(stderr, "usage: test_conformance QUERN FOLDER WORK NAME...\n"), 2;
    for (int i = 4; i < argc; i++) {
        struct arena a = {0};
        struct err e;
        struct json *reference = NULL;
        char folder[512], path[600];
        snprintf(folder, sizeof folder, "%s/%s", argv[2], argv[i]);
        snprintf(path, sizeof path, "%s/reference.json", folder);
        if (json_parse(&a, slurp(&a, path), path, &reference, &e) < 0) {
            report(false, argv[i], e.msg);
        } else {
            struct model m = {.quern = argv[1], .name = argv[i], .folder = folder, .work = argv[3], .reference = reference};
            check_model(&m);
        }
        arena_fini(&a);
    }
    printf("1..%u\n", n_tests);
    return n_failed != 0;
}
