#!/bin/sh
# What does not fit the context of a quern serve of the demo model: an error with the counts, and by choice the oldest turns go, or
# the answer goes on behind half of what was; each reply says what was left out.
set -eu
. "$(dirname "$0")/../serving.sh"

node "$(dirname "$0")/context.mjs"
