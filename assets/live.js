// The page's end of the live channel (studio/live.py): puts what comes into place, and says what this page looks at.
// Runs with `element` and `trigger` of the hidden component that holds the token. The content ID is HTML or a plotly figure for
// [data-live=ID], true or false to show or hide #ID, or anything else for a script that takes it (personaStudioLive.on).
const {token, plotly} = element.querySelector("[data-token]").dataset;
const contents = new Map();   // id -> the newest content
const takers = new Map();     // id -> function
const looks = {};             // room -> what it looks at besides the character: name -> value
let source = null, address = "", ahead = 0;  // ahead: seconds that the studio's clock is before this one's
let failing = 0;              // since when the studio has not answered

// HTML is put in place node by node, so that focus, open details, scrolled boxes and half-typed fields stay.
const same = (old, fresh) => old.nodeName === fresh.nodeName && old.dataset?.key === fresh.dataset?.key && old.id === fresh.id;
const morph = (old, fresh) => {
  if (old === document.activeElement && old.isContentEditable) return;  // it is being edited
  if (old.nodeType !== Node.ELEMENT_NODE) { if (old.data !== fresh.data) old.data = fresh.data; return; }
  const kept = old.nodeName === "DETAILS" ? "open" : "";  // the reader's
  for (const {name} of [...old.attributes]) if (name !== kept && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const {name, value} of fresh.attributes) {
    if (name === kept || old.getAttribute(name) === value) continue;
    old.setAttribute(name, value);
    if (name === "value" && old !== document.activeElement) old.value = value;
  }
  morphChildren(old, fresh);
  if (old.nodeName === "SELECT" && old !== document.activeElement) old.value = fresh.value;
};
const morphChildren = (old, fresh) => {
  let at = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    let found = at;
    while (found && !same(found, wanted)) found = found.nextSibling;
    if (!found) { old.insertBefore(wanted, at); continue; }
    while (at !== found) { const gone = at; at = at.nextSibling; gone.remove(); }
    at = found.nextSibling;
    morph(found, wanted);
  }
  while (at) { const gone = at; at = at.nextSibling; gone.remove(); }
};
const putHtml = (target, html) => {
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  morphChildren(target, fresh.content);
  tick(target);
};

// Figures are drawn when they come into view; plotly's script is fetched for the first.
let loading = null;
const load = () => loading ??= new Promise((done, failed) => {
  const script = document.createElement("script");
  Object.assign(script, {src: plotly, onload: done, onerror: () => { loading = null; failed(new Error("plotly")); }});
  document.head.append(script);
});
const figures = new Set();  // the elements that hold one
const draw = async (target) => {
  await load();
  if (!target.figure) return;
  const {data, layout, config} = structuredClone(target.figure);
  // Plotly fills its element; one without a height of its own collapses, now or when it is drawn again.
  const height = layout.height ?? layout.template?.layout?.height;
  target.firstElementChild.style.height = height ? `${height}px` : "";
  await Plotly.react(target.firstElementChild, data, {...layout, height, autosize: true}, config);
  target.drawnWidth = target.clientWidth;
};
const tryToDraw = (target) => {  // one after the other; what fails waits for the clock
  target.waits = false;
  target.drawing = (target.drawing ?? Promise.resolve()).then(() => draw(target)).catch(() => { target.waits = true; });
};
const drawWaiting = () => {
  for (const target of figures) {
    if (!target.isConnected) figures.delete(target);
    else if (target.waits && target.inView) tryToDraw(target);
  }
};
const inView = new IntersectionObserver((entries) => {
  for (const {isIntersecting, target} of entries) {
    target.inView = isIntersecting;
    if (isIntersecting && target.waits) tryToDraw(target);
  }
}, {rootMargin: "200px"});
// A figure gets narrower when another one comes beside it, not only with the window.
const widths = new ResizeObserver((entries) => {
  for (const {target} of entries) {
    if (!target.figure || target.waits || !target.clientWidth || target.clientWidth === target.drawnWidth) continue;
    target.waits = true;
    if (target.inView) tryToDraw(target);
  }
});
const putFigure = (target, figure) => {
  if (!target.figure) {
    target.innerHTML = '<div></div><p class="figure-says"></p><details class="figure-caption"><summary>What this shows</summary><p></p></details>';
    inView.observe(target);
    widths.observe(target);
  }
  figures.add(target);
  target.figure = figure;
  target.waits = true;
  target.querySelector(".figure-caption p").textContent = figure.layout.meta?.caption ?? "";
  target.querySelector(".figure-says").textContent = figure.layout.meta?.says ?? "";
  if (target.inView) tryToDraw(target);
};

// An element may not be there yet, and Gradio may make it again: what is not in place is put there at the next look.
const put = (id, content) => {
  if (typeof content === "boolean") {
    document.getElementById(id)?.toggleAttribute("data-shown", content);
    return;
  }
  const target = document.querySelector(`[data-live="${CSS.escape(id)}"]`);
  if (!target || target.done === content) return;
  target.done = content;
  if (content?.layout) putFigure(target, content);
  else { target.figure = null; putHtml(target, content ?? ""); }
};
const putAll = () => { for (const [id, content] of contents) put(id, content); };

// The seconds of what is under way are counted here, so that nothing has to be sent.
const spoken = (seconds) => {
  if (seconds < 60) return `${seconds}\u00a0s`;
  if (seconds < 600) return `${Math.floor(seconds / 60)}\u00a0min${seconds % 60 ? ` ${seconds % 60}\u00a0s` : ""}`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}\u00a0min`;
  const minutes = Math.floor((seconds % 3600) / 60);
  return `${Math.floor(seconds / 3600)}\u00a0h${minutes ? ` ${minutes}\u00a0min` : ""}`;
};
const tick = (where) => {
  for (const time of where.querySelectorAll("time[data-since]")) {
    const text = spoken(Math.max(0, Math.round(Date.now() / 1000 + ahead - time.dataset.since)));
    if (time.textContent !== text) time.textContent = text;
  }
};

const take = ({now, parts}) => {
  ahead = now - Date.now() / 1000;
  for (const [id, content] of Object.entries(parts)) {
    contents.set(id, content);
    takers.get(id)?.(content);
  }
  putAll();
};

// One stream while the page is visible. The browser reconnects by itself and sends the revision that it has. It allows six
// connections for all of its windows, so only the one with the focus keeps its stream; the others ask once a second.
const shownRoom = () => window.personaStudioRoom() || "draft";
const wanted = () => {
  const room = shownRoom(), character = new URLSearchParams(location.search).get("character") ?? "";
  const once = document.hasFocus() ? {} : {once: ""};
  return `studio/live?${new URLSearchParams({token, room, character, ...looks[room], ...once})}`;
};
const connect = () => {
  const next = document.hidden || !element.isConnected ? "" : wanted();
  if (next === address && source?.readyState !== EventSource.CLOSED) return;
  source?.close();
  address = next;
  source = next ? new EventSource(next) : null;
  if (!source) { failing = 0; return; }
  source.onopen = () => { failing = 0; };
  source.onmessage = ({data}) => { failing = 0; take(JSON.parse(data)); };
  source.onerror = async ({target}) => {
    failing ||= Date.now();
    if (target.readyState !== EventSource.CLOSED) return;
    const refused = await fetch(target.url, {method: "HEAD"}).then(({status}) => [401, 403].includes(status), () => false);
    if (refused) location.reload();  // the studio was started again, or the login has ended
  };
};

window.personaStudioLive = {
  // Sets what the page looks at in a room besides the character; a [data-look=NAME] does so with its value.
  look: (values, room = shownRoom()) => { looks[room] = {...looks[room], ...values}; connect(); },
  on: (id, taker) => { takers.set(id, taker); if (contents.has(id)) taker(contents.get(id)); },
  figure: putFigure,
  again: (target) => { target.done = undefined; putAll(); },  // what was typed into it gives way to what the studio says
};
// A [data-clears] names what is no longer looked at then.
const look = ({dataset}, value) => window.personaStudioLive.look({
  ...Object.fromEntries((dataset.clears ?? "").split(" ").filter(Boolean).map((name) => [name, ""])), [dataset.look]: value});
document.addEventListener("click", ({target}) => {
  const button = target.closest?.("button[data-look]");
  if (button) look(button, button.value);
  if (target.closest?.("[role=tab]")) setTimeout(connect, 50);  // when the room is shown
});
// A page that the studio no longer answers says so, until it answers again.
const SILENCE = 4000;
const say = () => {
  const lost = Boolean(failing) && Date.now() - failing > SILENCE, shown = document.getElementById("lost");
  if (lost === Boolean(shown)) return;
  if (!lost) { shown.remove(); return; }
  const notice = Object.assign(document.createElement("div"), {id: "lost", role: "alert", textContent:
    "The studio does not answer, so this page may be out of date and saves nothing. It goes on by itself when the studio runs again."});
  (document.querySelector(".gradio-container") ?? document.body).append(notice);
};
let typed = 0;
document.addEventListener("input", ({target}) => {
  if (!target.matches?.("select[data-look], input[data-look]")) return;
  clearTimeout(typed);
  typed = setTimeout(() => look(target, target.value), target.matches("select") ? 0 : target.type === "range" ? 80 : 300);
});
document.addEventListener("visibilitychange", connect);
for (const event of ["focus", "blur"]) window.addEventListener(event, connect);
window.addEventListener("studio-address", connect);
// What fills the sidebar when a page opens comes through Gradio, and a busy page can lose it: then it is asked for again.
const PATIENCE = 8000;
let since = Date.now();
const clock = setInterval(() => {
  if (!element.isConnected) { clearInterval(clock); source?.close(); return; }
  if (document.hidden || element.querySelector("[data-filled]")) since = Date.now();
  else if (Date.now() - since > PATIENCE) { since = Date.now(); trigger("click"); }
  if (document.hidden) return;
  connect();
  say();
  putAll();
  drawWaiting();
  tick(document);
}, 1000);
connect();
