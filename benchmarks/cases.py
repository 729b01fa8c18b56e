"""The cases: each prepares its input, runs both sides in turn and returns what it measured."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from parts import bundles, images
from parts.registry import registry

MIB = 1 << 20
BIN = Path(sys.executable).parent


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


def peak_memory(*command: str | Path, cwd: Path) -> float:
    """Run a command as a child of a fresh process and return its peak resident set in bytes."""
    code = "import resource,subprocess,sys; subprocess.run(sys.argv[1:],check=True,stdout=subprocess.DEVNULL,stderr=subprocess.DEVNULL)"
    code += "; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", code, *map(str, command)], cwd=cwd, check=True, capture_output=True, text=True)
    return float(done.stdout) * 1024


def processor(run: Callable[[], float]) -> float:
    """Seconds of processor time that the programs of one run take."""
    before = os.times()
    run()
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


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
        return timed(BIN / "airgap-audit", "install", out, "--policy", policy, "--store", store)

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
    """An image from a loopback registry into a bundle, beside skopeo."""
    with registry(folder / "registry") as server:
        reference = sized_image(folder / "image", server.host, size)
        lock = locked(folder, f"{{name: image, kind: image, ref: '{reference}'}}")

        def ours() -> float:
            shutil.rmtree(folder / "bundle", ignore_errors=True)
            return timed(BIN / "airgap-bundle", "build", lock, "--out", folder / "bundle", "--cache", folder / "cache")

        def skopeo() -> float:
            shutil.rmtree(folder / "skopeo", ignore_errors=True)
            source = f"docker://{reference}"
            return timed("skopeo", "copy", "--preserve-digests", "--src-tls-verify=false", source, f"oci:{folder / 'skopeo'}:image")

        measured = Measured("pull an image from a registry", *rounds(count, ours, skopeo), 1 / 2.4, "≤ 0.42 x `skopeo copy`")
        used = processor(ours), processor(skopeo)
        shutil.rmtree(folder / "bundle", ignore_errors=True)
        memory = peak_memory(BIN / "airgap-bundle", "build", lock, "--out", folder / "bundle", "--cache", folder / "cache", cwd=folder)
    measured.notes.append(f"four layers that do not compress; peak memory {memory / MIB:.0f} MiB; `skopeo copy --preserve-digests`.")
    measured.notes.append(
        f"processor time of one run, without the registry's: ours {used[0]:.1f} s, skopeo's {used[1]:.1f} s, of the same cores that the registry "
        "uses. Ours waits for the disk (fsync of every blob before it gets its name), skopeo does not."
    )
    return [measured]


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


ALL: dict[str, Callable[[Path, int, int], list[Measured]]] = {"local": local, "fetch": fetch, "pull": pull, "wheels": wheels}
