#!/bin/sh
# Runs test_conformance on the model that the project keeps, and on all others where the shared reference data is there.
set -eu

work=$(mktemp -d "${TMPDIR:-/tmp}/quern-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
shared=${QUERN_SHARED:-$SOURCE_ROOT/../shared}
data=$shared/conformance.tar.xz
[ -f "$data" ] || data=$SOURCE_ROOT/tests/data/conformance.tar.xz
program=$(dirname "$QUERN")/tests/models/test_conformance

tar xJf "$data" -C "$work"
"$program" "$QUERN" "$work/conformance" "$work"
