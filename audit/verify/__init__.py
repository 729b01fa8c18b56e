"""Prove a bundle: signatures against a policy, freshness, and every byte. Fails closed."""
