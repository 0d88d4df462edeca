// The test script: what the character is asked and by which rules. The value of its component is {questions, removed, originals,
// kinds, faults}; the room gets what the writer changed, added and removed.

const {make, filled, button, area, line, number, checkbox, labelled, parts, send} = window.personaStudioForms;
const plain = ({origin, ...question}) => question;
const original = (one) => props.value.originals?.[one.id];
let questions = [];
let removed = [];
const open = new Set();

const changed = () => {
  const of = (origin) => questions.filter((one) => one.origin === origin).map(plain);
  send(element, "npc-script", {added: of("added").filter((one) => one.lines.length), removed: removed.map((one) => one.id),
                               changed: Object.fromEntries(of("changed").map((one) => [one.id, one]))});
};

// What nearly every question asks for is said once, above them all.
const usual = (name) => {
  const values = Object.values(props.value.originals ?? {}).map((one) => one[name]);
  const count = (value) => values.filter((one) => one === value).length;
  return values.sort((a, b) => count(b) - count(a))[0];
};
const usualInWords = () => {
  const rules = [usual("language") === "card" && "in the card's language",
                 usual("most_words") && `at most ${usual("most_words")} words long`,
                 usual("first_person") && "not in the third person", usual("no_assistant_phrases") && "without assistant phrases"];
  return `Unless a question says otherwise, every answer should be ${rules.filter(Boolean).join(", ")}.`;
};
const rulesInWords = (one) => {
  const differs = (name) => one[name] !== usual(name);
  return [
    one.must_mention.length && `mentions ${one.must_mention.join(", ")}`,
    one.must_not_mention.length && `never mentions ${one.must_not_mention.join(", ")}`,
    one.pattern && "matches a pattern",
    differs("language") && `language: ${one.language || "any"}`,
    one.fewest_words > 0 && `${one.fewest_words} words or more`,
    differs("most_words") && (one.most_words ? `at most ${one.most_words} words` : "any length"),
    differs("first_person") && (one.first_person ? "not in the third person" : "third person allowed"),
    differs("no_assistant_phrases") && (one.no_assistant_phrases ? "no assistant phrases" : "assistant phrases allowed"),
    one.judge && `judged: ${one.judge}`,
  ].filter(Boolean).join(" · ");
};

const words = {read: (control) => parts(control.value, ","), show: (value) => line(value.join(", "))};
const lowerCase = {read: (control) => control.value.trim().toLowerCase(), show: (value) => line(value, "any")};
const amount = {read: (control) => Number(control.value) || 0, show: (value) => Object.assign(number(value || "", 0), {max: 5000})};
const tick = {read: (control) => control.checked, show: checkbox};
const text = (placeholder) => ({read: (control) => control.value.trim(), show: (value) => area(value, 2, placeholder)});
// Part of a question: how it is shown and read, its label, its hint.
const FIELDS = {
  lines: [{read: (control) => parts(control.value, "\n"),
           show: (value) => area(value.join("\n"), 2, "What the player says, line after line; each is answered.")},
          "The player says", "One line each. With several, the rules apply to the last answer."],
  must_mention: [words, "Must mention", "Separated by commas; all are needed. “a | b”: either. “a*”: any ending."],
  must_not_mention: [words, "Must not mention", "In none of the answers."],
  pattern: [{read: text().read, show: line}, "Must match", "A regular expression."],
  language: [lowerCase, "Language", "“card”: the card's own. Or a code such as en, de, ja."],
  fewest_words: [amount, "Fewest words"],
  most_words: [amount, "Most words"],
  first_person: [tick, "Never speaks of itself by its name"],
  no_assistant_phrases: [tick, "No assistant phrases"],
  judge: [text("For a judge: what a good answer does. Empty: no judge is asked."), "What a good answer does",
          "Only a judge can say. Without one this stays “not judged”."],
};

const formOf = (one, update) => {
  const form = make("div", "script-form"), reads = [];
  for (const [name, [{read, show}, label, hint]] of Object.entries(FIELDS)) {
    const control = show(one[name]);
    reads.push(() => [name, read(control)]);
    form.append(labelled(control.type === "checkbox" ? "script-tick" : "script-field", label, control, hint));
  }
  form.addEventListener("input", () => update(Object.fromEntries(reads.map((read) => read()))));
  return form;
};

const rowOf = (one) => {
  const row = make("details", "script-row", "", {open: open.has(one.id)});
  const said = make("b"), rules = make("small");
  const restore = button("Restore as generated", () => {
    Object.assign(one, original(one), {origin: "generated"});
    changed();
    draw(one.id);
  });
  const remove = button("Remove", () => {
    questions = questions.filter((other) => other !== one);
    if (original(one)) removed.push(original(one));
    changed();
    draw();
  });
  const paint = () => {
    said.textContent = one.lines.join(" … ") || "A new question";
    const mark = {changed: "changed by you", added: "your own"}[one.origin];
    rules.textContent = [mark, rulesInWords(one)].filter(Boolean).join(" · ");
    restore.hidden = one.origin !== "changed" || !original(one);
  };
  const fillForm = () => {
    if (!row.open || row.children.length > 1) return;
    row.append(formOf(one, (changes) => {
      Object.assign(one, changes, {origin: one.origin === "added" ? "added" : "changed"});
      paint();
      changed();
    }), filled(make("div", "script-buttons"), restore, remove));
  };
  const kind = make("i", `pill script-${one.origin}`, props.value.kinds?.[one.kind] ?? one.kind);
  row.append(filled(make("summary"), kind, said, rules));
  row.addEventListener("toggle", () => { open[row.open ? "add" : "delete"](one.id); fillForm(); });
  paint();
  fillForm();
  return row;
};

const draw = (wanted = "") => {
  if (wanted) open.add(wanted);
  const add = button("+ Add a question", () => {
    const id = `own-${Math.random().toString(16).slice(2, 10)}`;
    questions.push({id, kind: "own", lines: [], must_mention: [], must_not_mention: [], pattern: "", language: "card",
                    fewest_words: 0, most_words: 0, first_person: true, no_assistant_phrases: true, judge: "", origin: "added"});
    draw(id);
    [...element.querySelectorAll(".script-row")].at(-1)?.querySelector("textarea")?.focus();
  }, "draft-list-add");
  const restores = removed.map((one) => button(`Restore: ${one.lines[0]}`, () => {
    removed = removed.filter((other) => other !== one);
    questions.push({...one, origin: "generated"});
    changed();
    draw();
  }));
  element.replaceChildren(
    ...(props.value.faults ?? []).map((fault) => make("p", "npc-fault", fault)), make("p", "npc-hint", usualInWords()),
    ...questions.map(rowOf), add,
    ...(restores.length ? [filled(make("div", "script-removed"), make("p", "npc-hint", "Removed:"), ...restores)] : []));
};

const fill = () => {
  if (!props.value?.questions) return;
  if (element.contains(document.activeElement) && document.activeElement.matches("input, textarea")) return; // one writes here
  questions = structuredClone(props.value.questions);
  removed = structuredClone(props.value.removed);
  draw();
};

fill();
watch("value", fill);
