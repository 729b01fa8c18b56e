"""The isolated side: verify, install, check, and write the evidence. Nothing here can reach a network."""
