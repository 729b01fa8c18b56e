"""The policy's upstream section: exact identities, patterns that stop at a slash, and a file that says nothing where nothing is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from parts.cli import Desk
from parts.upstream import KEYS, VENDOR, site_policy

from manifests.errors import InvalidFileError
from manifests.policy import Policy, signer_entry
from manifests.publickey import load_upstream_key, upstream_algorithms
from manifests.upstream import Upstream, key_entry, matches

ROOT = {"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1", "tlogs": []}
WORKFLOW = "https://github.com/org/repo/.github/workflows/release.yml@refs/heads/main"
KEYLESS = {"type": "sigstore", "identity": WORKFLOW, "issuer": "https://token.actions.githubusercontent.com", "trusted_root": "public"}
RULE = {"match": "docker.io/vllm/*", "signed_by": ["vendor"]}
ROOTS = {"public": ROOT}
SECTION = {"identities": {"vendor": VENDOR.entry, "ci": KEYLESS}, "images": [RULE]}


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("docker.io/vllm/*", "docker.io/vllm/vllm-openai", True),
        ("docker.io/vllm/*", "docker.io/vllm/a/b", False),
        ("docker.io/vllm/*", "docker.io/vllm", False),
        ("docker.io/vllm/**", "docker.io/vllm/a/b", True),
        ("docker.io/vllm/*", "docker.io/vllm-evil/x", False),
        ("docker.io/*/tool", "docker.io/a/tool", True),
        ("docker.io/*/tool", "docker.io/a/b/tool", False),
        ("docker.io/**/tool", "docker.io/a/b/tool", True),
        ("**", "docker.io/a/b", True),
        ("**", "", True),
        ("*", "docker.io/a", False),
        ("docker.io/a", "docker.io/a", True),
        ("docker.io/a", "xdocker.io/a", False),
        ("docker.io/a", "docker.io/ab", False),
        ("docker.io/v*m/*-openai", "docker.io/vllm/vllm-openai", True),
        ("d.cker.io/a", "docker.io/a", False),
        ("127.0.0.1:5000/**", "127.0.0.1:5000/a", True),
        ("[::1]:5000/*", "[::1]:5000/a", True),
        ("[a]/x", "a/x", False),
    ],
)
def test_a_star_stays_in_its_segment_and_two_go_over(pattern, name, expected):
    assert matches(pattern, name) is expected


@given(st.text("ab/*", max_size=8), st.text("ab/", max_size=8))
def test_matching_is_what_a_plain_search_says(pattern, name):
    def search(pattern: str, name: str) -> bool:
        if not pattern:
            return not name
        if pattern.startswith("**"):
            return any(search(pattern[2:], name[at:]) for at in range(len(name) + 1))
        if pattern.startswith("*"):
            return any(search(pattern[1:], name[at:]) for at in range(len(name) + 1) if "/" not in name[:at])
        return name[:1] == pattern[0] and search(pattern[1:], name[1:])

    assert matches(pattern, name) == search(pattern, name)


def test_matching_many_stars_takes_no_time():
    assert not matches("*a" * 100 + "b", "a" * 250)
    assert not matches("**a" * 80 + "b", "a/" * 120)


def test_a_policy_without_upstream_is_the_bytes_it_was():
    policy = site_policy()
    assert b"upstream" not in policy.to_bytes()
    assert Policy.parse(policy.to_bytes()) == policy
    said = json.loads(policy.to_bytes()) | {"upstream": {}}
    assert Policy.parse(json.dumps(said).encode()).to_bytes() == policy.to_bytes()


def test_the_section_comes_back_and_stays_when_something_else_changes():
    policy = site_policy(SECTION, ROOTS)
    assert Policy.parse(policy.to_bytes()) == policy
    assert Policy.parse(policy.to_bytes()).to_bytes() == policy.to_bytes()
    changed = policy.changed(min_serial=3)
    assert (changed.version, changed.min_serial, changed.upstream) == (policy.version, 3, policy.upstream)
    assert changed.trusted_roots["public"] == ROOT


def test_the_first_rule_that_matches_decides():
    section = Upstream.model_validate(SECTION).with_image({"match": "**", "signed_by": ["ci"]})
    assert section.rule("docker.io/vllm/x").signed_by == ("vendor",)
    assert section.rule("quay.io/x/y").signed_by == ("ci",)
    before = section.with_image({"match": "docker.io/vllm/x", "signed_by": ["ci"]}, first=True)
    assert before.rule("docker.io/vllm/x").signed_by == ("ci",)
    assert Upstream.model_validate(SECTION).rule("quay.io/x/y") is None


def small_rsa() -> dict[str, str]:
    public = rsa.generate_private_key(65537, 1024).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    return {"type": "key", "alg": "rsa-pkcs1v15-sha256", "key": pem}


FAULTS = {
    "stranger in a rule": ({"images": [RULE | {"signed_by": ["eve"]}]}, "names 'eve', who is not among the identities"),
    "stranger in an attestation": ({"images": [RULE | {"attestations": [{"predicate": "p", "by": ["eve"]}]}]}, "names 'eve'"),
    "rule that asks nothing": ({"images": [{"match": "**"}]}, "would accept everything"),
    "attestation by nobody": ({"images": [RULE | {"attestations": [{"predicate": "p", "by": []}]}]}, "by"),
    "attestation twice": ({"images": [RULE | {"attestations": [{"predicate": "p", "by": ["ci"]}] * 2}]}, "stands twice"),
    "pattern twice": ({"images": [RULE, RULE]}, "stands twice"),
    "pattern with upper case": ({"images": [RULE | {"match": "Docker.io/x"}]}, "images.0.match"),
    "pattern with a bracket of another kind of glob": ({"images": [RULE | {"match": "docker.io/[ab]/*"}]}, "images.0.match"),
    "empty pattern": ({"images": [RULE | {"match": ""}]}, "images.0.match"),
    "identity by pattern": ({"identities": {"vendor": VENDOR.entry, "ci": KEYLESS | {"identity": "https://github.com/org/*"}}}, "exactly"),
    "issuer by pattern": ({"identities": {"vendor": VENDOR.entry, "ci": KEYLESS | {"issuer": "*"}}}, "exactly"),
    "identity with a blank": ({"identities": {"vendor": VENDOR.entry, "ci": KEYLESS | {"identity": "a@b "}}}, "exactly"),
    "empty identity": ({"identities": {"vendor": VENDOR.entry, "ci": KEYLESS | {"identity": ""}}}, "identity"),
    "kind unknown": ({"identities": {"vendor": {"type": "any"}}}, "upstream.identities.vendor"),
    "kind missing": ({"identities": {"vendor": {"alg": "ed25519"}}}, "upstream.identities.vendor"),
    "algorithm of another key": ({"identities": {"vendor": VENDOR.entry | {"alg": "ed25519"}}}, "but the key is for ecdsa-p256-sha256"),
    "hash of another curve": ({"identities": {"vendor": VENDOR.entry | {"alg": "ecdsa-p384-sha256"}}}, "but the key is for"),
    "weak RSA": ({"identities": {"vendor": small_rsa()}}, "1024 bits is not accepted"),
    "unknown field": ({"identity": {}}, "upstream.identity"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_section_that_is_not_one_is_refused_with_the_field(name):
    parts, message = FAULTS[name]
    value = json.loads(site_policy(SECTION, ROOTS).to_bytes())
    value["upstream"] |= parts
    with pytest.raises(InvalidFileError) as caught:
        Policy.parse(json.dumps(value).encode())
    assert caught.value.message.startswith("policy.json: upstream")
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("roots", "message"),
    [
        ({"public": {"mediaType": "x"}}, "policy.json: trusted_roots.public: not a Sigstore trusted root"),
        ({}, "policy.json: document: 'ci' names the trusted root 'public', which is not there"),
    ],
)
def test_a_trusted_root_that_is_none_or_not_there_is_refused(roots, message):
    value = json.loads(site_policy(SECTION, ROOTS).to_bytes())
    with pytest.raises(InvalidFileError) as caught:
        Policy.parse(json.dumps(value | {"trusted_roots": roots}).encode())
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("algorithm", KEYS)
def test_upstream_keys_have_their_own_algorithms(algorithm):
    key = KEYS[algorithm]
    assert key_entry(key.pem, algorithm)["alg"] == algorithm
    usual = {"ecdsa-p384-sha256": "ecdsa-p384-sha384"}.get(algorithm, algorithm)
    assert key_entry(key.pem)["alg"] == usual
    assert upstream_algorithms(load_upstream_key(key.pem))[0] == usual


def test_an_rsa_key_may_sign_upstream_and_no_bundle():
    site_policy({"identities": {"rsa": KEYS["rsa-pkcs1v15-sha256"].entry}})
    with pytest.raises(ValueError, match="of a kind that is not accepted"):
        signer_entry(KEYS["rsa-pkcs1v15-sha256"].pem)


def test_other_curves_are_refused_upstream_too():
    public = ec.generate_private_key(ec.SECP521R1()).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    with pytest.raises(ValueError, match="secp521r1 is not accepted"):
        load_upstream_key(pem)


def test_names_are_not_taken_over():
    section = Upstream.model_validate(SECTION)
    with pytest.raises(InvalidFileError, match="'vendor' is in the policy already"):
        section.with_identity("vendor", KEYS["ed25519"].entry)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "vendor.pub").write_text(VENDOR.pem)
    (tmp_path / "rsa.pub").write_text(KEYS["rsa-pkcs1v15-sha256"].pem)
    (tmp_path / "p384.pub").write_text(KEYS["ecdsa-p384-sha384"].pem)
    (tmp_path / "root.json").write_text(json.dumps(ROOT))
    made = Desk(tmp_path)
    made.bundle("keygen", "alice", "--out", "keys", "--no-passphrase")
    made.bundle("policy", "init", "policy.json", "--stream", "s", "--signer", "alice=keys/alice.pub")
    return made


def test_the_commands_write_into_the_policy_and_leave_its_version(desk: Desk):
    known = desk.bundle("policy", "upstream-key", "policy.json", "--identity", "vendor=vendor.pub").out
    assert "No rule says who signs images" in known
    assert "vendor is ecdsa-p256-sha256" in known
    desk.bundle("policy", "upstream-key", "policy.json", "--identity", "p384=p384.pub", "--algorithm", "ecdsa-p384-sha256")
    said = ("--san", WORKFLOW, "--issuer", "https://idp.example.test", "--trusted-root", "root.json")
    desk.bundle("policy", "upstream-sigstore", "policy.json", "--identity", "ci", *said)
    desk.bundle("policy", "upstream-sigstore", "policy.json", "--identity", "ci2", *said)
    desk.bundle("policy", "upstream-image", "policy.json", "--match", "**", "--signed-by", "ci")
    wanted = ("--attestation", "https://slsa.dev/provenance/v1=ci", "--attestation", "https://slsa.dev/provenance/v1=ci2")
    shown = desk.bundle("policy", "upstream-image", "policy.json", "--match", "docker.io/vllm/*", "--signed-by", "vendor", *wanted, "--first")
    policy = Policy.load(desk.folder / "policy.json")
    assert policy.version == 1
    assert {name: identity.type for name, identity in policy.upstream.identities.items()} == {
        "vendor": "key", "p384": "key", "ci": "sigstore", "ci2": "sigstore",
    }  # fmt: skip
    assert policy.upstream.identities["p384"].alg == "ecdsa-p384-sha256"
    assert list(policy.trusted_roots) == ["ci"]  # the same root is there once
    assert [rule.match for rule in policy.upstream.images] == ["docker.io/vllm/*", "**"]
    assert policy.upstream.images[0].attestations[0].by == ("ci", "ci2")
    for text in ("a signature by vendor and an attestation https://slsa.dev/provenance/v1 by ci or ci2", f"ci is {WORKFLOW}", "trusted root ci"):
        assert text in shown.out
    assert "no upstream signature of an image is judged" not in shown.out


def test_what_the_commands_refuse(desk: Desk):
    before = (desk.folder / "policy.json").read_bytes()
    (desk.folder / "no.pub").write_text("x")
    refused = [
        ("upstream-key", "policy.json", "--identity", "vendor"),
        ("upstream-key", "policy.json", "--identity", "vendor=no.pub"),
        ("upstream-key", "policy.json", "--identity", "vendor=vendor.pub", "--algorithm", "rsa"),
        ("upstream-key", "policy.json", "--identity", "vendor=vendor.pub", "--algorithm", "ed25519"),
        ("upstream-image", "policy.json", "--match", "**", "--signed-by", "nobody"),
        ("upstream-image", "policy.json", "--match", "**"),
        ("add-signer", "policy.json", "--signer", "rsa=rsa.pub"),
        ("upstream-sigstore", "policy.json", "--identity", "ci", "--san", "*", "--issuer", "x", "--trusted-root", "root.json"),
        ("upstream-sigstore", "policy.json", "--identity", "ci", "--san", "a", "--issuer", "x", "--trusted-root", "no.pub"),
    ]
    refused += [("upstream-image", "policy.json", "--match", "**", "--attestation", text) for text in ("type", "=name", "type=")]
    for arguments in refused:
        said = desk.bundle("policy", *arguments, code=2).err
        assert "Value error" not in said
        assert "(got {" not in said
        assert (desk.folder / "policy.json").read_bytes() == before
    assert "No rule says who signs images" in desk.bundle("policy", "show", "policy.json").out
