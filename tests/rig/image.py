"""What every guest boots from: a kernel, an initramfs with its drivers, and a disk that holds Python and the agent."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.rig.shell import ROOT, RigError, run

GUEST = Path(__file__).resolve().parent / "guest"

# The meta package that depends on the newest small kernel made for virtual machines.
_KERNEL = "linux-image-cloud-amd64"
_PACKAGES = (
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libexpat1", "zlib1g"),
    *("libssl3", "libffi8", "liblzma5", "libbz2-1.0", "libuuid1", "libgcc-s1", "libcrypt1"),
)
# In the order in which they need each other: nothing in the initramfs looks dependencies up.
_MODULES = (
    *("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci"),
    *("failover", "net_failover", "virtio_net", "virtio_blk", "virtio_balloon", "evdev", "button"),
)
_APPLETS = ("sh", "acpid", "hostname", "ip", "mount", "poweroff", "sleep", "sync", "tar")
_UNUSED = ("doc", "man", "locale", "lintian")
# Of the standard library, once the agent is at work.
_LOADED_LATER = ("encodings.idna", "gzip", "http.client", "logging", "random", "ssl", "tomllib")
_DISK_SIZE = "112M"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """Files that any number of guests share; none of them writes to `disk` itself."""

    kernel: Path
    initramfs: Path
    disk: Path


def build(folder: Path) -> Image:
    """Makes the image below an empty folder; takes the packages from the system's Debian mirror.

    Raises: RigError: a package cannot be had, or a part of the image cannot be made.
    """
    packages = folder / "packages"
    packages.mkdir(parents=True)
    kernel_package = _newest_kernel()
    _download(packages, (kernel_package, *_PACKAGES))
    kernel_tree, system = folder / "kernel", folder / "system"
    for archive in packages.iterdir():
        run("dpkg-deb", "-x", str(archive), str(kernel_tree if archive.name.startswith("linux-image") else system))
    image = Image(kernel=folder / "vmlinuz", initramfs=folder / "initramfs", disk=folder / "disk.raw")
    shutil.copy(next((kernel_tree / "boot").glob("vmlinuz-*")), image.kernel)
    _make_initramfs(folder / "first", kernel_tree, image.initramfs)
    _make_system(system)
    form = ("-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0")
    run("mke2fs", *form, "-d", str(system), str(image.disk), _DISK_SIZE)
    for tree in (packages, kernel_tree, system, folder / "first"):
        shutil.rmtree(tree)
    return image


def _newest_kernel() -> str:
    for line in run("apt-cache", "depends", _KERNEL).splitlines():
        name = line.partition("Depends: ")[2].strip()
        if name.startswith("linux-image"):
            return name
    raise RigError(f"apt-cache knows no kernel that {_KERNEL} depends on")


def _download(folder: Path, packages: tuple[str, ...]) -> None:
    argv = ("apt-get", "-qq", "download", *packages)
    try:
        run(*argv, cwd=folder)
    except RigError:
        # The lists may name versions that the mirror has replaced since.
        run("apt-get", "-qq", "update")
        run(*argv, cwd=folder)


def _make_initramfs(folder: Path, kernel_tree: Path, target: Path) -> None:
    for name in ("bin", "dev", "modules", "proc", "system"):
        (folder / name).mkdir(parents=True)
    shutil.copy(_busybox(), folder / "bin" / "busybox")
    try:
        run("chroot", str(folder), "/bin/busybox", "true")
    except RigError as error:
        raise RigError(f"busybox needs libraries: install busybox-static ({error})") from error
    _copy_program("first_init", folder / "init")
    found = {path.stem: path for path in kernel_tree.glob("lib/modules/**/*.ko")}
    # A kernel may have some of them built in.
    order = [name for name in _MODULES if name in found]
    for name in order:
        shutil.copy(found[name], folder / "modules")
    (folder / "modules" / "order").write_text("".join(f"{name}\n" for name in order))
    names = "".join(f"{path.relative_to(folder)}\n" for path in sorted(folder.rglob("*")))
    run("busybox", "cpio", "-o", "-H", "newc", "-F", str(target), cwd=folder, stdin=names)


def _make_system(system: Path) -> None:
    for name in ("proc", "sys", "dev", "tmp", "run", "root", "etc/acpi/PWRF", "etc/fallow", "var/lib", "opt/fallow"):
        (system / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin"):
        (system / name).mkdir(exist_ok=True)
    (system / "var/run").symlink_to("/run")
    shutil.copy(_busybox(), system / "bin" / "busybox")
    for applet in _APPLETS:
        (system / "bin" / applet).symlink_to("busybox")
    _copy_program("init", system / "sbin" / "init")
    _copy_program("power_button", system / "etc/acpi/PWRF/00000080")
    shutil.copy(GUEST / "load.py", system / "opt")
    (system / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (system / "etc/hosts").write_text("127.0.0.1 localhost\n")
    for name in _UNUSED:
        shutil.rmtree(system / "usr/share" / name, ignore_errors=True)
    modules = system / "opt/fallow"
    compiled = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "agent", modules / "agent", ignore=compiled)
    # The one that is installed beside the tests: Debian's is older than the agent asks for.
    shutil.copytree(_psutil(), modules / "psutil", ignore=compiled)
    # Compiles what the agent loads, which would cost an emulated processor seconds at each boot.
    loaded = sorted(f"agent.{path.stem}" for path in (modules / "agent").glob("*.py") if path.stem != "__init__")
    names = ", ".join((*loaded, *_LOADED_LATER))
    compile_it = f"import sys; sys.path.insert(0, '/opt/fallow'); import {names}"
    run("chroot", str(system), "/usr/bin/python3.11", "-S", "-c", compile_it)


def _copy_program(name: str, target: Path) -> None:
    shutil.copy(GUEST / name, target)
    target.chmod(0o755)


def _busybox() -> str:
    found = shutil.which("busybox")
    if found is None:
        raise RigError("busybox is not installed")
    return found


def _psutil() -> Path:
    spec = find_spec("psutil")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
