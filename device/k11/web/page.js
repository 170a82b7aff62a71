"use strict";
// One ceremony: fetch the task with the token of the address, show it, ask the authenticator, send its answer back.

const byId = (id) => document.getElementById(id);
const token = location.hash.slice(1);
// Out of the address bar and the history: the token is for this page alone.
history.replaceState(null, "", location.pathname);

const say = (text) => { byId("message").textContent = text; };
const busy = (on) => { byId("approve").disabled = on; byId("decline").disabled = on; };

function show(task) {
  byId("title").textContent = task.title;
  for (const [name, value] of task.lines) {
    const term = document.createElement("dt");
    const description = document.createElement("dd");
    term.textContent = name;
    description.textContent = value;
    byId("lines").append(term, description);
  }
  byId("digest").textContent = task.digest;
  if (task.kind === "create") byId("approve").textContent = "Make the key";
  byId("advice").textContent = task.digest
    ? "Compare this with what your terminal shows. If you did not just start it there, decline."
    : "If you did not just start this in your terminal, decline.";
  for (const id of ["advice", "buttons"]) byId(id).hidden = false;
  byId("digest-line").hidden = !task.digest;
  byId("approve").focus();
}

async function send(answer) {
  const response = await fetch("answer", {
    method: "POST",
    headers: { "AgentKeys-Token": token, "Content-Type": "application/json" },
    body: JSON.stringify(answer),
  });
  if (response.ok) return;
  const problem = await response.json().catch(() => ({}));
  throw new Error(problem.error || `refused (${response.status})`);
}

async function finish(answer, words) {
  await send(answer);
  byId("buttons").hidden = true;
  say(words);
}

async function start() {
  if (!token) {
    byId("title").textContent = "Open the address that your terminal shows";
    return;
  }
  const response = await fetch("task", { headers: { "AgentKeys-Token": token } });
  if (!response.ok) throw new Error("This page is no longer valid. Open the address that your terminal shows now.");
  const task = await response.json();
  show(task);
  byId("approve").addEventListener("click", async () => {
    busy(true);
    say("Waiting for your security key …");
    try {
      const answer = task.kind === "create" ? await create(task.options) : await get(task.options);
      await finish(answer, "Done. You can close this page and go back to where you started.");
      window.close(); // which a browser allows for a window that something else opened
    } catch (error) {
      say(`That did not work: ${error.message} You can try again.`);
      busy(false);
    }
  });
  byId("decline").addEventListener("click", async () => {
    busy(true);
    await finish({ declined: true }, "Declined. Nothing was approved.").catch((error) => say(error.message));
  });
}

start().catch((error) => {
  byId("title").textContent = "This did not work";
  say(error.message);
});
