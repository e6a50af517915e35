"""How much label noise there is, and between which classes, estimated without clean labels."""
