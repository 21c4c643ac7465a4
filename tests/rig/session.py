"""The rig of a test session: set up by the first test that asks, removed at the end.

    @pytest.fixture
    def rig(pytestconfig: pytest.Config) -> Rig:
        return session_rig(pytestconfig)

A test is skipped where it needs more than there is: root, libvirt, QEMU, network namespaces.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.rig.rig import Rig, open_rig
from tests.rig.shell import RigError, run

PROGRAMS = (
    *("apt-get", "apt-cache", "dpkg-deb", "busybox", "mke2fs", "ip", "unshare", "mount", "chroot"),
    *("libvirtd", "virsh", "qemu-img", "qemu-system-x86_64"),
)
_RIG = pytest.StashKey["Rig | str"]()


def absent(*, user_id: int, which: Callable[[str], str | None]) -> str | None:
    """Why there can be no rig here; None: nothing is known against it.

    Args: which: where a program is; None: nowhere.
    """
    if user_id != 0:
        return "real hypervisors need root"
    missing = [program for program in PROGRAMS if which(program) is None]
    if missing:
        return f"real hypervisors need {', '.join(missing)}"
    try:
        run("unshare", "--net", "--mount", "--uts", "true")
    except RigError as error:
        return f"this machine lets nobody make namespaces: {error}"
    return None


def session_rig(config: pytest.Config) -> Rig:
    """The rig of this session. Skips the test where there can be none; fails it where one should work and does not."""
    if _RIG not in config.stash:
        why = absent(user_id=os.geteuid(), which=shutil.which)
        if why is not None:
            pytest.skip(why)
        stack = ExitStack()
        config.add_cleanup(stack.close)
        try:
            config.stash[_RIG] = stack.enter_context(open_rig())
        except RigError as error:
            # Each further test would wait as long to fail as the first.
            config.stash[_RIG] = str(error)
    rig = config.stash[_RIG]
    if isinstance(rig, str):
        pytest.fail(f"no rig: {rig}")
    return rig
