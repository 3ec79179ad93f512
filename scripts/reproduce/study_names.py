"""What methods, sets, networks and judges of the study are called on its page and in its figures."""

NAMES = {
    "random": "random images",
    "herding": "herding",
    "k_medoids": "k-medoids",
    "maxherding": "MaxHerding",
    "facility_location": "facility location",
    "typiclust": "TypiClust",
    "activeft": "ActiveFT",
    "dlc_validation": "DLC + FlexRand",
    "earlier_search": "DLC + FlexRand (first search)",
    "dlc_0.25": "DLC + FlexRand (gamma 0.25)",
    "dlc_oracle": "DLC + FlexRand (gamma from the test set)",
    "dlc_easiest": "DLC (easiest images)",
    "d2": "D2",
    "ccs": "CCS",
    "moderate": "Moderate",
    "zcore": "ZCore",
    "el2n": "EL2N (hardest images)",
    "aum": "AUM (hardest images)",
}
JUDGES = {"linear_probe": "linear probe", "logistic_regression": "logistic regression", "full": "full fine-tuning"}
BACKBONES = {"vit_tiny": "ViT-Tiny", "mobilenetv2": "MobileNetV2", "micro": "micro"}
SETS = {
    "dtd10": "DTD (10 classes)",
    "caltech101": "Caltech-101",
    "cifar10mini": "CIFAR-10 (a part)",
    "digits": "digits",
    "textures": "textures (generated)",
}


def named(method: str) -> str:
    """Return what a method is called; one that is not in the list keeps its own name."""
    return NAMES.get(method, method)
