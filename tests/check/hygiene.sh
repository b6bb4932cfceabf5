#!/bin/sh
# hygiene: what a look at the text of the files can tell. Banned functions, names, blanks, formatting. Prints TAP.
set -eu
cd "$(dirname "$0")/../.."
n=0

report() { # NAME FINDINGS
    n=$((n + 1))
    if [ -z "$2" ]; then
        echo "ok $n - $1"
    else
        printf '%s\n' "$2" | head -n 15 | sed 's/^/# /'
        echo "not ok $n - $1"
    fi
}

code() { find src tools include examples -name '*.[ch]' -o -name '*.def' | LC_ALL=C sort; }
text() {
    find . \( -path './.git' -o -path './build*' -o -path './tests/fuzz/corpus' -o -path './tests/fuzz/findings' \) -prune -o \
        -type f \( -name '*.[ch]' -o -name '*.def' -o -name '*.md' -o -name '*.sh' -o -name 'meson.build' -o -name '*.txt' -o \
        -name '*.ini' -o -name '.clang-format' -o -name '.editorconfig' -o -path './dev' -o -path './.ci/*' \) -print | LC_ALL=C sort
}

# Functions that overrun, truncate silently, or take numbers for granted. strtod alone is allowed, in base.
banned='strcpy|strcat|strncpy|strncat|sprintf|vsprintf|gets|strtok|atoi|atol|atoll|atof|strtol|strtoll|strtoul|strtoull|strtof|strtold|sscanf|alloca|setjmp|longjmp|system|popen|rand|srand'
report "no banned function" "$(code | xargs grep -nEw "($banned) *\(" || true)"
report "strtod only in base" "$(code | grep -v '^src/base/' | xargs grep -nw 'strtod' || true)"
report "malloc and friends only in base" \
    "$(find src -name '*.c' ! -path 'src/base/*' -exec grep -nHE '(^|[^_a-z])(malloc|calloc|realloc|free|strdup) *\(' {} + || true)"
report "exit, abort and assert nowhere in src" "$(find src -name '*.[ch]' -exec grep -nHE '(^|[^_a-z])(exit|_exit|abort|assert) *\(' {} + || true)"
report "getenv nowhere in src" "$(find src -name '*.[ch]' ! -path 'src/base/*' -exec grep -nHw getenv {} + || true)"

# Names: unique in the tree, so that a name says which file is meant. Examples are for strangers and don't count.
report "file names are unique" \
    "$(find src tools include tests bench \( -name '*.[ch]' -o -name '*.def' \) 2>/dev/null | sed 's,.*/,,' | LC_ALL=C sort | uniq -d)"

tab=$(printf '\t')
report "no tabs" "$(text | xargs grep -n "$tab" || true)"
report "no trailing blanks" "$(text | xargs grep -nE ' +$' || true)"
report "no carriage returns" "$(text | xargs grep -ln "$(printf '\r')" || true)"
report "every file ends with one newline" "$(for f in $(text); do
    [ -s "$f" ] || continue
    [ -z "$(tail -c 1 "$f")" ] && [ -n "$(tail -c 2 "$f" | tr -d '\n')" ] || echo "$f"
done)"

formatter=
for name in clang-format-14 clang-format; do
    if command -v $name >/dev/null 2>&1 && $name --version | grep -q 'version 14\.'; then
        formatter=$name
        break
    fi
done
if [ -n "$formatter" ]; then
    report "formatted as .clang-format says" \
        "$(find src tools include examples tests bench -name '*.[ch]' 2>/dev/null | LC_ALL=C sort |
            xargs $formatter --dry-run 2>&1 | grep 'warning:' | cut -d: -f1-2)"
else
    n=$((n + 1))
    echo "ok $n - formatted as .clang-format says # SKIP clang-format 14 is not installed"
fi
echo "1..$n"
