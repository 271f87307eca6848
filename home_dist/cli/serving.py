"""`home-dist serve`."""

from typing import Annotated

import typer

from home_dist.cli.command import Overrides, command
from home_dist.errors import UserError

group = typer.Typer()
_PACKAGES = ("starlette", "uvicorn", "httptools", "prometheus_client")


@command(group)
def serve(
    place: Annotated[str, typer.Argument(help="Folder or URL of published versions.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines ask.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one, which is told.")] = 8000,
    overrides: Overrides = None,
) -> None:
    """Answer ranking requests over HTTP from published versions; new ones are taken while it runs (docs/serve.md)."""
    try:
        from home_dist.serve.server import serve as run
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        raise UserError(f"serve: {error.name} is not installed. pip install 'home_dist[serve]'") from None
    run(place, host, port, overrides or [])
