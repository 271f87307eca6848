"""Who is still there: a thread of each rank answers the others, whatever its main thread does.

The answer is the rank's step and where its main thread is. A rank that was killed refuses; one that was stopped, or whose host
is cut off, does not answer within the time that is waited.

Ranks that have done their part of a long phase meet (see `meet`) before they go into a collective, which would end at a fixed
time: who works answers, and is waited for.
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
_LINGER = 1.5  # seconds that a rank stays after it has asked, so that others get their answer as well
_FRAMES = 3  # of a stack that are told
_POLLS = (0.005, 0.5)  # seconds from one look at a meeting to the next: at first, and at most
_REFUSALS = 2  # of connections, one after another, by which a rank is gone


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
    """Whether the meeting that was asked for is over: all ranks have come to it. Told by the first rank."""


class Silence(Exception):
    """Ranks that a meeting waits for have not answered for too long."""


class Health:
    """One per process; every rank makes it at the same point."""

    def __init__(self, rank: int, patience: float):
        """patience: seconds without an answer after which a meeting gives a rank up."""
        self.rank, self.step, self.patience = rank, 0, patience
        self._numbers: dict[str, int] = {}  # of meetings that this rank has come to, by series
        self._arrived: dict[str, dict[int, int]] = {}  # on the first rank: by series and rank, the newest number
        self._opened: dict[str, int] = {}  # on the first rank: meetings that are over
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
        # Where a firewall lets the backend through and not this, ranks cannot meet, and collectives wait as long as they do.
        reached = [False] * len(self.peers)
        others = [p for p in self.peers if p.rank != rank and 0 in (p.rank, rank)]
        dist.all_gather_object(reached, all(a.state == "answers" for a in self._answers(others)))
        self.meets = all(reached)

    def ask(self) -> list[Answer]:
        """All other ranks, at once; takes some seconds at most."""
        answers = self._answers([p for p in self.peers if p.rank != self.rank])
        time.sleep(_LINGER)
        return answers

    def _answers(self, peers: Sequence[Peer]) -> list[Answer]:
        if not peers:
            return []
        with ThreadPoolExecutor(min(64, len(peers))) as pool:
            return list(pool.map(self._ask, peers))

    def meet(self, series: str) -> None:
        """Returns once all ranks have called it as often for this series. Raises Silence when a rank that is missing has not
        answered for as long as `patience`, or is gone; one that answers is waited for."""
        with self._change:
            number = self._numbers[series] = self._numbers.get(series, 0) + 1
        if not self.meets:
            return
        if self.rank == 0:
            self._gather(series, number)
        else:
            self._wait_for_first(series, number)

    def _gather(self, series: str, number: int) -> None:
        """On the first rank: the others come by themselves, and are asked only when they are long in coming."""
        pause = min(10.0, max(0.5, self.patience / 4))
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

    def _note(self, answer: Answer, heard: dict[int, float], refused: Counter[int]) -> None:
        rank = answer.peer.rank
        refused[rank] = refused[rank] + 1 if answer.state == "is gone" else 0
        if answer.state == "answers":
            heard[rank] = time.monotonic()
        elif refused[rank] >= _REFUSALS or time.monotonic() - heard[rank] > self.patience:
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
        told = json.loads(text)
        return Answer(peer, "answers", told["step"], told["stack"], told["open"])

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
                            told = {"step": self.step, "stack": self._stack(), "open": self._take(json.loads(note or "null"))}
                            connection.sendall(json.dumps(told).encode() + b"\n")
                except (OSError, ValueError):
                    continue

    def _take(self, note: dict[str, Any] | None) -> bool:
        """On the first rank: another one has come to a meeting. Returns whether it is over."""
        if note is None:
            return False
        series, number = note["series"], note["number"]
        with self._change:
            self._arrived.setdefault(series, {})[note["rank"]] = number
            self._change.notify_all()
            return self._opened.get(series, 0) >= number

    def _stack(self) -> str:
        """Of the main thread, the innermost last."""
        frame = sys._current_frames().get(self._main or 0)
        frames = traceback.extract_stack(frame)[-_FRAMES:] if frame is not None else []
        return " > ".join(f"{f.name} ({os.path.basename(f.filename)}:{f.lineno})" for f in frames)


def _address() -> str:
    """Of this host, as the first rank's host sees it."""
    master = os.environ.get("MASTER_ADDR", "127.0.0.1")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing: asks for the route
            probe.connect((socket.gethostbyname(master), 9))
            return probe.getsockname()[0]
    except OSError:
        return "127.0.0.1"


def told(answers: Sequence[Answer], step: int) -> list[str]:
    """Lines for a message: who is missing, by host, and where the others are."""
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
    """step: that is done."""
    if _here is not None:
        _here.step = step


def meet(series: str = "main") -> None:
    """Before a collective that ranks may come to at very different times, as after each has done its part of a long phase:
    returns once all have come. series: of the thread that calls. Raises DistributedError for ranks that no longer answer."""
    if _here is None:
        return
    try:
        _here.meet(series)
    except Silence:
        others = "".join(f"\n  {line}" for line in who_is_there())
        raise DistributedError(
            f"rank {_here.rank} on {socket.gethostname()} lost contact with another rank, which it waits for. The first error "
            f"of the job tells why; start the same command again to go on from the newest checkpoint.{others}"
        ) from None


def someone_is_missing() -> bool:
    return _here is not None and any(a.state != "answers" for a in _here.ask())


def who_is_there() -> list[str]:
    """Lines on the other ranks; empty where there is none."""
    return told(_here.ask(), _here.step) if _here is not None else []
