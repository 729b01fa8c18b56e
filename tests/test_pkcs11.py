"""Keys in a token: real ones in SoftHSM sign, everything that could go wrong is said once and clearly, and a PIN is never shown."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import softhsm
from parts.cli import BIN, Desk
from parts.softhsm import MODULE, PIN

from audit import signers
from audit.signers import pkcs11_uri
from audit.signers.pkcs11_uri import Place
from manifests.errors import AirgapError, SiteError, TrustError, UsageError
from manifests.publickey import canonical_pem
from manifests.statement import Envelope

PAYLOAD = b'{"what":"a statement"}'
ALGORITHMS = {"p256": "ecdsa-p256-sha256", "p384": "ecdsa-p384-sha384", "ed25519": "ed25519"}


@pytest.fixture(scope="module")
def token(tmp_path_factory):
    made = softhsm.token(tmp_path_factory.mktemp("hsm"), "bob's token")
    for at, kind in enumerate(ALGORITHMS, start=1):
        made.make(kind, kind, f"0{at}")
    made.make("p256", "twice", "0a")
    made.make("p384", "twice", "0b")
    made.make("p256", "no public half", "0c")
    made.tool("--delete-object", "--type", "pubkey", "--id", "0c")
    made.make("p521", "p521", "0d")
    made.make("p256", "asks again", "0e", "--always-auth")
    made.make("p256", "Bob's käy №1", "0f")
    with made.here():
        yield made


def open_signer(uri: str, pin: str = PIN) -> signers.LocalSigner:
    return signers.signer(uri, lambda _: pin)


# --- signing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parts
@pytest.mark.parametrize("kind", ALGORITHMS)
def test_a_key_in_a_token_signs(token, kind):
    signer = open_signer(token.uri(object=kind))
    assert (signer.name, signer.algorithm, signer.kind) == (kind, ALGORITHMS[kind], "key")
    envelope = signer.envelope(PAYLOAD)
    assert Envelope.parse(envelope.to_bytes(), "x") == envelope
    assert signer.made(envelope)


@pytest.mark.parts
def test_the_key_cannot_leave_the_token(token):
    import pkcs11

    (held,) = (found for found in pkcs11.lib(str(MODULE)).get_tokens(token_label=token.label))
    with held.open(user_pin=PIN) as session:
        for key in session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY}):
            assert not key[pkcs11.Attribute.EXTRACTABLE]
            assert key[pkcs11.Attribute.SENSITIVE]


@pytest.mark.parts
def test_a_key_that_wants_the_pin_for_every_signature_gets_it(token):
    import pkcs11

    (held,) = (found for found in pkcs11.lib(str(MODULE)).get_tokens(token_label=token.label))
    with held.open(user_pin=PIN) as session:
        key = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label="asks again")
        assert key[pkcs11.Attribute.ALWAYS_AUTHENTICATE]
    assert open_signer(token.uri(object="asks again")).envelope(PAYLOAD).kind == "key"


@pytest.mark.parts
def test_every_session_is_logged_out_and_closed(token):
    import pkcs11

    open_signer(token.uri(object="p256")).envelope(PAYLOAD)
    with pytest.raises(UsageError):
        open_signer(token.uri(object="none"))
    (held,) = (found for found in pkcs11.lib(str(MODULE)).get_tokens(token_label=token.label))
    with held.open() as session:  # not logged in: a login that is left over would show private keys
        assert not list(session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY}))


@pytest.mark.parts
def test_threads_do_not_log_each_other_out(token):
    one, other = open_signer(token.uri(object="p256")), open_signer(token.uri(object="ed25519"))
    failed: list[BaseException] = []

    def work(signer: signers.LocalSigner) -> None:
        try:
            for _ in range(10):
                signer.envelope(PAYLOAD)
        except BaseException as error:  # noqa: BLE001 - told to the test
            failed.append(error)

    threads = [threading.Thread(target=work, args=(signer,)) for signer in (one, other, one)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@pytest.mark.parts
def test_a_forked_process_signs_with_what_its_parent_opened(token):
    signer = open_signer(token.uri(object="p384"))
    child = os.fork()
    if child == 0:
        try:
            signer.envelope(PAYLOAD)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a child must not come back into the test
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    signer.envelope(PAYLOAD)


@pytest.mark.parts
def test_what_the_token_answers_is_verified_before_anybody_sees_it(token, monkeypatch):
    from audit.signers import pkcs11

    monkeypatch.setattr(pkcs11, "encode_dss_signature", lambda r, s: b"\x30\x06\x02\x01\x01\x02\x01\x01")
    with pytest.raises(TrustError, match="does not verify"):
        open_signer(token.uri(object="p256")).envelope(PAYLOAD)


# --- which token, which key, which public half -------------------------------------------------------------------------


@pytest.mark.parts
def test_a_key_is_found_by_every_attribute_of_the_uri(token):
    import pkcs11

    (held,) = (found for found in pkcs11.lib(str(MODULE)).get_tokens(token_label=token.label))
    said = {"serial": held.serial.decode(), "manufacturer": held.manufacturer_id, "model": held.model, "slot-id": str(held.slot.slot_id)}
    for name, value in said.items():
        assert open_signer(f"pkcs11:{name}={quote(value)};object=p256;type=private?module-path={MODULE}").name == "p256"
        with pytest.raises(SiteError, match=r"the token is not there; it has token \"bob's token\" \(serial [0-9a-f]{16}\)"):
            open_signer(f"pkcs11:{name}=1{quote(value) if value.isdecimal() and len(value) < 10 else ''};object=p256?module-path={MODULE}")
    assert open_signer(f"pkcs11:id=%02?module-path={MODULE}").algorithm == ALGORITHMS["p384"]
    assert open_signer(token.uri(object="twice", id="%0b")).algorithm == ALGORITHMS["p384"]


@pytest.mark.parts
def test_a_key_that_is_not_there_is_refused_with_what_is(token):
    with pytest.raises(UsageError, match=r"no such private key; it has .*'p384' \(id 02\)"):
        open_signer(token.uri(object="none"))
    with pytest.raises(UsageError, match="no such private key"):
        open_signer(token.uri(object="p256", id="%02"))


@pytest.mark.parts
def test_two_keys_with_one_label_are_refused(token):
    with pytest.raises(UsageError) as refused:
        open_signer(token.uri(object="twice"))
    assert "several private keys fit" in str(refused.value)
    assert "'twice' (id 0a)" in str(refused.value)
    assert "'twice' (id 0b)" in str(refused.value)
    assert "id=" in refused.value.hint


@pytest.mark.parts
def test_two_tokens_that_fit_are_refused(tmp_path):
    for _ in range(2):
        made = softhsm.token(tmp_path, "same")
    with made.here(), pytest.raises(UsageError, match=r"2 tokens fit: token 'same' \(serial .*, token 'same' \(serial .*"):
        open_signer(made.uri(object="x"))


@pytest.mark.parts
def test_a_key_without_its_public_half_needs_it_from_a_file(token, tmp_path):
    uri = token.uri(object="no public half")
    with pytest.raises(UsageError) as refused:
        open_signer(uri)
    assert "neither its public key nor a certificate" in str(refused.value)
    assert "x-public-key=file:" in refused.value.hint
    stranger = tmp_path / "other.pub"
    stranger.write_text(canonical_pem(open_signer(token.uri(object="p256")).public_key))
    with pytest.raises(TrustError, match="does not verify"):
        open_signer(f"{uri}&x-public-key=file:{stranger}").envelope(PAYLOAD)


@pytest.mark.parts
def test_the_public_half_comes_from_a_file_or_from_a_certificate_in_the_token(tmp_path):
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    made = softhsm.token(tmp_path / "hsm")
    made.make("p256", "sign", "01")
    with made.here():
        public = open_signer(made.uri(object="sign")).public_key
        (tmp_path / "bob.pub").write_text(canonical_pem(public))
        made.tool("--delete-object", "--type", "pubkey", "--id", "01")
        uri = f"{made.uri(object='sign')}&x-public-key=file:{tmp_path / 'bob.pub'}"
        assert open_signer(uri).envelope(PAYLOAD).kind == "key"
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bob")])
        start = datetime.now(UTC)
        builder = x509.CertificateBuilder(name, name, public, 7, start, start + timedelta(days=1))
        certificate = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
        (tmp_path / "bob.der").write_bytes(certificate.public_bytes(Encoding.DER))
        made.tool("--write-object", tmp_path / "bob.der", "--type", "cert", "--label", "sign", "--id", "01")
        assert open_signer(made.uri(object="sign")).envelope(PAYLOAD).kind == "key"


@pytest.mark.parts
def test_two_public_halves_beside_a_key_are_refused(tmp_path):
    made = softhsm.token(tmp_path)
    made.make("p256", "sign", "01")
    made.make("p256", "stray", "01")
    with made.here(), pytest.raises(UsageError, match="several public keys stand beside it"):
        open_signer(made.uri(object="sign"))


@pytest.mark.parts
def test_a_key_of_another_kind_is_refused(token):
    with pytest.raises(UsageError, match="of a kind that is not accepted; use P-256"):
        open_signer(token.uri(object="p521"))


@pytest.mark.parts
def test_a_signature_file_gets_a_plain_name(token):
    assert open_signer(f"pkcs11:id=%0f?module-path={MODULE}").name == "bob-s-k-y-1"


# --- what can go wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parts
def test_a_wrong_pin_is_tried_once_and_the_lock_is_told(tmp_path, monkeypatch):
    made = softhsm.token(tmp_path)
    made.make("p256", "sign", "01")
    asked: list[str] = []
    with made.here():
        with pytest.raises(UsageError) as refused:
            signers.signer(made.uri(object="sign"), lambda what: asked.append(what) or "0000-wrong")
        assert len(asked) == 1
        assert asked[0].startswith("PIN of token 'bob' (serial ")
        assert "wrong PIN, tried once" in str(refused.value)
        assert "locks itself" in refused.value.hint
        assert "0000-wrong" not in str(refused.value) + refused.value.hint
        for empty in ("", "\udcff", "with\0zero"):
            with pytest.raises(UsageError, match="was not tried"):
                open_signer(made.uri(object="sign"), empty)
        assert open_signer(made.uri(object="sign")).name == "sign"


@pytest.mark.parts
def test_a_library_that_is_none_is_one_clear_error(token, tmp_path):
    (tmp_path / "text.so").write_text("not a library")
    for path, reason in {
        tmp_path / "none.so": "not there, or no file",
        tmp_path: "not there, or no file",
        tmp_path / "text.so": "(invalid ELF header|file too short)",
        next(Path("/usr/lib/x86_64-linux-gnu").glob("libz.so.1*")): "is not a PKCS#11 library",
    }.items():
        with pytest.raises(SiteError, match=reason) as refused:
            open_signer(f"pkcs11:object=x?module-path={path}")
        assert str(path) in str(refused.value)


@pytest.mark.parts
def test_a_library_that_does_not_start_is_told(tmp_path):
    made = softhsm.token(tmp_path)
    with made.here():
        (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path / 'none'}\n")
        with pytest.raises(SiteError, match=rf"library {MODULE}: .*(failed|not there)"):
            open_signer(made.uri(object="x"))


def test_without_the_extra_the_command_says_how_to_get_it():
    code = "import sys; sys.modules['pkcs11'] = None\nfrom audit import signers\nsigners.signer('pkcs11:object=x?module-path=/x.so', input)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "SiteError: keys in a token need python-pkcs11" in done.stderr
    hint = "import sys; sys.modules['pkcs11'] = None\nfrom audit import signers\ntry: signers.signer('pkcs11:object=x?module-path=/x.so', input)\nexcept Exception as e: print(e.hint)"
    done = subprocess.run([sys.executable, "-c", hint], capture_output=True, text=True, check=False)
    assert done.stdout == "pip install 'airgap-bundler[hsm]'\n"


# --- where the PIN comes from, and that it goes nowhere else --------------------------------------------------------------


@pytest.mark.parts
def test_a_pin_file_must_be_private(token, tmp_path):
    path = tmp_path / "pin"
    path.write_text(f"{PIN}\nmore\n")
    path.chmod(0o644)
    uri = f"{token.uri(object='p256')}&pin-source=file:{path}"
    with pytest.raises(UsageError, match="other users may read this PIN"):
        open_signer(uri)
    path.chmod(0o600)
    assert signers.signer(uri, lambda _: pytest.fail("asked although a file is named")).envelope(PAYLOAD)


@pytest.mark.parts
def test_a_pin_is_in_no_representation(token):
    signer = open_signer(token.uri(object="p256"))
    assert PIN not in repr(signer) + repr(signer.sign) + str(vars(signers))


def everything_said(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout + done.stderr


@pytest.mark.parts
@pytest.mark.parametrize("way", ["file", "environment", "pin-source"])
@pytest.mark.parametrize("right", [True, False])
def test_the_command_takes_a_pin_three_ways_and_shows_it_nowhere(token, tmp_path, way, right):
    pin = PIN if right else "0000-wrong-0000"
    (tmp_path / "pin").write_text(f"{pin}\n")
    (tmp_path / "pin").chmod(0o600)
    more = {"file": ("--passphrase-file", "pin"), "environment": (), "pin-source": ()}[way]
    uri = token.uri(object="p256") + (f"&pin-source=file:{tmp_path / 'pin'}" if way == "pin-source" else "")
    environment = token.environment | ({"AIRGAP_PIN": pin} if way == "environment" else {})
    done = subprocess.run(
        [str(BIN / "airgap-bundle"), "public-key", uri, *more, "--json"],
        cwd=tmp_path, env=Desk(tmp_path).env() | environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == (0 if right else 2), everything_said(done)
    assert pin not in everything_said(done)
    assert right or "wrong PIN, tried once" in done.stderr
    assert json.loads(done.stdout).get("algorithm") == ("ecdsa-p256-sha256" if right else None)


@pytest.mark.parts
def test_without_a_terminal_the_command_says_the_three_ways(token, tmp_path):
    done = Desk(tmp_path, tuple(token.environment.items())).bundle("public-key", token.uri(object="p256"), code=2)
    assert "PIN of token" in done.err
    assert "--passphrase-file" in done.err
    assert "AIRGAP_PIN" in done.err
    assert "terminal" in done.err


@pytest.mark.parts
def test_on_a_terminal_the_command_asks_and_does_not_echo(token, tmp_path):
    done = typed([str(BIN / "airgap-bundle"), "public-key", token.uri(object="p256")], f"{PIN}\n", tmp_path, token.environment)
    assert "PIN of token" in done
    assert "BEGIN PUBLIC KEY" in done
    assert PIN not in done


def typed(command: list[str], keys: str, folder: Path, environment: dict[str, str]) -> str:
    """Run a command on a terminal of its own, type when it asks, and return all that is shown there."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.execve(command[0], command, Desk(folder).env() | environment)
    shown = b""
    sent = False
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
        if not sent and b": " in shown:
            os.write(terminal, keys.encode())
            sent = True
    os.waitpid(child, 0)
    os.close(terminal)
    return shown.decode()


def test_a_pin_in_the_uri_is_refused_and_not_repeated(tmp_path):
    for uri in (f"pkcs11:object=x?module-path={MODULE}&pin-value=123456", "PKCS11:object=x?pin-value=123456", "pkcs11:pin-value=123456"):
        done = Desk(tmp_path).bundle("public-key", uri, "--json", code=2)
        assert "123456" not in done.out + done.err


# --- the parser -----------------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
PLACES = st.fixed_dictionaries(
    {},
    optional={
        "token": TEXTS, "serial": TEXTS, "manufacturer": TEXTS, "model": TEXTS, "object": TEXTS, "id": st.binary(max_size=20),
        "slot-id": st.integers(0, 2**32 - 1).map(str), "type": st.just("private"),
    },
)  # fmt: skip


@given(PLACES, st.randoms(use_true_random=False))
def test_what_is_written_is_what_is_read(attributes, random):
    parts = [f"{name}={quote(value, safe='')}" for name, value in attributes.items()]
    random.shuffle(parts)
    found = pkcs11_uri.parse(f"{';'.join(parts)}?module-path=/lib.so&pin-source=file:/p%20n")
    wanted = {"label" if name == "object" else name: value for name, value in attributes.items() if name not in {"type", "slot-id"}}
    slot = int(attributes["slot-id"]) if "slot-id" in attributes else None
    assert found == Place(module=Path("/lib.so"), slot=slot, pin_source=Path("/p n"), **wanted)


@given(st.text(max_size=80) | st.from_regex(r"(token|id|x)=[ -~]{0,9};?(object|slot-id)=[ -~]{0,9}\?(module-path|pin-source)=[ -~]{0,9}", fullmatch=True))
def test_any_other_text_is_refused_in_one_way(rest):
    try:
        assert pkcs11_uri.parse(rest).module.is_absolute()
    except UsageError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 300


@given(st.from_regex(r"[0-9]{6,8}", fullmatch=True), st.sampled_from(["pin-value=", "pin-source=", "x-pin=", "module-path=/x.so&pin-source=", "pin="]))
def test_no_value_of_a_query_is_ever_repeated(secret, start):
    with pytest.raises(AirgapError) as refused:
        pkcs11_uri.parse(f"object=x?{start}{secret}")
    assert secret not in str(refused.value) + refused.value.hint


@pytest.mark.parametrize(
    ("rest", "reason"),
    {
        "object=x": "names no library",
        "object=x?module-path=lib.so": "not an absolute path",
        "object=x?module-name=softhsm2": "`module-name`: names no one file",
        "object=x?module-path=/x.so&pin-value=1": "`pin-value`: a PIN in a command line can be read by everybody",
        "pin-value=1": "`pin-value`",
        "object=x;object=y?module-path=/x.so": "`object` stands twice",
        "object=x?module-path=/x.so&module-path=/y.so": "`module-path` stands twice",
        "object=my key?module-path=/x.so": "must be percent-encoded",
        "object=käy?module-path=/x.so": "must be percent-encoded",
        "object=%zz?module-path=/x.so": "must be percent-encoded",
        "object=%ff?module-path=/x.so": "`object` is not UTF-8",
        "slot-id=x?module-path=/x.so": "`slot-id` is not a number",
        "slot-id=99999999999?module-path=/x.so": "`slot-id` is not a number",
        "type=public;object=x?module-path=/x.so": "`type` is not `private`",
        "library-manufacturer=x?module-path=/x.so": "'library-manufacturer' is not an attribute that is known here",
        "x-vendor=1;object=x?module-path=/x.so": "'x-vendor' is not an attribute that is known here",
        "object?module-path=/x.so": "'object' is not an attribute",
        "object=x;?module-path=/x.so": "'something' is not an attribute",
        "object=x?module-path=/x.so&pin-source=|/bin/cat%20pin": "`pin-source` is not a file",
        "object=x?module-path=/x.so&pin-source=http://x/": "`pin-source` is not a file",
        "object=x?module-path=/x.so&pin-source=file:": "`pin-source` is not a file",
        "object=x?module-path=/x%00.so": "not an absolute path",
        "object=" + "x" * 5000: "longer than 4096",
    }.items(),
)
def test_a_uri_that_would_mean_something_else_is_refused(rest, reason):
    with pytest.raises(UsageError) as refused:
        pkcs11_uri.parse(rest)
    assert reason in str(refused.value)
    assert refused.value.hint
