#!/bin/sh
# errors: what goes wrong says so in one plain line, with the right exit code, promptly, and leaves nothing behind.
. "$(dirname "$0")/../cli_tap.sh"

limit=
command -v timeout >/dev/null 2>&1 && limit="timeout 20"
quern() { $limit "$QUERN" "$@"; }

# Bad usage is 2, with a hint.
ran "no command" 2 "$QUERN"
ran "an unknown command" 2 "$QUERN" rnu
holds "suggests the nearest" "$W/err" "did you mean 'run'?"
ran "a command that is like none" 2 "$QUERN" xyzzyx
! grep -q "did you mean" "$W/err"
verdict $? "suggests none" "$W/err"
ran "an unknown option" 2 "$QUERN" run --tempt 0.5
holds "suggests the nearest" "$W/err" "did you mean --temp?"
ran "an option that another command has" 2 "$QUERN" doctor --kv f32
for bad in "--top-p 1.5" "--top-p -0.1" "--temp cold" "--temp nan" "--temp 1e999" "-n 0" "-n 12x" "-n 99999999999" "-c -1" \
    "-t 0" "-t -2" "-t 513" "-b 0" "--seed 1.5" "--seed 99999999999999999999" "--kv q4_k" "-fa=maybe" "-ngl many" "--top-k -3" \
    "--logit-bias 5" "--logit-bias x+1" "--logit-bias 5+nan" "--mmap=1" "--temp" "--no-such-thing"; do
    # shellcheck disable=SC2086 # a list of options
    ran "run $bad" 2 "$QUERN" run -p hello $bad
    [ ! -s "$W/out" ]
    verdict $? "prints no answer" "$W/out"
done
ran "a CPU level that is not there" 1 "$QUERN" run -p hello --cpu pentium
one_line "one plain line"
holds "lists those that are" "$W/err" "scalar"
ran "more words than there can be" 2 "$QUERN" show a b
ran "logits without --out" 2 "$QUERN" logits --tokens 1
ran "logits without tokens" 2 "$QUERN" logits --out "$W/x"
ran "perplexity without a file" 2 "$QUERN" perplexity
ran "help for what is not there" 2 "$QUERN" help nothing

# Where to listen, as Ollama's variable has it.
for host in 127.0.0.1:http 127.0.0.1:99999 '[::1' '[::1]x'; do
    "$QUERN" help serve >/dev/null 2>&1 || { skip "OLLAMA_HOST=$host" "built without serve" && continue; }
    # shellcheck disable=SC2086 # a command and its argument
    ran "OLLAMA_HOST=$host" 2 env OLLAMA_HOST="$host" $limit "$QUERN" serve --prefix-cache none
    holds "is named" "$W/err" "OLLAMA_HOST"
done

# Files that are no models.
: >"$W/empty.gguf"
printf 'GGUF' >"$W/four.gguf"
printf 'GGUF\003\000\000\000\377\377\377\377\377\377\377\177\377\377\377\377\377\377\377\177' >"$W/hostile.gguf"
head -c 70000 "$DEMO" >"$W/cut.gguf"
mkdir "$W/folder" "$W/json"
printf '{"architectures":' >"$W/json/config.json"
mkfifo "$W/fifo.gguf" 2>/dev/null
for file in "$W/none.gguf" "$W/empty.gguf" "$W/four.gguf" "$W/hostile.gguf" "$W/cut.gguf" "$W/folder" "$W/json" "$W/fifo.gguf" \
    /dev/zero /dev/null "$SRC/LICENSE"; do
    [ -e "$file" ] || [ "$file" = "$W/none.gguf" ] || { skip "run $file" "not here" && continue; }
    for command in "run -p hello -m" "show" "tokenize -p hello" "logits --tokens 1 --out $W/x"; do
        # shellcheck disable=SC2086 # a list of options
        ran "quern $command ${file##*/}" 1 quern $command "$file"
        one_line "one plain line"
        holds "that names it" "$W/err" "${file##*/}"
    done
done
[ ! -e "$W/x" ]
verdict $? "no output file was made"

# What lies in a folder that may not be entered is not said to be missing.
mkdir "$W/closed"
cp -r "$W/folder" "$W/closed/model"
cp "$W/four.gguf" "$W/closed/model.gguf"
nobody=
[ "$(id -u)" = 0 ] && nobody="setpriv --reuid=65534 --regid=65534 --clear-groups"
chmod 755 "$W"
chmod 000 "$W/closed" "$W/empty.gguf"
if $nobody "$QUERN" help >/dev/null 2>&1 && ! $nobody ls "$W/closed" >/dev/null 2>&1; then
    for file in closed/model.gguf closed/model closed empty.gguf; do
        for command in "run -p hello -m" "show" "convert" "tokenize -p hello"; do
            out=
            [ "$command" = convert ] && out=$W/x
            # shellcheck disable=SC2086 # lists of options
            ran "quern $command $file, which may not be read" 1 $nobody "$QUERN" $command "$W/$file" $out
            holds "says so" "$W/err" "$file"
            holds "and why" "$W/err" "permission denied"
        done
    done
else
    skip "files that may not be read" "needs another user, who can run the program"
fi
chmod 755 "$W/closed"
unpack_models
cp -r "$MODELS/llama_tied" "$W/half"
head -c 200 "$MODELS/llama_tied/tokenizer.json" >"$W/half/tokenizer.json"
ran "a folder with half a tokenizer.json" 1 "$QUERN" run "$W/half" hi
holds "names that file" "$W/err" "half/tokenizer.json: "
ran "a draft model that does not write" 1 "$QUERN" run "$DEMO" hi -n 2 -md "$MODELS/bert_rank"
holds "is refused" "$W/err" "does not write"
ran "an importance matrix" 0 "$QUERN" imatrix "$DEMO" -f "$SRC/README.md" -c 64 --chunks 1 -o "$W/matrix.gguf"
ran "has no vocabulary" 1 "$QUERN" tokenize "$W/matrix.gguf" -p hi
holds "and is named" "$W/err" "matrix.gguf: "
ran "a name full of control characters" 1 "$QUERN" run -p hello -m "$(printf 'a\033[31mb\001c.gguf')"
! LC_ALL=C grep -q "$(printf '[\001\033]')" "$W/err"
verdict $? "does not reach the terminal" "$W/err"

# Places that cannot be written to.
for out in "$W/no/such/folder/x.bin" "$W/folder" /dev/full /proc/x.bin; do
    [ -e /dev/full ] || [ "$out" != /dev/full ] || continue
    [ -d /proc ] || [ "$out" != /proc/x.bin ] || continue
    ran "logits to ${out#"$W/"}" 1 quern logits "$DEMO" --tokens 1,2 --out "$out"
    one_line "one plain line"
done
if [ -e /dev/full ]; then
    [ -c /dev/full ]
    verdict $? "the device is still one"
    for command in "show" "doctor --no-measure" "tokenize -p hello" "run -p hello -n 3" "--help" "completion bash"; do
        # shellcheck disable=SC2086 # a list of options
        "$QUERN" $command >/dev/full 2>"$W/err" </dev/null
        [ $? = 1 ]
        verdict $? "quern $command on a full disk fails" "$W/err"
        one_line "one plain line"
    done
fi
if [ "$(id -u)" != 0 ]; then
    mkdir "$W/locked"
    chmod 500 "$W/locked"
    ran "a folder that is locked" 1 "$QUERN" logits "$DEMO" --tokens 1,2 --out "$W/locked/x.bin"
    one_line "one plain line"
    chmod 700 "$W/locked"
else
    skip "a folder that is locked" "root may write everywhere"
fi
beside_old() { find "$W" -name '*old.bin*' ! -name old.bin; }
printf 'before' >"$W/old.bin"
ran "a failure" 1 "$QUERN" logits "$DEMO" --tokens 1,99999 --out "$W/old.bin"
printf 'before' >"$W/expected"
same "leaves the old file" "$W/expected" "$W/old.bin"
beside_old >"$W/left"
[ ! -s "$W/left" ]
verdict $? "and nothing beside it" "$W/left"

# What would destroy a model, or go where whole files cannot go.
cp "$DEMO" "$W/model.gguf"
ran "logits over a model" 2 "$QUERN" logits "$DEMO" --tokens 1,2 --out "$W/model.gguf"
same "leaves the model" "$DEMO" "$W/model.gguf"
ran "logits to -" 2 "$QUERN" logits "$DEMO" --tokens 1,2 --out -
ran "quantize to -" 2 "$QUERN" quantize "$DEMO" - q8_0
ran "MODEL given twice" 2 "$QUERN" run -m "$DEMO" "$DEMO"
ran "types in any case" 0 "$QUERN" quantize "$DEMO" "$W/f16.gguf" F16 --dry-run
ran "a context of 0 is the default" 0 "$QUERN" run "$DEMO" -p hi -c 0 -n 1
rm -f "$W/model.gguf"

# A model that becomes shorter while it is in use: one line, no crash.
if [ -n "$limit" ]; then
    cp "$DEMO" "$W/shrinks.gguf"
    "$QUERN" run "$W/shrinks.gguf" -p "Tell me a story." --ignore-eos -n 2000 -t 1 --cpu scalar >/dev/null 2>"$W/err" </dev/null &
    pid=$!
    sleep 2
    : >"$W/shrinks.gguf"
    wait $pid
    [ $? = 1 ]
    verdict $? "a model that is emptied while it runs" "$W/err"
    one_line "one plain line"
    rm -f "$W/shrinks.gguf"
fi

# A termination while a file is written.
if [ -n "$limit" ]; then
    timeout -s TERM 0.1 "$QUERN" quantize "$DEMO" "$W/old.bin" f32 2>"$W/err" </dev/null || true
    beside_old >"$W/left"
    [ ! -s "$W/left" ]
    verdict $? "a termination leaves no temporary file"
    printf 'before' >"$W/old.bin"
fi

# An interrupt while a file is written.
if [ -n "$limit" ]; then
    big=$(awk 'BEGIN { for (i = 0; i < 2000; i++) printf "%d,", i; print 1 }')
    "$QUERN" logits "$DEMO" --tokens "$big" --batch 1 --threads 1 --cpu scalar --out "$W/old.bin" 2>"$W/err" </dev/null &
    pid=$!
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        sleep 1
        [ -z "$(beside_old)" ] || break
    done
    kill -INT $pid
    wait $pid
    [ $? = 1 ]
    verdict $? "an interrupt is a failure" "$W/err"
    same "leaves the old file" "$W/expected" "$W/old.bin"
    beside_old >"$W/left"
    [ ! -s "$W/left" ]
    verdict $? "and nothing beside it" "$W/left"
fi
plan
