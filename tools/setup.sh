# Sourced by ./quickstart and ./check: finds what the build needs and installs what is missing.

# What is needed, how to see whether it is there, and the package that brings it (Debian 12, Ubuntu 24.04).
missing_packages() {
  command -v c++ >/dev/null || echo g++
  command -v meson >/dev/null || echo meson
  command -v ninja >/dev/null || echo ninja-build
  command -v pkg-config >/dev/null || echo pkg-config
  command -v python3 >/dev/null || echo python3
  has_header dnnl.hpp || echo libdnnl-dev
  has_header doctest/doctest.h || echo doctest-dev
  has_header nlohmann/json.hpp || echo nlohmann-json3-dev
  has_header CLI/CLI.hpp || echo libcli11-dev
  has_header stb/stb_image.h || echo libstb-dev
  has_header jpeglib.h || echo libjpeg-dev
}

has_header() { command -v c++ >/dev/null && echo "#include <$1>" | c++ -std=c++20 -E -x c++ - >/dev/null 2>&1; }

install_missing() {
  local missing as_root=()
  mapfile -t missing < <(missing_packages)
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  if ! command -v apt-get >/dev/null; then
    echo "These are missing: ${missing[*]} (the names of Debian's packages)." >&2
    echo "There is no apt-get here: install them with this system's package manager, then run $0 again." >&2
    exit 1
  fi
  echo "Installing ${missing[*]}"
  if ! { "${as_root[@]}" apt-get update -qq && DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq "${missing[@]}" >/dev/null; }; then
    echo "That failed. Have an administrator run: apt-get install ${missing[*]}" >&2
    exit 1
  fi
}

# configure FOLDER [meson options]: once. Without a GPU the CUDA part is left out unless asked for.
configure() {
  local folder=$1 cuda=disabled
  shift
  [ -e /dev/nvidiactl ] && cuda=auto
  [ -f "$folder/build.ninja" ] || meson setup "$folder" "-Dcuda=$cuda" "$@"
}
