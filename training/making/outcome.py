"""What a tool has made of a model, in a line for the person at the terminal."""

import json
from pathlib import Path


def outcome(folder: Path) -> str:
    """From the record in the folder: parameters and megabytes of weights, before and after."""
    record = json.loads((folder / "record.json").read_text("utf-8"))
    sizes = f"{megabytes(record['source']['bytes'])} -> {megabytes(record['result']['bytes'])}"
    return f"{folder}: {record['parameters_before']:,} -> {record['parameters']:,} parameters, {sizes} of weights"


def megabytes(count: int) -> str:
    """
    >>> megabytes(14_240_000), megabytes(41_000)
    ('14.2 MB', '0.04 MB')
    """
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e6:.2f} MB"
