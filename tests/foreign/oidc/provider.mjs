// A certified OpenID provider that nobody here wrote, for the tests: configuration on stdin, `ready ISSUER` on stdout.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import Provider from 'oidc-provider';

const { issuer, port, clients, jwks, tls } = JSON.parse(readFileSync(0, 'utf8'));
const provider = new Provider(issuer, {
  clients,
  jwks,
  claims: { openid: ['sub', 'email'], email: ['email'] },
  conformIdTokenClaims: false,
  cookies: { keys: ['of the tests'] },
  features: { devInteractions: { enabled: true } },
  pkce: { required: () => true },
  async findAccount(_ctx, id) {
    return { accountId: id, async claims() { return { sub: id, email: `${id}@people.test` }; } };
  },
});
const server = createServer(tls, provider.callback());
server.listen(port, '127.0.0.1', () => console.log(`ready ${issuer}`));
process.on('SIGTERM', () => { server.close(); process.exit(0); });
