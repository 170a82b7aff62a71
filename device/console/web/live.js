"use strict";
// Asks this process whether what the open page shows has changed. It says so, and leaves to the reader when to look:
// nothing that is read or typed is replaced.

const live = document.getElementById("live");
let asking = new AbortController();
let listening = false;
let told = { tick: "", version: "", words: "" };

function outdated() {
  const shown = document.querySelector("[data-live]");
  if (!shown || !told.version) return false;
  const [tick, version] = shown.dataset.live.split(".");
  return Number(told.tick) >= Number(tick) && told.version !== version; // what was told before it was made is old news
}

function note() {
  const changed = outdated();
  const words = changed ? "Something changed since this page was loaded." : told.words;
  if (live.dataset.words === `${changed}${words}`) return; // a region that is written again is read out again
  live.dataset.words = `${changed}${words}`;
  const text = document.createElement("span");
  text.textContent = words;
  live.replaceChildren(...(words ? [text] : []));
  if (!changed) return;
  const again = document.createElement("button");
  again.type = "button";
  again.className = "quiet";
  again.textContent = "Show it";
  again.addEventListener("click", () => { load().catch(failed); });
  live.append(again);
}

async function ask() {
  asking = new AbortController();
  const response = await fetch(`${BASE}/live?tick=${told.tick}`, { headers: headers(), signal: asking.signal });
  if (response.status === 403) return false; // no token, or another process by now: its address is on the terminal
  if (!response.ok) throw new Error(`refused (${response.status})`);
  told = await response.json();
  note();
  return true;
}

async function listen() {
  if (listening) return;
  listening = true;
  for (let going = true; going && !document.hidden;) {
    try {
      going = await ask();
    } catch (error) {
      if (error.name === "AbortError") continue;
      told = { ...told, tick: "", words: "This console does not answer; it may have been ended on the terminal." };
      note();
      await new Promise((resolve) => { setTimeout(resolve, 3000); });
    }
  }
  listening = false;
}

// A hidden page asks nothing: browsers open only so many connections to one place, and all tabs share them.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) asking.abort();
  else listen();
});
document.addEventListener("shown", note);
listen();
