"""Explain in one line why a configuration could not be composed."""

import re
import traceback
from pathlib import Path

from hydra.errors import MissingConfigException, OverrideParseException
from yaml import YAMLError

from prunetune.config.catalogue import unknown
from prunetune.config.removed import explanation

ROOTS = ("config", "grid", "instruct")
# Hydra raises these errors, beside its own, for a YAML file that cannot be read or holds no mapping.
UNREADABLE = (ValueError, OSError, YAMLError)


def is_from_composing(error: BaseException) -> bool:
    """Return whether Hydra raised an error while it read and composed the YAML files, and not a run later on."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(Path(frame.f_code.co_filename).name == "config_loader_impl.py" for frame, _ in frames)


def explain(error: Exception) -> str:
    """Return the error as one line. The advice for users of Hydra is replaced by advice for users of this package.

    Args:
        error: a HydraException, an OmegaConfBaseException, an InputError, or one of `UNREADABLE`.
    """
    if isinstance(error, MissingConfigException):
        return _missing(error)
    cause = "" if isinstance(error.__cause__, OSError) else error.__cause__  # The text of the error names it already.
    text = " ".join(f"{error} {cause or ''}".split())
    removed = explanation(text)
    if removed:
        return removed
    taken = re.match(r"'([^']+)' is validated against ConfigStore schema", text)
    if taken:
        return f"the package has a {taken[1]} of its own, and a file cannot have the same name; rename your file"
    if isinstance(error, OverrideParseException):
        return f"{text}; a value with special characters needs quotes of its own: 'key=\"value\"'"
    return re.sub(r"To append to your config use \S+", "There is no such option; --help lists them all.", text)


def _missing(error: MissingConfigException) -> str:
    """Return a line with the unknown choice, the most similar one, and all known ones or where to find them."""
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    what, known = (group, error.options or []) if group else ("root configuration", ROOTS)
    # A preset or a variant may have named the missing choice. A root configuration (no slash) is not worth naming.
    asked_by = re.match(r"In '((?!hydra/)[^']+/[^']+)': ", str(error))
    place = f"in {asked_by[1]}: " if asked_by else ""
    return place + unknown(what, name, known)
