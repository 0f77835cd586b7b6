"""Where caches go, with and without a home folder."""

import os
import pwd
import subprocess
import sys

import pytest

from bit import home, models
from pipeline import options
from pipeline.flags import RequestError
from tests import helpers

NOBODY = "import pwd\ndef unknown(uid): raise KeyError(uid)\npwd.getpwuid = unknown\n"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    for name in ("HOME", "XDG_CACHE_HOME", "BIT_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(home.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(home.tempfile, "tempdir", str(tmp_path))
    home._without_home.cache_clear()
    yield
    home._without_home.cache_clear()


@pytest.fixture
def nobody(monkeypatch):
    """This user is in no list of users."""

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_the_first_setting_that_there_is_decides(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert home.cache_folder() == f"{tmp_path}/home/.cache/bit-features"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert home.cache_folder() == f"{tmp_path}/home/.cache/bit-features"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert home.cache_folder() == "/xdg/bit-features"
    monkeypatch.setenv("BIT_CACHE_DIR", "~/own")
    assert home.cache_folder() == f"{tmp_path}/home/own"


@pytest.mark.parametrize("value", [None, ""])
def test_the_list_of_users_knows_a_home_that_the_environment_does_not(monkeypatch, value):
    if value is not None:
        monkeypatch.setenv("HOME", value)
    known = pwd.getpwuid(os.getuid()).pw_dir
    assert home.expanded("~") == known
    assert home.expanded("~/a") == f"{known.rstrip('/')}/a"
    assert home.settled() == {"HOME": known}
    assert home.notice == ""


@pytest.mark.parametrize("setting", [None, "/nonexistent", "/proc/home"])
def test_without_a_home_caches_are_in_a_temporary_folder_and_that_is_said_once(
    monkeypatch, tmp_path, nobody, caplog, setting
):
    if setting:
        monkeypatch.setenv("HOME", setting)
        monkeypatch.setattr(home.os, "access", lambda path, mode: False)
    expected = f"{tmp_path}/bit-features-{os.getuid()}"
    assert [home.cache_folder(), home.cache_folder()] == [expected] * 2
    assert os.stat(expected).st_mode & 0o777 == 0o700
    (record,) = caplog.records
    assert expected in record.getMessage()
    assert "XDG_CACHE_HOME" in record.getMessage()


def test_a_cache_that_may_only_be_read_is_used(monkeypatch, tmp_path):
    (tmp_path / ".cache" / "bit-features").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(home.os, "access", lambda path, mode: False)
    assert home.cache_folder() == f"{tmp_path}/.cache/bit-features"


def test_a_temporary_folder_of_others_is_not_used(tmp_path, nobody):
    taken = tmp_path / f"bit-features-{os.getuid()}"
    taken.mkdir()
    taken.chmod(0o777)
    assert home.temporary_folder() not in (str(taken), "")
    taken.rmdir()
    taken.symlink_to(tmp_path)
    assert os.path.dirname(home.temporary_folder()) == str(tmp_path)
    assert not os.path.samefile(home.temporary_folder(), tmp_path)


def test_a_path_below_an_unknown_home_is_refused(nobody):
    assert home.expanded("/a/~") == "/a/~"
    assert home.expanded("~no-such-user/a") == "~no-such-user/a"
    for path in ("~", "~/a"):
        with pytest.raises(home.NoHome, match="HOME"):
            home.expanded(path)
    with pytest.raises(models.UnusableModel, match=r"--model=~/m\.npz: this user has no home folder"):
        models.resolve("~/m.npz")
    for flag in ("--input=~/in", "--input=/a,~/in", "--output=~/out"):
        with pytest.raises(RequestError, match="HOME"):
            options.parse(["--input=in", "--output=out", *helpers.TINY, flag])


def test_a_run_without_a_home_leaves_no_folder_of_that_name(tmp_path):
    (tmp_path / "a.jpg").write_bytes(helpers.encoded(0))
    (tmp_path / "tmp").mkdir()
    code = f"{NOBODY}import sys\nfrom pipeline.main import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *helpers.TINY, "--input=a.jpg", "--output=out"]
    environment = {
        name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")
    }
    environment |= {"PYTHONPATH": str(helpers.REPO), "TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"no home folder: caches are in {tmp_path}/tmp/bit-features-{os.getuid()}" in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["a.jpg", "out", "tmp"]
    assert (tmp_path / "tmp" / f"bit-features-{os.getuid()}" / ".cache" / "bit-features").is_dir()
