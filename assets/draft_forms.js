// The forms of the draft room: what all of them share, the lists of greetings, and the NPC fields. Runs once, before the page;
// the scripts of the sections use it. A section sends what was typed to the room by the event "draft-list".

window.personaStudioForms = (() => {
  const make = (tag, className = "", textContent = "", more = {}) =>
    Object.assign(document.createElement(tag), {className, textContent, ...more});
  const filled = (parent, ...children) => { parent.append(...children); return parent; };
  const marked = (made, attributes) => {
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const described = (made, words) => marked(made, {title: words, "aria-label": words});
  const button = (words, onclick, className = "") => make("button", className, words, {type: "button", onclick});
  const area = (value, rows = 1, placeholder = "") => make("textarea", "", "", {value, rows, placeholder});
  const line = (value, placeholder = "") => make("input", "", "", {value, placeholder});
  const number = (value, min, step = 1) => make("input", "", "", {type: "number", min, step, value});
  const checkbox = (checked) => make("input", "", "", {type: "checkbox", checked});
  const labelled = (className, words, control, hint = "") => {
    const both = [make("span", "", words), control];
    const label = filled(make("label", className), ...(control.type === "checkbox" ? both.reverse() : both));
    return hint ? filled(label, make("small", "", hint)) : label;
  };
  const parts = (text, sign) => text.split(sign).map((part) => part.trim()).filter(Boolean);
  const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
  const send = (element, field, texts) =>
    element.dispatchEvent(new CustomEvent("draft-list", {bubbles: true, detail: {field, texts}}));

  // A list of texts that can be added to, put in another order and made shorter. props: field, word; the value is the list.
  const drawTexts = ({element, props, watch}) => {
    const rows = make("div", "draft-list-rows");
    const texts = () => [...rows.querySelectorAll("textarea")].map((area) => area.value);
    const changed = () => {
      [...rows.children].forEach((row, index, all) => {
        const word = `${props.word} ${index + 1}`;
        row.querySelector(".draft-list-name").textContent = word;
        marked(row.querySelector("textarea"), {"aria-label": word});
        const [up, down, remove] = row.querySelectorAll("button");
        up.disabled = index === 0;
        down.disabled = index === all.length - 1;
        described(up, `Move up: ${word}`);
        described(down, `Move down: ${word}`);
        described(remove, `Remove: ${word}`);
      });
    };
    const typed = () => { send(element, props.field, texts()); props.value = texts(); };
    const move = (row, up) => {
      if (up) row.previousElementSibling.before(row); else row.nextElementSibling.after(row);
      changed();
      typed();
      const buttons = [...row.querySelectorAll("button")].slice(0, 2);
      const wanted = buttons[up ? 0 : 1];
      (wanted.disabled ? buttons.find((one) => !one.disabled) : wanted).focus();
    };
    const rowOf = (text) => {
      const row = make("div", "draft-list-row");
      const written = area(text, 3);
      written.addEventListener("input", typed);
      const head = filled(make("div", "draft-list-head"), make("span", "draft-list-name"),
        button("↑", () => move(row, true)), button("↓", () => move(row, false)),
        button("✕", () => { row.remove(); changed(); typed(); add.focus(); }));
      return filled(row, head, written);
    };
    const add = button(`+ Add a ${props.word.toLowerCase()}`, () => {
      rows.append(rowOf(""));
      changed();
      rows.lastElementChild.querySelector("textarea").focus();
      typed();
    }, "draft-list-add");
    const fill = () => {
      const wanted = props.value ?? [];
      if (same(texts(), wanted)) return;
      rows.replaceChildren(...wanted.map(rowOf));
      changed();
    };
    element.replaceChildren(rows, add);
    fill();
    watch("value", fill);
  };

  // The NPC fields: lists of short entries, sliders, and beside each what it writes into the prompt. props: value {fields,
  // written, words, problems, faults}, lists and scales (their forms). Parts of an entry that have no input here are kept.
  const drawNpc = ({element, props, server, watch}) => {
    const SOON = 150;    // ms after a key until the prompt is shown again
    const writes = {};   // field -> the element that shows what it writes
    const problems = {}; // field -> the element that shows what of it is not used
    const levels = {};   // scale -> {set, level, words}
    const lists = {};    // field -> the element that holds its rows
    const faults = make("div");
    let timer = 0;
    let asked = 0;

    const entriesOf = (field) => [...lists[field].children].map((row) => row.entry());
    const levelsOf = (form) => Object.fromEntries(form.scales.map(({key}) => [key, levels[key].level()]));
    const typed = (field, value) => {
      send(element, `npc-${field}`, value);
      clearTimeout(timer);
      timer = setTimeout(preview, SOON);
    };
    const preview = async () => {
      const turn = ++asked;
      const fields = Object.fromEntries([...props.lists.map(({key}) => [key, entriesOf(key)]),
                                         ...props.scales.map((form) => [form.key, levelsOf(form)])]);
      // The name in the place of {{char}}, as it is typed at this moment.
      const char = ["nickname", "name"].map((key) => document.querySelector(`#draft-${key} :is(input, textarea)`)?.value.trim())
        .find(Boolean) || "{{char}}";
      const found = await server.preview_typed({fields, char}).catch(() => null);
      if (found && turn === asked) show(found);
    };
    const show = ({written = {}, words = {}, problems: found = {}}) => {
      for (const [field, place] of Object.entries(problems)) {
        place.replaceChildren(...(found[field] ?? []).map((text) => make("p", "npc-fault", text)));
      }
      for (const [field, place] of Object.entries(writes)) {
        place.textContent = written[field] || "";
        place.dataset.empty = written[field] ? "" : "true";
      }
      for (const [scale, {level, words: place}] of Object.entries(levels)) {
        place.textContent = level() === null ? "not set" : words[scale] || "in the middle: writes nothing";
      }
    };

    const rowOf = (form, entry) => {
      const row = make("div", "npc-row");
      const changed = () => typed(form.key, entriesOf(form.key));
      const reads = form.parts.map(({key, label, example, many, wide}) => {
        const input = area([entry[key] ?? ""].flat().join(", "), 1, example);
        input.addEventListener("input", changed);
        row.append(labelled(wide ? "npc-wide" : many ? "npc-many" : "", label, input));
        return () => [key, many ? parts(input.value, /[,\n]/) : input.value.trim()];
      });
      row.entry = () => ({...entry, ...Object.fromEntries(reads.map((read) => read()))});
      const add = lists[form.key].nextElementSibling;
      return filled(row, described(button("✕", () => { row.remove(); changed(); add.focus(); }), `Remove this ${form.item}`));
    };
    const partOf = (form, ...inputs) => {
      writes[form.key] = make("p", "npc-written");
      problems[form.key] = make("div");
      return filled(make("section", "npc-part"),
        filled(make("div", "npc-left"), make("h4", "", form.label), make("p", "npc-hint", form.hint), problems[form.key], ...inputs),
        filled(make("div", "npc-right"), make("span", "npc-label", form.where ?? "In the prompt"), writes[form.key]));
    };
    const listPart = (form) => {
      lists[form.key] = make("div", "npc-rows");
      return partOf(form, lists[form.key], button(`+ Add ${/^[aeiou]/.test(form.item) ? "an" : "a"} ${form.item}`, () => {
        lists[form.key].append(rowOf(form, {}));
        lists[form.key].lastElementChild.querySelector("textarea").focus();
      }, "draft-list-add"));
    };
    const scalePart = (form) => partOf(form, ...form.scales.map(({key, label, low, high}) => {
      const slider = make("input", "", "", {type: "range", min: 0, max: 100, step: 5, value: 50});
      marked(slider, {"aria-label": `${label}: from ${low} to ${high}`});
      const words = make("output", "npc-words");
      const changed = (level) => { set(level); typed(form.key, levelsOf(form)); };
      const unset = described(button("✕", () => { changed(null); slider.focus(); }), `Unset ${label.toLowerCase()}`);
      const set = (level) => {
        slider.value = level ?? 50;
        slider.dataset.set = level === null ? "" : "true";
        unset.style.visibility = level === null ? "hidden" : "";
      };
      slider.addEventListener("input", () => changed(Number(slider.value)));
      levels[key] = {set, words, level: () => slider.dataset.set ? Number(slider.value) : null};
      return filled(make("div", "npc-scale"), filled(make("div", "npc-scale-head"), make("b", "", label), words, unset), slider,
        filled(make("div", "npc-ends"), make("span", "", low), make("span", "", high)));
    }));

    const tidy = (entries) => entries.map((entry) => Object.fromEntries(
      Object.entries(entry).filter(([, part]) => part?.length !== 0 && part != null).sort()));
    const fill = () => {
      const value = props.value;
      if (!value?.fields) return;
      faults.replaceChildren(...(value.faults ?? []).map((text) => make("p", "npc-fault", text)));
      for (const form of props.lists) {
        const wanted = value.fields[form.key] ?? [];
        const shown = entriesOf(form.key).filter((entry) => Object.values(entry).some((part) => part.length));
        if (!same(tidy(shown), tidy(wanted)) || (!wanted.length && !shown.length)) {
          lists[form.key].replaceChildren(...wanted.map((entry) => rowOf(form, entry)));
        }
      }
      for (const form of props.scales) {
        for (const {key} of form.scales) levels[key].set(value.fields[form.key]?.[key] ?? null);
      }
      show(value);
    };
    element.replaceChildren(faults, ...props.lists.map(listPart), ...props.scales.map(scalePart));
    fill();
    watch("value", fill);
  };

  return {make, filled, marked, button, area, line, number, checkbox, labelled, parts, same, send, drawTexts, drawNpc};
})();
