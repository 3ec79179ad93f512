"""Look up scorers and samplers by name for the library, as in `prune(data, 0.1, scorer="herding_deepcore")`."""

from collections.abc import Iterator, Mapping
from typing import Any

from prunetune.config import catalogue
from prunetune.config.build import build, class_of


class Named(Mapping[str, Any]):
    """A mapping from the names of a config group to objects, which are built when they are looked up.

    Listing the names imports no scorer or sampler. A choice that needs a file or a checkout of another program is left
    out, since it cannot be built from its name alone. A setting with a value that only a run can use, such as
    `end: auto` of topk_flexible, takes the default of the class here.
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


def own_sampler(scorer: Any) -> str:
    """Return the name of the sampler that `auto` means for a scorer, given by name or as an object.

    A name can be that of a variant whose YAML file has a sampler of its own, such as dlc_released. An object knows
    only the sampler of its class.
    """
    return catalogue.settings("scorer", scorer)["own_sampler"] if isinstance(scorer, str) else scorer.own_sampler
