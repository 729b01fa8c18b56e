"""Chains of certificates: what counts for a signer whom a policy knows by certificate, and everything that does not."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509 as certificates
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import authority
from parts.authority import ANY, CODE, DAY, NOW, SERVER, STAMPING, Party, entry, known, mail, named, uri, usage
from parts.images import need

from audit.verify import x509
from audit.verify.recognise import recognise
from audit.verify.trust import Memory, judge
from manifests import canonical, statement
from manifests.errors import InvalidFileError, RefusedError
from manifests.identities import CertificateSigner
from manifests.policy import Policy, first_policy, signer_entry
from manifests.publickey import canonical_pem, key_id
from manifests.statement import Envelope

STREAM = "s"
SUBJECTS = {"index.json": {"sha256": "a" * 64}, "SHA256SUMS": {"sha256": "b" * 64}}
PAYLOAD = statement.payload(
    SUBJECTS, stream=STREAM, serial=1, created=NOW, expires=NOW + 90 * DAY, previous=None, policy_version=1, tool=("airgap-bundler", "test")
)
CRITICAL = (certificates.UnrecognizedExtension(certificates.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)
ALGORITHMS = {"p256": "ecdsa-p256-sha256", "p384": "ecdsa-p384-sha384", "ml-dsa-87": "ml-dsa-87"}


@pytest.fixture(scope="module")
def root() -> Party:
    return authority.root()


@pytest.fixture(scope="module")
def office(root) -> Party:
    return root.below("Office", length=0)


@pytest.fixture(scope="module")
def bob(office) -> Party:
    return office.signer("bob")


def judged(signer: CertificateSigner, *chain: Party, at=NOW, **options):
    return x509.leaf(signer, tuple(party.der for party in chain), at, **options)


def why(signer: CertificateSigner, *chain: Party, at=NOW, **options) -> str:
    with pytest.raises(ValueError, match=".") as caught:
        judged(signer, *chain, at=at, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


# --- chains that hold ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALGORITHMS)
@pytest.mark.parametrize("between", [0, 1, 3])
def test_a_chain_of_every_algorithm_holds(kind, between):
    above = [authority.root(kind)]
    for at in range(between):
        above.insert(0, above[0].below(f"Office {at}", kind))
    bob = above[0].signer("bob", kind)
    found = judged(known(above[-1], bob), bob, *above[:-1])
    assert (found.key_id, bob.signing.algorithm) == (key_id(bob.own.public_key()), ALGORITHMS[kind])
    fingerprint = above[-1].own.fingerprint(hashes.SHA256()).hex()
    assert found.words == f"the certificate of CN=bob,O=Example below root CN=Root,O=Example (sha256 {fingerprint})"


def test_algorithms_may_differ_along_a_chain():
    root = authority.root("ml-dsa-87")
    office = root.below("Office", "p521")
    bob = office.signer("bob", "p256")
    assert judged(known(root, bob), bob, office).words


def test_the_root_may_be_carried_or_left_out(root, office, bob):
    assert judged(known(root, bob), bob, office) == judged(known(root, bob), bob, office, root)


def test_an_authority_below_another_may_be_what_is_pinned(office, bob):
    assert judged(known(office, bob), bob)


def test_one_of_several_roots_is_enough(root, office, bob):
    signer = known(root, bob, roots=[authority.root(name="Other").pem, root.pem])
    assert "below root CN=Root,O=Example" in judged(signer, bob, office).words


def test_an_authority_may_say_nothing_of_what_its_key_is_for():
    """RFC 5280 asks that it does; many a private root does not, as the one `openssl req -x509` makes."""
    root = authority.root(usage=None)
    bob = root.signer("bob")
    assert judged(known(root, bob), bob)


def test_an_authority_for_code_signing_only(root):
    for purposes in ([CODE], [ANY], [SERVER, CODE]):
        office = root.below("Office", purposes=purposes)
        bob = office.signer("bob")
        assert judged(known(root, bob), bob, office)


def test_an_end_of_validity_is_part_of_it(root, office):
    bob = office.signer("bob", since=NOW, until=NOW + DAY)
    for at in (NOW, NOW + DAY, NOW + timedelta(microseconds=1), NOW + DAY + timedelta(microseconds=999)):
        assert judged(known(root, bob), bob, office, at=at)


def test_what_other_tools_write_of_it(root, office, bob, tmp_path):
    """openssl as the second implementation: the very files verify there."""
    need("openssl")
    for name, party in {"root": root, "office": office, "bob": bob}.items():
        (tmp_path / f"{name}.pem").write_text(party.pem)
    command = ["openssl", "verify", "-CAfile", "root.pem", "-untrusted", "office.pem", "-purpose", "any", "-x509_strict"]  # 3.0 knows no `-purpose codesign`

    def verified(path: str) -> bool:
        return subprocess.run([*command, path], cwd=tmp_path, check=False, capture_output=True).returncode == 0

    stranger = authority.root().signer("bob")
    (tmp_path / "stranger.pem").write_text(stranger.pem)
    assert verified("bob.pem")
    assert not verified("stranger.pem")


# --- names --------------------------------------------------------------------------------------------------------------


def test_another_name_is_not_theirs(root, office, bob):
    for other in ({"subject": "CN=carol,O=Example"}, {"subject": "O=Example"}, {"subject": "CN=bob"}, {"san": "bob@example.org"}):
        assert judged(known(root, bob, **other), bob, office) is None


def test_a_name_is_compared_before_anything_else(root, office):
    """What is wrong with a stranger's certificate is nothing to a signer."""
    stranger = authority.root().signer("carol", purposes=[SERVER], until=NOW - timedelta(hours=1))
    assert x509.leaf(known(root, subject="CN=bob"), (stranger.der, b"garbage"), NOW) is None


@pytest.mark.parametrize("name", [mail("bob@example.org"), uri("https://git.example.org/bob")])
def test_an_alternative_name(root, office, name):
    bob = office.signer("bob", san=[certificates.DNSName("example.org"), name])
    assert judged(known(root, bob, san=name.value), bob, office).words.startswith(f"the certificate of {name.value} below root")
    assert judged(known(root, bob, san=name.value, subject="CN=bob,O=Example"), bob, office)
    assert judged(known(root, bob, san=name.value, subject="CN=carol,O=Example"), bob, office) is None
    for other in (name.value.upper(), f"{name.value}.evil.example", name.value[:-1], "example.org"):
        assert judged(known(root, bob, san=other), bob, office) is None


def test_a_certificate_without_a_subject(root, office):
    key = authority.KEYS["p384"]()
    bob = Party(office.issue(certificates.Name([]), key.public_key(), san=mail("bob@example.org")), key)
    assert judged(known(root, bob, san="bob@example.org"), bob, office)


def test_the_same_name_under_another_root_is_refused(root, office, bob):
    other = authority.root(name="Root")
    twin = other.below("Office").signer("bob")
    assert "none of the pinned roots" in why(known(root, bob), twin)
    imitated = other.below("Office")
    assert "its chain does not hold" in why(known(root, bob), imitated.signer("bob"), imitated)
    assert "its chain does not hold" in why(known(root, bob), imitated.signer("bob"), imitated, other)
    assert "its chain does not hold" in why(known(root, bob), imitated.signer("bob"), office)


def test_an_authority_that_is_not_carried(root, bob):
    assert why(known(root, bob), bob) == (
        "its chain does not hold: none of the pinned roots has certified it, or an authority between is not carried"
    )


# --- purpose and form ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("purposes", [None, [SERVER], [STAMPING], [ANY], [SERVER, STAMPING]])
def test_only_for_signing_code(root, office, purposes):
    bob = office.signer("bob", purposes=purposes)
    assert why(known(root, bob), bob, office) == "it is not for signing code (extendedKeyUsage codeSigning)"


@pytest.mark.parametrize("uses", [None, usage("content_commitment"), usage("key_encipherment")])
def test_only_for_signatures(root, office, uses):
    bob = office.signer("bob", usage=uses)
    assert why(known(root, bob), bob, office) == "it is not for signatures (keyUsage digitalSignature)"


def test_an_authority_is_nobody_who_signs(root):
    office = root.below("bob", purposes=[CODE], usage=usage("digital_signature", "key_cert_sign"))
    assert why(known(root, office), office) == "it is the certificate of an authority, not of a signer"
    assert "of an authority" in why(known(root, root), root)


def test_a_signer_certifies_nobody(root, office):
    for fields in ({}, {"ca": None}, {"usage": usage("digital_signature", "key_cert_sign")}):
        bob = office.signer("bob", **fields)
        mallory = bob.signer("mallory")
        assert "its chain does not hold" in why(known(root, mallory), mallory, bob, office)


@pytest.mark.parametrize("fields", [{"usage": usage("digital_signature", "crl_sign")}, {"purposes": [SERVER]}, {"ca": None}, {"extensions": [CRITICAL]}])
def test_an_authority_that_may_not_certify_this(root, fields):
    office = root.below("Office", **fields)
    bob = office.signer("bob")
    assert "its chain does not hold" in why(known(root, bob), bob, office)


@pytest.mark.parametrize("fields", [{"usage": usage("digital_signature", "crl_sign")}, {"purposes": [SERVER]}, {"extensions": [CRITICAL]}])
def test_a_pinned_root_is_asked_the_same(fields):
    root = authority.root(**fields)
    bob = root.signer("bob")
    assert "its chain does not hold" in why(known(root, bob), bob)


def test_a_critical_extension_that_nobody_knows(root, office):
    bob = office.signer("bob", extensions=[CRITICAL])
    assert "unaccounted-for critical extensions" in why(known(root, bob), bob, office)
    bob = office.signer("bob", extensions=[(CRITICAL[0], False)])
    assert judged(known(root, bob), bob, office)


def test_how_deep_an_authority_may_certify(root, office):
    deeper = office.below("Deeper")
    bob = deeper.signer("bob")
    assert "path length" in why(known(root, bob), bob, deeper, office)
    flat = authority.root(length=0)
    below = flat.below("Office")
    bob = below.signer("bob")
    assert "path length" in why(known(flat, bob), bob, below)


def test_how_deep_a_chain_may_be_at_all(root):
    above = [root]
    for at in range(x509.MAX_BETWEEN + 1):
        above.insert(0, above[0].below(f"Office {at}"))
    bob = above[0].signer("bob")
    assert "its chain does not hold" in why(known(root, bob), bob, *above[:-1])


def test_many_ways_up_take_no_long_time(root):
    """Authorities that certify each other: the ways from a signer to nowhere grow with the factorial of their number."""
    crowd = [authority.root("ml-dsa-87", "Crowd") for _ in range(statement.MAX_CHAIN - 1)]
    bob = crowd[0].signer("bob")
    started = time.process_time()
    assert "its chain does not hold" in why(known(root, bob), bob, *crowd)
    assert time.process_time() - started < 5


def test_limits_of_names_are_kept(root):
    limited = (certificates.NameConstraints([mail("example.org")], None), True)
    office = root.below("Office", extensions=[limited])
    bob = office.signer("bob", san=mail("bob@example.org"))
    assert judged(known(root, bob, san="bob@example.org"), bob, office)
    evil = office.signer("bob", san=mail("bob@evil.example"))
    assert "its chain does not hold" in why(known(root, bob, san="bob@evil.example"), evil, office)
    for limit in (certificates.DirectoryName(named("Office")), certificates.UniformResourceIdentifier(".example.org")):
        strict = root.below("Office", extensions=[(certificates.NameConstraints([limit], None), True)])
        who = strict.signer("bob", san=uri("https://www.example.org/bob"))
        assert "its chain does not hold" in why(known(root, who), who, strict)


def test_limits_of_names_that_are_not_critical_are_refused(root):
    """RFC 5280, section 4.2.1.10: they must be critical; otherwise the library would pass over what it does not know."""
    office = root.below("Office", extensions=[(certificates.NameConstraints([certificates.DirectoryName(named("x"))], None), False)])
    bob = office.signer("bob")
    assert "its chain does not hold" in why(known(root, bob), bob, office)


def test_an_address_in_the_subject_does_not_slip_past_the_limits(root):
    office = root.below("Office", extensions=[(certificates.NameConstraints([mail("example.org")], None), True)])
    key = authority.KEYS["p384"]()
    subject = named("bob", certificates.NameAttribute(NameOID.EMAIL_ADDRESS, "bob@evil.example"))
    bob = Party(office.issue(subject, key.public_key()), key)
    assert "the e-mail address in the subject" in why(known(root, bob), bob, office)


def test_exactly_the_chain_is_carried(root, office, bob):
    """What is not needed could be changed unseen."""
    other = authority.root(name="Other")
    for chain in ((bob, office, other), (bob, office, office), (bob, root, office), (bob, office, root, other), (bob, office, bob)):
        assert "not exactly its chain" in why(known(root, bob), *chain)


# --- algorithms ---------------------------------------------------------------------------------------------------------


def test_the_key_is_of_the_algorithm_that_the_policy_says(root, office):
    for kind, alg in (("p256", "ecdsa-p384-sha384"), ("p384", "ml-dsa-87"), ("ml-dsa-87", "ecdsa-p256-sha256")):
        bob = office.signer("bob", kind)
        assert why(known(root, bob, alg=alg), bob, office) == f"its key is for {ALGORITHMS[kind]}, the policy says {alg}"
    for kind in ("p521", "rsa", "ml-dsa-65"):
        bob = office.signer("bob", kind)
        assert "not accepted" in why(known(root, subject="CN=bob,O=Example"), bob, office)


@pytest.mark.parametrize("kind", ["p384", "ml-dsa-87"])
def test_cnsa_is_met_by_its_two_algorithms(kind):
    root = authority.root(kind)
    office = root.below("Office", "p384")
    bob = office.signer("bob", kind)
    assert judged(known(root, bob), bob, office, cnsa=True)


def test_cnsa_asks_every_certificate():
    root = authority.root()
    for office in (root.below("Office", "p256"), root.below("Office", "p521"), root.below("Office", digest=hashes.SHA256())):
        bob = office.signer("bob")
        assert judged(known(root, bob), bob, office)
        assert "profile cnsa asks of every certificate" in why(known(root, bob), bob, office, cnsa=True)
    weak = authority.root("p256", digest=hashes.SHA384())
    bob = weak.signer("bob")
    assert "CN=Root,O=Example is not of P-384" in why(known(weak, bob), bob, cnsa=True)
    hashed = authority.root(digest=hashes.SHA256())
    office = Party(hashed.own, hashed.key)
    bob = office.signer("bob")
    assert "CN=Root,O=Example is not of P-384" in why(known(hashed, bob), bob, cnsa=True)


def test_cnsa_refuses_a_chain_with_a_lesser_authority_as_a_whole():
    root = authority.root("p256")
    bob, carol = root.signer("bob"), root.signer("carol", "ml-dsa-87")
    terms = {"stream": STREAM, "threshold": 2, "expires": NOW + DAY, "profile": "cnsa"}
    policy = first_policy(signers={"bob": entry(root, bob), "carol": entry(root, carol)}, **terms)
    found = recognise(policy, [file("bob", bob.envelope(PAYLOAD)), file("carol", carol.envelope(PAYLOAD))], NOW)
    assert not found.signatures
    assert [failure.rule for failure in found.failures] == ["3.certificate", "3.certificate"]


# --- time ---------------------------------------------------------------------------------------------------------------


def test_outside_of_its_time(root, office):
    bob = office.signer("bob", since=NOW, until=NOW + DAY)
    since, until = canonical.stamp(NOW), canonical.stamp(NOW + DAY)
    for at in (NOW - timedelta(seconds=1), NOW + DAY + timedelta(seconds=1)):
        words = f"CN=bob,O=Example is valid from {since} to {until}; the time that counts is {canonical.stamp(at)}"
        assert why(known(root, bob), bob, office, at=at) == words


def test_an_authority_outside_of_its_time():
    root = authority.root(until=NOW + 2 * DAY)
    office = root.below("Office", until=NOW + DAY)
    bob = office.signer("bob")
    assert "CN=Office,O=Example is valid" in why(known(root, bob), bob, office, at=NOW + DAY + timedelta(hours=1))
    bob = root.signer("bob")
    assert "not valid at validation time" in why(known(root, bob), bob, at=NOW + 3 * DAY)


# --- revocation ---------------------------------------------------------------------------------------------------------


def test_without_lists_it_is_said_what_is_not_known(root, office, bob):
    assert judged(known(root, bob), bob, office).notes == (
        "whether CN=Office,O=Example has revoked CN=bob,O=Example is not known: the policy has no revocation list of it",
        "whether CN=Root,O=Example has revoked CN=Office,O=Example is not known: the policy has no revocation list of it",
    )


def test_lists_that_do_not_name_them(root, office, bob):
    other = office.signer("other")
    lists = [office.crl(revoked=[other]), root.crl()]
    assert judged(known(root, bob, crls=lists), bob, office, now=NOW).notes == ()


@pytest.mark.parametrize("since", [NOW - 9 * DAY, NOW - DAY, NOW + DAY])
def test_who_is_revoked_is_refused_whatever_the_date(root, office, bob, since):
    lists = [office.crl(revoked=[office.signer("other"), bob], since=since), root.crl()]
    words = f"CN=bob,O=Example was revoked by CN=Office,O=Example on {canonical.stamp(since)}"
    for at in (NOW - timedelta(hours=1), NOW, NOW + DAY):
        assert why(known(root, bob, crls=lists), bob, office, at=at, now=NOW) == words


def test_a_revoked_authority(root, office, bob):
    assert "CN=Office,O=Example was revoked by CN=Root,O=Example" in why(known(root, bob, crls=[root.crl(revoked=[office])]), bob, office)


def test_any_of_an_authoritys_lists_counts(root, office, bob):
    lists = [office.crl(made=NOW - timedelta(hours=1)), office.crl(revoked=[bob], made=NOW - 9 * DAY, due=NOW - DAY)]
    assert "was revoked" in why(known(root, bob, crls=lists), bob, office)


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_lists_of_every_algorithm(kind):
    root = authority.root(kind)
    bob = root.signer("bob", kind)
    assert judged(known(root, bob, crls=[root.crl()]), bob, now=NOW).notes == ()
    assert "was revoked" in why(known(root, bob, crls=[root.crl(revoked=[bob])]), bob)


def test_an_old_list_is_said_and_not_refused(root, office, bob):
    made, due = NOW - 9 * DAY, NOW - DAY
    lists = [office.crl(made=made, due=due), root.crl()]
    (note,) = judged(known(root, bob, crls=lists), bob, office, now=NOW).notes
    assert note == (
        f"whether CN=Office,O=Example has revoked CN=bob,O=Example since {canonical.stamp(made)} is not known: its revocation list is of then, "
        f"and was due to be replaced on {canonical.stamp(due)}"
    )
    assert judged(known(root, bob, crls=[*lists, office.crl()]), bob, office, now=NOW).notes == ()


def test_where_today_is_not_known_the_age_of_lists_is_said(root, office, bob):
    notes = judged(known(root, bob, crls=[office.crl(), root.crl()]), bob, office).notes
    assert [f"since {canonical.stamp(NOW - DAY)} is not known" in note for note in notes] == [True, True]


def test_a_list_from_the_future(root, office, bob):
    def lists(ahead: timedelta) -> list[str]:
        return [office.crl(made=NOW + ahead, due=NOW + 9 * DAY), root.crl()]

    assert "is from the future" in why(known(root, bob, crls=lists(DAY + timedelta(minutes=1))), bob, office, now=NOW)
    assert judged(known(root, bob, crls=lists(DAY)), bob, office, now=NOW)


def test_a_list_newer_than_the_signature_is_what_is_wanted(root, office, bob):
    assert judged(known(root, bob, crls=[office.crl(), root.crl()]), bob, office, at=NOW - DAY, now=NOW).notes == ()


def test_a_forged_list(root, office, bob):
    """Whoever can put one beside a policy cannot revoke, nor hide that someone is revoked."""
    forger = replace(authority.root(name="Forger"), digest=None)
    forged = office.crl(by=forger)
    assert why(known(root, bob, crls=[forged]), bob, office) == "the policy's revocation list of CN=Office,O=Example is not signed by its key"
    assert "was revoked" in why(known(root, bob, crls=[forged, office.crl(revoked=[bob])]), bob, office)
    assert judged(known(root, bob, crls=[office.crl(revoked=[bob], by=forger), office.crl(), root.crl()]), bob, office, now=NOW).notes == ()


def test_a_list_of_an_authority_that_may_make_none(root):
    office = root.below("Office", usage=usage("key_cert_sign"))
    bob = office.signer("bob")
    assert "not signed by its key" in why(known(root, bob, crls=[office.crl()]), bob, office)


def test_a_list_of_another_authority_says_nothing(root, office, bob):
    strangers = authority.root(name="Stranger")
    assert len(judged(known(root, bob, crls=[strangers.crl(revoked=[bob])]), bob, office).notes) == 2


def scope(**fields) -> tuple[certificates.IssuingDistributionPoint, bool]:
    silent = {
        "full_name": None, "relative_name": None, "only_contains_user_certs": False, "only_contains_ca_certs": False,
        "only_some_reasons": None, "indirect_crl": False, "only_contains_attribute_certs": False,
    }  # fmt: skip
    return certificates.IssuingDistributionPoint(**(silent | fields)), True


@pytest.mark.parametrize(
    ("extension", "words"),
    [
        ((certificates.DeltaCRLIndicator(1), True), "is a delta"),
        ((certificates.DeltaCRLIndicator(1), False), "is a delta"),
        (scope(indirect_crl=True), "pin a whole one"),
        (scope(only_some_reasons=frozenset({certificates.ReasonFlags.key_compromise})), "pin a whole one"),
        (scope(only_contains_attribute_certs=True), "pin a whole one"),
        (CRITICAL, "has a critical extension (1.2.3.4), which is not understood"),
    ],
)
def test_a_list_that_is_not_understood_as_a_whole(root, office, bob, extension, words):
    assert words in why(known(root, bob, crls=[office.crl(extensions=[extension])]), bob, office)


def test_a_list_with_entries_of_other_authorities(root, office, bob):
    inner = [(certificates.CertificateIssuer([certificates.DirectoryName(named("Other"))]), True)]
    crl = office.crl(revoked=[office.signer("other")], inner=inner)
    assert "has entries with a critical extension (2.5.29.29)" in why(known(root, bob, crls=[crl]), bob, office)


def test_a_list_for_some_certificates_says_nothing_of_the_others(root, bob, office):
    for words, extension in (("bob", scope(only_contains_ca_certs=True)), ("bob", scope(full_name=[uri("http://crl.example/1")]))):
        (note,) = judged(known(root, bob, crls=[office.crl(extensions=[extension]), root.crl()]), bob, office, now=NOW).notes
        assert f"has revoked CN={words}" in note
    (note,) = judged(known(root, bob, crls=[office.crl(), root.crl(extensions=[scope(only_contains_user_certs=True)])]), bob, office, now=NOW).notes
    assert "has revoked CN=Office" in note
    points = certificates.CRLDistributionPoints([certificates.DistributionPoint([uri("http://crl.example/1")], None, None, None)])
    carol = office.signer("carol", extensions=[(points, False)])
    lists = [office.crl(extensions=[scope(full_name=[uri("http://crl.example/1")], only_contains_user_certs=True)]), root.crl()]
    assert judged(known(root, carol, crls=lists), carol, office, now=NOW).notes == ()


def test_a_list_hashed_with_too_little(root):
    weak = Party(root.own, root.key, hashes.SHA256())
    bob = root.signer("bob")
    assert judged(known(root, bob, crls=[weak.crl()]), bob, cnsa=False)
    assert "with a hash that does not count" in why(known(root, bob, crls=[weak.crl()]), bob, cnsa=True)


# --- hostile bytes ------------------------------------------------------------------------------------------------------


def test_garbage_bears_nobodys_name(root, office, bob):
    signer = known(root, bob)
    for der in (b"", b"\0", b"0\x80", bob.der[:-1], bob.der + b"\0", canonical_pem(bob.own.public_key()).encode(), bob.pem.encode()):
        with pytest.raises(x509.UnreadableError, match="^the certificate cannot be read$"):
            x509.leaf(signer, (der, office.der), NOW)
        with pytest.raises(ValueError, match="a certificate that is carried above it cannot be read"):
            x509.leaf(signer, (bob.der, der), NOW)


def test_what_no_certificate_should_have_is_no_reason_for_a_warning(root, office, bob):
    """The library warns of a serial number below zero; warnings are errors here."""
    serial = bob.own.serial_number.to_bytes((bob.own.serial_number.bit_length() + 8) // 8)
    at = bob.der.index(serial)
    odd = bob.der[:at] + bytes([serial[0] | 0x80]) + bob.der[at + 1 :]
    assert x509.leaf(known(root, subject="CN=x"), (odd, office.der), NOW) is None
    assert rejected(known(root, bob), (odd, office.der))
    assert x509.fulcio(odd)
    identifier = office.own.extensions.get_extension_for_class(certificates.SubjectKeyIdentifier).value.key_identifier
    at = bob.der.index(b"\x80\x14" + identifier)  # who issued it, by key; as [2] it is their certificate's serial number
    odd = bob.der[:at] + b"\x82\x14\x80" + bob.der[at + 3 :]
    assert rejected(known(root, bob), (odd, office.der))
    x509.fulcio(odd)


@settings(max_examples=300, deadline=None, database=None)
@given(data=st.data())
def test_a_mutated_chain_is_never_trusted(data, root, office, bob):
    chain = [bytearray(bob.der), bytearray(office.der)]
    one = data.draw(st.sampled_from(chain))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(one) - 1))
        how = data.draw(st.sampled_from(("set", "cut", "double", "put")))
        if how == "set":
            one[at] ^= data.draw(st.integers(1, 255))
        elif how == "cut":
            del one[at : at + data.draw(st.integers(1, 9))]
        elif how == "double":
            one[at:at] = one[at : at + data.draw(st.integers(1, 9))]
        else:
            one[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        if not one:
            break
    if [bytes(part) for part in chain] != [bob.der, office.der]:
        assert rejected(known(root, bob), tuple(map(bytes, chain)))


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None, database=None)
def test_any_bytes_are_read_or_refused(data):
    signer = CertificateSigner.model_construct(type="x509", alg="ml-dsa-87", roots=(), subject="CN=a", san=None, crls=())
    assert rejected(signer, (data, data))
    x509.fulcio(data)


def rejected(signer: CertificateSigner, chain: tuple[bytes, ...]) -> bool:
    try:
        return x509.leaf(signer, chain, NOW) is None
    except ValueError as error:
        assert str(error).isprintable()
        return True


def test_no_change_of_one_byte_of_a_chain_passes():
    """Every byte of both certificates, each changed in its lowest and its highest bit.

    One byte is in no signature: how many bits at the end of a certificate's own are unused. Where those are zero, as here, the library
    would take another number for the same.
    """
    root = authority.root("p256")
    office = root.below("Office", "p256")
    while office.der[-1] & 1:
        office = root.below("Office", "p256")
    bob = office.signer("bob", "p256")
    while bob.der[-1] & 1:
        bob = office.signer("bob", "p256")
    signer, chain = known(root, bob), (bob.der, office.der)
    assert x509.leaf(signer, chain, NOW)
    for which in (0, 1):
        for at in range(len(chain[which])):
            for flip in (0x01, 0x80):
                changed = bytearray(chain[which])
                changed[at] ^= flip
                mutated = (bytes(changed), chain[1]) if which == 0 else (chain[0], bytes(changed))
                assert rejected(signer, mutated), (which, at, flip)


# --- as signers of a bundle ---------------------------------------------------------------------------------------------


def file(name: str, envelope: Envelope) -> tuple[str, bytes]:
    return f"signatures/{name}.sigstore.json", envelope.to_bytes()


def site(threshold: int = 1, **signers: dict) -> Policy:
    return first_policy(STREAM, signers, threshold=threshold, expires=NOW + 60 * DAY)


def refused(policy: Policy, files: list[tuple[str, bytes]], now=NOW) -> tuple[str, str]:
    with pytest.raises(RefusedError) as caught:
        judge(policy, SUBJECTS, files, Memory(), now)
    (reason,) = caught.value.failures
    return reason.rule, reason.message


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_a_signature_with_a_certificate_counts(kind):
    root = authority.root(kind)
    office = root.below("Office", kind)
    bob = office.signer("bob", kind)
    (found,) = judge(site(bob=entry(root, bob)), SUBJECTS, [file("b", bob.envelope(PAYLOAD, office))], Memory(), NOW).signatures
    assert (found.signer, found.kind, found.algorithm) == ("bob", "x509", ALGORITHMS[kind])
    assert found.trusted_by.startswith("the certificate of CN=bob,O=Example below root CN=Root,O=Example (sha256 ")
    assert len(found.notes) == 2


def test_a_signature_by_another_key_with_bobs_certificate(root, office, bob):
    forged = replace(office.signer("bob").envelope(PAYLOAD, office), chain=(bob.der, office.der))
    assert refused(site(bob=entry(root, bob)), [file("b", forged)]) == (
        "3.signature", "signatures/b.sigstore.json: claims to be by bob and does not verify"
    )  # fmt: skip


def test_an_expired_certificate_is_refused_now(root, office):
    bob = office.signer("bob", until=NOW + timedelta(hours=1))
    rule, message = refused(site(bob=entry(root, bob)), [file("b", bob.envelope(PAYLOAD, office))], NOW + DAY)
    assert rule == "3.certificate"
    assert message.startswith("signatures/b.sigstore.json: claims to be by bob: CN=bob,O=Example is valid from")


def test_a_strangers_certificate_is_ignored_and_an_unreadable_one_refused(root, office, bob):
    alice = root.signer("alice")
    both = [file("a", alice.envelope(PAYLOAD)), file("b", bob.envelope(PAYLOAD, office))]
    found = judge(site(bob=entry(root, bob)), SUBJECTS, both, Memory(), NOW)
    assert [(entry.file, entry.reason) for entry in found.ignored] == [(both[0][0], "made with no certificate of this policy")]
    garbage = replace(bob.envelope(PAYLOAD, office), chain=(b"garbage",))
    rule, message = refused(site(bob=entry(root, bob)), [both[1], file("x", garbage)])
    assert (rule, message) == ("3.certificate", "signatures/x.sigstore.json: the certificate cannot be read")


def test_a_chain_counts_for_nobody_known_by_a_key(root, office, bob):
    """And a bare signature of the certificate's key for nobody known by certificate (GHSA-fx35-mq7g-6g98)."""
    key = signer_entry(canonical_pem(bob.own.public_key()))
    assert refused(site(bob=key), [file("b", bob.envelope(PAYLOAD, office))])[0] == "4.threshold"
    assert refused(site(bob=entry(root, bob)), [file("b", bob.signing.envelope(PAYLOAD))])[0] == "4.threshold"


def test_one_key_counts_once_by_certificate_and_by_itself(root, office, bob):
    key = signer_entry(canonical_pem(bob.own.public_key()))
    files = [file("a", bob.signing.envelope(PAYLOAD)), file("b", bob.envelope(PAYLOAD, office))]
    rule, message = refused(site(2, alone=key, bob=entry(root, bob)), files)
    assert rule == "4.threshold"
    assert "signatures/b.sigstore.json: made with the key that signed as alone: one key counts once" in message


def test_one_key_with_two_certificates_counts_once(root, office, bob):
    twice = office.signer("carol", key=bob.key)
    policy = site(2, bob=entry(root, bob), carol=entry(root, twice))
    rule, message = refused(policy, [file("b", bob.envelope(PAYLOAD, office)), file("c", twice.envelope(PAYLOAD, office))])
    assert (rule, "one key counts once" in message) == ("4.threshold", True)


def test_one_certificate_under_two_names_is_no_policy(root, bob):
    with pytest.raises(InvalidFileError, match="the same key or name"):
        site(2, bob=entry(root, bob), robert=entry(root, bob))


def test_a_policy_is_refused_whose_root_is_none(root, office, bob):
    for roots in ([bob.pem], [], ["x"]):
        with pytest.raises(InvalidFileError):
            site(bob=entry(root, bob) | {"roots": roots})
    nameless = {key: value for key, value in entry(root, bob).items() if key != "subject"}
    with pytest.raises(InvalidFileError, match="without a name"):
        site(bob=nameless)


def test_every_change_of_one_byte_of_a_signature_file_is_refused():
    root = authority.root("p256")
    bob = root.signer("bob", "p256")
    policy, (name, raw) = site(bob=entry(root, bob)), file("b", bob.envelope(PAYLOAD))
    assert judge(policy, SUBJECTS, [(name, raw)], Memory(), NOW)
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 0x01
        with pytest.raises(RefusedError):
            judge(policy, SUBJECTS, [(name, bytes(changed))], Memory(), NOW)


def test_the_json_of_a_policy_keeps_them(root, office, bob):
    policy = site(bob=entry(root, bob, crls=[office.crl()]))
    assert Policy.parse(policy.to_bytes()) == policy
    assert json.loads(policy.to_bytes())["signers"]["bob"]["type"] == "x509"


def test_a_curve_is_not_changed_by_the_certificate(root, office):
    """The algorithm is the policy's: a P-256 key under the same name is refused, not used."""
    bob = office.signer("bob", key=ec.generate_private_key(ec.SECP256R1()))
    rule, message = refused(site(bob=entry(root, subject="CN=bob,O=Example")), [file("b", bob.envelope(PAYLOAD, office))])
    assert (rule, "its key is for ecdsa-p256-sha256, the policy says ecdsa-p384-sha384" in message) == ("3.certificate", True)
