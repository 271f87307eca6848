"""Tasks over partitions: where they run, what they leave for each other, and how a killed run goes on."""

from home_dist.prepare.engine.engines import KINDS, Engine, LocalEngine, Lost, RayEngine
from home_dist.prepare.engine.work import Task, Work

__all__ = ["KINDS", "Engine", "LocalEngine", "Lost", "RayEngine", "Task", "Work"]
