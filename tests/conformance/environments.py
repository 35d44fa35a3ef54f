"""An environment of its own for each version of an SDK, made once and kept beside the project's."""

import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".venv-sdks"


@dataclass(frozen=True)
class SDK:
    package: str
    version: str

    @property
    def name(self) -> str:
        return f"{self.package} {self.version}"


SDKS = (
    SDK("openai", "1.56.0"),
    SDK("openai", "1.109.1"),
    SDK("openai", "2.54.0"),
    SDK("openai", "3.54.0"),
    SDK("anthropic", "0.125.0"),
    SDK("anthropic", "1.17.0"),
    SDK("anthropic", "2.12.0"),
)


class Unavailable(Exception):
    """The package index could not give this version."""


def python(sdk: SDK) -> Path:
    """The interpreter of the SDK's environment, which is made if need be. Unavailable when it cannot be had."""
    folder = FOLDER / f"{sdk.package}-{sdk.version}"
    executable = folder / "bin" / "python"
    if (folder / ".ready").exists():
        return executable
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=False)
    # By our own pip: the environment needs none, and making one takes longer than the SDK.
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python", str(executable)]
    done = subprocess.run([*command, "install", f"{sdk.package}=={sdk.version}"], capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"{sdk.name} could not be installed: {done.stderr.strip()[-500:]}")
    (folder / ".ready").touch()
    return executable
