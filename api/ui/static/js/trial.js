// One input through one model, at once: for a feeling of what a job would give.

import { api, busy, el, say, text } from "./api.js";
import { inOrder, options, targets } from "./choice.js";
import { duration, number } from "./format.js";

const $ = (id) => document.getElementById(id);
const ENDPOINTS = { translation: "/v1/translations", summarization: "/v1/summaries", generation: "/v1/chat/completions", embedding: "/v1/embeddings" };
const EXAMPLES = {
  translation: "The train to the coast leaves at nine.",
  summarization: "",
  generation: "",
  embedding: "The train to the coast leaves at nine.",
};

// The form over those models that some worker can run. What was entered stays.
export function offer(models) {
  const usable = inOrder(models.filter((model) => model.available));
  $("try").hidden = usable.length === 0;
  if (!usable.length) return;
  const form = $("trial"), select = $("trial-model");
  const usual = (usable.find((model) => model.default) ?? usable[0]).id;
  options(select, usable.map((model) => model.id), { chosen: select.value || usual });
  const chosen = () => usable.find((model) => model.id === select.value);
  select.onchange = () => fit(chosen());
  $("trial-source").onchange = () => offerTargets(chosen());
  form.onsubmit = (event) => {
    event.preventDefault();
    busy($("run-trial"), () => run(chosen()));
  };
  fit(chosen());
}

export function choose(id) {
  $("trial-model").value = id;
  $("trial-model").onchange();
  $("try").scrollIntoView({ block: "nearest" });
  $("trial-text").focus();
}

function fit(model) {
  const isOpen = model.source_languages.length > 1 || model.target_languages.length > 1;
  for (const field of document.querySelectorAll("[data-language]")) field.hidden = !isOpen;
  options($("trial-source"), model.source_languages);
  offerTargets(model);
  if (!$("trial-text").value) $("trial-text").value = EXAMPLES[model.task] ?? "";
}

function offerTargets(model) {
  options($("trial-target"), targets(model, $("trial-source").value));
}

function body(model, input) {
  if (model.task === "generation") return { model: model.id, messages: [{ role: "user", content: input }] };
  const languages = model.task === "translation" ? { source_lang: $("trial-source").value || undefined, target_lang: $("trial-target").value || undefined } : {};
  return { model: model.id, input, ...languages };
}

function said(model, answer) {
  if (model.task === "generation") return text(answer.choices[0].message.content);
  if (model.task === "embedding") {
    const vector = answer.data[0].embedding;
    const shown = vector.slice(0, 8).map((value) => value.toFixed(4)).join("  ");
    return el("div", {}, el("code", {}, shown, vector.length > 8 ? " …" : ""), el("div", { class: "quiet small" }, `${vector.length} numbers`));
  }
  return text(answer.data[0].text);
}

async function run(model) {
  const input = $("trial-text").value;
  if (!input.trim()) return;
  say($("answer-facts"), "");
  $("answer").replaceChildren(el("span", { class: "quiet" }, model.loaded ? "Running …" : "Loading the model …"));
  const began = performance.now();
  try {
    const answer = await api("POST", ENDPOINTS[model.task], body(model, input));
    $("answer").replaceChildren(said(model, answer));
    const usage = answer.usage ?? {}, into = usage.input_tokens ?? usage.prompt_tokens, out = usage.output_tokens ?? usage.completion_tokens;
    const tokens = [into === undefined ? "" : `${number(into)} tokens in`, out === undefined ? "" : `${number(out)} out`];
    say($("answer-facts"), [duration((performance.now() - began) / 1000), ...tokens].filter(Boolean).join(" · "));
  } catch (error) {
    $("answer").replaceChildren(el("span", { class: "quiet" }, "No output."));
    throw error;
  }
}
