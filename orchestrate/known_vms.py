"""Which VMs exist, told to the aggregator: it holds enrolments against that."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from agent.wire import is_vm_id
from aggregator.inventory import Inventory as KnownVms
from aggregator.inventory import InventoryVm
from orchestrate.inventory import Inventory


def tell_aggregator(engine: sa.Engine, inventories: Sequence[Inventory], *, now_s: float) -> int:
    """Replaces what each site said before; the site is the pool of its VMs. Returns how many VMs it knows now.

    A site of which a host did not answer says nothing: its VMs would look as if they were gone. So does one that knows
    no VM, which is more likely a site that cannot be looked into than one where nobody has enrolled.

    Args: engine: of the fleet database, for writing.

    Raises: sqlalchemy.exc.DBAPIError.
    """
    told = 0
    for inventory in inventories:
        rows = [
            InventoryVm(vm=vm.ref.uuid.lower(), macs=vm.macs, pool=inventory.driver, host=vm.host_id)
            for vm in inventory.vms
            # One whose id no agent could have cannot enrol; it must not keep the others from being told.
            if is_vm_id(vm.ref.uuid.lower())
        ]
        if inventory.unreachable or not rows:
            continue
        told += KnownVms(engine).put(inventory.driver, rows, now_s)
    return told
