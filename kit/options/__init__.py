"""What is asked for: every option, written once.

May import: support.
"""

from kit.options.commands import DataCommand, TrainCommand
from kit.options.methods import METHODS, Method
from kit.options.run import HEAD, LINEAR_LAYERS, Rows, Run

__all__ = ["HEAD", "LINEAR_LAYERS", "METHODS", "DataCommand", "Method", "Rows", "Run", "TrainCommand"]
