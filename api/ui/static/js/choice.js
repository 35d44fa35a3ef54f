// Which task, model and languages a job gets: the registry as a list to choose from, with what was measured.

import { el } from "./api.js";
import { rate, title } from "./format.js";

const TIERS = ["best", "balanced", "fast"];
// As they are offered; of embeddings there are no jobs of our own form.
const TASKS = ["translation", "summarization", "generation", "embedding"];

// What of the model can be told before one uses it: whether it is there, how fast, how good.
export function availability(model) {
  if (!model.available) return { kind: "bad", said: "unavailable" };
  return model.loaded ? { kind: "good", said: "loaded" } : { kind: "", said: "loads when needed" };
}

export function speed(model) {
  return model.tokens_per_second === null ? "speed not measured yet" : rate(model.tokens_per_second, "tokens");
}

// {metric: "BLEU", score: 31.4, low, high} -> "BLEU 31.4"; "" where nothing was measured
export function quality(model) {
  return model.quality ? `${model.quality.metric} ${Number(model.quality.score.toFixed(1))}` : "";
}

export function languages(model) {
  const { source_languages: from, target_languages: to, language_pairs: pairs } = model;
  if (pairs.length) return listed(pairs.map((pair) => pair.join(" → ")));
  if (!from.length && !to.length) return "";
  return `${listed(from)} → ${listed(to)}`;
}

// What a model can translate to from that source.
export function targets(model, source) {
  if (model.language_pairs.length) return model.language_pairs.filter(([from]) => from === source).map(([, to]) => to);
  return model.target_languages.filter((code) => code !== source || model.target_languages.length === 1);
}

function listed(codes) {
  return codes.length > 4 ? `${codes.slice(0, 3).join(", ")} and ${codes.length - 3} more` : codes.join(", ") || "any";
}

// Task by task, the default's family first, and in a family the best one first.
export function inOrder(models) {
  const family = (model) => model.family ?? model.id;
  const usual = new Set(models.filter((model) => model.default).map(family));
  const place = (model) => [TASKS.indexOf(model.task), usual.has(family(model)) ? 0 : 1, family(model), TIERS.indexOf(model.tier), model.id].join("\n");
  return [...models].sort((a, b) => (place(a) < place(b) ? -1 : 1));
}

// The choice inside its form. `changed()` is called when another task, model or language is chosen.
export class Choice {
  constructor({ tasks, models, languages: fields, source, target }, changed) {
    Object.assign(this, { tasks, models, fields, source, target, changed });
    this.all = [];
    this.task = this.model = null;
    source.addEventListener("change", () => { this.offerTargets(); changed(); });
    target.addEventListener("change", changed);
  }

  // `wanted`: the name of a model to begin with.
  fill(all, wanted) {
    this.all = inOrder(all.filter((model) => model.task !== "embedding"));
    const tasks = [...new Set(this.all.map((model) => model.task))];
    const first = this.all.find((model) => model.id === wanted) ?? this.all.find((model) => model.default && model.available) ?? this.all[0];
    this.tasks.replaceChildren(...tasks.map((task) => el("button", { type: "button", dataset: { task }, "aria-pressed": "false", onclick: () => this.take(task) }, title(task))));
    if (first) this.take(first.task, first.id);
    else this.models.replaceChildren(el("p", { class: "note warn" }, "No model is registered. Add one with `bushel models add`."));
  }

  take(task, id = null) {
    if (task === this.task && id === null) return;
    this.task = task;
    for (const each of this.tasks.children) each.setAttribute("aria-pressed", String(each.dataset.task === task));
    const offered = this.all.filter((model) => model.task === task);
    const chosen = offered.find((model) => model.id === id) ?? offered.find((model) => model.default) ?? offered[0];
    this.models.replaceChildren(...offered.map((model) => this.option(model, model === chosen)));
    this.choose(chosen);
  }

  option(model, isChosen) {
    const { kind, said } = availability(model);
    const note = `model-${model.id}`;
    return el("label", { class: "choice" },
      el("input", { type: "radio", name: "model", value: model.id, checked: isChosen, "aria-describedby": note, onchange: () => this.choose(model) }),
      el("span", { class: "line" }, el("bdi", { class: "name" }, model.id), model.tier ? el("span", { class: "tag" }, model.tier) : [], model.default ? el("span", { class: "tag" }, "default") : []),
      el("span", { class: "measured" }, [speed(model), quality(model)].filter(Boolean).join(" · ")),
      el("span", { class: "quiet small", id: note }, el("span", { class: `status ${kind}` }, said), " ", [languages(model), model.unavailable_reason ?? model.description].filter(Boolean).join(" · ")));
  }

  choose(model) {
    this.model = model;
    // With one language there is nothing to choose, and it is filled in.
    const isOpen = model.source_languages.length > 1 || model.target_languages.length > 1;
    this.fields.hidden = !isOpen;
    if (isOpen) {
      options(this.source, model.source_languages);
      this.offerTargets();
    }
    this.changed();
  }

  offerTargets() {
    options(this.target, targets(this.model, this.source.value));
  }

  get params() {
    const found = {};
    if (this.model && !this.fields.hidden) {
      if (this.source.value && this.model.source_languages.length > 1) found.source_lang = this.source.value;
      if (this.target.value && this.model.target_languages.length > 1) found.target_lang = this.target.value;
    }
    return found;
  }
}

// The values as options; what was chosen stays, if it is still there.
export function options(select, values, { none = null, chosen = null } = {}) {
  const before = chosen ?? select.value;
  const made = values.map((value) => (Array.isArray(value) ? value : [value, value]));
  select.replaceChildren(...(none === null ? [] : [el("option", { value: "" }, none)]), ...made.map(([value, name]) => el("option", { value }, name)));
  if (made.some(([value]) => value === before)) select.value = before;
}
