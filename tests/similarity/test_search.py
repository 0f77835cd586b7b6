"""Exact search and the index find what brute force finds."""

import numpy as np
import pytest

from tests.similarity.conftest import collected, components, cosines, grouped
from transforms.similarity import exact, index
from transforms.similarity.groups import Groups


def clustered(count, dimensions, seed=0):
    """Vectors of which many are near others, at all distances."""
    random = np.random.default_rng(seed)
    centers = random.standard_normal((count // 4, dimensions))
    noise = random.standard_normal((count, dimensions)) * random.uniform(0, 0.6, (count, 1))
    scale = random.uniform(0.01, 1000, (count, 1))  # vectors are not normalized
    return ((centers[random.integers(0, len(centers), count)] + noise) * scale).astype(np.float32)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(exact, "_ROWS", (37, 1 << 30))
    monkeypatch.setattr(exact, "_COLUMNS", (11, 1 << 30))


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95, 0.99])
@pytest.mark.parametrize("dimensions", [3, 64, 1000])
def test_exact_search_finds_what_brute_force_finds(small_blocks, threshold, dimensions):
    vectors = clustered(200, dimensions)
    expected = components(cosines(vectors) >= threshold)
    assert len(expected) > 1 or dimensions == 3
    assert grouped(collected(vectors), threshold) == expected


def test_the_size_of_the_blocks_changes_nothing(monkeypatch):
    vectors = collected(clustered(300, 40)).vectors
    results = []
    for rows, columns in ((8192, 2048), (1, 1), (64, 7), (7, 64), (300, 299)):
        monkeypatch.setattr(exact, "_ROWS", (rows, 1 << 30))
        monkeypatch.setattr(exact, "_COLUMNS", (columns, 1 << 30))
        groups, ticks = Groups(len(vectors)), []
        exact.search(vectors, 0.9, groups, lambda done, total, ticks=ticks: ticks.append((done, total)))
        results.append(groups.all())
        assert ticks[-1][0] == ticks[-1][1] > 0
    assert all(np.array_equal(results[0], other) for other in results)


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-10, 1, 2.0**100])
def test_a_cosine_equal_to_the_threshold_is_alike_and_the_next_one_is_not(scale):
    vectors = np.float32([[5, 0, 0], [3, 4, 0], [0, 0, 1]]) * np.float32(scale)  # 0.6 between the first two
    assert grouped(collected(vectors), 0.6) == [{0, 1}]
    assert grouped(collected(vectors), 0.600001) == []


def test_the_error_of_float32_products_decides_nothing():
    """In 6144 dimensions it is larger than the distances to the threshold here."""
    random = np.random.default_rng(1)
    first = random.gamma(0.5, 1, 6144)
    vectors = np.float32([first, *(first + 0.3 * random.gamma(0.5, 1, 6144) for _ in range(40))])
    exactly = cosines(vectors)
    for value in np.unique(exactly[0, 1:])[::8]:
        for threshold in (value - 2e-9, value, value + 2e-9):
            assert grouped(collected(vectors), threshold) == components(exactly >= threshold)


def test_threshold_one_takes_vectors_of_one_direction_only():
    base = np.random.default_rng(0).gamma(0.5, 1, (2, 500))
    vectors = np.float32(
        [base[0], base[0] * 3, base[1], base[0] * 0.1, base[1] * 7, base[0] + 0.001 * base[1]]
    )
    assert grouped(collected(vectors), 1.0) == [{0, 1, 3}, {2, 4}]


def test_groups_chain():
    angles = np.radians([0, 20, 40, 60, 80, 200, 220, 300])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert grouped(collected(vectors), np.cos(np.radians(20.01))) == [{0, 1, 2, 3, 4}, {5, 6}]
    assert grouped(collected(vectors), np.cos(np.radians(19.99))) == []


@pytest.mark.parametrize("bad", [0, np.nan, np.inf])
@pytest.mark.parametrize("search", [exact.search, index.search])
def test_vectors_without_a_direction_are_alike_by_bytes_only(search, bad):
    vectors = np.ones((300, 4), np.float32)
    vectors[1::3] = [0, 0, 0, bad]
    vectors[2::3] = [-1, 1, 0, 0]
    digests = [f"{row:064x}" for row in range(300)]
    digests[7] = digests[4] = digests[1]
    given = collected(vectors, digests=digests)
    assert grouped(given, 0.01, search) == [{*range(0, 300, 3)}, {1, 4, 7}, {*range(2, 300, 3)}]
    assert given.without_direction == 98
    assert np.isfinite(given.vectors.cosines(given.vector_of, given.vector_of)).all()


def test_thousands_of_equal_vectors_are_one(monkeypatch):
    vectors = np.repeat(clustered(8, 16), 5000, axis=0)
    given = collected(vectors)
    assert len(given.vectors) == 8
    monkeypatch.setattr(exact, "alike", lambda *arguments: np.zeros([*map(len, arguments[3:])], bool))
    assert grouped(given, 0.99999) == [{*range(at, at + 5000)} for at in range(0, 40_000, 5000)]


def test_thousands_that_are_nearly_equal_join_once_each(monkeypatch):
    random = np.random.default_rng(0)
    vectors = 1 + 0.001 * random.standard_normal((5000, 16))
    given, joined = collected(vectors), []
    join = Groups.join
    monkeypatch.setattr(Groups, "join", lambda self, members: (joined.append(1), join(self, members)))
    monkeypatch.setattr(exact, "_ROWS", (512, 1 << 30))
    monkeypatch.setattr(exact, "_COLUMNS", (512, 1 << 30))
    assert grouped(given, 0.95) == [{*range(5000)}]
    assert len(joined) < 3 * len(vectors)


def test_the_index_finds_groups_and_joins_nothing_wrongly():
    vectors = clustered(6000, 600)
    threshold = 0.95
    given, groups = collected(vectors), Groups(6000)
    expected = components(cosines(vectors) >= threshold)
    assert len(expected) > 500
    found = grouped(given, threshold, index.search)
    assert all(any(group <= other for other in expected) for group in found[::50])
    index.search(given.vectors, threshold, groups, lambda done, total: None)
    recall = exact.recall(given.vectors, threshold, groups, lambda done, total: None)
    assert recall.vectors == 1000
    assert recall.pairs > 500
    assert recall.share > 0.98
    again = Groups(6000)
    index.search(given.vectors, threshold, again, lambda done, total: None)
    assert np.array_equal(groups.all(), again.all())


def test_recall_counts_the_pairs_that_are_missed(monkeypatch):
    monkeypatch.setattr(exact, "_SAMPLE", 50)
    vectors = clustered(120, 30)
    given, groups = collected(vectors), Groups(120)
    sample = np.unique(np.linspace(0, 119, 50).astype(int))
    alike = cosines(vectors) >= 0.9
    np.fill_diagonal(alike, False)
    (row, other), *_ = np.argwhere(alike[sample])
    groups.join(np.array([sample[row], other]))
    recall = exact.recall(given.vectors, 0.9, groups, lambda done, total: None)
    counted = 2 if other in sample else 1
    assert (recall.vectors, recall.pairs, recall.found) == (50, alike[sample].sum(), counted)
    assert recall.share == counted / recall.pairs < 0.1


def test_no_pairs_are_a_recall_of_one():
    given = collected(np.eye(5))
    assert exact.recall(given.vectors, 0.9, Groups(5), lambda done, total: None).share == 1


def test_memory_holds_blocks_and_no_matrix_of_all_pairs():
    rows, columns = exact._step(exact._ROWS, 6144), exact._step(exact._COLUMNS, 6144)
    assert rows * columns * 4 < 80 << 20
    assert (rows + columns) * 6144 * 4 < 250 << 20
    assert exact._step(exact._ROWS, 1) * exact._step(exact._COLUMNS, 1) * 4 <= 64 << 20
