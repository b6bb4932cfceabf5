/* Regular expressions of tokenizers, run by PCRE2 with limits: a match that needs more than a fixed multiple of its text is an
 * error, never another match. Expressions are written for Oniguruma (onig.c), where ^ and $ match at line ends; hence
 * PCRE2_MULTILINE.
 * PCRE2's start optimizations stay off: they look far ahead of a match for a character that it must end with, and the JIT's
 * read beyond the text in whole vectors. Callers are the pre-tokenizer and the normalizer Replace. */
#include "text/text_int.h"

#define REGEX_BYTES_MAX 16384

/* A match may take so many steps, and so many more per byte of its text: the expressions in use need a few per byte. */
#define MATCH_STEPS 1000000u
#define MATCH_STEPS_PER_BYTE 16u
#define MATCH_HEAP_KIB 65536u

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

/* One of PCRE2's own. NULL with code and at set, or with code 0 where memory is missing. */
static pcre2_code *compile(struct str regex, int *code, PCRE2_SIZE *at)
{
    pcre2_code *out = NULL;
    pcre2_general_context *g = pcre2_general_context_create(pcre_alloc, pcre_release, NULL);
    pcre2_compile_context *c = g ? pcre2_compile_context_create(g) : NULL;
    *code = 0;
    *at = 0;
    if (c) {
        pcre2_set_newline(c, PCRE2_NEWLINE_LF);
        pcre2_set_parens_nest_limit(c, 64);
        out = pcre2_compile((PCRE2_SPTR)(regex.n ? regex.p : ""), regex.n,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_START_OPTIMIZE, code,
                            at, c);
    }
    pcre2_compile_context_free(c);
    pcre2_general_context_free(g);
    if (*code == PCRE2_ERROR_HEAP_FAILED) *code = 0;
    return out;
}

int regex_valid(struct str regex, struct err *e)
{
    int code;
    PCRE2_SIZE at;
    pcre2_code *c = compile(regex, &code, &at);
    const bool valid = c != NULL;
    pcre2_code_free(c);
    return !valid && code == 0 ? fail_nomem(e, "regular expression", regex.n) : valid;
}

int regex_compile(struct str regex, pcre2_code **out, struct err *e)
{
    struct buf own = {0};
    int code;
    PCRE2_SIZE at;
    *out = NULL;
    if (regex.n > REGEX_BYTES_MAX || !utf8_valid(regex))
        return fail(e, ERR_UNSUPPORTED, "a regular expression of %zu bytes; supported are at most %d in UTF-8", regex.n,
                    REGEX_BYTES_MAX);
    int rc = onig_to_pcre(regex, &own, e);
    if (rc == 0) *out = compile(buf_view(&own), &code, &at);
    buf_fini(&own);
    if (rc < 0) return rc;
    if (*out) {
        pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); /* without JIT it is interpreted: slower, the same matches */
        return 0;
    }
    if (code == 0) return fail_nomem(e, "regular expression", regex.n);
    PCRE2_UCHAR why[128] = {0};
    pcre2_get_error_message(code, why, sizeof why);
    return fail(e, ERR_FORMAT, "regular expression '%.*s': %s at offset %zu of what is made of it for PCRE2", STR_ARG(regex),
                (const char *)why, (size_t)at);
}

/* Made at the first match, so that texts without one cost nothing. */
static int run_start(struct regex_run *r, struct err *e)
{
    r->gctx = pcre2_general_context_create(pcre_alloc, pcre_release, NULL);
    if (r->gctx) r->mctx = pcre2_match_context_create(r->gctx);
    if (r->mctx) r->md = pcre2_match_data_create(1, r->gctx);
    if (!r->md) return fail_nomem(e, "regular expression match", 0);
    size_t steps = MATCH_STEPS + size_min(r->text_bytes, UINT32_MAX / 32) * MATCH_STEPS_PER_BYTE;
    pcre2_set_match_limit(r->mctx, (uint32_t)steps);
    pcre2_set_heap_limit(r->mctx, MATCH_HEAP_KIB);
    r->jit = pcre2_jit_stack_create(32 * 1024, 1024 * 1024, r->gctx); /* NULL: JIT uses 32 KiB of the thread's stack */
    if (r->jit) pcre2_jit_stack_assign(r->mctx, NULL, r->jit);
    return 0;
}

int regex_find(struct regex_run *r, const pcre2_code *code, struct str text, size_t from, size_t *ms, size_t *me, struct err *e)
{
    if (!r->md) TRY(run_start(r, e));
    int rc = pcre2_match(code, (PCRE2_SPTR)text.p, text.n, from, PCRE2_NO_UTF_CHECK, r->md, r->mctx);
    if (rc >= 0) {
        const PCRE2_SIZE *v = pcre2_get_ovector_pointer(r->md);
        *ms = v[0];
        *me = v[1];
        /* \K can move the start anywhere; a match that is no forward range counts as empty. */
        if (*ms < from || *me < *ms) *ms = *me = size_max(from, size_min(*ms, *me));
        return 1;
    }
    if (rc == PCRE2_ERROR_NOMATCH) return 0;
    if (rc == PCRE2_ERROR_NOMEMORY) return fail_nomem(e, "regular expression match", text.n);
    PCRE2_UCHAR why[128] = {0};
    pcre2_get_error_message(rc, why, sizeof why);
    return fail(e, ERR_LIMIT, "a regular expression gave up at byte %zu of a text of %zu: %s", from, text.n, (const char *)why);
}

void regex_run_fini(struct regex_run *r)
{
    pcre2_jit_stack_free(r->jit);
    pcre2_match_data_free(r->md);
    pcre2_match_context_free(r->mctx);
    pcre2_general_context_free(r->gctx);
}
