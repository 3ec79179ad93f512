"""Send runs to Weights & Biases (W&B) for viewing. Its failures give a warning and never stop a run.

The files in the run's folder are the record. Nothing is read back from W&B.
"""

import functools
import logging
import netrc
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from prunetune.base.errors import InputError, suggestion

log = logging.getLogger(__name__)

MODES = ("auto", "online", "offline", "disabled")
# The variable WANDB_MODE may also have these values. They are mapped to the mode that is used here.
OTHER_NAMES = {"dryrun": "offline", "run": "online", "shared": "online"}
SUBSET_COLUMNS = ("position", "sample_id", "label", "weight")
PLACE = re.compile(r"[/~]|\\\\|[A-Za-z]:[\\/]")  # An absolute path begins like this, on Windows too.
MOST_ROWS = 10_000  # Longer tables are cut here, since W&B shows no more rows. subset.csv has all of them.
SETTINGS = {  # W&B must print nothing and send nothing about the machine, the code or the environment.
    "silent": True,
    "console": "off",
    "host": "",
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "init_timeout": 20.0,  # Seconds to wait for the server. After that the run is kept offline.
    "finish_timeout": 60.0,  # Seconds to wait for the upload. The rest stays on disk, and `wandb sync` can send it.
}


def _guarded(action: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a Tracker method: it does nothing without a run, and a failure of the client becomes a warning."""

    def decorate(method: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(method)
        def call(self: "Tracker", *args: Any, **options: Any) -> None:
            if self.run is None:
                return
            try:
                with _only_in(self.folder):
                    method(self, *args, **options)
            except Exception as error:  # The client may raise anything, and no failure of it may stop the run.
                self._report(action, error)

        return call

    return decorate


class Tracker:
    """One W&B run, or none. The methods' `prefix` separates the cells of a grid, which share one W&B run.

    folder: the only folder that the client writes into; None for the client's own choice.
    """

    def __init__(self, run: Any = None, folder: Path | None = None) -> None:
        self.run, self.folder = run, folder
        self._has_warned = False

    @_guarded("log the curves")
    def log_curves(self, history: Iterable[Mapping[str, Any]], prefix: str = "") -> None:
        """Log one row per epoch (epoch, learning_rate, train_loss, test_accuracy), with the epoch as the x-axis."""
        step, defined = _key(prefix, "epoch"), set()
        self.run.define_metric(step, hidden=True)
        for row in history:
            for key in row.keys() - {"epoch"} - defined:
                self.run.define_metric(_key(prefix, key), step_metric=step)
            defined.update(row)
            self.run.log({_key(prefix, key): value for key, value in row.items() if value is not None})

    @_guarded("log the result")
    def log_result(self, result: Mapping[str, Any], prefix: str = "") -> None:
        """Log the texts and numbers of a result.json as the run's summary and as the table "result"."""
        self.run.summary.update({_key(prefix, key): value for key, value in _scalars(result).items()})
        self.log_results([result], prefix)

    @_guarded("log the table of results")
    def log_results(self, results: Sequence[Mapping[str, Any]], prefix: str = "") -> None:
        """Log several results as one table "result" with one row each."""
        rows = [_scalars(result) for result in results]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        self._log_table(_key(prefix, "result"), columns, ([row.get(key) for key in columns] for row in rows))

    @_guarded("log the subset")
    def log_subset(self, rows: Iterable[Sequence[Any]], prefix: str = "") -> None:
        """Log rows of a subset.csv (position, sample_id, label, weight), at most the first 10,000."""
        self._log_table(_key(prefix, "subset"), SUBSET_COLUMNS, rows)

    @_guarded("log a table")
    def log_table(self, key: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Log rows as the table `key`, at most the first 10,000. A missing value is None."""
        self._log_table(key, columns, rows)

    @_guarded("log a picture")
    def log_picture(self, key: str, path: Path) -> None:
        """Log an image file under `key`."""
        import wandb

        self.run.log({key: wandb.Image(str(path))})

    @_guarded("log the scores")
    def log_scores(self, scores: Any, prefix: str = "") -> None:
        """Log the histogram of the scores, which are a tensor or an array [N]."""
        import wandb

        histogram = np.histogram(np.asarray(scores, dtype=np.float64), bins=64)
        self.run.log({_key(prefix, "scores"): wandb.Histogram(np_histogram=histogram)})

    @_guarded("finish the run")
    def finish(self, exit_code: int = 0) -> None:
        """Close the run within `finish_timeout` seconds. Later calls do nothing."""
        run, self.run = self.run, None
        run.finish(exit_code=exit_code)

    def _log_table(self, key: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        import wandb

        data = [list(row) for row in islice(rows, MOST_ROWS)]
        self.run.log({key: wandb.Table(columns=list(columns), data=data, allow_mixed_types=True)})

    def _report(self, action: str, error: Exception) -> None:
        level = logging.DEBUG if self._has_warned else logging.WARNING
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        log.log(level, "W&B could not %s (%s); no result depends on it", action, reason)
        self._has_warned = True


@contextmanager
def open_run(mode: str, project: str, name: str, config: Mapping[str, Any], folder: Path) -> Iterator[Tracker]:
    """Open a W&B run for the length of a block.

    Args:
        mode: auto (online if there is an API key, else offline), online, offline or disabled. The environment variable
            WANDB_MODE overrides it.
        project: the W&B project.
        name: the run's name on its page.
        config: plain values that the page shows beside the curves. Of an absolute path only the last part is sent.
        folder: the folder for the client's files, usually `<results_dir>/wandb`.

    Raises:
        InputError: the mode is unknown. Failures of the client are not raised.
    """
    if mode not in MODES:
        raise InputError(f"wandb must be one of {', '.join(MODES)}, got {mode!r}.{suggestion(mode, MODES)}")
    mode = os.environ.get("WANDB_MODE", "").lower() or mode
    tracker = Tracker(folder=folder)
    if mode != "disabled":
        _start(tracker, mode, project, name, without_places(config))
    try:
        yield tracker
    except BaseException:
        tracker.finish(exit_code=1)
        raise
    tracker.finish()


def _start(tracker: Tracker, mode: str, project: str, name: str, config: Mapping[str, Any]) -> None:
    """Give the tracker a W&B run. If the server cannot be reached or refuses the key, the run is offline."""
    try:
        tracker.folder.mkdir(parents=True, exist_ok=True)
        with _only_in(tracker.folder):
            mode, options = _options(tracker.folder, mode, {"project": project, "name": name, "config": dict(config)})
    except Exception as error:
        tracker._report("start", error)
        return
    for attempt in ["online", "offline"] if mode == "online" else [mode]:
        try:
            import wandb

            with _only_in(tracker.folder):
                tracker.run = wandb.init(mode=attempt, **options)
            return
        except Exception as error:
            tracker._report(f"start {attempt}", error)


def _options(folder: Path, mode: str, described: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the mode that the run begins with, and the arguments of `wandb.init`."""
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True))  # The login prints before the run's settings take effect.
    known = {key: value for key, value in SETTINGS.items() if key in wandb.Settings.model_fields}
    place = str(folder.parent if folder.name == "wandb" else folder)  # The client appends "wandb" itself.
    mode = resolve_mode(mode, has_key(wandb.setup().settings.base_url))
    return mode, {**described, "reinit": "create_new", "dir": place, "settings": wandb.Settings(**known)}


def resolve_mode(mode: str, with_key: bool) -> str:
    """Return "online" or "offline", or an unknown mode unchanged. Without a key it is never "online".

    An online run without a key would ask the user for one, and batch jobs cannot answer.
    """
    mode = OTHER_NAMES.get(mode, mode)
    if mode == "online" and not with_key:
        log.warning("W&B has no key (WANDB_API_KEY, or run `wandb login`); this run is kept offline")
    if mode in ("auto", "online"):
        return "online" if with_key else "offline"
    return mode


def has_key(server: str) -> bool:
    """Return whether the environment or netrc holds a key for this W&B server. The network is not used."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    path = os.environ.get("NETRC") or next((p for p in ("~/.netrc", "~/_netrc") if Path(p).expanduser().exists()), None)
    if path is None:
        return False
    try:
        keys = netrc.netrc(Path(path).expanduser())
    except (OSError, netrc.NetrcParseError):
        return False
    return any(keys.authenticators(host) for host in (urlsplit(server).netloc, "api.wandb.ai"))


@contextmanager
def _only_in(folder: Path | None) -> Iterator[None]:
    """Let the client write into this folder only, and send no reports about itself. None changes nothing.

    The client keeps copies of tables, its own log and temporary files in the home folder and in /tmp, and reports its
    errors and its usage to its maker, for which it looks up a host even if the run is offline. A variable that the user
    has set is kept. The changes last for one call of the client: other libraries create sockets in the temporary
    folder, and the path of a socket must be short.
    """
    if folder is None:
        yield
        return
    folder = folder.absolute()
    own = {"WANDB_DATA_DIR": folder, "WANDB_CACHE_DIR": folder / "cache", "WANDB_ERROR_REPORTING": "false"}
    own = {key: str(value) for key, value in own.items() if key not in os.environ}
    temporary, before = folder / "tmp", tempfile.tempdir
    temporary.mkdir(parents=True, exist_ok=True)
    os.environ.update(own)
    tempfile.tempdir = str(temporary)
    try:
        yield
    finally:
        tempfile.tempdir = before
        for key in own:
            os.environ.pop(key, None)


def without_places(value: Any) -> Any:
    """Return plain values with the last part in place of every absolute path, which would name users and machines."""
    if isinstance(value, Mapping):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(item) for item in value]
    if not isinstance(value, str | os.PathLike):
        return value
    if PLACE.match(str(value)):
        return _last_part(str(value))
    # An entry of a grid's methods is a name with overrides, which may hold paths too.
    return re.sub(r"(?<==)[/~]\S*", lambda word: _last_part(word[0]), str(value))


def _last_part(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def _scalars(result: Mapping[str, Any]) -> dict[str, Any]:
    scalars = {key: value for key, value in result.items() if value is None or isinstance(value, str | int | float)}
    return without_places(scalars)


def _key(prefix: str, key: str) -> str:
    return f"{prefix}/{key}" if prefix else key
