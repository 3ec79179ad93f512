"""The paper's published numbers, and which of our runs may be compared with them."""

from pathlib import Path

import pandas as pd

from prunetune.base.errors import InputError, suggestion
from prunetune.report.collect import TEXT_RUN

FOLDER = Path(__file__).with_name("published")  # Part of the package, so that an installed command finds it.
DATASETS = ("cxrb10", "deepweeds", "dtd", "fgvcaircraft", "sketch")
V1_DATASETS = ("cxrb10", "dtd", "sketch")
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BACKBONES = ("resnet18", "resnet50", "vit_small", "vit_base")
ABLATED = "resnet18"  # The backbone of the published ablations.
RECIPES = ("full", "full_released")  # The published recipe, and that of the released code.
V1_RECIPES = ("full_v1",)
SIZES = {"num_classes": "classes", "num_pool": "pool", "num_test": "test"}
TEXT_SIZES = {"num_read": "pool"}  # Samples are counted before duplicates and empty samples are dropped.
OURS = "dlc_flexrand"
V1_OURS = "lc_v1_easy_diverse"
# Maps our scorer and sampler to the published row that they may be compared with. The published Herding, Least
# Confidence, Entropy and Margin agree with the released code, which keeps the opposite end of the scores. Our variants
# without suffix keep the end that the original papers describe, so they have no published row.
ROWS = {
    ("random", "random"): "random",
    ("dlc", "flexrand"): OURS,
    ("herding_released", "topk"): "herding",
    ("least_confidence_released", "topk"): "least_confidence",
    ("entropy_released", "topk"): "entropy",
    ("margin_released", "topk"): "margin",
    ("k_center", "topk"): "k_center",
    ("k_center_released", "topk"): "k_center",
    ("contextual_diversity", "topk"): "contextual_diversity",
    ("contextual_diversity_released", "topk"): "contextual_diversity",
    ("forgetting", "topk"): "forgetting",
    ("forgetting_released", "topk"): "forgetting",
    ("grand", "topk"): "grand",
    ("grand_released", "topk"): "grand",
    ("el2n", "topk"): "el2n",
    ("el2n_released", "topk"): "el2n",
    ("lc_knn", "easy_diverse"): V1_OURS,
}
PUBLISHED_SCORERS = (  # Scorers of the main comparison, without the suffix of a variant or proxy.
    *("dlc", "herding", "k_center", "contextual_diversity", "forgetting", "least_confidence", "entropy", "margin"),
    *("grand", "el2n"),
)
SUFFIXES = ("_scratch", "_probe", "_released", "_deepcore")


def read(name: str, folder: Path = FOLDER) -> pd.DataFrame:
    """Read one file of published numbers.

    Raises:
        InputError: the folder has no such file.
    """
    path = folder / f"{name}.csv"
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.csv"))
        raise InputError(f"{path} is not there; pass --paper=<folder of published numbers>.{suggestion(name, known)}")
    return pd.read_csv(path)


def base_scorer(scorer: str) -> str:
    """Return a scorer's name without its variant and proxy, such as el2n for el2n_released_probe."""
    for suffix in SUFFIXES:
        scorer = scorer.removesuffix(suffix)
    return scorer


def refuse(results: pd.DataFrame, folder: Path = FOLDER, allow_dirty: bool = False) -> tuple[pd.DataFrame, list[str]]:
    """Leave out runs that no table may show.

    Returns:
        The remaining runs, and one line for each group that was left out: runs with the name of a published data set
        but another size, and runs of uncommitted code.
    """
    wrong, lines = pd.Series(False, index=results.index), []
    is_text = results["kind"] == TEXT_RUN
    for size in read("datasets", folder).to_dict("records"):
        for key, column in {**SIZES, **TEXT_SIZES}.items():
            named = (results["dataset"] == size["dataset"]) & (is_text == (key in TEXT_SIZES))
            other = named & (results[key].astype("float64") != size[column])
            if pd.notna(size[column]) and (other & ~wrong).any():
                found = ", ".join(str(value) for value in sorted(results.loc[other & ~wrong, key].dropna().unique()))
                lines.append(
                    f"refused {_counted(other & ~wrong)} of {size['dataset']}: {key} is {found or 'unknown'}, "
                    f"published {size[column]:g}; "
                    f"give a subset another {'corpus' if key in TEXT_SIZES else 'dataset'}.name"
                )
                wrong |= other
    dirty = results["commit"].fillna("").str.endswith("-dirty") & ~wrong & (not allow_dirty)
    if dirty.any():
        lines.append(f"refused {_counted(dirty)} of uncommitted code; run from a clean commit, or pass --allow-dirty")
    return results[~wrong & ~dirty].reset_index(drop=True), lines


def _counted(chosen: pd.Series) -> str:
    return f"{chosen.sum()} run{'s' if chosen.sum() > 1 else ''}"
