#!/usr/bin/env bash
# Pins every requirement with its hashes, for all supported Pythons, without any index address.
# Extras stay in the pins: an older pip takes an unpinned `name[extra]` for the newest release, whose hash is not here.
set -euo pipefail
cd "$(dirname "$0")/.."
compile=(uv pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-strip-extras --custom-compile-command "make lock")
for part in signer broker worker device certs; do
  "${compile[@]}" --extra "$part" -o "requirements/$part.lock"
done
"${compile[@]}" --all-extras --group dev -o requirements/dev.lock
uv pip compile -q --group source --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --custom-compile-command "make lock" -o requirements/source.lock
