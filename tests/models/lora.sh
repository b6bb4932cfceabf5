#!/bin/sh
# LoRA adapters made by make_lora for models that the project keeps, as PEFT saves them and as GGUF files, on models of either
# kind:
#
#   - model and adapter give the logits of the model with the adapter merged in double precision, within 1e-5 of their standard
#     deviation (root mean square; rounding costs 1e-6 or so);
#   - so do two adapters, half of one, and one with scales of its own;
#   - so does a file that has it merged by quern convert or quern quantize;
#   - quern show tells what an adapter is, and what cannot be one says so.
set -eu

work=$(mktemp -d "${TMPDIR:-/tmp}/quern-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
shared=${QUERN_SHARED:-$SOURCE_ROOT/../shared}
make_lora=$(dirname "$QUERN")/tests/models/make_lora
make_mlx=$(dirname "$QUERN")/tests/models/make_mlx
tar xJf "$SOURCE_ROOT/tests/data/conformance.tar.xz" -C "$work"
cd "$work"

. "$SOURCE_ROOT/tests/checks.sh"

ids=$(awk 'BEGIN { for (i = 0; i < 40; i++) printf "%s%d", i ? "," : "", 3 + i * 37 % 300 }')
logits() { # MODEL OUT OPTION...
    weights=$1 out=$2
    shift 2
    "$QUERN" logits "$weights" --tokens "$ids" --kv f32 --out "$out" "$@"
}
floats() { od -A n -v -t f4 "$1" | tr -s ' ' '\n' | sed '/^$/d'; }
near() { # GOT WANT
    floats "$1" >got.txt
    floats "$2" | paste - got.txt | awk 'NF != 2 { exit 1 }
        { s += $1; q += $1 * $1; d += ($1 - $2) ^ 2 }
        END { m = s / NR; r = sqrt(d / NR) / sqrt(q / NR - m * m); printf "# off by %.1e\n", r; exit !(r <= 1e-5) }'
}
gives() { # WANT MODEL OPTION...
    want=$1 base=$2
    shift 2
    logits "$base" now.bin "$@" && near now.bin "$want"
}
differs() { ! cmp -s "$1" "$2"; }

# Flags: those of make_lora; for the GGUF file the architecture, and where rows are turned the heads of q and k.
while read -r model flags; do
    folder=conformance/$model
    if [ ! -d "$folder" ] && [ -f "$shared/conformance.tar.xz" ]; then tar xJf "$shared/conformance.tar.xz" "$folder"; fi
    if [ ! -d "$folder" ]; then
        ok "$model # SKIP no shared reference data"
        continue
    fi
    rm -rf peft lora.gguf merged model.gguf
    # shellcheck disable=SC2086 # flags
    "$make_lora" $flags "$folder" peft lora.gguf merged
    "$QUERN" convert "$folder" model.gguf --type f32 >convert.txt
    logits merged merged.bin
    logits "$folder" plain.bin
    check "$model $flags: the adapter changes the logits" differs plain.bin merged.bin
    for base in "$folder" model.gguf; do
        check "$model $flags: PEFT's on ${base##*/}" gives merged.bin "$base" --lora peft
        check "$model $flags: GGUF's on ${base##*/}" gives merged.bin "$base" --lora lora.gguf
    done
    "$QUERN" convert "$folder" model.gguf --type f32 --lora peft >convert.txt
    check "$model $flags: merged" gives merged.bin model.gguf
done <<END
llama_tied --turned 4,2
llama_tied --turned 4,2 --rank 32 --type q8_0
llama_tied --turned 4,2 --rslora yes --rank 5 --type bf16
llama_bias --turned 2,1 --type f16 --only q_proj,k_proj
phi3 --arch phi3
qwen3 --arch qwen3 --rank 64
gemma4 --arch gemma4
deepseek_v3 --arch deepseek2
mixtral --turned 4,2
END

# Several at once, and scales.
rm -rf peft merged model.gguf
"$make_lora" --own k_proj=48 --turned 4,2 conformance/llama_tied peft lora.gguf merged
"$make_lora" --seed 2 --rank 16 --turned 4,2 merged peft2 lora2.gguf merged2
"$make_lora" --turned 4,2 conformance/llama_tied peft3 lora3.gguf merged3
"$QUERN" convert conformance/llama_tied model.gguf --type f32 >convert.txt
"$QUERN" convert merged3 merged3.gguf --type f32 --name x >convert.txt
for folder in merged merged2 merged3; do logits $folder $folder.bin; done
check "alpha_pattern" gives merged.bin model.gguf --lora peft
check "two adapters" gives merged2.bin conformance/llama_tied --lora peft --lora lora2.gguf
sed 's/"lora_alpha": 16/"lora_alpha": 32/' peft3/adapter_config.json >twice.json
mv twice.json peft3/adapter_config.json
check "half of twice the adapter" gives merged3.bin model.gguf --lora-scaled peft3:0.5
logits model.gguf plain.bin
logits model.gguf none.bin --lora-scaled peft:0
check "a scale of 0 changes nothing" cmp plain.bin none.bin
both() { logits model.gguf one.bin --lora peft --lora lora2.gguf && logits model.gguf other.bin --lora peft --lora peft2 && cmp one.bin other.bin; }
check "both kinds of files are the same adapter" both

# Merged by convert and by quantize: in F32 the weights of make_lora, but for the type that the source has.
"$QUERN" convert conformance/llama_tied merged_a.gguf --type f32 --name x --lora peft --lora lora2.gguf >convert.txt
"$QUERN" quantize model.gguf merged_b.gguf f32 --name x --lora peft --lora peft2 >convert.txt
"$QUERN" convert merged2 merged_c.gguf --type f32 --name x >convert.txt
check "merged by convert" gives merged2.bin merged_a.gguf
check "merged by quantize" gives merged2.bin merged_b.gguf
"$QUERN" quantize model.gguf merged_t1.gguf q8_0 --name x --lora-scaled peft3:0.5 -t 1 >convert.txt
"$QUERN" quantize model.gguf merged_t2.gguf q8_0 --name x --lora-scaled peft3:0.5 -t 2 >convert.txt
"$QUERN" quantize merged3.gguf merged_q.gguf q8_0 --name x >convert.txt
check "merged the same with any number of threads" cmp merged_t1.gguf merged_t2.gguf
check "merged into another type" cmp merged_t1.gguf merged_q.gguf

# Beside weights that are used in place in a type of their own: the same sums as beside the same weights in F32.
"$make_mlx" --mode mxfp8 --bits 8 --group 32 conformance/llama_tied mlx exact
logits exact exact.bin --lora peft3
logits mlx mlx.bin --lora peft3
check "on an MLX folder" cmp mlx.bin exact.bin

shows() { "$QUERN" show "$1" | grep -q "^$2"; }
check "show: a folder" shows peft "rank  *8"
check "show: its kind" shows lora.gguf "file_kind  *GGUF LoRA adapter"
refuses() { # WORDS COMMAND...
    words=$1
    shift
    if "$@" >out.txt 2>err.txt; then return 1; fi
    grep -q "$words" err.txt
}
check "no adapter is a model" refuses "is a LoRA adapter; give it beside its model" "$QUERN" run lora.gguf hello
check "no folder of an adapter, either" refuses "is a LoRA adapter; give it beside its model" "$QUERN" run peft hello
check "no model is an adapter" refuses "expected adapter and lora" logits model.gguf now.bin --lora model.gguf
check "none is given twice" refuses "is given twice" logits model.gguf now.bin --lora peft --lora peft
check "a scale is a number" refuses "FILE:SCALE" logits model.gguf now.bin --lora-scaled peft:x
check "it is for this model" refuses "for another model" "$QUERN" logits "$SOURCE_ROOT/share/Llama-Quern-34M-Q8_0.gguf" \
    --tokens 1 --out now.bin --lora peft
head -c 3000 lora.gguf >cut.gguf
check "it is whole" refuses "cut.gguf: " logits model.gguf now.bin --lora cut.gguf
echo "1..$n"
