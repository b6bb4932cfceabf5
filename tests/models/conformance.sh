#!/bin/sh
# Runs test_conformance on the models that the project keeps (made like those of the shared reference data, from
# tests/data/conformance_specs.json), and on those of the shared data where it is there.
set -eu

work=$(mktemp -d "${TMPDIR:-/tmp}/quern-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
shared=${QUERN_SHARED:-$SOURCE_ROOT/../shared}/conformance.tar.xz
program=$(dirname "$QUERN")/tests/models/test_conformance

for data in "$SOURCE_ROOT/tests/data/conformance.tar.xz" "$shared"; do
    if [ -f "$data" ]; then tar xJf "$data" -C "$work"; fi
done
cd "$work/conformance"
"$program" "$QUERN" . "$work" $(ls -d */reference.json | xargs -n1 dirname)
[ -f "$shared" ] || echo "ok - the other models # SKIP no shared reference data"
