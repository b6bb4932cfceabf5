#!/bin/sh
# memory: where the weights are while a model runs. Two processes share the pages of a mapped file; --no-mmap has none of it; --mlock
# locks it; what a process has for itself is small.
. "$(dirname "$0")/../cli_tap.sh"

if [ ! -r /proc/self/smaps ]; then
    skip "where the weights are" "no /proc/PID/smaps here"
    plan
    exit 0
fi

pids=
trap 'kill $pids 2>/dev/null; rm -rf "$W"' EXIT

# Starts a process that computes for as long as it is left alone; its number goes to $pid.
start() {
    "$QUERN" run "$DEMO" --tokens 1,2,3 -n 100000 -c 8192 --ignore-eos --print-tokens "$@" >/dev/null 2>"$W/err" </dev/null &
    pid=$!
    pids="$pids $pid"
}

# Sum of a field (kB) over the mappings of the model in process $1.
mapped() {
    awk -v field="$2:" '/^[0-9a-f]+-[0-9a-f]+ / { inside = /Llama-Quern-34M/ } inside && $1 == field { n += $2 } END { print n + 0 }' \
        "/proc/$1/smaps" 2>/dev/null
}

status() { awk -v field="$2:" '$1 == field { print $2 }' "/proc/$1/status"; }

# Waits up to ten seconds for a command to succeed.
until_true() {
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        "$@" && return 0
        sleep 0.5
    done
    return 1
}

size=$(($(wc -c <"$DEMO") / 1024))
all_present() { [ "$(mapped "$1" Rss)" -gt $((size * 9 / 10)) ]; }

start
first=$pid
start
second=$pid
until_true all_present "$first" && until_true all_present "$second"
verdict $? "two processes map the whole file" "$W/err"
for pid in $first $second; do
    [ $(($(mapped "$pid" Private_Clean) + $(mapped "$pid" Private_Dirty))) -lt 100 ]
    verdict $? "no page of it is private"
    [ "$(mapped "$pid" Pss)" -lt $((size * 6 / 10)) ]
    verdict $? "each is charged half of it at most"
    [ "$(status "$pid" RssAnon)" -lt 200000 ]
    verdict $? "and has less than 200 MB for itself"
done
kill "$first" "$second"

start --no-mmap
copied() { [ "$(status "$1" RssAnon)" -gt $((size * 9 / 10)) ] && [ "$(mapped "$1" Size)" = 0 ]; }
until_true copied "$pid"
verdict $? "--no-mmap has the weights in memory of its own" "$W/err"
kill "$pid"

limit=$(ulimit -l)
if [ "$(id -u)" = 0 ] || [ "$limit" = unlimited ] || [ "$limit" -gt $((2 * size)) ]; then
    start --mlock
    locked() { [ "$(status "$1" VmLck)" -gt $((size * 9 / 10)) ]; }
    until_true locked "$pid"
    verdict $? "--mlock locks them" "$W/err"
    kill "$pid"
else
    ran "--mlock says what forbids it" 1 "$QUERN" run "$DEMO" --tokens 1 -n 1 --mlock
    one_line "in one plain line"
    holds "and what to do" "$W/err" "ulimit -l"
fi
plan
