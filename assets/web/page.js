// A page that speaks: shows the character, loads its model once, and answers. Nothing leaves the browser.
// Every text is put in as text, never as HTML: a card's words are a stranger's.

import { fitPrompt, openingPrompt } from "./prompt.js";

const $ = (id) => document.getElementById(id);
const trial = new URLSearchParams(location.search).has("try"); // the studio shows it once: nothing is kept
const ACTION = /(?<![\w*])\*{1,3}(?=[^\s*])([^*\n]+)(?:(?<=\S)\*{1,3}(?![\w*])|$)/; // the last one may be unfinished
const ANSWERED = /^(.*[.!?…。！？]["'”’»)*_]*)(?=\s|$)/s; // up to the last whole sentence

let character, engine, speaking = null, reading = null;
let state = { seed: 0, turns: [] };
let rate = 0; // tokens a character of the prompt, as last measured

main().catch(fail);

async function main() {
  character = await (await fetch("character.json")).json();
  rate = character.tokensPerCharacter;
  show();
  if (!trial) await settle();
  if (!supports64bit()) throw new Sentence("This browser is too old for the page. Use a current Chrome, Edge or Firefox.");
  const parts = await fetchModel();
  const { Wllama, LoggerWithoutDebug } = await import("./wllama/index.js");
  status("Starting…");
  engine = new Wllama({ default: "./wllama/wllama.wasm" }, // the page keeps the model by itself, so wllama gets nothing to keep it in
    { suppressNativeLog: true, logger: { ...LoggerWithoutDebug, log() {}, warn() {} }, cacheManager: {} });
  engine.setCompat(null); // else it would fetch a build for older browsers from elsewhere
  await engine.loadModel(parts, { n_ctx: character.context, n_batch: 128, n_threads: threads(), n_gpu_layers: 0, n_parallel: 1,
    warmup: false });
  document.body.dataset.loaded = Math.round(performance.now()); // milliseconds since the page was opened
  $("bar").hidden = true;
  reading = readOpening();
  offer();
  $("line").focus();
}

/** Read what every prompt begins with, until something is said: the answers need not read it again. */
async function readOpening() {
  const stopped = new AbortController();
  readOpening.stop = () => stopped.abort();
  status("Reading the character…");
  const show = (_, progress) => progress && status(`Reading the character… ${Math.floor(100 * progress.processed / progress.total)} %`);
  try {
    const { reason } = await complete(openingPrompt(character, fits), { n_predict: 1, temperature: 0 }, show, stopped.signal);
    if (reason !== "stopped") document.body.dataset.read = Math.round(performance.now()); // milliseconds, as for dataset.loaded
    status("");
  } catch (error) {
    fail(error);
  }
}

/** Whether a prompt, and an answer to it, have room; by the tokens that a character of the last prompt took. */
function fits(prompt) {
  const { context, sampling } = character;
  return prompt.length * rate * 1.1 + Math.min(sampling.n_predict, context / 2) + 16 <= context;
}

/** The service worker, which keeps the page; the first time, the page is loaded again, with its headers. */
async function settle() {
  if (!navigator.serviceWorker) return;
  try {
    await navigator.serviceWorker.register("offline.js");
    await navigator.serviceWorker.ready;
  } catch {
    return; // the page speaks without it
  }
  if (crossOriginIsolated || kept("reloaded", sessionStorage)) return;
  keep("reloaded", true, sessionStorage);
  location.reload();
  await new Promise(() => {});
}

/** The model's files as blobs: from the cache, else from the server and into the cache. */
async function fetchModel() {
  const { files } = character.model, total = files.reduce((sum, file) => sum + file.bytes, 0);
  const cache = trial || !window.caches ? null : await caches.open(`${new URL("./", location.href)}#${character.cache}`).catch(() => null);
  let done = 0;
  const parts = [];
  for (const file of files) {
    const kept = await cache?.match(file.name);
    const response = kept ?? await fetch(file.name, { cache: "no-store" }); // one copy in the browser is enough
    if (!response.ok) throw new Sentence(`The server does not give ${file.name} (${response.status}).`);
    const counted = response.body.pipeThrough(new TransformStream({
      transform(piece, controller) {
        done += piece.byteLength;
        $("bar").value = done / total;
        status(`Loading ${(done / 1e6).toFixed(0)} of ${(total / 1e6).toFixed(0)} MB`);
        controller.enqueue(piece);
      } }));
    const blob = await new Response(counted).blob();
    if (blob.size !== file.bytes) {
      if (kept) await cache.delete(file.name);
      throw new Sentence(`${file.name} has ${blob.size} bytes instead of ${file.bytes}. Reload the page.`);
    }
    if (!kept) await cache?.put(file.name, new Response(blob)).catch(() => {}); // full: it is fetched again the next time
    parts.push(blob);
  }
  return parts;
}

function threads() {
  const cores = navigator.hardwareConcurrency || 1; // threads wait in loops: more of them than free cores are ten times slower
  return Math.max(1, Math.min(8, Math.floor(cores / 2)));
}

function supports64bit() {
  try {
    return Boolean(new WebAssembly.Memory({ address: "i64", initial: 1n, maximum: 1n }));
  } catch {
    return false;
  }
}

/** What the model says after a prompt. `said(text, progress)` gets the text so far, and how far the prompt is read; resolves to
    {text, reason}. */
async function complete(prompt, sampling, said, signal) {
  let text = "", reason = "";
  try {
    await engine.createCompletion({ prompt, ...sampling, stream: true, return_progress: true, abortSignal: signal, onData: (chunk) => {
      text += chunk.choices?.[0]?.text ?? "";
      reason = chunk.choices?.[0]?.finish_reason ?? reason;
      if (chunk.usage) rate = chunk.usage.prompt_tokens / prompt.length;
      said(text, chunk.prompt_progress);
    } });
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    reason = "stopped";
  }
  return { text, reason };
}

/** The character's answer to the turns so far. */
async function answer() {
  const bubble = add("assistant", "");
  bubble.classList.add("waiting");
  $("log").setAttribute("aria-busy", "true");
  speaking = new AbortController();
  offer();
  try {
    readOpening.stop?.();
    await reading;
    const prompt = fitPrompt(character, state.turns, state.seed, fits);
    const sampling = { seed: Math.floor(Math.random() * 2 ** 32), ...character.sampling };
    const { text, reason } = await complete(prompt, sampling, (text) => {
      write(bubble, text.trim());
      scroll();
    }, speaking.signal);
    const whole = reason === "length" ? (text.match(ANSWERED)?.[1] ?? text) : text;
    write(bubble, whole.trim());
    if (whole.trim()) state.turns.push({ role: "assistant", content: whole.trim() });
    else bubble.remove();
    status("");
  } catch (error) {
    bubble.remove();
    fail(error);
  }
  bubble.classList.remove("waiting");
  $("log").setAttribute("aria-busy", "false");
  speaking = null;
  keep("chat", state);
  offer();
  $("line").focus();
}

/** The character's name and picture, and the conversation. */
function show() {
  document.title = character.title;
  $("name").textContent = character.title;
  if (character.portrait) {
    const picture = document.createElement("img");
    picture.src = character.portrait;
    picture.alt = "";
    $("portrait").replaceChildren(picture);
  } else {
    $("portrait").textContent = [...character.char][0]?.toUpperCase() ?? "";
  }
  const found = kept("chat");
  const whole = Number.isInteger(found?.seed) && Array.isArray(found.turns) && found.turns.every((turn) =>
    ["user", "assistant"].includes(turn?.role) && typeof turn.content === "string");
  if (whole) state = found;
  else begin();
  draw();
}

function begin() {
  state = { seed: Math.floor(Math.random() * 2 ** 32), turns: [...character.greeting] };
}

function draw() {
  $("log").replaceChildren();
  for (const { role, content } of state.turns) add(role, content);
}

function add(role, text) {
  const bubble = document.createElement("p");
  bubble.className = role;
  write(bubble, text);
  $("log").append(bubble);
  scroll();
  return bubble;
}

/** Put a turn's text into its bubble; what is *between asterisks* is in italics, without them. */
function write(bubble, text) {
  bubble.replaceChildren(...text.split(ACTION).map((part, index) => {
    if (index % 2 === 0) return part;
    const action = document.createElement("em");
    action.textContent = part;
    return action;
  }));
}

function scroll() {
  $("log").scrollTop = $("log").scrollHeight;
}

/** Which buttons there are now. */
function offer() {
  const last = state.turns.at(-1), begun = state.turns.some(({ role }) => role === "user");
  $("line").disabled = !engine;
  $("send").disabled = !engine;
  $("send").hidden = Boolean(speaking);
  $("stop").hidden = !speaking;
  $("again").hidden = Boolean(speaking) || !begun;
  $("again").textContent = last?.role === "user" ? "Answer" : "Say it another way";
  $("fresh").hidden = Boolean(speaking) || !begun;
}

function status(text) {
  $("status").textContent = text;
}

class Sentence extends Error {}

function fail(error) {
  console.error(error);
  status(error instanceof Sentence ? error.message : `It did not work: ${error.message ?? error}. Reload the page to try again.`);
}

/** What the browser keeps for this address and character; null where there is nothing, or it may not keep anything. */
function kept(name, where = localStorage) {
  try {
    return JSON.parse(where.getItem(`${location.pathname}#${character.cache}#${name}`));
  } catch {
    return null;
  }
}

function keep(name, value, where = localStorage) {
  try {
    where.setItem(`${location.pathname}#${character.cache}#${name}`, JSON.stringify(value));
  } catch { /* a private window, or it is full: the page speaks all the same */ }
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const line = $("line").value.trim();
  if (!line || speaking || !engine) return;
  $("line").value = "";
  state.turns.push({ role: "user", content: line });
  add("user", line);
  keep("chat", state);
  answer();
});
$("line").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("form").requestSubmit();
});
$("stop").addEventListener("click", () => speaking?.abort());
addEventListener("keydown", (event) => { if (event.key === "Escape") speaking?.abort(); });
$("again").addEventListener("click", () => {
  if (state.turns.at(-1).role === "assistant") state.turns.pop();
  draw();
  answer();
});
$("fresh").addEventListener("click", () => {
  begin();
  draw();
  keep("chat", state);
  offer();
  $("line").focus();
});
