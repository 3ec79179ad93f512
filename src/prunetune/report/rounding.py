"""How a number is rounded for reading: the same in tables, verdicts and captions."""


def one_decimal(value: float) -> str:
    """Return a number with one decimal, without a minus before zero."""
    return f"{round(value, 1) + 0.0:.1f}"  # Adding 0.0 turns -0.0 into 0.0.


def bracketed(low: float, high: float) -> str:
    """Return the ends of an interval as `[low, high]`, with one decimal."""
    return f"[{one_decimal(low)}, {one_decimal(high)}]"
