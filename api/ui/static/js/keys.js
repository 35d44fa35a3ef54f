// Keys of the tenant: made, given a new secret, revoked.

import { api, ask, button, busy, can, complain, el, secretOnce, toast } from "./api.js";
import { time } from "./format.js";

const MEANINGS = { read: "look at jobs, results, files and webhooks", submit: "make, change and delete jobs, files and webhooks", admin: "keys and the audit log" };
const LIVES = [["", "never"], [86400, "in a day"], [7 * 86400, "in a week"], [30 * 86400, "in 30 days"], [90 * 86400, "in 90 days"], [365 * 86400, "in a year"]];
const GRACES = [[86400, "for a day, beside the new one"], [3600, "for an hour, beside the new one"], [7 * 86400, "for a week, beside the new one"], [0, "no longer: it ends now"]];

const $ = (id) => document.getElementById(id);
const body = document.querySelector("#keys tbody");
let last = null;

function isOpen(key) {
  return key.revoked_at === null && (key.expires_at === null || key.expires_at > Date.now() / 1000);
}

function row(key) {
  const isUsable = isOpen(key);
  return el("tr", { dataset: { key: key.id, open: isUsable }, hidden: !isUsable && !$("ended").checked },
    el("th", { scope: "row" }, el("bdi", { class: "name" }, key.name), el("div", { class: "small quiet" }, el("code", {}, key.id))),
    el("td", {}, el("div", { class: "row" }, key.scopes.map((scope) => el("span", { class: "tag", title: MEANINGS[scope] }, scope)))),
    el("td", {}, state(key)),
    el("td", {}, key.last_used_at === null ? "never" : time(key.last_used_at)),
    el("td", {}, time(key.created_at)),
    el("td", {}, isUsable ? el("div", { class: "row end" },
      button("New secret", () => rotate(key), { kind: "small", dataset: { action: "rotate" }, "aria-label": `New secret for ${key.name}` }),
      button("Revoke", () => revoke(key), { kind: "small danger", dataset: { action: "revoke" }, "aria-label": `Revoke ${key.name}` })) : ""));
}

function state(key) {
  if (key.revoked_at !== null) return [el("span", { class: "status bad" }, "revoked"), " ", time(key.revoked_at)];
  if (!isOpen(key)) return [el("span", { class: "status warn" }, "expired"), " ", time(key.expires_at)];
  const ends = key.expires_at === null ? "" : el("div", { class: "small quiet" }, "expires ", time(key.expires_at));
  const old = key.previous_secret_expires_at !== null && key.previous_secret_expires_at > Date.now() / 1000 ? el("div", { class: "small quiet" }, "old secret ends ", time(key.previous_secret_expires_at)) : "";
  return [el("span", { class: "status good" }, "opens"), ends, old];
}

async function load({ again = true } = {}) {
  const page = await api("GET", `/v1/keys?limit=100${again || !last ? "" : `&after=${last}`}`);
  if (again) body.replaceChildren();
  body.append(...page.data.map(row));
  last = page.last_id;
  $("more").hidden = !page.has_more;
}

async function create() {
  const answer = await ask("New key", (form) => {
    form.append(
      el("div", { class: "field" }, el("label", { for: "key-name" }, "Name"), el("input", { id: "key-name", name: "name", required: true, maxlength: 100, placeholder: "nightly import", autocomplete: "off" })),
      el("fieldset", {}, el("legend", {}, "It may"), Object.entries(MEANINGS).filter(([scope]) => can(scope)).map(([scope, meaning]) =>
        el("label", { class: "check" }, el("input", { type: "checkbox", name: "scopes", value: scope, checked: scope !== "admin" }), el("span", {}, el("code", {}, scope), ` ${meaning}`)))),
      el("div", { class: "field" }, el("label", { for: "key-life" }, "Expires"), el("select", { id: "key-life", name: "life" }, LIVES.map(([seconds, name]) => el("option", { value: seconds, selected: seconds === 90 * 86400 }, name)))));
  }, { confirm: "Create" });
  if (answer === null) return;
  const scopes = answer.getAll("scopes");
  if (!scopes.length) {
    toast("Choose at least one thing that the key may do.", { bad: true });
    return;
  }
  const life = answer.get("life");
  const made = await api("POST", "/v1/keys", { name: answer.get("name"), scopes, expires_in_seconds: life ? Number(life) : null });
  await load();
  await secretOnce("The new key", "Copy it now: it is not shown again.", made.key);
}

async function rotate(key) {
  const answer = await ask(`New secret for “${key.name}”`, (form) => {
    form.append(el("p", {}, "Name, scopes and expiry stay."),
      el("div", { class: "field" }, el("label", { for: "grace" }, "The old secret works"), el("select", { id: "grace", name: "grace" }, GRACES.map(([seconds, name]) => el("option", { value: seconds }, name)))));
  }, { confirm: "Make a new secret" });
  if (answer === null) return;
  const made = await api("POST", `/v1/keys/${key.id}/rotate`, { grace_seconds: Number(answer.get("grace")) });
  await secretOnce("The key with its new secret", "Copy it now: it is not shown again.", made.key);
  await load();
}

async function revoke(key) {
  const answer = await ask(`Revoke “${key.name}”?`, (form) => form.append(el("p", {}, "Programs that use it are refused from now on, and browsers that are signed in with it, too. It cannot be undone.")), { confirm: "Revoke", danger: true });
  if (answer === null) return;
  await api("DELETE", `/v1/keys/${key.id}`);
  toast("The key is revoked.");
  await load();
}

$("create").addEventListener("click", () => busy($("create"), create));
$("more").addEventListener("click", () => busy($("more"), () => load({ again: false })));
$("ended").addEventListener("change", () => {
  for (const each of body.children) each.hidden = each.dataset.open === "false" && !$("ended").checked;
});
if (can("admin")) {
  $("list").hidden = $("create").hidden = false;
  load().catch(complain);
} else $("not-allowed").hidden = false;
