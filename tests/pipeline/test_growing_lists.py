"""Lists that get further rows, or move: only the new rows are done."""

import shutil

import pyarrow
import pyarrow.parquet
import pytest

from tests import helpers
from tests.pipeline.growing import failed, jsonl, parquet_list, picture, rows, txt, vectors


def test_a_list_elsewhere_with_the_same_relative_names_is_another(tmp_path, folder):
    for name, seeds in (("a", (2,)), ("b", (3, 4))):
        (folder / name).mkdir()
        for at, seed in enumerate(seeds):
            (folder / name / f"{at}.jpg").write_bytes(picture(seed))
        (folder / name / "list.txt").write_text("".join(f"{at}.jpg\n" for at in range(len(seeds))))
        flags = [f"--input={folder}/*/list.txt", f"--skip_done={tmp_path}/f/*"]
        helpers.job(*flags, output=tmp_path / "f" / name)
    assert [len(helpers.read_all(tmp_path / "f" / name)) for name in "ab"] == [1, 2]
    shutil.rmtree(folder / "a")
    (folder / "b").rename(folder / "c")  # where they may mean other pictures
    helpers.job(*flags, output=tmp_path / "f" / "c")
    assert len(helpers.read_all(tmp_path / "f" / "c")) == 2


def test_a_list_is_told_from_one_that_holds_the_same_rows(tmp_path, folder):
    names = names_of(folder, [2, 3, 4])
    for at, count, output in (("p", 1, "1"), ("p", 3, "2"), ("q", 2, "3"), ("p", 3, "4")):
        (folder / at).mkdir(exist_ok=True)
        (folder / at / "l.txt").write_text("".join(f"{name}\n" for name in names[:count]))
        flags = [f"--input={folder}/{at}/l.txt"]
        skipped = [f"--skip_done={tmp_path}/f/*"] if at == "p" else []
        helpers.job(*flags, *skipped, output=tmp_path / "f" / output)
    done = [len(helpers.read_all(tmp_path / "f" / str(n))) for n in (1, 2, 3, 4)]
    assert done == [1, 2, 2, 0]


@pytest.mark.parametrize("kind", [txt, parquet_list], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("how", ["in front", "within", "fewer", "a longer last row"])
def test_a_list_that_has_changed_where_it_was_done_is_refused(tmp_path, folder, capsys, kind, how):
    flags = kind(folder, 0, 5)
    helpers.job(*flags, output=tmp_path / "a")
    names = rows(folder, 5, 6)
    names = {
        "in front": [names[-1], *names[:-1]],
        "within": [*names[:2], names[0], *names[3:]],
        "fewer": names[:3],
        "a longer last row": [*names[:4], f"{names[4]}.jpg", names[5]],
    }[how]
    if kind is txt:
        (folder / "list.txt").write_text("\n".join(names))
    else:
        pyarrow.parquet.write_table(pyarrow.table({"uri": names}), folder / "list.parquet")
    capsys.readouterr()
    helpers.job(*flags, f"--skip_done={tmp_path}/a", output=tmp_path / "b", expect=2)
    assert "has other rows than those that an output in --skip_done is made of" in capsys.readouterr().err


def test_lists_of_one_name(tmp_path, folder):
    names = [f"{folder}/{name}" for name in rows(folder, 0, 4)]
    for name, count in (("a", 2), ("b", 4)):
        (folder / name).mkdir()
        (folder / name / "list.txt").write_text("".join(f"{path}\n" for path in names[:count]))
    flags = [f"--input={folder}/a/list.txt,{folder}/b/list.txt", "--images_per_shard=2"]
    helpers.job(*flags, output=tmp_path / "one")
    for name, more in (("a", [3]), ("b", [0, 1])):
        with open(folder / name / "list.txt", "a") as stream:
            stream.writelines(f"{names[seed]}\n" for seed in more)
    helpers.job(*flags, f"--skip_done={tmp_path}/one", output=tmp_path / "two")
    keys = [record["key"][0].decode() for record in helpers.read_all(tmp_path / "two")]
    assert keys == [names[3], names[0]]
    assert failed(tmp_path / "two") == [names[1]]


def test_columns_keep_the_types_of_the_earlier_output(tmp_path, folder):
    flags = jsonl(folder, 0, 4)[0]
    helpers.job(flags, "--pass_through=n", output=tmp_path / "a")
    jsonl(folder, 4, 6)
    helpers.job(flags, "--pass_through=n", f"--skip_done={tmp_path}/a", output=tmp_path / "b")
    assert helpers.manifest(tmp_path / "b")["schema"]["pass_through_types"] == {"n": "int64"}
    assert helpers.manifest(tmp_path / "b")["unfit_values"] == 2  # as for rows that come later in one list


def names_of(folder, seeds):
    """Complete names of as many bytes each."""
    (folder / "pictures").mkdir(exist_ok=True)
    for seed in seeds:
        (folder / "pictures" / f"{seed:03d}.jpg").write_bytes(picture(seed))
    return [f"{folder}/pictures/{seed:03d}.jpg" for seed in seeds]


def days_of_lists(tmp_path, folder, *days, move=lambda day: None):
    """Runs a job for each day, on which lists get further rows: name of a folder -> seeds. Returns the seeds that each did."""
    done = []
    for day, more in enumerate(days):
        move(day)
        for name, seeds in more.items():
            (folder / name).mkdir(exist_ok=True)
            with open(folder / name / "list.txt", "a") as stream:
                stream.writelines(f"{path}\n" for path in names_of(folder, seeds))
        flags = [f"--input={folder}/*/list.txt", f"--skip_done={tmp_path}/f/*"]
        helpers.job(*flags, output=tmp_path / "f" / str(day))
        keys = [record["key"][0].decode() for record in helpers.read_all(tmp_path / "f" / str(day))]
        done.append([int(key[-7:-4]) for key in keys])
    return done


def test_lists_of_one_name_over_days(tmp_path, folder):
    days = [{"a": [2], "b": [3, 4]}, {"b": [5]}, {"a": [6], "b": [7]}, {}]
    assert days_of_lists(tmp_path, folder, *days) == [[2, 3, 4], [5], [6, 7], []]


def test_a_new_list_of_the_same_name_that_ends_where_another_goes_on(tmp_path, folder):
    days = [{"b": [2, 3]}, {"a": [4, 5], "b": [6]}, {"a": [7], "b": [8]}]
    assert days_of_lists(tmp_path, folder, *days) == [[2, 3], [4, 5, 6], [7, 8]]


def test_a_list_that_moves_and_goes_on_growing(tmp_path, folder):
    def move(day):
        if day == 1:
            (folder / "a").rename(folder / "b")

    days = [{"a": [2, 3]}, {"b": [4]}, {"b": [5]}]
    assert days_of_lists(tmp_path, folder, *days, move=move) == [[2, 3], [4], [5]]


def test_a_list_that_was_empty_gets_rows_while_the_output_is_not_finished(tmp_path, folder):
    (path,) = names_of(folder, [2])
    (folder / "a.txt").write_text(f"{path}\n")
    (folder / "b.txt").write_text("")
    flags = [f"--input={folder}/*.txt"]
    helpers.job(*flags, output=tmp_path / "out")
    before = helpers.contents(tmp_path / "out")
    assert before["input_files.txt"].decode() == f"{folder}/a.txt[0:{len(path) + 1}]\n{folder}/b.txt[0:0]\n"
    next((tmp_path / "out" / "receipts").iterdir()).unlink()
    (folder / "b.txt").write_text(f"{path}\n")
    helpers.job(*flags, output=tmp_path / "out")
    assert helpers.contents(tmp_path / "out") == before


def test_the_first_names_of_a_list_decide_what_new_ones_are_relative_to(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = txt(folder, 2, 4)
    names = rows(folder, 2, 4)[2:]
    (folder / "list.txt").write_text("".join(f"{name}\n" for name in names))
    helpers.job(*flags, output=tmp_path / "a")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "9.jpg").write_bytes(picture(9))
    with open(folder / "list.txt", "a") as stream:
        stream.write("pictures/9.jpg\n")
    helpers.job(*flags, f"--skip_done={tmp_path}/a", output=tmp_path / "b", expect=3)
    (line,) = helpers.read_ledger(tmp_path / "b")
    assert (line["key"], line["code"]) == ("pictures/9.jpg", "not_found")
    for old in (folder, tmp_path):  # once they are done
        shutil.rmtree(old / "pictures")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "10.jpg").write_bytes(picture(10))
    with open(folder / "list.txt", "a") as stream:
        stream.write("pictures/10.jpg\n")
    helpers.job(*flags, f"--skip_done={tmp_path}/a,{tmp_path}/b", output=tmp_path / "c")
    assert list(vectors(tmp_path / "c")) == [b"pictures/10.jpg"]


def test_other_columns_of_a_list_are_named(tmp_path, folder, capsys):
    names = rows(folder, 2, 4)[2:]
    table = pyarrow.table({"uri": names, "n": [1, 2]})
    pyarrow.parquet.write_table(table, folder / "list.parquet")
    helpers.job(f"--input={folder}/list.parquet", output=tmp_path / "a")
    flags = [f"--input={folder}/list.parquet", "--pass_through=n", f"--skip_done={tmp_path}/a"]
    capsys.readouterr()
    helpers.job(*flags, output=tmp_path / "b", expect=2)
    assert "was made with schema.pass_through = [], this run requests ['n']" in capsys.readouterr().err
