// Quality against speed, as it was measured: models that no other one beats in both are on the frontier.

import { el, svg } from "./api.js";
import { rate } from "./format.js";
import { figure, steps } from "./plots.js";

const WIDTH = 640, HEIGHT = 260, LEFT = 48, RIGHT = 24, TOP = 14, BOTTOM = 34;

// A figure of those that were measured on the same data as the first; null for fewer than two.
export function frontier(models) {
  const measured = models.filter((model) => model.quality);
  if (measured.length < 2) return null;
  const { metric, data } = measured[0].quality;
  const points = measured.filter(({ quality }) => quality.metric === metric && quality.data === data).map(({ id, quality }) => ({
    id, x: quality.items_per_second, y: quality.score, low: quality.low, high: quality.high,
  }));
  if (points.length < 2) return null;
  for (const point of points) point.isBehind = points.some((other) => other !== point && other.x >= point.x && other.y >= point.y);
  const best = points.filter((point) => !point.isBehind).map((point) => point.id);
  const caption = el("span", {}, `Up is better (${metric} on ${data}, with its 95 % interval), right is faster. Nothing is as good and faster than `, best.flatMap((id, place) => [place ? ", " : "", el("bdi", {}, id)]), ".");
  return figure("Speed against quality", plot(points, metric), caption);
}

function plot(points, metric) {
  const fastest = Math.max(...points.map((point) => point.x)) * 1.08;
  const least = Math.min(...points.map((point) => point.low)), most = Math.max(...points.map((point) => point.high));
  const room = Math.max(most - least, 1) * 0.15, low = Math.max(0, least - room), high = most + room;
  const x = (value) => LEFT + (value / fastest) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - ((value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const told = points.map((point) => `${point.id}: ${point.y.toFixed(1)} ${metric} at ${rate(point.x, "items")}`).join("; ");
  const drawn = svg("svg", { class: "plot frontier", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": told });
  for (const value of steps(high - low).map((step) => low + step).filter((value) => value <= high)) {
    drawn.append(svg("path", { class: "grid", d: `M${LEFT} ${y(value).toFixed(1)}H${WIDTH - RIGHT}` }), svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(high - low < 4 ? 1 : 0)));
  }
  for (const value of steps(fastest)) if (value <= fastest) drawn.append(svg("text", { x: x(value), y: HEIGHT - 12, "text-anchor": "middle" }, value ? rate(value, "items") : "0"));
  for (const point of points) {
    const kind = point.isBehind ? " behind" : "";
    drawn.append(
      svg("path", { class: `whisker${kind}`, d: `M${x(point.x)} ${y(point.low)}V${y(point.high)}` }),
      svg("circle", { class: `point${kind}`, cx: x(point.x), cy: y(point.y), r: 5.5 }),
      svg("text", { class: "name", x: x(point.x) + (x(point.x) > WIDTH * 0.7 ? -10 : 10), y: y(point.y) - 9, "text-anchor": x(point.x) > WIDTH * 0.7 ? "end" : "start" }, point.id));
  }
  return drawn;
}
