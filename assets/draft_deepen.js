// Deepening by questions: one at a time, an answer by hand or by the model, added to the card at a press. Runs with `element` and
// `server` of its component (studio/tabs/draft/deepen.py).
const {make, filled, marked, button, area} = window.personaStudioForms;
const drafts = {};  // character and question -> what was typed and not added yet
let shown = "", open = [], total = 0, at = 0;

const head = make("p", "deepen-head"), asked = make("p", "deepen-question"), place = make("p", "quiet");
const said = marked(make("p", "write-problem"), {role: "alert"});
let answer = area("", 3);
const key = () => `${shown}:${open[at]?.id}`;
const propose = button("Let the model propose", () => {
  element.querySelector(".write-open:not([hidden])")?.click();
  element.querySelector(".write-panel .write-tasks button")?.click();
});
const add = button("Add to the card", async () => {
  const one = open[at], character = shown;
  said.textContent = "";
  add.disabled = true;
  await window.personaStudioDraft.flush();
  const found = await server.answer({character, id: one.id, text: answer.value}).catch(() => null);
  add.disabled = false;
  if (!found?.open) { said.textContent = found?.problem ?? "The studio does not answer. Try again."; return; }
  delete drafts[`${character}:${one.id}`];
  window.personaStudioDraft.reload();
  if (character === shown) take(found);
}, "primary");
const next = button("Another question", () => { at = (at + 1) % open.length; show(); });
const keys = filled(make("div", "write-buttons deepen-buttons"), add, propose, next);

const show = () => {
  const one = open[at];
  said.textContent = "";
  head.textContent = one ? `${one.kind} · ${total - open.length} of ${total} answered` : `All ${total} questions are answered.`;
  asked.textContent = one?.text ?? "";
  place.textContent = one ? `Your answer goes into: ${one.place}` : "";
  const fresh = area(drafts[key()] ?? "", 3, "A sentence for the card");
  if (one) { fresh.dataset.question = one.text; marked(fresh, {"aria-label": one.text}); }
  fresh.addEventListener("input", () => { drafts[key()] = fresh.value; });
  answer = fresh;
  element.replaceChildren(head, ...(one ? [asked, answer, place, said, keys] : []));
  next.disabled = open.length < 2;
};
const take = (found) => {
  total = found.total;
  at = Math.max(0, Math.min(at, found.open.length - 1));
  open = found.open;
  show();
};
const look = async () => {
  const character = window.personaStudioDraft?.character() ?? "";
  if (!character || character === shown) return;
  const found = await server.questions(character).catch(() => null);
  if (!found?.open) return;
  shown = character;
  at = 0;
  take(found);
};
const clock = setInterval(() => { if (!element.isConnected) clearInterval(clock); else if (element.offsetParent) look(); }, 500);
