"use strict";
// Has the browser ask for the passkey that the form describes, and sends its answer with that form.

const form = document.querySelector("form");
const button = form.querySelector("button");
const say = (text) => { document.getElementById("message").textContent = text; };

function ask() {
  const options = JSON.parse(form.dataset.options);
  return form.dataset.kind === "create"
    ? navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(options) })
    : navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(options) });
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  button.disabled = true;
  say("Waiting for your passkey …");
  try {
    form.elements.answer.value = JSON.stringify((await ask()).toJSON());
    form.submit();
  } catch (error) {
    say(`That did not work: ${error.message} Nothing was sent; you can try again.`);
    button.disabled = false;
  }
});

if (window.PublicKeyCredential?.parseCreationOptionsFromJSON) {
  button.disabled = false;
  if (!document.getElementById("code")) {
    button.focus();
  }
} else {
  say("This browser is too old for passkeys. Open the page in another one.");
}
