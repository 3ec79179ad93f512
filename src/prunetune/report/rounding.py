"""How a number or a commit is shortened for reading: the same in tables, verdicts and captions."""


def one_decimal(value: float) -> str:
    """Return a number with one decimal, without a minus before zero.

    `round` is not used: it rounds 11.35 down as a float and up as a number of NumPy.
    """
    return f"{value:z.1f}"  # The option z shows a negative zero as 0.0.


def bracketed(low: float, high: float) -> str:
    """Return the ends of an interval as `[low, high]`, with one decimal."""
    return f"[{one_decimal(low)}, {one_decimal(high)}]"


def short_commit(commit: str, letters: int = 12) -> str:
    """Return the first letters of a commit's hash. What follows the hash, such as `-dirty`, is kept."""
    name, dash, state = commit.partition("-")
    return name[:letters] + dash + state
