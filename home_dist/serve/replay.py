"""`home-dist replay PLACE --url URL`: has a server answer a version's golden requests, and compares with the trainer."""

import json
import urllib.error
import urllib.request
from decimal import Decimal
from typing import Any

import pyarrow as pa

from home_dist.ids.arrow_types import is_list
from home_dist.publish.folder import VersionsFolder
from home_dist.publish.manifest import Manifest, PublishError
from home_dist.publish.reading import chain_of
from home_dist.publish.replay import Replayed, compared, golden_of

_SECONDS = 60


def replay_server(place: str, url: str, version: str | None = None) -> tuple[Manifest, list[Replayed]]:
    """Each golden request is sent on its own, with its lists as the user's columns. url: of the server, or of its route; the
    version that it answers with must be the one at `place`, by default the current one. Raises PublishError, StoreError."""
    folder = VersionsFolder(place)
    manifest = chain_of(folder, version)[-1]
    requests, expected = golden_of(folder, manifest)
    route = url if url.rstrip("/").endswith("/predict") else f"{url.rstrip('/')}/predict"
    lists = [c for c in requests.column_names if is_list(requests.schema.field(c).type)]
    answers: dict[str, list[float]] = {name: [] for name in expected.column_names}
    for row in requests.to_pylist():
        body = {"user": {c: row[c] for c in lists}, "candidates": {c: [v] for c, v in row.items() if c not in lists}}
        told = _asked(route, json.dumps(body, default=_number).encode())
        try:
            answered_by = told["version"]
            if answered_by == manifest.version:
                for name, values in answers.items():
                    [value] = told["predictions"][name]
                    values.append(float(value))
        except (KeyError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise PublishError(f"{route}: its answer is none of docs/serve.md ({reason}): {str(told)[:200]}") from None
        if answered_by != manifest.version:
            raise PublishError(
                f"{route}: answers with {answered_by}, and the golden requests are of {manifest.version}. Name the server's "
                "version with --version, or wait until it has taken the newest."
            )
    return manifest, compared(pa.table(answers), expected)


def _asked(route: str, body: bytes) -> Any:
    try:
        request = urllib.request.Request(route, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        told = error.read(2000).decode(errors="replace")
        raise PublishError(f"{route}: answers a golden request with status {error.code}: {told}") from None
    except (OSError, ValueError) as error:
        raise PublishError(f"{route}: cannot be asked: {error}. Name the address that the server tells at its start.") from None


def _number(value: object) -> int | float:
    """Of a decimal, which JSON lacks."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    raise PublishError(f"a golden request holds a {type(value).__name__}, which JSON lacks: serve the version by its files")
