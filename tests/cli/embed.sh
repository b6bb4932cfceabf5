#!/bin/sh
# embed: where its texts come from. What the vectors are is tested against the reference implementation elsewhere.
. "$(dirname "$0")/../cli_tap.sh"
unpack_models
model=$MODELS/bert_rank # puts [CLS] and [SEP] around a text, and so has a vector for an empty one

ran "three texts" 0 "$QUERN" embed "$model" one "" three --dimensions 4
cp "$W/out" "$W/three"
[ "$(wc -l <"$W/three")" -eq 3 ]
verdict $? "have three vectors" "$W/three"
printf 'one\n\nthree\n' >"$W/lines"
ran "three lines, one of them empty" 0 "$QUERN" embed "$model" -f "$W/lines" --dimensions 4
same "have the same" "$W/three" "$W/out"
printf 'one\r\n\r\nthree' >"$W/lines"
fed "lines of another system" 0 "$W/lines" "$QUERN" embed "$model" -f - --dimensions 4
same "too" "$W/three" "$W/out"
ran "a text without a vector" 1 "$QUERN" embed "$MODELS/roberta_mean" -f "$W/lines"
holds "is named" "$W/err" "text 2: the text has no tokens"
ran "no text" 2 "$QUERN" embed "$model"
plan
