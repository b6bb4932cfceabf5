/* quern: one program, one command per file. This file lists the commands and picks one. */
#include "cli.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

extern const struct command command_run, command_serve, command_show, command_doctor, command_tokenize, command_detokenize,
    command_render, command_logits, command_perplexity, command_bench, command_embed, command_rerank, command_convert,
    command_quantize, command_imatrix, command_completion;

const struct command *const commands[] = {
    &command_run,
    &command_serve,
    &command_show,
    &command_doctor,
    &command_tokenize,
    &command_detokenize,
    &command_render,
    &command_logits,
    &command_perplexity,
    &command_bench,
    &command_embed,
    &command_rerank,
    &command_convert,
    &command_quantize,
    &command_imatrix,
    &command_completion,
    NULL,
};

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; commands[i]; i++) {
        if (strcmp(commands[i]->name, name) == 0) return commands[i];
    }
    return NULL;
}

static void print_help(FILE *to)
{
    fprintf(to, "usage: quern COMMAND [options]\n\nRuns open-weight language models on this machine.\n\nCommands:\n");
    for (size_t i = 0; commands[i]; i++) {
        if (!commands[i]->hidden) fprintf(to, "  %-12s %s\n", commands[i]->name, commands[i]->summary);
    }
    fprintf(to, "\n'quern COMMAND --help' tells more about one; 'quern run' starts a chat with the demo model.\n"
                "'quern --version' prints the version.\n");
}

static int unknown_command(const char *name)
{
    struct suggestion s = {.word = str_of(name)};
    for (size_t i = 0; commands[i]; i++) suggest(&s, str_of(commands[i]->name));
    suggest(&s, STR("help"));
    if (s.best.n > 0) return cli_usage(NULL, "there is no command '%.100s'; did you mean '%.*s'?", name, STR_ARG(s.best));
    return cli_usage(NULL, "there is no command '%.100s'", name);
}

static int help(int argc, char **argv)
{
    if (argc == 0) {
        print_help(stdout);
        return CLI_OK;
    }
    const struct command *c = find_command(argv[0]);
    if (!c) return unknown_command(argv[0]);
    args_help(c);
    return CLI_OK;
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return CLI_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) return help(argc - 2, argv + 2);
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        printf("quern %s\n", quern_version());
        return CLI_OK;
    }
    const struct command *c = find_command(name);
    return c ? c->run(c, argc - 2, argv + 2) : unknown_command(name);
}

/* A page of a mapped file is gone: somebody made the file shorter, or the disk failed. There is nothing to go on with. */
static void on_lost_page(int sig)
{
    static const char text[] = "quern: a model file became shorter or unreadable while it was in use\n";
    (void)sig;
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0) _exit(1);
    _exit(1);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    signal(SIGBUS, on_lost_page);
    signal(SIGXFSZ, SIG_IGN); /* a file limit becomes a failed write, with its message */
    return cli_finish(dispatch(argc, argv));
}
