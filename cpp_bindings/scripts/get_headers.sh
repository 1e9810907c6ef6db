#!/usr/bin/env bash
# Bring the headers of nlohmann-json and ONNX Runtime into a folder, from Debian's packages, without
# installing anything and without root:
#
#   scripts/get_headers.sh [FOLDER]      default: build-headers beside CMakeLists.txt
#
# Debian 12 has no libonnxruntime-dev; there the package of Debian 13 is taken: it holds headers only.
# Elsewhere install nlohmann-json and the headers of ONNX Runtime (1.14 or newer) by hand.
set -euo pipefail

folder=${1:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build-headers}
if [[ -f $folder/include/nlohmann/json.hpp && -f $folder/include/onnxruntime/onnxruntime_c_api.h ]]; then
    exit 0
fi
for tool in apt-get apt-cache dpkg-deb; do
    command -v "$tool" >/dev/null || { echo "$tool is not there; install the headers by hand" >&2; exit 5; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists,cache}/partial "$work/cache/archives/partial" "$work/debs" "$work/root"

# The machine's own sources, one release newer where it knows no libonnxruntime-dev.
cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list >"$work/sources.list" 2>/dev/null || true
cat /etc/apt/sources.list.d/*.sources >"$work/more.sources" 2>/dev/null || true
if grep -qs bookworm "$work/sources.list" "$work/more.sources"; then
    sed -i 's/bookworm/trixie/g' "$work/sources.list" "$work/more.sources"
fi
mkdir -p "$work/parts"
cp "$work/more.sources" "$work/parts/more.sources"
options=(-oDir::State::Lists="$work/lists" -oDir::Etc::SourceList="$work/sources.list"
    -oDir::Etc::SourceParts="$work/parts" -oDir::Cache="$work/cache" -oAPT::Sandbox::User=root
    -oDebug::NoLocking=1 -qq)

apt-get "${options[@]}" update
(cd "$work/debs" && apt-get "${options[@]}" download nlohmann-json3-dev libonnxruntime-dev)
for package in "$work"/debs/*.deb; do
    dpkg-deb -x "$package" "$work/root"
done

mkdir -p "$(dirname "$folder")"
rm -rf "$folder.new"
mkdir "$folder.new"
mv "$work/root/usr/include" "$folder.new/include"
rm -rf "$folder"
mv "$folder.new" "$folder"
echo "headers of nlohmann-json and ONNX Runtime: $folder"
