# Sourced by run_local.sh and run_tests.sh in the project's root: makes a virtual environment that matches a lock file.
# shellcheck shell=bash

say() { printf '%s\n' "$*" >&2; }

# Prints the first Python 3.10-3.13 on PATH that can make virtual environments; $PYTHON is tried first.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
      >/dev/null 2>&1; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  say "No Python 3.10-3.13 with the venv module was found (tried ${PYTHON:+$PYTHON, }python3, python3.13 ... python3.10)."
  say "Install one (Debian, Ubuntu: apt install python3 python3-venv) or set PYTHON=/path/to/python3."
  return 2
}

# prepare_venv LOCK [CONTAINED_LOCK...]: installs LOCK into .venv and builds the native code of this checkout.
prepare_venv() {
  install_lock "$@"
  build_native
}

# Installs LOCK, unless .venv has the present versions of LOCK and of the locks that it contains.
install_lock() {
  local lock python stale=
  for lock in "$@"; do
    cmp -s "$lock" ".venv/installed-$lock" || stale=yes
  done
  [[ $stale ]] || return 0
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python) || return
    say "Creating .venv with $("$python" --version)"
    "$python" -m venv --clear .venv >&2
  fi
  say "Installing $1 into .venv; this takes a few minutes"
  install_packages "$1" >&2
  for lock in "$@"; do
    cp "$lock" ".venv/installed-$lock"
  done
}

# Installs LOCK with uv, which takes a minute for what takes pip five; where it cannot, as it does not read pip's settings, with pip.
install_packages() {
  local python=.venv/bin/python index key
  # The lock is complete: --no-deps keeps both from resolving again.
  local options=(--quiet --require-hashes --no-deps)
  local pip=("$python" -m pip install --disable-pip-version-check "${options[@]}")
  index=${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-${PIP_INDEX_URL:-}}}
  for key in global.index-url install.index-url; do
    [[ $index ]] || index=$("$python" -m pip config get "$key" 2>/dev/null || true)
  done
  if [[ -z ${PIP_NO_INDEX:-} ]] && "${pip[@]}" --only-binary :all: --requirement scripts/uv.txt 2>/dev/null &&
    env UV_NATIVE_TLS=1 ${index:+UV_DEFAULT_INDEX="$index"} \
      "$python" -m uv pip install --python "$python" "${options[@]}" --requirement "$1"; then
    return
  fi
  say "uv could not: installing with pip"
  # Some pure Python packages come as source only. Python compiles the modules that it imports: compiling all 24,000 takes minutes.
  "${pip[@]}" --no-compile --use-pep517 --requirement "$1"
}

# Builds the native code, unless it is newer than its sources.
build_native() {
  local source stale=
  compgen -G 'transforms/_native*.so' >/dev/null || stale=yes
  for source in setup.py transforms/*/_*.c; do
    [[ ! $source -nt .venv/built-native ]] || stale=yes
  done
  [[ $stale ]] || return 0
  rm -f transforms/_native*.so
  .venv/bin/python setup.py --quiet build_ext --inplace >&2
  # Without a compiler nothing was built: the next call tries again.
  ! compgen -G 'transforms/_native*.so' >/dev/null || touch .venv/built-native
}
