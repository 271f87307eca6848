"""Tasks over partitions: the engines that run them, the files that they leave for each other, and resume after a kill."""

from home_dist.prepare.engine.engines import KINDS, Engine, LocalEngine, Lost, RayEngine
from home_dist.prepare.engine.remote_work import RemoteWork
from home_dist.prepare.engine.work import Task, Work

__all__ = ["KINDS", "Engine", "LocalEngine", "Lost", "RayEngine", "RemoteWork", "Task", "Work"]
