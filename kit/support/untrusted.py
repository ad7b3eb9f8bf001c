"""Values out of a JSON file that may be broken or a stranger's: of the expected kind, or none."""

import math
from typing import Any


def finite_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def dict_or_empty(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def list_or_empty(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def dicts_in(value: Any) -> list[dict[str, Any]]:
    return [item for item in list_or_empty(value) if isinstance(item, dict)]


def texts_in(value: Any) -> list[str]:
    return [item for item in list_or_empty(value) if isinstance(item, str)]
