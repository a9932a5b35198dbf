"""The line of each key."""

import tomllib

from backupd.config.file import lines_of, syntax_error


def test_error_without_position_is_on_first_line() -> None:
    """Another version of tomllib may word its errors in another way."""
    assert syntax_error(tomllib.TOMLDecodeError("odd"), "a\nb") == (1, "odd")


def test_each_key_is_found_on_its_line_in_any_notation() -> None:
    text = (
        "a.b = 1  # [no.header]\n\n[ 'x y' . \"z\" ]\nlist = [\n  1,\n  2,\n]\n"
        "long = '''\n[fake]\nk = 1\n'''\r\n"
        "inline = { one = 1, two = { three = 3 } }\n[[many]]\nkey = 1\n[[many]]\nkey = 2\n"
    )
    assert lines_of(text) == {
        ("a",): 1,
        ("a", "b"): 1,
        ("x y",): 3,
        ("x y", "z"): 3,
        ("x y", "z", "list"): 4,
        ("x y", "z", "long"): 8,
        ("x y", "z", "inline"): 12,
        ("x y", "z", "inline", "one"): 12,
        ("x y", "z", "inline", "two"): 12,
        ("x y", "z", "inline", "two", "three"): 12,
        ("many",): 13,
        ("many", "key"): 14,
    }
