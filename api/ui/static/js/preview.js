// What a dry run found, for people: problems with their lines, the first items, what it will take.

import { el, text } from "./api.js";
import { duration, number, short } from "./format.js";

const MOST = 100;

// show(job, {queue, goTo}): nodes for the preview. `queue` is the model's; `goTo(line, column)` where a text can be edited.
export function understood(job, { queue, goTo }) {
  const found = job.estimate;
  return [
    job.errors ? problems(job.errors, goTo) : null,
    found && found.items + found.invalid_items ? figures(found, queue) : null,
    found?.columns?.length ? columns(found.columns, job.format ?? {}) : null,
    found?.first_items.length ? first(found.first_items) : null,
  ].filter(Boolean);
}

function figures(found, queue) {
  const parts = [
    ["Items", number(found.items), found.invalid_items ? `and ${number(found.invalid_items)} that cannot be run` : ""],
    ["Tokens", `≈ ${short(found.input_tokens)}`, found.output_tokens === null ? "in; out not known yet" : `in, ≈ ${short(found.output_tokens)} out`],
    ["Device time", found.seconds === null ? "–" : about(found.seconds), found.seconds === null ? "the model was never measured" : ""],
    ["Done in", ...when(found, queue)],
  ];
  return el("dl", { class: "figures", id: "estimate" }, parts.map(([name, said, more]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, said, more ? el("small", {}, more) : []))));
}

// What waits goes first; then its workers share it.
function when(found, queue) {
  if (!queue?.workers) return ["–", "no worker runs this model now"];
  if (found.seconds === null) return ["–", "told once it runs"];
  const shared = `on ${queue.workers === 1 ? "1 worker" : `${queue.workers} workers`}`;
  const ahead = queue.clear_seconds ?? 0;
  return [about(ahead + found.seconds / queue.workers), ahead >= 1 ? `${shared}, after ${duration(ahead)} of others` : shared];
}

// An estimate of less than a second is none.
function about(seconds) {
  return seconds < 1 ? "under 1 s" : `≈ ${duration(seconds)}`;
}

function problems(errors, goTo) {
  const listed = errors.data.slice(0, MOST);
  const isEditable = goTo !== null && listed.some((each) => each.line);
  const rows = listed.map((each) => el("tr", { dataset: { line: each.line ?? "" } },
    el("td", { class: "number" }, isEditable && each.line
      ? el("button", { type: "button", class: "plain", "aria-label": `Go to line ${each.line}`, onclick: () => goTo(each.line, each.column ?? 1) }, number(each.line))
      : number(each.line)),
    el("td", { class: "number" }, number(each.column)),
    el("td", {}, el("bdi", {}, each.message), each.hint ? el("div", { class: "quiet small" }, el("bdi", {}, each.hint)) : [])));
  const rest = errors.total > listed.length ? `, of which the first ${listed.length} are listed` : "";
  const told = `${number(errors.total)} ${errors.total === 1 ? "problem" : "problems"}${rest}`;
  return el("div", { class: "scroll problems", id: "problems", tabindex: 0, role: "region", "aria-label": "Problems of the input" },
    el("table", {}, el("caption", {}, told),
      el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "number" }, "Line"), el("th", { scope: "col", class: "number" }, "Col."), el("th", { scope: "col" }, "What is wrong"))),
      el("tbody", {}, rows)));
}

function columns(names, format) {
  const roles = { [format.text_column]: "text", [format.id_column]: "id", [format.reference_column]: "reference" };
  return el("div", { class: "small", id: "columns" }, el("span", { class: "quiet" }, "Columns: "),
    names.flatMap((name) => [el("span", { class: roles[name] ? "tag chosen-column" : "tag" }, el("bdi", {}, name), roles[name] && roles[name] !== name ? ` = ${roles[name]}` : ""), " "]));
}

function first(items) {
  return el("div", { class: "stack" }, el("h3", {}, items.length === 1 ? "The first item" : `The first ${items.length} items`),
    el("ol", { class: "first", id: "first" }, items.map((item) => el("li", {},
      el("span", { class: "quiet small" }, `line ${number(item.line)} · `, el("bdi", {}, item.custom_id)),
      said(item.input),
      item.reference === null ? [] : el("div", { class: "small" }, el("span", { class: "quiet" }, "reference: "), el("bdi", {}, item.reference))))));
}

function said(input) {
  if (input.messages) return input.messages.map((turn) => el("div", {}, el("span", { class: "tag" }, turn.role), " ", text(turn.content, { tag: "span" })));
  return text(input.text ?? "");
}
