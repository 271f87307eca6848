"""docs/serve.md: its code runs, and its tables are those of the code."""

import json
import re
import shutil
import subprocess

import pytest

from home_dist.config.serve import ServeSection
from tests.ranks import REPOSITORY
from tests.serve.server import body, request_of, same, served

PAGE = (REPOSITORY / "docs" / "serve.md").read_text()


@pytest.mark.distributed
def test_the_code_of_the_page_runs(place, model, rows, tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    of_user, candidates, whole = request_of(rows, 2, 6)
    names = {**body(of_user, candidates)}
    expected = model.predict(whole)
    with served(place) as server:
        given = {"server": server.url, **names}
        one, two = dict(given), dict(given)
        exec(compile(blocks[0], "serve.md", "exec"), one)
        exec(compile(blocks[1], "serve.md", "exec"), two)
        metrics = server.metrics()
        (tmp_path / "request.json").write_text(json.dumps(names))
        [command] = re.findall(r"^    (curl .*)$", PAGE, re.MULTILINE)
        command = command.replace("http://127.0.0.1:8000", server.url)
        if shutil.which("curl"):
            told = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, check=True)
            same(json.loads(told.stdout)["predictions"], expected)
    same(one["answer"]["predictions"], expected)
    assert two["table"].replace_schema_metadata().cast(expected.schema) == expected
    assert len(blocks) == 2
    told = {name.partition("{")[0] for name in metrics}
    for name in re.findall(r"`(home_dist_\w+)`", PAGE):
        assert name in told or f"{name}_count" in told, name


def test_the_page_has_all_settings_with_their_defaults():
    table = PAGE.partition("| key | default | what it is |")[2].partition("\n\n")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", table, re.MULTILINE))
    defaults = {name: field.default for name, field in ServeSection.model_fields.items()}
    assert told == {name: str(value).removesuffix(".0").lower() or "none" for name, value in defaults.items()}
