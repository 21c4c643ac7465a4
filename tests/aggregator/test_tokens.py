"""Tokens fit one VM and nothing else, and the key file stays private."""

from __future__ import annotations

import hmac
import stat
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.settings import ConfigError
from agent.wire import VM_ID_PATTERN
from aggregator.tokens import MAX_GENERATION, MAX_TOKEN_BYTES, Revocations, TokenKeys, create_secret, parse_keys

VM = "6f9c2b1e-0c52-4bd5-a8f5-7cbb1d7f5a01"
KEYS = TokenKeys({"k1": b"1" * 32})
vm_ids = st.from_regex(VM_ID_PATTERN, fullmatch=True)
generations = st.integers(0, MAX_GENERATION)


@given(vm_ids, generations, st.binary(min_size=16, max_size=100))
def test_a_token_is_what_it_says(vm_id: str, generation: int, key: bytes) -> None:
    """A token is `kid.generation.mac` with the standard library's HMAC-SHA256, in base64url without padding."""
    keys = TokenKeys({"k1": key})
    mac = hmac.digest(key, f"{vm_id}|k1|{generation}".encode(), "sha256")
    token = keys.make(vm_id, generation)
    assert token == f"k1.{generation}.{urlsafe_b64encode(mac).decode().rstrip('=')}"
    assert len(token) <= MAX_TOKEN_BYTES
    assert keys.verify(vm_id, token.encode()) == generation


@given(vm_ids, vm_ids, generations)
def test_a_token_fits_one_vm(vm_id: str, other: str, generation: int) -> None:
    """The token of A verifies for A alone."""
    expected = generation if vm_id == other else None
    assert KEYS.verify(other, KEYS.make(vm_id, generation).encode()) == expected


@given(st.integers(0, 60), st.integers(1, 255))
def test_a_token_with_any_byte_changed_is_refused(place: int, change: int) -> None:
    """No byte of a token may differ, its last characters included."""
    token = bytearray(KEYS.make(VM, 7).encode())
    token[place % len(token)] ^= change
    assert KEYS.verify(VM, bytes(token)) is None


@given(st.text() | vm_ids, st.binary(max_size=200))
def test_garbage_is_refused_without_an_exception(vm_id: str, token: bytes) -> None:
    """Whatever the headers held, the answer is None."""
    assert KEYS.verify(vm_id, token) is None


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b".",
        b"..",
        b"k1..",
        b"k1.1",
        b"k9.1.AAAA",
        b"k1.1." + b"A" * 10_000,
        b"k1.\xff.\xff",
        KEYS.make(VM, 1).encode() + b"=",
        KEYS.make(VM, 1).encode() + b"\n",
        KEYS.make(VM, 1).encode().replace(b".1.", b".01."),
        KEYS.make(VM, 1).encode().replace(b".1.", b".2."),
    ],
)
def test_near_misses_are_refused(token: bytes) -> None:
    """A token is taken in its one spelling only."""
    assert KEYS.verify(VM, token) is None


def test_ids_that_are_none_verify_nothing() -> None:
    """A header that is not a VM id, lone surrogates and `|` included, is refused and raises nothing."""
    token = KEYS.make(VM, 1).encode()
    for vm_id in ("", "\ud800", f"{VM}|k1", "ü", VM.upper(), f"{VM}\n"):
        assert KEYS.verify(vm_id, token) is None


@pytest.mark.parametrize(("vm_id", "generation"), [("A", 1), ("../x", 1), ("a|b", 1), ("a", -1), ("a", 2**31)])
def test_no_token_is_made_for_what_no_vm_can_be(vm_id: str, generation: int) -> None:
    """`make` raises ValueError for an id or a generation out of range."""
    with pytest.raises(ValueError, match="is not"):
        KEYS.make(vm_id, generation)


def test_two_keys_live_during_a_change() -> None:
    """The first key signs, tokens of the second still count, and stop to once it is gone."""
    old, new = {"k1": b"1" * 32}, {"k2": b"2" * 32}
    before = TokenKeys(old).make(VM, 3)
    during = TokenKeys(new | old)
    assert during.verify(VM, before.encode()) == 3
    assert during.make(VM, 4).startswith("k2.4.")
    assert TokenKeys(new).verify(VM, before.encode()) is None


def test_a_key_has_no_repr() -> None:
    """Neither the text of the keys nor that of their parts shows in a log."""
    keys = TokenKeys({"k1": b"do not show me, ever"})
    assert repr(keys) == "TokenKeys(kids=['k1'])"
    assert "show me" not in str(vars(type(keys)))


def test_the_key_file_is_made_once_and_private(tmp_path: Path) -> None:
    """The first start makes a key with mode 0600, later ones read the same."""
    path = tmp_path / "token.key"
    token = TokenKeys.load_or_create(path).make(VM, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert TokenKeys.load_or_create(path).verify(VM, token.encode()) == 1
    assert [found.name for found in tmp_path.iterdir()] == ["token.key"]


def test_keys_of_two_fleets_differ(tmp_path: Path) -> None:
    """Two new key files do not take each other's tokens."""
    first, second = (TokenKeys.load_or_create(tmp_path / name) for name in ("a.key", "b.key"))
    assert second.verify(VM, first.make(VM, 1).encode()) is None


def test_a_secret_that_exists_is_not_replaced(tmp_path: Path) -> None:
    """Of two processes that make the same file, the later one leaves it as it is and nothing behind."""
    path = tmp_path / "token.key"
    create_secret(path, "first\n")
    create_secret(path, "second\n")
    assert path.read_text() == "first\n"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A world-readable secret is a ConfigError that names the file."""
    path = tmp_path / "token.key"
    TokenKeys.load_or_create(path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=r"token\.key: readable by others"):
        TokenKeys.load_or_create(path)


def test_a_key_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """No directory: a ConfigError with the path."""
    with pytest.raises(ConfigError, match=r"token\.key: cannot be made"):
        TokenKeys.load_or_create(tmp_path / "nowhere" / "token.key")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "0 keys"),
        ("# nothing\n", "0 keys"),
        ("k1\n", "line 1: is not KID:HEX"),
        ("k1:\n", "line 1: is not KID:HEX"),
        ("\nk1:5ecre7\n", "line 2: is not KID:HEX"),
        ("k1:5ec2e7\n", "shorter than 16 bytes"),
        (f"K1:{'5e' * 32}\n", "a kid is not"),
        (f"k1:{'5e' * 32}\nk1:{'5e' * 32}\n", "line 2: its kid is there already"),
        ("".join(f"k{n}:{'5e' * 32}\n" for n in range(3)), "3 keys"),
    ],
)
def test_mistakes_in_a_key_file_are_named_without_the_key(text: str, message: str) -> None:
    """Each mistake names file and line, and never repeats what might be a key."""
    with pytest.raises(ConfigError, match=message) as caught:
        parse_keys(text, source="token.key")
    assert str(caught.value).startswith("token.key: ")
    assert "5e" not in str(caught.value)


def test_revocations_refuse_older_generations() -> None:
    """Only generations below the bound are refused, with the reason; other VMs are left alone."""
    revocations = Revocations({"a": (3, "rotated")})
    assert [revocations.refuses("a", generation) for generation in (1, 2, 3, 4)] == ["rotated", "rotated", None, None]
    assert revocations.refuses("b", 0) is None
    assert Revocations().refuses("a", 0) is None


def test_revocations_do_not_change_with_what_they_were_made_of() -> None:
    """The door reads them while others prepare the next ones."""
    below = {"a": (3, "revoked")}
    revocations = Revocations(below)
    below.clear()
    assert revocations.refuses("a", 1) == "revoked"
    assert len(revocations) == 1
