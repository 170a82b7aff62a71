"use strict";
// The wallets of this browser, by EIP-6963: each announces itself, and nothing that one says of itself is believed.
// Their names are shown as text and their icons not at all: a picture is the easiest way to look like another wallet.

const MAX_WALLETS = 12;
const MAX_ACCOUNTS = 50;
const ADDRESS = /^0x[0-9a-fA-F]{40}$/;
const wallets = [];
const watchers = new Set();

// Without controls and marks that turn text around; short enough to be read.
function plain(value, limit) {
  if (typeof value !== "string") return "";
  return value.slice(0, 1000).replace(/[\p{C}\p{Zl}\p{Zp}\u034f\u115f\u1160\u3164\uffa0]/gu, "").trim().slice(0, limit);
}

// What announces itself may throw at every touch, and change from one to the next.
function read(announced) {
  try {
    const { info, provider } = announced();
    const name = plain(info.name, 60);
    const rdns = plain(info.rdns, 60);
    if (!name || typeof provider !== "object" || provider === null || typeof provider.request !== "function") return null;
    return { name, rdns, provider };
  } catch {
    return null;
  }
}

// One that comes again with the same provider is the same; one that only says so is another, and both are shown.
window.addEventListener("eip6963:announceProvider", (event) => {
  const found = read(() => event.detail);
  if (!found || wallets.length >= MAX_WALLETS || wallets.some((known) => known.provider === found.provider)) return;
  wallets.push(found);
  for (const watch of watchers) watch();
});

const look = () => { window.dispatchEvent(new Event("eip6963:requestProvider")); };

// A wallet from before EIP-6963: whichever took the place. Offered by that name, and only where no other is there.
function legacy() {
  const info = { name: "Legacy wallet", rdns: "of an older kind, which does not say its name" };
  const found = wallets.length ? null : read(() => ({ info, provider: window.ethereum }));
  return found ? [found] : [];
}

const shown = () => [...wallets, ...legacy()];

// EIP-1193, and what wallets add to it, in words; anything else that a wallet says is shown as its words.
const REFUSALS = new Map([
  [4001, "You rejected that in your wallet. Nothing was signed."],
  [4100, "Your wallet has not let this page see that account."],
  [4200, "That wallet cannot do this."],
  [4900, "Your wallet is not connected."],
  [4901, "Your wallet is not connected."],
  [-32002, "Your wallet is still asking you something: open it, answer there, and try again."],
]);

function refusal(error) {
  try {
    const words = REFUSALS.get(error.code);
    return words || `Your wallet says: ${plain(error.message, 200) || "no reason"}`;
  } catch {
    return "Your wallet failed.";
  }
}

async function ask(wallet, method, params) {
  try {
    return await wallet.provider.request(params ? { method, params } : { method });
  } catch (error) {
    throw new Error(refusal(error));
  }
}

async function accounts(wallet) {
  const given = await ask(wallet, "eth_requestAccounts");
  const found = Array.isArray(given) ? given.slice(0, MAX_ACCOUNTS).filter((one) => typeof one === "string" && ADDRESS.test(one)) : [];
  if (!found.length) throw new Error("That wallet named no account.");
  return found;
}

// Whoever has this port later shall not find the wallet connected to it. Wallets that do not know how keep it.
async function leave(wallet) {
  await wallet.provider.request({ method: "wallet_revokePermissions", params: [{ eth_accounts: {} }] });
}

const same = (one, other) => one.toLowerCase() === other.toLowerCase();

// The account that must sign; refused early where the wallet has gone to another one meanwhile.
async function checkAccount(wallet, address) {
  const found = await accounts(wallet);
  const mine = found.find((one) => same(one, address));
  if (!mine) throw new Error(`This needs the account ${address}, and your wallet offers ${found[0]}. Choose the right one in your wallet, and try again.`);
  return mine;
}

const hex = (text) => `0x${[...new TextEncoder().encode(text)].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;

async function signed(wallet, task) {
  const { address, message, typed_data: typedData } = task.options;
  const account = await checkAccount(wallet, address);
  const given = task.kind === "message"
    ? await ask(wallet, "personal_sign", [hex(message), account])
    : await ask(wallet, "eth_signTypedData_v4", [account, typedData]);
  if (typeof given !== "string" || given.length > 10000) throw new Error("What your wallet gave back is no signature.");
  return given;
}
