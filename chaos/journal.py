"""What the service has acknowledged, in a file that only grows: whatever happens later, this was promised."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Promise:
    """A job that was answered with 202. `inputs` is the file of its lines, `expected` that of the right outputs.

    `ends` is the status that it is to end with.
    """

    job_id: str
    inputs: str
    expected: str
    ends: str = "completed"


class Journal:
    """Written through to the disk before anything else is done."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, promise: Promise) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(promise)) + "\n")
            file.flush()

    def promises(self) -> list[Promise]:
        if not self._path.exists():
            return []
        return [Promise(**json.loads(line)) for line in self._path.read_text().splitlines()]
