#!/bin/sh
# Adapters behind quern serve: requests with different ones at the same time get what quern run gives for each; /lora-adapters
# lists them and sets their scales.
set -eu

SRC=${SOURCE_ROOT:-$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)}
QUERN=${QUERN:-$SRC/build/quern}
work=$(mktemp -d "${TMPDIR:-/tmp}/quern-test.XXXXXX")
trap 'rm -rf "$work"' EXIT

skip() {
    echo "1..0 # SKIP $1"
    exit 0
}
command -v node >/dev/null 2>&1 || skip "node is not installed"
"$QUERN" help serve >/dev/null 2>&1 || skip "this program is built without serve"
make_lora=$(dirname "$QUERN")/tests/models/make_lora
tar xJf "$SRC/tests/data/conformance.tar.xz" -C "$work" conformance/llama_tied
cd "$work"
"$make_lora" --turned 4,2 conformance/llama_tied peft lora.gguf merged
"$make_lora" --seed 2 --turned 4,2 conformance/llama_tied peft2 lora2.gguf merged2
QUERN=$QUERN DEMO=conformance/llama_tied node "$SRC/tests/server/loras.mjs"
