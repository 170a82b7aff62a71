"""How to use the stack that `make up` leaves running, in commands that can be pasted."""

from pathlib import Path

from demo.people import Person
from demo.world import World


def _short(path: Path) -> str:
    """The path as seen from here, where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def usage(world: World) -> str:
    """Return the text for a world with one enrolled master."""
    stack, alice = world.stack, world.alice
    root = _short(stack.root)
    command = f".venv/bin/agentkeys --home {_short(alice.home)}"
    agent = f".venv/bin/agentkeys --home {root}/homes/agent"
    profile = f"--profile {_short(stack.profile)} --profile-hash {stack.profile_hash}"
    curl = f"curl -s --cacert {_short(stack.ca)}"
    broker = _short(stack.certificate("broker"))
    grpcurl = (
        f".venv/bin/grpcurl -cacert {broker}/ca.pem -cert {broker}/cert.pem -key {broker}/key.pem"
        f" -authority {stack.signer_name} {stack.signer_address}"
    )
    return f"""
It runs. One master device is enrolled; its K11 is a SOFTWARE authenticator, for development only.

Store and read as the master:
  printf 'sk-my-key' | {command} cred put openrouter --yes
  {command} cred list
  {command} cred get openrouter
  {command} audit export --out {root}/audit.json
  {command} audit verify {root}/audit.json

Pair an agent, and read as the agent:
  {agent} pair --operator {_operator(alice)} {profile} --out {root}/agent.offer
  {command} agent add {root}/agent.offer --label research --service cred:openrouter
  {agent} cred get openrouter
  {command} scope set research --grant memory:notes
  printf 'what I learnt' | {agent} memory put notes
  {agent} memory get notes
  {command} freeze        # the agent is refused from now on
  {command} unfreeze

The HTTPS edges (each has /openapi.json):
  {curl} {stack.origin("broker")}/healthz
  {curl} {stack.origin("credentials")}/openapi.json
  {curl} {stack.origin("credentials")}/v1/registry/operators/{_operator(alice)}

The signer, as the broker may call it (the daemon certificate beside it opens nothing):
  {grpcurl} list
  {grpcurl} agentkeys.signer.v1.Registry/GetStatus
  .venv/bin/agentkeys-signer status --config {_short(stack.config("signer"))}
  .venv/bin/agentkeys-signer permissions

Logs: {root}/logs/*.log    Ctrl-C ends it.
"""


def _operator(person: Person) -> str:
    return person.who.operator.hex()
