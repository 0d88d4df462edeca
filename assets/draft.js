// Sends what is typed in the draft room when typing pauses, and keeps it in the browser until the studio has it. Runs as the
// script of the status line. It sets no field, so that the cursor stays where it is.

const begin = () => {
  const KEY = "persona-studio-draft:";
  const OWN = KEY + Math.random().toString(36).slice(2);
  const PAUSE = 1000;      // ms without a key until it is saved
  const LONGEST = 5000;    // ms of typing without a pause until it is saved
  const AGAIN = 3000;      // ms until the next try when the studio does not answer
  const ABANDONED = 6000;  // ms after which what another page kept is taken over: a live one renews or sends it sooner

  let pad = null;          // the status line's own things
  let typed = {};          // character -> {print, fields}: not sent yet
  let sending = {};        // the same, under way
  let underWay = null;     // the promise of that
  let known = {};          // character -> {print, stamp}: the newest version that this page knows
  let shown = "";          // the character in the fields
  let outdated = false;    // the fields show less than the newest version
  let recovered = false;   // what is sent comes from a page that could not send it
  const notices = {};      // character -> {print, words}: said instead of "Saved" as long as that version is shown
  let timer = 0;
  let first = 0;
  let remark = "";         // said of the version in which the next change is kept for itself

  const say = (words, kind = "") => {
    if (!pad) return;
    pad.element.dataset.kind = kind;
    if (pad.element.textContent !== words) pad.element.textContent = words;
  };

  const notice = (print, words) => {
    notices[shown] = {print, words};
    say(words, "notice");
  };

  const merged = (...records) => {
    const all = {};
    for (const record of records) {
      for (const [character, {print, fields, note}] of Object.entries(record)) {
        all[character] ??= {print, fields: {}};
        Object.assign(all[character].fields, fields);
        if (note) all[character].note = note;
      }
    }
    return all;
  };

  const keep = (closed = false) => {
    const records = merged(sending, typed);
    try {
      if (Object.keys(records).length) localStorage.setItem(OWN, JSON.stringify({at: Date.now(), closed, records}));
      else localStorage.removeItem(OWN);
    } catch { /* no room or not allowed: then only the studio keeps it */ }
  };

  // What a closed page, or one that broke down, could not send any more.
  const adopt = () => {
    let keys = [];
    try { keys = Object.keys(localStorage).filter((key) => key.startsWith(KEY) && key !== OWN); } catch { return; }
    for (const key of keys) {
      let kept = null;
      try { kept = JSON.parse(localStorage.getItem(key)); } catch { localStorage.removeItem(key); }
      if (!kept?.records) continue;
      const left = kept.closed ? 0 : kept.at + ABANDONED - Date.now();
      if (left > 0) { setTimeout(adopt, left + 50); continue; }
      typed = merged(kept.records, typed);
      recovered = true;
      keep();
      localStorage.removeItem(key);
    }
    if (recovered) flush();
  };

  const note = (field, value) => {
    if (!shown) return;
    typed[shown] ??= {print: known[shown]?.print ?? "", fields: {}};
    typed[shown].fields[field] = value;
    if (remark) typed[shown].note = remark;
    keep();
    say("Writing…");
    const now = Date.now();
    first ||= now;
    clearTimeout(timer);
    timer = setTimeout(flush, Math.max(0, Math.min(PAUSE, first + LONGEST - now)));
  };

  const learn = (character, {print, stamp}) => {
    if (stamp < (known[character]?.stamp ?? 0)) return false;
    known[character] = {print, stamp};
    return true;
  };

  const flush = async () => {
    clearTimeout(timer);
    await underWay;
    if (Object.keys(typed).length) await (underWay ??= send());
  };

  const send = async () => {
    first = 0;
    [sending, typed] = [typed, {}];
    say("Saving…");
    const records = Object.entries(sending).map(([character, {print, fields, note}]) =>
      ({character, print: recovered ? print : known[character]?.print ?? print, fields, note}));
    const answers = await pad.server.save(records).catch(() => null);
    // Gradio answers with nothing, or with other words, when the studio was not reached.
    if (Object.keys(sending).every((character) => answers?.[character]?.version || answers?.[character]?.problem)) {
      take(answers);
    } else {
      typed = merged(sending, typed);
      sending = {};
      say("Not saved yet: the studio does not answer. Trying again.", "problem");
      timer = setTimeout(flush, AGAIN);
    }
    underWay = null;
    keep();
  };

  const take = (answers) => {
    const sent = sending;
    sending = {};
    for (const [character, answer] of Object.entries(answers)) {
      if (answer.problem) {
        if (!answer.gone) typed = merged({[character]: sent[character]}, typed);
        say(`Not saved: ${answer.problem}`, "problem");
        continue;
      }
      learn(character, answer);
      if (recovered) notices[character] = {print: answer.print, words: `What you wrote last was kept · version ${answer.version}`};
      if (character !== shown) continue;
      if (answer.elsewhere) {
        outdated = true;
        notice(answer.print, `Another window changed this character too. Both are kept: version ${answer.elsewhere} from there, ` +
                             `version ${answer.version} from here.`);
      } else if (!typed[character]) {
        say(answer.words);
      }
    }
    outdated ||= recovered;
    recovered = false;
    pad.trigger("submit");
    catchUp();
  };

  const catchUp = () => {
    if (!outdated || typed[shown] || sending[shown]) return;
    outdated = false;
    pad.trigger("apply");
  };

  // A version has come into the fields; the same one may come more than once.
  const arrived = () => {
    const head = pad.props.value;
    if (shown !== head?.character) delete notices[shown];
    shown = head?.character ?? "";
    if (!shown) return say("");
    if (!learn(shown, head) || typed[shown] || sending[shown]) {
      outdated = true;
      if (!underWay) flush();
    } else if (notices[shown]?.print === head.print) {
      say(notices[shown].words, "notice");
    } else {
      say(head.words);
    }
  };

  const look = async () => {
    if (!shown || !pad || typed[shown] || underWay) return;
    const character = shown;
    const head = await pad.server.newest(character).catch(() => null);
    if (!head?.print || character !== shown || typed[shown] || underWay || head.print === known[shown]?.print) return;
    notice(head.print, `Changed in another window · version ${head.version}`);
    pad.trigger("apply");
  };

  const listen = () => {
    const fieldOf = (event) => event.target.closest?.("#room-draft .draft-field");
    document.addEventListener("input", (event) => {
      const field = fieldOf(event);
      if (field) note(field.id.slice("draft-".length), event.target.value);
    });
    document.addEventListener("draft-list", (event) => note(event.detail.field, event.detail.texts));
    document.addEventListener("focusout", (event) => { if (event.target.closest?.("#room-draft")) flush(); });
    document.addEventListener("visibilitychange", () => document.hidden ? flush() : look());
    window.addEventListener("focus", look);
    window.addEventListener("pagehide", () => { keep(true); flush(); });
  };

  const attach = (things) => {
    const again = pad !== null;
    pad = things;
    things.watch("value", arrived);
    if (!again) listen();
    arrived();
    if (!again) adopt();
  };

  // The newest version into the fields, and everything else that follows a save.
  const reload = () => { pad.trigger("apply"); pad.trigger("submit"); };

  // What `change` types becomes a version of its own, with these words; what was typed before is kept in the one before.
  const apart = async (words, change) => {
    await flush();
    remark = words;
    try { change(); } finally { remark = ""; }
    await flush();
  };

  return {attach, flush, reload, apart, character: () => shown};
};

window.personaStudioDraft ??= begin();
window.personaStudioDraft.attach({element, trigger, props, server, watch});
