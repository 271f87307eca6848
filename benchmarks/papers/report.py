"""Writes benchmarks/papers/README.md from the studies' results, and what is to be said of them.

python benchmarks/papers/report.py
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
INTRODUCTION = """# Papers, done again

Each study is a command, a results file (`results/*.json`), a table and mostly a picture made from it, and what agrees with the
paper and what does not. Seeds are told, spreads are standard deviations over seeds, and what came out against expectation stays
in. All of it runs on two cores; larger numbers are options of the same commands. This page is written by `report.py`.
"""


@dataclass(frozen=True)
class Study:
    title: str
    command: str
    results: tuple[str, ...]
    """Names of tables, and of pictures where there are some."""
    said: str


STUDIES = [
    Study(
        "MMoE on tasks of given correlation (Ma et al. 2018, section 3)",
        "python benchmarks/papers/mmoe_synthetic.py",
        ("mmoe_synthetic",),
        "TODO",
    ),
    Study("Census-Income (Ma et al. 2018, section 6.2)", "python benchmarks/papers/census.py RAW", ("census",), "TODO"),
    Study("HoME on generated logs", "python benchmarks/papers/home.py planted", ("home_planted",), "TODO"),
    Study("HoME on the KuaiRand-Pure sample", "python benchmarks/papers/home.py kuairand", ("home_kuairand",), "TODO"),
    Study("Number of experts and depth", "python benchmarks/papers/capacity.py", ("capacity",), "TODO"),
    Study("How far back histories are read", "python benchmarks/papers/sequences.py", ("sequences",), "TODO"),
]


def section(study: Study) -> str:
    parts = [f"## {study.title}", f"    {study.command}"]
    for name in study.results:
        results = HERE / "results" / name
        if not results.with_suffix(".md").is_file():
            parts.append("No full run yet.")
            continue
        parts += [study.said, results.with_suffix(".md").read_text().strip()]
        if results.with_suffix(".png").is_file():
            parts.append(f"![{study.title}](results/{name}.png)")
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="what it does anyway, without writing")
    text = "\n".join([INTRODUCTION, *(section(study) + "\n" for study in STUDIES)])
    if not parser.parse_args().quick:
        (HERE / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
