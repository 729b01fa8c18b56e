"""The store as a read-only registry: what there is, what is answered, and the one module that opens a port."""
