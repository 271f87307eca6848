"""One rank's part of test_requests.py: looks for the requests of each folder, and writes what it found or why it failed.

request_ranks.py FOLDER NAME,NAME,...
"""

import json
import sys
from pathlib import Path

from home_dist.config import DistributedSection, load_config
from home_dist.data import open_files
from home_dist.data.request_scan import find_requests
from home_dist.data.requests import Requests
from home_dist.distributed import ranks
from home_dist.distributed.ranks import OtherRankFailed
from home_dist.errors import DataError
from home_dist.schema import build_layout
from tests.factory import make_config, make_schema


def as_json(found: Requests) -> dict[str, object]:
    return {"type": str(found.sizes.dtype), **{key: getattr(found, key).tolist() for key in ("sizes", "firsts", "heads")}}


def main(folder: str, names: str) -> None:
    formed = ranks.form_ranks(DistributedSection(threads=1))
    schema = make_schema()
    config = make_config(Path(folder, f"config-{formed.rank}"), Path(folder))
    layout = build_layout(schema, load_config(config))
    for name in names.split(","):
        files = open_files(Path(folder, name), schema, layout, ("request_id",))
        try:
            found = find_requests(files, formed, threads=2)
            told = {key: getattr(found, key).tolist() for key in ("sizes", "firsts", "heads")} | {
                "type": str(found.sizes.dtype)
            }
        except DataError as error:
            told = {"error": str(error)}
        except OtherRankFailed as error:
            told = {"other": error.exit_code}
        Path(folder, f"{name}.{formed.rank}.json").write_text(json.dumps(told))
    ranks.leave_ranks()


if __name__ == "__main__":
    main(*sys.argv[1:])
