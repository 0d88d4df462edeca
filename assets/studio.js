// Keyboard of the chat rooms, and the address that names the character and the room.
(() => {
  // A page that nobody sees asks for no news; it does so again as soon as it is seen.
  const every = window.setInterval.bind(window);
  window.setInterval = (what, pause, ...rest) => every((...given) => {
    if (pause < 1000 || !document.hidden) what(...given);
  }, pause, ...rest);

  const room = () => new URLSearchParams(location.search).get("room") || "draft";

  window.personaStudioFirstRoom = room();  // before the page selects its first tab, which changes the address

  window.personaStudioAddress = (name, value) => {
    const parameters = new URLSearchParams(location.search);
    if (value) parameters.set(name, value); else parameters.delete(name);
    history.replaceState(null, "", `${location.pathname}?${parameters}`);
    return value;
  };

  const press = (what) => {
    const found = document.getElementById(`${room()}-${what}`);
    const button = found && (found.matches("button") ? found : found.querySelector("button"));
    if (button && !button.disabled && button.offsetParent !== null) { button.click(); return true; }
    return false;
  };

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && press("stop")) event.preventDefault();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && press("regenerate")) {
      event.preventDefault();
      event.stopPropagation();
    }
  }, true);

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
})();
