// The update that starts a room's timer can be lost, as any other (studio/sight.py), and then nothing tells the room so.
// Whoever opened a room and does not hear its timer asks for it again. Runs with `element` and `trigger` of its component.
const TIMED = ["preview", "compare"];
const PATIENCE = 5000;  // ms; a timer asks once a second

let opened = "", since = Date.now();

const check = () => {
  const room = new URLSearchParams(location.search).get("room") ?? "";
  if (room !== opened) { opened = room; since = Date.now(); }
  if (!TIMED.includes(room) || Date.now() - Math.max(since, window.personaStudioLooks?.[room] ?? 0) < PATIENCE) return;
  since = Date.now();
  trigger("click", { room });
};

const clock = setInterval(() => { if (element.isConnected) check(); else clearInterval(clock); }, 1000);
document.addEventListener("visibilitychange", () => { since = Date.now(); });  // a page that nobody sees ticks not at all
