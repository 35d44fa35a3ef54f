"""`client.json` in the data folder: how the command line finds the server and key of a `bushel up` on this machine."""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

NAME = "client.json"


@dataclass(frozen=True, slots=True)
class Access:
    """Where the server is, and a key for it if one is known."""

    url: str
    api_key: str | None = None


def read_access(data: Path) -> Access | None:
    """What `bushel up` left in the data folder; None if it left nothing, ValueError if it cannot be understood."""
    path = data / NAME
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as exc:
        raise ValueError(f"{path} cannot be read: {exc}") from exc
    if not isinstance(content, dict) or not isinstance(content.get("url"), str):
        raise ValueError(f"{path} names no url; remove it, and start `bushel up` again")
    key = content.get("api_key")
    return Access(content["url"], key if isinstance(key, str) else None)


def write_access(data: Path, access: Access) -> Path:
    """Readable by its owner alone from the first byte, and never half written."""
    path = data / NAME
    content = {"url": access.url} | ({"api_key": access.api_key} if access.api_key else {})
    handle, temporary = tempfile.mkstemp(prefix=f".{NAME}.", dir=data)  # mode 0600
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
    os.replace(temporary, path)
    return path
