"""The table of methods. A method is a scorer with its sampler and their settings.

`method=<name>` of an image run chooses a row of this table. A YAML file in the group `method`, in the configs folder or
in a folder given by `--config-dir`, adds another method. Its name must differ from those of all rows. The methods of
text runs are in prunetune.instruct.methods.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

GAMMA = {"sampler.gamma": "auto"}  # Gamma is chosen on held-out pool images.
BETA = {"sampler.beta": "auto"}  # The cut-off beta is chosen on held-out pool images.
PRIOR = {"sampler.gamma": 0.25, "tag": "g0.25"}
# The released code of D2 uses these values at ratio 0.1 on CIFAR-10 and ImageNet: it removes the hardest 40 % first and
# changes the graph weights.
CUT = {"sampler.beta": 0.4, "sampler.gamma_r": 0.1, "tag": "cut"}
DROP = {"sampler.budgets": "drop", "tag": "drop"}
EQUAL = {"sampler.budgets": "equal", "tag": "equal"}
SWAP = {"scorer.fraction": "${ratio}", "tag": "swap"}
TUNED = {"scorer.features": "finetuned", "scorer.uses_proxy": True, "tag": "finetuned"}


@dataclass(frozen=True)
class Method:
    """A scorer and a sampler by name, and the settings in which they differ from their defaults.

    about: one sentence that describes it. settings: dotted keys of a run's configuration with their values, such as
    {"sampler.gamma": 0.25}.
    """

    name: str
    about: str
    scorer: str
    sampler: str
    settings: dict[str, Any] = field(default_factory=dict)


def row(
    name: str, about: str, scorer: str = "", sampler: str = "topk", settings: dict[str, Any] | None = None
) -> Method:
    """Return a method. The scorer is by default the one with the same name as the method."""
    return Method(name, about, scorer or name, sampler, settings or {})


_ROWS = (
    row("activeft", "ActiveFT (2303.14382): images nearest to centres that match the pool.", "none", "activeft"),
    row("aum", "AUM (2001.10528): images whose label has a low margin during training."),
    row("bws", "BWS (2406.03057): the window of EL2N on which a ridge regression is best.", "el2n", "bws"),
    row("cal", "CAL (2109.03764): images whose nearest neighbours have other predictions."),
    row("cal_deepcore", "CAL, as DeepCore@74ec709 does it."),
    row("ccs", "CCS (2210.15809): draws from strata of AUM, without the hardest images.", "aum", "ccs", BETA),
    row("ccs_probability", "CCS by the AUM of probabilities, which its code takes.", "aum_probability", "ccs", BETA),
    row("cle", "The easiest images by learning complexity by optimisation.", "lc_optimisation", "topk_easiest"),
    row("clh", "The hardest images by learning complexity by optimisation (2402.05356).", "lc_optimisation"),
    row("contextual_diversity", "Contextual diversity (2008.05723): farthest-first on the proxy's probabilities."),
    row("contextual_diversity_deepcore", "Contextual diversity, as DeepCore@74ec709 does it."),
    row("contextual_diversity_released", "Contextual diversity, as the released code does it."),
    row("craig", "CRAIG (1906.01827): facility location on last-layer gradients; weighted training."),
    row("craig_deepcore", "CRAIG, as DeepCore@74ec709 does it."),
    row("d2", "D2 pruning (2310.07931): forgetting scores passed along a kNN graph.", "forgetting", "d2"),
    row("d2_cut", "D2 pruning as its code runs it at ratio 0.1: without the hardest 40 %.", "forgetting", "d2", CUT),
    row("d2_directed", "D2 pruning on a directed graph, which is not the paper's.", "forgetting", "d2_directed"),
    row("deepfool", "DeepFool (1802.09841): images closest to the decision boundary."),
    row("deepfool_deepcore", "DeepFool, as DeepCore@74ec709 does it."),
    row("dlc", "The paper's method: DLC with FlexRand at a gamma chosen by validation.", "", "flexrand", GAMMA),
    row("dlc_50", "DLC over 50 networks, the released path, with FlexRand.", "", "flexrand", GAMMA),
    row("dlc_finetuned", "DLC of the fully fine-tuned network with its own head (ablation).", "", "flexrand", GAMMA),
    row("dlc_g0.25", "DLC with FlexRand at gamma 0.25, taken from the published sweep.", "dlc", "flexrand", PRIOR),
    row("dlc_linear_50", "DLC over 50 networks, the published path, with FlexRand.", "", "flexrand", GAMMA),
    row("dlc_random", "DLC with random masks, with FlexRand.", "", "flexrand", GAMMA),
    row("dlc_released", "DLC and FlexRand as in the released code, at gamma 0.25.", "", "flexrand_released"),
    row("dlc_topk", "DLC with topk instead of FlexRand: the paper's sampler ablation.", "dlc"),
    row("dlc_topk_easiest", "DLC with topk_easiest: the paper's sampler ablation.", "dlc", "topk_easiest"),
    row("dlc_topk_flexible", "DLC with topk_flexible: the paper's sampler ablation.", "dlc", "topk_flexible"),
    row("dlc_unmasked", "DLC of the unmasked network alone, with FlexRand.", "", "flexrand", GAMMA),
    row("double_end", "Double-end pruning (2409.04273): hard images, without the hardest.", "el2n", "double_end", BETA),
    row("drop", "DRoP (2404.05579): random with class budgets from held-out recall.", "random", "random", DROP),
    row("dual", "The score of DUAL (2502.06905) alone: images that are uncertain and hard early; see dual_beta."),
    row("dual_beta", "DUAL with its Beta sampling (2502.06905), as scorer=dual has it.", "dual", "beta"),
    row("dyn_unc", "Dyn-Unc (2306.05175): images whose label's probability varies most in short windows."),
    row("el2n", "EL2N (2107.07075): images with the largest error vector at epoch 5."),
    row("el2n_deepcore", "EL2N, as DeepCore@74ec709 does it."),
    row("el2n_released", "EL2N, as the released code does it."),
    row("entropy", "Entropy: images whose class probabilities are spread most."),
    row("entropy_deepcore", "Entropy, as DeepCore@74ec709 does it."),
    row("entropy_released", "Entropy, as the released code does it."),
    row("facility_location", "Facility location on a kNN graph of pretrained features."),
    row("forgetting", "Forgetting (1812.05159): images that go from right to wrong most often."),
    row("forgetting_deepcore", "Forgetting, as DeepCore@74ec709 does it."),
    row("forgetting_released", "Forgetting, as the released code does it."),
    row("glister", "GLISTER (2012.10630): picks whose gradients lower the held-out loss most."),
    row("glister_deepcore", "GLISTER, as DeepCore@74ec709 does it."),
    row("gradmatch", "GradMatch (2103.00123): matching pursuit of the mean gradient; weighted training."),
    row("gradmatch_deepcore", "GradMatch, as DeepCore@74ec709 does it."),
    row("grand", "GraNd (2107.07075): images with the largest gradient of all weights at epoch 5."),
    row("grand_deepcore", "GraNd, as DeepCore@74ec709 does it."),
    row("grand_last", "GraNd of the last layer alone, in closed form."),
    row("grand_released", "GraNd, as the released code does it."),
    row("herding", "Herding (Welling 2009): picks whose running mean stays closest to the class mean."),
    row("herding_deepcore", "Herding, as DeepCore@74ec709 does it."),
    row("herding_finetuned", "Herding on the proxy's features (2402.05356v1, Fig. 1).", "herding", "topk", TUNED),
    row("herding_released", "Herding, as the released code does it."),
    row("infobatch", "Dynamic baseline: each pass leaves out half of the images of small loss.", "none", "infobatch"),
    row("k_center", "k-center greedy (1708.00489): each pick is the image farthest from those picked."),
    row("k_center_deepcore", "k-center greedy, as DeepCore@74ec709 does it."),
    row("k_center_finetuned", "k-center greedy on the proxy's features.", "k_center", "topk", TUNED),
    row("k_center_released", "k-center greedy, as the released code does it."),
    row("k_medoids", "k-medoids (PAM, 1990): picks that most lower the sum of distances to the nearest pick."),
    row("k_medoids_swap", "k-medoids with the swaps of PAM, for the ratio of the run.", "k_medoids", "topk", SWAP),
    row("lc_knn", "Learning complexity of v1 (2402.05356v1): kNN over layers, easiest first.", "", "easy_diverse"),
    row("lc_optimisation", "The mean loss over 50 epochs of a fine-tuning, with FlexRand.", "", "flexrand", GAMMA),
    row("lc_optimisation_topk_flexible", "The paper's sampler ablation.", "lc_optimisation", "topk_flexible"),
    row("least_confidence", "Least confidence: images whose highest class probability is lowest."),
    row("least_confidence_deepcore", "Least confidence, as DeepCore@74ec709 does it."),
    row("least_confidence_released", "Least confidence, as the released code does it."),
    row("margin", "Margin: images whose two highest class probabilities are closest."),
    row("margin_deepcore", "Margin, as DeepCore@74ec709 does it."),
    row("margin_released", "Margin, as the released code does it."),
    row("maxherding", "MaxHerding (2407.12212): facility location with a Gaussian kernel on features."),
    row("moderate", "Moderate (Xia et al. 2023): images at a middle distance to the class median.", "", "window"),
    row("nucs", "NUCS after its abstract (2504.13234): harder classes keep more; windows of EL2N.", "el2n", "nucs"),
    row("probcover", "ProbCover (2205.11320): balls that cover most of each class.", "none", "probcover"),
    row("random", "The baseline: a uniform draw from each class.", "random", "random"),
    row("random_equal", "Random with the same number for every class.", "random", "random", EQUAL),
    row("rs2", "Dynamic baseline: in every epoch another random part of the pool.", "none", "rs2"),
    row("ssp", "SSP (2206.14486): images farthest from the nearest of C k-means centres."),
    row("ssp_supervised", "Supervised prototypes (2206.14486): images farthest from their class mean."),
    row("ssp_supervised_topk_easiest", "Images nearest to their class mean.", "ssp_supervised", "topk_easiest"),
    row("ssp_topk_easiest", "Images nearest to a k-means centre, for small pools (2206.14486).", "ssp", "topk_easiest"),
    row("submodular_fl", "Facility location on last-layer gradients."),
    row("submodular_fl_deepcore", "Facility location on last-layer gradients, as DeepCore@74ec709 does it."),
    row("submodular_gc", "Graph cut on last-layer gradients."),
    row("submodular_gc_deepcore", "Graph cut on last-layer gradients, as DeepCore@74ec709 does it."),
    row("submodular_logdet", "Log-determinant on last-layer gradients."),
    row("submodular_logdet_deepcore", "Log-determinant on last-layer gradients, as DeepCore@74ec709 does it."),
    row("tdds", "TDDS (2311.13613): images whose prediction moves most unevenly within windows of epochs."),
    row("tdds_released", "TDDS, as its released code weighs the windows: hardly more than the last one counts."),
    row("typiclust", "TypiClust (2202.02794): the most typical image of each cluster.", "none", "typiclust"),
    row("typiclust_released", "TypiClust, as its code runs it.", "none", "typiclust_released"),
    row("zcore", "ZCore (2411.15349): images that cover random low-dimensional projections, label-free."),
)

METHODS = {method.name: method for method in _ROWS}


def register(
    store: ConfigStore, table: Mapping[str, Method] = METHODS, group: str = "method", scorer_group: str = "scorer"
) -> None:
    """Register every method of a table with Hydra, by default the methods of image runs."""
    for method in table.values():
        store.store(group=group, name=method.name, node=node(method, scorer_group), package="_global_")


def node(method: Method, scorer_group: str) -> dict[str, Any]:
    """Return a method in the form of a preset's YAML file, which is what Hydra expects."""
    chosen = [{f"override /{scorer_group}": method.scorer}, {"override /sampler": method.sampler}]
    content: dict[str, Any] = {"defaults": chosen}
    for key, value in method.settings.items():
        group, _, setting = key.rpartition(".")
        if group:
            content.setdefault(group, {})[setting] = value
        else:
            content[setting] = value
    return content
