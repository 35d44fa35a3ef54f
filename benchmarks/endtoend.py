"""A job through the whole service: texts into a file, the file up, the job completed, its results down."""

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.decoding import Decoding
from benchmarks.service import BenchmarkFailed, Service

_LIMIT_SECONDS = 3_600.0


class EndToEnd:
    """Jobs of one model. After a translation, `check` audits it."""

    def __init__(self, service: Service, model: str, folder: Path) -> None:
        self._service, self._model, self._folder = service, model, folder
        self.job_id = ""

    def submit(self, lines: Sequence[str], decoding: Decoding) -> str:
        """The id of a job of these lines, as a file."""
        source = self._folder / "lines.jsonl"
        source.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), encoding="utf-8")
        return self._service.submit(
            task="translation",
            model=self._model,
            input_file_id=self._service.upload(source),
            format="jsonl",
            params=decoding.params(),
        )

    def translate(self, lines: Sequence[str], decoding: Decoding) -> list[str]:
        """BenchmarkFailed unless every line succeeded, and its result is in its place."""
        results = self._folder / "results.jsonl"
        self.job_id = self.submit(lines, decoding)
        self._service.watch(self.job_id, _LIMIT_SECONDS)
        self._service.download(f"/v1/jobs/{self.job_id}/results", results)
        return _texts(results, len(lines))

    def check(self) -> None:
        """The audit is right, and everything was computed."""
        self._service.check_audit(self.job_id)
        usage = self._service.job(self.job_id)["usage"]
        if spared := usage.get("same_items", 0) + usage.get("cached_items", 0):
            raise BenchmarkFailed(f"{spared} lines of {self.job_id} were not computed; the texts must all differ")


def _texts(path: Path, count: int) -> list[str]:
    with path.open("rb") as file:
        lines = [json.loads(line) for line in file]
    if [line["index"] for line in lines] != list(range(count)):
        raise BenchmarkFailed(f"the results are not those of {count} lines in their order")
    return [line["output"]["text"] for line in lines]
