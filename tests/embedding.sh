#!/usr/bin/env bash
# What a research fork does: installs a build into a temporary folder, compiles the programs of docs/embedding.md and docs/embedding/ against
# it with pkg-config, away from the sources, and runs them. Usage: embedding.sh BUILD_FOLDER
set -euo pipefail
command -v pkg-config >/dev/null || { echo "pkg-config is not installed: skipped"; exit 77; }
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
DESTDIR="$work/root" meson install -C "$build" --no-rebuild --quiet
prefix=$(cd "$work/root"/usr/local 2>/dev/null && pwd || dirname "$(find "$work/root" -type d -name bin | head -1)")
PKG_CONFIG_PATH=$(dirname "$(find "$prefix" -name pipecast.pc)")
export PKG_CONFIG_PATH
flags() { pkg-config --define-variable=prefix="$prefix" --cflags --libs "$@"; }
sed -n '/^```cpp$/,/^```$/p' "$source/docs/embedding.md" | sed '1d;$d' >"$work/program.cc"
cp "$source"/docs/embedding/* "$work"
cd "$work"

compile() { c++ -std=c++20 -O1 "$1.cc" $(flags "${@:2}") -o "$1"; }
compile program pipecast
./program
compile test_layer pipecast
./test_layer
compile train pipecast
./train

# The whole command with the fork's names in it.
compile main pipecast-command
./main info >info
./main train --help >help
for name in two-branches half-ahead lion inverse-root stripes; do
  grep -q "$name" info || { echo "info does not name $name"; exit 1; }
  grep -q "$name" help || { echo "train --help does not name $name"; exit 1; }
done
./main audit --stages 3 --method half-ahead --minibatches 4 >/dev/null
run=(--data stripes --model two-branches --stages 3 --optimizer lion --lr 0.002 --lr-schedule inverse-root --epochs 1 --batch 64)
./main train "${run[@]}" --method half-ahead --out run >/dev/null
./main compare "${run[@]}" --methods half-ahead,pipeoptim --seeds 1,2 | tee compared
grep -q half-ahead compared
if ./main train --data stripes --method half-ahed --out other 2>message; then echo "a misspelt method is accepted"; exit 1; fi
grep -q "did you mean 'half-ahead'?" message
"$prefix/bin/pipecast" --help >/dev/null
