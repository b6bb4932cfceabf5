#!/bin/sh
# help: every command explains itself, the manual and the completions know every option, and no option of the manual is invented.
. "$(dirname "$0")/../cli_tap.sh"

ran "quern --help" 0 "$QUERN" --help
sed -n 's/^  \([a-z]*\)  *[a-z].*/\1/p' "$W/out" >"$W/commands"
for name in run show doctor tokenize detokenize render logits perplexity bench serve convert quantize imatrix; do
    grep -qx $name "$W/commands"
    verdict $? "the list of commands has $name" "$W/commands"
done
ran "quern help is the same" 0 "$QUERN" help
ran "quern --version" 0 "$QUERN" --version
grep -qE '^quern [0-9]+\.[0-9]+\.[0-9]+$' "$W/out"
verdict $? "a version" "$W/out"

# The options of a part of the manual: lines after .TP that begin with a dash.
man_options() { # HEADING
    sed 's/\\-/-/g; s/\\f[A-Z]//g' "$SRC/docs/quern.1" | awk -v heading="$1" '
        /^\.S[HS] / { inside = index($0, heading) == 5 && (length($0) == length(heading) + 4 || substr($0, length(heading) + 5, 1) == " ") }
        inside && tagged && /^-/ { print }
        { tagged = /^\.TP/ }' | tr ' ,' '\n\n' | grep '^-' | sort -u
}

# The options of a page of help: first columns of its lines.
help_options() {
    grep '^  -' "$1" | sed 's/^  //; s/  .*//' | tr ' ,' '\n\n' | grep '^-' | sort -u
}

while read -r name; do
    ran "quern $name --help" 0 "$QUERN" "$name" --help
    cp "$W/out" "$W/help"
    ran "quern help $name" 0 "$QUERN" help "$name"
    same "both are the same for $name" "$W/help" "$W/out"
    awk 'length($0) > 80 { long = 1 } END { exit long }' "$W/help"
    verdict $? "the help of $name fits 80 columns" "$W/help"
    help_options "$W/help" >"$W/helped"
    {
        man_options "quern $name"
        grep -q '^Model:' "$W/help" && man_options Model
        grep -q '^Sampling:' "$W/help" && man_options Sampling
        grep -q '^Form of the answer:' "$W/help" && man_options "Form of the answer"
        grep -q '^Speculation:' "$W/help" && man_options Speculation
        grep -q '^Computing:' "$W/help" && man_options Computing
        grep -q '^Types of tensors:' "$W/help" && man_options "Types of tensors"
    } | sort -u >"$W/manual"
    same "the manual has the options of $name, and no other" "$W/helped" "$W/manual"
    for shell in bash zsh fish; do
        "$QUERN" completion $shell >"$W/completion"
        missing=
        while read -r option; do
            word=$option
            [ $shell = fish ] && word=$(printf '%s' "$option" | sed 's/^-*//')
            grep -qE -e "(^|[ '|*])$word([] '|)[]|\$)" "$W/completion" || missing="$missing $option"
        done <"$W/helped"
        echo "$missing" >"$W/missing"
        [ -z "$missing" ]
        verdict $? "the $shell completion has the options of $name" "$W/missing"
    done
done <"$W/commands"

for shell in bash zsh fish; do
    command -v $shell >/dev/null 2>&1 || { skip "$shell reads its completion" "no $shell here" && continue; }
    "$QUERN" completion $shell >"$W/completion"
    ran "$shell reads its completion" 0 $shell -n "$W/completion"
done

# What bash makes of it.
if command -v bash >/dev/null 2>&1; then
    cat >"$W/try.bash" <<'END'
. "$1"
try() { COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=(); _quern; echo "${COMPREPLY[*]}"; }
try quern tok
try quern run --cache-type-k ''
try quern logits --threa
END
    "$QUERN" completion bash >"$W/completion"
    ran "bash completes" 0 bash "$W/try.bash" "$W/completion"
    prints "commands, choices and options" "tokenize
f16 f32 bf16 q8_0 q4_0
--threads"
else
    skip "bash completes" "no bash here"
fi

if command -v mandoc >/dev/null 2>&1; then
    ran "the manual is well-formed" 0 mandoc -T lint -W error "$SRC/docs/quern.1"
elif command -v groff >/dev/null 2>&1; then
    ran "the manual is well-formed" 0 groff -man -ww -z "$SRC/docs/quern.1"
    [ ! -s "$W/err" ]
    verdict $? "without warnings" "$W/err"
else
    skip "the manual is well-formed" "no mandoc or groff here"
fi
plan
