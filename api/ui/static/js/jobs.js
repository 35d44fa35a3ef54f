// All jobs of the tenant, newest first, as they move.

import { api, complain, el, say } from "./api.js";
import { duration, number, time, word } from "./format.js";
import { actions, counted, downloadLink, downloads, ended, eta, heading, isFinal, kind, pace, progressBar, statusPill, waiting } from "./job-parts.js";
import { follow } from "./live.js";

const PAGE = 25;
// Rows beyond it are asked for again: a list that is left open for a week must not grow for a week.
const MOST_ROWS = 300;
const OPEN = ["validating", "in_progress", "finalizing", "cancelling"];

const list = document.querySelector("#jobs tbody");
const empty = document.getElementById("no-jobs");
const more = document.getElementById("more");
const filters = document.getElementById("filters");
const indicator = document.getElementById("live");
const rows = new Map();
let last = null, asked = 0;

function wanted() {
  return { status: filters.elements.status.value, task: filters.elements.task.value, search: filters.elements.search.value.trim() };
}

function fits(job) {
  const { status, task, search } = wanted();
  if (status && job.status !== status) return false;
  if (task && job.task !== task) return false;
  return !search || found(job, search.toLowerCase());
}

function found(job, search) {
  const said = [job.id, job.model, job.tier, job.dialect, ...Object.entries(job.metadata ?? {}).flat()];
  return said.some((text) => String(text ?? "").toLowerCase().includes(search));
}

function row(job) {
  const pill = el("span"), name = el("a", { class: "name", href: `/jobs/${job.id}` }), model = el("bdi", { class: "quiet small" });
  const tier = el("span", { class: "tag" }), dialect = el("span", { class: "tag" }), labels = el("bdi", { class: "quiet small" });
  const bar = progressBar(`Progress of ${job.id}`), count = el("span"), why = el("span", { class: "quiet" });
  const main = el("span"), sub = el("div", { class: "quiet" }), speed = el("div", { class: "quiet" }), when = el("span", { class: "quiet small" });
  const buttons = el("div", { class: "actions" });
  const node = el("tr", { dataset: { job: job.id }, role: "row" },
    el("th", { scope: "row", role: "rowheader" },
      el("div", { class: "line" }, name, pill),
      el("div", { class: "line" }, model, tier, dialect, labels),
      el("div", { class: "line small quiet" }, el("code", {}, job.id), when)),
    el("td", { role: "cell", class: "progress" }, bar.node, el("div", { class: "line" }, count, why)),
    el("td", { role: "cell", class: "pace" }, main, sub, speed),
    el("td", { role: "cell" }, buttons));
  when.append(time(job.created_at));
  let offered = "";

  function update(now) {
    shown.job = now;
    say(name, heading(now));
    statusPill(now, pill);
    say(model, kind(now));
    show(tier, now.tier);
    show(dialect, now.dialect === "bushel" ? null : now.dialect);
    show(labels, now.metadata ? Object.entries(now.metadata).filter(([key]) => key !== "name" && key !== "title").slice(0, 3).map(([key, value]) => `${key}: ${value}`).join(" · ").slice(0, 120) : null);
    bar.update(now);
    const problem = now.errors?.total && !now.counts.total ? now.errors : null;
    say(count, problem ? `${problem.total === 1 ? "1 problem" : `${number(problem.total)} problems`} of the input` : counted(now));
    show(why, waiting(now) || (problem ? String(problem.data[0]?.message ?? "").slice(0, 200) : null));
    const left = eta(now), end = ended(now);
    say(main, isFinal(now) ? (end && now.in_progress_at ? `took ${duration(end - now.in_progress_at)}` : "") : left.main || pace(now));
    say(sub, left.sub);
    say(speed, left.main || isFinal(now) ? pace(now) : "");
    // Buttons are replaced only when others are offered, so that none is lost under a finger.
    const key = [now.status, now.paused, now.counts.failed > 0, now.output_file_id, now.error_file_id, now.counts.succeeded > 0].join();
    if (key !== offered && !buttons.contains(document.activeElement)) {
      offered = key;
      buttons.replaceChildren(...downloads(now).filter((each) => each.label !== "Scores").map((each) => downloadLink(each)), ...actions(now, changed));
    }
  }

  const shown = { node, update, job };
  update(job);
  return shown;
}

function show(node, text) {
  node.hidden = !text;
  say(node, text ?? "");
}

// A job as the API has it now, whether it is in the list already or is new.
function changed(job) {
  const known = rows.get(job.id);
  if (known) known.update(job);
  else if (fits(job) && isNewest(job)) add(job, { first: true });
  settle();
}

function isNewest(job) {
  const first = list.firstElementChild;
  return !first || job.created_at >= rows.get(first.dataset.job).job.created_at;
}

function add(job, { first = false } = {}) {
  const made = row(job);
  rows.set(job.id, made);
  if (first) {
    made.node.classList.add("fresh");
    list.prepend(made.node);
    if (rows.size > MOST_ROWS) remove(list.lastElementChild.dataset.job);
  } else list.append(made.node);
}

function remove(id) {
  rows.get(id).node.remove();
  rows.delete(id);
  last = list.lastElementChild?.dataset.job ?? null;
  more.hidden = false;
}

function settle() {
  empty.hidden = rows.size > 0;
  document.getElementById("jobs").hidden = rows.size === 0;
  const { status, task, search } = wanted();
  const isFiltered = Boolean(status || task || search);
  say(empty.querySelector("h2"), isFiltered ? "No job matches" : "No jobs yet");
  say(empty.querySelector("p"), isFiltered ? "Change the filters above to see others." : "Submit one here, with the bushel command, or over the API.");
}

function address(after) {
  const query = new URLSearchParams({ limit: PAGE });
  for (const [name, value] of Object.entries(wanted())) if (value) query.set(name, value);
  if (after) query.set("after", after);
  return `/v1/jobs?${query}`;
}

// The list anew, or its next page.
async function load({ again = true } = {}) {
  const number = ++asked;
  const page = await api("GET", address(again ? null : last));
  if (number !== asked) return;
  if (again) {
    rows.clear();
    list.replaceChildren();
  }
  for (const job of page.data) if (!rows.has(job.id)) add(job);
  last = page.last_id ?? last;
  more.hidden = !page.has_more;
  settle();
}

// Without a stream: the first page, and what else is shown and has not ended.
async function poll() {
  const page = await api("GET", address(null));
  for (const job of [...page.data].reverse()) changed(job);
  const missing = [...rows.values()].filter(({ job }) => !isFinal(job) && !page.data.some((each) => each.id === job.id)).slice(0, 20);
  for (const { job } of missing) changed(await api("GET", `/v1/jobs/${job.id}`));
}

function remember() {
  const query = new URLSearchParams(Object.entries(wanted()).filter(([, value]) => value));
  history.replaceState(null, "", query.size ? `/?${query}` : "/");
}

function refilter() {
  remember();
  load().catch(complain);
}

function recall() {
  for (const [name, value] of new URLSearchParams(location.search)) if (filters.elements[name]) filters.elements[name].value = value;
}

let typing = null;
recall();
filters.addEventListener("submit", (event) => event.preventDefault());
filters.elements.search.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(refilter, 300);
});
for (const name of ["status", "task"]) filters.elements[name].addEventListener("change", refilter);
more.addEventListener("click", () => load({ again: false }).catch(complain));

const STANDINGS = { live: "live", polling: "asking every 3 s", offline: "no connection, trying again" };
await load().catch(complain);
follow("/v1/events", { job: changed }, poll, (state) => {
  indicator.dataset.state = state;
  say(indicator, STANDINGS[state] ?? word(state));
});
