// What a reader has opened stays open, and keeps the focus, when newer text takes the place of this component's text.
// Runs as the script of an HTML component; each <details> that is to stay names itself in data-key. The page may give an
// old element a new text instead of making a new one, so what is open is set anew by name, not only what is missing.
const opened = new Set();
let focused = "";

const key_of = (node) => node?.closest("details[data-key]")?.dataset.key ?? "";

element.addEventListener("click", ({target}) => {
  const key = target.closest("summary") && key_of(target);
  if (!key) return;
  focused = key;
  if (target.closest("details").open) opened.delete(key); else opened.add(key); // it opens or closes after this
});
element.addEventListener("focusin", ({target}) => { focused = key_of(target); });
document.addEventListener("pointerdown", ({target}) => { if (!element.contains(target)) focused = ""; });

new MutationObserver(() => {
  for (const details of element.querySelectorAll("details[data-key]")) {
    const wanted = opened.has(details.dataset.key);
    if (details.open !== wanted) details.open = wanted;
  }
  const active = document.activeElement;
  if (!focused || key_of(active) === focused || (active !== document.body && !element.contains(active))) return;
  const key = focused;
  element.querySelector(`details[data-key="${CSS.escape(key)}"] > summary`)?.focus({preventScroll: true});
  focused = key;
}).observe(element, {childList: true, subtree: true, attributes: true, attributeFilter: ["data-key"]});
