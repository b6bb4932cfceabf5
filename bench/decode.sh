#!/bin/sh
# How near decoding comes to the memory's limit: tokens/s and the share of the bandwidth that is measured right after, in the same
# process, for each weight type of a shape and of the demo model. Median of three runs each.
#
# usage: bench/decode.sh [SHAPE]       after ./dev build; needs room for one model at a time in $TMPDIR
set -eu
cd "$(dirname "$0")/.."
shape=${1:-llama-3.2-1b}
work=$(mktemp -d "${TMPDIR:-/tmp}/quern-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
ninja -C build bench/make_model >/dev/null

measure() { # NAME MODEL
    for run in 1 2 3; do
        build/quern run "$2" --tokens 1,2,3,4 --temp 0 -n 64 --ignore-eos --print-tokens --verbose 2>&1 >/dev/null |
            awk '/^answer/ { for (i = 1; i <= NF; i++) if ($i == "tokens/s") t = $(i - 1) }
                 /^memory/ { gb = $2; share = $5; limit = $8 } END { print t, gb, share, limit }'
    done | sort -n | awk -v name="$1" 'NR == 2 { printf "%-24s %8s tokens/s  %6s of %6s GB/s  %s\n", name, $1, $2, $4, $3 }'
}

demo=share/Llama-Quern-34M-Q8_0.gguf
for type in q8_0 f16 f32; do
    build/quern quantize "$demo" "$work/demo.gguf" $type >/dev/null
    measure "demo $type" "$work/demo.gguf"
    rm -f "$work/demo.gguf"
done
for type in q8_0 f16 bf16 f32; do
    build/bench/make_model "$shape" $type "$work/model.gguf"
    measure "$shape $type" "$work/model.gguf"
    rm -f "$work/model.gguf"
done
