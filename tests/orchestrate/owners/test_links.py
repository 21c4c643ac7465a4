"""Signed links: what they let through is what was signed, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.settings import ConfigError
from orchestrate.inventory import VmRef
from orchestrate.owners.links import KEY_FILE_NAME, Link, LinkKey, LinkRefused, Purpose

NOW_S = 1_800_000_000.0
KEY = LinkKey(b"k" * 32)
LINK = Link(
    purpose=Purpose.KEEP,
    ref=VmRef("lab", "6f9c2b1e-0000-4000-8000-000000000001"),
    vm_id="6f9c2b1e-0000-4000-8000-000000000001",
    expires_s=int(NOW_S) + 60,
)

# What a configuration file can hold.
NAMES = st.characters(exclude_categories=["Cs", "Cc"])
links = st.builds(
    Link,
    purpose=st.sampled_from(Purpose),
    ref=st.builds(VmRef, st.text(NAMES, min_size=1, max_size=20), st.text(NAMES, min_size=1, max_size=40)),
    vm_id=st.text(NAMES, min_size=1, max_size=36),
    expires_s=st.integers(int(NOW_S), 2**40),
)


@given(links)
def test_a_link_says_what_was_signed(link: Link) -> None:
    """Whatever the names of driver and VM; the same link has the same text, fit for an address."""
    text = KEY.make(link)
    assert text == KEY.make(link)
    assert text.replace("-", "").replace("_", "").replace(".", "").isalnum()
    assert KEY.read(text, purpose=link.purpose, now_s=NOW_S) == link


@given(st.data())
def test_a_changed_character_is_refused(data: st.DataObject) -> None:
    """Anywhere: in what it says, in the stop, in the signature; a cut or longer one too."""
    text = KEY.make(LINK)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(min_codepoint=1, max_codepoint=300).filter(lambda each: each != text[place]))
    for forged in (text[:place] + other + text[place + 1 :], text[:place], text + other):
        with pytest.raises(LinkRefused, match="not one of ours"):
            KEY.read(forged, purpose=Purpose.KEEP, now_s=NOW_S)


@given(st.text(max_size=1100))
def test_any_text_is_refused_in_words(text: str) -> None:
    """Never an exception of a parser."""
    with pytest.raises(LinkRefused):
        KEY.read(text, purpose=Purpose.KEEP, now_s=NOW_S)


def test_another_key_reads_nothing() -> None:
    """A link of another controller is not one of ours."""
    with pytest.raises(LinkRefused, match="not one of ours"):
        LinkKey(b"o" * 32).read(KEY.make(LINK), purpose=Purpose.KEEP, now_s=NOW_S)


def test_a_link_for_keeping_does_not_wake() -> None:
    """Each is for one purpose."""
    with pytest.raises(LinkRefused, match="for keep, not for resume"):
        KEY.read(KEY.make(LINK), purpose=Purpose.RESUME, now_s=NOW_S)


def test_a_link_ends() -> None:
    """To the second, and it is told apart from one that was never ours."""
    assert KEY.read(KEY.make(LINK), purpose=Purpose.KEEP, now_s=NOW_S + 60) == LINK
    with pytest.raises(LinkRefused, match="expired") as refused:
        KEY.read(KEY.make(LINK), purpose=Purpose.KEEP, now_s=NOW_S + 61)
    assert refused.value.expired


def test_the_key_file_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    """A restart reads the same key, so that links in mails still hold."""
    path = tmp_path / KEY_FILE_NAME
    text = LinkKey.load_or_create(path).make(LINK)
    assert path.stat().st_mode & 0o777 == 0o600
    assert LinkKey.load_or_create(path).read(text, purpose=Purpose.KEEP, now_s=NOW_S) == LINK


@pytest.mark.parametrize("content", ["not hexadecimal", "abcd", "", "k" * 40])
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: str) -> None:
    """By name of the file, and without repeating what is in it."""
    path = tmp_path / KEY_FILE_NAME
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=KEY_FILE_NAME) as refused:
        LinkKey.load_or_create(path)
    assert not content or content not in str(refused.value)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """It is as good as the VMs of all owners."""
    path = tmp_path / KEY_FILE_NAME
    LinkKey.load_or_create(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="readable by others"):
        LinkKey.load_or_create(path)
