"""Compression with and without the package deflate: what one packs, the other unpacks."""

import importlib
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from backupd.archive import gzip_member

PIECES = [b"", b"a", b"a" * 100_000, random.Random(1).randbytes(70_000), bytes(range(256)) * 500]


@pytest.fixture
def by_zlib(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as it is on a machine without the package deflate."""
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "deflate", None)
        specification = importlib.util.spec_from_file_location("gzip_member_by_zlib", gzip_member.__file__)
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
    assert module.crc32.__module__ == "zlib"
    return module


@pytest.mark.parametrize("piece", PIECES, ids=len)
@pytest.mark.parametrize("level", [5, 7, 12])
def test_data_of_one_deflate_library_is_decompressed_by_both(by_zlib: ModuleType, piece: bytes, level: int) -> None:
    for packer in (by_zlib, gzip_member):
        for unpacker in (by_zlib, gzip_member):
            assert unpacker.decompress(packer.compress(piece, level), max(len(piece), 1)) == piece
    assert by_zlib.crc32(piece) == gzip_member.crc32(piece)


@pytest.mark.parametrize("piece", [piece for piece in PIECES if len(piece) > 1], ids=len)
def test_damaged_truncated_or_extended_data_is_refused_by_both_libraries(by_zlib: ModuleType, piece: bytes) -> None:
    body = gzip_member.compress(piece, 6)
    for module in (by_zlib, gzip_member):
        for damaged, most_bytes in ((body[:-1], len(piece)), (body, len(piece) - 1), (b"\xff" * 50, len(piece))):
            with pytest.raises(ValueError, match=r"."):
                module.decompress(damaged, most_bytes)


def test_backup_without_deflate_library_is_verified_and_restored_by_gunzip(tmp_path: Path) -> None:
    database = tmp_path / "tasks.db"
    subprocess.run(["sqlite3", database, "CREATE TABLE task(id); INSERT INTO task VALUES (42)"], check=True)
    without = "import sys; sys.modules['deflate'] = None; from backupd.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", without, "backup"],
        env={"BACKUPD_DATABASE": str(database), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "verified full" in done.stdout) == (0, True), done.stderr
    (archive,) = (tmp_path / "backups").glob("*.gz")
    restored = tmp_path / "restored.db"
    with restored.open("wb") as output:
        subprocess.run(["gunzip", "-c", archive], stdout=output, check=True)
    assert (
        subprocess.run(["sqlite3", restored, "SELECT id FROM task"], capture_output=True, check=True).stdout == b"42\n"
    )
