"""Push and pull of 1 GB through S3 on loopback, against obstore's own put and get of the same file, in one run.

    python benchmarks/object_store.py [--runs 5] [--megabytes 1024] [--folder DIR] [--server memory|moto]

The server runs in a process of its own: s3server.py, in memory and without signatures, or moto's, which the tests use.
Each round runs every row once, one after the other. A push stages (hashes) and places; a pull writes a file,
hashed and fsynced. obstore's put is of the file by its path with the same part size; its get streams to a file that is
fsynced too.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import obstore

from registry.files.disk import reading
from registry.store.bucket.bucket import Bucket
from registry.store.bucket.objects import ObjectStore
from registry.store.bucket.uploads import PART
from registry.store.storeurl import parse_store_url

PUT, GET = "obstore put", "obstore get"
MOTO = """
import time
from urllib.request import Request, urlopen
from tests.buckets import serving
with serving() as address:
    urlopen(Request(f"{address}/bench", method="PUT")).close()
    print(address.rpartition(":")[2], flush=True)
    time.sleep(10**6)
"""


def main():
    options = arguments()
    os.environ.update(AWS_ACCESS_KEY_ID="bench", AWS_SECRET_ACCESS_KEY="bench")
    here = Path(__file__)
    command = ["-c", MOTO] if options.server == "moto" else [here.with_name("s3server.py")]
    server = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, cwd=here.parent.parent)
    try:
        endpoint = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        with tempfile.TemporaryDirectory(prefix="object-store-", dir=options.folder) as place:
            run(options, Path(place), parse_store_url(f"s3://bench/team?endpoint={endpoint}&region=us-east-1"))
    finally:
        server.terminate()
        server.wait()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--server", choices=["memory", "moto"], default="memory")
    parser.add_argument("--folder", type=Path, help="where to write; the default temporary folder otherwise")
    return parser.parse_args()


def run(options, place, url):
    source = place / "adapter_model.safetensors"
    with source.open("wb") as file:
        for _ in range(options.megabytes // 16):
            file.write(os.urandom(16 << 20))
    bucket = Bucket(url)
    rows = {PUT: put, "push": push, GET: get, "pull": pull}
    seconds = {name: [] for name in rows}
    for _ in range(options.runs):
        for name, row in rows.items():
            os.sync()
            seconds[name].append(row(bucket, source, place))
    report(seconds, options.megabytes)


def put(bucket, source, _place):
    begun = time.perf_counter()
    obstore.put(bucket.client, "plain", source, chunk_size=PART)
    return time.perf_counter() - begun


def push(bucket, source, place):
    store = ObjectStore(bucket, place / "staging")
    begun = time.perf_counter()
    with store.staging() as staging, reading(source) as descriptor:
        file = staging.add(descriptor, name=source.name, place=source)
        store.place(file)
        spent = time.perf_counter() - begun
    (place / "digest").write_text(file.digest)
    return spent


def get(bucket, _source, place):
    begun = time.perf_counter()
    with (place / "got").open("wb") as file:
        for chunk in obstore.get(bucket.client, "plain").stream(min_chunk_size=PART):
            file.write(chunk)
        os.fsync(file.fileno())
    spent = time.perf_counter() - begun
    (place / "got").unlink()
    return spent


def pull(bucket, _source, place):
    store = ObjectStore(bucket, place / "staging")
    digest = (place / "digest").read_text()
    begun = time.perf_counter()
    store.copy_to(digest, place / "pulled")
    spent = time.perf_counter() - begun
    (place / "pulled").unlink()
    store.delete(digest)  # so that the next push sends it
    return spent


def report(seconds, megabytes):
    print(f"{megabytes} MB, {len(seconds[PUT])} runs, {os.cpu_count()} cores")
    print(f"{'':16}{'median s':>10}{'min s':>8}{'max s':>8}{'of obstore':>12}")
    for name, times in seconds.items():
        middle = statistics.median(times)
        floor = statistics.median(seconds[PUT if name in (PUT, "push") else GET])
        print(f"{name:16}{middle:10.2f}{min(times):8.2f}{max(times):8.2f}{floor / middle:12.2f}")


if __name__ == "__main__":
    main()
