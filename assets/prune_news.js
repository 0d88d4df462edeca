// The Prune room's news: the progress of what runs is put in place as it comes; the rest is painted by Gradio, at once when a
// state has changed, the figures at the pace that the studio names. What was painted last stands in `element` as data.
const SECOND = 1000;
const CURVES = 6;  // seconds between two drawings of the curves alone: they grow with every step
const AGAIN = 3;  // seconds until a painting that did not come is asked for again
const SLACK = 0.5;  // seconds: news comes once a second, so a little early is nearer than a second late
let stamp = "";  // of the newest painting
let newest = {at: -1e9, state: "", waits: false};  // when that, or one that is waited for, was asked for; for which state

const run = () => document.querySelector("#prune-progress [data-run-shown]")?.dataset.runShown ?? "";
const put = (id, html) => {
  const part = (window.personaStudioParts ?? {})[id];
  if (part && part.value !== html) part.value = html;
};

(window.personaStudioNews ??= {}).prune = {
  asks: () => {
    const room = document.getElementById("prune-room");
    const character = new URLSearchParams(location.search).get("character") ?? "";
    return room && room.offsetParent !== null && character ? `${character}/${run()}` : null;
  },
  takes: (news) => {
    put("prune-making", news.making);
    if (news.run && news.run === run()) put("prune-progress", news.progress);
    const painted = element.querySelector("[data-state]")?.dataset ?? {};
    const now = performance.now() / SECOND;
    if (stamp !== JSON.stringify(painted)) {
      stamp = JSON.stringify(painted);
      newest = {...newest, at: newest.waits ? newest.at : now, waits: false};
    }
    const figures = painted.masks !== news.masks ? news.pace : painted.curves !== news.curves ? Math.max(news.pace, CURVES) : Infinity;
    const isNew = painted.state !== news.state;
    const pause = isNew && newest.state !== news.state ? 0 : newest.waits ? Math.max(AGAIN, news.pace) : isNew ? AGAIN : figures;
    if (now - newest.at < pause - SLACK) return;
    newest = {at: now, state: news.state, waits: true};
    trigger(isNew ? "state" : "figures");
  },
};
