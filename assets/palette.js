// The command palette: Ctrl+K (or Command+K) lists the rooms, the characters and what the sidebar does; a few letters find one.
(() => {
  let dialog = null, items = [], chosen = 0;

  const named = (element) => element.textContent.trim();  // also of what a narrow window hides
  // In a narrow window some tabs are under "More tabs", and are made when that is opened.
  const tabOf = (id) => document.getElementById(`${id}-button`);
  const rooms = () => Object.entries(JSON.parse(document.querySelector("[data-rooms]")?.dataset.rooms ?? "{}"));
  const go = (id, name) => {
    if (tabOf(id)) { tabOf(id).click(); return; }
    document.querySelector("#rooms .overflow-menu > button, #rooms [aria-label='More tabs']")?.click();
    const end = Date.now() + 3000;
    const wait = setInterval(() => {
      const tab = [...document.querySelectorAll("#rooms .overflow-dropdown button")].find((one) => named(one).endsWith(name));
      tab?.click();
      if (tab || Date.now() > end) clearInterval(wait);
    }, 30);
  };
  window.personaStudioGo = (room) => { const one = rooms().find(([id]) => id === `room-${room}`); if (one) go(...one); };
  const found = () => [
    ...rooms().map(([id, name]) => ["Go to", name, () => go(id, name)]),
    ...[...document.querySelectorAll("#side-characters label")].map((label) => ["Open", named(label), () => label.click()]),
    ...[["side-new", "New character"], ["side-duplicate", "Duplicate the character"], ["side-backup", "Back up the library"]]
      .map(([id, word]) => ["Do", word, () => document.getElementById(id)?.click()]),
    ["Do", "Import cards", () => window.personaStudioImport()],
  ];
  const fits = (text, words) => words.every((word) => text.toLowerCase().includes(word));

  const show = () => {
    const words = dialog.querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean);
    items = found().filter(([kind, name]) => name && fits(`${kind} ${name}`, words));
    chosen = Math.max(0, Math.min(chosen, items.length - 1));
    const list = dialog.querySelector("[role=listbox]");
    list.replaceChildren(...items.map(([kind, name], at) => {
      const item = Object.assign(document.createElement("li"), {id: `palette-${at}`});
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", String(at === chosen));
      const before = Object.assign(document.createElement("span"), {className: "quiet", textContent: kind});
      item.append(before, ` ${name}`);
      item.addEventListener("click", () => run(at));
      return item;
    }));
    dialog.querySelector("input").setAttribute("aria-activedescendant", items.length ? `palette-${chosen}` : "");
    list.children[chosen]?.scrollIntoView({block: "nearest"});
  };
  const run = (at) => { dialog.close(); items[at]?.[2](); };

  const make = () => {
    dialog = Object.assign(document.createElement("dialog"), {id: "palette"});
    dialog.setAttribute("aria-label", "Commands");
    dialog.innerHTML = '<input type="text" role="combobox" aria-expanded="true" aria-controls="palette-list" aria-label="Command" '
      + 'placeholder="Go to a room, open a character …" autocomplete="off"><ul id="palette-list" role="listbox" aria-label="Commands"></ul>';
    dialog.addEventListener("input", () => { chosen = 0; show(); });
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("keydown", (event) => {
      event.stopPropagation();  // the keys of the rooms do not count here
      const step = {ArrowDown: 1, ArrowUp: -1}[event.key];
      if (step) { chosen = (chosen + step + items.length) % Math.max(items.length, 1); show(); event.preventDefault(); }
      if (event.key === "Enter") { run(chosen); event.preventDefault(); }
    });
    (document.querySelector(".gradio-container") ?? document.body).append(dialog);
  };

  document.addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() !== "k" || !(event.ctrlKey || event.metaKey) || event.shiftKey || event.altKey) return;
    event.preventDefault();
    if (!dialog?.isConnected) make();
    if (dialog.open) { dialog.close(); return; }
    dialog.querySelector("input").value = "";
    chosen = 0;
    dialog.showModal();
    show();
  }, true);
})();
