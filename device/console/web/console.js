"use strict";
// Loads the pages of this process with the token of the address, and sends its forms.

const PAGES = ["devices", "agents", "masters", "pair", "audit", "sessions", "job", "changes", "destroy"];
const MAX_FILE_BYTES = 48 * 1024; // what is sent has at most 64 KiB, quotes escaped
const BASE = location.pathname.replace(/\/$/, ""); // of this process: whatever lies elsewhere is not ours
const main = document.getElementById("main");
const message = document.getElementById("message");
const given = location.hash.slice(1);
if (given && !PAGES.includes(given.split("?")[0])) {
  // Out of the address bar and the history; kept for this tab and this port alone, which no cookie would be.
  sessionStorage.setItem("token", given);
  history.replaceState(null, "", location.pathname);
}
const token = sessionStorage.getItem("token") || "";
let again = 0;

const say = (text) => { message.textContent = text; };
const headers = () => ({ "AgentKeys-Token": token });

function show(nodes) {
  main.replaceChildren(...nodes);
  const heading = main.querySelector("h1");
  document.title = `AgentKeys: ${heading.textContent}`;
  const target = main.querySelector("[autofocus]") || heading;
  if (target === heading) heading.tabIndex = -1;
  target.focus();
  document.dispatchEvent(new Event("shown"));
}

function tell(words) {
  const heading = document.createElement("h1");
  heading.textContent = words;
  show([heading]);
}

async function load() {
  clearTimeout(again);
  const asked = location.hash.slice(1) || "devices";
  const name = asked.split("?")[0];
  if (!PAGES.includes(name)) return;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const response = await fetch(`${BASE}/page/${asked}`, { headers: headers() });
  if (response.status === 403) {
    tell("Open the address that your terminal shows");
    return;
  }
  if (asked !== (location.hash.slice(1) || "devices")) return; // another page was chosen meanwhile
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  say("");
  const waited = main.querySelector("[data-again]");
  const waits = page.querySelector("[data-again]");
  if (!(waited && waits && waited.textContent === waits.textContent)) show([...page.body.children]);
  if (waits) again = setTimeout(load, 1000);
}

async function go(page) {
  if (location.hash === `#${page}`) await load();
  else location.hash = page;
}

async function send(path, body) {
  const response = await fetch(BASE + path, {
    method: "POST",
    headers: { ...headers(), "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  const told = await response.json().catch(() => ({}));
  if (response.status === 409) await load(); // something else than this page shows is asked by now
  if (!response.ok) throw new Error(told.error || `refused (${response.status})`);
  await go(told.go);
}

function fields(form, button) {
  const data = new FormData(form, button);
  return Object.fromEntries([...new Set(data.keys())].map((name) => [name, data.getAll(name)]));
}

async function working(element, words, work) {
  const buttons = [...main.querySelectorAll("button")];
  for (const button of buttons) button.disabled = true;
  say(words);
  try {
    await work();
  } catch (error) {
    say(`That did not work: ${error.message}`);
  } finally {
    for (const button of buttons) button.disabled = false;
    if (element.isConnected && message.textContent) element.focus();
  }
}

async function download(link) {
  const response = await fetch(BASE + link.dataset.download, { headers: headers() });
  if (!response.ok) throw new Error(`refused (${response.status})`);
  const made = document.createElement("a");
  made.href = URL.createObjectURL(await response.blob());
  made.download = link.dataset.name;
  made.click();
  URL.revokeObjectURL(made.href);
  say(`${link.dataset.name} was saved.`);
}

document.addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.target;
  if (form.dataset.get) {
    go(`${form.dataset.get}?${new URLSearchParams(new FormData(form))}`);
    return;
  }
  const button = event.submitter || form.querySelector("button");
  const given = fields(form, button);
  working(button, "One moment …", () => send(form.dataset.post, given));
});

document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-download], [data-skip]");
  if (!target) return;
  event.preventDefault();
  if ("skip" in target.dataset) {
    main.focus();
  } else {
    working(target, "One moment …", () => download(target));
  }
});

document.addEventListener("change", async (event) => {
  const input = event.target.closest("[data-into]");
  const file = input && input.files[0];
  if (!file) return;
  const into = input.form.elements[input.dataset.into];
  into.value = file.size > MAX_FILE_BYTES ? "" : await file.text();
  say(file.size > MAX_FILE_BYTES ? `${file.name} is too large to be one of agentkeys.` : `${file.name} is read.`);
});

const failed = (error) => { tell("This process does not answer"); say(error.message); };
window.addEventListener("hashchange", () => { load().catch(failed); });
load().catch(failed);
