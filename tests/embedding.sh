#!/usr/bin/env bash
# Installs a build into a temporary folder, compiles the program of docs/embedding.md against it with pkg-config, runs it.
# Usage: embedding.sh BUILD_FOLDER
set -euo pipefail
command -v pkg-config >/dev/null || { echo "pkg-config is not installed: skipped"; exit 77; }
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
DESTDIR="$work/root" meson install -C "$build" --no-rebuild --quiet
prefix=$(cd "$work/root"/usr/local 2>/dev/null && pwd || dirname "$(find "$work/root" -type d -name bin | head -1)")
pc=$(find "$prefix" -name pipecast.pc)
sed -n '/^```cpp$/,/^```$/p' "$source/docs/embedding.md" | sed '1d;$d' >"$work/program.cc"
flags=$(PKG_CONFIG_PATH=$(dirname "$pc") pkg-config --define-variable=prefix="$prefix" --cflags --libs pipecast)
# The installed tree alone must do: compiled away from the sources.
(cd "$work" && c++ -std=c++20 -O1 program.cc $flags -o program && ./program)
"$prefix/bin/pipecast" --help >/dev/null
