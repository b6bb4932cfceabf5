# tap.sh: runs test programs, reads the TAP lines that they print, and keeps the sums. Sourced by ./dev.
#
#   tap_start              makes the work folder $TAP_DIR
#   tap_run LABEL CMD...   runs CMD; counts its "ok", "not ok" and "# SKIP" lines, and shows its seconds
#   tap_skip LABEL WHY     counts one skipped test
#   tap_end                prints the one line of sums; status 1 when anything failed
#
# A program that crashes, runs longer than $TAP_TIMEOUT seconds, prints fewer results than its plan "1..N" or none at all, counts
# as failed even if no line says so.

TAP_TIMEOUT=${TAP_TIMEOUT:-900}

tap_start() {
    TAP_DIR=$(mktemp -d "${TMPDIR:-/tmp}/quern-dev.XXXXXX")
    trap 'rm -rf "$TAP_DIR"' EXIT
    trap 'exit 130' INT TERM HUP
    : >"$TAP_DIR/sums"
}

# LOG STATUS -> "passed failed skipped"
tap_count() {
    awk -v status="$2" '
        /^1\.\.[0-9]+/ { plan += substr($1, 4); has_plan = 1; if ($1 == "1..0") skipped++ }
        /^(not )?ok( |$)/ { if (/# *[Ss][Kk][Ii][Pp]/) skipped++; else if (/^ok/) passed++; else failed++ }
        END {
            all = passed + failed + skipped
            if (!failed && (status != 0 || all == 0 || (has_plan && all < plan))) failed++
            print passed + 0, failed + 0, skipped + 0
        }' "$1"
}

tap_run() {
    tap_label=$1
    shift
    tap_log=$TAP_DIR/log.$$.$(echo "$tap_label" | tr -c 'a-zA-Z0-9_\n' '_')
    tap_status=0
    tap_began=$(date +%s)
    if command -v timeout >/dev/null 2>&1; then
        CMOCKA_MESSAGE_OUTPUT=TAP timeout "$TAP_TIMEOUT" "$@" >"$tap_log" 2>&1 </dev/null || tap_status=$?
    else
        CMOCKA_MESSAGE_OUTPUT=TAP "$@" >"$tap_log" 2>&1 </dev/null || tap_status=$?
    fi
    tap_sums=$(tap_count "$tap_log" "$tap_status")
    echo "$tap_sums" >>"$TAP_DIR/sums"
    # shellcheck disable=SC2086 # three numbers
    set -- $tap_sums
    tap_line=$(printf '  %-28s %4s s %4s passed' "$tap_label" $(($(date +%s) - tap_began)) "$1")
    [ "$3" = 0 ] || tap_line="$tap_line, $3 skipped"
    if [ "$2" = 0 ]; then
        printf '%s\n' "$tap_line"
    else
        printf '%s, %s FAILED (status %s)\n%s\n' "$tap_line" "$2" "$tap_status" \
            "$(grep -v '^ok ' "$tap_log" | tail -n 40 | sed 's/^/    /')"
    fi
}

tap_skip() {
    echo "0 0 1" >>"$TAP_DIR/sums"
    printf '  %-28s SKIP: %s\n' "$1" "$2"
}

tap_fail() {
    echo "0 1 0" >>"$TAP_DIR/sums"
    printf '  %-28s FAILED: %s\n' "$1" "$2"
}

tap_end() {
    awk '{ p += $1; f += $2; s += $3 }
        END { printf "%d passed, %d failed, %d skipped\n", p, f, s; exit f + 0 > 0 || p + 0 == 0 }' "$TAP_DIR/sums"
}
