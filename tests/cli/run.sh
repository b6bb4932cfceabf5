#!/bin/sh
# run: one answer; where its prompt comes from; that nothing but the answer is on stdout; that seeds and threads behave.
. "$(dirname "$0")/../cli_tap.sh"

short="-n 12 --temp 0"

# The answer, and where its prompt comes from.
ran "a prompt for the demo model" 0 "$QUERN" run "What is the capital of Japan?" --temp 0
prints "its answer" "The capital of Japan is Tokyo."
[ ! -s "$W/err" ]
verdict $? "nothing on stderr" "$W/err"
cp "$W/out" "$W/tokyo"
ran "MODEL and PROMPT" 0 "$QUERN" run "$DEMO" "What is the capital of Japan?" --temp 0
same "the same answer" "$W/tokyo" "$W/out"
ran "-m and -p" 0 "$QUERN" run -m "$DEMO" -p "What is the capital of Japan?" --temperature=0
same "the same answer" "$W/tokyo" "$W/out"
printf 'What is the capital of Japan?' >"$W/prompt"
fed "standard input" 0 "$W/prompt" "$QUERN" run "$DEMO" --temp 0
same "the same answer" "$W/tokyo" "$W/out"
ran "-f" 0 "$QUERN" run "$DEMO" -f "$W/prompt" --temp 0
same "the same answer" "$W/tokyo" "$W/out"
fed "-f -" 0 "$W/prompt" "$QUERN" run "$DEMO" -f - --temp 0
same "the same answer" "$W/tokyo" "$W/out"
echo 'What is the capital of Japan?' >"$W/line"
fed "-f /dev/stdin" 0 "$W/line" "$QUERN" run "$DEMO" -f /dev/stdin --temp 0
same "the same answer" "$W/tokyo" "$W/out"
mkfifo "$W/pipe"
cat "$W/prompt" >"$W/pipe" &
ran "-f with a pipe" 0 "$QUERN" run "$DEMO" -f "$W/pipe" --temp 0
same "the same answer" "$W/tokyo" "$W/out"
printf 'Once upon a' >"$W/once"
echo 'Once upon a' >"$W/once-line"
ran "a text to go on with" 0 "$QUERN" run --raw -f "$W/once" $short
cp "$W/out" "$W/raw"
ran "whose line ends" 0 "$QUERN" run --raw -f "$W/once-line" $short
same "gives the same answer" "$W/raw" "$W/out"
fed "on standard input" 0 "$W/once-line" "$QUERN" run --raw $short
same "too" "$W/raw" "$W/out"
printf 'is the capital of Japan?' >"$W/rest"
fed "a prompt and standard input" 0 "$W/rest" "$QUERN" run "What" $short
cp "$W/out" "$W/both"
ran "are one text with a blank line between them" 0 "$QUERN" run "What

is the capital of Japan?" $short
same "the same answer" "$W/both" "$W/out"
printf '' | "$QUERN" run "What is the capital of Japan?" --temp 0 >"$W/out" 2>"$W/err"
same "an empty pipe changes nothing" "$W/tokyo" "$W/out"
"$QUERN" run "What is the capital of Japan?" --temp 0 <&- >"$W/out" 2>"$W/err"
same "nor does a closed standard input" "$W/tokyo" "$W/out"
fed "no prompt at all" 2 /dev/null "$QUERN" run "$DEMO"
holds "says what to do" "$W/err" "there is no prompt"
echo >"$W/empty-line"
fed "an empty line" 2 "$W/empty-line" "$QUERN" run "$DEMO"
holds "is none, either" "$W/err" "there is no prompt"

# What is a MODEL and what a PROMPT.
ran "a path that is not there" 1 "$QUERN" run modle.gguf
one_line "one plain line"
holds "names it" "$W/err" "modle.gguf: no such file"
ran "the same with a prompt" 1 "$QUERN" run modle hello
ran "a name of a store" 1 "$QUERN" run llama3.2:1b
holds "says that there is no store" "$W/err" "no store of models"
ran "a folder that is not there" 1 "$QUERN" run ./models/llama
ran "-m is always a model" 1 "$QUERN" run -m "Tell me a story."
ran "with -p the argument is a model" 1 "$QUERN" run "Tell me a story." -p "Hello"
ran "a prompt without quotes" 2 "$QUERN" run Tell me a short story
holds "says what to do" "$W/err" "quotes"

# Token ids in and out.
ran "--tokens and --print-tokens" 0 "$QUERN" run "$DEMO" --tokens 16368,5039,91 --temp 0 -n 24 --ignore-eos --print-tokens
grep -qE '^[0-9]+(,[0-9]+){23}$' "$W/out" && [ "$(wc -l <"$W/out")" -eq 1 ]
verdict $? "24 ids, parted by commas, on one line" "$W/out"
[ ! -s "$W/err" ]
verdict $? "nothing on stderr" "$W/err"
cp "$W/out" "$W/ids"
for options in "--threads 1" "--threads 2 -b 1" "--cpu scalar" "-ub 2 -ngl 0 -fa on --mmap" "-t1 -b7 -fa -c100" "--jinja --no-warmup" "-t -1"; do
    # shellcheck disable=SC2086 # a list of options
    ran "with $options" 0 "$QUERN" run "$DEMO" --tokens "16368 5039 91" --temp 0 -n 24 --ignore-eos --print-tokens $options
    same "the same ids" "$W/ids" "$W/out"
done
ran "a cache of f32" 0 "$QUERN" run "$DEMO" --tokens 1,2,3 $short --kv f32 --print-tokens
cp "$W/out" "$W/f32"
ran "is what both types as f32 are" 0 "$QUERN" run "$DEMO" --tokens 1,2,3 $short -ctk f32 --cache-type-v f32 --print-tokens
same "the same ids" "$W/f32" "$W/out"
for types in "--kv bf16" "--kv q8_0" "--kv q4_0" "-ctk q8_0 -ctv f16" "--kv f32 -ctv q4_0"; do
    # shellcheck disable=SC2086 # a list of options
    ran "a cache with $types" 0 "$QUERN" run "$DEMO" --tokens 1,2,3 $short $types --print-tokens
    cp "$W/out" "$W/types"
    # shellcheck disable=SC2086
    ran "on another CPU level, with $types" 0 "$QUERN" run "$DEMO" --tokens 1,2,3 $short $types --print-tokens --cpu scalar -b 2
    same "the same ids" "$W/types" "$W/out"
done
ran "an id outside of the vocabulary" 1 "$QUERN" run "$DEMO" --tokens 1,16384 $short
one_line "one plain line"
for ids in "" "," "1,x" "-1" "1.5" "99999999999"; do
    ran "--tokens '$ids'" 2 "$QUERN" run "$DEMO" "--tokens=$ids" $short
done

# Seeds and stop strings.
story="Tell me a story."
ran "a seed" 0 "$QUERN" run "$story" -n 30 --seed 42
cp "$W/out" "$W/seeded"
ran "the same seed" 0 "$QUERN" run "$story" -n 30 -s 42 --threads 1 --cpu scalar
same "gives the same text" "$W/seeded" "$W/out"
ran "another seed" 0 "$QUERN" run "$story" -n 30 --seed 43
! cmp -s "$W/seeded" "$W/out"
verdict $? "gives another text" "$W/out"
ran "no seed" 0 "$QUERN" run "$story" -n 30
cp "$W/out" "$W/unseeded"
ran "no seed again" 0 "$QUERN" run "$story" -n 30
! cmp -s "$W/unseeded" "$W/out"
verdict $? "gives another text each time" "$W/out"
ran "top-k 1 is greedy" 0 "$QUERN" run "What is the capital of Japan?" --top-k 1 --temp 1
same "whatever the seed" "$W/tokyo" "$W/out"
ran "--stop" 0 "$QUERN" run "What is the capital of Japan?" --temp 0 --stop nothing --stop " is"
prints "ends before the first of them" "The capital of Japan"
ran "--stop across tokens" 0 "$QUERN" run "What is the capital of Japan?" --temp 0 --stop "pan is To"
prints "nothing of it is printed" "The capital of Ja"
id=$(printf ' Tokyo' | "$QUERN" tokenize --json --no-bos | tr -d '[]' | cut -d, -f1)
ran "--logit-bias that forbids a token" 0 "$QUERN" run "What is the capital of Japan?" --temp 0 -l "$id-inf" -n 20
! grep -q Tokyo "$W/out"
verdict $? "it does not come" "$W/out"
ran "--raw" 0 "$QUERN" run --raw "Once upon a time" $short
cp "$W/out" "$W/raw"
ids=$(printf 'Once upon a time' | "$QUERN" tokenize --json | tr -d '[]')
ran "continues the prompt" 0 "$QUERN" run --tokens "$ids" $short
same "as its tokens with BOS do" "$W/raw" "$W/out"
ran "--special" 0 "$QUERN" run "What is the capital of Japan?" --temp 0 --special --ignore-eos -n 20
holds "shows the special tokens that the model wrote" "$W/out" "<|eot_id|>"

# The context.
long=$(awk 'BEGIN { for (i = 0; i < 300; i++) printf "word " }')
ran "a prompt that does not fit" 1 "$QUERN" run "$long" -c 64
one_line "one plain line"
grep -q 64 "$W/err" && [ ! -s "$W/out" ]
verdict $? "with the counts, and no answer" "$W/err"
ran "an answer that fills the context" 0 "$QUERN" run "$story" -c 40 --ignore-eos --temp 0
holds "is said on stderr" "$W/err" "context of 40 tokens is full"

# Figures.
ran "--verbose" 0 "$QUERN" run "$story" $short --verbose --seed 7
for word in "load " "first token " "prompt " "answer " "memory " "seed         7" " tokens/s" "% of the "; do
    holds "prints '$word'" "$W/err" "$word"
done

# Output that nobody takes, or that cannot be written.
"$QUERN" run "$story" -n 200 --ignore-eos 2>"$W/err" </dev/null | head -c 1 >"$W/out"
[ ! -s "$W/err" ]
verdict $? "a reader that leaves ends it quietly" "$W/err"
if [ -c /dev/full ]; then
    "$QUERN" run "$story" $short >/dev/full 2>"$W/err" </dev/null
    [ $? = 1 ]
    verdict $? "a full disk is a failure" "$W/err"
    one_line "one plain line"
else
    skip "a full disk is a failure" "no /dev/full here"
fi
ran "-ngl is noted" 0 "$QUERN" run "$story" $short -ngl 99
holds "in one line" "$W/err" "no GPU backend"

# Variables of the chat template.
unpack_models
cat >"$MODELS/llama_tied/chat_template.jinja" <<'EOF'
{%- if enable_thinking is defined and not enable_thinking -%}</s></s>{%- endif -%}</s>
EOF
ran "a template" 0 "$QUERN" run "$MODELS/llama_tied" hi -c 2 -n 1
kwargs='{"enable_thinking":false}'
ran "that is told not to think" 1 "$QUERN" run "$MODELS/llama_tied" hi -c 2 -n 1 --chat-template-kwargs "$kwargs"
holds "makes another prompt" "$W/err" "the prompt has 3 tokens"
ran "what is no object" 1 "$QUERN" run "$MODELS/llama_tied" hi --chat-template-kwargs no
holds "is named" "$W/err" "kwargs"
ran "--raw has no template" 2 "$QUERN" run "$MODELS/llama_tied" hi --raw --chat-template-kwargs "$kwargs"
plan
