"""The command `bit-features`, installed as a user would, in a folder whose own modules have our names."""

import json
import re
import subprocess
import sys
import sysconfig
import textwrap
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline import cli
from tests import helpers
from tests.test_packaging import sdist  # noqa: F401  # a fixture


@pytest.fixture(scope="module")
def command(sdist, tmp_path_factory):  # noqa: F811
    """The installed command; its dependencies are those of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install = ["--python", str(python), "install", "-q", "--no-deps", "--no-build-isolation"]
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    subprocess.run([sys.executable, "-m", "pip", *install, str(sdist)], check=True, capture_output=True)
    return folder / "bin" / "bit-features"


@pytest.fixture
def trap(tmp_path):
    """A working directory in which importing our packages would fail."""
    (tmp_path / "pipeline.py").write_text("raise RuntimeError('pipeline.py of the working directory')")
    for name in ("transforms", "bit"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(
            f"raise RuntimeError('{name}/ of the working directory')"
        )
    return tmp_path


def call(command: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([command, *arguments], cwd=cwd, capture_output=True, text=True, timeout=600)


def test_it_runs_the_job_beside_modules_of_our_names(command, trap):
    shards = helpers.write_shards(trap, [5, 3])
    done = call(
        command,
        "run",
        f"--input={shards}",
        f"--output={trap}/out",
        *helpers.TINY,
        "--direct_num_workers=2",
        "--direct_running_mode=multi_processing",
        cwd=trap,
    )
    assert done.returncode == 0, done.stderr
    assert len(helpers.read_all(trap / "out")) == 8
    checked = call(command, "verify", "--json", "out", cwd=trap)
    assert json.loads(checked.stdout)["features"] == 8


def test_other_commands_run_beside_modules_of_our_names(command, trap):
    helpers.job(f"--input={helpers.write_shards(trap, [5, 3])}", output=trap / "out")
    workers = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
    for arguments, made in (
        (("export", "out", "--to=npy", "--format=npy", *workers), "npy/img_emb/img_emb_00001.npy"),
        (("look", "out"), "look.html"),
        (("duplicates", "out", "--to=d.parquet"), "d.drop.jsonl"),
    ):
        done = call(command, *arguments, cwd=trap)
        assert done.returncode == 0, done.stderr
        assert (trap / made).exists()


def test_python_m_runs_what_is_in_the_working_directory(command, trap):
    """As docs/running.md says, and that -P helps."""
    python = command.with_name("python")
    done = call(python, "-m", "pipeline.main", "--help", cwd=trap)
    assert "pipeline.py of the working directory" in done.stderr
    if sys.version_info >= (3, 11):
        assert "--input" in call(python, "-P", "-m", "pipeline.main", "--help", cwd=trap).stdout


def test_exit_codes_are_those_of_the_modules(command, trap):
    assert call(command, "run", "--input=x", cwd=trap).returncode == 2
    assert call(command, "verify", "none", cwd=trap).returncode == 2
    assert call(command, "download", "--model=bit/none", cwd=trap).returncode == 2


def test_models_are_listed(command, trap):
    assert "bit/m-r101x3 " in call(command, "models", cwd=trap).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 2, "usage: bit-features COMMAND"),
        (["rum"], 2, "no command 'rum'"),
        (["--help"], 0, "dry-run"),
        (["run", "--help"], 0, "--input"),
        (["--version"], 0, "0."),
    ],
)
def test_help(command, trap, arguments, code, text):
    done = call(command, *arguments, cwd=trap)
    assert done.returncode == code
    assert text in (done.stderr if code else done.stdout)


def test_help_and_wrong_flags_need_no_tensorflow():
    program = """
        import importlib, sys
        sys.modules["tensorflow"] = None  # whoever imports it fails

        def code(main, *flags):
            try:
                return main(list(flags))
            except SystemExit as end:
                return end.code or 0

        for name in sys.argv[1:]:
            main = importlib.import_module(name).main
            assert (code(main, "--help"), code(main, "--none=x")) == (0, 2), name
        assert code(main, "--model=bit/none", "--output=out") == code(main, "--model=bit/m-r50x1", "--output=.") == 2
    """
    main_of = {"pipeline.look": "pipeline.look.command", "pipeline.finetune": "pipeline.finetune.__main__"}
    modules = [main_of.get(module, module) for module, _, _ in cli.COMMANDS.values()]
    assert modules[-1] == "bit.export"
    command = [sys.executable, "-c", textwrap.dedent(program), *modules]
    done = subprocess.run(command, cwd=helpers.REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_each_command_has_a_module():
    assert all(find_spec(module) for module, _, _ in cli.COMMANDS.values())


def test_each_command_is_documented_with_its_module():
    text = (helpers.REPO / "docs" / "running.md").read_text()
    text = text.partition("## The command bit-features\n")[2].partition("\n## ")[0]
    table = dict(re.findall(r"^\| `([a-z-]+)` \| `([^`]+)` \|$", text, re.MULTILINE))
    assert table.pop("bit-features") == "python -m"  # the head
    assert table == {name: " ".join([module, *more]) for name, (module, more, _) in cli.COMMANDS.items()}
