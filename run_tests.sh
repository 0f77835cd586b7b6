#!/usr/bin/env bash
# All checks and tests: ./run_tests.sh [options of pytest]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. scripts/venv.sh

prepare_venv requirements-dev.txt requirements.txt
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/shellcheck --external-sources run_local.sh run_tests.sh scripts/venv.sh .ci/run deploy/flink/*.sh
exec .venv/bin/python -m pytest -n 2 --dist loadgroup "$@"
