"""Labels of every form, and the classes that they make."""

import pytest

from pipeline.finetune.labels import BadClasses, classes_of, of_feature, of_folder
from transforms.elements import Encoded
from transforms.errors import ItemError
from transforms.records import examples


def item(key=b"k", **columns):
    return Encoded(key, 0, b"", examples.from_columns(columns))


@pytest.mark.parametrize(
    ("value", "label"),
    [(3, 3), ("cat", "cat"), (b"7\n", "7"), (" dog ", "dog"), (2.0, 2), ("K\u00e4fer", "K\u00e4fer")],
)
def test_one_value_is_a_label(value, label):
    assert of_feature(item(label=value), "label") == label


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({}, "no_label"),
        ({"label": []}, "no_label"),
        ({"label": ""}, "no_label"),
        ({"label": [1, 2]}, "bad_label"),
        ({"label": 2.5}, "bad_label"),
        ({"label": float("nan")}, "bad_label"),
        ({"label": float("-inf")}, "bad_label"),
        ({"label": b"\xff"}, "bad_label"),
        ({"label": "a\nb"}, "bad_label"),
    ],
)
def test_anything_else_is_a_failure(columns, code):
    with pytest.raises(ItemError) as raised:
        of_feature(item(**columns), "label")
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (b"a/b/cat/1.jpg", "cat"),
        (b"gs://bucket/dog/1.jpg", "dog"),
        (b"file:///x/a%20cat/1.jpg", "a cat"),
        (b"cat/1", "cat"),
        # Lines of `inputs.txt`: file: URIs for names that no line can hold, bytes as they are.
        (b"file:///x/%20cat/1.jpg", " cat"),
        (b"x/a%20cat/1.jpg", "a%20cat"),
        (b"gs://bucket/a%20dog/1.jpg", "a%20dog"),
        (b"x/\xff/1.jpg", "\\xff"),
        (b"file:///x/%FE/1%0A.jpg", "\\xfe"),
        ("x/K\u00e4fer/1.jpg".encode(), "K\u00e4fer"),
    ],
)
def test_a_folder_is_a_label(key, name):
    assert of_folder(Encoded(key, 0, b"")) == name


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (b"1.jpg", "no_label"),
        (b"gs://1.jpg", "no_label"),
        (b"file:///x/a%0Ab/1.jpg", "bad_label"),
        (b"x/a\rb/1.jpg", "bad_label"),
    ],
)
def test_a_folder_whose_name_is_no_class_is_none(key, code):
    with pytest.raises(ItemError) as raised:
        of_folder(Encoded(key, 0, b""))
    assert raised.value.code == code


def test_a_value_that_does_not_fit_its_column_is_a_failure():
    passed, unfit = examples.typed({"label": "cat"}, {"label": "int64"})
    with pytest.raises(ItemError, match="does not fit") as raised:
        of_feature(Encoded(b"k", 0, b"", passed, unfit), "label")
    assert raised.value.code == "bad_label"


@pytest.mark.parametrize(
    ("labels", "given", "names", "numbers"),
    [
        (["b", "a", "c"], (), ("a", "b", "c"), {"a": 0, "b": 1, "c": 2}),
        ([2, 0], (), ("0", "1", "2"), {2: 2, 0: 0}),
        (["10", "2"], (), tuple(map(str, range(11))), {"10": 10, "2": 2}),
        (["b", "a"], ("b", "x", "a"), ("b", "x", "a"), {"b": 0, "a": 2}),
        ([1, 0], ("cat", "dog"), ("cat", "dog"), {1: 1, 0: 0}),
        (["1", "x"], (), ("1", "x"), {"1": 0, "x": 1}),
        ([5, 7], ("5", "7"), ("5", "7"), {5: 0, 7: 1}),
    ],
)
def test_classes_keep_their_order(labels, given, names, numbers):
    classes = classes_of(labels, given)
    assert classes.names == names
    assert classes.numbers == numbers


@pytest.mark.parametrize(
    ("labels", "given", "says"),
    [
        ([], (), "no example has a label"),
        ([-1, 0], (), "there is -1"),
        ([0, 10_000_000], (), "there is 10000000"),
        ([0, 2], ("a", "b"), "below 2, but there is 2"),
        (["c"], ("a", "b"), "1 labels are not in --classes, such as 'c'"),
        (["a"], ("a", "b", "a"), "names 'a' twice"),
    ],
)
def test_labels_that_make_no_classes(labels, given, says):
    with pytest.raises(BadClasses, match=says):
        classes_of(labels, given)
