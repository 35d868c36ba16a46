"""Memory for copies of weights: of the kind that Linux makes huge pages of."""

import re
from pathlib import Path

import pytest

from offload.huge_pages import fresh_memory


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no huge pages here")
@pytest.mark.parametrize("huge", [True, False])
def test_fresh_memory_is_private_and_advised(huge):
    data = fresh_memory(8 << 20, huge)
    assert data.size == 8 << 20
    assert not data.any()
    address = data.ctypes.data + data.size // 2
    maps = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)[1:]
    ranges = {text: [int(end, 16) for end in text.split()[0].split("-")] for text in maps}
    found = next(text for text, (first, last) in ranges.items() if first <= address < last)
    assert found.split()[1] == "rw-p"
    flags = re.search(r"^VmFlags:(.*)$", found, re.MULTILINE).group(1).split()
    assert ("hg" in flags, "nh" in flags) == (huge, not huge)
