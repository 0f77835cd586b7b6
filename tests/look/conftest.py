"""An output that is worth looking at, and its page."""

import json
import re
import shutil

import pytest

from pipeline.look import command
from tests import helpers

KEYS = [
    b"<script>window.hacked=1</script>",
    b"</script><script>window.hacked=1</script>",
    b"\"'><img src=x onerror=window.hacked=1>",
    b"<!--<script>",
    b"not UTF-8: \xff\xfe",
    "line\u2028separator, ünïcode".encode(),
    *(b"photos/%02d.jpg" % i for i in range(6, 24)),
]
FAILED = 9  # its image cannot be decoded
COPY = 20  # in the second shard, of the image 0
KEPT = [key for i, key in enumerate(KEYS) if i != FAILED]


def records():
    out = []
    for i, key in enumerate(KEYS):
        data = b"<html>" if i == FAILED else helpers.encoded(0 if i == COPY else i, width=48, height=24)
        label = "<b>odd</b>" if i % 3 == 0 else "even" if i % 3 == 1 else "third"
        out.append(
            helpers.example({"image/encoded": data, "image/filename": key, "label": label, "number": i})
        )
    return out


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """'out' is the output of a job, 'in' its input, 'report.json' its report."""
    folder = tmp_path_factory.mktemp("look")
    made = records()
    helpers.write_tfrecord(folder / "in" / "a.tfrecord", made[:14])
    helpers.write_tfrecord(folder / "in" / "b.tfrecord", made[14:])
    helpers.job(
        f"--input={folder}/in/*.tfrecord",
        "--pass_through=number,label",
        "--key_feature=image/filename",
        f"--report_file={folder}/report.json",
        output=folder / "out",
    )
    return folder


@pytest.fixture(scope="session")
def whole(folder):
    """The page with pictures and report."""
    return look(folder, f"--report_file={folder}/report.json", name="whole.html")


@pytest.fixture(scope="session")
def bare(folder):
    """The page of an output that does not say where its input is."""
    shutil.copytree(folder / "out", folder / "bare" / "out")
    (folder / "bare" / "out" / "request.json").unlink()
    return look(folder / "bare", pictures=False)


def look(folder, *flags, name="look.html", pictures=True, expect=0):
    """Runs the command in this process; returns the path of the page."""
    given = [f"--input={folder}/in/*.tfrecord"] if pictures else []
    code = command.main([f"{folder}/out", f"--to={folder}/{name}", *given, *map(str, flags)])
    assert code == expect, f"exit code {code}, expected {expect}"
    return folder / name


def data_of(path):
    """The JSON in a page."""
    (text,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL
    )
    return json.loads(text)
