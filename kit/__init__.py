"""kit: fine-tune a language model on one consumer graphics card, in a run that cannot fail silently."""

import os

# Nothing phones home. Set before any library that would is imported; Unsloth's call also stalls for minutes offline.
for _name in ("UNSLOTH_DISABLE_STATISTICS", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ[_name] = "1"
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # looking for them reads every installed package's metadata
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # stated, or the library warns after every fork
