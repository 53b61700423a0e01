"""Measures the engine and its peers on the same data, in turn, in one run. See README.md here."""
