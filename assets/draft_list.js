// A list of texts that can be added to, put in another order and made shorter: other greetings.
// Runs as the script of an HTML component whose value is the list; tells the room by the event "draft-list".

const rows = document.createElement("div");
const add = document.createElement("button");

const texts = () => [...rows.querySelectorAll("textarea")].map((area) => area.value);
const tell = () => {
  element.dispatchEvent(new CustomEvent("draft-list", {bubbles: true, detail: {field: props.field, texts: texts()}}));
  props.value = texts();
};

const button = (sign, words, act) => {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = sign;
  made.title = words;
  made.setAttribute("aria-label", words);
  made.addEventListener("click", act);
  return made;
};

const number = () => {
  [...rows.children].forEach((row, index, all) => {
    const word = `${props.word} ${index + 1}`;
    row.querySelector(".draft-list-name").textContent = word;
    row.querySelector("textarea").setAttribute("aria-label", word);
    const [up, down, remove] = row.querySelectorAll("button");
    up.disabled = index === 0;
    down.disabled = index === all.length - 1;
    for (const [which, what] of [[up, "Move up"], [down, "Move down"], [remove, "Remove"]]) {
      which.title = what;
      which.setAttribute("aria-label", `${what}: ${word}`);
    }
  });
};

const move = (row, step) => {
  const other = step < 0 ? row.previousElementSibling : row.nextElementSibling;
  if (!other) return;
  if (step < 0) other.before(row); else other.after(row);
  number();
  tell();
  const [up, down] = row.querySelectorAll("button");
  const wanted = step < 0 ? up : down;
  (wanted.disabled ? (step < 0 ? down : up) : wanted).focus();
};

const make = (text) => {
  const row = document.createElement("div");
  row.className = "draft-list-row";
  const head = document.createElement("div");
  head.className = "draft-list-head";
  const name = document.createElement("span");
  name.className = "draft-list-name";
  const area = document.createElement("textarea");
  area.rows = 3;
  area.value = text;
  area.addEventListener("input", tell);
  head.append(name, button("↑", "Move up", () => move(row, -1)), button("↓", "Move down", () => move(row, 1)),
              button("✕", "Remove", () => { row.remove(); number(); tell(); add.focus(); }));
  row.append(head, area);
  return row;
};

const fill = () => {
  const wanted = props.value ?? [];
  if (JSON.stringify(texts()) === JSON.stringify(wanted)) return;
  rows.replaceChildren(...wanted.map(make));
  number();
};

rows.className = "draft-list-rows";
add.type = "button";
add.className = "draft-list-add";
add.textContent = `+ Add ${props.article} ${props.word.toLowerCase()}`;
add.addEventListener("click", () => {
  const row = make("");
  rows.append(row);
  number();
  row.querySelector("textarea").focus();
  tell();
});
element.replaceChildren(rows, add);
fill();
watch("value", fill);
