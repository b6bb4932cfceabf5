#!/bin/sh
# What /completion and its relatives take and tell, as clients of llama-server read it.
set -eu
. "$(dirname "$0")/../serving.sh"

node "$(dirname "$0")/completion.mjs"
