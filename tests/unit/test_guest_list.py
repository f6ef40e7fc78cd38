"""What is told when no host answers the question which guests there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmfence.client.failures import NoAnswer
from vmfence.guest.guests import Inquiry, list_guests


@pytest.mark.parametrize("name", ["sha1", "sha512"])
def test_silence_names_the_hash_among_the_causes(name: str, tmp_path: Path) -> None:
    """A host drops a multicast packet with a weaker signature than it requires, without a word."""
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    with pytest.raises(NoAnswer, match=f"takes hash {name}"):
        list_guests(Inquiry(hash_name=name, key_file=str(key), timeout_s=0))
