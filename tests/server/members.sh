#!/bin/sh
# Members of requests that clients send beside the usual ones: honoured, ignored because they say nothing about the answer, or refused.
# With OpenAI's and Ollama's packages for node, as clients.sh.
set -eu
. "$(dirname "$0")/../serving.sh"

clients
node "$(dirname "$0")/members.mjs"
