#!/bin/sh
# Files that llama.cpp reads too, both ways. llama.cpp is that of the npm package node-llama-cpp, which is installed on first use
# (bench/peers/install.sh) in $QUERN_PEERS, by default quern-peers in the user's cache folder.
#
#   - What Quern converts and quantises gives the same logits there: with float weights up to rounding, and then the same tokens;
#     with quantised ones up to what quantising activations costs, which each does in its own way. Where the weights are rounded
#     by more than that, the logits of the weights before must not pass.
#   - What llama.cpp's quantiser writes is read here, and gives the same logits.
set -eu

# Conformance models, by the names of their folders. These are not among them, of which llama.cpp knows less than the reference:
#   llama_dynamic              no scaling of this kind
#   llama_longrope             chooses its factors by the size of the context
#   llama_yarn_given, gpt_oss  bounds of YaRN: its own for most architectures, and always whole numbers
#   mistral                    no window; llama4: chunks and temperatures only as its published models have them
#   gemma2                     attention scale from the size of a head; deepseek_v2: full queries only in 26 or 27 layers
#   phi3                       wants tokens that this small vocabulary lacks
models="llama_tied llama_mqa llama_bias llama_linear llama_yarn mistral3_text mixtral qwen2 qwen2_moe qwen3 qwen3_moe gemma3 gemma4
    gemma4_moe cohere2 olmo2 granite smollm3 glm4_moe deepseek_v3 qwen3_next qwen3_5 qwen3_5_moe lfm2"
# Types and mixes that are written here.
types="q8_0 q6_k q5_k_m q5_k_s q4_k_m q4_k_s q3_k_l q3_k_m q3_k_s q2_k q2_k_s iq4_nl iq4_xs mxfp4 q5_1 q5_0 q4_1 q4_0"
# Those written there, with their numbers in llama.h; it wants an importance matrix for the others that are not written here.
peer_types="q4_0:2 q8_0:7 q5_1:9 q2_k:10 q3_k_m:12 q4_k_m:15 q6_k:18 iq3_s:26 tq1_0:36 tq2_0:37"
# What quantising activations may cost: 0.7 to 1.6 % was seen, and 2.1 % of the ruin that ternary weights leave of this model.
near=0.025

peers=${QUERN_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/quern-peers}
shared=${QUERN_SHARED:-$SOURCE_ROOT/../shared}
demo=$SOURCE_ROOT/share/Llama-Quern-34M-Q8_0.gguf
peer_quantize=$(dirname "$QUERN")/tests/models/peer_quantize
make_lora=$(dirname "$QUERN")/tests/models/make_lora
work=$(mktemp -d "${TMPDIR:-/tmp}/quern-test.XXXXXX")
trap 'rm -rf "$work"' EXIT

skip() {
    echo "1..0 # SKIP $1"
    exit 0
}
for program in node npm; do
    command -v $program >/dev/null 2>&1 || skip "$program is not installed"
done
[ "$(node -p 'process.versions.node.split(".")[0]')" -ge 20 ] || skip "node-llama-cpp needs node 20"
sh "$SOURCE_ROOT/bench/peers/install.sh" "$peers" 2>"$work/npm.txt" ||
    skip "node-llama-cpp could not be installed: $(grep -m 1 'npm ' "$work/npm.txt" || true)"
cd "$work"

# job NAME MODEL.gguf TOKENS LIMIT MODE [ADAPTER]: the same logits within LIMIT, and MODE: "greedy" (the same tokens), "alike"
# (nothing more), or a file of logits that must be off by more.
job() {
    greedy=null unlike=null lora=null
    if [ -n "${6-}" ]; then lora="\"$work/$6\""; fi
    "$QUERN" logits "$2" ${6:+--lora "$6"} --tokens "$3" --kv f32 --out "$2${6-}.bin"
    case $5 in
    greedy) greedy="[$("$QUERN" run "$2" ${6:+--lora "$6"} --tokens "$3" --temp 0 -n 24 --kv f32 --ignore-eos --print-tokens \
        </dev/null)]" ;;
    alike) ;;
    *) unlike="\"$5\"" ;;
    esac
    printf '{"name":"%s","model":"%s","lora":%s,"tokens":[%s],"logits":"%s","limit":%s,"greedy":%s,"unlike":%s}\n' \
        "$1" "$work/$2" "$lora" "$3" "$2${6-}.bin" "$4" "$greedy" "$unlike" >>jobs.txt
}

tar xJf "$SOURCE_ROOT/tests/data/conformance.tar.xz"
missing=
for model in $models; do
    if [ ! -d "conformance/$model" ]; then missing="$missing conformance/$model"; fi
done
# shellcheck disable=SC2086 # a list of names
if [ -n "$missing" ] && [ -f "$shared/conformance.tar.xz" ]; then tar xJf "$shared/conformance.tar.xz" $missing; fi
noise=$(awk 'BEGIN { for (i = 0; i < 40; i++) printf "%s%d", i ? "," : "", 3 + i * 37 % 300 }')
for model in $models; do
    if [ ! -d "conformance/$model" ]; then
        echo "ok - $model # SKIP no shared reference data"
        continue
    fi
    "$QUERN" convert "conformance/$model" "$model.gguf" --type f32 >convert.txt
    job "$model f32" "$model.gguf" "$noise" 0.001 greedy
done

# Adapters that make_lora writes.
adapter() { # MODEL TYPE FLAG...
    base=$1 type=$2
    shift 2
    [ -f "$base.gguf" ] || return 0
    "$make_lora" "$@" --type "$type" "conformance/$base" peft "$base.$type.lora" merged
    job "$base with an adapter in $type" "$base.gguf" "$noise" 0.001 greedy "$base.$type.lora"
}
adapter llama_tied f32 --turned 4,2
adapter llama_tied f16 --turned 4,2 --rank 32
adapter qwen3 f32 --arch qwen3

# llama.cpp rounds activations to the type of the weights where that is bf16 or f16.
text="The mill turns. What is the capital of Japan, and what is 7 + 5? I do not know."
ids=$("$QUERN" tokenize "$demo" --json -p "$text" | tr -d '[] \n')
for type in f32:0.001 bf16:0.01 f16:0.005; do
    "$QUERN" quantize "$demo" "${type%:*}.gguf" "${type%:*}" >quantize.txt
    job "demo model ${type%:*}" "${type%:*}.gguf" "$ids" "${type#*:}" greedy
done
for type in $types; do
    "$QUERN" quantize f32.gguf "$type.gguf" "$type" >quantize.txt
    # The weights were Q8_0 before they were F32.
    if [ "$type" = q8_0 ]; then mode=alike; else mode=f32.gguf.bin; fi
    job "demo model $type" "$type.gguf" "$ids" $near "$mode"
done

library=$(find "$peers/node_modules/@node-llama-cpp" -name 'libllama.*' ! -type d | head -n 1)
if [ -n "$library" ]; then
    for type in $peer_types; do
        name=${type%:*}
        if ! "$peer_quantize" "$library" bf16.gguf "peer-$name.gguf" "${type#*:}" >quantize.txt 2>&1; then
            tail -n 3 quantize.txt | sed 's/^/# /'
            echo "not ok - $name: llama.cpp writes it"
            continue
        fi
        if [ "$name" = q8_0 ]; then mode=alike; else mode=bf16.gguf.bin; fi
        job "demo model $name by llama.cpp" "peer-$name.gguf" "$ids" $near "$mode"
    done
else
    echo "ok - files that llama.cpp writes # SKIP the package holds no libllama"
fi
node "$SOURCE_ROOT/tests/models/interchange.mjs" "$peers" <jobs.txt
