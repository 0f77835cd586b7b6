"""Commands of which stdout is the result end quietly once nobody reads it."""

import os
import signal
import subprocess
import sys

import pytest

from tests import helpers

COMMANDS = {
    "bit.models": [],
    "samples.show": [str(helpers.REPO / "tests/golden/output/outputs/photos")],
    "benchmarks": ["--help"],
    "bit.download": ["--help"],
}


def run(module, *arguments, **streams):
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, cwd=helpers.REPO, stderr=subprocess.PIPE, text=True, timeout=120, **streams
    )


@pytest.mark.parametrize("module", COMMANDS)
def test_a_reader_that_has_gone_is_no_error(module):
    reading, writing = os.pipe()
    os.close(reading)
    done = run(module, *COMMANDS[module], stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", COMMANDS)
def test_with_a_reader_the_result_is_there(module):
    done = run(module, *COMMANDS[module], stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) > 3


def test_other_codes_and_errors_come_through():
    program = "import sys; from bit.command import exit_with; exit_with(lambda: {})"
    for body, code in (("3", 3), ("None", 0), ("sys.exit(2)", 2), ("[][1]", 1)):
        done = subprocess.run([sys.executable, "-c", program.format(body)], cwd=helpers.REPO, stderr=-3)
        assert done.returncode == code
    broken = "exit_with(lambda: (_ for _ in ()).throw(BrokenPipeError('of a socket')))"
    program = f"from bit.command import exit_with; {broken}"
    done = subprocess.run([sys.executable, "-c", program], cwd=helpers.REPO, capture_output=True, text=True)
    assert done.returncode == 1
    assert "of a socket" in done.stderr


STARTING = "import os, signal, sys, time; sys.argv[0] = '-m'; import bit; "  # as `python -m` does while it looks for a module


def test_ctrl_c_while_a_command_is_imported_prints_nothing():
    program = f"{STARTING}os.kill(os.getpid(), signal.SIGINT); time.sleep(60)"
    done = subprocess.run([sys.executable, "-c", program], cwd=helpers.REPO, capture_output=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


@pytest.mark.parametrize(("before", "seen"), [("SIG_DFL", "interrupted"), ("SIG_IGN", "ignored")])
def test_from_then_on_ctrl_c_is_an_exception_unless_it_is_ignored(before, seen):
    program = (
        f"import signal; signal.signal(signal.SIGINT, signal.{before}) if signal.{before} else None; {STARTING}"
        "from bit import command; command.guard()\n"
        "try: os.kill(os.getpid(), signal.SIGINT); print('ignored')\n"
        "except KeyboardInterrupt: print('interrupted')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=helpers.REPO, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{seen}\n")


def test_names_of_files_are_utf_8_whatever_the_locale():
    program = f"{STARTING}print(sys.getfilesystemencoding(), os.environ['PYTHONUTF8'], sys.argv[1:])"
    environment = {**os.environ, "LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", program, "a b"]
    done = subprocess.run(command, cwd=helpers.REPO, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "utf-8 1 ['a b']\n")


def test_without_room_for_temporary_files_a_sentence_says_so():
    program = f"import tempfile; tempfile._candidate_tempdir_list = lambda: ['/dev/null/x']; {STARTING}"
    done = subprocess.run([sys.executable, "-c", program], cwd=helpers.REPO, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: temporary files have no place (")
    assert done.stderr.endswith("set TMPDIR to a folder that can be written to\n")
