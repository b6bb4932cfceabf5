#!/bin/sh
# What a quern serve of the demo model has computed is found again: in a conversation that grows, by a server that starts after
# another was killed, and after its files were damaged.
set -eu

SRC=${SOURCE_ROOT:-$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)}
QUERN=${QUERN:-$SRC/build/quern}

skip() {
    echo "1..0 # SKIP $1"
    exit 0
}
command -v node >/dev/null 2>&1 || skip "node is not installed"
"$QUERN" help serve >/dev/null 2>&1 || skip "this program is built without serve"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
QUERN=$QUERN DEMO=$SRC/share/Llama-Quern-34M-Q8_0.gguf FOLDER=$folder node "$(dirname "$0")/prefix.mjs"
