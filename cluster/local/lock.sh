#!/usr/bin/env bash
# Writes locked-NAME.txt from pyproject.toml and the overrides: every version in an image of cluster/images, and in the
# development environment of each profile (dev-cpu, dev-gpu). `lock.sh` renews them all (`make relock`); `lock.sh --keep` changes
# only what no longer fits. Prints each version that changed.
# Locks hold for Python 3.11 on x86-64 Linux.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. cluster/local/uv.sh

case ${1:-} in
  "" | --keep) ;;
  *) echo "lock: unknown argument '$1': expected --keep or nothing" >&2; exit 2 ;;
esac
# Further indexes of this machine count only where they are named in UV_INDEX: a local mirror may hold the wheels of one system
# alone, and another version would be locked for its sake.
index=${UV_INDEX:-}
configure_uv
export UV_INDEX=$index
# The locks are replaced together at the end, so that a failure leaves them as they are.
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
if [[ ${1:-} == --keep ]]; then cp cluster/local/locked-*.txt "$new"; fi

lock() { # lock NAME PROFILE EXTRAS REQUIREMENT...: more flags of uv in `flags`
  local file=$new/locked-$1.txt overrides=cluster/local/overrides-$2.txt extras
  echo "lock: resolving $1 ..."
  read -r -a extras <<<"$(sed 's/[^,]*/--extra &/g; s/,/ /g' <<<"$3")"
  shift 3
  printf '%s\n' "$@" | .venv/bin/uv pip compile pyproject.toml - "${extras[@]}" ${flags[@]+"${flags[@]}"} \
    --override "$overrides" --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-header --no-annotate --quiet \
    --output-file "$file"
}

# prefer NAME OTHER: OTHER takes the versions of NAME where it can; with --keep its own for what NAME has not.
prefer() {
  touch "$new/locked-$2.txt"
  awk -F= '!seen[$1]++' "$new/locked-$1.txt" "$new/locked-$2.txt" >"$new/preferred"
  mv "$new/preferred" "$new/locked-$2.txt"
}

flags=()
if ! has_cpu_torch; then flags=(--torch-backend cpu); fi
lock cpu cpu cpu,corpus,train,serve,s3,gcs "limits[async-redis]" boto3
prefer cpu dev-cpu
lock dev-cpu cpu cpu,corpus,train,serve,demo,dev
# A machine whose torch has no local version in its name satisfies this pin as well.
sed -i 's/^\(torch==[0-9.]*\)+cpu$/\1/' "$new/locked-dev-cpu.txt"

# GPU builds of torch come from the index alone. This image takes the head's versions where it can: what one of them writes, the
# other reads.
unset UV_FIND_LINKS
flags=()
prefer cpu gpu
lock gpu gpu gpu,corpus,train,serve,s3,gcs "limits[async-redis]"
prefer gpu dev-gpu
lock dev-gpu gpu gpu,corpus,train,serve,demo,dev

# changes OLD NEW: one row for each package whose version differs.
changes() {
  LC_ALL=C join -t= -a1 -a2 -e none -o 0,1.3,2.3 \
    <(LC_ALL=C sort -t= -k1,1 "$1") <(LC_ALL=C sort -t= -k1,1 "$2") |
    awk -F= '$2 != $3 {printf "  %s: %s -> %s\n", $1, $2, $3}'
}

for file in "$new"/locked-*.txt; do
  old=cluster/local/${file##*/}
  touch "$old"
  found=$(changes "$old" "$file")
  if [[ -z $found ]]; then
    echo "lock: $old is unchanged"
  else
    echo "lock: $old: $(wc -l <<<"$found") changed"
    echo "$found"
    cp "$file" "$old"
  fi
done
