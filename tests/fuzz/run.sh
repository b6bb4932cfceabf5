#!/bin/sh
# run: one fuzz target. Prints TAP.
#   run.sh replay PROGRAM NAME            the corpus once
#   run.sh search PROGRAM NAME SECONDS    the corpus, then new inputs; what breaks the program is kept beside it
set -eu
mode=$1 program=$2 name=$3
folder=$(dirname "$0")
corpus=$folder/corpus/$name

if [ "$mode" = replay ]; then
    if "$program" "$corpus"; then echo "ok 1 - corpus of $name"; else echo "not ok 1 - corpus of $name"; fi
    exit 0
fi

seconds=$4
work=$(dirname "$program")/found-$name
mkdir -p "$work"
set -- -max_total_time="$seconds" -timeout=10 -malloc_limit_mb=256 -rss_limit_mb=1024 -artifact_prefix="$work/bad-" -verbosity=0 \
    -print_final_stats=1
[ ! -e "$folder/$name.dict" ] || set -- "$@" -dict="$folder/$name.dict"
mkdir -p "$work/corpus"
if "$program" "$@" "$work/corpus" "$corpus" >"$work/log" 2>&1; then
    echo "ok 1 - $name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$work/log") inputs in $seconds s"
else
    tail -n 50 "$work/log" | sed 's/^/# /'
    echo "not ok 1 - $name: see $work"
    exit 1
fi
