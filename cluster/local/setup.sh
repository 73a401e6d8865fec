#!/usr/bin/env bash
# Sets up .venv for this machine: `setup.sh [cpu|gpu]`; without an argument the profile is gpu where nvidia-smi finds a GPU.
# The second run of an unchanged tree does nothing. Packages come from wherever pip is configured to find them, in the versions
# of locked-dev-PROFILE.txt, so that all machines have the same (`make relock` renews it).
# Both have inference, training and serving in one environment, with builds of vLLM and torch for the processor or for GPUs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. cluster/local/uv.sh

if [[ $# -gt 0 ]]; then
  profile=$1
elif nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
  profile=gpu
else
  profile=cpu
fi
case $profile in
  cpu) extras=cpu,corpus,train,serve,demo,dev ;;
  gpu) extras=gpu,corpus,train,serve,demo,dev ;;
  *) echo "setup: unknown profile '$profile': expected cpu or gpu" >&2; exit 2 ;;
esac
overrides=cluster/local/overrides-$profile.txt
lock=cluster/local/locked-dev-$profile.txt
python=.venv/bin/python
stamp=.venv/setup-stamp

mkdir -p .cache
log=.cache/setup.log
exec 9>.cache/setup.lock
if command -v flock >/dev/null; then flock 9; fi

fingerprint() {
  { echo "$PWD $profile"; cat pyproject.toml "$overrides" "$lock" cluster/local/{setup,uv}.sh; } | cksum
}

if [[ -f $stamp && $(cat "$stamp") == "$(fingerprint)" ]] && "$python" -c '' 2>/dev/null; then
  echo "setup: .venv is up to date ($profile)"
  exit 0
fi

: >"$log"

# step TEXT COMMAND...: one line on the terminal, the command's output in the log, the log's end if it fails.
step() {
  local text=$1 start=$SECONDS
  shift
  echo "setup: $text ..."
  echo "### $text: $*" >>"$log"
  if ! "$@" >>"$log" 2>&1; then
    echo "setup: failed after $((SECONDS - start)) s: $text. The end of $log:" >&2
    tail -n 25 "$log" | sed 's/^/    /' >&2
    exit 1
  fi
}

# Names on the PATH may be shims of a version that is not installed, so each is tried.
find_python() {
  local name
  for name in python3.11 python3.12 python3.13 python3; do
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  echo "setup: no Python from 3.11 to 3.14 found (tried python3.11, python3.12, python3.13, python3): install one and put it on the PATH" >&2
  return 1
}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  base=$(find_python)
  step "making .venv with $("$base" --version)" "$base" -m venv --clear .venv
fi
if [[ $(.venv/bin/uv --version 2>/dev/null) != "uv $UV_VERSION"* ]]; then
  step "installing uv" "$python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
fi
configure_uv
if [[ $profile == cpu ]]; then
  backend=()
  if ! has_cpu_torch; then backend=(--torch-backend cpu); fi
  step "installing torch for CPUs" \
    .venv/bin/uv pip install --compile-bytecode --no-deps ${backend[@]+"${backend[@]}"} "torch==$(cpu_torch_version)"
fi
# As constraints, the lock's versions hold on other Pythons and systems too; what only these need is not locked.
# Compiled once here: an engine starts three processes that import vLLM, and some machines never write the byte code themselves.
step "installing safe_r1 [$extras], a few minutes where nothing is cached" \
  .venv/bin/uv pip install --compile-bytecode --override "$overrides" --constraint "$lock" --editable ".[$extras]"
step "checking that the libraries load" "$python" -c 'import ray, torch, vllm; from transformers import LlamaConfig'

fingerprint >"$stamp"
echo "setup: done in $SECONDS s ($profile); log in $log"
