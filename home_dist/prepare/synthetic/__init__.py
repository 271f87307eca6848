"""A generated log of any size, with every kind of feature and a planted signal for models to find."""

from home_dist.prepare.synthetic.generation import Sizes, write_synthetic

__all__ = ["Sizes", "write_synthetic"]
