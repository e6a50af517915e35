"""Backbones, heads and the network with one door."""
