#!/bin/sh
# Members of requests that clients send beside the usual ones: honoured, ignored because they say nothing about the answer, or refused.
# With OpenAI's and Ollama's packages for node, as clients.sh.
set -eu
. "$(dirname "$0")/../serving.sh"

CLIENTS=${QUERN_CLIENTS:-${XDG_CACHE_HOME:-$HOME/.cache}/quern-clients}
export CLIENTS
packages "$CLIENTS" openai@7.57.0 ollama@0.6.4
node "$(dirname "$0")/members.mjs"
