# checks.sh: what scripts share that check one thing after another. Each sources it, and ends with its plan: echo "1..$n".
#
#   ok NAME, bad NAME        print a line of TAP
#   check NAME COMMAND...    prints one by what COMMAND returns

n=0
ok() { n=$((n + 1)) && echo "ok $n - $1"; }
bad() { n=$((n + 1)) && echo "not ok $n - $1"; }
check() {
    name=$1
    shift
    if "$@"; then ok "$name"; else bad "$name"; fi
}
