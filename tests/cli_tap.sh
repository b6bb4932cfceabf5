# cli_tap.sh: what the scripts in tests/cli share. Sourced; prints TAP.
#
#   ran NAME STATUS CMD...     runs CMD without standard input: its output goes to $W/out, its messages to $W/err; checks its status
#   fed NAME STATUS FILE CMD.. the same with FILE as standard input
#   same NAME FILE FILE        the files are equal
#   holds NAME FILE TEXT       the file has TEXT in it
#   prints NAME TEXT           $W/out is TEXT and a newline
#   one_line NAME              $W/err is one line that begins with "quern"
#   skip NAME WHY
#   plan                       prints the plan; last
#
# $QUERN is the program, $SRC the source folder, $SHARED reference data that is not part of the project and may be missing, $DEMO
# the demo model, $W a work folder.

SRC=${SRC:-${SOURCE_ROOT:-$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)}}
QUERN=${QUERN:-$SRC/build/quern}
SHARED=${QUERN_SHARED:-$SRC/../shared}
DEMO=$SRC/share/Llama-Quern-34M-Q8_0.gguf
W=$(mktemp -d "${TMPDIR:-/tmp}/quern-cli.XXXXXX")
trap 'rm -rf "$W"' EXIT
trap 'exit 130' INT TERM HUP
count=0

ok() {
    count=$((count + 1))
    echo "ok $count - $1"
}

not_ok() { # NAME FILES-TO-SHOW...
    count=$((count + 1))
    echo "not ok $count - $1"
    shift
    for t_file; do
        [ -s "$t_file" ] && head -c 1500 "$t_file" | tr -d '\000' | sed "s,^,# ${t_file##*/}: ,"
    done
    return 0
}

verdict() { # STATUS NAME FILES...
    t_status=$1
    shift
    if [ "$t_status" = 0 ]; then ok "$1"; else not_ok "$@"; fi
}

skip() {
    count=$((count + 1))
    echo "ok $count - $1 # SKIP $2"
}

fed() {
    t_name=$1 t_want=$2 t_input=$3 t_got=0
    shift 3
    "$@" <"$t_input" >"$W/out" 2>"$W/err" || t_got=$?
    if [ "$t_got" = "$t_want" ]; then
        ok "$t_name"
    else
        echo "# status $t_got, expected $t_want: $*"
        not_ok "$t_name" "$W/out" "$W/err"
    fi
}

ran() {
    t_name=$1 t_want=$2
    shift 2
    fed "$t_name" "$t_want" /dev/null "$@"
}

same() {
    if cmp -s "$2" "$3"; then
        ok "$1"
    else
        diff "$2" "$3" | head -n 20 | cut -c 1-200 | sed 's/^/# /'
        not_ok "$1"
    fi
}

holds() {
    grep -qF -e "$3" "$2" && t_status=0 || t_status=1
    verdict $t_status "$1" "$2"
}

prints() {
    printf '%s\n' "$2" >"$W/expected"
    same "$1" "$W/expected" "$W/out"
}

one_line() {
    [ "$(wc -l <"$W/err")" -eq 1 ] && grep -q '^quern' "$W/err" && t_status=0 || t_status=1
    verdict $t_status "$1" "$W/err"
}

plan() {
    echo "1..$count"
}

# Unpacks the conformance models of the project; $MODELS is their folder.
unpack_models() {
    mkdir -p "$W/models"
    xz -dc "$SRC/tests/data/conformance.tar.xz" | tar -C "$W/models" -xf -
    MODELS=$W/models/conformance
}
