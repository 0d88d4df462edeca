// A conversation as the model reads it: engine/cards/prompt.py, and a chat format as engine/export/engines/go_template.py finds
// it, in JavaScript. tests/test_web_prompt.py compares them. `character` is what character.json holds.

import { fire } from "./lore.js";

const BLOCK = 8; // turns dropped together, so that the prompt's beginning stays the same for a while

/** The longest prompt that `fits(text)`: first the last example dialogues are dropped, then the oldest turns. */
export function fitPrompt(character, turns, seed, fits) {
  const dialogues = character.examples.length, last = Math.max(0, turns.length - 1), inserts = insertsOf(character, turns, seed);
  const build = (steps) => render(character,
    messages(character, turns, inserts, Math.min(steps, dialogues), Math.max(0, steps - dialogues)));
  const whole = build(0);
  if (fits(whole)) return whole;
  let low = 1, high = dialogues + last;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if (fits(build(middle))) high = middle; else low = middle + 1;
  }
  const dropped = low - dialogues, blocks = Math.ceil(dropped / BLOCK) * BLOCK;
  if (dropped > 0 && blocks <= last - BLOCK) low = dialogues + blocks;
  return build(Math.min(low, dialogues + last));
}

/** What every prompt begins with, whatever is said: read in advance, so that the first answer comes sooner. */
export function openingPrompt(character, fits) {
  const [one, two] = ["a", "0"].map((content) => fitPrompt(character, [...character.greeting, { role: "user", content }], 0, fits));
  let same = 0;
  while (same < one.length && one[same] === two[same]) same++;
  return one.slice(0, same);
}

/** The messages: system prompt, example dialogues, the turns with lore, note and closing instructions at their places. */
export function messages(character, turns, inserts, examplesDropped = 0, turnsDropped = 0) {
  const known = character.baked && turns[0]?.role === "assistant" ? 1 : 0; // a baked model holds the greeting in its weights
  const talk = turns.slice(Math.max(turnsDropped, known)).map(({ role, content }) => ({ role, content: fill(content, character) }));
  const examples = character.examples.slice(0, Math.max(0, character.examples.length - examplesDropped)).flat();
  if (examples.length && talk[0]?.role === "assistant") examples.push({ role: "user", content: character.newChat });
  return [{ role: "system", content: character.system }, ...examples, ...withInstructions(withInserts(talk, inserts), character)];
}

/** Texts for the player's turns, with their depths (null: before the last one): lore that fires, and the character's note. */
export function insertsOf(character, turns, seed) {
  const said = turns.map(({ role, content }, place) => place === 0 && role === "assistant" ? character.greetingSearched
    : `${role === "user" ? character.player : character.char}: ${fill(content, character)} `);
  const fired = fire(character.lore, said, turns.filter(({ role }) => role === "assistant").length, seed)
    .filter((entry) => !entry.steady);
  const places = [...fired.filter((entry) => !entry.afterChar), ...fired.filter((entry) => entry.afterChar)];
  return [...places.map((entry) => [entry.said, entry.depth]), ...(character.note ? [[character.note.text, character.note.depth]] : [])];
}

function withInserts(talk, inserts) {
  const users = talk.flatMap(({ role }, index) => (role === "user" ? [index] : []));
  if (!users.length) return talk;
  const last = users.at(-1), before = new Map(), after = [];
  for (const [text, depth] of inserts) {
    if (depth === 0) {
      after.push(text);
      continue;
    }
    const place = depth === null ? last : users.find((index) => index >= talk.length - depth) ?? last;
    before.set(place, [...(before.get(place) ?? []), text]);
  }
  return talk.map(({ role, content }, index) => ({ role, content: [...(before.get(index) ?? []), content,
    ...(index === last ? after : [])].join("\n\n") }));
}

function withInstructions(talk, character) {
  const place = talk.findLastIndex(({ role }) => role === "user");
  if (!character.instructions || place < 0) return talk;
  return talk.map((turn, index) => index === place
    ? { role: "user", content: `${turn.content}\n\n${character.instructions}` } : turn);
}

/** A text that somebody said, tidied, with the names in place of {{char}} and {{user}}. */
function fill(text, character) {
  return tidy(tidy(text).replace(/\{\{(char|user)\}\}|<(bot|user)>/gi, (_, one, two) =>
    ((one ?? two).toLowerCase() === "user" ? character.player : character.char)));
}

function tidy(text) {
  return text.replace(/\r\n?/g, "\n").split("\n").map((line) => line.trimEnd()).join("\n").replace(/\n{3,}/g, "\n\n").trim();
}

/** The text of a conversation in the model's chat format. No text of a message can become one of the format's control tokens. */
export function render(character, conversation) {
  const { format } = character;
  const clean = conversation.map(({ role, content }) => ({ role, content: disarm(content, format.controls) }));
  const [first, ...talk] = format.alternates ? alternate(clean, format.begins) : clean;
  let text = format.begin, waiting = first.content;
  if (format.place === "own turn") {
    if (waiting) text += format.systemHead + waiting + format.systemTail;
    waiting = "";
  }
  talk.forEach(({ role, content }, number) => {
    if (role === "user") {
      text += format.userHead;
      if (waiting && (format.place !== "last question" || number === talk.length - 1)) {
        text += format.systemHead + waiting + format.systemTail;
        waiting = "";
      }
      text += content + format.userTail;
    } else {
      if (waiting && format.place === "first turn") {
        text += format.userHead + waiting + format.userTail;
        waiting = "";
      }
      text += format.answerHead + content + format.answerTail;
    }
  });
  return text + format.prompt;
}

/** Neighbours of one role joined, and `begins`, unless it is empty, as a user's turn before a character who speaks first. */
function alternate(conversation, begins) {
  const result = [];
  for (const { role, content } of conversation) {
    if (result.at(-1)?.role === role) {
      result.push({ role, content: `${result.pop().content}\n\n${content}` });
      continue;
    }
    if (begins && role === "assistant" && (!result.length || result.at(-1).role === "system")) result.push({ role: "user", content: begins });
    result.push({ role, content });
  }
  return result;
}

function disarm(text, controls) {
  for (let found = true; found;) {
    found = false;
    for (const token of controls) {
      if (!text.includes(token)) continue;
      const [first, ...rest] = [...token], broken = `${first} ${rest.join("")}`;
      text = text.replaceAll(token, () => (broken.includes(token) ? "" : broken));
      found = true;
    }
  }
  return text;
}
