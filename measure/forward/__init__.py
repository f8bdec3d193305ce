"""Forward mode: tangents carried through a network, and the network made ready for it."""
