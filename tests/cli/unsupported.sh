#!/bin/sh
# unsupported: what a model has that Quern does not compute. Where leaving it out would change the answer, opening fails and names it;
# the rest is listed by `quern show`.
. "$(dirname "$0")/../cli_tap.sh"

tar xJf "$SRC/tests/data/conformance.tar.xz" -C "$W" conformance/llama_mqa
model=$W/conformance/llama_mqa
cp "$model/config.json" "$W/config.json"

with() { # MEMBER: config.json as it was, and this behind it
    sed "s|\"transformers_version\": .*|&, $1|" "$W/config.json" >"$model/config.json"
}

ran "as it is" 0 "$QUERN" show "$model"
holds "nothing is missing" "$W/out" "unsupported: nothing"
ran "in JSON" 0 "$QUERN" show "$model" --json
holds "nothing is missing there" "$W/out" '"unsupported":[]'

# Each of these changes what the model computes.
while IFS='|' read -r name member; do
    with "$member"
    ran "$member" 1 "$QUERN" logits "$model" --tokens 1,2,3 --out "$W/logits"
    one_line "one plain line"
    holds "names it" "$W/err" "$name"
    ran "show fails, too" 1 "$QUERN" show "$model"
done <<'END'
rotary scaling "spiral"|"rope_scaling": {"rope_type": "spiral", "factor": 2.0}
hidden_act "mish"|"hidden_act": "mish"
quantization_config|"quantization_config": {"quant_method": "gptq", "bits": 4}
quantization_config|"quantization_config": {"quant_method": "awq", "bits": 4}
quantization_config|"quantization_config": {"quant_method": "fp8"}
position_embedding_type|"position_embedding_type": "relative_key"
clip_qkv|"clip_qkv": 8.0
sliding_window|"sliding_window": "wide"
END
[ ! -e "$W/logits" ]
verdict $? "no output was made"

# A file more, with one number.
beside() { # TENSOR
    header="{\"$1\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"
    { printf "\\$(printf %o ${#header})\\0\\0\\0\\0\\0\\0\\0%s\\0\\0\\0\\0" "$header"; } >"$model/more.safetensors"
    sed "s|\"lm_head.weight\"|\"$1\": \"more.safetensors\", &|" "$W/index.json" >"$model/model.safetensors.index.json"
}
cp "$W/config.json" "$model/config.json"
cp "$model/model.safetensors.index.json" "$W/index.json"

for tensor in model.layers.1.self_attn.sinks model.layers.0.self_attn.q_norm.bias model.layers.1.mlp.experts.0.w1.weight; do
    beside "$tensor"
    ran "$tensor" 1 "$QUERN" logits "$model" --tokens 1,2,3 --out "$W/logits"
    holds "names it" "$W/err" "$tensor"
done

cp "$W/index.json" "$model/model.safetensors.index.json"
ran "logits of what is there" 0 "$QUERN" logits "$model" --tokens 1,2,3 --out "$W/before"
for row in "vision|vision_tower.blocks.0.weight" "audio|model.audio_tower.layers.0.weight" \
    "multi-token prediction|model.layers.2.self_attn.q_proj.weight" "unknown tensors|model.something" \
    "unknown tensors|model.retina.layers.0.weight"; do
    beside "${row#*|}"
    ran "${row#*|} beside the text model" 0 "$QUERN" show "$model"
    holds "is listed" "$W/out" "${row%|*}: 1 tensors of 4 bytes, such as ${row#*|}"
    ran "the model computes" 0 "$QUERN" logits "$model" --tokens 1,2,3 --out "$W/after"
    same "the same" "$W/before" "$W/after"
done
beside model.layers.0.self_attn.rotary_emb.inv_freq
ran "a table that everybody computes" 0 "$QUERN" show "$model"
holds "makes no difference" "$W/out" "unsupported: nothing"
with '"vision_config": {}'
ran "a part that only config.json tells of" 0 "$QUERN" show "$model" --json
holds "is listed" "$W/out" '"unsupported":["vision: described in config.json"]'

plan
