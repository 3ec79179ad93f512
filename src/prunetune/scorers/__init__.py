"""Scorers: one number per image. A class is imported when it is asked for, so that one loads no other."""

from prunetune.base.lazy import attach

MODULES = {
    "AUM": "aum",
    "CAL": "cal",
    "ContextualDiversity": "contextual_diversity",
    "Craig": "craig",
    "DLC": "dlc",
    "DLCFinetuned": "dlc_finetuned",
    "DUAL": "dual",
    "DeepCore": "published.deepcore",
    "DeepFool": "deepfool",
    "DynUnc": "dyn_unc",
    "EL2N": "el2n",
    "Entropy": "uncertainty",
    "FacilityLocation": "facility_location",
    "Forgetting": "forgetting",
    "FromFile": "from_file",
    "Glister": "glister",
    "GradMatch": "gradmatch",
    "Grand": "grand",
    "Herding": "herding",
    "KCenter": "k_center",
    "KMedoids": "k_medoids",
    "LCKnn": "lc_knn",
    "LCOptimisation": "lc_optimisation",
    "LeastConfidence": "uncertainty",
    "Margin": "uncertainty",
    "MaxHerding": "maxherding",
    "Moderate": "moderate",
    "NoScore": "constant",
    "Random": "constant",
    "SSP": "ssp",
    "Scorer": "base",
    "Submodular": "submodular",
    "TDDS": "tdds",
    "ZCore": "zcore",
}

__getattr__, __dir__, __all__ = attach(__name__, MODULES)
