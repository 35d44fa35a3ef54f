"""A LibreTranslate server for the weights that everybody else has: an Argos package, and the settings around it.

LibreTranslate runs models of Argos Translate: a folder with a CTranslate2 model, a sentencepiece model and metadata.
All three are there. Before translating, Argos splits texts into sentences, with a small neural model that it downloads.
Where there is no network, it can be given a spaCy pipeline in the package instead (`ARGOS_CHUNK_TYPE=SPACY`), to which
it adds spaCy's rule-based sentence splitter. A blank pipeline is what this package has: the cheapest splitter there is,
so that LibreTranslate is a little faster here than as it comes.
"""

import http.client
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.decoding import Decoding
from benchmarks.service import BenchmarkFailed
from cli.stack.logs import Log
from cli.stack.process import Child, Part, Probe

# Requests at once, and texts of each: the server has four threads, and its API takes lists.
CLIENTS, TEXTS_PER_REQUEST = 4, 50
_START_SECONDS = 300.0
_NAMES = {"en": "English", "de": "German"}


def make_package(home: Path, converted: Path, source: Path, python: Path) -> None:
    """Install the model below `home`, where the server is told to look for its data.

    And once more for the other direction, which nobody asks for: a server that has fewer than two packages asks the
    internet for more, and for ever where there is none.
    """
    packages, cache = home / "data" / "argos-translate" / "packages", home / "cache" / "argos-translate" / "spacy"
    made = subprocess.run(
        [python, "-c", _SPACY, home / "spacy", cache], env=_environment(home), capture_output=True, text=True
    )
    if made.returncode:
        raise BenchmarkFailed(f"the sentence splitter could not be made: {made.stderr.strip()[-500:]}")
    for this, other in (("en", "de"), ("de", "en")):
        package = packages / f"{this}_{other}"
        shutil.copytree(converted, package / "model")
        _let_it_end_sources(package / "model" / "config.json")
        shutil.copytree(home / "spacy", package / "spacy")
        # One vocabulary serves both sides of the models that this is run with.
        shutil.copyfile(source / "source.spm", package / "sentencepiece.model")
        about = {
            "package_version": "1.0",
            "argos_version": "1.12",
            "from_code": this,
            "from_name": _NAMES[this],
            "to_code": other,
            "to_name": _NAMES[other],
        }
        (package / "metadata.json").write_text(json.dumps(about), "utf-8")


# The second one is only looked for: it would be downloaded although the package has its own.
_SPACY = """
import pathlib, spacy, sys
for folder in sys.argv[1:]:
    pathlib.Path(folder).parent.mkdir(parents=True, exist_ok=True)
    spacy.blank("en").to_disk(folder)
model = pathlib.Path(sys.argv[2], "senter", "model")
model.parent.mkdir()
model.touch()
"""


def _let_it_end_sources(path: Path) -> None:
    """Marian wants `</s>` behind every input; Argos does not know, and CTranslate2 adds it where the config says so."""
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(config | {"add_source_eos": True}), "utf-8")


def _environment(home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "HOME": str(home),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "ARGOS_CHUNK_TYPE": "SPACY",
    }


class LibreTranslate:
    """A client of a running server."""

    def __init__(self, port: int) -> None:
        self._port = port

    def translate(self, lines: Sequence[str], decoding: Decoding) -> list[str]:
        """Lists of texts over a few kept connections. How outputs are searched for was said when the server started."""
        parts = [list(lines[start : start + TEXTS_PER_REQUEST]) for start in range(0, len(lines), TEXTS_PER_REQUEST)]
        with ThreadPoolExecutor(CLIENTS) as pool:
            return [text for texts in pool.map(self._ask, parts) for text in texts]

    def _ask(self, texts: list[str]) -> list[str]:
        body = json.dumps({"q": texts, "source": "en", "target": "de", "format": "text"})
        answer = post(self._port, "/translate", body)
        found: list[str] = json.loads(answer)["translatedText"]
        return found


def post(port: int, path: str, body: str) -> bytes:
    """The answer's body; BenchmarkFailed when it is an error."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        connection.request("POST", path, body.encode(), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise BenchmarkFailed(f"POST {path}: {answer.status} {content[:300].decode(errors='replace')}")
    return content


@contextmanager
def libretranslate(
    home: Path, python: Path, port: int, decoding: Decoding, settings: Mapping[str, str]
) -> Iterator[LibreTranslate]:
    """The server as it comes (waitress, four threads) but for what must be equal; `settings` are Argos's own."""
    part = Part(
        name="libretranslate",
        command=(
            str(python.parent / "libretranslate"),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--load-only",
            "en,de",
        ),
        environment=_environment(home) | {"ARGOS_BEAM_SIZE": str(decoding.beams), **settings},
        folder=home,
        probe=_answers(port),
        start_seconds=_START_SECONDS,
        stop=((signal.SIGTERM, 10.0),),
    )
    child = Child(part, Log(home / "libretranslate.log"))
    child.start()
    try:
        child.wait_until_ready()
        yield LibreTranslate(port)
    finally:
        child.stop()


def _answers(port: int) -> Probe:
    def probe(_: Child) -> str | None:
        try:
            post(port, "/translate", json.dumps({"q": ["Yes."], "source": "en", "target": "de"}))
        except (BenchmarkFailed, OSError) as exc:
            return str(exc)
        return None

    return probe
