#!/bin/sh
# Answers of a form, in each dialect of a quern serve of the demo model: whole, streamed, with stop strings, with tools, with guesses.
set -eu

SRC=${SOURCE_ROOT:-$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)}
QUERN=${QUERN:-$SRC/build/quern}

skip() {
    echo "1..0 # SKIP $1"
    exit 0
}
command -v node >/dev/null 2>&1 || skip "node is not installed"
"$QUERN" help serve >/dev/null 2>&1 || skip "this program is built without serve"
QUERN=$QUERN DEMO=$SRC/share/Llama-Quern-34M-Q8_0.gguf node "$(dirname "$0")/forms.mjs"
