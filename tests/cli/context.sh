#!/bin/sh
# context: what quern run does with more than its context holds.
. "$(dirname "$0")/../cli_tap.sh"

ran "an answer ends where the context is full" 0 "$QUERN" run "$DEMO" --tokens 1,2,3 -c 64 -n 100 --ignore-eos --temp 0 --print-tokens
[ "$(tr ',' '\n' <"$W/out" | wc -l)" -eq 62 ]
verdict $? "as many tokens as fit" "$W/out"
holds "and that is said" "$W/err" "the context of 64 tokens is full"
cp "$W/out" "$W/full"

ran "it goes on with a shift" 0 "$QUERN" run "$DEMO" --tokens 1,2,3 -c 64 -n 100 --ignore-eos --temp 0 --print-tokens --context-policy shift --keep 3
[ "$(tr ',' '\n' <"$W/out" | wc -l)" -eq 100 ]
verdict $? "all tokens came" "$W/out"
holds "and that is said" "$W/err" "tokens were left out"
[ "$(cut -d, -f1-62 <"$W/out")" = "$(cat "$W/full")" ]
verdict $? "the first ones are the same" "$W/out" "$W/full"
ran "another policy" 2 "$QUERN" run "$DEMO" Hello --context-policy forget
plan
