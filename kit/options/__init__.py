"""What is asked for: every option, written once."""

from kit.options.methods import METHODS, Method
from kit.options.run import LINEAR_LAYERS, Command, DataCommand, Rows, Run

__all__ = ["LINEAR_LAYERS", "METHODS", "Command", "DataCommand", "Method", "Rows", "Run"]
