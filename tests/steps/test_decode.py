"""DecodeImages: decoding ahead, in order, and undecodable images."""

from tests import helpers
from tests.fakes import SHARD, bad, good
from transforms.decode import CHUNKS_AHEAD, DecodeImages, DecodeSettings
from transforms.elements import EncodedChunk, Failure
from transforms.imaging.preprocess import Preprocessing


def test_decoding_runs_ahead_within_bounds_and_keeps_the_order():
    step = DecodeImages(DecodeSettings(Preprocessing(image_size=8), batch_size=2, threads=2), lambda _: True)
    step.start_bundle()
    sent = [
        EncodedChunk(SHARD, 2 * i, i == 4, (good(2 * i, helpers.encoded(i)), bad(2 * i + 1)))
        for i in range(5)
    ]
    emitted, pending = [], []
    for chunk in sent:
        emitted += step.process(chunk)
        pending.append(len(step._pending))
    assert max(pending) == CHUNKS_AHEAD
    emitted += [windowed.value for windowed in step.finish_bundle()]
    assert [chunk.position for chunk in emitted] == [0, 2, 4, 6, 8]
    assert [chunk.is_last for chunk in emitted] == [False] * 4 + [True]
    for chunk in emitted:
        assert chunk.pixels.shape == (2, 8, 8, 3)
        assert chunk.pixels[0].any()
        assert not chunk.pixels[1].any()


def test_an_undecodable_image_leaves_a_zero_row():
    step = DecodeImages(DecodeSettings(Preprocessing(image_size=8), batch_size=3, threads=1), lambda _: True)
    step.start_bundle()
    items = (good(0, helpers.encoded(0)), good(1, b"no image"), good(2, helpers.encoded(2)))
    list(step.process(EncodedChunk(SHARD, 0, True, items)))
    (chunk,) = [windowed.value for windowed in step.finish_bundle()]
    first, second, third = chunk.items
    assert (first.row, third.row) == (0, 2)
    assert isinstance(second, Failure)
    assert not chunk.pixels[1].any()
