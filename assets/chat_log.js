// A conversation as HTML: hands on what its buttons do, keeps the newest line in view, and the keys of the edit field.
// Runs with `element` and `trigger` of the component that holds it.
const log = () => element.querySelector(".chat-log");
let chat = null;
let follows = true;  // the newest line is in view, so it is kept there
let edited = null;

const act = (button) => {
  const field = element.querySelector("textarea.chat-edit");
  const text = button.dataset.do === "save" && field ? field.value : button.dataset.text || "";
  trigger("click", { do: button.dataset.do, message: button.dataset.message || "", text });
};

element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do]");
  if (button && !button.disabled) act(button);
});

element.addEventListener("keydown", (event) => {
  if (!event.target.matches("textarea.chat-edit")) return;
  const wanted = event.key === "Escape" ? "cancel" : event.key === "Enter" && (event.ctrlKey || event.metaKey) ? "save" : "";
  const button = wanted && element.querySelector(`button[data-do="${wanted}"]`);
  if (button) { event.preventDefault(); act(button); }
});

element.addEventListener("scroll", (event) => {
  if (event.target === log()) follows = log().scrollHeight - log().scrollTop - log().clientHeight < 48;
}, true);

new MutationObserver(() => {
  const shown = element.querySelector("[data-chat]")?.dataset.chat;
  const field = element.querySelector("textarea.chat-edit");
  if (field && field !== edited) field.focus();
  edited = field;
  if (shown !== chat) { chat = shown; follows = true; }
  if (follows && !field) log().scrollTop = log().scrollHeight;
}).observe(element, { childList: true, subtree: true, characterData: true, attributes: true, attributeFilter: ["data-chat"] });
