#!/bin/sh
# convert, quantize, logits, perplexity, show: files that are written, and that they say the same as what they were made from.
. "$(dirname "$0")/../cli_tap.sh"
unpack_models
tied=$MODELS/llama_tied
tokens=$(awk 'BEGIN { for (i = 0; i < 40; i++) printf "%d,", (i * 37 + 5) % 500; print 7 }')

# logits: contract, and independence of how they are computed.
ran "logits of a folder" 0 "$QUERN" logits "$tied" --tokens "$tokens" --kv f32 --out "$W/folder.bin"
[ ! -s "$W/out" ] && [ ! -s "$W/err" ]
verdict $? "says nothing" "$W/out" "$W/err"
vocab=$(sed -n 's/.*"vocab_size": *\([0-9]*\).*/\1/p' "$tied/config.json")
[ "$(wc -c <"$W/folder.bin")" -eq $((41 * 4 * vocab)) ]
verdict $? "one row of f32 for each token"
for options in "--batch 1 --threads 1" "--batch 7 --threads 2" "--cpu scalar" "-b 512 -t 2"; do
    # shellcheck disable=SC2086 # a list of options
    ran "with $options" 0 "$QUERN" logits "$tied" --tokens "$tokens" --kv f32 --out "$W/again.bin" $options
    same "the same bytes" "$W/folder.bin" "$W/again.bin"
done
printf '[%s]\n' "$tokens" >"$W/ids.json"
ran "--tokens-file" 0 "$QUERN" logits "$tied" --tokens-file "$W/ids.json" --kv f32 -o "$W/again.bin"
same "the same bytes" "$W/folder.bin" "$W/again.bin"
ran "the first five tokens alone" 0 "$QUERN" logits "$tied" --tokens "$(echo "$tokens" | cut -d, -f1-5)" --kv f32 -o "$W/five.bin"
head -c $((5 * 4 * vocab)) "$W/folder.bin" >"$W/head.bin"
same "the same first five rows" "$W/head.bin" "$W/five.bin"

# convert.
ran "convert" 0 "$QUERN" convert "$tied" "$W/tied.gguf"
holds "says what was written" "$W/out" "bits per weight"
ran "logits of the GGUF file" 0 "$QUERN" logits "$W/tied.gguf" --tokens "$tokens" --kv f32 --out "$W/gguf.bin"
ran "tokens of the folder" 0 "$QUERN" run "$tied" --tokens "$tokens" --kv f32 --temp 0 -n 24 --ignore-eos --print-tokens
cp "$W/out" "$W/a"
ran "tokens of the GGUF file" 0 "$QUERN" run "$W/tied.gguf" --tokens "$tokens" --kv f32 --temp 0 -n 24 --ignore-eos --print-tokens
same "are the same" "$W/a" "$W/out"
"$QUERN" tokenize "$tied" --json -p "one two three" >"$W/a"
"$QUERN" tokenize "$W/tied.gguf" --json -p "one two three" >"$W/b"
same "the same tokenizer" "$W/a" "$W/b"
"$QUERN" show "$tied" --template >"$W/a"
"$QUERN" show "$W/tied.gguf" --template >"$W/b"
same "the same chat template" "$W/a" "$W/b"
for type in f32 f16 bf16; do
    ran "convert --type $type" 0 "$QUERN" convert "$tied" "$W/$type.gguf" --type $type --name "Tiny $type"
    ran "its logits" 0 "$QUERN" logits "$W/$type.gguf" --tokens "$tokens" --kv f32 --out "$W/again.bin"
    # The weights have few enough bits to fit each of these types.
    same "the same bytes" "$W/gguf.bin" "$W/again.bin"
    "$QUERN" show "$W/$type.gguf" --json >"$W/show"
    holds "its name" "$W/show" "\"name\":\"Tiny $type\""
    holds "its type" "$W/show" "\"weight_type\":\"$type\""
done

# quantize.
ran "quantize to q8_0" 0 "$QUERN" quantize "$W/tied.gguf" "$W/q8.gguf" q8_0
ran "convert --type q8_0" 0 "$QUERN" convert "$tied" "$W/q8b.gguf" --type q8_0
ran "logits of the one" 0 "$QUERN" logits "$W/q8.gguf" --tokens "$tokens" --out "$W/a"
ran "logits of the other" 0 "$QUERN" logits "$W/q8b.gguf" --tokens "$tokens" --out "$W/b"
same "are the same bytes" "$W/a" "$W/b"
! cmp -s "$W/a" "$W/folder.bin"
verdict $? "and not those of the folder"
ran "quantize with --type" 0 "$QUERN" quantize "$W/tied.gguf" "$W/q8c.gguf" --type q8_0
same "the same file" "$W/q8.gguf" "$W/q8c.gguf"
ran "quantize again" 0 "$QUERN" quantize "$W/q8.gguf" "$W/f16.gguf" f16
ran "and open the result" 0 "$QUERN" show "$W/f16.gguf"

# --dry-run and --json.
rm -f "$W/dry.gguf"
ran "--dry-run --json" 0 "$QUERN" quantize "$W/tied.gguf" "$W/dry.gguf" q8_0 --dry-run --json
[ ! -e "$W/dry.gguf" ]
verdict $? "writes nothing"
holds "tells the size that it would have" "$W/out" "\"file_bytes\":$(wc -c <"$W/q8.gguf" | tr -d ' '),"
holds "and that it was dry" "$W/out" '"dry_run":true}'

# What must not happen.
cp "$W/q8.gguf" "$W/keep.gguf"
ran "OUT that is IN" 2 "$QUERN" quantize "$W/q8.gguf" "$W/q8.gguf" f16
ln -sf q8.gguf "$W/link.gguf"
ran "OUT that is a link to IN" 2 "$QUERN" quantize "$W/q8.gguf" "$W/link.gguf" f16
same "leave IN as it was" "$W/keep.gguf" "$W/q8.gguf"
cp "$tied/model.safetensors" "$W/weights"
ran "OUT that is a file of DIR" 2 "$QUERN" convert "$tied" "$tied/model.safetensors"
same "leaves it as it was" "$W/weights" "$tied/model.safetensors"
ran "an unknown type" 2 "$QUERN" quantize "$W/q8.gguf" "$W/x.gguf" q7_9
holds "lists the types" "$W/err" "q8_0"
ran "a type that llama-quantize has no number for" 1 "$QUERN" quantize "$W/q8.gguf" "$W/x.gguf" 5
holds "is named" "$W/err" '"5"'
ran "no type" 2 "$QUERN" quantize "$W/q8.gguf" "$W/x.gguf"
ran "two types" 2 "$QUERN" quantize "$W/q8.gguf" "$W/x.gguf" f16 --type q8_0
ran "a source that is not there" 1 "$QUERN" convert "$W/none" "$W/x.gguf"
one_line "one plain line"
[ ! -e "$W/x.gguf" ]
verdict $? "no file is left"
: >"$W/.quern-0123456789abcdef.tmp"
touch -t 202001010000 "$W/.quern-0123456789abcdef.tmp"
ran "a command that writes where one was killed" 0 "$QUERN" quantize "$W/q8.gguf" "$W/y.gguf" f16
[ ! -e "$W/.quern-0123456789abcdef.tmp" ]
verdict $? "removes what that one left"
leftovers=$(find "$W" -name '*.tmp*' -o -name '.*.gguf*' | head -n 3)
[ -z "$leftovers" ]
verdict $? "no temporary file is left"

# perplexity.
head -c 6000 "$SRC/README.md" 2>/dev/null >"$W/text" || awk 'BEGIN { for (i = 0; i < 800; i++) print "line", i }' >"$W/text"
ran "perplexity --json" 0 "$QUERN" perplexity "$DEMO" -f "$W/text" --ctx 128 --json
grep -qE '^\{"ppl":[0-9.e+-]+,"nll":[0-9.e+-]+,"tokens":[0-9]+\}$' "$W/out"
verdict $? "three figures" "$W/out"
cp "$W/out" "$W/ppl"
fed "of standard input, with other threads and batches" 0 "$W/text" "$QUERN" perplexity "$DEMO" -f - -c 128 --json -t 1 -b 33
same "the same figures" "$W/ppl" "$W/out"
ran "--bos --second-half" 0 "$QUERN" perplexity "$DEMO" -f "$W/text" --ctx 128 --bos --second-half
holds "other figures, for people" "$W/out" "tokens scored"
printf 'Too short.' >"$W/short"
ran "a text that is shorter than a window" 1 "$QUERN" perplexity "$DEMO" -f "$W/short"
one_line "one plain line"

# show.
ran "show" 0 "$QUERN" show
for word in architecture parameters block_count "chat_template\|tensors"; do
    grep -q "$word" "$W/out"
    verdict $? "prints $word" "$W/out"
done
ran "show --tensors" 0 "$QUERN" show "$DEMO" --tensors
holds "prints them" "$W/out" "blk.0.attn_q.weight"
ran "show --metadata" 0 "$QUERN" show "$DEMO" --metadata
holds "prints it" "$W/out" "general.architecture"
ran "show --template" 0 "$QUERN" show "$DEMO" --template
holds "prints it" "$W/out" "<|start_header_id|>"
ran "two of them" 2 "$QUERN" show "$DEMO" --json --tensors
ran "doctor --json" 0 "$QUERN" doctor --json --no-measure
for word in '"cpu_levels":["scalar"' '"bandwidth_gb_s":null' '"demo_model":"' '"threads":'; do
    holds "prints $word" "$W/out" "$word"
done
plan
