"""Writes what docs/ has that is made from code and results: `make docs` runs it before mkdocs.

    python docs/generate.py            # writes
    python docs/generate.py --check    # names the files that would change, and exits 1 if there are any

Reference pages come from the classes that validate the files. In all pages, the text between `<!-- results NAME.md -->` and
`<!-- end -->` is the table of benchmarks/results/NAME.md (of peers: docs/peers.py's), and the text between
`<!-- figure FILE KEY.KEY FORMAT -->` and `<!-- end -->` is one number of benchmarks/results/FILE.
"""

import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from docs.masks import mask_pages  # noqa: E402
from docs.peers import ratios  # noqa: E402
from home_dist.cli.app import app  # noqa: E402
from home_dist.reference import FILES, keys_of  # noqa: E402
from home_dist.reference.commands import commands_page  # noqa: E402
from home_dist.reference.lines import markdown  # noqa: E402

DOCS, RESULTS = ROOT / "docs", ROOT / "benchmarks" / "results"
TABLE = re.compile(r"(<!-- results (\S+) -->).*?(\n<!-- end -->)", re.DOTALL)
FIGURE = re.compile(r"(<!-- figure (\S+) (\S+) (\S+) -->).*?(<!-- end -->)", re.DOTALL)


def generated() -> dict[Path, str]:
    """By file: its whole text."""
    pages = {DOCS / "reference" / f"{file.name}.md": markdown(file, keys_of(file.name, file.root)) for file in FILES}
    pages[DOCS / "reference" / "commands.md"] = commands_page(app)
    pages |= mask_pages(DOCS)
    for path in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        if path not in pages:
            pages[path] = with_results(path.read_text(), path)
    return pages


def with_results(text: str, path: Path) -> str:
    """The page with its tables and figures as results/ has them."""
    text = TABLE.sub(lambda m: m[1] + "\n" + table(m[2]) + m[3], text)
    return FIGURE.sub(lambda m: m[1] + figure(m[2], m[3], m[4], path) + m[5], text)


def table(name: str) -> str:
    """The tables of a results page, without its title and its pictures."""
    if name == "peers":
        return ratios(result("peers.json"))
    lines = (RESULTS / name).read_text().strip().splitlines()
    return "\n".join(line for line in lines if not line.startswith(("# ", "!["))).strip()


def figure(name: str, keys: str, form: str, path: Path) -> str:
    value = result(name)
    for key in keys.split("."):
        try:
            value = value[int(key)] if isinstance(value, list) else value[key.replace("~", " ")]
        except (KeyError, IndexError, ValueError):
            sys.exit(f"{path.relative_to(ROOT)}: figure {name} {keys}: there is no {key!r}")
    return format(value, form)


@cache
def result(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


def main() -> int:
    changed = {path: text for path, text in generated().items() if not path.exists() or path.read_text() != text}
    if "--check" in sys.argv[1:]:
        for path in changed:
            print(f"{path.relative_to(ROOT)}: not what `make docs` writes")
        return bool(changed)
    for path, text in changed.items():
        path.write_text(text)
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
