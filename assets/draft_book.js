// The lorebook: entries that open on a click, and what a message would fire. The value of its component is the book as JSON,
// since the page makes every object of a value watchable, which takes ten seconds for a large book.

const {make, filled, marked, button, area, line, number, checkbox, labelled, parts, same, send} = window.personaStudioForms;
const rows = make("div", "book-rows");
const empty = make("p", "quiet", "No entries yet. The model reads an entry only when one of its keys comes up in the chat, so " +
  "there is room for a whole world.");
const problem = marked(make("p", "book-problem"), {role: "alert"});
const news = marked(make("p", "book-news quiet"), {role: "status"});
const found = marked(make("div", "book-found"), {role: "status"});
const message = marked(line("", "Type what the player says"), {id: "draft-book-message", "aria-label": "Message to try out"});
const file = marked(make("input"), {type: "file", accept: ".json,.lorebook,.story,.scenario,application/json", hidden: "",
                                    "aria-label": "Lorebook file"});
const settings = {scan_depth: 2, token_budget: 512, recursive: true};
let wait = 0;

const listed = (keys) => keys.some((key) => key.includes(",")) ? keys.join("\n") + "\n" : keys.join(", ");
const keysIn = (text) => parts(text, text.includes("\n") ? "\n" : ",");
const entryRows = () => [...rows.children].filter((row) => row.entry);
const book = () => ({...settings, entries: entryRows().map((row) => row.entry)});
const title = (entry) => entry.name || entry.keys.slice(0, 2).join(", ") || "New entry";

const changed = () => {
  const value = structuredClone(book());
  send(element, "character_book", value);
  props.value = JSON.stringify(value);
  look();
};

const look = () => {
  empty.hidden = rows.children.length > 0;
  rules.hidden = test.hidden = !entryRows().length;
  clearTimeout(wait);
  wait = setTimeout(measure, 400);
};

const measure = async () => {
  if (!entryRows().length) return;
  const answer = await server.look_at_book({book: book(), message: message.value}).catch(() => null);
  if (!answer?.tokens) return;
  entryRows().forEach((row, index) => { row.querySelector(".book-size").textContent = answer.tokens[index] ?? ""; });
  found.innerHTML = answer.html;
};

const head = (row) => {
  const entry = row.entry;
  row.querySelector(".book-title").textContent = title(entry);
  row.querySelector(".book-kind").textContent =
    !entry.enabled ? "off" : entry.constant ? "always" : entry.name ? entry.keys.slice(0, 3).join(", ") : "";
  row.classList.toggle("off", !entry.enabled);
};

const remove = (row) => {
  const entry = row.entry;
  const undo = button("Undo", () => {
    const back = rowOf(entry);
    gone.replaceWith(back);
    changed();
    back.querySelector("summary").focus();
  });
  const gone = filled(make("div", "book-gone", `“${title(entry)}” was deleted. `), undo);
  row.replaceWith(gone);
  changed();
  undo.focus();
};

const rowOf = (entry) => {
  const row = make("details", "book-entry");
  row.entry = {...entry};
  row.append(filled(make("summary"), make("span", "book-title"), make("span", "book-kind"), make("span", "book-size measure")));
  row.addEventListener("toggle", () => open(row, row.open));
  head(row);
  return row;
};

// The fields of an entry are made when it is first opened: a large book would keep the page busy for seconds.
const open = (row, opened = true) => {
  row.open = opened;
  if (!opened || row.children.length > 1) return;
  const entry = row.entry;
  const field = (name, words, control, read = () => control.value) => {
    control.addEventListener("input", () => { row.entry[name] = read(); head(row); changed(); });
    return labelled(`book-${name}`, words, control);
  };
  const order = number(entry.order), always = checkbox(entry.constant), on = checkbox(entry.enabled);
  const keys = area(listed(entry.keys)), secondary = area(listed(entry.secondary));
  row.append(
    field("name", "Name", line(entry.name, "For you; the model never reads it")),
    field("keys", "Keys: one of them must come up (separated by commas)", keys, () => keysIn(keys.value)),
    field("secondary", "And one of these, if there are any", secondary, () => keysIn(secondary.value)),
    field("content", "What the model then reads", area(entry.content, 4)),
    filled(make("div", "book-line"), field("order", "Order", order, () => Math.round(order.valueAsNumber) || 0),
      field("constant", "Always fires", always, () => always.checked), field("enabled", "On", on, () => on.checked),
      button("Delete", () => remove(row), "book-delete")));
};

const add = () => {
  const row = rowOf({name: "", keys: [], secondary: [], content: "", order: 100, constant: false, enabled: true, kept: ""});
  open(row);
  rows.append(row);
  changed();
  row.querySelector(".book-keys textarea").focus();
};

const importFile = async () => {
  const chosen = file.files[0];
  file.value = "";
  problem.textContent = news.textContent = "";
  if (!chosen) return;
  if (chosen.size > 1e6) { problem.textContent = `${chosen.name} is larger than 1 MB, which is too large for a lorebook.`; return; }
  const answer = await server.read_world({text: await chosen.text(), name: chosen.name}).catch(() => null);
  if (!answer?.entries) { problem.textContent = answer?.problem ?? "The studio does not answer. Try again."; return; }
  rows.append(...answer.entries.map(rowOf));
  news.textContent = answer.notes;
  changed();
};

const rule = (name, words, control) => {
  const isTick = control.type === "checkbox";
  control.addEventListener("input", () => {
    settings[name] = isTick ? control.checked : Math.max(1, Math.round(control.valueAsNumber) || 1);  // 0 means "not set" in cards
    changed();
  });
  shows[name] = () => { control[isTick ? "checked" : "value"] = settings[name]; };
  return labelled("", words, control);
};
const shows = {};  // name of a setting -> puts it into its field

const fill = () => {
  const value = JSON.parse(props.value || "{}");
  if (same(book(), {...settings, ...value})) return;
  const opened = new Set([...rows.children].filter((row) => row.open).map((row) => row.entry?.kept));
  for (const name of Object.keys(settings)) {
    settings[name] = value[name] ?? settings[name];
    shows[name]();
  }
  rows.replaceChildren(...(value.entries ?? []).map(rowOf));
  for (const row of rows.children) if (row.entry.kept && opened.has(row.entry.kept)) open(row);
  look();
};

const rules = filled(make("details", "book-rules"), make("summary", "", "How entries are found"),
  rule("scan_depth", "Messages searched for keys", number(2, 1)),
  rule("token_budget", "Most tokens for all entries together", number(512, 1)),
  rule("recursive", "The text of one entry can fire another", checkbox(true)));
const test = filled(make("div", "book-test"), make("span", "draft-list-hint", "What would fire for this message?"), message, found);
const tools = filled(make("div", "book-tools"), button("+ Add an entry", add, "draft-list-add"),
  button("Import a lorebook", () => file.click(), "draft-list-add"), file);
file.addEventListener("change", importFile);
message.addEventListener("input", look);
element.replaceChildren(empty, rows, tools, problem, news, rules, test);
fill();
look();
watch("value", fill);
