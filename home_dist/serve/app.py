"""The server's routes: POST /predict and /predict/log, GET /healthz, GET /metrics."""

import asyncio
import contextlib
import json
import time
import traceback
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from home_dist.serve.arrow_body import ARROW, arrow_answer, parse_arrow
from home_dist.serve.batching import Batcher, Job
from home_dist.serve.holder import VersionHolder
from home_dist.serve.log_request import from_log
from home_dist.serve.metrics import ServerMetrics
from home_dist.serve.request import Body, Parse, RefusedRequest, parse_json
from home_dist.serve.version import SCORE, Predictions, ServedVersion

JSON = "application/json"
_GONE = 499
"""Status, in the metrics alone, of a client that is gone."""


class RankingApp:
    def __init__(self, holder: VersionHolder, metrics: ServerMetrics):
        self.holder, self.metrics = holder, metrics
        self._batcher = Batcher(metrics, _tell)
        self._waiting = 0
        routes = [
            Route("/predict", self.predict, methods=["POST"]),
            Route("/predict/log", partial(self.predict, of_log=True), methods=["POST"]),
            Route("/healthz", self.health),
            Route("/metrics", self.told_metrics),
        ]
        self.asgi = Starlette(routes=routes, lifespan=self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        self.holder.close()
        self._batcher.close()

    async def health(self, _: Request) -> Response:
        """200 as long as a version answers, which one always does. `refused` tells why a newer one was not taken."""
        held = self.holder.current
        manifest = held.model.manifest
        ages = {"newest_data": manifest.newest_data, "published": manifest.published}
        state = None if held.online is None else held.online.until
        told = {"version": held.name, "step": manifest.step, **ages, "state": state, "refused": self.holder.refused}
        return JSONResponse(told)

    async def told_metrics(self, _: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def predict(self, request: Request, of_log: bool = False) -> Response:
        """of_log: its columns are those of the log."""
        began, held = time.monotonic(), self.holder.current  # this version answers, whatever is taken meanwhile
        status, gone = 500, False
        self._waiting += 1
        self.metrics.waiting.set(self._waiting)
        try:
            answer = await self._answered(request, held, of_log)
            status = answer.status_code
            return answer
        except RefusedRequest as error:
            status = error.status
            told = {"error": error.problem, "column": error.column, "version": held.name}
            headers = {"Retry-After": "1"} if status == 503 else None
            return JSONResponse({k: v for k, v in told.items() if v is not None}, status, headers)
        except ClientDisconnect:
            gone = True
            return Response(status_code=400)  # nobody hears it
        except Exception as error:
            _tell(error)
            return JSONResponse({"error": "the server failed; its log tells how", "version": held.name}, 500)
        finally:
            self._waiting -= 1
            self.metrics.waiting.set(self._waiting)
            self.metrics.requests.labels(_GONE if gone else status).inc()
            if status == 200:
                self.metrics.seconds.observe(time.monotonic() - began)

    async def _answered(self, request: Request, held: ServedVersion, of_log: bool) -> Response:
        settings = held.settings
        if self._waiting > settings.max_waiting:
            raise RefusedRequest(503, f"{settings.max_waiting} requests wait already (serve.max_waiting): come again")
        parse, write = _forms(request, settings.max_candidates)
        if of_log:
            parse = _of_log(held, parse)
        deadline = asyncio.get_running_loop().time() + settings.timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                body = await _body(request, int(settings.max_body_mb * 1e6))
        except TimeoutError:
            raise RefusedRequest(408, f"the body took more than {settings.timeout_s:g} s (serve.timeout_s)") from None
        return write(held, await self._computed(request, Job(body, parse, held), deadline))

    async def _computed(self, request: Request, job: Job, deadline: float) -> Predictions:
        """Raises ClientDisconnect when the client goes: a request that has not begun is then dropped."""
        self._batcher.add(job)
        answer: asyncio.Future[Any] = asyncio.wrap_future(job.answer)
        gone: asyncio.Future[Any] = asyncio.ensure_future(_gone(request))
        left = deadline - asyncio.get_running_loop().time()
        try:
            await asyncio.wait({answer, gone}, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if gone.done():
                raise ClientDisconnect
            raise RefusedRequest(503, f"no answer within {job.version.settings.timeout_s:g} s (serve.timeout_s): come again")
        finally:
            job.given_up = True
            answer.cancel()
            gone.cancel()


Write = Callable[[ServedVersion, Predictions], Response]


def _forms(request: Request, max_candidates: int) -> tuple[Parse, Write]:
    """How the body is read, and how the answer is written: as the client accepts it, by default as the body."""
    kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if kind not in (JSON, ARROW):
        raise RefusedRequest(415, f"Content-Type {kind!r}: send {JSON} or {ARROW}")
    accepted = request.headers.get("accept", "")
    arrow = ARROW in accepted or (kind == ARROW and JSON not in accepted)
    parse: Parse = partial(parse_json if kind == JSON else parse_arrow, max_rows=max_candidates)
    return parse, _arrow if arrow else _json


def _of_log(held: ServedVersion, parse: Parse) -> Parse:
    online = held.online
    if online is None:
        why = "serve.log is false" if not held.settings.log else f"{held.name} holds no state of a log's preparation"
        raise RefusedRequest(404, f"requests in the log's columns are not answered: {why}. Send the data's columns to /predict")
    return lambda body: from_log(online, parse(body))


def _json(held: ServedVersion, predictions: Predictions) -> Response:
    columns = {name: values.to_pylist() for name, values in held.columns(predictions).items()}
    told: dict[str, Any] = {"version": held.name, "units": held.units}
    if SCORE in columns:
        told[SCORE] = columns.pop(SCORE)
    return Response(json.dumps({**told, "predictions": columns}, allow_nan=False), media_type=JSON)


def _arrow(held: ServedVersion, predictions: Predictions) -> Response:
    return Response(arrow_answer(held.name, held.units, held.columns(predictions)), media_type=ARROW)


async def _body(request: Request, most: int) -> Body:
    """Raises RefusedRequest as soon as it is too large; ClientDisconnect if it is cut off."""
    too_large = RefusedRequest(413, f"the body has more than {most:,} bytes (serve.max_body_mb)")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > most:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise too_large
    return body


async def _gone(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _tell(error: Exception) -> None:
    traceback.print_exception(error)
