"""What the model knows of jobs, leases and deliveries that the ledger may not contradict."""

from dataclasses import dataclass, field
from typing import Any

from db.chunks import Claim, ClaimedItem
from db.states import JobStatus


class Violation(AssertionError):
    """The ledger did what it promises not to do."""


def require(condition: object, message: str) -> None:
    if not condition:
        raise Violation(message)


@dataclass
class Lease:
    """A claim that a worker made. `is_live`: nobody has recorded, handed back or reclaimed the chunk under it."""

    claim: Claim
    worker: str
    items: list[ClaimedItem]
    is_live: bool = True
    # Run out: whoever comes first, a heartbeat or the reconciler, decides.
    has_lapsed: bool = False
    # Its worker has asked, once, that the chunk be not charged with a death that was none.
    has_pleaded: bool = False

    @property
    def key(self) -> tuple[int, int]:
        return self.claim.chunk_id, self.claim.attempt

    @property
    def groups(self) -> list[list[int]]:
        """Indices that are computed together: an item and its twins."""
        groups: dict[int, list[int]] = {}
        for item in self.items:
            groups.setdefault(item.idx if item.same_as is None else item.same_as, []).append(item.idx)
        return list(groups.values())


@dataclass
class ExpectedJob:
    """A job by what was submitted and asked for. `lines` is how many items it must have, None where that depends."""

    id: str
    tenant: str
    lines: int | None
    bad: int
    on_error: str = "fail"
    dry_run: bool = False
    is_child: bool = False
    is_interactive: bool = False
    dialect: str = "bushel"
    data: bytes = b""
    input_file: str | None = None
    was_cancelled: bool = False
    window_has_ended: bool = False
    # Outcome and text of what workers recorded, by index; of every other item the ledger says.
    recorded: dict[int, tuple[str, str | None]] = field(default_factory=dict)
    # How often a lease on the item ran out, but for those whose workers turned out to be alive.
    deaths: dict[int, int] = field(default_factory=dict)

    @property
    def begins_as(self) -> JobStatus:
        return JobStatus.IN_PROGRESS if self.is_interactive else JobStatus.VALIDATING

    def check_end(self, row: Any) -> None:
        """Whether it may end like this."""
        if self.was_cancelled:
            return require(row.status == "cancelled", f"{self.id} was cancelled and is {row.status}")
        require(row.status != "cancelled", f"{self.id} is cancelled, but nobody asked for that")
        if row.status == "failed":
            return require(self.is_child or (self.bad and self.on_error == "fail"), f"{self.id} failed for nothing")
        require(not (self.bad and self.on_error == "fail"), f"{self.id} has bad lines and did not fail")
        require(row.cancelled == 0, f"{self.id} has cancelled items, but nobody asked for that")
        require(
            (row.status == "expired") == (row.expired > 0) and (self.window_has_ended or not row.expired),
            f"{self.id} is {row.status} with {row.expired} items expired",
        )
        wanted = 0 if self.dry_run else self.lines
        require(wanted is None or row.total == wanted, f"{self.id} has {row.total} items instead of {wanted}")
