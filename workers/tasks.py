"""What the rings start. Early-acknowledged and safe to lose, double or delay: the ledger decides what is done."""

from collections.abc import Callable

from celery import Celery

from db.doorbell import DELIVER, FINALIZE, INGEST, WORK
from workers.process import WorkerProcess


def add_tasks(app: Celery, process: Callable[[], WorkerProcess]) -> None:
    """Register the tasks, which find their process through `process` when they run."""

    @app.task(name=INGEST)
    def ingest(job_id: str) -> None:
        if process().ingest.run(str(job_id)):
            process().finalize.run(str(job_id))

    @app.task(name=FINALIZE)
    def finalize(job_id: str) -> None:
        process().finalize.run(str(job_id))

    @app.task(name=WORK)
    def work(model: str) -> None:
        runner = process().runner
        if runner is not None:
            runner.wake()

    @app.task(name=DELIVER)
    def deliver() -> None:
        # Only wakes: a receiver may take its time, and this thread has files to read.
        process().wake_senders()
