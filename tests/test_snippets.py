"""Every command and program of README.md and docs/ runs as it is printed, in a folder that has what it names.

What needs an engine or a container is run by a test of its own, which `ELSEWHERE` names.
"""

import csv
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tests import helpers
from tests.pages import PAGES, blocks, fences

DOCUMENTED = [
    helpers.REPO / "README.md",
    *(path for path in sorted(helpers.REPO.glob("docs/*.md")) if path.name != "using.md"),  # test_using.py
]

# What this machine does not have, and what stands for it.
SUBSTITUTES = {
    "--model=bit/m-r101x3": "--model=untrained/tiny --image_size=32",
    "gs://bucket/": "bucket/",
    "OUTPUT": "local/features",
}

# Of the shards behind local/features, in images: several files, an empty one among them, and more than one batch of a reader.
SIZES = (70, 0, 40, 55)

# Blocks that are not run here, by page and first line: the test that runs them, and words that both have. The flags
# of a block must all occur in that test, too.
ELSEWHERE = {
    ("README.md", "./run_local.sh"): (
        "test_scripts.py::test_run_local_makes_features_and_the_second_call_leaves_them_alone",
        "./run_local.sh",
    ),
    ("running.md", "deploy/flink/local_cluster.sh start"): (
        "test_flink.py::test_a_lost_task_manager_costs_no_byte_and_start_brings_it_back",
        "local_cluster.sh start stop",
    ),
    ("running.md", "mvn --file deploy/spark/job-server.xml package"): (
        "test_spark.py::test_gives_the_bytes_of_direct_runner",
        "mvn job-server.xml package pipeline.main --runner=SparkRunner --spark_master_url= local[2] "
        "--environment_type=LOOPBACK target spark-job-server-1.jar",
    ),
    ("running.md", "PROJECT=my-project"): (
        "test_dataflow.py::test_the_commands_of_the_documentation_have_flags_of_their_programs",
        "gcloud docker services enable buckets repositories service-accounts add-iam-policy-binding subnets",
    ),
    ("running.md", "python -m pipeline.main $(<deploy/dataflow/l4.flags) --project=$PROJECT"): (
        "test_dataflow.py::test_the_documented_launch_is_that_of_the_flags",
        "deploy dataflow l4 .flags",
    ),
    ("running.md", "jq .metadata deploy/dataflow/flex_template.json"): (
        "test_dataflow.py::test_the_documented_template_asks_for_what_the_flags_ask_for",
        "gcloud dataflow flex-template build run metadata",
    ),
    ("inputs.md", "from datasets.table import embed_table_storage"): (
        "test_parquet_images.py::test_images_that_a_data_set_only_refers_to_are_failures",
        "datasets.table embed_table_storage with_format arrow map batched=True to_parquet",
    ),
    ("finetuning.md", "mkdir -p local/classes/texture"): (
        "test_documented.py::test_from_folders_of_the_sample_photographs_to_features_and_classes",
        "mkdir cp samples/photos pipeline.finetune pipeline.main local/tuned/model local/tuned-features",
    ),
    # No test has a container engine: the file is linted, and the test below looks at the command.
    ("running.md", "docker build --file deploy/Dockerfile --tag IMAGE ."): (
        "test_container.py::test_the_linter_has_nothing_to_say",
        "Dockerfile",
    ),
}

# The keys that the commands which are run here leave, by output folder.
KEYS = {
    "features": [f"in-{s:05d}-of-00002.tfrecord#{i}" for s, size in enumerate((3, 2)) for i in range(size)],
    "bucket/features": [
        f"train-{s:05d}-of-00002.tfrecord#{i}" for s, size in enumerate((2, 3)) for i in range(size)
    ],
    "features/2026-11-27": ["photos/a.jpg", "photos/b.jpg", "photos/within/c.jpg"],
    "features-of-parquet": [f"train-{s:05d}-of-00002.parquet#{i}" for s in range(2) for i in range(2)],
    "features-of-tars": [f"{s:09d}" for s in range(13)],
}

HELPERS = ("helpers.py", "engines.py")  # that those tests use


def listed(language):
    return [(page, block) for page in DOCUMENTED for block in blocks(page, language)]


def elsewhere(page, block):
    """The entry of a block that another test runs, or None."""
    entries = [
        entry for (name, start), entry in ELSEWHERE.items() if name == page.name and block.startswith(start)
    ]
    assert len(entries) < 2
    return entries[0] if entries else None


def named(blocks):
    return pytest.mark.parametrize(
        ("page", "block"),
        blocks,
        ids=[f"{page.name}: {block.splitlines()[0][:40]}" for page, block in blocks],
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is(page):
    assert {label for label, _ in fences(page)} <= {"bash", "python", "text"}
    assert page.read_text().count("```") == 2 * len(fences(page))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with all that the documentation names: shards, a bucket, a list, photos, and the features of a job."""
    folder = tmp_path_factory.mktemp("documented")
    helpers.write_shards(folder / "shards", (3, 2))
    helpers.write_shards(folder / "bucket", (2, 3))
    for path in (folder / "bucket").glob("in-*"):
        path.rename(path.with_name(path.name.replace("in-", "train-")))
    (folder / "photos" / "within").mkdir(parents=True)
    photos = ["photos/a.jpg", "photos/b.jpg", "photos/within/c.jpg"]
    for seed, name in enumerate(photos):
        (folder / name).write_bytes(helpers.encoded(seed))
    with open(folder / "urls.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([("url", "caption"), *((folder / name, name) for name in photos)])
    (folder / "data").mkdir()
    for shard in range(2):
        images = [{"bytes": helpers.encoded(2 * shard + row), "path": f"{row}.jpg"} for row in range(2)]
        table = pyarrow.table({"image": images, "label": [shard, shard]})
        pyarrow.parquet.write_table(table, folder / "data" / f"train-{shard:05d}-of-00002.parquet")
    for shard in range(13):
        with tarfile.open(folder / "data" / f"{shard:05d}.tar", "w") as tar:
            for suffix, data in (("jpg", helpers.encoded(shard)), ("txt", b"a caption"), ("json", b"{}")):
                member = tarfile.TarInfo(f"{shard:09d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    pattern = helpers.write_shards(folder / "in", SIZES)
    helpers.job(f"--input={pattern}", output=folder / "local" / "features")
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.fixture
def scratch(prepared, tmp_path, monkeypatch):
    """A copy of that folder, to be in."""
    monkeypatch.chdir(shutil.copytree(prepared, tmp_path / "scratch", symlinks=True))
    return tmp_path / "scratch"


def run(*command):
    """Runs a command that must end with 0; returns its stdout."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(helpers.REPO)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


def shell(text):
    for documented, substitute in SUBSTITUTES.items():
        text = text.replace(documented, substitute)
    return run("bash", "-euo", "pipefail", "-c", text)


@named([(page, block) for page, block in listed("bash") if not elsewhere(page, block)])
def test_commands_run_and_leave_what_they_name(scratch, page, block):
    assert shell(block) == ""
    (output,) = re.findall(r"--output=(?:gs://)?(\S+)", block)
    keys = [record["key"][0].decode() for record in helpers.read_all(scratch / output)]
    assert keys == KEYS[output]


@pytest.mark.parametrize(("page", "start"), ELSEWHERE, ids=lambda part: str(part)[:40])
def test_commands_that_are_not_run_here_are_run_by_the_test_that_is_named(page, start):
    every = [*listed("bash"), *listed("python")]
    ours = [block for where, block in every if where.name == page and block.startswith(start)]
    assert len(ours) == 1
    test, words = ELSEWHERE[page, start]
    file, name = test.split("::")
    (path,) = (helpers.REPO / "tests").rglob(file)
    source = "\n".join(p.read_text() for p in (path, *(helpers.REPO / "tests" / f for f in HELPERS)))
    assert f"def {name}(" in path.read_text()
    for word in words.split():
        assert word in ours[0], f"{word} is not in the block"
        assert word in source, f"{word} is not in {file}"
    if not ours[0].startswith("docker"):
        for flag in re.findall(r"(?<=\s)--\w+", ours[0]):
            assert flag in source, f"{flag} is not in {file}"


def test_what_docker_builds_is_there_and_takes_the_argument():
    ((_, block),) = [(page, block) for page, block in listed("bash") if block.startswith("docker")]
    for line in block.splitlines():
        program, verb, *options = shlex.split(line, comments=True)
        assert (program, verb, options.pop()) == ("docker", "build", ".")
        build_options = dict(zip(options[::2], options[1::2], strict=True))
        assert set(build_options) <= {"--file", "--tag", "--build-arg"}
        dockerfile = (helpers.REPO / build_options["--file"]).read_text()
        if argument := build_options.get("--build-arg"):
            assert re.search(rf"^ARG {argument.split('=')[0]}\b", dockerfile, re.MULTILINE)


@named([(page, block) for page, block in listed("python") if not elsewhere(page, block)])
def test_programs_print_the_features_in_the_order_of_the_input(scratch, page, block):
    if "tfx_bsl" in block and sys.version_info < (3, 11):
        pytest.skip("tfx-bsl is not installed on this Python: pyproject.toml says why")
    # With fewer than four CPUs it takes no turns between files, so that this would not show below.
    assert "TFExampleRecord" not in block or "TFExampleRecord([file]," in block
    printed = [line.split(maxsplit=2) for line in run(sys.executable, "-c", block).splitlines()]
    records = helpers.read_all(scratch / "local" / "features")
    expected = [f"in-{s:05d}-of-00004.tfrecord#{i}" for s, size in enumerate(SIZES) for i in range(size)]
    assert [(position, key) for position, key, _ in printed] == [(str(i), k) for i, k in enumerate(expected)]
    assert [vector for _, _, vector in printed] == [str(record["embedding"][:3]) for record in records]


# What the commands within the sentences of the README print.
PRINTED = {
    ".venv/bin/python -m samples.show local/features": "\nin-00002-of-00004.tfrecord#29 ",
    "python -m pipeline.main --help": "--input",
    "python -m bit.models": "bit/m-r101x3",
    "python -m pipeline.verify OUTPUT": "",
    "python -m pipeline.look local/features --to=look.html": "",
    "python -m pipeline.export OUTPUT --to=FOLDER --format=parquet": "",
    "python -m pipeline.duplicates OUTPUT --to=duplicates.parquet": "",
}


def within_sentences(pattern):
    text = re.sub(
        r"^```.*?^```$", "", (helpers.REPO / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL
    )
    return re.findall(rf"`({pattern}[^`]*)`", text)


def test_the_commands_within_the_readme_are_these():
    assert set(within_sentences(r"(?:\.venv/bin/)?python -m ")) == set(PRINTED)


@pytest.mark.parametrize("command", PRINTED)
def test_commands_within_the_readme_run(scratch, command):
    assert PRINTED[command] in shell(command)


INPUTS = within_sentences("--input=")


IMAGES = {
    "shards/": 5,
    ".parquet": 4,
    ".tar": 13,
    "urls.csv": 3,
    "photos/": 3,
    "photos/**.jpg": 3,
}  # by a part of --input


def test_the_readme_shows_each_kind_of_input():
    assert len(INPUTS) == len(IMAGES)


@pytest.mark.parametrize("flags", INPUTS)
def test_the_inputs_of_the_readme_run(scratch, flags):
    helpers.job(*shlex.split(flags), output=scratch / "out")
    account = helpers.manifest(scratch / "out")
    (expected,) = {count for part, count in IMAGES.items() if part in flags}
    assert (account["failures"], account["features"]) == (0, expected)
