"""KuaiRand logs (Gao et al., CIKM 2022) in the published layout -> a prepared data set."""

from home_dist.prepare.kuairand.prepare_kuairand import Options, prepare_kuairand

__all__ = ["Options", "prepare_kuairand"]
