"""Labels of every form, and the classes that they make."""

import pytest

from pipeline.finetune.labels import BadClasses, classes_of, mixed_folders, of_feature, of_folder
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
        ([918_273, 3], ("3", "918273"), ("3", "918273"), {918_273: 1, 3: 0}),
        ([0, 999], (), tuple(map(str, range(1000))), {0: 0, 999: 999}),  # a head of this size is cheap
        ([*range(200), 1999], (), tuple(map(str, range(2000))), {k: k for k in (*range(200), 1999)}),
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
        (["c"], ("a", "b"), "1 label not in --classes, such as 'c'"),
        (["c", "d", "a"], ("a", "b"), "2 labels not in --classes, such as 'c'"),
        (["a"], ("a", "b", "a"), "names 'a' twice"),
        (["cat", "cat"], (), "all examples are of one class, 'cat': two or more are needed"),
        ([3], (), "of one class, '3'"),
        (["01", "1"], (), "of one class, '1'"),
        (["a"], ("a", "b"), "of one class, 'a'"),
        (
            [3, 918_273],
            (),
            "2 classes with numbers up to 918273 would make a head of 918,274 outputs: list the classes in --classes",
        ),
        ([0, 1000], (), "head of 1,001 outputs"),
        ([*range(200), 2010], (), "201 classes .* head of 2,011 outputs"),
    ],
)
def test_labels_that_make_no_classes(labels, given, says):
    with pytest.raises(BadClasses, match=says):
        classes_of(labels, given)


@pytest.mark.parametrize(
    ("folders", "given", "names"),
    [
        (["1", "0", "2"], (), ("0", "1", "2")),
        ([str(k) for k in range(11)], (), tuple(str(k) for k in range(11))),  # 10 behind 9
        (["3", "918273"], (), ("3", "918273")),
        (["1", "2"], (), ("1", "2")),
        (["01", "1"], (), ("01", "1")),
        (["00", "01"], (), ("00", "01")),
        (["0", "+1"], (), ("+1", "0")),
        ([*map(str, range(11)), "1\u0661"], (), ("0", "1", "10", "1\u0661", *map(str, range(2, 10)))),
        (["0", "\u0661"], (), ("0", "\u0661")),  # another digit one
        (["-1", "0"], (), ("-1", "0")),
        (["1", "0"], ("cat", "dog"), ("cat", "dog")),
        (["2", "0"], ("cat", "dog", "emu"), ("cat", "dog", "emu")),  # no picture of a dog
        (["3", "918273"], ("918273", "3"), ("918273", "3")),
    ],
)
def test_names_of_folders_are_texts_unless_they_count_the_classes(folders, given, names):
    classes = classes_of(folders, given, are_folders=True)
    assert classes.names == names
    assert len(set(classes.numbers.values())) == len(folders)
    for name in folders:
        assert names[classes.numbers[name]] == name or (given and classes.numbers[name] == int(name))


@pytest.mark.parametrize(("folders", "missing"), [(["01", "0"], "0"), (["0", "2"], "0"), (["cat", "1"], "1")])
def test_folders_of_other_names_than_the_classes_are_refused(folders, missing):
    with pytest.raises(BadClasses, match=f"not in --classes, such as '{missing}'"):
        classes_of(folders, ("cat", "dog"), are_folders=True)


@pytest.mark.parametrize(
    ("searched", "paths", "mixed"),
    [
        (["p"], ["p/a/1.jpg", "p/b/2.jpg"], set()),
        (["p"], ["p/a/1.jpg", "p/stray.jpg"], {"p"}),
        (["p"], ["p/1.jpg", "p/2.jpg"], set()),  # one class, as of p/*.jpg beside others
        (["p/a", "p/b"], ["p/a/1.jpg", "p/b/2.jpg"], set()),
        (["p", "q"], ["p/a/1.jpg", "q/b/2.jpg", "q/stray.jpg"], {"q"}),
        (["p"], ["p/a/1.jpg", "p/a/more/2.jpg"], set()),  # only folders of the request are no classes
        (["p"], ["pq/1.jpg", "p/1.jpg"], set()),
        (["gs://b/p"], ["gs://b/p/a/1.jpg", "gs://b/p/stray.jpg"], {"gs://b/p"}),
    ],
)
def test_files_beside_the_folders_of_classes(searched, paths, mixed):
    found = mixed_folders(searched, paths)
    assert {folder for folder in found if "://" in folder or not folder.startswith("/")} == mixed
    assert len(found) == sum(1 if "://" in folder else 2 for folder in mixed)


def test_a_stray_file_has_no_label_also_where_its_key_is_a_uri():
    mixed = mixed_folders(["/x/p"], ["/x/p/a/1.jpg", "/x/p/ 1.jpg"])
    assert of_folder(Encoded(b"/x/p/a/1.jpg", 0, b""), mixed) == "a"
    for key in (b"/x/p/2.jpg", b"file:///x/p/%201.jpg"):
        with pytest.raises(ItemError, match="beside the folders of the classes") as raised:
            of_folder(Encoded(key, 0, b""), mixed)
        assert raised.value.code == "no_label"
