#!/bin/sh
# 1,000 JSON Schemas whose answers all satisfy them, as ajv sees it, and 1,000 that are refused. ajv and its formats are installed on
# first use in $QUERN_AJV, by default quern-ajv in the user's cache folder.
set -eu

ajv=8.17.1
formats=3.0.1
SRC=${SOURCE_ROOT:-$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)}
QUERN=${QUERN:-$SRC/build/quern}
packages=${QUERN_AJV:-${XDG_CACHE_HOME:-$HOME/.cache}/quern-ajv}

skip() {
    echo "1..0 # SKIP $1"
    exit 0
}
for program in node npm; do
    command -v $program >/dev/null 2>&1 || skip "$program is not installed"
done
"$QUERN" help serve >/dev/null 2>&1 || skip "this program is built without serve"
if [ "$(cat "$packages/installed" 2>/dev/null)" != "$ajv $formats" ]; then
    mkdir -p "$packages"
    (cd "$packages" && npm install --no-audit --no-fund --no-save --ignore-scripts --omit=optional --fetch-retries=0 \
        --fetch-timeout=60000 "ajv@$ajv" "ajv-formats@$formats" >&2) || skip "ajv cannot be installed"
    echo "$ajv $formats" >"$packages/installed"
fi
QUERN=$QUERN DRAW=$(dirname "$QUERN")/tests/models/draw_answers DEMO=$SRC/share/Llama-Quern-34M-Q8_0.gguf PACKAGES=$packages node "$(dirname "$0")/schemas.mjs"
