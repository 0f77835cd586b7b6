"""Runs jobs that are killed at a chosen moment, without paying for their imports each time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests import helpers

KILLED = -9  # exit code


class Server:
    """Forks jobs that have their imports behind them; see kill_server."""

    def __init__(self, folder: Path):
        self._log = folder / "kill.log"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.kill_server"],
            cwd=helpers.REPO,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self, argv, kill=None, seconds=None) -> tuple[int, list[str], dict[str, int]]:
        """Exit code, labels of the shards that were read, and the count of the moments of a run that ended."""
        self._log.unlink(missing_ok=True)
        request = {"argv": argv, "kill": kill, "seconds": seconds, "log": str(self._log)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code = json.loads(self._process.stdout.readline())["code"]
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        read = [line.removeprefix("read ") for line in lines if line.startswith("read ")]
        moments = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
        return code, read, moments

    def errors(self) -> str:
        return Path(f"{self._log}.stderr").read_text()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
