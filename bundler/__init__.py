"""The connected side: resolve an intent to a lock, fetch it, build, sign and pack the bundle."""
