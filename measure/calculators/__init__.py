"""What an interatomic potential keeps of the symmetries of physics, for any ase ``Calculator`` (extra: ``engine``).

Energy, forces and stress under rotations, inversion, translations, permutations, other cells of the same crystal; the
forces against the slope of the energy; jumps at a cutoff; the drift of the total energy; and the cause, where the
numbers tell it. The calculator is a black box: no module here imports torch.
"""
