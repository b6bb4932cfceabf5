#!/bin/sh
# MLX folders of every mode, made by make_mlx from models that the project keeps, beside F32 folders of the same weights:
#
#   - both become the same F32 GGUF file, so each weight is read right to the last bit;
#   - the modes whose weights are floats give the logits of the F32 folder exactly; the others are off by what rounding
#     activations to 8 bits costs: 2.5 to 4 % of the logits' spread (root mean square) on these random models, 6 % allowed;
#   - logits are the same for every batch, thread count and CPU level;
#   - the demo model in 4 and 8 bits has nearly the perplexity of its bf16 weights.
set -eu

work=$(mktemp -d "${TMPDIR:-/tmp}/quern-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
shared=${QUERN_SHARED:-$SOURCE_ROOT/../shared}
make_mlx=$(dirname "$QUERN")/tests/models/make_mlx
tar xJf "$SOURCE_ROOT/tests/data/conformance.tar.xz" -C "$work"
models=$work/conformance
cd "$work"

. "$SOURCE_ROOT/tests/checks.sh"

ids=$(awk 'BEGIN { for (i = 0; i < 40; i++) printf "%s%d", i ? "," : "", 3 + i * 37 % 300 }')
logits() { "$QUERN" logits "$1" --tokens "$ids" --kv f32 --out "$2" "$3" "$4" "$5" "$6" "$7" "$8" 2>"$2.err"; }
plain() { "$QUERN" logits "$1" --tokens "$ids" --kv f32 --out "$2"; }

floats() { od -A n -v -t f4 "$1" | tr -s ' ' '\n' | sed '/^$/d'; }
# near GOT WANT: the root of the mean square of the differences, within 6 % of the standard deviation of WANT
near() {
    floats "$1" >got.txt
    floats "$2" | paste - got.txt | awk 'NF != 2 { exit 1 }
        { s += $1; q += $1 * $1; d += ($1 - $2) ^ 2 }
        END { m = s / NR; r = sqrt(d / NR) / sqrt(q / NR - m * m); printf "# off by %.2f %%\n", 100 * r; exit !(r <= 0.06) }'
}

same_everywhere() { # FOLDER REFERENCE
    for level in scalar avx2 avxvnni avx512 neon dotprod; do
        for way in "512 1" "512 2" "7 2" "1 1"; do
            # The scalar kernels take most of the time; test_kernels holds the others against them for every batch.
            if [ $level = scalar ] && [ "$way" != "7 2" ]; then continue; fi
            if logits "$1" now.bin --cpu $level --batch "${way% *}" --threads "${way#* }"; then
                cmp now.bin "$2" || return 1
            else
                grep -q "not available on this machine" now.bin.err || return 1
            fi
        done
    done
}

same_weights() {
    "$QUERN" convert mlx mlx.gguf --type f32 --name x >convert.txt && "$QUERN" convert exact exact.gguf --type f32 --name x \
        >convert.txt && cmp mlx.gguf exact.gguf
}

while read -r model compare flags; do
    rm -rf mlx exact
    # shellcheck disable=SC2086 # flags
    "$make_mlx" $flags "$models/$model" mlx exact
    plain mlx mlx.bin
    plain exact exact.bin
    check "$model $flags: the same weights" same_weights
    check "$model $flags: the logits of F32 weights" $compare mlx.bin exact.bin
    check "$model $flags: the same logits on every level" same_everywhere mlx mlx.bin
done <<END
llama_tied near --bits 4
llama_tied near --bits 8
llama_tied near --bits 2 --group 128 --scales f32
llama_tied near --bits 3 --scales bf16
llama_tied near --bits 5 --group 32 --scales bf16
llama_tied near --bits 6 --group 128
llama_tied near --mode mxfp4 --group 32
llama_tied cmp --mode mxfp8 --group 32 --bits 8
llama_tied cmp --mode nvfp4 --group 16
llama_bias near --bits 4 --group 32
llama_yarn near --bits 4 --own model.layers.0.mlp.down_proj=8,32,affine --own model.layers.1.self_attn.q_proj=false --own model.embed_tokens=4,32,mxfp4 --own lm_head=8,32,mxfp8
llama_mqa near --bits 8 --group 32
END

shows() { "$QUERN" show mlx --tensors | grep -q "^model.layers.0.mlp.down_proj.weight *$1 "; }
"$make_mlx" --own model.layers.0.mlp.down_proj=8,128,affine "$models/llama_tied" mlx
check "the type and group of a matrix are shown" shows "mlx8 g128"
refuses_as_stored() { "$QUERN" convert mlx out.gguf 2>err.txt && return 1; grep -q "mlx4, a type that GGUF files don't have" err.txt; }
check "a GGUF file cannot hold a matrix as it is stored" refuses_as_stored

# Perplexity of the first 512 tokens, beside that of the weights as they are.
perplexity() { "$QUERN" perplexity "$1" -f text.txt --ctx 256 --json | tr -d '{}" ' | tr ',' '\n' | awk -F: '$1 == "ppl" { print $2 }'; }
within() { awk -v g="$1" -v w="$2" -v t="$3" 'BEGIN { d = g / w - 1; printf "# %s, bf16 %s: %+.2f %%\n", g, w, 100 * d; exit !(d < t && d > -t) }'; }
if [ -d "$shared/demo-model/main" ]; then
    head -c 2600 "$shared/demo-model/val.txt" >text.txt
    want=$(perplexity "$shared/demo-model/main")
    while read -r limit flags; do
        rm -rf mlx
        # shellcheck disable=SC2086 # flags
        "$make_mlx" $flags "$shared/demo-model/main" mlx
        check "demo model $flags: perplexity within $limit of bf16" within "$(perplexity mlx)" "$want" "$limit"
    done <<END
0.08 --bits 4
0.005 --bits 8
0.005 --mode mxfp8 --bits 8 --group 32
0.08 --mode nvfp4 --group 16
END
else
    ok "the demo model # SKIP no shared reference data"
fi
echo "1..$n"
