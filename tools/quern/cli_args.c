/* cli_args: the option parser and --help, both driven by the tables of the commands.
 *
 * It takes options as users of other tools type them: "-n 24", "-n24", "--predict 24", "--predict=24", "-ngl 0". Words and
 * options may stand in any order; "--" ends the options. The words are gathered at the front of argv. */
#include "cli.h"

#include <stdio.h>
#include <strings.h>

bool word_next(struct str *rest, struct str *word)
{
    while (rest->n > 0 && *rest->p == ' ') rest->p++, rest->n--;
    if (rest->n == 0) return false;
    size_t n = 0;
    while (n < rest->n && rest->p[n] != ' ') n++;
    *word = (struct str){rest->p, n};
    rest->p += n;
    rest->n -= n;
    return true;
}

static bool words_have(const char *words, struct str wanted)
{
    struct str rest = str_of(words), word;
    while (word_next(&rest, &word)) {
        if (word.n == wanted.n && strncasecmp(word.p, wanted.p, word.n) == 0) return true;
    }
    return false;
}

/* ---- suggestions ------------------------------------------------------------------------------------- */

#define SUGGEST_MAX 40 /* longer words get no suggestion */

/* Number of single-character insertions, deletions, replacements and swaps of neighbours that make b of a. */
static unsigned edit_distance(struct str a, struct str b)
{
    unsigned rows[3][SUGGEST_MAX + 1];
    for (unsigned j = 0; j <= b.n; j++) rows[0][j] = j;
    for (size_t i = 1; i <= a.n; i++) {
        unsigned *row = rows[i % 3], *above = rows[(i + 2) % 3], *second_above = rows[(i + 1) % 3];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= b.n; j++) {
            unsigned d = above[j - 1] + (a.p[i - 1] != b.p[j - 1]);
            if (above[j] + 1 < d) d = above[j] + 1;
            if (row[j - 1] + 1 < d) d = row[j - 1] + 1;
            bool swapped = i > 1 && j > 1 && a.p[i - 1] == b.p[j - 2] && a.p[i - 2] == b.p[j - 1];
            if (swapped && second_above[j - 2] + 1 < d) d = second_above[j - 2] + 1;
            row[j] = d;
        }
    }
    return rows[a.n % 3][b.n];
}

void suggest(struct suggestion *s, struct str candidate)
{
    if (s->word.n > SUGGEST_MAX || candidate.n > SUGGEST_MAX) return;
    unsigned d = edit_distance(s->word, candidate);
    bool near = d <= 1 + s->word.n / 4 && d < candidate.n;
    if (!near || (s->best.n > 0 && d >= s->distance)) return;
    s->best = candidate;
    s->distance = d;
}

/* ---- values -------------------------------------------------------------------------------------------------- */

static int assign_int(const struct opt *o, struct str name, struct str value, int64_t *out, struct err *e)
{
    int64_t v;
    bool ok = str_i64(value, &v) && (double)v >= o->min && (double)v <= o->max;
    if (!ok) {
        return fail(e, ERR_ARG, "%.*s must be a whole number from %.0f to %.0f, not '%.*s'", STR_ARG(name), o->min, o->max,
                    STR_ARG(value));
    }
    *out = v;
    return 0;
}

#define MAX_THREADS 512

static int assign_threads(struct str name, struct str value, int64_t *out, struct err *e)
{
    int64_t v;
    if (!str_i64(value, &v) || v < -1 || v == 0 || v > MAX_THREADS) {
        return fail(e, ERR_ARG, "%.*s must be a whole number from 1 to %d, or -1 for all cores, not '%.*s'", STR_ARG(name),
                    MAX_THREADS, STR_ARG(value));
    }
    *out = v < 0 ? 0 : v;
    return 0;
}

static int assign_size(struct str name, struct str value, int64_t *out, struct err *e)
{
    uint64_t v;
    if (!read_size(value, &v))
        return fail(e, ERR_ARG, "%.*s takes a size as 4G, 0.5GiB or 600M, not '%.*s'", STR_ARG(name), STR_ARG(value));
    *out = (int64_t)v;
    return 0;
}

static int assign_real(const struct opt *o, struct str name, struct str value, double *out, struct err *e)
{
    double v;
    bool ok = str_f64(value, &v) && v >= o->min && v <= o->max;
    if (!ok) {
        return fail(e, ERR_ARG, "%.*s must be a number from %g to %g, not '%.*s'", STR_ARG(name), o->min, o->max,
                    STR_ARG(value));
    }
    *out = v;
    return 0;
}

static bool is_number(struct str value)
{
    uint64_t v;
    return str_u64(value, &v);
}

int args_assign(const struct opt *o, void *base, struct str name, const char *value, struct err *e)
{
    void *member = (char *)base + o->offset;
    switch (o->kind) {
    case OPT_FLAG:
        *(bool *)member = true;
        return 0;
    case OPT_INT:
        return assign_int(o, name, str_of(value), member, e);
    case OPT_THREADS:
        return assign_threads(name, str_of(value), member, e);
    case OPT_SIZE:
        return assign_size(name, str_of(value), member, e);
    case OPT_REAL:
        return assign_real(o, name, str_of(value), member, e);
    case OPT_CHOICE:
        if (!words_have(o->choices, str_of(value)) && !(o->numbers && is_number(str_of(value)))) {
            return fail(e, ERR_ARG, "%.*s must be one of: %s; not '%.100s'", STR_ARG(name), o->choices, value);
        }
        for (char *p = (char *)value; *p; p++)
            if (*p >= 'A' && *p <= 'Z') *p = (char)(*p | 0x20); /* choices are lower case, and so is what commands see */
        *(const char **)member = value;
        return 0;
    case OPT_LIST: {
        struct opt_list *list = member;
        if (list->n == OPT_LIST_MAX) {
            return fail(e, ERR_ARG, "%.*s may be given at most %d times", STR_ARG(name), OPT_LIST_MAX);
        }
        list->p[list->n++] = value;
        return 0;
    }
    case OPT_TEXT:
        break;
    }
    *(const char **)member = value;
    return 0;
}

const struct opt *args_find(const struct opt *opts, struct str name)
{
    for (const struct opt *o = opts; o->names; o++) {
        if (words_have(o->names, name)) return o;
    }
    return NULL;
}

/* ---- the command line ------------------------------------------------------------------------------------------- */

struct found {
    const struct opt *opt;
    void *base;
};

static bool find_option(const struct command *c, void *args, struct str name, struct found *out)
{
    for (const struct opt_group *g = c->groups; g->opts; g++) {
        for (const struct opt *o = g->opts; o->names; o++) {
            if (!words_have(o->names, name)) continue;
            *out = (struct found){o, (char *)args + g->offset};
            return true;
        }
    }
    return false;
}

static int unknown_option(const struct command *c, struct str name)
{
    struct suggestion s = {.word = name};
    for (const struct opt_group *g = c->groups; g->opts; g++) {
        for (const struct opt *o = g->opts; o->names; o++) {
            struct str rest = str_of(o->names), word;
            while (word_next(&rest, &word)) suggest(&s, word);
        }
    }
    suggest(&s, STR("--help"));
    if (s.best.n > 0) return cli_usage(c, "unknown option %.*s; did you mean %.*s?", STR_ARG(name), STR_ARG(s.best));
    return cli_usage(c, "unknown option %.*s", STR_ARG(name));
}

/* Splits "--name=value" and "-n24"; *value stays NULL where the argument holds none. */
static struct str split_option(const char *arg, const char **value)
{
    struct str name = str_of(arg);
    const char *equals = memchr(arg, '=', name.n);
    if (equals) {
        *value = equals + 1;
        name.n = (size_t)(equals - arg);
        return name;
    }
    if (arg[1] == '-') return name;
    for (size_t i = 2; i < name.n; i++) {
        if (arg[i] >= '0' && arg[i] <= '9') {
            *value = arg + i;
            name.n = i;
            break;
        }
    }
    return name;
}

/* Reads the option at argv[*i] and its value; false with *exit_code set when it is wrong. */
static bool take_option(const struct command *c, void *args, int argc, char **argv, int *i, int *exit_code)
{
    const char *value = NULL;
    struct str name = str_of(argv[*i]);
    struct found f;
    if (!find_option(c, args, name, &f)) {
        name = split_option(argv[*i], &value);
        if (!find_option(c, args, name, &f)) {
            *exit_code = unknown_option(c, name);
            return false;
        }
    }
    const struct opt *o = f.opt;
    if (o->kind == OPT_FLAG && value) {
        *exit_code = cli_usage(c, "%.*s takes no value", STR_ARG(name));
        return false;
    }
    if (o->otherwise && !value && (*i + 1 >= argc || !words_have(o->choices, str_of(argv[*i + 1])))) value = o->otherwise;
    if (o->kind != OPT_FLAG && !value) {
        if (*i + 1 >= argc) {
            *exit_code = cli_usage(c, "%.*s needs a value: %s", STR_ARG(name), o->arg);
            return false;
        }
        value = argv[++*i];
    }
    struct err e = {0};
    if (args_assign(o, f.base, name, value, &e) < 0) {
        *exit_code = cli_usage(c, "%s", e.msg);
        return false;
    }
    return true;
}

bool args_parse(const struct command *c, void *args, int argc, char **argv, struct words *words, int *exit_code)
{
    bool options = true;
    *words = (struct words){argv, 0};
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i];
        if (options && strcmp(arg, "--") == 0) {
            options = false;
        } else if (!options || arg[0] != '-' || arg[1] == '\0') {
            words->p[words->n++] = argv[i];
        } else if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            args_help(c);
            *exit_code = CLI_OK;
            return false;
        } else if (!take_option(c, args, argc, argv, &i, exit_code)) {
            return false;
        }
    }
    if (words->n < c->min_words) {
        *exit_code = cli_usage(c, "something is missing: quern %s %s", c->name, c->usage);
        return false;
    }
    if (words->n > c->max_words) {
        *exit_code = cli_usage(c, "unexpected argument '%.100s'", words->p[c->max_words]);
        return false;
    }
    return true;
}

/* ---- --help ------------------------------------------------------------------------------------------------------------ */

#define HELP_WIDTH 80
#define HELP_COLUMN 30 /* where the explanation of an option begins */

/* Prints text in lines of HELP_WIDTH; the cursor stands at column, later lines begin at indent. */
static void print_wrapped(struct str text, size_t column, size_t indent)
{
    struct str word;
    bool first = true;
    while (word_next(&text, &word)) {
        if (!first && column + 1 + word.n > HELP_WIDTH) {
            printf("\n%*s", (int)indent, "");
            column = indent;
            first = true;
        }
        printf("%s%.*s", first ? "" : " ", (int)word.n, word.p);
        column += word.n + !first;
        first = false;
    }
    printf("\n");
}

static void print_option(const struct opt *o)
{
    size_t column = (size_t)printf("  ");
    struct str rest = str_of(o->names), word;
    for (bool first = true; word_next(&rest, &word); first = false) {
        column += (size_t)printf("%s%.*s", first ? "" : ", ", (int)word.n, word.p);
    }
    if (o->arg) column += (size_t)printf(o->otherwise ? " [%s]" : " %s", o->arg);
    if (column + 2 > HELP_COLUMN) {
        printf("\n");
        column = 0;
    }
    printf("%*s", (int)(HELP_COLUMN - column), "");
    print_wrapped(str_of(o->help), HELP_COLUMN, HELP_COLUMN);
}

void args_help(const struct command *c)
{
    printf("usage: quern %s %s%s[options]\n\n", c->name, c->usage, *c->usage ? " " : "");
    struct str text = str_of(c->text);
    while (text.n > 0) {
        const char *nl = memchr(text.p, '\n', text.n);
        size_t n = nl ? (size_t)(nl - text.p) : text.n;
        if (text.p[0] == ' ') {
            printf("%.*s\n", (int)n, text.p);
        } else {
            print_wrapped((struct str){text.p, n}, 0, 0);
        }
        n += nl != NULL;
        text.p += n;
        text.n -= n;
    }
    for (const struct opt_group *g = c->groups; g->opts; g++) {
        printf("\n%s:\n", g->title);
        for (const struct opt *o = g->opts; o->names; o++) print_option(o);
    }
}
