"""Where components are put on the isolated side: engines, a registry, a folder; one file for each, and what they share."""
