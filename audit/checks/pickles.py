"""No file runs code when it is loaded as a model: pickles are found by content and by name.

Python's pickle is a program, and loading it runs it (docs.python.org, "pickle", warning; CVE-2025-32434 shows that a safe mode
does not hold). So the rule is none at all, not a list of bad names. Content is followed opcode by opcode as the unpickler would,
with the depth of its stack, so that text which merely looks like opcodes is not reported. Nothing is ever unpickled.
"""

from __future__ import annotations

import bz2
import io
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from airgap_images.bundle import Component, TreeFile
from airgap_images.layout import Layout
from audit.checks import Examined, Finding, NotAssessed, Note, Subject, is_model
from audit.checks.pickles_opcodes import Program, follow
from manifests.paths import printable
