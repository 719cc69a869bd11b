#!/usr/bin/env bash
# The doors, tried with the clients that people use: `tests/clients/run.sh [pytest arguments]`.
# Installs what is missing: system packages (psql, ODBC, JDBC), Python packages into an environment of their own, and
# packages for node. Needs a built saequel (`cargo build -p saequel-server`), or SAEQUEL_BIN.
set -euo pipefail
cd "$(dirname "$0")"
cache="${SAEQUEL_CACHE:-$HOME/.cache/saequel}/clients"
mkdir -p "$cache"

packages=(postgresql-client libpostgresql-jdbc-java default-jdk-headless odbc-postgresql unixodbc python3-venv curl openssl)
# Node may come from elsewhere than the system, whose npm is then not installable.
command -v npm >/dev/null || packages+=(nodejs npm)
if command -v apt-get >/dev/null; then
  missing=()
  for package in "${packages[@]}"; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
  done
  if [ "${#missing[@]}" -gt 0 ]; then
    as_root=""
    [ "$(id -u)" = 0 ] || as_root=sudo
    echo "installing ${missing[*]} ..." >&2
    $as_root apt-get update -qq
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  fi
fi
stamp="$({ cat requirements*.txt package.json 2>/dev/null || true; } | sha256sum | cut -c1-16)"
if [ ! -f "$cache/$stamp.done" ]; then
  rm -rf "$cache/python" "$cache/node"
  python3 -m venv "$cache/python"
  "$cache/python/bin/pip" install -q --disable-pip-version-check -r requirements.txt
  if [ -f package.json ]; then
    mkdir -p "$cache/node"
    cp package.json "$cache/node/"
    (cd "$cache/node" && npm install --silent --no-audit --no-fund)
  fi
  touch "$cache/$stamp.done"
fi
export NODE_PATH="$cache/node/node_modules"
exec "$cache/python/bin/python" -m pytest -q --timeout 300 "$@"
