"""How many numbers a router has."""

_REDUCTION = 4  # The predictor's hidden units are h / 4; the paper says only that it is small.


def units_of(hidden_size: int) -> int:
    """Hidden units of a predictor."""
    return max(1, hidden_size // _REDUCTION)


def parameters_of(hidden_size: int, has_predictor: bool) -> dict[str, int]:
    """Numbers in the parameters of a router, by what they belong to."""
    predictor = units_of(hidden_size) * (hidden_size + 1) if has_predictor else 0
    return {"router": hidden_size, "predictor": predictor}
