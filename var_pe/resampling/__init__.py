"""Tables of position codes at other sizes: named conventions, tables that know their grid, results kept."""
