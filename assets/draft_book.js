// The lorebook: entries that open on a click, with their tokens; delete with undo, files of other programs, and what a message
// would fire. Runs as the script of an HTML component whose value is the book as JSON; tells the room by the event "draft-list".
// JSON, since the page makes every object of a value watchable, one by one, which takes a large book ten seconds.

const make = (tag, className = "", text = "") => {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
};
const button = (words, act, className = "") => {
  const made = make("button", className, words);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
};

const rows = make("div", "book-rows");
const empty = make("p", "quiet", "No entries yet. An entry is read by the model only when one of its keys comes up in the chat, so a " +
  "whole world can wait behind a character.");
const problem = make("p", "book-problem");
const news = make("p", "book-news quiet");
const tools = make("div", "book-tools");
const rules = make("details", "book-rules");
const test = make("div", "book-test");
const found = make("div", "book-found");
const message = make("input");
const file = make("input");
const settings = {scan_depth: 2, token_budget: 512, recursive: true};
const fields = {};
let wait = 0;

const listed = (keys) => keys.some((key) => key.includes(",")) ? keys.join("\n") + "\n" : keys.join(", ");
const parted = (text) => text.split(text.includes("\n") ? "\n" : ",").map((key) => key.trim()).filter(Boolean);
const entries = () => [...rows.children].filter((row) => row.entry).map((row) => row.entry);
const book = () => ({...settings, entries: entries()});
const title = (entry) => entry.name || entry.keys.slice(0, 2).join(", ") || "New entry";

const tell = () => {
  const value = structuredClone(book());
  element.dispatchEvent(new CustomEvent("draft-list", {bubbles: true, detail: {field: "character_book", texts: value}}));
  props.value = JSON.stringify(value);
  look();
};

const look = () => {
  empty.hidden = rows.children.length > 0;
  rules.hidden = test.hidden = !entries().length;
  clearTimeout(wait);
  wait = setTimeout(measure, 400);
};

const measure = async () => {
  if (!entries().length) return;
  const answer = await server.look_at_book({book: book(), message: message.value}).catch(() => null);
  if (!answer?.tokens) return;
  const shown = [...rows.children].filter((row) => row.entry);
  shown.forEach((row, index) => { row.querySelector(".book-size").textContent = answer.tokens[index] ?? ""; });
  found.innerHTML = answer.html;
};

const field = (row, name, label, made, read) => {
  const wrap = make("label", `book-${name}`);
  made.addEventListener("input", () => { row.entry[name] = read(made); head(row); tell(); });
  wrap.append(...(made.type === "checkbox" ? [made, make("span", "", label)] : [make("span", "", label), made]));
  return wrap;
};

const head = (row) => {
  row.querySelector(".book-title").textContent = title(row.entry);
  row.querySelector(".book-kind").textContent =
    !row.entry.enabled ? "off" : row.entry.constant ? "always" : row.entry.name ? row.entry.keys.slice(0, 3).join(", ") : "";
  row.classList.toggle("off", !row.entry.enabled);
};

const checkbox = (checked) => Object.assign(make("input"), {type: "checkbox", checked});
const area = (value, lines) => Object.assign(make("textarea"), {value, rows: lines});

const remove = (row) => {
  const entry = row.entry;
  const gone = make("div", "book-gone", `“${title(entry)}” was deleted. `);
  gone.append(button("Undo", () => { const back = entry_row(entry); gone.replaceWith(back); tell(); back.querySelector("summary").focus(); }));
  row.replaceWith(gone);
  tell();
  gone.querySelector("button").focus();
};

const entry_row = (entry) => {
  const row = make("details", "book-entry");
  row.entry = {...entry};
  const summary = make("summary");
  summary.append(make("span", "book-title"), make("span", "book-kind"), make("span", "book-size measure"));
  row.append(summary);
  row.addEventListener("toggle", () => open(row, row.open));
  head(row);
  return row;
};

// The fields of an entry are made when it is first opened: a large book would keep the page busy for seconds.
const open = (row, opened = true) => {
  row.open = opened;
  if (!opened || row.children.length > 1) return;
  const entry = row.entry;
  const order = Object.assign(make("input"), {type: "number", value: entry.order, step: 1});
  const name = Object.assign(make("input"), {value: entry.name, placeholder: "For you; the model never reads it"});
  const line = make("div", "book-line");
  line.append(field(row, "order", "Order", order, (made) => Math.round(made.valueAsNumber) || 0),
    field(row, "constant", "Always fires", checkbox(entry.constant), (made) => made.checked),
    field(row, "enabled", "On", checkbox(entry.enabled), (made) => made.checked), button("Delete", () => remove(row), "book-delete"));
  row.append(
    field(row, "name", "Name", name, (made) => made.value),
    field(row, "keys", "Keys: one of them must come up (commas between them)", area(listed(entry.keys), 1), (made) => parted(made.value)),
    field(row, "secondary", "And one of these, if there are any", area(listed(entry.secondary), 1), (made) => parted(made.value)),
    field(row, "content", "What the model then reads", area(entry.content, 4), (made) => made.value), line);
};

const add = () => {
  const row = entry_row({name: "", keys: [], secondary: [], content: "", order: 100, constant: false, enabled: true, kept: ""});
  open(row);
  rows.append(row);
  tell();
  row.querySelector(".book-keys textarea").focus();
};

const bring = async () => {
  const chosen = file.files[0];
  file.value = "";
  problem.textContent = news.textContent = "";
  if (!chosen) return;
  if (chosen.size > 1e6) { problem.textContent = `${chosen.name} is larger than 1 MB, which is too large for a lorebook.`; return; }
  const answer = await server.read_world({text: await chosen.text(), name: chosen.name}).catch(() => null);
  if (!answer?.entries) { problem.textContent = answer?.problem ?? "The studio does not answer. Try again."; return; }
  rows.append(...answer.entries.map(entry_row));
  news.textContent = answer.told;
  tell();
};

const fill = () => {
  const value = JSON.parse(props.value || "{}");
  if (JSON.stringify(book()) === JSON.stringify({...settings, ...value})) return;
  const opened = new Set([...rows.children].filter((row) => row.open).map((row) => row.entry?.kept));
  for (const name of Object.keys(settings)) {
    settings[name] = value[name] ?? settings[name];
    fields[name][name === "recursive" ? "checked" : "value"] = settings[name];
  }
  rows.replaceChildren(...(value.entries ?? []).map(entry_row));
  for (const row of rows.children) if (row.entry.kept && opened.has(row.entry.kept)) open(row);
  look();
};

const rule = (name, label, made, read) => {
  fields[name] = made;
  made.addEventListener("input", () => { settings[name] = read(made); tell(); });
  const wrap = make("label");
  wrap.append(...(made.type === "checkbox" ? [made, make("span", "", label)] : [make("span", "", label), made]));
  return wrap;
};
const number = () => Object.assign(make("input"), {type: "number", min: 1, step: 1});  // 0 means "not set" in cards
const whole = (made) => Math.max(1, Math.round(made.valueAsNumber) || 1);

rules.append(make("summary", "", "How entries are looked for"),
  rule("scan_depth", "Messages that are searched for keys", number(), whole),
  rule("token_budget", "Tokens of all entries together, at most", number(), whole),
  rule("recursive", "The text of one entry can fire another", checkbox(false), (made) => made.checked));
file.type = "file";
file.accept = ".json,.lorebook,.story,.scenario,application/json";
file.hidden = true;
file.setAttribute("aria-label", "Lorebook file");
file.addEventListener("change", bring);
message.placeholder = "Type a message of the player";
message.setAttribute("aria-label", "Message to try out");
message.id = "draft-book-message";
message.addEventListener("input", look);
found.setAttribute("role", "status");
news.setAttribute("role", "status");
problem.setAttribute("role", "alert");
test.append(make("span", "draft-list-hint", "What would fire for this message?"), message, found);
tools.append(button("+ Add an entry", add, "draft-list-add"), button("Bring in a lorebook", () => file.click(), "draft-list-add"), file);
element.replaceChildren(empty, rows, tools, problem, news, rules, test);
fill();
look();
watch("value", fill);
