// The test script of the draft room: what the character is asked and by which rules; each question opens for changes.
// Runs as the script of an HTML component whose value is {questions, removed, originals, kinds, faults}. Tells the room by
// the event "draft-list" what the writer changed, added and removed; generated questions are not stored.

const make = (tag, name = "", text = "") => Object.assign(document.createElement(tag), {className: name, textContent: text});
const words_of = (text) => text.split(",").map((word) => word.trim()).filter(Boolean);
const lines_of = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
const plain = ({origin, ...question}) => question;
let questions = [];
let removed = [];
let open = new Set();

const tell = () => {
  const of = (origin) => questions.filter((one) => one.origin === origin).map(plain);
  element.dispatchEvent(new CustomEvent("draft-list", {bubbles: true, detail: {field: "npc-script", texts: {
    added: of("added").filter((one) => one.lines.length), removed: removed.map((one) => one.id),
    changed: Object.fromEntries(of("changed").map((one) => [one.id, one]))}}}));
};

// What nearly every question asks for is said once, above them all.
const usual = (name) => {
  const values = Object.values(props.value.originals ?? {}).map((one) => one[name]);
  return values.sort((a, b) => values.filter((one) => one === b).length - values.filter((one) => one === a).length)[0];
};
const usual_in_words = () => {
  const parts = [usual("language") === "card" && "in the card's language", usual("most_words") && `at most ${usual("most_words")} words long`,
                 usual("first_person") && "not in the third person", usual("no_assistant_phrases") && "without assistant phrases"];
  return `Unless said otherwise, every answer is to be ${parts.filter(Boolean).join(", ")}.`;
};

const rules_in_words = (one) => [
  one.must_mention.length && `mentions ${one.must_mention.join(", ")}`,
  one.must_not_mention.length && `never mentions ${one.must_not_mention.join(", ")}`,
  one.pattern && "matches a pattern",
  one.language !== usual("language") && `language: ${one.language || "any"}`,
  one.fewest_words > 0 && `${one.fewest_words} words or more`,
  one.most_words !== usual("most_words") && (one.most_words ? `at most ${one.most_words} words` : "any length"),
  one.first_person !== usual("first_person") && (one.first_person ? "not in the third person" : "third person allowed"),
  one.no_assistant_phrases !== usual("no_assistant_phrases") && (one.no_assistant_phrases ? "no assistant phrases" : "assistant phrases allowed"),
  one.judge && `judged: ${one.judge}`,
].filter(Boolean).join(" · ");

const button = (text, act, name = "") => {
  const made = make("button", name, text);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
};

const field = (title, control, hint = "") => {
  const label = make("label", "script-field");
  label.append(make("span", "", title), control);
  if (hint) label.append(make("small", "", hint));
  return label;
};

const text = (value, tag = "input", example = "") => Object.assign(make(tag), {value, placeholder: example, rows: 2});
const number = (value) => Object.assign(make("input"), {type: "number", min: 0, max: 5000, value: value || ""});
const tick = (value, title) => {
  const label = make("label", "script-tick");
  const box = Object.assign(make("input"), {type: "checkbox", checked: value});
  label.append(box, make("span", "", title));
  return [label, box];
};

const form_of = (one, update) => {
  const lines = text(one.lines.join("\n"), "textarea", "What the player says. One line after another, each is answered.");
  const must = text(one.must_mention.join(", ")), never = text(one.must_not_mention.join(", "));
  const pattern = text(one.pattern), language = text(one.language, "input", "any");
  const fewest = number(one.fewest_words), most = number(one.most_words);
  const [person, person_box] = tick(one.first_person, "Never speaks of itself by its name");
  const [phrases, phrases_box] = tick(one.no_assistant_phrases, "No assistant phrases");
  const judge = text(one.judge, "textarea", "For a judge: what a good answer does. Empty: no judge is asked.");
  const form = make("div", "script-form");
  form.append(field("The player says", lines, "A line each. With several, the rules are for the last answer."),
              field("Must mention", must, "Commas between them, all are needed. “a | b”: either. “a*”: any ending."),
              field("Must not mention", never, "In none of the answers."), field("Must match", pattern, "A regular expression."),
              field("Language", language, "“card”: the card's own. Or a code such as en, de, ja."),
              field("Fewest words", fewest), field("Most words", most), person, phrases,
              field("What a good answer does", judge, "Only a judge can tell. Without one this stays “not judged”."));
  form.addEventListener("input", () => update({
    lines: lines_of(lines.value), must_mention: words_of(must.value), must_not_mention: words_of(never.value),
    pattern: pattern.value.trim(), language: language.value.trim().toLowerCase(), fewest_words: Number(fewest.value) || 0,
    most_words: Number(most.value) || 0, first_person: person_box.checked, no_assistant_phrases: phrases_box.checked,
    judge: judge.value.trim()}));
  return form;
};

const row_of = (one) => {
  const row = make("details", "script-row");
  row.open = open.has(one.id);
  row.addEventListener("toggle", () => { if (row.open) open.add(one.id); else open.delete(one.id); fill_form(); });
  const head = make("summary");
  const kind = make("i", `pill script-${one.origin}`, props.value.kinds?.[one.kind] ?? one.kind);
  const said = make("b"), rules = make("small");
  const buttons = make("div", "script-buttons");
  const restore = button("Restore as generated", () => {
    Object.assign(one, props.value.originals[one.id], {origin: "generated"});
    tell();
    draw(one.id);
  });
  const paint = () => {
    said.textContent = one.lines.join(" … ") || "A new question";
    const mark = {changed: "changed by you", added: "your own"}[one.origin];
    rules.textContent = [mark, rules_in_words(one)].filter(Boolean).join(" · ");
    restore.hidden = one.origin !== "changed" || !props.value.originals?.[one.id];
  };
  const remove = button("Remove", () => {
    questions = questions.filter((other) => other !== one);
    if (props.value.originals?.[one.id]) removed.push(props.value.originals[one.id]);
    tell();
    draw();
  });
  buttons.append(restore, remove);
  let form = null;
  const fill_form = () => {
    if (!row.open || form) return;
    form = form_of(one, (changes) => {
      Object.assign(one, changes, {origin: one.origin === "added" ? "added" : "changed"});
      paint();
      tell();
    });
    row.append(form, buttons);
  };
  head.append(kind, said, rules);
  row.append(head);
  paint();
  fill_form();
  return row;
};

const draw = (wanted = "") => {
  if (wanted) open.add(wanted);
  const parts = [...(props.value.faults ?? []).map((words) => make("p", "npc-fault", words)),
                 make("p", "npc-hint", usual_in_words()), ...questions.map(row_of)];
  const add = button("+ Add a question", () => {
    const id = `own-${Math.random().toString(16).slice(2, 10)}`;
    questions.push({id, kind: "own", lines: [], must_mention: [], must_not_mention: [], pattern: "", language: "card", fewest_words: 0,
                    most_words: 0, first_person: true, no_assistant_phrases: true, judge: "", origin: "added"});
    draw(id);
    [...element.querySelectorAll(".script-row")].at(-1)?.querySelector("textarea")?.focus();
  }, "draft-list-add");
  parts.push(add);
  if (removed.length) {
    const gone = make("div", "script-removed");
    gone.append(make("p", "npc-hint", "Removed:"), ...removed.map((one) => button(`Restore: ${one.lines[0]}`, () => {
      removed = removed.filter((other) => other !== one);
      questions.push({...one, origin: "generated"});
      tell();
      draw();
    })));
    parts.push(gone);
  }
  element.replaceChildren(...parts);
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
