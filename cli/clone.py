"""`bushel clone`: run a job's whole input again, with other settings."""

import click

from cli.access import Target
from cli.again import again_options, present, said
from cli.options import TIERS, as_job, decoding, offer_jobs, offer_models, said_in_options


@click.command()
@click.argument("job_id", type=as_job, shell_complete=offer_jobs, metavar="JOB")
@click.option("--model", shell_complete=offer_models, help="Another model of the same task.")
@click.option("--tier", type=click.Choice(TIERS), help="Another of the model's family.")
@click.option("--from", "source", metavar="LANG", help="Source language.")
@click.option("--to", "target_lang", metavar="LANG", help="Target language, in the model's own codes.")
@click.option("--params", "params", multiple=True, metavar="K=V", help="Decoding parameter. May be repeated.")
@click.option("--on-error", type=click.Choice(["fail", "skip"]), help="What a line that is not valid does to the job.")
@click.option("--long-input", type=click.Choice(["error", "truncate"]), help="What happens to a text too long.")
@click.option("--dry-run/--run", "dry_run", default=None, help="Only check, or run what was only checked.")
@click.option("--cache/--no-cache", default=None, help="Whether to take results from the cache, and put them there.")
@again_options
@click.pass_obj
def clone(
    target: Target,
    job_id: str,
    model: str | None,
    tier: str | None,
    source: str | None,
    target_lang: str | None,
    params: tuple[str, ...],
    on_error: str | None,
    long_input: str | None,
    dry_run: bool | None,
    cache: bool | None,
    priority: int | None,
    completion_window: str | None,
    metadata: tuple[str, ...],
    watched: bool,
    waited: bool,
    as_json: bool,
) -> None:
    """Make a job of the whole input of JOB, and print its id. What no option says is as in JOB.

    --params, --from and --to together replace all decoding parameters of JOB.
    """
    changed = {"model": model, "tier": tier, "on_error": on_error, "long_input": long_input, "dry_run": dry_run}
    changed["cache"] = cache
    body = said(priority, completion_window, metadata)
    body |= {name: value for name, value in changed.items() if value is not None}
    if decoded := decoding(params, source, target_lang):
        body["params"] = decoded
    with target.client() as client, said_in_options():
        present(client, client.clone(job_id, body), watched, waited, as_json)
