"""An error text (with the machine's facts, where they are known) -> findings, most likely cause first. Pure.

Three steps: the table of signatures says what the text points to; where one symptom has several causes the facts (or
the rest of the text) decide; a cause that the facts show as well is moved up. Imports facts, versions, known, causes,
rules.
"""

import re
from typing import Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from envcheck import known, rules, wheels
from envcheck.causes import finding
from envcheck.facts import Facts, Finding
from envcheck.known import variables
from envcheck.known.signatures import signatures

HEAD_CHARACTERS = 200_000  # of a longer text: the command and the versions stand at its beginning,
TAIL_CHARACTERS = 1_000_000  # the error at its end
MOST_FINDINGS = 3
MENTIONED, SYMPTOM, TYPICAL, CERTAIN, DECIDED = 0, 1, 2, 3, 4  # strength; DECIDED: a reader has seen the context


class Clue(NamedTuple):
    """A place in the text that points to a cause."""

    id: str
    strength: int
    excerpt: str
    severity: str = ""  # "" = that of the cause


Reader = Callable[[str, Facts], Iterator[Clue]]


def explain(text: str, facts: Facts) -> Tuple[Finding, ...]:
    """Findings for this error text, then what else is wrong with the machine; at most MOST_FINDINGS from the text.

    text: any length; of more than 1.2 million characters only beginning and end are read. facts: Facts() where
    nothing is known.
    """
    known_wrong = rules.judge(facts)
    cleaned = clean(text)
    if not cleaned:
        return known_wrong
    machine = with_hints(cleaned, facts)
    clues = ranked(all_clues(cleaned, machine), known_wrong)
    explained = [as_finding(clue, machine, known_wrong) for clue in clues]
    ids = {item.id for item in explained}
    rest = [item for item in known_wrong if item.id not in ids and item.severity == "error"]
    if not explained:
        others = [item for item in known_wrong if item.severity != "note"]
        return tuple(others) or (finding("text-not-recognised", facts, details=[("text", cleaned[-200:])]),)
    return tuple(explained + rest)


def clean(text: str) -> str:
    """Without colours and progress bars, white space collapsed, all quotes made "'"."""
    if len(text) > HEAD_CHARACTERS + TAIL_CHARACTERS:
        text = text[:HEAD_CHARACTERS] + "\n" + text[-TAIL_CHARACTERS:]
    text = re.sub(r"\x1b\[[0-9;?]{0,20}[A-Za-z]", "", text)
    text = re.sub(r"[`\"\u2018\u2019\u201c\u201d\u00b4]", "'", text)
    return " ".join(text.split())


def all_clues(text: str, facts: Facts) -> List[Clue]:
    lowered = text.lower()
    clues = [clue for reader in READERS for clue in reader(text, facts)]
    for row in signatures():
        match = row.find(lowered)
        if match:
            said = excerpt(text, match.start(), match.end())
            clues.append(Clue(row.id, row.strength, said, milder(row.id, lowered)))
    return clues


def excerpt(text: str, start: int, end: int) -> str:
    return text[max(0, start - 40) : min(len(text), max(end, start + 60) + 40)][:240].strip()


MILDER = (  # messages that only warn
    ("torchao-incompatible", r"skipping import of cpp extensions", "warning"),
    ("torchvision-mismatch", r"failed to load image python extension(?!.*torchvision::nms)", "warning"),
    ("mixed-gpu-architectures", r"imbalance between your gpus", "warning"),
    ("expandable-segments-conflict", r"expandable_segments not supported on this platform", "warning"),
    ("trl-renamed-argument", r"is deprecated(?!.*unexpected keyword)", "warning"),
)


def milder(cause_id: str, lowered: str) -> str:
    return next(
        (severity for name, pattern, severity in MILDER if name == cause_id and re.search(pattern, lowered)), ""
    )


def ranked(clues: Sequence[Clue], known_wrong: Sequence[Finding]) -> List[Clue]:
    """One clue per cause, strongest first. A cause the facts show too gains one step; beside a certain one, symptoms
    are dropped.
    """
    shown = {item.id for item in known_wrong if item.severity != "note"}
    best: Dict[str, Clue] = {}
    for clue in clues:
        if clue.id not in best or clue.strength > best[clue.id].strength:
            best[clue.id] = clue
    ordered = sorted(best.values(), key=lambda clue: -(clue.strength + (1.5 if clue.id in shown else 0)))
    if not ordered:
        return []
    top = ordered[0].strength
    if top == MENTIONED and shown and ordered[0].id not in shown:
        return []  # what the machine shows weighs more than a word
    kept = [clue for clue in ordered[1:] if (clue.strength >= CERTAIN and top <= clue.strength) or clue.id in shown]
    return [ordered[0], *kept][:MOST_FINDINGS]


def as_finding(clue: Clue, facts: Facts, known_wrong: Sequence[Finding]) -> Finding:
    same = next((item for item in known_wrong if item.id == clue.id), None)
    details = [("said", clue.excerpt)] if clue.excerpt else []
    if same is None and clue.strength == MENTIONED:
        guess = "A guess, from one word of the text: " + finding(clue.id, facts).what
        return finding(clue.id, facts, guess, details, "warning")
    if same is None:
        return finding(clue.id, facts, details=details, severity=clue.severity)
    severity = clue.severity or finding(clue.id, facts).severity
    return finding(clue.id, facts, same.what, [*same.details, *details], severity, same.fix)


# --- what the text tells about the machine
# -----------------------------------------------------------------------------
SYSTEMS = (
    (
        "Windows",
        r"\b[a-z]:[\\/](?:users|program|a[\\/]|ai|python|windows|work|miniconda|anaconda)|\\\\?(?:site-packages|lib)\\|\.dll\b|\.pyd\b|winerror|\.ps1\b|win_amd64",
    ),
    ("Linux (Colab)", r"/content/|google colab|\bcolab\b"),
    ("Linux (Kaggle)", r"/kaggle/|\bkaggle\b"),
    ("macOS", r"/users/[^/\s]+/(?!.*\\)|\bmacos\b|\bdarwin\b|\bmps backend\b"),
    ("Linux (WSL2)", r"\bwsl2?\b|microsoft-standard"),
    ("Linux", r"\.so(?:\.\d+)*\b|/usr/|/home/|/root/|/opt/|dist-packages|x86_64-linux-gnu"),
)


def with_hints(text: str, facts: Facts) -> Facts:
    """Fill in what the facts leave open and the text shows: system, Python, torch build. Only for fixes and for
    deciding.
    """
    lowered = text[:HEAD_CHARACTERS].lower() + text[-HEAD_CHARACTERS:].lower()
    changes: Dict[str, object] = {}
    if facts.os is None and facts.wsl is None:
        changes["os"] = next((name for name, pattern in SYSTEMS if re.search(pattern, lowered)), None)
    python = re.search(r"python(?:-|/)?(3\.\d{1,2})[/\\ ]|cp3(\d{1,2})-", lowered)
    if facts.python is None and python:
        changes["python"] = python.group(1) or "3." + python.group(2)
    torch = re.search(r"\(you have (\d[\w.]*(?:\+[\w.]+)?)\)|found (\d[\w.]*\+(?:cu\d+|cpu))\)", lowered)
    if torch and facts.package("torch") is None:
        changes["packages"] = {**(facts.packages or {}), "torch": torch.group(1) or torch.group(2)}
    return facts.with_changes(**changes) if changes else facts


# --- symptoms with several causes
# -----------------------------------------------------------------------------------------
def old_or_new_card(text: str, facts: Facts) -> Iterator[Clue]:
    """torch's warnings about a card it has no code for: newer or older than its list?"""
    match = re.search(r"with CUDA capability (sm_\d+a?) is not compatible.{0,400}", text, re.IGNORECASE)
    if match:
        card = known.parse_capability(match.group(1).lower())
        built = [
            found
            for found in map(known.parse_capability, re.findall(r"sm_\d{2,3}", match.group(0)[40:].lower()))
            if found
        ]
        old = card is not None and (card < min(built) if built and min(built) != card else card < (7, 5))
        yield Clue("torch-dropped-gpu-arch" if old else "torch-lacks-gpu-arch", DECIDED, match.group(0)[:160])
    match = re.search(r"cuda capability (\d+\.\d)\..{0,160}?\((\d+\.\d)\) ?- ?\((\d+\.\d)\)", text, re.IGNORECASE)
    if match:
        card, low = known.parse_capability(match.group(1)), known.parse_capability(match.group(2))
        old = bool(card and low and card < low)
        yield Clue("torch-dropped-gpu-arch" if old else "torch-lacks-gpu-arch", DECIDED, match.group(0)[:160])
    elif re.search(r"minimum(?: and maximum)? cuda capability supported", text, re.IGNORECASE):
        newer = max(wheels.capabilities(facts) or [(0, 0)]) >= (10, 0)
        yield Clue(
            "torch-lacks-gpu-arch" if newer else "torch-dropped-gpu-arch",
            CERTAIN,
            "cuda capability supported by this version",
        )


def no_kernel_image(text: str, facts: Facts) -> Iterator[Clue]:
    """'no kernel image is available': which binary lacks the code? The file in the message says it, else the card."""
    match = re.search(r"no kernel image is available", text, re.IGNORECASE)
    if not match:
        return
    around = text[max(0, match.start() - 400) : match.end() + 300].lower()
    said = excerpt(text, match.start(), match.end())
    cards = wheels.capabilities(facts)
    if re.search(r"bitsandbytes|ops\.cu\b|libbitsandbytes", around):
        yield Clue("bnb-no-kernels-for-gpu", DECIDED, said)
    elif re.search(r"hopper|flash_fwd_launch_template|xformers", around):
        yield Clue("xformers-fa3-on-blackwell", DECIDED, said)
    elif re.search(r"flash_attn|flash-attn", around):
        yield Clue(
            "attention-kernel-unsupported" if cards and cards[0] < (8, 0) else "flash-attn-abi-mismatch", CERTAIN, said
        )
    elif "nccl" in around:
        yield Clue("nccl-too-old-for-gpu", CERTAIN, said)
    elif facts.torch_build == "rocm" or re.search(r"\bhip\b", around):
        yield Clue("bnb-no-kernels-for-gpu", TYPICAL, said)
    else:
        old = cards and cards[-1] < (7, 5)
        named_old = re.search(r"\b(?:gtx|tesla [kmp]\d|p100|p40|k80|titan x|quadro [kmp]\d|gt \d{3,4})", text.lower())
        yield Clue(
            "torch-dropped-gpu-arch" if old or (named_old and not cards) else "torch-lacks-gpu-arch", CERTAIN, said
        )


UNSEEN = (
    r"no cuda gpus are available|no cuda-capable device|found no nvidia driver|unsloth currently only works "
    r"on|torch\.cuda\.is_available\(\)|"
    r"no nvidia gpu found|cannot find any torch accelerator|no gpu found|no gpus? (?:were |was "
    r")?(?:found|detected|available)|"
    r"cuda is not available|torch\.cuda\.is_available\(\) is false|cuda unknown error|no accelerator|you need a "
    r"gpu|found no gpu|libnvidia-ml\.so|can only be used on cuda"
)
SEES_NO_GPU = (
    "driver-library-mismatch",
    "driver-not-loaded",
    "driver-too-old-for-cuda",
    "container-gpu-access-missing",
    "cuda-visible-devices-hides-gpu",
    "torch-cpu-only-build",
    "no-gpu-present",
    "env-var-misspelled",
)


def no_gpu_seen(text: str, facts: Facts) -> Iterator[Clue]:
    """A program finds no card: what the machine shows decides."""
    match = re.search(UNSEEN, text, re.IGNORECASE)
    if not match:
        return
    said = excerpt(text, match.start(), match.end())
    wrong = [item.id for item in rules.judge(facts) if item.id in SEES_NO_GPU]
    if wrong:
        yield Clue(wrong[0], DECIDED, said)
    elif facts.gpu == ():
        yield Clue("no-gpu-present", DECIDED, said)
    elif re.search(r"\+cpu\b|cpu torch|torch\.version\.cuda[ =:]+none", text.lower()):
        yield Clue("torch-cpu-only-build", DECIDED, said)
    elif facts.is_container:
        yield Clue("container-gpu-access-missing", TYPICAL, said)
    elif facts.is_notebook:
        yield Clue("no-gpu-present", TYPICAL, said)
    elif re.search(r"found no nvidia driver|cuda unknown error", match.group(0).lower()):
        yield Clue("driver-not-loaded", TYPICAL, said)
    elif re.search(r"cuda_visible_devices", text.lower()) or "no cuda gpus" in match.group(0).lower():
        yield Clue("cuda-visible-devices-hides-gpu", TYPICAL, said)


def out_of_memory(text: str, facts: Facts) -> Iterator[Clue]:
    """Out of memory: while loading, training, evaluating or merging; of the card, or of pinned memory in WSL?"""
    match = re.search(
        r"out ?of ?memory(?:error)?|tried to allocate|\bOOM\b|ran out of (?:v?ram|memory)", text, re.IGNORECASE
    )
    if not match:
        return
    said, lowered = excerpt(text, match.start(), match.end()), text.lower()
    before = lowered[max(0, match.start() - 4000) : match.start()]
    both = before + lowered[match.start() : match.end() + 400]
    if re.search(
        r"torch_pad_and_concatenate|nested_concat|prediction_step|evaluation_loop|compute_metrics|trainer\.evaluate\(",
        both,
    ):
        yield Clue("oom-evaluation", DECIDED, said)
    elif re.search(
        r"save_pretrained_merged|push_to_hub_merged|merge_and_unload|unsloth_save_model|merged_16bit|"
        r"save_pretrained_gguf|\bmerging\b|\bwhile merg",
        both,
    ):
        yield Clue("oom-save-merge", DECIDED, said)
    elif re.search(r"pin_memory|pinned|cudahostalloc|cudahostregister|cachinghostallocator", both):
        yield Clue("wsl-pinned-memory", DECIDED if facts.is_wsl else TYPICAL, said)
    elif facts.is_wsl and re.search(r"cuda error: out of memory", lowered) and "tried to allocate" not in lowered:
        yield Clue("wsl-pinned-memory", DECIDED, said)  # the driver's own message, not that of torch's allocator
    elif any(item.id == "model-does-not-fit-vram" for item in rules.judge(facts)):
        yield Clue("model-does-not-fit-vram", DECIDED, said)
    elif re.search(
        r"loading checkpoint shards|load_checkpoint_in_model|_load_pretrained_model|from_pretrained\(|load_state_dict",
        before,
    ) and not re.search(r"trainer\.train|training_step|\.backward\(|compute_loss", both):
        yield Clue("model-does-not-fit-vram", CERTAIN, said)


def too_many_processes(text: str, facts: Facts) -> Iterator[Clue]:
    match = re.search(r"invalid device ordinal", text, re.IGNORECASE)
    if match and (facts.run("use_unsloth") or "unsloth" in text.lower()):
        yield Clue("unsloth-single-gpu-only", DECIDED, excerpt(text, match.start(), match.end()))


def misspelt_variable(text: str, facts: Facts) -> Iterator[Clue]:
    """An assignment of a name that is nearly a variable: NAME=value, or NAME in os.environ."""
    for match in re.finditer(
        r"\b([A-Za-z][A-Za-z0-9_]{6,40})\s?=|environ\['([A-Za-z0-9_]{6,40})'\]|environ(?:\.setdefault|\.get)?\('([A-Za-z0-9_]{6,40})'",
        text[:HEAD_CHARACTERS],
    ):
        name = next(group for group in match.groups() if group)
        right = variables.meant(name) if "_" in name and name.upper() == name else None
        if right:
            yield Clue("env-var-misspelled", DECIDED, f"{name} (did you mean {right}?)")
            return


def workers_on_windows(text: str, facts: Facts) -> Iterator[Clue]:
    match = re.search(
        r"subprocesses has abruptly died|dataloader worker.{0,60}exited unexpectedly|process pool was terminated",
        text,
        re.IGNORECASE,
    )
    if match and facts.is_windows:
        yield Clue("windows-multiprocessing-spawn", CERTAIN, excerpt(text, match.start(), match.end()))


def wrong_copy(text: str, facts: Facts) -> Iterator[Clue]:
    """The message finds a version that pip does not report: another copy is imported."""
    for match in re.finditer(r"but found ([\w-]+)==([\d.]+)", text):
        there = facts.package(match.group(1))
        if there is not None and there != match.group(2):
            yield Clue("environment-mixup", DECIDED, match.group(0))
            return


def named_symbol(text: str, facts: Facts) -> Iterator[Clue]:
    """bitsandbytes: 'named symbol not found' on one of several unlike cards is the mixture, not the library."""
    match = re.search(r"named symbol not found", text, re.IGNORECASE)
    if match and len({card[0] for card in wheels.capabilities(facts)}) > 1:
        yield Clue("mixed-gpu-architectures", DECIDED, excerpt(text, match.start(), match.end()))


def other_machine_kinds(text: str, facts: Facts) -> Iterator[Clue]:
    """A compiled package beside a CPU or ROCm torch: the build of torch is the cause."""
    match = re.search(r"you have \d[\w.]*\+(cpu|rocm)", text, re.IGNORECASE)
    if match:
        yield Clue(
            "torch-cpu-only-build" if match.group(1).lower() == "cpu" else "cuda-package-on-rocm",
            DECIDED,
            excerpt(text, match.start(), match.end()),
        )
    elif facts.torch_build == "rocm":
        asked = re.search(r"flash[-_]attn|xformers", text, re.IGNORECASE)
        if asked and re.search(r"nvcc|cuda_home|libcud|\+cu\d", text, re.IGNORECASE):
            yield Clue("cuda-package-on-rocm", DECIDED, excerpt(text, asked.start(), asked.end()))


def trainer_argument(text: str, facts: Facts) -> Iterator[Clue]:
    """An unexpected argument: did the user's script pass it, or one library to another?"""
    match = re.search(r"got an unexpected keyword argument '(\w+)'", text)
    if not match:
        return
    before = text[max(0, match.start() - 500) : match.start()]
    called = re.search(r"(\w{1,60})(?:\.__init__)?(?:\(\))? ?$", before)
    said, before = excerpt(text, match.start() - 40, match.end()), before.lower()
    if called and called.group(1) == "Trainer" and re.search(r"trl[/\\]trainer", before):
        yield Clue("package-set-out-of-step", DECIDED, said)
    elif re.search(r"unsloth[/\\]|unsloth_zoo", before) and match.group(1) not in (
        "tokenizer",
        "max_seq_length",
        "dataset_text_field",
    ):
        yield Clue("newer-than-unsloth-supports", CERTAIN, said)


def old_system_library(text: str, facts: Facts) -> Iterator[Clue]:
    """A missing symbol version of libstdc++ or glibc is the cause, whatever package asks for it."""
    match = re.search(r"(?:GLIBCXX|CXXABI|GLIBC)_[\d.]+' not found", text)
    if match:
        yield Clue("system-library-too-old", DECIDED, excerpt(text, match.start(), match.end()))


READERS: Tuple[Reader, ...] = (
    old_or_new_card,
    no_kernel_image,
    no_gpu_seen,
    out_of_memory,
    too_many_processes,
    misspelt_variable,
    workers_on_windows,
    wrong_copy,
    named_symbol,
    other_machine_kinds,
    trainer_argument,
    old_system_library,
)


def decode(data: bytes) -> str:
    """Bytes of a log -> text: UTF-16 where it has a byte order mark, else UTF-8 with replacement characters."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8-sig", "replace")
