"""Install what was proven: trees, images, generations, receipts, and the way back.

``install`` is the only way in and takes its own proof; ``rollback``, ``uninstall``, ``prune`` and ``status`` work on what it left.
"""
