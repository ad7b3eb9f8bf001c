"""Several values of some options, each trained on the user's own data and measured on the same held-out rows.

--over -> grid of trials (grid) -> checked and planned (planning) -> trained, losers stopped early (running, halving)
-> record of the trial folders (results) -> table, plot, page (showing). A trial is a run of kit.train in a folder of
its own.
"""

from kit.sweep.options import SweepCommand, given, load
from kit.sweep.results import Sweep, Trial, recorded
from kit.sweep.running import sweep
from kit.sweep.showing import drawn, plot

__all__ = ["Sweep", "SweepCommand", "Trial", "drawn", "given", "load", "plot", "recorded", "sweep"]
