#!/bin/sh
# tokenize and detokenize: the shapes of their output, exactness, and the kinds of MODEL. The ids themselves are tested with
# the tokenizers.
. "$(dirname "$0")/../cli_tap.sh"

printf 'Hello <|eot_id|>' >"$W/text"
fed "tokenize" 0 "$W/text" "$QUERN" tokenize "$DEMO" --json
grep -qE '^\[16368(,[0-9]+)+\]$' "$W/out"
verdict $? "a JSON array that begins with BOS" "$W/out"
cp "$W/out" "$W/plain"
fed "--no-bos" 0 "$W/text" "$QUERN" tokenize "$DEMO" --json --no-bos
sed 's/16368,//' "$W/plain" >"$W/without"
same "is the same without BOS" "$W/without" "$W/out"
fed "--special" 0 "$W/text" "$QUERN" tokenize "$DEMO" --json --special
grep -q ',16377\]$' "$W/out"
verdict $? "reads special tokens" "$W/out"
ran "-p" 0 "$QUERN" tokenize "$DEMO" --json -p 'Hello <|eot_id|>'
same "the same ids" "$W/plain" "$W/out"
ran "-f, and the demo model" 0 "$QUERN" tokenize --json -f "$W/text"
same "the same ids" "$W/plain" "$W/out"
ran "no text" 0 "$QUERN" tokenize "$DEMO" --json --no-bos
prints "no ids" "[]"
fed "without --json" 0 "$W/text" "$QUERN" tokenize "$DEMO" --special
prints "ids and their texts" '  16368  "<|begin_of_text|>"
   8143  "Hello"
    220  " "
  16377  "<|eot_id|>"'

# There and back again, byte for byte.
printf 'Tab\tand  spaces\r\n\n\303\251\346\274\242\360\237\230\200 "quotes" \\ <|eot_id|> end\n\n' >"$W/text"
"$QUERN" tokenize --json <"$W/text" >"$W/ids"
fed "detokenize" 0 "$W/ids" "$QUERN" detokenize
same "gives the text back" "$W/text" "$W/out"
tr -d '[]\n' <"$W/ids" | tr ',' '\n' >"$W/lines"
fed "one id per line" 0 "$W/lines" "$QUERN" detokenize "$DEMO"
same "gives the text back" "$W/text" "$W/out"
tr ',' ' ' <"$W/ids" >"$W/spaces"
ran "--tokens with spaces" 0 "$QUERN" detokenize "$DEMO" --tokens "$(cat "$W/spaces")"
same "gives the text back" "$W/text" "$W/out"
"$QUERN" tokenize --json --no-bos --special <"$W/text" >"$W/ids"
fed "with special tokens" 0 "$W/ids" "$QUERN" detokenize --special
same "gives the text back" "$W/text" "$W/out"
printf '[16377, 16368]' >"$W/ids"
fed "special tokens are not text" 0 "$W/ids" "$QUERN" detokenize "$DEMO"
[ ! -s "$W/out" ]
verdict $? "so nothing is printed" "$W/out"
ran "no ids" 0 "$QUERN" detokenize "$DEMO"
[ ! -s "$W/out" ]
verdict $? "no text" "$W/out"
printf '[1,2,zwei]' >"$W/ids"
fed "what is no id" 1 "$W/ids" "$QUERN" detokenize "$DEMO"
one_line "one plain line"
ran "an id outside of the vocabulary" 1 "$QUERN" detokenize "$DEMO" --tokens 1,999999
one_line "one plain line"
ran "two texts" 2 "$QUERN" tokenize -p a -f b

# Other kinds of MODEL.
unpack_models
for model in "$MODELS/llama_tied" "$MODELS/llama_tied/tokenizer.json"; do
    printf 'one two' >"$W/text"
    fed "MODEL ${model#"$MODELS/"}" 0 "$W/text" "$QUERN" tokenize "$model" --json
    cp "$W/out" "$W/ids"
    fed "and back" 0 "$W/ids" "$QUERN" detokenize "$model"
    same "gives the text back" "$W/text" "$W/out"
done
vocab=$SHARED/tokenizers/ggml-vocab-llama-spm.gguf
if [ -f "$vocab" ]; then
    printf 'Hello world' >"$W/text"
    fed "a GGUF file that holds a vocabulary only" 0 "$W/text" "$QUERN" tokenize "$vocab" --json --no-bos
    prints "ids" "[15043,3186]"
    fed "its pieces" 0 "$W/text" "$QUERN" tokenize "$vocab" --no-bos
    prints "show the space that begins a word" '  15043  " Hello"
   3186  " world"'
    printf '[15043,3186]' >"$W/ids"
    fed "and back" 0 "$W/ids" "$QUERN" detokenize "$vocab"
    same "gives the text back" "$W/text" "$W/out"
else
    skip "a GGUF file that holds a vocabulary only" "no shared data"
fi
plan
