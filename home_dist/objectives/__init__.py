"""Objectives: each file has one kind's section, loss and prediction. config/objective.py has the table of kinds."""

from home_dist.objectives.all_tasks import Objectives
from home_dist.objectives.base import Objective
from home_dist.objectives.joint import JointLogits
from home_dist.objectives.weighting import TaskWeighting, build_weighting

__all__ = ["JointLogits", "Objective", "Objectives", "TaskWeighting", "build_weighting"]
