"""What is in archives and layers: read as they stream by, nothing unpacked to disk. No network."""
