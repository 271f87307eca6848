"""Data of the recipe's parts: the KuaiRand sample prepared anew with more statistics, longer histories, or vectors of videos.

All that is added is known before an impression is shown. Vectors are learned from the stored histories alone, which end before
the log begins.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import svds

from home_dist.files.whole import whole_folder
from home_dist.ids.keys import codes
from home_dist.prepare.asof import AsOf
from home_dist.prepare.days import DAY_MS
from home_dist.prepare.frozen import write_frozen
from home_dist.prepare.kuairand import KuaiRandOptions, prepare_kuairand
from home_dist.prepare.kuairand.files import read_source
from home_dist.prepare.kuairand.log import GROUPS, Log
from home_dist.prepare.kuairand.statistics import seen
from home_dist.prepare.kuairand.stored import read_stored
from home_dist.prepare.rates import base_rates, log_odds
from home_dist.prepare.written_vocabulary import published_keys
from home_dist.schema import PretrainedFeature, load_schema, save_schema

Floats = NDArray[np.float64]

WATCH = GROUPS["watch"]
RATED = (*GROUPS["interaction"], *WATCH)
HALF_LIFE_MS = DAY_MS
HOURS = 4
"""Of a part of the day."""
WIDTH, WINDOW = 16, 5
"""Of vectors of videos, and of the events on each side that count as watched together."""
STARTS: Mapping[str, float] = {"starts": 1.0, "starts_small": 0.2}
"""Folders of vectors by video, and their length."""
_SCALE = 1 << 30


def decayed_rates(log: Log) -> dict[str, Floats]:
    """Counts and rates of the video, and of the user's and the tab's watching, in which an event of a day ago counts half."""
    keys = {"video": (log.video, RATED, 20.0), "user": (log.user, WATCH, 5.0), "tab": (log.tab, RATED, 20.0)}
    weight = np.round(_SCALE * 2.0 ** ((log.time - log.time.max()) / HALF_LIFE_MS)).astype(np.int64)
    grown = 2.0 ** ((log.time.max() - log.time) / HALF_LIFE_MS) / _SCALE
    everyone = AsOf(np.zeros(len(log), np.int64), log.time, np.zeros(len(log), np.int64), log.time)
    bases = {b: base_rates(*seen(log, everyone, b)) for b in RATED}
    found: dict[str, Floats] = {}
    for name, (ids, behaviours, strength) in keys.items():
        key = codes(published_keys(ids))
        before = AsOf(key, log.time, key, log.time)
        counted = before.sum(weight) * grown
        found[f"{name}_decayed_count"] = np.log1p(counted)
        for behaviour in behaviours:
            of = before.sum(weight * log.watch_known) * grown if behaviour in WATCH else counted
            happened = before.sum(weight * log.happened[behaviour]) * grown
            found[f"{name}_decayed_{behaviour}"] = log_odds(happened, of, bases[behaviour], strength)
    return found


def rates_by_hour(log: Log) -> dict[str, Floats]:
    """Counts, and rates of watching, of the user's impressions in this part of the day, in Beijing."""
    part = (log.time + 8 * 3_600_000) % DAY_MS // (HOURS * 3_600_000)
    key = codes(published_keys(log.user), published_keys(part))
    before = AsOf(key, log.time, key, log.time)
    everyone = AsOf(np.zeros(len(log), np.int64), log.time, np.zeros(len(log), np.int64), log.time)
    found = {"user_hours_count": np.log1p(before.count())}
    for behaviour in WATCH:
        base = base_rates(*seen(log, everyone, behaviour))
        found[f"user_hours_{behaviour}"] = log_odds(*seen(log, before, behaviour), base, 5.0)
    return found


VARIANTS: Mapping[str, KuaiRandOptions] = {
    "decayed": KuaiRandOptions(more=decayed_rates),
    "hours": KuaiRandOptions(more=rates_by_hour),
    "long": KuaiRandOptions(history=200),
}
VECTORS = "vectors"


def write_variant(name: str, raw: Path, sample: Path, out: Path, say: Callable[[str], None]) -> None:
    """Writes the data folder `out`, if it is not there. raw: the published files; sample: the prepared data as they are."""
    if out.exists():
        if name == VECTORS and not all((out / folder).is_dir() for folder in STARTS):
            raise SystemExit(f"{out}: an earlier version of this script wrote it. Remove it.")
        return
    if name == VECTORS:
        with whole_folder(out) as writing:
            add_vectors(raw, sample, writing)
    else:
        prepare_kuairand(raw, out, VARIANTS[name], say)


def add_vectors(raw: Path, sample: Path, out: Path) -> None:
    """The sample with a feature `co_watch`: the video's vector, from positive pointwise mutual information of videos that users
    watched within WINDOW events of each other before the log began (Levy and Goldberg, NeurIPS 2014, section 5). Also the same
    vectors by video as frozen tables, for tables that begin with them: STARTS."""
    vocabulary = pq.read_table(sample / "vocabularies" / "video.parquet")
    row_of = dict(zip(vocabulary["value"].to_pylist(), vocabulary["row"].to_pylist(), strict=True))
    schema = load_schema(sample / "schema.toml")
    rows = next(t.rows for t in schema.table if t.name == "video")
    stored = read_stored(read_source(raw, False, lambda _: None).sequences)
    before = stored.time < _first_time(sample)
    video = np.array([row_of.get(v, 0) for v in stored.video[before].tolist()], np.int64)
    vectors, known = co_watch_vectors(video, stored.user[before], rows)
    for split in ("train", "validation", "test"):
        (out / split).mkdir()
        for path in sorted((sample / split).glob("*.parquet")):
            table = pq.read_table(path)
            at = table["video"].to_numpy()
            flat, null = vectors[at].astype(np.float32), ~known[at]
            offsets = pa.array(np.arange(len(at) + 1, dtype=np.int32) * WIDTH)
            lists = pa.ListArray.from_arrays(offsets, pa.array(flat.ravel()), mask=pa.array(null))
            pq.write_table(table.append_column("co_watch", lists), out / split / path.name, write_page_checksum=True)
    videos, place = np.array(list(row_of)), np.array(list(row_of.values()))
    for folder, scale in STARTS.items():
        given = pa.array((scale * vectors[place[known[place]]]).astype(np.float32).tolist(), pa.list_(pa.float32()))
        pq.write_table(pa.table({"video": videos[known[place]], "vector": given}), out / f"{folder}.parquet")
        write_frozen(out / f"{folder}.parquet", "video", "vector", out / folder)
    (out / "vocabularies").symlink_to((sample / "vocabularies").resolve())
    feature = PretrainedFeature(name="co_watch", column="co_watch", width=WIDTH)
    save_schema(schema.model_copy(update={"feature": (*schema.feature, feature)}), out / "schema.toml")


def _first_time(sample: Path) -> int:
    return min(int(pq.read_table(p, columns=["time_ms"])["time_ms"].to_numpy().min()) for p in (sample / "train").iterdir())


def co_watch_vectors(video: NDArray[np.int64], user: NDArray[np.int64], rows: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Vectors (rows, WIDTH) of unit length and (rows,) which are known. video, user: (M,), a user's events one after another,
    oldest first; video 0 is unknown."""
    pairs = sp.csr_matrix((rows, rows))
    for gap in range(1, WINDOW + 1):
        one, other = video[:-gap], video[gap:]
        together = (user[:-gap] == user[gap:]) & (one > 0) & (other > 0) & (one != other)
        counted = sp.coo_matrix((np.ones(together.sum()), (one[together], other[together])), (rows, rows)).tocsr()
        pairs = pairs + counted + counted.T
    total, marginal = pairs.sum(), np.asarray(pairs.sum(1)).ravel()
    found = pairs.tocoo()
    information = np.log(found.data * total / (marginal[found.row] * marginal[found.col]))
    positive = sp.coo_matrix((np.maximum(information, 0), (found.row, found.col)), (rows, rows)).tocsr()
    left, strength, _ = svds(positive, k=WIDTH, random_state=0)
    vectors = left * np.sqrt(strength)
    length = np.linalg.norm(vectors, axis=1)
    known = (marginal >= 20) & (length > 0)
    return vectors / np.where(known, length, 1.0)[:, None], known
