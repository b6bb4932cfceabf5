#!/bin/sh
# The same bytes on arm64 as on this machine: logits of the small conformance model at every level, and what the demo model says.
# $QUERN_ARM64 is the cross-built program; qemu-aarch64 runs it.
set -eu

work=$(mktemp -d "${TMPDIR:-/tmp}/quern-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
tar xJf "$SOURCE_ROOT/tests/data/conformance.tar.xz" -C "$work"
model=$work/conformance/llama_tied
tokens=198,94,219,205,225,280,283,406,455,374,321,261,315,270,263,289,336,274,287,371
n=0

arm() { qemu-aarch64 -cpu max,pauth-impdef=on "$QUERN_ARM64" "$@"; }

same() { # NAME FILE FILE
    n=$((n + 1))
    if [ -s "$2" ] && cmp -s "$2" "$3"; then echo "ok $n - $1"; else echo "not ok $n - $1"; fi
}

"$QUERN" logits "$model" --tokens $tokens --out "$work/here"
for level in scalar neon dotprod i8mm; do
    arm logits "$model" --tokens $tokens --batch 7 --threads 1 --cpu $level --out "$work/there"
    same "logits at $level" "$work/here" "$work/there"
done
for type in q4_k_m q3_k_m q2_k iq4_xs q5_1 mxfp4; do
    if ! "$QUERN" quantize "$SOURCE_ROOT/share/Llama-Quern-34M-Q8_0.gguf" "$work/model.gguf" $type >"$work/said" 2>&1; then
        n=$((n + 1))
        echo "ok $n - logits of $type # SKIP this build does not write it"
        continue
    fi
    "$QUERN" logits "$work/model.gguf" --tokens 1,2,3,4,5,6,7,8,9,10,11 --out "$work/here"
    for level in neon dotprod i8mm; do
        arm logits "$work/model.gguf" --tokens 1,2,3,4,5,6,7,8,9,10,11 --batch 7 --threads 1 --cpu $level --out "$work/there"
        same "logits of $type at $level" "$work/here" "$work/there"
    done
done
for prompt in "Tell me a short story." "What is the capital of Japan?"; do
    "$QUERN" run "$prompt" -n 24 --seed 7 </dev/null >"$work/here"
    arm run "$prompt" -n 24 --seed 7 </dev/null >"$work/there"
    same "run \"$prompt\"" "$work/here" "$work/there"
done
echo "1..$n"
