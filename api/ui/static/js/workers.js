// Who works, on what, and what waits: asked every two seconds while the page is seen.

import { api, el, say } from "./api.js";
import { ago, bytes, duration, number, percent, rate, short, time } from "./format.js";
import { every } from "./live.js";

const EVERY = 2000;
const $ = (id) => document.getElementById(id);
const indicator = $("live");

// --- queues

function isBusy(queue) {
  return queue.items + queue.running_items + queue.paused_items > 0;
}

function queueRow(queue, most, now) {
  const fill = el("div", { class: "fill" });
  fill.style.width = `${most ? Math.max(queue.items ? 2 : 0, (queue.items / most) * 100) : 0}%`;
  const waits = queue.oldest_at === null ? "–" : duration(Math.max(0, now - queue.oldest_at));
  const paused = queue.paused_items ? el("div", { class: "quiet small" }, `and ${number(queue.paused_items)} paused`) : [];
  return el("tr", { dataset: { queue: queue.id } },
    el("th", { scope: "row" }, el("bdi", { class: "name" }, queue.id)),
    el("td", { class: "number" }, el("div", { class: "depth" }, el("span", {}, number(queue.items)), el("div", { class: "track", "aria-hidden": "true" }, fill)), paused),
    el("td", { class: "number" }, number(queue.own.items + queue.own.running_items)),
    el("td", { class: "number" }, number(queue.running_items), el("span", { class: "quiet" }, queue.leased_chunks ? ` in ${queue.leased_chunks === 1 ? "1 chunk" : `${number(queue.leased_chunks)} chunks`}` : "")),
    el("td", { class: "number" }, waits),
    el("td", { class: "number" }, queue.workers ? number(queue.workers) : el("span", { class: "status bad" }, "none"), el("span", { class: "quiet" }, queue.workers && !queue.loaded ? ", not loaded" : "")),
    el("td", { class: "number" }, rate(queue.tokens_per_second, "tokens")),
    el("td", { class: "number" }, queue.items ? (queue.clear_seconds === null ? "–" : `≈ ${duration(queue.clear_seconds)}`) : "–"));
}

function showQueues(queues, now) {
  const busy = queues.filter(isBusy), most = Math.max(0, ...busy.map((queue) => queue.items));
  const idle = queues.filter((queue) => !isBusy(queue));
  $("queues").querySelector("tbody").replaceChildren(...(busy.length ? busy.map((queue) => queueRow(queue, most, now)) : [el("tr", {}, el("td", { colspan: 8, class: "quiet" }, "Nothing waits and nothing runs."))]));
  const sum = (name) => busy.reduce((total, queue) => total + queue[name], 0);
  say($("queues-told"), busy.length ? `${number(sum("items"))} items (${short(sum("tokens"))} tokens) of ${number(sum("jobs"))} jobs wait, ${number(sum("running_items"))} items run` : "");
  say($("idle"), idle.length ? `Nothing to do: ${idle.map((queue) => queue.id).join(", ")}` : "");
}

// --- workers

function meter(name, share, said) {
  const fill = el("div", { class: "fill" });
  fill.style.width = `${Math.min(1, share) * 100}%`;
  return el("div", { class: "meter" }, el("div", {}, el("span", { class: "quiet" }, name), el("span", { class: "number" }, said)),
    el("div", { class: "track", role: "meter", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(share * 100) }, fill));
}

function standing(worker) {
  if (!worker.alive) return el("span", { class: "status bad" }, "lost");
  if (worker.running || worker.leases.chunks) return el("span", { class: "status busy" }, "working");
  return el("span", { class: "status good" }, worker.models.length ? "idle" : "ready");
}

function running(worker, now) {
  if (!worker.models.length) return "reads inputs, writes results, sends webhooks";
  if (!worker.running) return worker.leases.items ? `about to run ${number(worker.leases.items)} items` : "nothing";
  return el("span", {}, `${number(worker.running.items)} items of `, el("bdi", {}, worker.running.model), `, for ${duration(Math.max(0, now - worker.running.since))}`);
}

function served(model) {
  const said = model.unavailable_reason ? el("span", { class: "status bad", title: model.unavailable_reason }, "cannot be loaded")
    : model.loaded ? el("span", { class: "quiet" }, [model.tokens_per_second === null ? "loaded" : rate(model.tokens_per_second, "tokens"), model.load_seconds === null ? "" : `loaded in ${duration(model.load_seconds)}`].filter(Boolean).join(", "))
      : el("span", { class: "quiet" }, "not loaded");
  return el("li", {}, el("bdi", { class: "name" }, model.id), said, model.unavailable_reason ? el("div", { class: "quiet small" }, el("bdi", {}, model.unavailable_reason)) : []);
}

function workerCard(worker, now) {
  const memory = worker.memory_bytes === null ? "" : `${bytes(worker.memory_bytes)}${worker.device_memory_bytes === null ? "" : ` and ${bytes(worker.device_memory_bytes)} of the GPU's`}`;
  const facts = [
    ["Does now", running(worker, now)],
    ["Holds", worker.leases.chunks ? `${worker.leases.chunks === 1 ? "1 chunk" : `${number(worker.leases.chunks)} chunks`}, ${number(worker.leases.items)} items` : ""],
    ["Memory", memory],
    ["Up", el("span", {}, duration(Math.max(0, now - worker.started_at)), el("span", { class: "quiet" }, `, heard of ${ago(worker.heartbeat_at, now)}`))],
  ].filter(([, value]) => value);
  return el("article", { class: worker.alive ? "card" : "card lost", dataset: { worker: worker.id }, "aria-label": `Worker ${worker.id}` },
    el("header", {}, el("h3", { class: "worker-name" }, el("bdi", {}, worker.host), " ", el("span", { class: "tag" }, worker.models.length ? worker.device : "io")), standing(worker)),
    worker.alive ? [] : el("p", { class: "note warn" }, "Not heard of any more. What it held is taken back and run elsewhere."),
    worker.busy === null ? [] : meter("Device busy in the last minute", worker.busy, percent(worker.busy)),
    el("dl", { class: "facts" }, facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    worker.models.length ? el("ul", { class: "served", "aria-label": "Models" }, worker.models.map(served)) : [],
    el("code", { class: "quiet small" }, worker.id));
}

function showLeases(workers) {
  const rows = workers.flatMap((worker) => worker.leases.own.map((lease) => [worker, lease]));
  $("leases-card").hidden = rows.length === 0;
  $("leases").querySelector("tbody").replaceChildren(...rows.map(([worker, lease]) => el("tr", {},
    el("th", { scope: "row" }, el("a", { href: `/jobs/${lease.job_id}` }, lease.job_id)),
    el("td", {}, el("bdi", {}, lease.model)),
    el("td", {}, el("bdi", {}, worker.host)),
    el("td", { class: "number" }, lease.progress ? `${number(lease.progress)} of ${number(lease.items)}` : number(lease.items)),
    el("td", { class: "number" }, time(lease.since)),
    el("td", { class: "number" }, number(lease.attempt)),
    el("td", { class: "number" }, time(lease.expires_at)))));
}

let seen = "";

async function load() {
  const [workers, queues] = await Promise.all([api("GET", "/v1/workers"), api("GET", "/v1/queues")]);
  indicator.dataset.state = "live";
  say(indicator, "every 2 s");
  const now = Date.now() / 1000;
  // A link that somebody is at stays where it is until they leave it, or until what is behind it has changed.
  const key = JSON.stringify([workers.data, queues.data]);
  if (key === seen && document.querySelector("main a:focus")) return;
  seen = key;
  const focused = document.activeElement?.getAttribute?.("href");
  showQueues(queues.data, now);
  $("workers").replaceChildren(...workers.data.map((worker) => workerCard(worker, now)));
  $("no-workers").hidden = workers.data.some((worker) => worker.alive);
  showLeases(workers.data);
  if (focused && document.activeElement === document.body) [...document.querySelectorAll("main a")].find((link) => link.getAttribute("href") === focused)?.focus();
}

every(EVERY, () => load().catch(() => {
  indicator.dataset.state = "offline";
  say(indicator, "no connection, trying again");
}));
