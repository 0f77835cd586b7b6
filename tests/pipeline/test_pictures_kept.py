"""Commands over an output find its pictures where the request that it keeps says."""

import json
import shutil

import pytest

from pipeline import export
from pipeline.look import command as look
from tests import helpers, stores
from tests.exporting.test_tensorboard import tiles
from tests.look.conftest import data_of

COUNT = 5


def tfrecords(folder):
    helpers.write_tfrecord(folder / "in" / "a.tfrecord", [helpers.image_example(i) for i in range(COUNT)])
    return [f"--input={folder}/in/*.tfrecord"]


def relative_tfrecords(folder):
    tfrecords(folder)
    return ["--input=in/a.tfrecord"]


def pictures_of(folder):
    (folder / "photos").mkdir()
    for i in range(COUNT):
        (folder / "photos" / f"{i}, x.jpg").write_bytes(helpers.encoded(i))


def folder_of_images(folder):
    pictures_of(folder)
    return ["--input=photos"]


def list_elsewhere(folder):
    """The names are relative to the working directory of the job, not to the list."""
    pictures_of(folder)
    (folder / "lists").mkdir()
    names = "".join(f'"photos/{i}, x.jpg"\n' for i in range(COUNT))
    (folder / "lists" / "list.csv").write_text(f"url\n{names}")
    return ["--input=lists/list.csv", "--uri_column=url"]


KINDS = [tfrecords, relative_tfrecords, folder_of_images, list_elsewhere]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def ran(request, tmp_path, monkeypatch):
    """The folder in which a job ran; its output is in 'out'. The working directory is another one now."""
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    flags = request.param(tmp_path / "job")
    helpers.job(*flags, output=tmp_path / "job" / "out")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "job"


def test_a_page_has_pictures_wherever_it_is_made(ran, tmp_path):
    assert look.main(["../job/out", "--to=page.html"]) == 0
    data = data_of(tmp_path / "elsewhere" / "page.html")
    assert [bool(thumbnail) for thumbnail in data["thumbnails"]] == [True] * COUNT
    assert data["output"] in ("../job/out", str(ran / "out"))


def test_the_projector_has_pictures_wherever_it_is_made(ran, tmp_path, capsys):
    flags = ["../job/out", "--to=projector", "--format=tensorboard"]
    assert export.main(flags) == 0
    assert "without pictures" not in capsys.readouterr().err
    sprite = (tmp_path / "elsewhere" / "projector" / "sprite.png").read_bytes()
    assert all(tile.std() > 0 for tile in tiles(sprite, 64, COUNT))
    assert export.main([f"{ran}/out", f"--to={tmp_path}/elsewhere/projector", "--format=tensorboard"]) == 0
    assert "nothing to do" in capsys.readouterr().err


def test_a_page_without_them_says_why(ran, tmp_path, capsys):
    (moved,) = (path for path in ran.iterdir() if path.name in ("in", "photos"))
    shutil.move(moved, tmp_path / "moved")
    assert look.main([f"{ran}/out", "--to=page.html"]) == 0
    assert not any(data_of(next(tmp_path.rglob("page.html")))["thumbnails"])
    error = capsys.readouterr().err
    assert "without pictures: " in error or f"{COUNT} of {COUNT} pictures cannot be read" in error


def test_what_the_command_names_comes_before_what_is_kept(tmp_path, capsys):
    flags = tfrecords(tmp_path)
    helpers.job(*flags, output=tmp_path / "out")
    shutil.move(tmp_path / "in", tmp_path / "moved")
    arguments = [f"{tmp_path}/out", f"--to={tmp_path}/page.html"]
    assert look.main([*arguments, f"--input={tmp_path}/moved/*.tfrecord"]) == 0
    assert all(data_of(tmp_path / "page.html")["thumbnails"])
    assert look.main([*arguments, f"--input={tmp_path}/in/*.tfrecord"]) == 2
    assert "no file matches" in capsys.readouterr().err


def test_fetching_is_asked_as_the_job_did(tmp_path):
    """A kept flag counts as if the command had it, and the command's own comes first."""
    helpers.job(*tfrecords(tmp_path), "--per_host=3", "--timeout=7", output=tmp_path / "out")
    arguments, _ = look.parse([f"{tmp_path}/out", "--timeout=9"])
    assert (arguments.fetch.per_host, arguments.fetch.timeout_seconds) == (3, 9)


@pytest.mark.parametrize("kept", ["no file", "not JSON", "another version's"])
def test_outputs_that_keep_nothing_of_use(tmp_path, capsys, kept):
    helpers.job(*tfrecords(tmp_path), output=tmp_path / "out")
    path = tmp_path / "out" / "request.json"
    values = json.loads(path.read_text())
    path.unlink()
    if kept == "not JSON":
        path.write_text("{")
    elif kept == "another version's":
        path.write_text(json.dumps({**values, "unheard_of": 3}))
    code = look.main([f"{tmp_path}/out", f"--to={tmp_path}/page.html"])
    error = capsys.readouterr().err
    if kept == "not JSON":
        assert code == 2
        assert "is not the request of a job" in error
        return
    assert code == 0
    assert ("without pictures: --input" in error) == (kept == "no file")
    assert any(data_of(tmp_path / "page.html")["thumbnails"]) == (kept != "no file")


@pytest.mark.parametrize("kind", [stores.gcs, stores.s3])
def test_inputs_on_a_store(tmp_path, kind):
    with kind() as store:
        store.use()
        folder = store.folder()
        tfrecords(tmp_path)
        stores.upload(folder, helpers.contents(tmp_path / "in"))
        helpers.job(f"--input={folder}/*.tfrecord", *store.flags, output=tmp_path / "out")
        assert look.main([f"{tmp_path}/out", f"--to={tmp_path}/page.html", *store.flags]) == 0
        assert all(data_of(tmp_path / "page.html")["thumbnails"])
