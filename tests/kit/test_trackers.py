"""A tracker is asked for by name, must be installed, and never ends a run."""

from pathlib import Path

import pytest

from kit.backend.tracking import GuardedTracker
from kit.run import trackers
from kit.support.errors import KitError


def test_none_needs_nothing() -> None:
    trackers.check("none", lambda package: False)


@pytest.mark.parametrize("name", trackers.PLACES)
def test_a_missing_package_has_its_install_line(name: str) -> None:
    trackers.check(name, lambda package: package == name)
    with pytest.raises(KitError) as raised:
        trackers.check(name, lambda package: False)

    (finding,) = raised.value.findings
    assert finding.id == "tracker-missing"
    assert finding.fix[0] == f"python -m pip install {name}"


@pytest.mark.torch
def test_every_tracker_is_one_of_transformers() -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(trackers.PLACES) <= set(INTEGRATION_TO_CALLBACK)


def test_its_files_belong_into_the_run_folder() -> None:
    folder = Path("runs/x")

    assert trackers.environment("tensorboard", folder) == {"TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard")}
    assert str(folder) in trackers.note("tensorboard", folder)
    assert trackers.environment("none", folder) == {}


@pytest.mark.torch
def test_its_error_is_an_event_and_the_last_thing_it_is_asked() -> None:
    class Broken:
        asked = 0

        def on_log(self, *_, **__):
            self.asked += 1
            raise OSError("no network")

    tracker, events = Broken(), []
    guarded = GuardedTracker(tracker, "wandb", lambda kind, text, **facts: events.append((kind, text)))
    for _ in range(2):
        guarded.on_log(None, None, None, logs={"loss": 1.0})

    assert tracker.asked == 1
    ((kind, text),) = events
    assert kind == "tracker-failed"
    assert "OSError: no network" in text
