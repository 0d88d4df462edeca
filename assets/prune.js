// The table of lines: what was typed into a cell is kept when the cell is left; Escape takes it back. Deleting takes the ticked
// lines. Runs with `element` and `trigger` of the component that holds the table.
let before = "";

element.addEventListener("focusin", ({target}) => { if (target.dataset.field) before = target.innerText; });
element.addEventListener("focusout", ({target}) => {
  const {field} = target.dataset;
  if (!field || target.innerText === before) return;
  const id = element.querySelector("#prune-table").dataset.id;
  trigger("click", {do: "edit", id, field, position: target.closest("tr").querySelector("[data-tick]").dataset.tick,
                    text: target.innerText});
  setTimeout(() => personaStudioLive.again(element.querySelector("[data-live]")), 2000);  // a text that was refused goes
});
element.addEventListener("keydown", (event) => {
  const {target, key, shiftKey} = event;
  if (!target.dataset.field || !(key === "Escape" || (key === "Enter" && !shiftKey))) return;
  event.preventDefault();
  event.stopPropagation();
  if (key === "Escape") target.innerText = before;
  target.blur();
});
