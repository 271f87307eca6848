"""Expert bank, gates, mixture and towers: the modules of all multi-task models."""

from home_dist.experts.bank import ExpertBank
from home_dist.experts.feature_gate import FeatureGate
from home_dist.experts.gates import MaskedGates, SelfGates, first_largest
from home_dist.experts.input_dropout import InputDropout
from home_dist.experts.kernels.eager import mixture
from home_dist.experts.sparse_bank import SparseBank
from home_dist.experts.towers import Towers

__all__ = [
    "ExpertBank",
    "FeatureGate",
    "InputDropout",
    "MaskedGates",
    "SelfGates",
    "SparseBank",
    "Towers",
    "first_largest",
    "mixture",
]
