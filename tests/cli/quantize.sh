#!/bin/sh
# quantize, imatrix, perplexity --kl-divergence: mixes, sizes, importance, and the card of a file.
. "$(dirname "$0")/../cli_tap.sh"
unpack_models
tied=$MODELS/llama_tied
awk 'BEGIN { for (i = 0; i < 400; i++) printf "%s%d ", (i % 7 ? "one two three " : "\n"), i * 37 % 101 }' >"$W/text"
ran "the model as f32" 0 "$QUERN" convert "$tied" "$W/f32.gguf" --type f32

# Every mix, and how the types add up.
for mix in f16 bf16 q8_0 q6_k q5_k_m q5_k_s q5_k q4_k_m q4_k_s q4_k q3_k_l q3_k_m q3_k_s q3_k q2_k q2_k_s iq4_nl iq4_xs mxfp4 mxfp4_moe q5_1 \
    q5_0 q4_1 q4_0; do
    ran "$mix" 0 "$QUERN" quantize "$W/f32.gguf" "$W/mix.gguf" $mix
    "$QUERN" show "$W/mix.gguf" --json >"$W/show" 2>"$W/err" && grep -q '"quantization_version":2\|"general.quantization_version":2' "$W/show"
    verdict $? "opens" "$W/err"
done
ran "convert makes mixes, too" 0 "$QUERN" convert "$tied" "$W/a.gguf" --type Q4_K_M
ran "and quantize the same" 0 "$QUERN" quantize "$tied" "$W/b.gguf" q4_k_m -t 1
same "bytes, with any number of threads" "$W/a.gguf" "$W/b.gguf"
ran "by llama-quantize's number" 0 "$QUERN" quantize "$tied" "$W/n.gguf" 15
same "the same file" "$W/b.gguf" "$W/n.gguf"
ran "--dry-run" 0 "$QUERN" quantize "$W/f32.gguf" "$W/dry.gguf" q4_k_m --dry-run
holds "has a table" "$W/out" "parameters"
[ ! -e "$W/dry.gguf" ]
verdict $? "and writes nothing"
ran "a type without a file" 2 "$QUERN" quantize "$W/f32.gguf" Q4_K_M
holds "says what is missing" "$W/err" "OUT.gguf is missing"

# Wishes.
ran "--tensor-type" 0 "$QUERN" quantize "$W/f32.gguf" "$W/w.gguf" q4_0 --tensor-type 'attn_[qk]\.=f16' --tensor-type 'blk\.0=q8_0' \
    --output-tensor-type bf16
"$QUERN" show "$W/w.gguf" --tensors >"$W/tensors"
for want in "blk.0.attn_q.weight *f16" "blk.0.ffn_up.weight *q8_0" "blk.1.ffn_up.weight *q4_0" "token_embd.weight *bf16"; do
    grep -q "^$want" "$W/tensors"
    verdict $? "$want" "$W/tensors"
done
ran "a pattern without a type" 1 "$QUERN" quantize "$W/f32.gguf" "$W/w.gguf" q4_0 --tensor-type attn_q
one_line "one plain line"
ran "a type that is only read" 1 "$QUERN" quantize "$W/f32.gguf" "$W/w.gguf" q4_0 --tensor-type attn_q=tq1_0
holds "says so" "$W/err" "only read"

# Importance.
ran "imatrix" 0 "$QUERN" imatrix "$W/f32.gguf" -f "$W/text" -c 64 --chunks 4 -o "$W/im.gguf"
holds "says what it wrote" "$W/out" "im.gguf: measured on 4 windows of 64 tokens"
ran "with other threads and batches" 0 "$QUERN" imatrix "$W/f32.gguf" -f "$W/text" -c 64 --chunks 4 -o "$W/im2.gguf" -t 1 -b 7
same "the same bytes" "$W/im.gguf" "$W/im2.gguf"
ran "quantize --imatrix" 0 "$QUERN" quantize "$W/f32.gguf" "$W/w.gguf" q4_0 --imatrix "$W/im.gguf"
"$QUERN" show "$W/w.gguf" --metadata >"$W/metadata"
holds "names the file" "$W/metadata" "quantize.imatrix.file"
ran "quantize --pure" 0 "$QUERN" quantize "$W/f32.gguf" "$W/p.gguf" q4_0 --pure
! cmp -s "$W/w.gguf" "$W/p.gguf"
verdict $? "makes another file"
ran "the matrix as a model" 1 "$QUERN" quantize "$W/im.gguf" "$W/w.gguf" q4_0
holds "says what it is" "$W/err" "im.gguf is an importance matrix and no model"
ran "nor does it run" 1 "$QUERN" run "$W/im.gguf" hi
holds "for the same reason" "$W/err" "im.gguf is an importance matrix and no model"
ran "a model for a matrix" 1 "$QUERN" quantize "$W/f32.gguf" "$W/w.gguf" q4_0 --imatrix "$W/f32.gguf"
one_line "one plain line"

# A size.
whole=$(wc -c <"$W/f32.gguf")
target=$((whole / 4))
ran "--target-size" 0 "$QUERN" quantize "$W/f32.gguf" "$W/t.gguf" --target-size $target --imatrix "$W/im.gguf"
[ "$(wc -c <"$W/t.gguf")" -le $target ]
verdict $? "is not exceeded"
ran "a size and a type" 2 "$QUERN" quantize "$W/f32.gguf" "$W/t.gguf" q4_0 --target-size 1M
ran "a size that cannot be" 1 "$QUERN" quantize "$W/f32.gguf" "$W/t.gguf" --target-size 1000
one_line "one plain line"
ran "no size" 2 "$QUERN" quantize "$W/f32.gguf" "$W/t.gguf" --target-size big

# Divergence.
ran "perplexity --save-all-logits" 0 "$QUERN" perplexity "$W/f32.gguf" -f "$W/text" -c 64 --chunks 3 --save-all-logits "$W/base" --json
ran "a model against itself" 0 "$QUERN" perplexity "$W/f32.gguf" --kl-divergence --kl-divergence-base "$W/base" --json
grep -qE '"mean_kld":-?[0-9.]+(e-[0-9]+)?,.*"same_top":1.0\}' "$W/out"
verdict $? "is the same" "$W/out"
ran "a worse one" 0 "$QUERN" perplexity "$W/p.gguf" --kl-divergence --kl-divergence-base "$W/base"
holds "diverges" "$W/out" "mean divergence"
ran "a model of another vocabulary" 1 "$QUERN" perplexity "$DEMO" --kl-divergence --kl-divergence-base "$W/base"
holds "cannot be compared" "$W/err" "vocabulary"
head -c 200 "$W/base" >"$W/cut"
ran "a cut file" 1 "$QUERN" perplexity "$W/f32.gguf" --kl-divergence --kl-divergence-base "$W/cut"
one_line "one plain line"
ran "no file" 2 "$QUERN" perplexity "$W/f32.gguf" --kl-divergence

# The card.
ran "--card" 0 "$QUERN" quantize "$W/f32.gguf" "$W/card.gguf" q4_0 --card "$W/text" --json
holds "prints it" "$W/out" '"quality":{"ppl":'
"$QUERN" show "$W/card.gguf" --json >"$W/show"
holds "keeps it" "$W/show" '"quern.quality.kld_mean":'
ran "show" 0 "$QUERN" show "$W/card.gguf"
holds "shows it" "$W/out" "quality"
ran "quantize again" 0 "$QUERN" quantize "$W/card.gguf" "$W/f16.gguf" f16
"$QUERN" show "$W/f16.gguf" --json >"$W/show"
! grep -q "quern.quality" "$W/show"
verdict $? "a card is not passed on" "$W/show"
ran "a card that cannot be measured" 1 "$QUERN" quantize "$W/f32.gguf" "$W/none.gguf" q4_0 --card /dev/null
[ ! -e "$W/none.gguf" ]
verdict $? "leaves no file"
leftovers=$(find "$W" -name '*.tmp*' | head -n 3)
[ -z "$leftovers" ]
verdict $? "no temporary file is left"
plan
