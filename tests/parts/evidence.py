"""A bundle with one component of each form, its lock inside, signed with fixed keys: the same bytes in every run.

It is laid out as ``bundler.build`` lays bundles out, without fetching. The keys are numbers in this file and protect nothing.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from parts.bundles import NOW, STREAM

from airgap_images.bundle import Component, TreeFile, component_descriptor, write_index, write_tree
from airgap_images.layout import Layout
from airgap_images.oci import IMAGE_MANIFEST, Descriptor, Digest
from audit import checks
from audit.evidence.assessment import Assessment, proved, refused
from audit.evidence.cyclonedx import cyclonedx
from audit.evidence.inventory import take
from audit.evidence.report import html
from audit.evidence.verification import verification_json
from audit.signers import file as keys
from audit.verify.result import VerifiedBundle
from audit.verify.trust import Memory
from audit.verify.verdict import Seen, Verdict
from audit.verify.walk import Place, verify
from bundler import sign
from manifests import canonical
from manifests.errors import AirgapError, IntegrityError, RefusedError, TrustError
from manifests.lock import Inline, Lock, LockedComponent, Pin
from manifests.policy import Policy, first_policy, signer_entry

TOOL = ("airgap-audit", "1.2.3")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SIGNERS = {
    "alice": keys.from_private("alice", ec.derive_private_key(0xA11CE, ec.SECP256R1())),
    "bob": keys.from_private("bob", ec.derive_private_key(0xB0B, ec.SECP384R1())),
    "carol": keys.from_private("carol", ed25519.Ed25519PrivateKey.from_private_bytes(b"carol".ljust(32, b"."))),
}
HOSTILE = '<script>alert("x")</script>\N{RIGHT-TO-LEFT OVERRIDE}{{ 7*7 }}'


@dataclass(frozen=True)
class Drift:
    """The least that evidence asks of a comparison with what is installed."""

    outcome: str = "as installed"
    exit_code: int = 0
    notes: tuple[tuple[str, str, str], ...] = ()


def policy(*names: str) -> Policy:
    public = {name: signer_entry(pem(name)) for name in names or SIGNERS}
    return first_policy(STREAM, public, threshold=len(public), expires=NOW + timedelta(days=365))


def pem(name: str) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return SIGNERS[name].public_key.public_bytes(serialization.Encoding.PEM, form).decode()


def wheel(name: str, version: str, *headers: str) -> bytes:
    """Return a wheel that holds only its METADATA and its RECORD."""
    lines = ("Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *headers, "", "A description.\n")
    info, metadata = f"{name}-{version}.dist-info", "\n".join(lines).encode()
    digest = base64.urlsafe_b64encode(hashlib.sha256(metadata).digest()).rstrip(b"=").decode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, data in {f"{info}/METADATA": metadata, f"{info}/RECORD": f"{info}/METADATA,sha256={digest},{len(metadata)}\n".encode()}.items():
            archive.writestr(zipfile.ZipInfo(path, (2026, 1, 1, 0, 0, 0)), data)
    return out.getvalue()


WHEELS = {
    "Foo_Bar.x-1.2.0-py3-none-any.whl": wheel("Foo_Bar.x", "1.2.0", "License-Expression: MIT AND Apache-2.0", "Author: Ada L."),
    "plain-2.0+cpu-cp312-cp312-linux_x86_64.whl": wheel("plain", "2.0+cpu", "License: bsd-3-clause", "Maintainer-email: B <b@example.org>"),
    "classy-0.1-py3-none-any.whl": wheel(
        "classy", "0.1", "License: UNKNOWN", "Classifier: License :: OSI Approved", "Classifier: License :: OSI Approved :: MIT License"
    ),
    "silent-3-py3-none-any.whl": wheel("silent", "3"),
    "evil-1-py3-none-any.whl": wheel("evil", "1", f"License: {HOSTILE}", f"Author: {HOSTILE}"),
}


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(16)


MODEL = {
    "README.md": b"---\nlicense: apache-2.0\n---\n# mini\n",
    "config.json": b'{"architectures":["MiniForCausalLM"],"model_type":"mini"}\n',
    "model.safetensors": safetensors(),
}


def pins(files: dict[str, bytes], url: str) -> tuple[Pin, ...]:
    made = [Pin(path=path, url=f"{url}{path}", size=len(data), sha256=hashlib.sha256(data).hexdigest()) for path, data in files.items()]
    return tuple(sorted(made, key=lambda pin: pin.path))


STATUS = """Package: libz
Status: install ok installed
Architecture: amd64
Source: zlib (1:1.3)
Version: 1:1.3-1+b2

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: tiny
Status: install ok installed
Architecture: all
Version: 0.1
"""
ROOTFS = {
    "etc/os-release": b'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "opt/app/node_modules/left/package.json": json.dumps({"name": "left", "version": "1.0", "license": HOSTILE}).encode(),
    "opt/app/rocks/kong-3.0-1.rockspec": b"package = 'kong'\n",
    "opt/stray": b"\x7fELF" + bytes(96),
    "usr/lib/libz.so.1": b"\x7fELF" + bytes(60),
    "usr/share/doc/libz/copyright": b"Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: Zlib\n",
    "var/lib/dpkg/info/libz:amd64.list": b"/.\n/usr\n/usr/lib\n/usr/lib/libz.so.1\n",
    "var/lib/dpkg/status": STATUS.encode(),
}


def rootfs() -> bytes:
    """Return a layer with a system, some packages, and something that no package owns."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, data in ROOTFS.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def image_blobs() -> dict[str, bytes]:
    """Return the blobs of a small image, its manifest under the name ``manifest``."""
    layer = rootfs()
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer))]}}
    blobs = {"config": canonical.compact(config), "layer": layer}
    types = {"config": "application/vnd.oci.image.config.v1+json", "layer": "application/vnd.oci.image.layer.v1.tar"}
    parts = {name: {"mediaType": types[name], "digest": str(Digest.of(data)), "size": len(data)} for name, data in blobs.items()}
    value = {"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": parts["config"], "layers": [parts["layer"]]}
    return {**blobs, "manifest": canonical.compact(value)}


def locked(wheels: dict[str, bytes] = WHEELS) -> tuple[LockedComponent, ...]:
    blobs = image_blobs()
    return (
        LockedComponent(
            name="docs", kind="path", form="tree", identity={"path": "docs"}, files=pins({"a/b.txt": b"b\n", "c.txt": b"c\n"}, "file:docs/")
        ),
        LockedComponent(
            name="driver",
            kind="url",
            form="tree",
            identity={"url": "https://dl.example.org/driver.run"},
            files=pins({"driver.run": b"#!driver\n"}, "https://user:secret@dl.example.org:8443/v1/?token=secret&f=#"),
        ),
        LockedComponent(
            name="gateway",
            kind="python",
            form="tree",
            role="gateway",
            facts={"packages": str(len(wheels))},
            files=pins(wheels, "https://index.example.org/files/"),
            inline=(Inline(path="requirements.txt", text="foo-bar-x==1.2.0\n"),),
        ),
        LockedComponent(
            name="mini",
            kind="huggingface",
            form="tree",
            model=True,
            role="inference",
            identity={"repo": "acme/Mini-1B", "commit": COMMIT},
            facts={"license": "apache-2.0", "architectures": "MiniForCausalLM", "model_type": "mini"},
            files=pins(MODEL, f"https://hub.example.org/acme/Mini-1B/resolve/{COMMIT}/"),
        ),
        LockedComponent(
            name="server",
            kind="image",
            form="image",
            identity={"ref": "registry.example.org:5000/team/server:v1.0", "platform": "linux/amd64"},
            root=hashlib.sha256(blobs["manifest"]).hexdigest(),
            files=pins(blobs, "https://registry.example.org:5000/v2/team/server/blobs/"),
        ),
    )


def lock(*components: LockedComponent) -> Lock:
    return Lock(name="test", stream=STREAM, intentSha256="0" * 64, components=components)


def build(folder: Path, stated: Lock, data: dict[str, dict[str, bytes]], *, own: dict[str, bytes] | None = None) -> Path:
    """Lay out ``data`` (component → path → bytes) as ``stated`` names it; ``own`` replaces the bundle's own lock file."""
    layout = Layout.create(folder)
    made = []
    for component in stated.components:
        files = [TreeFile(path, layout.put(raw), len(raw)) for path, raw in data[component.name].items()]
        if component.form == "image":
            raw = data[component.name]["manifest"]
            root = Descriptor(IMAGE_MANIFEST, Digest.of(raw), len(raw))
        else:
            root = write_tree(layout, files, model={"name": component.name} if component.model else None)
        facts = {**component.facts, **component.identity}
        root = component_descriptor(root, name=component.name, kind=component.kind, form=component.form, role=component.role, facts=facts)
        made.append(Component(component.name, component.kind, component.form, component.role, root))
    for path, raw in ({"bundle.lock.json": stated.to_bytes()} if own is None else own).items():
        tree = write_tree(layout, [TreeFile(path, layout.put(raw), len(raw))])
        made.append(
            Component("airgap-lock", "lock", "tree", None, component_descriptor(tree, name="airgap-lock", kind="lock", form="tree"))
        )
    write_index(layout, made, {sign.STREAM: STREAM, "airgap.bundle": stated.name, "airgap.target.platform": stated.target.platform})
    if (folder / ".partial").exists():
        (folder / ".partial").rmdir()
    return folder


def contents(wheels: dict[str, bytes] = WHEELS) -> dict[str, dict[str, bytes]]:
    return {
        "docs": {"a/b.txt": b"b\n", "c.txt": b"c\n"},
        "driver": {"driver.run": b"#!driver\n"},
        "gateway": {**wheels, "requirements.txt": b"foo-bar-x==1.2.0\n"},
        "mini": MODEL,
        "server": image_blobs(),
    }


def signed(folder: Path, *names: str) -> Path:
    for at, name in enumerate(names or SIGNERS):
        terms = sign.Terms(7 if at == 0 else None, NOW, NOW + timedelta(days=90), None, 1, ("airgap-bundler", "1.2.3"))
        sign.sign(folder, SIGNERS[name], terms)
    return folder


def rich(folder: Path, *names: str) -> Path:
    """Build and sign the bundle that most tests of evidence look at."""
    return signed(build(folder, lock(*locked()), contents()), *names)


def verified(folder: Path, *names: str) -> VerifiedBundle:
    return verify(Place.of(folder), policy(*names).to_bytes(), memory=Memory(), now=NOW)


def results() -> tuple[checks.CheckResult, ...]:
    """Return results of two checks that do not change when checks are added: one with a warning, one that found nothing."""
    finding = checks.Finding("pickles", "low", "mini", "old.bin", "is a pickle", "use safetensors", "docs/checks.md#pickles")
    return (
        checks.CheckResult("pickles", "No file runs code", "pickle", ("Cannot see into archives of archives.",), 3, (finding,), ()),
        checks.CheckResult("safetensors", "Weights are well formed", None, ("Values are not judged.",), 1, (), ()),
    )


def verdicts() -> tuple[Verdict, ...]:
    """Return verdicts of every kind, one of them with something seen of every kind."""
    name, image, manifest = "registry.example.org:5000/team/server", Digest.of(b"image"), Digest.of(b"manifest")

    def seen(what: tuple[str, str], predicate: str | None, by: str | None, result: str, reason: str) -> Seen:
        return Seen(*what, predicate, image, manifest, (image,), by, result, reason)  # type: ignore[arg-type]

    carried = (
        seen(("signature", "tag"), None, "vendor", "good", "signed with the key of vendor"),
        seen(("signature", "referrer"), None, None, "wrong", "not ci: another identity"),
        seen(("attestation", "referrer"), "https://slsa.dev/provenance/v1", None, "unverifiable", "the package sigstore is not installed here"),
        seen(("attestation", "tag"), "https://spdx.dev/Document", None, "not asked for", "the rule asks for no such attestation"),
        seen(("sbom", "tag"), None, None, "unsigned", "carried, unsigned: text/spdx+json"),
    )
    return (
        Verdict("server", name, "registry.example.org:5000/**", "good", "linux/amd64: signature by vendor", carried),
        Verdict("other", "docker.io/library/other", "docker.io/library/*", "wrong", f"linux/amd64: signature: {HOSTILE}", ()),
        Verdict("third", "docker.io/library/third", None, "nobody named", "the policy names nobody for docker.io/library/third", ()),
    )


def assessed(
    bundle: VerifiedBundle,
    *,
    found: tuple[checks.CheckResult, ...] | None = None,
    memory: Memory | None = None,
    drift: Drift | None = None,
    upstream: tuple[Verdict, ...] = (),
) -> Assessment:
    ran = results() if found is None else found
    gate = checks.gate(ran, {})
    return proved(bundle, ran, gate, inventory=take(bundle), memory=memory, drift=drift, upstream=upstream, place="/media/usb/bundle", tool=TOOL, now=NOW)


def refusal() -> RefusedError:
    reasons = [
        TrustError("signatures: 1 of 2 needed signers (signed by alice)", hint="have the missing signers sign", rule="4.threshold"),
        IntegrityError(f"blobs/sha256/{'a' * 64}: content is sha256 {'b' * 64}, expected {'a' * 64}", hint="copy it again"),
        IntegrityError(f"{HOSTILE}: does not belong to the bundle", hint="nothing unsigned may travel with it"),
    ]
    return RefusedError(reasons)


def refusing(error: AirgapError | None = None) -> Assessment:
    return refused(error or refusal(), place="/media/usb/bundle", policy_raw=policy().to_bytes(), tool=TOOL, now=NOW)


def golden(folder: Path) -> dict[str, bytes]:
    """Return the files of tests/golden/evidence as the code writes them now."""
    drift = Drift("differs", 3, (("changed", "mini/config.json", "content is another"), ("missing", "docs/c.txt", "not there")))
    assessment = assessed(verified(rich(folder)), drift=drift, upstream=verdicts())
    return {
        "verification.json": verification_json(assessment),
        "sbom.cdx.json": cyclonedx(assessment),
        "report.html": html(assessment),
        "refused.verification.json": verification_json(refusing()),
        "refused.report.html": html(refusing()),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for name, data in golden(Path(scratch)).items():
            (Path(__file__).parent.parent / "golden" / "evidence" / name).write_bytes(data)
