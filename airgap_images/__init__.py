"""OCI bytes, at rest and in motion: digests, the content-addressed store, bundles, registries, engines."""
