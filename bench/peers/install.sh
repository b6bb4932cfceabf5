#!/bin/sh
# Puts node-llama-cpp (version in package.json), with llama.cpp for the CPU, into FOLDER, unless it is there.
#
# usage: bench/peers/install.sh FOLDER
# Needs node, npm and a network. The packages are left out in which llama.cpp is built for graphics cards: 600 MB.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
folder=$1

if cmp -s "$here/package.json" "$folder/installed.json"; then exit 0; fi
version=$(sed -n 's/.*"node-llama-cpp": "\(.*\)".*/\1/p' "$here/package.json")
case $(node -p 'process.platform + "-" + process.arch') in
darwin-arm64) binary=mac-arm64-metal ;;
darwin-*) binary=mac-x64 ;;
*-arm64) binary=linux-arm64 ;;
*) binary=linux-x64 ;;
esac
mkdir -p "$folder"
cp "$here/package.json" "$folder/"
cd "$folder"
npm install --no-audit --no-fund --no-save --ignore-scripts --omit=optional --fetch-retries=0 --fetch-timeout=60000 \
    "node-llama-cpp@$version" "@node-llama-cpp/$binary@$version" >&2
cp "$here/package.json" installed.json
