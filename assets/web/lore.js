// Which lorebook entries fire in a conversation: engine/cards/lorebook.py and keys.py in JavaScript. tests/test_web_prompt.py
// compares them. Regular expressions are not here: one of them could hold up the page for ever.

const LEVELS = 8; // of recursion
const MOST_SEARCHED = 100_000; // characters of a conversation
const MISFITS = 50; // entries without room that are looked at
const SCRIPTS = ["Latin", "Greek", "Cyrillic", "Armenian", "Hebrew", "Arabic", "Devanagari", "Bengali", "Tamil", "Telugu", "Georgian",
  "Ethiopic"].map((name) => [name, new RegExp(`\\p{Script=${name}}`, "u")]);
const FREE = new RegExp(`[${["Han", "Hiragana", "Katakana", "Bopomofo", "Hangul", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan"]
  .map((name) => `\\p{Script=${name}}`).join("")}]`, "u"); // scripts without spaces between words

/** The entries that fire, in the prompt's order. `said`: the texts to search, the oldest first; `answers`: the character's. */
export function fire(book, said, answers, seed) {
  const waiting = book.entries.filter((entry) => answers >= entry.after && answers % entry.every === 0
    && (entry.probability >= 100 || chance(seed, entry.number, said.length) < entry.probability));
  const search = new Search(book, waiting, said);
  const found = new Set();
  let spent = 0;
  for (let level = 0; level < (book.recursive ? LEVELS : 1); level++) {
    const fresh = waiting.filter((entry) => !found.has(entry) && search.fires(entry, level));
    for (const entry of fresh) found.add(entry);
    for (const entry of fresh) {
      if (spent > book.budget) break;
      spent += entry.tokens;
    }
    const texts = fresh.filter((entry) => entry.intoRecursion && entry.text).map((entry) => entry.text);
    if (spent > book.budget || !texts.length) break;
    search.texts.push(...texts);
  }
  return withinBudget([...found], book.budget);
}

/** Those with room: what is always there and what is important comes first. */
function withinBudget(found, budget) {
  const rank = (entry) => [Number(!entry.steady), Number(entry.expendable), -entry.importance, entry.number];
  const kept = [];
  let spent = 0, misfits = 0;
  for (const entry of found.sort((one, two) => compare(rank(one), rank(two)))) {
    if (!entry.text) continue;
    if (spent + entry.tokens > budget) {
      if (++misfits === MISFITS) break;
    } else {
      spent += entry.tokens;
      kept.push(entry);
    }
  }
  return kept.sort((one, two) => compare([one.order, one.number], [two.order, two.number]));
}

function compare(one, two) {
  const place = one.findIndex((value, index) => value !== two[index]);
  return place < 0 ? 0 : one[place] - two[place];
}

/** From 0 up to 100, the same for the same numbers. */
function chance(...numbers) {
  let mixed = 0x811c9dc5;
  for (const number of numbers) {
    mixed = Math.imul(mixed ^ number, 0x01000193);
    mixed ^= mixed >>> 15;
  }
  return ((mixed >>> 0) % 10_000) / 100;
}

class Search {
  constructor(book, entries, said) {
    this.book = book;
    this.messages = said.length;
    const deepest = entries.some((entry) => entry.once) ? said.length
      : Math.min(Math.max(0, ...entries.map((entry) => this.depth(entry))), said.length);
    this.texts = recent([...said].reverse().slice(0, deepest));
    this.messages = this.texts.length;
  }

  depth(entry) {
    return entry.stays ? this.messages : Math.max(0, entry.scanDepth ?? this.book.scanDepth);
  }

  fires(entry, level) {
    if ((level && !entry.fromRecursion) || (!level && entry.onlyRecursion)) return false;
    const places = [...this.texts.slice(0, Math.min(this.depth(entry), this.messages)), ...(level ? this.texts.slice(this.messages) : [])];
    if (this.any(entry.excluded, places)) return false;
    if (entry.always) return true;
    if (!this.any(entry.keys, places)) return false;
    if (entry.once && this.any(entry.keys, this.texts.slice(1, this.messages))) return false;
    if (!entry.secondary.length) return true;
    const hits = entry.secondary.filter((key) => this.any([key], places)).length;
    const whole = hits === entry.secondary.length;
    return { any: hits > 0, all: whole, none: !hits, "not all": !whole }[entry.logic];
  }

  any(keys, texts) {
    return keys.some((key) => texts.some((text) => holds(text, key)));
  }
}

function recent(texts) {
  let left = MOST_SEARCHED;
  return texts.map((text) => {
    const part = left ? text.slice(-left) : "";
    left -= part.length;
    return part;
  });
}

/** Whether a text holds a key: {text, word, exact}; `word`: not within a longer word, `exact`: upper and lower case differ. */
export function holds(text, key) {
  const shown = key.exact ? text : text.toLowerCase().replaceAll("ß", "ss").replaceAll("ς", "σ");
  if (!key.word) return shown.includes(key.text);
  const letters = [...key.text];
  const [first, last] = [script(letters[0]), script(letters.at(-1))];
  for (let at = shown.indexOf(key.text); at >= 0; at = shown.indexOf(key.text, at + 1)) {
    const before = [...shown.slice(Math.max(0, at - 2), at)].at(-1) ?? "";
    const after = [...shown.slice(at + key.text.length, at + key.text.length + 2)][0] ?? "";
    if (!joins(script(before), first) && !joins(script(after), last)) return true;
  }
  return false;
}

function joins(beside, own) {
  if (!beside || beside === "free" || own === "free") return false;
  return !own || beside === own || beside === "any" || own === "any";
}

/** The script of a letter; "any": goes with every script, "free": without spaces between words, "": is in no word. */
function script(sign) {
  if (!sign || /[\u{fe00}-\u{fe0f}\u{e0100}-\u{e01ef}]/u.test(sign)) return ""; // variation selectors follow pictographs
  if (/[_\p{N}]/u.test(sign)) return "any";
  if (!/[\p{L}\p{Mn}\p{Mc}]/u.test(sign)) return "";
  if (FREE.test(sign)) return "free";
  if (/[\p{Lm}\p{Script=Inherited}]/u.test(sign)) return "any";
  return SCRIPTS.find(([, pattern]) => pattern.test(sign))?.[0] ?? "other";
}
