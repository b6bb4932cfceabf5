#!/bin/sh
# Requests that are wrong, in every way that was thought of, against a quern serve of the demo model: each gets its status and an
# error in the form of its dialect, and the server goes on.
set -eu
. "$(dirname "$0")/../serving.sh"

node "$(dirname "$0")/protocol.mjs"
