#!/bin/sh
# encodings: the kernels of levels below AVX-512 hold no instruction in its encoding (in 64-bit code, those that begin with byte
# 62), which kernel tests cannot tell on a machine that has it. usage: encodings.sh FOLDER-OF-KERNEL-LIBRARIES. Prints TAP.
set -eu
folder=$1

if [ "$(uname -m)" != x86_64 ] || ! command -v objdump >/dev/null 2>&1; then
    echo "1..0 # SKIP needs x86-64 and objdump"
    exit 0
fi
n=0
for level in avx2 avxvnni; do
    n=$((n + 1))
    code=$(find "$folder/libquern_kernel_$level.a.p" -name '*.o' -exec objdump -d -w {} + | awk -F'\t' '
        NF >= 3 { all++ }
        NF >= 3 && $2 ~ /^62 / && ++evex <= 5 { print "# " $3 }
        /vpdpbusd/ { products++ }
        END { print all + 0, evex + 0, products + 0 }')
    echo "$code" | grep '^#' || true
    # shellcheck disable=SC2046 # three numbers
    set -- $(echo "$code" | tail -n 1)
    good=no
    [ "$1" -gt 1000 ] && [ "$2" = 0 ] && good=yes
    [ $level = avxvnni ] && [ "$3" = 0 ] && good=no
    [ $good = yes ] || echo "# $1 instructions, $2 of AVX-512, $3 vpdpbusd"
    if [ $good = yes ]; then echo "ok $n - $level"; else echo "not ok $n - $level"; fi
done
echo "1..$n"
