/* chat: a whole chat program on libquern. Reads lines from standard input, streams each answer, keeps the conversation.
 * Usage: chat MODEL. The session keeps what it computed for the conversation so far, so only the new line is read. */
#include <quern.h>

#include <stdio.h>
#include <string.h>

static char history[1 << 20] = "["; /* the conversation as a JSON array, its closing bracket left out */
static char answer[1 << 16];

static void append(char *text, size_t size, const char *more)
{
    size_t used = strlen(text);
    snprintf(text + used, size - used, "%s", more);
}

static void add_message(const char *role, const char *content)
{
    char piece[64];
    snprintf(piece, sizeof piece, "%s{\"role\":\"%s\",\"content\":\"", history[1] ? "," : "", role);
    append(history, sizeof history, piece);
    for (const unsigned char *p = (const unsigned char *)content; *p; p++) {
        snprintf(piece, sizeof piece, *p < 0x20 || *p == '"' || *p == '\\' ? "\\u%04x" : "%c", *p);
        append(history, sizeof history, piece);
    }
    append(history, sizeof history, "\"}");
}

static int print(void *user, const char *text, size_t length)
{
    (void)user;
    size_t used = strlen(answer);
    if (used + length < sizeof answer) memcpy(answer + used, text, length);
    fwrite(text, 1, length, stdout);
    return fflush(stdout);
}

static int fail(const quern_error *err)
{
    fprintf(stderr, "chat: %s\n", err->message);
    return 1;
}

int main(int argc, char **argv)
{
    quern_model *model;
    quern_session *session;
    quern_error err;
    char line[4096];
    const quern_generate_options options = {.on_text = print};
    if (argc != 2) return fprintf(stderr, "usage: chat MODEL\n"), 2;
    if (quern_model_open(argv[1], NULL, &model, &err) < 0) return fail(&err);
    if (quern_session_new(model, NULL, &session, &err) < 0) return fail(&err);
    while (fputs("> ", stderr), fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = '\0';
        add_message("user", line);
        append(history, sizeof history, "]");
        memset(answer, 0, sizeof answer);
        if (quern_chat(session, history, &options, NULL, &err) < 0) return fail(&err);
        puts("");
        history[strlen(history) - 1] = '\0';
        add_message("assistant", answer);
    }
    quern_session_free(&session);
    quern_model_close(&model);
    return 0;
}
