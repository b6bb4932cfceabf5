#!/bin/sh
# The clients that people use, OpenAI's and Ollama's packages for node, against a quern serve of the demo model. They are installed
# on first use in $QUERN_CLIENTS, by default quern-clients in the user's cache folder.
set -eu
. "$(dirname "$0")/../serving.sh"

clients
node "$(dirname "$0")/clients.mjs"
