#!/bin/sh
# 1,000 JSON Schemas whose answers all satisfy them, as ajv sees it, and 1,000 that are refused. ajv and its formats are installed on
# first use in $QUERN_AJV, by default quern-ajv in the user's cache folder.
set -eu
. "$(dirname "$0")/../serving.sh"

PACKAGES=${QUERN_AJV:-${XDG_CACHE_HOME:-$HOME/.cache}/quern-ajv}
export PACKAGES
packages "$PACKAGES" ajv@8.17.1 ajv-formats@3.0.1
DRAW=$(dirname "$QUERN")/tests/models/draw_answers node "$(dirname "$0")/schemas.mjs"
