"""Detects lost ranks: a thread of each rank answers the others, whatever the main thread does.

An answer holds the rank's step and its main thread's stack. A killed rank refuses the connection. A stopped rank, or one whose
host is cut off, does not answer in time.

A collective fails after a fixed timeout. So ranks that have finished their part of a long phase meet (see `meet`) before a
collective, and wait there for ranks that still answer.
"""

import json
import os
import secrets
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from home_dist.errors import DistributedError

_WAIT = 3.0  # seconds for an answer
_LINGER = 1.5  # seconds that a rank stays after asking, so that it can still answer others
_FRAMES = 3  # innermost frames of a stack in an answer
_POLLS = (0.005, 0.5)  # seconds between two questions whether a meeting is over: at first, and at most
_REFUSALS = 2  # consecutive refused connections after which a rank counts as gone


@dataclass(frozen=True)
class Peer:
    rank: int
    host: str
    address: str
    port: int


@dataclass(frozen=True)
class Answer:
    peer: Peer
    state: str
    """"answers", "is gone" or "does not answer"."""
    step: int = 0
    stack: str = ""
    open: bool = False
    """From the first rank: whether all ranks have come to the meeting in question."""


class Silence(Exception):
    """A rank that a meeting waits for has not answered for too long, or is gone."""


class Health:
    """Answers other ranks and asks them. One per process; the constructor is collective."""

    def __init__(self, rank: int, patience: float):
        """patience: seconds without an answer after which a meeting gives up a rank."""
        self.rank, self.step, self.patience = rank, 0, patience
        self._numbers: dict[str, int] = {}  # by series: number of the last meeting that this rank has come to
        self._arrived: dict[str, dict[int, int]] = {}  # on the first rank, by series and rank: the same of each rank
        self._opened: dict[str, int] = {}  # on the first rank, by series: number of the last meeting that is over
        self._change = threading.Condition()
        self._main = threading.main_thread().ident
        self._socket = socket.create_server(("", 0), backlog=1024)
        token = [secrets.token_hex(16) if rank == 0 else None]
        dist.broadcast_object_list(token)
        self._token = (token[0] or "").encode()
        own = Peer(rank, socket.gethostname(), _address(), self._socket.getsockname()[1])
        peers: list[Peer] = [own] * dist.get_world_size()
        dist.all_gather_object(peers, own)
        self.peers = peers
        threading.Thread(target=self._serve, name="health", daemon=True).start()
        # If a firewall passes the backend but blocks these ports, ranks do not meet, and only the collectives' timeout counts.
        reached = [False] * len(self.peers)
        others = [p for p in self.peers if p.rank != rank and 0 in (p.rank, rank)]
        dist.all_gather_object(reached, all(a.state == "answers" for a in self._answers(others)))
        self.meets = all(reached)

    def ask(self) -> list[Answer]:
        """Asks all other ranks in parallel; takes at most a few seconds."""
        answers = self._answers([p for p in self.peers if p.rank != self.rank])
        time.sleep(_LINGER)
        return answers

    def _answers(self, peers: Sequence[Peer]) -> list[Answer]:
        if not peers:
            return []
        with ThreadPoolExecutor(min(64, len(peers))) as pool:
            return list(pool.map(self._ask, peers))

    def meet(self, series: str) -> None:
        """Returns once all ranks have called it equally often for this series. Waits for missing ranks as long as they answer;
        raises Silence if one is gone or has not answered for `patience` seconds."""
        with self._change:
            number = self._numbers[series] = self._numbers.get(series, 0) + 1
        if not self.meets:
            return
        if self.rank == 0:
            self._gather(series, number)
        else:
            self._wait_for_first(series, number)

    def _gather(self, series: str, number: int) -> None:
        """On the first rank: waits for the others' notes. Asks a missing rank only after a pause without its note."""
        pause = _pause(self.patience)
        heard, refused = dict.fromkeys((p.rank for p in self.peers), time.monotonic()), Counter[int]()
        with self._change:
            arrived = self._arrived.setdefault(series, {})
        while True:
            with self._change:
                self._change.wait_for(lambda: not self._missing(arrived, number), pause)
                missing = self._missing(arrived, number)
                if not missing:
                    self._opened[series] = number
                    return
            for answer in self._answers(missing):
                self._note(answer, heard, refused)

    def _missing(self, arrived: dict[int, int], number: int) -> list[Peer]:
        return [p for p in self.peers if p.rank != self.rank and arrived.get(p.rank, 0) < number]

    def _wait_for_first(self, series: str, number: int) -> None:
        heard, refused, pause = {0: time.monotonic()}, Counter[int](), _POLLS[0]
        while True:
            answer = self._ask(self.peers[0], {"rank": self.rank, "series": series, "number": number})
            if answer.open:
                return
            self._note(answer, heard, refused)
            time.sleep(pause)
            pause = min(_POLLS[1], 2 * pause)

    def watch(self, ended: threading.Event, patience: float) -> None:
        """Asks the next rank again and again until `ended`. Raises Silence if it is gone or has not answered for `patience`
        seconds."""
        peer = self.peers[(self.rank + 1) % len(self.peers)]
        heard, refused = {peer.rank: time.monotonic()}, Counter[int]()
        while not ended.wait(_pause(patience)):
            answer = self._ask(peer)
            if not ended.is_set():
                self._note(answer, heard, refused, patience)

    def _note(self, answer: Answer, heard: dict[int, float], refused: Counter[int], patience: float | None = None) -> None:
        """patience: by default that of meetings."""
        rank, patience = answer.peer.rank, self.patience if patience is None else patience
        refused[rank] = refused[rank] + 1 if answer.state == "is gone" else 0
        if answer.state == "answers":
            heard[rank] = time.monotonic()
        elif refused[rank] >= _REFUSALS or time.monotonic() - heard[rank] > patience:
            raise Silence

    def _ask(self, peer: Peer, note: dict[str, Any] | None = None) -> Answer:
        try:
            with socket.create_connection((peer.address, peer.port), timeout=_WAIT) as connection:
                connection.settimeout(_WAIT)
                connection.sendall(self._token + b" " + json.dumps(note).encode() + b"\n")
                with connection.makefile("r") as lines:
                    text = lines.readline()
        except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError):
            return Answer(peer, "is gone")
        except OSError:
            return Answer(peer, "does not answer")
        if not text:
            return Answer(peer, "is gone")
        reply = json.loads(text)
        return Answer(peer, "answers", reply["step"], reply["stack"], reply["open"])

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.settimeout(_WAIT)
                    with connection.makefile("r") as lines:
                        token, _, note = lines.readline().strip().partition(" ")
                        if secrets.compare_digest(token.encode(), self._token):
                            reply = {"step": self.step, "stack": self._stack(), "open": self._take(json.loads(note or "null"))}
                            connection.sendall(json.dumps(reply).encode() + b"\n")
                except (OSError, ValueError):
                    continue

    def _take(self, note: dict[str, Any] | None) -> bool:
        """On the first rank: notes that another rank has come to a meeting. Returns whether the meeting is over."""
        if note is None:
            return False
        series, number = note["series"], note["number"]
        with self._change:
            self._arrived.setdefault(series, {})[note["rank"]] = number
            self._change.notify_all()
            return self._opened.get(series, 0) >= number

    def _stack(self) -> str:
        """Innermost frames of the main thread, the innermost last."""
        frame = sys._current_frames().get(self._main or 0)
        frames = traceback.extract_stack(frame)[-_FRAMES:] if frame is not None else []
        return " > ".join(f"{f.name} ({os.path.basename(f.filename)}:{f.lineno})" for f in frames)


def _pause(patience: float) -> float:
    """Seconds between two questions to a rank that is waited for."""
    return min(10.0, max(0.5, patience / 4))


def _address() -> str:
    """This host's address on the route to the first rank's host."""
    master = os.environ.get("MASTER_ADDR", "127.0.0.1")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing, only looks up the route
            probe.connect((socket.gethostbyname(master), 9))
            return probe.getsockname()[0]
    except OSError:
        return "127.0.0.1"


def told(answers: Sequence[Answer], step: int) -> list[str]:
    """Lines for a message: missing ranks by host, then the step and stack of each other rank."""
    lines = []
    for state in ("does not answer", "is gone"):
        hosts: dict[str, list[int]] = {}
        for answer in answers:
            if answer.state == state:
                hosts.setdefault(answer.peer.host, []).append(answer.peer.rank)
        for host, ranks in hosts.items():
            several = len(ranks) > 1
            which = f"rank{'s' if several else ''} {', '.join(map(str, ranks))} on {host}"
            verb = {"does not answer": "do not answer", "is gone": "are gone"}[state] if several else state
            lines.append(f"{which} {verb} (this rank was in step {step + 1})")
    lines += [
        f"rank {a.peer.rank} on {a.peer.host} answers: step {a.step + 1}, {a.stack}" for a in answers if a.state == "answers"
    ]
    return lines


_here: Health | None = None


def begin(rank: int, world_size: int, patience: float) -> None:
    global _here
    if world_size > 1:
        _here = Health(rank, patience)


def at_step(step: int) -> None:
    """step: the last one done."""
    if _here is not None:
        _here.step = step


def meet(series: str = "main") -> None:
    """Returns once all ranks have called it. Call it before a collective that ranks reach at very different times, as after a
    long phase. series: one per calling thread. Raises DistributedError if a rank no longer answers."""
    if _here is None:
        return
    try:
        _here.meet(series)
    except Silence:
        raise _lost(_here) from None


def _lost(here: Health) -> DistributedError:
    others = "".join(f"\n  {line}" for line in who_is_there())
    return DistributedError(
        f"rank {here.rank} on {socket.gethostname()} lost contact with another rank, which it waits for. The first error "
        f"of the job tells why; start the same command again to go on from the newest checkpoint.{others}"
    )


_leaving = threading.Event()


def watch_while_gpus_wait() -> None:
    """Starts a thread that ends this process, and tells why, when the next rank is gone or silent. A collective of gloo fails
    then, and its error is told. One of NCCL leaves the main thread waiting for its GPU until torch's watchdog ends the process
    after `distributed.timeout`, and tells nothing of other ranks; this thread takes half as long."""
    if _here is not None and _here.meets:
        _leaving.clear()
        threading.Thread(target=_watch, args=(_here,), name="next rank", daemon=True).start()


def stop_watching() -> None:
    """Before ranks leave."""
    _leaving.set()


def _watch(here: Health) -> None:
    try:
        here.watch(_leaving, here.patience / 2)
    except Silence:
        lost = _lost(here)
        if not _leaving.is_set():
            print(f"error: {lost}", file=sys.stderr, flush=True)
            os._exit(lost.exit_code)


def someone_is_missing() -> bool:
    return _here is not None and any(a.state != "answers" for a in _here.ask())


def who_is_there() -> list[str]:
    """Lines about the other ranks; empty if there are none."""
    return told(_here.ask(), _here.step) if _here is not None else []
