#!/bin/sh
# Quern beside other engines on the same GGUF file: each in turn, several rounds, medians and ratios, as a Markdown table.
#
# usage: bench/peers/run.sh MODEL.gguf [--node] [--llama-bench [NAME=]PROGRAM]... [-p 512] [-n 64] [-d 0] [-r 3] [-t 2] [--quern PROGRAM]
#
#   --node                 llama.cpp as the npm package node-llama-cpp (version in package.json), installed in $QUERN_PEERS, by
#                          default quern-peers in the user's cache folder
#   --llama-bench PROGRAM  llama.cpp's llama-bench, or a fork's, which the table calls NAME; may be repeated
#   -p, -n, -d             as for quern bench; lists parted by commas
#   -r, -t                 rounds; threads of every engine
# Needs node. Nothing else should run on the machine.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

usage() {
    sed -n '4p' "$0" | cut -c3- >&2
    exit 2
}

[ $# -gt 0 ] || usage
command -v node >/dev/null || { echo "run.sh: node is needed" >&2 && exit 1; }

folder=
for arg; do
    shift
    case $arg in
    --node)
        folder=${QUERN_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/quern-peers}
        set -- "$@" --node "$folder"
        ;;
    -h | --help) usage ;;
    *) set -- "$@" "$arg" ;;
    esac
done

if [ -n "$folder" ]; then
    sh "$here/install.sh" "$folder"
    cp "$here/node_llama_cpp.mjs" "$folder/"
fi
exec node "$here/compare.mjs" "$@"
