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
const acts = {
  keep: (card) => { trigger("click", {do: "decide", decision: "keep", id: set(), position: card.dataset.position}); leave(card); },
  drop: (card) => { trigger("click", {do: "decide", decision: "drop", id: set(), position: card.dataset.position}); leave(card); },
  rewrite: (card) => {
    const field = fieldsOf(card)[1];
    field.focus();
    getSelection().selectAllChildren(field);
    getSelection().collapseToEnd();
  },
};
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
  const name = {k: "keep", r: "rewrite", d: "drop", b: "back"}[event.key.toLowerCase()];
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
  target.blur();
});
