"""What workers do to the ledger in the model, also those that are frozen, late or dead."""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from sqlalchemy.orm import Session

from db import chunks, leases, recording
from db.chunks import Candidate
from db.errors import LeaseLost
from db.recording import NewResult
from db.states import Outcome
from tests.model.acting import Ends, picks, stops
from tests.model.checking import Checking
from tests.model.expectations import Lease, require
from tests.model.world import MODELS

WORKERS = ("host/one:", "host/two:", "host/three:")
workers = st.sampled_from(WORKERS)


class Workers(Checking):
    """They claim, renew and record, with leases that may be stale; and leases run out and are taken back."""

    @precondition(lambda self: self._claimable())
    @rule(worker=workers, pick=picks, stop=stops)
    def claim(self, worker: str, pick: int, stop: bool) -> None:
        """Of any chunk that seemed ready when the worker looked."""
        choices = self._claimable()
        self._claim(worker, choices[pick % len(choices)], stop)

    @precondition(lambda self: self.jobs)
    @rule(worker=workers, pick=picks, model=st.sampled_from(MODELS))
    def claim_blindly(self, worker: str, pick: int, model: str) -> None:
        """From a job that may be paused, unread or at its end."""
        self._claim(worker, Candidate(self.job(pick).id, model), False)

    def _claimable(self) -> list[Candidate]:
        # Twins are left until all that they may be equal to are through.
        firsts = {
            (chunk.job_id, chunk.model)
            for chunk in self.chunks.values()
            if chunk.state in ("ready", "leased") and not chunk.of_twins
        }
        found = {
            (chunk.job_id, chunk.model)
            for chunk in self.chunks.values()
            if chunk.state == "ready" and self._runs(chunk.job_id)
            if not (chunk.of_twins and (chunk.job_id, chunk.model) in firsts)
        }
        order = list(self.jobs)
        return [Candidate(*pair) for pair in sorted(found, key=lambda pair: (order.index(pair[0]), pair[1]))]

    def _claim(self, worker: str, candidate: Candidate, stop: bool) -> None:
        owner = f"{worker}{self.restarts}"
        was_ready = candidate in self._claimable()
        is_free = self.nobody_waits

        def work(session: Session) -> chunks.Claim:
            claim = chunks.claim(session, candidate, owner, 600)
            if claim is None:
                raise Ends(None)
            return claim

        def done(claim: chunks.Claim | None) -> None:
            if is_free:
                require((claim is not None) == was_ready, f"claim of {candidate} gave {claim}; ready was {was_ready}")
            if claim is None:
                return
            for lease in self.leases:
                if lease.claim.chunk_id == claim.chunk_id:
                    require(not lease.is_live, f"chunk {claim.chunk_id} was leased twice")
                    require(claim.attempt > lease.claim.attempt, f"attempt {claim.attempt} of a chunk was there before")
            with self.world.sessions() as session:
                items = chunks.items_of(session, claim.chunk_id)
            require(len(items) == claim.items, f"chunk {claim.chunk_id} says {claim.items} items and has {len(items)}")
            self.leases.append(Lease(claim, owner, items))

        self.transact(work, done, stop)

    @precondition(lambda self: self.live())
    @rule(pick=picks, failed=st.integers(0, 15), stop=stops)
    def record(self, pick: int, failed: int, stop: bool) -> None:
        live = self.live()
        lease = live[pick % len(live)]
        self._record(lease, self._results(lease, len(lease.groups), failed), stop)

    @precondition(lambda self: self.live())
    @rule(pick=picks, groups=st.integers(0, 2), stop=stops)
    def record_a_part(self, pick: int, groups: int, stop: bool) -> None:
        """With no group at all the chunk is handed back as it is."""
        live = self.live()
        lease = live[pick % len(live)]
        self._record(lease, self._results(lease, groups, 0), stop)

    @precondition(lambda self: len(self.live()) < len(self.leases))
    @rule(pick=picks, stop=stops)
    def record_late(self, pick: int, stop: bool) -> None:
        """By a worker that was frozen, or has not heard that its commit had happened."""
        taken = {lease.claim.chunk_id for lease in self.live()}
        dead = [lease for lease in self.leases if not lease.is_live]
        # Those that do harm if they are let in come first: somebody else is at their chunk.
        dead.sort(key=lambda lease: lease.claim.chunk_id not in taken)
        lease = dead[pick % len(dead)]
        self._record(lease, self._results(lease, len(lease.groups), 0), stop)

    def _results(self, lease: Lease, groups: int, failed: int) -> list[NewResult]:
        """Texts tell by whom and under which attempt they were made."""
        results = []
        for place, group in enumerate(lease.groups[:groups]):
            for idx in group:
                if failed >> place & 1:
                    results.append(NewResult(idx, Outcome.FAILED, error_code="engine_error", error_message="told to"))
                    continue
                said = f"{lease.worker} {lease.key} {idx}"
                output = {"text": said, "finish_reason": "stop"}
                # Every job has some that others have too.
                key = b"item %d" % idx
                results.append(
                    NewResult(idx, Outcome.SUCCEEDED, output, input_tokens=2, output_tokens=1, cache_key=key)
                )
        return results

    def _record(self, lease: Lease, results: Sequence[NewResult], stop: bool) -> None:
        was_live = lease.is_live

        def work(session: Session) -> bool:
            try:
                recording.record(session, lease.claim.chunk_id, self.fence(session, lease), results)
            except LeaseLost as exc:
                raise Ends(False) from exc
            return True

        def done(is_recorded: bool) -> None:
            if not is_recorded:
                return require(not was_live, f"a live lease was refused: {lease.key} of {lease.worker}")
            require(was_live, f"a dead lease wrote: {lease.key} of {lease.worker}")
            lease.is_live = False
            job = self.jobs[lease.claim.job_id]
            for result in results:
                said = None if result.output is None else result.output["text"]
                require(result.idx not in job.recorded, f"item {result.idx} of {job.id} was recorded twice")
                job.recorded[result.idx] = (result.outcome.value, said)

        self.transact(work, done, stop)

    def fence(self, session: Session, lease: Lease) -> int:
        """The attempt that the lease's results carry."""
        return lease.claim.attempt

    @precondition(lambda self: self.leases)
    @rule(worker=workers, begun=st.booleans(), stop=stops)
    def renew(self, worker: str, begun: bool, stop: bool) -> None:
        """A heartbeat for all the worker thinks it holds, stale or not."""
        held = [lease for lease in self.leases if lease.worker.startswith(worker)][-4:]
        beats = [leases.Beat(*lease.key, 1, begun) for lease in held]
        if beats:
            self.transact(lambda session: leases.renew(session, beats, 600), None, stop)

    def lost(self) -> list[Lease]:
        """Leases that were taken while their workers were frozen or cut off, and that these have not spoken of yet."""
        return [lease for lease in self.leases if lease.has_lapsed and not lease.is_live and not lease.has_pleaded]

    @precondition(lambda self: self.lost())
    @rule(pick=picks, stop=stops)
    def acquit(self, pick: int, stop: bool) -> None:
        """A worker finds its lease gone, and says that it is alive: the chunk did not kill it."""
        lost = self.lost()
        lease = lost[pick % len(lost)]
        # Once, whatever comes of it: a worker does not try this again.
        lease.has_pleaded = True

        def done(is_charged: bool) -> None:
            if is_charged and lease.claim.job_id in self.jobs:
                deaths = self.jobs[lease.claim.job_id].deaths
                deaths.update({item.idx: deaths[item.idx] - 1 for item in lease.items})

        self.transact(lambda session: leases.acquit(session, lease.claim.chunk_id, lease.claim.crashes), done, stop)

    def fresh(self) -> list[Lease]:
        return [lease for lease in self.live() if not lease.has_lapsed]

    @precondition(lambda self: self.fresh())
    @rule(pick=picks)
    def let_a_lease_run_out(self, pick: int) -> None:
        fresh = self.fresh()
        self._lapse("id = :id", id=fresh[pick % len(fresh)].claim.chunk_id)

    @precondition(lambda self: self.live())
    @rule(pick=picks, worker=workers, stop=stops, wakes=st.booleans())
    def take_over(self, pick: int, worker: str, stop: bool, wakes: bool) -> None:
        """A lease runs out, the reconciler takes it, and somebody has the chunk when its first worker wakes up."""
        live = self.live()
        lease = live[pick % len(live)]
        self._lapse("id = :id", id=lease.claim.chunk_id)
        self.holds()
        self.transact(leases.reclaim)
        self.holds()
        candidate = Candidate(lease.claim.job_id, lease.claim.model)
        if candidate in self._claimable():
            self._claim(worker, candidate, stop)
        if wakes:
            self._record(lease, self._results(lease, len(lease.groups), 0), False)

    @precondition(lambda self: self.fresh())
    @rule(worker=workers)
    def crash(self, worker: str) -> None:
        """The worker is gone without a word, and time passes."""
        self._lapse("starts_with(lease_owner, :worker)", worker=worker)

    def _lapse(self, which: str, **values: Any) -> None:
        # By as much as who inherits leases moves it, so that those are taken in an order that does not depend on haste.
        self.move_clock(
            f"UPDATE chunks SET lease_expires_at = now() - interval '1 s' WHERE state = 'leased' AND {which}", **values
        )

    @precondition(lambda self: self.live())
    @rule(worker=workers, stop=stops)
    def restart(self, worker: str, stop: bool) -> None:
        """A new process in the worker's place, which knows that the one before it is dead."""
        self.restarts += 1
        heir = f"{worker}{self.restarts}"
        self.transact(lambda session: leases.inherit(session, worker, heir), None, stop)

    @precondition(lambda self: any(lease.has_lapsed for lease in self.live()))
    @rule(stop=stops)
    def reclaim(self, stop: bool) -> None:
        self.transact(leases.reclaim, None, stop)
