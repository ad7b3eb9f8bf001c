"""What torch and the driver say of the card: python -m benchmarks.gpu.properties      prints one JSON object"""

import json
import shutil
import subprocess


def most_clock_mhz() -> float | None:
    """The highest clock of the SMs that the driver allows, of the first card that is seen."""
    if not (program := shutil.which("nvidia-smi")):
        return None
    command = [program, "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    said = done.stdout.splitlines()
    return float(said[0]) if said and said[0].strip().isdecimal() else None


def main() -> None:
    import torch

    if not torch.cuda.is_available():
        print(json.dumps({"torch": torch.__version__}))
        return
    card = torch.cuda.get_device_properties(0)
    print(json.dumps({
        "torch": torch.__version__,
        "name": card.name,
        "total_bytes": card.total_memory,
        "capability": [card.major, card.minor],
        "sms": card.multi_processor_count,
        "most_clock_mhz": most_clock_mhz(),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
