"""What a refusal must look like: the right class, one line, and the words that tell the reader what was got for what."""

from __future__ import annotations

import re

import pytest

from manifests.errors import AirgapError


def refused(kind: type[AirgapError], *words: str) -> pytest.RaisesExc[AirgapError]:
    """Expect an error of `kind` whose message is one line that holds all `words`."""
    pattern = "".join(f"(?=.*{re.escape(word)})" for word in words)
    return pytest.raises(kind, match=rf"^{pattern}[^\n]*$")
