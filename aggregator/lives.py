"""The lives of a VM: what it pushed before an admin forgot it and what it pushes afterwards belong to two. Pure.

The generation of a token says which life it is of: forgetting a VM goes on to the first generation of the next. So
each aggregator knows of each push, by its token alone, whether it came before a VM was forgotten or after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aggregator.tokens import MAX_GENERATION

TOKENS_A_LIFE = 1 << 16
MAX_LIFE = MAX_GENERATION // TOKENS_A_LIFE


def life_of(generation: int) -> int:
    """The life that tokens of this generation are of; 0 is that of a VM that was never forgotten."""
    return generation // TOKENS_A_LIFE


def first_of(life: int) -> int:
    """The first generation of a life."""
    return life * TOKENS_A_LIFE


def is_spent(generation: int) -> bool:
    """Whether no token of this generation may be given out: to refuse it would end the life."""
    return generation % TOKENS_A_LIFE == TOKENS_A_LIFE - 1


def lives_of(below: Mapping[str, tuple[int, str]]) -> Iterator[tuple[str, int]]:
    """VMs that were forgotten, and the life that counts since.

    Args: below: as that of `tokens.Revocations`.
    """
    return ((vm_id, life) for vm_id, (generation, _) in below.items() if (life := life_of(generation)))


def later_of(one: Mapping[str, tuple[int, str]], other: Mapping[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    """What either says is refused; of both, what refuses more. Args: as that of `lives_of`."""
    return {vm_id: max(one.get(vm_id, (0, "")), other.get(vm_id, (0, ""))) for vm_id in one.keys() | other.keys()}


class Lives:
    """Which life of each VM counts, as far as this aggregator knows: by what is revoked and by pushes."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}

    def of(self, vm_id: str) -> int:
        """The newest that is known."""
        return self._newest.get(vm_id, 0)

    def is_over(self, vm_id: str, life: int) -> bool:
        """Whether the VM was forgotten after this life."""
        return life < self._newest.get(vm_id, 0)

    def ahead_of(self, below: Mapping[str, tuple[int, str]]) -> dict[str, int]:
        """The VMs of which a later life is known than stands there, and that life. Args: below: as `lives_of`."""
        told = dict(lives_of(below))
        return {vm_id: life for vm_id, life in self._newest.items() if life > told.get(vm_id, 0)}

    def learn(self, vm_id: str, life: int) -> bool:
        """Notes that there is this life; whether that is news."""
        if life <= self._newest.get(vm_id, 0):
            return False
        self._newest[vm_id] = life
        return True
