"""Where tasks run: in this process, in a pool of processes of this machine, or on a Ray cluster."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import Any, Protocol

from home_dist.errors import DataError, UserError

Action = Callable[[], None]
_EVERYWHERE_SECONDS = 30.0


class Lost(DataError):
    """A process that ran a task is gone. Finished tasks stay finished."""


class Engine(Protocol):
    processes: int
    """How many tasks run at a time; a memory budget is divided by it."""

    def run(self, actions: Sequence[Action]) -> Iterator[int]:
        """Runs actions, in any order, and yields the number of each when it is done. Raises what an action raised."""
        ...

    def everywhere(self, action: Action) -> None:
        """Runs the action on each machine, as far as they answer."""
        ...

    def close(self) -> None: ...


class LocalEngine:
    """A pool of spawned (not forked) processes that end with this one. A single task runs in this process."""

    def __init__(self, processes: int):
        self.processes = processes
        self._pool: ProcessPoolExecutor | None = None

    def run(self, actions: Sequence[Action]) -> Iterator[int]:
        if self.processes == 1 or (len(actions) <= 1 and self._pool is None):
            for number, action in enumerate(actions):
                action()
                yield number
            return
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.processes, mp_context=context, initializer=_begin_worker)
        waiting: dict[Future[None], int] = {self._pool.submit(action): number for number, action in enumerate(actions)}
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    future.result()
                    yield waiting.pop(future)
        except BrokenProcessPool:
            raise Lost(
                "a worker process was ended from outside, perhaps for want of memory. Give a smaller --memory or fewer "
                "--processes; the same command goes on where this one stopped."
            ) from None
        finally:
            for future in waiting:
                future.cancel()

    def everywhere(self, action: Action) -> None:
        action()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _begin_worker() -> None:
    import pyarrow as pa

    pa.set_cpu_count(1)  # the pool's processes share the cores already
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A worker holds both ends of the pool's pipes: without this thread it would wait for ever if its parent is killed.
        threading.Thread(target=lambda: (wait_for([parent.sentinel]), os._exit(1)), daemon=True).start()


class RayEngine:
    """Tasks on Ray: the cluster that RAY_ADDRESS names, or one that is started on this machine and ends with this process.

    All nodes must see the inputs and the work folder under the same paths, unless these are in a store (RemoteWork).
    """

    def __init__(self, processes: int):
        try:
            import ray
        except ImportError:
            raise UserError(
                "--engine ray: Ray is not installed. pip install 'home_dist[ray]', or use --engine local."
            ) from None
        self.processes, self._ray = processes, ray
        self._started = not ray.is_initialized()
        if self._started:
            local: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": processes, "include_dashboard": False}
            ray.init(logging_level="ERROR", log_to_driver=False, runtime_env={"env_vars": _environment()}, **local)
        self._perform = ray.remote(num_cpus=1, max_retries=1)(_perform)

    def run(self, actions: Sequence[Action]) -> Iterator[int]:
        waiting = {self._perform.remote(action): number for number, action in enumerate(actions)}
        while waiting:
            ready, _ = self._ray.wait(list(waiting))
            for reference in ready:
                try:
                    self._ray.get(reference)
                except self._ray.exceptions.RayTaskError as error:
                    raise (error.cause if isinstance(error.cause, Exception) else error) from None
                except self._ray.exceptions.RayError as error:
                    reason = str(error).splitlines()[0]
                    raise Lost(f"a task on Ray was lost: {reason}. The same command goes on where this stopped.") from None
                yield waiting.pop(reference)

    def everywhere(self, action: Action) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        nodes = [n["NodeID"] for n in self._ray.nodes() if n["Alive"]]
        asked = [self._perform.options(num_cpus=0, scheduling_strategy=On(n, soft=True)).remote(action) for n in nodes]
        self._ray.wait(asked, num_returns=len(asked), timeout=_EVERYWHERE_SECONDS)

    def close(self) -> None:
        if self._started:
            self._ray.shutdown()


KINDS: dict[str, Callable[[int], Engine]] = {"local": LocalEngine, "ray": RayEngine}


def _perform(action: Action) -> None:
    action()


def _environment() -> dict[str, str]:
    """Environment in which workers import the same code as this process."""
    path = os.environ.get("PYTHONPATH")
    return {"OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": path} if path else {})
