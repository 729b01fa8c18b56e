"""What is written down: pure values, no network, no clock, no file access beyond the package's own data."""
