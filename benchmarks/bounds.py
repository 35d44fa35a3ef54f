"""Does memory stay bounded, whatever comes? `python -m benchmarks.bounds`.

A private service with default settings gets, one after the other, what would make a careless one grow; after each, the
table shows by how much the highest resident memory (VmHWM, all processes of a role, shared pages counted in each) lies
above what the role held at rest after a warm-up:

- one line: a file of 1 GB without a line break, as the input of a job, which must end, with a problem and not with us;
- empty lines: a file of 10 million line breaks, likewise;
- bombs: 20 gzip files that each unpack to 1 GB of one line, and one with 1,000 members of 1 MB;
- slow readers: a file of 256 MB read by 30 clients at 64 kB/s for a while; those beyond the places are told so;
- pages: all results of 50,000 failed lines, in pages of 1,000 and as one download.

Ten million lines are ingested at the usual speed, so the second case takes minutes. `--scale 0.1` is a quick look.

A growth is not a leak by itself (an allocator keeps what it once had), so each case runs twice, and the second time is
shown beside the first: it must not grow again.
"""

import argparse
import gzip
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import machine
from benchmarks.memory import forget_peaks, peak
from benchmarks.service import BenchmarkFailed, Service, checked, running
from benchmarks.tables import markdown

MB = 2**20
ROLES = ("API", "io worker")
_ENDED = ("completed", "failed", "cancelled", "expired")


def one_line(service: Service, folder: Path, scale: float) -> None:
    path = folder / "line.txt"
    _fill(path, b"x" * MB, round(1_000 * scale))
    _end(service, path)


def empty_lines(service: Service, folder: Path, scale: float) -> None:
    path = folder / "empty.txt"
    _fill(path, b"\n" * 100_000, round(100 * scale))
    _end(service, path)


def bombs(service: Service, folder: Path, scale: float) -> None:
    path, members = folder / "bomb.jsonl.gz", folder / "members.jsonl.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(round(1_000 * scale)):
            file.write(b"[" * MB)
    members.write_bytes(gzip.compress(b"[" * MB) * 1_000)
    for each in (*[path] * 20, members):
        _end(service, each)


def slow_readers(service: Service, folder: Path, scale: float) -> None:
    path = folder / "large.txt"
    _fill(path, b"x" * MB, round(256 * scale))
    file_id = service.upload(path)
    until = time.monotonic() + 20
    with ThreadPoolExecutor(30) as pool:
        list(pool.map(lambda _: _sip(service, file_id, until), range(30)))
    checked(service.http.delete(f"/v1/files/{file_id}"))


def pages(service: Service, folder: Path, scale: float) -> None:
    path = folder / "lines.jsonl"
    _fill(path, b'{"text": 1}\n' * 500, round(100 * scale))
    job_id = service.submit(task="translation", input_file_id=service.upload(path), on_error="skip")
    _ended(service, job_id)
    url: str | None = f"/v1/jobs/{job_id}/results?limit=1000"
    while url is not None:
        answer = service.http.get(url)
        answer.raise_for_status()
        url = answer.links.get("next", {}).get("url")
    with service.http.stream("GET", f"/v1/jobs/{job_id}/results") as download:
        received = sum(len(piece) for piece in download.iter_raw())
    if not received:
        raise BenchmarkFailed("there are no results")


CASES: dict[str, Callable[[Service, Path, float], None]] = {
    "one line of 1 GB": one_line,
    "10 million empty lines": empty_lines,
    "21 bombs": bombs,
    "30 slow readers": slow_readers,
    "50,000 results": pages,
}


def _fill(path: Path, piece: bytes, times: int) -> None:
    if not path.exists():
        with path.open("wb") as file:
            for _ in range(times):
                file.write(piece)


def _end(service: Service, path: Path) -> None:
    """The job of the file must end, and if it fails, for what is in it."""
    file_id = service.upload(path)
    format = "jsonl" if ".jsonl" in path.name else "txt"
    job = _ended(service, service.submit(task="translation", input_file_id=file_id, format=format))
    codes = {problem["code"] for problem in (job["errors"] or {}).get("data", [])}
    if "internal_error" in codes or (job["status"] == "failed") != bool(codes):
        raise BenchmarkFailed(f"{path.name}: the job is {job['status']}, {job['errors']}")
    checked(service.http.delete(f"/v1/files/{file_id}"))


def _ended(service: Service, job_id: str) -> dict[str, Any]:
    until = time.monotonic() + 900
    while (job := checked(service.http.get(f"/v1/jobs/{job_id}")))["status"] not in _ENDED:
        if time.monotonic() > until:
            raise BenchmarkFailed(f"{job_id} is {job['status']}")
        time.sleep(0.2)
    return job


def _sip(service: Service, file_id: str, until: float) -> None:
    where = urlsplit(str(service.http.base_url))
    head = f"GET /v1/files/{file_id}/content HTTP/1.1\r\nHost: here\r\nAuthorization: "
    with socket.create_connection((where.hostname, where.port or 80), timeout=30) as connection:
        connection.sendall(f"{head}{service.http.headers['authorization']}\r\n\r\n".encode())
        while time.monotonic() < until and connection.recv(64 * 1024):
            time.sleep(1)


def growth(service: Service, resting: dict[str, int]) -> Iterator[int]:
    for role in ROLES:
        yield peak(service.pids()[role]) - resting[role]


def measure(service: Service, names: Sequence[str], scale: float) -> list[list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "warm.txt").write_bytes(b"\n")
        _end(service, place / "warm.txt")
        pids = [pid for role in ROLES for pid in service.pids()[role]]
        forget_peaks(pids)
        resting = {role: peak(service.pids()[role]) for role in ROLES}
        rows = [["at rest", *(cell for role in ROLES for cell in (f"{resting[role] / MB:.0f}", ""))]]
        for name in names:
            found = []
            for _ in range(2):
                forget_peaks(pids)
                CASES[name](service, place, scale)
                found.append([f"{grown / MB:+.0f}" for grown in growth(service, resting)])
            rows.append([name, *(found[again][role] for role in range(len(ROLES)) for again in range(2))])
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=[*CASES], action="append", help="a case; default: all")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the sizes, for a quick look")
    given = parser.parse_args()
    print(f"{machine.describe()}\n")
    with running(["echo"], {"BUSHEL_MIN_FREE_BYTES": "0"}) as service:
        rows = measure(service, given.only or [*CASES], given.scale)
    print("\n" + markdown(["MiB", *(f"{role}{again}" for role in ROLES for again in ("", ", again"))], rows))


if __name__ == "__main__":
    main()
