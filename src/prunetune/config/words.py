"""Check and order the words of a command line before Hydra reads them."""

import functools
import re
from collections.abc import Iterable, Sequence
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from prunetune.base.errors import InputError
from prunetune.config import catalogue

# These are no names of choices: null, numbers and mappings, and paths that leave the folder of the group.
NO_NAME = re.compile(
    r"null|none|true|false|[+-]?[\d.]+(e[+-]?\d+)?|\{.*|[/~].*|.*\\.*|(.*/)?\.{1,2}(/.*)?", re.IGNORECASE
)
# Two values without brackets or quotes.
SUBPOOL = re.compile(r"(\+{0,2}dataset\.subpool)=([^][(){}'\",]*,[^][(){}'\",]*)")


def with_lists(words: Iterable[str]) -> list[str]:
    """Return the words with `dataset.subpool=0.8,3` as the list that it means. Hydra would run 0.8 and then 3."""
    matches = [(word, SUBPOOL.fullmatch(word)) for word in words]
    return [word if match is None else f"{match[1]}=[{match[2]}]" for word, match in matches]


def arranged(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with the overrides first and the options after them.

    Hydra accepts overrides in one place only: it refuses `experiment=demo -m ratio=0.1,0.5`.

    Raises:
        InputError: there is no such option, or an option lacks its value.
    """
    parser = get_args_parser()
    parser.error = _refuse
    parsed, unknown = parser.parse_known_intermixed_args(list(words))
    if unknown:  # The overrides after an unknown option are among these words.
        _refuse(f"unrecognized arguments: {' '.join(word for word in unknown if word.startswith('-')) or unknown}")
    options = list(words)
    for word in parsed.overrides:
        options.remove(word)
    return [*parsed.overrides, *options]


def _refuse(message: str) -> NoReturn:
    raise InputError(f"{message}; --help lists the options")


def check_choices(words: Iterable[str]) -> None:
    """Refuse an override that chooses from a group by anything but a name, such as scorer=null or scorer=../x.

    Raises:
        InputError: one of the words does.
    """
    for word in words:
        key, equals, value = word.partition("=")
        group = key.lstrip("+~").partition("@")[0]
        if equals and group in _groups() and any(map(NO_NAME.fullmatch, value.split(","))):
            raise InputError(
                f"{word} chooses from the group {group}, which takes the name of a choice, got {value}; "
                f"pass {key}=<name> (--help lists the names), or leave it out"
            )


def check_folders(words: Iterable[str]) -> None:
    """Refuse an empty folder of Hydra, which would be the current folder.

    Raises:
        InputError: one of the words gives such a folder.
    """
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in ("hydra.run.dir", "hydra.sweep.dir") and not value.strip("'\" "):
            raise InputError(f"{key} is empty, which would be the current folder; pass {key}=<folder>, or leave it out")


@functools.cache
def _groups() -> frozenset[str]:
    """Return the names of the groups of this package; those of Hydra, such as hydra/launcher, are not among them."""
    folders = {path.name for path in catalogue.configs_folder().iterdir() if path.is_dir()}
    return frozenset(folders - {"hydra"} | catalogue.PACKAGES.keys() | catalogue.METHOD_TABLES.keys())
