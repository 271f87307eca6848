"""Who is still there when a collective fails: a thread of each rank answers the others, whatever its main thread does.

The answer is the rank's step and where its main thread is. A rank that was killed refuses; one that was stopped, or whose host
is cut off, does not answer within the time that is waited.
"""

import json
import os
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch.distributed as dist

_WAIT = 3.0  # seconds for an answer
_LINGER = 1.5  # seconds that a rank stays after it has asked, so that others get their answer as well
_FRAMES = 3  # of a stack that are told


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


class Health:
    """One per process; every rank makes it at the same point."""

    def __init__(self, rank: int):
        self.rank, self.step = rank, 0
        self._main = threading.main_thread().ident
        self._socket = socket.create_server(("", 0), backlog=64)
        token = [secrets.token_hex(16) if rank == 0 else None]
        dist.broadcast_object_list(token)
        self._token = (token[0] or "").encode()
        own = Peer(rank, socket.gethostname(), _address(), self._socket.getsockname()[1])
        found: list[Peer] = [own] * dist.get_world_size()
        dist.all_gather_object(found, own)
        self.peers = found
        threading.Thread(target=self._serve, name="health", daemon=True).start()

    def ask(self) -> list[Answer]:
        """All other ranks, at once; takes some seconds at most."""
        others = [p for p in self.peers if p.rank != self.rank]
        with ThreadPoolExecutor(min(64, len(others))) as pool:
            answers = list(pool.map(self._ask, others))
        time.sleep(_LINGER)
        return answers

    def _ask(self, peer: Peer) -> Answer:
        try:
            with socket.create_connection((peer.address, peer.port), timeout=_WAIT) as connection:
                connection.settimeout(_WAIT)
                connection.sendall(self._token + b"\n")
                with connection.makefile("r") as lines:
                    text = lines.readline()
        except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError):
            return Answer(peer, "is gone")
        except OSError:
            return Answer(peer, "does not answer")
        if not text:
            return Answer(peer, "is gone")
        told = json.loads(text)
        return Answer(peer, "answers", told["step"], told["stack"])

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
                        if secrets.compare_digest(lines.readline().strip().encode(), self._token):
                            connection.sendall(json.dumps({"step": self.step, "stack": self._stack()}).encode() + b"\n")
                except OSError:
                    continue

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


def begin(rank: int, world_size: int) -> None:
    global _here
    if world_size > 1:
        _here = Health(rank)


def at_step(step: int) -> None:
    """step: that is done."""
    if _here is not None:
        _here.step = step


def someone_is_missing() -> bool:
    return _here is not None and any(a.state != "answers" for a in _here.ask())


def who_is_there() -> list[str]:
    """Lines on the other ranks; empty where there is none."""
    return told(_here.ask(), _here.step) if _here is not None else []
