// A job from a file or a text: sent once, looked at by a dry run, and submitted as it was looked at.

import { APIError, api, can, complain, el, say, sentence, signIn, toast } from "./api.js";
import { Choice, options } from "./choice.js";
import { bytes } from "./format.js";
import { isFinal } from "./job-parts.js";
import { PEEK, cells, firstLine, likely, peek } from "./peek.js";
import { understood } from "./preview.js";

// What the editor takes; larger files are looked at, not edited.
const EDITABLE = 262144;
const TYPING = 700, CHOOSING = 250, ASK_EVERY = 250, ASK_SLOWER = 1500;

const $ = (id) => document.getElementById(id);
const form = $("new"), area = $("text"), submit = $("submit"), status = $("checking"), preview = $("preview");

// The file as the server has it: {id, name, content}; null until it is there. `content` is what was sent.
let stored = null, content = null, name = "";
let looking = null, looked = null, isBusy = false, timer = null, isSubmitted = false;
let queues = new Map();

const choice = new Choice({ tasks: $("tasks"), models: $("models"), languages: $("languages"), source: $("source-lang"), target: $("target-lang") }, () => later(CHOOSING));

// --- what goes in

for (const tab of document.querySelectorAll("[data-source]")) tab.addEventListener("click", () => turnTo(tab.dataset.source));

function turnTo(source) {
  for (const tab of document.querySelectorAll("[data-source]")) tab.setAttribute("aria-pressed", String(tab.dataset.source === source));
  $("by-file").hidden = source !== "file";
  $("by-text").hidden = source !== "text";
  if (source === "text") area.focus();
}

const drop = $("drop");
// Counted, because passing over what is inside leaves and enters again.
let over = 0;
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => event.preventDefault());
drop.addEventListener("dragenter", () => drop.classList.toggle("over", ++over > 0));
drop.addEventListener("dragleave", () => drop.classList.toggle("over", --over > 0));
drop.addEventListener("drop", (event) => {
  over = 0;
  drop.classList.remove("over");
  const file = event.dataTransfer?.files[0];
  if (file) takeFile(file).catch(complain);
});
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) takeFile(file).catch(complain);
});
$("other-file").addEventListener("click", () => {
  $("file").value = "";
  $("chosen").hidden = true;
  drop.hidden = false;
  $("file").focus();
});
$("edit").addEventListener("click", async () => {
  area.value = await content.text();
  turnTo("text");
});
area.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(takeText, TYPING);
});

async function takeFile(file) {
  const start = await file.slice(0, PEEK).text();
  name = file.name;
  take(file, start);
  say($("file-name"), file.name);
  say($("file-size"), bytes(file.size));
  $("chosen").hidden = false;
  drop.hidden = true;
  $("edit").hidden = file.size > EDITABLE || /\.gz$/i.test(file.name) || start.includes("\0") || start.includes("\uFFFD");
  if (!$("job-name").value) $("job-name").value = file.name.slice(0, 200);
}

function takeText() {
  if (!area.value) return;
  const isOfFile = /\.(txt|text|csv|tsv|tab|jsonl|ndjson)$/i.test(name);
  // Of an edited file the settings stay as they are.
  take(new Blob([area.value]), area.value.slice(0, PEEK), { again: content === null || !isOfFile });
}

function take(blob, start, { again = true } = {}) {
  content = blob;
  forget();
  if (again) fillFormat(peek(name, start));
  $("format").hidden = false;
  later(0);
}

// --- how it is read

function fillFormat(found) {
  $("type").value = found.type;
  $("delimiter").value = found.delimiter;
  $("has-header").checked = true;
  fillColumns(found.columns, likely(found));
}

function fillColumns(columns, chosen = {}) {
  const type = $("type").value, isCSV = type === "csv";
  const names = $("has-header").checked || !isCSV ? [...new Set(columns ?? [])].filter(Boolean) : (columns ?? []).map((_, place) => [String(place + 1), `column ${place + 1}`]);
  options($("text-column"), names, { none: isCSV ? (names.length ? null : "text") : "text or messages", chosen: chosen.text });
  options($("id-column"), names, { none: isCSV ? "none" : "custom_id, if there", chosen: chosen.id });
  options($("reference-column"), names, { none: isCSV ? "none" : "reference, if there", chosen: chosen.reference });
  // A guess is taken as it is; what was chosen before is for another file.
  for (const [id, value] of [["text-column", chosen.text], ["id-column", chosen.id], ["reference-column", chosen.reference]]) if (value === null) $(id).value = names.length && isCSV && id === "text-column" ? $(id).options[0].value : "";
  for (const field of document.querySelectorAll("[data-for]")) field.hidden = !field.dataset.for.split(" ").includes(type);
}

async function columnsAgain() {
  const start = content ? await content.slice(0, PEEK).text() : "";
  const type = $("type").value;
  const columns = type === "csv" ? cells(firstLine(start), $("delimiter").value) : peek(`x.${type}`, start).columns;
  fillColumns(columns, likely({ type, columns: type === "csv" && !$("has-header").checked ? null : columns }));
  later(0);
}

for (const id of ["type", "delimiter", "has-header"]) $(id).addEventListener("change", () => columnsAgain().catch(complain));
for (const id of ["text-column", "id-column", "reference-column", "long-input", "max-new-tokens", "num-beams", "temperature"]) $(id).addEventListener("change", () => later(CHOOSING));
$("on-error").addEventListener("change", judge);

function format() {
  const type = $("type").value;
  if (type === "txt") return { type };
  const found = { type };
  if (type === "csv") {
    found.delimiter = $("delimiter").value;
    if (!$("has-header").checked) found.has_header = false;
  }
  for (const [key, id] of [["text_column", "text-column"], ["id_column", "id-column"], ["reference_column", "reference-column"]]) if ($(id).value) found[key] = $(id).value;
  return found;
}

// --- what is asked for

function wanted() {
  const params = choice.params;
  for (const [key, id] of [["max_new_tokens", "max-new-tokens"], ["num_beams", "num-beams"], ["temperature", "temperature"]]) if ($(id).value !== "") params[key] = Number($(id).value);
  return { task: choice.task, model: choice.model?.id, input_file_id: stored.id, format: format(), params, long_input: $("long-input").value };
}

function later(milliseconds) {
  clearTimeout(timer);
  if (content) timer = setTimeout(() => look().catch(complain), milliseconds);
}

// Send what is new, let it be read to its end, and show what was found. The newest look wins.
async function look() {
  if (!content || !choice.model || !can("submit")) return;
  looking?.abort();
  const mine = (looking = new AbortController());
  const { signal } = mine;
  isBusy = true;
  judge();
  let job = null;
  try {
    if (!stored || stored.content !== content) stored = await sent(content, name || `text.${$("type").value}`, signal);
    stand("busy", "checking");
    // Bad lines are wanted all, and what is good beside them.
    job = await api("POST", "/v1/jobs", { ...wanted(), dry_run: true, on_error: "skip" }, { signal });
    job = await ended(job, signal);
    const list = await api("GET", "/v1/queues", undefined, { signal });
    queues = new Map(list.data.map((queue) => [queue.id, queue]));
    show(job);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof APIError)) throw error;
    refused(error);
  } finally {
    if (job) discard(job);
    if (looking === mine) {
      isBusy = false;
      judge();
    }
  }
}

// The upload, with its progress, which fetch does not tell.
function sent(blob, filename, signal) {
  const before = stored;
  return new Promise((resolve, reject) => {
    const body = new FormData();
    body.append("purpose", "batch");
    body.append("file", blob, filename);
    const request = new XMLHttpRequest(), bar = $("sent");
    const over = (settle, value) => {
      bar.hidden = true;
      settle(value);
    };
    request.open("POST", "/v1/files");
    request.setRequestHeader("x-bushel-ui", "1");
    request.responseType = "json";
    request.upload.onprogress = (event) => {
      bar.hidden = !event.lengthComputable || event.total < 1048576;
      bar.value = event.loaded / event.total;
    };
    request.onload = () => {
      if (request.status === 401) signIn();
      if (request.status >= 400) return over(reject, new APIError(sentence(request.response?.error?.message ?? `The server answered ${request.status}.`), { status: request.status, code: request.response?.error?.code ?? null }));
      if (before) remove(`/v1/files/${before.id}`);
      over(resolve, { id: request.response.id, name: filename, content: blob });
    };
    request.onerror = () => over(reject, new APIError("The file could not be sent. Is the server running?", { code: "unreachable" }));
    request.onabort = () => over(reject, new DOMException("another file was chosen", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    stand("busy", "sending");
    request.send(body);
  });
}

async function ended(job, signal) {
  const began = Date.now();
  while (!isFinal(job)) {
    const isSlow = Date.now() - began > 5000;
    if (isSlow && job.waiting_for) stand("busy", job.waiting_for.code === "no_worker" ? "waiting for a worker" : "checking");
    await new Promise((resolve) => setTimeout(resolve, isSlow ? ASK_SLOWER : ASK_EVERY));
    job = await api("GET", `/v1/jobs/${job.id}`, undefined, { signal });
  }
  return job;
}

// A look leaves no job behind. One that was overtaken is cancelled first.
async function discard(job) {
  if (!isFinal(job)) await api("POST", `/v1/jobs/${job.id}/cancel`).catch(() => null);
  remove(`/v1/jobs/${job.id}`);
}

function remove(path) {
  // What cannot be removed is in the list of jobs or files, where anybody can; it is not worth a message.
  fetch(path, { method: "DELETE", headers: { "x-bushel-ui": "1" }, keepalive: true }).catch(() => null);
}

// --- what was found

function show(job) {
  looked = job;
  say($("refusal"), "").hidden = true;
  if (job.estimate?.columns && $("text-column").options.length <= 1) fillColumns(job.estimate.columns, { text: $("text-column").value, id: $("id-column").value, reference: $("reference-column").value });
  preview.replaceChildren(...understood(job, { queue: queues.get(choice.model.id), goTo: isEditable() ? goTo : null }));
}

function refused(error) {
  looked = null;
  preview.replaceChildren(el("p", { class: "quiet" }, "It could not be looked at."));
  say($("refusal"), error.message).hidden = false;
}

function forget() {
  looked = null;
  say($("refusal"), "").hidden = true;
}

function isEditable() {
  return content.size <= EDITABLE && !$("edit").hidden || !$("by-text").hidden;
}

async function goTo(line, column) {
  if ($("by-text").hidden) {
    area.value = await content.text();
    turnTo("text");
  }
  const lines = area.value.split("\n");
  const begin = lines.slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0);
  const end = begin + (lines[line - 1]?.length ?? 0);
  area.focus();
  area.setSelectionRange(Math.min(begin + column - 1, end), end);
  area.scrollTop = Math.max(0, (line - 4) * (area.scrollHeight / Math.max(lines.length, 1)));
}

function stand(kind, said) {
  status.className = `status ${kind}`;
  say(status, said);
}

// Whether it can be submitted, and if not, why.
function judge() {
  const bad = looked?.errors?.total ?? 0, good = looked?.estimate?.items ?? 0;
  const isUnreadable = looked !== null && looked.status !== "completed";
  const isStopped = bad > 0 && ($("on-error").value === "fail" || isUnreadable);
  submit.disabled = isBusy || !looked || isStopped || !good || !can("submit");
  let why = "";
  if (!isBusy && looked) {
    if (isUnreadable) stand("bad", "cannot be read");
    else if (bad) stand("warn", bad === 1 ? "1 problem" : `${bad.toLocaleString("en")} problems`);
    else stand("good", "all good");
    if (isStopped) why = isUnreadable ? "Change how it is read, or the input." : "Correct the lines, or let bad lines fail alone (3. Options).";
    else if (bad) why = `${good.toLocaleString("en")} items run; what is wrong fails in its place.`;
  } else if (!isBusy && !content) stand("", "no input yet");
  else if (!isBusy) stand("bad", "refused");
  say($("why-not"), why);
}

// --- and off it goes

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (submit.disabled || isSubmitted) return;
  isSubmitted = true;
  submit.setAttribute("aria-busy", "true");
  try {
    const body = { ...wanted(), on_error: $("on-error").value, priority: Number($("priority").value || 0) };
    if ($("window").value) body.completion_window = $("window").value;
    const label = $("job-name").value.trim();
    if (label) body.metadata = { name: label };
    const job = await api("POST", "/v1/jobs", body);
    location.assign(`/jobs/${job.id}`);
  } catch (error) {
    isSubmitted = false;
    submit.removeAttribute("aria-busy");
    if (error instanceof APIError) say($("refusal"), error.message).hidden = false;
    else toast(String(error), { bad: true });
  }
});

// Left without submitting: the file goes too. A page that comes back from the browser's memory sends it again.
window.addEventListener("pagehide", () => {
  if (stored && !isSubmitted) remove(`/v1/files/${stored.id}`);
  stored = null;
});
window.addEventListener("pageshow", (event) => {
  if (event.persisted) later(0);
});

const registry = await api("GET", "/v1/models").catch(complain);
choice.fill(registry?.data ?? [], new URLSearchParams(location.search).get("model"));
judge();
