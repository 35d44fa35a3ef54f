"""All checks at once, each with a limit to its time: none waits for another, and none can hold up the report."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from cli.checkup.finding import Finding, Outcome, problem, worst
from cli.checkup.scene import Scene

Look = Callable[[Scene], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """`extra_seconds` are for what takes longer than the others although nothing is wrong."""

    name: str
    look: Look
    extra_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    name: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        return worst(self.findings)


def make(scene: Scene, checks: Sequence[Check], seconds: float) -> Iterator[Report]:
    """The reports in the order of the checks, each as soon as it is there and those before it."""
    started = time.monotonic()
    running = [_Running(scene, check) for check in checks]
    for each in running:
        limit = seconds + each.check.extra_seconds
        yield each.report(max(0.0, started + limit - time.monotonic()), limit)


class _Running:
    """A check in a thread that nobody waits for at the end: what hangs in the kernel cannot be called back."""

    def __init__(self, scene: Scene, check: Check) -> None:
        self.check = check
        self._scene = scene
        self._findings: list[Finding] = []
        self._thread = threading.Thread(target=self._run, name=f"check-{check.name}", daemon=True)
        self._thread.start()

    def report(self, wait_seconds: float, limit: float) -> Report:
        self._thread.join(wait_seconds)
        # What it has found until now is worth telling, also of one that hangs.
        findings = list(self._findings)
        if self._thread.is_alive():
            advice = "look at what it looks at: a disk, a server or a name that does not answer"
            findings.append(problem(f"not done after {limit:g} s", advice))
        return Report(self.check.name, findings)

    def _run(self) -> None:
        try:
            for finding in self.check.look(self._scene):
                self._findings.append(finding)
        except ModuleNotFoundError as exc:
            self._findings.append(problem(f"{exc.name} is not installed", "pip install 'bushel[local]'"))
        except OSError as exc:
            self._findings.append(problem(str(exc), "look at its owner and mode, and at the disk"))
        except Exception as exc:
            # A check that fails must not take the others with it.
            told = f"the check itself failed: {type(exc).__name__}: {exc}"
            self._findings.append(problem(told, "this is a fault of Bushel's: please report it"))
