"""Attestations of wheels against others: the reference implementation reads ours and signs for us, and real ones verify without a network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from types import ModuleType

import pytest
from parts import pep740, pydesk, pyindex
from parts.pep740 import REPOSITORY, WORKFLOW, Publisher, policy, provenance, who
from parts.rekor1 import Rekor1, rekor1
from parts.sigstore import PrivateSigstore, private_sigstore
from parts.wheelhouse import APP, Carried

from airgap_images.wheel_evidence import WheelEvidence
from audit.verify.published import PUBLISH, attestations, published

pytestmark = pytest.mark.network
WHEEL = b"the wheel"
GITHUB, CIRCLE, GOOGLE = "https://token.actions.githubusercontent.com", "https://oidc.circleci.com", "https://accounts.google.com"
PIPELINE = "https://circleci.com/api/v2/projects/fdd9283f-e619-46af-8f9c-851f7d3e8b2b/pipeline-definitions/8e4f8ab2-8d7c-4827-9f15-de076d6d647f"
REAL = [  # a file, and who published it
    ("pypi_attestations-0.0.19.tar.gz", who("https://github.com/trailofbits/pypi-attestations", issuer=GITHUB)),
    ("circleci_sign_publish_example-0.0.1.dev137-py3-none-any.whl", who(identity=PIPELINE, issuer=CIRCLE)),
    ("gcb_attestation_test-0.0.0.tar.gz", who(identity="919436158236-compute@developer.gserviceaccount.com", issuer=GOOGLE)),
]


@pytest.fixture(scope="module")
def private() -> Iterator[PrivateSigstore]:
    with private_sigstore() as started:
        yield started


@pytest.fixture(scope="module")
def log(private: PrivateSigstore) -> Iterator[Rekor1]:
    with rekor1(private) as started:
        started.grow(3)
        yield started


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(pep740.library()))
    return pytest.importorskip("pypi_attestations")


@pytest.fixture(scope="module")
def public() -> dict:
    """The trusted root of the public instance, as it stands in the wheel of sigstore."""
    (found,) = (
        folder / "trusted_root.json" for folder in (resources.files("sigstore") / "_store").iterdir() if folder.name.endswith("sigstore.dev")
    )
    return json.loads(found.read_text())


def test_the_peer_reads_and_believes_what_our_index_serves(peer, private, log, monkeypatch, tmp_path):
    from sigstore.models import TrustedRoot
    from sigstore.verify import Verifier
    from sigstore.verify.policy import AllOf, OIDCIssuer, OIDCSourceRepositoryURI

    (tmp_path / "root.json").write_text(json.dumps(log.trusted_root()))
    trusted = TrustedRoot.from_file(str(tmp_path / "root.json"))
    monkeypatch.setattr(peer._impl.Verifier, "production", lambda **_: Verifier(trusted_root=trusted))
    publisher = Publisher(private, log)
    read = peer.Provenance.model_validate_json(provenance(publisher.attest(APP, WHEEL)))
    (found,) = read.attestation_bundles[0].attestations
    (tmp_path / APP).write_bytes(WHEEL)
    subject = peer.Distribution.from_file(tmp_path / APP)
    wanted = AllOf([OIDCSourceRepositoryURI(REPOSITORY), OIDCIssuer(publisher.issuer)])
    assert found.verify(wanted, subject, offline=True)[0] == PUBLISH
    with pytest.raises(peer.VerificationError):
        found.verify(AllOf([OIDCSourceRepositoryURI("https://git.example.test/fork/app")]), subject, offline=True)


def test_what_the_peer_signs_is_judged_here(peer, private, log, tmp_path):
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.sign import SigningContext

    told = private.trust_config(log=(log.url, 1), stamps=0, root=log.trusted_root())
    context = SigningContext.from_trust_config(ClientTrustConfig.from_json(json.dumps(told)))
    (tmp_path / APP).write_bytes(WHEEL)
    with context.signer(IdentityToken(private.token(WORKFLOW, repository=REPOSITORY))) as signer:
        made = peer.Attestation.sign(signer, peer.Distribution.from_file(tmp_path / APP))
    publisher = peer.GitHubPublisher(repository="org/app", workflow="release.yml")
    bundle = peer.AttestationBundle(publisher=publisher, attestations=[made])
    raw = peer.Provenance(attestation_bundles=[bundle]).model_dump_json().encode()
    carried = Carried(tmp_path)
    carried.attest(APP, raw)
    found = carried.verdict(policy(log.trusted_root()))
    assert (found.result, found.reason) == ("good", "attested by publisher")
    assert carried.verdict(policy(log.trusted_root(), signers={"fork": who("https://git.example.test/fork/app")})).result == "wrong"
    carried.files[APP] = b"another"
    assert carried.verdict(policy(log.trusted_root())).result == "wrong"


@pytest.mark.parametrize(("name", "publisher"), REAL)
def test_a_real_attestation_verifies_offline_with_the_public_root(tmp_path, public, name, publisher):
    folder = pep740.assets()
    carried = Carried(tmp_path, {name: (folder / name).read_bytes()})
    carried.attest(name, (folder / f"{name}.provenance").read_bytes())
    good = carried.verdict(policy(public, "**", signers={"them": publisher}))
    assert (good.result, good.reason) == ("good", "attested by them"), good.reason
    fork = who("https://github.com/fork/pypi-attestations", issuer=publisher["issuer"])
    assert carried.verdict(policy(public, "**", signers={"fork": fork})).result == "wrong"
    carried.files[name] += b" "
    assert "not about this file" in carried.verdict(policy(public, "**", signers={"them": publisher})).reason


@pytest.mark.parametrize(("name", "publisher"), REAL)
def test_the_peer_agrees_about_what_real_attestations_state(peer, name, publisher):
    raw = (pep740.assets() / f"{name}.provenance").read_bytes()
    theirs = [one for bundle in peer.Provenance.model_validate_json(raw).attestation_bundles for one in bundle.attestations]
    ours = [published(value, name) for value in attestations(raw, name)]
    assert [(one.name, one.sha256) for one in ours] == [
        (one.statement["subject"][0]["name"], one.statement["subject"][0]["digest"]["sha256"]) for one in theirs
    ]
    assert [one.predicate for one in ours] == [one.statement["predicateType"] for one in theirs]


def test_a_real_file_beside_which_another_file_is_attested_is_wrong(tmp_path, public):
    folder, name = pep740.assets(), REAL[0][0]
    carried = Carried(tmp_path, {name: (folder / name).read_bytes()})
    carried.attest(name, (folder / f"{REAL[1][0]}.provenance").read_bytes())
    assert carried.verdict(policy(public, "**", signers={"them": REAL[0][1]})).result == "wrong"


def test_the_index_of_this_machine_is_asked_and_what_it_lacks_is_unknown(tmp_path):
    desk = pydesk.Desk(tmp_path)
    locked = desk.lock("idna", "sampleproject")
    found = desk.beside(locked)
    said = WheelEvidence.parse(pydesk.text(found, "upstream.json").encode(), "upstream.json")
    listed = {one.path for one in said.attested} | {path for _, paths in said.absent for path in paths}
    assert listed == {pin.path for pin in locked.files}
    assert desk.beside(locked, locked, found) == found


def test_a_real_provenance_is_collected_from_an_index_and_carried_byte_for_byte(tmp_path):
    raw = (pep740.assets() / f"{REAL[1][0]}.provenance").read_bytes()
    with pyindex.Index() as index:
        desk = pydesk.Desk(tmp_path, index, environment=pydesk.base(tmp_path) | {"UV_DEFAULT_INDEX": index.url})
        desk.add("app", "1.0")
        index.attest(APP, raw)
        (kept,) = (desk.placed(desk.beside(desk.lock("app"))) / "provenance").iterdir()
    assert kept.read_bytes() == raw
