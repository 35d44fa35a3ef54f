// A first look at an input, in the browser: which format it is in and what its columns are called. The server decides.

export const PEEK = 65536;

const SUFFIXES = { jsonl: "jsonl", ndjson: "jsonl", csv: "csv", tsv: "csv", tab: "csv", txt: "txt", text: "txt" };

// {type, delimiter, columns}: what the name and the first lines tell; columns are null where there are none.
export function peek(name, start) {
  const suffix = name.toLowerCase().replace(/\.gz$/, "").split(".").pop();
  const type = SUFFIXES[suffix] ?? looksLike(start);
  if (type === "csv") {
    const delimiter = suffix === "tsv" || suffix === "tab" ? "\t" : likeliest(firstLine(start));
    return { type, delimiter, columns: cells(firstRow(start), delimiter) };
  }
  return { type, delimiter: ",", columns: type === "jsonl" ? keys(firstLine(start)) : null };
}

function looksLike(start) {
  const lines = start.split("\n", 6).filter((line) => line.trim());
  if (lines.length && lines.every((line) => /^\s*[{"[]/.test(line)) && keys(lines[0])) return "jsonl";
  const delimiter = likeliest(lines[0] ?? "");
  const widths = lines.slice(0, 5).map((line) => cells(line, delimiter).length);
  const named = cells(lines[0] ?? "", delimiter);
  const isTable = lines.length > 1 && widths[0] > 1 && widths.every((width) => width === widths[0]);
  return isTable && named.every((cell) => /^[\p{L}_][\p{L}\p{N}_ -]{0,40}$/u.test(cell.trim())) ? "csv" : "txt";
}

export function firstLine(start) {
  return start.replace(/^\uFEFF/, "").split(/\r?\n/).find((line) => line.trim()) ?? "";
}

// A row may go over several lines inside its quotes.
function firstRow(start) {
  const text = start.replace(/^\uFEFF/, "").trimStart();
  let isQuoted = false;
  for (let at = 0; at < text.length; at++) {
    if (text[at] === '"') isQuoted = !isQuoted;
    else if ((text[at] === "\n" || text[at] === "\r") && !isQuoted) return text.slice(0, at);
  }
  return text;
}

function likeliest(line) {
  const counts = [",", ";", "\t", "|"].map((mark) => [line.split(mark).length, mark]);
  return counts.reduce((best, each) => (each[0] > best[0] ? each : best))[1];
}

export function cells(line, delimiter) {
  const found = [];
  let cell = "", isQuoted = false;
  for (let at = 0; at < line.length; at++) {
    const mark = line[at];
    if (isQuoted && mark === '"' && line[at + 1] === '"') cell += line[++at];
    else if (mark === '"') isQuoted = !isQuoted;
    else if (mark === delimiter && !isQuoted) {
      found.push(cell.trim());
      cell = "";
    } else cell += mark;
  }
  return [...found, cell.trim()];
}

function keys(line) {
  try {
    const value = JSON.parse(line);
    return value && typeof value === "object" && !Array.isArray(value) ? Object.keys(value) : [];
  } catch {
    return null;
  }
}

// What our own form of JSONL has; of any other object the text's key must be named.
const OURS = ["text", "messages"];
const TEXTS = ["text", "source", "sentence", "input", "content", "body", "src", "en"];
const IDS = ["custom_id", "id", "key", "nr"];
const REFERENCES = ["reference", "target", "translation", "summary", "tgt"];

// {text, id, reference}: the columns that are likely meant; null where the format's own way will do.
export function likely({ type, columns }) {
  const named = (names) => names.map((name) => (columns ?? []).find((column) => column.toLowerCase() === name)).find(Boolean) ?? null;
  if (type === "txt" || !columns?.length) return { text: null, id: null, reference: null };
  if (type === "jsonl" && columns.some((column) => OURS.includes(column))) return { text: null, id: null, reference: null };
  const text = named(TEXTS) ?? columns.find((column) => !IDS.includes(column.toLowerCase())) ?? columns[0];
  const id = named(IDS), reference = named(REFERENCES);
  return { text, id: id === text ? null : id, reference: reference === text ? null : reference };
}
