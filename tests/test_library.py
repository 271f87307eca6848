"""home_dist as a library: what stands in it, what it needs, and the page that shows it."""

import ast
import inspect
import re
import subprocess
import sys

import pytest

import home_dist
from home_dist.config.model import MODELS
from home_dist.config.sequence import ENCODERS
from tests.factory import make_config, make_data
from tests.ranks import REPOSITORY, run, settings

PAGE = REPOSITORY / "docs" / "library.md"


def python(code: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which has imported nothing."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )


def test_every_name_is_there_with_a_docstring():
    for name in home_dist.__all__:
        value = getattr(home_dist, name)
        assert name in dir(home_dist)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, name
            assert not value.__doc__.startswith(f"{name}("), name  # what a dataclass writes by itself
    with pytest.raises(AttributeError, match="module 'home_dist' has no attribute 'nothing'"):
        _ = home_dist.nothing


def test_all_models_and_encoders_are_there():
    for kinds in (MODELS, ENCODERS):
        for kind in kinds:
            cls = kinds.find(kind)
            assert getattr(home_dist, cls.__name__) is cls


def test_type_checkers_see_the_same_names():
    tree = ast.parse((REPOSITORY / "home_dist" / "__init__.py").read_text())
    [guarded] = [node for node in tree.body if isinstance(node, ast.If)]
    told = {alias.name: statement.module for statement in guarded.body for alias in statement.names}
    assert told == home_dist._MODULE_OF
    assert sorted(told) == sorted(home_dist.__all__)


def test_importing_it_imports_nothing_else():
    ended = python("import sys; before = set(sys.modules); import home_dist; print(*sorted(set(sys.modules) - before))")
    assert ended.returncode == 0, ended.stderr
    found = ended.stdout.split()
    assert [name for name in found if name.partition(".")[0] not in sys.stdlib_module_names] == ["home_dist"]


def test_all_but_load_go_without_torchrec():
    """They are imported and, as on the page, used."""
    blocked = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torchrec', 'fbgemm_gpu'):\n"
        "            raise ModuleNotFoundError(f'blocked: {name}', name=name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "import home_dist\n"
        "for name in home_dist.__all__:\n"
        "    if name not in ('load', 'LoadedModel'):\n"
        "        getattr(home_dist, name)\n"
    )
    ended = python(blocked + "\n".join(blocks()[:-1]) + "\nprint('torchrec' in sys.modules)\nhome_dist.load")
    assert ended.stdout.endswith("False\n"), ended.stderr
    assert "blocked: torchrec" in ended.stderr  # so that the block is one


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.distributed
def test_the_code_of_the_page_runs(tmp_path, capsys):
    config = make_config(tmp_path, make_data(tmp_path / "data", rows=200, files=1))
    ended = run(1, "train", config, *settings(train__max_steps=2, data__validation="''", data__test="''"))
    assert ended.codes == [0], ended.text
    names = {"run": tmp_path / "run", "data": tmp_path / "data"}
    assert len(blocks()) == 5
    for block in blocks():
        exec(compile(block, str(PAGE), "exec"), names)
    assert "cpu, fp32 (passes compiled for this processor)" in capsys.readouterr().out
