"""The wall clock of the database, by which all leases and deadlines go, moved while it runs."""

import os
from pathlib import Path

from chaos.errors import Skipped

_PLACES = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
)


class Clock:
    """Give `environment` to the stack's database; `jump` then moves its clock. Skipped without libfaketime."""

    def __init__(self, folder: Path) -> None:
        wanted = os.environ.get("CHAOS_FAKETIME")
        found = [place for place in ((wanted,) if wanted else _PLACES) if Path(place).exists()]
        if not found:
            raise Skipped("needs libfaketime (Debian: apt install libfaketime; elsewhere CHAOS_FAKETIME=its .so file)")
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)
        self._file = folder / "clock"
        self.jump("+0")
        self.environment = {
            "LD_PRELOAD": found[0],
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, offset: str) -> None:
        """`+3600` is an hour ahead of the real time, `-3600` an hour behind it."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{offset}\n")
        fresh.chmod(0o644)
        fresh.rename(self._file)
