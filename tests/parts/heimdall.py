"""`inspecjs`, the library that MITRE Heimdall reads results with, and Microsoft's SARIF Multitool: the programs that read what we write.

    statuses(path)   # what Heimdall makes of each control
    complaints(path) # what the Multitool says of a SARIF log

They come from the package index that `npm` is set up for on this machine, into `parts-cache/`, once; no script of a package runs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

from parts.npm import installed

INSPECJS, MULTITOOL = "inspecjs@2.12.6", "@microsoft/sarif-multitool-linux@5.7.0"
PROGRAM = """
const folder = process.argv[1] + "/node_modules/inspecjs/lib/";
const { Convert } = require(folder + "generated_parsers/v_1_0/exec-json.js");
const { ExecControl } = require(folder + "compat_impl/compat_inspec_1_0.js");
const read = Convert.toExecJSON(require("fs").readFileSync(0, "utf8"));
const found = read.profiles[0].controls.map((control) => {
  const made = new ExecControl(control);
  return [control.id, made.status, made.parsedNistTags.map((tag) => tag.rawText)];
});
console.log(JSON.stringify(found));
"""


def statuses(raw: bytes) -> dict[str, tuple[str, list[str]]]:
    """Return what Heimdall makes of each control: its status, and the NIST controls it understands; fails where it refuses the file."""
    command = ["node", "-e", PROGRAM, str(_package(INSPECJS))]
    done = subprocess.run(command, input=raw, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return {name: (status, tags) for name, status, tags in json.loads(done.stdout)}


def complaints(path: Path) -> set[tuple[str, str]]:
    """Return what the Multitool finds wrong in a SARIF log, as (level, rule); it looks at far more than the schema."""
    program = _package(MULTITOOL) / "node_modules/@microsoft/sarif-multitool-linux/Sarif.Multitool"
    environment = {**os.environ, "DOTNET_SYSTEM_GLOBALIZATION_INVARIANT": "1"}
    command = [program, "validate", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment, cwd=path.parent)
    assert "1 file" in done.stdout, done.stdout + done.stderr
    return set(re.findall(r": (error|warning|note) ([A-Z0-9]+)", done.stdout))


def _package(name: str) -> Path:
    made = installed(name.replace("/", "-"), name)
    for program in made.glob("node_modules/@microsoft/*/Sarif.Multitool"):
        program.chmod(0o755)
    return made
