"""The policies that sites pin: made, changed until they are signed, signed, and followed by the next."""
