"""List the packages inside the first image of an OCI layout: the program that stands beside `syft` in the benchmark."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from airgap_images.contents import packages
from airgap_images.layout import Layout
from airgap_images.oci import MAX_MANIFEST, Descriptor, Manifest


def main() -> None:
    layout = Layout(Path(sys.argv[1]))
    entry = json.loads((layout.root / "index.json").read_bytes())["manifests"][0]
    manifest = Manifest.parse(layout.read(Descriptor.from_dict(entry, "index.json"), MAX_MANIFEST), "manifest")
    found = packages.read(layout, manifest)
    json.dump(sorted({package.purl for package in found.packages if package.purl}), sys.stdout, indent=0)


if __name__ == "__main__":
    main()
