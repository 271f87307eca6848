"""Puts a folder into a bucket, or gets one: s3_folder.py put|get ENDPOINT FOLDER PLACE, on a host that sees the server."""

import socket
import sys
import time
from pathlib import Path

from pyarrow import fs


def main(way: str, endpoint: str, folder: str, place: str) -> None:
    host, _, port = endpoint.removeprefix("http://").partition(":")
    deadline = time.monotonic() + 40
    while True:
        try:
            socket.create_connection((host, int(port)), 1).close()
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    store = fs.S3FileSystem(endpoint_override=endpoint, region="us-east-1", allow_bucket_creation=True)
    if way == "get":
        Path(folder).mkdir(exist_ok=True)
        fs.copy_files(place, folder, source_filesystem=store, destination_filesystem=fs.LocalFileSystem())
        return
    store.create_dir(place)
    fs.copy_files(f"{folder}/log", f"{place}/log", destination_filesystem=store)
    fs.copy_files(f"{folder}/video.csv", f"{place}/side/video.csv", destination_filesystem=store)


if __name__ == "__main__":
    main(*sys.argv[1:])
