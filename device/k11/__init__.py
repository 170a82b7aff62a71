"""K11, the person's own approval: a port, and two authenticators behind it."""
