"""bit.check: what a launch can see of a local model."""

import os
import subprocess
import sys

import numpy as np
import pytest

from bit.check import check
from bit.models import ARCHITECTURES, UnusableModel
from bit.weights import Untrained, shapes


@pytest.fixture
def checkpoint(tmp_path):
    weights = Untrained(ARCHITECTURES["tiny"])
    path = tmp_path / "tiny.npz"
    np.savez(path, **{f"resnet/{name}": weights.array(name) for name in shapes(weights.architecture)})
    return str(path)


def folder(path, *files):
    for file in files:
        os.makedirs(os.path.dirname(path / file), exist_ok=True)
        (path / file).write_bytes(b"x")
    return str(path)


def test_good_models_pass(checkpoint, tmp_path):
    check(checkpoint)
    check(checkpoint, "tiny")
    files = ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001")
    check(folder(tmp_path / "complete", *files))
    check(folder(tmp_path / "without_variables", "saved_model.pb"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["model.keras/a"], r"no saved_model.pb \(it holds model.keras\)"),
        (["saved_model.pb", "variables/variables.data-00000-of-00001"], "variables.index is missing"),
    ],
)
def test_a_folder_that_is_no_saved_model_says_so(tmp_path, files, message):
    with pytest.raises(UnusableModel, match=message):
        check(folder(tmp_path / "m", *files))


def test_a_missing_path_says_so(tmp_path):
    with pytest.raises(UnusableModel, match=r"no file or folder .*/nothing: check the path, or use a name"):
        check(str(tmp_path / "nothing"))


def test_the_wrong_member_is_refused(checkpoint):
    with pytest.raises(UnusableModel, match="holds tiny, not r101x3"):
        check(checkpoint, "r101x3")


def test_needs_no_tensorflow(checkpoint):
    code = "import sys; from bit.check import check; check(sys.argv[1]); print('tensorflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, checkpoint], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_the_output_of_a_fine_tuning_means_the_model_in_it(tmp_path):
    from bit.models import resolve

    output = tmp_path / "out"
    folder(output, "model/saved_model.pb", "model/variables/variables.index", "weights.npz", "report.json")
    for name in (str(output), f"{output}/", f"file://{output}"):
        assert resolve(name).uri.rstrip("/").endswith("out/model")
        assert resolve(name).kind == "saved_model"
    assert resolve(str(output)) == resolve(str(output / "model"))
    # Where only a copy is seen, as of a store's folder:
    with pytest.raises(UnusableModel, match=r"the folder 'model' in it is one.*add /model to the name"):
        check(str(output))
    folder(tmp_path / "own", "saved_model.pb", "model/saved_model.pb")
    assert resolve(str(tmp_path / "own")).uri == str(tmp_path / "own")
