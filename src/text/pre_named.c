/* Pre-tokenizers that GGUF files name (tokenizer.ggml.pre): a table of names, the expressions that each stands for, and what
 * else the name says about the tokenizer. */
#include "text/text_int.h"

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
#define RE_YOUTU_CJK                                                                                                      \
    "[\\x{AC00}-\\x{D7A3}\\x{3131}-\\x{318E}]+|[\\x{FF01}\\x{2026}\\x{201C}\\x{201D}\\x{2018}\\x{2019}\\x{2014}\\x{FF1A}" \
    "\\x{FF1B}\\x{FF0C}\\x{3001}-\\x{303F}\\x{FE30}-\\x{FE4F}]+|[\\x{3105}-\\x{312F}]+"                                   \
    "|[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+"
#define RE_YOUTU RE_CASE_WORD(RE_CONTRACTION "?") "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" RE_SPACES
#define RE_AFMOE_CJK                                                                                                      \
    "[\\x{4E00}-\\x{9FFF}\\x{3400}-\\x{4DBF}\\x{F900}-\\x{FAFF}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}\\x{FF65}-\\x{FF9F}" \
    "\\x{2F00}-\\x{2FDF}\\x{E40}-\\x{E7F}\\x{E80}-\\x{EFF}\\x{1780}-\\x{17FF}\\x{1000}-\\x{109F}\\x{AA60}-\\x{AA7F}"      \
    "\\x{A9E0}-\\x{A9FF}\\x{AC00}-\\x{D7AF}\\x{1100}-\\x{11FF}]+"
/* A letter may have a single space before it inside of a word. Possessive, since nothing follows: no way back is kept, and a
 * word may be as long as the text. */
#define RE_EXAONE_MOE                                                                                                        \
    RE_CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*+(?: \\p{L}\\p{M}*+)*+)++|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?" \
                   "|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"
/* As GPT-4o, but Chinese characters are words of their own. Published as a word of letters U* L+ or else U+ L*, each class
 * without Han, where U has capitals C and L small letters S, and both have those without case B. The same without a way back:
 * if an S follows the longest U*, all of it and the L behind it; else as far as the last B; else a row of C. */
#define RE_NOT_HAN(set) "(?:(?!\\p{Han})[" set "])"
#define RE_NO_CASE "\\p{Lm}\\p{Lo}\\p{M}"
#define RE_KIMI                                                                                \
    "\\p{Han}+|" RE_LEAD "(?:" RE_NOT_HAN("\\p{Lu}\\p{Lt}" RE_NO_CASE) "*+\\p{Ll}" RE_NOT_HAN( \
        "\\p{Ll}" RE_NO_CASE) "*+"                                                             \
                              "|(?:[\\p{Lu}\\p{Lt}]*+" RE_NOT_HAN(                             \
                                  RE_NO_CASE) ")++)" RE_CONTRACTION "?"                        \
                                              "|" RE_LEAD "[\\p{Lu}\\p{Lt}]++" RE_CONTRACTION  \
                                              "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" RE_SPACES
#define RE_CHAMELEON_SPACES "([\\t\\n]|    |  )"

/* Each expression isolates its matches in the pieces that the one before left. The first row that fits gives the name when
 * a tokenizer.json is converted. */
static const struct pre_row {
    const char *names[14];
    const char *regex[7];
    bool ignore_merges, add_bos;
    bool nfc; /* the model's own tokenizer.json normalizes so */
} pre_rows[] = {
    {.names = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "laguna",
               "jina-v5-nano"},
     .regex = {RE_LLAMA3},
     .ignore_merges = true,
     .add_bos = true},
    {.names = {"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "a.x-4.0", "mellum",
               "gigachat", "modern-bert"},
     .regex = {RE_GPT2}},
    {.names = {"roberta-bpe", "jina-v1-en", "jina-v2-code", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de"},
     .regex = {RE_GPT2}},
    {.names = {"qwen2", "kormo", "f2llmv2"}, .regex = {RE_QWEN2}, .nfc = true},
    {.names = {"deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez", "grok-2", "solar-open", "openpangu"}, .regex = {RE_QWEN2}},
    {.names = {"qwen35"}, .regex = {RE_QWEN35}, .nfc = true},
    {.names = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "cohere2_moe", "mellum2"},
     .regex = {RE_NUMBER, RE_GPT2}},
    {.names = {"dbrx", "smaug-bpe", "glm4", "chatglm-bpe"}, .regex = {RE_LLAMA3}},
    {.names = {"jais-2"}, .regex = {RE_JAIS2}},
    {.names = {"gpt-4o", "llama4", "minimax-m2", "kanana2", "talkie"}, .regex = {RE_GPT4O}},
    {.names = {"kimi-k2"}, .regex = {RE_KIMI}},
    {.names = {"tekken"}, .regex = {RE_TEKKEN}, .ignore_merges = true, .add_bos = true},
    {.names = {"tiny_aya", "cohere2moe"}, .regex = {RE_TRIPLES, RE_GPT4O}},
    {.names = {"superbpe"}, .regex = {RE_NUMBERS, RE_TRIPLE_STARTS}},
    {.names = {"youtu"}, .regex = {RE_YOUTU_CJK, RE_YOUTU}, .ignore_merges = true},
    {.names = {"default"}, .regex = {"[\\p{P}\\$\\+<=>\\^~\\|]+", RE_GPT2, RE_NUMBERS, "[0-9][0-9][0-9]"}},
    {.names = {"falcon"}, .regex = {"[\\p{P}\\$\\+<=>\\^~\\|`]+", RE_GPT2, "[0-9][0-9][0-9]"}},
    {.names = {"deepseek-llm"},
     .regex = {"[\\r\\n]", "\\s?" RE_CASED, RE_DEEPSEEK_PUNCT, RE_SPACES_END, RE_DEEPSEEK_CJK, RE_NUMBERS}},
    {.names = {"deepseek-coder"}, .regex = {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", RE_DEEPSEEK_CJK, RE_NUMBER}},
    {.names = {"deepseek-v3", "hunyuan-dense", "joyai-llm"},
     .regex = {"\\p{N}{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+", RE_DEEPSEEK3}},
    {.names = {"afmoe"}, .regex = {RE_TRIPLES, RE_AFMOE_CJK, RE_DEEPSEEK3}},
    {.names = {"bailingmoe", "bailingmoe2", "llada-moe"}, .regex = {RE_BAILING}},
    {.names = {"exaone-moe"}, .regex = {RE_EXAONE_MOE}},
    {.names = {"seed-coder"}, .regex = {RE_SEED_CODER}},
    {.names = {"chameleon"},
     .regex = {"<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", RE_CHAMELEON_SPACES, RE_NUMBER,
               "[\\p{P}!-/:-@\\[-`{-~]", RE_GPT2},
     .add_bos = true},
    {.names = {"bloom", "poro-chat", "gpt3-finnish"}, .regex = {RE_BLOOM}},
    {.names = {"viking"}, .regex = {RE_BLOOM, RE_NUMBER}},
};

const char *pre_name_at(size_t i)
{
    for (size_t r = 0; r < COUNT_OF(pre_rows); r++)
        for (size_t k = 0; k < COUNT_OF(pre_rows[r].names) && pre_rows[r].names[k]; k++)
            if (i-- == 0) return pre_rows[r].names[k];
    return NULL;
}

static const struct pre_row *find_row(struct str name, const char **own)
{
    for (size_t i = 0; i < COUNT_OF(pre_rows); i++)
        for (size_t k = 0; k < COUNT_OF(pre_rows[i].names) && pre_rows[i].names[k]; k++)
            if (str_is(name, pre_rows[i].names[k])) return *own = pre_rows[i].names[k], &pre_rows[i];
    return NULL;
}

int pre_add_named(struct tok *t, struct str name, bool *add_bos, struct err *e)
{
    const struct pre_row *row = find_row(name, &t->pre_name);
    if (!row)
        return fail(
            e, ERR_UNSUPPORTED,
            "tokenizer.ggml.pre: pre-tokenizer '%.*s' is not supported; known are llama-bpe, gpt-2, qwen2, deepseek-v3 and "
            "others",
            STR_ARG(name));
    for (size_t r = 0; r < COUNT_OF(row->regex) && row->regex[r]; r++)
        TRY(pre_add_regex(t, str_of(row->regex[r]), PRE_ISOLATED, e));
    if (row->nfc) norm_add_unicode(t, STR("NFC"));
    t->ignore_merges = row->ignore_merges;
    *add_bos = row->add_bos;
    return 0;
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
