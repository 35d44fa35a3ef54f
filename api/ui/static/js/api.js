// Asking the API as whoever is signed in, and building what a page shows. Texts only ever become text nodes.

const SVG = "http://www.w3.org/2000/svg";
const FORBIDDEN = /^(?:on|style$|src$|srcdoc$|formaction$|xlink)/i;

// What the API refused, or why it could not be asked, in a sentence for people.
export class APIError extends Error {
  constructor(message, { status = 0, code = null, param = null, details = [], requestId = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, details, requestId });
  }
}

// JSON in, JSON out; null for an empty answer. `body` may be FormData or a Blob. Throws APIError.
export async function api(method, path, body, { headers = {}, signal } = {}) {
  const answer = await send(method, path, body, { headers, signal });
  const text = await answer.text();
  return text ? JSON.parse(text) : null;
}

// The answer as it is, for what is no JSON. Throws APIError if it is a refusal.
export async function send(method, path, body, { headers = {}, signal } = {}) {
  const options = { method, signal, credentials: "same-origin", headers: { "x-bushel-ui": "1", ...headers } };
  if (body instanceof FormData || body instanceof Blob) options.body = body;
  else if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["content-type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new APIError("The server cannot be reached. Is it running?", { code: "unreachable" });
  }
  if (answer.status === 401) signIn();
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  const told = await answer.json().catch(() => ({}));
  const error = told.error ?? {};
  const wait = answer.headers.get("retry-after");
  const message = error.message ?? told.detail ?? told.title ?? `The server answered ${answer.status}.`;
  return new APIError(sentence(message) + (wait && answer.status !== 409 ? ` Try again in ${wait} s.` : ""), {
    status: answer.status,
    code: error.code ?? null,
    param: error.param ?? null,
    details: error.details ?? [],
    requestId: answer.headers.get("x-request-id"),
  });
}

export function sentence(text) {
  const said = String(text).trim();
  return said.charAt(0).toUpperCase() + said.slice(1) + (/[.!?…]$/.test(said) ? "" : ".");
}

export function signIn() {
  location.assign(`/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`);
}

// Whether the key that one is signed in with has the scope.
export function can(scope) {
  return (document.body.dataset.scopes ?? "").split(" ").includes(scope);
}

// el("p", {class: "note", dataset: {job: id}, onclick: f}, "text", node, ...). No markup, no style, no foreign address.
export function el(tag, props = {}, ...children) {
  return built(document.createElement(tag), props, children);
}

// The same inside of a picture.
export function svg(tag, props = {}, ...children) {
  return built(document.createElementNS(SVG, tag), props, children);
}

function built(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "dataset") Object.assign(node.dataset, value);
    else if (name.startsWith("on") && typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (FORBIDDEN.test(name)) throw new TypeError(`el does not set ${name}`);
    else if (name === "href" && !/^[/#](?![/\\])/.test(value)) throw new TypeError("links lead to this server only");
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  // However deep: of a list inside of a list `append` would make one text, with commas.
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// What a stranger wrote, in its own direction, cut where it is long; `whole` is where all of it can be had.
export function text(content, { most = 2000, whole = null, tag = "div", props = {} } = {}) {
  const said = String(content ?? "");
  // What may be higher than its box is scrolled by keys, too.
  const isLong = said.length > 300 || said.split("\n", 9).length > 8;
  const box = { class: isLong ? "text long" : "text", dir: "auto", ...(isLong ? { tabindex: 0, role: "group", "aria-label": "Long text" } : {}), ...props };
  if (said.length <= most) return el(tag, box, said);
  // Not through the middle of a pair of surrogates.
  const end = /[\uD800-\uDBFF]/.test(said[most - 1]) ? most - 1 : most;
  const rest = `${(said.length - end).toLocaleString("en")} more characters`;
  const more = whole ? el("a", { href: whole, download: "line.jsonl" }, `… ${rest}: download the whole line`) : `… ${rest}`;
  return el("div", {}, el(tag, box, said.slice(0, end)), el("div", { class: "small quiet", dataset: { cut: "" } }, more));
}

// Put a text where another may be, without touching what is the same: screen readers and eyes keep their place.
export function say(node, content) {
  const said = String(content ?? "");
  if (node.textContent !== said) node.textContent = said;
  return node;
}

// A short message at the edge; errors stay until they are dismissed. `link`: {href, label}.
export function toast(message, { bad = false, link = null, seconds = 6 } = {}) {
  const all = document.getElementById("toasts");
  const dismiss = el("button", { class: "plain", type: "button", "aria-label": "Dismiss", onclick: () => box.remove() }, "✕");
  const box = el("div", { class: bad ? "toast bad" : "toast", dataset: { toast: bad ? "bad" : "good" } },
    el("span", {}, message, link ? [" ", el("a", { href: link.href }, link.label)] : []), dismiss);
  while (all.children.length > 3) all.firstChild.remove();
  all.append(box);
  if (!bad) setTimeout(() => box.remove(), seconds * 1000);
  return box;
}

// Say what went wrong; errors of details are listed by the caller, where there is room.
export function complain(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof APIError)) throw error;
  const id = error.status >= 500 && error.requestId ? ` (request ${error.requestId})` : "";
  toast(error.message + id, { bad: true });
}

// A button that is busy while what it began goes on, and says what went wrong.
export function button(label, action, { kind = "", title = null, ...props } = {}) {
  const node = el("button", { type: "button", class: kind, title, ...props, onclick: () => busy(node, action) }, label);
  return node;
}

export async function busy(node, action) {
  if (node.getAttribute("aria-busy") === "true") return;
  node.setAttribute("aria-busy", "true");
  try {
    await action();
  } catch (error) {
    complain(error);
  } finally {
    node.removeAttribute("aria-busy");
  }
}

// A dialog with a form. `fill(form)` adds what is asked for; resolves to the form's FormData, or null if it was left.
export function ask(title, fill, { confirm = "OK", danger = false, cancel = "Cancel" } = {}) {
  return new Promise((resolve) => {
    const form = el("form", { method: "dialog" });
    const id = `dialog-${Math.random().toString(36).slice(2)}`;
    const dialog = el("dialog", { "aria-labelledby": id }, form);
    form.append(el("h2", { id }, title));
    fill(form);
    form.append(el("div", { class: "row end" },
      cancel ? el("button", { type: "button", value: "cancel", dataset: { answer: "no" }, onclick: () => dialog.close("") }, cancel) : [],
      el("button", { class: danger ? "danger" : "primary", value: "yes", dataset: { answer: "yes" } }, confirm)));
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "yes" ? new FormData(form) : null);
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

export async function sure(title, explanation, confirm, danger = true) {
  return (await ask(title, (form) => form.append(el("p", {}, explanation)), { confirm, danger })) !== null;
}

// A secret that is shown once, with a button that copies it.
export function secretOnce(title, explanation, secret) {
  const input = el("input", { readonly: true, value: secret, "aria-label": "Secret", dataset: { secret: "" }, spellcheck: "false" });
  const copy = button("Copy", async () => {
    input.select();
    try {
      await navigator.clipboard.writeText(secret);
      say(copy, "Copied");
    } catch {
      // Without TLS there is no clipboard for pages; it is selected, and Ctrl-C does it.
      say(copy, "Press Ctrl-C");
    }
  });
  return ask(title, (form) => {
    form.append(el("p", {}, explanation), el("div", { class: "secret" }, input, copy));
  }, { confirm: "Done", cancel: null });
}
