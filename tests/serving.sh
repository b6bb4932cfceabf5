# serving.sh: what the scripts in tests/server share. Each sources it from its own folder, with `set -eu`, and runs the node program
# beside it. Sets SRC, and for node QUERN and DEMO (the demo model); leaves out the whole script where node or serve is missing.
#
#   skip WHY                       ends the script as skipped
#   packages FOLDER NAME@VERSION.. installs packages of npm in FOLDER on first use
#   clients                        the same for those of OpenAI and Ollama

SRC=${SOURCE_ROOT:-$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)}
QUERN=${QUERN:-$SRC/build/quern}
DEMO=$SRC/share/Llama-Quern-34M-Q8_0.gguf
export QUERN DEMO

skip() {
    echo "1..0 # SKIP $1"
    exit 0
}
command -v node >/dev/null 2>&1 || skip "node is not installed"
"$QUERN" help serve >/dev/null 2>&1 || skip "this program is built without serve"

# OpenAI's and Ollama's packages for node, in $QUERN_CLIENTS, by default quern-clients in the user's cache folder; sets CLIENTS.
clients() {
    CLIENTS=${QUERN_CLIENTS:-${XDG_CACHE_HOME:-$HOME/.cache}/quern-clients}
    export CLIENTS
    packages "$CLIENTS" openai@7.57.0 ollama@0.6.4
}

packages() {
    folder=$1
    shift
    command -v npm >/dev/null 2>&1 || skip "npm is not installed"
    [ "$(cat "$folder/installed" 2>/dev/null)" != "$*" ] || return 0
    mkdir -p "$folder"
    (cd "$folder" && npm install --no-audit --no-fund --no-save --ignore-scripts --omit=optional --fetch-retries=0 \
        --fetch-timeout=60000 "$@" >&2) || skip "$* cannot be installed"
    echo "$*" >"$folder/installed"
}
