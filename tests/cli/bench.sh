#!/bin/sh
# bench: the JSON that other programs read, the tables, the shapes and where their weights go, wrong usage, Ctrl-C.
. "$(dirname "$0")/../cli_tap.sh"

short="-p 8 -n 2 -r 2"
XDG_CACHE_HOME=$W/cache
export XDG_CACHE_HOME

# The contract: keys, tests, sane numbers.
ran "bench --json" 0 "$QUERN" bench $short --json
if command -v python3 >/dev/null 2>&1; then
    cat >"$W/check.py" <<'END'
import json, sys
r = json.load(open(sys.argv[1]))
assert list(r) == ["bandwidth_gb_s", "int8_tops", "rows"], list(r)
assert 0.01 < r["bandwidth_gb_s"] < 1e5 and 1e-4 < r["int8_tops"] < 1e5, r
for row in r["rows"]:
    assert list(row) == ["model", "type", "test", "tokens_per_second", "min", "max", "bytes_per_token", "fraction_of_limit"]
    assert 0 < row["min"] <= row["tokens_per_second"] <= row["max"], row
    assert 0 < row["fraction_of_limit"] < 10, row
    assert isinstance(row["bytes_per_token"], int), row
    if row["test"].startswith("tg"):
        limit = r["bandwidth_gb_s"] * 1e9 / row["bytes_per_token"]
        assert abs(row["tokens_per_second"] / limit / row["fraction_of_limit"] - 1) < 0.001, row
print(" ".join(row["test"] for row in r["rows"]), r["rows"][0]["model"], r["rows"][0]["type"])
END
    cp "$W/out" "$W/json"
    ran "is what other programs expect" 0 python3 "$W/check.py" "$W/json"
    prints "two rows" "pp8 tg2 Llama-Quern-34M q8_0"
    ran "several sizes and depths" 0 "$QUERN" bench "$DEMO" -p 8,16 -n 0,2 -d 0,300 -r 1 -o json -t 1 --cpu scalar -b 8
    cp "$W/out" "$W/json"
    ran "are checked in the same way" 0 python3 "$W/check.py" "$W/json"
    prints "and have their tests in order" "pp8 pp16 tg2 pp8@d300 pp16@d300 tg2@d300 Llama-Quern-34M q8_0"
else
    skip "is what other programs expect" "no python3 here"
fi

# Tables.
ran "bench" 0 "$QUERN" bench $short
for word in "GB/s reading the weights" "with huge pages" "T op/s of int8" "tokens/s" "pp8" "tg2" " %"; do
    holds "the table has '$word'" "$W/out" "$word"
done
ran "bench --csv" 0 "$QUERN" bench $short --csv
awk -F, 'NR == 1 { n = NF; ok = $4 == "tokens_per_second" } NF != n { ok = 0 } END { exit !(ok && NR == 3) }' "$W/out"
verdict $? "a heading and two rows of as many fields" "$W/out"
ran "bench --markdown" 0 "$QUERN" bench $short --markdown
[ "$(grep -c '^|.*|$' "$W/out")" = 4 ]
verdict $? "is a table of four lines" "$W/out"
ran "-o md" 0 "$QUERN" bench -m "$DEMO" $short -o md
holds "is the same" "$W/out" "| model | type | test |"
ran "bench --prefix" 0 "$QUERN" bench -p 200 -n 0 -r 1 --prefix
holds "tells the time to the first token" "$W/out" "first token after 200 tokens in"
[ -z "$(ls "$XDG_CACHE_HOME/quern")" ]
verdict $? "and leaves no pages"
ran "bench --prefix --json" 0 "$QUERN" bench -p 200 -n 0 -r 1 --prefix --json
holds "has them, too" "$W/out" '"prefixes":[{"model":"Llama-Quern-34M","type":"q8_0","prompt_tokens":200,"computed_seconds":'
ran "bench --speculate" 0 "$QUERN" bench -p 0 -n 8 -r 1 --speculate auto -md demo
for work in chat8 edit8 hard8; do
    holds "compares $work one by one and with speculation" "$W/out" "Llama-Quern-34M, q8_0: $work "
done
holds "and tells the acceptance rate" "$W/out" " x); acceptance rate "
ran "bench --speculate --json" 0 "$QUERN" bench -p 0 -n 4 -r 1 --speculate lookup --json
holds "has them, too" "$W/out" '"speculation":[{"model":"Llama-Quern-34M","type":"q8_0","test":"chat4","plain_tokens_per_second":'
ran "without a draft model" 2 "$QUERN" bench $short --speculate draft
ran "ways to load" 0 "$QUERN" bench $short --no-mmap
ran "that come before the first token" 0 "$QUERN" bench $short --prefault

if script --version 2>/dev/null | grep -q util-linux; then
    script -qec "$QUERN bench -p 8 -n 4 -d 1500 -r 1" /dev/null </dev/null 2>&1 | tr '\r' '\n' >"$W/screen"
    grep -q 'limits *0%  0 of 2' "$W/screen" && grep -q 'pp8@d1500 *0%  0 of 2' "$W/screen"
    verdict $? "a terminal shows what is being measured" "$W/screen"
    grep -q 'tg4@d1500 *50%  1 of 2' "$W/screen"
    verdict $? "and each test before it runs" "$W/screen"
else
    skip "a terminal shows what is being measured" "needs script of util-linux"
fi

# What does not work, and says so.
for options in "-p x" "-p -1" "-n 1,,x" "-p 0 -n 0" "-r 0" "-d 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17" "--type q8_0" \
    "-o xml" "--json --csv" "--shape llama-3.2-1b $DEMO" "--shape llama-3.2-1b -m $DEMO" "one two"; do
    # shellcheck disable=SC2086 # a list of options
    ran "bench $options" 2 "$QUERN" bench $options
done
ran "tests beyond the model's context" 0 "$QUERN" bench -p 8 -n 0 -d 0,2041 -r 1
one_line "one plain line"
holds "says how much it was trained for" "$W/err" "up to 2049 tokens, Llama-Quern-34M was trained for 2048"
ran "a shape that is not known" 1 "$QUERN" bench --shape llama-9
one_line "one plain line"
holds "lists those that are" "$W/err" "llama-3.2-1b"
ran "a type that is not known" 1 "$QUERN" bench --shape llama-3.2-1b --type q9
one_line "one plain line"
[ -z "$(find "$W/cache" -type f 2>/dev/null)" ]
verdict $? "leaves no file behind"
ran "a cache that cannot be" 1 "$QUERN" bench --shape llama-3.2-1b --cache-dir "$W/out/x"
one_line "one plain line"

# Ctrl-C while it measures, and while it makes weights.
interrupted() { # NAME ARGS...
    name=$1
    shift
    python3 "$W/run.py" "$QUERN" "$@" >"$W/out" 2>"$W/err" </dev/null &
    pid=$!
    sleep 1
    kill -INT $pid
    wait $pid
    [ $? = 1 ]
    verdict $? "$name ends with status 1" "$W/err"
    one_line "one plain line"
    [ ! -s "$W/out" ] && [ -z "$(find "$W/cache" "$W/tmp" -type f 2>/dev/null)" ]
    verdict $? "and leaves nothing behind" "$W/out"
}
if command -v python3 >/dev/null 2>&1; then
    # Background jobs of a script ignore SIGINT; python gives it back.
    cat >"$W/run.py" <<'END'
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
END
    mkdir "$W/tmp"
    TMPDIR=$W/tmp
    export TMPDIR
    interrupted "a benchmark" bench -n 2000 -r 100
    interrupted "making weights" bench --shape llama-3.1-8b --no-cache
else
    skip "Ctrl-C" "no python3 here"
fi
plan
