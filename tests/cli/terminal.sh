#!/bin/sh
# terminal: the chat as a person has it, in a pseudo-terminal. What is typed goes through a pipe to script(1); what comes back is
# read from a file, and each step waits until what it expects is there.
. "$(dirname "$0")/../cli_tap.sh"

if ! script --version 2>/dev/null | grep -q util-linux; then
    skip "the chat in a terminal" "needs script of util-linux"
    plan
    exit 0
fi

TERM=vt100
LC_ALL=C # what is typed is UTF-8 all the same
XDG_STATE_HOME=$W/state
export TERM LC_ALL XDG_STATE_HOME
seen=0

open_chat() { # ARGUMENTS...
    rm -f "$W/keys" "$W/screen" "$W/status"
    mkfifo "$W/keys"
    : >"$W/screen"
    seen=0
    # shellcheck disable=SC2094 # two different ends
    script -qec "$QUERN run $*; echo leaving with \$?" /dev/null <"$W/keys" >"$W/screen" 2>&1 &
    chat=$!
    exec 3>"$W/keys"
}

close_chat() {
    exec 3>&-
    wait $chat
}

keys() { printf "$1" >&3; }
line() { printf "$1\\r" >&3; }

# Waits until the screen shows TEXT behind what was expected before.
expect() { # NAME TEXT
    tries=0
    while [ $tries -lt 300 ]; do
        found=$(tail -c +$((seen + 1)) "$W/screen" | LC_ALL=C grep -aboF -e "$2" | head -n 1 | cut -d: -f1)
        if [ -n "$found" ]; then
            seen=$((seen + found + ${#2}))
            ok "$1"
            return
        fi
        tries=$((tries + 1))
        sleep 0.1
    done
    tail -c +$((seen + 1)) "$W/screen" | tr -d '\000\033' | tail -n 8 | sed 's/^/# /'
    not_ok "$1"
}

open_chat --temp 0 --verbose
expect "a greeting" "/help lists the commands"
expect "a prompt" ">>> "
line "What is the capital of Japan?"
expect "an answer" "The capital of Japan is Tokyo."
expect "the first prompt is new" ", 0 of them reused"
expect "the next prompt" ">>> "
line "What is the capital of France?"
expect "the next answer" "Paris"
expect "its figures" " of them reused"
grep -aE ' [1-9][0-9]* of them reused' "$W/screen" >/dev/null
verdict $? "only what is new is computed"
line "/set quiet"
line "Tell me a story about a dragon."
expect "a long answer" "Once upon"
keys '\003'
expect "Ctrl-C stops it" ">>> "
line "/save $W/cut.json"
expect "the chat goes on" "saved 6 messages"
line "What is the opposite of hot?"
expect "and answers" "old"
expect "and asks again" ">>> "
keys 'a line that is not wanted\003'
expect "Ctrl-C clears the line" ">>> "
keys '\003'
expect "twice, it tells how to leave" "Ctrl-D or /bye leaves"
line '"""What is the capital'
expect "a message of several lines" "... "
line 'of Spain?"""'
expect "is one message" "Madrid"
expect "that is answered once" ">>> "
line "/save $W/chat.json"
expect "/save" "saved 10 messages"
line '"""/clear is no command here"""'
expect "a block that begins with a slash" ">>> "
line "/save $W/block.json"
expect "is a message" "saved 12 messages"
line "/clear"
expect "/clear" "begins afresh"
if "$QUERN" doctor --no-measure | grep -q 'line editing: libedit'; then
    keys '\033[200~/usr/bin is a folder.\rWhat is the c\303\244pital\rof Spain?\r\033[201~'
    keys ' Say it.\r'
    expect "lines that are pasted" "Say it."
    expect "are answered" ">>> "
    line "/save $W/pasted.json"
    expect "as one message" "saved 2 messages"
    keys '\033[A\033[A'
    expect "that comes back whole" "of Spain?"
    keys '\025'
else
    skip "lines that are pasted" "built without libedit"
fi
line "/load $W/chat.json"
expect "/load" "loaded 10 messages"
line "/load $W/nothing.json"
expect "a file that is not there" "nothing.json"
line "/set parameter temperature 0.25"
line "/set top_p 7"
expect "a value out of range" "top_p must be a number from 0 to 1"
line "/set seed 42"
line "/set stop Madrid"
line "/set stop Paris"
line "/show parameters"
expect "what was set" "0.25"
expect "the last of two stop texts" '"Paris"'
line "What is the capital of Spain?"
expect "takes the place of the first" "Madrid"
line "/set parameter stop"
expect "no stop text" "stop is off"
line "/set ignore_eos 0"
expect "a flag" "no parameter ignore_eos"
line '/set system Y\303\266u are kind.'
line "/show system"
expect "the system message" "are kind."
line "/save $W/system.json"
expect "can be saved" "saved 13 messages"
line "/hlep"
expect "a mistyped command" "did you mean /help?"
line "/help"
expect "/help" "/load FILE"
if "$QUERN" doctor --no-measure | grep -q 'line editing: libedit'; then
    keys '\033[A\033[A\r'
    expect "the arrow key brings an earlier line back" "did you mean /help?"
else
    skip "the arrow key brings an earlier line back" "built without libedit"
fi
keys 'not this\025/bye\r'
expect "/bye leaves" "leaving with 0"
close_chat
cp "$W/screen" "$W/first-screen"

grep -q '"content":"What is the capital\\nof Spain?"' "$W/chat.json"
verdict $? "the conversation has the message of several lines" "$W/chat.json"
if [ -e "$W/pasted.json" ]; then
    grep -q "$(printf '"content":"/usr/bin is a folder.\\\\nWhat is the c\303\244pital\\\\nof Spain?\\\\n Say it."')" "$W/pasted.json"
    verdict $? "that has all that was pasted" "$W/pasted.json"
    grep -q "^/usr/bin is a folder.$(printf '\r')What" "$W/state/quern/history"
    verdict $? "and is one line of the history" "$W/state/quern/history"
    grep -qaF "$(printf '\033[?2004h')" "$W/first-screen" && grep -qaF "$(printf '\033[?2004l')" "$W/first-screen"
    verdict $? "the terminal is asked to mark what is pasted, and released"
fi
ran "what was saved can be rendered" 0 "$QUERN" render "$DEMO" --messages "$W/chat.json"
grep -q "$(printf '"content":"Y\303\266u are kind."')" "$W/system.json"
verdict $? "letters beyond ASCII arrive, whatever the locale" "$W/system.json"
grep -q '"role":"assistant","content":"Once upon' "$W/cut.json"
verdict $? "what was said before Ctrl-C is kept" "$W/cut.json"
grep -q '^What is the capital of France?$' "$W/state/quern/history"
verdict $? "the history has what was typed" "$W/state/quern/history"
mode=$(stat -c %a "$W/state/quern/history" 2>/dev/null || stat -f %Lp "$W/state/quern/history")
[ "$mode" = 600 ]
verdict $? "for its owner only"

# A history that has grown too long keeps its last lines.
awk 'BEGIN { for (i = 0; i < 30000; i++) print "an old line that was typed long ago, number", i }' >>"$W/state/quern/history"
open_chat
expect "a chat with a long history" ">>> "
line "/bye"
expect "that ends" "leaving with 0"
close_chat
[ "$(wc -l <"$W/state/quern/history")" -eq 1001 ] && [ "$(tail -n 1 "$W/state/quern/history")" = /bye ]
verdict $? "leaves its last thousand lines and what was typed"
[ "$(tail -n 2 "$W/state/quern/history" | head -n 1)" = "an old line that was typed long ago, number 29999" ]
verdict $? "the newest of them"

# Another chat, its context too small; leaving with Ctrl-D.
cp "$W/state/quern/history" "$W/history"
open_chat --temp 0 -c 64 --no-history
expect "another chat" ">>> "
keys '\033[A'
line "$(awk 'BEGIN { for (i = 0; i < 100; i++) printf "word " }')"
expect "a message that does not fit" "was not sent"
line "What is the capital of Japan?"
expect "the chat goes on" "Tokyo"
expect "with a prompt" ">>> "
keys '\004'
expect "Ctrl-D leaves" "leaving with 0"
close_chat
same "--no-history leaves the history alone" "$W/history" "$W/state/quern/history"
plan
