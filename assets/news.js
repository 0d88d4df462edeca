// Asks once a second, while the page is seen, for what moves by itself: the sidebar's jobs, and the run that a room follows.
// Whoever wants news enters window.personaStudioNews[name]: asks() gives its question, null for none; takes(news) gets the
// answer, also when it is the one before, for some of it waits for its time. Runs with `element` and `trigger` of the
// component that holds the token. The token comes with what fills the page when it opens; an update can be lost
// (studio/sight.py), so a page that has none after a while asks for all of that again.
const SECOND = 1000, PATIENCE = 8 * SECOND;
let asked = "", tag = "", last = null, waiting = false, since = Date.now();

const readers = () => Object.entries(window.personaStudioNews ?? {});
const question = () => readers().map(([name, reader]) => [name, reader.asks()]).filter(([, what]) => what !== null)
  .map(([name, what]) => `${name}=${encodeURIComponent(what)}`).join("&");

const hand_out = () => {
  for (const [name, reader] of readers()) if (last && name in last) reader.takes(last[name]);
};

const ask = async () => {
  const token = element.querySelector("[data-token]")?.dataset.token;
  const wanted = question();
  if (document.hidden || token) since = Date.now();
  else if (Date.now() - since > PATIENCE) { since = Date.now(); trigger("click"); }
  if (document.hidden || waiting || !token || !wanted) return;
  if (wanted !== asked) { asked = wanted; tag = ""; last = null; }
  waiting = true;
  try {
    const answer = await fetch(`studio/news?${wanted}`, {
      cache: "no-store", headers: {"X-Studio-Token": token, ...(tag ? {"If-None-Match": tag} : {})},
      signal: AbortSignal.timeout(20 * SECOND),
    });
    if (answer.status === 403) trigger("token");  // the studio was started anew
    if (answer.status === 200) { last = await answer.json(); tag = answer.headers.get("ETag") ?? ""; }
    if (answer.ok || answer.status === 304) { if (question() === wanted) hand_out(); else asked = ""; }
  } catch { /* the studio is away; Gradio says so */ } finally { waiting = false; }
};

const clock = setInterval(() => { if (element.isConnected) ask(); else clearInterval(clock); }, SECOND);
document.addEventListener("visibilitychange", ask);
