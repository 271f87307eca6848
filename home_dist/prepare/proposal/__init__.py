"""`home-dist prepare init`: a description of a log, proposed from a look at its files, for its user to correct."""

from home_dist.prepare.proposal.propose import propose

__all__ = ["propose"]
