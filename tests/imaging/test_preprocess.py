"""Settings, and many threads at once."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.imaging import image_files as files
from tests.imaging.pictures import decoded
from tests.imaging.samples import AS_TENSORFLOW
from transforms.imaging.preprocess import Preprocessing


def test_threads_do_not_disturb_each_other():
    data = [*AS_TENSORFLOW.values()] * 8
    alone = [decoded(encoded) for encoded in AS_TENSORFLOW.values()] * 8
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(decoded, data))

    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize(
    "settings",
    [{"exif_orientation": "turn"}, {"image_size": 0}, {"max_pixels": 0}],
    ids=lambda s: next(iter(s)),
)
def test_settings_that_make_no_sense_are_refused(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"{name} must be .*, got {value!r}"):
        Preprocessing(**settings)


def test_settings_can_be_sent_to_a_worker():
    settings = Preprocessing(image_size=480, exif_orientation="apply")

    assert pickle.loads(pickle.dumps(settings)) == settings


def test_many_threads_keep_their_own_pixels():
    datas = [files.save(files.picture(60 + seed, 50), "JPEG") for seed in range(8)]
    expected = [decoded(data) for data in datas]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: decoded(datas[number % 8]), range(400)))
    for number, pixels in enumerate(results):
        np.testing.assert_array_equal(pixels, expected[number % 8])
