#!/bin/sh
# arrows: a room includes only rooms that ARCHITECTURE.md allows it, and of those only what they show to others: room/room.h and
# lists (*.def). Everything else is private to its folder. Prints TAP.
set -eu
cd "$(dirname "$0")/../.."

allowed() { # ROOM -> the rooms it may include
    awk -v room="$1:" '/^```rooms/ { on = 1; next } /^```/ { on = 0 } on && $1 == room { $1 = ""; print; found = 1 } END { exit !found }' \
        ARCHITECTURE.md
}

n=0
report() { # STATUS NAME
    n=$((n + 1))
    if [ "$1" = 0 ]; then echo "ok $n - $2"; else echo "not ok $n - $2"; fi
}

check_room() { # ROOM FOLDER
    room=$1
    bad=0
    if ! list=" $(allowed "$room") "; then
        echo "# $room is not a room of ARCHITECTURE.md"
        return 1
    fi
    includes=$(find "$2" -name '*.[ch]' -exec grep -HnoE '^[[:space:]]*#[[:space:]]*include[[:space:]]+"[^"]+"' {} + |
        sed 's/:[[:space:]]*#.*"\(.*\)"/ \1/' || true)
    while read -r place path; do
        [ -n "$place" ] || continue
        from=${path%%/*}
        case $path in
        quern.h) from=include ;;
        */*) ;;
        *) [ -e "$(dirname "${place%%:*}")/$path" ] && continue ;;
        esac
        [ "$from" = "$room" ] && continue
        case $list in
        *" $from "*) ;;
        *)
            echo "# $place: $room may not include $path"
            bad=1
            continue
            ;;
        esac
        case $path in
        quern.h | "$from/$from.h" | *.def) ;;
        *)
            echo "# $place: $path is private to $from"
            bad=1
            ;;
        esac
    done <<EOF
$includes
EOF
    return $bad
}

for folder in src/*/ tools/*/; do
    [ -n "$(find "$folder" -name '*.[ch]')" ] || continue
    room=$(basename "$folder")
    case $folder in tools/*) room=tools ;; esac
    status=0
    check_room "$room" "$folder" || status=1
    report $status "arrows of ${folder%/}"
done
echo "1..$n"
