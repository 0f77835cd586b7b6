#!/usr/bin/env bash
# All checks and tests: ./run_tests.sh [GROUP...] [options of pytest]
# A group is the name of a test module: flink stands for tests/test_flink*.py.
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
  # A word after one of these options belongs to it.
  if [[ $argument =~ ^[a-z_]+$ && ! $before =~ ^-[ckmnopr]$ ]] && compgen -G "tests/test_$argument*.py" >/dev/null; then
    set -- "$@" "tests/test_$argument"*.py
  else
    set -- "$@" "$argument"
  fi
  before=$argument
done
exec .venv/bin/python -m pytest -n 2 --dist loadgroup "$@"
