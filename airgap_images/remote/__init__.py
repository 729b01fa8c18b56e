"""Registries and HTTP: addresses, logins, certificates, mirrors, transfers. Everything here may reach a network."""
