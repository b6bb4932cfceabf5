#!/bin/sh
# What does not fit the context of a quern serve of the demo model: an error with the counts, and by choice the oldest turns go, or
# the answer goes on behind half of what was; each reply says what was left out.
set -eu

SRC=${SOURCE_ROOT:-$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)}
QUERN=${QUERN:-$SRC/build/quern}

skip() {
    echo "1..0 # SKIP $1"
    exit 0
}
command -v node >/dev/null 2>&1 || skip "node is not installed"
"$QUERN" help serve >/dev/null 2>&1 || skip "this program is built without serve"
QUERN=$QUERN DEMO=$SRC/share/Llama-Quern-34M-Q8_0.gguf node "$(dirname "$0")/context.mjs"
