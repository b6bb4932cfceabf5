#!/bin/sh
# A server that is asked to end while it answers: each client is told so in the form of its dialect, and no connection is torn.
set -eu
. "$(dirname "$0")/../serving.sh"

node "$(dirname "$0")/stopping.mjs"
