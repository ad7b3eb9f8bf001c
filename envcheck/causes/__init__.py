"""Every cause a finding may name: what it is, why it happens, the fix for each system, how to check, where it is
from.

Imports facts, versions, known, shell, wheels. The pages are data: rules and explain decide when a cause applies.
"""

from envcheck.causes import cards, compiled, distributed, hub, memory, own, packages, system, training  # noqa: F401
from envcheck.causes._registry import CAUSES, Cause, finding

__all__ = ["CAUSES", "Cause", "finding"]
