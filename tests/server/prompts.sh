#!/bin/sh
# Several prompts in a request, prompts that answers repeat, and what is said of their tokens: of the demo model, of one whose
# tokenizer puts a space in front of a text, and of one with other rotary embeddings for long sequences.
set -eu
. "$(dirname "$0")/../serving.sh"

work=$(mktemp -d "${TMPDIR:-/tmp}/quern-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
tar xJf "$SRC/tests/data/conformance.tar.xz" -C "$work" conformance/llama_tied conformance/llama_longrope
SPACED="$work/conformance/llama_tied" LONG="$work/conformance/llama_longrope" node "$(dirname "$0")/prompts.mjs"
