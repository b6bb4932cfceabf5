#!/bin/sh
# The clients that people use, OpenAI's and Ollama's packages for node, against a quern serve of the demo model. They are installed
# on first use in $QUERN_CLIENTS, by default quern-clients in the user's cache folder.
set -eu

openai=7.57.0
ollama=0.6.4
SRC=${SOURCE_ROOT:-$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)}
QUERN=${QUERN:-$SRC/build/quern}
clients=${QUERN_CLIENTS:-${XDG_CACHE_HOME:-$HOME/.cache}/quern-clients}

skip() {
    echo "1..0 # SKIP $1"
    exit 0
}
for program in node npm; do
    command -v $program >/dev/null 2>&1 || skip "$program is not installed"
done
"$QUERN" help serve >/dev/null 2>&1 || skip "this program is built without serve"
if [ "$(cat "$clients/installed" 2>/dev/null)" != "$openai $ollama" ]; then
    mkdir -p "$clients"
    (cd "$clients" && npm install --no-audit --no-fund --no-save --ignore-scripts --omit=optional --fetch-retries=0 \
        --fetch-timeout=60000 "openai@$openai" "ollama@$ollama" >&2) || skip "the clients cannot be installed"
    echo "$openai $ollama" >"$clients/installed"
fi
QUERN=$QUERN DEMO=$SRC/share/Llama-Quern-34M-Q8_0.gguf CLIENTS=$clients node "$(dirname "$0")/clients.mjs"
