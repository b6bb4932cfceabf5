/* Character classes for the pre-tokenizers, and the byte alphabet of byte-level vocabularies. The categories come from
 * utf8proc; White_Space is written out because a general category alone does not give it. */
#include "text/text_int.h"

#include <utf8proc.h>

#include "text/late_table.h"
#include "text/script_table.h"

const uint8_t uclass_ascii[128] = {
    ['A' ... 'Z'] = U_LETTER, ['a' ... 'z'] = U_LETTER, ['0' ... '9'] = U_NUMBER, ['\t' ... '\r'] = U_SPACE, [' '] = U_SPACE,
};

enum uclass uclass_wide(uint32_t cp)
{
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return U_LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return U_NUMBER;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return U_SPACE;
    default:
        return (cp >= 9 && cp <= 13) || cp == 0x85 ? U_SPACE : U_OTHER;
    }
}

bool uclass_is_word(uint32_t cp)
{
    if (cp < 0x80) return uclass_of(cp) == U_LETTER || uclass_of(cp) == U_NUMBER || cp == '_';
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default: /* joiners; letters in circles and squares */
        return cp == 0x200C || cp == 0x200D || (cp >= 0x24B6 && cp <= 0x24E9) || (cp >= 0x1F130 && cp <= 0x1F149) ||
               (cp >= 0x1F150 && cp <= 0x1F169) || (cp >= 0x1F170 && cp <= 0x1F189);
    }
}

bool uclass_is_digit(uint32_t cp)
{
    return cp < 0x80 ? cp - '0' < 10 : utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_ND;
}

/* What holds for the run of cp: each entry is the first character of a run, times 256, plus that. */
static unsigned run_of(const uint32_t *runs, size_t n, uint32_t cp)
{
    size_t low = 0, high = n; /* the run is in [low, high) */
    while (high - low > 1) {
        const size_t mid = (low + high) / 2;
        if (runs[mid] >> 8 <= cp)
            low = mid;
        else
            high = mid;
    }
    return runs[low] & 0xff;
}

bool uclass_is_late(uint32_t cp, unsigned version)
{
    return run_of(late_runs, COUNT_OF(late_runs), cp) > version;
}

bool uclass_is_punct(uint32_t cp)
{
    if (cp < 0x80)
        return (cp >= 33 && cp <= 47) || (cp >= 58 && cp <= 64) || (cp >= 91 && cp <= 96) || (cp >= 123 && cp <= 126);
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
        return !uclass_is_late(cp, 8);
    default:
        return false;
    }
}

size_t utf8_before(struct str s, size_t end, uint32_t *cp)
{
    for (size_t n = 1; n <= 4 && n <= end; n++)
        if (utf8_decode((struct str){s.p + end - n, n}, cp) == n) return end - n;
    *cp = 0xFFFD;
    return end - 1;
}

uint32_t byte_to_char(unsigned char b)
{
    if (b <= 32) return 256u + b;
    if (b >= 127 && b <= 160) return 256u + 33 + (b - 127u);
    return b == 173 ? 256u + 67 : b;
}

int char_to_byte(uint32_t cp)
{
    if (cp > 256 + 67) return -1;
    if (cp == 256 + 67) return 173;
    if (cp >= 256 + 33) return (int)(cp - 256 - 33 + 127);
    if (cp >= 256) return (int)(cp - 256);
    return byte_to_char((unsigned char)cp) == cp ? (int)cp : -1;
}

int alphabet_put(struct buf *out, struct str bytes)
{
    TRY(buf_reserve(out, bytes.n * 2));
    char *p = out->p + out->n;
    for (size_t i = 0; i < bytes.n; i++) {
        const uint32_t cp = byte_to_char((unsigned char)bytes.p[i]);
        if (cp >= 0x80) *p++ = (char)(0xC0 | cp >> 6);
        *p++ = (char)(cp >= 0x80 ? 0x80 | (cp & 0x3F) : cp);
    }
    out->n = (size_t)(p - out->p);
    return 0;
}

unsigned uclass_script(uint32_t cp)
{
    return run_of(script_runs, COUNT_OF(script_runs), cp);
}
