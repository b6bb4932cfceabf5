#!/bin/sh
# headers: every header compiles alone, in C17 and the public one in C++ too. Those of an instruction set are compiled with its
# flags, on a machine that has it; *_tmpl.h are text for the header or file that includes them. Prints TAP.
set -eu
cd "$(dirname "$0")/../.."
CC=${CC:-cc}
n=0
machine=$(uname -m)

flags_of() {
    case $1 in
    */x86/*avx512*) echo -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mfma -mf16c ;;
    */x86/*) echo -mavx2 -mfma -mf16c ;;
    */arm/*) echo -march=armv8.2-a+dotprod ;;
    esac
}

report() {
    n=$((n + 1))
    echo "$1 $n - $2 compiles alone"
}

for header in $(find src include tools tests -name '*.h' ! -name '*_tmpl.h' | LC_ALL=C sort); do
    case $header:$machine in
    */x86/*:x86_64 | */arm/*:aarch64 | */arm/*:arm64) ;;
    */x86/* | */arm/*)
        n=$((n + 1))
        echo "ok $n - $header # SKIP for another kind of machine"
        continue
        ;;
    esac
    # shellcheck disable=SC2046 # several flags
    if echo "#include \"$header\"" | "$CC" -std=gnu17 -D_GNU_SOURCE -DSOURCE_ROOT='"."' -fsyntax-only -Wall -Wextra -Werror \
        -Wno-unused-function -I. -Isrc -Iinclude -I"$(dirname "$header")" $(flags_of "$header") -x c - 2>&1 | sed 's/^/# /' |
        grep .; then
        report "not ok" "$header"
    else
        report ok "$header"
    fi
done
if command -v c++ >/dev/null 2>&1; then
    if echo '#include "quern.h"' | c++ -std=c++17 -fsyntax-only -Wall -Wextra -Werror -Iinclude -x c++ -; then
        report ok "include/quern.h in C++"
    else
        report "not ok" "include/quern.h in C++"
    fi
fi
echo "1..$n"
