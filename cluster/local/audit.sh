#!/usr/bin/env bash
# Writes the bill of materials of each image (CycloneDX) and asks PyPI for known vulnerabilities of all that is locked:
# `audit.sh FOLDER` (`make audit`). Exit code 1: something is vulnerable, or could not be asked about.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. cluster/local/uv.sh
configure_uv
output=$1
mkdir -p "$output"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

status=0
for image in cpu gpu; do
  # A build's own part of a version (+cpu) is unknown to PyPI.
  sed 's/+[A-Za-z0-9.]*$//' "cluster/local/locked-$image.txt" >"$work/$image.txt"
  .venv/bin/uvx --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py requirements "$work/$image.txt" \
    --output-format JSON --output-file "$output/sbom-$image.json"
  echo "audit: $image: $(wc -l <"$work/$image.txt") packages in $output/sbom-$image.json"
  # --strict: what could not be asked about is no pass.
  .venv/bin/uvx --quiet pip-audit==2.10.1 --strict --progress-spinner off --no-deps --disable-pip \
    --requirement "$work/$image.txt" 2> >(grep -v '^WARNING:pip_audit._cli' >&2) || status=1
done
if ((status)); then echo "audit: see above: update with \`make relock\`, or ask again where PyPI is reached" >&2; fi
exit $status
