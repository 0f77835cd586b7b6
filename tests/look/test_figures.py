"""The figures of a page, against plain computations."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.look import (
    about,
    alike,
    contents,
    doubles,
    labels,
    page,
    projection,
    remedies,
    scan,
    thumbnails,
)
from pipeline.look import statistics as statistics_module
from pipeline.look.statistics import Statistics
from pipeline.outputs import committed
from tests import helpers
from transforms.fetching.settings import FetchSettings
from transforms.similarity.vectors import Vectors


def row(number, sha256="", **passed):
    return scan.Row(number, "00000-of-00001", number, b"k%d" % number, sha256 or str(number), 2, 1, passed)


def statistics(vectors, batch=7):
    out = Statistics(vectors.shape[1], len(vectors))
    for start in range(0, len(vectors), batch):
        out.add(vectors[start : start + batch])
    return out


def test_statistics_of_all_vectors():
    vectors = np.random.RandomState(0).uniform(1, 2, (50, 6)).astype(np.float32)
    vectors[:, 1] = 0  # dead
    vectors[:, 2] = 3  # saturated
    vectors[:, 3] = 1000 + 5 * np.sign(vectors[:, 3] - 1.5)  # 0.5 %
    vectors[:, 4] = 1000 + 20 * np.sign(vectors[:, 4] - 1.5)  # 2 %
    vectors[0, 5] = 0  # nearly never 0
    found = statistics(vectors)
    assert found.dead.tolist() == [1]
    assert found.saturated.tolist() == [2, 3]
    assert found.zeros == 51
    assert np.allclose(found.norms, np.linalg.norm(vectors, axis=1))


@pytest.mark.parametrize("batch", [1, 7, 50])
def test_norms_are_evenly_spread_where_there_are_too_many(monkeypatch, batch):
    monkeypatch.setattr(statistics_module, "_NORMS", 20)
    vectors = np.arange(50, dtype=np.float32)[:, np.newaxis]
    assert statistics(vectors, batch).norms.tolist() == list(range(0, 50, 3))


def test_neighbours_are_the_nearest_others(monkeypatch):
    monkeypatch.setattr(alike, "_BLOCK", 16)
    vectors = np.random.RandomState(1).randn(50, 8).astype(np.float32)
    vectors[30] = vectors[3]
    indices, cosines = alike.neighbours(Vectors.of(vectors))
    unit = vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    expected = unit @ unit.T
    np.fill_diagonal(expected, -2)
    assert indices[3, 0] == 30
    assert indices[30, 0] == 3
    assert np.allclose(cosines, -np.sort(-expected, axis=1)[:, :12], atol=1e-8)
    assert np.allclose(cosines, np.take_along_axis(expected, indices, 1), atol=1e-8)


def test_equally_near_neighbours_come_in_the_order_of_the_output(monkeypatch):
    """Whatever the blocks: the last bits of a product depend on its shape."""
    vectors = np.random.default_rng(0).gamma(0.5, 1, (40, 999)).astype(np.float32)
    vectors[5::3] = vectors[5] * np.float32(2)
    orders = []
    for block in (1, 7, 64):
        monkeypatch.setattr(alike, "_BLOCK", block)
        indices, cosines = alike.neighbours(Vectors.of(vectors))
        assert indices[0][indices[0] % 3 == 2].tolist() == [*range(5, 40, 3)][: (indices[0] % 3 == 2).sum()]
        orders.append((indices.tolist(), cosines.tolist()))
    assert orders[0] == orders[1] == orders[2]
    assert indices[5].tolist() == list(range(8, 40, 3))[:12] + indices[5].tolist()[11:]


@pytest.mark.parametrize("count", [1, 2, 13])
def test_neighbours_of_few(count):
    indices, cosines = alike.neighbours(Vectors.of(np.eye(count, 20, dtype=np.float32)))
    assert indices.shape == cosines.shape == (count, min(12, count - 1))


def test_zeros_are_like_nothing():
    for nothing in ([0, 0], [np.nan, 1], [np.inf, 1]):
        vectors = Vectors.of(np.array([nothing, [3, 4]], np.float32))
        assert np.isfinite(vectors.block(slice(None)).unit).all()
        assert alike.neighbours(vectors)[1].tolist() == [[0], [0]]


def test_near_duplicates_are_the_groups_of_pipeline_duplicates():
    """Chains connect; the largest picture comes first, and groups of one image only are left out."""
    angles = np.radians([0, 10, 90, 90, 20, 180, 181, 30])
    vectors = Vectors.of(np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32))
    rows = [row(i, sha256="same" if i in (2, 3) else "") for i in range(8)]
    rows[4] = dataclasses.replace(rows[4], width=900)
    assert alike.near_duplicates(vectors, rows, np.cos(np.radians(12))) == [[4, 0, 1, 7], [5, 6]]
    assert alike.near_duplicates(vectors, rows, np.cos(np.radians(5))) == [[5, 6]]
    assert alike.near_duplicates(vectors, rows, np.cos(np.radians(0.5))) == []


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """An output with three groups of equal images, across three shards, and its committed state."""
    folder = tmp_path_factory.mktemp("many")
    seeds = [0, 1, 2, 0, 3, 4, 1, 5, 0, 6, 7, 8, 9, 9, 10]
    for shard in range(3):
        examples = [helpers.image_example(seed) for seed in seeds[shard::3]]
        helpers.write_tfrecord(folder / "in" / f"{shard}.tfrecord", examples)
    helpers.job(f"--input={folder}/in/*.tfrecord", output=folder / "out")
    return committed(str(folder / "out")), [seed for shard in range(3) for seed in seeds[shard::3]]


@pytest.mark.parametrize("limit", [1, 4, 100])
def test_exact_duplicates_of_all_images_whatever_the_sample(many, limit):
    output, seeds = many
    scanned = scan.read(output, "embedding", limit)
    assert len(scanned.rows) == min(limit, 15)
    found = doubles.find(scanned, output, "embedding")
    groups = [[found.rows[index].number for index in group] for group in found.groups]
    same = [[at for at, seed in enumerate(seeds) if seed == one] for one in (0, 1, 9)]
    assert groups == sorted(same, key=lambda group: (-len(group), group[0]))
    assert (found.sizes, found.total, found.superfluous, found.share) == ([3, 2, 2], 3, 4, 1)
    whole = np.array([record["embedding"] for record in helpers.read_all(Path(output.layout.folder))])
    assert np.array_equal(found.vectors, whole[[one.number for one in found.rows]])


def test_groups_stay_complete_where_not_all_images_can_be_compared(many, monkeypatch):
    output, _ = many
    totals = []
    for kept in (3, 8, 12):
        monkeypatch.setattr(scan, "_DIGESTS", kept)
        found = doubles.find(scan.read(output, "embedding", 5), output, "embedding")
        assert found.share == kept / 15
        assert set(found.sizes) <= {2, 3}
        for group, size in zip(found.groups, found.sizes, strict=True):
            assert len(group) == size
        totals.append(found.total)
    assert totals == sorted(totals)
    assert totals[0] < 3


def test_only_a_few_members_of_a_few_groups_are_shown(many, monkeypatch):
    output, _ = many
    monkeypatch.setattr(doubles, "GROUPS", 2)
    monkeypatch.setattr(doubles, "MEMBERS", 2)
    found = doubles.find(scan.read(output, "embedding", 2), output, "embedding")
    assert ([len(group) for group in found.groups], found.sizes, found.total) == ([2, 2], [3, 2], 3)


@pytest.mark.parametrize("shape", [(40, 200), (200, 40), (3, 9)])
def test_principal_components(shape):
    basis = np.random.RandomState(2).randn(5, shape[1])
    weights = np.random.RandomState(3).randn(shape[0], 5) * (50, 20, 8, 3, 1)
    vectors = (weights @ basis + 7).astype(np.float32)
    scores, share = projection.principal_components(vectors, 3)
    centred = vectors - vectors.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    rank = min(3, shape[0] - 1)
    assert np.allclose(np.abs(scores[:, :rank]), np.abs(left * singular)[:, :rank], rtol=1e-3, atol=0.2)
    assert np.allclose(share[:rank], (singular**2 / (singular**2).sum())[:rank], atol=1e-4)


def clusters():
    centres = np.random.RandomState(4).randn(4, 64)
    of = np.arange(120) % 4
    vectors = (centres[of] + 0.2 * np.random.RandomState(5).randn(120, 64)).astype(np.float32)
    return Vectors.of(vectors).block(slice(None)).unit, of


@pytest.mark.parametrize("with_sklearn", [True, False])
def test_the_map_keeps_together_what_is_alike(monkeypatch, with_sklearn):
    unit, of = clusters()
    if not with_sklearn:
        monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    found = projection.project(unit)
    assert ("t-SNE" in found.method and "pip" not in found.method) == with_sklearn
    assert ("pip install scikit-learn" in found.method) != with_sklearn
    assert found.points.min() >= 0
    assert found.points.max() <= 1
    far = np.linalg.norm(found.points[:, np.newaxis] - found.points, axis=2)
    np.fill_diagonal(far, 9)
    assert (of[far.argmin(axis=1)] == of).mean() > 0.95
    assert np.array_equal(projection.project(unit).points, found.points)


@pytest.mark.parametrize("count", [1, 2, 8, 20])
def test_equal_vectors_have_a_map_too(count):
    found = projection.project(np.full((count, 16), 0.25, np.float32))
    assert found.points.shape == (count, 2)
    assert np.isfinite(found.points).all()


def test_the_label_is_the_first_feature_that_sorts_the_pictures():
    rows = [
        row(i, name=(b"n%d" % i,), same=(b"x",), tags=(b"a", b"b"), group=(b"g%d" % (i % 3),))
        for i in range(30)
    ]
    found = labels.choose("", rows)
    assert (found.feature, found.names, found.counts) == ("group", (b"g0", b"g1", b"g2"), (10, 10, 10))
    assert found.of == tuple(i % 3 for i in range(30))
    found = labels.choose("name", rows)
    assert (len(found.names), found.others, found.of.count(-1)) == (10, 20, 20)
    assert labels.choose("", [row(i, name=(b"n%d" % i,)) for i in range(30)]).feature == ""


def test_folders_are_labels_where_no_feature_is():
    rows = [
        dataclasses.replace(row(i), key=b"photos/%s/%d.jpg" % ((b"cat", b"d\xc3\xb6g")[i % 2], i))
        for i in range(30)
    ]
    found = labels.choose("", rows)
    assert (found.feature, found.names, found.of) == ("folder", (b"cat", b"d\xc3\xb6g"), (0, 1) * 15)
    assert labels.choose("folder", rows) == found
    rows[4] = dataclasses.replace(rows[4], key=b"4.jpg")
    assert labels.choose("", rows).feature == ""
    assert labels.choose("folder", rows).of[2:6] == (1, 0, -1, 0)  # the larger group is the first
    one = [dataclasses.replace(row(i), key=b"photos/%d.jpg" % i) for i in range(30)]
    assert labels.choose("", one).feature == ""
    own = [dataclasses.replace(one[i], passed={"folder": (b"%d" % (i % 3),)}) for i in range(30)]
    assert labels.choose("folder", own).names == (b"0", b"1", b"2")


@pytest.mark.parametrize("count", [20, 5200])
def test_no_page_is_larger_than_promised(count):
    """The longest keys and values of the worst characters, and noise for pictures."""
    noise = np.random.RandomState(6).randint(0, 256, (64, 64, 3), dtype=np.uint8)
    rows = [row(i, **dict.fromkeys("abcdefgh", (b"<" * 2000,))) for i in range(count)]
    vectors = np.random.RandomState(7).randn(count, 8).astype(np.float32)
    shown = contents.Shown(
        facts=[("Output", "<" * 5000)],
        notes=[],
        failures=[about.Failures("x", 1, "", "", (("<" * 9000, "&" * 9000),) * 3)] * 30,
        rows=rows,
        sampled=count,
        statistics=statistics(vectors),
        neighbours=alike.neighbours(Vectors.of(vectors)),
        exact=doubles.Exact(rows, vectors, [], [], 0, 0, 1),
        near=[],
        threshold=0.95,
        map=projection.Map(np.zeros((count, 2)), ""),
        label=labels.choose("", rows),
    )
    data = contents.describe(shown)
    room = page.room(data)
    picture = thumbnails.webp(noise, min(8192, room // count // 4 * 3))
    assert picture
    data["thumbnails"] = ["A" * (4 * (-(-len(picture) // 3)))] * count
    assert len(page.render(data, "")) < 15_000_000


def test_a_picture_takes_the_best_quality_that_fits():
    tile = np.asarray(helpers.picture(3, 96, 96))
    sizes = [len(thumbnails.webp(tile, most)) for most in (8192, 500, 300)]
    assert 0 < sizes[2] <= 300 < sizes[0] <= 8192
    assert thumbnails.webp(tile, 20) == b""


@pytest.mark.parametrize(
    ("value", "shown"),
    [("a" * 10, "a" * 10), ("abcdefghijk", "abcd…ghijk"), ("\udcff", "\\udcff"), ("ünïcode", "ünïcode")],
)
def test_texts_are_clipped_in_the_middle(value, shown):
    assert contents.clipped(value, 10) == shown


@pytest.mark.parametrize("text", ["</script>", "<!--", "&lt;", "\u2028", "'\"\\"])
def test_nothing_in_the_data_ends_its_element(text):
    out = page.as_json({text: [text]})
    assert not set("<>&\u2028\u2029") & set(out)
    assert json.loads(out) == {text: [text]}


def test_every_documented_code_has_a_remedy():
    pages = [
        (helpers.REPO / "docs" / f"{name}.md").read_text() for name in ("failures", "fetching", "images")
    ]
    tables = [line for text in pages for line in text[text.index("code |") :].splitlines()]
    codes = {m[1] for line in tables if (m := re.match(r"\| `([a-z0-9_]+)` \|", line))}
    codes -= {"read", "fetch", "decode", "infer"} | {
        field.name for field in dataclasses.fields(FetchSettings)
    }
    assert len(codes) > 30
    assert codes == set(remedies.REMEDIES)
    assert remedies.of("http_404") == remedies.REMEDIES["http_4xx"]
    assert remedies.of("http_503") == remedies.REMEDIES["http_5xx"]
