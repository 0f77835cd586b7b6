"""The commands of docs/finetuning.md, on the sample photographs."""

import os
import re
import subprocess
import sys

import numpy as np

from pipeline.finetune import request as requests
from tests import helpers
from tests.pages import blocks

# mkdir, cp samples/photos: as documented. Instead of --model=bit/m-r50x1 at its resolution:
SMALL = "--model=untrained/tiny --resize=36 --crop=32"


def test_from_folders_of_the_sample_photographs_to_features_and_classes(tmp_path):
    """pipeline.finetune, with --steps, --batch_size and --micro_batch; then pipeline.main --runner=DirectRunner on
    local/tuned/model."""
    (block,) = blocks(helpers.REPO / "docs" / "finetuning.md", "bash")
    assert "--model=bit/m-r50x1" in block
    (tmp_path / "samples").symlink_to(helpers.REPO / "samples")
    commands = block.replace("--model=bit/m-r50x1", SMALL).replace("python -m", f"{sys.executable} -m")
    environment = os.environ | {"PYTHONPATH": str(helpers.REPO)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    records = helpers.read_all(tmp_path / "local/tuned-features")  # of --outputs=embedding,top_k
    assert len(records) == 7
    for record in records:
        assert set(record["top_k/name"]) == {b"texture", b"thing"}
        assert np.isfinite(record["embedding"]).all()
    assert "--input=local/classes" in block
    assert "--output=local/tuned-features" in block


def test_flags_that_the_page_names_exist():
    text = (helpers.REPO / "docs" / "finetuning.md").read_text()
    known = set(requests.parser()._option_string_actions) | {"--outputs", "--runner", "--precision"}
    known |= {"--as_trained", "--s3_endpoint_url"}  # of tests.finetune_parity, and of Beam
    for flag in re.findall(r"(?<![\w-])(--[a-z0-9_]+)", text):
        assert flag in known, flag
    own = {flag for rows in requests._FLAGS.values() for flag, *_ in rows}
    assert {flag for flag in own if flag not in text} <= {"--seed", "--evaluate_every", "--no_flip"} - set(
        text.split()
    )
