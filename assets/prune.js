// Runs as HTML: hands on which run is chosen, counts the seconds of the stage under way, and asks for news when
// the page is looked at again. Runs with `element`, `trigger` and `props` of the component that holds it.
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-run], button[data-more]");
  if (button) trigger("click", { run: button.dataset.run ?? "", more: Number(button.dataset.more ?? 0) });
});

const spoken = (seconds) => {
  if (seconds < 60) return `${seconds}\u00a0s`;
  if (seconds < 600) return `${Math.floor(seconds / 60)}\u00a0min${seconds % 60 ? ` ${seconds % 60}\u00a0s` : ""}`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}\u00a0min`;
  const minutes = Math.floor((seconds % 3600) / 60);
  return `${Math.floor(seconds / 3600)}\u00a0h${minutes ? ` ${minutes}\u00a0min` : ""}`;
};

const since = new WeakMap(); // the time element -> when it was first seen, by this machine's clock
setInterval(() => {
  for (const time of element.querySelectorAll("time[data-seconds]")) {
    const key = `${time.dataset.seconds}`;
    const known = since.get(time);
    if (!known || known.key !== key) since.set(time, { key, at: Date.now() });
    const seconds = Number(key) + Math.floor((Date.now() - since.get(time).at) / 1000);
    const text = spoken(seconds);
    if (time.textContent !== text) time.textContent = text;
  }
}, 1000);

if (element.querySelector(".prune-runs, .prune-empty") || element.closest("#prune-runs")) {
  const look = () => { if (!document.hidden && element.isConnected && element.offsetParent !== null) trigger("focus"); };
  document.addEventListener("visibilitychange", look);
  window.addEventListener("focus", look);
}

const place = element.closest("#prune-making, #prune-progress"); // what news may replace, see prune_news.js
if (place) (window.personaStudioParts ??= {})[place.id] = props;
