"""The probe on machines that are not here: canned answers of nvidia-smi, folders with made-up packages."""

import contextlib
import sys
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envcheck import install, probe, rules
from envcheck.facts import Facts
from envcheck.probe import commands, nvidia, packages, smoke, system
from envcheck.probe.commands import Output, run_command

LINE = (
    "0, NVIDIA GeForce RTX 5080, 12.0, 16303, 15100, 581.57, GPU-3f2c9c1e-aaaa-bbbb-cccc-444455556666, Disabled, "
    "[N/A], [N/A], Enabled, 5, 16"
)


def row(index: int, name: str = "NVIDIA H100 80GB HBM3", uuid: str = "GPU-1", mig: str = "Disabled") -> str:
    return f"{index}, {name}, 9.0, 81559, 81000, 570.86.15, {uuid}, Enabled, {mig}, Enabled, Disabled, 5, 16"


def test_one_card():
    found = nvidia.parse_cards(LINE, apps="GPU-3f2c9c1e-aaaa-bbbb-cccc-444455556666, 4711, C:\\x\\game.exe, 512")
    (gpu,) = found["gpu"]
    assert (gpu.name, gpu.compute_capability, gpu.vram_gib, gpu.vram_free_gib) == (
        "NVIDIA GeForce RTX 5080",
        "12.0",
        15.92,
        14.75,
    )
    assert (gpu.display, gpu.ecc, gpu.pcie, gpu.processes) == (
        True,
        None,
        "gen 5 x16",
        ("game.exe (pid 4711, 0.5 GiB)",),
    )
    assert found["driver"] == "581.57"


def test_sixteen_cards_and_mig():
    found = nvidia.parse_cards("\n".join(row(number, mig="Enabled") for number in range(16)))
    assert [gpu.index for gpu in found["gpu"]] == list(range(16))
    assert all(gpu.mig for gpu in found["gpu"])


def test_a_truncated_line_is_named_and_the_others_count():
    found = nvidia.parse_cards(row(0) + "\n" + row(1)[:40])
    assert len(found["gpu"]) == 1
    assert found["unread"]


def test_a_digit_that_is_no_number_is_survived():
    assert nvidia.parse_cards("\u00b2" + LINE[1:])["unread"]


def test_nothing_readable_is_unknown_and_not_an_empty_machine():
    assert "gpu" not in nvidia.parse_cards("Es wurde kein Gerät gefunden")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [LINE, row(1), "[N/A]", ",", "\u0414\u0440\u0430\u0439\u0432\u0435\u0440", "\ufffd", "0, , , , ,"]
        )
        | st.text(max_size=40),
        max_size=20,
    ),
    st.text(max_size=60),
)
def test_any_output_of_nvidia_smi_is_read(lines, apps):
    found = nvidia.parse_cards("\n".join(lines), apps=apps)
    rules.judge(Facts(gpu=found.get("gpu"), driver=found.get("driver")))


VALUE = st.text(max_size=12).filter(lambda text: "\n" not in text) | st.sampled_from(
    ["0", "16", "\u00b2", "[N/A]", "ERR!", "Enabled", "Aktiviert", "12.0", "-1", "9" * 400, "MIG-1", "0x10de"]
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(VALUE, min_size=len(nvidia.FIELDS), max_size=len(nvidia.FIELDS)), min_size=1, max_size=16),
    st.lists(st.lists(VALUE, min_size=4, max_size=4), max_size=4),
    st.integers(0, 400),
)
def test_any_value_in_any_column_is_read_also_cut_off(rows, apps, end):
    """Sixteen cards, every column with anything in it, the output cut off anywhere."""
    text = "\n".join(", ".join(["0", *values[1:]]) for values in rows)
    for said in (text, text[:end]):
        found = nvidia.parse_cards(said, apps="\n".join(map(", ".join, apps)))
        facts = Facts(gpu=found.get("gpu"), driver=found.get("driver"))
        assert Facts.from_json(facts.to_json()).to_json() == facts.to_json()
        assert "rule-crashed" not in [item.id for item in rules.judge(facts)]


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script with a #! line")
@pytest.mark.parametrize(
    ("writes", "expected"),
    [
        (LINE.encode("utf-16"), None),
        ("Сбой драйвера".encode("cp1251"), None),
        (LINE.encode() + b"\n\xff\xfe\x00", "NVIDIA GeForce RTX 5080"),
        (LINE.encode()[:60], None),
        (b"", None),
    ],
)
def test_a_real_program_in_place_of_nvidia_smi_may_write_anything(tmp_path, monkeypatch, writes, expected):
    program = tmp_path / "nvidia-smi"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.stdout.buffer.write({writes!r} if 'query-gpu' in sys.argv[1] else b'')\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    monkeypatch.setattr(nvidia.shutil, "which", lambda name: str(program))
    cards = nvidia.read(run_command).get("gpu") or ()
    assert [gpu.name for gpu in cards] == ([expected] if expected else [])


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script with a #! line")
def test_an_nvidia_smi_that_hangs_costs_its_time_limit_and_no_more(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(nvidia.shutil, "which", lambda name: str(program))
    monkeypatch.setattr(nvidia, "SMI_SECONDS", 0.3)
    assert "did not answer" in nvidia.read(run_command)["nvidia_smi"]


@pytest.mark.skipif(sys.platform == "win32", reason="these names cannot be folders there")
@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ({"0000:00:02.0": "0x8086", "0000:03:00.0": "0x8086"}, ["Intel card (PCI 8086:56a0)"]),
        ({"0000:00:02.0": "0x8086"}, []),
        ({"0000:00:02.0": "0x8086", "0000:03:00.0": "0x1002"}, ["AMD card (PCI 1002:56a0)"]),
        ({"0000:03:00.0": "0x1002", "0000:0a:00.0": "0x10de"}, ["NVIDIA card (PCI 10de:56a0)"]),
    ],
)
def test_cards_on_the_bus_but_not_the_graphics_of_a_processor(tmp_path, monkeypatch, devices, expected):
    for name, vendor in devices.items():
        (tmp_path / name).mkdir()
        for file, text in (("class", "0x030000"), ("vendor", vendor), ("device", "0x56a0")):
            (tmp_path / name / file).write_text(text + "\n", encoding="utf-8")
    monkeypatch.setattr(nvidia, "PCI_DEVICES", tmp_path)
    assert [gpu.name for gpu in nvidia._from_pci()["gpu"]] == expected


class Registry:
    """Stands in for winreg; value: of LongPathsEnabled, None where nobody set it."""

    HKEY_LOCAL_MACHINE = "HKLM"

    def __init__(self, value):
        self.value = value

    def OpenKey(self, root, path):
        assert (root, path) == ("HKLM", r"SYSTEM\CurrentControlSet\Control\FileSystem")
        return contextlib.nullcontext(path)

    def QueryValueEx(self, key, name):
        assert name == "LongPathsEnabled"
        if self.value is None:
            raise FileNotFoundError(name)
        return self.value, 4


@pytest.mark.parametrize(("value", "allowed"), [(1, True), (0, False), (None, False)])
def test_windows_says_whether_long_paths_are_allowed(monkeypatch, value, allowed):
    monkeypatch.setattr(system.sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "winreg", Registry(value))
    found = system._paths(run_command)
    assert found == {"long_paths": allowed, "site_packages_characters": len(sysconfig.get_path("purelib"))}
    monkeypatch.setattr(system.sys, "prefix", sys.base_prefix)
    outside = system._paths(run_command)["site_packages_characters"]
    assert outside == len(str(Path.cwd() / ".venv" / "Lib" / "site-packages")), "where the installer makes one"


def fake_runner(cards: Output, apps: Output = Output(0, ""), plain: Output = Output(0, "")):  # noqa: B008
    def run(command, timeout_s=5.0, env=None):
        asked = " ".join(command)
        return cards if "--query-gpu" in asked else apps if "--query-compute-apps" in asked else plain

    return run


@pytest.fixture
def with_nvidia_smi(monkeypatch):
    monkeypatch.setattr(nvidia.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(nvidia, "_load", lambda linux, windows: None)
    monkeypatch.setattr(nvidia, "_from_pci", dict)


@pytest.mark.usefixtures("with_nvidia_smi")
def test_the_message_of_a_failing_nvidia_smi_becomes_a_finding():
    run = fake_runner(Output(18, "Failed to initialize NVML: Driver/library version mismatch"))
    assert [item.id for item in rules.judge(Facts(**nvidia.read(run)))] == ["driver-library-mismatch"]


@pytest.mark.usefixtures("with_nvidia_smi")
def test_a_hanging_nvidia_smi_is_said():
    assert "did not answer" in nvidia.read(fake_runner(Output(None, "", hung=True)))["nvidia_smi"]


@pytest.mark.usefixtures("with_nvidia_smi")
def test_the_cuda_version_comes_from_the_heading_where_the_library_is_missing():
    found = nvidia.read(
        fake_runner(
            Output(0, LINE), plain=Output(0, "| NVIDIA-SMI 581.57   Driver Version: 581.57   CUDA Version: 13.0  |")
        )
    )
    assert (found["driver_cuda"], len(found["gpu"])) == ("13.0", 1)


@pytest.mark.usefixtures("with_nvidia_smi")
def test_an_old_driver_without_the_new_columns_is_asked_again():
    old = ", ".join(value for number, value in enumerate(LINE.split(", ")) if number not in (2, 8))

    def run(command, timeout_s=5.0, env=None):
        asked = " ".join(command)
        if "compute_cap" in asked:
            return Output(2, 'Field "compute_cap" is not a valid field to query.')
        return Output(0, old if "--query-gpu" in asked else "")

    (gpu,) = nvidia.read(run)["gpu"]
    assert (gpu.name, gpu.compute_capability) == ("NVIDIA GeForce RTX 5080", None)


# --- programs
# -----------------------------------------------------------------------------------------------------------
def test_a_program_that_hangs_is_stopped():
    answer = run_command([sys.executable, "-c", "import time; print('x', flush=True); time.sleep(60)"], 1.0)
    assert (answer.code, answer.hung) == (None, True)


def test_a_program_that_is_missing_or_writes_nonsense_is_an_answer():
    assert run_command(["no-such-program-anywhere"]).code is None
    assert run_command([sys.executable, "-c", "import sys; sys.stdout.buffer.write(b'\\xff\\xfe ok')"]).text.endswith(
        " ok"
    )


# --- packages
# -------------------------------------------------------------------------------------------------------------
def make(folder, name, version, metadata=True):
    path = folder / f"{name}-{version}.dist-info"
    path.mkdir(parents=True)
    if metadata:
        (path / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n", encoding="utf-8")
    return path


def test_packages_are_read_without_importing_them(tmp_path):
    make(tmp_path, "torch", "2.11.0+cu128")
    make(tmp_path, "unsloth_zoo", "2026.10.9")
    make(tmp_path, "xformers", "0.0.35")
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text(
        "__version__ = '2.11.0+cu128'\ncuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n", encoding="utf-8"
    )
    (tmp_path / "xformers").mkdir()
    (tmp_path / "xformers" / "cpp_lib.json").write_text(
        '{"version": {"torch": "2.10.0+cu128", "python": "3.12.3"}}', encoding="utf-8"
    )
    found = packages.read_folders([str(tmp_path)])
    assert found["packages"]["torch"] == "2.11.0+cu128"
    assert found["packages"]["unsloth-zoo"] == "2026.10.9"
    assert found["packages"]["peft"] is None
    assert found["torch_cuda"] == "12.8"
    assert "torch_hip" not in found
    assert found["built_for"]["xformers"] == {"torch": "2.10.0+cu128", "python": "3.12.3"}


def test_duplicates_and_missing_metadata_are_named(tmp_path):
    make(tmp_path, "transformers", "4.57.1")
    make(tmp_path, "transformers", "5.17.0")
    make(tmp_path, "peft", "0.18.0", metadata=False)
    assert packages.read_folders([str(tmp_path)])["broken_packages"] == ("peft", "transformers")


def test_a_second_copy_that_wins_the_import_is_seen(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    (first / "transformers").mkdir(parents=True)
    (first / "transformers" / "__init__.py").write_text('__version__ = "4.40.0"\n', encoding="utf-8")
    make(second, "transformers", "4.57.1")
    found = packages.read_folders([str(first), str(second)])
    assert found["imported_versions"] == {"transformers": "4.40.0"}
    assert [item.id for item in rules.judge(Facts.from_json({**found, "packages": {"transformers": "4.57.1"}}))] == [
        "environment-mixup"
    ]


@settings(max_examples=60, deadline=None)
@given(
    files=st.dictionaries(
        st.sampled_from(
            ["METADATA", "RECORD", "../torch/version.py", "../xformers/cpp_lib.json", "../transformers/__init__.py"]
        ),
        st.binary(max_size=80),
        max_size=5,
    )
)
def test_any_content_of_metadata_is_survived(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("site")
    path = make(folder, "torch", "2.11.0", metadata=False)
    make(folder, "xformers", "0.0.35")
    for name, content in files.items():
        (path / name).parent.resolve().mkdir(exist_ok=True)
        (path / name).write_bytes(content)
    facts = Facts(**packages.read_folders([str(folder), "/nowhere"]))
    rules.judge(facts)


@settings(max_examples=60, deadline=None)
@given(
    folders=st.lists(
        st.tuples(
            st.sampled_from(["torch", "Torch", "transformers", "unsloth_zoo", "peft"]),
            st.sampled_from(["2.11.0", "2.8.0+cu128", "5.17.0", "", "x-y", "1"]),
            st.sampled_from(["dist-info", "egg-info", "dist-info.tmp"]),
            st.none() | st.binary(max_size=40) | st.sampled_from([b"Name: torch\nVersion:", b"Version: 9\nVersion: 8"]),
            st.none() | st.binary(max_size=40) | st.sampled_from([b"a,b,c\n", b'"', b"../../x,,"]),
        ),
        max_size=8,
    )
)
def test_duplicates_and_broken_records_in_any_mixture_are_survived(tmp_path_factory, folders):
    """The installer reads the same folders: it must not stumble either."""
    venv = tmp_path_factory.mktemp("venv")
    site = venv / "lib" / "python3.12" / "site-packages"
    site.mkdir(parents=True)
    for name, version, kind, metadata, record in folders:
        path = site / f"{name}-{version}.{kind}"
        path.mkdir(exist_ok=True)
        for file, content in (("METADATA", metadata), ("RECORD", record)):
            if content is not None:
                (path / file).write_bytes(content)
    facts = Facts(**packages.read_folders([str(site), str(site)]))
    assert "rule-crashed" not in [item.id for item in rules.judge(facts)]
    install.missing({"torch": "==2.11.0"}, install.installed(venv))
    assert all(path.is_dir() for path in install.cut_off(venv))


# --- the whole
# ------------------------------------------------------------------------------------------------------------
def test_this_machine_is_read():
    facts = probe.collect()
    assert facts.os
    assert facts.python == ".".join(map(str, sys.version_info[:3]))
    assert facts.ram_gib > 0
    assert Facts.from_json(facts.to_json()).to_json() == facts.to_json()


def test_a_reader_that_raises_leaves_its_part_unknown(monkeypatch):
    monkeypatch.setattr(nvidia, "read", lambda run: 1 / 0)
    facts = probe.collect()
    assert facts.gpu is None
    assert any("ZeroDivisionError" in text for text in facts.unread)


def test_a_token_is_never_read_into_the_facts(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    facts = system.read(run_command)
    assert facts["hf_logged_in"] is True
    assert "secretsecret" not in repr(facts)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "HF_ENDPOINT"])
def test_behind_a_proxy_or_with_a_mirror_the_hub_is_unknown(monkeypatch, name):
    monkeypatch.setenv(name, "http://proxy.example:3128")
    assert system.read_hub(run_command) == {}


def test_misspelt_variables_are_read(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBEL_DEVICES", "0")
    assert system.read(run_command)["env"]["CUDA_VISIBEL_DEVICES"] == "0"


# --- smoke tests
# ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Output(0, "noise\nok fine"), "ok"),
        (Output(0, "skip no GPU"), "skipped"),
        (Output(0, "no word"), "failed"),
        (Output(0, ""), "failed"),
        (Output(1, "ok"), "failed"),
        (Output(-11, "ok crashed after"), "failed"),
        (Output(None, "", hung=True), "hung"),
        (Output(None, "missing"), "failed"),
    ],
)
def test_verdicts(answer, expected):
    assert smoke.verdict(answer)["verdict"] == expected


def test_what_torch_says_is_merged_and_tests_for_a_gpu_are_skipped_without_one():
    seen = '{"torch_cuda_available": false, "torch_cuda": null, "torch_arch_list": null}\nok torch 2.13.0'
    facts = smoke.extend(
        Facts.from_json({"packages": {"torch": "2.13.0", "bitsandbytes": "0.50"}}), lambda *args: Output(0, seen)
    )
    assert facts.torch_cuda_available is False
    assert facts.smoke["8-bit optimiser"] == {"verdict": "skipped", "detail": "torch sees no GPU"}
    assert facts.smoke["xformers"] == {"verdict": "skipped", "detail": "not installed"}
    assert facts.smoke["NF4 layer"]["verdict"] == "ok"


def test_the_tests_leave_a_gpu_alone_that_the_kit_leaves_alone():
    """A ROCm build of torch would answer for an AMD card in CUDA's name."""
    seen = '{"torch_cuda_available": true, "torch_hip": "6.4"}\nok torch 2.9.1'
    visible = []

    def run(command, limit_s, env=None):
        visible.append([env.get(name) for name in ("HIP_VISIBLE_DEVICES", "UNSLOTH_FORCE_CPU")])
        return Output(0, seen)

    amd = {"gpu": [{"name": "AMD Radeon RX 7900 XTX"}], "packages": {"torch": "2.9.1", "bitsandbytes": "0.50"}}
    facts = smoke.extend(Facts.from_json(amd), run)
    assert facts.smoke["8-bit optimiser"] == {"verdict": "skipped", "detail": "AMD Radeon RX 7900 XTX is left alone"}
    assert facts.torch_hip == "6.4", "asked with the card in sight"
    assert visible[1:] == [["-1", "1"]] * len(visible[1:]) != []


def test_a_torch_that_cannot_be_imported_stops_the_other_tests():
    facts = smoke.extend(
        Facts.from_json({"packages": {"torch": "2.4.0"}}), lambda *args: Output(1, "OSError: [WinError 126] fbgemm.dll")
    )
    assert list(facts.smoke) == ["import torch"]


def test_every_smoke_test_is_python():
    for test in smoke.TESTS:
        compile(test.source, test.name, "exec")
    assert commands.run_command([sys.executable, "-c", "print('ok')"]).ok
