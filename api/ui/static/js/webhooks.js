// Webhooks of the tenant: where they point, what they tell, and how every telling went.

import { api, ask, button, busy, can, complain, el, say, secretOnce, sure, text, toast } from "./api.js";
import { duration, moment, number, time, word } from "./format.js";
import { every } from "./live.js";

const EVENTS = ["completed", "failed", "expired", "cancelled"];
const KINDS = { delivered: "good", failed: "bad", pending: "busy" };
const PAGE = 10;
const $ = (id) => document.getElementById(id);
const cards = new Map();
let last = null;

function card(webhook) {
  const url = el("bdi", { class: "mono name" }), pill = el("span", { class: "status" }), events = el("div", { class: "row" });
  const description = el("div", { class: "text quiet", dir: "auto" }), trouble = el("p", { class: "note bad" }), buttons = el("div", { class: "row" });
  const log = deliveries(webhook.id);
  const node = el("section", { class: "card", dataset: { webhook: webhook.id }, "aria-label": `Webhook ${webhook.id}` },
    el("header", {}, el("div", {}, el("h2", {}, url), el("div", { class: "row small quiet" }, pill, el("code", {}, webhook.id), "created ", time(webhook.created_at))), buttons),
    description, events, trouble, log.node);

  function update(now) {
    say(url, now.url);
    pill.className = `status ${now.enabled ? (now.failing_since ? "warn" : "good") : "bad"}`;
    say(pill, now.enabled ? (now.failing_since ? "failing" : "on") : "off");
    say(description, now.description);
    description.hidden = !now.description;
    events.replaceChildren(...now.events.map((name) => el("span", { class: "tag" }, name)));
    trouble.hidden = now.enabled && !now.failing_since;
    if (!now.enabled) say(trouble, `Off since ${moment(now.disabled_at)}${now.disabled_reason ? `: ${now.disabled_reason}` : ""}.`);
    else if (now.failing_since) say(trouble, `Nothing has been delivered since ${moment(now.failing_since)}.`);
    // Only when others are offered: a button that is replaced loses the focus.
    const key = `${now.enabled} ${now.url} ${now.events} ${now.description}`;
    if (buttons.dataset.key === key) return;
    buttons.dataset.key = key;
    buttons.replaceChildren(...(can("submit") ? offered(now, log, update) : []));
  }

  update(webhook);
  return { node, update, log };
}

function offered(webhook, log, update) {
  const path = `/v1/webhooks/${webhook.id}`;
  const offer = (name, label, action, kind = "") => button(label, action, { kind: `small ${kind}`, dataset: { action: name }, "aria-label": `${label}: ${webhook.url}` });
  const found = [];
  if (webhook.enabled) {
    found.push(offer("test", "Send a test", async () => {
      await api("POST", `${path}/test`);
      toast("A test event is on its way; the log below tells how it goes.");
      await log.open();
    }));
  }
  found.push(offer("edit", "Edit", async () => {
    const wanted = await form("Edit the webhook", webhook);
    if (wanted) update(await api("PATCH", path, wanted));
  }));
  found.push(offer("toggle", webhook.enabled ? "Turn off" : "Turn on", async () => {
    const isSure = !webhook.enabled || (await sure("Turn this webhook off?", "Nothing is sent any more, and what waits to be sent is given up.", "Turn off"));
    if (isSure) update(await api("PATCH", path, { enabled: !webhook.enabled }));
  }));
  found.push(offer("rotate", "New secret", async () => {
    if (!(await sure("Make a new signing secret?", "For 24 hours everything is signed with both, so that your receiver can change over.", "Make a new secret", false))) return;
    const made = await api("POST", `${path}/rotate`);
    update(made);
    await secretOnce("The new signing secret", "Give it to your receiver now: it is not shown again.", made.secret);
  }));
  found.push(offer("delete", "Delete", async () => {
    if (!(await sure("Delete this webhook?", "With the log of its deliveries.", "Delete"))) return;
    await api("DELETE", path);
    cards.get(webhook.id).node.remove();
    cards.delete(webhook.id);
    settle();
    toast("The webhook is deleted.");
    $("main").focus();
  }, "danger"));
  return found;
}

// Asks where and what; null if it was left.
async function form(heading, webhook) {
  const chosen = new Set(webhook?.events ?? ["job.completed", "job.failed", "job.expired", "job.cancelled"]);
  const isChosen = (kind, name) => chosen.has(`${kind}.${name}`) || chosen.has(`${kind}.*`);
  const answer = await ask(heading, (form) => {
    const boxes = (kind, about) => el("fieldset", {}, el("legend", {}, about), el("div", { class: "row" }, EVENTS.map((name) =>
      el("label", { class: "check" }, el("input", { type: "checkbox", name: "events", value: `${kind}.${name}`, checked: isChosen(kind, name) }), name))));
    form.append(
      el("div", { class: "field" }, el("label", { for: "hook-url" }, "Address"), el("input", { id: "hook-url", name: "url", type: "url", required: true, maxlength: 2048, placeholder: "https://example.com/hooks/bushel", value: webhook?.url ?? "", autocomplete: "off" })),
      boxes("job", "Tell of every job, with its counts, when it is"),
      boxes("batch", "Tell of batches of OpenAI's API, with the id alone, when they are"),
      el("div", { class: "field" }, el("label", { for: "hook-description" }, "Description"), el("input", { id: "hook-description", name: "description", maxlength: 500, value: webhook?.description ?? "", autocomplete: "off" })));
  }, { confirm: webhook ? "Save" : "Create" });
  if (answer === null) return null;
  const events = answer.getAll("events");
  if (!events.length) {
    toast("Choose at least one event.", { bad: true });
    return null;
  }
  return { url: answer.get("url"), events, description: answer.get("description") };
}

async function create() {
  const wanted = await form("New webhook", null);
  if (!wanted) return;
  const made = await api("POST", "/v1/webhooks", wanted);
  const shown = card(made);
  cards.set(made.id, shown);
  $("webhooks").prepend(shown.node);
  settle();
  await secretOnce("The signing secret", "Give it to your receiver now, so that it can tell our requests from others: it is not shown again.", made.secret);
}

// The log of one webhook, asked for when it is opened.
function deliveries(id) {
  const body = el("tbody"), none = el("p", { class: "quiet" }, "Nothing was sent yet."), more = el("button", { type: "button", class: "small", hidden: true }, "Show more");
  const choice = el("select", { "aria-label": "Which deliveries" }, [["", "all"], ["delivered", "delivered"], ["pending", "pending"], ["failed", "failed"]].map(([value, name]) => el("option", { value }, name)));
  const table = el("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Deliveries" }, el("table", {}, el("caption", { class: "visually-hidden" }, "Deliveries, newest first"),
    el("thead", {}, el("tr", {}, ["Event", "State", "Tries", "Sent", "What happened", ""].map((name) => el("th", { scope: "col" }, name || el("span", { class: "visually-hidden" }, "Actions"))))), body));
  const node = el("details", { dataset: { deliveries: id } }, el("summary", {}, "Deliveries"), el("div", { class: "stack" }, el("div", { class: "row small" }, "Show ", choice), table, none, el("div", { class: "row" }, more)));
  const known = new Map();
  let cursor = null;

  async function load({ again = true } = {}) {
    const query = new URLSearchParams({ limit: PAGE });
    if (choice.value) query.set("state", choice.value);
    if (!again && cursor) query.set("after", cursor);
    const page = await api("GET", `/v1/webhooks/${id}/deliveries?${query}`);
    const isMore = !again;
    for (const each of again ? [...page.data].reverse() : page.data) place(each, isMore);
    if (cursor === null || isMore) {
      cursor = page.last_id;
      more.hidden = !page.has_more;
    }
    none.hidden = known.size > 0;
    table.hidden = known.size === 0;
  }

  function place(delivery, atEnd) {
    const before = known.get(delivery.id);
    const key = JSON.stringify([delivery.state, delivery.attempts, delivery.log.length]);
    if (before?.key === key) return;
    const node = line(delivery);
    if (before) before.node.replaceWith(node);
    else if (atEnd) body.append(node);
    else body.prepend(node);
    known.set(delivery.id, { node, key });
  }

  function line(delivery) {
    const tries = delivery.log.map((attempt) => el("li", {}, time(attempt.at, { relative: false }), ": ", attempt.status ? `answered ${attempt.status}` : "", attempt.error ? el("bdi", {}, `${attempt.status ? ", " : ""}${attempt.error}`) : "", attempt.seconds === null ? "" : ` (${duration(attempt.seconds)})`));
    const next = delivery.next_attempt_at ? el("div", { class: "small quiet" }, "next try ", time(delivery.next_attempt_at)) : "";
    return el("tr", { dataset: { delivery: delivery.id, state: delivery.state } },
      el("th", { scope: "row" }, el("code", {}, delivery.event), delivery.job_id ? el("div", { class: "small" }, el("a", { href: `/jobs/${delivery.job_id}` }, el("code", {}, delivery.job_id))) : ""),
      el("td", {}, el("span", { class: `status ${KINDS[delivery.state]}` }, word(delivery.state)), next),
      el("td", { class: "number" }, number(delivery.attempts)),
      el("td", {}, time(delivery.created_at)),
      el("td", {}, tries.length ? el("details", {}, el("summary", {}, summary(delivery)), el("ol", { class: "small" }, tries)) : "", el("details", {}, el("summary", { class: "small quiet" }, "Body"), text(pretty(delivery.body), { most: 4000, tag: "pre" }))),
      el("td", {}, can("submit") && delivery.state !== "pending" ? button("Send again", async () => {
        place(await api("POST", `/v1/webhooks/${id}/deliveries/${delivery.id}/redeliver`), false);
        toast("It is on its way again.");
      }, { kind: "small", dataset: { action: "redeliver" } }) : ""));
  }

  choice.addEventListener("change", () => {
    known.clear();
    body.replaceChildren();
    cursor = null;
    load().catch(complain);
  });
  more.addEventListener("click", () => busy(more, () => load({ again: false })));
  node.addEventListener("toggle", (event) => {
    if (event.target === node && node.open) load().catch(complain);
  });
  return {
    node,
    refresh: async () => node.open && load(),
    open: async () => {
      if (node.open) await load();
      node.open = true;
    },
  };
}

function summary(delivery) {
  const attempt = delivery.log.at(-1);
  return attempt.status ? `answered ${attempt.status}` : String(attempt.error ?? "under way").slice(0, 120);
}

function pretty(body) {
  try {
    return JSON.stringify(JSON.parse(body), null, 2);
  } catch {
    return body;
  }
}

function settle() {
  $("none").hidden = cards.size > 0;
}

async function load({ again = true } = {}) {
  const page = await api("GET", `/v1/webhooks?limit=20${again || !last ? "" : `&after=${last}`}`);
  for (const each of page.data) {
    if (cards.has(each.id)) continue;
    const made = card(each);
    cards.set(each.id, made);
    $("webhooks").append(made.node);
  }
  last = page.last_id ?? last;
  $("more").hidden = !page.has_more;
  settle();
}

async function refresh() {
  const page = await api("GET", "/v1/webhooks?limit=20");
  for (const each of page.data) cards.get(each.id)?.update(each);
  for (const { log } of cards.values()) await log.refresh();
}

$("create").addEventListener("click", () => busy($("create"), create));
$("more").addEventListener("click", () => busy($("more"), () => load({ again: false })));
$("create").hidden = !can("submit");
if (can("read")) {
  await load().catch(complain);
  every(4000, () => refresh().catch(complain));
} else $("not-allowed").hidden = false;
