"use strict";
// One sitting: fetches question after question with the token of the address, shows each, and sends its answer back.

const byId = (id) => document.getElementById(id);
const token = location.hash.slice(1);
// Out of the address bar and the history: the token is for this page alone.
history.replaceState(null, "", location.pathname);

const SIGNS = ["typed_data", "message"];
let wallet = null; // the chosen one
let attempt = 0; // of asking a wallet or a security key: what comes back to an earlier one is dropped

const say = (text) => { byId("message").textContent = text; };
const headers = () => ({ "AgentKeys-Token": token, "Content-Type": "application/json" });

function made(tag, text, members = {}) {
  const node = Object.assign(document.createElement(tag), members);
  if (text) node.textContent = text;
  return node;
}

function button(text, work, quiet = false) {
  const node = made("button", text, { type: "button", className: quiet ? "quiet" : "" });
  node.addEventListener("click", () => { Promise.resolve(work()).catch((error) => say(error.message)); });
  return node;
}

function show(title, ...nodes) {
  byId("title").textContent = title;
  document.title = `AgentKeys: ${title}`;
  byId("body").replaceChildren(...nodes);
  say("");
  (byId("body").querySelector("[data-first]") || byId("title")).focus();
}

const first = (node) => { node.dataset.first = ""; return node; };
const buttons = (...nodes) => { const row = made("p", "", { className: "buttons" }); row.append(...nodes); return row; };

function described(task) {
  const list = made("dl");
  for (const [name, value] of task.lines) list.append(made("dt", name), made("dd", value));
  const nodes = task.lines.length ? [list] : [];
  if (task.kind === "message") nodes.push(made("h2", "Your wallet signs this text"), made("pre", task.options.message));
  if (task.digest) {
    const line = made("p", "digest ");
    line.append(made("code", task.digest));
    nodes.push(line, made("p", "Compare this with what your terminal shows. If you did not just start it there, decline."));
  }
  return nodes;
}

async function send(task, answer) {
  const response = await fetch(`answer/${task.number}`, { method: "POST", headers: headers(), body: JSON.stringify(answer) });
  if (response.ok) return;
  const problem = await response.json().catch(() => ({}));
  throw new Error(problem.error || (response.status === 409 ? "That question is over." : `refused (${response.status})`));
}

async function finish(task, answer) {
  await send(task, answer);
  attempt += 1;
  show("One moment …", made("p", "The program on this machine goes on; look there if it asks you something."));
  listen(task.number).catch(failed);
}

const decline = (task) => button("Decline", () => finish(task, { declined: true }), true);

// Others may never answer, so only this button waits: everything else can still be pressed.
function asking(text, words, work) {
  const node = button(text, async () => {
    const mine = ++attempt;
    node.disabled = true;
    say(words);
    try {
      const next = await work();
      if (mine === attempt) await next();
    } catch (error) {
      if (mine === attempt) say(`That did not work: ${error.message} You can try again.`);
    } finally {
      node.disabled = false;
    }
  });
  return node;
}

// --- a wallet ---------------------------------------------------------------------------------------------------------

function chooseWallet(task, then) {
  const list = made("ul", "", { className: "wallets" });
  const none = made("p");
  none.append("No wallet has announced itself in this browser. Unlock it, or open the address that your terminal shows in the browser that has it. ",
    "In Firefox a wallet extension must be recent: this page runs no foreign script, and older ones are kept out by that.");
  const draw = () => {
    const found = shown();
    list.replaceChildren(...found.map((one) => {
      const item = made("li");
      const row = asking(one.name, `Waiting for ${one.name}: look for its window …`, async () => {
        const offered = await accounts(one);
        return () => { wallet = one; then(offered); };
      });
      row.append(made("small", one.rdns));
      item.append(row);
      return item;
    }));
    none.hidden = found.length > 0;
  };
  watchers.clear();
  watchers.add(draw);
  const words = SIGNS.includes(task.kind) ? `It needs the account ${task.options.address}.` : "Its account becomes the root of your tree: it signs once, now, and cannot be exchanged later.";
  const again = button("Look again", () => { look(); draw(); }, true);
  show(task.title, ...(SIGNS.includes(task.kind) ? described(task) : []), made("p", words), list, none, buttons(again, decline(task)));
  look();
  draw();
}

function chooseAccount(task, offered) {
  const group = made("fieldset");
  group.append(made("legend", `Accounts that ${wallet.name} offers`));
  offered.forEach((address, index) => {
    const label = made("label");
    const input = made("input", "", { type: "radio", name: "account", value: address, checked: index === 0 });
    label.append(index === 0 ? first(input) : input, made("code", address));
    group.append(label);
  });
  const use = asking("Use this account", "One moment …", async () => {
    const address = group.querySelector("input:checked").value;
    return () => finish(task, { address });
  });
  show(task.title, group, buttons(use, button("Another wallet", () => account(task), true), decline(task)));
}

const account = (task) => chooseWallet(task, (offered) => chooseAccount(task, offered));

function sign(task) {
  if (!wallet) {
    chooseWallet(task, () => sign(task));
    return;
  }
  const go = asking(`Sign with ${wallet.name}`, `Waiting for ${wallet.name}: look for its window …`, async () => {
    const signature = await signed(wallet, task);
    return () => finish(task, { signature });
  });
  const other = task.options.may_change
    ? button("Another account", () => { wallet = null; return finish(task, { other_account: true }); }, true)
    : button("Another wallet", () => { wallet = null; sign(task); }, true);
  show(task.title, ...described(task), buttons(first(go), other, decline(task)));
}

// --- K11, and everything --------------------------------------------------------------------------------------------

function touch(task) {
  const [text, work] = task.kind === "create" ? ["Make the key", create] : ["Approve", get];
  const go = asking(text, "Waiting for your security key …", async () => {
    const answer = await work(task.options);
    return () => finish(task, answer);
  });
  show(task.title, ...described(task), buttons(first(go), decline(task)));
}

function confirm(task) {
  const { words, yes, no } = task.options;
  const go = button(yes, () => finish(task, { confirmed: true }));
  const other = no ? button(no, () => finish(task, { confirmed: false }), true) : decline(task);
  show(task.title, ...(words ? [made("p", words)] : []), ...described(task), buttons(first(go), other));
}

const KINDS = { account, typed_data: sign, message: sign, create: touch, get: touch, confirm };

async function listen(after) {
  for (;;) {
    const response = await fetch(`question/${after}`, { headers: headers() });
    if (!response.ok) throw new Error("This page is no longer valid. Open the address that your terminal shows now.");
    const task = await response.json();
    watchers.clear();
    if (task.kind === "end") {
      show(task.title, ...task.lines.map((line) => made("p", line)));
      if (wallet) await Promise.race([leave(wallet).catch(() => {}), new Promise((resolve) => { setTimeout(resolve, 1000); })]);
      if (task.close) window.close(); // which a browser allows for a window that something else opened
      return;
    }
    if (task.kind !== "wait") {
      KINDS[task.kind](task);
      return;
    }
  }
}

function failed(error) {
  show("This did not work", made("p", error.message));
}

async function start() {
  if (!token) {
    show("Open the address that your terminal shows");
    return;
  }
  await listen(0);
}

start().catch(failed);
