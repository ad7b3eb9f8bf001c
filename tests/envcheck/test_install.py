"""The install plan on made-up environments; nothing is installed here."""

import sys

import pytest

from envcheck import install
from envcheck.facts import Facts

PINS = {
    "requirements-cpu.txt": "-c requirements.txt\ntorch==2.13.0+cpu\n",
    "requirements-cu128.txt": "torch==2.11.0+cu128\n",
    "requirements-cu130.txt": "torch==2.14.1+cu130\n",
    "requirements.txt": '# the rest\ntrl==1.14.2\nPyYAML==6.0.3  # note\nwin==1; sys_platform == "none"\n',
    "requirements-dev.txt": "pytest>=8\n",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name, text in PINS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(install, "ROOT", tmp_path)
    return tmp_path


def make_venv(project, *installed, record=True):
    venv = project / ".venv"
    site = venv / ("Lib" if sys.platform == "win32" else "lib/python3.12") / "site-packages"
    (site / "pip").mkdir(parents=True)
    install.python_of(venv).parent.mkdir(parents=True)
    install.python_of(venv).write_text("", encoding="utf-8")
    (venv / "pyvenv.cfg").write_text("version = 3.12.3\n", encoding="utf-8")
    for name in installed:
        add(site, name, record)
    return venv


def add(site, name, record=True):
    (site / f"{name}.dist-info").mkdir()
    if record:
        (site / f"{name}.dist-info" / "RECORD").write_text("", encoding="utf-8")


def titles(steps):
    return [step.title for step in steps]


ALL = ("torch-2.13.0+cpu", "trl-1.14.2", "pyyaml-6.0.3")


def test_from_nothing_every_step_is_planned(project):
    steps = install.plan(project / ".venv", "cpu", "dev", sys.executable)
    assert titles(steps) == ["environment", "torch", "training stack", "dev"]
    assert install.shown(steps[2].command).endswith("-m pip install --no-deps -r requirements.txt")


def test_a_clone_is_installed_itself_once(project):
    (project / "pyproject.toml").write_text("", encoding="utf-8")
    venv = make_venv(project, *ALL)
    (step,) = install.plan(venv, "cpu", None, sys.executable)
    assert install.shown(step.command).endswith("-m pip install --no-deps --no-build-isolation -e .")
    add(install.site_packages(venv), "finetune_kit-0.2.0")
    assert install.plan(venv, "cpu", None, sys.executable) == []


def test_only_the_cpu_set_is_impatient(project):
    said = {
        target: install.shown(install.plan(project / ".venv", target, None, sys.executable)[1].command)
        for target in install.TARGETS
    }
    assert said["cpu"].endswith("-m pip install --retries 1 --timeout 15 -r requirements-cpu.txt")
    assert said["cu128"].endswith("-m pip install -r requirements-cu128.txt")
    assert said["cu130"].endswith("-m pip install -r requirements-cu130.txt")


def test_a_second_time_nothing_is_left(project, capsys):
    venv = make_venv(project, *ALL)
    assert install.plan(venv, "cpu", None, sys.executable) == []
    assert install.main(["--cpu", "--venv", str(venv)], starter=None) == 0
    assert capsys.readouterr().out.splitlines() == [
        "already installed: .venv has every package of requirements-cpu.txt and requirements.txt"
    ]


def test_only_what_is_missing_or_different_is_installed(project):
    venv = make_venv(project, "torch-2.13.0+cpu", "trl-1.13.0", "pyyaml-6.0.3")
    assert titles(install.plan(venv, "cpu", None, sys.executable)) == ["training stack"]


def test_an_installation_that_was_cut_off_is_repeated_and_its_rest_removed(project):
    venv = make_venv(project, "torch-2.13.0+cpu", "pyyaml-6.0.3")
    add(install.site_packages(venv), "trl-1.14.2", record=False)
    steps = install.plan(venv, "cpu", None, sys.executable)
    assert titles(steps) == ["training stack"]

    def starter(command):
        assert not (install.site_packages(venv) / "trl-1.14.2.dist-info").exists()
        add(install.site_packages(venv), "trl-1.14.2")
        return 0, ""

    assert install.carry_out(steps, venv, "cpu", Facts(), starter) is None
    assert install.plan(venv, "cpu", None, sys.executable) == []


@pytest.mark.parametrize(
    ("said", "cause_id"),
    [
        ("OSError: [Errno 28] No space left on device", "install-disk-full"),
        (
            "The virtual environment was not created successfully because ensurepip is not available.",
            "install-no-venv-module",
        ),
        (
            "WARNING: Retrying: Failed to establish a new connection: [Errno -3] Temporary failure in name resolution\n"
            "ERROR: No matching distribution found for torch",
            "install-network",
        ),
        (
            "ERROR: Could not find a version that satisfies the requirement torch==9\nERROR: No matching "
            "distribution found for torch==9",
            "install-no-such-version",
        ),
        ("ERROR: Package 'x' requires a different Python: 3.9.1 not in '>=3.11'", "install-no-such-version"),
        (
            "ERROR: [Errno 2] No such file or directory: 'C:\\x'\nHINT: This error might have occurred since this "
            "system does not have Windows Long Path support enabled.",
            "windows-path-too-long",
        ),
        ("Segmentation fault", "install-step-failed"),
    ],
)
def test_the_first_failure_stops_with_its_cause(project, said, cause_id):
    venv = project / ".venv"
    calls = []

    def starter(command):
        calls.append(command)
        return 1, said

    problem = install.carry_out(install.plan(venv, "cpu", None, sys.executable), venv, "cpu", Facts(), starter)
    assert (problem.id, len(calls)) == (cause_id, 1)


@pytest.mark.parametrize(("allowed", "status"), [(False, 1), (True, 0)])
def test_a_folder_too_deep_for_windows_is_told_before_anything_is_fetched(
    project, monkeypatch, capsys, allowed, status
):
    facts = Facts(os="Windows 11", gpu=(), long_paths=allowed, packages={"torch": "2.14.1+cu130"})
    monkeypatch.setattr(install, "collect", lambda: facts)
    deep = project / ("folder" * 12) / ".venv"
    assert install.main(["--cpu", "--dry-run", "--venv", str(deep)], starter=None) == status
    assert ("windows-path-too-long" in capsys.readouterr().err) is not allowed
    assert install.main(["--cpu", "--dry-run", "--venv", "/v"], starter=None) == 0


def test_a_cuda_build_in_place_of_the_cpu_build_is_found(project):
    venv = make_venv(project)
    site = install.site_packages(venv)

    def starter(command):
        add(site, "torch-2.13.0")
        (site / "torch").mkdir()
        (site / "torch" / "version.py").write_text("cuda: Optional[str] = '13.0'\n", encoding="utf-8")
        return 0, ""

    steps = install.plan(venv, "cpu", None, sys.executable)[:1]
    assert install.carry_out(steps, venv, "cpu", Facts(), starter).id == "install-cuda-build-on-cpu"


def test_a_step_that_ends_well_but_installs_nothing_is_a_failure(project):
    venv = make_venv(project)
    problem = install.carry_out(
        install.plan(venv, "cpu", None, sys.executable), venv, "cpu", Facts(), lambda command: (0, "")
    )
    assert problem.id == "install-step-failed"


def test_an_interruption_ends_with_130(project, monkeypatch):
    monkeypatch.setattr(install, "collect", lambda: Facts(gpu=()))

    def starter(command):
        raise KeyboardInterrupt

    assert install.main(["--venv", str(project / ".venv")], starter) == 130


def test_a_dry_run_shows_every_command_and_runs_none(project, monkeypatch, capsys):
    monkeypatch.setattr(
        install, "collect", lambda: Facts.from_json({"gpu": [{"name": "NVIDIA GeForce RTX 5080"}], "driver": "575.64"})
    )
    assert install.main(["--dry-run", "--venv", str(project / ".venv")], starter=None) == 0
    out = capsys.readouterr().out
    assert "-r requirements-cu128.txt" in out
    assert "older than 580" in out
    assert not (project / ".venv").exists()


def test_an_old_python_is_refused_before_anything_is_done(project, capsys):
    venv = make_venv(project)
    (venv / "pyvenv.cfg").write_text("version = 3.9.18\n", encoding="utf-8")
    assert install.main(["--cpu", "--venv", str(venv)], starter=None) == 1
    assert "install-python-too-old" in capsys.readouterr().err


def test_requirement_files_of_the_project_can_be_read():
    root = install.ROOT
    for target in install.TARGETS:
        wanted = install.requirements(root / f"requirements-{target}.txt")
        assert wanted["torch"].startswith("==")


@pytest.mark.parametrize(
    ("marker", "holds"),
    [
        (None, True),
        (f'sys_platform == "{sys.platform}"', True),
        (f'sys_platform != "{sys.platform}"', False),
        ('python_version >= "3.0" and sys_platform != "none"', True),
        ('python_version < "3.0"', False),
        ("something else", False),
    ],
)
def test_markers(marker, holds):
    assert install.applies(marker) is holds
