# Sourced by setup.sh and lock.sh from the repository's root: uv does not read pip's configuration, so it is handed over here,
# and mirrors and local folders of wheels count. Nothing of it gets into a lock.

# The same uv for everybody, as in cluster/images.
UV_VERSION=0.13.9

# pip_setting NAME: what pip is configured with, in the environment or in its files.
pip_setting() {
  local variable
  variable=PIP_$(tr 'a-z-' 'A-Z_' <<<"$1")
  if [[ -n ${!variable:-} ]]; then
    echo "${!variable}"
  else
    sed -n "s/^[a-z]*\.$1='\(.*\)'\$/\1/p" <<<"$pip_config" | sed 's/\\n/ /g' | tail -n 1
  fi
}

configure_uv() {
  local index extra links cert pip_config
  pip_config=$(.venv/bin/python -m pip config list 2>/dev/null || true)
  index=$(pip_setting index-url) extra=$(pip_setting extra-index-url) links=$(pip_setting find-links) cert=$(pip_setting cert)
  if [[ -n $index ]]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}; fi
  if [[ -n $extra ]]; then
    export UV_INDEX=${UV_INDEX:-$(xargs <<<"$extra")} UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match}
  fi
  if [[ -n $links ]]; then export UV_FIND_LINKS=${UV_FIND_LINKS:-$(xargs <<<"$links" | tr ' ' ,)}; fi
  if [[ -n $cert ]]; then export SSL_CERT_FILE=${SSL_CERT_FILE:-$cert}; fi
  export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180} VIRTUAL_ENV=$PWD/.venv
}

# Gives the torch that the CPU profile pins, and whether the configured places have its CPU build: else it comes from the
# index that uv knows for such builds. That index lacks versions of other packages, so torch is installed and locked alone.
cpu_torch_version() {
  sed -n 's/^cpu = .*"torch==\([0-9.]*\)".*/\1/p' pyproject.toml
}

has_cpu_torch() {
  .venv/bin/uv pip install --dry-run --no-deps "torch==$(cpu_torch_version)+cpu" >/dev/null 2>&1
}
