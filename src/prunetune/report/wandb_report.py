"""The body of `prunetune wandb-report`: log the tables and figures of a finished grid as one W&B run.

It reads <results>/tables/*.csv and <results>/figures/*.png, which `prunetune tables` and `prunetune figures` write.
"""

from pathlib import Path

import pandas as pd

from prunetune.base.errors import InputError
from prunetune.runs.tracking import Tracker, open_run


def log_report(results: Path, name: str, mode: str) -> str:
    """Log every table and figure below `results` and return a line that says what was logged and where.

    Raises:
        InputError: there is nothing to log, a table cannot be read, or the mode is unknown.
    """
    tables = {path.stem: _read(path) for path in sorted((results / "tables").glob("*.csv"))}
    pictures = {path.stem: path for path in sorted((results / "figures").glob("*.png"))}
    if not tables and not pictures:
        raise InputError(
            f"{results} has neither tables/*.csv nor figures/*.png; run `prunetune tables` and `prunetune figures`"
        )
    with open_run(mode, "prunetune", name, {"tables": [*tables], "figures": [*pictures]}, results / "wandb") as tracker:
        where = _log(tracker, tables, pictures)
    return f"logged {len(tables)} tables and {len(pictures)} figures: {where}"


def _log(tracker: Tracker, tables: dict[str, pd.DataFrame], pictures: dict[str, Path]) -> str:
    """Log everything and return where it can be seen."""
    for key, frame in tables.items():
        rows = frame.astype(object).where(frame.notna(), None)
        tracker.log_table(f"tables/{key}", [str(column) for column in frame.columns], rows.itertuples(index=False))
    for key, path in pictures.items():
        tracker.log_picture(f"figures/{key}", path)
    if tracker.run is None:
        return "W&B is off, nothing was sent"
    return tracker.run.url or f"offline, in {Path(tracker.run.dir).parent}; `wandb sync` uploads it"


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except ValueError as error:  # The file is empty or damaged.
        raise InputError(f"{path} is not a valid table ({error}); make it again with `prunetune tables`") from None
