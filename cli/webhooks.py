"""`bushel webhooks`: where the service tells of ended jobs, and how the telling goes."""

import itertools

import click
from rich.table import Table
from rich.text import Text

from cli import show, wire
from cli.access import Target

_STATE_STYLES = {"delivered": "green", "failed": "red", "pending": "cyan"}
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_WEBHOOK = click.argument("webhook_id", metavar="WEBHOOK")


@click.group()
def webhooks() -> None:
    """Be told by HTTP when jobs end: list, create and look after webhooks.

    Requests are signed as the Standard Webhooks specification says; docs/webhooks.md shows a receiver.
    """


@webhooks.command("list")
@_JSON
@click.pass_obj
def list_(target: Target, as_json: bool) -> None:
    """List the webhooks, without their secrets."""
    with target.client() as client:
        found = list(client.webhooks())
    if as_json:
        show.print_json(found)
        return
    if not found:
        click.echo("no webhooks", err=True)
        return
    table = _table("webhook", found)
    for column in ("url", "events", "state"):
        table.add_column(column, no_wrap=True)
    for webhook in found:
        events = webhook.get("events")
        names = " ".join(map(str, events)) if isinstance(events, list) else ""
        table.add_row(str(webhook["id"]), str(webhook.get("url")), names, _health(webhook))
    show.stdout().print(table)


@webhooks.command()
@click.argument("url")
@click.option(
    "--event",
    "events",
    multiple=True,
    metavar="NAME",
    help="batch.completed, job.failed, job.* …; may be repeated. Default: the four of batches.",
)
@click.option("--description", help="For you, to tell webhooks apart.")
@_JSON
@click.pass_obj
def create(target: Target, url: str, events: tuple[str, ...], description: str | None, as_json: bool) -> None:
    """Have events sent to URL. Prints the secret, which is never shown again."""
    body: dict[str, object] = {"url": url}
    if events:
        body["events"] = list(events)
    if description:
        body["description"] = description
    with target.client() as client:
        made = client.create_webhook(body)
    _print_secret(made, "created", as_json)


@webhooks.command()
@_WEBHOOK
@_JSON
@click.pass_obj
def rotate(target: Target, webhook_id: str, as_json: bool) -> None:
    """Replace the secret. For 24 hours everything is signed with both."""
    with target.client() as client:
        made = client.rotate_webhook(webhook_id)
    _print_secret(made, "has a new secret; the old one signs too for 24 hours", as_json)


@webhooks.command()
@click.argument("webhook_ids", metavar="WEBHOOK…", nargs=-1, required=True)
@click.pass_obj
def enable(target: Target, webhook_ids: tuple[str, ...]) -> None:
    """Send events again, to webhooks that were disabled by hand or by their failures."""
    with target.client() as client:
        for webhook_id in webhook_ids:
            client.change_webhook(webhook_id, {"enabled": True})
            click.echo(f"{webhook_id} enabled", err=True)


@webhooks.command()
@click.argument("webhook_ids", metavar="WEBHOOK…", nargs=-1, required=True)
@click.pass_obj
def disable(target: Target, webhook_ids: tuple[str, ...]) -> None:
    """Send nothing more, and give up what waits to be delivered."""
    with target.client() as client:
        for webhook_id in webhook_ids:
            client.change_webhook(webhook_id, {"enabled": False})
            click.echo(f"{webhook_id} disabled", err=True)


@webhooks.command()
@click.argument("webhook_ids", metavar="WEBHOOK…", nargs=-1, required=True)
@click.pass_obj
def delete(target: Target, webhook_ids: tuple[str, ...]) -> None:
    """Delete webhooks, with the log of their deliveries."""
    with target.client() as client:
        for webhook_id in webhook_ids:
            client.delete_webhook(webhook_id)
            click.echo(f"{webhook_id} deleted", err=True)


@webhooks.command()
@_WEBHOOK
@_JSON
@click.pass_obj
def test(target: Target, webhook_id: str, as_json: bool) -> None:
    """Send a `webhook.test` event."""
    with target.client() as client:
        _print_sent(client.test_webhook(webhook_id), as_json)


@webhooks.command()
@_WEBHOOK
@click.argument("delivery_ids", metavar="DELIVERY…", nargs=-1, required=True)
@_JSON
@click.pass_obj
def redeliver(target: Target, webhook_id: str, delivery_ids: tuple[str, ...], as_json: bool) -> None:
    """Send the events of deliveries once more, under their ids."""
    with target.client() as client:
        for delivery_id in delivery_ids:
            _print_sent(client.redeliver(webhook_id, delivery_id), as_json)


@webhooks.command()
@_WEBHOOK
@click.option("--state", type=click.Choice(list(_STATE_STYLES)), help="Only deliveries in this state.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="How many to list.")
@_JSON
@click.pass_obj
def deliveries(target: Target, webhook_id: str, state: str | None, limit: int, as_json: bool) -> None:
    """List what was sent lately, and how it went."""
    with target.client() as client:
        found = list(itertools.islice(client.deliveries(webhook_id, state), limit))
    if as_json:
        show.print_json(found)
        return
    if not found:
        click.echo("no deliveries", err=True)
        return
    table = _table("delivery", found)
    for column in ("event", "state", "tries", "last answer", "next try", "created"):
        table.add_column(column, no_wrap=True)
    for delivery in found:
        name = str(delivery.get("state"))
        table.add_row(
            str(delivery["id"]),
            str(delivery.get("event")),
            Text(name, style=_STATE_STYLES.get(name, "")),
            str(delivery.get("attempts")),
            _last_answer(delivery),
            _moment(delivery.get("next_attempt_at")),
            _moment(delivery.get("created_at")),
        )
    show.stdout().print(table)


def _table(noun: str, rows: list[wire.JSON]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    # Ids are to be copied: in a narrow window the other columns give way.
    table.add_column(noun, no_wrap=True, min_width=max(len(str(row["id"])) for row in rows))
    return table


def _health(webhook: wire.JSON) -> Text:
    if not webhook.get("enabled"):
        return Text(f"disabled: {webhook.get('disabled_reason')}", style="red")
    if webhook.get("failing_since"):
        return Text(f"failing since {_moment(webhook['failing_since'])}", style="yellow")
    return Text("ok", style="green")


def _last_answer(delivery: wire.JSON) -> str:
    log = delivery.get("log")
    if not isinstance(log, list) or not log:
        return ""
    last = log[-1]
    return str(last.get("error") or last.get("status") or "none")


def _moment(value: object) -> str:
    return show.moment(float(value)) if isinstance(value, int | float) else ""


def _print_secret(made: wire.JSON, what: str, as_json: bool) -> None:
    if as_json:
        show.print_json(made)
        return
    click.echo(f"{made['id']} {what}; the secret is shown once:", err=True)
    click.echo(str(made["secret"]))


def _print_sent(delivery: wire.JSON, as_json: bool) -> None:
    if as_json:
        show.print_json(delivery)
        return
    click.echo(str(delivery["id"]))
    click.echo(f"on its way; `bushel webhooks deliveries {delivery['webhook_id']}` tells how it went", err=True)
