"""How a user's text is scored and chosen: the model, the scorers, the sampler and the rest, looked up by name."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from prunetune.base import checks
from prunetune.base.errors import InputError, suggestion
from prunetune.config import catalogue
from prunetune.config.build import build
from prunetune.config.named import SAMPLERS, SCORERS, own_sampler
from prunetune.instruct import registration  # noqa: F401  adds the text scorers to the catalogue
from prunetune.instruct.corpus.corpora import TEMPLATES
from prunetune.instruct.model.language_model import LanguageModel, TinyLanguageModel
from prunetune.instruct.own_text.words import Words
from prunetune.instruct.parse import check_sampler
from prunetune.instruct.scorers.signals import RemoteBatches
from prunetune.own.choose import with_rounding
from prunetune.samplers import Sampler, TopK
from prunetune.scorers.base import Scorer

TINY = "tiny"
# These scorers of images cover the space of the scoring model.
COVERAGE = ("facility_location", "herding", "k_center", "k_medoids")
STRATA = ("none", "source", "length", "cluster")
PAIRS = ("chosen", "margin")
NEAR = {"minhash": 0.8, "embedding": 0.98}  # The default thresholds of similarity.
LANGUAGE_MODEL = LanguageModel | TinyLanguageModel


@dataclass(frozen=True)
class Near:
    """Near-duplicates: a method of NEAR, and the similarity in (0, 1] from which samples count as equal."""

    method: str
    threshold: float


@dataclass(frozen=True)
class TextPlan:
    """How text is scored and chosen.

    llm: the scoring model. scorers: by name; the first one chooses, unless there is a mix. mix: maps names of scorers
    to weights. sampler: chooses by the scores. coverage: a name of COVERAGE instead of the sampler, else None. strata:
    a word of STRATA. clusters: how many strata "cluster" makes. near: None leaves near-duplicates alone. pairs: a word
    of PAIRS. template, max_length: as in a corpus; max_length None is 1024 tokens or the model's context, whichever is
    smaller. max_tokens: tokens per pass, with padding. remote: the other processes that run the model, None for this
    one.
    """

    llm: LANGUAGE_MODEL
    scorers: Mapping[str, Scorer]
    sampler: Sampler
    mix: Mapping[str, float] = field(default_factory=dict)
    coverage: str | None = None
    seed: int = 0
    rounding: str = "largest_remainder"
    strata: str = "none"
    clusters: int = 10
    near: Near | None = None
    pairs: str = "chosen"
    template: str = "auto"
    max_length: int | None = None
    device: str = "auto"
    max_tokens: int = 16384
    remote: RemoteBatches | None = None

    def __post_init__(self) -> None:
        for name, known in (("strata", STRATA), ("pairs", PAIRS), ("template", TEMPLATES)):
            value = getattr(self, name)
            if value not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}.{suggestion(value, known)}")
        checks.whole_number("seed", self.seed, least=None)
        checks.whole_number("clusters", self.clusters)
        checks.whole_number("max_tokens", self.max_tokens, what="the size of a scoring pass")
        checks.whole_number("max_length", self.max_length, least=2, or_none=True, what="a number of tokens")
        check_sampler(self.sampler)

    @property
    def scorer(self) -> Scorer:
        """The scorer that chooses."""
        return next(iter(self.scorers.values()))

    @property
    def method(self) -> str:
        """What is run, in words."""
        if self.coverage is not None:
            return f"coverage by {self.coverage}"
        mixed = "+".join(f"{weight:g}*{name}" for name, weight in self.mix.items())
        sampler = getattr(self.sampler, "name", type(self.sampler).__name__)
        return f"{mixed or next(iter(self.scorers))} with {sampler}"

    @property
    def needs_states(self) -> bool:
        """Whether the pooled hidden states of the samples are read."""
        return self.coverage is not None or self.strata == "cluster" or getattr(self.near, "method", "") == "embedding"


def language_model(model: Any, dtype: str = "auto", revision: str | None = None) -> LANGUAGE_MODEL:
    """Return the model that is meant: a folder, an id of the hub, "tiny", or an object. An existing path wins.

    Raises:
        InputError: the value is none of these.
    """
    if isinstance(model, LANGUAGE_MODEL):
        return model
    if not isinstance(model, str | Path) or not str(model):
        raise InputError(f"model must be a folder, an id of the Hugging Face hub or {TINY}, got {model!r}")
    if str(model) == TINY and not Path(model).exists():
        return TinyLanguageModel(dtype="fp32" if dtype == "auto" else dtype)
    return LanguageModel(model=str(model), dtype=dtype, revision=revision)


def scorers_of(
    scorer: str | Scorer | Mapping[str, Scorer], mix: Mapping[str, float], options: Mapping[str, Any]
) -> dict[str, Scorer]:
    """Return the scorers by name: those that are named, separated by commas, and those of the mix.

    Args:
        scorer: names, a Scorer, or Scorers by name.
        mix: maps names to weights.
        options: settings of the scorers; a setting is given to each named scorer that has it.

    Raises:
        InputError: a name is not known, a setting belongs to none of the scorers, or a scorer needs a fine-tuning.
    """
    if isinstance(scorer, Scorer):
        found = {scorer.name: scorer}
    elif isinstance(scorer, Mapping):
        found = dict(scorer)
    elif isinstance(scorer, str):
        names = [name.strip() for name in scorer.split(",") if name.strip()]
        found = _built(list(dict.fromkeys([*names, *mix])), options)
    else:
        raise InputError(f"scorer must be a name or a Scorer object, got {scorer!r}")
    for name, one in found.items():
        if "trajectory" in one.reads:
            raise InputError(
                f"{name} reads the losses of a fine-tuning, and nothing is fine-tuned here; run prunetune instruct "
                f"text_scorer={name} until=prune"
            )
    if missing := [name for name in mix if name not in found]:
        raise InputError(f"mix names {missing[0]}, which is not scored; it is one of {', '.join(found)}")
    return found


def _built(names: list[str], options: Mapping[str, Any]) -> dict[str, Scorer]:
    known, used, found = catalogue.entries("text_scorers"), set(), {}
    for name in names:
        if name not in known:
            raise InputError(f"there is no scorer {name!r}; known: {', '.join(known)}.{suggestion(name, known)}")
        settings = {**known[name].settings}
        own = {key: value for key, value in options.items() if key in settings}
        used |= own.keys()
        found[name] = build({**settings, **own}, "scorer", Scorer, "prunetune.instruct")
    if unknown := [key for key in options if key not in used]:
        raise InputError(f"option {unknown[0]}: none of the scorers {', '.join(names)} has this setting")
    return found


def sampler_of(sampler: str | Sampler, scorer: str | Any, mix: Mapping[str, float]) -> tuple[Sampler, str | None]:
    """Return the sampler, and the name of the coverage that replaces it, or None.

    Args:
        sampler: a name, also one of COVERAGE, or a Sampler; "auto" is the own sampler of the first scorer, and topk for
            a mix.
        scorer: the name of the first scorer, or the scorer.
        mix: is not empty if scores are mixed.
    """
    if isinstance(sampler, Sampler):
        return sampler, None
    if sampler == "auto":
        sampler = "topk" if mix else _own_sampler(scorer)
    if sampler in COVERAGE:
        return with_rounding(TopK(), "largest_remainder"), sampler
    names = [*SAMPLERS, *COVERAGE]
    if sampler not in names:
        raise InputError(f"there is no sampler {sampler!r}; known: {', '.join(names)}.{suggestion(sampler, names)}")
    return with_rounding(SAMPLERS[sampler], "largest_remainder"), None


def _own_sampler(scorer: str | Scorer) -> str:
    if isinstance(scorer, Scorer):
        return own_sampler(scorer)
    return catalogue.entries("text_scorers")[scorer].settings["own_sampler"]


def coverage_scorer(name: str, depth: float) -> Scorer:
    """Return the scorer of a coverage that orders at least this fraction of each stratum."""
    scorer = SCORERS[name]
    return replace(scorer, depth=min(1.0, depth)) if hasattr(scorer, "depth") else scorer


def mix_of(text: str | Mapping[str, float] | None, words: Words) -> dict[str, float]:
    """Return the weights of a mix such as "dlc:0.5,ifd:0.5".

    Raises:
        InputError: a part is not NAME:WEIGHT, or a weight is not positive.
    """
    if text is None:
        return {}
    parts = text.items() if isinstance(text, Mapping) else [part.rpartition(":")[::2] for part in text.split(",")]
    mix: dict[str, float] = {}
    for name, weight in parts:
        try:
            mix[str(name).strip()] = float(weight)
        except ValueError:
            mix[""] = 0.0
    if "" in mix or not all(0 < weight < float("inf") for weight in mix.values()):
        example = words("mix", "dlc:0.5,ifd:0.5")
        raise InputError(f"a mix names scorers and positive weights, as in {example}, got {text!r}")
    return mix


def near_of(text: str | None, words: Words) -> Near | None:
    """Return the method and threshold of "minhash", "embedding:0.99" and so on.

    Raises:
        InputError: the method is not known, or the threshold is outside (0, 1].
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\w+)(?::([0-9.]+))?", text) if isinstance(text, str) else None
    if found is None or found.group(1) not in NEAR:
        raise InputError(
            f"{words('near_duplicates')} is {' or '.join(NEAR)}, with a threshold if wanted, such as minhash:0.8, got "
            f"{text!r}"
        )
    method = found.group(1)
    threshold = float(found.group(2)) if found.group(2) else NEAR[method]
    if not 0 < threshold <= 1:
        raise InputError(f"{words('near_duplicates')} takes a threshold above 0 and at most 1, got {threshold:g}")
    return Near(method, threshold)


def options_of(texts: Sequence[str] | Mapping[str, Any] | None, option: str) -> dict[str, Any]:
    """Return the settings of scorers from texts such as "levels=2"; the values are read as YAML.

    Raises:
        InputError: a text has no equals sign, or its value cannot be read.
    """
    if isinstance(texts, Mapping):
        return dict(texts)
    found = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        try:
            found[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals:
            raise InputError(f"{option} takes NAME=VALUE, such as levels=2, got {text!r}")
    return found


def pairs_of(texts: str | Mapping[str, Any] | None, option: str) -> dict[str, Any]:
    """Return what "a=b,c=d" maps, such as the columns.

    Raises:
        InputError: a part has no equals sign.
    """
    if texts is None:
        return {}
    if isinstance(texts, Mapping):
        return dict(texts)
    parts = [part for part in texts.split(",") if part.strip()]
    if wrong := [part for part in parts if "=" not in part]:
        raise InputError(f"{option} takes NAME=VALUE,NAME=VALUE, got {wrong[0]!r} in {texts!r}")
    return {name.strip(): value.strip() for name, value in (part.split("=", 1) for part in parts)}
