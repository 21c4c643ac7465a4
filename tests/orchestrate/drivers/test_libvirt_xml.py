"""What a domain's XML says about a VM."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.drivers.libvirt_xml import is_uuid, parse_domain
from orchestrate.inventory import Shield
from tests.orchestrate.drivers.libvirt_sites import domain_xml, metadata_xml

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"


def described(**parts: str) -> str:
    return domain_xml(UUID, "web", **parts)


def test_size_and_cards() -> None:
    """vCPUs that are on, the memory it may have, its cards' addresses in lower case, each once."""
    card = "<interface type='network'><mac address='AA:BB:CC:DD:EE:FF'/></interface>"
    vm = parse_domain(described(devices=card * 2, vcpu="<vcpu current='2'>8</vcpu>"))
    assert (vm.uuid, vm.name, vm.vcpus, vm.mem_bytes) == (UUID, "web", 2, 128 << 20)
    assert vm.macs == ("aa:bb:cc:dd:ee:ff",)
    assert (vm.owner, vm.mail, vm.tags, vm.shields) == (None, None, (), frozenset())


@pytest.mark.parametrize(
    ("memory", "size"),
    [
        ("<memory>1024</memory>", 1 << 20),
        ("<memory unit='KiB'>1024</memory>", 1 << 20),
        ("<memory unit='b'>7</memory>", 7),
        ("<memory unit='MB'>1</memory>", 10**6),
        ("<memory unit='GiB'>2</memory>", 2 << 30),
        ("<memory unit='TiB'>1</memory>", 1 << 40),
    ],
)
def test_memory_has_units(memory: str, size: int) -> None:
    """All that libvirt writes."""
    assert parse_domain(described(memory=memory)).mem_bytes == size


def test_labels_are_ours_alone() -> None:
    """Elements of other namespaces are somebody else's; empty ones say nothing."""
    ours = metadata_xml("ada", "ada@example.org", ["env:dev", "env:dev", " "])
    other = "<x:vm xmlns:x='urn:other'><x:owner>eve</x:owner><x:tag>no</x:tag></x:vm>"
    vm = parse_domain(described(metadata=other + ours))
    assert (vm.owner, vm.mail, vm.tags) == ("ada", "ada@example.org", ("env:dev",))


@pytest.mark.parametrize(
    ("metadata", "devices", "shield"),
    [
        ("<f:vm xmlns:f='urn:fallow:vm'><f:lock>the auditors</f:lock></f:vm>", "", Shield.LOCKED),
        ("<f:vm xmlns:f='urn:fallow:vm'><f:lock/></f:vm>", "", Shield.LOCKED),
        ("<f:vm xmlns:f='urn:fallow:vm'><f:ha/></f:vm>", "", Shield.HIGH_AVAILABILITY),
        ("<f:vm xmlns:f='urn:fallow:vm'><f:template/></f:vm>", "", Shield.TEMPLATE),
        (metadata_xml(None, None, ["template"]), "", Shield.TEMPLATE),
        ("", "<hostdev mode='subsystem' type='pci'/>", Shield.PASSTHROUGH),
        ("", "<interface type='hostdev'/>", Shield.PASSTHROUGH),
        ("", "<interface type='vdpa'/>", Shield.PASSTHROUGH),
        ("", "<disk type='nvme' device='disk'/>", Shield.PASSTHROUGH),
        ("", "<disk type='file'><mirror type='file' job='copy'/></disk>", Shield.BACKUP),
    ],
)
def test_what_forbids_touching_it_is_a_shield(metadata: str, devices: str, shield: Shield) -> None:
    """One for each reason; ordinary devices are none."""
    plain = "<disk type='file'/><interface type='bridge'/>"
    assert parse_domain(described(metadata=metadata, devices=plain + devices)).shields == {shield}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<domain>",
        "<network><name>x</name></network>",
        "<domain><name>x</name></domain>",
        domain_xml("no-uuid", "x"),
        domain_xml(UUID, ""),
        domain_xml(UUID, "x", vcpu=""),
        domain_xml(UUID, "x", vcpu="<vcpu>-1</vcpu>"),
        domain_xml(UUID, "x", memory=""),
        domain_xml(UUID, "x", memory="<memory unit='acre'>1</memory>"),
    ],
)
def test_what_is_no_domain_is_refused(text: str) -> None:
    """With a ValueError, not with half a VM."""
    with pytest.raises(ValueError, match="not the XML of a domain"):
        parse_domain(text)


# What XML can hold, and does not trim.
TEXT = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0xD7FF, exclude_categories=("Cc", "Zs", "Zl", "Zp")),
    min_size=1,
    max_size=20,
)


@given(name=TEXT, owner=TEXT, tags=st.lists(TEXT, unique=True, max_size=4), vcpus=st.integers(1, 4096))
def test_what_is_written_is_read(name: str, owner: str, tags: list[str], vcpus: int) -> None:
    """Names and labels come back as they were, whatever they are made of."""
    vm = parse_domain(domain_xml(UUID, name, metadata=metadata_xml(owner, None, tags), vcpu=f"<vcpu>{vcpus}</vcpu>"))
    assert (vm.name, vm.owner, vm.tags, vm.vcpus) == (name, owner, tuple(tags), vcpus)


@given(
    text=st.text(max_size=60) | st.builds("<domain {}>{}</domain>".format, st.text(max_size=9), st.text(max_size=30))
)
def test_garbage_is_a_value_error(text: str) -> None:
    """And never anything else."""
    with pytest.raises(ValueError, match="not the XML of a domain"):
        parse_domain(text)


@given(value=TEXT)
def test_an_address_of_a_card_is_one_or_left_out(value: str) -> None:
    """Evidence for a match must not be made of anything else."""
    devices = f"<interface type='bridge'><mac address={quoteattr(value)}/></interface><x>{escape(value)}</x>"
    assert all(len(mac) == 17 and mac == mac.lower() for mac in parse_domain(described(devices=devices)).macs)


@pytest.mark.parametrize("text", ["", "6695eb01f6a4830479aa97f2502e193f", UUID.upper(), UUID + "\n", "x" + UUID])
def test_other_spellings_are_no_uuid(text: str) -> None:
    """One VM has one name for us."""
    assert is_uuid(UUID)
    assert not is_uuid(text)
