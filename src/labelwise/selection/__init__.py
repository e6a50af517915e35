"""From losses to P(given label is right), and from that to a labelled and an unlabelled side."""
