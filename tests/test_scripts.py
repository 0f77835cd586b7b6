"""The shell scripts and the lock files. A fake Python that notes its calls stands under the real scripts."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("run_local.sh", "run_tests.sh", "scripts/venv.sh", ".ci/run")
NATIVE = "transforms/imaging/_resize.c"
TOOLS = ("bash", "cat", "cksum", "cmp", "cp", "dirname", "env", "mkdir", "rm", "sleep", "touch")

# Stands for python3 and for .venv/bin/python: notes its arguments, makes a .venv with itself in it, and ends
# with the statuses in $FAKE_HOME/status-*.
FAKE_PYTHON = r"""#!/usr/bin/env bash
printf '%s\n' "$*" >>"$FAKE_HOME/calls"
status_of() { cat "$FAKE_HOME/status-$1" 2>/dev/null || printf 0; }
case "$1 $2" in
  "-m venv") mkdir -p .venv/bin && cp "$FAKE_HOME/python" .venv/bin/python ;;
  "-m samples.make_input") mkdir -p "$3" && touch "$3/photos.txt" ;;
  "-m bit.download") exit "$(status_of download)" ;;
  "-m uv") exit "$(status_of uv)" ;;
  "-m pip") [[ $3 != install ]] || exit "$(status_of install)" ;;
  "-m pipeline.main")
    if [[ -e $FAKE_HOME/wait ]]; then
      trap 'printf "stopped\n" >>"$FAKE_HOME/calls"; exit 143' TERM
      printf 'started\n' >>"$FAKE_HOME/calls"
      while :; do sleep 0.05; done
    fi
    exit "$(status_of main)" ;;
  "setup.py "*) touch transforms/_native.so ;;
  "-c "*) exit "$(status_of python)" ;;
  "--version "*) printf 'Python 3.12.0\n' ;;
esac
"""


class Project:
    """A copy of the scripts, with nothing on PATH but the few tools that they need and the fake python3."""

    def __init__(self, folder: Path):
        self.root, self.home = folder / "project", folder / "home"
        self.home.mkdir()
        for name in (
            *SCRIPTS,
            "scripts/uv.txt",
            "requirements.txt",
            "requirements-dev.txt",
            "setup.py",
            NATIVE,
        ):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        shutil.copytree(ROOT / "samples", self.root / "samples")
        (self.home / "python").write_text(FAKE_PYTHON, encoding="utf-8")
        (self.home / "python").chmod(0o755)
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        for tool in TOOLS:
            path = shutil.which(tool)
            assert path, tool
            (bin_folder / tool).symlink_to(path)
        (bin_folder / "python3").symlink_to(self.home / "python")
        self.environment = {"PATH": str(bin_folder), "FAKE_HOME": str(self.home)}

    def ends_with(self, call: str, status: int) -> None:
        (self.home / f"status-{call}").write_text(str(status), encoding="utf-8")

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        (self.home / "calls").unlink(missing_ok=True)
        command = [str(self.root / script), *arguments]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, cwd="/", timeout=60
        )

    def calls(self) -> list[str]:
        try:
            return (self.home / "calls").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []

    def job_arguments(self) -> list[str]:
        (call,) = (call for call in self.calls() if call.startswith("-m pipeline.main"))
        return call.split()[2:]


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path)


SAMPLE_ARGUMENTS = [
    "--runner=DirectRunner",
    "--input=local/input/tfrecords/*.tfrecord",
    "--batch_size=5",
    "--key_feature=image/filename",
    "--pass_through=image/class/label",
]


def test_run_local_installs_the_lock_makes_the_input_and_runs_the_job(project):
    result = project.run("run_local.sh", "--decode_processes=1")
    assert result.returncode == 0, result.stderr
    steps = [call.split()[1] for call in project.calls() if call.startswith("-m") and "config" not in call]
    assert steps == ["venv", "pip", "uv", "samples.make_input", "bit.download", "pipeline.main"]
    assert project.job_arguments() == [
        *SAMPLE_ARGUMENTS,
        "--model=bit/m-r101x3",
        "--output=local/features",
        "--decode_processes=1",
    ]
    assert result.stdout == ""
    assert "samples.show local/features" in result.stderr
    assert "untrained" not in result.stderr


def test_the_second_run_local_installs_and_writes_nothing(project):
    assert project.run("run_local.sh").returncode == 0
    assert project.run("run_local.sh").returncode == 0
    assert [call.split()[1] for call in project.calls()] == ["bit.download", "pipeline.main"]


def test_a_changed_lock_or_photograph_is_noticed(project):
    project.run("run_local.sh")
    with open(project.root / "requirements.txt", "a") as lock:
        lock.write("# changed\n")
    (project.root / "samples/photos/clock.png").unlink()
    assert project.run("run_local.sh").returncode == 0
    steps = [call.split()[1:3] for call in project.calls()]
    assert ["pip", "install"] in steps
    assert ["samples.make_input", "local/input"] in steps
    assert not any("venv" in step for step in steps)


def test_native_code_is_built_when_its_source_is_newer_or_the_library_is_not_there(project):
    build = "setup.py --quiet build_ext --inplace"
    project.run("run_local.sh")
    assert build in project.calls()
    library = project.root / "transforms/_native.so"
    for change in (library.unlink, (project.root / NATIVE).touch, (project.root / "setup.py").touch):
        project.run("run_local.sh")
        assert build not in project.calls()
        change()
        project.run("run_local.sh")
        assert build in project.calls()


def test_an_interrupted_installation_is_taken_up_again(project):
    project.ends_with("install", 1)
    assert project.run("run_local.sh").returncode == 1
    assert not any("pipeline.main" in call for call in project.calls())
    project.ends_with("install", 0)
    assert project.run("run_local.sh").returncode == 0
    assert any(call.startswith("-m pip install") for call in project.calls())


def test_where_uv_cannot_install_pip_does(project):
    project.ends_with("uv", 2)
    result = project.run("run_local.sh")
    assert result.returncode == 0
    (whole,) = [call for call in project.calls() if call.startswith("-m pip") and "requirements.txt" in call]
    assert {"--require-hashes", "--no-deps", "--no-compile"} < set(whole.split())
    assert "installing with pip" in result.stderr


def test_unreachable_weights_are_replaced_in_two_lines(project):
    project.ends_with("download", 3)
    result = project.run("run_local.sh")
    assert result.returncode == 0
    assert project.job_arguments() == [
        *SAMPLE_ARGUMENTS,
        "--model=untrained/r101x3",
        "--output=local/features-untrained",
    ]
    lines = [line for line in result.stderr.splitlines() if "weights" in line]
    assert lines == [
        "The official weights of BiT-M R101x3 could not be reached.",
        "Continuing with untrained weights from a fixed seed: the features have the right shape but no meaning.",
    ]


def test_any_other_failure_of_the_download_ends_the_script(project):
    project.ends_with("download", 1)
    assert project.run("run_local.sh").returncode == 1
    assert not any("pipeline.main" in call for call in project.calls())


@pytest.mark.parametrize("form", ["--model={}", "--model {}"])
def test_a_given_model_is_never_replaced(project, form):
    project.ends_with("download", 3)
    arguments = form.format("untrained/tiny").split()
    assert project.run("run_local.sh", *arguments).returncode == 0
    assert project.job_arguments() == [*SAMPLE_ARGUMENTS, "--output=local/features", *arguments]
    assert not any("bit.download" in call for call in project.calls())


def test_given_input_and_output_stand_alone(project):
    result = project.run("run_local.sh", "--input=mine.txt", "--output", "elsewhere", "--model=m")
    assert result.returncode == 0
    assert project.job_arguments() == [
        "--runner=DirectRunner",
        *("--input=mine.txt", "--output", "elsewhere", "--model=m"),
    ]
    assert "samples.show elsewhere" in result.stderr
    assert not (project.root / "local").exists()


@pytest.mark.parametrize("option", ["--pass_through", "--key_feature"])
def test_a_given_feature_replaces_the_sample_one(project, option):
    assert project.run("run_local.sh", "--model=m", f"{option}=image/class/text").returncode == 0
    assert project.job_arguments() == [
        *(argument for argument in SAMPLE_ARGUMENTS if not argument.startswith(option)),
        *("--output=local/features", "--model=m", f"{option}=image/class/text"),
    ]


def test_help_only_asks_the_job(project):
    assert project.run("run_local.sh", "--help").returncode == 0
    assert project.job_arguments() == ["--help"]
    assert not (project.root / "local").exists()


def test_the_exit_status_of_the_job_comes_through(project):
    project.ends_with("main", 3)
    result = project.run("run_local.sh")
    assert result.returncode == 3
    assert "samples.show" not in result.stderr


def test_sigterm_reaches_the_job_and_waits_for_it(project):
    (project.home / "wait").touch()
    command = [str(project.root / "run_local.sh"), "--model=m"]
    with subprocess.Popen(command, env=project.environment, stderr=subprocess.DEVNULL) as process:
        while "started" not in project.calls():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    assert project.calls()[-1] == "stopped"


def test_a_missing_python_is_named_with_a_remedy(project):
    project.ends_with("python", 1)
    result = project.run("run_local.sh")
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "No Python 3.10-3.13 with the venv module was found (tried python3, python3.13 ... python3.10).",
        "Install one (Debian, Ubuntu: apt install python3 python3-venv) or set PYTHON=/path/to/python3.",
    ]


def test_the_python_check_is_right_about_this_python(tmp_path):
    find = f"cd {ROOT} && . scripts/venv.sh && find_python"
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(["bash", "-c", find], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == sys.executable


def test_run_tests_serves_run_local_too(project):
    """The lock for tests contains the other lock, so it is not installed again."""
    project.run("run_tests.sh")
    assert any("--requirement requirements-dev.txt" in call for call in project.calls())
    assert project.run("run_local.sh").returncode == 0
    assert not any(call.startswith("-m pip ") for call in project.calls())


@pytest.mark.parametrize(
    ("arguments", "passed"),
    [
        ("", ""),
        ("flink", "tests/test_flink.py tests/test_flink_manifests.py"),
        ("prism -x flink", "tests/test_prism.py -x tests/test_flink.py tests/test_flink_manifests.py"),
        ("commit", "tests/commit"),
        ("claim", "tests/commit/test_claim.py"),
        ("-k flink tests/test_prism.py", "-k flink tests/test_prism.py"),
        ("nonsense", "nonsense"),  # pytest says that there is no such file
    ],
)
def test_run_tests_takes_groups_by_name(project, arguments, passed):
    (project.root / "tests" / "commit").mkdir(parents=True)
    for name in ("test_flink", "test_flink_manifests", "test_prism", "commit/test_claim"):
        (project.root / "tests" / f"{name}.py").touch()
    (project.root / ".venv/bin").mkdir(parents=True)
    for tool in ("ruff", "mypy", "shellcheck"):
        (project.root / ".venv/bin" / tool).symlink_to(shutil.which("true"))
    done = project.run("run_tests.sh", *arguments.split())
    assert done.returncode == 0, done.stderr
    assert project.calls()[-1] == f"-m pytest -n 3 --dist loadgroup --durations=60 {passed}".strip()


def test_tests_of_a_group_run_in_one_process(tmp_path):
    """As those that share a server or a large checkpoint need: some versions of pytest and xdist lose the groups."""
    (tmp_path / "test_group.py").write_text(
        """
import os, pytest
pytestmark = pytest.mark.xdist_group("together")
@pytest.mark.parametrize("number", range(4))
def test_one(number, request):
    (request.config.rootpath / f"{number}-{os.getpid()}").touch()
"""
    )
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadgroup", "--rootdir", str(tmp_path)]
    done = subprocess.run([*command, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    processes = [path.name.partition("-")[2] for path in tmp_path.glob("?-*")]
    assert len(processes) == 4
    assert len(set(processes)) == 1


def locked(name: str) -> dict[str, str]:
    """Each requirement of a lock, with its marker -> its line and hashes."""
    blocks = re.split(r"\n(?=[a-z0-9])", (ROOT / name).read_text(encoding="utf-8"), flags=re.IGNORECASE)
    return {block.split("\\\n")[0].strip(): block.split("# via")[0] for block in blocks}


def normalized(name):
    """As PEP 503 has it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_locks_cover_the_project_with_hashes_and_no_host():
    project_table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    runtime, development = locked("requirements.txt"), locked("requirements-dev.txt")
    for lock, wanted in [
        (runtime, project_table["dependencies"]),
        (development, project_table["dependencies"] + project_table["optional-dependencies"]["dev"]),
    ]:
        names = {normalized(requirement.split("==")[0]) for requirement in lock}
        missing = {normalized(re.split(r"[\[<>=~!; ]", name)[0]) for name in wanted} - names
        assert not missing
        assert all("--hash=sha256:" in block for block in lock.values())
        assert not any("://" in block for block in lock.values())
    for machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "x86_64")):
        for python in ("3.10", "3.11", "3.12", "3.13"):
            wanted, there = (installed_on(lock, *machine, python) for lock in (runtime, development))
            assert len(wanted) > 50
            assert wanted <= there
            assert ("tfx-bsl" in {name for name, _ in wanted}) == (
                python != "3.10" and machine != ("linux", "aarch64")
            )


def installed_on(lock, platform, machine, python):
    """Name and version of what a lock installs there."""
    environment = {
        "sys_platform": platform,
        "platform_machine": machine,
        "platform_system": platform.title(),
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
    }
    requirements = [Requirement(requirement) for requirement in lock]
    return {
        (requirement.name, str(requirement.specifier))
        for requirement in requirements
        if not requirement.marker or requirement.marker.evaluate(environment)
    }


PHOTO_NAMES = sorted(path.name for path in (ROOT / "samples/photos").iterdir() if path.suffix != ".md")

# The real job over the real script: only the virtual environment is this process's own.


@pytest.fixture
def real_project(tmp_path) -> Path:
    for name in ("run_local.sh", "requirements.txt", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    for folder in ("scripts", "samples", "bit", "pipeline", "transforms"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "*.so")
        )
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    shutil.copy(ROOT / "requirements.txt", tmp_path / ".venv/installed-requirements.txt")
    return tmp_path


def test_run_local_makes_features_and_the_second_call_leaves_them_alone(real_project):
    command = ["./run_local.sh", "--model=untrained/tiny", "--image_size=64", "--batch_size=4"]
    first = subprocess.run(command, cwd=real_project, capture_output=True, text=True, timeout=300)
    assert first.returncode == 0, first.stderr
    assert first.stdout == ""
    assert "NumPy" not in first.stderr, "the native code was built and taken"
    output = real_project / "local/features"
    features = sorted(output.glob("features-*.tfrecord"))
    assert [path.name for path in features] == [f"features-0000{i}-of-00003.tfrecord" for i in range(3)]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in features}

    second = subprocess.run(command, cwd=real_project, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stderr
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in features} == before

    look = subprocess.run(
        [".venv/bin/python", "-m", "samples.show", "local/features"],
        cwd=real_project,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.split()[0] for line in look.stdout.splitlines()[1:]] == PHOTO_NAMES
