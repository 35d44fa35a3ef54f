"""Settings whose value is in a file: `NAME_FILE` names it, as `NAME` would hold it.

For passwords and keys: a file has an owner and a mode, where an environment is shown by every tool that looks at
processes and containers. Imports nothing heavy, because the bare command line reads its key this way too.
"""

from collections.abc import Mapping
from pathlib import Path

from db.errors import ConfigError

# Longer than any password or URL; who names a data set by mistake is told so.
_LARGEST = 64 * 1024


def setting(name: str, environment: Mapping[str, str]) -> str | None:
    """The value of variable `name`, or of the file that `name`_FILE says; None where neither is set.

    ConfigError when both are, and when the file cannot be read, is empty or absurdly large. White space around the
    file's content is dropped: editors end a file with a line break.
    """
    value, path = environment.get(name), environment.get(f"{name}_FILE")
    if not path:
        return value or None
    if value:
        raise ConfigError(f"{name} and {name}_FILE are both set; keep one")
    return _content(f"{name}_FILE", Path(path))


def _content(variable: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            found = file.read(_LARGEST + 1)
        text = found.decode().strip()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
        raise ConfigError(f"{variable}: {path} cannot be read: {reason}") from exc
    if not text or len(found) > _LARGEST:
        raise ConfigError(f"{variable}: {path} is {'empty' if not text else 'too large for a setting'}")
    return text
