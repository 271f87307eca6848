"""The reference: every key and command is in it, with a meaning and a version, and pages are as the code says."""

import json
import re
import subprocess
import sys
import tomllib
from functools import cache

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from home_dist.cli.app import app
from home_dist.config import RunConfig
from home_dist.errors import UserError
from home_dist.reference import FILES, Key, keys_of, look_up
from home_dist.reference.since import FILE
from tests.ranks import REPOSITORY


@cache
def keys() -> list[tuple[str, Key]]:
    return [(file.name, key) for file in FILES for key in keys_of(file.name, file.root)]


def test_every_key_has_a_meaning_and_a_version():
    assert [f"{file}:{key.path}" for file, key in keys() if not key.meaning] == []
    missing = [f"{file}:{key.path}" for file, key in keys() if not key.since]
    assert missing == [], f"add them to {FILE.name} under the version that will bring them"


def test_the_versions_list_no_key_that_is_gone():
    there = {f"{file}:{key.path}" for file, key in keys()}
    listed = {f"{file}:{key}" for files in tomllib.loads(FILE.read_text()).values() for file, ks in files.items() for key in ks}
    assert listed - there == set()


def json_schema_paths(model: type[BaseModel]) -> set[str]:
    """Paths of keys by pydantic's own JSON schema, as a reference that shares no code; not those that a kind brings."""
    schema = model.model_json_schema(by_alias=True)

    def walk(node: dict, prefix: str) -> set[str]:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
        found = set()
        for name, below in node.get("properties", {}).items():
            found |= {f"{prefix}{name}"} | walk(below, f"{prefix}{name}.")
        for branch in (*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())):
            found |= walk(branch, prefix)
        for inner, step in (("items", ""), ("additionalProperties", "NAME.")):
            if isinstance(node.get(inner), dict):
                found |= walk(node[inner], f"{prefix}{step}")
        return found

    return walk(schema, "")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_all_keys_of_pydantics_schema_are_listed(file):
    listed = {key.path for key in keys_of(file.name, file.root)}
    assert json_schema_paths(file.root) - listed == set()


def test_defaults_are_those_of_a_run():
    config = RunConfig.model_validate({"run": {"dir": "r"}, "data": {"path": "d"}})
    by_path = {key.path: key for key in keys_of("run", RunConfig) if not key.kinds}
    for path in ("train.lr", "train.batch_size", "data.lanes", "data.prefetch", "embedding.dim", "distributed.timeout"):
        section, name = path.split(".")
        assert json.loads(by_path[path].default or "null") == getattr(getattr(config, section), name)
    assert by_path["data.path"].needed
    assert not by_path["data.schema"].needed


def test_kinds_bring_their_keys():
    found = {(key.kinds, key.default) for key in keys_of("run", RunConfig) if key.path == "model.expert_norm"}
    assert {kinds for kinds, default in found if default == "true"} == {("home",)}
    shared = next(key for key in keys_of("run", RunConfig) if key.path == "model.expert_hidden")
    assert shared.default == "[64]"
    assert shared.allowed == "each ≥ 1"


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ("train.lr", "train.lr"),
        ("sequence.0.newest", "sequence.newest"),
        ("embedding.tables.video.dim", "embedding.tables.NAME.dim"),
        ("log:label.kind", "label.kind"),
        ("every_seconds", "publish.every_seconds"),
    ],
)
def test_a_key_is_found_as_users_write_it(asked, path):
    assert path in [key.path for lookup in look_up(asked) for key in lookup.keys]


def test_a_section_brings_all_its_keys():
    paths = {key.path for lookup in look_up("run:train") for key in lookup.keys}
    assert paths == {"train"} | {key.path for _, key in keys() if key.path.startswith("train.")}


def test_a_file_brings_all_its_keys():
    [found] = look_up("daily:")
    assert found.keys == [key for file, key in keys() if file == "daily"]


def test_a_wrong_key_is_told_with_near_ones():
    with pytest.raises(UserError, match=r"tran\.lr: no key .* Near it: train\.lr"):
        look_up("tran.lr")
    with pytest.raises(UserError, match="no file 'runs'; there are: run, log"):
        look_up("runs:train.lr")


def test_the_command_prints_what_the_page_says():
    result = CliRunner().invoke(app, ["config", "train.accumulate"])
    key = next(key for _, key in keys() if key.path == "train.accumulate")
    assert " ".join(key.meaning.split()) in " ".join(result.stdout.split())
    page = (REPOSITORY / "docs/reference/run.md").read_text()
    assert key.meaning in page
    command = [sys.executable, "-m", "home_dist.cli", "config", "train.accumulate", "--json"]  # --json is of a process's output
    told = json.loads(subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout)
    assert told["run"][0]["default"] == "1"


def test_pages_are_what_the_code_says():
    done = subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, f"run `make docs`:\n{done.stdout}{done.stderr}"


def toml_blocks() -> list[tuple[str, str]]:
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    fenced = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(str(page.relative_to(REPOSITORY)), text) for page in pages for text in fenced.findall(page.read_text())]


def paths_in(tree: dict, prefix: str = "") -> set[tuple[str, ...]]:
    found = set()
    for name, value in tree.items():
        path = (*prefix, name) if prefix else (name,)
        found.add(path)
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                found |= paths_in(inner, path)
    return found


@pytest.mark.parametrize(("page", "text"), toml_blocks(), ids=[page for page, _ in toml_blocks()])
def test_keys_that_pages_show_are_there(page, text):
    shown = paths_in(tomllib.loads(text))

    def unknown(file: str) -> list[str]:
        known = [key.path.split(".") for name, key in keys() if name == file]
        named = [k for k in known if "NAME" in k] + [[*k, "NAME"] for k in known]

        def is_known(path: tuple[str, ...]) -> bool:
            return any(
                len(k) == len(path) and all(a in (b, "NAME") for a, b in zip(k, path, strict=True)) for k in [*known, *named]
            )

        return [".".join(path) for path in shown if not is_known(path)]

    assert min((unknown(file.name) for file in FILES), key=len) == []
