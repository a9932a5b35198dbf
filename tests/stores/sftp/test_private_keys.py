"""The private key for login: every format, and a clear reason for each unusable one."""

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from trust_sshd import fingerprint_of, keygen, public

from backupd.errors import LoginFailed
from backupd.stores.sftp.auth import Credentials, load_key
from backupd.stores.sftp.host_keys import PublicKey

SECRET = "open sesame"
FORMS = [("ed25519", "RFC4716")] + [(kind, form) for kind in ("ecdsa", "rsa") for form in ("RFC4716", "PEM", "PKCS8")]


def made(path: Path, kind: str = "ed25519", form: str = "RFC4716", passphrase: str = "") -> Path:
    """Make a key in OpenSSH's own format, the default, or in another one that it writes."""
    return keygen(path, kind, *(() if form == "RFC4716" else ("-m", form)), passphrase=passphrase)


def refusal(text: str, passphrase: str | None = None) -> LoginFailed:
    """Return the error for a key that is no good, which never shows any of it."""
    with pytest.raises(LoginFailed) as refused:
        load_key(text, passphrase)
    told = refused.value.message + refused.value.hint
    assert refused.value.hint
    assert SECRET not in told
    assert not any(line in told for line in text.splitlines() if len(line) > 20)
    assert refused.value.__suppress_context__ or refused.value.__cause__ is None
    return refused.value


@pytest.mark.parametrize(("kind", "form"), FORMS)
@pytest.mark.parametrize("passphrase", ["", SECRET])
def test_key_loads_from_each_format_as_text_and_as_base64(
    tmp_path: Path, kind: str, form: str, passphrase: str
) -> None:
    path = made(tmp_path / "key", kind, form, passphrase)
    text = path.read_text()
    lines = base64.encodebytes(text.encode()).decode()
    forms = [text, text.replace("\n", "\r\n"), "\ufeff" + text.strip(), f"\n  {text}"]
    for given in [*forms, lines, lines.replace("\n", ""), base64.b64encode(forms[1].encode()).decode()]:
        assert PublicKey.of(load_key(given, passphrase or None)).fingerprint == fingerprint_of(path)


@pytest.mark.parametrize(("kind", "form"), FORMS)
def test_missing_and_wrong_passphrase_have_different_errors(tmp_path: Path, kind: str, form: str) -> None:
    text = made(tmp_path / "key", kind, form, SECRET).read_text()
    assert refusal(text).message == "the private key has a passphrase, and none is set"
    assert refusal(text, "").message == "the private key has a passphrase, and none is set"
    assert refusal(text, "wrong").message == "the passphrase is wrong, or the private key is damaged"


@pytest.mark.parametrize(("kind", "form"), FORMS)
def test_unnecessary_passphrase_is_ignored(tmp_path: Path, kind: str, form: str) -> None:
    path = made(tmp_path / "key", kind, form)
    assert PublicKey.of(load_key(path.read_text(), SECRET)).fingerprint == fingerprint_of(path)


@pytest.mark.parametrize(("kind", "form"), FORMS)
def test_key_without_end_or_middle_is_damaged(tmp_path: Path, kind: str, form: str) -> None:
    lines = made(tmp_path / "key", kind, form).read_text().splitlines()
    assert refusal("\n".join(lines[:-1])).message == "the private key is truncated: its last line is missing"
    without_middle = "\n".join([*lines[:2], *lines[3:]])
    assert refusal(without_middle).message == "the private key is damaged or truncated"
    assert refusal(f"{lines[0]}\n{lines[-1]}").message == "the private key is damaged or truncated"


def test_public_key_is_refused_with_reason(tmp_path: Path) -> None:
    for kind in ("ed25519", "ecdsa", "rsa"):
        line = public(made(tmp_path / kind, kind))
        for text in (line, base64.b64encode(line.encode()).decode()):
            assert refusal(text).message == "private_key holds a public key"


@pytest.mark.parametrize("form", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8])
def test_dsa_key_is_refused_by_name(form: PrivateFormat) -> None:
    pem = dsa.generate_private_key(1024).private_bytes(Encoding.PEM, form, NoEncryption()).decode()
    assert refusal(pem).message == "the private key is a DSA key, which servers no longer accept"


def test_key_of_type_without_logins_is_refused() -> None:
    pem = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    assert refusal(pem).message == "the private key is of a type that SSH servers do not accept"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/run/secrets/key", "the private key is neither the text of a key file nor its base64"),
        ("AAAA", "the private key does not begin with a line"),
        ("//79", "the private key is neither the text of a key file nor its base64"),
        ("", "the private key does not begin with a line"),
        ("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n", "the private key is in PuTTY's format"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "the private key does not begin with a line",
        ),
    ],
)
def test_text_that_is_no_key_is_refused(text: str, message: str) -> None:
    assert refusal(text).message.startswith(message)


def test_key_with_lost_line_ends_is_refused_with_example(tmp_path: Path) -> None:
    text = made(tmp_path / "key").read_text()
    for flat in (text.replace("\n", " "), text.replace("\n", "\\n")):
        error = refusal(flat)
        assert error.message == "the line ends of the private key are lost"
        assert "base64 -w0" in error.hint


def test_credentials_show_no_secret() -> None:
    shown = repr(Credentials("me", SECRET, "key " + SECRET, SECRET))
    assert shown == "Credentials(username='me')"
