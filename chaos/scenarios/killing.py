"""SIGKILL, at random moments."""

from dataclasses import replace
from pathlib import Path

import models
from benchmarks.heldout import SENTENCES
from chaos.arena import Arena, arena, kills, lines
from chaos.faults.processes import EVERYBODY
from chaos.report import Row
from chaos.scenarios.scenario import Scenario, Terms
from chaos.schedule import strikes

# Whose deaths throw work away: a worker's, and the supervisor's, which takes all workers along.
_WASTEFUL = {"kill worker-1": 1, "kill worker-2": 1, "kill up": 2}
_CLAIMED_AGAIN = "SELECT sum((attempt - 1) * items) FROM chunks WHERE job_id = %s AND attempt > 1 AND state = 'done'"
STARTER = Path(models.__file__).parent / "translation-best"


def random_kills(terms: Terms) -> Row:
    """Over all processes, while echo answers."""
    total, count = terms.size(100_000, 4_000), terms.size(50, 9)
    with arena("50 random kills", terms.folder, seconds_per_item=terms.size(4, 10) / 1000) as here:
        here.row.name = f"{count} random kill -9, echo"
        plan = strikes(terms.seed, [f"kill {role}" for role in EVERYBODY], count)
        here.client.submit("echo", lines(total))
        with here.watched():
            here.under_fire(total, plan, kills(here, EVERYBODY), 1200)
        largest = here.stack.count("SELECT max(items) FROM chunks")
        here.judge(allowed=largest * sum(_WASTEFUL.get(strike.fault, 0) for strike in plan))
        return here.row


def translation_kills(terms: Terms) -> Row:
    """The starter model, greedy: what comes out is compared with a run that nobody disturbed."""
    total, count = terms.size(5_000, 300), terms.size(10, 3)
    text = f"""
[models.starter]
task = "translation"
source = "{STARTER}"
engine = "ctranslate2"
quantization = "int8"
default = true
prefix = ">>de<< "
options = {{ intra_threads = 1, inter_threads = 1, batch_tokens = 128 }}
"""
    sentences = sorted({row.split("\t")[0] for row in SENTENCES.read_text("utf-8").splitlines()})
    # The number makes every line distinct; equal ones are computed once.
    given = [f"{sentences[number % len(sentences)]} {number}" for number in range(total)]
    with arena("kills, translation", terms.folder, ("starter",), registry_text=text) as here:
        here.row.name = f"{count} random kill -9, translation"
        calm = here.client.submit("starter", given, params={"num_beams": 1})
        here.until_done(900)
        right = _outputs(here, calm.job_id)
        before = here.stack.count("SELECT sum(succeeded) FROM jobs")
        roles = ("worker-1", "worker-2", "worker-io", "api", "valkey", "postgres", "up")
        plan = strikes(terms.seed, [f"kill {role}" for role in roles], count)
        # Cut as the first one was, and not into the few large chunks that its measured speed would make.
        here.stack.rows("DELETE FROM model_rates")
        hurt = here.client.submit("starter", given, right, params={"num_beams": 1})
        hurts = kills(here, roles)
        # Shares of this job, in terms of both.
        later = [replace(strike, share=(before + strike.share * total) / (before + total)) for strike in plan]
        here.under_fire(before + total, later, hurts, 900)
        here.judge(promises=[hurt])
        here.row.redone = here.stack.count(_CLAIMED_AGAIN, hurt.job_id)
        here.row.notes.append("redone: at most; the items of chunks that were claimed again, for the engine has no log")
        here.row.notes.append("compared byte for byte with the undisturbed run")
        return here.row


def _outputs(here: Arena, job_id: str) -> list[str]:
    file_id = here.client.job(job_id)["output_file_id"]
    return here.client.asked("GET", f"/v1/files/{file_id}/content").text.split("\n")[:-1]


SCENARIOS = (Scenario("kills", random_kills), Scenario("translation", translation_kills))
