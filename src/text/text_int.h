/* text_int.h: what the tokenizer's files share; nobody outside src/text includes it.
 *
 * The path of a text through tok_encode:
 *
 *   text --added tokens of the raw text--> segment --normalizer--> segment --added tokens of the normalized text-->
 *        piece --bytes that are no UTF-8 leave here--> valid piece --pre-tokenizer stages--> words --merges--> ids
 *
 * Every arrow is one pass over its input, so the whole is linear in the text (times log n inside one long word). Nothing
 * recurses. A struct tok never changes after open; all that an encoding needs to write is in a struct enc of that call. */
#ifndef QUERN_TEXT_INT_H
#define QUERN_TEXT_INT_H

#include "text/text.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* ---- characters ------------------------------------------------------------------------------------------ */

/* U+2581, which stands for a space in SentencePiece vocabularies. */
#define LOWER_BLOCK "\xE2\x96\x81"

enum uclass { U_OTHER, U_LETTER, U_NUMBER, U_SPACE }; /* \p{L}, \p{N}, White_Space; no code point is in two of them */
extern const uint8_t uclass_ascii[128];
enum uclass uclass_wide(uint32_t cp);
static inline enum uclass uclass_of(uint32_t cp)
{
    return cp < 0x80 ? (enum uclass)uclass_ascii[cp] : uclass_wide(cp);
}
bool uclass_is_word(uint32_t cp);                   /* \w: letters, marks, digits, connectors, joiners */
bool uclass_is_digit(uint32_t cp);                  /* \d: decimal digits of any script */
bool uclass_is_punct(uint32_t cp);                  /* \p{P} of Unicode 8 and all ASCII punctuation */
bool uclass_is_late(uint32_t cp, unsigned version); /* a mark, punctuation or format later than Unicode 8 or 9 */
unsigned uclass_script(uint32_t cp);                /* a number for the script (script_table.h); 0: none */
/* Start of the character that ends at end > 0; bytes that are no UTF-8 count one by one, as U+FFFD. */
size_t utf8_before(struct str s, size_t end, uint32_t *cp);

/* One character of text that is known to be valid UTF-8; returns its length. */
static inline size_t utf8_next(const char *p, uint32_t *cp)
{
    const unsigned char *u = (const unsigned char *)p;
    if (u[0] < 0x80) {
        *cp = u[0];
        return 1;
    }
    if (u[0] < 0xE0) {
        *cp = (uint32_t)(u[0] & 0x1F) << 6 | (u[1] & 0x3F);
        return 2;
    }
    if (u[0] < 0xF0) {
        *cp = (uint32_t)(u[0] & 0x0F) << 12 | (uint32_t)(u[1] & 0x3F) << 6 | (u[2] & 0x3F);
        return 3;
    }
    *cp = (uint32_t)(u[0] & 0x07) << 18 | (uint32_t)(u[1] & 0x3F) << 12 | (uint32_t)(u[2] & 0x3F) << 6 | (u[3] & 0x3F);
    return 4;
}

/* The alphabet of byte-level vocabularies (published with GPT-2): printable bytes stand for themselves as code points, the
 * 68 others (0-32, 127-160, 173) for U+0100 onwards in their order. */
uint32_t byte_to_char(unsigned char b);
int char_to_byte(uint32_t cp); /* -1 where cp is not in the alphabet */
int alphabet_put(struct buf *out, struct str bytes);

/* ---- regular expressions -------------------------------------------------------------------------------------- */

int regex_compile(struct str regex, pcre2_code **out, struct err *e); /* pcre2_code_free */
int regex_valid(struct str regex, struct err *e);                     /* 1: one of PCRE2's; 0: not; negative: failed */
int onig_to_pcre(struct str regex, struct buf *out, struct err *e);   /* appends what means the same to PCRE2 */

/* What one encoding needs to match; only text_bytes is set before the first match. */
struct regex_run {
    size_t text_bytes; /* of the whole text: the steps that a match may take grow with it */
    pcre2_general_context *gctx;
    pcre2_match_context *mctx;
    pcre2_match_data *md;
    pcre2_jit_stack *jit;
};
/* Sets [*ms, *me) to the first match in text (valid UTF-8) at or after from and returns 1; 0: no match; negative: failed. */
int regex_find(struct regex_run *r, const pcre2_code *code, struct str text, size_t from, size_t *ms, size_t *me,
               struct err *e);
void regex_run_fini(struct regex_run *r);

/* ---- normalizers ------------------------------------------------------------------------------------------- */

enum norm_kind {
    NORM_PREPEND,  /* to goes in front */
    NORM_REPLACE,  /* from (not empty) becomes to */
    NORM_REGEX,    /* matches of code become to */
    NORM_UNICODE,  /* form: options of utf8proc */
    NORM_BERT,     /* form: what BertNormalizer does */
    NORM_LOWER,    /* each character by itself */
    NORM_ACCENTS,  /* marks go away */
    NORM_STRIP,    /* white space goes away at the ends; form: STRIP_ */
    NORM_CHARSMAP, /* SentencePiece's table of characters; form: whether as tokenizer.json has it, by graphemes */
    NORM_NMT,      /* SentencePiece's rules for control characters and white space */
    NORM_BYTES,    /* bytes become characters of the byte alphabet */
    NORM_SPACES,   /* SentencePiece's treatment of spaces in GGUF files; form: SPACES_ */
};
enum { BERT_CLEAN = 1, BERT_CHINESE = 2, BERT_ACCENTS = 4, BERT_LOWER = 8 }; /* in this order */
enum { STRIP_LEFT = 1, STRIP_RIGHT = 2 };
enum { SPACES_PREFIX = 1, SPACES_MERGE = 2 }; /* one in front of the first word; one in front of each, none elsewhere */
struct norm_op {
    enum norm_kind kind;
    struct str from, to; /* REGEX: from is the expression */
    unsigned form;
    pcre2_code *code; /* owned */
};
#define NORM_MAX 16

/* Adds one of "NFC", "NFD", "NFKC", "NFKD"; false where name is another one. */
bool norm_add_unicode(struct tok *t, struct str name);
bool norm_add(struct tok *t, struct norm_op op); /* false when full */
/* Runs all of t's normalizers. *out is in itself or in one of the buffers. Bytes that are no UTF-8 pass unchanged. */
int norm_run(const struct tok *t, struct str in, struct regex_run *r, struct buf bufs[2], struct str *out, struct err *e);
void norm_fini(struct tok *t);

/* SentencePiece's precompiled_charsmap: a double-array trie over byte strings, and the texts that they become. */
struct charsmap {
    struct str blob;   /* as in the file, in t's arena */
    struct str units;  /* of the trie, 4 bytes each */
    struct str texts;  /* each ends with a NUL */
    uint64_t plain[2]; /* bit c: the ASCII character c stays */
};
bool uform_of(struct str name, unsigned *form);
int uform_run(struct str in, unsigned form, struct buf *out);

int charsmap_open(struct tok *t, struct str blob, struct err *e); /* copies it into t */
int charsmap_run(const struct charsmap *m, struct str in, bool graphemes, struct buf *out);

/* ---- pre-tokenizer ------------------------------------------------------------------------------------------- */

enum pre_find {
    FIND_GPT,
    FIND_CLASS,
    FIND_WORDS,         /* \w+|[^\w\s]+ */
    FIND_TRIPLES,       /* digits in threes from the right, RE_TRIPLES */
    FIND_TRIPLE_STARTS, /* the places where they begin, RE_TRIPLE_STARTS */
    FIND_SPACES_END,    /* RE_SPACES_END */
    FIND_SCRIPT,        /* characters of one script, with those of none behind them */
    FIND_LITERAL,
    FIND_REGEX
};
enum pre_behavior { PRE_ISOLATED, PRE_REMOVED, PRE_ONLY_MATCHES, PRE_WITH_PREVIOUS, PRE_WITH_NEXT, PRE_CONTIGUOUS };
enum pre_class { CLASS_NUMBER, CLASS_PUNCT, CLASS_SPACE };

/* The expressions that pretok.c has a scanner for. */
#define RE_GPT2_HEAD "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"
#define RE_GPT2 RE_GPT2_HEAD "|\\s+"
#define RE_TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define RE_LLAMA3 "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}" RE_TAIL
#define RE_QWEN2 "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" RE_TAIL
#define RE_JAIS2                                                                                                            \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+"   \
    "|\\s{512}(?!\\S)|\\s{256}(?!\\S)|\\s{128}(?!\\S)|\\s{64}(?!\\S)|\\s{32}(?!\\S)|\\s{16}(?!\\S)|\\s{8}(?!\\S)|\\s{4}(?!" \
    "\\S)"                                                                                                                  \
    "|\\s{1,2}(?!\\S)|\\s{1}"
#define RE_NUMBER "\\p{N}"
#define RE_NUMBERS "\\p{N}+"
#define RE_TRIPLES "\\d{1,3}(?=(?:\\d{3})*\\b)"
#define RE_TRIPLE_STARTS "(?=(\\d{3})+(?!\\d))"
#define RE_SPACES_END "\\s+$"

/* The family of patterns that GPT-2 began. */
struct gpt_pattern {
    bool icase;      /* 's 't ... in any case */
    bool any_lead;   /* a word may begin with any one character that is no letter, digit or line end; else with one space */
    unsigned digits; /* at most so many digits in a piece, without a space; 0: any number, after an optional space */
    bool steps;      /* white space without a line end is cut into powers of two, 512 at most */
    bool newlines;   /* line ends go with the punctuation before them, and end a run of white space */
};

/* A stage: cuts pieces into smaller ones where its matches are, or rewrites them. */
struct pre_op {
    bool rewrite; /* false: the fields of the first group */

    enum pre_find find;
    enum pre_behavior behavior;
    const struct gpt_pattern *gpt; /* FIND_GPT */
    enum pre_class cls;            /* FIND_CLASS */
    bool run;                      /* FIND_CLASS, FIND_LITERAL: as many in a row as there are; else one by one */
    struct str literal;            /* FIND_LITERAL */
    pcre2_code *code;              /* FIND_REGEX, owned */
    struct str regex;              /* the expression that says the same, n 0 where there is none */

    struct str space;  /* what a space becomes; n 0: it stays */
    struct str prefix; /* put in front of a piece that does not start with it */
    bool first_only;   /* ... only at the very beginning of the text */
    bool bytes;        /* each byte becomes its character of the byte alphabet, and nothing else happens */
};
#define PRE_MAX 16

/* All take the text of an expression as it is in tokenizer.json; strings are copied into t's arena. */
int pre_add_regex(struct tok *t, struct str regex, enum pre_behavior behavior, struct err *e);
int pre_add(struct tok *t, struct pre_op op, struct err *e);
/* Sets t up as tokenizer.ggml.pre asks: stages, ignore_merges, normalizer, and whether BOS is the default. */
int pre_add_named(struct tok *t, struct str name, bool *add_bos, struct err *e);
const char *pre_name_at(size_t i); /* all names, NULL behind the last */
/* The name for tokenizer.ggml.pre that gives t's stages; NULL where there is none. */
const char *pre_name_of(const struct tok *t);
void pre_fini(struct tok *t);

struct pre_stage {
    struct str seg;
    struct str piece;                 /* watched; n 0: none */
    size_t pos;                       /* start of what is not yet given out */
    size_t search;                    /* where the next search begins, >= pos */
    size_t ms, me;                    /* the next match, if have; none left: both seg.n */
    size_t run_at, run_left, run_end; /* FIND_TRIPLES: digits from run_at to the end of their row */
    bool have;
    bool found;          /* there was a match, which ended at me */
    bool first, resumed; /* seg starts the text; seg continues a segment */
    struct buf buf;      /* rewritten text */
};
/* What is told of pieces that later stages may cut further: known, whether to go on to the next piece at once (1), or not (0);
 * done, that all words of a piece that was not known were given out. */
struct pre_watch {
    int (*known)(void *ctx, unsigned stage, struct str piece);
    void (*done)(void *ctx, unsigned stage, struct str piece);
    void *ctx;
};
struct pre_run {
    const struct tok *t;
    struct pre_watch watch; /* known NULL: nobody watches */
    unsigned at;
    bool pending; /* no stages: the piece itself is the word */
    struct pre_stage st[PRE_MAX];
    struct regex_run regex;
};
void pre_run_init(struct pre_run *r, const struct tok *t, size_t text_bytes);
void pre_run_fini(struct pre_run *r);
/* piece must be valid UTF-8 and stay where it is until the last word of it was taken. */
void pre_start(struct pre_run *r, struct str piece, bool first, bool resumed);
int pre_next(struct pre_run *r, struct str *word, struct err *e); /* 1: a word; 0: no more */

/* ---- the tokenizer ----------------------------------------------------------------------------------------- */

/* How words become ids. */
enum tok_model {
    MODEL_BYTES,   /* merges by rank over the bytes of a word, written in the byte alphabet */
    MODEL_CHARS,   /* merges by rank over characters */
    MODEL_PIECES,  /* the longest entries from the left */
    MODEL_SCORES,  /* neighbours whose concatenation is an entry are joined, best score first */
    MODEL_UNIGRAM, /* the entries whose scores add up to the most */
    MODEL_WORDS,   /* a word is one entry or unknown */
};

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE }; /* ggml's token types */

struct tok_span {
    uint32_t at, n; /* in tok.text */
};
struct tok_merge {
    int32_t left, right, id;
};

/* All entries that may become part of a word, see trie.c. */
struct trie {
    uint32_t *first;
    int32_t *id; /* -1: no entry ends here */
    uint8_t *label;
    uint32_t root[256]; /* children of node 0 by byte; 0: none */
};
/* The child of v by byte c; 0: none. */
static inline uint32_t trie_step(const struct trie *tree, uint32_t v, unsigned char c)
{
    for (uint32_t k = tree->first[v], end = tree->first[v + 1]; k < end; k++)
        if (tree->label[k] >= c) return tree->label[k] == c ? k : 0;
    return 0;
}

/* A token that is cut out of the text before anything else looks at it. */
struct tok_added {
    int32_t id;
    struct str text;
    bool special;        /* only with TOK_PARSE_SPECIAL */
    bool lstrip, rstrip; /* takes the white space before / after it along */
    bool single_word;    /* only where no word character touches it */
    bool normalized;     /* looked for in the normalized text */
};
#define ADDED_BYTES_MAX 512 /* bounds the work at one position of the text */
struct tok_added_set {
    struct tok_added *v; /* sorted by text */
    size_t n;
    uint32_t first[257]; /* v[first[b]] .. v[first[b + 1] - 1] start with byte b */
};

/* A token found in a text: text goes on at to, and the next one is looked for from after on. White space that was walked over
 * for a token ends at space_end, so that no row of it is walked over twice. */
struct added_hit {
    size_t from, to, after, space_end;
    int32_t id;
};

/* How the detokenizer shows entries. */
enum tok_show {
    SHOW_PLAIN,  /* as they are */
    SHOW_BYTES,  /* in the byte alphabet */
    SHOW_SPACED, /* with a mark for spaces */
    SHOW_PIECES, /* parted by spaces, but for those that continue a word by their mark */
    SHOW_SUFFIX, /* with a mark for the end of a word, which is a space where more follows */
    SHOW_JOINED, /* parted by spaces */
};

/* Whether words are made of an entry. One that is an added token as well may be made of other characters than those it is
 * looked for by. */
enum word_use {
    WORDS_NEVER,
    WORDS_SPECIAL, /* only with TOK_PARSE_SPECIAL, which takes special tokens out of a text */
    WORDS_ALWAYS,
};

/* A part of the template for two texts. */
enum { PAIR_A = -1, PAIR_B = -2 };
struct pair_item {
    int32_t id; /* or PAIR_A, PAIR_B */
    uint8_t type;
};
#define PAIR_MAX 16
#define EDGE_MAX 8
#define STOPS_MAX 32

struct tok {
    enum tok_model model;
    struct arena arena; /* small things that live as long as the tokenizer */

    /* Entries by id. Ids may have holes (n 0, TYPE_UNUSED). */
    size_t n;
    struct tok_span *ents;
    int32_t *types;
    uint8_t *word_use; /* enum word_use; what tok_index finds unset is the use of the type */
    double *scores;    /* MODEL_SCORES, MODEL_UNIGRAM, else NULL */
    char *text;
    size_t text_n, text_cap;
    size_t max_bytes; /* of the longest normal entry */
    uint64_t *slots;  /* hash table from an entry's text: upper half of its hash, id + 1; 0 is empty. Of equal texts the last
                         id counts */
    size_t slot_mask; /* slots - 1 */
    int32_t byte_id[256]; /* the entry that stands for a byte, -1: none */
    uint64_t seed;

    /* MODEL_BYTES, MODEL_CHARS: merges by rank. Of equal pairs the first counts. */
    struct tok_merge *merges;
    size_t n_merges, merges_cap;
    uint32_t *pair_slots; /* from a pair to rank + 1 */
    size_t pair_mask;
    bool ignore_merges; /* a word that is an entry is taken whole */
    bool byte_fallback, fuse_unk;
    bool drop_unknown; /* what has no entry and no bytes is left out */
    /* Marks of entries that begin a word (MODEL_PIECES), continue one (MODEL_PIECES, BPE) and end one (BPE). */
    struct str piece_first, word_inside, word_end;
    size_t word_chars; /* MODEL_PIECES: longer words are unknown */

    struct trie trie; /* MODEL_UNIGRAM */
    double unk_score;

    struct norm_op norm[NORM_MAX];
    unsigned n_norm;
    struct charsmap charsmap; /* NORM_CHARSMAP */
    struct pre_op pre[PRE_MAX];
    unsigned n_pre;
    unsigned watched;              /* the first stage behind which nothing is rewritten: its pieces always give the same ids */
    const char *pre_name;          /* NULL: none fits */
    struct tok_added_set added[2]; /* in the raw text; in the normalized text */
    bool add_space_prefix;         /* a space is put in front of each segment; detokenizing drops the first */
    bool strip_space;              /* the detokenizer's half of that */
    bool strip_marks;              /* ... which leaves out all marks for spaces of the first entry, and no space that is one */

    int32_t bos, eos, unk, pad;
    int32_t prefix[EDGE_MAX], suffix[EDGE_MAX]; /* what TOK_ADD_SPECIAL adds to one text */
    unsigned n_prefix, n_suffix;
    struct pair_item pair[PAIR_MAX]; /* two texts and what TOK_ADD_SPECIAL adds to them; n_pair 0: nothing */
    unsigned n_pair;

    enum tok_show show;
    struct str show_mark; /* SPACED: what a space is written as; PIECES, SUFFIX: the mark */
    struct str *shown; /* by id: what added tokens that are looked for in the normalized text are shown as; NULL: as they are */
    bool show_added_raw;  /* added tokens are shown as they are, whatever others are made of */
    bool show_close;      /* PIECES: punctuation belongs to the word before it */
    bool show_byte_names; /* the entry of a byte is shown as it is, "<0x0A>" */
    bool show_all_bytes;  /* every entry with such a name is shown as the byte, also where it stands for none */
    int32_t stops[STOPS_MAX];
    size_t n_stops;
    struct str chat_template;
};

/* Building, for tok_hf.c and tok_gguf.c, in this order. */
int tok_new(struct tok **out, struct err *e);
int tok_reserve(struct tok *t, size_t n, size_t text_bytes, struct err *e);           /* n entries, all holes */
int tok_set(struct tok *t, int32_t id, struct str text, int32_t type, struct err *e); /* sets or replaces an entry */
int tok_index(struct tok *t, struct err *e); /* all entries are there; lookups work from here on */
int tok_reserve_merges(struct tok *t, size_t n, struct err *e);
int tok_add_merge(struct tok *t, struct str left, struct str right, struct buf *scratch, struct err *e);
int tok_index_merges(struct tok *t, struct err *e);
/* v in t's arena; keeps it, sorted. set: index of t->added. */
int tok_set_added(struct tok *t, unsigned set, struct tok_added *v, size_t n, struct err *e);
/* The token of the set in s that follows *h, at first a zeroed one. What is between them is [h->to, the new h->from), where
 * that is a range. Where there is none *h is the end of s, and id -1. */
void added_next(const struct tok_added_set *set, struct str s, unsigned flags, struct added_hit *h);
void tok_add_stop(struct tok *t, int64_t id); /* beside eos and those known by name; out of range: none */
/* The special ids are set: collects the stops, gives a SentencePiece kind its stage that cuts at spaces. */
int tok_finish(struct tok *t, struct err *e);
int tok_dup(struct tok *t, struct str s, struct str *out, struct err *e); /* into t's arena */
bool tok_edge_has(const int32_t *v, unsigned n, int32_t id);
bool tok_edge_add(int32_t *v, unsigned *n, unsigned at, int32_t id); /* into prefix or suffix; false when full */
bool tok_pair_add(struct tok *t, int32_t id, uint8_t type);          /* to the end of the template; false when full */
void tok_pair_bert(struct tok *t, int32_t cls, int32_t sep);         /* cls A sep B sep */
void tok_pair_roberta(struct tok *t, int32_t cls, int32_t sep);      /* cls A sep sep B sep */
/* The small parts of a tokenizer.json: each text is the JSON of one, n 0: there is none. */
int tok_read_normalizer(struct tok *t, struct str text, struct err *e);
int tok_read_pre(struct tok *t, struct str text, struct err *e);
int tok_read_decoder(struct tok *t, struct str text, struct err *e);
int tok_read_post(struct tok *t, struct str text, struct err *e);
int tok_byte_name(struct str entry); /* the byte of "<0x0A>", else -1 */

static inline struct str tok_text(const struct tok *t, size_t id)
{
    return (struct str){t->text + t->ents[id].at, t->ents[id].n};
}
static inline bool tok_id_ok(const struct tok *t, int64_t id)
{
    return id >= 0 && (uint64_t)id < t->n;
}
/* An entry that words are made of by its text, -1: there is none. flags as in tok_encode. */
int32_t tok_part(const struct tok *t, const char *p, size_t n, unsigned flags);
static inline bool tok_in_words(const struct tok *t, int32_t id, unsigned flags)
{
    return t->word_use[id] > (flags & TOK_PARSE_SPECIAL ? WORDS_NEVER : WORDS_SPECIAL);
}

/* Folds the 128-bit product: good bits from two multiplications of 64-bit words. */
static inline uint64_t hash_mix(uint64_t a, uint64_t b)
{
    __uint128_t r = (__uint128_t)a * b;
    return (uint64_t)r ^ (uint64_t)(r >> 64);
}
/* The n < 8 bytes at p, zeros behind. */
static inline uint64_t load_few(const char *p, size_t n)
{
    const unsigned char *u = (const unsigned char *)p;
    if (n == 0) return 0;
    if (n >= 4) return load_u32(p) | (uint64_t)load_u32(p + n - 4) << (8 * (n - 4));
    return u[0] | (uint64_t)u[n / 2] << (8 * (n / 2)) | (uint64_t)u[n - 1] << (8 * (n - 1));
}
static inline uint64_t hash_bytes(uint64_t seed, const char *p, size_t n)
{
    uint64_t h = seed ^ (n * 0x9E3779B97F4A7C15u), w;
    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&w, p, 8);
        h = hash_mix(h ^ w, 0xD6E8FEB86659FD93u);
    }
    return hash_mix(h ^ load_few(p, n), 0xA0761D6478BD642Fu);
}

/* ---- merging ------------------------------------------------------------------------------------------------- */

#define RANK_NONE UINT32_MAX
#define SYM_END UINT32_MAX

/* A symbol of the word in work: a linked list in an array. */
struct sym {
    uint32_t v; /* MODEL_SCORES: offset of its first byte in the word; else its id */
    uint32_t prev, next;
    uint32_t rank; /* of joining it with next: lower comes first; RANK_NONE: not possible, or the symbol is gone */
};

#define CACHE_KEY_MAX 24
#define CACHE_IDS_MAX 9
/* A word met before in this text. 64 bytes; tag 0: empty. */
struct cache_line {
    uint64_t key[CACHE_KEY_MAX / 8];
    uint8_t tag, n_ids;
    int32_t ids[CACHE_IDS_MAX];
};

/* All that one tok_encode writes to. */
struct enc {
    const struct tok *t;
    unsigned flags;
    struct ids *out;
    struct err *err;
    struct buf norm[2];
    struct buf word; /* the word in the byte alphabet */
    struct sym *syms;
    size_t cap_syms;
    uint64_t *heap; /* rank << 32 | index of the left symbol */
    size_t n_heap, cap_heap;
    double *ring;  /* MODEL_UNIGRAM: see unigram.c */
    int32_t *ends; /* of each place of the word: the entry that ends there, negative: an unknown character of so many bytes */
    size_t cap_ends;
    size_t piece_from[PRE_MAX]; /* where the ids of the piece in work begin, of each stage */
    struct cache_line *cache;
    size_t cache_mask;
    struct pre_run pre;
};
int enc_put(struct enc *e, int32_t id);       /* appends an id */
int enc_word(struct enc *e, struct str word); /* appends the ids */
/* stage: which one gave the piece out; those from the eighth on are not kept. */
int cache_new(struct enc *e, size_t text_bytes);
bool cache_takes(const struct enc *e, unsigned stage, struct str piece);       /* may be found or kept */
int cache_find(struct enc *e, unsigned stage, struct str piece);               /* 1: its ids were appended; 0: not there */
void cache_keep(struct enc *e, unsigned stage, struct str piece, size_t from); /* its ids are those from out->p[from] on */
int enc_syms(struct enc *e, size_t n);                                         /* room for n symbols */
int enc_merge(struct enc *e, struct str word, uint32_t n); /* syms[0..n) with v set; joins until nothing more can be */

int bpe_word(struct enc *e, struct str word);
/* The rank of a pair of ids, or RANK_NONE; and the slot of the table where the pair is or would be. */
uint32_t bpe_find(const struct tok *t, uint32_t left, uint32_t right, size_t *slot);
int spm_word(struct enc *e, struct str word);
int wordpiece_word(struct enc *e, struct str word);
int wordlevel_word(struct enc *e, struct str word);
int unigram_word(struct enc *e, struct str word);
int unigram_index(struct tok *t, struct err *e); /* all entries and their scores are there */
int trie_build(struct tok *t, struct err *e);
void trie_fini(struct trie *tree);
int wordpiece_setup(struct tok *t, struct str first, struct err *e); /* for vocabularies of GGUF files */
uint32_t spm_rank(const struct tok *t, const char *p, size_t n);     /* of the entry with this text; RANK_NONE */
/* The ids of a character without an entry: those of its bytes if there are all, else the unknown token. */
int enc_fallback(struct enc *e, struct str ch);

#endif
