#!/bin/sh
# What a quern serve of the demo model has computed is found again: in a conversation that grows, by a server that starts after
# another was killed, and after its files were damaged.
set -eu
. "$(dirname "$0")/../serving.sh"

FOLDER=$(mktemp -d)
export FOLDER
trap 'rm -rf "$FOLDER"' EXIT
node "$(dirname "$0")/prefix.mjs"
