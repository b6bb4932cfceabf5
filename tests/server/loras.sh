#!/bin/sh
# Adapters behind quern serve: requests with different ones at the same time get what quern run gives for each; /lora-adapters
# lists them and sets their scales.
set -eu
. "$(dirname "$0")/../serving.sh"

work=$(mktemp -d "${TMPDIR:-/tmp}/quern-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
make_lora=$(dirname "$QUERN")/tests/models/make_lora
tar xJf "$SRC/tests/data/conformance.tar.xz" -C "$work" conformance/llama_tied
cd "$work"
"$make_lora" --turned 4,2 conformance/llama_tied peft lora.gguf merged
"$make_lora" --seed 2 --turned 4,2 conformance/llama_tied peft2 lora2.gguf merged2
DEMO=conformance/llama_tied node "$SRC/tests/server/loras.mjs"
