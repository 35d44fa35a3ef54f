// Numbers, bytes, durations and times for people.

import { el } from "./api.js";

const WHOLE = new Intl.NumberFormat("en");
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const MOMENT = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });
const EXACT = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "long" });
const AGO = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60]];

// 1234567 -> "1,234,567"; nothing -> "–"
export function number(value) {
  return value === null || value === undefined ? "–" : WHOLE.format(value);
}

// 1234567 -> "1.2M"
export function short(value) {
  return value === null || value === undefined ? "–" : SHORT.format(value);
}

// 0.256 -> "25.6 %"; never "100 %" before it is
export function percent(share) {
  if (share === null || share === undefined) return "–";
  if (share > 0 && share < 0.001) return "< 0.1 %";
  if (share > 0.999 && share < 1) return "99.9 %";
  return `${Number((share * 100).toFixed(1))} %`;
}

// 1536 -> "1.5 KiB"
export function bytes(count) {
  if (count === null || count === undefined) return "–";
  let left = count;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (left < 1024) return `${unit === "B" ? left : left.toFixed(1)} ${unit}`;
    left /= 1024;
  }
  return `${left.toFixed(1)} TiB`;
}

// 3725 -> "1 h 2 min"; 0.042 -> "42 ms"
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds <= 0) return "0 s";
  if (seconds < 0.9995) return `${Math.max(1, Math.round(seconds * 1000))} ms`;
  if (seconds < 9.95) return `${Number(seconds.toFixed(1))} s`;
  const all = Math.round(seconds);
  const [days, hours, minutes] = [Math.floor(all / 86400), Math.floor((all % 86400) / 3600), Math.floor((all % 3600) / 60)];
  if (days) return hours ? `${days} d ${hours} h` : `${days} d`;
  if (hours) return minutes ? `${hours} h ${minutes} min` : `${hours} h`;
  if (minutes) return all % 60 && minutes < 10 ? `${minutes} min ${all % 60} s` : `${minutes} min`;
  return `${all} s`;
}

// 40, 95 -> "40 s – 2 min"; equal ends once. An estimate knows no seconds when it speaks of minutes.
export function band(low, high) {
  if (low === null || low === undefined || high === null || high === undefined) return "";
  const [from, to] = [low, high].map((seconds) => duration(seconds >= 90 ? Math.round(seconds / 60) * 60 : seconds));
  return from === to ? from : `${from} – ${to}`;
}

// items or tokens per second
export function rate(value, what) {
  if (value === null || value === undefined) return "–";
  if (value >= 100) return `${short(Math.round(value))} ${what}/s`;
  if (value >= 1) return `${Number(value.toFixed(1))} ${what}/s`;
  return `${Number((value * 60).toFixed(1))} ${what}/min`;
}

// Unix seconds -> "2 min. ago"
export function ago(unix, now = Date.now() / 1000) {
  const past = now - unix;
  if (Math.abs(past) < 5) return "just now";
  for (const [unit, seconds] of UNITS) if (Math.abs(past) >= seconds) return AGO.format(-Math.trunc(past / seconds), unit);
  return AGO.format(-Math.trunc(past), "second");
}

// Unix seconds -> "24 Nov 2026, 14:03"
export function moment(unix) {
  return MOMENT.format(unix * 1000);
}

// A <time>, relative while it is young; the exact time is its title. `tick` keeps all of them right.
export function time(unix, { relative = true } = {}) {
  if (unix === null || unix === undefined) return el("span", {}, "–");
  const at = new Date(unix * 1000);
  const node = el("time", { datetime: at.toISOString(), title: EXACT.format(at), dataset: relative ? { unix } : {} });
  node.textContent = relative ? told(unix) : MOMENT.format(at);
  return node;
}

function told(unix) {
  return Math.abs(Date.now() / 1000 - unix) < 7 * 86400 ? ago(unix) : moment(unix);
}

function tick() {
  for (const node of document.querySelectorAll("time[data-unix]")) {
    const said = told(Number(node.dataset.unix));
    if (node.textContent !== said) node.textContent = said;
  }
}
setInterval(tick, 15000);

const WORDS = { in_progress: "running" };

// The words people read for statuses, tasks and codes: "in_progress" -> "running"
export function word(name) {
  return WORDS[name] ?? String(name ?? "").replaceAll("_", " ");
}

export function title(name) {
  const said = word(name);
  return said.charAt(0).toUpperCase() + said.slice(1);
}
