// Tells the live channel what this page looks at in a room, and asks for the room's lists and fields when it shows older ones.
// Runs with `element`, `watch` and `trigger` of the hidden component that holds both (studio/tabs/answers.py, ViewLink).
const LATE = 600, LOST = 4000;  // ms: a change that is on its way already; an update that never came
let newest = "", since = 0;

const said = () => element.querySelector("[data-room]").dataset;
const send = () => window.personaStudioLive?.look(JSON.parse(said().look), said().room);
const check = () => {
  const {room, painted} = said();
  if (document.hidden || window.personaStudioRoom() !== room || (painted ? !newest || newest === painted : false)) since = Date.now();
  else if (Date.now() - since > (painted ? LATE : LOST)) { since = Date.now() + LOST; trigger("click"); }
};

window.personaStudioLive?.on(`${said().room}-controls`, (content) => { newest = content; });
// Nor is anything painted over what is being typed: that is on its way to the studio first.
document.addEventListener("input", ({target}) => {
  if (element.isConnected && target.closest?.(`#room-${said().room}`)) since = Date.now();
}, true);
watch("value", send);
send();
const clock = setInterval(() => { if (element.isConnected) check(); else clearInterval(clock); }, 200);
