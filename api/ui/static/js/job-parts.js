// What is shown of a job wherever one is shown: how it stands, its bar, its pace, and what one can do with it.

import { api, ask, button, can, el, say, toast } from "./api.js";
import { band, duration, number, percent, rate, title, word } from "./format.js";

export const STATES = ["succeeded", "failed", "running", "queued", "cancelled", "expired"];
export const FINAL = new Set(["completed", "failed", "expired", "cancelled"]);
// In the bar; what is queued is the empty rest of it.
const DRAWN = ["succeeded", "failed", "running", "cancelled", "expired"];
const KINDS = { in_progress: "busy", validating: "busy", finalizing: "busy", completed: "good", failed: "bad", expired: "warn", cancelling: "warn", cancelled: "" };

export function isFinal(job) {
  return FINAL.has(job.status);
}

// Bushel's own jobs have the API of jobs; batches of other dialects are the same rows.
export function heading(job) {
  const name = job.metadata?.name ?? job.metadata?.title;
  return `${name ? String(name).slice(0, 120) : title(job.task)}${job.dry_run ? " (dry run)" : ""}`;
}

// What the heading does not say: what is done, and on what.
export function kind(job) {
  const model = job.model ?? "several models";
  return job.metadata?.name ?? job.metadata?.title ? `${word(job.task)} · ${model}` : model;
}

export function statusPill(job, node = el("span")) {
  const paused = job.paused && !isFinal(job);
  node.className = `status ${paused ? "warn" : KINDS[job.status] ?? ""}`;
  node.dataset.status = paused ? "paused" : job.status;
  return say(node, paused ? "paused" : word(job.status));
}

// The six states as one bar. `update(job)` moves it.
export function progressBar(name, { tall = false } = {}) {
  const parts = Object.fromEntries(DRAWN.map((state) => [state, el("span", { class: state, title: title(state) })]));
  const rest = el("span", { class: "queued" });
  const node = el("div", { class: tall ? "bar tall" : "bar", role: "progressbar", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": 100 }, Object.values(parts), rest);
  let seen = "";
  function update(job) {
    const told = said(job);
    if (told === seen) return;
    seen = told;
    for (const state of DRAWN) {
      parts[state].style.flexGrow = job.counts[state];
      parts[state].classList.toggle("some", job.counts[state] > 0);
      parts[state].classList.toggle("zero", job.counts[state] === 0);
    }
    rest.style.flexGrow = job.counts.total ? job.counts.queued : 1;
    rest.classList.toggle("zero", job.counts.total > 0 && job.counts.queued === 0);
    node.hidden = isFinal(job) && job.counts.total === 0;
    node.setAttribute("aria-valuenow", Math.floor(job.progress * 100));
    node.setAttribute("aria-valuetext", told);
  }
  return { node, update };
}

// "42 %: 420 succeeded, 2 failed, 100 running, 478 queued, of 1,000"
export function said(job) {
  if (!job.counts.total) return isFinal(job) ? "no items" : "not counted yet";
  const counts = STATES.filter((state) => job.counts[state]).map((state) => `${number(job.counts[state])} ${state}`);
  return `${percent(job.progress)}: ${counts.join(", ")}, of ${number(job.counts.total)}`;
}

// The same for eyes that see the bar: what is done of what, and what went wrong.
export function counted(job) {
  const { total, succeeded, failed } = job.counts;
  if (!total) return job.status === "validating" ? "checking the input" : job.estimate ? `${number(job.estimate.items)} ${job.estimate.items === 1 ? "item" : "items"} would run` : "no items";
  const done = succeeded + failed;
  const parts = [isFinal(job) && done === total ? `${number(total)} ${total === 1 ? "item" : "items"}` : `${number(done)} of ${number(total)}`];
  if (failed) parts.push(`${number(failed)} failed`);
  for (const state of ["cancelled", "expired"]) if (job.counts[state]) parts.push(`${number(job.counts[state])} ${state}`);
  return parts.join(" · ");
}

export function ended(job) {
  return job.completed_at ?? job.failed_at ?? job.expired_at ?? job.cancelled_at;
}

// When it will be done, as far as that is known: the estimate, and its band.
export function eta(job) {
  if (isFinal(job) || job.eta_seconds === null || job.eta_seconds === undefined) return { main: "", sub: "" };
  const between = band(job.eta_low_seconds, job.eta_high_seconds);
  return { main: `${duration(job.eta_seconds)} left`, sub: between && between !== duration(job.eta_seconds) ? between : "" };
}

export function pace(job) {
  if (job.items_per_second === null || job.items_per_second === undefined) return "";
  return rate(job.items_per_second, "items");
}

export function waiting(job) {
  return job.waiting_for && !isFinal(job) ? job.waiting_for.message : "";
}

// Where its results are; the whole file once there is one, else what there is.
export function downloads(job) {
  const results = `/v1/jobs/${job.id}/results`;
  const found = [];
  if (job.output_file_id) found.push({ label: "Download", href: `/v1/files/${job.output_file_id}/content` });
  else if (job.counts.succeeded + job.counts.failed) found.push({ label: "Download so far", href: results });
  if (job.error_file_id) found.push({ label: "Errors", href: `/v1/files/${job.error_file_id}/content` });
  if (job.report_file_id) found.push({ label: "Scores", href: `/v1/files/${job.report_file_id}/content` });
  return found;
}

export function downloadLink({ label, href }, kind = "button small") {
  return el("a", { class: kind, href, download: "", dataset: { action: "download" } }, label);
}

// The buttons that make sense now. `changed(job)` gets what the API answered.
export function actions(job, changed, { small = true } = {}) {
  const size = small ? "small" : "";
  const found = [];
  const offer = (name, label, action, kind = "") => {
    found.push(button(label, action, { kind: `${kind} ${size}`.trim(), dataset: { action: name }, "aria-label": `${label} ${heading(job)} ${job.id}` }));
  };
  if (!can("submit")) return found;
  const post = async (what) => changed(await api("POST", `/v1/jobs/${job.id}/${what}`));
  if (!isFinal(job) && job.status !== "cancelling") {
    if (job.paused) offer("resume", "Resume", () => post("resume"));
    else if (job.status === "in_progress" || job.status === "validating") offer("pause", "Pause", () => post("pause"));
    if (job.status !== "finalizing") offer("cancel", "Cancel", () => cancel(job, changed), "danger");
  }
  const { failed, expired, cancelled } = job.counts;
  if (isFinal(job) && failed + expired + cancelled && !job.dry_run) {
    offer("retry", failed && !expired && !cancelled ? "Retry failed" : "Retry unfinished", () => repeat(job, "retry", {}, changed));
  }
  offer("clone", "Clone", () => clone(job, changed));
  return found;
}

async function cancel(job, changed) {
  const open = job.counts.queued + job.counts.running;
  const explanation = open ? `${number(open)} items will not be run. What is finished stays readable.` : "What is finished stays readable.";
  const answer = await ask("Cancel this job?", (form) => form.append(el("p", {}, explanation)), { confirm: "Cancel the job", cancel: "Keep it running", danger: true });
  if (answer === null) return;
  changed(await api("POST", `/v1/jobs/${job.id}/cancel`));
  toast("The job is being cancelled.");
}

async function clone(job, changed) {
  const models = await api("GET", "/v1/models").then((list) => list.data ?? [], () => []);
  const options = models.filter((model) => (model.bushel?.task ?? model.task) === job.task).map((model) => model.id);
  const answer = await ask("Clone this job", (form) => {
    form.append(el("p", {}, "A new job with the whole input of this one."));
    if (job.dialect === "bushel" && options.length > 1) {
      const select = el("select", { name: "model", id: "clone-model" }, options.map((id) => el("option", { value: id, selected: id === job.model }, id)));
      form.append(el("div", { class: "field" }, el("label", { for: "clone-model" }, "Model"), select));
    }
    form.append(el("div", { class: "field" }, el("label", { for: "clone-priority" }, "Priority"),
      el("input", { id: "clone-priority", name: "priority", type: "number", min: -100, max: 100, step: 1, value: job.priority, required: true, "aria-describedby": "clone-priority-help" }),
      el("span", { class: "quiet", id: "clone-priority-help" }, "Higher goes first.")));
  }, { confirm: "Clone" });
  if (answer === null) return;
  const wanted = { priority: Number(answer.get("priority")) };
  if (answer.get("model") && answer.get("model") !== job.model) wanted.model = answer.get("model");
  await repeat(job, "clone", wanted, changed);
}

async function repeat(job, how, wanted, changed) {
  const made = await api("POST", `/v1/jobs/${job.id}/${how}`, wanted, { headers: { "idempotency-key": crypto.randomUUID?.() ?? `${Date.now()}${Math.random()}` } });
  toast(how === "retry" ? "A new job runs what did not succeed." : "The clone is submitted.", { link: { href: `/jobs/${made.id}`, label: "Open it" } });
  changed(made);
}
