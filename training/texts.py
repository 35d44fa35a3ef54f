"""Texts to continue, from JSON lines: plain, gzip or xz."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.errors import BadData
from training.lines import lines


@dataclass(frozen=True, slots=True)
class Source:
    """A file of JSON objects, each of which becomes a text as the template says: `Title: {title}`."""

    file: str
    template: str

    def read(self, folder: Path) -> Iterator[str]:
        """Its texts in order."""
        path = folder / self.file
        for number, line in enumerate(lines(path), start=1):
            try:
                row = {key: value for key, value in json.loads(line).items() if value is not None}
                yield self.template.format_map(row).strip()
            except (AttributeError, KeyError, ValueError, TypeError) as exc:
                raise BadData(f"{path}:{number} does not fill {self.template!r}: {exc}") from exc
