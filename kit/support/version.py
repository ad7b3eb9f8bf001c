"""Which kit wrote a record, and in which form."""

VERSION = "0.2.0"
SCHEMA = 1  # of the records in a run folder; raised when a key changes its meaning or goes


def stamp() -> dict[str, str | int]:
    """What every record that is written begins with."""
    return {"kit": VERSION, "schema": SCHEMA}
