// Keyboard of the chat rooms, and the address that names the character and the room.
(() => {
  const room = () => new URLSearchParams(location.search).get("room") || "draft";

  window.personaStudioFirstRoom = room();  // before the page selects its first tab, which changes the address
  document.addEventListener("click", (event) => {
    const chosen = event.target.closest("#rooms [role=tab], #rooms .overflow-dropdown button");  // the latter: under "More tabs"
    if (chosen) window.personaStudioFirstRoom = "";
  }, true);

  window.personaStudioRoom = () =>
    [...document.querySelectorAll("#rooms [role=tabpanel][id^=room-]")].find(visible)?.id.slice("room-".length) ?? "";

  window.personaStudioAddress = (name, value) => {
    const parameters = new URLSearchParams(location.search);
    if (value) parameters.set(name, value); else parameters.delete(name);
    history.replaceState(null, "", `${location.pathname}?${parameters}`);
    window.dispatchEvent(new Event("studio-address"));  // the live channel follows
    return value;
  };

  const press = (what) => {
    const found = document.getElementById(`${room()}-${what}`);
    const button = found && (found.matches("button") ? found : found.querySelector("button"));
    if (button && !button.disabled && button.offsetParent !== null) { button.click(); return true; }
    return false;
  };

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && (press("stop") || press("script-stop"))) event.preventDefault();
    // A vote by key, also from the field for the message while nothing is written in it.
    const vote = {1: "left", 2: "tie", 3: "bad", 4: "right"}[event.key];
    const writes = event.target.matches?.("input, textarea, [contenteditable]") && (event.target.value !== "" || !event.target.closest("#compare-message"));
    if (vote && !writes && !event.ctrlKey && !event.metaKey && !event.altKey && room() === "compare" && press(`vote-${vote}`)) {
      event.preventDefault();
    }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && press("regenerate")) {
      event.preventDefault();
      event.stopPropagation();
    }
  }, true);

  // One stop of the Tab key for each group of radio buttons and for the tabs; arrow keys go on from there. Gradio gives each
  // radio button a name of its own, a new one whenever it is chosen, and all tabs a stop; so this is repaired before a key counts.
  const order = () => {
    for (const [number, group] of document.querySelectorAll("fieldset").entries()) {
      for (const radio of group.querySelectorAll("input[type=radio]")) radio.name = group.id || `group-${number}`;
    }
    for (const tab of document.querySelectorAll("[role=tab]")) tab.tabIndex = tab.ariaSelected === "true" ? 0 : -1;
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Tab" || event.target.type === "radio") order();
    const tab = event.target.closest?.("[role=tab]");
    const tabs = tab ? [...tab.closest("[role=tablist]").querySelectorAll("[role=tab]:not(:disabled)")] : [];
    const at = tabs.indexOf(tab);
    const next = tabs.at({ArrowRight: (at + 1) % tabs.length, ArrowLeft: at - 1, Home: 0, End: -1}[event.key] ?? tabs.length);
    if (!next) return;
    event.preventDefault();
    next.focus();
    next.click();
  }, true);

  const visible = (found) => found.getClientRects().length > 0;

  // Opens a part of a room (an accordion) or one of its views (a radio button), as soon as the room is shown, and brings it into
  // sight once what is above it has found its height.
  window.personaStudioPart = (selector, focused = "") => {
    const open = (left) => {
      const part = document.querySelector(selector);
      if (!part || !visible(part)) { if (left) setTimeout(open, 100, left - 1); return; }
      (part.matches("input") ? part : part.querySelector(":scope > button:not(.open)"))?.click();
      setTimeout(() => {
        part.scrollIntoView({block: part.matches("input") ? "nearest" : "start"});
        if (focused) document.querySelector(focused)?.focus({preventScroll: true});
      }, 300);
    };
    open(50);
  };

  // The theme of the settings, which this browser remembers. Gradio follows the system by itself, which must not undo another choice.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => { try { return localStorage.getItem("persona-studio-theme") || "system"; } catch { return "system"; } };
  const show = (wanted) => {
    const on = wanted === "system" ? dark.matches : wanted === "dark";
    if (document.body.classList.contains("dark") !== on) document.body.classList.toggle("dark", on);
  };
  window.personaStudioTheme = (chosen) => {
    if (chosen) { try { localStorage.setItem("persona-studio-theme", chosen); } catch { /* for this page alone */ } show(chosen); }
    return chosen ?? theme();
  };
  const keep = () => { if (theme() !== "system") show(theme()); };
  const begun = setInterval(() => {  // this script may run before there is a body, or long after
    if (!document.body) return;
    clearInterval(begun);
    keep();
    new MutationObserver(keep).observe(document.body, {attributes: true, attributeFilter: ["class"]});
  }, 10);
  window.addEventListener("storage", ({key}) => { if (key === "persona-studio-theme") show(theme()); });  // another window's choice

  // A new character is named first: its name is selected until a key is pressed or something else is clicked.
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("#side-new, [data-do=write]")) return;
    const before = new URLSearchParams(location.search).get("character"), end = Date.now() + 5000;
    if (narrow()) closeSidebar();
    const wait = setInterval(() => {
      const field = document.querySelector("#draft-name input, #draft-name textarea");
      const made = new URLSearchParams(location.search).get("character") !== before;
      if (Date.now() > end) stop();
      else if (made && field && visible(field) && field.value === "New character"
        && !(document.activeElement === field && field.selectionEnd - field.selectionStart === field.value.length)) {
        field.focus();
        field.select();
      }
    }, 50);
    const stop = () => {
      clearInterval(wait);
      for (const kind of ["keydown", "pointerdown"]) document.removeEventListener(kind, stop, true);
    };
    for (const kind of ["keydown", "pointerdown"]) document.addEventListener(kind, stop, true);
  });

  // In a narrow window the sidebar covers the room: it begins closed, and closes when a character was picked.
  const narrow = () => window.innerWidth <= 768;
  const closeSidebar = () => {
    const button = document.querySelector(".sidebar.open .toggle-button, .sidebar.open button[aria-label='Toggle Sidebar']");
    if (button) button.click();
    return Boolean(button);
  };
  const begin = Date.now();
  const watch = setInterval(() => {
    if (!narrow() || closeSidebar() || Date.now() - begin > 20000) clearInterval(watch);
  }, 100);
  document.addEventListener("change", (event) => {
    if (narrow() && event.target.closest("#side-characters")) closeSidebar();
  });

  // Cards can be dropped anywhere on the page; they go the way of the button "Import cards".
  const LARGEST = 32_000_000;  // bytes: of a larger file only the beginning is sent, which is enough to refuse it
  const importer = () => {
    const place = document.getElementById("side-import");
    return place?.querySelector("input[type=file]") ?? place?.parentElement?.querySelector("input[type=file]");
  };
  window.personaStudioImport = () => importer()?.click();
  const carried = (files) => {
    const all = new DataTransfer();
    for (const file of files) {
      all.items.add(file.size > LARGEST ? new File([file.slice(0, LARGEST + 1)], file.name) : file);
    }
    return all.files;
  };
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const showDrop = (shown) => document.documentElement.classList.toggle("dropping", shown);
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event) || !importer()) return;
    event.preventDefault();
    showDrop(true);
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) showDrop(false); });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();  // the browser would leave the page to show the file
    showDrop(false);
    const input = importer();
    if (!input || !event.dataTransfer.files.length) return;
    if (!document.querySelector(".sidebar.open")) {  // where the answer will stand
      document.querySelector(".sidebar .toggle-button, .sidebar button[aria-label='Toggle Sidebar']")?.click();
    }
    input.files = event.dataTransfer.files;
    input.dispatchEvent(new Event("change", {bubbles: true}));
  }, true);
  document.addEventListener("change", (event) => {
    const input = importer();
    if (event.target !== input || ![...input.files].some((file) => file.size > LARGEST)) return;
    input.files = carried(input.files);
  }, true);
})();
