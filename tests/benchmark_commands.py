"""Starts benchmarks, one after the other in one process, up to where they have read their command line.

    python -m tests.benchmark_commands RESULT SCRIPT...

RESULT gets, by script, its commands: (arguments, exit code, what was told). They are those that the head of the script names,
and the first of them with an option that no benchmark has.
"""

import argparse
import contextlib
import io
import json
import os
import re
import runpy
import shlex
import sys
import traceback
from pathlib import Path

import home_dist

ROOT = Path(__file__).parent.parent
UNKNOWN = "--no-such-option"


class Understood(BaseException):
    pass


def commands(script: Path) -> list[list[str]]:
    """The arguments of each `python benchmarks/..` in the script's docstring."""
    head = script.read_text().split('"""')[1]
    named = re.findall(rf"^ *python {re.escape(str(script.relative_to(ROOT)))}\b([^#\n]*)", head, re.M)
    return [shlex.split(arguments.replace("..", "")) for arguments in named]


def asked(script: Path) -> list[list[str]]:
    named = commands(script)
    return [*named, [*(named[0] if named else []), UNKNOWN]]


def started(script: Path, arguments: list[str]) -> tuple[list[str], int, str]:
    """As `python script arguments` does it, from a folder where nothing can be imported."""
    environment, path, told = dict(os.environ), list(sys.path), io.StringIO()
    sys.argv = [str(script), *arguments]
    sys.path[:] = [str(script.parent), *(p for p in path[1:] if Path(p).resolve() != ROOT)]
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            runpy.run_path(str(script), run_name="__main__")
        code = 0
    except Understood:
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        code = 1
        told.write(traceback.format_exc())
    finally:
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(environment)
    return arguments, code, told.getvalue()


def main(result: str, *scripts: str) -> None:
    assert Path(home_dist.__file__).parent.parent == ROOT  # not one that is installed
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *given: object) -> None:
        parse(self, *given)
        raise Understood

    argparse.ArgumentParser.parse_args = parse_and_stop
    paths = [Path(script) for script in scripts]
    found = {p.stem: [started(p, arguments) for arguments in asked(p)] for p in paths}
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
