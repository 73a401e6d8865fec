#!/usr/bin/env bash
# Writes locked-IMAGE.txt: every version in an image of cluster/images, from pyproject.toml and the overrides. Run it when one
# of them has changed. A version that still fits stays; for newer ones delete the files first.
# uv does not read pip's configuration: name a mirror in UV_DEFAULT_INDEX, a folder of wheels in UV_FIND_LINKS.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PATH=$PWD/.venv/bin:$PATH

lock() { # lock IMAGE PROFILE EXTRAS REQUIREMENT...: more flags of uv in `flags`
  local file=cluster/local/locked-$1.txt overrides=cluster/local/overrides-$2.txt extras
  read -r -a extras <<<"$(sed 's/[^,]*/--extra &/g; s/,/ /g' <<<"$3")"
  shift 3
  printf '%s\n' "$@" | uv pip compile pyproject.toml - "${extras[@]}" ${flags[@]+"${flags[@]}"} --override "$overrides" \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-header --no-annotate --quiet --output-file "$file"
}

# A CPU torch comes from a folder of wheels where one is named, else from the index that uv knows for it.
flags=(--torch-backend cpu)
if [[ -n ${UV_FIND_LINKS:-} ]]; then flags=(); fi
lock cpu cpu cpu,corpus,train,serve,s3,gcs "limits[async-redis]" boto3

# The others take the head's versions where they can: what one of them writes, the other reads.
unset UV_FIND_LINKS
flags=()
cp cluster/local/locked-cpu.txt cluster/local/locked-inference.txt
cp cluster/local/locked-cpu.txt cluster/local/locked-training.txt
lock inference gpu gpu,corpus,serve,s3,gcs "limits[async-redis]"
# torch and transformers as the extra `cpu` pins them: the head and the trainers agree.
lock training gpu train,corpus,s3,gcs torch==2.13.0 transformers==5.23.0
