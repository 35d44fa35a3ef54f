"""How good outputs are against references, and whether a difference may be chance. Pure: texts in, numbers out."""
