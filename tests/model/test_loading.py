"""The model is loaded while the first images are read and decoded, and what fails there is said as ever."""

from __future__ import annotations

import threading

import pytest

from bit import load
from bit.models import UnusableModel
from tests import helpers
from transforms import counters, decode
from transforms.model.loading import Loading


def test_loading_begins_at_once_and_is_waited_for():
    begins, may_end = threading.Event(), threading.Event()

    def slow():
        begins.set()
        assert may_end.wait(60)
        return "model"

    loading = Loading(slow)
    assert begins.wait(60)
    may_end.set()
    assert [loading.ready(), loading.ready()] == ["model", "model"]


def test_what_fails_is_raised_to_each_who_needs_the_model():
    def fails():
        raise UnusableModel("no such output")

    loading = Loading(fails)
    for _ in range(2):
        with pytest.raises(UnusableModel, match="no such output"):
            loading.ready()


def test_a_later_call_tries_again_what_has_failed():
    """Beam keeps the object for the process, and an engine repeats the bundle."""
    results = iter([OSError("the network is down"), "model"])

    def load_now():
        result = next(results)
        if isinstance(result, OSError):
            raise result
        return result

    loading = Loading(load_now)
    with pytest.raises(OSError, match="down"):
        loading.ready()
    assert [loading.ready(), loading.ready()] == ["model", "model"]


def test_the_first_images_are_decoded_meanwhile(tmp_path, monkeypatch):
    decoded, original = threading.Event(), load.load
    said: list[str] = []

    def decoding(*arguments, **more):
        decoded.set()
        return plain(*arguments, **more)

    def loading(*arguments, **more):
        assert decoded.wait(60)
        said.append(counters.PROCESS.doing)
        return original(*arguments, **more)

    plain = decode.submit
    monkeypatch.setattr(decode, "submit", decoding)
    monkeypatch.setattr(load, "load", loading)
    helpers.job(f"--input={helpers.write_shards(tmp_path / 'in', (5, 3))}", output=tmp_path / "out")
    assert len(helpers.read_all(tmp_path / "out")) == 8
    assert said == ["loading the model"]


def test_a_model_that_turns_out_unusable_is_a_wrong_request(tmp_path, monkeypatch, capsys):
    def fails(*arguments, **more):
        raise UnusableModel("it returns values that are not finite")

    monkeypatch.setattr(load, "load", fails)
    pattern = helpers.write_shards(tmp_path / "in", (5, 3))
    helpers.job(f"--input={pattern}", output=tmp_path / "out", expect=2)
    assert "error: --model=untrained/tiny: it returns values that are not finite" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("features-*"))


def test_another_error_while_loading_ends_the_job(tmp_path, monkeypatch, capsys):
    def fails(*arguments, **more):
        raise OSError("the weights cannot be read")

    monkeypatch.setattr(load, "load", fails)
    pattern = helpers.write_shards(tmp_path / "in", (5, 3))
    helpers.job(f"--input={pattern}", output=tmp_path / "out", expect=1)
    assert "error: OSError: the weights cannot be read" in capsys.readouterr().err
