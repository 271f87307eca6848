"""`home-dist serve`: uvicorn around the routes, on a socket that is open before a version is."""

import logging
import signal
import socket
from collections.abc import Sequence

import uvicorn

from home_dist.errors import UserError
from home_dist.serve.app import RankingApp
from home_dist.serve.holder import VersionHolder
from home_dist.serve.metrics import ServerMetrics

_BACKLOG = 2048


def serve(place: str, host: str, port: int, overrides: Sequence[str]) -> None:
    """Answers until SIGTERM or SIGINT, and then what has begun. port: 0 for a free one, which is told. Raises UserError for an
    address that cannot be used, and if there is no version that can be served."""
    listening = _listening(host, port)
    metrics = ServerMetrics()
    holder = VersionHolder(place, overrides, metrics, lambda told: print(told, flush=True))
    app = RankingApp(holder, metrics)
    config = uvicorn.Config(
        app.asgi,
        http="httptools",
        ws="none",
        lifespan="on",
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=int(2 * holder.current.settings.timeout_s) + 1,
    )
    shown = f"[{host}]" if ":" in host else host
    told = f"serving {holder.current.name} on http://{shown}:{listening.getsockname()[1]}"
    server = _TellingServer(config, told)

    def end(*_: object) -> None:
        server.should_exit = True

    # Once it has begun, uvicorn handles these, and raises them again when it has ended: the end is a good one.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    server.run([listening])


class _TellingServer(uvicorn.Server):
    """Tells its address once it answers."""

    def __init__(self, config: uvicorn.Config, told: str):
        super().__init__(config)
        self._told = told

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._told, flush=True)


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--host {host} --port {port}: cannot be used: {error}. Choose another port, or 0 for a free one."
        ) from None
    return listening
