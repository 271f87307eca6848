"""One version everywhere; issue forms and the citation hold what they must."""

import re
import tomllib

import pytest
import yaml

import home_dist
from tests.ranks import REPOSITORY

FORMS = sorted(p for p in (REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if p.stem != "config")
KINDS = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


def test_the_version_stands_in_one_place_and_is_told_in_the_others():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "home_dist.__version__"}
    newest = re.search(r"^## \[(.*?)\] - (\S+)$", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert newest is not None
    assert (newest[1], newest[2]) == (citation["version"], str(citation["date-released"]))
    assert newest[1] == home_dist.__version__


def test_the_citation_has_what_its_format_demands():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert all({"type", "title", "authors"} <= reference.keys() for reference in citation["references"])


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_forms_are_ones_that_github_takes(path):
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= form.keys()
    ids = [part["id"] for part in form["body"]]
    assert len(set(ids)) == len(ids)
    for part in form["body"]:
        assert part["type"] in KINDS
        assert part["attributes"]["label"]
        assert isinstance(part["validations"]["required"], bool)


def test_a_bug_comes_with_what_doctor_says():
    assert {p.stem for p in FORMS} == {"bug", "feature", "question"}
    form = yaml.safe_load((REPOSITORY / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text())
    [doctor] = [part for part in form["body"] if part["id"] == "doctor"]
    assert doctor["validations"]["required"] is True
    assert "home-dist doctor" in doctor["attributes"]["description"]
