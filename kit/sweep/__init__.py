"""Several values of some options, each trained on the user's own data and measured on the same held-out rows.

--over -> what varies, and a point for each trial (space) -> checked and planned (trials) -> trained one after the
other, losers stopped early (running) as Optuna says (study) -> record of the trial folders (collecting, results) ->
table, plot, page (showing). A trial is a run of kit.train in a folder of its own.

May import: support, options, models, memory, backend, run, report, train.
"""

from kit.sweep.options import SweepCommand, given, load
from kit.sweep.results import Sweep, Trial, recorded
from kit.sweep.running import sweep
from kit.sweep.showing import drawn

__all__ = ["Sweep", "SweepCommand", "Trial", "drawn", "given", "load", "recorded", "sweep"]
