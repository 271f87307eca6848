"""How a command runs and ends: errors meant for users become one message and an exit code, without a traceback."""

import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, NoReturn, ParamSpec

import typer

from home_dist import process
from home_dist.errors import UserError

Parameters = ParamSpec("Parameters")

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. train.batch_size=4096.")
]


def command(group: typer.Typer, name: str | None = None) -> Callable[[Callable[Parameters, None]], Callable[Parameters, None]]:
    """Adds a function to a group as a command, by default under the function's name."""

    def register(function: Callable[Parameters, None]) -> Callable[Parameters, None]:
        @functools.wraps(function)
        def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
            run_to_end(lambda: function(*args, **kwargs))

        group.command(name)(run)
        return function

    return register


def run_to_end(body: Callable[[], None]) -> None:
    """Runs a command's body. A failure ends the process with an exit code; ranks that succeed leave together."""
    process.silence_libraries()
    try:
        body()
    except typer.Exit:
        raise
    except UserError as error:
        leave(error.exit_code, f"{error.prefix}{error}")
    except Exception as error:
        _leave_after(error)
    else:
        if "torch" in sys.modules:
            from home_dist.distributed.ranks import leave_ranks

            leave_ranks()


def _leave_after(error: Exception) -> None:
    """Ends this rank when another one has failed or is gone; a failure of this one alone, without others, is raised."""
    from home_dist import fbgemm

    unusable = fbgemm.explained(error)
    if unusable is not None:
        leave(2, f"error: {unusable}")
    from home_dist.distributed import ranks

    if isinstance(error, ranks.OtherRankFailed):
        leave(error.exit_code, None)
    lost = ranks.lost_contact(error)
    if lost is not None:
        leave(lost.exit_code, f"error: {lost}")
    if os.environ.get("WORLD_SIZE", "1") == "1":
        raise error
    traceback.print_exception(error)
    leave(1, None)  # a process group that is taken down while its ranks are gone may wait for ever


def leave(code: int, message: str | None) -> NoReturn:
    """Ends the process at once: other ranks may be gone, and a regular exit would wait for them."""
    if message:
        print(message, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
