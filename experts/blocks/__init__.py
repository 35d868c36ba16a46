"""Block formats, one file each: how a block decodes, for the fast kernel and for the plain reference."""
