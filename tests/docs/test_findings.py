"""The findings that docs/howto/report.md shows are there without the remedy, and gone with it."""

import pytest
import torch

from docs.findings import CASES
from home_dist.insight import rules
from tests.ranks import REPOSITORY

PAGE = (REPOSITORY / "docs" / "howto" / "report.md").read_text()


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_the_remedy_cures(case):
    assert case.rule in {sign.rule for sign in case.trained(False).signs}
    assert case.rule not in {sign.rule for sign in case.trained(True).signs}
    assert f"pictures/finding_{case.rule}.svg" in PAGE
    assert (REPOSITORY / "docs" / "pictures" / f"finding_{case.rule}.svg").is_file()


def test_every_rule_is_on_the_page():
    named = {line.split("|")[1].strip() for line in (rules.__doc__ or "").splitlines() if line.startswith("| ")}
    for rule in named - {"rule"}:
        assert f"## {rule}\n" in PAGE.lower(), rule
