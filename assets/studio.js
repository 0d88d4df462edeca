// Keyboard of the chat rooms, and the address that names the character and the room.
(() => {
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
})();
