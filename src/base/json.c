/* json: RFC 8259, strict. One scanner, json_next, walks the text without allocating and without recursion: which containers are
 * open is a bit set of JSON_DEPTH_MAX levels. json_parse runs it twice, once to count the elements of each container
 * and once to fill arrays of exactly that size, so a tree costs its nodes and nothing more.
 *
 * Strings are checked here (escapes, control characters, UTF-8), so that json_unescape cannot fail later. */
#include "base/base_int.h"

/* ---- pull reader ---- */

enum { /* what the grammar allows next */
       WANT_VALUE,
       WANT_VALUE_OR_END, /* just behind [ */
       WANT_KEY,
       WANT_KEY_OR_END, /* just behind { */
       WANT_COLON_VALUE,
       WANT_COMMA_OR_END,
       FINISHED,
       BROKEN
};

_Static_assert(JSON_DEPTH_MAX == 64, "is_object has one bit per level");

void json_cursor_init(struct json_cursor *c, struct str text, const char *name, struct err *e)
{
    *c = (struct json_cursor){.text = text, .name = name, .state = WANT_VALUE, .e = e};
}

static enum json_event broken(struct json_cursor *c, size_t pos, const char *what)
{
    size_t line = 1, start = 0;
    for (size_t i = 0; i < pos && i < c->text.n; i++) {
        if (c->text.p[i] != '\n') continue;
        line++;
        start = i + 1;
    }
    c->state = BROKEN;
    fail(c->e, ERR_FORMAT, "%s: line %zu, column %zu: %s", c->name, line, pos - start + 1, what);
    return JSON_EV_ERROR;
}

static enum json_event expected(struct json_cursor *c, const char *what)
{
    char msg[80] = "expected ";
    size_t n = strlen(msg), len = strlen(what);
    memcpy(msg + n, what, len + 1);
    memcpy(msg + n + len, c->pos >= c->text.n ? ", found the end" : "", c->pos >= c->text.n ? 16 : 1);
    return broken(c, c->pos, msg);
}

/* The next byte that is not white space, or -1. */
static int peek(struct json_cursor *c)
{
    for (; c->pos < c->text.n; c->pos++) {
        char ch = c->text.p[c->pos];
        if (ch != ' ' && ch != '\n' && ch != '\r' && ch != '\t') return (uint8_t)ch;
    }
    return -1;
}

static int hex_value(char ch)
{
    if (ch >= '0' && ch <= '9') return ch - '0';
    if (ch >= 'a' && ch <= 'f') return ch - 'a' + 10;
    if (ch >= 'A' && ch <= 'F') return ch - 'A' + 10;
    return -1;
}

/* Length of the escape at s (which starts with a backslash), or 0. */
static size_t escape_len(struct str s)
{
    if (s.n < 2) return 0;
    if (memchr("\"\\/bfnrt", s.p[1], 8)) return 2;
    if (s.p[1] != 'u' || s.n < 6) return 0;
    for (size_t i = 2; i < 6; i++)
        if (hex_value(s.p[i]) < 0) return 0;
    return 6;
}

/* The opening quote is at pos. Sets raw and escaped, and goes behind the closing quote. */
static bool scan_string(struct json_cursor *c)
{
    size_t i = c->pos + 1, start = i;
    const char *p = c->text.p;
    c->escaped = false;
    while (i < c->text.n) {
        uint8_t ch = (uint8_t)p[i];
        if (ch == '"') {
            c->raw = (struct str){p + start, i - start};
            c->pos = i + 1;
            return true;
        }
        uint32_t cp;
        size_t len = 1;
        if (ch < 0x20) return broken(c, i, "control character in a string") != JSON_EV_ERROR;
        if (ch == '\\') {
            c->escaped = true;
            len = escape_len((struct str){p + i, c->text.n - i});
            if (len == 0) return broken(c, i, "invalid escape in a string") != JSON_EV_ERROR;
        } else if (ch >= 0x80) {
            len = utf8_decode((struct str){p + i, c->text.n - i}, &cp);
            if (len == 0) return broken(c, i, "a string is not valid UTF-8") != JSON_EV_ERROR;
        }
        i += len;
    }
    return broken(c, c->pos, "the string that starts here does not end") != JSON_EV_ERROR;
}

static size_t digits_from(struct str s, size_t i)
{
    size_t start = i;
    while (i < s.n && s.p[i] >= '0' && s.p[i] <= '9') i++;
    return i - start;
}

static bool scan_number(struct json_cursor *c)
{
    struct str s = c->text;
    size_t i = c->pos;
    if (s.p[i] == '-') i++;
    size_t n = digits_from(s, i);
    bool ok = n > 0 && (n == 1 || s.p[i] != '0');
    i += n;
    if (ok && i < s.n && s.p[i] == '.') {
        n = digits_from(s, i + 1);
        ok = n > 0;
        i += 1 + n;
    }
    if (ok && i < s.n && (s.p[i] == 'e' || s.p[i] == 'E')) {
        i++;
        if (i < s.n && (s.p[i] == '+' || s.p[i] == '-')) i++;
        n = digits_from(s, i);
        ok = n > 0;
        i += n;
    }
    if (!ok) return broken(c, c->pos, "malformed number") != JSON_EV_ERROR;
    c->raw = (struct str){s.p + c->pos, i - c->pos};
    c->pos = i;
    return true;
}

static enum json_event open_container(struct json_cursor *c, bool object)
{
    if (c->depth == JSON_DEPTH_MAX) return broken(c, c->pos, "nested more than 64 levels deep");
    uint64_t bit = (uint64_t)1 << c->depth++;
    c->is_object = object ? c->is_object | bit : c->is_object & ~bit;
    c->state = object ? WANT_KEY_OR_END : WANT_VALUE_OR_END;
    c->pos++;
    return object ? JSON_EV_OBJECT : JSON_EV_ARRAY;
}

static void value_done(struct json_cursor *c)
{
    c->state = c->depth ? WANT_COMMA_OR_END : FINISHED;
}

static bool in_object(const struct json_cursor *c)
{
    return c->depth && (c->is_object >> (c->depth - 1) & 1);
}

static enum json_event close_container(struct json_cursor *c)
{
    bool object = in_object(c);
    c->depth--;
    c->pos++;
    value_done(c);
    return object ? JSON_EV_OBJECT_END : JSON_EV_ARRAY_END;
}

static enum json_event scan_word(struct json_cursor *c)
{
    static const struct {
        struct str word;
        enum json_event ev;
        bool boolean;
    } words[] = {
        {{"null", 4}, JSON_EV_NULL, false},
        {{"true", 4}, JSON_EV_BOOL, true},
        {{"false", 5}, JSON_EV_BOOL, false},
    };
    struct str rest = {c->text.p + c->pos, c->text.n - c->pos};
    for (size_t i = 0; i < COUNT_OF(words); i++) {
        if (!str_starts(rest, words[i].word)) continue;
        c->pos += words[i].word.n;
        c->boolean = words[i].boolean;
        value_done(c);
        return words[i].ev;
    }
    return expected(c, "a value");
}

static enum json_event read_value(struct json_cursor *c, int ch)
{
    if (ch == '{' || ch == '[') return open_container(c, ch == '{');
    if (ch == '"') {
        if (!scan_string(c)) return JSON_EV_ERROR;
        value_done(c);
        return JSON_EV_STRING;
    }
    if (ch == '-' || (ch >= '0' && ch <= '9')) {
        if (!scan_number(c)) return JSON_EV_ERROR;
        value_done(c);
        return JSON_EV_NUMBER;
    }
    return ch < 0 ? expected(c, "a value") : scan_word(c);
}

static enum json_event read_key(struct json_cursor *c, int ch)
{
    if (ch != '"') return expected(c, "a quoted key");
    if (!scan_string(c)) return JSON_EV_ERROR;
    c->state = WANT_COLON_VALUE;
    return JSON_EV_KEY;
}

enum json_event json_next(struct json_cursor *c)
{
    if (c->state == BROKEN) return JSON_EV_ERROR;
    int ch = peek(c);
    if (c->state == FINISHED) return ch < 0 ? JSON_EV_END : broken(c, c->pos, "text behind the end of the value");
    if (c->state == WANT_COMMA_OR_END) {
        bool object = in_object(c);
        if (ch == (object ? '}' : ']')) return close_container(c);
        if (ch != ',') return expected(c, object ? "',' or '}'" : "',' or ']'");
        c->pos++;
        ch = peek(c);
        c->state = object ? WANT_KEY : WANT_VALUE;
    }
    if (c->state == WANT_COLON_VALUE) {
        if (ch != ':') return expected(c, "':'");
        c->pos++;
        ch = peek(c);
    }
    if (c->state == WANT_VALUE_OR_END && ch == ']') return close_container(c);
    if (c->state == WANT_KEY_OR_END && ch == '}') return close_container(c);
    if (c->state == WANT_KEY || c->state == WANT_KEY_OR_END) return read_key(c, ch);
    return read_value(c, ch);
}

bool json_skip(struct json_cursor *c, enum json_event ev)
{
    if (ev == JSON_EV_KEY) ev = json_next(c);
    if (ev != JSON_EV_ARRAY && ev != JSON_EV_OBJECT) return ev != JSON_EV_ERROR;
    for (unsigned outer = c->depth - 1; c->depth > outer;)
        if (json_next(c) == JSON_EV_ERROR) return false;
    return true;
}

/* The code unit of \uXXXX at s[at..], or -1 where there is none. */
static int32_t code_unit(struct str s, size_t at)
{
    if (s.n - at < 6 || s.p[at] != '\\' || s.p[at + 1] != 'u') return -1;
    int32_t v = 0;
    for (size_t i = at + 2; i < at + 6; i++) {
        int h = hex_value(s.p[i]);
        if (h < 0) return -1;
        v = v << 4 | h;
    }
    return v;
}

size_t json_unescape(struct str raw, char *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    size_t w = 0;
    for (size_t i = 0; i < raw.n;) {
        if (raw.p[i] != '\\' || raw.n - i < 2) {
            out[w++] = raw.p[i++];
            continue;
        }
        int32_t u = code_unit(raw, i);
        if (u < 0) {
            const char *hit = memchr(from, raw.p[i + 1], sizeof from - 1);
            out[w++] = hit ? to[hit - from] : raw.p[i + 1];
            i += 2;
            continue;
        }
        i += 6;
        uint32_t cp = (uint32_t)u;
        int32_t low = u >= 0xd800 && u < 0xdc00 && i < raw.n ? code_unit(raw, i) : -1;
        if (low >= 0xdc00 && low < 0xe000) {
            cp = 0x10000 + ((cp - 0xd800) << 10) + ((uint32_t)low - 0xdc00);
            i += 6;
        }
        char utf8[4];
        size_t len = utf8_encode(cp, utf8); /* a surrogate on its own gives U+FFFD */
        memcpy(out + w, utf8, len);
        w += len;
    }
    return w;
}

/* ---- tree ---- */

/* Appends the number of elements of every container of text to counts, in the order in which they open. */
static int count_elements(struct json_cursor *c, struct buf *counts)
{
    size_t open[JSON_DEPTH_MAX]; /* index into counts of each open container */
    for (;;) {
        unsigned depth = c->depth;
        enum json_event ev = json_next(c);
        if (ev == JSON_EV_ERROR) return ERR_FORMAT;
        if (ev == JSON_EV_END) return 0;
        if (ev == JSON_EV_KEY || ev == JSON_EV_ARRAY_END || ev == JSON_EV_OBJECT_END) continue;
        if (depth) ((size_t *)(void *)counts->p)[open[depth - 1]]++;
        if (ev != JSON_EV_ARRAY && ev != JSON_EV_OBJECT) continue;
        open[depth] = counts->n / sizeof(size_t);
        size_t zero = 0;
        int rc = buf_put(counts, &zero, sizeof zero);
        if (rc < 0) return fail_nomem(c->e, c->name, counts->n);
    }
}

/* The text of the string or key just read: in place where it has no escapes. */
static bool take_text(struct json_cursor *c, struct arena *a, struct str *out)
{
    *out = c->raw;
    if (!c->escaped) return true;
    char *p = arena_alloc(a, c->raw.n);
    if (!p) return false;
    *out = (struct str){p, json_unescape(c->raw, p)};
    return true;
}

static int take_number(struct json_cursor *c, struct json *j)
{
    j->s = c->raw;
    if (str_i64(c->raw, &j->i)) {
        j->type = JSON_INT;
        j->f = (double)j->i;
        return 0;
    }
    j->type = JSON_REAL;
    if (str_f64(c->raw, &j->f)) return 0;
    broken(c, c->pos - c->raw.n, "number out of the range of a double");
    return ERR_FORMAT;
}

static int fill(struct json_cursor *c, struct arena *a, const size_t *counts, struct json *root)
{
    struct json *open[JSON_DEPTH_MAX];
    for (;;) {
        unsigned depth = c->depth;
        enum json_event ev = json_next(c);
        if (ev == JSON_EV_ERROR) return ERR_FORMAT;
        if (ev == JSON_EV_END) return 0;
        if (ev == JSON_EV_ARRAY_END || ev == JSON_EV_OBJECT_END) continue;
        struct json *up = depth ? open[depth - 1] : NULL;
        bool ok = true;
        if (ev == JSON_EV_KEY) {
            ok = take_text(c, a, &up->keys[up->n]);
            if (!ok) return fail_nomem(c->e, c->name, c->raw.n);
            continue;
        }
        struct json *j = up ? &up->v[up->n++] : root;
        size_t n = 0;
        switch (ev) {
        case JSON_EV_BOOL:
            j->type = c->boolean ? JSON_TRUE : JSON_FALSE;
            break;
        case JSON_EV_NUMBER:
            TRY(take_number(c, j));
            break;
        case JSON_EV_STRING:
            j->type = JSON_STRING;
            ok = take_text(c, a, &j->s);
            break;
        case JSON_EV_ARRAY:
        case JSON_EV_OBJECT:
            j->type = ev == JSON_EV_ARRAY ? JSON_ARRAY : JSON_OBJECT;
            n = *counts++;
            open[depth] = j;
            if (n) ok = (j->v = arena_array(a, n, sizeof *j->v)) != NULL;
            if (ok && n && ev == JSON_EV_OBJECT) ok = (j->keys = arena_array(a, n, sizeof *j->keys)) != NULL;
            break;
        default:
            j->type = JSON_NULL;
            break;
        }
        if (!ok) return fail_nomem(c->e, c->name, n ? n * sizeof *j : c->raw.n);
    }
}

int json_parse(struct arena *a, struct str text, const char *name, struct json **out, struct err *e)
{
    struct json_cursor c;
    struct buf counts = {0};
    *out = NULL;
    json_cursor_init(&c, text, name, e);
    int rc = count_elements(&c, &counts);
    if (rc == 0) {
        struct json *root = arena_alloc(a, sizeof *root);
        json_cursor_init(&c, text, name, e);
        rc = root ? fill(&c, a, (const size_t *)(void *)counts.p, root) : fail_nomem(e, name, sizeof *root);
        if (rc == 0) *out = root;
    }
    buf_fini(&counts);
    return rc;
}

const struct json *json_find_str(const struct json *j, struct str key)
{
    if (!j || j->type != JSON_OBJECT) return NULL;
    for (size_t i = j->n; i-- > 0;)
        if (str_eq(j->keys[i], key)) return &j->v[i];
    return NULL;
}

const struct json *json_find(const struct json *j, const char *key)
{
    return json_find_str(j, str_of(key));
}

/* The member, or NULL where it is missing or null and the default stays. */
static const struct json *optional(const struct json *j, const char *key)
{
    const struct json *v = json_find(j, key);
    return v && v->type != JSON_NULL ? v : NULL;
}

bool json_opt_i64(const struct json *j, const char *key, int64_t min, int64_t max, int64_t *io)
{
    const struct json *v = optional(j, key);
    if (!v) return true;
    if (v->type != JSON_INT || v->i < min || v->i > max) return false;
    *io = v->i;
    return true;
}

bool json_opt_f64(const struct json *j, const char *key, double min, double max, double *io)
{
    const struct json *v = optional(j, key);
    if (!v) return true;
    if ((v->type != JSON_INT && v->type != JSON_REAL) || v->f < min || v->f > max) return false;
    *io = v->f;
    return true;
}

bool json_opt_bool(const struct json *j, const char *key, bool *io)
{
    const struct json *v = optional(j, key);
    if (!v) return true;
    if (v->type != JSON_TRUE && v->type != JSON_FALSE) return false;
    *io = v->type == JSON_TRUE;
    return true;
}

bool json_opt_str(const struct json *j, const char *key, struct str *io)
{
    const struct json *v = optional(j, key);
    if (!v) return true;
    if (v->type != JSON_STRING) return false;
    *io = v->s;
    return true;
}

/* ---- writer ---- */

static int write_escape(struct buf *b, uint8_t ch)
{
    static const char hex[] = "0123456789abcdef";
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *hit = memchr(from, ch, sizeof from - 1);
    if (hit) return buf_put(b, (char[]){'\\', to[hit - from]}, 2);
    return buf_put(b, (char[]){'\\', 'u', '0', '0', hex[ch >> 4], hex[ch & 15]}, 6);
}

int json_write_string(struct buf *b, struct str s)
{
    TRY(buf_c(b, '"'));
    size_t done = 0; /* bytes before this one are in b */
    for (size_t i = 0; i < s.n;) {
        uint8_t ch = (uint8_t)s.p[i];
        uint32_t cp;
        size_t len = utf8_decode((struct str){s.p + i, s.n - i}, &cp);
        if (len && ch >= 0x20 && ch != '"' && ch != '\\') {
            i += len;
            continue;
        }
        TRY(buf_put(b, s.p + done, i - done));
        TRY(len ? write_escape(b, ch) : buf_z(b, "\xef\xbf\xbd"));
        done = ++i;
    }
    if (s.n > done) TRY(buf_put(b, s.p + done, s.n - done));
    return buf_c(b, '"');
}

static int write_number(struct buf *b, const struct json *j)
{
    if (j->s.n) return buf_str(b, j->s);
    if (j->type == JSON_INT) return buf_printf(b, "%lld", (long long)j->i);
    char text[F64_TEXT_MAX];
    size_t n = f64_text(j->f, text);
    bool finite = j->f - j->f == 0;
    return finite ? buf_put(b, text, n) : buf_z(b, "null"); /* JSON has no infinity */
}

static int write_leaf(struct buf *b, const struct json *j)
{
    switch (j->type) {
    case JSON_INT:
    case JSON_REAL:
        return write_number(b, j);
    case JSON_STRING:
        return json_write_string(b, j->s);
    case JSON_ARRAY:
        return buf_z(b, "[]");
    case JSON_OBJECT:
        return buf_z(b, "{}");
    default:
        return buf_z(b, j->type == JSON_TRUE ? "true" : j->type == JSON_FALSE ? "false" : "null");
    }
}

int json_write(struct buf *b, const struct json *j)
{
    struct {
        const struct json *j;
        size_t i; /* elements written */
    } open[JSON_DEPTH_MAX];
    unsigned depth = 0;
    for (;;) {
        bool container = (j->type == JSON_ARRAY || j->type == JSON_OBJECT) && j->n;
        if (container) {
            if (depth == JSON_DEPTH_MAX) return ERR_LIMIT;
            TRY(buf_c(b, j->type == JSON_ARRAY ? '[' : '{'));
            open[depth].j = j;
            open[depth++].i = 0;
        } else {
            TRY(write_leaf(b, j));
        }
        while (depth && open[depth - 1].i == open[depth - 1].j->n)
            TRY(buf_c(b, open[--depth].j->type == JSON_ARRAY ? ']' : '}'));
        if (!depth) return 0;
        const struct json *up = open[depth - 1].j;
        size_t i = open[depth - 1].i++;
        if (i) TRY(buf_c(b, ','));
        if (up->type == JSON_OBJECT) {
            TRY(json_write_string(b, up->keys[i]));
            TRY(buf_c(b, ':'));
        }
        j = &up->v[i];
    }
}
