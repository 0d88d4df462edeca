// The NPC fields of the draft room: lists of short entries, sliders, and beside each what it writes into the prompt.
// Runs as the script of an HTML component. props: value {fields, written, words, faults}, lists and scales (their forms).
// Tells the room by the event "draft-list"; what stands in an entry that has no input here stays in it.

const SOON = 150; // ms after a key until the prompt is shown anew
const make = (tag, name = "", text = "") => Object.assign(document.createElement(tag), {className: name, textContent: text});
const writes = {};   // field -> the element that shows what it writes
const levels = {};   // scale -> {slider, words, unset}
const lists = {};    // field -> the element that holds its rows
let timer = 0;
let asked = 0;

const rows_of = (field) => [...lists[field].children].map((row) => row.entry());
const levels_of = (form) => Object.fromEntries(form.scales.map(({scale}) =>
  [scale, levels[scale].slider.dataset.set ? Number(levels[scale].slider.value) : null]));
const fields_of = () => Object.fromEntries([...props.lists.map(({field}) => [field, rows_of(field)]),
                                            ...props.scales.map((form) => [form.field, levels_of(form)])]);

const tell = (field, value) => {
  element.dispatchEvent(new CustomEvent("draft-list", {bubbles: true, detail: {field: `npc-${field}`, texts: value}}));
  clearTimeout(timer);
  timer = setTimeout(look, SOON);
};

// What {{char}} stands for, as it is typed at this moment.
const char = () => ["nickname", "name"].map((key) => document.querySelector(`#draft-${key} :is(input, textarea)`)?.value.trim())
  .find(Boolean) || "{{char}}";

const look = async () => {
  const number = ++asked;
  const found = await server.preview_typed({fields: fields_of(), char: char()}).catch(() => null);
  if (found && number === asked) show(found);
};

const show = ({written = {}, words = {}}) => {
  for (const [field, place] of Object.entries(writes)) {
    place.textContent = written[field] || "";
    place.dataset.empty = written[field] ? "" : "true";
  }
  for (const [scale, {words: place, slider}] of Object.entries(levels)) {
    place.textContent = slider.dataset.set ? words[scale] || "in the middle: writes nothing" : "not set";
  }
};

const input_of = (column, entry, change) => {
  const label = make("label", column.wide ? "npc-wide" : column.many ? "npc-many" : "");
  const area = Object.assign(make("textarea"), {rows: 1});
  const value = entry[column.key];
  area.value = Array.isArray(value) ? value.join(", ") : value ?? "";
  area.placeholder = column.example;
  area.addEventListener("input", change);
  label.append(make("span", "", column.words), area);
  return [label, () => column.many ? area.value.split(/[,\n]/).map((word) => word.trim()).filter(Boolean) : area.value.trim()];
};

const row_of = (form, entry) => {
  const row = make("div", "npc-row");
  const change = () => tell(form.field, rows_of(form.field));
  const inputs = form.columns.map((column) => {
    const [label, read] = input_of(column, entry, change);
    row.append(label);
    return [column.key, read];
  });
  row.entry = () => ({...entry, ...Object.fromEntries(inputs.map(([key, read]) => [key, read()]))});
  const remove = make("button", "", "✕");
  remove.type = "button";
  remove.title = `Remove this ${form.word}`;
  remove.setAttribute("aria-label", remove.title);
  remove.addEventListener("click", () => { row.remove(); change(); adds[form.field].focus(); });
  row.append(remove);
  return row;
};

const adds = {};
const part_of = (form) => {
  const part = make("section", "npc-part");
  const left = make("div", "npc-left");
  const right = make("div", "npc-right");
  left.append(make("h4", "", form.title), make("p", "npc-hint", form.hint));
  right.append(make("span", "npc-label", "Writes"), writes[form.field] = make("p", "npc-written"));
  part.append(left, right);
  return [part, left];
};

const list_part = (form) => {
  const [part, left] = part_of(form);
  lists[form.field] = make("div", "npc-rows");
  const add = adds[form.field] = make("button", "draft-list-add", `+ Add a ${form.word}`);
  add.type = "button";
  add.addEventListener("click", () => {
    const row = row_of(form, {});
    lists[form.field].append(row);
    row.querySelector("textarea").focus();
  });
  left.append(lists[form.field], add);
  return part;
};

const scale_part = (form) => {
  const [part, left] = part_of(form);
  for (const {scale, name, low, high} of form.scales) {
    const line = make("div", "npc-scale");
    const slider = Object.assign(make("input"), {type: "range", min: 0, max: 100, step: 5, value: 50});
    slider.setAttribute("aria-label", `${name}: from ${low} to ${high}`);
    const words = make("output", "npc-words");
    const unset = Object.assign(make("button", "", "✕"), {type: "button", title: `Unset ${name.toLowerCase()}`});
    unset.setAttribute("aria-label", unset.title);
    levels[scale] = {slider, words, unset};
    const set = (level) => {
      slider.value = level ?? 50;
      slider.dataset.set = level === null ? "" : "true";
      unset.style.visibility = level === null ? "hidden" : "";
    };
    levels[scale].set = set;
    slider.addEventListener("input", () => { set(Number(slider.value)); tell(form.field, levels_of(form)); });
    unset.addEventListener("click", () => { set(null); tell(form.field, levels_of(form)); slider.focus(); });
    const ends = make("div", "npc-ends");
    ends.append(make("span", "", low), make("span", "", high));
    const head = make("div", "npc-scale-head");
    head.append(make("b", "", name), words, unset);
    line.append(head, slider, ends);
    left.append(line);
  }
  return part;
};

const fill = () => {
  const value = props.value;
  if (!value?.fields) return;
  faults.replaceChildren(...(value.faults ?? []).map((text) => make("p", "npc-fault", text)));
  for (const form of props.lists) {
    const wanted = value.fields[form.field] ?? [];
    const shown = rows_of(form.field).filter((entry) => Object.values(entry).some((part) => part.length));
    if (JSON.stringify(tidy(shown)) !== JSON.stringify(tidy(wanted)) || (!wanted.length && !shown.length)) {
      lists[form.field].replaceChildren(...wanted.map((entry) => row_of(form, entry)));
    }
  }
  for (const form of props.scales) {
    for (const {scale} of form.scales) levels[scale].set(value.fields[form.field]?.[scale] ?? null);
  }
  show(value);
};
const tidy = (entries) => entries.map((entry) => Object.fromEntries(
  Object.entries(entry).filter(([, part]) => part?.length !== 0 && part != null).sort()));

const faults = make("div");
element.replaceChildren(faults, ...props.lists.map(list_part), ...props.scales.map(scale_part));
fill();
watch("value", fill);
