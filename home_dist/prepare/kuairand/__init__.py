"""KuaiRand logs (Gao et al., CIKM 2022) in the published layout -> a prepared data set."""

from home_dist.prepare.kuairand.kuairand_preparation import KuaiRandOptions, prepare_kuairand

__all__ = ["KuaiRandOptions", "prepare_kuairand"]
