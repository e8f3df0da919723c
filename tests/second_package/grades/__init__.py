"""Numbers as binary digits, and grades that have an order, for Interlace."""
