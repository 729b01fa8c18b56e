"""Known vulnerabilities, found without a network: data that crossed the gap, compared with what a bundle holds.

``result`` has the values everybody reads; ``records`` parses advisories, ``versions`` orders versions as each ecosystem does,
``match`` decides, ``feeds`` finds the data in bundles and in the store, ``exploited`` reads KEV and EPSS, ``vex`` what somebody has
decided about a match; ``assess`` puts them together, ``projection`` writes the result as JSON.
The one rule: an item whose ecosystem has no data is *not assessed*; it never counts as free of vulnerabilities.
"""
