/* line_input: the lines that a person types into the chat. With libedit they are edited, earlier ones come back with the arrow
 * keys, and several lines that are pasted are one; without it they are read as the terminal gives them. What was typed is kept
 * for the next chat in $XDG_STATE_HOME/quern/history, readable by its owner only, one line each. The caller has made sure that
 * Ctrl-C makes a read return early (cli_interrupt_catch). */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef HAVE_LIBEDIT
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <wchar.h>
#endif

#define HISTORY_LINES 1000              /* recalled with the arrow keys */
#define HISTORY_BYTES ((size_t)1 << 20) /* of the file; beyond, only its last lines are kept */
#define LINE_BYTES ((size_t)16 << 20)
#define HISTORY_BREAK '\r' /* stands in the file for the line breaks of what was pasted; nothing that is typed has one */

struct line_input {
    bool remember;
    char history_path[PATH_MAX]; /* empty: none */
    struct buf line;
    const char *prompt;
#ifdef HAVE_LIBEDIT
    EditLine *editor;
    History *history;
    FILE *pastes; /* the terminal that marks what is pasted; NULL: none does */
#endif
};

static void replace_all(char *p, size_t n, char old, char new)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] == old) p[i] = new;
}

/* ---- the history file -------------------------------------------------------------------------------------- */

/* Where the history lies; leaves path empty where the system names no place, and the chat then has no memory. */
static void find_history(char path[PATH_MAX])
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int n = -1;
    if (state && state[0] == '/') {
        n = snprintf(path, PATH_MAX, "%s/quern/history", state);
    } else if (home && home[0] == '/') {
        n = snprintf(path, PATH_MAX, "%s/.local/state/quern/history", home);
    }
    if (n < 0 || n >= PATH_MAX) path[0] = '\0';
}

static void append_history(char *path, struct str line)
{
    if (!cli_make_folders(path)) return;
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) return;
    struct buf text = {0};
    if (buf_str(&text, line) == 0 && buf_c(&text, '\n') == 0) {
        replace_all(text.p, line.n, '\n', HISTORY_BREAK);
        /* One write, so that lines of two chats do not mix. A line that cannot be kept is no reason to stop the chat. */
        ssize_t n = write(fd, text.p, text.n);
        (void)n;
    }
    buf_fini(&text);
    close(fd);
}

/* The last HISTORY_LINES lines of text. */
static struct str last_lines(struct str text)
{
    size_t i = text.n, lines = 0;
    while (i > 0) {
        if (text.p[i - 1] == '\n' && i < text.n && ++lines == HISTORY_LINES) break;
        i--;
    }
    return (struct str){text.p + i, text.n - i};
}

/* Cuts a history that has grown too large to its last lines. */
static void shorten_history(const char *path)
{
    struct map map;
    struct out *out = NULL;
    if (vfs_map(path, &map, NULL) < 0) return;
    if (map.n > HISTORY_BYTES && out_open(path, &out, NULL) == 0) {
        struct str text = last_lines((struct str){(const char *)map.p, map.n});
        if (out_write(out, text.p, text.n, NULL) == 0 && out_commit(&out, NULL) == 0) chmod(path, 0600);
    }
    out_abort(&out);
    vfs_unmap(&map);
}

/* ---- reading ------------------------------------------------------------------------------------------------------ */

/* The terminal's own line, byte by byte; the newline is taken off. */
static enum line_result read_plain(struct line_input *in, struct str *line)
{
    fputs(in->prompt, stdout);
    fflush(stdout);
    in->line.n = 0;
    in->line.limit = LINE_BYTES;
    for (;;) {
        errno = 0;
        int c = getc(stdin);
        if (c == EOF) {
            bool cut = errno == EINTR || cli_interrupted();
            clearerr(stdin);
            if (cut) return LINE_INTERRUPTED;
            if (in->line.n == 0) return LINE_END;
            break;
        }
        if (c == '\n') break;
        if (buf_c(&in->line, (char)c) < 0) return LINE_END;
    }
    *line = buf_view(&in->line);
    return LINE_OK;
}

#ifdef HAVE_LIBEDIT

static char *give_prompt(EditLine *editor)
{
    struct line_input *in = NULL;
    el_get(editor, EL_CLIENTDATA, &in);
    return (char *)(uintptr_t)in->prompt;
}

static void recall(struct line_input *in, struct str line)
{
    HistEvent event;
    char *z = mem_alloc(line.n + 1);
    if (!z) return;
    memcpy(z, line.p, line.n);
    z[line.n] = '\0';
    replace_all(z, line.n, HISTORY_BREAK, '\n');
    history(in->history, &event, H_ENTER, z);
    mem_free(z);
}

static void load_history(struct line_input *in)
{
    struct map map;
    if (vfs_map(in->history_path, &map, NULL) < 0) return;
    struct str rest = last_lines((struct str){(const char *)map.p, map.n});
    while (rest.n > 0) {
        const char *nl = memchr(rest.p, '\n', rest.n);
        size_t n = nl ? (size_t)(nl - rest.p) : rest.n;
        if (n > 0) recall(in, (struct str){rest.p, n});
        n += nl != NULL;
        rest.p += n;
        rest.n -= n;
    }
    vfs_unmap(&map);
}

/* The editor goes by the locale, and where that knows no UTF-8 it would swallow every letter beyond ASCII. */
static void want_utf8(void)
{
    static const char *const locales[] = {"", "C.UTF-8", "en_US.UTF-8"};
    for (size_t i = 0; i < COUNT_OF(locales); i++) {
        if (setlocale(LC_CTYPE, locales[i]) && strcmp(nl_langinfo(CODESET), "UTF-8") == 0) return;
    }
}

/* ---- pasting: a terminal that is asked to puts marks around what is pasted, so that its line breaks send nothing ---- */

#define PASTE_ASK "\033[?2004h"
#define PASTE_LEAVE "\033[?2004l"
#define PASTE_BEGIN "\033[200~"
#define PASTE_END L"\033[201~"

static int add_pasted(struct buf *text, wchar_t c)
{
    if (c == L'\0') return 0; /* would end what is inserted */
    return buf_put(text, &c, sizeof c);
}

static bool take_paste_end(struct buf *text)
{
    const size_t n = sizeof PASTE_END - sizeof(wchar_t);
    if (text->n < n || memcmp(text->p + text->n - n, PASTE_END, n) != 0) return false;
    text->n -= n;
    return true;
}

/* Called when the mark of a beginning has been read. What is too long is read to its end all the same, for the rest would be
 * taken as typed. */
static unsigned char on_paste(EditLine *editor, int key)
{
    struct buf text = {.limit = LINE_BYTES}; /* of wchar_t */
    bool ended = false, whole = true;
    wchar_t c;
    (void)key;
    while (!ended && el_wgetc(editor, &c) == 1) {
        if (add_pasted(&text, c) < 0) whole = false, text.n = 0;
        ended = take_paste_end(&text);
    }
    const wchar_t end = L'\0';
    if (whole && text.n) {
        whole = buf_put(&text, &end, sizeof end) == 0 && el_winsertstr(editor, (const wchar_t *)(const void *)text.p) == 0;
    }
    buf_fini(&text);
    return !ended ? CC_EOF : whole ? CC_REFRESH : CC_ERROR;
}

/* vi's keys begin with the character that marks do, so there they stay off. */
static void open_pastes(struct line_input *in, FILE *screen)
{
    const char *keys = NULL;
    if (el_get(in->editor, EL_EDITOR, &keys) < 0 || strcmp(keys, "emacs") != 0) return;
    if (el_set(in->editor, EL_ADDFN, "quern-paste", "Insert what is pasted", on_paste) < 0) return;
    if (el_set(in->editor, EL_BIND, PASTE_BEGIN, "quern-paste", NULL) < 0) return;
    in->pastes = screen;
    (void)fputs(PASTE_ASK, screen);
}

static void open_editor(struct line_input *in)
{
    if (!isatty(STDIN_FILENO)) return;
    want_utf8();
    HistEvent event;
    in->history = history_init();
    /* The prompt and the echo must not go into a file that takes the answers. */
    FILE *screen = isatty(STDOUT_FILENO) ? stdout : stderr;
    in->editor = in->history ? el_init("quern", stdin, screen, stderr) : NULL;
    if (!in->editor) return;
    history(in->history, &event, H_SETSIZE, HISTORY_LINES);
    history(in->history, &event, H_SETUNIQUE, 1);
    el_set(in->editor, EL_CLIENTDATA, in);
    el_set(in->editor, EL_PROMPT, give_prompt);
    el_set(in->editor, EL_EDITOR, "emacs");
    el_set(in->editor, EL_HIST, history, in->history);
    el_set(in->editor, EL_SIGNAL, 0);
    el_set(in->editor, EL_BIND, "^R", "em-inc-search-prev", NULL);
    el_source(in->editor, NULL);
    open_pastes(in, screen);
}

static enum line_result read_edited(struct line_input *in, struct str *line)
{
    int n = 0;
    el_resize(in->editor);
    const char *text = el_gets(in->editor, &n);
    if (!text || n <= 0) {
        if (!cli_interrupted()) return LINE_END;
        el_reset(in->editor);
        return LINE_INTERRUPTED;
    }
    size_t length = (size_t)n;
    while (length > 0 && text[length - 1] == '\n') length--; /* of the line, and of what was pasted at its end */
    *line = (struct str){text, length};
    return LINE_OK;
}

static void close_editor(struct line_input *in)
{
    if (in->pastes) (void)fputs(PASTE_LEAVE, in->pastes);
    if (in->editor) el_end(in->editor);
    if (in->history) history_end(in->history);
}

#endif

int line_input_new(bool remember, struct line_input **out, struct err *e)
{
    struct line_input *in = mem_zalloc(sizeof *in);
    if (!in) return fail_nomem(e, "line input", sizeof *in);
    in->remember = remember;
    find_history(in->history_path);
    if (remember && in->history_path[0]) shorten_history(in->history_path);
#ifdef HAVE_LIBEDIT
    open_editor(in);
    if (in->editor && remember && in->history_path[0]) load_history(in);
#endif
    *out = in;
    return 0;
}

void line_input_free(struct line_input **in)
{
    if (!*in) return;
#ifdef HAVE_LIBEDIT
    close_editor(*in);
#endif
    buf_fini(&(*in)->line);
    mem_free(*in);
    *in = NULL;
}

void line_input_remember(struct line_input *in, bool on)
{
    in->remember = on;
}

enum line_result line_input_read(struct line_input *in, const char *prompt, struct str *line)
{
    in->prompt = prompt;
#ifdef HAVE_LIBEDIT
    enum line_result result = in->editor ? read_edited(in, line) : read_plain(in, line);
    if (result == LINE_OK && line->n > 0 && in->editor) recall(in, *line);
#else
    enum line_result result = read_plain(in, line);
#endif
    if (result == LINE_OK && line->n > 0 && in->remember && in->history_path[0]) append_history(in->history_path, *line);
    return result;
}
