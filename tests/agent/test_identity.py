"""A VM is named by what its hypervisor, its cloud or its installation says, and never by what many share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity import (
    Identity,
    IdentityError,
    boot_id,
    cloud_instance,
    find_identities,
    in_container,
    machine_id,
    resolve,
    smbios_uuid,
)
from agent.wire import is_vm_id

UUID = "6f9c2b1e-54d3-4c11-9c58-2f6f0a1b7c3d"
OTHER = "0d5b3c1a-99e2-4a0f-8a53-b1f9a7c0d2e4"
MACHINE_ID = "3d1219c7c4c5404aaa1f6d2a48adfda4"


def put(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_the_hypervisors_uuid_comes_first(tmp_path: Path) -> None:
    """SMBIOS before the cloud before the installation, lower-cased."""
    put(tmp_path, "sys/class/dmi/id/product_uuid", UUID.upper() + "\n")
    put(tmp_path, "run/cloud-init/.instance-id", "i-0abc123\n")
    put(tmp_path, "etc/machine-id", MACHINE_ID + "\n")
    found = find_identities(tmp_path, credentials=None)
    assert resolve(found, enrolled=None, given=None) == Identity(UUID, "smbios")
    assert (found["cloud-instance"].vm, found["machine-id"].vm) == ("i-0abc123", MACHINE_ID)


def test_the_credential_of_systemd_is_used(tmp_path: Path) -> None:
    """The unit hands the UUID over, since only root may read it in sysfs."""
    put(tmp_path, "credentials/product_uuid", UUID + "\n")
    found = find_identities(tmp_path / "root", credentials=tmp_path / "credentials")
    assert found == {"smbios": Identity(UUID, "smbios")}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("run/systemd/container", "lxc"),
        (".dockerenv", ""),
        ("run/.containerenv", ""),
        ("proc/1/environ", "PATH=/bin\0container=podman\0"),
    ],
)
def test_a_container_never_takes_its_hosts_uuid(tmp_path: Path, path: str, text: str) -> None:
    """Inside a container the UUID is the host's: the installation's id is used."""
    put(tmp_path, "sys/class/dmi/id/product_uuid", UUID)
    put(tmp_path, "credentials/product_uuid", UUID)
    put(tmp_path, "etc/machine-id", MACHINE_ID)
    put(tmp_path, path, text)
    assert in_container(tmp_path)
    found = find_identities(tmp_path, credentials=tmp_path / "credentials")
    assert resolve(found, enrolled=None, given=None) == Identity(MACHINE_ID, "machine-id")


def test_a_plain_vm_is_no_container(tmp_path: Path) -> None:
    """An environment of PID 1 without `container=` is a VM's."""
    put(tmp_path, "proc/1/environ", "HOME=/\0TERM=linux\0mycontainer=1\0container=\0")
    assert not in_container(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "00000000-0000-0000-0000-000000000000",
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
        "03000200-0400-0500-0006-000700080009",
        "00020003-0004-0005-0006-000700080009",
        "12345678-1234-5678-90AB-CDDEEFAABBCC",
        "12345678-1234-1234-1234-123456789abc",
        "11111111-2222-3333-4444-555555555555",
        "00112233-4455-6677-8899-AABBCCDDEEFF",
        "deadbeef-dead-beef-dead-beefdeadbeef",
        "Not Settable",
        "",
        UUID[:-1],
        UUID + "0",
        f"{UUID}\n{UUID}",
    ],
)
def test_placeholder_uuids_are_refused(text: str) -> None:
    """An id that a board maker left in thousands of machines would make them one VM."""
    assert smbios_uuid(text) is None


@pytest.mark.parametrize("text", ["iid-datasource-none", "nocloud", "iid-local01", "", "../../etc/passwd", "a" * 65])
def test_placeholder_instance_ids_are_refused(text: str) -> None:
    """Names from the documentation of cloud-init, and what cannot name a file, are no ids."""
    assert cloud_instance(text) is None


@pytest.mark.parametrize("text", ["uninitialized\n", "", "0" * 32, MACHINE_ID[:-1], MACHINE_ID + "0"])
def test_unusable_machine_ids_are_refused(text: str) -> None:
    """An image that has not booted yet has no machine id."""
    assert machine_id(text) is None


@given(text=st.text(max_size=80))
def test_whatever_is_found_can_name_a_vm(text: str) -> None:
    """No file content becomes an id that the wire would refuse."""
    for found in (smbios_uuid(text), cloud_instance(text), machine_id(text)):
        assert found is None or is_vm_id(found)


FOUND = {"smbios": Identity(UUID, "smbios"), "machine-id": Identity(MACHINE_ID, "machine-id")}


def test_the_enrolled_id_stays_while_its_source_agrees() -> None:
    """A better source that appears later does not rename a VM."""
    enrolled = Identity(MACHINE_ID, "machine-id")
    assert resolve(FOUND, enrolled=enrolled, given=None) == enrolled


def test_the_enrolled_id_stays_while_its_source_is_silent() -> None:
    """Started by hand without root, the UUID cannot be read: that proves nothing."""
    enrolled = Identity(UUID, "smbios")
    assert resolve({"machine-id": FOUND["machine-id"]}, enrolled=enrolled, given=None) == enrolled


def test_a_cloned_disk_is_another_vm() -> None:
    """The source of the enrolled id now says otherwise: this is a copy and names itself anew."""
    assert resolve(FOUND, enrolled=Identity(OTHER, "smbios"), given=None) == Identity(UUID, "smbios")


def test_the_owners_word_overrules() -> None:
    """--vm-id comes first, and an id that was given at enrolment stays."""
    assert resolve(FOUND, enrolled=Identity(UUID, "smbios"), given="db-1") == Identity("db-1", "given")
    assert resolve(FOUND, enrolled=Identity("db-1", "given"), given=None) == Identity("db-1", "given")


def test_without_any_id_the_agent_says_what_to_do() -> None:
    """No source, no guess."""
    with pytest.raises(IdentityError, match="--vm-id"):
        resolve({}, enrolled=None, given=None)


def test_the_boot_id_is_the_kernels(tmp_path: Path) -> None:
    """One id for each boot; its absence is an error."""
    with pytest.raises(IdentityError, match="boot_id"):
        boot_id(tmp_path)
    put(tmp_path, "proc/sys/kernel/random/boot_id", UUID + "\n")
    assert boot_id(tmp_path) == UUID
