"""The keys that all aggregators of a fleet share: made by its first one, copied to every other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.settings import ConfigError
from aggregator.admin import TOKEN_FILE_NAME, load_or_create_admin_token
from aggregator.tokens import KEY_FILE_NAME, TokenKeys


def missing_keys(data_dir: Path) -> list[Path]:
    """Files of keys that a data directory lacks."""
    return [path for path in (data_dir / KEY_FILE_NAME, data_dir / TOKEN_FILE_NAME) if not path.exists()]


def load_keys(data_dir: Path, others: Sequence[str]) -> str:
    """The admin token; both files are made where they are missing and no other aggregator can have them.

    Args: others: names of the other aggregators of the fleet, those that are away included.

    Raises: ConfigError: one is missing that another aggregator has, or cannot be read or made.
    """
    if others and (missing := missing_keys(data_dir)):
        names = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise ConfigError(
            [
                f"{path}: is absent, and this is not the first aggregator of the fleet: copy it from another "
                f"aggregator of the fleet ({names}), mode 0600; forget those that are gone for good (nodes forget)"
                for path in missing
            ]
        )
    TokenKeys.load_or_create(data_dir / KEY_FILE_NAME)
    return load_or_create_admin_token(data_dir / TOKEN_FILE_NAME)
