// What a reader has opened stays open, and keeps the focus, when newer text takes the place of this component's text.
// Runs as the script of an HTML component; each <details> that is to stay names itself in data-key.
const opened = new Set();
let focused = "";

element.addEventListener("click", ({target}) => {
  const summary = target.closest("summary");
  const details = summary?.parentElement;
  if (!details?.dataset.key) return;
  focused = details.dataset.key;
  if (details.open) opened.delete(focused); else opened.add(focused); // it opens or closes after this
});
element.addEventListener("focusin", ({target}) => { focused = target.closest("details[data-key]")?.dataset.key ?? ""; });

new MutationObserver(() => {
  for (const details of element.querySelectorAll("details[data-key]")) {
    if (opened.has(details.dataset.key) && !details.open) details.open = true;
    if (details.dataset.key === focused && document.activeElement === document.body) details.querySelector("summary").focus({preventScroll: true});
  }
}).observe(element, {childList: true, subtree: true});
