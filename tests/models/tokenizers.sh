#!/bin/sh
# Runs test_tokenizers on the tokenizers that the project keeps with what the `tokenizers` library makes of texts.
set -eu

work=$(mktemp -d "${TMPDIR:-/tmp}/quern-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
xz -dc "$SOURCE_ROOT/tests/data/tokenizers.json.xz" >"$work/tokenizers.json"
"$(dirname "$QUERN")/tests/models/test_tokenizers" "$work/tokenizers.json"
