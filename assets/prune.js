// The lines. In the review one at a time, by button or key: keep, rewrite, drop, back; in the table all of them. What was typed into
// a line is kept when the line is left; Escape takes it back. Runs with `element` and `trigger` of the component that holds both.
const FIELDS = ["question", "answer"], REFUSED = 2000;  // ms after which a line that is still there is shown again
const rowOf = (target) => target.closest?.("[data-position]");
const fieldsOf = (row) => FIELDS.map((name) => row.querySelector(`[data-field=${name}]`));
const set = () => element.querySelector("#prune-table").dataset.id;
let before = null;  // the texts of the line that has the cursor

const review = () => element.querySelector("#prune-review");
const decided = new Set(), past = [];  // keys of cards that are on their way out; what was decided on this page, newest last
// A rule of its own shows the card: what the live channel puts in place cannot undo it.
const rule = document.head.appendChild(document.createElement("style"));
const current = () => [...element.querySelectorAll(".review-card")].find(({dataset}) => !decided.has(dataset.key));
const show = () => {
  const key = CSS.escape(current()?.dataset.key ?? "none");
  rule.textContent = `#prune-review .review-card { display: none } #prune-review .review-card[data-key="${key}"] { display: block }`;
  const back = review()?.querySelector("[data-review=back]");
  if (back) back.style.display = past.length ? "inline-block" : "";
};
const leave = (card, done) => {
  const {key} = card.dataset;
  decided.add(key);
  past.push({key, position: card.dataset.position, ...done});
  show();
  setTimeout(() => { if (decided.has(key) && card.isConnected) { decided.delete(key); show(); } }, REFUSED);
};
const edit = (field) => {
  field.focus();
  getSelection().selectAllChildren(field);
  getSelection().collapseToEnd();
};
const acts = {
  keep: (card) => { trigger("click", {do: "decide", decision: "keep", id: set(), position: card.dataset.position}); leave(card); },
  drop: (card) => { trigger("click", {do: "decide", decision: "drop", id: set(), position: card.dataset.position}); leave(card); },
  rewrite: (card) => edit(fieldsOf(card)[1]),
};
const REVIEW = {k: "keep", r: "rewrite", d: "drop", b: "back"};
const back = () => {
  const last = past.pop();
  if (!last) return;
  decided.delete(last.key);
  trigger("click", {do: "decide", decision: "", id: set(), position: last.position, ...last.texts});
  show();
};
const press = (name) => {
  const card = current();
  if (name === "back") back();
  else if (card) acts[name]?.(card);
};
element.addEventListener("click", ({target}) => {
  const button = target.closest("button[data-review]");
  if (button) press(button.dataset.review);
});
const listen = (event) => {
  if (!element.isConnected) { document.removeEventListener("keydown", listen); rule.remove(); return; }
  const name = REVIEW[event.key.toLowerCase()];
  const place = review()?.getBoundingClientRect();
  const seen = place?.height && place.bottom > 0 && place.top < innerHeight && window.personaStudioRoom() === "prune";
  if (!name || !seen || event.ctrlKey || event.metaKey || event.altKey || event.repeat
      || event.target.closest?.("input, textarea, select, [contenteditable]")) return;
  event.preventDefault();
  press(name);
};
document.addEventListener("keydown", listen);
new MutationObserver(show).observe(element, {childList: true, subtree: true});
show();

element.addEventListener("focusin", ({target, relatedTarget}) => {
  const row = target.dataset.field ? rowOf(target) : null;
  if (row && !(relatedTarget?.dataset?.field && rowOf(relatedTarget) === row)) before = fieldsOf(row).map((field) => field.innerText);
});
element.addEventListener("focusout", ({target, relatedTarget}) => {
  const row = target.dataset.field ? rowOf(target) : null;
  if (!row || (relatedTarget?.dataset?.field && rowOf(relatedTarget) === row)) return;
  const texts = Object.fromEntries(fieldsOf(row).map((field, at) => [FIELDS[at], field.innerText])
    .filter(([, text], at) => text !== before[at]));
  if (!Object.keys(texts).length) return;
  trigger("click", {do: "edit", id: set(), position: row.dataset.position, ...texts});
  if (row.matches(".review-card")) leave(row, {texts: {question: before[0], answer: before[1]}});
  setTimeout(() => personaStudioLive.again(element.querySelector("[data-live]")), REFUSED);  // a text that was refused goes
});
element.addEventListener("keydown", (event) => {
  const {target, key, shiftKey} = event;
  if (!target.dataset.field || !(key === "Escape" || (key === "Enter" && !shiftKey))) return;
  event.preventDefault();
  event.stopPropagation();
  if (key === "Escape") fieldsOf(rowOf(target)).forEach((field, at) => { field.innerText = before[at]; });
  const cell = target.closest("td");
  if (cell) cell.focus(); else target.blur();
});

// The table is one stop of the Tab key (the grid pattern of ARIA): arrow keys go from cell to cell, Enter changes a text, and the
// review's keys do to a line what they do there. Its cells have a tabindex of -1 but for the one that Tab comes to.
const PAGE = 10;  // lines that PageUp and PageDown pass over
const MOVES = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-PAGE, 0], PageDown: [PAGE, 0],
  Home: [0, -Infinity], End: [0, Infinity]};
let place = {position: "", column: "question"};  // of the cell that Tab comes to
let held = null;                                 // what has the keyboard in the table
const table = () => element.querySelector("#prune-table table");
const cellsOf = (row) => [...row.cells].filter((cell) => cell.getClientRects().length);  // a narrow page shows some alone
const stopOf = (cell) => cell.querySelector("input, button") ?? cell;
const stop = () => {
  const rows = [...table().rows];
  const row = rows.find(({dataset}) => dataset.position === place.position) ?? rows[1] ?? rows[0];
  return stopOf([...row.cells].find(({className}) => className === place.column) ?? row.cells[0]);
};
const rove = () => {
  if (!table()) return;
  const wanted = stop();
  for (const one of table().querySelectorAll('[tabindex="0"]')) if (one !== wanted) one.tabIndex = -1;
  if (wanted.tabIndex) wanted.tabIndex = 0;
  // Its line went, or is another one in a copy: the keyboard stays in the table.
  if (held && !held.isConnected && document.activeElement === document.body) wanted.focus({preventScroll: true});
};
const go = (cell, down, right) => {
  const rows = [...table().rows].filter((row) => cellsOf(row).length), at = cellsOf(cell.parentElement).indexOf(cell);
  const row = rows[Math.min(Math.max(rows.indexOf(cell.parentElement) + down, 0), rows.length - 1)], cells = cellsOf(row);
  stopOf(cells[Math.min(Math.max(at + right, 0), cells.length - 1)]).focus();
};
const cellOf = (target) => target.closest?.("#prune-table :is(td, th)");
element.addEventListener("focusin", ({target}) => {
  const cell = cellOf(target);
  held = cell ? target : null;
  if (!cell) return;
  place = {position: cell.parentElement.dataset.position, column: cell.className};
  rove();
});
element.addEventListener("focusout", ({target}) => setTimeout(() => { if (held === target && target.isConnected) held = null; }));
element.addEventListener("keydown", (event) => {
  const {target, key, ctrlKey} = event, cell = cellOf(target), move = MOVES[key], row = cell?.parentElement;
  if (!cell || target.dataset.field || event.altKey || event.metaKey || (ctrlKey && !["Home", "End"].includes(key))) return;
  const field = cell.querySelector("[data-field]"), name = row.dataset.position && REVIEW[key.toLowerCase()];
  if (move) go(cell, ctrlKey ? move[1] : move[0], move[1]);
  else if (field && (key === "Enter" || key === "F2")) edit(field);
  else if (name === "back") back();
  else if (name === "rewrite") edit(fieldsOf(row)[1]);
  else if (name && !event.repeat) { go(cell, row.nextElementSibling ? 1 : -1, 0); acts[name](row); }
  else return;
  event.preventDefault();
  event.stopPropagation();
});
new MutationObserver(rove).observe(element, {childList: true, subtree: true, attributeFilter: ["tabindex"]});
rove();
