"""`python -m kit.models` is `kit models`. What fits is known in a later room: kit/memory/__main__.py."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "models")
    runpy.run_module("kit", run_name="__main__")
