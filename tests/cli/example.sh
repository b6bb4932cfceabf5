#!/bin/sh
# example: examples/*.c, compiled by the build, and chat.c once more as a stranger would, against the shared library.
. "$(dirname "$0")/../cli_tap.sh"
build=$(dirname "$QUERN")
printf 'What is the capital of Japan?\nSay "it" again\\, please.\n' >"$W/lines"

if [ -x "$build/examples/chat" ]; then
    fed "the example chats" 0 "$W/lines" "$build/examples/chat" "$DEMO"
    cp "$W/out" "$W/first"
    [ "$(wc -l <"$W/out")" -ge 2 ]
    verdict $? "an answer to each line" "$W/out"
    fed "once more" 0 "$W/lines" "$build/examples/chat" "$DEMO"
    same "the same answers" "$W/first" "$W/out"
    ran "no model" 2 "$build/examples/chat"
    ran "a model that is not there" 1 "$build/examples/chat" "$W/none.gguf"
    holds "says so" "$W/err" "none.gguf"
else
    skip "the example chats" "it was not built"
fi

if [ -x "$build/examples/batch" ]; then
    ran "the example answers prompts together" 0 "$build/examples/batch" "$DEMO" "The capital of France is" "One, two, three," "Once upon a time"
    sort "$W/out" >"$W/together"
    [ "$(cut -d: -f1 "$W/together" | uniq | tr '\n' ' ')" = "1 2 3 " ]
    verdict $? "an answer to each" "$W/out"
    ran "one alone" 0 "$build/examples/batch" "$DEMO" "The capital of France is"
    grep '^1: ' "$W/together" >"$W/first_of_three"
    sort "$W/out" >"$W/alone"
    same "the same answer" "$W/first_of_three" "$W/alone"
    ran "no prompt" 2 "$build/examples/batch" "$DEMO"
else
    skip "the example answers prompts together" "it was not built"
fi

library=
for file in "$build/libquern.so" "$build/libquern.dylib"; do
    [ -e "$file" ] && library=$file
done
if command -v cc >/dev/null 2>&1 && [ -n "$library" ] && [ -s "$W/first" ]; then
    ran "it compiles as plain C11 against the shared library" 0 cc -std=c11 -pedantic -Wall -Wextra -Werror -I"$SRC/include" \
        "$SRC/examples/chat.c" "$library" -Wl,-rpath,"$build" -o "$W/chat"
    fed "and chats" 0 "$W/lines" "$W/chat" "$DEMO"
    same "the same answers" "$W/first" "$W/out"
else
    skip "it compiles against the shared library" "no compiler or no library here"
fi
plan
