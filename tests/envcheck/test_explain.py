import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envcheck import explain
from envcheck.causes import CAUSES
from envcheck.facts import Facts, decode
from envcheck.known.signatures import signatures


def first(text: str, **facts) -> str:
    return explain.explain(text, Facts.from_json(facts))[0].id


def test_every_text_leads_to_its_cause(texts):
    missed = [(row["id"], first(row["text"])) for row in texts if first(row["text"]) != row["id"]]
    assert missed == []


def test_every_cause_of_the_casebook_has_a_text(texts):
    own = {cause_id for cause_id in CAUSES if cause_id.startswith(("install-", "smoke-"))}
    others = {"torch-missing", "gpu-not-nvidia", "rule-crashed", "package-metadata-broken", "text-not-recognised",
              "debug-variables-on"}  # fmt: skip
    assert set(CAUSES) - own - others == {row["id"] for row in texts}


def test_every_signature_names_a_cause():
    assert {row.id for row in signatures()} <= set(CAUSES)
    assert all(row.patterns for row in signatures())


def test_facts_decide_what_a_symptom_means():
    text = "RuntimeError: No CUDA GPUs are available"
    card = [{"name": "NVIDIA GeForce RTX 4090", "compute_capability": "8.9"}]
    assert first(text, gpu=[]) == "no-gpu-present"
    assert first(text, gpu=card, packages={"torch": "2.8.0+cpu"}) == "torch-cpu-only-build"
    assert first(text, gpu=card, env={"CUDA_VISIBLE_DEVICES": "3"}) == "cuda-visible-devices-hides-gpu"
    assert first(text, gpu=card, driver_cuda="11.4", torch_cuda="12.8") == "driver-too-old-for-cuda"
    assert first(text, os="Linux (Docker)") == "container-gpu-access-missing"


def test_no_kernel_image_depends_on_card_and_file():
    text = "CUDA error: no kernel image is available for execution on the device"
    assert (
        first(text, gpu=[{"name": "NVIDIA GeForce RTX 5070", "compute_capability": "12.0"}]) == "torch-lacks-gpu-arch"
    )
    assert (
        first(text, gpu=[{"name": "NVIDIA GeForce GTX 1080", "compute_capability": "6.1"}]) == "torch-dropped-gpu-arch"
    )
    assert first("Error " + text + " at line 90 in file /src/csrc/ops.cu") == "bnb-no-kernels-for-gpu"


def test_out_of_memory_in_wsl_without_the_allocators_words_is_pinned_memory():
    assert first("RuntimeError: CUDA error: out of memory", wsl=True) == "wsl-pinned-memory"
    assert first("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", wsl=True) == "oom-training"


def test_the_fix_speaks_the_shell_of_the_system_in_the_text():
    windows = explain.explain(
        r"ModuleNotFoundError: No module named 'triton' C:\Users\x\venv\Lib\site-packages\torch", Facts()
    )[0]
    linux = explain.explain(
        "/usr/lib/python3.11/site-packages/x.py ModuleNotFoundError: No module named 'triton'", Facts()
    )[0]
    assert "triton-windows" in windows.fix[0]
    assert "triton-windows" not in linux.fix[0]


def test_flash_attn_is_not_built_on_windows():
    said = "ImportError: DLL load failed while importing flash_attn_2_cuda: The specified procedure could not be found."
    (item,) = explain.explain(said, Facts())
    assert [line for line in item.fix if not line.startswith("# ")] == ["python -m pip uninstall -y flash-attn"]


def test_an_unknown_text_says_so():
    found = explain.explain("the weather is fine", Facts())
    assert [(item.id, item.severity) for item in found] == [("text-not-recognised", "note")]


def test_an_unknown_text_says_so_also_where_the_machine_has_a_note():
    windows = {"os": "Windows 11", "gpu": [{"name": "NVIDIA GeForce RTX 5080"}]}
    assert first("the weather is fine", **windows) == "text-not-recognised"


def test_an_empty_text_judges_the_facts():
    assert explain.explain("\n", Facts.from_json({"python": "3.13.8"}))[0].id == "python-version-unsupported"


@pytest.mark.parametrize("junk", ["\x1b[31m", "\r 12%|####", "\u2019\u201c", "\x00\ufffd"])
def test_colours_bars_and_quotes_do_not_hide_the_message(junk):
    assert (
        first(junk + "Torch" + (junk if junk == "\x1b[31m" else "") + " not compiled with CUDA enabled" + junk)
        == "torch-cpu-only-build"
    )


def test_utf16_logs_are_read():
    text = "OSError: [WinError 1455] The paging file is too small"
    assert first(decode(text.encode("utf-16"))) == "windows-pagefile-too-small"
    assert first(decode(b"\xff\xfe\xfa" + b"broken")) == "text-not-recognised"


@pytest.mark.parametrize(
    "line", ["x" * 1000, "torch xformers flash_attn /a/b.so: undefined KeyError: ' " * 20, "('" * 900]
)
def test_fifty_megabytes_are_read_and_the_end_counts(line):
    text = (line + "\n") * (50_000_000 // (len(line) + 1)) + "\nOSError: [Errno 28] No space left on device\n"
    assert "disk-full" in [item.id for item in explain.explain(text, Facts())]


def test_fifty_megabytes_without_a_line_end_are_read():
    text = "a" * 50_000_000 + " OSError: [Errno 28] No space left on device"
    assert "disk-full" in [item.id for item in explain.explain(text, Facts())]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "CUDA error",
                "no kernel image is available",
                "out of memory",
                "unexpected keyword argument 'x'",
                "cannot import name 'a' from 'transformers'",
                "with CUDA capability sm_",
                "sm_120",
                "compute",
                "(you have 2.6.0+cpu)",
                "NVIDIA",
                "import unsloth",
                "\x1b[0m",
                "\u2028",
                "\n",
                "'",
                "CUDA_VISIBL=1",
                "Minimum and Maximum cuda capability supported (7.0) - (",
                "but found a==1",
            ]
        )
        | st.text(max_size=20),
        max_size=15,
    )
)
def test_any_text_gets_an_answer(parts):
    found = explain.explain(" ".join(parts), Facts())
    assert all(item.id in CAUSES for item in found)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_decoded(data):
    assert isinstance(decode(data), str)
