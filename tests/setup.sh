# Sourced by the README's two commands: makes sure that everything the build needs is there, and says what it does.
# Needs a Rust toolchain (1.95 or newer), a C compiler, and protoc, which is installed here if it is missing.
set -euo pipefail

# Build products live outside the checkout, so that fresh clones share compiled dependencies.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/saequel/target}"
export CARGO_TERM_PROGRESS_WHEN="${CARGO_TERM_PROGRESS_WHEN:-auto}"

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
    echo "error: '$*' needs root; run it by hand, then start again" >&2
    exit 1
  fi
}

install_package() { # command, Debian package, Homebrew package
  command -v "$1" >/dev/null && return
  echo "installing $2 (for $1) ..." >&2
  if command -v apt-get >/dev/null; then
    as_root apt-get update -qq && as_root apt-get install -y -qq "$2" >/dev/null
  elif command -v brew >/dev/null; then
    brew install "$3"
  else
    echo "error: $1 not found; install it with your package manager ($2), then start again" >&2
    exit 1
  fi
}

if ! command -v cargo >/dev/null; then
  echo "error: cargo not found; install Rust 1.95 or newer, then start again" >&2
  exit 1
fi
install_package cc build-essential gcc
install_package protoc protobuf-compiler protobuf
install_package python3 python3 python
