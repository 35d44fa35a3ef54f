// The registry: what there is, where it is loaded, how fast and how good it was measured to be.

import { api, can, complain, el, say } from "./api.js";
import { availability, inOrder, languages, quality, speed } from "./choice.js";
import { bytes, duration, number, title } from "./format.js";
import { frontier } from "./frontier.js";
import { every } from "./live.js";
import { choose, offer } from "./trial.js";

const EVERY = 5000;
const registry = document.getElementById("registry");
let shown = "";

// Where the model is, by the workers' own words: [{worker, served}]
function places(id, workers) {
  return workers.filter((worker) => worker.alive).flatMap((worker) => worker.models.filter((served) => served.id === id).map((served) => ({ worker, served })));
}

function where(found) {
  const loaded = found.filter(({ served }) => served.loaded);
  if (!found.length) return "no worker serves it";
  if (!loaded.length) return `nowhere; ${found.length === 1 ? "1 worker serves" : `${found.length} workers serve`} it`;
  return el("span", {}, loaded.flatMap(({ worker, served }, place) => [place ? el("br") : "", el("bdi", {}, worker.host), ` (${worker.device})`, served.load_seconds === null ? "" : ` in ${duration(served.load_seconds)}`]));
}

// Of the processes that have it loaded: a process's memory is not told apart by model.
function memory(found) {
  const loaded = found.filter(({ served }) => served.loaded).map(({ worker }) => worker);
  const told = loaded.filter((worker) => worker.memory_bytes !== null).map((worker) => {
    const others = worker.models.filter((served) => served.loaded).length - 1;
    const device = worker.device_memory_bytes === null ? "" : `, ${bytes(worker.device_memory_bytes)} of the GPU's`;
    return `${bytes(worker.memory_bytes)}${device}${others ? ` with ${others === 1 ? "1 other" : `${others} others`}` : ""}`;
  });
  return told.join("; ");
}

function card(model, workers) {
  const { kind, said } = availability(model), found = places(model.id, workers);
  const limits = [model.limits.max_input_tokens && `${number(model.limits.max_input_tokens)} tokens in`, model.limits.max_output_tokens && `${number(model.limits.max_output_tokens)} out`].filter(Boolean).join(", ");
  const facts = [
    ["Loaded", where(found)],
    ["Memory", memory(found)],
    ["Speed", model.tokens_per_second === null ? "not measured yet" : `${speed(model)} on one worker`],
    ["Quality", model.quality ? el("span", {}, quality(model), ` (${model.quality.low.toFixed(1)} to ${model.quality.high.toFixed(1)})`, el("span", { class: "quiet" }, ` on ${model.quality.data}`)) : ""],
    ["Languages", languages(model)],
    ["Limits", limits],
    ["Engine", `${model.engine}${model.quantization === "default" ? "" : `, ${model.quantization}`}`],
    ["Licence", model.license],
  ].filter(([, value]) => value);
  return el("article", { class: "card", dataset: { model: model.id, standing: kind }, "aria-label": model.id },
    el("header", {}, el("h3", {}, el("bdi", {}, model.id)), el("span", { class: `status ${kind}` }, said)),
    el("div", { class: "row" }, model.tier ? el("span", { class: "tag" }, `${model.family}: ${model.tier}`) : [], model.default ? el("span", { class: "tag" }, "default") : []),
    model.unavailable_reason ? el("p", { class: "note bad" }, el("bdi", {}, model.unavailable_reason)) : [],
    model.description ? el("p", {}, model.description) : [],
    el("dl", { class: "facts" }, facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    can("submit") && model.available ? el("div", { class: "row" },
      el("button", { type: "button", class: "small", "aria-label": `Try it: ${model.id}`, onclick: () => choose(model.id) }, "Try it"),
      model.task === "embedding" ? [] : el("a", { class: "button small", href: `/new?model=${encodeURIComponent(model.id)}`, "aria-label": `New job: ${model.id}` }, "New job")) : []);
}

function section(task, models, workers) {
  const data = [...new Set(models.map((model) => model.quality?.data).filter(Boolean))];
  const plots = data.map((name) => frontier(models.filter((model) => model.quality?.data === name))).filter(Boolean);
  return el("section", { class: "stack", "aria-labelledby": `task-${task}` },
    el("h2", { id: `task-${task}` }, title(task)),
    el("div", { class: "models" }, inOrder(models).map((model) => card(model, workers))),
    plots.map((plot) => el("div", { class: "card" }, plot)));
}

async function load() {
  const [models, workers] = await Promise.all([api("GET", "/v1/models"), api("GET", "/v1/workers")]);
  // Heartbeats change every few seconds; nothing is touched under somebody's hands unless what is shown did.
  const key = JSON.stringify([models.data, workers.data.map(({ host, device, alive, models: served, memory_bytes }) => [host, device, alive, served, Math.round((memory_bytes ?? 0) / 33554432)])]);
  if (key === shown || registry.contains(document.activeElement)) return;
  shown = key;
  const loaded = models.data.filter((model) => model.loaded).length;
  say(document.getElementById("tally"), `${models.data.length} registered, ${loaded} loaded`);
  document.getElementById("no-models").hidden = models.data.length > 0;
  const tasks = [...new Set(inOrder(models.data).map((model) => model.task))];
  registry.replaceChildren(...tasks.map((task) => section(task, models.data.filter((model) => model.task === task), workers.data)));
  if (can("submit")) offer(models.data);
}

let isTold = false;
every(EVERY, () => load().then(() => { isTold = false; }, (error) => {
  // Once is enough: the next try is in a moment.
  if (!isTold) complain(error);
  isTold = true;
}));
