#!/bin/sh
# Tiny models with a head for multi-token prediction, which make_mtp writes as folders: quern convert carries the head into GGUF
# files, quern show names it, and answers with its guesses are those without, with any number of threads.
set -eu

work=$(mktemp -d "${TMPDIR:-/tmp}/quern-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
make_mtp=$(dirname "$QUERN")/tests/models/make_mtp
cd "$work"

. "$SOURCE_ROOT/tests/checks.sh"

answer() { # MODEL OPTION...
    model=$1
    shift
    "$QUERN" run "$model" --tokens 1,60,70,80,90,60,70 --temp 0.5 --seed 4 -n 100 --ignore-eos --print-tokens "$@"
}
same() { [ "$1" = "$2" ]; }
has_head() { "$QUERN" show "$1" --json | grep -q '"mtp_layers": *1'; }

for kind in deepseek_v3 glm4_moe qwen3_5 qwen3_next; do
    mkdir $kind
    "$make_mtp" $kind $kind
    "$QUERN" convert $kind $kind.gguf --mtp >convert.txt
    "$QUERN" quantize $kind.gguf $kind-q8_0.gguf q8_0 >quantize.txt
    for model in $kind $kind.gguf $kind-q8_0.gguf; do
        check "$model: quern show names the head" has_head $model
        want=$(answer $model --speculate off -t 1)
        for how in mtp auto; do
            check "$model: --speculate $how, 1 thread" same "$want" "$(answer $model --speculate $how -t 1)"
            check "$model: --speculate $how, 2 threads" same "$want" "$(answer $model --speculate $how -t 2)"
        done
    done
    "$QUERN" convert $kind without.gguf --no-mtp >convert.txt
    if has_head without.gguf; then bad "$kind: --no-mtp"; else
        check "$kind: without the head" same "$(answer $kind)" "$(answer without.gguf)"
    fi
    check "$kind: the GGUF file answers as the folder" same "$(answer $kind)" "$(answer $kind.gguf)"
    "$QUERN" bench $kind-q8_0.gguf -p 0 -n 16 -r 1 --speculate mtp >bench.txt
    check "$kind: quern bench --speculate mtp" grep -q 'with speculation' bench.txt
done

"$QUERN" convert deepseek_v3 plain.gguf >convert.txt 2>err.txt
if has_head plain.gguf; then bad "deepseek_v3: what llama.cpp cannot read"; else
    check "deepseek_v3: a head that llama.cpp cannot read stays behind, with a note" grep -q -e '--mtp takes it along' err.txt
fi
"$QUERN" convert glm4_moe plain.gguf >convert.txt 2>err.txt
check "glm4_moe: a head that llama.cpp can read goes along" has_head plain.gguf
if "$QUERN" quantize glm4_moe.gguf out.gguf q8_0 --no-mtp >out.txt 2>err.txt; then bad "--no-mtp of a GGUF file"; else
    check "--no-mtp is for folders" grep -q 'asked of Hugging Face folders only' err.txt
fi
if "$QUERN" run --tokens 1,2 -n 1 --speculate mtp >out.txt 2>err.txt; then bad "a model without a head"; else
    check "a model without a head says so" grep -q 'no head for multi-token prediction' err.txt
fi
echo "1..$n"
