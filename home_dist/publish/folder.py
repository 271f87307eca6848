"""The folder of versions, on a disk or in a store: v000001/, v000002/, ..., and `current`, which names the newest.

A version is there when its manifest is. On a disk it is written under another name and renamed; a store renames nothing, so
that the manifest is put last. `current` holds one line, the version's name and the SHA-256 of its manifest, and is replaced in
one go. Remains of killed publishers are removed by the next one.

A store has no locks: a publisher that slept may find that another one has taken its claim. It reads the claim before each step
that others would see, ends with Taken, and leaves what is there. What it was writing meanwhile stands below a number that the
other one does not use, since a number is seen in the store from its beginning on.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from home_dist.errors import DataError
from home_dist.files import remote
from home_dist.files.hashes import file_sha256
from home_dist.files.lock import locked
from home_dist.files.places import is_remote, join, path_of
from home_dist.files.remote_claim import Claim, claimed, remove_claimed
from home_dist.files.stores import open_store
from home_dist.files.whole import MARK, WRITING, clear_folder, mark_folder, remove_unfinished, sync, sync_tree, write_whole
from home_dist.publish.manifest import (
    ADVICE,
    CURRENT,
    MANIFEST,
    FileEntry,
    Manifest,
    PublishError,
    digest,
    version_name,
    version_number,
)

_LOCK, _CLAIM = ".publisher.lock", ".publisher"
_BEGUN = ".begun"
"""A file that a version in a store holds until it is whole."""
_BLOCK = 1 << 20


class VersionsFolder:
    def __init__(self, place: str):
        """Raises DataError for a URL that cannot be opened."""
        self.place, self.remote = place, is_remote(place)
        store, path = open_store(place)
        self._filesystem = store.filesystem
        self.local = Path(path)
        self._claim: Claim | None = None

    def __str__(self) -> str:
        return self.shown("")

    def shown(self, name: str) -> str:
        """A file or folder below, for messages; without a URL's options."""
        place = join(self.place, name)
        return path_of(place) if self.remote else place.rstrip("/")

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Within it no other publisher writes here; methods that write or remove raise Taken if one has taken over meanwhile.
        Raises PublishError if one is at work, or for a folder of other files."""
        busy = PublishError(
            f"{self}: another publisher writes versions there. End it, or publish to another folder: two runs in one folder "
            "would replace each other's model."
        )
        with ExitStack() as claims:
            if self.remote:
                foreign = PublishError(f"{self.shown(_CLAIM)}: holds files that are not ours. Choose another folder.")
                try:
                    claim = claims.enter_context(claimed(join(self.place, _CLAIM), "publish", foreign))
                except (PublishError, remote.StoreError):
                    raise
                except DataError as error:
                    raise PublishError(f"{busy} ({error})") from None
                claims.callback(self._give_back, claim)
                claims.enter_context(claim.refreshed())
                self._claim = claim
            else:
                try:
                    self.local.mkdir(parents=True, exist_ok=True)
                    claims.enter_context(locked(self.local / _LOCK, busy))
                except OSError as error:
                    raise PublishError(f"{self}: cannot be written: {error}. Choose another folder.") from None
            yield

    def _give_back(self, claim: Claim) -> None:
        # `self._claim` stays: whoever still writes finds its mark gone.
        with suppress(DataError):  # the store is away: the mark will count as left
            if claim.is_own():
                remove_claimed(join(self.place, _CLAIM))

    def is_own(self) -> bool:
        """Whether the claim is still this publisher's. Raises StoreError."""
        return self._claim is None or self._claim.is_own()

    def _check_claim(self) -> None:
        """Raises Taken, StoreError."""
        if self._claim is not None:
            self._claim.check()

    def versions(self) -> list[int]:
        """Numbers of whole versions, ascending. Raises StoreError, OSError."""
        return sorted(n for n, whole in self._all().items() if whole)

    def _all(self) -> dict[int, bool]:
        """By number: whether the version is whole."""
        found: dict[int, bool] = {}
        if self.remote:
            for name in remote.names_below(self.place):
                folder, _, rest = name.partition("/")
                number = version_number(folder)
                if number is not None:
                    found[number] = found.get(number, False) or rest == MANIFEST
        elif self.local.is_dir():
            for path in self.local.iterdir():
                number = version_number(path.name.removesuffix(WRITING))
                if number is not None:
                    whole = not path.name.endswith(WRITING) and (path / MANIFEST).is_file()
                    found[number] = found.get(number, False) or whole
        return found

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None if there is none. Raises PublishError."""
        try:
            return remote.read_bytes(join(self.place, name)) if self.remote else (self.local / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise PublishError(f"{self.shown(name)}: cannot be read: {error}. Check its permissions.") from None

    def current(self) -> tuple[str, str] | None:
        """(version, SHA-256 of its manifest) that `current` names; None before the first version. Raises PublishError."""
        content = self.read(CURRENT)
        if content is None:
            return None
        words = content.decode(errors="replace").split()
        if len(words) != 2 or version_number(words[0]) is None or len(words[1]) != 64:
            raise PublishError(f"{self.shown(CURRENT)}: names no version. Publish again, or name the version to read.")
        return words[0], words[1]

    def manifest(self, version: str, sha256: str | None = None) -> Manifest:
        """Raises PublishError for a manifest that is missing, damaged, or not the one whose hash is given."""
        place = self.shown(f"{version}/{MANIFEST}")
        content = self.read(f"{version}/{MANIFEST}")
        if content is None:
            raise PublishError(f"{place}: no such file: the version is gone or incomplete. Read `{CURRENT}` again.")
        if sha256 is not None and digest(content) != sha256:
            raise PublishError(f"{place}: its SHA-256 is not {sha256}: it is damaged, or was replaced. Publish a full version.")
        manifest = Manifest.from_bytes(content, place)
        if manifest.version != version:
            raise PublishError(f"{place}: is the manifest of {manifest.version}: the folder was renamed. Restore its name.")
        return manifest

    def fetched(self, version: str, name: str, entry: FileEntry, to: Path) -> Path:
        """A file of a version on this machine, checked against its hash. to: folder for copies of remote files. Raises
        PublishError, which names the file."""
        shown = self.shown(f"{version}/{name}")
        path = to / version / name if self.remote else self.local / version / name
        try:
            if self.remote:
                remote.fetch(join(self.place, f"{version}/{name}"), path)
            size = path.stat().st_size
            if size != entry.bytes:
                raise PublishError(f"{shown}: has {size:,} bytes instead of {entry.bytes:,}: it is incomplete. {ADVICE}")
            if file_sha256(path) != entry.sha256:
                raise PublishError(f"{shown}: its SHA-256 is not the manifest's: it is damaged. {ADVICE}")
        except (FileNotFoundError, NotADirectoryError):
            raise PublishError(f"{shown}: no such file: the version is gone or incomplete. {ADVICE}") from None
        except OSError as error:
            raise PublishError(f"{shown}: cannot be read: {error}. Check its permissions.") from None
        return path

    def clear_unfinished(self) -> None:
        """Removes versions that killed publishers left unfinished. Call it within `claimed`. Raises Taken, PublishError,
        StoreError, OSError."""
        self._check_claim()
        if not self.remote:
            remove_unfinished(self.local / CURRENT)
        for number, whole in self._all().items():
            if self.remote and not whole:
                remote.remove_below(join(self.place, version_name(number)))
            elif not self.remote:
                clear_folder(self._writing(version_name(number)), PublishError)

    def next_number(self) -> int:
        """Of a new version: above all there are, whole or not. Ask before `clear_unfinished`: whoever left a version unfinished
        may still be writing it."""
        return max(self._all(), default=0) + 1

    def _writing(self, version: str) -> Path:
        return self.local / f"{version}{WRITING}"

    def begin(self, version: str) -> None:
        """Makes the folder that ranks write into. Raises Taken, OSError, StoreError."""
        self._check_claim()
        if self.remote:
            remote.put_bytes(b"", join(self.place, f"{version}/{_BEGUN}"))
        else:
            self._writing(version).mkdir(parents=True)
            mark_folder(self._writing(version), self.local / version)

    @contextmanager
    def writing(self, version: str, name: str) -> Iterator[BinaryIO]:
        """A file of a version that has begun. On any rank. Raises OSError."""
        if self.remote:
            _, key = open_store(join(self.place, f"{version}/{name}"))
            with self._filesystem.open_output_stream(key, buffer_size=_BLOCK) as stream:
                yield cast(BinaryIO, stream)
            return
        path = self._writing(version) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb", buffering=_BLOCK) as file:
            yield file

    def copy(self, version: str, name: str, source: Path) -> FileEntry:
        """Copies a file of this machine into a version that has begun. Raises OSError, StoreError."""
        with source.open("rb") as file, self.writing(version, name) as target:
            hashing = hashlib.sha256()
            while block := file.read(_BLOCK):
                target.write(block)
                hashing.update(block)
            return FileEntry(file.tell(), hashing.hexdigest())

    def refuse_missing(self, version: str, written: Sequence[Mapping[str, FileEntry]]) -> None:
        """Raises PublishError for a file of a rank that is not here. written: by rank, of a version that has begun."""
        sizes = remote.sizes_below(join(self.place, version)) if self.remote else {}
        for rank, files in enumerate(written):
            for name, entry in files.items():
                path = self._writing(version) / name
                size = sizes.get(name) if self.remote else path.stat().st_size if path.is_file() else None
                if size != entry.bytes:
                    raise PublishError(
                        f"{self}: has not what rank {rank} has written ({name}, {entry.bytes:,} bytes). Publish to a folder "
                        "that all machines share, or to a store."
                    )

    def finish(self, manifest: Manifest) -> str:
        """Makes the version whole and current. Returns the SHA-256 of its manifest. Raises Taken, OSError, StoreError."""
        version, content = manifest.version, manifest.to_bytes()
        sha256 = digest(content)
        if self.remote:
            self._check_claim()
            remote.put_bytes(content, join(self.place, f"{version}/{MANIFEST}"))
            remote.remove_file(join(self.place, f"{version}/{_BEGUN}"))
            self._check_claim()
            remote.put_bytes(f"{version} {sha256}\n".encode(), join(self.place, CURRENT))
            return sha256
        writing = self._writing(version)
        write_whole(writing / MANIFEST, content)
        sync_tree(writing)
        writing.rename(self.local / version)
        (self.local / version / MARK).unlink()
        sync(self.local)
        write_whole(self.local / CURRENT, f"{version} {sha256}\n")
        return sha256

    def abandon(self, version: str) -> None:
        """Removes a version that could not be finished. Raises Taken, OSError, StoreError."""
        self._check_claim()
        if self.remote:
            remote.remove_below(join(self.place, version))
        else:
            clear_folder(self._writing(version), PublishError)

    def prune(self, keep: int) -> list[str]:
        """Removes versions but the newest `keep` and those that these build on. Returns what is wrong with damaged versions,
        which count as built on the version before them. Raises Taken, PublishError, StoreError, OSError."""
        self._check_claim()
        there = [version_name(n) for n in self.versions()]
        damaged: list[str] = []
        before = dict(zip(there[1:], there, strict=False))
        kept: set[str] = set()
        for newest in there[-keep:]:
            name: str | None = newest
            while name is not None and name not in kept:
                kept.add(name)
                name = self._base_of(name, before.get(name), damaged)
        for name in reversed([name for name in there if name not in kept]):  # a delta before its base
            self._check_claim()
            if self.remote:
                remote.remove_file(join(self.place, f"{name}/{MANIFEST}"))
                remote.remove_below(join(self.place, name))
            else:
                mark_folder(self.local / name, self._writing(name))
                (self.local / name).rename(self._writing(name))
                clear_folder(self._writing(name), PublishError)
        return damaged

    def _base_of(self, version: str, before: str | None, damaged: list[str]) -> str | None:
        try:
            base = self.manifest(version).base
            return None if base is None else base.version
        except PublishError as error:
            damaged.append(str(error))
            return before
