"""docs/scale.md has the tables that `python -m benchmarks.scale` prints, and its figures are those of the benchmarks' page."""

import pytest

from benchmarks import scale
from tests import helpers

PAGE = (helpers.REPO / "docs" / "scale.md").read_text()
MEASURED = (helpers.REPO / "benchmarks" / "README.md").read_text()


@pytest.mark.parametrize(
    "table",
    [scale.computing(1e9, 10_240), scale.layout(1e9), scale.storage(1e9)],
    ids=["gpu", "shards", "bytes"],
)
def test_the_page_has_the_tables_of_the_script(table):
    assert "\n".join(table) in PAGE


def test_the_page_names_what_is_measured_and_by_what_the_rest_is_scaled():
    assert scale.rate(scale.H200) == pytest.approx(scale.IMAGES_PER_SECOND)
    for device in (*scale.DEVICES, scale.H200):
        assert f"{device.tflops:g}" in PAGE
        assert f"{device.terabytes_per_second:g}" in PAGE.replace("0.300", "0.3")
    assert f"| {scale.IMAGES_PER_SECOND:.0f} |" in MEASURED
    assert f"fed at {scale.FED_PER_CORE:.0f} images per second and core" in (
        helpers.REPO / "docs" / "running.md"
    ).read_text().replace("\n", " ")
    assert f"| {scale.COMPUTED_MS} ms: 705 TFLOP/s" in MEASURED


def test_a_device_that_is_as_fast_in_half_of_what_it_does_takes_that_half():
    half = scale.Device("half", scale.H200.tflops, scale.H200.terabytes_per_second / 2)
    whole = scale.COMPUTED_MS + scale.MOVED_MS
    expected = scale.IMAGES_PER_SECOND * whole / (whole + scale.MOVED_MS)
    assert scale.rate(half) == pytest.approx(expected)


def test_a_day_of_one_machine_is_its_rate_for_a_day():
    device = scale.DEVICES[0]
    one, stages = scale.job(device, scale.rate(device) * 86_400, 10_240)
    assert stages["model"].wall == pytest.approx(86_400, rel=0.01)
    assert one.cpus == 8


def test_records_have_the_size_that_the_job_writes():
    assert 4 * scale.DIMENSIONS < scale.record_bytes() < 4 * scale.DIMENSIONS + 500


@pytest.mark.parametrize(
    ("value", "text"), [(0.6, "$1"), (53, "$53"), (881, "$881"), (1118.7, "$1,120"), (10560, "$10,600")]
)
def test_prices_have_three_digits(value, text):
    assert scale.dollars(value) == text
