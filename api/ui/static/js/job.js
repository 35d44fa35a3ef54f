// One job: how it stands, what came out of it, what went wrong, and what made it.

import { api, button, busy, can, complain, el, say, send, sure, text } from "./api.js";
import { duration, moment, number, percent, rate, short, time, title, word } from "./format.js";
import { STATES, actions, counted, downloadLink, downloads, ended, eta, heading, isFinal, kind, pace, progressBar, said, statusPill, waiting } from "./job-parts.js";
import { every, follow } from "./live.js";
import { columns, curve, figure } from "./plots.js";

const PAGE = 10;
const LOG_PAGE = 50;
const $ = (id) => document.getElementById(id);
const id = $("job").dataset.job;
const path = `/v1/jobs/${encodeURIComponent(id)}`;
const bar = progressBar("Progress of the job", { tall: true });
let job = null;

// ---- How it stands

const legend = Object.fromEntries(STATES.map((state) => {
  const count = el("span", { class: "number" });
  const node = el("li", { dataset: { count: state } }, el("span", { class: `dot ${state}`, "aria-hidden": "true" }), count, ` ${state}`);
  return [state, { node, count }];
}));

function show(now) {
  const before = job;
  job = now;
  $("job").hidden = false;
  say($("heading"), heading(now));
  document.title = `${now.counts.total && !isFinal(now) ? `${percent(now.progress)} · ` : ""}${heading(now)} · Bushel`;
  statusPill(now, $("status"));
  say($("model"), kind(now));
  $("tier").hidden = !now.tier;
  say($("tier"), now.tier ?? "");
  bar.update(now);
  for (const [state, { node, count }] of Object.entries(legend)) {
    say(count, number(now.counts[state]));
    node.classList.toggle("none", !now.counts[state]);
  }
  $("waiting").hidden = !waiting(now);
  say($("waiting"), waiting(now) ? `Waiting: ${waiting(now)}` : "");
  showFigures(now);
  showActions(now);
  if (before && (before.status !== now.status || before.paused !== now.paused)) {
    say($("announce"), `The job is ${now.paused ? "paused" : word(now.status)}: ${said(now)}`);
  }
  if (!before || JSON.stringify(before.errors) !== JSON.stringify(now.errors)) showProblems(now);
  if (!before || JSON.stringify(before.scores) !== JSON.stringify(now.scores)) showScores(now);
  showFacts(now);
  const done = (each) => (each ? each.counts.succeeded + each.counts.failed + each.counts.cancelled + each.counts.expired : -1);
  if (done(before) !== done(now) || (before && isFinal(now) && !isFinal(before))) moved();
}

function showFigures(now) {
  const left = eta(now), end = ended(now);
  const found = [["Done", percent(now.progress), counted(now)]];
  if (isFinal(now)) found.push(["Took", end ? duration(end - now.created_at) : "–", now.in_progress_at && end ? `${duration(end - now.in_progress_at)} since it began` : ""]);
  else found.push(["Time left", left.main.replace(" left", "") || "–", left.sub || (left.main ? "" : "not known yet")]);
  found.push(["Pace", pace(now) || "–", now.tokens_per_second ? rate(now.tokens_per_second, "tokens") : ""]);
  found.push(["Tokens", short(now.usage.total_tokens), `${short(now.usage.input_tokens)} in, ${short(now.usage.output_tokens)} out`]);
  if (now.usage.device_seconds) found.push(["On the device", duration(now.usage.device_seconds), ""]);
  const summed = (name, parts) => {
    const some = parts.filter(([count]) => count);
    if (some.length) found.push([name, number(some.reduce((sum, [count]) => sum + count, 0)), some.map(([count, what]) => `${number(count)} ${what}`).join(", ")]);
  };
  summed("Not computed", [[now.usage.same_items, "equal to others"], [now.usage.cached_items, "from the cache"]]);
  summed("Cut", [[now.notices.truncated_inputs, "inputs"], [now.notices.cut_outputs, "outputs at the limit"]]);
  if (now.estimate) {
    found.push(["Estimate", now.estimate.seconds === null ? "–" : duration(now.estimate.seconds), `${number(now.estimate.items)} items, about ${short(now.estimate.input_tokens)} tokens${now.estimate.invalid_items ? `, ${number(now.estimate.invalid_items)} invalid` : ""}`]);
  }
  described($("figures"), found.map(([name, main, sub]) => [name, sub ? [main, el("small", {}, sub)] : [main]]));
}

// A list of names and contents, built anew only where it says something else.
function described(list, found) {
  const key = JSON.stringify(found.map(([name, parts]) => [name, parts.map((part) => part?.outerHTML ?? part)]));
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...found.map(([name, parts]) => el("div", {}, el("dt", {}, name), el("dd", {}, parts))));
}

let offered = "";
function showActions(now) {
  const key = [now.status, now.paused, now.counts.failed > 0, now.counts.succeeded > 0, now.output_file_id, now.error_file_id, now.report_file_id].join();
  if (key === offered || $("actions").contains(document.activeElement) && offered && !isFinal(now)) return;
  offered = key;
  const focused = $("actions").contains(document.activeElement);
  const found = [...downloads(now).map((each) => downloadLink(each, "button")), ...actions(now, changed, { small: false })];
  if (isFinal(now) && can("submit")) found.push(button("Delete", remove, { kind: "danger", dataset: { action: "delete" } }));
  $("actions").replaceChildren(...found);
  if (focused) $("main").focus();
}

function changed(other) {
  if (other.id === id) show(other);
}

async function remove() {
  if (!(await sure("Delete this job?", "Its inputs, results and result files are gone then.", "Delete"))) return;
  await api("DELETE", path);
  location.assign("/");
}

function showProblems(now) {
  const problems = now.errors;
  $("problems").hidden = !problems?.total;
  if (!problems?.total) return;
  say($("problems-heading"), `Problems of the input (${number(problems.total)})`);
  $("problems-body").replaceChildren(el("table", {},
    el("caption", {}, problems.total > problems.data.length ? `The first ${problems.data.length} of ${number(problems.total)}` : "All that were found"),
    el("thead", {}, el("tr", {}, ["Line", "Column", "What is wrong", "What to do"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, problems.data.map((each) => el("tr", {},
      el("td", { class: "number" }, each.line ?? "–"), el("td", {}, el("bdi", {}, String(each.column ?? each.param ?? "–"))),
      el("td", {}, text(each.message ?? each.code, { most: 500 })), el("td", {}, text(each.hint ?? "", { most: 500 })))))));
}

function showScores(now) {
  $("scores-card").hidden = !now.scores;
  if (!now.scores) return;
  const found = Object.entries(now.scores.metrics).map(([name, each]) => [name, [each.score.toFixed(1), el("small", {}, `${each.low.toFixed(1)} to ${each.high.toFixed(1)}`)]]);
  found.push(["Scored", [number(now.scores.scored), el("small", {}, now.scores.unscored ? `${number(now.scores.unscored)} without an output` : "items")]]);
  found.push(["Length", [now.scores.length_ratio.toFixed(2), el("small", {}, "of the references'")]]);
  described($("scores"), found);
}

function showFacts(now) {
  const link = (to) => el("a", { href: `/jobs/${to}` }, el("code", {}, to));
  const found = [["Owner", [el("bdi", {}, document.body.dataset.tenant)]]];
  const fact = (name, ...parts) => found.push([name, parts]);
  fact("Made by", now.dialect === "bushel" ? "Bushel's API" : `${title(now.dialect)}'s API`, now.endpoint ? [" (", el("code", {}, now.endpoint), ")"] : "");
  if (now.parent_id) fact("Repeats", link(now.parent_id));
  fact("Created", el("span", {}, moment(now.created_at)));
  if (now.in_progress_at) fact("Began", `${duration(now.in_progress_at - now.created_at)} later`);
  if (ended(now)) fact("Ended", moment(ended(now)));
  if (now.expires_at && !isFinal(now)) fact("Must end by", moment(now.expires_at));
  fact("Priority", String(now.priority));
  fact("Too long inputs", now.long_input === "truncate" ? "are cut" : "are errors");
  fact("Invalid inputs", now.on_error === "skip" ? "are skipped" : "fail the job");
  if (now.input_file_id) fact("Input", el("a", { href: `/v1/files/${now.input_file_id}/content`, download: "" }, "download"), now.format ? ` (${now.format.type})` : "");
  for (const [name, value] of Object.entries(now.params ?? {})) fact(name, el("bdi", {}, typeof value === "string" ? value : JSON.stringify(value)));
  for (const [name, value] of Object.entries(now.metadata ?? {})) fact(name, text(value, { most: 500 }));
  const flat = found.map(([name, parts]) => [name.slice(0, 100), parts.flat()]);
  const key = JSON.stringify(flat.map(([name, parts]) => [name, parts.map((part) => part?.textContent ?? part)]));
  if ($("facts").dataset.key === key) return;
  $("facts").dataset.key = key;
  $("facts").replaceChildren(...flat.flatMap(([name, parts]) => [el("dt", {}, el("bdi", {}, name)), el("dd", {}, parts)]));
}

// ---- Results, side by side with their inputs

const view = { order: "finished", starts: [null], page: 0, lines: [], next: null };

async function showResults() {
  const query = new URLSearchParams({ limit: PAGE, include: "input", order: view.order });
  const after = view.starts[view.page];
  if (after !== null) query.set("after", after);
  const wanted = `${view.order} ${view.page}`;
  const answer = await send("GET", `${path}/results?${query}`);
  const lines = (await answer.text()).split("\n").filter(Boolean).map((line) => JSON.parse(line));
  if (wanted !== `${view.order} ${view.page}`) return;
  const hasNext = answer.headers.has("link");
  const key = JSON.stringify([wanted, hasNext, lines.map((line) => [line.index, line.status])]);
  if (key === view.key) return;
  const isSame = view.shown === wanted;
  Object.assign(view, { key, shown: wanted, lines, next: hasNext ? (view.order === "input" ? lines.at(-1).index : lines.at(-1).seq) : null });
  const list = $("results");
  // What is there stays: results are never changed, and readers keep their place.
  const known = isSame && view.order === "finished" ? list.querySelectorAll("[data-result]").length : 0;
  if (!known) list.replaceChildren(...(lines.length ? [heads()] : []));
  list.append(...lines.slice(known).map(pair));
  $("no-results").hidden = lines.length > 0;
  say($("no-results"), isFinal(job) ? "There are none." : "Nothing is finished yet.");
  $("earlier").disabled = view.page === 0;
  $("later").disabled = !hasNext;
  $("pages").hidden = view.page === 0 && !hasNext;
  say($("range"), lines.length ? `${number(view.page * PAGE + 1)} to ${number(view.page * PAGE + lines.length)}` : "");
}

// For eyes; every pair says the same to screen readers.
function heads() {
  return el("li", { class: "heads", "aria-hidden": "true" }, el("span"), el("span", {}, "Input"), el("span", {}, "Output"));
}

function pair(line) {
  const whole = `${path}/results?${new URLSearchParams({ after: line.index - 1, limit: 1, include: "input" })}`;
  const isGood = line.status === "succeeded";
  const origin = el("div", { class: "origin" }, el("bdi", { class: "mono" }, String(line.custom_id).slice(0, 200)), el("span", {}, `item ${number(line.index + 1)}`));
  const notes = [];
  if (line.output?.finish_reason === "length") notes.push("cut at the token limit");
  if (line.output?.truncated_tokens) notes.push("input shortened");
  if (notes.length) origin.append(el("span", { class: "tag" }, notes.join(", ")));
  if (line.usage?.output_tokens) origin.append(el("span", {}, `${number(line.usage.input_tokens)} → ${number(line.usage.output_tokens)} tokens`));
  const answer = isGood ? text(outputOf(line.output), { whole }) : el("div", {}, el("span", { class: "status bad" }, line.error?.code ?? line.status), text(line.error?.message ?? "", { most: 500 }));
  return el("li", { class: isGood ? "" : "failed", dataset: { result: line.index, status: line.status } }, origin,
    el("div", { class: "side", dataset: { side: "input" } }, el("div", { class: "quiet" }, "Input"), text(inputOf(line.input), { whole })),
    el("div", { class: "side", dataset: { side: "output" } }, el("div", { class: "quiet" }, isGood ? "Output" : "Problem"), answer));
}

function inputOf(input) {
  if (typeof input?.text === "string") return input.text;
  if (typeof input?.raw === "string") return input.raw;
  if (Array.isArray(input?.messages)) return input.messages.map((turn) => `${turn.role}: ${typeof turn.content === "string" ? turn.content : JSON.stringify(turn.content)}`).join("\n");
  return JSON.stringify(input ?? null);
}

function outputOf(output) {
  if (typeof output?.text === "string") return output.text;
  if (Array.isArray(output?.vector)) return `${output.vector.length} numbers: ${output.vector.slice(0, 8).map((value) => Number(value).toFixed(4)).join(", ")}, …`;
  return JSON.stringify(output ?? null);
}

for (const tab of document.querySelectorAll("[data-order]")) {
  tab.addEventListener("click", () => busy(tab, async () => {
    Object.assign(view, { order: tab.dataset.order, starts: [null], page: 0, key: null });
    for (const each of document.querySelectorAll("[data-order]")) each.setAttribute("aria-pressed", String(each === tab));
    await showResults();
  }));
}
$("later").addEventListener("click", () => busy($("later"), async () => {
  view.starts[++view.page] = view.next;
  await showResults();
  $("results-heading").scrollIntoView();
}));
$("earlier").addEventListener("click", () => busy($("earlier"), async () => {
  view.page -= 1;
  await showResults();
}));

// ---- Plots, failures, provenance

async function showStatistics() {
  const found = await api("GET", `${path}/statistics`);
  showFailures(found.failures);
  showRecipes(found.recipes);
  draw(found);
  say($("sampled"), found.sampled_items < job.counts.total ? `from a sample of ${number(found.sampled_items)} items` : "");
}

// As wide as there is room: a picture that was scaled would have texts of any size.
let drawn = null;
function draw(found) {
  drawn = found;
  const hasCurve = found.settled.length > 1 && job.counts.total > 0;
  const spreads = SPREADS.filter(([key]) => found[key]?.bins.length > 1);
  $("plots-card").hidden = !hasCurve && !spreads.length;
  const room = $("plots").clientWidth, each = Math.max(240, matchMedia("(min-width: 52rem)").matches ? (room - 20) / 2 : room);
  const plots = spreads.map(([key, name, unit]) => spread(found[key], name, unit, each));
  if (hasCurve) plots.unshift(overTime(found, Math.max(240, room)));
  $("plots").replaceChildren(...plots);
}

let redraw = 0;
addEventListener("resize", () => {
  clearTimeout(redraw);
  if (drawn) redraw = setTimeout(() => draw(drawn), 150);
});

const tokens = (value) => number(Math.round(value));
const SPREADS = [["input_tokens", "Length of inputs", tokens], ["output_tokens", "Length of outputs", tokens], ["chunk_seconds", "Latency, once its turn had come", duration], ["waited_seconds", "Waiting before that", duration]];

function overTime(found, width) {
  const begun = found.settled[0].at;
  let most = 0;
  const points = found.settled.map((point) => ({ x: Math.max(0, point.at - begun), y: (most = Math.max(most, point.items)) }));
  const at = points.at(-1).x, left = isFinal(job) ? null : job.eta_seconds;
  const ahead = left ? { x: Math.max(at, Date.now() / 1000 - begun) + left, y: job.counts.total } : null;
  const told = `${number(most)} of ${number(job.counts.total)} items after ${duration(at)}`;
  return figure("Items done over time", curve(points, { width, xName: duration, yName: short, top: job.counts.total, ahead, told }), ahead ? `${told}; dashed: as estimated` : told, "wide");
}

function spread(found, name, unit, width) {
  const long = unit === tokens ? " tokens" : "";
  const told = `median ${unit(found.median)}${long}, 95 % at most ${unit(found.p95)}${long}, longest ${unit(found.high)}${long}`;
  return figure(name, columns(found, { width, name: unit, told: `${name}: ${told}` }), told.charAt(0).toUpperCase() + told.slice(1));
}

function showFailures(failures) {
  $("failures-card").hidden = !failures.total;
  say($("failures-note"), failures.counted < failures.total ? `${number(failures.counted)} of ${number(failures.total)} were looked at` : `${number(failures.total)} in all`);
  $("failures").replaceChildren(...failures.groups.map((group) => el("details", { open: failures.groups.length < 4, dataset: { failure: group.code } },
    el("summary", {}, el("code", {}, group.code), ` ${number(group.count)} ${group.count === 1 ? "item" : "items"}`),
    el("table", {}, el("caption", { class: "visually-hidden" }, `Examples of ${group.code}`),
      el("thead", {}, el("tr", {}, ["Line", "custom_id", "Message"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, group.examples.map((each) => el("tr", {}, el("td", { class: "number" }, number(each.line)), el("td", {}, el("bdi", {}, each.custom_id.slice(0, 200))), el("td", {}, text(each.message, { most: 500 })))))))));
}

function showRecipes(recipes) {
  if (!recipes.length) return;
  $("recipes").replaceChildren(...recipes.map((recipe) => el("dl", { class: "facts" },
    Object.entries(recipe).filter(([, value]) => value !== null && value !== "" && JSON.stringify(value) !== "{}")
      .flatMap(([name, value]) => [el("dt", {}, title(name)), el("dd", {}, el("bdi", { class: typeof value === "string" && value.length > 30 ? "mono" : "" }, typeof value === "string" ? value : JSON.stringify(value)))]))));
}

// Results and plots follow at their own pace: a job that moves every second must not make ten requests a second.
let isStale = false, looking = false, lookedAt = 0;
function moved() {
  isStale = true;
  look();
}

async function look() {
  if (looking || !isStale || document.hidden) return;
  const isOver = isFinal(job), isFull = view.lines.length >= PAGE;
  if (!isOver && Date.now() - lookedAt < (isFull ? 10000 : 2500)) return;
  looking = true;
  isStale = false;
  lookedAt = Date.now();
  try {
    await Promise.all([showResults(), showStatistics()]);
  } catch (error) {
    complain(error);
  } finally {
    looking = false;
  }
}

// ---- What happened

const noted = new Set();
let logCursor = null, hasLog = false;

function note(entry) {
  if (noted.has(entry.id)) return;
  noted.add(entry.id);
  const detail = Object.entries(entry.detail).filter(([, value]) => value !== null && value !== "" && value !== 0);
  const told = detail.map(([name, value], place) => [place ? ", " : " ", fact(name, value)]);
  const node = el("li", { dataset: { event: entry.type, id: entry.id } }, time(entry.at, { relative: false }), el("span", {}, el("strong", {}, title(entry.type)), el("bdi", { class: "quiet" }, told)));
  $("log").prepend(node);
  $("no-log").hidden = true;
}

// One thing that an event says of itself; ids of jobs lead there.
function fact(name, value) {
  if (/^job_\w+$/.test(value)) return el("a", { href: `/jobs/${value}` }, el("code", {}, value));
  if (typeof value === "number") return `${word(name)}: ${number(value)}`;
  return `${word(name)}: ${typeof value === "object" ? JSON.stringify(value) : value}`;
}

async function showLog() {
  const query = new URLSearchParams({ limit: LOG_PAGE });
  if (logCursor !== null) query.set("after", logCursor);
  const page = await api("GET", `${path}/events?${query}`);
  for (const entry of page.data) note(entry);
  logCursor = page.last_id ?? logCursor;
  hasLog = true;
  $("log-more").hidden = !page.has_more;
}
$("log-more").addEventListener("click", () => busy($("log-more"), showLog));

$("run-audit").addEventListener("click", () => busy($("run-audit"), async () => {
  const found = await api("GET", `${path}/audit`);
  $("audit").replaceChildren(
    el("p", { class: found.ok ? "note good" : "note bad", dataset: { audit: String(found.ok) } }, found.ok ? "Everything adds up." : "Something does not add up."),
    el("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Checks" }, el("table", {}, el("caption", { class: "visually-hidden" }, "Checks"),
      el("thead", {}, el("tr", {}, ["Check", "Expected", "Found"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, found.checks.map((check) => el("tr", {}, el("th", { scope: "row" }, `${check.ok ? "✓" : "✗"} ${word(check.name)}`), el("td", {}, el("code", {}, JSON.stringify(check.expected))), el("td", {}, el("code", {}, JSON.stringify(check.found)))))))));
}));

// ---- Beginning

$("bar").append(bar.node);
$("legend").append(...Object.values(legend).map(({ node }) => node));
try {
  show(await api("GET", path));
  showLog().catch(complain);
  const STANDINGS = { live: "live", polling: "asking every 3 s", offline: "no connection, trying again", over: "" };
  follow(`${path}/events`, { job: show, log: note }, async () => {
    show(await api("GET", path));
    if (hasLog) await showLog();
    return isFinal(job);
  }, (state) => {
    $("live").dataset.state = state;
    $("live").hidden = state === "over";
    say($("live"), STANDINGS[state] ?? state);
  });
  every(2500, look);
} catch (error) {
  $("missing").hidden = false;
  say($("missing"), error.status === 404 ? "There is no such job, or it belongs to somebody else." : error.message);
}
