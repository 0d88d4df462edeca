// The page's service worker: keeps the page for when there is no network, and adds the two headers with which a browser lets it use
// several threads. The page puts the model's files into the same cache.

const CACHE = $cache;
const FILES = $files;
const APART = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };
const mine = `${self.registration.scope}#`; // several characters may share an address

self.addEventListener("install", (event) => event.waitUntil((async () => {
  const cache = await caches.open(mine + CACHE);
  await cache.addAll(FILES.map((name) => new Request(name, { cache: "reload" })));
  await self.skipWaiting();
})()));

self.addEventListener("activate", (event) => event.waitUntil((async () => {
  const names = (await caches.keys()).filter((name) => name.startsWith(mine) && name !== mine + CACHE);
  await Promise.all(names.map((name) => caches.delete(name)));
  await self.clients.claim();
})()));

self.addEventListener("fetch", (event) => {
  const { scope } = self.registration, { method, url } = event.request;
  if (method === "GET" && url.startsWith(scope)) event.respondWith(answer(event.request, url.slice(scope.length).split(/[?#]/)[0]));
});

async function answer(request, path) {
  const name = path || "index.html", cache = await caches.open(mine + CACHE);
  let response = await cache.match(name);
  if (!response) {
    response = await fetch(request);
    if (response.ok && FILES.includes(name)) await cache.put(name, response.clone()); // it was removed from the cache
  }
  if (response.status === 0) return response; // a redirection, which the browser follows
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(APART)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
