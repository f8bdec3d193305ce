"""How data and features move: flows, stencils, spaces, fields, finite elements, declared actions."""
