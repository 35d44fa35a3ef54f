// Small plots as SVG: a curve over time, and columns of a distribution. What they show is also told in words.

import { el, svg } from "./api.js";

const LEFT = 48, RIGHT = 14, TOP = 12, BOTTOM = 26;

const CLOCK = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

// Round steps up to `high`, about `count` of them; of seconds, as clocks have them.
export function steps(high, { count = 4, clock = false } = {}) {
  if (!(high > 0)) return [0];
  const raw = high / count, power = 10 ** Math.floor(Math.log10(raw));
  const even = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= raw);
  const step = clock && raw > 20 ? (raw <= 30 ? 30 : CLOCK.find((each) => each >= raw) ?? even) : even;
  const found = [];
  for (let at = 0; at <= high * 1.0001; at += step) found.push(at);
  return found;
}

// curve([{x, y}], {width, xName(x), yName(y), top, ahead: {x, y}, told}): a figure that shows how something grew.
export function curve(points, { width, height = 240, xName, yName, top, ahead = null, told }) {
  const right = Math.max(ahead?.x ?? 0, points.at(-1)?.x ?? 0, 1e-9);
  const x = (value) => LEFT + (value / right) * (width - LEFT - RIGHT);
  const y = (value) => height - BOTTOM - (value / (top || 1)) * (height - TOP - BOTTOM);
  const line = points.map((point, place) => `${place ? "L" : "M"}${x(point.x).toFixed(1)} ${y(point.y).toFixed(1)}`).join("");
  const plot = frame(width, height, told);
  axes(plot, width, height, { xs: steps(right, { clock: true }), x, xName, ys: steps(top), y, yName });
  if (points.length) {
    plot.append(svg("path", { class: "area", d: `${line}L${x(points.at(-1).x).toFixed(1)} ${y(0)}L${x(points[0].x).toFixed(1)} ${y(0)}Z` }));
    plot.append(svg("path", { class: "curve", d: line }));
    if (ahead) plot.append(svg("path", { class: "ahead", d: `M${x(points.at(-1).x)} ${y(points.at(-1).y)}L${x(ahead.x)} ${y(ahead.y)}` }));
  }
  return plot;
}

// columns({bins, median, p95, count}, {width, name(value), told}): how values are spread, with the median marked.
export function columns(found, { width, height = 180, name, told }) {
  const bins = found.bins, most = Math.max(...bins.map((bin) => bin.count));
  const inside = width - LEFT - RIGHT, each = inside / bins.length;
  const y = (value) => height - BOTTOM - (value / most) * (height - TOP - BOTTOM);
  const plot = frame(width, height, told);
  axes(plot, width, height, { xs: [], x: Number, xName: String, ys: steps(most, { count: 3 }), y, yName: (value) => (Number.isInteger(value) ? String(value) : "") });
  bins.forEach((bin, place) => {
    const column = svg("rect", { class: "column", x: (LEFT + place * each + 1).toFixed(1), width: Math.max(1, Math.min(each - 2, 90)).toFixed(1), y: y(bin.count).toFixed(1), height: Math.max(0, height - BOTTOM - y(bin.count)).toFixed(1), rx: 2 });
    column.append(svg("title", {}, `${name(bin.low)} to ${name(bin.high)}: ${bin.count}`));
    plot.append(column);
  });
  // As many names as have room, with room for the last.
  const shown = Math.max(1, Math.ceil(75 / each));
  bins.forEach((bin, place) => {
    if (place % shown === 0 && (bins.length - place) * each > 110) plot.append(svg("text", { x: LEFT + place * each, y: height - 8 }, name(bin.low)));
  });
  plot.append(svg("text", { x: width - RIGHT, y: height - 8, "text-anchor": "end" }, name(found.high)));
  const at = bins.findLastIndex((bin) => bin.low <= found.median), bin = bins[at];
  const within = bin.high > bin.low ? (found.median - bin.low) / (bin.high - bin.low) : 0.5;
  const middle = LEFT + (at + Math.min(1, within)) * each;
  if (bins.length > 1) plot.append(svg("path", { class: "mark", d: `M${middle.toFixed(1)} ${TOP}V${height - BOTTOM}` }));
  return plot;
}

export function figure(heading, plot, caption, kind = "") {
  return el("figure", { class: kind }, el("h3", {}, heading), plot, el("figcaption", {}, caption));
}

function frame(width, height, told) {
  return svg("svg", { class: "plot", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": told });
}

function axes(plot, width, height, { xs, x, xName, ys, y, yName }) {
  for (const value of ys) {
    plot.append(svg("path", { class: "grid", d: `M${LEFT} ${y(value).toFixed(1)}H${width - RIGHT}` }));
    plot.append(svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, yName(value)));
  }
  for (const value of xs) plot.append(svg("text", { x: x(value), y: height - 8, "text-anchor": value ? "middle" : "start" }, xName(value)));
}
