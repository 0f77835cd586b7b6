"""What stands on the screen of a terminal: the job's lines, what a user can act on, and errors; nothing glued, nothing lost."""

from __future__ import annotations

import io
import re
import sys
import threading

import pytest

from pipeline import console, native_lines
from pipeline.terminal import Terminal
from samples import make_input
from tests import helpers, terminals
from tests.pages import blocks

ABSL = "0000 00:00:1795723269.266884   27439 "


def on_screen(program: str, **environment: str) -> tuple[int, list[str]]:
    code, written = terminals.run(
        [sys.executable, "-c", program], **{"TF_CPP_MIN_LOG_LEVEL": "", **environment}
    )
    return code, terminals.screen(written)


@pytest.mark.parametrize(
    ("line", "is_shown"),
    [
        ("WARNING: All log messages before absl::InitializeLog() is called are written to STDERR", False),
        (f"I{ABSL}port.cc:153] oneDNN custom operations are on.", False),
        (f"I{ABSL}service.cc:153] XLA service 0x5604793b17c0 initialized for platform Host", False),
        (f"E{ABSL}cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error", False),
        (f"E{ABSL}cuda_dnn.cc:8579] Unable to register cuDNN factory", False),
        (f"W{ABSL}gpu_device.cc:2342] Cannot dlopen some GPU libraries.", True),
        (f"E{ABSL}cuda_executor.cc:1] failed to allocate 2.00GiB", True),
        (f"F{ABSL}autotuner.cc:9] could not find any supported configs", True),
        ("I think that this is a line of the job", True),
        ("Fatal Python error: Segmentation fault", True),
        ("", True),
    ],
)
def test_only_known_lines_are_left_out(line, is_shown):
    assert native_lines.is_shown(line.encode()) == is_shown


def a_terminal(monkeypatch):
    """What is written to a terminal that stands for stderr."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", Terminal(out))
    return out


def lines_of(out):
    return terminals.screen(out.getvalue().replace("\n", "\r\n"))


def test_a_line_takes_the_place_of_the_live_one(monkeypatch):
    terminal = a_terminal(monkeypatch)
    console.show("1 image")
    console.say("a message")
    console.show("2 images")
    print("from", "a library", file=sys.stderr)
    console.show("3 images")
    assert lines_of(terminal) == ["a message", "from a library", "3 images"]
    console.show("")
    assert lines_of(terminal) == ["a message", "from a library"]


def test_lines_that_threads_write_in_parts_stay_whole(monkeypatch):
    terminal = a_terminal(monkeypatch)

    def write(name):
        for _ in range(200):
            for part in (name, name, "\n"):
                sys.stderr.write(part)
            console.show("live")

    threads = [threading.Thread(target=write, args=(name,)) for name in ("aa", "bb", "cc")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    console.show("")
    assert sorted(set(lines_of(terminal))) == ["aaaa", "bbbb", "cccc"]
    assert len(lines_of(terminal)) == 600


def test_a_live_line_is_no_longer_than_the_terminal(monkeypatch):
    terminal = a_terminal(monkeypatch)
    for _ in range(3):
        console.show("x" * 200)
    assert lines_of(terminal) == ["x" * 79]


def test_without_a_terminal_lines_of_several_threads_stay_whole(monkeypatch):
    class Parts(list):
        write = list.append
        flush = lambda self: None  # noqa: E731

    parts = Parts()
    monkeypatch.setattr(sys, "stderr", parts)
    console.say("a message")
    console.show("1 image")
    console.show("")
    assert parts == ["a message\n", "1 image\n"]


NATIVE = f"""
import os, sys, time
from pipeline import console
from pipeline.terminal import Screen
with Screen():
    console.show("live")
    os.write(2, b"I{ABSL}port.cc:153] oneDNN\\nW{ABSL}gpu.cc:1] Cannot dlopen\\nI{ABSL}x.cc:1] y\\n")
    time.sleep(0.5)
    console.show("live")
    {{}}
"""


def test_native_lines_pass_through_the_filter_and_are_not_glued():
    warning = f"W{ABSL}gpu.cc:1] Cannot dlopen"
    ends = "os.system('echo from a child >&2; printf unfinished >&2')"
    assert on_screen(NATIVE.format(ends)) == (0, [warning, "from a child", "unfinished"])


def test_all_native_lines_are_shown_on_request():
    code, lines = on_screen(NATIVE.format("pass"), TF_CPP_MIN_LOG_LEVEL="0")
    assert code == 0
    assert sum("oneDNN" in line or "x.cc" in line for line in lines) == 2


@pytest.mark.parametrize(
    ("crash", "signal", "said"),
    [
        ("os.write(2, b'F check failed: no end of line'); os.abort()", -6, "F check failed: no end of line"),
        (
            "import faulthandler; faulthandler.enable(); faulthandler._sigsegv()",
            -11,
            "Fatal Python error: Segmentation fault",
        ),
        ("os.write(2, b'terminate called\\n' * 2000); os.kill(os.getpid(), 9)", -9, "terminate called"),
    ],
)
def test_the_last_words_of_a_crash_arrive(crash, signal, said):
    code, lines = on_screen(NATIVE.format(crash))
    assert code == signal
    assert any(said in line for line in lines)
    if signal == -9:
        assert lines.count(said) == 2000


def test_a_run_leaves_the_screen_of_the_documentation(tmp_path):
    """The command of the README on the sample photographs, with a smaller network; docs/running.md shows its screen."""
    make_input.write_input(tmp_path / "in")
    command = [sys.executable, "-m", "pipeline.main", "--runner=DirectRunner", *helpers.TINY]
    command += ["--input=in/tfrecords/*.tfrecord", "--output=local/features-untrained"]
    code, written = terminals.run(command, tmp_path, TF_CPP_MIN_LOG_LEVEL="")
    assert code == 0, written
    assert "loading the model" in written
    pages = helpers.REPO / "docs" / "running.md"
    (documented,) = (block for block in blocks(pages, "text") if block.startswith("The official weights"))
    of_the_job = documented[documented.index("3 of 3 shards") : documented.index("\n\nFeatures: ")]
    shown = "".join(terminals.screen(written)).replace("untrained/tiny", "untrained/r101x3")
    assert without_figures(shown) == without_figures(of_the_job)


def without_figures(text: str) -> str:
    """The text without line ends, times and the bottleneck, which short runs do not name."""
    plain = re.sub(r"\s", "", text)
    return re.sub(r"in[\d.]+s\([\d.]+/s\)|bottleneck:.*?(?=local/)", "", plain)
