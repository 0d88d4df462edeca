// "Write with me" below the texts of the draft room: a model drafts, lengthens, tightens, or makes a text speak like a sample; all of
// it or what is selected. What it wrote is shown as a difference, and changes nothing until it is accepted. Runs with `element` and
// `server` of the component that knows the models (studio/tabs/draft/writer.py).
const {make, filled, marked, button} = window.personaStudioForms;
const LOOK = 300;  // ms between two looks at a text that grows
const TASKS = {draft: "Draft", lengthen: "Lengthen", tighten: "Tighten", voice: "Speak like this"};
const DONE = {draft: "Drafted", lengthen: "Lengthened", tighten: "Tightened", voice: "Voice changed"};
const NOT = ["name", "nickname", "tags", "creator", "character_version"];
const room = () => document.getElementById("room-draft");

// What a text is: its key in a card or another word for its kind, what the page calls it, and after which element the panel goes.
const kindOf = (area) => {
  const field = area.closest(".draft-field"), list = area.closest(".draft-list-row"), entry = area.closest(".book-content");
  const row = area.closest(".npc-row"), title = (found) => found?.querySelector("[data-testid=block-info], h4")?.textContent.trim() ?? "";
  if (field) return {key: field.id.slice("draft-".length), label: title(field), place: field};
  if (area.dataset.question) return {key: "question", label: area.dataset.question, place: area};
  if (list) return {key: area.closest(".draft-list").id.slice("draft-".length), label: area.ariaLabel ?? "", place: list};
  if (entry) return {key: "lore", label: "Lorebook entry", place: entry};
  if (row && area.closest(".npc-wide") && row.querySelectorAll(".npc-wide").length === 1) return {key: "npc", label: title(area.closest(".npc-part")), place: row};
  return null;
};

const panelFor = (area, opener) => {
  const {key, label} = kindOf(area);
  const panel = marked(make("div", "write-panel"), {role: "group", "aria-label": `Write with me: ${label}`});
  const wish = marked(make("input", "write-wish", "", {placeholder: "What to say, or a line to sound like",
                                                       maxLength: 600}), {"aria-label": "In your words"});
  const scope = make("span", "quiet write-scope"), note = make("p", "quiet write-note");
  const state = make("div", "write-state");
  const tasks = Object.entries(TASKS).map(([task, words]) => button(words, () => ask(task)));
  let range = null, running = "", undo = null;
  panel.addEventListener("input", (event) => event.stopPropagation());  // a wish is no text of the card

  const selected = () => {
    const {selectionStart: from, selectionEnd: to, value} = area;
    return from < to && value.slice(from, to).trim() ? [from, to] : [0, value.length];
  };
  const look = () => {
    const [from, to] = selected(), part = area.value.slice(from, to), words = part.trim() ? part.trim().split(/\s+/).length : 0;
    scope.textContent = to - from < area.value.length ? `${words} selected ${words === 1 ? "word" : "words"}` : words ? "The whole text" : "Empty so far: a draft comes first.";
    for (const [at, task] of Object.keys(TASKS).entries()) tasks[at].disabled = Boolean(running) || (task !== "draft" && !words);
  };
  const tell = (...children) => { state.replaceChildren(...children); look(); };
  const fault = (words, ...more) => tell(marked(make("p", "write-problem", words), {role: "alert"}), ...more);

  const ask = async (task) => {
    const [from, to] = selected();
    running = "asking";  // a second click asks for nothing
    look();
    await window.personaStudioDraft.flush();
    const character = window.personaStudioDraft.character();
    range = {from, to, text: area.value.slice(from, to), task, character};
    const answer = await server.write({character, task, key, label, text: range.text, wish: wish.value}).catch(() => null);
    if (running !== "asking") { if (answer?.id) server.stop(answer.id); return; }  // closed meanwhile
    if (!answer?.id) { running = ""; fault(answer?.problem ?? "The studio does not answer. Try again."); return; }
    running = answer.id;
    const words = marked(make("p", "quiet", "Waiting for the model…"), {role: "status"}), text = make("p", "write-text");
    tell(words, text, filled(make("div", "write-buttons"), button("Stop", () => server.stop(running))));
    follow(running, words, text);
  };
  const follow = async (id, words, text) => {
    while (running === id && element.isConnected) {
      const found = await server.look(id).catch(() => null);
      if (running !== id) return;
      if (found?.done || found?.problem) { running = ""; show(found); return; }
      words.textContent = found?.words ?? "The studio does not answer. Trying again…";
      if (found) text.textContent = found.text;
      await new Promise((done) => setTimeout(done, LOOK));
    }
  };
  const again = () => button("Again", () => { area.setSelectionRange(range.from, range.to); ask(range.task); });
  const dismiss = () => button("Dismiss", () => tell());
  const show = (found) => {
    if (found.problem) {
      const text = found.text?.trim() ? [make("p", "write-text", found.text)] : [];
      fault(found.problem, ...text, filled(make("div", "write-buttons"), again(), dismiss()));
      return;
    }
    const change = make("p", "write-change");
    change.innerHTML = found.html;  // escaped by the studio
    const accept = button("Accept", () => take(found.proposal), "primary");
    tell(marked(make("p", "quiet", found.words), {role: "status"}), change, filled(make("div", "write-buttons"), accept, again(), dismiss()));
  };
  const put = (from, to, text) => {
    area.focus();
    area.setSelectionRange(from, to);
    // So that the browser's own undo knows of it, too.
    if (!document.execCommand("insertText", false, text)) {
      area.setRangeText(text, from, to, "end");
      area.dispatchEvent(new Event("input", {bubbles: true}));
    }
  };
  const take = async (text) => {
    if (window.personaStudioDraft.character() !== range.character) {
      fault("This text was written for another character.", make("p", "write-text", text));
      return;
    }
    const at = area.value.slice(range.from, range.to) === range.text ? range.from : range.text ? area.value.indexOf(range.text) : 0;
    if (at < 0 || (!range.text && area.value)) {
      fault("You have changed this text meanwhile, so it was not replaced. Copy what you want to keep.", make("p", "write-text", text));
      return;
    }
    const before = range.text;
    await window.personaStudioDraft.apart(`${DONE[range.task]} with a model: ${label}`, () => put(at, at + before.length, text));
    undo = button("Undo", async () => {
      if (area.value.slice(at, at + text.length) !== text) { fault("The text has changed since. Versions, below, have the former one."); return; }
      await window.personaStudioDraft.apart("Taken back", () => put(at, at + text.length, before));
      tell();
    });
    tell(filled(make("div", "write-buttons"), make("span", "quiet", "Accepted, as a version of its own."), undo));
  };

  const close = button("Close", () => { if (running) server.stop(running); running = ""; panel.remove(); opener.hidden = false; area.focus(); });
  filled(panel, filled(make("div", "write-tasks"), ...tasks, scope, close), wish, note, state);
  for (const event of ["select", "input", "keyup", "pointerup", "focus"]) area.addEventListener(event, look);
  server.who(null).then((found) => { note.textContent = found?.note ?? ""; }, () => {});
  look();
  return panel;
};

const attach = (area) => {
  const kind = kindOf(area);
  if (!kind || NOT.includes(kind.key) || area.dataset.writes === "true" && area.opener?.isConnected) return;
  area.dataset.writes = "true";
  area.opener = button("Write with me", () => {
    const {place} = kindOf(area);
    const panel = panelFor(area, area.opener);
    if (kind.place === area) place.after(panel); else place.append(panel);
    area.opener.hidden = true;
    panel.querySelector("button:not(:disabled)")?.focus();
  }, "write-open");
  area.opener.setAttribute("aria-label", `Write with me: ${kind.label}`);
  if (kind.place === area) area.after(area.opener); else kind.place.append(area.opener);
};
let waits = 0;
const attachAll = () => { waits = 0; for (const area of room()?.querySelectorAll("textarea") ?? []) attach(area); };
const observer = new MutationObserver(() => { waits ||= setTimeout(attachAll, 200); });
const begin = () => {
  if (!room()) { setTimeout(begin, 200); return; }
  observer.observe(room(), {childList: true, subtree: true});
  attachAll();
};
begin();
