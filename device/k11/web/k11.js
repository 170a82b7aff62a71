"use strict";
// WebAuthn on this origin: what K11's page and the console ask of an authenticator.

const decode = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (char) => char.charCodeAt(0));
const encode = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

async function create(options) {
  const publicKey = { ...options, challenge: decode(options.challenge), user: { ...options.user, id: decode(options.user.id) } };
  const made = await navigator.credentials.create({ publicKey });
  return {
    attestation_object: encode(made.response.attestationObject),
    client_data_json: encode(made.response.clientDataJSON),
    credential_id: encode(made.rawId),
  };
}

async function get(options) {
  const allowCredentials = options.allowCredentials.map((entry) => ({ ...entry, id: decode(entry.id) }));
  const publicKey = { ...options, challenge: decode(options.challenge), allowCredentials };
  const given = await navigator.credentials.get({ publicKey });
  return {
    authenticator_data: encode(given.response.authenticatorData),
    client_data_json: encode(given.response.clientDataJSON),
    credential_id: encode(given.rawId),
    signature: encode(given.response.signature),
  };
}
