#!/bin/sh
# hardening: what the linker made of the program. usage: hardening.sh PROGRAM. Prints TAP.
set -eu
program=$1
n=0
report() { # NAME PATTERN FILE [absent]
    n=$((n + 1))
    found=no
    grep -qE "$2" "$3" && found=yes
    want=yes
    [ "${4:-}" = absent ] && want=no
    if [ $found = $want ]; then echo "ok $n - $1"; else echo "not ok $n - $1"; fi
}

if [ "$(uname -s)" != Linux ] || ! command -v readelf >/dev/null 2>&1; then
    echo "1..0 # SKIP needs readelf"
    exit 0
fi
dump=$(mktemp)
trap 'rm -f "$dump"' EXIT
readelf -W -h -l -d -s "$program" >"$dump"
report "position independent" 'Type: +DYN' "$dump"
report "relocations read-only" 'GNU_RELRO' "$dump"
report "bound at start" 'BIND_NOW|FLAGS_1.*NOW' "$dump"
report "stack protector" '__stack_chk_fail' "$dump"
report "fortified" '_chk@' "$dump"
report "stack not executable" 'GNU_STACK.* RW +' "$dump"
report "no segment writable and executable" '^ +LOAD .* RWE ' "$dump" absent
echo "1..$n"
