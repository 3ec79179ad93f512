"""Scorers and samplers by name, as the library takes them: `prune(data, 0.1, scorer="herding_deepcore")`."""

from collections.abc import Iterator, Mapping
from typing import Any

from prunetune.config import catalogue
from prunetune.config.build import build, class_of


class Named(Mapping[str, Any]):
    """The choices of a config group, each built when it is asked for; nothing is imported for the names alone.

    What needs a file or a checkout of another program has no settings of its own and is left out. A setting that only
    a run can read, such as `end: auto` of topk_flexible, has the default of the class here.
    """

    def __init__(self, group: str) -> None:
        self._group = group

    def __getitem__(self, name: str) -> Any:
        if name not in list(self):
            raise KeyError(name)
        settings = catalogue.settings(self._group, name)
        in_runs = class_of(settings["_target_"]).in_runs
        return build({key: value for key, value in settings.items() if key not in in_runs or value != in_runs[key]})

    def __iter__(self) -> Iterator[str]:
        found = catalogue.entries(f"{self._group}s")
        return (name for name, entry in found.items() if "_target_" in entry.settings and "path" not in entry.settings)

    def __len__(self) -> int:
        return sum(1 for _ in self)


SCORERS, SAMPLERS = Named("scorer"), Named("sampler")
