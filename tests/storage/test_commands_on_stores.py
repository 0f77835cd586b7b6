"""Commands over an output in a store reach it by Beam's options alone, as the job does."""

from __future__ import annotations

import json

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import evaluate, fewshot, verify
from tests import helpers, outputs, stores
from transforms.storage import door

pytestmark = pytest.mark.xdist_group("stores")


@pytest.fixture(scope="module", params=["gs", "s3"])
def store(request):
    with {"gs": stores.gcs, "s3": stores.s3}[request.param]() as emulated:
        yield emulated


@pytest.fixture
def stored(store, tmp_path):
    """Copies a folder into the store, and then leaves this process without options; returns the address."""

    def copied(folder):
        store.use()
        address = store.folder()
        stores.upload(address, helpers.contents(folder))
        door.configure(PipelineOptions([]))
        return address

    return copied


def figures(capsys, command, *arguments):
    capsys.readouterr()
    code = command.main([*arguments, "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def labelled(folder, of_each):
    """An output of two classes, whose images are told apart by each of two outputs."""
    rows = [
        {
            "key": f"{number}",
            "label": number % 2,
            "logits": [1.0 - number % 2, float(number % 2)],
            "embedding": [float(number % 2), 1.0, number / 1000],
        }
        for number in range(2 * of_each)
    ]
    return outputs.write(folder, [rows], {"logits": 2, "embedding": 3})


def test_verify(store, stored, tmp_path, capsys):
    helpers.job(f"--input={helpers.write_shards(tmp_path / 'in', (2, 1))}", output=tmp_path / "out")
    address = stored(tmp_path / "out")
    totals = figures(capsys, verify, *store.flags, address + "/")
    assert (totals["shards"], totals["features"]) == (2, 3)
    (tmp_path / "out" / "receipts" / "00001-of-00002.json").write_bytes(b"{}")
    assert verify.main([stored(tmp_path / "out"), *store.flags]) == verify.BROKEN
    assert "receipts/00001-of-00002.json: is not a receipt" in capsys.readouterr().err


def test_evaluate(store, stored, tmp_path, capsys):
    address = stored(labelled(tmp_path / "out", 20))
    result = figures(capsys, evaluate, address, "--label=label", *store.flags)
    assert (result["evaluated"], result["top_1"]) == (40, 1.0)


def test_fewshot(store, stored, tmp_path, capsys):
    here = [labelled(tmp_path / name, size) for name, size in (("train", 20), ("test", 5))]
    there = [stored(folder) for folder in here]
    flags = ("--label=label", "--shots=2", *store.flags)
    on_disk, on_store = (
        figures(capsys, fewshot, str(train), f"--test={test}", *flags) for train, test in (here, there)
    )
    assert (on_store["to_learn_from"], on_store["classified"]) == (40, 10)
    assert on_store == on_disk


COMMANDS = [(verify, ()), (evaluate, ("--label=label",)), (fewshot, ("--label=label",))]


@pytest.mark.parametrize(("command", "flags"), COMMANDS)
def test_a_store_that_does_not_answer_ends_a_command_at_once(command, flags, capsys):
    nobody = "--s3_endpoint_url=http://127.0.0.1:1"
    assert command.main(["s3://bucket/out", *flags, nobody, "--s3_region_name=us-east-1"]) == 1
    assert "s3://bucket/out: 127.0.0.1:1 cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "flags"), COMMANDS)
@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (["out", "--s3_endpoint=x"], "unknown flag --s3_endpoint; did you mean --s3_endpoint_url?"),
        (["out", "--runner=FlinkRunner"], "works in this process; omit --runner"),
        ([], "missing OUTPUT; see --help"),
    ],
)
def test_a_wrong_request_starts_nothing(command, flags, wrong, text, capsys):
    assert command.main([*wrong, *flags]) == 2
    assert text in capsys.readouterr().err
