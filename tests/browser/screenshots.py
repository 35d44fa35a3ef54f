"""Pictures of every page for docs/images, of a service with the starter model at work. `make screenshots`.

    python -m tests.browser.screenshots [--out FOLDER] [--only NAME ...]

Each page is taken wide and narrow, in light and in dark, and checked on the way: a console error or a request that
leaves the host ends the run. The pictures have at most 64 colours and are cut at 1,000 pixels, so that all of them
together stay small.
"""

import argparse
import csv
import io
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

import migrations
from benchmarks.heldout import SENTENCES
from cli.stack.postgres import Postgres
from cli.stack.valkey import Valkey
from tests.browser.visits import Visit, chromium, signed_in
from tests.stack.conftest import Stack, built
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
STARTER = ROOT / "models" / "translation-best"
SIZES = {"wide": (1280, 860), "narrow": (390, 844)}
COLOURS, MOST_PIXELS = 64, 1_000

# One set of weights in three ways, as a family would be, and something that generates.
REGISTRY = f"""
[models.translation-balanced]
task = "translation"
source = "{STARTER}"
quantization = "int8"
source_languages = ["en"]
target_languages = ["de"]
prefix = ">>de<< "
family = "translation"
tier = "balanced"
default = true
description = "English to German, everyday sentences"
license = "CC-BY-2.0-FR"
defaults = {{ num_beams = 4, max_new_tokens = 128 }}

[models.translation-best]
task = "translation"
source = "{STARTER}"
quantization = "float32"
source_languages = ["en"]
target_languages = ["de"]
prefix = ">>de<< "
family = "translation"
tier = "best"
description = "The same weights in full precision"
license = "CC-BY-2.0-FR"
defaults = {{ num_beams = 4, max_new_tokens = 128 }}

[models.translation-fast]
task = "translation"
source = "{STARTER}"
quantization = "int8"
source_languages = ["en"]
target_languages = ["de"]
prefix = ">>de<< "
family = "translation"
tier = "fast"
description = "int8 without a search"
license = "CC-BY-2.0-FR"
defaults = {{ num_beams = 1, max_new_tokens = 128 }}

[models.echo-chat]
task = "generation"
source = "."
engine = "echo"
default = true
description = "Says what it is told, for trying things out"

[models.opus-mt-en-fr]
task = "translation"
source = "./not-downloaded"
source_languages = ["en"]
target_languages = ["fr"]
description = "Its weights are not there yet"
"""


@dataclass(frozen=True)
class Examples:
    """The ids of the jobs that the pictures are of."""

    running: str
    scored: str


def sentences() -> list[list[str]]:
    """English, and one German translation."""
    lines = SENTENCES.read_text("utf-8").splitlines()
    return [line.split("\t")[:2] for line in lines]


@contextmanager
def service(folder: Path) -> Iterator[Stack]:
    """Everything that is needed, with the starter model served."""
    with Postgres(folder / "postgres") as postgres, Valkey(folder / "valkey") as valkey:
        migrations.upgrade(postgres.url)
        with built(_made(folder / "service"), postgres.url, valkey) as stack:
            stack.registry.write_text(REGISTRY)
            stack.start_api()
            stack.start_worker("io", queues="bushel.io", BUSHEL_WORKER_SLOT="io")
            queues = ",".join(f"bushel.model.{name}" for name in _names())
            stack.start_worker("worker", queues=queues, BUSHEL_MAX_LOADED_MODELS="4", BUSHEL_WORKER_SLOT="0")
            eventually(lambda: len(stack.http.get("/v1/workers").json().get("data", [])) == 2, 120)
            yield stack


def examples(stack: Stack) -> Examples:
    """Jobs as somebody would have them: done with scores, with failures, cancelled, and one that runs."""
    pairs = sentences()
    table = io.StringIO()
    csv.writer(table).writerows(
        [["id", "text", "reference"], *([f"t{n}", *pair] for n, pair in enumerate(pairs[:300]))]
    )
    scored = _submit(
        stack,
        stack.upload("tatoeba-300.csv", table.getvalue().encode()),
        {"type": "csv", "id_column": "id", "reference_column": "reference"},
        name="tatoeba-300.csv",
    )
    for model in ("translation-best", "translation-fast"):
        stack.finished(stack.submit(inputs=[pair[0] for pair in pairs[:40]], model=model), 600)
    stack.finished(scored, 600)
    rows = [f'{{"text": "{pair[0]}"}}'.replace('"How', "How") for pair in pairs[600:700]]
    rows[7], rows[40] = '{"text": 12}', '{"text": "' + "too long " * 2_000 + '"}'
    bad = stack.upload("letters.jsonl", "\n".join(rows).encode())
    failed = _submit(stack, bad, {"type": "jsonl"}, on_error="skip", name="letters.jsonl")
    stack.finished(failed, 600)
    stack.finished(stack.submit(inputs=["What is a bushel?", "Tell me of plums."], task="generation"), 600)
    many = "\n".join(f"{pair[0]} {number}." for number in range(20) for pair in pairs)
    plenty = stack.upload("manual.txt", many.encode())
    cancelled = _submit(stack, plenty, {"type": "txt"}, name="manual, first try")
    eventually(lambda: stack.job(cancelled)["status"] == "in_progress", 120)
    stack.http.post(f"/v1/jobs/{cancelled}/cancel").raise_for_status()
    stack.finished(cancelled, 120)
    running = _submit(stack, plenty, {"type": "txt"}, name="manual.txt")
    waits = _submit(stack, plenty, {"type": "txt"}, model="translation-best", name="manual, best quality", priority=-5)
    eventually(
        lambda: stack.job(running)["counts"]["succeeded"] > 0 and stack.job(waits)["status"] == "in_progress", 300
    )
    # Its weights are missing, so it waits, and says why.
    stack.submit(inputs=["Good morning!"], model="opus-mt-en-fr", metadata={"name": "greeting"})
    hook = stack.http.post("/v1/webhooks", json={"url": "https://hooks.example/bushel", "description": "Our intranet"})
    stack.http.post(f"/v1/webhooks/{hook.json()['id']}/test")
    stack.http.post("/v1/keys", json={"name": "nightly import", "scopes": ["submit"], "expires_in_seconds": 2_592_000})
    return Examples(running, scored)


Act = Callable[[Any], None]


def pages(found: Examples) -> dict[str, tuple[str, Act]]:
    """Name of the picture -> the page's address, and what is done there before it is taken."""
    return {
        "jobs": ("/", lambda page: page.locator("#jobs tr[data-job]").first.wait_for()),
        "job": (f"/jobs/{found.running}", lambda page: page.locator("#results li:not(.heads)").first.wait_for()),
        "job-scored": (f"/jobs/{found.scored}", lambda page: page.locator("#scores div").first.wait_for()),
        "new": ("/new", _looked_at),
        "models": ("/models", _tried),
        "workers": ("/workers", lambda page: page.locator("[data-worker]").first.wait_for()),
        "keys": ("/keys", lambda page: page.locator("table, article, li").first.wait_for()),
        "webhooks": ("/webhooks", lambda page: page.locator("table, article, li").first.wait_for()),
        "sign-in": ("/sign-in", lambda page: page.get_by_label("API key").wait_for()),
    }


def take(stack: Stack, found: Examples, out: Path, only: Sequence[str]) -> None:
    home = str(stack.http.base_url)
    wanted = {name: each for name, each in pages(found).items() if not only or name in only}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium()), args=["--disable-gpu"])
        first = browser.new_context(base_url=home)
        signed_in(first.new_page(), stack.key)
        state = first.storage_state()
        for scheme in ("light", "dark"):
            for size, (width, height) in SIZES.items():
                for name, (path, act) in wanted.items():
                    context = browser.new_context(
                        base_url=home,
                        storage_state=None if name == "sign-in" else state,
                        color_scheme=scheme,
                        viewport={"width": width, "height": height},
                        reduced_motion="reduce",
                    )
                    visit = Visit(context.new_page(), home)
                    visit.page.goto(path)
                    act(visit.page)
                    # Whatever is asked for at first is there, and drawn.
                    visit.page.wait_for_timeout(1_500)
                    _write(out / f"{name}-{size}-{scheme}.png", visit.page.screenshot(full_page=True))
                    context.close()
                    visit.ensure_clean()
        browser.close()


def _looked_at(page: Any) -> None:
    page.set_input_files("#file", files=[{"name": "letters.csv", "mimeType": "text/csv", "buffer": _LETTERS.encode()}])
    page.locator("#checking.warn").wait_for()
    page.locator("#models label").first.wait_for()


def _tried(page: Any) -> None:
    page.locator("#trial-text").fill("The train leaves from platform seven in four minutes.")
    page.get_by_role("button", name="Run it").click()
    page.locator("#answer .text").wait_for(timeout=120_000)


_LETTERS = """id,topic,text
g-01,greetings,Please give my best wishes to your parents.
f-01,food,She ordered a salad without onions.
t-01,travel,Someone has taken my umbrella, and my hat.
m-01,family,Her husband knows nothing of the party yet.
t-02,travel,The train leaves from platform seven.
g-01,greetings,Good morning! Did the rain wake you too?
"""


def _submit(stack: Stack, file_id: str, format: dict[str, Any], name: str, **more: Any) -> str:
    return stack.submit(input_file_id=file_id, format=format, metadata={"name": name}, **more)


def _names() -> list[str]:
    return [line[len("[models.") : -1] for line in REGISTRY.splitlines() if line.startswith("[models.")]


def _write(path: Path, picture: bytes) -> None:
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image = image.crop((0, 0, image.width, min(image.height, MOST_PIXELS)))
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for colour in _palette(image) for part in colour])
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)


def _palette(image: Image.Image) -> list[tuple[int, ...]]:
    """Half of it what is there most, exactly as it is; the other half the rest, with what is rare and bright."""
    counts = sorted(image.getcolors(image.width * image.height) or [], reverse=True)
    usual = [colour for _, colour in counts[: COLOURS // 2]]
    rest = image.quantize(COLOURS // 2, method=Image.Quantize.MAXCOVERAGE).getpalette() or []
    return [*usual, *(tuple(rest[at : at + 3]) for at in range(0, len(rest), 3))][:COLOURS]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--only", nargs="*", default=[])
    asked = parser.parse_args()
    if chromium() is None:
        sys.exit("There is no browser: apt-get install chromium")
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as stack:
        take(stack, examples(stack), asked.out, asked.only)


if __name__ == "__main__":
    main()
