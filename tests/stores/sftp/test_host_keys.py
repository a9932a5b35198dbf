"""Pinned host keys: a line pins the keys that OpenSSH accepts for it, and no unpinned key is accepted."""

import subprocess
from pathlib import Path

import pytest
from paramiko import PKey
from trust_sshd import fingerprint_of, keygen, public

from backupd.errors import ConfigError, HostKeyChanged, HostKeyRefused, HostKeyUnknown
from backupd.stores.sftp.host_keys import PinnedKeys, PublicKey, line_for

KINDS = ("ed25519", "ecdsa", "rsa")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key pairs by kind, and one more ed25519 called `other`."""
    directory = tmp_path_factory.mktemp("keys")
    for kind in KINDS:
        keygen(directory / kind, kind)
    keygen(directory / "ecdsa521", "ecdsa", "-b", "521")
    keygen(directory / "other")
    return directory


def key_of(path: Path) -> PKey:
    return PKey.from_path(path)


def pinned(text: str | None = None, known_hosts: Path | None = None) -> PinnedKeys:
    return PinnedKeys.read("offsite", text, known_hosts)


@pytest.mark.parametrize("kind", [*KINDS, "ecdsa521"])
def test_fingerprint_equals_that_of_ssh_keygen(keys: Path, kind: str) -> None:
    assert PublicKey.of(key_of(keys / kind)).fingerprint == fingerprint_of(keys / kind)
    assert PublicKey.parse(*public(keys / kind).split()).fingerprint == fingerprint_of(keys / kind)


def test_every_key_is_refused_without_pinned_keys(keys: Path) -> None:
    with pytest.raises(HostKeyUnknown) as refused:
        pinned().check("nas", 2222, key_of(keys / "ed25519"))
    assert refused.value.exit_code == 1
    assert refused.value.message == (
        f"nas:2222 sent the host key ssh-ed25519 {fingerprint_of(keys / 'ed25519')}; no key is pinned"
    )
    assert "`backupd trust offsite`" in refused.value.hint
    assert pinned().algorithms("nas", 2222) == ()


@pytest.mark.parametrize("kind", [*KINDS, "ecdsa521"])
@pytest.mark.parametrize("form", ["{key}", "nas {key}", "  {key} root@nas \n", "# the NAS\nnas,192.0.2.7 {key}\r\n"])
def test_pinned_key_is_accepted_in_each_form_of_host_key(keys: Path, kind: str, form: str) -> None:
    pins = pinned(form.format(key=public(keys / kind)))
    pins.check("nas", 22, key_of(keys / kind))
    with pytest.raises(HostKeyChanged):
        pins.check("nas", 22, key_of(keys / "other"))


def test_changed_key_is_refused_with_both_fingerprints_and_hint(keys: Path) -> None:
    with pytest.raises(HostKeyChanged) as refused:
        pinned(public(keys / "ed25519")).check("fd00::7", 2222, key_of(keys / "other"))
    assert refused.value.message == (
        f"[fd00::7]:2222 sent the host key ssh-ed25519 {fingerprint_of(keys / 'other')}; "
        f"pinned is ssh-ed25519 {fingerprint_of(keys / 'ed25519')}"
    )
    assert "this may be a man-in-the-middle" in refused.value.hint
    assert "`backupd trust offsite`" in refused.value.hint


def test_key_of_other_type_than_pinned_one_is_changed_key(keys: Path) -> None:
    with pytest.raises(HostKeyChanged):
        pinned(public(keys / "rsa")).check("nas", 22, key_of(keys / "ed25519"))


def test_several_lines_pin_several_keys(keys: Path) -> None:
    pins = pinned("\n".join(public(keys / kind) for kind in ("rsa", "ecdsa", "ed25519", "other")))
    for kind in ("rsa", "ecdsa", "ed25519", "other"):
        pins.check("nas", 22, key_of(keys / kind))
    assert pins.algorithms("nas", 22) == ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256")


def test_key_pinned_for_another_host_is_unknown(keys: Path) -> None:
    with pytest.raises(HostKeyUnknown, match="the pinned keys are for other hosts, not for nas"):
        pinned(f"nas.example.com {public(keys / 'ed25519')}").check("nas", 22, key_of(keys / "ed25519"))


@pytest.mark.parametrize(
    "hosts",
    [
        *("nas", "NAS", "other,nas", "n?s", "*", "na*", "!nas,*", "*,!nas", "!other,*", "!nas", "nas.example.com"),
        *(
            "*.example.com",
            "?as.*.com",
            "[nas]:2222",
            "[nas]:22",
            "[*]:2222",
            "[na*]:*",
            "!nas,[nas]:2222",
            "192.0.2.7",
        ),
        *("192.0.2.*", "fd00::7", "[fd00::7]:2222", "[[]nas", "n[ab]s", "n.s"),
    ],
)
def test_line_matches_same_hosts_as_in_openssh(keys: Path, tmp_path: Path, hosts: str) -> None:
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"{hosts} {public(keys / 'ed25519')}\n")
    pin = pinned(known_hosts=known_hosts).entries[0]
    for host in ("nas", "nas.example.com", "192.0.2.7", "fd00::7", "other"):
        for port in (22, 2222):
            name = host if port == 22 else f"[{host}]:{port}"
            assert pin.is_for(host, port) == found_by_openssh(name, known_hosts), (hosts, name)


def found_by_openssh(name: str, known_hosts: Path) -> bool:
    command = ["ssh-keygen", "-F", name, "-f", known_hosts]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_hashed_names_match_as_in_openssh(keys: Path, tmp_path: Path) -> None:
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text("".join(f"{name} {public(keys / 'rsa')}\n" for name in ("nas", "[nas]:2222", "fd00::7")))
    subprocess.run(["ssh-keygen", "-H", "-f", known_hosts], check=True, capture_output=True)
    assert known_hosts.read_text().count("|1|") == 3
    pins = pinned(known_hosts=known_hosts).entries
    wanted = [("nas", 22), ("nas", 2222), ("fd00::7", 22), ("other", 22)]
    assert [[pin.is_for(*where) for where in wanted] for pin in pins] == [
        [True, False, False, False],
        [False, True, False, False],
        [False, False, True, False],
    ]


@pytest.mark.parametrize("hashed", ["|1|", "|1|x", "|1|x|y|z", "|1|%|%", "|2|AAAA|AAAA"])
def test_damaged_hash_matches_no_host(keys: Path, hashed: str) -> None:
    with pytest.raises(HostKeyUnknown):
        pinned(f"{hashed} {public(keys / 'rsa')}").check("nas", 22, key_of(keys / "rsa"))


def test_name_without_port_counts_where_none_with_port_does(keys: Path) -> None:
    bare, with_port = f"nas {public(keys / 'ed25519')}\n", f"[nas]:2222 {public(keys / 'other')}\n"
    pinned(bare).check("nas", 2222, key_of(keys / "ed25519"))
    pins = pinned(bare + with_port)
    pins.check("nas", 2222, key_of(keys / "other"))
    with pytest.raises(HostKeyChanged):
        pins.check("nas", 2222, key_of(keys / "ed25519"))


def test_name_with_port_does_not_count_for_another_port(keys: Path) -> None:
    with pytest.raises(HostKeyUnknown):
        pinned(f"[nas]:2222 {public(keys / 'rsa')}").check("nas", 22, key_of(keys / "rsa"))


@pytest.mark.parametrize("port", [22, 2222])
def test_revoked_key_is_refused_even_if_pinned(keys: Path, tmp_path: Path, port: int) -> None:
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"@revoked nas {public(keys / 'ed25519')}\n")
    pins = pinned(public(keys / "ed25519") + "\n" + public(keys / "rsa"), known_hosts)
    with pytest.raises(HostKeyRefused, match="sent a revoked host key, ssh-ed25519 SHA256:"):
        pins.check("nas", port, key_of(keys / "ed25519"))
    pins.check("nas", port, key_of(keys / "rsa"))
    assert pins.algorithms("nas", port) == ("rsa-sha2-512", "rsa-sha2-256")


def test_host_with_only_revoked_key_is_unknown(keys: Path) -> None:
    key = public(keys / "ed25519")
    with pytest.raises(HostKeyUnknown, match="every pinned key is revoked as well"):
        pinned(f"nas {key}\n@revoked * {key}").check("nas", 22, key_of(keys / "rsa"))


def test_certificate_authority_alone_pins_nothing_with_reason(keys: Path) -> None:
    authority = f"@cert-authority *.example.com {public(keys / 'other')}\n"
    for key in ("other", "ed25519"):
        with pytest.raises(HostKeyUnknown, match=r"only a certificate authority .@cert-authority. is pinned"):
            pinned(authority).check("nas.example.com", 22, key_of(keys / key))
    pinned(f"{authority}nas.example.com {public(keys / 'rsa')}").check("nas.example.com", 22, key_of(keys / "rsa"))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("SHA256:abcdef", "this is a fingerprint: the key itself is needed"),
        ("nas", "this is not a line with hosts, type and key"),
        ("ssh-ed25519", "this is not a line with hosts, type and key"),
        ("nas ssh-dss AAAAB3NzaC1kc3MAAACB", "keys of type ssh-dss are not supported"),
        ("nas sk-ssh-ed25519@openssh.com AAAA", "keys of type sk-ssh-ed25519@openssh.com are not supported"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==", "the ssh-ed25519 key is damaged or truncated"),
        ("ssh-ed25519 %%%%", "the ssh-ed25519 key is damaged or truncated"),
        ("ssh-ed25519 AA==", "the ssh-ed25519 key is damaged or truncated"),
        ("@trusted nas ssh-ed25519 AAAA", "unknown marker: only @revoked and @cert-authority are supported"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "keys of type"),
    ],
)
def test_invalid_host_key_is_error_with_example(line: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        pinned(line)
    assert refused.value.message.startswith(f"replicas.offsite.host_key: {problem}")
    assert "`backupd trust" in refused.value.hint
    assert refused.value.exit_code == 78


def test_key_of_other_type_or_truncated_anywhere_is_refused(keys: Path) -> None:
    kind, base64 = public(keys / "ecdsa").split()
    with pytest.raises(ConfigError, match="not of the type ssh-rsa"):
        pinned(f"ssh-rsa {base64}")
    for length in range(len(base64)):
        with pytest.raises(ConfigError):
            pinned(f"{kind} {base64[:length]}")


def test_unreadable_lines_of_file_are_skipped_and_named_when_no_key_is_left(keys: Path, tmp_path: Path) -> None:
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"# old\n\nnas 1024 35 1234\nnas {public(keys / 'ed25519')}\n")
    pinned(known_hosts=known_hosts).check("nas", 22, key_of(keys / "ed25519"))
    known_hosts.write_text("nas 1024 35 1234\n")
    with pytest.raises(HostKeyUnknown, match=r"no line that pins a key is readable: .*known_hosts:1: "):
        pinned(known_hosts=known_hosts).check("nas", 22, key_of(keys / "ed25519"))


def test_unreadable_revocation_is_error(tmp_path: Path) -> None:
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text("@revoked nas ssh-ed25519 AAAA\n")
    with pytest.raises(ConfigError, match=r"known_hosts:1: the ssh-ed25519 key is"):
        pinned(known_hosts=known_hosts)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*/nowhere: No such file"):
        pinned(known_hosts=tmp_path / "nowhere")


def test_line_for_known_hosts_matches_for_backupd_and_for_openssh(keys: Path, tmp_path: Path) -> None:
    known_hosts = tmp_path / "known_hosts"
    for host, port, name in (("NAS", 22, "nas"), ("nas", 2222, "[nas]:2222"), ("fd00::7", 2222, "[fd00::7]:2222")):
        line = line_for(host, port, key_of(keys / "rsa"))
        known_hosts.write_text(f"{line}\n")
        assert line == f"{name} {public(keys / 'rsa')}"
        pinned(known_hosts=known_hosts).check(host, port, key_of(keys / "rsa"))
        assert found_by_openssh(name, known_hosts)


def test_verdict_on_several_keys_is_worst_of_their_states(keys: Path) -> None:
    ed25519, ecdsa, rsa, other = (
        PublicKey.parse(*public(keys / kind).split()) for kind in ("ed25519", "ecdsa", "rsa", "other")
    )
    pins = pinned(f"{ed25519.text}\n{rsa.text}")
    assert pinned().verdict("nas", 22, [ed25519, rsa]) == "unpinned"
    assert pins.verdict("nas", 22, [ed25519, ecdsa, rsa]) == "equal"
    assert pins.verdict("nas", 22, [ecdsa, rsa]) == "equal"
    assert pins.verdict("nas", 22, [other, rsa]) == "changed"
    assert pins.verdict("nas", 22, [ecdsa]) == "changed", "none of the pinned ones is offered"
    assert pinned(f"{rsa.text}\n@revoked * {ed25519.text}").verdict("nas", 22, [ed25519, rsa]) == "revoked"
