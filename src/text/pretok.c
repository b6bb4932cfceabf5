/* Pre-tokenizers: where a text may be cut into words before merging.
 *
 * A pre-tokenizer is a row of stages. A stage takes a piece, looks for matches in it, and gives out smaller pieces (or rewrites
 * the piece). The stages run as a chain of iterators: the last one is asked for a word and asks the one before when it has none
 * left, so nothing is stored per word and 16 MiB of text take as much memory as one line.
 *
 * Matches are found by
 *  - scan_gpt, a scanner written by hand for the patterns of GPT-2, Llama 3 and Qwen 2. It gives what the regular expression
 *    gives (a unit test compares them), in one pass and without a stack whatever the text is;
 *  - classes of characters and fixed strings;
 *  - PCRE2 for every other expression of a tokenizer.json and of the named pre-tokenizers of GGUF, with limits: a match that
 * needs more than a fixed multiple of its text is an error, never another cut. PCRE2's start optimizations stay off: they look
 * far ahead of a match for a character that it must end with, and the JIT's read beyond the text in whole vectors. Expressions
 * are written for Oniguruma, where ^ and $ match at line ends; hence PCRE2_MULTILINE. */
#include "text/text_int.h"

/* ---- patterns with a scanner ------------------------------------------------------------------------------ */

#define RE_GPT2_HEAD "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"
#define RE_GPT2 RE_GPT2_HEAD "|\\s+"
#define RE_TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define RE_LLAMA3 "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}" RE_TAIL
#define RE_QWEN2 "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" RE_TAIL

static const struct {
    const char *regex;
    struct gpt_pattern pattern;
} gpt_patterns[] = {
    {RE_GPT2, {.icase = false}},
    {RE_LLAMA3, {.icase = true, .any_lead = true, .digits = 3, .newlines = true}},
    {RE_QWEN2, {.icase = true, .any_lead = true, .digits = 1, .newlines = true}},
};

static const uint8_t ascii_class[128] = {
    ['A' ... 'Z'] = U_LETTER, ['a' ... 'z'] = U_LETTER, ['0' ... '9'] = U_NUMBER, ['\t' ... '\r'] = U_SPACE, [' '] = U_SPACE,
};

/* Class and length of the character at offset i < s.n of valid text. */
static inline enum uclass class_at(struct str s, size_t i, size_t *n)
{
    unsigned char b = (unsigned char)s.p[i];
    if (b < 0x80) {
        *n = 1;
        return ascii_class[b];
    }
    uint32_t cp;
    *n = utf8_next(s.p + i, &cp);
    return uclass_of(cp);
}

/* End of the run of class c from offset i, of at most max characters. */
static inline size_t class_run(struct str s, size_t i, enum uclass c, size_t max)
{
    size_t n;
    for (; i < s.n && max && class_at(s, i, &n) == c; i += n) max--;
    return i;
}

/* Length of 's 't 're 've 'm 'll 'd at the start of s (which has a quote there), else 0. Without regard to case,
 * the long s (U+017F) is an s too. */
static size_t contraction(struct str s, bool icase)
{
    if (s.n < 2) return 0;
    unsigned fold = icase ? 0x20 : 0;
    unsigned a = (unsigned char)s.p[1] | fold, b = s.n > 2 ? (unsigned char)s.p[2] | fold : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
    return icase && s.n > 2 && memcmp(s.p + 1, "\xC5\xBF", 2) == 0 ? 3 : 0;
}

static inline bool is_line_end(char c)
{
    return c == '\r' || c == '\n';
}

/* The run of white space at the start of s: up to its last line end if those count; all of it at the end of the text; else
 * all but its last character, which belongs to what follows; a single one is a piece of its own. */
static size_t scan_spaces(const struct gpt_pattern *g, struct str s)
{
    size_t i = 0, n, last = 0, line_end = 0;
    while (i < s.n && class_at(s, i, &n) == U_SPACE) {
        if (is_line_end(s.p[i])) line_end = i + 1;
        last = i;
        i += n;
    }
    if (g->newlines && line_end) return line_end;
    return i == s.n || last == 0 ? i : last;
}

static size_t scan_punct(const struct gpt_pattern *g, struct str s, size_t i)
{
    i = class_run(s, i, U_OTHER, SIZE_MAX);
    if (g->newlines)
        while (i < s.n && is_line_end(s.p[i])) i++;
    return i;
}

/* Length of the match at the start of s, which is not empty. There always is one: each class has an alternative. */
static size_t scan_gpt(const struct gpt_pattern *g, struct str s)
{
    size_t n, n2;
    if (s.p[0] == '\'' && (n = contraction(s, g->icase)) != 0) return n;
    enum uclass c = class_at(s, 0, &n);
    if (c == U_LETTER) return class_run(s, n, U_LETTER, SIZE_MAX);
    if (n < s.n) {
        enum uclass c2 = class_at(s, n, &n2);
        bool space = s.p[0] == ' ';
        bool lead = g->any_lead ? c != U_NUMBER && !is_line_end(s.p[0]) : space;
        if (c2 == U_LETTER && lead) return class_run(s, n, U_LETTER, SIZE_MAX);
        if (c2 == U_NUMBER && space && g->digits == 0) return class_run(s, n, U_NUMBER, SIZE_MAX);
        if (c2 == U_OTHER && space) return scan_punct(g, s, n);
    }
    if (c == U_NUMBER) return class_run(s, n, U_NUMBER, g->digits ? g->digits - 1 : SIZE_MAX);
    if (c == U_OTHER) return scan_punct(g, s, n);
    return scan_spaces(g, s);
}

/* ---- named pre-tokenizers of GGUF ------------------------------------------------------------------------- */

/* The classes of DeepSeek-LLM: cased letters as its tokenizer.json lists them; punctuation; Chinese, Korean and others. */
#define RE_CASED                                                                                                         \
    "[A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}"    \
    "\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}"       \
    "\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}"         \
    "\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}" \
    "\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}"  \
    "\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}"  \
    "\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}"  \
    "\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}"   \
    "\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}"   \
    "\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}"  \
    "\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}" \
    "\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}"          \
    "\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}]+"
#define RE_DEEPSEEK_PUNCT "\\s?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+"
#define RE_DEEPSEEK_CJK "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+"
#define RE_NUMBER "\\p{N}"
#define RE_NUMBERS "\\p{N}+"

#define RE_CONTRACTION "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define RE_SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define RE_QWEN35 RE_CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" RE_SPACES
/* A word that changes from upper to lower case at most once: capitals may lack, or small letters may. */
#define RE_UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define RE_LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define RE_LEAD "[^\\r\\n\\p{L}\\p{N}]?"
#define RE_CASE_WORD(tail) RE_LEAD RE_UPPER "*" RE_LOWER "+" tail "|" RE_LEAD RE_UPPER "+" RE_LOWER "*" tail
#define RE_GPT4O RE_CASE_WORD(RE_CONTRACTION "?") "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" RE_SPACES
#define RE_TEKKEN RE_CASE_WORD("") "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" RE_SPACES
#define RE_DEEPSEEK3                                                                                    \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+" \
    "| ?[\\p{P}\\p{S}]+[\\r\\n]*|" RE_SPACES
#define RE_BAILING                                                                                                   \
    "'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" \
    "|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"
#define RE_SEED_CODER RE_CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|" RE_SPACES
/* As published: the parentheses and the bar are members of the set. */
#define RE_BLOOM " ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{FF0C}\\x{3001}\\x{964}\\x{6D4}\\x{60C})]+"

/* Each expression isolates its matches in the pieces that the one before left. The first row that fits gives the name when
 * a tokenizer.json is converted. */
static const struct pre_row {
    const char *names[10];
    const char *regex[7];
    bool ignore_merges, add_bos;
    bool nfc; /* the model's own tokenizer.json normalizes so */
} pre_rows[] = {
    {.names = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"},
     .regex = {RE_LLAMA3},
     .ignore_merges = true,
     .add_bos = true},
    {.names = {"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "a.x-4.0", "mellum"},
     .regex = {RE_GPT2}},
    {.names = {"qwen2"}, .regex = {RE_QWEN2}, .nfc = true},
    {.names = {"deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez", "grok-2", "solar-open"}, .regex = {RE_QWEN2}},
    {.names = {"qwen35"}, .regex = {RE_QWEN35}, .nfc = true},
    {.names = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"},
     .regex = {RE_NUMBER, RE_GPT2}},
    {.names = {"dbrx", "smaug-bpe", "glm4", "chatglm-bpe"}, .regex = {RE_LLAMA3}},
    {.names = {"gpt-4o", "llama4", "minimax-m2"}, .regex = {RE_GPT4O}},
    {.names = {"tekken"}, .regex = {RE_TEKKEN}, .ignore_merges = true, .add_bos = true},
    {.names = {"default"}, .regex = {"[\\p{P}\\$\\+<=>\\^~\\|]+", RE_GPT2_HEAD, RE_NUMBERS, "[0-9][0-9][0-9]"}},
    {.names = {"falcon"}, .regex = {"[\\p{P}\\$\\+<=>\\^~\\|`]+", RE_GPT2_HEAD, "[0-9][0-9][0-9]"}},
    {.names = {"deepseek-llm"},
     .regex = {"[\\r\\n]", "\\s?" RE_CASED, RE_DEEPSEEK_PUNCT, "\\s+$", RE_DEEPSEEK_CJK, RE_NUMBERS}},
    {.names = {"deepseek-coder"}, .regex = {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", RE_DEEPSEEK_CJK, RE_NUMBER}},
    {.names = {"deepseek-v3", "hunyuan-dense", "joyai-llm"},
     .regex = {"\\p{N}{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+", RE_DEEPSEEK3}},
    {.names = {"bailingmoe", "bailingmoe2", "llada-moe"}, .regex = {RE_BAILING}},
    {.names = {"seed-coder"}, .regex = {RE_SEED_CODER}},
    {.names = {"bloom", "poro-chat", "gpt3-finnish"}, .regex = {RE_BLOOM}},
    {.names = {"viking"}, .regex = {RE_BLOOM, RE_NUMBER}},
};

int pre_add_named(struct tok *t, struct str name, bool *add_bos, struct err *e)
{
    for (size_t i = 0; i < COUNT_OF(pre_rows); i++) {
        const struct pre_row *row = &pre_rows[i];
        for (size_t k = 0; k < COUNT_OF(row->names) && row->names[k]; k++) {
            if (!str_is(name, row->names[k])) continue;
            for (size_t r = 0; r < COUNT_OF(row->regex) && row->regex[r]; r++)
                TRY(pre_add_regex(t, str_of(row->regex[r]), PRE_ISOLATED, e));
            if (row->nfc) norm_add_unicode(t, STR("NFC"));
            t->ignore_merges = row->ignore_merges;
            t->pre_name = row->names[k];
            *add_bos = row->add_bos;
            return 0;
        }
    }
    char known[256];
    size_t n = 0;
    for (size_t i = 0; i < COUNT_OF(pre_rows); i++)
        for (size_t k = 0; k < COUNT_OF(pre_rows[i].names) && pre_rows[i].names[k]; k++) {
            struct str s = str_of(pre_rows[i].names[k]);
            if (n + s.n + 2 > sizeof known) continue;
            if (n) known[n++] = ' ';
            memcpy(known + n, s.p, s.n);
            n += s.n;
        }
    return fail(e, ERR_UNSUPPORTED, "tokenizer.ggml.pre: pre-tokenizer '%.*s' is not supported; known are: %.*s", STR_ARG(name),
                (int)n, known);
}

static bool row_fits(const struct pre_row *row, const struct tok *t)
{
    unsigned forms = 0;
    for (unsigned i = 0; i < t->n_norm; i++) forms += t->norm[i].kind == NORM_UNICODE;
    if (t->n_norm != (row->nfc ? 1u : 0u) || forms != t->n_norm || row->ignore_merges != t->ignore_merges) return false;
    unsigned r = 0;
    for (; r < COUNT_OF(row->regex) && row->regex[r]; r++) {
        if (r >= t->n_pre) return false;
        const struct pre_op *op = &t->pre[r];
        if (op->rewrite || op->behavior != PRE_ISOLATED || !str_is(op->regex, row->regex[r])) return false;
    }
    return r == t->n_pre;
}

const char *pre_name_of(const struct tok *t)
{
    for (size_t i = 0; i < COUNT_OF(pre_rows); i++)
        if (row_fits(&pre_rows[i], t)) return pre_rows[i].names[0];
    return NULL;
}

/* ---- building --------------------------------------------------------------------------------------------- */

static void *pcre_alloc(size_t n, void *ctx)
{
    (void)ctx;
    return mem_alloc(n);
}

static void pcre_release(void *p, void *ctx)
{
    (void)ctx;
    mem_free(p);
}

#define REGEX_BYTES_MAX 16384
#define LITERAL_BYTES_MAX 256 /* bounds the work at one position of the text */

int pre_add(struct tok *t, struct pre_op op, struct err *e)
{
    if (t->n_pre == PRE_MAX) return fail(e, ERR_UNSUPPORTED, "pre_tokenizer: more than %d stages are not supported", PRE_MAX);
    if (op.literal.n > LITERAL_BYTES_MAX)
        return fail(e, ERR_UNSUPPORTED, "pre_tokenizer: a pattern of %zu bytes is not supported (at most %d)", op.literal.n,
                    LITERAL_BYTES_MAX);
    TRY(tok_dup(t, op.literal, &op.literal, e));
    TRY(tok_dup(t, op.regex, &op.regex, e));
    TRY(tok_dup(t, op.space, &op.space, e));
    TRY(tok_dup(t, op.prefix, &op.prefix, e));
    t->pre[t->n_pre++] = op;
    return 0;
}

static int regex_compile(struct str regex, pcre2_code **out, struct err *e)
{
    if (regex.n > REGEX_BYTES_MAX || !utf8_valid(regex))
        return fail(e, ERR_UNSUPPORTED, "pre_tokenizer: a regular expression of %zu bytes; supported are at most %d in UTF-8",
                    regex.n, REGEX_BYTES_MAX);
    pcre2_general_context *g = pcre2_general_context_create(pcre_alloc, pcre_release, NULL);
    pcre2_compile_context *c = g ? pcre2_compile_context_create(g) : NULL;
    int code = 0;
    PCRE2_SIZE at = 0;
    *out = NULL;
    if (c) {
        pcre2_set_newline(c, PCRE2_NEWLINE_LF);
        pcre2_set_parens_nest_limit(c, 64);
        *out = pcre2_compile((PCRE2_SPTR)(regex.n ? regex.p : ""), regex.n,
                             PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_START_OPTIMIZE, &code,
                             &at, c);
        if (*out) pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); /* without JIT it is interpreted: slower, the same matches */
    }
    pcre2_compile_context_free(c);
    pcre2_general_context_free(g);
    if (!c || (!*out && code == PCRE2_ERROR_HEAP_FAILED)) return fail_nomem(e, "regular expression", regex.n);
    if (*out) return 0;
    PCRE2_UCHAR why[128] = {0};
    pcre2_get_error_message(code, why, sizeof why);
    return fail(e, ERR_FORMAT, "pre_tokenizer: regular expression '%.*s': %s at offset %zu", STR_ARG(regex), (const char *)why,
                (size_t)at);
}

int pre_add_regex(struct tok *t, struct str regex, enum pre_behavior behavior, struct err *e)
{
    struct pre_op op = {.find = FIND_REGEX, .behavior = behavior, .regex = regex};
    if (str_is(regex, RE_NUMBER) || str_is(regex, RE_NUMBERS)) {
        op.find = FIND_CLASS;
        op.cls = CLASS_NUMBER;
        op.run = str_is(regex, RE_NUMBERS);
    }
    for (size_t i = 0; i < COUNT_OF(gpt_patterns); i++)
        if (str_is(regex, gpt_patterns[i].regex)) {
            op.find = FIND_GPT;
            op.gpt = &gpt_patterns[i].pattern;
        }
    if (op.find == FIND_REGEX) TRY(regex_compile(regex, &op.code, e));
    int rc = pre_add(t, op, e);
    if (rc < 0) pcre2_code_free(op.code);
    return rc;
}

struct str pre_gpt2_regex(void)
{
    return STR(RE_GPT2);
}

void pre_fini(struct tok *t)
{
    for (unsigned i = 0; i < t->n_pre; i++) pcre2_code_free(t->pre[i].code);
}

/* ---- finding matches -------------------------------------------------------------------------------------- */

/* Each finder sets [*ms, *me) to the first match at or after from and returns 1; 0: no match; negative: failed. */

static int find_regex(struct pre_run *r, const struct pre_op *op, struct str seg, size_t from, size_t *ms, size_t *me,
                      struct err *e)
{
    int rc = pcre2_match(op->code, (PCRE2_SPTR)seg.p, seg.n, from, PCRE2_NO_UTF_CHECK, r->md, r->mctx);
    if (rc >= 0) {
        const PCRE2_SIZE *v = pcre2_get_ovector_pointer(r->md);
        *ms = v[0];
        *me = v[1];
        /* \K can move the start anywhere; a match that is no forward range counts as empty. */
        if (*ms < from || *me < *ms) *ms = *me = size_max(from, size_min(*ms, *me));
        return 1;
    }
    if (rc == PCRE2_ERROR_NOMATCH) return 0;
    if (rc == PCRE2_ERROR_NOMEMORY) return fail_nomem(e, "regular expression match", seg.n);
    PCRE2_UCHAR why[128] = {0};
    pcre2_get_error_message(rc, why, sizeof why);
    return fail(e, ERR_LIMIT, "pre_tokenizer: regular expression '%.*s' gave up at byte %zu of a text of %zu: %s",
                STR_ARG(op->regex), from, seg.n, (const char *)why);
}

static bool in_class(enum pre_class cls, uint32_t cp)
{
    switch (cls) {
    case CLASS_NUMBER:
        return uclass_of(cp) == U_NUMBER;
    case CLASS_PUNCT:
        return uclass_is_punct(cp);
    case CLASS_SPACE:
        return uclass_of(cp) == U_SPACE;
    }
    return false;
}

static int find_class(const struct pre_op *op, struct str seg, size_t from, size_t *ms, size_t *me)
{
    uint32_t cp;
    size_t i = from, n = 0;
    for (; i < seg.n; i += n) {
        n = utf8_next(seg.p + i, &cp);
        if (in_class(op->cls, cp)) break;
    }
    if (i >= seg.n) return 0;
    *ms = i;
    do i += n;
    while (op->run && i < seg.n && (n = utf8_next(seg.p + i, &cp), in_class(op->cls, cp)));
    *me = i;
    return 1;
}

static int find_literal(const struct pre_op *op, struct str seg, size_t from, size_t *ms, size_t *me)
{
    struct str lit = op->literal;
    for (size_t i = from; seg.n - i >= lit.n; i++) {
        const char *hit = memchr(seg.p + i, lit.p[0], seg.n - i - lit.n + 1);
        if (!hit) return 0;
        i = (size_t)(hit - seg.p);
        if (memcmp(hit, lit.p, lit.n) != 0) continue;
        *ms = i;
        do i += lit.n;
        while (op->run && seg.n - i >= lit.n && memcmp(seg.p + i, lit.p, lit.n) == 0);
        *me = i;
        return 1;
    }
    return 0;
}

/* Advances the stage to its next match; none left is the empty match at the end. */
static int next_match(struct pre_run *r, const struct pre_op *op, struct pre_stage *st, struct err *e)
{
    int rc = 0;
    if (st->search < st->seg.n) {
        switch (op->find) {
        case FIND_GPT:
            st->ms = st->search;
            st->me = st->ms + scan_gpt(op->gpt, (struct str){st->seg.p + st->ms, st->seg.n - st->ms});
            rc = 1;
            break;
        case FIND_CLASS:
            rc = find_class(op, st->seg, st->search, &st->ms, &st->me);
            break;
        case FIND_LITERAL:
            rc = find_literal(op, st->seg, st->search, &st->ms, &st->me);
            break;
        case FIND_REGEX:
            rc = find_regex(r, op, st->seg, st->search, &st->ms, &st->me, e);
            break;
        }
    }
    if (rc < 0) return rc;
    st->have = true;
    if (rc == 0) {
        st->ms = st->me = st->search = st->seg.n;
        return 0;
    }
    st->search = st->me;
    uint32_t cp;
    if (st->me == st->ms && st->me < st->seg.n) st->search += utf8_next(st->seg.p + st->me, &cp);
    return 0;
}

/* ---- stages ----------------------------------------------------------------------------------------------- */

/* Next piece of a cutting stage: 1 and *piece, or 0 at the end of its segment. An empty match cuts, but is no piece. */
static int stage_cut(struct pre_run *r, const struct pre_op *op, struct pre_stage *st, struct str *piece, struct err *e)
{
    while (st->pos < st->seg.n) {
        if (!st->have) TRY(next_match(r, op, st, e));
        size_t from = st->pos, to = st->ms;
        bool gap = from < to; /* the text before the match comes first, except where the two belong together */
        bool keep = true;
        switch (op->behavior) {
        case PRE_ISOLATED:
        case PRE_REMOVED:
        case PRE_ONLY_MATCHES:
            if (!gap) to = st->me;
            keep = op->behavior == PRE_ISOLATED || gap == (op->behavior == PRE_REMOVED);
            st->have = gap;
            break;
        case PRE_CONTIGUOUS:
            if (gap) break;
            do {
                to = st->me;
                TRY(next_match(r, op, st, e));
            } while (st->ms == to && st->me > to);
            break;
        case PRE_WITH_PREVIOUS:
            to = st->me;
            st->have = false;
            break;
        case PRE_WITH_NEXT:
            if (gap) break;
            TRY(next_match(r, op, st, e));
            to = st->ms;
            break;
        }
        st->pos = to;
        if (to > from && keep) {
            *piece = (struct str){st->seg.p + from, to - from};
            return 1;
        }
    }
    return 0;
}

/* The one piece of a rewriting stage. */
static int stage_rewrite(const struct pre_op *op, struct pre_stage *st, struct str *piece, struct err *e)
{
    struct str s = st->seg;
    if (st->pos == s.n) return 0;
    st->pos = s.n;
    int rc = 0;
    st->buf.n = 0;
    struct str first = s.p[0] == ' ' && op->space.n ? op->space : s;
    if (op->prefix.n && !st->resumed && (st->first || !op->first_only) && !str_starts(first, op->prefix))
        rc = buf_str(&st->buf, op->prefix);
    for (size_t i = 0; i < s.n && rc == 0;) {
        const char *hit = op->space.n ? memchr(s.p + i, ' ', s.n - i) : NULL;
        size_t end = hit ? (size_t)(hit - s.p) : s.n;
        rc = buf_put(&st->buf, s.p + i, end - i);
        if (hit && rc == 0) rc = buf_str(&st->buf, op->space);
        i = end + (hit ? 1 : 0);
    }
    if (rc < 0) return fail_nomem(e, "rewritten text", s.n);
    *piece = buf_view(&st->buf);
    return 1;
}

static void stage_start(struct pre_stage *st, struct str seg, bool first, bool resumed)
{
    st->seg = seg;
    st->pos = st->search = 0;
    st->have = false;
    st->first = first;
    st->resumed = resumed;
}

void pre_start(struct pre_run *r, struct str piece, bool first, bool resumed)
{
    r->at = 0;
    r->pending = true;
    stage_start(&r->st[0], piece, first, resumed);
}

int pre_next(struct pre_run *r, struct str *word, struct err *e)
{
    const struct tok *t = r->t;
    if (t->n_pre == 0) {
        bool one = r->pending && r->st[0].seg.n;
        *word = r->st[0].seg;
        r->pending = false;
        return one;
    }
    for (;;) {
        struct pre_stage *st = &r->st[r->at];
        const struct pre_op *op = &t->pre[r->at];
        bool start = st->pos == 0;
        struct str piece;
        int rc = op->rewrite ? stage_rewrite(op, st, &piece, e) : stage_cut(r, op, st, &piece, e);
        if (rc < 0) return rc;
        if (rc == 0) {
            if (r->at == 0) return 0;
            r->at--;
            continue;
        }
        if (r->at + 1 == t->n_pre) {
            *word = piece;
            return 1;
        }
        r->at++;
        stage_start(&r->st[r->at], piece, st->first && start, st->resumed && start);
    }
}

/* ---- one encoding's share --------------------------------------------------------------------------------- */

/* A match may take so many steps, and so many more per byte of its text: the expressions in use need a few per byte. */
#define MATCH_STEPS 1000000u
#define MATCH_STEPS_PER_BYTE 16u
#define MATCH_HEAP_KIB 65536u

int pre_run_init(struct pre_run *r, const struct tok *t, size_t text_bytes, struct err *e)
{
    *r = (struct pre_run){.t = t};
    bool regex = false;
    for (unsigned i = 0; i < t->n_pre; i++) regex = regex || t->pre[i].code;
    if (!regex) return 0;
    r->gctx = pcre2_general_context_create(pcre_alloc, pcre_release, NULL);
    if (r->gctx) r->mctx = pcre2_match_context_create(r->gctx);
    if (r->mctx) r->md = pcre2_match_data_create(1, r->gctx);
    if (!r->md) return fail_nomem(e, "regular expression match", 0);
    size_t steps = MATCH_STEPS + size_min(text_bytes, UINT32_MAX / 32) * MATCH_STEPS_PER_BYTE;
    pcre2_set_match_limit(r->mctx, (uint32_t)steps);
    pcre2_set_heap_limit(r->mctx, MATCH_HEAP_KIB);
    r->jit = pcre2_jit_stack_create(32 * 1024, 1024 * 1024, r->gctx); /* NULL: JIT uses 32 KiB of the thread's stack */
    if (r->jit) pcre2_jit_stack_assign(r->mctx, NULL, r->jit);
    return 0;
}

void pre_run_fini(struct pre_run *r)
{
    for (unsigned i = 0; i < PRE_MAX; i++) buf_fini(&r->st[i].buf);
    pcre2_jit_stack_free(r->jit);
    pcre2_match_data_free(r->md);
    pcre2_match_context_free(r->mctx);
    pcre2_general_context_free(r->gctx);
}
