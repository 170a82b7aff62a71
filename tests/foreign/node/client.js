// A client of the signer that knows nothing of this project but its .proto files.
//
// node client.js PROTO HOST:PORT SERVER_NAME CERTIFICATES < calls.json
//
// CERTIFICATES is a folder with ca.pem, cert.pem and key.pem. Each call is {"method": …, "request": {…}} with bytes as
// base64; each answer is {"response": {…}} or {"code": …, "reason": …}. NODE_PATH says where the two packages are.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [proto, target, serverName, certificates] = process.argv.slice(2);
const pem = (name) => fs.readFileSync(path.join(certificates, name));

// Bytes as base64 text both ways: what JSON can carry.
const definition = loader.loadSync(proto, { keepCase: true, longs: String, enums: String, bytes: String, defaults: true });
const { Signer } = grpc.loadPackageDefinition(definition).agentkeys.signer.v1;
const credentials = grpc.credentials.createSsl(pem("ca.pem"), pem("key.pem"), pem("cert.pem"));
const client = new Signer(target, credentials, { "grpc.ssl_target_name_override": serverName });

const call = ({ method, request }) =>
  new Promise((resolve) => {
    const deadline = Date.now() + 20000;
    client[method](request, { deadline }, (error, response) =>
      resolve(error ? { code: grpc.status[error.code], reason: error.details } : { response }),
    );
  });

(async () => {
  const answers = [];
  for (const asked of JSON.parse(fs.readFileSync(0, "utf8"))) answers.push(await call(asked));
  client.close();
  process.stdout.write(JSON.stringify(answers));
})();
