"""Scorers: one number per image."""

from prunetune.scorers.aum import AUM
from prunetune.scorers.base import Scorer
from prunetune.scorers.cal import CAL
from prunetune.scorers.constant import NoScore, Random
from prunetune.scorers.contextual_diversity import ContextualDiversity
from prunetune.scorers.craig import Craig
from prunetune.scorers.deepcore import DeepCore
from prunetune.scorers.deepfool import DeepFool
from prunetune.scorers.dlc import DLC
from prunetune.scorers.dlc_finetuned import DLCFinetuned
from prunetune.scorers.dual import DUAL
from prunetune.scorers.dyn_unc import DynUnc
from prunetune.scorers.el2n import EL2N
from prunetune.scorers.facility_location import FacilityLocation
from prunetune.scorers.forgetting import Forgetting
from prunetune.scorers.from_file import FromFile
from prunetune.scorers.glister import Glister
from prunetune.scorers.gradmatch import GradMatch
from prunetune.scorers.grand import Grand
from prunetune.scorers.herding import Herding
from prunetune.scorers.k_center import KCenter
from prunetune.scorers.lc_knn import LCKnn
from prunetune.scorers.lc_optimisation import LCOptimisation
from prunetune.scorers.maxherding import MaxHerding
from prunetune.scorers.moderate import Moderate
from prunetune.scorers.ssp import SSP
from prunetune.scorers.submodular import Submodular
from prunetune.scorers.tdds import TDDS
from prunetune.scorers.uncertainty import Entropy, LeastConfidence, Margin
from prunetune.scorers.zcore import ZCore

__all__ = [
    "AUM",
    "CAL",
    "ContextualDiversity",
    "Craig",
    "DLC",
    "DLCFinetuned",
    "DUAL",
    "DeepCore",
    "DeepFool",
    "DynUnc",
    "EL2N",
    "Entropy",
    "FacilityLocation",
    "Forgetting",
    "FromFile",
    "Glister",
    "GradMatch",
    "Grand",
    "Herding",
    "KCenter",
    "LCKnn",
    "LCOptimisation",
    "LeastConfidence",
    "Margin",
    "MaxHerding",
    "Moderate",
    "NoScore",
    "Random",
    "SSP",
    "Scorer",
    "Submodular",
    "TDDS",
    "ZCore",
]
