"""The CPUs that a process may use: its affinity, and the quotas of cgroups in folders as Linux shows them."""

import os

import pytest

from transforms import cpus


def quotas(tmp_path, of_process: str, files: dict[str, str]) -> list[float]:
    """The quotas that a process with these lines in /proc/self/cgroup sees in these files below /sys/fs/cgroup."""
    (tmp_path / "cgroup").write_text(of_process)
    root = tmp_path / "sys"
    root.mkdir()
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return list(cpus._quotas(root, tmp_path / "cgroup"))


def v1(folder: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(
    ("of_process", "files", "expected"),
    [
        pytest.param("0::/\n", {"cpu.max": "150000 100000\n"}, [1.5], id="v2, in a container"),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, [], id="v2, no limit"),
        pytest.param("0::/\n", {}, [], id="v2, the root of a machine has no such file"),
        pytest.param("0::/\n", {"cpu.max": "50000 200000\n"}, [0.25], id="v2, another period"),
        pytest.param("0::/\n", {"cpu.max": "garbage\n"}, [], id="v2, unreadable"),
        pytest.param(
            "0::/user.slice/job.scope\n",
            {
                "user.slice/job.scope/cpu.max": "max 100000\n",
                "user.slice/cpu.max": "300000 100000\n",
                "cpu.max": "400000 100000\n",
                "other.slice/cpu.max": "100000 100000\n",
            },
            [3.0, 4.0],
            id="v2, limits of the groups above",
        ),
        pytest.param(
            "0::/kubepods/pod1/host/path\n",
            {"cpu.max": "200000 100000\n"},
            [2.0],
            id="v2, the path is the host's, and not to be seen here",
        ),
        pytest.param(
            "12:memory:/job\n4:cpu,cpuacct:/job\n1:name=systemd:/job\n0::/job\n",
            {**v1("cpu,cpuacct/job", 250_000), **v1("cpu,cpuacct", -1), **v1("memory/job", 1)},
            [2.5],
            id="v1",
        ),
        pytest.param("4:cpu:/\n", v1("cpu", 50_000), [0.5], id="v1, in a container"),
        pytest.param(
            "4:cpu,cpuacct:/docker/abc\n",
            v1("cpu", 350_000),
            [3.5],
            id="v1, mounted as cpu, the path is the host's",
        ),
        pytest.param("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "50000\n"}, [], id="v1, without a period"),
        pytest.param("5:cpuset:/job\n", v1("cpuset/job", 100_000), [], id="v1, another controller"),
        pytest.param(
            "4:cpu:/a/b\n",
            {**v1("cpu/a/b", 200_000), **v1("cpu/a", 600_000, 200_000), **v1("cpu", -1)},
            [2.0, 3.0],
            id="v1, limits of the groups above",
        ),
        pytest.param("", {"cpu.max": "100000 100000\n"}, [], id="in no group"),
    ],
)
def test_quotas_of_cgroups(tmp_path, of_process, files, expected):
    assert quotas(tmp_path, of_process, files) == expected


def test_a_system_without_cgroups_has_no_quotas(tmp_path):
    assert list(cpus._quotas(tmp_path, tmp_path / "missing")) == []


@pytest.mark.parametrize(
    ("affinity", "quota", "expected"),
    [
        (8, [], 8),
        (8, [2.0], 2),
        (8, [1.5], 2),
        (8, [6.0, 2.5], 3),
        (1, [4.0], 1),
        (8, [0.1], 1),
    ],
)
def test_the_least_limit_counts_rounded_up(monkeypatch, affinity, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)), raising=False)
    monkeypatch.setattr(cpus, "_quotas", lambda *_: iter(quota))
    assert cpus.available() == expected


def test_where_a_system_knows_no_affinity_all_cpus_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(cpus, "_quotas", lambda *_: iter(()))
    for count, expected in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert cpus.available() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux binds processes to CPUs")
def test_a_process_bound_to_one_cpu_has_one():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert cpus.available() == 1
    finally:
        os.sched_setaffinity(0, allowed)
