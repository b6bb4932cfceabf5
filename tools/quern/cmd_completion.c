/* quern completion SHELL: the completions for bash, zsh and fish, printed from the tables that the parser reads. The build
 * installs what this prints; it is not in the list of commands. */
#include "cli.h"

static const struct opt_group no_groups[] = {{0}};

/* What a value is completed with: names of files, or the choices of the option. */
static bool takes_file(const struct opt *o)
{
    static const char *const files[] = {"MODEL", "FILE", "F.json"};
    for (size_t i = 0; o->arg && i < COUNT_OF(files); i++) {
        if (strcmp(o->arg, files[i]) == 0) return true;
    }
    return false;
}

/* Inside single quotes of a shell. */
static int put_quoted(struct buf *b, const char *text)
{
    for (; *text; text++) TRY(*text == '\'' ? buf_z(b, "'\\''") : buf_c(b, *text));
    return 0;
}

/* ---- bash ---------------------------------------------------------------------------------------------------- */

static int put_bash_command(struct buf *b, const struct command *c)
{
    TRY(buf_printf(b, "    %s)\n        case $prev in\n", c->name));
    for (const struct opt_group *g = c->groups; g->opts; g++) {
        for (const struct opt *o = g->opts; o->names; o++) {
            struct str rest = str_of(o->names), word;
            if (!o->arg) continue;
            TRY(buf_z(b, "        "));
            for (bool first = true; word_next(&rest, &word); first = false) {
                TRY(buf_printf(b, "%s%.*s", first ? "" : "|", STR_ARG(word)));
            }
            if (o->choices) {
                TRY(buf_printf(b, ") COMPREPLY=($(compgen -W '%s' -- \"$cur\")); return;;\n", o->choices));
            } else {
                TRY(buf_z(b, takes_file(o) ? ") COMPREPLY=($(compgen -f -- \"$cur\")); return;;\n" : ") return;;\n"));
            }
        }
    }
    TRY(buf_z(b, "        esac\n        words='--help"));
    for (const struct opt_group *g = c->groups; g->opts; g++) {
        for (const struct opt *o = g->opts; o->names; o++) TRY(buf_printf(b, " %s", o->names));
    }
    return buf_z(b, "';;\n");
}

static int put_bash(struct buf *b)
{
    TRY(buf_z(b, "# bash completion for quern, printed by 'quern completion bash'\n"
                 "_quern()\n"
                 "{\n"
                 "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=\n"
                 "    compopt -o filenames 2>/dev/null\n"
                 "    if [ \"$COMP_CWORD\" -eq 1 ] || [ \"$prev\" = help ]; then\n"
                 "        COMPREPLY=($(compgen -W '"));
    for (size_t i = 0; commands[i]; i++) {
        if (!commands[i]->hidden) TRY(buf_printf(b, "%s ", commands[i]->name));
    }
    TRY(buf_z(b, "help --help --version' -- \"$cur\"))\n"
                 "        return\n"
                 "    fi\n"
                 "    case ${COMP_WORDS[1]} in\n"));
    for (size_t i = 0; commands[i]; i++) {
        if (!commands[i]->hidden) TRY(put_bash_command(b, commands[i]));
    }
    return buf_z(b, "    esac\n"
                    "    case $cur in\n"
                    "    -*) COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"));;\n"
                    "    *) COMPREPLY=($(compgen -f -- \"$cur\"));;\n"
                    "    esac\n"
                    "}\n"
                    "complete -F _quern quern\n");
}

/* ---- zsh --------------------------------------------------------------------------------------------------------- */

/* Inside the brackets of an _arguments specification. */
static int put_zsh_text(struct buf *b, const char *text)
{
    char one[2] = "";
    for (; *text; text++) {
        one[0] = *text;
        if (strchr("[]:\\", *text)) TRY(buf_c(b, '\\'));
        TRY(put_quoted(b, one));
    }
    return 0;
}

static int put_zsh_option(struct buf *b, const struct opt *o)
{
    struct str rest = str_of(o->names), word;
    while (word_next(&rest, &word)) {
        TRY(buf_printf(b, " \\\n            '%s%.*s[", o->kind == OPT_LIST ? "*" : "", STR_ARG(word)));
        TRY(put_zsh_text(b, o->help));
        TRY(buf_c(b, ']'));
        if (o->arg) TRY(buf_printf(b, "%s:%s:", o->otherwise ? ":" : "", o->arg));
        if (o->choices) TRY(buf_printf(b, "(%s)", o->choices));
        if (o->arg && takes_file(o)) TRY(buf_z(b, "_files"));
        TRY(buf_c(b, '\''));
    }
    return 0;
}

static int put_zsh(struct buf *b)
{
    TRY(buf_z(b, "#compdef quern\n# zsh completion for quern, printed by 'quern completion zsh'\n_quern()\n{\n"
                 "    local -a names=(\n"));
    for (size_t i = 0; commands[i]; i++) {
        if (commands[i]->hidden) continue;
        TRY(buf_printf(b, "        '%s:", commands[i]->name));
        TRY(put_zsh_text(b, commands[i]->summary));
        TRY(buf_z(b, "'\n"));
    }
    TRY(buf_z(b, "    )\n    if (( CURRENT == 2 )); then\n        _describe command names\n        return\n    fi\n"
                 "    local name=$words[2]\n    shift words\n    (( CURRENT-- ))\n    case $name in\n"));
    for (size_t i = 0; commands[i]; i++) {
        if (commands[i]->hidden) continue;
        TRY(buf_printf(b, "    %s)\n        _arguments '--help[print help]'", commands[i]->name));
        for (const struct opt_group *g = commands[i]->groups; g->opts; g++) {
            for (const struct opt *o = g->opts; o->names; o++) TRY(put_zsh_option(b, o));
        }
        TRY(buf_z(b, " \\\n            '*:file:_files';;\n"));
    }
    return buf_z(b, "    esac\n}\n_quern \"$@\"\n");
}

/* ---- fish ---------------------------------------------------------------------------------------------------------- */

/* -c is short, -ngl "old", --ctx-size long in fish's words. */
static int put_fish_option(struct buf *b, const struct command *c, const struct opt *o)
{
    struct str rest = str_of(o->names), word;
    TRY(buf_printf(b, "complete -c quern -n '__fish_seen_subcommand_from %s'", c->name));
    while (word_next(&rest, &word)) {
        bool is_long = str_starts(word, STR("--"));
        const char *kind = is_long ? "-l" : word.n == 2 ? "-s" : "-o";
        size_t dashes = is_long ? 2 : 1;
        TRY(buf_printf(b, " %s %.*s", kind, (int)(word.n - dashes), word.p + dashes));
    }
    if (o->arg) TRY(buf_z(b, takes_file(o) ? " -r" : o->otherwise ? "" : " -x"));
    if (o->choices) TRY(buf_printf(b, " -a '%s'", o->choices));
    TRY(buf_z(b, " -d '"));
    TRY(put_quoted(b, o->help));
    return buf_z(b, "'\n");
}

static int put_fish(struct buf *b)
{
    TRY(buf_z(b, "# fish completion for quern, printed by 'quern completion fish'\n"));
    for (size_t i = 0; commands[i]; i++) {
        const struct command *c = commands[i];
        if (c->hidden) continue;
        TRY(buf_printf(b, "complete -c quern -n __fish_use_subcommand -f -a %s -d '", c->name));
        TRY(put_quoted(b, c->summary));
        TRY(buf_z(b, "'\n"));
        for (const struct opt_group *g = c->groups; g->opts; g++) {
            for (const struct opt *o = g->opts; o->names; o++) TRY(put_fish_option(b, c, o));
        }
    }
    return 0;
}

static const struct shell {
    const char *name;
    int (*put)(struct buf *b);
} shells[] = {{"bash", put_bash}, {"zsh", put_zsh}, {"fish", put_fish}};

static int run(const struct command *c, int argc, char **argv)
{
    struct words words;
    int exit_code;
    if (!args_parse(c, NULL, argc, argv, &words, &exit_code)) return exit_code;
    for (size_t i = 0; i < COUNT_OF(shells); i++) {
        if (strcmp(words.p[0], shells[i].name) != 0) continue;
        struct buf out = {0};
        int rc = shells[i].put(&out);
        return cli_print(&out, rc);
    }
    return cli_usage(c, "no completion for '%.100s'; there is one for bash, zsh and fish", words.p[0]);
}

const struct command command_completion = {
    .name = "completion",
    .usage = "bash|zsh|fish",
    .summary = "the completion file for a shell",
    .text = "Prints the file that makes a shell complete the commands and options of quern.\n",
    .groups = no_groups,
    .min_words = 1,
    .max_words = 1,
    .hidden = true,
    .run = run,
};
