"""pipeline.weights: what identifies the weights of a request."""

import pytest

from bit.models import ARCHITECTURES
from bit.weights import Untrained
from pipeline import options, weights
from tests.places import npz

TINY = npz(Untrained(ARCHITECTURES["tiny"]))


@pytest.mark.parametrize(
    ("address", "is_official"),
    [
        ("https://storage.googleapis.com/bit_models/BiT-M-R101x3.npz", True),
        ("https://storage.googleapis.com/bit_models/distill/R50x1_224.npz", True),
        ("https://storage.googleapis.com/bit_models_of_ours/mine.npz", False),
        ("https://storage.googleapis.com/bit_models-eu/bit_models/mine.npz", False),
        ("https://storage.googleapis.com/ours/bit_models/mine.npz", False),
    ],
)
def test_only_what_is_in_googles_bucket_is_identified_by_its_address(
    address, is_official, tmp_path, monkeypatch
):
    monkeypatch.setitem(ARCHITECTURES, "r101x3", ARCHITECTURES["tiny"])
    monkeypatch.setenv("BIT_CACHE_DIR", str(tmp_path))
    cached = tmp_path / address.removeprefix("https://")
    cached.parent.mkdir(parents=True)
    cached.write_bytes(TINY)
    config, _ = options.parse(["--input=in", f"--output={tmp_path}/out", f"--model={address}", "--offline"])
    identity = weights.identify(config.model, is_local_run=True)
    assert (identity == address) is is_official
    assert identity.startswith("sha256:") is not is_official
