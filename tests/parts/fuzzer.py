"""A coverage-guided fuzzer over one parser: `python -m parts.fuzzer TARGET FOLDER -max_total_time=5` (options are libFuzzer's).

The product's modules are instrumented as they are imported, so this is a program of its own and never imported by tests. What it finds
is left in FOLDER as `crash-*`, and told on stderr.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["manifests", "airgap_images", "audit", "bundler"]):
    from parts.targets import TARGETS


def main() -> None:
    name, folder, *options = sys.argv[1:]
    target = TARGETS[name]
    corpus = Path(folder) / "corpus"
    corpus.mkdir(exist_ok=True)
    for at, seed in enumerate(target.seeds):
        (corpus / f"seed-{at}").write_bytes(seed)

    def one(data: bytes) -> None:
        try:
            target.parse(data)
        except target.refusals:
            return

    atheris.Setup([sys.argv[0], f"-artifact_prefix={folder}/", *options, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
