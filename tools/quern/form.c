/* form: the options that say which form an answer must have. */
#include "cli.h"

#define FORM(member) .offset = offsetof(struct form_args, member)

const struct opt form_opts[] = {
    {"-j --json-schema", "SCHEMA", "the answer is JSON that satisfies SCHEMA; {} for any JSON", .kind = OPT_TEXT, FORM(schema)},
    {"-jf --json-schema-file", "FILE", "the same, from a file", .kind = OPT_TEXT, FORM(schema_file)},
    {"--grammar", "TEXT", "the answer follows the grammar TEXT, in GBNF", .kind = OPT_TEXT, FORM(grammar)},
    {"--grammar-file", "FILE", "the same, from a file", .kind = OPT_TEXT, FORM(grammar_file)},
    {"--regex", "TEXT", "the whole answer matches the regular expression TEXT", .kind = OPT_TEXT, FORM(regex)},
    {0},
};

int form_make(const struct command *c, const struct form_args *args, struct form *out)
{
    const struct {
        const char *text, *file;
        quern_form_kind kind;
    } given[] = {{args->schema, args->schema_file, QUERN_FORM_SCHEMA},
                 {args->grammar, args->grammar_file, QUERN_FORM_GBNF},
                 {args->regex, NULL, QUERN_FORM_REGEX}};
    unsigned n = 0;
    struct err e = {0};
    quern_error qe = {0};
    for (size_t i = 0; i < COUNT_OF(given); i++) {
        n += given[i].text ? 1 : 0;
        n += given[i].file ? 1 : 0;
        if (n > 1) return cli_usage(c, "an answer has one form: give one of -j, -jf, --grammar, --grammar-file, --regex");
        if (!given[i].text && !given[i].file) continue;
        out->form = (quern_form){.kind = given[i].kind, .text = given[i].text};
        if (given[i].text) continue;
        if (cli_read_file(given[i].file, &out->text, &e) < 0) return cli_fail("%s", e.msg);
        if (buf_c(&out->text, 0) < 0) return cli_fail("out of memory");
    }
    if (out->text.p) out->form.text = out->text.p;
    return quern_form_check(&out->form, &qe) < 0 ? cli_fail("%s", qe.message) : CLI_OK;
}
