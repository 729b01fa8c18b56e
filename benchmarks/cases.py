"""The cases: each prepares its input, runs both sides in turn and returns what it measured."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from parts import bundles, images, roots, syft
from parts.registry import registry

MIB = 1 << 20
BIN = Path(sys.executable).parent
NOT_ASSESSED = 5  # how commands end that had no data about vulnerabilities, or nothing to hold an image's signatures against
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a program is compiled once and not at each start, as where it is installed


@dataclass
class Measured:
    """Seconds (or bytes) of both sides, round by round; ``target`` bounds ours/theirs from above."""

    case: str
    ours: list[float]
    theirs: list[float]
    target: float | None
    target_text: str
    notes: list[str] = field(default_factory=list)

    def ratio(self, ours: float, theirs: float) -> float:
        return ours / theirs if theirs else 0.0

    def holds(self, ratio: float) -> bool:
        return self.target is not None and ratio <= self.target

    def show(self, value: float) -> str:
        return f"{value:.2f} s"

    def without(self, start: float) -> Measured:
        """Return the same row with the start of the program taken off our side."""
        return replace(self, case=f"{self.case}; start not counted", ours=[value - start for value in self.ours], notes=[])


def timed(*command: str | Path, cwd: Path | None = None, ok: tuple[int, ...] = (0,), stdout: Path | None = None) -> float:
    """Run a command and return its seconds."""
    with (stdout or Path(os.devnull)).open("wb") as out:
        start = time.perf_counter()
        done = subprocess.run([str(c) for c in command], cwd=cwd, check=False, stdout=out, stderr=subprocess.PIPE)
        seconds = time.perf_counter() - start
    if done.returncode not in ok:
        raise SystemExit(f"{command[0]} ended with {done.returncode}: {done.stderr.decode()[-2000:]}")
    return seconds


def peak_memory(*command: str | Path, cwd: Path, ok: tuple[int, ...] = (0,)) -> float:
    """Run a command as a child of a fresh process and return its peak resident set in bytes."""
    code = "import resource,subprocess,sys; code = subprocess.call(sys.argv[1:],stdout=subprocess.DEVNULL,stderr=subprocess.DEVNULL)"
    code += "; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, code)"
    done = subprocess.run([sys.executable, "-c", code, *map(str, command)], cwd=cwd, check=True, capture_output=True, text=True)
    memory, ended = map(int, done.stdout.split())
    if ended not in ok:
        raise SystemExit(f"{command[0]} ended with {ended}")
    return memory * 1024


def counted(run: Callable[[], float], used: list[float]) -> Callable[[], float]:
    """Return ``run`` such that each run's seconds of processor time, of all programs in it, are added to ``used``."""

    def counting() -> float:
        before = os.times()
        seconds = run()
        after = os.times()
        used.append(after.children_user + after.children_system - before.children_user - before.children_system)
        return seconds

    return counting


def processor(run: Callable[[], float]) -> float:
    """Seconds of processor time that the programs of one run take."""
    used: list[float] = []
    counted(run, used)()
    return used[0]


def disk(*folders: Path) -> int:
    """Bytes on disk, each inode once."""
    seen: dict[tuple[int, int], int] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            info = path.lstat()
            seen[info.st_dev, info.st_ino] = info.st_blocks * 512
    return sum(seen.values())


def rounds(count: int, ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Run both sides in turn; an unmeasured round first fills caches."""
    ours(), theirs()
    pairs = [(ours(), theirs()) for _ in range(count)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def weights(folder: Path, size: int, files: int = 4) -> Path:
    """Make a folder of well-formed safetensors files of ``size`` MiB in all."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    for at in range(files):
        data = size * MIB // files
        header = json.dumps({"w": {"dtype": "U8", "shape": [data], "data_offsets": [0, data]}}).encode()
        with (folder / f"model-{at}.safetensors").open("wb") as out:
            out.write(len(header).to_bytes(8, "little") + header)
            for _ in range(data // MIB):
                out.write(os.urandom(MIB))
    return folder


def intent(folder: Path, *components: str) -> Path:
    path = folder / "bundle.yaml"
    lines = ["apiVersion: airgap/v1", "name: bench", f"stream: {bundles.STREAM}", "components:", *(f"  - {text}" for text in components)]
    path.write_text("\n".join(lines) + "\n")
    return path


def locked(folder: Path, *components: str) -> Path:
    timed(BIN / "airgap-bundle", "lock", intent(folder, *components), "--cache", folder / "cache")
    return folder / "bundle.lock.json"


def openssl(paths: list[Path]) -> float:
    """Hash files with one openssl process a core."""
    start = time.perf_counter()
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        list(pool.map(lambda path: timed("openssl", "dgst", "-sha256", path), paths))
    return time.perf_counter() - start


def keys_and_policy(folder: Path) -> Path:
    airgap = BIN / "airgap-bundle"
    timed(airgap, "keygen", "alice", "--out", folder, "--no-passphrase")
    policy = folder / "policy.json"
    timed(airgap, "policy", "init", policy, "--stream", bundles.STREAM, "--signer", f"alice={folder / 'alice.pub'}")
    return policy


def start_of_verify(folder: Path) -> float:
    """Seconds of `airgap-audit verify` on a bundle of a few kilobytes: the start of Python and of the program."""
    folder.mkdir()
    who = bundles.site(folder / "keys")
    tiny = bundles.signed(folder / "tiny", who, size=10)
    (folder / "policy.json").write_bytes(who.policy_raw)
    command = (BIN / "airgap-audit", "verify", tiny, "--policy", folder / "policy.json", "--now", "2026-11-24T13:00:00Z")
    return min(timed(*command) for _ in range(5))


def local(folder: Path, size: int, count: int) -> list[Measured]:
    """Build from local weights, verify, install: rows over one bundle."""
    weights(folder / "weights", size)
    lock = locked(folder, "{name: weights, kind: model, path: ./weights}")
    policy, out, store = keys_and_policy(folder), folder / "bundle", folder / "store"
    files = sorted((folder / "weights").glob("*.safetensors"))

    def build(*extra: str) -> float:
        shutil.rmtree(out, ignore_errors=True)
        return timed(BIN / "airgap-bundle", "build", lock, "--out", out, "--cache", folder / "cache", *extra)

    def verify() -> float:
        return timed(BIN / "airgap-audit", "verify", out, "--policy", policy)

    def install() -> float:
        shutil.rmtree(store, ignore_errors=True)
        return timed(BIN / "airgap-audit", "install", out, "--policy", policy, "--store", store, ok=(0, NOT_ASSESSED))

    def copy_and_hash() -> float:
        target = folder / "copied"
        shutil.rmtree(target, ignore_errors=True)
        return timed("cp", "-r", folder / "weights", target) + openssl(files)

    pair = rounds(count, lambda: build("--link"), lambda: openssl(files))
    linked = Measured("build from local weights, linked", *pair, 1.2, "≤ 1.2 x hashing alone")
    copied = Measured("build from local weights, copied", *rounds(count, build, copy_and_hash), None, "beside `cp` + hash")
    copied.notes.append("beside it: `cp -r`, then `openssl dgst -sha256`, one process a core.")
    peak = disk(out) / disk(folder / "weights")
    copied.notes.append(f"disk of the bundle: {peak:.3f} x payload (asked: ≤ 1.02).")
    timed(BIN / "airgap-bundle", "sign", out, "--key", f"file:{folder / 'alice.key'}", "--serial", "1")
    blobs = sorted((out / "blobs" / "sha256").iterdir(), key=lambda path: -path.stat().st_size)[: len(files)]
    verified = Measured("verify, warm cache", *rounds(count, verify, lambda: openssl(blobs)), 1 / 0.95, "≤ 1.05 x `openssl dgst`")
    memory = peak_memory(BIN / "airgap-audit", "verify", out, "--policy", policy, cwd=folder)
    start = start_of_verify(folder / "start")
    verified.notes.append(f"peak memory {memory / MIB:.0f} MiB (asked: < 150, whatever the size).")
    verified.notes.append(f"the start of the program, measured on a bundle of a few kilobytes, is {start:.2f} s of it; the next row takes that off.")
    installed = Measured("verify + install, linked", *rounds(count, install, lambda: openssl(blobs)), None, "beside hashing alone")
    extra = disk(out, store) / disk(out) - 1
    installed.notes.append(f"extra disk {extra * 100:.2f} % of the payload (asked: < 1 %).")
    rebuild = (BIN / "airgap-bundle", "build", lock, "--out", out, "--cache", folder / "cache")
    pair = rounds(count, lambda: timed(*rebuild), lambda: openssl(blobs))
    again = Measured("rebuild with nothing new", *pair, None, "seconds, for any size")
    return [linked, linked.without(start), copied, verified, verified.without(start), installed, again]


@contextlib.contextmanager
def nginx(folder: Path, root: Path) -> Iterator[str]:
    """Serve ``root`` by a real nginx on loopback and give its address."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = f"server {{ listen 127.0.0.1:{port}; root {root}; sendfile on; }}"
    paths = " ".join(f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = f"user root; pid {folder}/pid; error_log {folder}/error.log; events {{}} http {{ access_log off; {paths} {server} }}"
    (folder / "nginx.conf").write_text(config)
    process = subprocess.Popen([images.find("nginx"), "-c", folder / "nginx.conf", "-g", "daemon off;"], stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def sized_image(folder: Path, host: str, size: int) -> str:
    """Push an image of ``size`` MiB in four layers of random bytes and return its reference."""
    folder.mkdir()
    image = f"{folder / 'oci'}:1.0"
    images.tool("umoci", "init", "--layout", folder / "oci")
    images.tool("umoci", "new", "--image", image)
    for at in range(4):
        (folder / "root").mkdir()
        with (folder / "root" / f"{at}.bin").open("wb") as out:
            for _ in range(size // 4):
                out.write(os.urandom(MIB))
        images.tool("tar", "-C", folder / "root", "-cf", folder / "layer.tar", ".")
        images.tool("umoci", "raw", "add-layer", "--image", image, folder / "layer.tar")
        shutil.rmtree(folder / "root")
    images.tool("umoci", "gc", "--layout", folder / "oci")
    images.Image(folder / "oci", "1.0").push(host, "bench:1.0")
    shutil.rmtree(folder)
    return f"{host}/bench:1.0"


def fetch(folder: Path, size: int, count: int) -> list[Measured]:
    """One stream from a loopback nginx to the store, beside curl to a file."""
    source = folder / "source"
    source.mkdir()
    with (source / "data.bin").open("wb") as out:
        for _ in range(size):
            out.write(os.urandom(MIB))
    digest = subprocess.run(["openssl", "dgst", "-sha256", "-r", source / "data.bin"], check=True, capture_output=True, text=True).stdout[:64]
    with nginx(folder / "nginx", source) as url:
        lock = locked(folder, f"{{name: data, kind: url, url: '{url}/data.bin', sha256: {digest}}}")

        def ours() -> float:
            shutil.rmtree(folder / "bundle", ignore_errors=True)
            return timed(BIN / "airgap-bundle", "build", lock, "--out", folder / "bundle", "--cache", folder / "cache")

        def curl() -> float:
            (folder / "curl.bin").unlink(missing_ok=True)
            return timed("curl", "-s", "-o", folder / "curl.bin", f"{url}/data.bin")

        measured = Measured("fetch, hash and store one stream", *rounds(count, ours, curl), 1 / 0.6, "≤ 1.67 x `curl -o`")
        shutil.rmtree(folder / "bundle", ignore_errors=True)
        memory = peak_memory(BIN / "airgap-bundle", "build", lock, "--out", folder / "bundle", "--cache", folder / "cache", cwd=folder)
    measured.notes.append(f"peak memory {memory / MIB:.0f} MiB; our time includes the start of Python, sha256, fsync and the checks.")
    return [measured]


def pull(folder: Path, size: int, count: int) -> list[Measured]:
    """An image from a loopback registry into a bundle, beside skopeo; then once more, killed half way."""
    with registry(folder / "registry") as server:
        reference = sized_image(folder / "image", server.host, size)
        lock = locked(folder, f"{{name: image, kind: image, ref: '{reference}'}}")
        out, ends = folder / "bundle", (0, NOT_ASSESSED)
        build = (BIN / "airgap-bundle", "build", lock, "--out", out, "--cache", folder / "cache")

        def ours() -> float:
            shutil.rmtree(out, ignore_errors=True)
            return timed(*build, ok=ends)

        def skopeo() -> float:
            shutil.rmtree(folder / "skopeo", ignore_errors=True)
            source = f"docker://{reference}"
            return timed("skopeo", "copy", "--preserve-digests", "--src-tls-verify=false", source, f"oci:{folder / 'skopeo'}:image")

        used: tuple[list[float], list[float]] = [], []
        pair = rounds(count, counted(ours, used[0]), counted(skopeo, used[1]))
        measured = Measured("pull an image from a registry", *pair, 1 / 2.4, "≤ 0.42 x `skopeo copy`")
        shutil.rmtree(out, ignore_errors=True)
        memory = peak_memory(*build, cwd=folder, ok=ends)
        shutil.rmtree(out, ignore_errors=True)
        killed = resumed(*build, out=out, half=size * MIB // 2)
    mine, its = (statistics.median(values[1:]) for values in used)  # the first is the unmeasured round's
    measured.notes += [
        f"four layers that do not compress; peak memory {memory / MIB:.0f} MiB (asked: < 150); `skopeo copy --preserve-digests`.",
        f"processor time, without the registry's: ours {mine:.1f} s, skopeo's {its:.1f} s, of the same cores that the registry uses.",
        "what was pulled is synced to the disk (every blob before it gets its name); what skopeo copied is not.",
        killed,
    ]
    return [measured]


def resumed(*build: str | Path, out: Path, half: int) -> str:
    """Kill a build by SIGKILL when ``half`` bytes are there, run it again, and say what each of the two fetched."""
    process = subprocess.Popen([str(part) for part in build], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and arrived(out) < half:
        time.sleep(0.005)
    process.kill()
    process.wait()
    kept = arrived(out)
    start = time.perf_counter()
    again = subprocess.run([*map(str, build), "--json"], check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    fetched, whole = json.loads(again.stdout)["fetched"], arrived(out)
    if process.returncode != -9 or again.returncode not in {0, NOT_ASSESSED} or not kept <= whole - fetched["bytes"] < kept + MIB:
        raise SystemExit(f"the build that was killed at {kept} of {whole} bytes fetched {fetched} again")
    return (
        f"killed (SIGKILL) when {kept / MIB:.0f} MiB were there and run again: {fetched['bytes'] / MIB:.0f} MiB were fetched, "
        f"none twice that was on the disk, in {seconds:.2f} s."
    )


def arrived(out: Path) -> int:
    """Bytes of blobs in a bundle that is built, the unfinished ones included."""
    with contextlib.suppress(OSError):  # one of them may get its name just now
        return sum(path.lstat().st_size for folder in ("blobs/sha256", ".partial") for path in (out / folder).glob("*"))
    return 0


def wheels(folder: Path, _size: int, count: int) -> list[Measured]:
    """The vLLM closure locked warm, beside uv alone."""
    path = folder / "bundle.yaml"
    path.write_text((Path(__file__).parents[1] / "examples" / "vllm-h200" / "closure.yaml").read_text())
    python = ["--python", sys.executable, "--no-python-downloads", "--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_34", "--only-binary", ":all:"]
    (folder / "in.txt").write_text("vllm==0.32.0\n")

    def ours() -> float:
        return timed(BIN / "airgap-bundle", "lock", path, "--cache", folder / "cache")

    def uv() -> float:
        target = folder / "pylock.toml"
        target.unlink(missing_ok=True)
        return timed(BIN / "uv", "pip", "compile", "-q", *python, "--format", "pylock.toml", "-o", target, folder / "in.txt", cwd=folder)

    measured = Measured("lock the vLLM closure, warm", *rounds(count, ours, uv), 1.5, "≤ 1.5 x `uv pip compile`")
    return [measured]


def inside(folder: Path, _size: int, count: int) -> list[Measured]:
    """The packages inside an image of Debian and Python wheels, beside syft."""
    image = roots.large()
    ours_at, theirs_at = folder / "ours.json", folder / "theirs.json"

    def ours() -> float:
        return timed(sys.executable, Path(__file__).parent / "list_image.py", image.layout, stdout=ours_at)

    def theirs() -> float:
        return timed("env", "SYFT_CHECK_FOR_APP_UPDATE=false", *syft.command(image), stdout=theirs_at)

    measured = Measured("list the packages inside an image", *rounds(count, ours, theirs), 1 / 4, "≤ 0.25 x `syft`")
    used = processor(ours), processor(theirs)
    memory = peak_memory(sys.executable, Path(__file__).parent / "list_image.py", image.layout, cwd=folder)
    found = {syft.same(purl) for purl in json.loads(ours_at.read_text())}
    other = {syft.same(entry["purl"]) for entry in json.loads(theirs_at.read_text())["artifacts"] if entry["purl"]}
    packed = sum(path.stat().st_size for path in (image.layout / "blobs/sha256").iterdir())
    measured.notes.append(
        f"{packed / MIB:.0f} MiB of layers, Debian and wheels; {len(found)} packages here, {len(other)} there, {len(found & other)} the same; "
        f"peak memory {memory / MIB:.0f} MiB; syft {syft.VERSION}, the newest on the package index."
    )
    measured.notes.append(f"processor time of one run: ours {used[0]:.1f} s, syft's {used[1]:.1f} s. Ours checks the content's digest too.")
    return [measured]


ALL: dict[str, Callable[[Path, int, int], list[Measured]]] = {"local": local, "fetch": fetch, "pull": pull, "inside": inside, "wheels": wheels}
