#!/usr/bin/env bash
# All checks and tests: ./run_tests.sh [GROUP...] [options of pytest]
# A group is a folder or the name of a module: commit means tests/commit, flink means every test_flink*.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. scripts/venv.sh

prepare_venv requirements-dev.txt requirements.txt
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/shellcheck --external-sources run_local.sh run_tests.sh scripts/venv.sh .ci/run deploy/flink/*.sh

before=''
for argument; do
  shift
  modules=()
  # A word after one of these options is its value.
  if [[ $argument =~ ^[a-z_]+$ && ! $before =~ ^-[ckmnopr]$ ]]; then
    if [[ -d tests/$argument ]]; then
      modules=("tests/$argument")
    else
      for module in "tests/test_$argument"*.py tests/*/"test_$argument"*.py; do
        [[ ! -f $module ]] || modules+=("$module")
      done
    fi
  fi
  if ((${#modules[@]})); then
    set -- "$@" "${modules[@]}"
  else
    set -- "$@" "$argument"
  fi
  before=$argument
done
# Three processes on two cores, as those with engines wait for them.
exec .venv/bin/python -m pytest -n 3 --dist loadgroup --durations=60 "$@"
