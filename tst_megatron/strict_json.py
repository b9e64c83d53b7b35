"""Values as JSON has them: it knows no infinity and no NaN."""

import math
from typing import Any


def finite(value: Any) -> Any:
    """A copy of lists and dictionaries in which a float that is not finite is None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
