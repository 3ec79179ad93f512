"""Parse the composed configuration of a text run into its frozen description. No later step sees a configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from prunetune.base import checks
from prunetune.base.errors import InputError, suggestion
from prunetune.config.build import build, called, check_keys
from prunetune.config.identity import sampler_settings
from prunetune.config.names import Names
from prunetune.instruct.corpus.corpora import Corpus
from prunetune.instruct.corpus.strata import STRATA
from prunetune.instruct.identity import text_recorded
from prunetune.instruct.model.language_model import LanguageModel, TinyLanguageModel
from prunetune.instruct.names import resolve_text_names
from prunetune.instruct.schema import InstructConfig
from prunetune.instruct.tuning.mmlu import EvaluationSettings
from prunetune.instruct.tuning.sft_settings import SftSettings
from prunetune.runs.scores import check_fit
from prunetune.runs.tracking import MODES
from prunetune.samplers import Sampler
from prunetune.samplers.amount import Amount, check_ratio
from prunetune.samplers.candidates import Search, gamma_candidates
from prunetune.scorers.base import Scorer

STEPS = ("score", "prune", "finetune", "evaluate")
LLMS = (LanguageModel, TinyLanguageModel)


@dataclass(frozen=True)
class TextRun:
    """One text run as the user asked for it.

    until: the last step, one of STEPS. scoring_llm: None if the fine-tuned model also scores. candidates: the samplers
    by label. There are several if gamma is `auto`, and of equally good ones the first wins. trajectory: number of
    points of a fine-tuning at which text_scorer=s2l records losses. held_out: fraction of the corpus that is neither
    scored nor trained on. max_tokens: tokens per scoring pass, with padding. results_dir: the folder of the store and
    the runs. record: the configuration that identifies the run, as result.json keeps it.
    """

    names: Names
    ratio: float
    seed: int
    tag: str
    until: str
    corpus: Corpus
    llm: LanguageModel | TinyLanguageModel
    scoring_llm: LanguageModel | TinyLanguageModel | None
    scorer: Scorer
    candidates: Mapping[str, Sampler]
    sft: SftSettings
    evaluation: EvaluationSettings
    trajectory: int
    strata: str
    held_out: float
    max_tokens: int
    device: str
    wandb: str
    results_dir: Path
    record: dict[str, Any]

    def __post_init__(self) -> None:
        check_ratio(self.ratio)
        for key, known in (("until", STEPS), ("strata", STRATA), ("wandb", MODES)):
            value = getattr(self, key)
            if value not in known:
                raise InputError(f"{key} must be one of {', '.join(known)}, got {value!r}.{suggestion(value, known)}")
        checks.whole_number("seed", self.seed, least=None)
        checks.number("held_out", self.held_out, "[0, 1)", what="a fraction of the corpus")
        checks.whole_number("max_tokens", self.max_tokens, what="the size of a scoring pass")
        checks.whole_number("trajectory.checkpoints", self.trajectory)
        for sampler in self.candidates.values():
            check_sampler(sampler)
            check_fit(self.scorer, sampler, self.ratio)
        if "trajectory" in self.scorer.reads and not self.sft.epochs:
            raise InputError(
                f"text_scorer=s2l records a fine-tuning, but sft={self.sft.name} trains nothing; pass another sft"
            )
        if self.is_searched and not self.sft.epochs:
            raise InputError(
                f"sampler.gamma=auto compares fine-tuned models, but sft={self.sft.name} trains none; "
                "pass sampler.gamma=<number>"
            )

    @property
    def title(self) -> str:
        """The run's name in the log and in the viewer of runs."""
        return self.names.title(Amount(self.ratio), self.seed)

    @property
    def is_searched(self) -> bool:
        """Whether the run chooses between several samplers."""
        return len(self.candidates) > 1


def parse_text_run(cfg: DictConfig) -> TextRun:
    """Return the run that a composed configuration describes. Data and weights are not read yet.

    Raises:
        InputError: the configuration has a key that no run reads, or a value that is not allowed.
    """
    check_keys(cfg, InstructConfig)
    if not cfg.results_dir:
        raise InputError("results_dir is the folder of runs and store and must not be empty; pass results_dir=<folder>")
    return TextRun(
        names=resolve_text_names(cfg),
        ratio=cfg.ratio,
        seed=cfg.seed,
        tag=cfg.tag,
        until=cfg.until,
        corpus=build(cfg.corpus, "corpus", Corpus),
        llm=build(cfg.llm, "llm", LLMS),
        scoring_llm=_scoring_llm(cfg.scoring_llm),
        scorer=_scorer(cfg.text_scorer),
        candidates=_candidates(cfg),
        sft=SftSettings(**_plain(cfg.sft)),
        evaluation=EvaluationSettings(**_plain(cfg.evaluation)),
        trajectory=cfg.trajectory.checkpoints,
        strata=cfg.strata,
        held_out=cfg.held_out,
        max_tokens=cfg.max_tokens,
        device=cfg.device,
        wandb=cfg.wandb,
        results_dir=Path(cfg.results_dir),
        record=text_recorded(cfg),
    )


def check_sampler(sampler: Sampler) -> None:
    """Refuse a sampler that text runs do not support.

    Raises:
        InputError: the sampler reads features or a proxy, or chooses images anew in every epoch.
    """
    is_dynamic = type(sampler).sample_order is not Sampler.sample_order
    if sampler.needs != "nothing" or sampler.budgets == "drop" or is_dynamic:
        raise InputError(
            f"{type(sampler).__name__} reads image features or a proxy, or draws anew in every epoch, which a text run "
            "does not support; pass sampler=flexrand, topk, topk_easiest, random, ccs, window or double_end"
        )


def _scorer(group: DictConfig) -> Scorer:
    """Build the scorer. Errors of a scorer for images and text say scorer.<key>; here the key is text_scorer.<key>."""
    with called("scorer", "text_scorer"):
        return build(group, "text_scorer", Scorer, "prunetune.instruct")


def _scoring_llm(group: DictConfig | None) -> LanguageModel | TinyLanguageModel | None:
    if group is None:
        return None
    with called("llm", "scoring_llm"):
        return build(group, "scoring_llm", LLMS)


def _candidates(cfg: DictConfig) -> dict[str, Sampler]:
    """Return the sampler, or one sampler per valid gamma if gamma is `auto`. Gammas nearest 0.5 come first."""
    settings = sampler_settings(cfg.sampler, cfg.text_scorer.own_sampler)
    if settings.get("end") == "auto":
        raise InputError("text runs do not support sampler.end=auto; pass sampler=topk or sampler=topk_easiest")
    if settings.get("gamma") != "auto":
        return {"": _sampler(settings)}
    search = Search(grid=tuple(cfg.gamma_search.grid))
    return gamma_candidates(lambda gamma: _sampler({**settings, "gamma": gamma}), search, cfg.ratio)


def _sampler(settings: Mapping[str, Any]) -> Sampler:
    return build(settings, "sampler", Sampler, "prunetune.samplers")


def _plain(group: DictConfig) -> dict[str, Any]:
    values = OmegaConf.to_container(group)
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
