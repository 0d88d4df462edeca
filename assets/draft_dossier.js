// The dossier: what an evaluation asks and compares with. The value of its component is {lists, derived, written, choices, faults};
// the room gets a whole list as soon as one of its entries changes, and [] where the derived one is to come back.

const {make, filled, button, area, line, labelled, parts, send} = window.personaStudioForms;
const oneLine = (control) => control.value.trim();
const text = (rows, placeholder = "") => ({read: oneLine, show: (value) => area(value ?? "", rows, placeholder)});
const words = {read: (control) => parts(control.value, ","), show: (value) => line((value ?? []).join(", "))};
const lines = {read: (control) => parts(control.value, "\n"), show: (value) => area((value ?? []).join("\n"), 3)};
const choice = (name) => ({
  read: (control) => control.value,
  show: (value) => {
    const select = make("select");
    for (const [id, label] of Object.entries(props.value.choices[name])) select.append(make("option", "", label, {value: id}));
    return Object.assign(select, {value});
  },
});
// Part of an entry: how it is shown and read, its label, its hint.
const LISTS = {
  statements: {title: "Statements", one: "statement", hint: "What is true of the character, one fact each.",
    parts: {text: [text(2), "Statement"]}},
  questions: {title: "Questions", one: "question", hint: "What the player asks.",
    parts: {task: [choice("task"), "Task"], text: [text(2), "Question"],
      fact: [text(1), "What a right answer agrees with", "For identity, knowledge and its limits."],
      words: [words, "What it mentions", "Separated by commas; all are needed. “a | b”: either. “a*”: any ending."]}},
  pressures: {title: "Pressing lines", one: "script", hint: "What the player says to make the character give in.",
    parts: {kind: [choice("kind"), "Kind"], lines: [lines, "The player says", "One line each; each is answered."],
      holds: [text(1), "Where it stays itself"], words: [words, "Words of one that gave in", "Separated by commas."]}},
};
const NEW = {statements: {text: ""}, questions: {task: "knowledge", text: ""}, pressures: {kind: "pressure", lines: []}};
const plain = (name, entry) => name === "statements" ? entry.text
  : Object.fromEntries(Object.entries(entry).filter(([, value]) => value.length));
const isWhole = (name, entry) => name === "pressures" ? entry.lines.length && entry.holds : entry.text;
const entries = {};
const opened = new Set();

const changed = (name) => {
  send(element, "npc-dossier", {[name]: entries[name].filter((entry) => isWhole(name, entry)).map((entry) => plain(name, entry))});
};

// Entries of several parts are folded, each with its first words; what was opened stays so.
const foldedOf = (name, entry, at) => {
  const key = `${name} ${at}`, fold = make("details", "script-row dossier-fold", "", {open: opened.has(key)});
  const kind = make("small"), head = make("b");
  const say = () => {
    kind.textContent = entry.task ? props.value.choices.task[entry.task] : props.value.choices.kind[entry.kind];
    head.textContent = (entry.text ?? entry.lines[0]) || "Not written yet";
  };
  const show = () => { if (fold.open && fold.children.length < 2) fold.append(rowOf(name, entry)); };
  fold.append(filled(make("summary"), kind, head));
  fold.addEventListener("toggle", () => { opened[fold.open ? "add" : "delete"](key); show(); });
  fold.addEventListener("input", say);
  say();
  show();
  return fold;
};

const rowOf = (name, entry) => {
  const row = make("div", "script-form dossier-row");
  const reads = Object.entries(LISTS[name].parts).map(([key, [{read, show}, label, hint]]) => {
    const control = show(entry[key]);
    row.append(labelled("script-field", label, control, hint));
    return () => [key, read(control)];
  });
  row.addEventListener("input", () => {
    Object.assign(entry, Object.fromEntries(reads.map((read) => read())));
    changed(name);
  });
  return filled(row, filled(make("div", "script-buttons"), button(`Remove this ${LISTS[name].one}`, () => {
    opened.delete(`${name} ${entries[name].indexOf(entry)}`);
    entries[name] = entries[name].filter((other) => other !== entry);
    changed(name);
    draw();
  })));
};

const listOf = (name) => {
  const {title, one, hint} = LISTS[name];
  const list = make("details", "script-row", "", {open: opened.has(name)});
  list.dataset.list = name;
  const own = props.value.written.includes(name);
  list.append(filled(make("summary"), make("b", "", `${title} (${entries[name].length})`),
    make("small", "", `${hint} ${own ? "Written for this card." : "Derived from the card until you change it."}`)));
  const show = () => {
    if (!list.open || list.children.length > 1) return;
    const add = button(`+ Add a ${one}`, () => {
      opened.add(`${name} ${entries[name].push({...NEW[name]}) - 1}`);
      draw();
      [...element.querySelectorAll(`[data-list=${name}] .dossier-row`)].at(-1)?.querySelector("textarea")?.focus();
    }, "draft-list-add");
    const restore = button("Take what is derived from the card", () => {
      entries[name] = structuredClone(props.value.derived[name]);
      send(element, "npc-dossier", {[name]: []});
      draw();
    });
    const rows = entries[name].map((entry, at) => name === "statements" ? rowOf(name, entry) : foldedOf(name, entry, at));
    list.append(...rows, filled(make("div", "script-buttons"), add, restore));
  };
  list.addEventListener("toggle", () => { opened[list.open ? "add" : "delete"](name); show(); });
  show();
  return list;
};

const draw = () => element.replaceChildren(
  ...(props.value.faults ?? []).map((fault) => make("p", "npc-fault", fault)), ...Object.keys(LISTS).map(listOf));

const fill = () => {
  if (!props.value?.lists) return;
  if (element.contains(document.activeElement) && document.activeElement.matches("input, textarea, select")) return; // one writes here
  Object.assign(entries, structuredClone(props.value.lists));
  draw();
};

fill();
watch("value", fill);
