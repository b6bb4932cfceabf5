#!/bin/sh
# Answers of a form, in each dialect of a quern serve of the demo model: whole, streamed, with stop strings, with tools, with guesses.
set -eu
. "$(dirname "$0")/../serving.sh"

node "$(dirname "$0")/forms.mjs"
