"""A generated log of any size with every kind of feature, in which what a model should find is planted."""

from home_dist.prepare.synthetic.generation import Sizes, write_synthetic

__all__ = ["Sizes", "write_synthetic"]
