"""How long the default tests may take."""


def over_budget(seconds: float, minutes: float) -> str | None:
    """Return the line that says that a run of `seconds` took longer than its budget of `minutes`, else None."""
    if seconds <= 60 * minutes:
        return None
    return (
        f"OVER BUDGET: the tests took {seconds / 60:.1f} minutes, the budget is {minutes:g}; "
        "make one of the slowest tests above cheaper, or mark it slow where a cheaper test guards the same behaviour"
    )
